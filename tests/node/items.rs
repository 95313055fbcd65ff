//! What the admin listener tells of items and clients of a running node: lists of keys, the most wanted ones, memory, connections.
//!
//! Lives here: what is in the answers. Not here: their shapes (`api`), what needs a ring (`others`).

use std::collections::HashSet;

use crate::admin::{start, until};
use crate::api::json;
use crate::asking::get;

#[test]
fn keys_are_listed_in_pieces_each_of_them_once() {
    let (server, port) = start(&["--cores", "2", "--admin_keys"]);
    let mut client = server.connect();
    for key in 0..500 {
        client.ask(format!("set user:{key} 3 100 1\r\nx\r\n"), "STORED\r\n");
        client.ask(format!("set other:{key} 0 0 1\r\nx\r\n"), "STORED\r\n");
    }
    for (prefix, count) in [("user%3a", 500), ("other:", 500), ("", 1000), ("none", 0)] {
        let (mut found, mut cursor, mut answers) = (HashSet::new(), String::new(), 0);
        loop {
            let answer = json(&get(port, &format!("/api/v1/keys?prefix={prefix}&limit=100{cursor}")));
            let keys = answer["keys"].as_array().unwrap();
            assert!(keys.len() <= 100 + 200, "about as many as asked for: {}", keys.len());
            found.extend(keys.iter().map(|entry| entry["key"].as_str().unwrap().to_string()));
            answers += 1;
            let Some(next) = answer["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(found.len(), count, "{prefix}");
        assert!(answers <= 12, "{answers} answers");
    }
    let one = json(&get(port, "/api/v1/keys?prefix=user:7&limit=1"));
    let entry = &one["keys"][0];
    assert_eq!((&entry["size_bytes"], &entry["flags"], &entry["is_text"]), (&1.into(), &3.into(), &true.into()));
    assert!(entry["ttl_s"].as_u64().is_some_and(|seconds| seconds <= 100));
}

#[test]
fn the_key_that_is_asked_for_most_stands_first() {
    let (server, port) = start(&["--cores", "1", "--admin_keys"]);
    let mut client = server.connect();
    client.ask("set hot 0 0 1\r\nx\r\n", "STORED\r\n");
    // 8 of 16 commands are for one key.
    let mut rounds = 0..;
    let mut ask = || {
        for round in rounds.by_ref().take(600) {
            let commands: String = (0..8).map(|index| format!("mg hot\r\nmg cold{}\r\n", round * 8 + index)).collect();
            client.ask(format!("{commands}mn\r\n"), format!("{}MN\r\n", "HD\r\nEN\r\n".repeat(8)));
        }
    };
    let answer = until(port, "/api/v1/top", |answer| {
        ask();
        json(answer)["samples"].as_u64() >= Some(50)
    });
    let top = json(&answer);
    let (first, share) = (&top["keys"][0], |name: &str| top["keys"][0][name].as_f64().unwrap());
    assert_eq!((&first["key"], &first["core"]), (&"hot".into(), &0.into()), "{top}");
    assert!((0.3..0.7).contains(&share("share")) && share("share_most") >= share("share"), "{first}");
    assert!(share("reads") > 0.9, "{first}");
}

#[test]
fn memory_is_told_by_the_time_that_items_have_to_live() {
    let (server, port) = start(&["--cores", "2"]);
    let mut client = server.connect();
    for (seconds, count) in [(0, 40), (30, 10), (3000, 20), (2_592_000, 5)] {
        for key in 0..count {
            client.ask(format!("set k{seconds}-{key} 0 {seconds} 100\r\n{}\r\n", "x".repeat(100)), "STORED\r\n");
        }
    }
    let memory = json(&get(port, "/api/v1/memory"));
    let counts: Vec<u64> = memory["classes"].as_array().unwrap().iter().map(|class| class["items"].as_u64().unwrap()).collect();
    assert_eq!(counts, [10, 0, 20, 0, 0, 5, 40], "{memory}");
    assert_eq!((&memory["items"], &memory["sampled"]), (&75.into(), &75.into()));
    assert!(memory["classes"][6]["bytes"].as_u64().unwrap() >= 40 * 100);
    // Of many, a part is looked at.
    for piece in 0..20 {
        let commands: String = (0..500).map(|key| format!("ms m{piece}-{key} 1 T100\r\nx\r\n")).collect();
        client.ask(format!("{commands}mn\r\n"), format!("{}MN\r\n", "HD\r\n".repeat(500)));
    }
    let memory = json(&get(port, "/api/v1/memory"));
    let items: u64 = memory["classes"].as_array().unwrap().iter().map(|class| class["items"].as_u64().unwrap()).sum();
    assert!(memory["sampled"].as_u64().unwrap() < 6000 && items.abs_diff(10_075) <= 7, "{memory}");
}

#[test]
fn connections_are_listed_with_what_they_are_at() {
    let (server, port) = start(&["--cores", "2"]);
    let mut client = server.connect();
    client.ask("get k\r\n", "END\r\n");
    let own = format!("tcp:{}", client.stream.local_addr().unwrap());
    let all = json(&get(port, "/api/v1/conns"));
    let listed = |conns: &serde_json::Value| conns["conns"].as_array().unwrap().clone();
    let found = listed(&all).into_iter().find(|socket| socket["address"] == own.as_str()).expect("this client");
    assert_eq!(
        (&found["idle_s"], found["listener"].as_str()),
        (&0.into(), Some(format!("tcp:127.0.0.1:{}", server.port).as_str()))
    );
    let one = json(&get(port, "/api/v1/conns?limit=1"));
    assert_eq!((listed(&one).len(), &one["count"]), (1, &all["count"]));
}

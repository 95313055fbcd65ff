//! What one node of a ring tells of all of it: reports of the others, copies of a key on its owners, who was slow, who is away.
//!
//! Lives here: a ring of two as processes, asked at one of them. Not here: what a ring does (`tests/cluster`), shapes of a lone node (`api`).

use std::time::Duration;

use serde_json::Value;

use crate::admin::until;
use crate::api::{event, expect_as_described, json};
use crate::asking::{self, get};
use crate::server::{Server, command, free_port};

struct Pair {
    servers: Vec<Server>,
    ports: [u16; 2],
    admins: [u16; 2],
}

impl Pair {
    /// Two nodes with two copies of everything.
    fn start(options: &[&str]) -> Self {
        let (ports, admins) = ([free_port(), free_port()], [free_port(), free_port()]);
        let servers = ports.iter().zip(admins).map(|(&port, admin)| {
            let admin = admin.to_string();
            let nodes = ports.map(|port| format!("127.0.0.1:{port}"));
            let mut words = vec!["--admin_port", &admin, "--admin_keys", "--cores", "2", "--redundancy", "2"];
            nodes.iter().for_each(|node| words.extend(["--ringnode", node]));
            words.extend(options);
            Server::spawn(command(port, &words), port)
        });
        Self { servers: servers.collect(), ports, admins }
    }

    fn id(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node])
    }

    /// Keys in the order of their numbers whose first owner is this node.
    fn keys_of(&self, node: usize) -> impl Iterator<Item = String> + '_ {
        let (id, admin) = (self.id(node), self.admins[0]);
        let is_first =
            move |key: &String| json(&get(admin, &format!("/api/v1/where?key={key}")))["owners"][0]["id"] == id.as_str();
        (0..200).map(|number| format!("k{number}")).filter(is_first)
    }
}

fn node<'v>(nodes: &'v Value, id: &str) -> &'v Value {
    nodes["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id).unwrap()
}

#[test]
fn any_node_tells_of_all_of_them() {
    let pair = Pair::start(&[]);
    let [first, second] = pair.admins;
    let document = json(&get(first, "/api/v1/openapi.json"));
    let mut client = pair.servers[0].connect();
    for key in 0..50 {
        client.ask(format!("set k{key} 0 100 5\r\nhello\r\n"), "STORED\r\n");
    }
    let other = pair.id(1);
    let answer = until(first, "/api/v1/nodes", |answer| node(&json(answer), &other)["report"]["items"] == 50);
    let nodes = json(&answer);
    expect_as_described(&document, "/api/v1/nodes", &nodes);
    assert_eq!((&nodes["nodes"][0]["id"], nodes["nodes"].as_array().unwrap().len()), (&pair.id(0).as_str().into(), 2));
    assert_eq!(node(&nodes, &other)["report"]["peers"][0]["id"], pair.id(0).as_str(), "{nodes}");
    // The stream tells the same.
    let told = event(second, |event| event["nodes"].is_array());
    expect_as_described(&document, "/api/v1/events", &told);
    for path in ["peers", "handoff", "ring"] {
        let path = format!("/api/v1/{path}");
        expect_as_described(&document, &path, &json(&get(first, &path)));
    }
    until(first, "/api/v1/peers", |answer| json(answer)["copies_sent"].as_u64() > Some(0));
    expect_as_described(&document, "/api/v1/partitions", &json(&get(first, &format!("/api/v1/partitions?target={other}"))));
    let item = json(&get(second, "/api/v1/key?key=k7"));
    expect_as_described(&document, "/api/v1/key", &item);
    let copies = item["copies"].as_array().unwrap();
    assert_eq!((copies.len(), copies.iter().filter(|copy| copy["serves"] == true).count()), (2, 1), "{item}");
    assert!(copies.iter().all(|copy| copy["copy"]["version"] == copies[0]["copy"]["version"]), "{item}");
    assert_eq!(copies[0]["copy"]["size_bytes"], 5, "{item}");
}

#[test]
fn a_node_that_is_away_is_not_asked_and_what_waits_for_it_is_told() {
    let mut pair = Pair::start(&[]);
    let mut client = pair.servers[0].connect();
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let (admin, other) = (pair.admins[0], pair.id(1));
    until(admin, "/api/v1/nodes", |answer| node(&json(answer), &other)["report"].is_object());
    pair.servers[1].signal(libc::SIGKILL);
    pair.servers[1].wait(Duration::from_secs(10));
    for key in 0..50 {
        client.ask(format!("set k{key} 0 0 1\r\nx\r\n"), "STORED\r\n");
    }
    let handoff = until(admin, "/api/v1/handoff", |answer| json(answer)["targets"][0]["pending"] == 50);
    let target = &json(&handoff)["targets"][0];
    assert_eq!((&target["id"], &target["created"]), (&other.as_str().into(), &50.into()));
    let nodes = until(admin, "/api/v1/nodes", |answer| node(&json(answer), &other)["trouble"] == "it is away");
    assert!(node(&json(&nodes), &other)["report"].is_null());
    let item = json(&get(admin, "/api/v1/key?key=k7"));
    let away = item["copies"].as_array().unwrap().iter().find(|copy| copy["id"] == other.as_str()).unwrap();
    assert_eq!((&away["state"], &away["trouble"], &away["copy"]), (&"away".into(), &"it is away".into(), &Value::Null));
}

#[test]
fn who_waits_for_a_slow_node_is_remembered() {
    let pair = Pair::start(&["--slow_ms", "100"]);
    let mut client = pair.servers[0].connect();
    let key = pair.keys_of(1).next().unwrap();
    client.ask(format!("set {key} 0 0 1\r\nx\r\n"), "STORED\r\n");
    pair.servers[1].signal(libc::SIGSTOP);
    let admin = pair.admins[0];
    let asking = std::thread::spawn(move || {
        client.ask(format!("mg {key} v\r\n"), "VA 1\r\nx\r\n");
        client
    });
    std::thread::sleep(Duration::from_millis(300));
    pair.servers[1].signal(libc::SIGCONT);
    let client = asking.join().unwrap();
    let slow = json(&until(admin, "/api/v1/slow", |answer| json(answer)["count"].as_u64() > Some(0)));
    expect_as_described(&json(&get(admin, "/api/v1/openapi.json")), "/api/v1/slow", &slow);
    let waits = |request: &&Value| request["what"] == "answer from elsewhere";
    let request = slow["requests"].as_array().unwrap().iter().find(waits).expect("it waited for the other node");
    assert!(request["took_s"].as_f64().is_some_and(|seconds| (0.1..20.0).contains(&seconds)), "{request}");
    let address = format!("tcp:{}", client.stream.local_addr().unwrap());
    assert_eq!((&request["operation"], &request["client"]), (&"get".into(), &address.as_str().into()), "{request}");
    assert_eq!(request["owners"][0], pair.id(1).as_str(), "{request}");
    assert!(request["partition"].as_u64().is_some_and(|partition| partition < 4096));
    // A node that does not answer delays who asks of the ring by two seconds at most.
    pair.servers[1].signal(libc::SIGSTOP);
    let started = std::time::Instant::now();
    asking::get(admin, "/api/v1/nodes");
    let waited = started.elapsed();
    pair.servers[1].signal(libc::SIGCONT);
    assert!(waited < Duration::from_secs(10), "{waited:?}");
}

//! HTTP in a ring: any node answers for any key, and all of them give the same tags.
//!
//! Lives here: requests that another node executes. Not here: what one node answers (`transcripts`).

use crate::ring::{Client, Ring, value_of};

/// An answer: its status, its tag, its value.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    tag: Option<String>,
    body: String,
}

/// Sends a request; `more` are fields, each with its end.
fn ask(client: &mut Client, line: &str, more: &str, body: Option<&str>) -> Answer {
    let length = body.map_or(String::new(), |body| format!("Content-Length: {}\r\n", body.len()));
    client.send(format!("{line} HTTP/1.1\r\nHost: cache:11211\r\n{more}{length}\r\n{}", body.unwrap_or("")).as_bytes());
    let status = client.read_line().split(' ').nth(1).expect("a status").parse().expect("a number");
    let (mut tag, mut bytes) = (None, 0);
    loop {
        let line = client.read_line();
        match line.split_once(": ") {
            Some(("ETag", value)) => tag = Some(value.to_string()),
            Some(("Content-Length", value)) => bytes = value.parse().expect("a length"),
            Some(_) => {}
            None => break assert_eq!(line, ""),
        }
    }
    Answer { status, tag, body: String::from_utf8(client.read_bytes(bytes)).expect("text") }
}

fn get(client: &mut Client, key: &str, more: &str) -> Answer {
    ask(client, &format!("GET /{key}"), more, None)
}

/// The status of a store.
fn put(client: &mut Client, key: &str, more: &str, value: &str) -> u16 {
    ask(client, &format!("PUT /{key}"), more, Some(value)).status
}

#[test]
fn any_node_answers_with_the_same_tag() {
    let ring = Ring::start(3, &["--cores", "2", "--redundancy", "2"]);
    let mut clients: Vec<Client> = (0..3).map(|node| ring.connect(node)).collect();
    for number in 0..60 {
        let key = format!("key{number}");
        assert_eq!(put(&mut clients[number % 3], &key, "", &value_of(&key)), 201);
        // The same, and its escapes mean nothing else elsewhere.
        let escaped = key.replace('k', "%6b");
        let answers: Vec<Answer> = clients.iter_mut().map(|client| get(client, &escaped, "")).collect();
        assert_eq!((answers[0].status, &answers[0].body), (200, &value_of(&key)));
        assert!(answers[0].tag.is_some() && answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        let tag = answers[0].tag.as_ref().expect("a tag");
        for client in &mut clients {
            let known = get(client, &key, &format!("If-None-Match: \"0\", {tag}\r\n"));
            assert_eq!((known.status, known.tag.as_ref()), (304, Some(tag)));
            let part = get(client, &key, &format!("Range: bytes=-3\r\nIf-Range: {tag}\r\n"));
            assert_eq!((part.status, part.body.as_str()), (206, &value_of(&key)[value_of(&key).len() - 3..]));
        }
        let condition = format!("If-Match: {tag}\r\n");
        assert_eq!(put(&mut clients[(number + 1) % 3], &key, &condition, "new"), 204);
        assert_eq!(put(&mut clients[(number + 2) % 3], &key, &condition, "newer"), 412);
        assert_eq!(put(&mut clients[number % 3], &key, "If-None-Match: *\r\n", "newer"), 412);
        assert_eq!(get(&mut clients[number % 3], &key, "").body, "new");
    }
    for number in 0..60 {
        let line = format!("DELETE /key{number}");
        let statuses: Vec<u16> = clients.iter_mut().map(|client| ask(client, &line, "", None).status).collect();
        assert_eq!(statuses, [204, 404, 404]);
        assert!(clients.iter_mut().all(|client| get(client, &format!("key{number}"), "").status == 204));
    }
}

#[test]
fn long_values_and_parts_of_them_come_from_any_node() {
    let ring = Ring::start(3, &["--cores", "2"]);
    let mut clients: Vec<Client> = (0..3).map(|node| ring.connect(node)).collect();
    for number in 0..6 {
        let key = format!("long{number}");
        let value: String = (0..300_000u32).map(|at| char::from(b'a' + ((at / 1000 + number) % 26) as u8)).collect();
        assert_eq!(put(&mut clients[number as usize % 3], &key, "", &value), 201);
        for client in &mut clients {
            assert!(get(client, &key, "").body == value);
            let part = get(client, &key, "Range: bytes=99990-250009\r\n");
            assert!(part.status == 206 && part.body == value[99_990..250_010]);
        }
        let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{value}\r\n0\r\n", value.len());
        assert_eq!(ask(&mut clients[(number as usize + 1) % 3], &format!("PUT /{key}"), &chunked, None).status, 204);
        assert!(clients.iter_mut().all(|client| get(client, &key, "").body == value));
    }
}

#[test]
fn a_node_that_is_named_by_another_name_of_the_ring_answers() {
    let ring = Ring::start(2, &["--cores", "1", "--http_host", "cache.example.org"]);
    let mut client = ring.connect(1);
    let mut status = |host: &str| {
        client.send(format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        let line = client.read_line();
        while !client.read_line().is_empty() {}
        line.split(' ').nth(1).expect("a status").to_string()
    };
    assert_eq!(status(&ring.id(0)), "204");
    assert_eq!(status("cache.example.org"), "204");
    assert_eq!(status("cache.example.com"), "421");
}

//! Rude clients of the admin listener: they get a clear status, memory stays bounded, clients of the cache notice nothing.
//!
//! Lives here: slow heads, half-open requests, long bodies, watchers by the thousand. Not here: who may ask for what (`admin`, `api`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::admin::start;
use crate::asking::{self, connect, get};
use crate::server::{Client, Server};

/// The longest of some requests to the cache, one after the other, while `rude` goes on.
fn longest_wait(client: &mut Client) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        let started = Instant::now();
        client.ask("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
        longest = longest.max(started.elapsed());
    }
    longest
}

/// A client of a cache with one item.
fn client_of(server: &Server) -> Client {
    let mut client = server.connect();
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    client
}

/// What a connection is told until it is closed; nothing where it was closed without a word.
fn told(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until a place is free: a connection may be closed without a word before.
fn wait_until_served(port: u16) {
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let end = Instant::now() + Duration::from_secs(20);
    while asking::exchange(port, request).map(|answer| answer.status) != Some(200) {
        assert!(Instant::now() < end, "no place becomes free");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// More than a machine with other work takes for a request, and far less than any wait of the admin listener.
const BRISK: Duration = Duration::from_secs(2);

#[test]
fn a_head_that_comes_a_byte_a_second_is_told_so_and_nobody_else_waits() {
    let (server, port) = start(&["--cores", "1"]);
    let mut client = client_of(&server);
    let mut slow: Vec<TcpStream> = (0..8).map(|_| connect(port)).collect();
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    for byte in b"GET /heal" {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(&[*byte])));
        longest = longest.max(longest_wait(&mut client));
        let asked = Instant::now();
        assert_eq!(get(port, "/healthz").status, 200);
        longest = longest.max(asked.elapsed());
        std::thread::sleep(Duration::from_secs(1).saturating_sub(asked.elapsed()));
    }
    for stream in &mut slow {
        let answer = told(stream);
        let stood_still = started.elapsed() > Duration::from_secs(25);
        assert!(answer.starts_with("HTTP/1.1 408 ") || stood_still, "{answer:?} after {:?}", started.elapsed());
    }
    assert!(longest < BRISK, "somebody waited {longest:?}");
}

#[test]
fn ten_thousand_half_open_requests_take_bounded_memory() {
    const COUNT: usize = 10_000;
    let (server, port) = start(&["--cores", "1", "--conn_limit", "100"]);
    let mut client = client_of(&server);
    get(port, "/metrics");
    let before = server.resident_bytes();
    let mut refused = 0;
    let mut longest = Duration::ZERO;
    // In pieces: this test has not as many descriptors as it opens connections.
    for _ in 0..10 {
        let mut open: Vec<TcpStream> = (0..COUNT / 10)
            .map(|_| {
                let mut stream = connect(port);
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: local");
                stream
            })
            .collect();
        longest = longest.max(longest_wait(&mut client));
        for stream in &mut open {
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            refused += usize::from(told(stream).starts_with("HTTP/1.1 503 "));
        }
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
    assert!(refused > COUNT / 20, "{refused} of {COUNT} were told that there is no place");
    assert!(longest < BRISK, "a client of the cache waited {longest:?}");
    // Those that were half open are closed; who comes now is served.
    wait_until_served(port);
}

#[test]
fn a_body_of_ten_megabytes_is_refused_however_it_is_sent() {
    let (server, port) = start(&["--cores", "1", "--admin_keys"]);
    let mut client = client_of(&server);
    get(port, "/metrics");
    let before = server.resident_bytes();
    let head =
        "POST /api/v1/actions/flush HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let body = format!("{{\"key\":\"{}\"}}", "x".repeat(10 << 20));
    let with_length = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let in_chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for request in [with_length, in_chunks] {
        // Who asks has no token: that is looked at before the body is, and either answer is a clear one.
        let status = asking::exchange(port, request.as_bytes()).map(|answer| answer.status);
        assert!(status.is_none_or(|status| matches!(status, 403 | 413)), "{status:?}");
    }
    assert!(server.resident_bytes().saturating_sub(before) < 4 << 20);
    assert_eq!(get(port, "/healthz").status, 200);
    client.ask("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_thousand_watchers_are_refused_but_for_a_few() {
    let (server, port) = start(&["--cores", "1"]);
    let mut client = client_of(&server);
    get(port, "/metrics");
    let before = server.resident_bytes();
    let watch = |_: i32| {
        let mut stream = connect(port);
        let _ = stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream
    };
    let mut watchers: Vec<TcpStream> = (0..1000).map(watch).collect();
    let longest = longest_wait(&mut client);
    let mut served = 0;
    for stream in &mut watchers {
        // Those that are served say more and more, and do not end.
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut bytes = [0; 12];
        let is_answered = stream.read_exact(&mut bytes).is_ok();
        served += usize::from(is_answered && &bytes == b"HTTP/1.1 200");
        assert!(
            !is_answered || &bytes == b"HTTP/1.1 200" || &bytes == b"HTTP/1.1 503",
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
    assert_eq!(served, 16);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20 && longest < BRISK, "{grown} bytes, {longest:?}");
    drop(watchers);
    wait_until_served(port);
}

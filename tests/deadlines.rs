//! Deadlines of HTTP clients, to the second: one core without sockets, whose clock is set by the test.
//!
//! ```text
//!   request:   first byte ... 10 s, and a second more for each KiB of a body that was announced        -> 408
//!   idle:      last answer ... 75 s                                                                    -> closed
//! ```
//!
//! Lives here: when a client is overdue. Not here: what becomes of its socket (`node`).
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

#[path = "../benches/bare/mod.rs"]
mod bare;

use pbcache::buffer::Buffer;
use pbcache::limits::{HTTP_IDLE_S_MAX, HTTP_REQUEST_S_MAX};
use pbcache::runtime::core::Core;
use pbcache::time::Monotonic;

/// A core, one connection of it, and what it was answered so far.
struct Client {
    core: Core,
    id: u32,
    output: Buffer,
    second: u32,
}

impl Client {
    fn new() -> Self {
        let mut core = bare::cores(1, 64 << 20).remove(0);
        let id = core.open(None, Vec::new(), None);
        Self { core, id, output: Buffer::default(), second: 1000 }
    }

    /// The client sends this so many seconds after the last time.
    fn send(&mut self, seconds: u32, bytes: &[u8]) {
        self.second += seconds;
        self.core.context.at = Monotonic::from_ms(u64::from(self.second) * 1000);
        self.core.receive(self.id, bytes, &mut self.output);
    }

    /// Seconds from now until it is overdue; `None` if it may be silent for ever.
    fn patience_s(&self) -> Option<u32> {
        (0..10_000).find(|later| self.core.connections[self.id as usize].is_overdue(self.second + later))
    }

    /// What it is answered once it is overdue.
    fn time_out(&mut self) -> String {
        let mut output = Buffer::default();
        self.core.connections[self.id as usize].time_out(&mut self.core.context.shard.counters, &mut output);
        assert!(self.core.connections[self.id as usize].is_closing());
        String::from_utf8(output.flatten()).unwrap()
    }
}

const GET: &[u8] = b"GET /k HTTP/1.1\r\nHost: a\r\n\r\n";

/// The last second that is in time, and the first that is not.
const REQUEST_S: Option<u32> = Some(HTTP_REQUEST_S_MAX + 1);
const IDLE_S: Option<u32> = Some(HTTP_IDLE_S_MAX + 1);

#[test]
fn a_client_that_says_nothing_or_speaks_text_has_no_deadline() {
    let mut client = Client::new();
    assert_eq!(client.patience_s(), None);
    client.send(5, b"get k");
    assert_eq!(client.patience_s(), None);
    let mut client = Client::new();
    client.send(0, b"FOO x\r\nbar");
    assert_eq!(client.patience_s(), None, "upper case, and no HTTP");
}

#[test]
fn a_head_has_ten_seconds_from_its_first_byte() {
    let mut client = Client::new();
    client.send(0, b"G");
    assert_eq!(client.patience_s(), REQUEST_S);
    client.send(6, &GET[1..20]);
    assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 - 6));
    client.send(4, &GET[20..]);
    assert_eq!(client.patience_s(), IDLE_S, "answered");
    // The next one begins anew, also behind one that is answered in the same piece.
    client.send(9, &[GET, &GET[..5]].concat());
    assert_eq!(client.patience_s(), REQUEST_S);
    client.send(2, b"x");
    assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 - 2));
    assert!(client.time_out().starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_body_has_a_second_more_for_each_kilobyte() {
    for (bytes, seconds) in [(900, 0), (10_200, 10), (102_400, 100)] {
        let mut client = Client::new();
        client.send(0, format!("PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\nx").as_bytes());
        assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 + seconds), "{bytes}");
        client.send(3, b"x");
        assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 + seconds - 3), "{bytes}");
        client.send(0, &vec![b'x'; bytes - 2]);
        assert_eq!(client.patience_s(), IDLE_S, "{bytes}");
        assert!(client.time_out().is_empty(), "nothing is said between two requests");
    }
}

#[test]
fn a_body_in_chunks_has_it_for_what_has_come() {
    let mut client = Client::new();
    client.send(0, b"PUT /k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n");
    assert_eq!(client.patience_s(), REQUEST_S);
    client.send(8, &[b'x'; 10_240]);
    assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 + 10 - 8));
    client.send(5, &[b'x'; 10_240]);
    assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 + 20 - 13));
    client.send(1, b"\r\n0\r\n\r\n");
    assert_eq!(client.patience_s(), IDLE_S);
}

#[test]
fn a_body_that_is_dropped_has_a_deadline_too() {
    let mut client = Client::new();
    client.send(0, b"GET /k HTTP/1.1\r\nHost: a\r\nContent-Length: 10240\r\n\r\n");
    assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 + 10));
    client.send(4, &[b'x'; 5_120]);
    assert_eq!(client.patience_s(), Some(HTTP_REQUEST_S_MAX + 1 + 10 - 4), "what has come takes no time away");
    client.send(1, &[b'x'; 5_120]);
    assert_eq!(client.patience_s(), IDLE_S);
}

#[test]
fn a_client_that_came_from_another_core_has_its_deadline_before_it_speaks_here() {
    let mut client = Client::new();
    client.send(0, GET);
    let (session, input, peer) = client.core.close(client.id).unwrap().into_parts();
    client.id = client.core.open(Some(session), input, peer);
    assert_eq!(client.patience_s(), IDLE_S);
}

#[test]
fn who_is_slow_is_counted_apart_from_who_is_silent() {
    let mut client = Client::new();
    client.send(0, GET);
    client.time_out();
    let counters = client.core.context.shard.counters;
    assert_eq!((counters.http_late, counters.idle_kicks, counters.http_refused), (0, 1, 0));
    let mut client = Client::new();
    client.send(0, b"GET ");
    client.time_out();
    let counters = client.core.context.shard.counters;
    assert_eq!((counters.http_late, counters.idle_kicks, counters.http_refused), (1, 0, 0));
    let mut client = Client::new();
    client.send(0, b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.core.context.shard.counters.http_refused, 1);
}

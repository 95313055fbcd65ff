//! No allocation between bytes and command, nor between reply and bytes, counted by the allocator itself.
//!
//! ```text
//!   request bytes --> step --> framing, command --> encode of every reply that it may get --> a buffer grown before
//! ```
//!
//! Lives here: sessions alone, all doors, good and bad requests. Not here: the path through a core (`allocation`).
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

mod counting;

use pbcache::buffer::Buffer;
use pbcache::command::{Error, Item, Reply, Value, Verb};
use pbcache::protocol::{Options, Session, Step, encode};

/// Takes all steps of `requests` and encodes replies to them. Returns the count of steps.
fn drive(requests: &[u8], output: &mut Buffer) -> usize {
    let mut session = Session::new(Options::default());
    let mut rest = requests;
    let mut count = 0;
    while !rest.is_empty() {
        let consumed = match session.step(rest) {
            Step::Command { command, framing, consumed } => {
                let hit = Item { value: Value::Bytes(b"value"), ..Item::with_cas(7) };
                let done = match command.verb {
                    Verb::Get(_) | Verb::Inspect => Reply::Item(hit),
                    Verb::Store(_) => Reply::Stored(Item::with_cas(7)),
                    Verb::Delete(_) => Reply::Deleted,
                    Verb::Arithmetic(_) => Reply::Number { number: u64::MAX, item: Item::with_cas(7), created: false },
                    Verb::Touch(_) => Reply::Touched(Item::with_cas(7)),
                };
                for reply in [done, Reply::NotFound, Reply::Error(Error::OutOfMemory)] {
                    output.clear();
                    encode(&framing, command.key.bytes, &reply, output);
                }
                consumed
            }
            Step::Reply { reply, framing, consumed, .. } => {
                output.clear();
                encode(&framing, b"", &reply, output);
                consumed
            }
            Step::Control { consumed, .. } | Step::Skip { consumed } => consumed,
            Step::Body { .. } | Step::Chunked { .. } | Step::Incomplete { .. } => panic!("whole requests"),
        };
        rest = &rest[consumed..];
        count += 1;
    }
    count
}

fn check(requests: &[u8], steps: usize) {
    let mut output = Buffer::with_capacity(4096);
    assert_eq!(drive(requests, &mut output), steps);
    let before = counting::allocations();
    drive(requests, &mut output);
    assert_eq!(counting::allocations() - before, 0, "{}", requests.escape_ascii());
}

#[test]
fn text_requests_allocate_nothing() {
    check(b"get k\r\nget a bb ccc\r\ngats 10 a b\r\n", 6);
    check(b"set k 0 0 2\r\nhi\r\ncas k 0 0 2 1 noreply\r\nhi\r\ndelete k\r\nincr k 1\r\ntouch k 1\r\n", 5);
    check(b"stats\r\nversion\r\nfoo\r\nset k x 0 1\r\n1\r\n", 5);
}

#[test]
fn meta_requests_allocate_nothing() {
    check(b"mg k s v t c f h l O123 k q T0 R1 N30 E5 C7\r\nmg Zm9v b k v\r\nme k\r\nme Zm9v b\r\nmn\r\n", 5);
    check(b"ms k 2 T0 F1 c k s O1 I C5\r\nhi\r\nms Zm9v 2 b MA N0 q\r\nhi\r\n", 2);
    check(b"md k I T30 k\r\nma k N0 J1 D2 v t c\r\nma Zm9v b\r\n", 3);
    check(b"mg k v v\r\nmg Zm9 b\r\nms k 2 a\r\nhi\r\nma k MX\r\n", 5);
}

#[test]
fn binary_requests_allocate_nothing() {
    let mut requests = Vec::new();
    for opcode in 0..0x26u8 {
        let extras_bytes = match opcode {
            0x01..=0x03 | 0x11..=0x13 => 8,
            0x05 | 0x06 | 0x15 | 0x16 => 20,
            0x1c..=0x1e | 0x23 | 0x24 => 4,
            _ => 0,
        };
        let key_bytes = if matches!(opcode, 0x07 | 0x08 | 0x0a | 0x0b | 0x17 | 0x18 | 0x20) { 0 } else { 3 };
        requests.extend([0x80, opcode, 0, key_bytes, extras_bytes, 0, 0, 0, 0, 0, 0, extras_bytes + key_bytes]);
        requests.extend([0; 12]);
        requests.extend(vec![0; extras_bytes as usize]);
        requests.extend(&b"key"[..key_bytes as usize]);
    }
    // Unknown opcodes and the two of SASL skip their key in a step of its own: 0x1b, 0x1f, 0x21, 0x22, 0x25.
    check(&requests, 0x26 + 5);
}

#[test]
fn http_requests_allocate_nothing() {
    let host = "Host: localhost:11211\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n";
    check(format!("GET /k HTTP/1.1\r\n{host}\r\nGET /%6b HTTP/1.1\r\n{host}\r\n").as_bytes(), 2);
    check(format!("HEAD /get/?key=k HTTP/1.1\r\n{host}If-None-Match: \"6\", \"7\"\r\nRange: bytes=1-2\r\n\r\n").as_bytes(), 1);
    check(format!("PUT /k?ttl=60&flags=1 HTTP/1.1\r\n{host}If-Match: \"7\"\r\nContent-Length: 2\r\n\r\nhi").as_bytes(), 1);
    check(format!("DELETE /k HTTP/1.1\r\n{host}\r\nOPTIONS * HTTP/1.1\r\n{host}\r\n").as_bytes(), 2);
    check(b"GET /k HTTP/1.1\r\nHost: evil.example\r\n\r\n", 1);
}

#[test]
fn resp_requests_allocate_nothing() {
    check(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nhi\r\n", 2);
    check(b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nhi\r\n$2\r\nNX\r\n*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n", 3);
    check(b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n*3\r\n$3\r\nFOO\r\n$1\r\nk\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n", 7);
    check(b"*1\r\n$3\r\nGET\r\nPING hi\r\n", 2);
}

#[test]
fn the_counter_counts() {
    let before = counting::allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(counting::allocations() - before, 1);
}

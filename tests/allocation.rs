//! No allocation on the path of a local request, counted by the allocator itself.
//!
//! Lives here: one core without sockets, driven with bytes. Not here: sockets (they add no allocation of their own).
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

#[path = "../benches/bare/mod.rs"]
mod bare;
mod counting;

use pbcache::buffer::Buffer;

/// Allocations of `rounds` rounds of the same requests after a warm-up of as many.
fn allocations(requests: &[u8], expected: &[u8]) -> u64 {
    let mut core = bare::cores(1, 64 << 20).remove(0);
    // The items come in on a connection of their own: a connection stays with the protocol of its first byte.
    let filler = core.open(None, Vec::new(), None);
    let id = core.open(None, Vec::new(), None);
    let mut output = Buffer::with_capacity(1 << 20);
    for i in 0..100 {
        core.receive(filler, format!("set key{i:013} 0 0 100\r\n{}\r\n", "v".repeat(100)).as_bytes(), &mut output);
    }
    let mut before = 0;
    for round in 0..2000 {
        if round == 1000 {
            before = counting::allocations();
        }
        output.clear();
        core.begin_turn();
        core.receive(id, requests, &mut output);
        core.context.shard.engine.tick(core.context.now, 64);
        assert!(output.bytes.starts_with(expected), "{}", String::from_utf8_lossy(&output.bytes));
    }
    counting::allocations() - before
}

#[test]
fn a_local_get_allocates_nothing() {
    assert_eq!(allocations(b"get key0000000000007\r\n", b"VALUE key0000000000007 0 100\r\n"), 0);
    assert_eq!(allocations(b"get nothing\r\n", b"END\r\n"), 0);
}

#[test]
fn pipelined_and_multi_key_gets_allocate_nothing() {
    let requests: String = (0..100).map(|i| format!("get key{i:013}\r\n")).collect();
    assert_eq!(allocations(requests.as_bytes(), b"VALUE key0000000000000 0 100\r\n"), 0);
    let keys: String = (0..100).map(|i| format!(" key{i:013}")).collect();
    assert_eq!(allocations(format!("get{keys}\r\n").as_bytes(), b"VALUE key0000000000000 0 100\r\n"), 0);
}

#[test]
fn meta_and_binary_gets_allocate_nothing() {
    assert_eq!(allocations(b"mg key0000000000007 v f c t Oabc k\r\n", b"VA 100 "), 0);
    let mut packet = vec![0x80, 0x00, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(b"key0000000000007");
    assert_eq!(allocations(&packet, &[0x81, 0x00]), 0);
}

#[test]
fn http_gets_and_puts_allocate_nothing() {
    let get = b"GET /key0000000000007 HTTP/1.1\r\nHost: localhost:11211\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
    assert_eq!(allocations(get, b"HTTP/1.1 200 OK\r\n"), 0);
    let put = b"PUT /key0000000000007 HTTP/1.1\r\nHost: localhost:11211\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(allocations(put, b"HTTP/1.1 204 No Content\r\n"), 0);
}

#[test]
fn an_overwriting_set_allocates_nothing() {
    let request = format!("set key0000000000007 0 0 100\r\n{}\r\n", "w".repeat(100));
    assert_eq!(allocations(request.as_bytes(), b"STORED\r\n"), 0);
}

#[test]
fn the_counter_counts() {
    let before = counting::allocations();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(counting::allocations() - before, 1);
}

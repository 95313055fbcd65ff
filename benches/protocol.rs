//! What does each protocol cost per request, without sockets and without an engine?
//!
//! Unit: nanoseconds of one core per request (per key for the read of 100 keys). Workload: 16-byte keys, 100-byte values, 16
//! requests in a buffer that stays in the first-level cache. Aims: 20 ns to parse a get (with the hash of its key), 20 ns to
//! encode its hit; a key of a long read below 10 ns beyond its hash. At twice that the parser would be a tenth of a pipelined
//! request, and worth another design.
//!
//! Environment: ROUNDS (default 2,000,000 requests a line of the table). The checksum shows that the work was done.
#![allow(clippy::disallowed_methods)] // a bench looks at the clock

use std::hint::black_box;
use std::time::Instant;

use pbcache::buffer::Buffer;
use pbcache::command::{Item, Reply, Value};
use pbcache::key::Key;
use pbcache::protocol::{Framing, Options, Session, Step, encode};

fn main() {
    // Under `cargo test --benches` only that it works is asked.
    let rounds = match std::env::var("ROUNDS") {
        Ok(rounds) => rounds.parse().expect("ROUNDS is a number"),
        Err(_) if std::env::args().any(|argument| argument == "--bench") => 2_000_000,
        Err(_) => 1_000,
    };
    let keys: Vec<String> = (0..100).map(|i| format!("key:{i:012}")).collect();
    let short: Vec<String> = (0..100).map(|i| format!("k{i:02}")).collect();
    let value = [b'v'; 100];
    let sixteen = |line: &dyn Fn(&str) -> String| keys[..16].iter().map(|key| line(key)).collect::<String>();
    let gets = sixteen(&|key| format!("get {key}\r\n"));
    let sets = sixteen(&|key| format!("set {key} 0 0 100\r\n{}\r\n", "v".repeat(100)));
    let deletes = sixteen(&|key| format!("delete {key}\r\n"));
    let incrs = sixteen(&|key| format!("incr {key} 1\r\n"));
    let multi = format!("get {}\r\n", keys.join(" "));
    let multi_short = format!("get {}\r\n", short.join(" "));

    println!("{:<34} {:>8}", "", "ns each");
    report("hash of a 16-byte key", rounds, || {
        let hashes = keys.iter().map(|key| Key::new(black_box(key.as_bytes())).hash);
        hashes.fold((0, 0), |(count, sum), hash| (count + 1, sum ^ hash))
    });
    report("parse get", rounds, || parse(gets.as_bytes()));
    report("parse set of 100 bytes", rounds, || parse(sets.as_bytes()));
    report("parse delete", rounds, || parse(deletes.as_bytes()));
    report("parse incr", rounds, || parse(incrs.as_bytes()));
    report("parse a key of get with 100 keys", rounds, || parse(multi.as_bytes()));
    report("the same, keys of 3 bytes", rounds, || parse(multi_short.as_bytes()));

    let mut output = Buffer::with_capacity(1 << 16);
    let hit = Reply::Item(Item { value: Value::Bytes(&value), ..Item::with_cas(77) });
    let stored = Reply::Stored(Item::with_cas(77));
    let framing = framing_of(gets.as_bytes());
    let key = keys[0].as_bytes();
    report("encode a hit of 100 bytes", rounds, || encode_some(&framing, key, &hit, &mut output));
    report("encode a miss", rounds, || encode_some(&framing, key, &Reply::NotFound, &mut output));
    let framing = framing_of(sets.as_bytes());
    report("encode STORED", rounds, || encode_some(&framing, key, &stored, &mut output));
    meta_and_binary(rounds, &keys[..16], &hit);
}

/// The same questions to the other doors.
fn meta_and_binary(rounds: u64, keys: &[String], hit: &Reply<'_>) {
    let sixteen = |request: &dyn Fn(&str) -> Vec<u8>| keys.iter().flat_map(|key| request(key)).collect::<Vec<u8>>();
    let value = "v".repeat(100);
    let plain = sixteen(&|key| format!("mg {key} v\r\n").into());
    let many = sixteen(&|key| format!("mg {key} v f c t k O123 q\r\n").into());
    let sets = sixteen(&|key| format!("ms {key} 100 T60 F1\r\n{value}\r\n").into());
    let encoded = sixteen(&|_| b"mg a2V5OjAwMDAwMDAwMDAw b v\r\n".to_vec());
    let packets = sixteen(&|key| packet(0x00, &[], key, ""));
    let stores = sixteen(&|key| packet(0x01, &[0; 8], key, &value));
    report("parse mg v", rounds, || parse(&plain));
    report("parse mg v f c t k O123 q", rounds, || parse(&many));
    report("parse mg with a base64 key", rounds, || parse(&encoded));
    report("parse ms of 100 bytes", rounds, || parse(&sets));
    report("parse binary get", rounds, || parse(&packets));
    report("parse binary set of 100 bytes", rounds, || parse(&stores));
    let mut output = Buffer::with_capacity(1 << 16);
    let key = keys[0].as_bytes();
    for (name, request) in [("mg v", &plain), ("mg v f c t k O123 q", &many), ("binary get", &packets)] {
        let framing = framing_of(request);
        report(&format!("encode a hit of {name}"), rounds, || encode_some(&framing, key, hit, &mut output));
    }
}

/// A binary request.
fn packet(opcode: u8, extras: &[u8], key: &str, value: &str) -> Vec<u8> {
    let total = extras.len() + key.len() + value.len();
    let header = [0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0, 0, 0, 0, total as u8];
    [&header, &[0; 12][..], extras, key.as_bytes(), value.as_bytes()].concat()
}

/// Repeats `work`, which tells how many requests it did and a sum over them. Prints the best of five.
fn report(name: &str, rounds: u64, mut work: impl FnMut() -> (u64, u64)) {
    let mut best = f64::INFINITY;
    let mut sum = 0u64;
    for _ in 0..5 {
        let mut count = 0;
        let started = Instant::now();
        while count < rounds / 5 {
            let (done, part) = work();
            count += done;
            sum = sum.wrapping_add(part);
        }
        best = best.min(started.elapsed().as_nanos() as f64 / count as f64);
    }
    println!("{name:<34} {best:>8.1}   checksum {sum:x}");
}

/// Steps over all of `input`.
fn parse(input: &[u8]) -> (u64, u64) {
    let mut session = Session::new(Options::default());
    let mut rest = black_box(input);
    let (mut count, mut sum) = (0, 0u64);
    while !rest.is_empty() {
        match session.step(rest) {
            Step::Command { command, consumed, framing } => {
                black_box(&framing);
                black_box(&command);
                sum = sum.wrapping_add(command.key.hash);
                count += 1;
                rest = &rest[consumed..];
            }
            other => panic!("a command, not {other:?}"),
        }
    }
    (count, sum)
}

fn framing_of(input: &[u8]) -> Framing<'_> {
    match Session::new(Options::default()).step(input) {
        Step::Command { framing, .. } => framing,
        other => panic!("a command, not {other:?}"),
    }
}

fn encode_some(framing: &Framing<'_>, key: &[u8], reply: &Reply<'_>, output: &mut Buffer) -> (u64, u64) {
    output.clear();
    for _ in 0..16 {
        encode(black_box(framing), black_box(key), black_box(reply), output);
    }
    (16, black_box(&output.bytes).len() as u64)
}

//! What does a request cost from received bytes to the bytes of its reply, without sockets: on this core, and on another one?
//!
//! Unit: nanoseconds of CPU time per request. Workload: 100-byte values, 16-byte keys, `ITEMS` (100,000) of them, uniform;
//! pipelines of 1, 16 and 100 requests in one received piece; `REQUESTS` (2,000,000). *Two cores*: both driven by this thread, so
//! half of the requests cross and come back, and the figure is what both cores spend on it, without waking anybody.
//!
//! Would change our mind: a pipelined local get above 150 ns (the engine's batch is 80 to 100 of it), or a crossing that costs more
//! than another 150 ns: then replies should be encoded into the link, not beside it.
#![allow(clippy::disallowed_methods)] // a bench looks at the clock

mod bare;

use bare::{cores, cpu_ns, fill, key, setting, turn};
use pbcache::buffer::Buffer;
use pbcache::runtime::core::Core;

fn main() {
    let items = setting("ITEMS", 100_000, 1_000);
    let requests = setting("REQUESTS", 2_000_000, 2_000);
    println!("{:<44} {:>8}", "", "ns each");
    for (name, count) in [("one core", 1), ("two cores, half of the requests cross", 2)] {
        let mut cores = cores(count, 64 << 20);
        fill(&mut cores, items);
        for depth in [1, 16, 100] {
            let get = |number: u64| format!("get {}\r\n", key(number));
            let value = "w".repeat(100);
            let set = |number: u64| format!("set {} 0 0 100\r\n{value}\r\n", key(number));
            report(&format!("{name}: get, {depth} at once"), &mut cores, &pieces(items, depth, get), requests, b"VALUE ");
            report(&format!("{name}: set, {depth} at once"), &mut cores, &pieces(items, depth, set), requests, b"STORED");
        }
    }
}

/// Pieces of `depth` requests each for keys at random.
fn pieces(items: u64, depth: u64, request: impl Fn(u64) -> String) -> Vec<(u64, Vec<u8>)> {
    let mut state = 88_172_645_463_325_252u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % items
    };
    (0..20_000 / depth).map(|_| (depth, (0..depth).flat_map(|_| request(random()).into_bytes()).collect())).collect()
}

/// Prints the best of five.
fn report(name: &str, cores: &mut [Core], pieces: &[(u64, Vec<u8>)], requests: u64, expected: &[u8]) {
    let id = cores[0].open(None, Vec::new(), None);
    let mut output = Buffer::with_capacity(1 << 18);
    let (mut best, mut sum) = (f64::INFINITY, 0u64);
    for _ in 0..5 {
        let (mut done, start) = (0, cpu_ns());
        'round: loop {
            for (depth, piece) in pieces {
                output.clear();
                cores[0].receive(id, piece, &mut output);
                turn(cores, id, &mut output);
                assert!(output.bytes.starts_with(expected), "{}", String::from_utf8_lossy(&output.bytes));
                sum = sum.wrapping_mul(31).wrapping_add(output.bytes.len() as u64);
                done += depth;
                if done >= requests / 5 {
                    break 'round;
                }
            }
        }
        best = best.min((cpu_ns() - start) as f64 / done as f64);
    }
    println!("{name:<44} {best:>8.1}   checksum {sum:x}");
}

//! What does it cost to find the owners of a key on the ring?
//!
//! Unit: nanoseconds of CPU time per `owners`, hash to owners, best of five passes. Workload: 16,384 hashes in a loop, so that lookups
//! overlap as they do in a batch of requests; rings of 10 million buckets, of equal weights and of weights 1 to 4, and 4 zones. For the
//! cache the same hashes, each seen once before. Also the start of a ring and what a change of one member moves.
//!
//! Would change our mind about ranking at each lookup: more than 15 ns for 3 nodes, 30 ns for 10, 60 ns for 10 of different weights
//! (at 16 requests in flight a request costs about 400 ns), or 30 ns for 100 nodes through the cache. A start that takes longer
//! with more buckets would be a mistake.
//!
//! Environment: NODES (3,10,32,100), BUCKETS (10,000,000), ROUNDS (lookups a pass, 2,000,000). The sum is a hash of all owners.
#![allow(clippy::disallowed_methods)] // a bench looks at the clock

use std::hint::black_box;
use std::time::Instant;

use pbcache::placement::{Layout, Member, NodeId, Owners, OwnersCache, Ring, moved};

const HASHES_COUNT: u64 = 16_384;
const PASSES: u32 = 5;

/// CPU time of this thread, in nanoseconds: others share the machine.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for the answer, and the clock exists on every Linux.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[derive(Clone, Copy)]
struct Shape {
    nodes: usize,
    redundancy: usize,
    weights: u32,
    zones: usize,
}

impl Shape {
    fn layout(self, buckets: u32) -> Layout {
        let member = |i: usize| Member {
            id: NodeId::new(&format!("10.0.{}.{}:11211", i / 256, i % 256)).unwrap(),
            weight: 1 + i as u32 % self.weights,
            zone: if self.zones == 1 { String::new() } else { format!("zone{}", i % self.zones) },
        };
        let members = (0..self.nodes).map(member).collect();
        Layout { buckets, redundancy: self.redundancy, members, assignments: Vec::new() }
    }
}

/// Hashes as keys have them: spread over 64 bits.
fn hashes() -> Vec<u64> {
    (1..=HASHES_COUNT)
        .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93))
        .collect()
}

fn fold(sum: u64, owners: &Owners) -> u64 {
    owners.iter().fold(sum, |sum, node| (sum ^ u64::from(node.0)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Best CPU time of a lookup, and the hash of the owners of one pass over the hashes.
fn measure(rounds: u64, hashes: &[u64], mut find: impl FnMut(u64) -> Owners) -> (f64, u64) {
    let sum = hashes.iter().fold(0, |sum, &hash| fold(sum, &find(hash)));
    let repeats = (rounds / hashes.len() as u64).max(1);
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = cpu_ns();
        for _ in 0..repeats {
            for &hash in hashes {
                let owners = find(black_box(hash));
                black_box(owners[0]);
            }
        }
        best = best.min((cpu_ns() - start) as f64 / (repeats * hashes.len() as u64) as f64);
    }
    (best, sum)
}

fn main() {
    // Under `cargo test --benches` only that it works is asked.
    let timed = std::env::args().any(|argument| argument == "--bench");
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    };
    let rounds = number("ROUNDS", if timed { 2_000_000 } else { 1_000 });
    let buckets = number("BUCKETS", 10_000_000) as u32;
    let nodes = std::env::var("NODES").unwrap_or_else(|_| "3,10,32,100".into());
    let hashes = &hashes()[..if timed { HASHES_COUNT as usize } else { 500 }];
    println!("{:<8} {:<24} {:>9} {:>9} {:>9}   sum", "nodes", "ns per lookup", "1 copy", "2 copies", "3 copies");
    for nodes in nodes.split(',').map(|text| text.trim().parse::<usize>().expect("NODES are numbers")) {
        for (name, weights, zones) in [("equal weights", 1, 1), ("weights 1 to 4", 4, 1), ("equal, 4 zones", 1, 4)] {
            let shapes = [1, 2, 3].map(|redundancy| Shape { nodes, redundancy, weights, zones });
            lookups(shapes, (rounds, buckets), hashes, name, false);
            if nodes > 32 {
                lookups(shapes, (rounds, buckets), hashes, name, true);
            }
        }
    }
    starts();
    changes(buckets, timed);
}

fn lookups(shapes: [Shape; 3], (rounds, buckets): (u64, u32), hashes: &[u64], name: &str, cached: bool) {
    let figures = shapes.map(|shape| {
        let ring = Ring::new(shape.layout(buckets)).unwrap();
        let mut cache = OwnersCache::default();
        match cached {
            true => measure(rounds, hashes, |hash| cache.owners_of(&ring, ring.bucket(hash))),
            false => measure(rounds, hashes, |hash| ring.owners(hash)),
        }
    });
    let sum = figures.iter().fold(0, |sum: u64, figure| sum.rotate_left(7) ^ figure.1);
    let [one, two, three] = figures.map(|figure| figure.0);
    let name = if cached { format!("{name}, cached") } else { name.into() };
    println!("{:<8} {name:<24} {one:>9.1} {two:>9.1} {three:>9.1}   {sum:016x}", shapes[0].nodes);
}

/// A start at 1, 10 million and 4 billion buckets.
fn starts() {
    for nodes in [10, 100] {
        let shape = Shape { nodes, redundancy: 2, weights: 4, zones: 4 };
        let times = [1, 10_000_000, u32::MAX].map(|buckets| {
            let start = Instant::now();
            (0..20).for_each(|_| _ = black_box(Ring::new(black_box(shape.layout(buckets))).unwrap()));
            start.elapsed().as_nanos() as f64 / 20_000.0
        });
        println!(
            "start of {nodes} nodes, 1 / 10 million / 4 billion buckets: {:.1} / {:.1} / {:.1} us",
            times[0], times[1], times[2]
        );
    }
}

/// What an 11th node moves, and what it costs to find out.
fn changes(buckets: u32, timed: bool) {
    let shape = Shape { nodes: 10, redundancy: 1, weights: 1, zones: 1 };
    let (old, new) = (Ring::new(shape.layout(buckets)), Ring::new(Shape { nodes: 11, ..shape }.layout(buckets)));
    let (old, new) = (old.unwrap(), new.unwrap());
    let moves = moved(&old, &new).unwrap();
    let partitions = if timed { 0..4096 } else { 0..2 };
    let start = cpu_ns();
    let (mut seen, mut changed) = (0, 0);
    for partition in partitions.clone() {
        seen += old.buckets_of(partition).len();
        changed += moves.partition(partition).count();
    }
    let ns = (cpu_ns() - start) as f64;
    println!(
        "an 11th node moves {:.3} % of the buckets; a partition is compared in {:.0} us",
        changed as f64 * 100.0 / seen.max(1) as f64,
        ns / 1000.0 / partitions.len() as f64
    );
}

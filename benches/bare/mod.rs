//! What several benches and tests need: settings, CPU time, cores without sockets.
//!
//! Lives here: set-up. Not here: what is asked (one file each).
#![allow(dead_code)] // each uses a part

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use pbcache::arena::Arena;
use pbcache::buffer::Buffer;
use pbcache::engine::{self, Engine};
use pbcache::protocol;
use pbcache::routing::{Routes, ShardId};
use pbcache::runtime::clock::Clock;
use pbcache::runtime::core::{Core, CoreDeps};
use pbcache::runtime::mesh::{CoreState, Mesh, Shared};
use pbcache::runtime::service::Services;
use pbcache::shard::Shard;

/// A number from the environment; `small` under `cargo test --benches`, which only wants to see that the bench runs.
pub fn setting(name: &str, default: u64, small: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) if std::env::args().any(|argument| argument == "--bench") => default,
        Err(_) => small,
    }
}

/// CPU time of this thread, in nanoseconds.
pub fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec; the clock exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The cores of a node, without sockets.
pub fn cores(count: u16, memory_bytes: usize) -> Vec<Core> {
    let arena = Arena::new(memory_bytes, memory_bytes, count.into()).expect("memory");
    let shared = Arc::new(Shared {
        clock: Clock::default(),
        cores: (0..count).map(|_| CoreState::default()).collect(),
        services: Services::new(Arc::new([]), 10, false),
        listening: AtomicU32::new(count.into()),
        leaving: AtomicBool::new(false),
    });
    let core = |(id, mesh): (u16, Mesh)| {
        let options =
            engine::Options { item_bytes_max: 1 << 20, core: id, cores: count, eviction_disabled: false, replication: None };
        Core::new(CoreDeps {
            shard: Shard::new(ShardId(id), Routes::new(count, 10_000_000), Engine::new(options, arena.clone())),
            mesh,
            arena: arena.clone(),
            protocol: protocol::Options::default(),
            control: crossbeam_channel::unbounded().0,
            members: None,
            facts: None,
            slow_ms: 10,
            inbox: crossbeam_channel::unbounded().1,
            peer_setup: None,
            resolver: None,
        })
    };
    (0..count).zip(Mesh::of_node(&shared)).map(core).collect()
}

/// Name of a key: 16 bytes.
pub fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// Stores `items` items of 100 bytes, whichever core of `cores` they belong to.
pub fn fill(cores: &mut [Core], items: u64) {
    let mut output = Buffer::with_capacity(1 << 16);
    let filler = cores[0].open(None, Vec::new(), None);
    for number in 0..items {
        let request = format!("set {} 0 0 100\r\n{}\r\n", key(number), "v".repeat(100));
        cores[0].receive(filler, request.as_bytes(), &mut output);
        turn(cores, filler, &mut output);
        output.clear();
    }
}

/// One turn of every core, so that what crosses is answered into `output`.
pub fn turn(cores: &mut [Core], asker: u32, output: &mut Buffer) {
    if cores.len() == 1 {
        return;
    }
    for _ in 0..2 {
        for core in cores.iter_mut() {
            core.pull();
            core.context.mesh.publish(|_| {});
        }
    }
    cores[0].flush(asker, output);
    cores[0].to_flush.clear();
}

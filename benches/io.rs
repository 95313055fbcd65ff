//! What do the sockets cost: the pump, stock glommio streams, and a bare io_uring echo that understands nothing?
//!
//! Unit and workload: those of `loadgen compare`, which does the measuring in alternating rounds: microseconds of server CPU time per
//! request, 50 connections, 1 and 16 requests in flight, 100-byte values. `SECONDS` (3) a round, `ROUNDS` (3).
//!
//! Would change our mind: a pump above 1.10 x the echo at 1 in flight (our own work would show beside the kernel's), or streams
//! within 10 % of the pump (then the pump is not worth its code).
#![allow(clippy::disallowed_methods)] // a bench starts processes

mod bare;
#[path = "../tests/skip/mod.rs"]
mod skip;

use std::path::PathBuf;
use std::process::Command;

use bare::setting;

fn main() {
    let seconds = setting("SECONDS", 3, 1);
    let rounds = setting("ROUNDS", 3, 1);
    let node = env!("CARGO_BIN_EXE_pbcache");
    let Some(loadgen) = loadgen(node) else {
        return skip::because("loadgen is not built beside this bench: cargo build --release --workspace");
    };
    let node = format!("{node} --cores 1 --memory_size 256 --ip 127.0.0.1 --port {{port}}");
    let small = !std::env::args().any(|argument| argument == "--bench");
    for depth in if small { &[16][..] } else { &[1, 16][..] } {
        let mut compare = Command::new(&loadgen);
        compare.args(["compare", "--depth", &depth.to_string()]);
        compare.args(["--duration", &seconds.to_string(), "--rounds", &rounds.to_string()]);
        if small {
            compare.args(["--keys", "1000", "--warm_up", "0.1"]);
        }
        compare.args(["--", &format!("{node} --io pump"), &format!("{node} --io streams"), "echo"]);
        let status = compare.status().expect("loadgen starts");
        assert!(status.success(), "loadgen compare: {status}");
    }
}

/// `loadgen` of the same build.
fn loadgen(node: &str) -> Option<PathBuf> {
    let path = PathBuf::from(node).with_file_name("loadgen");
    path.exists().then_some(path)
}

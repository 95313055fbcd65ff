//! The memory budget of a running node.
//!
//! Lives here: resident memory, eviction and room as a client sees them. Not here: the engine's own tests.

use crate::server::{Client, Server};

/// Resident memory that a node may have beside `--memory_size`: 16 MiB and 4 MiB a core.
fn allowance(memory_mb: usize, cores: usize) -> usize {
    (memory_mb + 16 + 4 * cores) << 20
}

fn fill(client: &mut Client, prefix: &str, count: usize, value_bytes: usize) {
    let value = "v".repeat(value_bytes);
    let batch = (256 << 10) / (value_bytes + 64) + 1;
    for start in (0..count).step_by(batch) {
        let end = (start + batch).min(count);
        let requests = (start..end).map(|i| format!("set {prefix}{i} 0 0 {value_bytes}\r\n{value}\r\n"));
        client.send(requests.collect::<String>());
        client.expect("STORED\r\n".repeat(end - start));
    }
}

#[test]
fn ten_times_as_much_as_fits_stays_within_the_budget() {
    for (cores, value_bytes) in [(1usize, 100usize), (2, 1000), (2, 10_000), (2, 200_000)] {
        let server = Server::start(&["--cores", &cores.to_string(), "--memory_size", "64"]);
        let mut client = server.connect();
        let count = 10 * (64 << 20) / (value_bytes + 60);
        let mut most = 0;
        for part in 0..10 {
            fill(&mut client, &format!("part{part}:"), count / 10, value_bytes);
            most = most.max(server.resident_bytes());
        }
        assert!(most < allowance(64, cores), "{value_bytes} B values: {} MiB", most >> 20);
        let held: usize = client.stat("", "bytes").parse().unwrap();
        assert!(held > 32 << 20, "{value_bytes} B values: only {} MiB of items are held", held >> 20);
    }
}

#[test]
fn a_large_item_fits_however_many_cores_share_the_memory() {
    let server = Server::start(&["--cores", "64", "--memory_size", "64"]);
    let mut client = server.connect();
    let value = "v".repeat((1 << 20) - 200);
    for i in 0..40 {
        client.ask(format!("set key{i} 0 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n");
        client.ask(format!("get key{i}\r\n"), format!("VALUE key{i} 0 {}\r\n{value}\r\nEND\r\n", value.len()));
    }
}

#[test]
fn a_core_with_all_the_keys_may_use_most_of_the_memory() {
    let server = Server::start(&["--cores", "4", "--memory_size", "64"]);
    let mut client = server.connect();
    // One hash tag: all keys on one core.
    fill(&mut client, "{tag}", 60_000, 1000);
    let held: usize = client.stat("", "bytes").parse().unwrap();
    assert!(held > 40 << 20, "only {} MiB of items are held", held >> 20);
    // The other cores still find room.
    fill(&mut client, "other", 10_000, 1000);
    client.ask("get other9999\r\n", format!("VALUE other9999 0 1000\r\n{}\r\nEND\r\n", "v".repeat(1000)));
}

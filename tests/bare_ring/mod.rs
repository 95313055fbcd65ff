//! Nodes of one core each whose frames are handed over in memory: no sockets, no clock.

use std::sync::Arc;

use pbcache::arena::Arena;
use pbcache::cluster::view::{Entry, View};
use pbcache::cluster::{Ack, Cluster, ClusterOptions};
use pbcache::command::Value;
use pbcache::engine::{Engine, Options, Replication};
use pbcache::peer::frame::{Frame, HEAD_BYTES, Head, Horizon};
use pbcache::peer::handshake::Identity;
use pbcache::placement::NodeId;
use pbcache::routing::{Routes, ShardId};
use pbcache::shard::Shard;
use pbcache::time::Timestamp;

pub const NOW: Timestamp = Timestamp { unix_ms: 1_800_000_000_000 };
const BUCKETS: u32 = 10_000_000;

fn id(node: usize) -> NodeId {
    NodeId::new(&format!("node-{node}")).unwrap()
}

/// One of `count` nodes; `memory_bytes` for its items, and as much for hints.
pub fn node(index: usize, count: usize, redundancy: usize, memory_bytes: usize) -> Shard {
    let entry = |node| Entry { id: id(node), address: format!("10.0.0.{node}:1"), weight: 1, zone: String::new() };
    let entries: Vec<Entry> = (0..count).map(entry).collect();
    let view = View::new(&entries, &id(index), BUCKETS, redundancy).unwrap();
    let replication = Some(Replication { buckets: BUCKETS, tombstone_s: 4000, node: index as u16 });
    let options = Options { item_bytes_max: 1 << 20, core: 0, cores: 1, eviction_disabled: false, replication };
    let ring = ClusterOptions {
        ack: Ack::Live,
        handoff_bytes_max: memory_bytes,
        handoff_window_ms: 3_600_000,
        handoff_rate: 0,
        cores: 1,
        mistake: None,
    };
    let arena = Arena::new(memory_bytes, memory_bytes, 1).unwrap();
    let mut shard = Shard::new(ShardId(0), Routes::new(1, BUCKETS), Engine::new(options, arena));
    shard.cluster = Some(Box::new(Cluster::new(Arc::new(view), ShardId(0), ring)));
    shard
}

/// What a node says of itself in a handshake.
pub fn identity(node: usize) -> Identity {
    Identity {
        cluster: String::new(),
        id: id(node).as_str().into(),
        incarnation: 1 + node as u64,
        view: 0,
        buckets: BUCKETS,
        redundancy: 1,
        cores: 1,
        unix_ms: 0,
        target_core: 0,
    }
}

/// Calls `handle` with each of these whole frames.
pub fn each(mut input: &[u8], mut handle: impl FnMut(&Frame<'_>)) {
    while let Some(head) = input.first_chunk::<HEAD_BYTES>() {
        let head = Head::read(head, 1 << 20, Horizon::at(NOW)).unwrap();
        let (meta, rest) = input[HEAD_BYTES..].split_at(head.meta_bytes);
        let (value, rest) = rest.split_at(head.value_bytes);
        handle(&Frame { head, meta, value: Value::Bytes(value) });
        input = rest;
    }
}

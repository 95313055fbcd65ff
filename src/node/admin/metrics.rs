//! What `/metrics` tells under names of our own.
//!
//! Every counter of `metrics::ROWS` is told, under its own name or as one result of several; a new row appears by itself.
//!
//! Lives here: names and labels. Not here: how they are written (`families`), memcached_exporter's names (`exporter`).

use std::sync::atomic::Ordering;

use super::facts::Facts;
use super::families::{Families, Kind, Labels, Value};
use crate::cluster::view::View;
use crate::latency;
use crate::metrics::ROWS;
use crate::node::host;
use crate::runtime::board::{PeerFigures, Snapshot};

use Kind::{Counter, Gauge};

/// Where a counter has another name than its field: the field, the name, the label that tells it from the others of that name. An empty
/// name: it is the sum of others, and left out.
const NAMES: &[(&str, &str, &str, &str)] = &[
    ("cmd_get", "", "", ""),
    ("get_hits", "gets", "result", "hit"),
    ("get_misses", "gets", "result", "miss"),
    ("cmd_set", "stores", "result", "taken"),
    ("store_too_large", "stores", "result", "too_large"),
    ("store_no_memory", "stores", "result", "no_memory"),
    ("cmd_touch", "", "", ""),
    ("touch_hits", "touches", "result", "hit"),
    ("touch_misses", "touches", "result", "miss"),
    ("delete_hits", "deletes", "result", "hit"),
    ("delete_misses", "deletes", "result", "miss"),
    ("incr_hits", "increments", "result", "hit"),
    ("incr_misses", "increments", "result", "miss"),
    ("decr_hits", "decrements", "result", "hit"),
    ("decr_misses", "decrements", "result", "miss"),
    ("cas_hits", "compared_stores", "result", "hit"),
    ("cas_misses", "compared_stores", "result", "miss"),
    ("cas_badval", "compared_stores", "result", "changed"),
    ("cmd_flush", "flushes", "", ""),
    ("cmd_meta", "inspections", "", ""),
    ("total_connections", "connections_accepted", "", ""),
    ("rejected_connections", "connections_refused", "reason", "limit"),
    ("strangers_refused", "connections_refused", "reason", "address"),
    ("accept_errors", "connections_refused", "reason", "error"),
    ("requests_crossed", "crossed", "", ""),
    ("requests_remote", "", "", ""),
    ("idle_kicks", "connections_idle_closed", "", ""),
    ("bytes_read", "received_bytes", "", ""),
    ("bytes_written", "sent_bytes", "", ""),
];

/// What a family of several counters tells.
const HELPS: &[(&str, &str)] = &[
    ("gets", "Keys asked for"),
    ("stores", "Values sent to be stored"),
    ("touches", "Keys touched"),
    ("deletes", "Keys to be deleted"),
    ("increments", "Numbers to be increased"),
    ("decrements", "Numbers to be decreased"),
    ("compared_stores", "Stores that depend on a CAS value, which stores counts too"),
    ("connections_refused", "Connections that were not served"),
];

fn help_of(name: &str, otherwise: &'static str) -> &'static str {
    HELPS.iter().find(|(known, _)| *known == name).map_or(otherwise, |(_, help)| help)
}

/// Everything under our own names.
pub fn collect(facts: &Facts, snapshots: &[Snapshot], families: &mut Families) {
    let connections = facts.connections();
    for (core, snapshot) in snapshots.iter().enumerate() {
        put_core(families, core, snapshot, connections[core]);
    }
    put_latencies(families, snapshots);
    if let Some(view) = &facts.view() {
        put_ring(families, view, snapshots);
        put_peers(families, facts, view, snapshots);
    }
    put_node(families, facts);
    put_process(families, facts);
}

fn put_core(families: &mut Families, core: usize, snapshot: &Snapshot, connections: u32) {
    let labels = || vec![("core", core.to_string())];
    for row in ROWS {
        let known = NAMES.iter().find(|(field, ..)| *field == row.field);
        let (name, label, value) = known.map_or((row.field, "", ""), |&(_, name, label, value)| (name, label, value));
        if name.is_empty() {
            continue;
        }
        let mut labels = labels();
        if !label.is_empty() {
            labels.push((label, value.into()));
        }
        families.put(&format!("pbcache_{name}"), Counter, help_of(name, row.help), labels, (row.read)(&snapshot.counters));
    }
    let engine = &snapshot.engine;
    let mut counter = |name: &str, help: &str, value: u64| families.put(name, Counter, help, labels(), value);
    counter("pbcache_items_created", "Items ever created", engine.items_total);
    counter("pbcache_evictions", "Items removed to make room before they expired", engine.evicted);
    counter("pbcache_evictions_unread", "Items removed to make room that were never read", engine.evicted_unfetched);
    counter("pbcache_expirations", "Items removed because they had expired", engine.expired);
    counter("pbcache_moved_bytes", "Bytes of items that were moved to make room", engine.moved_bytes);
    let mut gauge = |name: &str, help: &str, value: u64| families.put(name, Gauge, help, labels(), value);
    gauge("pbcache_connections", "Connections of clients", connections.into());
    gauge("pbcache_items", "Items", engine.items_count);
    gauge("pbcache_item_bytes", "Bytes of items: header, key, value, flags", engine.item_bytes);
    gauge("pbcache_index_bytes", "Bytes of the index", engine.index_bytes);
    gauge("pbcache_segment_bytes", "Bytes of leased segments and of values with memory of their own", engine.segment_bytes);
    gauge("pbcache_held_bytes", "Bytes held for connections: unfinished requests, output not taken", snapshot.held_bytes);
}

fn put_latencies(families: &mut Families, snapshots: &[Snapshot]) {
    let mut total = vec![latency::Histogram::default(); latency::KINDS];
    for (core, snapshot) in snapshots.iter().enumerate() {
        total.iter_mut().zip(&snapshot.kinds).for_each(|(total, kind)| total.merge(kind));
        let turns = Value::Times(Box::new(snapshot.turns));
        let help = "Length of a core's turns in which there was something to do";
        families.put("pbcache_turn_seconds", Kind::Histogram, help, vec![("core", core.to_string())], turns);
        for door in latency::Door::ALL {
            let of_door = latency::Kind::all().zip(&snapshot.kinds).filter(|((other, _), _)| *other == door);
            let count: u64 = of_door.map(|(_, histogram)| histogram.count()).sum();
            let labels = vec![("core", core.to_string()), ("door", door.name().into())];
            families.put("pbcache_requests", Counter, "Commands of clients, one for each key", labels, count);
        }
    }
    for ((door, operation), histogram) in latency::Kind::all().zip(total) {
        // A kind that never came has no line: there would be many of them.
        if histogram.count() > 0 {
            let labels = vec![("door", door.name().into()), ("op", operation.name().into())];
            let help = "Time from the turn that took a command to its answer; by the clock of the turn";
            families.put("pbcache_request_seconds", Kind::Histogram, help, labels, Value::Times(Box::new(histogram)));
        }
    }
}

fn put_ring(families: &mut Families, view: &View, snapshots: &[Snapshot]) {
    let sum = |part: fn(&Snapshot) -> u64| snapshots.iter().map(part).sum::<u64>();
    let mut counter = |name: &str, help: &str, labels: Labels, value: u64| families.put(name, Counter, help, labels, value);
    let direction = |word: &str| vec![("direction", word.to_string())];
    counter("pbcache_forwarded", "Commands sent on to another node", vec![], sum(|core| core.ring.figures.forwarded));
    counter("pbcache_served", "Commands of other nodes executed here", vec![], sum(|core| core.ring.figures.served));
    let copies = "Copies of items sent to other nodes and taken from them";
    counter("pbcache_copies", copies, direction("sent"), sum(|core| core.ring.figures.copies_sent));
    counter("pbcache_copies", copies, direction("taken"), sum(|core| core.ring.figures.copies_taken));
    counter("pbcache_consulted", "Keys asked of other nodes before a command", vec![], sum(|core| core.ring.figures.consulted));
    counter("pbcache_repairs", "Copies renewed because a read found them old", vec![], sum(|core| core.ring.figures.repaired));
    let conflicts = "Writes that met something newer elsewhere and started again";
    counter("pbcache_conflicts", conflicts, vec![], sum(|core| core.ring.figures.conflicts));
    let failed = "Commands answered with an error because no node could be reached";
    counter("pbcache_unreachable", failed, vec![], sum(|core| core.ring.figures.failed));
    let streamed = "Items of dirty partitions sent";
    counter("pbcache_items_streamed", streamed, vec![], sum(|core| core.ring.figures.streamed));
    counter("pbcache_peer_requests", "Requests sent to other nodes", vec![], sum(|core| core.ring.requests_sent));
    counter("pbcache_links_lost", "Links to other nodes that were lost", vec![], sum(|core| core.ring.links_lost));
    let mut gauge = |name: &str, help: &str, value: u64| families.put(name, Gauge, help, vec![], value);
    gauge("pbcache_operations", "Commands under way in which other nodes have a part", sum(|core| core.ring.operations));
    gauge("pbcache_hint_bytes", "Bytes of hints for other nodes", sum(|core| core.ring.hint_bytes));
    gauge("pbcache_missing", "Keys that other nodes have announced as missing here", sum(|core| core.ring.missing));
    gauge("pbcache_ring_nodes", "Nodes of the ring as this one knows it", view.nodes.len() as u64);
}

fn put_peers(families: &mut Families, facts: &Facts, view: &View, snapshots: &[Snapshot]) {
    for peer in view.others() {
        let figures = |core: &Snapshot| core.peers.get(peer.index()).copied().unwrap_or_default();
        let sum = |part: fn(PeerFigures) -> u64| snapshots.iter().map(|core| part(figures(core))).sum::<u64>();
        let most = |part: fn(PeerFigures) -> u64| snapshots.iter().map(|core| part(figures(core))).max().unwrap_or(0);
        let labels = || vec![("node", view.id_of(peer).as_str().to_string())];
        let is_away = sum(|peer| peer.links_up) == 0 && sum(|peer| peer.links_away) > 0;
        let mut gauge = |name: &str, help: &str, value: Value| families.put(name, Gauge, help, labels(), value);
        gauge(
            "pbcache_peer_up",
            "0 while this node is away: no link to it is up, and one was lost",
            u64::from(!is_away).into(),
        );
        gauge("pbcache_peer_links", "Links to this node that are up", sum(|peer| peer.links_up).into());
        gauge("pbcache_peer_waiting", "Requests under way to this node", sum(|peer| peer.waiting).into());
        gauge("pbcache_hints_pending", "Hints for this node that wait", sum(|peer| peer.hints.pending).into());
        let oldest = most(|peer| peer.oldest_ms) as f64 / 1000.0;
        gauge("pbcache_hint_oldest_seconds", "Age of the oldest hint for this node", oldest.into());
        let dirty = "Partitions to be sent to this node whole";
        gauge("pbcache_dirty_partitions", dirty, most(|peer| peer.dirty).into());
        let theirs = most(|peer| peer.view);
        let differs = theirs != 0 && theirs != view.id().0;
        gauge("pbcache_peer_view_differs", "1 while this node knows another ring", u64::from(differs).into());
        let events = [
            ("created", sum(|peer| peer.hints.created)),
            ("replayed", sum(|peer| peer.hints.replayed)),
            ("superseded", sum(|peer| peer.hints.superseded)),
            ("expired", sum(|peer| peer.hints.expired)),
            ("degraded", sum(|peer| peer.hints.degraded)),
            ("rerouted", sum(|peer| peer.hints.rerouted)),
        ];
        for (event, count) in events {
            let mut labels = labels();
            labels.push(("event", event.into()));
            families.put("pbcache_hints", Counter, "What became of hints for this node", labels, count);
        }
    }
    let silent = facts.silent_cores().len() as u64;
    families.put("pbcache_cores_silent", Gauge, "Cores that have not turned for 5 s", vec![], silent);
}

fn put_node(families: &mut Families, facts: &Facts) {
    let mut gauge = |name: &str, help: &str, labels: Labels, value: u64| families.put(name, Gauge, help, labels, value);
    gauge("pbcache_memory_limit_bytes", "Memory for items, indexes and buffers", vec![], facts.memory.limit_bytes() as u64);
    gauge("pbcache_connections_limit", "Most connections of clients", vec![], facts.options.conn_limit.into());
    gauge("pbcache_ready", "1 while the node is ready", vec![], u64::from(facts.hindrances().is_empty()));
    for finding in facts.findings.iter().filter(|finding| finding.state != host::State::NotApplicable) {
        let labels = vec![("check", finding.name.to_string())];
        let wanting = u64::from(finding.state == host::State::Wanting);
        gauge("pbcache_tuning_failed", "1 where this knob of the machine was not as wanted at the start", labels, wanting);
    }
    let labels = vec![
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("memcached", crate::node::VERSION.to_string()),
        ("commit", option_env!("PBCACHE_COMMIT").unwrap_or("unknown").to_string()),
        ("io", format!("{:?}", facts.io).to_lowercase()),
    ];
    gauge("pbcache_build_info", "1; what this program is, in its labels", labels, 1);
    let watching = facts.shared.services.open();
    gauge("pbcache_sockets", "Connections of all kinds, those of other nodes included", vec![], watching.into());
    let listening = facts.shared.listening.load(Ordering::Relaxed);
    gauge("pbcache_cores_listening", "Cores that accept connections", vec![], listening.into());
}

/// Prometheus' own names for what it wants to know of any process.
fn put_process(families: &mut Families, facts: &Facts) {
    let figures = facts.process_figures();
    let cpu_s = (figures.user_us + figures.system_us) as f64 / 1e6;
    families.put("process_cpu_seconds", Counter, "CPU time in user mode and in the kernel", vec![], cpu_s);
    let mut gauge = |name: &str, help: &str, value: Value| families.put(name, Gauge, help, vec![], value);
    gauge("process_start_time_seconds", "Start, in seconds since 1970", (facts.started.unix_ms as f64 / 1000.0).into());
    gauge("process_resident_memory_bytes", "Memory of the process that is resident", resident_bytes().into());
    gauge("process_open_fds", "Descriptors that are open", open_descriptors().into());
    gauge("process_max_fds", "Most descriptors", crate::node::preflight::descriptors_max().into());
}

/// Resident memory of this process, in bytes; 0 where it cannot be read.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Open descriptors. Since Linux 6.2 the folder tells their number as its size; before, they are counted.
fn open_descriptors() -> u64 {
    let folder = "/proc/self/fd";
    match std::fs::metadata(folder).map_or(0, |folder| folder.len()) {
        0 => std::fs::read_dir(folder).map_or(0, |entries| entries.count() as u64),
        count => count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever adds a counter finds it in `/metrics`, and nowhere twice.
    #[test]
    fn every_counter_is_told_once() {
        let mut families = Families::default();
        let mut snapshot = Snapshot::empty(0);
        let mut next = 1;
        snapshot.counters.visit(&mut |counter| {
            *counter = next;
            next += 1;
        });
        put_core(&mut families, 0, &snapshot, 3);
        for row in ROWS {
            let value = Value::Count((row.read)(&snapshot.counters));
            let is_sum = NAMES.iter().any(|(field, name, ..)| *field == row.field && name.is_empty());
            let found = families.0.iter().flat_map(|family| &family.samples).filter(|(_, other)| *other == value).count();
            let others = usize::from(value == Value::Count(3));
            assert_eq!(found, usize::from(!is_sum) + others, "{}", row.field);
        }
        let mut labels: Vec<_> =
            families.0.iter().flat_map(|family| family.samples.iter().map(|(labels, _)| (&family.name, labels))).collect();
        labels.sort();
        assert!(labels.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(NAMES.iter().all(|(field, ..)| ROWS.iter().any(|row| row.field == *field)), "a field that is gone");
    }
}

//! The same figures under the names of memcached_exporter, so that its dashboards and alerts work unchanged.
//!
//! The exporter reads `stats`, `stats settings`, `stats items` and `stats slabs`; so does this, from the same lines that clients get, so
//! that the figures cannot differ.
//!
//! Lives here: which stat has which name. Not here: what the stats say (`node::stats`), writing (`families`).
//! Names, types and labels: prometheus/memcached_exporter, pkg/exporter/exporter.go.

use super::facts::Facts;
use super::families::{Families, Kind, Labels};
use crate::node::stats::{self, Lines};
use crate::runtime::board::Snapshot;

use Kind::{BareCounter, Counter, Gauge};

/// A stat of the node: its name, the metric's behind `memcached_`, what that is, what it tells.
const GENERAL: &[(&str, &str, Kind, &str)] = &[
    ("uptime", "uptime_seconds", BareCounter, "Seconds since start"),
    ("time", "time_seconds", Gauge, "Unix time by the node"),
    ("rusage_user", "process_user_cpu_seconds", Counter, "CPU time in user mode"),
    ("rusage_system", "process_system_cpu_seconds", Counter, "CPU time in the kernel"),
    ("bytes_read", "read_bytes", Counter, "Bytes received from clients"),
    ("bytes_written", "written_bytes", Counter, "Bytes sent to clients"),
    ("curr_connections", "current_connections", Gauge, "Connections"),
    ("total_connections", "connections", Counter, "Connections accepted"),
    ("rejected_connections", "connections_rejected", Counter, "Connections refused for the limit"),
    ("conn_yields", "connections_yielded", Counter, "Times that a connection had to wait"),
    ("listen_disabled_num", "connections_listener_disabled", Counter, "Times that accepting was paused; it never is"),
    ("bytes", "current_bytes", Gauge, "Bytes of items"),
    ("limit_maxbytes", "limit_bytes", Gauge, "Memory limit"),
    ("curr_items", "current_items", Gauge, "Items"),
    ("total_items", "items", Counter, "Items ever created"),
    ("evictions", "items_evicted", Counter, "Items removed to make room"),
    ("reclaimed", "items_reclaimed", Counter, "Expired items overwritten; here they are removed"),
    ("store_too_large", "item_too_large", Counter, "Stores refused for the size of the item"),
    ("store_no_memory", "item_no_memory", Counter, "Stores refused for want of memory"),
    ("direct_reclaims", "direct_reclaims", Counter, "Evictions by workers for want of ready memory"),
    ("lru_crawler_starts", "lru_crawler_starts", Counter, "Starts of the crawler; there is none"),
    ("crawler_reclaimed", "lru_crawler_reclaimed", Counter, "Items removed because they had expired"),
    ("crawler_items_checked", "lru_crawler_items_checked", Counter, "Items looked at by the crawler; there is none"),
    ("moves_to_cold", "lru_crawler_moves_to_cold", Counter, "Moves between LRU lists; there are none"),
    ("moves_to_warm", "lru_crawler_moves_to_warm", Counter, "Moves between LRU lists; there are none"),
    ("moves_within_lru", "lru_crawler_moves_within_lru", Counter, "Moves within LRU lists; there are none"),
    ("total_malloced", "malloced_bytes", Gauge, "Bytes of leased segments"),
    ("accepting_conns", "accepting_connections", Gauge, "1 while connections are accepted"),
];

/// A stat of the items of a class.
const ITEMS: &[(&str, &str, Kind, &str)] = &[
    ("number", "slab_current_items", Gauge, "Items of the class"),
    ("age", "slab_items_age_seconds", Gauge, "Age of the oldest item; not known"),
    ("crawler_reclaimed", "slab_items_crawler_reclaimed", Counter, "Items removed because they had expired"),
    ("evicted", "slab_items_evicted", Counter, "Items removed to make room"),
    ("evicted_nonzero", "slab_items_evicted_nonzero", Counter, "Evicted items that had an expiry"),
    ("evicted_time", "slab_items_evicted_time_seconds", BareCounter, "Time since last use of the item evicted last"),
    ("evicted_unfetched", "slab_items_evicted_unfetched", Counter, "Evicted items that were never read"),
    ("expired_unfetched", "slab_items_expired_unfetched", Counter, "Expired items that were never read"),
    ("outofmemory", "slab_items_outofmemory", Counter, "Stores refused for want of memory"),
    ("reclaimed", "slab_items_reclaimed", Counter, "Expired items overwritten; here they are removed"),
    ("tailrepairs", "slab_items_tailrepairs", Counter, "Repairs of lists; there are none"),
    ("mem_requested", "slab_mem_requested_bytes", BareCounter, "Bytes of items"),
    ("moves_to_cold", "slab_items_moves_to_cold", BareCounter, "Moves between LRU lists; there are none"),
    ("moves_to_warm", "slab_items_moves_to_warm", BareCounter, "Moves between LRU lists; there are none"),
    ("moves_within_lru", "slab_items_moves_within_lru", BareCounter, "Moves within LRU lists; there are none"),
    ("number_hot", "slab_hot_items", Gauge, "Items of the hot list"),
    ("number_warm", "slab_warm_items", Gauge, "Items of the warm list"),
    ("number_cold", "slab_cold_items", Gauge, "Items of the cold list: all"),
    ("number_temp", "slab_temporary_items", Gauge, "Items of the temporary list"),
    ("age_hot", "slab_hot_age_seconds", Gauge, "Age of the oldest hot item; not known"),
    ("age_warm", "slab_warm_age_seconds", Gauge, "Age of the oldest warm item; not known"),
];

/// A stat of the pages of a class.
const SLABS: &[(&str, &str, &str)] = &[
    ("chunk_size", "slab_chunk_size_bytes", "Mean size of an item"),
    ("chunks_per_page", "slab_chunks_per_page", "Such items of a segment"),
    ("total_pages", "slab_current_pages", "Segments that are leased"),
    ("total_chunks", "slab_current_chunks", "Such items that the segments hold"),
    ("used_chunks", "slab_chunks_used", "Items"),
    ("free_chunks", "slab_chunks_free", "Room for more items of the mean size"),
    ("free_chunks_end", "slab_chunks_free_end", "Room at the end of the last page; told as free"),
];

/// Commands with hits and misses.
const COMMANDS: &[&str] = &["get", "delete", "incr", "decr", "cas", "touch"];
const COMMANDS_HELP: &str = "Commands by what came of them";
const SLAB_COMMANDS_HELP: &str = "Commands of the class by what came of them";

/// Adds everything that the exporter would tell of this node.
pub fn collect(facts: &Facts, snapshots: &[Snapshot], families: &mut Families) {
    let cores = facts.core_figures(snapshots);
    let segment_bytes = facts.memory.arena.segment_bytes() as u64;
    let slabs = stats::slabs(&cores, segment_bytes);
    // The exporter's client takes `total_malloced` from `stats slabs`.
    let mut general = stats::general(&cores, &facts.process_figures(), &facts.options);
    general.extend(slabs.iter().filter(|(name, _)| name == "total_malloced").cloned());
    put_general(families, &general, facts.options.conn_limit);
    put_items(families, &stats::items(&cores));
    put_slabs(families, &slabs);
}

/// A stat as a number: they are whole numbers, or seconds with a fraction.
fn number(lines: &Lines, name: &str) -> Option<f64> {
    lines.iter().find(|(known, _)| known == name)?.1.parse().ok()
}

fn put(families: &mut Families, name: &str, kind: Kind, help: &str, labels: Labels, value: f64) {
    let name = format!("memcached_{name}");
    if value.fract() == 0.0 {
        families.put(&name, kind, help, labels, value as u64);
    } else {
        families.put(&name, kind, help, labels, value);
    }
}

fn put_general(families: &mut Families, lines: &Lines, connections_max: u32) {
    put(families, "up", Gauge, "1: the node answers", vec![], 1.0);
    put(families, "max_connections", Gauge, "Most connections", vec![], connections_max.into());
    let version = lines.iter().find(|(name, _)| name == "version").map_or("", |(_, version)| version);
    put(families, "version", Gauge, "1; the release in its label", vec![("version", version.into())], 1.0);
    for &(stat, name, kind, help) in GENERAL {
        if let Some(value) = number(lines, stat) {
            put(families, name, kind, help, vec![], value);
        }
    }
    let mut command = |command: &str, status: &str, value: Option<f64>| {
        let labels = vec![("command", command.to_string()), ("status", status.to_string())];
        value.into_iter().for_each(|value| put(families, "commands", Counter, COMMANDS_HELP, labels.clone(), value));
    };
    for name in COMMANDS {
        command(name, "hit", number(lines, &format!("{name}_hits")));
        command(name, "miss", number(lines, &format!("{name}_misses")));
    }
    command("cas", "badval", number(lines, "cas_badval"));
    command("flush", "hit", number(lines, "cmd_flush"));
    let compared: f64 = ["cas_misses", "cas_hits", "cas_badval"].iter().filter_map(|name| number(lines, name)).sum();
    command("set", "hit", number(lines, "cmd_set").map(|sets| (sets - compared).max(0.0)));
}

/// Names of lines of a class, `items:1:NAME` or `1:NAME`, without what comes before.
fn of_class(lines: &Lines, prefix: &str) -> Lines {
    lines.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_string(), value.clone()))).collect()
}

fn put_items(families: &mut Families, lines: &Lines) {
    let lines = of_class(lines, "items:1:");
    let class = || vec![("slab", "1".to_string())];
    for &(stat, name, kind, help) in ITEMS {
        if let Some(value) = number(&lines, stat) {
            put(families, name, kind, help, class(), value);
        }
    }
    for (stat, list) in
        [("hits_to_hot", "hot"), ("hits_to_warm", "warm"), ("hits_to_cold", "cold"), ("hits_to_temp", "temporary")]
    {
        if let Some(value) = number(&lines, stat) {
            let mut labels = class();
            labels.push(("lru", list.into()));
            put(families, "slab_lru_hits", Counter, "Hits by list", labels, value);
        }
    }
}

fn put_slabs(families: &mut Families, lines: &Lines) {
    let lines = of_class(lines, "1:");
    for &(stat, name, help) in SLABS {
        if let Some(value) = number(&lines, stat) {
            put(families, name, Gauge, help, vec![("slab", "1".into())], value);
        }
    }
    let mut command = |command: &str, status: &str, value: Option<f64>| {
        let labels = vec![("slab", "1".to_string()), ("command", command.to_string()), ("status", status.to_string())];
        value.into_iter().for_each(|value| put(families, "slab_commands", Counter, SLAB_COMMANDS_HELP, labels.clone(), value));
    };
    for name in COMMANDS {
        command(name, "hit", number(&lines, &format!("{name}_hits")));
    }
    command("cas", "badval", number(&lines, "cas_badval"));
    let compared: f64 = ["cas_hits", "cas_badval"].iter().filter_map(|name| number(&lines, name)).sum();
    command("set", "hit", number(&lines, "cmd_set").map(|sets| (sets - compared).max(0.0)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::options::Options;
    use crate::node::stats::{CoreFigures, ProcessFigures};

    #[test]
    fn stores_that_compare_are_told_once() {
        let mut core = CoreFigures::default();
        (core.counters.cmd_set, core.counters.cas_hits, core.counters.cas_badval, core.counters.cas_misses) = (10, 2, 1, 3);
        core.engine.items_count = 1;
        let options = Options::parse(["pbcache".to_string()], 1).unwrap();
        let mut families = Families::default();
        put_general(&mut families, &stats::general(&[core], &ProcessFigures::default(), &options), 5);
        put_slabs(&mut families, &stats::slabs(&[core], 1 << 20));
        let text = families.text();
        assert!(text.contains("memcached_commands_total{command=\"set\",status=\"hit\"} 4\n"), "{text}");
        assert!(text.contains("memcached_slab_commands_total{slab=\"1\",command=\"set\",status=\"hit\"} 7\n"), "{text}");
        assert!(text.contains("memcached_max_connections 5\n") && text.contains("memcached_version{version=\"1.6.45\"} 1\n"));
    }
}

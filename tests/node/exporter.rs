//! Parity with memcached_exporter: every name, type and set of labels that it tells of a memcached is told of a node.
//!
//! The list was made from the exporter's source (pkg/exporter/exporter.go); the exporter itself is in no registry that tests may ask.
//!
//! Lives here: the list, and the comparison. Not here: the figures behind them (`admin`, `stats`).

use std::collections::BTreeSet;

use crate::admin::{sample, start, until};

/// Name, type, labels; behind `memcached_`.
const LIST: &str = "\
accepting_connections gauge
commands_total counter command=cas,status=badval
commands_total counter command=cas,status=hit
commands_total counter command=cas,status=miss
commands_total counter command=decr,status=hit
commands_total counter command=decr,status=miss
commands_total counter command=delete,status=hit
commands_total counter command=delete,status=miss
commands_total counter command=flush,status=hit
commands_total counter command=get,status=hit
commands_total counter command=get,status=miss
commands_total counter command=incr,status=hit
commands_total counter command=incr,status=miss
commands_total counter command=set,status=hit
commands_total counter command=touch,status=hit
commands_total counter command=touch,status=miss
connections_listener_disabled_total counter
connections_rejected_total counter
connections_total counter
connections_yielded_total counter
current_bytes gauge
current_connections gauge
current_items gauge
direct_reclaims_total counter
item_no_memory_total counter
item_too_large_total counter
items_evicted_total counter
items_reclaimed_total counter
items_total counter
limit_bytes gauge
lru_crawler_items_checked_total counter
lru_crawler_moves_to_cold_total counter
lru_crawler_moves_to_warm_total counter
lru_crawler_moves_within_lru_total counter
lru_crawler_reclaimed_total counter
lru_crawler_starts_total counter
malloced_bytes gauge
max_connections gauge
process_system_cpu_seconds_total counter
process_user_cpu_seconds_total counter
read_bytes_total counter
slab_chunk_size_bytes gauge slab=1
slab_chunks_free gauge slab=1
slab_chunks_free_end gauge slab=1
slab_chunks_per_page gauge slab=1
slab_chunks_used gauge slab=1
slab_cold_items gauge slab=1
slab_commands_total counter slab=1,command=cas,status=badval
slab_commands_total counter slab=1,command=cas,status=hit
slab_commands_total counter slab=1,command=decr,status=hit
slab_commands_total counter slab=1,command=delete,status=hit
slab_commands_total counter slab=1,command=get,status=hit
slab_commands_total counter slab=1,command=incr,status=hit
slab_commands_total counter slab=1,command=set,status=hit
slab_commands_total counter slab=1,command=touch,status=hit
slab_current_chunks gauge slab=1
slab_current_items gauge slab=1
slab_current_pages gauge slab=1
slab_hot_age_seconds gauge slab=1
slab_hot_items gauge slab=1
slab_items_age_seconds gauge slab=1
slab_items_crawler_reclaimed_total counter slab=1
slab_items_evicted_nonzero_total counter slab=1
slab_items_evicted_time_seconds counter slab=1
slab_items_evicted_total counter slab=1
slab_items_evicted_unfetched_total counter slab=1
slab_items_expired_unfetched_total counter slab=1
slab_items_moves_to_cold counter slab=1
slab_items_moves_to_warm counter slab=1
slab_items_moves_within_lru counter slab=1
slab_items_outofmemory_total counter slab=1
slab_items_reclaimed_total counter slab=1
slab_items_tailrepairs_total counter slab=1
slab_lru_hits_total counter slab=1,lru=cold
slab_lru_hits_total counter slab=1,lru=hot
slab_lru_hits_total counter slab=1,lru=temporary
slab_lru_hits_total counter slab=1,lru=warm
slab_mem_requested_bytes counter slab=1
slab_warm_age_seconds gauge slab=1
slab_warm_items gauge slab=1
time_seconds gauge
up gauge
uptime_seconds counter
version gauge version=1.6.45
written_bytes_total counter
";

/// Every sample of a text as a line of the list.
fn lines(text: &str) -> BTreeSet<String> {
    let mut kinds = std::collections::BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE memcached_")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(kinds.insert(name, kind), None, "{name} has two types");
    }
    let line = |line: &str| {
        let (sample, _) = line.strip_prefix("memcached_")?.rsplit_once(' ')?;
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        Some(format!("{name} {} {}", kinds[name], labels.trim_end_matches('}').replace('"', "")).trim_end().to_string())
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn names_types_and_labels_are_those_of_the_exporter() {
    let (server, port) = start(&["--cores", "2"]);
    let mut client = server.connect();
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    client.ask("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
    let text = until(port, "/metrics", |answer| sample(&answer.body, "memcached_current_items", "") == 1.0).body;
    let (ours, wanted): (BTreeSet<String>, BTreeSet<String>) = (lines(&text), LIST.lines().map(String::from).collect());
    let missing: Vec<_> = wanted.difference(&ours).collect();
    let more: Vec<_> = ours.difference(&wanted).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing {missing:#?}, more {more:#?}");
    assert_eq!(wanted.len(), LIST.lines().count());
    // The figures are those of `stats`.
    for (stat, labels) in [("get_hits", "command=\"get\",status=\"hit\""), ("cmd_set", "command=\"set\",status=\"hit\"")] {
        assert_eq!(client.stat("", stat), sample(&text, "memcached_commands_total", labels).to_string());
    }
    assert_eq!(client.stat("", "limit_maxbytes"), sample(&text, "memcached_limit_bytes", "").to_string());
}

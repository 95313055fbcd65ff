//! The words of `stats`: from figures to names and values.
//!
//! `stats` and `stats settings` print exactly the names of memcached 1.6.18 with its default flags, in its order (the latter
//! with ours at its end): tools check for names, and unknown ones confuse them. Our own figures have their own sub-commands.
//! Where a name has no meaning here its value is 0, or what a memcached without that feature says.
//!
//! Lives here: names, order, arithmetic. Not here: asking the cores (`control`).

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::Serialize;

use crate::engine::Statistics;
use crate::limits;
use crate::metrics::{Counters, ROWS};
use crate::node::control::cpu_time_us;
use crate::node::options::{Options, table};
use crate::node::watch::WatchFigures;
use crate::observe::prefixes::{Counts, Prefixes};
use crate::protocol::http;
use crate::runtime::connection::State;
use crate::runtime::core::Described;
use crate::time::Timestamp;

/// Names and values, in order.
pub type Lines = Vec<(String, String)>;

/// The figures of one core at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreFigures {
    /// Its counters.
    pub counters: Counters,
    /// Its engine's figures.
    pub engine: Statistics,
    /// Connections now.
    pub connections: u32,
}

/// The figures of the process at one moment.
#[derive(Clone, Debug, Default)]
pub struct ProcessFigures {
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Unix time in seconds.
    pub time_s: u64,
    /// CPU time in user mode, in microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, in microseconds.
    pub system_us: u64,
    /// Memory limit now, in bytes.
    pub limit_bytes: u64,
    /// What was noted for those who watch.
    pub watch: WatchFigures,
}

impl ProcessFigures {
    /// The figures of this process at this moment, started at `started`, with this memory limit. One system call.
    pub fn take(now: Timestamp, started: Timestamp, limit_bytes: usize, watch: WatchFigures) -> Self {
        let (user_us, system_us) = cpu_time_us();
        Self {
            pid: std::process::id(),
            uptime_s: now.unix_ms.saturating_sub(started.unix_ms) / 1000,
            time_s: now.unix_ms / 1000,
            user_us,
            system_us,
            limit_bytes: limit_bytes as u64,
            watch,
        }
    }
}

/// `stats`.
pub fn general(cores: &[CoreFigures], process: &ProcessFigures, options: &Options) -> Lines {
    let (counters, engine) = totals(cores);
    let connections: u64 = cores.iter().map(|core| core.connections as u64).sum();
    let value = |name: &str| -> String {
        if let Some(row) = ROWS.iter().find(|row| row.stat == name) {
            return (row.read)(&counters).to_string();
        }
        let number = match name {
            "pid" => process.pid as u64,
            "uptime" => process.uptime_s,
            "time" => process.time_s,
            "pointer_size" => usize::BITS as u64,
            "max_connections" => options.conn_limit as u64,
            "curr_connections" | "connection_structures" => connections,
            "reserved_fds" => 16 * options.cores as u64,
            "limit_maxbytes" => process.limit_bytes,
            "accepting_conns" => (connections < options.conn_limit as u64) as u64,
            "threads" => options.cores as u64,
            "hash_power_level" => (engine.index_bytes / POINTER_BYTES).max(1).ilog2() as u64,
            "get_expired" => engine.found_expired,
            "get_flushed" => engine.found_flushed,
            "hash_bytes" => engine.index_bytes,
            "log_worker_dropped" => process.watch.dropped,
            "log_worker_written" => process.watch.written,
            "log_watcher_skipped" => process.watch.skipped,
            "log_watcher_sent" => process.watch.sent,
            "log_watchers" => process.watch.watchers,
            "bytes" => engine.item_bytes,
            "curr_items" => engine.items_count,
            "total_items" => engine.items_total,
            "expired_unfetched" => engine.expired_unfetched,
            "evicted_unfetched" => engine.evicted_unfetched,
            "evictions" => engine.evicted,
            "crawler_reclaimed" => engine.expired,
            _ => 0,
        };
        number.to_string()
    };
    let special = |name: &str| match name {
        "version" => super::VERSION.to_string(),
        "libevent" => "none-io_uring".to_string(),
        "rusage_user" => seconds(process.user_us),
        "rusage_system" => seconds(process.system_us),
        _ => value(name),
    };
    GENERAL.iter().map(|&name| (name.to_string(), special(name))).collect()
}

/// What memcached's hash table takes per entry: the level is told as if the index were such a table.
const POINTER_BYTES: u64 = 8;

/// Microseconds as memcached prints them: seconds and six digits.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

fn totals(cores: &[CoreFigures]) -> (Counters, Statistics) {
    let (mut counters, mut engine) = (Counters::default(), Statistics::default());
    for core in cores {
        counters.add(&core.counters);
        add(&mut engine, &core.engine);
    }
    (counters, engine)
}

/// Adds one engine's figures to a total.
fn add(total: &mut Statistics, other: &Statistics) {
    total.items_count += other.items_count;
    total.items_total += other.items_total;
    total.item_bytes += other.item_bytes;
    total.index_bytes += other.index_bytes;
    total.segment_bytes += other.segment_bytes;
    total.evicted += other.evicted;
    total.evicted_unfetched += other.evicted_unfetched;
    total.evicted_nonzero += other.evicted_nonzero;
    total.evicted_time_s = total.evicted_time_s.max(other.evicted_time_s);
    total.expired += other.expired;
    total.expired_unfetched += other.expired_unfetched;
    total.out_of_memory += other.out_of_memory;
    total.found_expired += other.found_expired;
    total.found_flushed += other.found_flushed;
}

/// The figures of an engine counted from an earlier moment on; what is now stays as it is.
pub fn since(now: &Statistics, before: &Statistics) -> Statistics {
    Statistics {
        items_total: now.items_total - before.items_total,
        evicted: now.evicted - before.evicted,
        evicted_unfetched: now.evicted_unfetched - before.evicted_unfetched,
        evicted_nonzero: now.evicted_nonzero - before.evicted_nonzero,
        evicted_time_s: if now.evicted > before.evicted { now.evicted_time_s } else { 0 },
        expired: now.expired - before.expired,
        expired_unfetched: now.expired_unfetched - before.expired_unfetched,
        out_of_memory: now.out_of_memory - before.out_of_memory,
        found_expired: now.found_expired - before.found_expired,
        found_flushed: now.found_flushed - before.found_flushed,
        ..*now
    }
}

/// `stats settings`: memcached's names, then every option of ours, then how many knobs of the machine want turning.
pub fn settings(options: &Options, limit_bytes: u64, verbosity: u32, tuning_wanting: usize) -> Lines {
    let on = |yes: bool| if yes { "yes" } else { "no" }.to_string();
    let value = |name: &str, default: &str| match name {
        "maxbytes" => limit_bytes.to_string(),
        "maxconns" => options.conn_limit.to_string(),
        "tcpport" => options.addresses.first().map_or(0, SocketAddr::port).to_string(),
        "inter" if options.addresses.is_empty() => "NULL".into(),
        "inter" => options.addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(","),
        "verbosity" => verbosity.to_string(),
        "evictions" => if options.evictions_disabled { "off" } else { "on" }.to_string(),
        "domain_socket" => options.unix_socket.as_ref().map_or("NULL".into(), |path| path.display().to_string()),
        "umask" => format!("{:o}", options.unix_mask),
        "shutdown_command" => on(options.shutdown_enabled),
        "num_threads" | "num_threads_per_udp" => options.cores.to_string(),
        "stat_key_prefix" => options.delimiter.to_string(),
        "detail_enabled" => on(options.detail),
        "reqs_per_event" => options.requests_per_event.to_string(),
        "cas_enabled" => on(!options.cas_disabled),
        "tcp_backlog" => options.listen_backlog.to_string(),
        "binding_protocol" => match options.protocols {
            crate::protocol::Protocols::Any => "auto-negotiate".into(),
            crate::protocol::Protocols::TextOnly => "ascii".into(),
            crate::protocol::Protocols::BinaryOnly => "binary".into(),
            crate::protocol::Protocols::RespOnly => "resp".into(),
        },
        "item_size_max" => options.item_bytes_max.to_string(),
        "flush_enabled" => on(!options.flush_disabled),
        "dump_enabled" => on(!options.dump_disabled),
        "idle_timeout" => options.idle_timeout_s.to_string(),
        "watcher_logbuf_size" => limits::WATCHER_BYTES_MAX.to_string(),
        "worker_logbuf_size" => limits::WATCH_BYTES_PER_CORE_MAX.to_string(),
        _ => default.to_string(),
    };
    let memcached = SETTINGS.iter().map(|&(name, default)| (name.to_string(), value(name, default)));
    memcached.chain(own_settings(options)).chain([("pbcache_tuning_wanting".to_string(), tuning_wanting.to_string())]).collect()
}

/// Our options by the names of the command line.
fn own_settings(options: &Options) -> Lines {
    let list = |words: Vec<String>| if words.is_empty() { "none".to_string() } else { words.join(",") };
    let value = |name: &str| {
        Some(match name {
            "cores" => options.cores.to_string(),
            "memory_size" => options.memory_mb.to_string(),
            "io" => format!("{:?}", options.io).to_lowercase(),
            "incoming_ip" => list(options.incoming.iter().map(ToString::to_string).collect()),
            "shard_ports" => options.shard_ports.map_or("none".into(), |base| base.to_string()),
            "buckets" => options.buckets.to_string(),
            "redundancy" => options.redundancy.to_string(),
            "ringnode" => list(options.ringnodes.iter().map(|node| node.address.clone()).collect()),
            "join" => list(options.joins.clone()),
            "data_dir" => options.data_dir.as_ref().map_or("none".into(), |folder| folder.display().to_string()),
            "removal_after" => options.removal_after_s.to_string(),
            "front" => if options.weight == Some(0) { "yes" } else { "no" }.into(),
            "advertise" => options.advertise.clone().unwrap_or_else(|| "none".into()),
            "node_id" => options.node_id.clone().unwrap_or_else(|| "the advertised address".into()),
            "weight" => options.weight.unwrap_or(1).to_string(),
            "zone" => options.zone.clone().filter(|zone| !zone.is_empty()).unwrap_or_else(|| "none".into()),
            "ack" => format!("{:?}", options.ack).to_lowercase(),
            "handoff_memory" => options.handoff_percent.to_string(),
            "handoff_window" => options.handoff_window_s.to_string(),
            "handoff_rate" => options.handoff_rate.to_string(),
            "http" => format!("{:?}", options.http.mode).to_lowercase(),
            "http_miss" => if options.http.miss == http::Miss::NotFound { "404" } else { "204" }.into(),
            "http_max_age" => if options.http.max_age { "on" } else { "off" }.into(),
            "http_host" => list(options.http.hosts.clone()),
            "cluster_name" => options.cluster_name.clone(),
            "admin_ip" => options.admin.address.ip().to_string(),
            "admin_port" => options.admin.address.port().to_string(),
            "admin_token_file" => if options.admin.token_file.is_some() { "given" } else { "none" }.into(),
            "admin_keys" => if options.admin.shows_keys { "yes" } else { "no" }.into(),
            "metrics_compat" => if options.admin.metrics_compat { "on" } else { "off" }.into(),
            "slow_ms" => options.slow_ms.to_string(),
            "drain_delay" => options.drain_delay_s.to_string(),
            "cluster_secret_file" => if options.cluster_secret_file.is_some() { "given" } else { "none" }.into(),
            _ => return None,
        })
    };
    table::ROWS.iter().filter_map(|row| Some((format!("pbcache_{}", row.name), value(row.name)?))).collect()
}

/// `stats items`: everything as one class, because there are no size classes. Its figures are those of `stats` under other names; of
/// lists that are not here there is nothing to tell, and all is told of the last one.
pub fn items(cores: &[CoreFigures]) -> Lines {
    let (counters, engine) = totals(cores);
    if !has_class(&counters, &engine) {
        return Lines::new();
    }
    let value = |name: &str| match name {
        "number" | "number_cold" => engine.items_count,
        "mem_requested" => engine.item_bytes,
        "evicted" => engine.evicted,
        "evicted_nonzero" => engine.evicted_nonzero,
        "evicted_time" => engine.evicted_time_s,
        "outofmemory" => engine.out_of_memory,
        "crawler_reclaimed" => engine.expired,
        "hits_to_cold" => counters.get_hits,
        "expired_unfetched" => engine.expired_unfetched,
        "evicted_unfetched" => engine.evicted_unfetched,
        _ => 0,
    };
    ITEMS.iter().map(|&name| (format!("items:1:{name}"), value(name).to_string())).collect()
}

/// Whether there is anything to present as a class: an item, or what was counted of one.
fn has_class(counters: &Counters, engine: &Statistics) -> bool {
    engine.items_count > 0 || engine.items_total > 0 || counters.cmd_set > 0
}

/// `stats slabs`: the segments as the pages of one class. A chunk is what an item takes on average, so that chunks in use are items, and
/// chunks in all are as many such items as the memory would hold that is leased now.
pub fn slabs(cores: &[CoreFigures], segment_bytes: u64) -> Lines {
    let (counters, engine) = totals(cores);
    let mut lines = Lines::new();
    if has_class(&counters, &engine) {
        let chunk = (engine.item_bytes / engine.items_count.max(1)).max(1);
        let total = match engine.items_count {
            0 => 0,
            count => (engine.segment_bytes / chunk).max(count),
        };
        let mut put = |name: &str, value: u64| lines.push((format!("1:{name}"), value.to_string()));
        put("chunk_size", chunk);
        put("chunks_per_page", (segment_bytes / chunk).max(1));
        put("total_pages", engine.segment_bytes.div_ceil(segment_bytes));
        put("total_chunks", total);
        put("used_chunks", engine.items_count);
        put("free_chunks", total - engine.items_count);
        put("free_chunks_end", 0);
        put("get_hits", counters.get_hits);
        put("cmd_set", counters.cmd_set);
        put("delete_hits", counters.delete_hits);
        put("incr_hits", counters.incr_hits);
        put("decr_hits", counters.decr_hits);
        put("cas_hits", counters.cas_hits);
        put("cas_badval", counters.cas_badval);
        put("touch_hits", counters.touch_hits);
    }
    lines.push(("active_slabs".into(), (has_class(&counters, &engine) as u8).to_string()));
    lines.push(("total_malloced".into(), engine.segment_bytes.to_string()));
    lines
}

/// One socket of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFigures {
    /// Its descriptor.
    pub descriptor: i32,
    /// Where the client is, or where a listener listens: `tcp:1.2.3.4:5`, `tcp6:[::1]:5`, `unix:/path`.
    pub address: String,
    /// Where the client connected to; empty for a listener.
    pub listener: String,
}

/// A connection, or a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnFigures {
    /// Its descriptor.
    pub descriptor: i32,
    /// See `SocketFigures`.
    pub address: String,
    /// See `SocketFigures`.
    pub listener: String,
    /// In memcached's words.
    pub state: &'static str,
    /// Seconds since its last command.
    pub idle_s: u64,
}

/// Listeners, and the sockets that a core has, with what each core says of its own. One that moves between two cores at this moment is left
/// out.
pub fn connections(sockets: &[SocketFigures], described: &[Described], now: Timestamp, started: Timestamp) -> Vec<ConnFigures> {
    let known: HashMap<i32, &Described> = described.iter().map(|connection| (connection.descriptor, connection)).collect();
    let of_socket = |socket: &SocketFigures| {
        let (state, since) = match known.get(&socket.descriptor) {
            _ if socket.listener.is_empty() => ("conn_listening", started),
            Some(connection) => (state_text(connection.state), connection.last_command),
            None => return None,
        };
        let SocketFigures { descriptor, address, listener } = socket.clone();
        Some(ConnFigures { descriptor, address, listener, state, idle_s: now.unix_ms.saturating_sub(since.unix_ms) / 1000 })
    };
    sockets.iter().filter_map(of_socket).collect()
}

/// `stats conns`.
pub fn conns(connections: &[ConnFigures]) -> Lines {
    let mut lines = Lines::new();
    for connection in connections {
        let mut put = |name: &str, value: String| lines.push((format!("{}:{name}", connection.descriptor), value));
        put("addr", connection.address.clone());
        if !connection.listener.is_empty() {
            put("listen_addr", connection.listener.clone());
        }
        put("state", connection.state.into());
        put("secs_since_last_cmd", connection.idle_s.to_string());
    }
    lines
}

/// The state of a conversation in memcached's words.
fn state_text(state: State) -> &'static str {
    match state {
        State::Fresh | State::Pending => "conn_new_cmd",
        State::Reading => "conn_read",
        State::ReadingValue => "conn_nread",
        State::Swallowing => "conn_swallow",
        State::Elsewhere => "conn_io_queue",
        State::Executing => "conn_parse_cmd",
        State::Watching => "conn_watch",
        State::Writing => "conn_mwrite",
        State::Closing => "conn_closing",
        // memcached has no such links.
        State::Peer => "conn_peer",
    }
}

/// `stats shards`: one group of lines per core; clients that know the map reach the owning core directly.
pub fn shards(cores: &[CoreFigures], options: &Options) -> Lines {
    let mut lines = Lines::new();
    lines.push(("cores".into(), options.cores.to_string()));
    lines.push(("buckets".into(), options.buckets.to_string()));
    for (index, core) in cores.iter().enumerate() {
        let listening = options.addresses.first().map_or(0, SocketAddr::port);
        let port = options.shard_ports.map_or(listening, |base| base + index as u16);
        let mut put = |name: &str, value: u64| lines.push((format!("{index}:{name}"), value.to_string()));
        put("port", port as u64);
        put("connections", core.connections as u64);
        put("items", core.engine.items_count);
        put("bytes", core.engine.item_bytes);
        put("index_bytes", core.engine.index_bytes);
        put("segment_bytes", core.engine.segment_bytes);
        // Overwritten, deleted, or not written yet.
        put("dead_bytes", core.engine.segment_bytes.saturating_sub(core.engine.item_bytes));
        put("gets", core.counters.cmd_get);
        put("sets", core.counters.cmd_set);
        put("evictions", core.engine.evicted);
        put("accepted", core.counters.total_connections);
        put("moved", core.counters.connections_moved);
        put("crossed", core.counters.requests_crossed);
        put("strangers_refused", core.counters.strangers_refused);
        put("http_refused", core.counters.http_refused);
        put("http_late", core.counters.http_late);
        put("accept_errors", core.counters.accept_errors);
    }
    lines
}

/// `stats detail dump`, with its end. What found no place is the last line.
pub fn prefixes(table: &Prefixes) -> Vec<u8> {
    let mut text = Vec::new();
    let mut put = |prefix: &[u8], counts: &Counts| {
        text.extend_from_slice(b"PREFIX ");
        // A binary key may hold line ends, which would be read as lines.
        prefix.iter().for_each(|&byte| match byte {
            0..=b' ' | 0x7f => text.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => text.push(byte),
        });
        let Counts { gets, hits, sets, deletes } = counts;
        text.extend_from_slice(format!(" get {gets} hit {hits} set {sets} del {deletes}\r\n").as_bytes());
    };
    table.sorted().into_iter().for_each(|(prefix, counts)| put(prefix, counts));
    if let Some(counts) = table.others() {
        put(PREFIXES_BEYOND, &counts);
    }
    text.extend_from_slice(b"END\r\n");
    text
}

/// What stands for the prefixes beyond `limits::PREFIXES_MAX` and the bounds of a core.
const PREFIXES_BEYOND: &[u8] = b"(others)";

/// Writes a key as URIs have it: what is not plain as `%` and two digits.
pub fn uri_encode(key: &[u8], output: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in key {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => output.push(byte),
            _ => output.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
}

/// One line of `lru_crawler metadump`. `last_used_s` is Unix time; the size is the whole item's.
pub fn metadump_line(key: &[u8], item: &crate::command::Item<'_>, now_s: u32, output: &mut Vec<u8>) {
    output.extend_from_slice(b"key=");
    uri_encode(key, output);
    let expiry = if item.expiry.0 == 0 { -1 } else { item.expiry.0 as i64 };
    let used = now_s.saturating_sub(item.idle_s);
    let fetched = if item.fetched { "yes" } else { "no" };
    let rest = format!(" exp={expiry} la={used} cas={} fetch={fetched} cls=1 size={}\n", item.cas, item.total_bytes);
    output.extend_from_slice(rest.as_bytes());
}

/// One line of `stats cachedump`.
pub fn cachedump_line(key: &[u8], item: &crate::command::Item<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(b"ITEM ");
    output.extend_from_slice(key);
    output.extend_from_slice(format!(" [{} b; {} s]\r\n", item.value.len(), item.expiry.0).as_bytes());
}

const GENERAL: &[&str] = &[
    "pid",
    "uptime",
    "time",
    "version",
    "libevent",
    "pointer_size",
    "rusage_user",
    "rusage_system",
    "max_connections",
    "curr_connections",
    "total_connections",
    "rejected_connections",
    "connection_structures",
    "response_obj_oom",
    "response_obj_count",
    "response_obj_bytes",
    "read_buf_count",
    "read_buf_bytes",
    "read_buf_bytes_free",
    "read_buf_oom",
    "reserved_fds",
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "cmd_meta",
    "get_hits",
    "get_misses",
    "get_expired",
    "get_flushed",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "store_no_memory",
    "auth_cmds",
    "auth_errors",
    "bytes_read",
    "bytes_written",
    "limit_maxbytes",
    "accepting_conns",
    "listen_disabled_num",
    "time_in_listen_disabled_us",
    "threads",
    "conn_yields",
    "hash_power_level",
    "hash_bytes",
    "hash_is_expanding",
    "slab_reassign_rescues",
    "slab_reassign_chunk_rescues",
    "slab_reassign_evictions_nomem",
    "slab_reassign_inline_reclaim",
    "slab_reassign_busy_items",
    "slab_reassign_busy_deletes",
    "slab_reassign_running",
    "slabs_moved",
    "lru_crawler_running",
    "lru_crawler_starts",
    "lru_maintainer_juggles",
    "malloc_fails",
    "log_worker_dropped",
    "log_worker_written",
    "log_watcher_skipped",
    "log_watcher_sent",
    "log_watchers",
    "unexpected_napi_ids",
    "round_robin_fallback",
    "bytes",
    "curr_items",
    "total_items",
    "slab_global_page_pool",
    "expired_unfetched",
    "evicted_unfetched",
    "evicted_active",
    "evictions",
    "reclaimed",
    "crawler_reclaimed",
    "crawler_items_checked",
    "lrutail_reflocked",
    "moves_to_cold",
    "moves_to_warm",
    "moves_within_lru",
    "direct_reclaims",
    "lru_bumps_dropped",
];

const SETTINGS: &[(&str, &str)] = &[
    ("maxbytes", "67108864"),
    ("maxconns", "1024"),
    ("tcpport", "21556"),
    ("udpport", "0"),
    ("inter", "127.0.0.1"),
    ("verbosity", "0"),
    ("oldest", "0"),
    ("evictions", "on"),
    ("domain_socket", "NULL"),
    ("umask", "700"),
    ("shutdown_command", "no"),
    ("growth_factor", "1.25"),
    ("chunk_size", "48"),
    ("num_threads", "4"),
    ("num_threads_per_udp", "4"),
    ("stat_key_prefix", ":"),
    ("detail_enabled", "no"),
    ("reqs_per_event", "20"),
    ("cas_enabled", "yes"),
    ("tcp_backlog", "1024"),
    ("binding_protocol", "auto-negotiate"),
    ("auth_enabled_sasl", "no"),
    ("auth_enabled_ascii", "no"),
    ("item_size_max", "1048576"),
    ("maxconns_fast", "yes"),
    ("hashpower_init", "0"),
    ("slab_reassign", "yes"),
    ("slab_automove", "1"),
    ("slab_automove_ratio", "0.80"),
    ("slab_automove_window", "30"),
    ("slab_chunk_max", "524288"),
    ("lru_crawler", "no"),
    ("lru_crawler_sleep", "100"),
    ("lru_crawler_tocrawl", "0"),
    ("tail_repair_time", "0"),
    ("flush_enabled", "yes"),
    ("dump_enabled", "yes"),
    ("hash_algorithm", "murmur3"),
    ("lru_maintainer_thread", "yes"),
    ("lru_segmented", "yes"),
    ("hot_lru_pct", "20"),
    ("warm_lru_pct", "40"),
    ("hot_max_factor", "0.20"),
    ("warm_max_factor", "2.00"),
    ("temp_lru", "no"),
    ("temporary_ttl", "61"),
    ("idle_timeout", "0"),
    ("watcher_logbuf_size", "262144"),
    ("worker_logbuf_size", "65536"),
    ("read_buf_mem_limit", "0"),
    ("track_sizes", "no"),
    ("inline_ascii_response", "no"),
    ("ext_item_size", "512"),
    ("ext_item_age", "4294967295"),
    ("ext_low_ttl", "0"),
    ("ext_recache_rate", "2000"),
    ("ext_wbuf_size", "4194304"),
    ("ext_compact_under", "0"),
    ("ext_drop_under", "0"),
    ("ext_max_sleep", "1000000"),
    ("ext_max_frag", "0.80"),
    ("slab_automove_freeratio", "0.010"),
    ("ext_drop_unread", "no"),
    ("ssl_enabled", "no"),
    ("ssl_chain_cert", "(null)"),
    ("ssl_key", "(null)"),
    ("ssl_verify_mode", "0"),
    ("ssl_keyformat", "1"),
    ("ssl_ciphers", "NULL"),
    ("ssl_ca_cert", "NULL"),
    ("ssl_wbuf_size", "16384"),
    ("ssl_session_cache", "no"),
    ("ssl_kernel_tls", "no"),
    ("ssl_min_version", "tlsv1.2"),
    ("num_napi_ids", "(null)"),
    ("memory_file", "(null)"),
];

const ITEMS: &[&str] = &[
    "number",
    "number_hot",
    "number_warm",
    "number_cold",
    "age_hot",
    "age_warm",
    "age",
    "mem_requested",
    "evicted",
    "evicted_nonzero",
    "evicted_time",
    "outofmemory",
    "tailrepairs",
    "reclaimed",
    "expired_unfetched",
    "evicted_unfetched",
    "evicted_active",
    "crawler_reclaimed",
    "crawler_items_checked",
    "lrutail_reflocked",
    "moves_to_cold",
    "moves_to_warm",
    "moves_within_lru",
    "direct_reclaims",
    "hits_to_hot",
    "hits_to_warm",
    "hits_to_cold",
    "hits_to_temp",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::parse(["pbcache".to_string()], 2).unwrap()
    }

    #[test]
    fn figures_of_all_cores_are_added_under_memcached_names() {
        let mut core = CoreFigures { connections: 3, ..CoreFigures::default() };
        core.counters.cmd_get = 5;
        core.engine.items_count = 7;
        let process = ProcessFigures { user_us: 1_000_002, ..ProcessFigures::default() };
        let lines = general(&[core, core], &process, &options());
        let read = |name: &str| lines.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(read("cmd_get"), Some("10"));
        assert_eq!(read("curr_items"), Some("14"));
        assert_eq!(read("curr_connections"), Some("6"));
        assert_eq!(read("rusage_user"), Some("1.000002"));
        assert_eq!(lines.len(), GENERAL.len());
    }

    /// An option that is shown nowhere looks as if it had not been taken.
    #[test]
    fn every_option_is_shown_in_settings_or_by_memcacheds_name() {
        let lines = settings(&options(), 0, 0, 0);
        let hidden = table::ROWS
            .iter()
            .map(|row| row.name)
            .filter(|name| lines.iter().all(|(key, _)| key != &format!("pbcache_{name}")));
        let by_memcached = "port ip unix_socket unix_mask listen_backlog max_item_size conn_limit idle_timeout disable_evictions protocol \
            disable_cas disable_flush_all disable_dumping disable_watch enable_shutdown verbose udp_port max_reqs_per_event delimiter \
            slab_growth_factor slab_min_size";
        // Of the process, seen in the system; or without effect.
        let elsewhere =
            "pidfile daemon user lock_memory enable_coredumps disable_tuning_hint license enable_largepages napi_ids extended";
        let mut expected: Vec<&str> = by_memcached.split_whitespace().chain(elsewhere.split_whitespace()).collect();
        let mut hidden: Vec<&str> = hidden.collect();
        expected.sort_unstable();
        hidden.sort_unstable();
        assert_eq!(hidden, expected, "a new option is a line of `own_settings`, or is named here");
    }

    #[test]
    fn every_value_is_a_number_where_tools_expect_one() {
        for (name, value) in general(&[CoreFigures::default()], &ProcessFigures::default(), &options()) {
            let is_text = ["version", "libevent", "rusage_user", "rusage_system"].contains(&name.as_str());
            assert!(is_text || value.parse::<u64>().is_ok(), "{name} is {value}");
        }
    }

    #[test]
    fn a_dump_line_escapes_what_is_not_plain() {
        let mut output = Vec::new();
        metadump_line(b"a b%", &crate::command::Item::with_cas(9), 100, &mut output);
        assert_eq!(output, b"key=a%20b%25 exp=-1 la=100 cas=9 fetch=no cls=1 size=0\n");
    }
}

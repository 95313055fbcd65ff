//! Every option, declared once: help, `stats settings`, the README and the errors derive from these rows.
//!
//! ```text
//!   row:  name | memcached's short and long form | value, unit | default | bounds | what it means
//! ```
//!
//! Lives here: the rows and what is derived from them alone. Not here: parsing of values (`options`).

use clap::{Arg, ArgAction, Command};

/// How an option takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None: it is there or not.
    Nothing,
    /// One value; the last one wins.
    One(&'static str),
    /// A value each time it is given.
    Many(&'static str),
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Main name, with underscores; dashes are accepted.
    pub name: &'static str,
    /// memcached's one-letter form.
    pub short: Option<char>,
    /// Other names: memcached's long form, old spellings.
    pub aliases: &'static [&'static str],
    /// Value and its unit.
    pub takes: Takes,
    /// Default as it would be typed; empty for none.
    pub default: &'static str,
    /// What is allowed, as errors say it.
    pub bounds: &'static str,
    /// What it means, in a sentence.
    pub doc: &'static str,
    /// Heading in the help.
    pub group: &'static str,
}

const NODE: &str = "Node";
const NETWORK: &str = "Network";
const RING: &str = "Ring";
const LIMITS: &str = "Limits";
const PROTOCOL: &str = "Protocol";
const PROCESS: &str = "Process";
const MEMCACHED: &str = "Accepted for memcached's sake";

const fn row(group: &'static str, name: &'static str, takes: Takes, default: &'static str) -> Row {
    Row { name, short: None, aliases: &[], takes, default, bounds: "", doc: "", group }
}

impl Row {
    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn also(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn bounds(mut self, bounds: &'static str) -> Self {
        self.bounds = bounds;
        self
    }

    const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
}

use Takes::{Many, Nothing, One};

/// All options in the order of the help.
pub const ROWS: &[Row] = &[
    row(NODE, "cores", One("COUNT"), "all CPUs")
        .short('t')
        .also(&["threads"])
        .bounds("1 to 256")
        .doc("Data cores: each has its own executor, sockets and part of the keys."),
    row(NODE, "memory_size", One("MB"), "100")
        .short('m')
        .also(&["memory_limit"])
        .bounds("8 to 16777216, and at least 1 per core")
        .doc("Memory for items, indexes and buffers of the whole node."),
    row(NODE, "engine", One("NAME"), "auto")
        .bounds("auto, pump or streams")
        .doc("I/O of the cores: an own io_uring each (Linux 6.1), stock glommio streams, or what the kernel allows."),
    row(NETWORK, "port", One("PORT"), "11211")
        .short('p')
        .bounds("0 to 65535, 0 for any free one")
        .doc("TCP port for all protocols."),
    row(NETWORK, "ip", Many("ADDRESS[:PORT]"), "0.0.0.0")
        .short('l')
        .also(&["listen"])
        .bounds("IPv4 and IPv6 addresses, separated by commas or given again")
        .doc("Addresses to listen on."),
    row(NETWORK, "incoming_ip", Many("CIDR"), "loopback and private ranges")
        .bounds("networks such as 10.0.0.0/8")
        .doc("Who may connect; others are closed before a byte is read."),
    row(NETWORK, "unix_socket", One("PATH"), "").short('s').doc("Listen on this unix socket as well."),
    row(NETWORK, "unix_mask", One("OCTAL"), "700").short('a').bounds("000 to 777").doc("Permissions of the unix socket."),
    row(NETWORK, "shard_ports", One("BASE"), "")
        .bounds("1 to 65535, with room for all cores")
        .doc("Core i listens on BASE + i too, so that a client that asks `stats shards` reaches it directly."),
    row(NETWORK, "listen_backlog", One("COUNT"), "1024")
        .short('b')
        .bounds("1 to 65535")
        .doc("Connections that may wait to be accepted, per core."),
    row(RING, "buckets", One("COUNT"), "10000000")
        .bounds("1 to 4294967295")
        .doc("Virtual buckets of the ring; the same on all nodes."),
    row(RING, "redudancy", One("COPIES"), "1")
        .also(&["redundancy"])
        .bounds("1 to 16")
        .doc("Copies of every item, on as many nodes; the same on all nodes."),
    row(RING, "ringnode", Many("HOST[:PORT]"), "").doc("A node of the ring. Checked now, used when nodes form rings."),
    row(LIMITS, "max_item_size", One("BYTES"), "1m")
        .short('I')
        .bounds("1k to 128m, at most half of memory_size")
        .doc("Largest item, with key and header; k and m are units."),
    row(LIMITS, "conn_limit", One("COUNT"), "1024")
        .short('c')
        .bounds("1 to 1000000")
        .doc("Most client connections; more are told so and closed."),
    row(LIMITS, "idle_timeout", One("SECONDS"), "0")
        .bounds("0 to 86400, 0 for never")
        .doc("Close connections that were silent for so long."),
    row(LIMITS, "disable_evictions", Nothing, "")
        .short('M')
        .doc("Answer stores with an error when memory is full, instead of removing items."),
    row(PROTOCOL, "protocol", One("NAME"), "auto")
        .short('B')
        .bounds("auto, ascii or binary")
        .doc("Protocols that are spoken; auto tells them apart by the first byte."),
    row(PROTOCOL, "disable_cas", Nothing, "").short('C').doc("Show every CAS value as 0."),
    row(PROTOCOL, "disable_flush_all", Nothing, "").short('F').doc("Refuse flush_all."),
    row(PROTOCOL, "disable_dumping", Nothing, "").short('X').doc("Refuse stats cachedump and lru_crawler metadump."),
    row(PROTOCOL, "disable_watch", Nothing, "").short('W').doc("Refuse watch (there is none yet)."),
    row(PROTOCOL, "enable_shutdown", Nothing, "").short('A').doc("Let clients end the node with shutdown."),
    row(PROCESS, "pidfile", One("PATH"), "").short('P').doc("Write the process id here."),
    row(PROCESS, "daemon", Nothing, "").short('d').also(&["daemonize"]).doc("Go on in the background."),
    row(PROCESS, "user", One("NAME"), "").short('u').doc("Become this user when started as root."),
    row(PROCESS, "lock_memory", Nothing, "").short('k').doc("Keep all memory out of swap."),
    row(PROCESS, "enable_coredumps", Nothing, "").short('r').doc("Allow core files of any size."),
    row(PROCESS, "verbose", Nothing, "")
        .short('v')
        .doc("Log more: what happens to the node; twice and three times for finding faults."),
    row(MEMCACHED, "udp_port", One("PORT"), "0")
        .short('U')
        .bounds("0: UDP is not served")
        .doc("There is no UDP; 0 is accepted."),
    row(MEMCACHED, "max_reqs_per_event", One("COUNT"), "20")
        .short('R')
        .bounds("1 to 1000000")
        .doc("Without effect: a turn is bounded in bytes."),
    row(MEMCACHED, "delimiter", One("CHARACTER"), ":").short('D').doc("Delimiter of key prefixes, for stats detail."),
    row(MEMCACHED, "slab_min_size", One("BYTES"), "48")
        .short('n')
        .bounds("1 to 1048576")
        .doc("Without effect: there are no slabs."),
    row(MEMCACHED, "slab_growth_factor", One("FACTOR"), "1.25").short('f').doc("Without effect: there are no slabs."),
    row(MEMCACHED, "enable_largepages", Nothing, "").short('L').doc("Without effect: large pages are always asked for."),
    row(MEMCACHED, "napi_ids", One("COUNT"), "").short('N').doc("Without effect."),
    row(MEMCACHED, "extended", Many("NAME[=VALUE],..."), "")
        .short('o')
        .doc("memcached's -o settings: taken over, without effect, or refused."),
];

/// What memcached's `-o` names mean here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// The same as this option.
    Option(&'static str),
    /// Accepted; nothing here corresponds to it.
    NoEffect,
    /// Refused, with the reason.
    Refused(&'static str),
}

/// Looks an `-o` name up; `None` for one that memcached does not have either.
pub fn extended(name: &str) -> Option<Extended> {
    use Extended::{NoEffect, Option, Refused};
    Some(match name {
        "idle_timeout" => Option("idle_timeout"),
        "maxconns_fast" | "no_maxconns_fast" | "hashpower" | "no_hashexpand" | "hash_algorithm" | "tail_repair_time" => {
            NoEffect
        }
        "lru_crawler" | "no_lru_crawler" | "lru_crawler_sleep" | "lru_crawler_tocrawl" | "lru_maintainer" => NoEffect,
        "no_lru_maintainer" | "hot_lru_pct" | "warm_lru_pct" | "hot_max_factor" | "warm_max_factor" => NoEffect,
        "temporary_ttl" | "slab_reassign" | "no_slab_reassign" | "slab_automove" | "slab_automove_ratio" => NoEffect,
        "slab_automove_window" | "slab_automove_freeratio" | "slab_chunk_max" | "slab_sizes" | "track_sizes" => NoEffect,
        "modern" | "no_modern" | "inline_ascii_resp" | "no_inline_ascii_resp" | "no_chunked_items" => NoEffect,
        "drop_privileges" | "no_drop_privileges" | "relaxed_privileges" | "resp_obj_mem_limit" => NoEffect,
        "read_buf_mem_limit" | "watcher_logbuf_size" | "worker_logbuf_size" | "sock_cookie_id" => NoEffect,
        name if name.starts_with("ext_") => Refused("there is no storage on flash yet"),
        name if name.starts_with("proxy_") => Refused("there is no proxy; any node of a ring answers for every key"),
        name if name.starts_with("ssl_") => Refused("TLS is not served yet"),
        _ => return None,
    })
}

/// memcached options that mean something that pbcache does not do yet: refused, so that nobody relies on them.
pub const REFUSED: &[(char, &str, &str)] = &[
    ('S', "enable_sasl", "SASL authentication is not served yet; bind to a private address or use --incoming_ip"),
    ('Y', "auth_file", "text authentication is not served yet; bind to a private address or use --incoming_ip"),
    ('Z', "enable_ssl", "TLS is not served yet; put a TLS proxy in front"),
    ('e', "memory_file", "warm restart is not there yet"),
];

/// The parser that the rows describe.
pub fn parser() -> Command {
    let mut command = Command::new("pbcache")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .about("A cache node that memcached clients use as they use memcached, one core at a time.")
        .arg(Arg::new("version").long("version").short('V').action(ArgAction::Version).help("Print the version and exit."));
    for row in ROWS {
        let mut help = row.doc.to_string();
        if !row.bounds.is_empty() {
            help += &format!(" Allowed: {}.", row.bounds);
        }
        if !row.default.is_empty() {
            help += &format!(" [default: {}]", row.default);
        }
        let mut argument = Arg::new(row.name).long(row.name).help(help).help_heading(row.group);
        argument = match row.takes {
            Nothing => argument.action(ArgAction::Count),
            One(value) | Many(value) => argument.action(ArgAction::Append).value_name(value).allow_hyphen_values(true),
        };
        if let Some(short) = row.short {
            argument = argument.short(short);
        }
        let names = std::iter::once(&row.name).chain(row.aliases);
        for name in names {
            if *name != row.name {
                argument = argument.alias(*name);
            }
            if name.contains('_') {
                argument = argument.alias(name.replace('_', "-"));
            }
        }
        command = command.arg(argument);
    }
    for &(short, name, _) in REFUSED {
        let argument = Arg::new(name).long(name).alias(name.replace('_', "-")).short(short).hide(true);
        command = command.arg(argument.num_args(0..=1).action(ArgAction::Append));
    }
    command
}

/// The options as a table for the README.
pub fn markdown() -> String {
    let mut text = String::from("| option | memcached | default | allowed | meaning |\n|---|---|---|---|---|\n");
    for row in ROWS {
        let value = match row.takes {
            Nothing => String::new(),
            One(value) | Many(value) => format!(" {value}"),
        };
        let short = row.short.map_or(String::new(), |short| format!("`-{short}`"));
        let repeatable = if matches!(row.takes, Many(_)) { " Repeatable." } else { "" };
        text +=
            &format!("| `--{}{value}` | {short} | {} | {} | {}{repeatable} |\n", row.name, row.default, row.bounds, row.doc);
    }
    text
}

//! Every option, declared once: help, `stats settings`, the README and the errors derive from these rows.
//!
//! ```text
//!   row:  name | memcached's short and long form | value, unit | default | bounds | what it means
//! ```
//!
//! Lives here: the rows and what is derived from them alone. Not here: parsing of values (`options`).

use std::fmt;

use clap::{Arg, ArgAction, Command};

use crate::limits;

/// How an option takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None: it is there or not; given again, it stays.
    Nothing,
    /// None, and it counts how often it is given.
    Count,
    /// One value; the last one wins.
    One(&'static str),
    /// A value each time it is given, and several separated by commas.
    Many(&'static str),
}

/// Which values an option may have. Errors, help and the README print it by `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Any text.
    Any,
    /// A whole number, both ends included.
    Number(u64, u64),
    /// Bytes with an optional k, m or g behind, both ends included.
    Size(u64, u64),
    /// MB, or bytes with k, m or g behind, up to so many MB; what is beside whole MB is dropped.
    Megabytes(u64),
    /// A number in octal up to this.
    Octal(u32),
    /// A decimal fraction above this.
    Above(u64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// What is checked where the option is read, in words.
    Form(&'static str),
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Main name, with underscores; dashes are accepted.
    pub name: &'static str,
    /// memcached's one-letter form.
    pub short: Option<char>,
    /// Other names: memcached's long form, other spellings.
    pub aliases: &'static [&'static str],
    /// Value and its unit.
    pub takes: Takes,
    /// Default as it would be typed, or in words where it depends on the machine; empty for none.
    pub default: &'static str,
    /// Which values are allowed.
    pub bounds: Bounds,
    /// What the bounds do not say, behind them; empty for nothing.
    pub note: &'static str,
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
const ADMIN: &str = "Administration";
const PROCESS: &str = "Process";
const MEMCACHED: &str = "Accepted for memcached's sake";

const fn row(group: &'static str, name: &'static str, takes: Takes, default: &'static str) -> Row {
    Row { name, short: None, aliases: &[], takes, default, bounds: Bounds::Any, note: "", doc: "", group }
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

    const fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// What is allowed, as errors and help say it; empty if everything is.
    pub fn allowed(&self) -> String {
        format!("{}{}", self.bounds, self.note)
    }

    /// Name of the value; empty if it takes none.
    pub fn value(&self) -> &'static str {
        match self.takes {
            Takes::Nothing | Takes::Count => "",
            Takes::One(value) | Takes::Many(value) => value,
        }
    }
}

impl Bounds {
    /// A value within the bounds as a number: of the number, bytes, the mode, the index of the word; 0 for what is no number.
    pub fn read(&self, text: &str) -> Option<u64> {
        match *self {
            Bounds::Any | Bounds::Form(_) => Some(0),
            Bounds::Number(least, most) => number(text).filter(|number| (least..=most).contains(number)),
            Bounds::Size(least, most) => size(text).filter(|bytes| (least..=most).contains(bytes)),
            Bounds::Megabytes(most) => {
                let megabytes = number(text).or_else(|| size(text).map(|bytes| bytes >> 20));
                megabytes.filter(|megabytes| *megabytes <= most)
            }
            Bounds::Octal(most) => {
                let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
                u32::from_str_radix(text, 8).ok().filter(|mode| is_plain && *mode <= most).map(u64::from)
            }
            Bounds::Above(least) => {
                text.parse::<f64>().ok().filter(|value| *value > least as f64 && value.is_finite()).map(|_| 0)
            }
            Bounds::Words(words) => words.iter().position(|word| *word == text).map(|index| index as u64),
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Bounds::Any => Ok(()),
            Bounds::Number(least, most) if least == most => write!(f, "{least}"),
            Bounds::Number(least, most) => write!(f, "{least} to {most}"),
            Bounds::Size(least, most) => write!(f, "{} to {}", Bytes(least), Bytes(most)),
            Bounds::Megabytes(most) => write!(f, "at most {}", Bytes(most << 20)),
            Bounds::Octal(most) => write!(f, "000 to {most:o}"),
            Bounds::Above(least) => write!(f, "a number above {least}"),
            Bounds::Words(&[ref start @ .., last]) => write!(f, "{} or {last}", start.join(", ")),
            Bounds::Words(&[]) => Ok(()),
            Bounds::Form(words) => f.write_str(words),
        }
    }
}

/// Bytes in the largest unit that divides them.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}g", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}m", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}k", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// Digits only: no sign, no spaces.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit)
}

impl Row {
    /// Whether the nodes of a ring are given the same value, or tell each other by it: given twice, it must be the same.
    pub fn is_of_ring(&self) -> bool {
        self.group == RING
    }
}

/// The row of an option.
///
/// # Panics
/// If there is none: names in the code are those of the table, and a test reads every one.
pub fn find(name: &str) -> &'static Row {
    ROWS.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no option {name}"))
}

use Bounds::{Above, Form, Megabytes, Number, Octal, Size, Words};
use Takes::{Count, Many, Nothing, One};

/// All options in the order of the help.
pub const ROWS: &[Row] = &[
    row(NODE, "cores", One("COUNT"), "all CPUs")
        .short('t')
        .also(&["threads"])
        .bounds(Number(1, limits::CORES_MAX as u64))
        .doc("Data cores: each has its own executor, sockets and part of the keys."),
    row(NODE, "memory_size", One("MB"), "100")
        .short('m')
        .also(&["memory_limit"])
        .bounds(Megabytes(1 << 24))
        .note("; less than 8m, or 1m per core, becomes that")
        .doc("Memory for items, indexes and buffers of the whole node; k, m and g are units."),
    row(NODE, "io", One("NAME"), "auto")
        .also(&["engine"])
        .bounds(Words(&["auto", "pump", "streams"]))
        .doc("I/O of the cores: an own io_uring each (Linux 6.1), stock glommio streams, or what the kernel allows."),
    row(NETWORK, "port", One("PORT"), "11211")
        .short('p')
        .bounds(Number(0, 65535))
        .note(", 0 for any free one")
        .doc("TCP port for all protocols."),
    row(NETWORK, "ip", Many("ADDRESS[:PORT]"), "0.0.0.0")
        .short('l')
        .also(&["listen", "interface"])
        .bounds(Form("an IPv4 or IPv6 address, with a port if wanted: 10.0.0.1, 10.0.0.1:11212, [::1]:11212"))
        .doc("Addresses to listen on."),
    row(NETWORK, "incoming_ip", Many("CIDR"), "loopback and private ranges")
        .bounds(Form("a network such as 10.0.0.0/8 or fd00::/8, or an address"))
        .doc("Who may connect; others are closed before a byte is read."),
    row(NETWORK, "unix_socket", One("PATH"), "")
        .short('s')
        .doc("Listen on this unix socket; on TCP as well only if --port, --ip or --shard_ports is given."),
    row(NETWORK, "unix_mask", One("OCTAL"), "700").short('a').bounds(Octal(0o777)).doc("Permissions of the unix socket."),
    row(NETWORK, "shard_ports", One("BASE"), "")
        .bounds(Number(1, 65535))
        .note(", with room for all cores")
        .doc("Core i listens on BASE + i too, so that a client that asks `stats shards` reaches it directly."),
    row(NETWORK, "listen_backlog", One("COUNT"), "1024")
        .short('b')
        .bounds(Number(1, i32::MAX as u64))
        .doc("Connections that may wait to be accepted, per core."),
    row(RING, "buckets", One("COUNT"), "10000000")
        .bounds(Number(1, u32::MAX as u64))
        .doc("Virtual buckets of the ring; the same on all nodes."),
    row(RING, "redundancy", One("COPIES"), "1")
        .also(&["redudancy"])
        .bounds(Number(1, 16))
        .doc("Copies of every item, on as many nodes; the same on all nodes."),
    row(RING, "ringnode", Many("HOST[:PORT]"), "")
        .bounds(Form("HOST or HOST:PORT, an IPv6 address with a port in brackets, then /weight=, /zone= or /id= where that node has them"))
        .doc("A node of the ring, this one too if you like: the same list on all nodes. With --join, the ring that others may join later."),
    row(RING, "join", Many("HOST[:PORT]"), "")
        .bounds(Form("HOST or HOST:PORT, an IPv6 address with a port in brackets"))
        .doc("A node of a running ring that this one joins; several are asked in turn."),
    row(RING, "data_dir", One("DIR"), "")
        .doc("Folder for what this node must know after a restart: who is in its ring."),
    row(RING, "removal_after", One("SECONDS"), "900")
        .bounds(Number(0, 30 * 24 * 3600))
        .note(", 0 for never")
        .doc("A node that nobody has heard of for so long is removed by the others, if more than half of at least three are there and --redundancy is at least 2."),
    row(RING, "front", Nothing, "").doc("Route requests and hold nothing: no share of the ring, as --weight 0; needs --join."),
    row(RING, "advertise", One("HOST:PORT"), "")
        .bounds(Form("HOST or HOST:PORT, an IPv6 address with a port in brackets"))
        .doc("Where other nodes reach this one; needed where --ip does not tell."),
    row(RING, "node_id", One("ID"), "the advertised address")
        .bounds(Form("1 to 255 printable characters without spaces, commas and slashes"))
        .doc("Who this node is, for good: its keys follow it to another address."),
    row(RING, "weight", One("SHARE"), "1")
        .bounds(Number(0, 65_535))
        .doc("Share of the keys that this node holds, against the others'."),
    row(RING, "zone", One("NAME"), "")
        .bounds(Form("at most 255 printable characters without spaces, commas and slashes"))
        .doc("Nodes of one zone fail together: copies go to different zones while there are some."),
    row(RING, "ack", One("WHEN"), "live")
        .bounds(Words(&["live", "one"]))
        .doc("A write is answered when every owner that is there has it, or when one has."),
    row(RING, "handoff_memory", One("PERCENT"), "10")
        .bounds(Number(0, 50))
        .doc("Share of --memory_size for the keys that absent nodes lack."),
    row(RING, "handoff_window", One("SECONDS"), "3600")
        .bounds(Number(1, 7 * 24 * 3600))
        .doc("How long such a key is remembered; then its part of the ring is sent whole."),
    row(RING, "handoff_rate", One("ITEMS"), "5000")
        .bounds(Number(0, 10_000_000))
        .note("; 0 for no bound")
        .doc("Items that a core sends to a returning node in a second."),
    row(RING, "cluster_name", One("NAME"), "pbcache")
        .bounds(Form("1 to 255 printable characters without spaces"))
        .doc("Nodes of other clusters are refused."),
    row(RING, "cluster_secret_file", One("FILE"), "")
        .doc("File with a secret that all nodes of the ring must know."),
    row(LIMITS, "max_item_size", One("BYTES"), "1m")
        .short('I')
        .bounds(Size(1 << 10, limits::ITEM_BYTES_MAX as u64))
        .note(", at most half of --memory_size")
        .doc("Largest item, with key and header; k, m and g are units."),
    row(LIMITS, "conn_limit", One("COUNT"), "1024")
        .short('c')
        .bounds(Number(1, 1_000_000))
        .doc("Most client connections; more are told so and closed."),
    row(LIMITS, "idle_timeout", One("SECONDS"), "0")
        .bounds(Number(0, i32::MAX as u64))
        .note(", 0 for never")
        .doc("Close connections that were silent for so long."),
    row(LIMITS, "disable_evictions", Nothing, "")
        .short('M')
        .doc("Answer stores with an error when memory is full, instead of removing items."),
    row(PROTOCOL, "protocol", One("NAME"), "auto")
        .short('B')
        .bounds(Words(&["auto", "ascii", "binary"]))
        .doc("Protocols that are spoken; auto tells them apart by the first byte."),
    row(PROTOCOL, "http", One("WHAT"), "on")
        .bounds(Words(&["on", "readonly", "off"]))
        .note("; without effect where --protocol names one")
        .doc("HTTP on the same port: all of it, only what changes nothing, or none."),
    row(PROTOCOL, "http_miss", One("STATUS"), "204")
        .bounds(Words(&["204", "404"]))
        .doc("What HTTP answers to a read of a key that is not there."),
    row(PROTOCOL, "http_max_age", One("WHETHER"), "off")
        .bounds(Words(&["off", "on"]))
        .doc("Answers of HTTP with an item that will expire let caches keep it until then (`Cache-Control: max-age`)."),
    row(PROTOCOL, "http_host", Many("NAME"), "")
        .bounds(Form("a host name without a port, such as cache.example.org"))
        .doc("Names by which HTTP clients call this node, beside addresses, --advertise, --ringnode and names that are nobody's: others are refused."),
    row(PROTOCOL, "disable_cas", Nothing, "").short('C').doc("Show every CAS value as 0."),
    row(PROTOCOL, "disable_flush_all", Nothing, "").short('F').doc("Refuse flush_all."),
    row(PROTOCOL, "disable_dumping", Nothing, "").short('X').doc("Refuse stats cachedump and lru_crawler metadump."),
    row(PROTOCOL, "disable_watch", Nothing, "").short('W').doc("Refuse watch."),
    row(PROTOCOL, "enable_shutdown", Nothing, "").short('A').doc("Let clients end the node with shutdown."),
    row(ADMIN, "admin_ip", One("ADDRESS"), "127.0.0.1")
        .bounds(Form("an IPv4 or IPv6 address; one that is not loopback needs --admin_token_file"))
        .doc("Address of the admin page, its JSON, metrics and health."),
    row(ADMIN, "admin_port", One("PORT"), "11280")
        .bounds(Number(0, 65535))
        .note(", 0 for none")
        .doc("Their port. Where the default is taken, the node goes on without them."),
    row(ADMIN, "admin_token_file", One("FILE"), "")
        .doc("File with the token that allows actions, keys and values; without one, there is only reading of figures."),
    row(ADMIN, "admin_keys", Nothing, "").doc("Show keys and values without a token too."),
    row(ADMIN, "metrics_compat", One("WHETHER"), "on")
        .bounds(Words(&["on", "off"]))
        .doc("Metrics have memcached_exporter's names too, for its dashboards and alerts."),
    row(ADMIN, "slow_ms", One("MILLISECONDS"), "10")
        .bounds(Number(0, 60_000))
        .note(", 0 for never")
        .doc("From how long on a request is remembered as slow."),
    row(ADMIN, "drain_delay", One("SECONDS"), "0")
        .bounds(Number(0, 3600))
        .doc("After a signal to end, not to be ready for so long while serving on: what load balancers need to notice."),
    row(PROCESS, "pidfile", One("PATH"), "").short('P').doc("Write the process id here."),
    row(PROCESS, "daemon", Nothing, "").short('d').also(&["daemonize"]).doc("Go on in the background."),
    row(PROCESS, "user", One("NAME"), "").short('u').doc("Become this user when started as root."),
    row(PROCESS, "lock_memory", Nothing, "").short('k').doc("Keep all memory out of swap."),
    row(PROCESS, "enable_coredumps", Nothing, "").short('r').doc("Allow core files of any size."),
    row(PROCESS, "disable_tuning_hint", Nothing, "").doc("Start without the line that tells what of the machine wants tuning."),
    row(PROCESS, "verbose", Count, "")
        .short('v')
        .doc("Log more: what happens to the node; twice and three times for finding faults."),
    row(PROCESS, "license", Nothing, "").short('i').doc("Print the licence and exit."),
    row(MEMCACHED, "udp_port", One("PORT"), "0")
        .short('U')
        .bounds(Number(0, 65535))
        .doc("Without effect, and told so: UDP is not served. Refused where it is all that is asked for (--port 0)."),
    row(MEMCACHED, "max_reqs_per_event", One("COUNT"), "20")
        .short('R')
        .bounds(Number(1, 1_000_000))
        .doc("Without effect: a turn is bounded in bytes."),
    row(MEMCACHED, "delimiter", One("CHARACTER"), ":")
        .short('D')
        .bounds(Form("one character"))
        .doc("What ends the prefix of a key; given, `stats detail` is on from the start."),
    row(MEMCACHED, "slab_min_size", One("BYTES"), "48")
        .short('n')
        .bounds(Number(1, 1 << 20))
        .doc("Without effect: there are no slabs."),
    row(MEMCACHED, "slab_growth_factor", One("FACTOR"), "1.25")
        .short('f')
        .bounds(Above(1))
        .doc("Without effect: there are no slabs."),
    row(MEMCACHED, "enable_largepages", Nothing, "").short('L').doc("Without effect: large pages are always asked for."),
    row(MEMCACHED, "napi_ids", One("COUNT"), "").short('N').bounds(Number(0, 1 << 16)).doc("Without effect."),
    row(MEMCACHED, "extended", Many("NAME[=VALUE],..."), "")
        .short('o')
        .bounds(Form("the settings of memcached's -o"))
        .doc("memcached's -o settings: taken over, without effect, or refused."),
];

/// What one of memcached's `-o` settings means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// The same as this option, value included.
    Option(&'static str),
    /// Accepted; nothing here corresponds to it, nor to a value of it.
    Inert,
    /// Accepted; nothing here corresponds to it. It needs a value within the bounds.
    InertValue(Bounds),
    /// Refused, with the reason.
    Refused(&'static str),
}

/// Looks an `-o` setting up; `None` for one that memcached does not have either.
pub fn extended(name: &str) -> Option<Extended> {
    if let Some(&(_, meaning)) = EXTENDED.iter().find(|(known, _)| *known == name) {
        return Some(meaning);
    }
    EXTENDED_REFUSED.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|&(_, reason)| Extended::Refused(reason))
}

use Extended::{Inert, InertValue};

const U32: Bounds = Number(0, u32::MAX as u64);
const PERCENT: Bounds = Number(1, 80);
const POSITIVE: Bounds = Above(0);

/// The settings of memcached 1.6 that say what to do with connections, slabs, LRU lists and threads, those of older releases with them: a
/// start line outlives a release.
const EXTENDED: &[(&str, Extended)] = &[
    ("idle_timeout", Extended::Option("idle_timeout")),
    ("maxconns_fast", Inert),
    ("no_maxconns_fast", Inert),
    ("hashpower", InertValue(Number(12, 32))),
    ("no_hashexpand", Inert),
    ("hash_algorithm", InertValue(Words(&["jenkins", "murmur3", "xxh3"]))),
    ("tail_repair_time", InertValue(U32)),
    ("lru_crawler", Inert),
    ("no_lru_crawler", Inert),
    ("lru_crawler_sleep", InertValue(Number(0, 1_000_000))),
    ("lru_crawler_tocrawl", InertValue(U32)),
    ("lru_maintainer", Inert),
    ("no_lru_maintainer", Inert),
    ("hot_lru_pct", InertValue(PERCENT)),
    ("warm_lru_pct", InertValue(PERCENT)),
    ("hot_max_factor", InertValue(POSITIVE)),
    ("warm_max_factor", InertValue(POSITIVE)),
    ("temporary_ttl", InertValue(U32)),
    ("slab_reassign", Inert),
    ("no_slab_reassign", Inert),
    ("slab_automove", Inert),
    ("no_slab_automove", Inert),
    ("slab_automove_ratio", InertValue(POSITIVE)),
    ("slab_automove_window", InertValue(U32)),
    ("slab_automove_freeratio", InertValue(POSITIVE)),
    ("slab_chunk_max", InertValue(U32)),
    ("slab_sizes", InertValue(Form("sizes separated by dashes"))),
    ("track_sizes", Inert),
    ("modern", Inert),
    ("no_modern", Inert),
    ("inline_ascii_resp", Inert),
    ("no_inline_ascii_resp", Inert),
    ("no_chunked_items", Inert),
    ("drop_privileges", Inert),
    ("no_drop_privileges", Inert),
    ("relaxed_privileges", Inert),
    ("resp_obj_mem_limit", Inert),
    ("read_buf_mem_limit", InertValue(U32)),
    ("watcher_logbuf_size", InertValue(U32)),
    ("worker_logbuf_size", InertValue(U32)),
    ("sock_cookie_id", InertValue(U32)),
];

/// Families of settings that mean something that pbcache does not do yet.
const EXTENDED_REFUSED: &[(&str, &str)] = &[
    ("ext_", "there is no storage on flash yet"),
    ("proxy_", "there is no proxy; any node of a ring answers for every key"),
    ("ssl_", "TLS is not served yet"),
];

/// memcached options that mean something that pbcache does not do yet: refused, so that nobody relies on them.
pub const REFUSED: &[(char, &str, &str)] = &[
    ('S', "enable_sasl", "SASL authentication is not served yet; bind to a private address or use --incoming_ip"),
    ('Y', "auth_file", "text authentication is not served yet; bind to a private address or use --incoming_ip"),
    ('Z', "enable_ssl", "TLS is not served yet; put a TLS proxy in front"),
    ('e', "memory_file", "warm restart is not there yet"),
];

/// The parser that the rows describe.
pub fn parser() -> Command {
    let version = Arg::new("version").long("version").short('V').action(ArgAction::Version);
    let help = Arg::new("help").long("help").short('h').action(ArgAction::HelpShort);
    let mut command = Command::new("pbcache")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A cache node that memcached clients use as they use memcached, one core at a time.")
        .override_usage("pbcache [OPTIONS]\n       pbcache ring status | leave | ..   the ring that a running node is in\n       pbcache top [HOST[:PORT]]          figures of a running node, in the terminal")
        .after_help(
            "Names may be written with dashes: --memory-size. memcached's long names work too: --memory-limit, --listen.",
        )
        .disable_version_flag(true)
        .disable_help_flag(true)
        .next_help_heading(PROCESS);
    for row in ROWS {
        command = command.arg(argument(row));
    }
    for &(short, name, _) in REFUSED {
        let argument = Arg::new(name).long(name).alias(name.replace('_', "-")).short(short).hide(true);
        command = command.arg(argument.num_args(0..=1).action(ArgAction::Append));
    }
    command.arg(help.help("Print this help and exit.")).arg(version.help("Print the version and exit."))
}

fn argument(row: &Row) -> Arg {
    let mut argument = Arg::new(row.name).long(row.name).help(help(row)).help_heading(row.group);
    argument = match row.takes {
        Nothing => argument.action(ArgAction::SetTrue).overrides_with(row.name),
        Count => argument.action(ArgAction::Count),
        One(value) | Many(value) => argument.action(ArgAction::Append).value_name(value).allow_hyphen_values(true),
    };
    if let Some(short) = row.short {
        argument = argument.short(short);
    }
    for name in row.aliases {
        argument = argument.alias(*name);
    }
    let names = std::iter::once(&row.name).chain(row.aliases);
    argument.aliases(names.filter(|name| name.contains('_')).map(|name| name.replace('_', "-")))
}

fn help(row: &Row) -> String {
    let mut help = row.doc.to_string();
    if matches!(row.takes, Many(_)) {
        help += " Repeatable.";
    }
    let allowed = row.allowed();
    if !allowed.is_empty() {
        help += &format!(" Allowed: {allowed}.");
    }
    if !row.default.is_empty() {
        help += &format!(" [default: {}]", row.default);
    }
    help
}

/// The options as a table for the README.
pub fn markdown() -> String {
    let mut text = String::from("| option | memcached | default | allowed | meaning |\n|---|---|---|---|---|\n");
    for row in ROWS {
        let value = if row.value().is_empty() { String::new() } else { format!(" {}", row.value()) };
        let short = row.short.map_or(String::new(), |short| format!("`-{short}`"));
        let repeatable = if matches!(row.takes, Many(_)) { " Repeatable." } else { "" };
        let (default, allowed) = (row.default, row.allowed());
        text += &format!("| `--{}{value}` | {short} | {default} | {allowed} | {}{repeatable} |\n", row.name, row.doc);
    }
    text
}

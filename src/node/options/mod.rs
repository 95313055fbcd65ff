//! The command line: from words to [`Options`], or one sentence that says what is wrong.
//!
//! Lives here: values, their bounds and relations. Not here: names and help (`table`), what options do (`node`).

pub mod table;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use ipnet::IpNet;

use crate::limits;
use crate::protocol::Doors;

/// Everything a node is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Data cores.
    pub cores: u16,
    /// Memory budget, in MiB.
    pub memory_mb: u64,
    /// Which I/O.
    pub engine: EngineChoice,
    /// TCP port; 0 for any free one.
    pub port: u16,
    /// Addresses to listen on.
    pub addresses: Vec<SocketAddr>,
    /// Who may connect.
    pub incoming: Vec<IpNet>,
    /// Unix socket to listen on.
    pub unix_socket: Option<PathBuf>,
    /// Permissions of the unix socket.
    pub unix_mask: u32,
    /// Core i listens on this + i too.
    pub shard_ports: Option<u16>,
    /// Connections that may wait to be accepted.
    pub listen_backlog: u16,
    /// Buckets of the ring.
    pub buckets: u32,
    /// Copies of every item.
    pub redundancy: u8,
    /// Nodes of the ring.
    pub ringnodes: Vec<String>,
    /// Largest item, in bytes.
    pub item_bytes_max: u32,
    /// Most client connections.
    pub conn_limit: u32,
    /// Seconds of silence after which a connection is closed; 0 for never.
    pub idle_timeout_s: u32,
    /// A full node refuses stores instead of evicting.
    pub evictions_disabled: bool,
    /// Protocols that are spoken.
    pub doors: Doors,
    /// Every CAS value is shown as 0.
    pub cas_disabled: bool,
    /// `flush_all` is refused.
    pub flush_disabled: bool,
    /// Dumps of keys are refused.
    pub dump_disabled: bool,
    /// `watch` is refused.
    pub watch_disabled: bool,
    /// Clients may end the node.
    pub shutdown_enabled: bool,
    /// File for the process id.
    pub pidfile: Option<PathBuf>,
    /// Go on in the background.
    pub daemon: bool,
    /// Become this user.
    pub user: Option<String>,
    /// Lock all memory.
    pub lock_memory: bool,
    /// Allow core files.
    pub core_dumps: bool,
    /// How much is logged.
    pub verbosity: u8,
    /// memcached's `-R`, shown in `stats settings`.
    pub requests_per_event: u32,
    /// memcached's `-D`.
    pub delimiter: char,
    /// What was accepted without effect; logged once at start.
    pub notices: Vec<String>,
}

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// The pump where the kernel allows it, else streams.
    Auto,
    /// The pump or nothing.
    Pump,
    /// Stock glommio streams.
    Streams,
}

/// Why the command line does not start a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Help or version was asked for: print and exit with 0.
    Print(String),
    /// One sentence: print to standard error and exit with 2.
    Wrong(String),
}

impl Options {
    /// Reads a command line; the first word is the program. `cpus` is the default of `--cores`.
    ///
    /// # Errors
    /// [`Refusal`]: the first thing that is wrong, or text that was asked for.
    pub fn parse(words: impl IntoIterator<Item = String>, cpus: usize) -> Result<Self, Refusal> {
        let matches = table::parser().try_get_matches_from(words).map_err(|error| refusal(&error))?;
        let values = Values { matches: &matches, extended: extended(&matches)? };
        for &(short, name, reason) in table::REFUSED {
            if matches.contains_id(name) && matches.value_source(name).is_some() {
                return Err(Refusal::Wrong(format!("option -{short} (--{name}) is refused: {reason}.")));
            }
        }
        let options = values.options(cpus)?;
        options.check_relations()?;
        Ok(options)
    }

    fn check_relations(&self) -> Result<(), Refusal> {
        let wrong = |text: String| Err(Refusal::Wrong(text));
        if self.memory_mb < self.cores as u64 {
            return wrong(format!(
                "option --memory_size is {} MB for {} cores; give at least {} MB, or fewer --cores.",
                self.memory_mb, self.cores, self.cores
            ));
        }
        if self.item_bytes_max as u64 > (self.memory_mb << 20) / 2 {
            return wrong(format!(
                "option --max_item_size is {} bytes, more than half of --memory_size ({} MB); give a smaller one or more memory.",
                self.item_bytes_max, self.memory_mb
            ));
        }
        if let Some(base) = self.shard_ports {
            let last = base as u32 + self.cores as u32 - 1;
            if last > u16::MAX as u32 {
                return wrong(format!("option --shard_ports {base} leaves no room for {} cores below 65536.", self.cores));
            }
            if (base as u32..=last).contains(&(self.port as u32)) {
                return wrong(format!(
                    "option --shard_ports {base} to {last} contains --port {}; choose another base.",
                    self.port
                ));
            }
        }
        Ok(())
    }
}

struct Values<'a> {
    matches: &'a ArgMatches,
    extended: Vec<(String, Option<String>)>,
}

impl Values<'_> {
    fn options(&self, cpus: usize) -> Result<Options, Refusal> {
        let port = self.number("port", 11211, 0, 65535)? as u16;
        let udp_port = self.number("udp_port", 0, 0, 65535)?;
        if udp_port != 0 {
            return Err(wrong("udp_port", &udp_port.to_string()));
        }
        Ok(Options {
            cores: self.number("cores", cpus as u64, 1, limits::CORES_MAX as u64)? as u16,
            memory_mb: self.number("memory_size", 100, 8, 1 << 24)?,
            engine: self.choice(
                "engine",
                &[("auto", EngineChoice::Auto), ("pump", EngineChoice::Pump), ("streams", EngineChoice::Streams)],
            )?,
            port,
            addresses: self.addresses(port)?,
            incoming: self.networks()?,
            unix_socket: self.text("unix_socket").map(PathBuf::from),
            unix_mask: self.octal("unix_mask", 0o700)?,
            shard_ports: match self.text("shard_ports") {
                None => None,
                Some(_) => Some(self.number("shard_ports", 0, 1, 65535)? as u16),
            },
            listen_backlog: self.number("listen_backlog", 1024, 1, 65535)? as u16,
            buckets: self.number("buckets", 10_000_000, 1, u32::MAX as u64)? as u32,
            redundancy: self.number("redudancy", 1, 1, 16)? as u8,
            ringnodes: self.ringnodes()?,
            item_bytes_max: self.size(
                "max_item_size",
                limits::ITEM_BYTES_DEFAULT as u64,
                1 << 10,
                limits::ITEM_BYTES_MAX as u64,
            )? as u32,
            conn_limit: self.number("conn_limit", 1024, 1, 1_000_000)? as u32,
            idle_timeout_s: self.number("idle_timeout", 0, 0, 86_400)? as u32,
            evictions_disabled: self.is_set("disable_evictions"),
            doors: self.choice(
                "protocol",
                &[
                    ("auto", Doors::Any),
                    ("auto-negotiate", Doors::Any),
                    ("ascii", Doors::TextOnly),
                    ("binary", Doors::BinaryOnly),
                ],
            )?,
            cas_disabled: self.is_set("disable_cas"),
            flush_disabled: self.is_set("disable_flush_all"),
            dump_disabled: self.is_set("disable_dumping"),
            watch_disabled: self.is_set("disable_watch"),
            shutdown_enabled: self.is_set("enable_shutdown"),
            pidfile: self.text("pidfile").map(PathBuf::from),
            daemon: self.is_set("daemon"),
            user: self.text("user").map(String::from),
            lock_memory: self.is_set("lock_memory"),
            core_dumps: self.is_set("enable_coredumps"),
            verbosity: self.matches.get_count("verbose"),
            requests_per_event: self.number("max_reqs_per_event", 20, 1, 1_000_000)? as u32,
            delimiter: self.text("delimiter").and_then(|text| text.chars().next()).unwrap_or(':'),
            notices: self.notices(),
        })
    }

    /// The last value given, `-o` included.
    fn text(&self, name: &str) -> Option<&str> {
        let extended = self.extended.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref());
        extended.or_else(|| self.matches.get_many::<String>(name)?.next_back().map(String::as_str))
    }

    fn list(&self, name: &str) -> Vec<&str> {
        let values = self.matches.get_many::<String>(name).into_iter().flatten();
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty()).collect()
    }

    fn is_set(&self, name: &str) -> bool {
        self.matches.get_count(name) > 0
    }

    fn number(&self, name: &'static str, default: u64, least: u64, most: u64) -> Result<u64, Refusal> {
        let Some(text) = self.text(name) else { return Ok(default) };
        text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| wrong(name, text))
    }

    fn size(&self, name: &'static str, default: u64, least: u64, most: u64) -> Result<u64, Refusal> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let (digits, unit) = match text.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
            Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
            Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
            _ => (text, 1u64),
        };
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        number.filter(|number| (least..=most).contains(number)).ok_or_else(|| wrong(name, text))
    }

    fn octal(&self, name: &'static str, default: u32) -> Result<u32, Refusal> {
        let Some(text) = self.text(name) else { return Ok(default) };
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| wrong(name, text))
    }

    fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<T, Refusal> {
        let Some(text) = self.text(name) else { return Ok(choices[0].1) };
        choices.iter().find(|(choice, _)| *choice == text).map(|&(_, value)| value).ok_or_else(|| wrong(name, text))
    }

    fn addresses(&self, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let words = self.list("ip");
        if words.is_empty() {
            return Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]);
        }
        words.into_iter().map(|word| address(word, port).ok_or_else(|| wrong("ip", word))).collect()
    }

    fn networks(&self) -> Result<Vec<IpNet>, Refusal> {
        let mut words = self.list("incoming_ip");
        if words.is_empty() {
            words = PRIVATE_NETWORKS.to_vec();
        }
        let network = |word: &str| word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
        words.into_iter().map(|word| network(word).ok_or_else(|| wrong("incoming_ip", word))).collect()
    }

    fn ringnodes(&self) -> Result<Vec<String>, Refusal> {
        let is_node = |word: &str| {
            let (host, port) = match word.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
                _ => (word, None),
            };
            let named = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
            !host.is_empty() && named && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        };
        let words = self.list("ringnode");
        match words.iter().find(|word| !is_node(word)) {
            Some(word) => {
                Err(Refusal::Wrong(format!("option --ringnode has the value '{word}'; allowed is HOST or HOST:PORT.")))
            }
            None => Ok(words.into_iter().map(String::from).collect()),
        }
    }

    fn notices(&self) -> Vec<String> {
        let inert = ["max_reqs_per_event", "slab_min_size", "slab_growth_factor", "napi_ids"];
        let options = inert.iter().filter(|name| self.text(name).is_some()).map(|name| format!("--{name}"));
        let pages = self.is_set("enable_largepages").then(|| "--enable_largepages".to_string());
        let is_inert = |name: &str| table::extended(name) == Some(table::Extended::NoEffect);
        let extended = self.extended.iter().filter(|(name, _)| is_inert(name)).map(|(name, _)| format!("-o {name}"));
        options.chain(pages).chain(extended).collect()
    }
}

/// Loopback and private ranges: RFC 1918, RFC 4193, RFC 3927 and RFC 4291 link-local.
const PRIVATE_NETWORKS: &[&str] =
    &["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10"];

fn address(word: &str, port: u16) -> Option<SocketAddr> {
    let word = word.strip_prefix("proto[ascii]:").unwrap_or(word);
    if let Ok(address) = word.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
    match bare {
        "*" => Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        "localhost" => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::from((ip, port))),
    }
}

/// The words of all `-o`, as name and value.
fn extended(matches: &ArgMatches) -> Result<Vec<(String, Option<String>)>, Refusal> {
    let words = matches.get_many::<String>("extended").into_iter().flatten().flat_map(|text| text.split(','));
    let mut found = Vec::new();
    for word in words.filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value.to_string())));
        match table::extended(name) {
            Some(table::Extended::Option(option)) => found.push((option.to_string(), value)),
            Some(table::Extended::NoEffect) => found.push((name.to_string(), value)),
            Some(table::Extended::Refused(reason)) => {
                return Err(Refusal::Wrong(format!("option -o {name} is refused: {reason}.")));
            }
            None => {
                return Err(Refusal::Wrong(format!(
                    "option -o has no setting '{name}'; see memcached's manual for those that it has."
                )));
            }
        }
    }
    Ok(found)
}

fn wrong(name: &'static str, value: &str) -> Refusal {
    let bounds = table::ROWS.iter().find(|row| row.name == name).map_or("", |row| row.bounds);
    Refusal::Wrong(format!("option --{name} has the value '{value}'; allowed is {bounds}."))
}

/// clap's errors in our voice: one sentence.
fn refusal(error: &clap::Error) -> Refusal {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.split_whitespace().next().unwrap_or_default().to_string(),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal::Print(error.to_string()),
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            Refusal::Wrong(format!("option {argument} is unknown; `pbcache --help` lists the options."))
        }
        ErrorKind::UnknownArgument => {
            Refusal::Wrong(format!("'{argument}' is not an option; `pbcache --help` lists the options."))
        }
        ErrorKind::InvalidValue | ErrorKind::TooFewValues => Refusal::Wrong(format!("option {argument} needs a value.")),
        ErrorKind::TooManyValues => Refusal::Wrong(format!("option {argument} takes no value.")),
        _ => Refusal::Wrong(format!("the command line cannot be read: {}.", error.kind())),
    }
}

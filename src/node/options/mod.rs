//! The command line: from words to [`Options`], or one sentence that says what is wrong.
//!
//! Lives here: values, their bounds and relations. Not here: names and help (`table`), what options do (`node`).

pub mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use ipnet::IpNet;

use self::table::{Extended, ROWS, Takes};
use crate::cluster::Ack;
use crate::limits;
use crate::protocol::{Protocols, http};

/// Everything a node is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Data cores.
    pub cores: u16,
    /// Memory budget, in MiB.
    pub memory_mb: u64,
    /// Which I/O.
    pub io: IoChoice,
    /// TCP port; 0 for any free one.
    pub port: u16,
    /// Addresses to listen on; none where a unix socket is all.
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
    pub listen_backlog: u32,
    /// Buckets of the ring.
    pub buckets: u32,
    /// Copies of every item.
    pub redundancy: u8,
    /// Nodes of the ring, as configured.
    pub ringnodes: Vec<RingNode>,
    /// `--join`, each with a port.
    pub joins: Vec<String>,
    /// `--data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `--removal_after`, in seconds; 0 for never.
    pub removal_after_s: u32,
    /// Where others reach this node.
    pub advertise: Option<String>,
    /// Who this node is.
    pub node_id: Option<String>,
    /// Its share, if given.
    pub weight: Option<u32>,
    /// Its zone, if given.
    pub zone: Option<String>,
    /// When a write is answered.
    pub ack: Ack,
    /// Share of the memory for hints, in percent.
    pub handoff_percent: u8,
    /// Life of a hint, in seconds.
    pub handoff_window_s: u32,
    /// Items that a core replays a second; 0 for no bound.
    pub handoff_rate: u32,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Where the cluster's secret is.
    pub cluster_secret_file: Option<PathBuf>,
    /// Largest item, in bytes.
    pub item_bytes_max: u32,
    /// Most client connections.
    pub conn_limit: u32,
    /// Seconds of silence after which a connection is closed; 0 for never.
    pub idle_timeout_s: u32,
    /// A full node refuses stores instead of evicting.
    pub evictions_disabled: bool,
    /// Protocols that are spoken.
    pub protocols: Protocols,
    /// HTTP: what is served, what a miss is answered, names that were given. See `http_rules`.
    pub http: http::Rules,
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
    /// Where the admin listener is.
    pub admin: Admin,
    /// From how many milliseconds on a request is remembered as slow; 0 for never.
    pub slow_ms: u32,
    /// Seconds between a signal to end and the drain.
    pub drain_delay_s: u32,
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
    /// Nothing is said of the machine at the start.
    pub tuning_hint_disabled: bool,
    /// How much is logged.
    pub verbosity: u8,
    /// memcached's `-R`, shown in `stats settings`.
    pub requests_per_event: u32,
    /// memcached's `-D`: where the prefix of a key ends.
    pub delimiter: char,
    /// Commands are counted by prefix from the start: `-D` was given.
    pub detail: bool,
    /// What was accepted without effect; logged once at start.
    pub notices: Vec<String>,
    /// What was accepted and means something else here, a sentence each; logged at start.
    pub remarks: Vec<String>,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Its address; port 0 for no listener.
    pub address: SocketAddr,
    /// The port was given: then it must be had.
    pub port_given: bool,
    /// Where the token is.
    pub token_file: Option<PathBuf>,
    /// Keys and values are shown without it.
    pub shows_keys: bool,
    /// Metrics have memcached_exporter's names too.
    pub metrics_compat: bool,
}

/// One word of `--ringnode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingNode {
    /// `HOST:PORT`; the port is memcached's where none was given.
    pub address: String,
    /// Its share.
    pub weight: u32,
    /// Its zone.
    pub zone: String,
    /// Who it is, if not its address.
    pub id: Option<String>,
}

/// `--io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoChoice {
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
    /// Reads a command line; the first word is the program. `cpus` bounds the default of `--cores`.
    ///
    /// # Errors
    /// [`Refusal`]: the first thing that is wrong, or text that was asked for.
    pub fn parse(words: impl IntoIterator<Item = String>, cpus: usize) -> Result<Self, Refusal> {
        let matches = table::parser().try_get_matches_from(words).map_err(|error| refusal(&error))?;
        for &(short, name, reason) in table::REFUSED {
            if matches.value_source(name).is_some() {
                return refuse(format!("option -{short} (--{name}) is refused: {reason}."));
            }
        }
        let values = Values { matches: &matches, extended: extended(&matches)? };
        if values.is_set("license") {
            return Err(Refusal::Print(LICENSE.into()));
        }
        values.check()?;
        let mut options = values.options(cpus)?;
        values.check_udp(&mut options)?;
        options.raise_memory();
        options.check_memory()?;
        options.check_shard_ports()?;
        options.check_ring()?;
        Ok(options)
    }

    /// What HTTP is told: the names of the ring's nodes are names of this one, too.
    pub fn http_rules(&self) -> http::Rules {
        let nodes = self.ringnodes.iter().map(|node| &node.address).chain(&self.advertise);
        let names = nodes.filter_map(|node| http::parse_host(node.as_bytes())).map(|name| String::from_utf8_lossy(name).into());
        http::Rules { hosts: self.http.hosts.iter().cloned().chain(names).collect(), ..self.http.clone() }
    }

    /// A start line of memcached must start a node, however little it asks for.
    fn raise_memory(&mut self) {
        let least_mb = limits::MEMORY_MB_MIN.max(self.cores.into());
        if self.memory_mb < least_mb {
            let (given_mb, cores) = (self.memory_mb, self.cores);
            self.remarks
                .push(format!("--memory_size is {given_mb} MB: it becomes {least_mb} MB, the least with --cores {cores}"));
            self.memory_mb = least_mb;
        }
    }

    fn check_memory(&self) -> Result<(), Refusal> {
        if self.item_bytes_max as u64 > (self.memory_mb << 20) / 2 {
            return refuse(format!(
                "option --max_item_size is {} bytes, more than half of --memory_size ({} MB); give a smaller one or more memory.",
                self.item_bytes_max, self.memory_mb
            ));
        }
        Ok(())
    }

    fn check_ring(&self) -> Result<(), Refusal> {
        if self.data_dir.is_some() && !self.ringnodes.is_empty() && self.joins.is_empty() {
            return refuse(
                "option --ringnode makes a ring that is an explicit list for good, --data_dir belongs to one that changes; add --join, or \
                 leave one of them out."
                    .into(),
            );
        }
        Ok(())
    }

    fn check_shard_ports(&self) -> Result<(), Refusal> {
        let Some(base) = self.shard_ports else { return Ok(()) };
        let last = base as u32 + self.cores as u32 - 1;
        if last > u16::MAX as u32 {
            return refuse(format!(
                "option --shard_ports {base} leaves no room for {} cores below 65536; give at most {}.",
                self.cores,
                u16::MAX as u32 + 1 - self.cores as u32
            ));
        }
        match self.addresses.iter().find(|address| (base as u32..=last).contains(&(address.port() as u32))) {
            Some(taken) => refuse(format!(
                "option --shard_ports {base} to {last} contains the port {} of --port or --ip; choose another base.",
                taken.port()
            )),
            None => Ok(()),
        }
    }
}

/// What `--license` prints.
const LICENSE: &str = concat!("pbcache ", env!("CARGO_PKG_VERSION"), ", licensed under ", env!("CARGO_PKG_LICENSE"), "\n");

struct Values<'a> {
    matches: &'a ArgMatches,
    /// The settings of all `-o`, in their order: option or setting, and value.
    extended: Vec<(&'a str, Option<&'a str>)>,
}

impl Values<'_> {
    /// Holds every value that was given against the bounds of its row, also where nothing reads it.
    fn check(&self) -> Result<(), Refusal> {
        for row in ROWS.iter().filter(|row| matches!(row.takes, Takes::One(_))) {
            if let Some(text) = self.text(row.name).filter(|text| row.bounds.read(text).is_none()) {
                return Err(wrong(row.name, text));
            }
            let mut given = self.matches.get_many::<String>(row.name).into_iter().flatten();
            if let (true, Some(first)) = (row.is_of_ring(), given.next())
                && let Some(other) = given.find(|other| *other != first)
            {
                return refuse(format!("option --{} is given as {first} and as {other}; give it once.", row.name));
            }
        }
        Ok(())
    }

    fn options(&self, cpus: usize) -> Result<Options, Refusal> {
        let port = self.number("port") as u16;
        let memory_mb = self.number("memory_size");
        let cores_default = cpus.clamp(1, limits::CORES_MAX).min(memory_mb.max(limits::MEMORY_MB_MIN) as usize) as u16;
        Ok(Options {
            cores: self.text("cores").map_or(cores_default, |_| self.number("cores") as u16),
            memory_mb,
            io: [IoChoice::Auto, IoChoice::Pump, IoChoice::Streams][self.number("io") as usize],
            port,
            addresses: self.addresses(port)?,
            incoming: self.networks()?,
            unix_socket: self.text("unix_socket").map(PathBuf::from),
            unix_mask: self.number("unix_mask") as u32,
            shard_ports: self.text("shard_ports").map(|_| self.number("shard_ports") as u16),
            listen_backlog: self.number("listen_backlog") as u32,
            buckets: self.number("buckets") as u32,
            redundancy: self.number("redundancy") as u8,
            ringnodes: self.ringnodes()?,
            joins: self.joins()?,
            data_dir: self.text("data_dir").map(PathBuf::from),
            removal_after_s: self.number("removal_after") as u32,
            advertise: self.advertise()?,
            node_id: self.name("node_id", 1)?,
            weight: self.weight()?,
            zone: self.name("zone", 0)?,
            ack: [Ack::Live, Ack::One][self.number("ack") as usize],
            handoff_percent: self.number("handoff_memory") as u8,
            handoff_window_s: self.number("handoff_window") as u32,
            handoff_rate: self.number("handoff_rate") as u32,
            cluster_name: self.name("cluster_name", 1)?.unwrap_or_else(|| table::find("cluster_name").default.into()),
            cluster_secret_file: self.text("cluster_secret_file").map(PathBuf::from),
            item_bytes_max: self.number("max_item_size") as u32,
            conn_limit: self.number("conn_limit") as u32,
            idle_timeout_s: self.number("idle_timeout") as u32,
            evictions_disabled: self.is_set("disable_evictions"),
            protocols: [Protocols::Any, Protocols::TextOnly, Protocols::BinaryOnly][self.number("protocol") as usize],
            http: self.http()?,
            cas_disabled: self.is_set("disable_cas"),
            flush_disabled: self.is_set("disable_flush_all"),
            dump_disabled: self.is_set("disable_dumping"),
            watch_disabled: self.is_set("disable_watch"),
            shutdown_enabled: self.is_set("enable_shutdown"),
            admin: self.admin()?,
            slow_ms: self.number("slow_ms") as u32,
            drain_delay_s: self.number("drain_delay") as u32,
            pidfile: self.text("pidfile").map(PathBuf::from),
            daemon: self.is_set("daemon"),
            user: self.text("user").map(String::from),
            lock_memory: self.is_set("lock_memory"),
            core_dumps: self.is_set("enable_coredumps"),
            tuning_hint_disabled: self.is_set("disable_tuning_hint"),
            verbosity: self.matches.get_count("verbose"),
            requests_per_event: self.number("max_reqs_per_event") as u32,
            delimiter: self.delimiter()?,
            detail: self.text("delimiter").is_some(),
            notices: self.notices(),
            remarks: Vec::new(),
        })
    }

    /// UDP beside TCP is left out with a sentence: clients that need it alone are few, start lines that name it are many.
    fn check_udp(&self, options: &mut Options) -> Result<(), Refusal> {
        let port = self.number("udp_port");
        if port == 0 {
            return Ok(());
        }
        let asks_for_no_tcp = self.text("port").is_some() && options.addresses.iter().all(|address| address.port() == 0);
        if asks_for_no_tcp && options.unix_socket.is_none() {
            return refuse(format!(
                "option --udp_port {port} with --port 0 asks for UDP alone, which is not served; give a --port."
            ));
        }
        options.remarks.push(format!("UDP is not served: --udp_port {port} has no effect"));
        Ok(())
    }

    /// The last value given, `-o` included.
    fn text(&self, name: &str) -> Option<&str> {
        let extended = self.extended.iter().rev().find(|(key, _)| *key == name).and_then(|&(_, value)| value);
        extended.or_else(|| self.matches.get_many::<String>(name)?.next_back().map(String::as_str))
    }

    fn list(&self, name: &str) -> Vec<&str> {
        let values = self.matches.get_many::<String>(name).into_iter().flatten();
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty()).collect()
    }

    fn is_set(&self, name: &str) -> bool {
        self.matches.get_flag(name)
    }

    /// The value of an option that `check` let pass, or its default; 0 for one that has none.
    fn number(&self, name: &str) -> u64 {
        let row = table::find(name);
        row.bounds.read(self.text(name).unwrap_or(row.default)).unwrap_or(0)
    }

    fn http(&self) -> Result<http::Rules, Refusal> {
        let mut hosts = Vec::new();
        for word in self.list("http_host") {
            match http::parse_host(word.as_bytes()) {
                Some(name) if name.len() == word.len() => hosts.push(word.to_string()),
                _ => return Err(wrong("http_host", word)),
            }
        }
        Ok(http::Rules {
            mode: [http::Mode::On, http::Mode::ReadOnly, http::Mode::Off][self.number("http") as usize],
            miss: [http::Miss::NoContent, http::Miss::NotFound][self.number("http_miss") as usize],
            hosts,
            max_age: self.number("http_max_age") == 1,
        })
    }

    fn delimiter(&self) -> Result<char, Refusal> {
        let text = self.text("delimiter").unwrap_or(table::find("delimiter").default);
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(delimiter), None) => Ok(delimiter),
            _ => Err(wrong("delimiter", text)),
        }
    }

    /// Where to listen. A unix socket alone turns TCP off, as in memcached, where nothing asks for TCP.
    fn addresses(&self, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let words = self.list("ip");
        let asks_for_tcp = ["ip", "port", "shard_ports"].iter().any(|name| self.text(name).is_some());
        if self.text("unix_socket").is_some() && !asks_for_tcp {
            return Ok(Vec::new());
        }
        if words.is_empty() {
            return match self.text("ip") {
                Some(text) => Err(wrong("ip", text)),
                None => Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]),
            };
        }
        let mut addresses = Vec::new();
        for word in words {
            let address = address(word, port).ok_or_else(|| wrong("ip", word))?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    fn admin(&self) -> Result<Admin, Refusal> {
        let text = self.text("admin_ip").unwrap_or(table::find("admin_ip").default);
        let ip: IpAddr = text.trim_matches(['[', ']']).parse().map_err(|_| wrong("admin_ip", text))?;
        let admin = Admin {
            address: SocketAddr::new(ip, self.number("admin_port") as u16),
            port_given: self.text("admin_port").is_some(),
            token_file: self.text("admin_token_file").map(PathBuf::from),
            shows_keys: self.is_set("admin_keys"),
            metrics_compat: self.number("metrics_compat") == 0,
        };
        if !ip.is_loopback() && admin.token_file.is_none() && admin.address.port() != 0 {
            return refuse(format!(
                "option --admin_ip {ip} is not loopback, and there is no --admin_token_file; give one, or listen on 127.0.0.1."
            ));
        }
        Ok(admin)
    }

    fn networks(&self) -> Result<Vec<IpNet>, Refusal> {
        let mut words = self.list("incoming_ip");
        if words.is_empty() {
            if let Some(text) = self.text("incoming_ip") {
                return Err(wrong("incoming_ip", text));
            }
            words = PRIVATE_NETWORKS.to_vec();
        }
        let network = |word: &str| word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
        words.into_iter().map(|word| network(word).ok_or_else(|| wrong("incoming_ip", word))).collect()
    }

    fn ringnodes(&self) -> Result<Vec<RingNode>, Refusal> {
        let words = self.list("ringnode");
        words.into_iter().map(|word| ring_node(word).ok_or_else(|| wrong("ringnode", word))).collect()
    }

    fn joins(&self) -> Result<Vec<String>, Refusal> {
        let seed = |word: &str| is_address(word).then(|| with_port(word, PORT_DEFAULT)).ok_or_else(|| wrong("join", word));
        self.list("join").into_iter().map(seed).collect()
    }

    fn weight(&self) -> Result<Option<u32>, Refusal> {
        let given = self.text("weight").map(|_| self.number("weight") as u32);
        match (self.is_set("front"), given) {
            (true, Some(1..)) => refuse("option --front holds nothing, --weight asks for a share; give one of them.".into()),
            (true, _) => Ok(Some(0)),
            (false, given) => Ok(given),
        }
    }

    fn advertise(&self) -> Result<Option<String>, Refusal> {
        let Some(word) = self.text("advertise") else { return Ok(None) };
        // Without a port it is this node's own, which is known when it listens.
        if is_address(word) { Ok(Some(word.into())) } else { Err(wrong("advertise", word)) }
    }

    fn name(&self, option: &str, bytes_min: usize) -> Result<Option<String>, Refusal> {
        match self.text(option) {
            Some(text) if !is_name(text) || text.len() < bytes_min => Err(wrong(option, text)),
            text => Ok(text.map(String::from)),
        }
    }

    /// What was given and has no effect, as it was typed.
    fn notices(&self) -> Vec<String> {
        let inert = ["max_reqs_per_event", "slab_min_size", "slab_growth_factor", "napi_ids"];
        let options = inert.iter().filter(|name| self.text(name).is_some()).map(|name| format!("--{name}"));
        let pages = self.is_set("enable_largepages").then(|| "--enable_largepages".to_string());
        let is_inert = |name: &str| matches!(table::extended(name), Some(Extended::Inert | Extended::InertValue(_)));
        let extended = self.extended.iter().filter(|(name, _)| is_inert(name)).map(|(name, _)| format!("-o {name}"));
        options.chain(pages).chain(extended).collect()
    }
}

/// Loopback and private ranges: RFC 1918, RFC 4193, RFC 3927 and RFC 4291 link-local.
const PRIVATE_NETWORKS: &[&str] =
    &["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10"];

/// One word of `--ip`. memcached's marks in front of an address (`proto[..]:`, `notls:`, ..) are refused: a listener that does
/// not keep what they promise is worse than none.
fn address(word: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<SocketAddr>() {
        return Some(address);
    }
    let (host, port) = match word.split_once(':') {
        Some((host @ ("*" | "localhost"), digits)) => (host, digits.parse().ok()?),
        _ => (word, port),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare {
        "*" => Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        "localhost" => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::from((ip, port))),
    }
}

/// A word of `--ringnode`: an address, then `/key=value` for what that node was started with.
fn ring_node(word: &str) -> Option<RingNode> {
    let mut parts = word.split('/');
    let address = parts.next().filter(|address| is_address(address))?;
    let address = with_port(address, PORT_DEFAULT);
    let mut node = RingNode { address, weight: 1, zone: String::new(), id: None };
    for part in parts {
        match part.split_once('=')? {
            ("weight", text) => node.weight = table::find("weight").bounds.read(text)? as u32,
            ("zone", text) if is_name(text) => node.zone = text.into(),
            ("id", text) if is_name(text) && !text.is_empty() => node.id = Some(text.into()),
            _ => return None,
        }
    }
    Some(node)
}

/// memcached's port.
const PORT_DEFAULT: u16 = 11211;

/// The address with a port: the one that it has, or this one. IPv6 addresses get brackets.
pub fn with_port(address: &str, port: u16) -> String {
    if address.parse::<SocketAddr>().is_ok() {
        return address.into();
    }
    match address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => SocketAddr::from((ip, port)).to_string(),
        Err(_) if address.rsplit_once(':').is_some() => address.into(),
        Err(_) => format!("{address}:{port}"),
    }
}

/// Whether a text is the name of a node, a zone or a cluster.
fn is_name(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'/')
}

/// Whether a word names a node: a host name or an address, with a port other than 0 or none.
fn is_address(word: &str) -> bool {
    if word.parse::<IpAddr>().is_ok() {
        return true;
    }
    let (host, port) = match word.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (word, None),
    };
    let is_host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()),
        None => is_host_name(host),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// RFC 1123, and underscores, which container networks use.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let is_plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (1..=63).contains(&label.len()) && is_plain && !label.starts_with('-') && !label.ends_with('-')
    };
    let looks_like_ipv4 = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let labels = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && labels.split('.').all(is_label) && (!looks_like_ipv4 || host.parse::<Ipv4Addr>().is_ok())
}

/// The settings of all `-o`: the option that one stands for or its own name, and its value.
fn extended(matches: &ArgMatches) -> Result<Vec<(&str, Option<&str>)>, Refusal> {
    let words = matches.get_many::<String>("extended").into_iter().flatten().flat_map(|text| text.split(','));
    let mut found = Vec::new();
    for word in words.filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let bounds = match table::extended(name) {
            Some(Extended::Option(option)) => Some(table::find(option).bounds),
            Some(Extended::InertValue(bounds)) => Some(bounds),
            Some(Extended::Inert) => None,
            Some(Extended::Refused(reason)) => return refuse(format!("option -o {name} is refused: {reason}.")),
            None => return refuse(format!("option -o has no setting '{name}'; see memcached's manual for those that it has.")),
        };
        match (bounds, value) {
            (Some(bounds), None) => return refuse(format!("option -o {name} needs a value; allowed is {bounds}.")),
            (Some(bounds), Some(text)) if bounds.read(text).is_none() => {
                return refuse(format!("option -o {name} has the value '{text}'; allowed is {bounds}."));
            }
            _ => found.push((if let Some(Extended::Option(option)) = table::extended(name) { option } else { name }, value)),
        }
    }
    Ok(found)
}

fn wrong(name: &str, value: &str) -> Refusal {
    Refusal::Wrong(format!("option --{name} has the value '{value}'; allowed is {}.", table::find(name).allowed()))
}

fn refuse<T>(sentence: String) -> Result<T, Refusal> {
    Err(Refusal::Wrong(sentence))
}

/// clap's errors in our voice: one sentence.
fn refusal(error: &clap::Error) -> Refusal {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.split_whitespace().next().unwrap_or_default().to_string(),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let argument = argument.trim_end_matches("...");
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

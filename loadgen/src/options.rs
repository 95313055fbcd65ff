//! What can be asked for on the command line. Underscore names are the main ones; dashes are accepted everywhere.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::doors::Protocol;
use crate::session::{Client, Pace};
use crate::target::Target;
use crate::work::Work;
use crate::work::keys::{Distribution, KEY_BYTES_MIN, KeySpace};
use crate::work::mix::{Kind, Mix, Ttls};
use crate::work::values::{Sizes, VALUE_BYTES_MAX, bytes};
use crate::worker::Arrival;

/// Load generator and checker for cache servers.
///
/// Exit codes: 0 fine; 1 the server gave a wrong answer; 2 wrong arguments or nothing to measure; 3 the server was lost on
/// the way (what was measured until then is reported).
#[derive(Parser)]
#[command(name = "loadgen", version, rename_all = "snake_case", subcommand_required = true, arg_required_else_help = true)]
pub struct Options {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Subcommand)]
pub enum Action {
    /// Load a running server and report
    #[command(args_override_self = true)]
    Run(Run),
    /// Measure a running server over several values of one option
    #[command(args_override_self = true)]
    Sweep(SweepOptions),
    /// Find the highest rate at which the 99th percentile of the latency stays below a limit
    #[command(args_override_self = true)]
    Search(Search),
    /// Ask a recorded sequence of requests again
    #[command(args_override_self = true)]
    Replay(Replay),
    /// Start several servers, give them the same work in alternating rounds, and report the ratios
    #[command(args_override_self = true)]
    Compare(Compare),
    /// Serve as the floor: a bare io_uring server that answers bytes with bytes
    #[command(hide = true)]
    Echo(Echo),
}

/// What to ask for.
#[derive(Args, Clone, Debug, Serialize)]
pub struct WorkOptions {
    /// Keys
    #[arg(long = "keys", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    pub keys: u32,
    /// Bytes of a key
    #[arg(long = "key_size", default_value_t = 16, value_parser = clap::value_parser!(u8).range(KEY_BYTES_MIN as i64..=250))]
    pub key_size: u8,
    /// Bytes of a value: N, LOW-HIGH, SIZE:WEIGHT,.. , lognormal:MEDIAN,SIGMA, pareto:LOCATION,SCALE,SHAPE; k and m are units
    #[arg(long = "value_size", default_value = "100")]
    #[serde(serialize_with = "as_text")]
    pub value_size: Sizes,
    /// Commands and weights: get, set, delete, touch, incr, cas
    #[arg(long = "ratio", default_value = "get:90,set:10")]
    #[serde(serialize_with = "as_text")]
    pub ratio: Mix,
    /// Keys per get
    #[arg(long = "multi_get", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub multi_get: u16,
    /// Which key is next: uniform, zipf:ALPHA, hotspot:KEYS,REQUESTS, latest:ALPHA, sequential
    #[arg(long = "distribution", default_value = "uniform")]
    #[serde(serialize_with = "as_text")]
    pub distribution: Distribution,
    /// Times to live of writes: TTL or TTL:WEIGHT,.. with units s, m, h, d; 0: for ever
    #[arg(long = "ttl", default_value = "0")]
    pub ttl: Ttls,
    /// Store the item again after a miss
    #[arg(long = "fill_misses")]
    pub fill_misses: bool,
    /// Seed of everything random
    #[arg(long = "seed", default_value_t = 1)]
    pub seed: u64,
}

/// How hard to ask.
#[derive(Args, Clone, Debug, Serialize)]
pub struct LoadOptions {
    /// Connections of all threads
    #[arg(long = "connections", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// Requests in flight per connection
    #[arg(long = "depth", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub depth: u32,
    /// Client threads
    #[arg(long = "threads", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// CPUs of the client threads, such as 1,3
    #[arg(long = "client_cpus", value_delimiter = ',')]
    pub client_cpus: Vec<usize>,
    /// Seconds to measure
    #[arg(long = "duration", default_value_t = 10.0, value_parser = positive)]
    pub duration: f64,
    /// Seconds to work before counting begins
    #[arg(long = "warm_up", default_value_t = 1.0, value_parser = positive)]
    pub warm_up: f64,
    /// Seconds that an answer may take before its connection is given up
    #[arg(long = "timeout", default_value_t = 5.0, value_parser = positive)]
    pub timeout: f64,
    /// Requests after which a connection is closed and opened again, 0: never
    #[arg(long = "churn", default_value_t = 0)]
    pub churn: u64,
    /// Open loop: poll instead of sleeping shortly before a request is due. Sends on time; takes a CPU per thread
    #[arg(long = "spin")]
    pub spin: bool,
    /// Ask `stats shards` for the map of cores and send each key to the port of its core (one target)
    #[arg(long = "shard_aware")]
    pub shard_aware: bool,
    /// Protocol
    #[arg(long = "protocol", value_enum, default_value_t = Protocol::Text)]
    pub protocol: Protocol,
    /// Do not look at returned values
    #[arg(long = "no_verify")]
    pub no_verify: bool,
    /// Other clients write the same keys: do not judge the age of values
    #[arg(long = "shared")]
    pub shared: bool,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct Run {
    /// Server: HOST:PORT or unix:PATH; repeat for several nodes
    #[arg(long = "target", default_value = "127.0.0.1:11211")]
    pub target: Vec<Target>,
    #[command(flatten)]
    pub work: WorkOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Open loop: requests per second, whatever the answers take
    #[arg(long = "rate", value_parser = positive)]
    pub rate: Option<f64>,
    /// How requests of an open loop arrive
    #[arg(long = "arrival", value_enum, default_value_t = Arrival::Poisson)]
    pub arrival: Arrival,
    /// Do not store the keys first
    #[arg(long = "no_load")]
    pub no_load: bool,
    /// Read every key once at the end: no acknowledged write stays unread
    #[arg(long = "audit")]
    pub audit: bool,
    /// What a miss of a key means that was stored, not deleted and without time to live
    #[arg(long = "misses", value_enum, default_value_t = Misses::Auto)]
    pub misses: Misses,
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Where else to write what was measured.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct OutputOptions {
    /// Write everything as JSON
    #[arg(long = "json")]
    pub json: Option<PathBuf>,
    /// Write a table: seconds, points or samples
    #[arg(long = "csv")]
    pub csv: Option<PathBuf>,
    /// Write a page with plots that needs nothing else
    #[arg(long = "html")]
    pub html: Option<PathBuf>,
    /// Write the histogram of all latencies for HdrHistogram's plotter (run only)
    #[arg(long = "hgrm")]
    pub hgrm: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct SweepOptions {
    #[command(flatten)]
    pub run: Run,
    /// Option and values: connections, depth, multi_get, keys, value_size, key_size, rate or zipf, such as depth=1,4,16
    #[arg(long = "over")]
    pub over: Over,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct Search {
    #[command(flatten)]
    pub run: Run,
    /// Limit of the 99th percentile, in microseconds
    #[arg(long = "p99_below", value_parser = positive)]
    pub p99_below: f64,
    /// Where to begin, in requests per second
    #[arg(long = "rate_first", default_value_t = 10_000.0, value_parser = positive)]
    pub rate_first: f64,
    /// Stop when the answer is known within this share
    #[arg(long = "precision", default_value_t = 0.05, value_parser = positive)]
    pub precision: f64,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct Replay {
    #[command(flatten)]
    pub run: Run,
    /// Trace: Twitter's form (7 columns) or time,key,size,op
    #[arg(long = "trace")]
    pub trace: PathBuf,
    /// Requests to take from it at most
    #[arg(long = "limit", default_value_t = 100_000_000)]
    pub limit: usize,
}

/// An option with several values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Over {
    /// Which option.
    pub name: String,
    /// Its values.
    pub values: Vec<f64>,
}

impl Over {
    /// Sets the option to one of its values.
    pub fn apply(&self, value: f64, work: &mut WorkOptions, load: &mut LoadOptions) {
        match self.name.as_str() {
            "connections" => load.connections = value as u32,
            "depth" => load.depth = value as u32,
            "multi_get" => work.multi_get = value as u16,
            "keys" => work.keys = value as u32,
            "key_size" => work.key_size = value as u8,
            "value_size" => work.value_size = Sizes::Fixed(value as u32),
            "zipf" => work.distribution = Distribution::Zipf { alpha: value },
            _ => {}
        }
    }

    /// Whether a new value needs the keys stored again.
    pub fn reloads(&self) -> bool {
        matches!(self.name.as_str(), "keys" | "key_size" | "value_size")
    }
}

impl FromStr for Over {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, list) = text.split_once('=').ok_or("OPTION=VALUE,VALUE,... is wanted")?;
        let (_, low, high) = OVER.iter().find(|(known, _, _)| *known == name).ok_or_else(|| {
            let names: Vec<&str> = OVER.iter().map(|(name, _, _)| *name).collect();
            format!("`{name}` is not one of {}", names.join(", "))
        })?;
        let value = |part: &str| {
            let value = bytes(part).map(f64::from).or_else(|| part.parse().ok());
            let value = value.filter(|value| (*low..=*high).contains(value));
            value.ok_or_else(|| format!("`{part}` is not a {name} between {low} and {high}"))
        };
        let values = list.split(',').map(value).collect::<Result<Vec<f64>, _>>()?;
        Ok(Self { name: name.to_owned(), values })
    }
}

/// Options that can be swept, with their lowest and highest values.
const OVER: [(&str, f64, f64); 8] = [
    ("connections", 1.0, 60_000.0),
    ("depth", 1.0, 100_000.0),
    ("multi_get", 1.0, 1000.0),
    ("keys", 1.0, 1e9),
    ("key_size", KEY_BYTES_MIN as f64, 250.0),
    ("value_size", 0.0, VALUE_BYTES_MAX as f64),
    ("rate", 1.0, 1e9),
    ("zipf", 0.0, 10.0),
];

/// What a miss of a stored key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Misses {
    /// A fault if the server's stats say that it evicted nothing
    Auto,
    /// A fault
    Fault,
    /// An eviction
    Allowed,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct Compare {
    #[command(flatten)]
    pub work: WorkOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Rounds: each server measures once per round
    #[arg(long = "rounds", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// A named table of loads instead of the one given: node (depth 1, 16, 100 and get with 100 keys)
    #[arg(long = "table", value_parser = ["node"])]
    pub table: Option<String>,
    /// Write the plot of requests per CPU second over --over as an SVG picture
    #[arg(long = "svg", requires = "over")]
    pub svg: Option<PathBuf>,
    /// Rows instead: option and values, such as value_size=32,1k,32k (not rate)
    #[arg(long = "over", conflicts_with = "table")]
    pub over: Option<Over>,
    #[command(flatten)]
    pub output: OutputOptions,
    /// CPUs of the servers, such as 0
    #[arg(long = "server_cpus", value_delimiter = ',')]
    pub server_cpus: Vec<usize>,
    /// Command lines with {port} where the port belongs; the word echo stands for the bare echo server; a protocol and a colon
    /// in front (resp:valkey-server --port {port}) let the client speak that one to it
    #[arg(last = true, required = true, num_args = 1..)]
    pub commands: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub struct Echo {
    /// Port on 127.0.0.1
    #[arg(long = "port")]
    pub port: u16,
    /// Bytes of a request
    #[arg(long = "request_bytes", default_value_t = 22)]
    pub request_bytes: usize,
    /// Bytes of an answer
    #[arg(long = "reply_bytes", default_value_t = 135)]
    pub reply_bytes: usize,
}

impl WorkOptions {
    /// Refuses what a protocol cannot say.
    pub fn check(&self, protocol: Protocol) -> Result<(), String> {
        let cas = self.ratio.share(Kind::Cas) > 0.0;
        if cas && protocol == Protocol::Resp { Err("RESP has no cas: leave it out of --ratio".into()) } else { Ok(()) }
    }

    /// The work that these options describe.
    pub fn work(&self) -> Result<Work, String> {
        Ok(Work {
            keys: KeySpace { count: self.keys, size: self.key_size },
            distribution: self.distribution,
            sizes: self.value_size.clone(),
            mix: self.ratio.clone(),
            multi_get: self.multi_get,
            ttls: self.ttl.clone(),
            fill_misses: self.fill_misses,
            seed: self.seed,
            trace: None,
        })
    }
}

impl LoadOptions {
    /// The client that these options describe.
    pub fn client(&self, targets: Vec<Target>) -> Client {
        Client {
            targets,
            protocol: self.protocol,
            raw: None,
            connections: self.connections as usize,
            threads: self.threads as usize,
            cpus: self.client_cpus.clone(),
            timeout: Duration::from_secs_f64(self.timeout),
            verify: !self.no_verify,
            churn: self.churn,
            spin: self.spin,
            shards: None,
        }
    }

    /// The pace that these options describe.
    pub fn pace(&self) -> Pace {
        Pace {
            warm_up: Duration::from_secs_f64(self.warm_up),
            duration: Duration::from_secs_f64(self.duration),
            depth: self.depth as usize,
            rate: None,
        }
    }
}

/// Turns `--value-size` into `--value_size`, up to a lone `--`.
pub fn normalised(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut ours = true;
    arguments
        .map(|argument| {
            ours &= argument != "--";
            let Some(name) = argument.strip_prefix("--").filter(|_| ours) else { return argument };
            let (name, rest) = name.find('=').map_or((name, ""), |at| name.split_at(at));
            format!("--{}{rest}", name.replace('-', "_"))
        })
        .collect()
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    if number > 0.0 && number <= 1e9 { Ok(number) } else { Err("a number above 0 is wanted".into()) }
}

fn as_text<T: ToString, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

//! What can be asked for on the command line. Underscore names are the main ones; dashes are accepted everywhere.
//!
//! A help text is one line per option, in groups, with examples first: two screens of 24 lines. What a line has no room for is told
//! by `loadgen explain` (`topics`).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::doors::Protocol;
use crate::misses;
use crate::session::{Client, Pace};
use crate::target::Target;
use crate::topics;
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
#[command(after_help = "`loadgen ACTION --help` has examples; `loadgen explain` tells forms of values, presets and traces.")]
pub struct Options {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Subcommand)]
pub enum Action {
    /// Load a running server and report
    #[command(args_override_self = true, disable_help_flag = true, help_template = TEMPLATE, before_help = RUN_EXAMPLES, after_help = MORE)]
    Run(Run),
    /// Measure a running server over several values of one option
    #[command(args_override_self = true, disable_help_flag = true, help_template = TEMPLATE, before_help = SWEEP_EXAMPLES, after_help = MORE)]
    Sweep(SweepOptions),
    /// Find the highest rate at which the 99th percentile of the latency stays below a limit
    #[command(args_override_self = true, disable_help_flag = true, help_template = TEMPLATE, before_help = SEARCH_EXAMPLES, after_help = MORE)]
    Search(Search),
    /// Ask a recorded sequence of requests again
    #[command(args_override_self = true, disable_help_flag = true, help_template = TEMPLATE, before_help = REPLAY_EXAMPLES, after_help = MORE)]
    Replay(Replay),
    /// Start several servers, give them the same work in alternating rounds, and report the ratios
    #[command(args_override_self = true, disable_help_flag = true, help_template = TEMPLATE, before_help = COMPARE_EXAMPLES, after_help = MORE)]
    Compare(Compare),
    /// Start several servers and find their miss ratios on recorded traces, over how much of them fits
    #[command(args_override_self = true, disable_help_flag = true, help_template = TEMPLATE, before_help = MISSES_EXAMPLES, after_help = MORE)]
    Misses(MissesOptions),
    /// Tell the forms of values, presets, traces and the rest that a help text has no room for
    Explain(Explain),
    /// Serve as the floor: a bare io_uring server that answers bytes with bytes
    #[command(hide = true)]
    Echo(Echo),
}

/// Which topic to explain.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// One topic; all of them by default
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(topics::names()))]
    pub topic: Option<String>,
}

/// What to ask for.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Requests")]
pub struct WorkOptions {
    /// Keys
    #[arg(long = "keys", value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    pub keys: u32,
    /// Size of a key
    #[arg(long = "key_size", value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u8).range(KEY_BYTES_MIN as i64..=250))]
    pub key_size: u8,
    /// Size of values: 100, 1k, 10-500, 100:9,4k:1 or a law
    #[arg(long = "value_size", value_name = "SIZES", default_value = "100")]
    #[serde(serialize_with = "as_text")]
    pub value_size: Sizes,
    /// Commands and their weights
    #[arg(long = "ratio", value_name = "MIX", default_value = "get:90,set:10")]
    #[serde(serialize_with = "as_text")]
    pub ratio: Mix,
    /// Keys per get
    #[arg(long = "multi_get", value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub multi_get: u16,
    /// uniform, zipf[:0.99], hotspot, latest, sequential
    #[arg(long = "distribution", value_name = "LAW", default_value = "uniform")]
    #[serde(serialize_with = "as_text")]
    pub distribution: Distribution,
    /// Time to live of writes: 60s, or 1h:9,0:1; 0 is for ever
    #[arg(long = "ttl", value_name = "TTLS", default_value = "0")]
    pub ttl: Ttls,
    /// Store the item again after a miss
    #[arg(long = "fill_misses")]
    pub fill_misses: bool,
    /// Seed of everything random
    #[arg(long = "seed", value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

/// How hard to ask.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub struct LoadOptions {
    /// Connections of all threads
    #[arg(long = "connections", value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// Requests in flight per connection
    #[arg(long = "depth", value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub depth: u32,
    /// Client threads
    #[arg(long = "threads", value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// CPUs of the client threads, such as 1,3
    #[arg(long = "client_cpus", value_name = "LIST", value_delimiter = ',')]
    pub client_cpus: Vec<usize>,
    /// Seconds to measure
    #[arg(long = "duration", value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    pub duration: f64,
    /// Seconds to work before counting begins
    #[arg(long = "warm_up", value_name = "SECONDS", default_value_t = 1.0, value_parser = positive)]
    pub warm_up: f64,
    /// After so long without an answer, give a connection up
    #[arg(long = "timeout", value_name = "SECONDS", default_value_t = 5.0, value_parser = positive)]
    pub timeout: f64,
    /// Open a connection anew after so many requests; 0: never
    #[arg(long = "churn", value_name = "COUNT", default_value_t = 0)]
    pub churn: u64,
    /// Poll shortly before a request is due: takes a CPU per thread
    #[arg(long = "spin")]
    pub spin: bool,
    /// Send each key to the port of its core (asks `stats shards`)
    #[arg(long = "shard_aware")]
    pub shard_aware: bool,
    /// text, meta, binary or resp
    #[arg(long = "protocol", value_name = "NAME", value_enum, default_value_t = Protocol::Text, hide_possible_values = true)]
    pub protocol: Protocol,
    /// Do not look at returned values
    #[arg(long = "no_verify", help_heading = "Checks")]
    pub no_verify: bool,
    /// Other clients write these keys: do not judge age and loss
    #[arg(long = "shared", help_heading = "Checks")]
    pub shared: bool,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct Run {
    #[command(flatten)]
    pub work: WorkOptions,
    /// HOST:PORT or unix:PATH, repeatable
    #[arg(long = "target", value_name = "SERVER", default_value = "127.0.0.1:11211", help_heading = "Load")]
    pub target: Vec<Target>,
    /// Open loop: requests per second, whatever the answers take
    #[arg(long = "rate", value_name = "NUMBER", value_parser = positive, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Open loop: requests come poisson or constant
    #[arg(long = "arrival", value_name = "LAW", value_enum, default_value_t = Arrival::Poisson, hide_possible_values = true, help_heading = "Load")]
    pub arrival: Arrival,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Do not store the keys first
    #[arg(long = "no_load", help_heading = "Checks")]
    pub no_load: bool,
    /// Read every key at the end: no acknowledged write stays unread
    #[arg(long = "audit", help_heading = "Checks")]
    pub audit: bool,
    /// What the miss of a stored key is: auto, fault or allowed
    #[arg(long = "misses", value_name = "VERDICT", value_enum, default_value_t = Misses::Auto, hide_possible_values = true, help_heading = "Checks")]
    pub misses: Misses,
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Where else to write what was measured.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[command(next_help_heading = "Files to write")]
pub struct OutputOptions {
    /// Everything
    #[arg(long = "json", value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A table: seconds, points or samples
    #[arg(long = "csv", value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// A page with plots that needs nothing else
    #[arg(long = "html", value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// All latencies for HdrHistogram's plotter (run, replay)
    #[arg(long = "hgrm", value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Known to everybody who reads it.
    #[arg(long = "help", short = 'h', action = clap::ArgAction::Help, hide = true)]
    #[serde(skip)]
    help: Option<bool>,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct SweepOptions {
    /// connections, depth, multi_get, keys, value_size, key_size, rate, zipf
    #[arg(long = "over", value_name = "OPTION=LIST", help_heading = "Sweep")]
    pub over: Over,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct Search {
    /// Limit of the 99th percentile, in microseconds
    #[arg(long = "p99_below", value_name = "US", value_parser = positive, help_heading = "Search")]
    pub p99_below: f64,
    /// Where to begin, in requests per second
    #[arg(long = "rate_first", value_name = "NUMBER", default_value_t = 10_000.0, value_parser = positive, help_heading = "Search")]
    pub rate_first: f64,
    /// Stop when the answer is known within this share
    #[arg(long = "precision", value_name = "SHARE", default_value_t = 0.05, value_parser = positive, help_heading = "Search")]
    pub precision: f64,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct Replay {
    /// Recorded requests: `loadgen explain traces`
    #[arg(long = "trace", value_name = "FILE", help_heading = "Trace")]
    pub trace: PathBuf,
    /// Requests to take from it at most
    #[arg(long = "limit", value_name = "COUNT", default_value_t = 100_000_000, help_heading = "Trace")]
    pub limit: usize,
    #[command(flatten)]
    pub run: Run,
}

/// What was used, examples, the options in groups, where to read on.
const TEMPLATE: &str = "{about}.\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}";
const MORE: &str = "--preset NAME stands for options of a published workload. Forms and names: `loadgen explain`";
const RUN_EXAMPLES: &str = "  loadgen run --target 127.0.0.1:11211                 closed loop over 50 connections
  loadgen run --rate 20000 --html out.html             open loop, latency from the intended start
  loadgen run --preset cluster52 --depth 16 --audit    a published workload";
const SWEEP_EXAMPLES: &str = "  loadgen sweep --over connections=1,10,100,1000 --html out.html
  loadgen sweep --over value_size=32,1k,32k --depth 16 --csv out.csv";
const SEARCH_EXAMPLES: &str = "  loadgen search --p99_below 500                       highest rate with p99 below 500 us
  loadgen search --p99_below 1000 --precision 0.02 --html out.html";
const REPLAY_EXAMPLES: &str = "  loadgen replay --trace trace.csv --fill_misses       hit ratio of a recorded trace
  loadgen replay --trace trace.csv --fill_misses --depth 32 --connections 4";
const COMPARE_EXAMPLES: &str =
    "  loadgen compare --table node -- 'pbcache --ip 127.0.0.1 --port {port}' 'memcached -p {port}' echo
  loadgen compare --over depth=1,16 --svg out.svg -- 'pbcache --port {port}' 'memcached -p {port}'";

const MISSES_EXAMPLES: &str = "  loadgen misses --trace orm-busy.trace.xz --svg . --html misses.html -- \\
    'pbcache --cores 1 --memory_size {mib} --ip 127.0.0.1 --port {port}' \\
    'memcached -t 1 -m {mib} -l 127.0.0.1 -U 0 -p {port}'";

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
    /// Servers: command lines with {port}, or echo: `loadgen explain servers`
    #[arg(last = true, required = true, num_args = 1..)]
    pub commands: Vec<String>,
    /// Rounds: each server measures once per round
    #[arg(long = "rounds", value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Rounds")]
    pub rounds: u32,
    /// Rows: node is depth 1, 16, 100, and get with 100 keys
    #[arg(long = "table", value_name = "NAME", value_parser = ["node"], hide_possible_values = true, help_heading = "Rounds")]
    pub table: Option<String>,
    /// Rows instead, such as value_size=32,1k,32k (not rate)
    #[arg(long = "over", value_name = "OPTION=LIST", conflicts_with = "table", help_heading = "Rounds")]
    pub over: Option<Over>,
    /// CPUs of the servers, such as 0
    #[arg(long = "server_cpus", value_name = "LIST", value_delimiter = ',', help_heading = "Rounds")]
    pub server_cpus: Vec<usize>,
    #[command(flatten)]
    pub work: WorkOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    /// A picture of requests per CPU second over --over
    #[arg(long = "svg", value_name = "FILE", requires = "over", help_heading = "Files to write")]
    pub svg: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Serialize)]
pub struct MissesOptions {
    /// Servers: command lines with {port} and {mib}
    #[arg(last = true, required = true, num_args = 1..)]
    pub commands: Vec<String>,
    /// Recorded requests; repeat for several traces
    #[arg(long = "trace", value_name = "FILE", required = true, help_heading = "Traces")]
    pub trace: Vec<PathBuf>,
    /// Requests to take from a trace at most
    #[arg(long = "limit", value_name = "COUNT", default_value_t = 100_000_000, help_heading = "Traces")]
    pub limit: usize,
    /// Shares of all keys and values that fit, in percent
    #[arg(long = "shares", value_name = "LIST", value_delimiter = ',', default_value = "1,3,10,30", value_parser = percent, help_heading = "Sizes")]
    pub shares: Vec<f64>,
    /// Resident memory of each server's process when full, in MiB
    #[arg(long = "memory", value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(8..=1_048_576), help_heading = "Sizes")]
    pub memory: u64,
    /// How far values may be from the mean length, in percent
    #[arg(long = "spread", value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=99), help_heading = "Sizes")]
    pub spread: u32,
    /// Fetch the values too (get, not mg): slower, and the same misses
    #[arg(long = "values", help_heading = "Sizes")]
    pub values: bool,
    #[command(flatten)]
    pub output: OutputOptions,
    /// A picture for each trace, in this folder
    #[arg(long = "svg", value_name = "FOLDER", help_heading = "Files to write")]
    pub svg: Option<PathBuf>,
}

impl MissesOptions {
    /// The pictures to be written, one per trace.
    pub fn svg_files(&self) -> Vec<PathBuf> {
        let file = |folder: &PathBuf, trace: &PathBuf| folder.join(format!("{}.svg", misses::trace_name(trace)));
        self.svg.iter().flat_map(|folder| self.trace.iter().map(move |trace| file(folder, trace))).collect()
    }
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

impl Action {
    /// The files that are to be written at the end, each with its option, or why one of them will not be.
    pub fn files(&self) -> Result<Vec<(&'static str, PathBuf)>, String> {
        let output = match self {
            Action::Run(options) => &options.output,
            Action::Replay(options) => &options.run.output,
            Action::Sweep(SweepOptions { run, .. }) | Action::Search(Search { run, .. }) => &run.output,
            Action::Compare(options) => &options.output,
            Action::Misses(options) => &options.output,
            Action::Explain(_) | Action::Echo(_) => return Ok(Vec::new()),
        };
        if output.hgrm.is_some() && !matches!(self, Action::Run(_) | Action::Replay(_)) {
            return Err("--hgrm holds one measurement: it belongs to run and replay".into());
        }
        let svg = match self {
            Action::Compare(options) => options.svg.iter().cloned().collect(),
            Action::Misses(options) => options.svg_files(),
            _ => Vec::new(),
        };
        let named = [("--json", &output.json), ("--csv", &output.csv), ("--html", &output.html), ("--hgrm", &output.hgrm)];
        let named = named.into_iter().filter_map(|(option, path)| Some((option, path.clone()?)));
        Ok(named.chain(svg.into_iter().map(|path| ("--svg", path))).collect())
    }
}

impl WorkOptions {
    /// Refuses what a protocol cannot say.
    pub fn check(&self, protocol: Protocol) -> Result<(), String> {
        let has = |kind| self.ratio.share(kind) > 0.0;
        match protocol {
            Protocol::Resp if has(Kind::Cas) => Err("RESP has no cas: leave it out of --ratio".into()),
            Protocol::Http if has(Kind::Touch) => Err("HTTP has no touch: leave it out of --ratio".into()),
            Protocol::Http if has(Kind::Incr) => Err("HTTP has no incr: leave it out of --ratio".into()),
            _ => Ok(()),
        }
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

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    if number > 0.0 && number < 100.0 { Ok(number) } else { Err("a share lies between 0 and 100 percent".into()) }
}

fn as_text<T: ToString, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two screens of a terminal with 24 lines.
    const LINES_MAX: usize = 48;
    const COLUMNS_MAX: usize = 100;

    fn help(action: &str) -> String {
        Options::try_parse_from(["loadgen", action, "--help"]).err().expect("help ends the program").to_string()
    }

    #[test]
    fn a_help_text_fits_two_screens_and_begins_with_examples() {
        for (action, lines_more) in [("run", 0), ("sweep", 4), ("search", 6), ("replay", 5), ("compare", 9), ("misses", 0)] {
            let text = help(action);
            let lines: Vec<&str> = text.trim_end().lines().collect();
            assert!(lines.len() <= LINES_MAX + lines_more, "{action}: {} lines\n{text}", lines.len());
            let long: Vec<&&str> = lines.iter().filter(|line| line.chars().count() > COLUMNS_MAX).collect();
            assert!(long.is_empty(), "{action}: {long:#?}");
            let first = lines.iter().position(|line| line.starts_with(&format!("  loadgen {action} ")));
            let group = lines.iter().position(|line| line.ends_with(':'));
            assert!(first.is_some() && first < group, "{action}: {text}");
            assert!(!text.contains("\nOptions:\n      --"), "{action}: an option is in no group\n{text}");
        }
    }

    #[test]
    fn the_help_of_a_law_tells_its_default() {
        assert!(help("run").contains("zipf[:0.99]"));
        assert_eq!("zipf".parse::<Distribution>(), Ok(Distribution::Zipf { alpha: 0.99 }));
    }
}

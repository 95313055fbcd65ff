//! From counts to something to read: one set of figures, one module per form.
//!
//! ```text
//!   Tally -> Report (figures, names, units) -> text | JSON (serde) | csv | html with plots
//!         -> hgrm (the whole histogram)
//! ```

pub mod csv;
pub mod files;
pub mod html;
pub mod plot;
pub mod text;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::Column;
use crate::machine::Machine;
use crate::tally::{Latency, Tally};

/// How and where something was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Context {
    /// The arguments of this process.
    pub command_line: Vec<String>,
    /// All options, also those not given.
    pub options: serde_json::Value,
    /// The machine.
    pub machine: Machine,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How and where.
    pub context: Context,
    /// All requests together.
    pub totals: Totals,
    /// Latencies of all commands together.
    pub all: Command,
    /// Each command.
    pub commands: Vec<Command>,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// Faults of the server by class.
    pub faults: BTreeMap<String, u64>,
    /// The first faults in words.
    pub fault_samples: Vec<String>,
    /// Keys found and not found when all were read at the end.
    pub audit: Option<(u64, u64)>,
    /// By how much each server's own `stats` grew.
    pub server_growth: Vec<BTreeMap<String, f64>>,
    /// Why the figures are not those of the server.
    pub invalid: Option<String>,
    /// Why the measurement is not whole.
    pub failure: Option<String>,
}

/// Counts of all requests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Answers.
    pub requests: u64,
    /// Length of the measurement.
    pub seconds: f64,
    /// Answers per second.
    pub rate: f64,
    /// Keys found.
    pub hits: u64,
    /// Keys not found.
    pub misses: u64,
    /// Found keys among keys asked for.
    pub hit_ratio: Option<f64>,
    /// Answers in which the server refused.
    pub refusals: u64,
    /// The first of them.
    pub refusal_sample: Option<String>,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Connections lost.
    pub connections_lost: u64,
    /// Requests of an open loop that were never sent.
    pub dropped: u64,
    /// Misses of stored keys that may be evictions.
    pub unexplained_misses: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// CPU time of the client per request, in microseconds.
    pub client_cpu_us: f64,
    /// CPU time of the client by wall time.
    pub client_busy: f64,
    /// Answers per system call of the client.
    pub requests_per_turn: f64,
    /// How late the client sent although a connection was free, in microseconds, at the 99th percentile.
    pub send_lag_p99_us: Option<f64>,
}

/// Latencies of one command.
#[derive(Clone, Debug, Serialize)]
pub struct Command {
    /// The command.
    pub name: String,
    /// From the intended start.
    pub quantiles: Quantiles,
    /// From sending, in an open loop.
    pub service: Option<Quantiles>,
    /// Quantile (0 to 1) and microseconds.
    pub curve: Vec<(f64, f64)>,
    /// The same from sending.
    pub service_curve: Option<Vec<(f64, f64)>>,
}

/// Quantiles of a latency, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    /// Exact.
    pub max: f64,
}

/// One second.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Second {
    pub second: u32,
    pub requests: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub hit_ratio: Option<f64>,
    pub errors: u64,
}

/// Several measurements over one parameter.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// How and where.
    pub context: Context,
    /// `sweep` or `search`.
    pub name: String,
    /// The parameter.
    pub over: String,
    /// The measurements, in the order in which they were made.
    pub points: Vec<Point>,
    /// What was looked for, if anything was.
    pub found: Option<String>,
}

/// One measurement of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The parameter's value.
    pub x: f64,
    /// What was measured.
    pub report: Report,
}

/// Several servers, the same work.
#[derive(Serialize)]
pub struct Comparison {
    /// How and where.
    pub context: Context,
    /// The servers' command lines.
    pub commands: Vec<String>,
    /// The parameter that the rows differ in, if it is one.
    pub over: Option<String>,
    /// One load each.
    pub rows: Vec<ComparisonRow>,
    /// Faults of all servers.
    pub faults: BTreeMap<String, u64>,
}

/// One load of a comparison.
#[derive(Serialize)]
pub struct ComparisonRow {
    /// The load in words.
    pub name: String,
    /// The parameter's value.
    pub x: f64,
    /// One per server.
    pub columns: Vec<Column>,
}

impl Context {
    /// The context of this process.
    pub fn new(options: &impl Serialize) -> Self {
        let options = serde_json::to_value(options).unwrap_or_default();
        Self { command_line: std::env::args().collect(), options, machine: Machine::this() }
    }
}

impl Report {
    /// The figures of a tally.
    pub fn new(context: Context, tally: &Tally, failure: Option<String>) -> Self {
        let elapsed = tally.elapsed_ns.max(1) as f64;
        let totals = Totals {
            requests: tally.requests(),
            seconds: elapsed / 1e9,
            rate: tally.rate(),
            hits: tally.hits,
            misses: tally.misses,
            hit_ratio: tally.hit_ratio(),
            refusals: tally.refusals,
            refusal_sample: tally.refusal_sample.clone(),
            unanswered: tally.unanswered,
            connections_lost: tally.connections_lost,
            dropped: tally.dropped,
            unexplained_misses: tally.unexplained_misses,
            received_bytes: tally.received_bytes,
            sent_bytes: tally.sent_bytes,
            client_cpu_us: tally.client_cpu_us(),
            client_busy: tally.cpu_ns as f64 / elapsed,
            requests_per_turn: tally.requests() as f64 / tally.turns.max(1) as f64,
            send_lag_p99_us: tally.lag.as_ref().map(|lag| lag.quantile_us(0.99)),
        };
        let command = |(kind, counts): &(crate::work::mix::Kind, crate::tally::CommandTally)| Command {
            service: counts.service.as_ref().map(quantiles),
            service_curve: counts.service.as_ref().map(curve),
            ..Command::new(kind.name(), &counts.latency)
        };
        Self {
            context,
            totals,
            all: Command::new("all", &tally.latency()),
            commands: tally.commands.iter().map(command).collect(),
            seconds: tally.intervals.iter().filter(|interval| interval.requests > 0).map(second).collect(),
            faults: tally.faults.iter().map(|(fault, count)| (fault.to_string(), *count)).collect(),
            fault_samples: tally.fault_samples.clone(),
            audit: None,
            server_growth: Vec::new(),
            invalid: None,
            failure,
        }
    }
}

impl Command {
    fn new(name: &str, latency: &Latency) -> Self {
        let (quantiles, curve) = (quantiles(latency), curve(latency));
        Self { name: name.to_owned(), quantiles, service: None, curve, service_curve: None }
    }
}

fn second(interval: &crate::tally::Interval) -> Second {
    let quantile = |at| interval.latency.value_at_quantile(at) as f64 / 1e3;
    let asked = interval.hits + interval.misses;
    Second {
        second: interval.second,
        requests: interval.requests,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        hit_ratio: (asked > 0).then(|| interval.hits as f64 / asked as f64),
        errors: interval.errors,
    }
}

fn quantiles(latency: &Latency) -> Quantiles {
    let at = |quantile| latency.quantile_us(quantile);
    Quantiles {
        count: latency.histogram.len(),
        mean: latency.histogram.mean() / 1e3,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        p9999: at(0.9999),
        max: at(1.0),
    }
}

/// Twenty points per nine, as far as there are values.
fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    let steps = 0..=100;
    let quantiles = steps.map(|step| 1.0 - 10f64.powf(-step as f64 / 20.0));
    let enough = |quantile: &f64| (1.0 - quantile) * latency.histogram.len() as f64 >= 1.0;
    quantiles.take_while(enough).map(|quantile| (quantile, latency.quantile_us(quantile))).collect()
}

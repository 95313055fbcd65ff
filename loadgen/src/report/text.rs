//! The report for a terminal.

use std::fmt::Write;

use crate::compare::{Column, Row, Sample};
use crate::options::Compare;
use crate::tally::{Interval, Latency, Tally};

/// The report of a run.
pub fn run(tally: &Tally) -> String {
    let mut text = String::new();
    let seconds = tally.elapsed_ns as f64 / 1e9;
    let _ = writeln!(text, "{} requests in {seconds:.2} s: {:.0} per second", tally.requests(), tally.rate());
    if let Some(ratio) = tally.hit_ratio() {
        let _ = writeln!(text, "hit ratio {:.4} ({} hits, {} misses)", ratio, tally.hits, tally.misses);
    }
    let _ = writeln!(
        text,
        "{:<18}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "latency, us", "count", "p50", "p90", "p99", "p99.9", "max"
    );
    for (kind, command) in &tally.commands {
        let _ = writeln!(text, "{}", latency_line(kind.name(), &command.latency));
        if let Some(service) = &command.service {
            let _ = writeln!(text, "{}", latency_line("  from sending", service));
        }
    }
    let busy = tally.cpu_ns as f64 / tally.elapsed_ns.max(1) as f64 * 100.0;
    let per_turn = tally.requests() as f64 / tally.turns.max(1) as f64;
    let _ = writeln!(
        text,
        "client: {:.2} us of CPU per request, {busy:.0} % busy, {per_turn:.1} requests per system call",
        tally.client_cpu_us()
    );
    text += &faults(tally);
    text
}

/// What went wrong, or nothing.
pub fn faults(tally: &Tally) -> String {
    let mut text = String::new();
    let mut line = |count: u64, words: &str| {
        if count > 0 {
            let _ = writeln!(text, "{count} {words}");
        }
    };
    line(tally.refusals, &format!("requests refused, first: {}", tally.refusal_sample.as_deref().unwrap_or("")));
    line(tally.unanswered, "requests without an answer");
    line(tally.connections_lost, "connections lost");
    line(tally.dropped, "requests never sent");
    line(tally.unexplained_misses, "misses of keys that were stored, not deleted and without time to live (evicted?)");
    for (fault, count) in &tally.faults {
        let _ = writeln!(text, "FAULT {fault}: {count}");
    }
    for sample in &tally.fault_samples {
        let _ = writeln!(text, "  {sample}");
    }
    text
}

/// What the server counted in the meantime.
pub fn growth(growth: &std::collections::BTreeMap<String, f64>) -> String {
    let shown = growth.iter().filter(|(name, _)| GROWTH_SHOWN.contains(&name.as_str()));
    let parts: Vec<String> = shown.map(|(name, value)| format!("{name} +{value}")).collect();
    if parts.is_empty() { "server: no stats".into() } else { format!("server: {}", parts.join(", ")) }
}

const GROWTH_SHOWN: [&str; 8] =
    ["cmd_get", "get_hits", "get_misses", "cmd_set", "cmd_touch", "curr_items", "evictions", "total_connections"];

/// The line of one second.
pub fn second(interval: &Interval) -> String {
    let quantile = |at: f64| interval.latency.value_at_quantile(at) as f64 / 1e3;
    let asked = interval.hits + interval.misses;
    let hits = if asked > 0 { format!("{:.4}", interval.hits as f64 / asked as f64) } else { "-".into() };
    format!(
        "{:>4} s  {:>9}/s  p50 {:>8.1} us  p99 {:>8.1}  p99.9 {:>8.1}  hits {hits}  errors {}",
        interval.second + 1,
        interval.requests,
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        interval.errors
    )
}

/// What is compared, and where.
pub fn compare_head(options: &Compare, server_cpus: &[usize], client_cpus: &[usize]) -> String {
    let work = &options.work;
    let mut text = String::new();
    for (number, command) in options.commands.iter().enumerate() {
        let _ = writeln!(text, "{}: {command}", (b'A' + number as u8 % 26) as char);
    }
    let _ = write!(
        text,
        "{} keys, {} bytes per value, {}, {} keys; {} rounds of {} s; servers on CPU {server_cpus:?}, client on {client_cpus:?}",
        work.keys, work.value_size, work.ratio, work.distribution, options.rounds, options.load.duration
    );
    text
}

/// The table of one row: median and spread of each figure, then the ratios of the first server to the others.
pub fn compare_row(row: &Row, columns: &[Column]) -> String {
    let mut text = format!("\n{}\n{:<28}", row.name, "");
    for column in columns {
        let _ = write!(text, "{:>34}", column.name);
    }
    for column in columns.iter().skip(1) {
        let _ = write!(text, "{:>16}", format!("A/{}", column.name));
    }
    for (name, figure, digits) in FIGURES {
        let _ = write!(text, "\n{name:<28}");
        for column in columns {
            let (low, median, high) = spread(column, figure);
            let _ = write!(text, "{:>34}", format!("{median:.digits$} [{low:.digits$} - {high:.digits$}]"));
        }
        for column in columns.iter().skip(1) {
            let ratio = spread(&columns[0], figure).1 / spread(column, figure).1;
            let _ = write!(text, "{:>16}", if ratio.is_finite() { format!("{ratio:.3}") } else { "-".into() });
        }
    }
    text.push('\n');
    text
}

type Figure = fn(&Sample) -> f64;

const FIGURES: [(&str, Figure, usize); 11] = [
    ("requests per CPU second", |sample| 1e6 / sample.server_cpu_us.max(1e-9), 0),
    ("server CPU per request, us", |sample| sample.server_cpu_us, 3),
    ("requests per second", |sample| sample.rate, 0),
    ("server busy", |sample| sample.server_busy, 2),
    ("client CPU per request, us", |sample| sample.client_cpu_us, 3),
    ("requests per client turn", |sample| sample.batch, 1),
    ("client busy", |sample| sample.client_busy, 2),
    ("latency p50, us", |sample| sample.p50_us, 1),
    ("latency p99, us", |sample| sample.p99_us, 1),
    ("hit ratio", |sample| sample.hit_ratio.unwrap_or(f64::NAN), 4),
    ("resident memory, MiB", |sample| sample.resident_bytes as f64 / 1048576.0, 1),
];

/// Lowest, median and highest of a figure.
fn spread(column: &Column, figure: Figure) -> (f64, f64, f64) {
    let mut values: Vec<f64> = column.samples.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    match values[..] {
        [] => (f64::NAN, f64::NAN, f64::NAN),
        [first, ..] => (first, values[values.len() / 2], values[values.len() - 1]),
    }
}

fn latency_line(name: &str, latency: &Latency) -> String {
    let quantile = |at| latency.quantile_us(at);
    format!(
        "{name:<18}{:>10}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>12.1}",
        latency.histogram.len(),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        quantile(0.999),
        quantile(1.0)
    )
}

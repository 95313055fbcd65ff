//! The report for a terminal.

use std::fmt::Write;

use super::{Comparison, ComparisonRow, Quantiles, Report, Sweep, Totals};
use crate::compare::{Figure, Sample};
use crate::misses::{Curve, CurvePoint, Curves};
use crate::tally::Interval;

/// The report of a run.
pub fn run(report: &Report) -> String {
    let totals = &report.totals;
    let mut text = String::new();
    let _ = writeln!(text, "{} requests in {:.2} s: {:.0} per second", totals.requests, totals.seconds, totals.rate);
    if let Some(ratio) = totals.hit_ratio {
        let _ = writeln!(text, "hit ratio {ratio:.4} ({} hits, {} misses)", totals.hits, totals.misses);
    }
    let _ = writeln!(
        text,
        "{:<18}{:>11}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "latency, us", "count", "p50", "p90", "p99", "p99.9", "max"
    );
    for command in &report.commands {
        let _ = writeln!(text, "{}", latency_line(&command.name, &command.quantiles));
        if let Some(service) = &command.service {
            let _ = writeln!(text, "{}", latency_line("  from sending", service));
        }
    }
    let _ = write!(
        text,
        "client: {:.2} us of CPU per request, {:.0} % busy, {:.1} requests per system call",
        totals.client_cpu_us,
        totals.client_busy * 100.0,
        totals.requests_per_turn
    );
    let _ = match totals.send_lag_p99_us {
        Some(lag) => writeln!(text, ", 99 % of the requests sent within {lag:.0} us of their time"),
        None => writeln!(text),
    };
    if let Some((hits, misses)) = report.audit {
        let _ = writeln!(text, "audit: {hits} keys found, {misses} not found");
    }
    text += &wrongs(totals);
    text += &faults(&report.faults, &report.fault_samples);
    for growth in &report.server_growth {
        let shown = growth.iter().filter(|(name, _)| GROWTH_SHOWN.contains(&name.as_str()));
        let parts: Vec<String> = shown.map(|(name, value)| format!("{name} {value:+}")).collect();
        let _ = writeln!(text, "server: {}", if parts.is_empty() { "no stats".into() } else { parts.join(", ") });
    }
    if let Some(words) = &report.invalid {
        let _ = writeln!(text, "INVALID: {words}");
    }
    text
}

/// What went wrong without being a fault, or nothing.
fn wrongs(totals: &Totals) -> String {
    let mut text = String::new();
    let mut line = |count: u64, words: &str| {
        if count > 0 {
            let _ = writeln!(text, "{count} {words}");
        }
    };
    line(totals.refusals, &format!("requests refused, first: {}", totals.refusal_sample.as_deref().unwrap_or("")));
    line(totals.unanswered, "requests without an answer");
    line(totals.connections_lost, "connections lost");
    line(totals.dropped, "requests never sent");
    line(totals.unexplained_misses, "misses of keys that were stored, not deleted and without time to live (evicted?)");
    text
}

/// The faults of a server, or nothing.
pub fn faults(faults: &std::collections::BTreeMap<String, u64>, samples: &[String]) -> String {
    let mut text = String::new();
    for (fault, count) in faults {
        let _ = writeln!(text, "FAULT {fault}: {count}");
    }
    for sample in samples {
        let _ = writeln!(text, "  {sample}");
    }
    text
}

/// The table of a sweep or a search.
pub fn sweep(sweep: &Sweep) -> String {
    let mut text = format!(
        "{:>14}{:>12}{:>10}{:>10}{:>10}{:>12}{:>11}  {}\n",
        sweep.over, "per second", "p50, us", "p99", "p99.9", "max", "hit ratio", "verdict"
    );
    for point in &sweep.points {
        let (totals, all) = (&point.report.totals, &point.report.all.quantiles);
        let hits = totals.hit_ratio.map_or("-".into(), |ratio| format!("{ratio:.4}"));
        let verdict = if point.report.invalid.is_some() { "INVALID" } else { "" };
        let _ = writeln!(
            text,
            "{:>14}{:>12.0}{:>10.1}{:>10.1}{:>10.1}{:>12.1}{hits:>11}  {verdict}",
            point.x, totals.rate, all.p50, all.p99, all.p999, all.max
        );
    }
    if let Some(words) = &sweep.found {
        let _ = writeln!(text, "{words}");
    }
    text
}

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

/// A whole comparison.
pub fn comparison(comparison: &Comparison) -> String {
    let mut text = compare_head(&comparison.commands);
    for row in &comparison.rows {
        text += &compare_row(row);
    }
    text + &faults(&comparison.faults, &[])
}

/// What is compared.
pub fn compare_head(commands: &[String]) -> String {
    let line = |(number, command): (usize, &String)| format!("{}: {command}\n", (b'A' + number as u8 % 26) as char);
    commands.iter().enumerate().map(line).collect()
}

/// The table of one row: median and spread of each figure, then the medians of the rounds' ratios of the first server
/// to the others.
pub fn compare_row(row: &ComparisonRow) -> String {
    let columns = &row.columns;
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
            let (low, median, high) = column.spread(figure);
            let _ = write!(text, "{:>34}", format!("{median:.digits$} [{low:.digits$} - {high:.digits$}]"));
        }
        for column in columns.iter().skip(1) {
            let ratio = columns[0].ratio(column, figure);
            let _ = write!(text, "{:>16}", if ratio.is_finite() { format!("{ratio:.3}") } else { "-".into() });
        }
    }
    text.push('\n');
    for column in columns {
        let (client, server) = (column.spread(client_busy).1, column.spread(server_busy).1);
        if client > CLIENT_BUSY_MAX && server < SERVER_BUSY_MIN {
            let _ = writeln!(
                text,
                "INVALID for {}: the client was the bottleneck; CPU time per request holds, throughput and latency do not",
                column.name
            );
        }
    }
    text
}

fn client_busy(sample: &Sample) -> f64 {
    sample.client_busy
}

fn server_busy(sample: &Sample) -> f64 {
    sample.server_busy
}

/// What a comparison shows of each sample: name, value, digits.
pub const FIGURES: [(&str, Figure, usize); 12] = [
    ("requests per CPU second", |sample| 1e6 / sample.server_cpu_us, 0),
    ("server CPU per request, us", |sample| sample.server_cpu_us, 3),
    ("requests per second", |sample| sample.rate, 0),
    ("server busy", server_busy, 2),
    ("client CPU per request, us", |sample| sample.client_cpu_us, 3),
    ("requests per client turn", |sample| sample.batch, 1),
    ("client busy", client_busy, 2),
    ("latency p50, us", |sample| sample.p50_us, 1),
    ("latency p99, us", |sample| sample.p99_us, 1),
    ("hit ratio", |sample| sample.hit_ratio.unwrap_or(f64::NAN), 4),
    ("resident memory, MiB", |sample| sample.resident_bytes as f64 / 1048576.0, 1),
    ("resident bytes per item", |sample| sample.bytes_per_item.unwrap_or(f64::NAN), 1),
];

/// All miss ratios.
pub fn curves(curves: &Curves) -> String {
    let traces = curves.traces.iter().map(|curve| {
        let points: String = curve.points.iter().map(|point| curve_point(point, &curves.names)).collect();
        curve_head(curve, curves) + &points
    });
    compare_head(&curves.commands) + &traces.collect::<String>()
}

/// What a trace holds, and the head of its table.
pub fn curve_head(curve: &Curve, all: &Curves) -> String {
    let Curve { trace, reads, objects, first_reads, .. } = curve;
    let mut text = format!(
        "\n{trace}: {reads} reads of {objects} objects, {first_reads:.4} of them the first one; {} MiB resident, values within {} %\n{:>7} {:>9}",
        all.memory_mib, all.spread, "fit", "value"
    );
    for name in &all.names {
        let _ = write!(text, "{name:>12}{:>16}", "resident (told)");
    }
    let _ = write!(text, "{:>12}", "LRU");
    for name in all.names.iter().skip(1) {
        let _ = write!(text, "{:>14}", format!("A/{name}"));
    }
    text + &format!("{:>8}\n", "A/LRU")
}

/// The line of one share: misses per read, and what each server takes.
pub fn curve_point(point: &CurvePoint, names: &[String]) -> String {
    let mut text = format!("{:>5} % {:>7.0} B", point.share, point.value_bytes);
    for server in &point.servers {
        let memory = format!("{:.1} ({})", server.resident_mib, server.told_mib);
        let _ = write!(text, "{:>12.4}{memory:>16}", server.misses);
    }
    let _ = write!(text, "{:>12.4}", point.lru);
    let first = point.servers.first().map_or(f64::NAN, |server| server.misses);
    for server in point.servers.iter().skip(1) {
        let _ = write!(text, "{:>14.3}", first / server.misses);
    }
    let _ = writeln!(text, "{:>8.3}", first / point.lru);
    for (name, server) in names.iter().zip(&point.servers).filter(|(_, server)| server.refused > 0) {
        let refusal = server.refusal.as_deref().unwrap_or_default();
        let _ = writeln!(text, "        {name} refused {} of the stores: {refusal}", server.refused);
    }
    text
}

fn latency_line(name: &str, quantiles: &Quantiles) -> String {
    let Quantiles { count, p50, p90, p99, p999, max, .. } = quantiles;
    format!("{name:<18}{count:>11}{p50:>10.1}{p90:>10.1}{p99:>10.1}{p999:>10.1}{max:>12.1}")
}

const GROWTH_SHOWN: [&str; 8] =
    ["cmd_get", "get_hits", "get_misses", "cmd_set", "cmd_touch", "curr_items", "evictions", "total_connections"];
/// When a comparison calls the client the bottleneck.
const CLIENT_BUSY_MAX: f64 = 0.95;
const SERVER_BUSY_MIN: f64 = 0.9;

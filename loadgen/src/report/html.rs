//! One HTML file that needs nothing else: tables and plots, no script, no network.

use std::fmt::Write;

use super::plot::{Plot, escape, short};
use super::{Comparison, Report, Sweep};
use crate::compare::Figure;
use crate::misses::{Curve, Curves};

/// The page of a run.
pub fn run(report: &Report) -> String {
    let mut body = format!("<h1>loadgen run</h1>\n<pre>{}</pre>\n", escape(&super::text::run(report)));
    let curve = |name: &str, points: &[(f64, f64)]| {
        // From a quantile q to 1 / (1 - q), so that every further nine takes the same room.
        let scaled = points.iter().map(|(quantile, us)| (1.0 / (1.0 - quantile).max(1e-7), *us)).collect();
        (name.to_owned(), scaled)
    };
    let mut series: Vec<_> = report.commands.iter().map(|command| curve(&command.name, &command.curve)).collect();
    let service = report.commands.iter().filter_map(|command| Some((command, command.service_curve.as_ref()?)));
    series.extend(service.map(|(command, points)| curve(&format!("{}, from sending", command.name), points)));
    body += &Plot {
        title: "Latency by percentile",
        x_label: "percentile",
        y_label: "microseconds",
        x_log: true,
        x_ticks: Vec::new(),
        y_log: true,
        series,
        references: 0,
        x_words: percentile,
    }
    .svg();
    let over_time = |value: fn(&super::Second) -> f64| {
        report.seconds.iter().map(|second| (second.second as f64 + 1.0, value(second))).collect::<Vec<_>>()
    };
    body += &Plot {
        title: "Rate",
        x_label: "second",
        y_label: "requests per second",
        x_log: false,
        x_ticks: Vec::new(),
        y_log: false,
        series: vec![("requests".into(), over_time(|second| second.requests as f64))],
        references: 0,
        x_words: short,
    }
    .svg();
    body += &Plot {
        title: "Latency over time",
        x_label: "second",
        y_label: "microseconds",
        x_log: false,
        x_ticks: Vec::new(),
        y_log: true,
        series: vec![
            ("p50".into(), over_time(|second| second.p50_us)),
            ("p99".into(), over_time(|second| second.p99_us)),
            ("p99.9".into(), over_time(|second| second.p999_us)),
        ],
        references: 0,
        x_words: short,
    }
    .svg();
    page("loadgen run", &body, &report.context)
}

/// The page of a sweep or a search.
pub fn sweep(sweep: &Sweep) -> String {
    let mut body = format!("<h1>loadgen {}</h1>\n<pre>{}</pre>\n", escape(&sweep.name), escape(&super::text::sweep(sweep)));
    let mut points: Vec<_> = sweep.points.iter().collect();
    points.sort_by(|left, right| left.x.total_cmp(&right.x));
    let line = |name: &str, value: fn(&Report) -> f64| {
        (name.to_owned(), points.iter().map(|point| (point.x, value(&point.report))).collect())
    };
    let throughput = vec![line("achieved", |report| report.totals.rate)];
    let latency = vec![
        line("p50", |report| report.all.quantiles.p50),
        line("p99", |report| report.all.quantiles.p99),
        line("p99.9", |report| report.all.quantiles.p999),
    ];
    let x_log = wide(points.iter().map(|point| point.x));
    for (title, y_label, y_log, series) in
        [("Throughput", "requests per second", false, throughput), ("Latency", "microseconds", true, latency)]
    {
        let (x_label, x_ticks) = (&*sweep.over, Vec::new());
        body += &Plot { title, x_label, y_label, x_log, x_ticks, y_log, series, references: 0, x_words: short }.svg();
    }
    page("loadgen sweep", &body, &sweep.context)
}

/// The page of a comparison.
pub fn comparison(comparison: &Comparison) -> String {
    let text = super::text::comparison(comparison);
    let mut body = format!("<h1>loadgen compare</h1>\n<pre>{}</pre>\n", escape(&text));
    if let (Some(over), true) = (&comparison.over, comparison.rows.len() > 1) {
        for (title, figure, _) in super::text::FIGURES {
            body += &over_plot(comparison, over, title, figure);
        }
    }
    page("loadgen compare", &body, &comparison.context)
}

/// The first figure of a comparison over the values of an option, as a picture by itself.
pub fn comparison_picture(comparison: &Comparison) -> String {
    let (title, figure, _) = super::text::FIGURES[0];
    over_plot(comparison, comparison.over.as_deref().unwrap_or("load"), title, figure)
}

fn over_plot(comparison: &Comparison, over: &str, title: &str, figure: Figure) -> String {
    let names = comparison.rows.iter().take(1).flat_map(|row| row.columns.iter().map(|column| column.name.clone()));
    let line = |(number, name): (usize, String)| {
        let points = comparison.rows.iter().map(|row| (row.x, row.columns[number].spread(figure).1)).collect();
        (name, points)
    };
    let series: Vec<(String, Vec<(f64, f64)>)> = names.enumerate().map(line).collect();
    let x_log = wide(comparison.rows.iter().map(|row| row.x));
    let y_log = wide(series.iter().flat_map(|(_, points)| points.iter().map(|point| point.1)));
    let headline = format!("{title}, over {over}");
    let (title, x_label, y_label, x_ticks) = (&*headline, over, title, Vec::new());
    Plot { title, x_label, y_label, x_log, x_ticks, y_log, series, references: 0, x_words: short }.svg()
}

/// The page of miss ratios.
pub fn curves(curves: &Curves) -> String {
    let text = super::text::curves(curves);
    let pictures: String = curves.traces.iter().map(|curve| curve_picture(curve, curves)).collect();
    let body = format!("<h1>loadgen misses</h1>\n<pre>{}</pre>\n{pictures}", escape(&text));
    page("loadgen misses", &body, &curves.context)
}

/// The miss ratios on one trace, as a picture by itself.
pub fn curve_picture(curve: &Curve, all: &Curves) -> String {
    let line = |value: &dyn Fn(&crate::misses::CurvePoint) -> f64| -> Vec<(f64, f64)> {
        curve.points.iter().map(|point| (point.share, value(point))).collect()
    };
    let mut series: Vec<(String, Vec<(f64, f64)>)> = all
        .names
        .iter()
        .enumerate()
        .map(|(number, name)| (name.clone(), line(&|point| point.servers[number].misses)))
        .collect();
    series.push(("LRU, simulated, without overhead".into(), line(&|point| point.lru)));
    series.push(("first reads: missed by any cache".into(), line(&|_| curve.first_reads)));
    let title = format!("{}: {} reads, {} MiB resident each", curve.trace, short(curve.reads as f64), all.memory_mib);
    Plot {
        title: &title,
        x_label: "share of all keys and values that is as many bytes as the memory",
        y_label: "misses per read",
        x_log: true,
        x_ticks: curve.points.iter().map(|point| point.share).collect(),
        y_log: false,
        series,
        references: 2,
        x_words: |share| format!("{share} %"),
    }
    .svg()
}

/// Whether values reach over so many sizes that only a logarithmic scale shows them all.
fn wide(values: impl Iterator<Item = f64>) -> bool {
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    low > 0.0 && high / low > 20.0
}

fn percentile(inverse: f64) -> String {
    let percent = 100.0 - 100.0 / inverse;
    format!("{}", (percent * 1e5).round() / 1e5)
}

fn page(title: &str, body: &str, context: &super::Context) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style></head><body>\n{body}"
    );
    let context = serde_json::to_string_pretty(context).unwrap_or_default();
    let _ = writeln!(text, "<h2>Configuration and machine</h2>\n<pre>{}</pre>\n</body></html>", escape(&context));
    text
}

const STYLE: &str = "body{font:14px sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}pre{overflow-x:auto;background:#f6f6f6;\
    padding:1em}svg{display:block;margin:1em 0;max-width:100%}svg text{font:12px sans-serif}.t{text-anchor:middle}.e{text-anchor:end}\
    .g{stroke:#ddd}";

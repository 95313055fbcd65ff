//! Tables for spreadsheets. One header line; microseconds, requests per second.
//!
//! Also the `.hgrm` form of HdrHistogram's plotting tools: value in microseconds, percentile, count up to there,
//! 1 / (1 - percentile).

use std::fmt::Write;

use super::text::FIGURES;
use super::{Comparison, Report, Sweep};
use crate::misses::Curves;
use crate::tally::Latency;

/// The seconds of a run.
pub fn run(report: &Report) -> String {
    let mut text = String::from("second,requests,p50_us,p99_us,p999_us,hit_ratio,errors\n");
    for second in &report.seconds {
        let hits = second.hit_ratio.map_or(String::new(), |ratio| format!("{ratio:.6}"));
        let (p50, p99, p999) = (second.p50_us, second.p99_us, second.p999_us);
        let _ = writeln!(text, "{},{},{p50},{p99},{p999},{hits},{}", second.second, second.requests, second.errors);
    }
    text
}

/// The points of a sweep.
pub fn sweep(sweep: &Sweep) -> String {
    let mut text = format!("{},requests_per_second,p50_us,p99_us,p999_us,max_us,hit_ratio,client_busy,invalid\n", sweep.over);
    for point in &sweep.points {
        let (report, all) = (&point.report, &point.report.all.quantiles);
        let hits = report.totals.hit_ratio.map_or(String::new(), |ratio| format!("{ratio:.6}"));
        let _ = writeln!(
            text,
            "{},{:.0},{},{},{},{},{hits},{:.3},{}",
            point.x,
            report.totals.rate,
            all.p50,
            all.p99,
            all.p999,
            all.max,
            report.totals.client_busy,
            report.invalid.is_some()
        );
    }
    text
}

/// Every sample of a comparison.
pub fn comparison(comparison: &Comparison) -> String {
    let mut text = String::from("load,server,round");
    for (name, _, _) in FIGURES {
        let _ = write!(text, ",{}", name.replace(',', ""));
    }
    text.push('\n');
    for row in &comparison.rows {
        for column in &row.columns {
            for (round, sample) in column.samples.iter().enumerate() {
                let _ = write!(text, "\"{}\",{},{round}", row.name, column.name);
                for (_, figure, digits) in FIGURES {
                    let _ = write!(text, ",{:.digits$}", figure(sample));
                }
                text.push('\n');
            }
        }
    }
    text
}

/// Every point of miss ratios.
pub fn curves(curves: &Curves) -> String {
    let mut text = String::from("trace,share,value_bytes,server,misses,lru,first_reads,told_mib,resident_mib,refused\n");
    for curve in &curves.traces {
        for point in &curve.points {
            for (name, server) in curves.names.iter().zip(&point.servers) {
                let _ = writeln!(
                    text,
                    "{},{},{:.0},{name},{:.6},{:.6},{:.6},{},{:.1},{}",
                    curve.trace,
                    point.share,
                    point.value_bytes,
                    server.misses,
                    point.lru,
                    curve.first_reads,
                    server.told_mib,
                    server.resident_mib,
                    server.refused
                );
            }
        }
    }
    text
}

/// A whole histogram.
pub fn hgrm(latency: &Latency) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let total = latency.histogram.len();
    let mut seen = 0;
    for step in latency.histogram.iter_recorded() {
        seen += step.count_since_last_iteration();
        let value = step.value_iterated_to().min(latency.max_ns) as f64 / 1e3;
        let percentile = seen as f64 / total.max(1) as f64;
        if percentile < 1.0 {
            let _ = writeln!(text, "{value:>12.3} {percentile:>14.12} {seen:>10} {:>14.2}", 1.0 / (1.0 - percentile));
        } else {
            let _ = writeln!(text, "{value:>12.3} {percentile:>14.12} {seen:>10}");
        }
    }
    let (mean, deviation) = (latency.histogram.mean() / 1e3, latency.histogram.stdev() / 1e3);
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(text, "#[Max     = {:>12.3}, Total count    = {total:>12}]", latency.max_ns as f64 / 1e3);
    text
}

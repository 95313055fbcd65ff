//! Several measurements of a running server: over the values of one option, or in search of a rate.
//!
//! ```text
//!   search:  rate  10k -> 20k -> 40k -> 80k            doubles while p99 stays below the limit and the rate is reached
//!                               |<- 60k -> 70k ->|     then halves the gap
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::options::{Run, Search, SweepOptions};
use crate::report::{self, Context, Point, Report, Sweep};
use crate::verify::Ledger;
use crate::{interrupt, run, writer_name};

/// Measures at each value and prints; gives the exit code.
pub fn sweep(options: &SweepOptions) -> Result<u8, String> {
    interrupt::catch();
    let context = Context::new(options);
    let mut points = Vec::new();
    let mut ledger = None;
    for value in &options.over.values {
        let mut run = options.run.clone();
        options.over.apply(*value, &mut run.work, &mut run.load);
        if options.over.name == "rate" {
            run.rate = Some(*value);
        }
        eprintln!("{} = {value}", options.over.name);
        if options.over.reloads() {
            ledger = None;
        }
        let store = ledger.is_none() && !run.no_load;
        let ledger = ledger.get_or_insert_with(|| Arc::new(Ledger::new(run.work.keys, writer_name(), run.load.shared)));
        let (report, _) = run::measure(&run, ledger, store, context.clone())?;
        let stop = report.failure.is_some() || interrupt::CAUGHT.load(Ordering::Relaxed);
        points.push(Point { x: *value, report });
        if stop {
            break;
        }
    }
    finish(&options.run, Sweep { context, name: "sweep".into(), over: options.over.name.clone(), points, found: None })
}

/// Searches and prints; gives the exit code.
pub fn search(options: &Search) -> Result<u8, String> {
    interrupt::catch();
    let context = Context::new(options);
    let ledger = Arc::new(Ledger::new(options.run.work.keys, writer_name(), options.run.load.shared));
    let mut points: Vec<Point> = Vec::new();
    let (mut good, mut bad, mut rate) = (0.0, f64::INFINITY, options.rate_first);
    for number in 0..MEASUREMENTS_MAX {
        let run = Run { rate: Some(rate), ..options.run.clone() };
        let store = number == 0 && !run.no_load;
        eprintln!("rate = {rate:.0}");
        let (mut report, _) = run::measure(&run, &ledger, store, context.clone())?;
        for _ in 0..REPEATS_MAX {
            // A client that stumbled says nothing of the server: ask again.
            if report.invalid.is_none() || report.failure.is_some() || interrupt::CAUGHT.load(Ordering::Relaxed) {
                break;
            }
            (report, _) = run::measure(&run, &ledger, false, context.clone())?;
        }
        let meets = meets(&report, rate, options.p99_below);
        let stop = report.failure.is_some() || interrupt::CAUGHT.load(Ordering::Relaxed);
        points.push(Point { x: rate, report });
        if meets {
            good = rate;
        } else {
            bad = rate;
        }
        if stop || bad - good <= good * options.precision || bad < RATE_MIN {
            break;
        }
        rate = if bad.is_finite() { (good + bad) / 2.0 } else { good * 2.0 };
    }
    let found = format!("highest rate with p99 below {} us: {good:.0} per second", options.p99_below);
    finish(&options.run, Sweep { context, name: "search".into(), over: "rate".into(), points, found: Some(found) })
}

fn meets(report: &Report, rate: f64, p99_below: f64) -> bool {
    let reached = report.totals.rate >= rate * REACHED_SHARE && report.totals.dropped == 0;
    reached && report.all.quantiles.p99 < p99_below && report.invalid.is_none()
}

fn finish(options: &Run, sweep: Sweep) -> Result<u8, String> {
    print!("{}", report::text::sweep(&sweep));
    let (csv, html) = (|| report::csv::sweep(&sweep), || report::html::sweep(&sweep));
    report::files::write_all(&options.output, &sweep, csv, html)?;
    Ok(sweep.points.iter().map(|point| run::exit_code(&point.report)).fold(0, |worst, code| match (worst, code) {
        (1, _) | (_, 1) => 1,
        (worst, code) => worst.max(code),
    }))
}

/// A rate counts as reached from this share on: arrivals at random vary.
const REACHED_SHARE: f64 = 0.97;
const MEASUREMENTS_MAX: usize = 40;
/// How often a measurement is repeated because the client stumbled.
const REPEATS_MAX: usize = 2;
/// A search that falls below this rate gives up.
const RATE_MIN: f64 = 1.0;

//! One run against a server that is up: load, measure, report, verdict.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::options::{Misses, OutputOptions, Replay, Run};
use crate::report::{self, Context, Report};
use crate::session::{Outcome, Pace, Session};
use crate::shards;
use crate::stats::{self, Stats};
use crate::tally::Tally;
use crate::target::Target;
use crate::verify::Ledger;
use crate::work::Work;
use crate::work::trace::Trace;
use crate::{interrupt, writer_name};

/// Runs and prints; gives the exit code.
pub fn run(options: &Run) -> Result<u8, String> {
    interrupt::catch();
    let context = Context::new(options);
    let ledger = Arc::new(Ledger::new(options.work.keys, writer_name(), options.load.shared));
    let (report, tally) = measure(options, &ledger, !options.no_load, context)?;
    finish(&options.output, &report, &tally)
}

/// Prints, writes the files, and gives the exit code.
fn finish(output: &OutputOptions, report: &Report, tally: &Tally) -> Result<u8, String> {
    print!("{}", report::text::run(report));
    report::files::write_all(output, report, || report::csv::run(report), || report::html::run(report))?;
    if let Some(path) = &output.hgrm {
        report::files::write(path, &report::csv::hgrm(&tally.latency()))?;
    }
    Ok(exit_code(report))
}

/// Asks a trace again and prints; gives the exit code.
pub fn replay(options: &Replay) -> Result<u8, String> {
    interrupt::catch();
    let trace = Arc::new(Trace::open(&options.trace, options.limit)?);
    eprintln!("{} requests for {} keys", trace.operations.len(), trace.keys_count());
    let mut run = options.run.clone();
    (run.load.duration, run.load.warm_up, run.no_load) = (LONG_SECONDS, 1e-6, true);
    let ledger = Arc::new(Ledger::new(trace.keys_count(), writer_name(), run.load.shared));
    let work = Work { trace: Some(trace), multi_get: 1, ..run.work.work()? };
    let (report, tally) = measure_work(&run, work, &ledger, false, Context::new(options))?;
    finish(&run.output, &report, &tally)
}

/// Connects, stores the keys if asked to, and measures once.
pub fn measure(options: &Run, ledger: &Arc<Ledger>, store: bool, context: Context) -> Result<(Report, Tally), String> {
    measure_work(options, options.work.work()?, ledger, store, context)
}

fn measure_work(
    options: &Run,
    work: Work,
    ledger: &Arc<Ledger>,
    store: bool,
    context: Context,
) -> Result<(Report, Tally), String> {
    options.work.check(options.load.protocol)?;
    let work = Arc::new(work);
    let mut client = options.load.client(options.target.clone());
    let before = server_stats(&options.target);
    if options.load.shard_aware {
        shards::adopt(&mut client)?;
    }
    let session = Session::open(&client, &work, ledger)?;
    if store {
        let tally = walk("load", options.work.keys, |progress| session.load(progress))?;
        if let Some(words) = tally.refusal_sample {
            eprintln!("{} stores refused while loading, first: {words}", tally.refusals);
        }
    }
    let pace = Pace { rate: options.rate.map(|rate| (rate, options.arrival)), ..options.load.pace() };
    let Outcome { mut tally, failure } =
        session.measure(pace, || {}, |interval| eprintln!("{}", report::text::second(interval)));
    let mut audited = None;
    if options.audit && failure.is_none() && work.trace.is_none() && !interrupt::CAUGHT.load(Ordering::Relaxed) {
        let audit = walk("audit", options.work.keys, |progress| session.audit(progress))?;
        audited = Some((audit.hits, audit.misses));
        let (hits, misses) = (tally.hits, tally.misses);
        tally.merge(Tally { commands: Vec::new(), intervals: Vec::new(), elapsed_ns: 0, ..audit });
        (tally.hits, tally.misses) = (hits, misses);
    }
    let after = server_stats(&options.target);
    judge_misses(&mut tally, options.misses, &before, &after);
    let growth = before.iter().zip(&after).map(|(before, after)| both(before, after, stats::growth)).collect();
    let mut report = Report::new(context, &tally, failure);
    report.server_growth = growth;
    report.audit = audited;
    report.invalid = client_fault(&tally, pace, client.threads, client.spin);
    Ok((report, tally))
}

/// Stores or reads all keys, with a progress bar.
fn walk(name: &str, keys: u32, walk: impl FnOnce(&dyn Fn(u32)) -> Result<Tally, String>) -> Result<Tally, String> {
    let style = indicatif::ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} keys, {per_sec}, {eta} left");
    let bar = indicatif::ProgressBar::new(keys as u64).with_message(name.to_owned());
    bar.set_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()));
    let result = walk(&|keys| bar.inc(keys as u64));
    bar.finish_and_clear();
    if interrupt::CAUGHT.load(Ordering::Relaxed) {
        return Err(format!("interrupted ({name})"));
    }
    result
}

/// 1: wrong answers; 3: the server was lost; 0: neither.
pub fn exit_code(report: &Report) -> u8 {
    if let Some(words) = &report.failure {
        eprintln!("loadgen: {words}");
    }
    match (report.faults.is_empty(), &report.failure) {
        (false, _) => 1,
        (true, Some(_)) => 3,
        (true, None) => 0,
    }
}

/// Decides whether keys that were missing were lost, by what the servers say of evictions.
fn judge_misses(tally: &mut Tally, misses: Misses, before: &[Option<Stats>], after: &[Option<Stats>]) {
    let kept = before.iter().zip(after).all(|(before, after)| {
        both(before, after, |before, after| if stats::kept_everything(before, after) { 1 } else { 0 }) == 1
    });
    match misses {
        Misses::Fault => tally.call_misses_lost(),
        Misses::Auto if kept => tally.call_misses_lost(),
        Misses::Auto | Misses::Allowed => {}
    }
}

/// Every server's stats, in the order of the targets.
fn server_stats(targets: &[Target]) -> Vec<Option<Stats>> {
    targets.iter().map(|target| stats::read(target, "")).collect()
}

fn both<T: Default>(before: &Option<Stats>, after: &Option<Stats>, function: fn(&Stats, &Stats) -> T) -> T {
    match (before, after) {
        (Some(before), Some(after)) => function(before, after),
        _ => T::default(),
    }
}

/// Why these figures tell more of the client than of the server, if they do.
fn client_fault(tally: &Tally, pace: Pace, threads: usize, spin: bool) -> Option<String> {
    let busy = tally.cpu_ns as f64 / tally.elapsed_ns.max(1) as f64 / threads.max(1) as f64;
    if let (Some((rate, _)), Some(lag)) = (pace.rate, &tally.lag) {
        let late = lag.quantile_us(0.99);
        let allowed = (tally.latency().quantile_us(0.5) * LAG_SHARE_MAX).max(LAG_US_MIN);
        if late > allowed {
            return Some(format!(
                "1 % of the requests were sent {late:.0} us late or later by this client; {allowed:.0} us are allowed"
            ));
        }
        if busy > BUSY_MAX && !spin {
            return Some(format!("the client was {:.0} % busy at {rate:.0} requests per second", busy * 100.0));
        }
        return None;
    }
    (busy > BUSY_MAX)
        .then(|| format!("the client was {:.0} % busy: it may be the bottleneck; use more --threads", busy * 100.0))
}

/// A replay ends with its trace: this many seconds are more than enough.
const LONG_SECONDS: f64 = 1e7;
/// A client busier than this may be what is measured.
const BUSY_MAX: f64 = 0.95;
/// Send lag that is allowed at the 99th percentile: this share of the median latency, but at least so many microseconds.
const LAG_SHARE_MAX: f64 = 0.5;
const LAG_US_MIN: f64 = 100.0;

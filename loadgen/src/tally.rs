//! What was counted: by one thread in one measurement, and merged over threads.
//!
//! Latencies are kept in nanoseconds, in HDR histograms of three digits, with the exact maximum beside them.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::verify::Fault;
use crate::work::mix::Kind;

/// Counts of a measurement.
#[derive(Clone, Default)]
pub struct Tally {
    /// Per command, in the order of first use.
    pub commands: Vec<(Kind, CommandTally)>,
    /// Keys found by gets.
    pub hits: u64,
    /// Keys not found by gets.
    pub misses: u64,
    /// Misses that contradict an acknowledged write, unless the server evicted.
    pub unexplained_misses: u64,
    /// The first of them in words.
    pub unexplained_samples: Vec<String>,
    /// Answers in which the server refused.
    pub refusals: u64,
    /// The first of them, in the server's words.
    pub refusal_sample: Option<String>,
    /// Requests without an answer: connection lost or time over.
    pub unanswered: u64,
    /// Connections lost.
    pub connections_lost: u64,
    /// Requests that an open loop could not even queue.
    pub dropped: u64,
    /// Faults of the server by class.
    pub faults: BTreeMap<Fault, u64>,
    /// The first faults in words.
    pub fault_samples: Vec<String>,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// CPU time of the client's threads, in nanoseconds.
    pub cpu_ns: u64,
    /// Length of the measurement, in nanoseconds.
    pub elapsed_ns: u64,
    /// System calls of the pump.
    pub turns: u64,
    /// How late requests of an open loop were sent although a connection was free.
    pub lag: Option<Box<Latency>>,
    /// The measurement second by second.
    pub intervals: Vec<Interval>,
}

/// Counts of one command.
#[derive(Clone)]
pub struct CommandTally {
    /// From the intended start to the answer.
    pub latency: Latency,
    /// From sending to the answer; the same as `latency` in a closed loop, where it is left empty.
    pub service: Option<Latency>,
}

/// A histogram of nanoseconds with its exact maximum.
#[derive(Clone)]
pub struct Latency {
    /// Bounded to three digits.
    pub histogram: Histogram<u64>,
    /// Exact.
    pub max_ns: u64,
}

/// One second of a measurement.
#[derive(Clone)]
pub struct Interval {
    /// Which second, from 0.
    pub second: u32,
    /// Requests answered.
    pub requests: u64,
    /// Keys found.
    pub hits: u64,
    /// Keys not found.
    pub misses: u64,
    /// Refusals, faults, lost connections.
    pub errors: u64,
    /// Of all commands.
    pub latency: Histogram<u64>,
}

impl Tally {
    /// The tally of one command.
    #[inline]
    pub fn command(&mut self, kind: Kind, open_loop: bool) -> &mut CommandTally {
        let at = match self.commands.iter().position(|(known, _)| *known == kind) {
            Some(at) => at,
            None => {
                let service = open_loop.then(Latency::default);
                self.commands.push((kind, CommandTally { latency: Latency::default(), service }));
                self.commands.len() - 1
            }
        };
        &mut self.commands[at].1
    }

    /// Counts a fault and keeps the first few in words.
    pub fn fault(&mut self, fault: Fault, words: impl FnOnce() -> String) {
        *self.faults.entry(fault).or_default() += 1;
        if self.fault_samples.len() < FAULT_SAMPLES_MAX {
            self.fault_samples.push(words());
        }
    }

    /// Counts a miss of a key that should be there.
    pub fn unexplained_miss(&mut self, words: impl FnOnce() -> String) {
        self.unexplained_misses += 1;
        if self.unexplained_samples.len() < FAULT_SAMPLES_MAX {
            self.unexplained_samples.push(words());
        }
    }

    /// The server has evicted nothing: keys that were missing were lost.
    pub fn call_misses_lost(&mut self) {
        if self.unexplained_misses > 0 {
            *self.faults.entry(Fault::Lost).or_default() += std::mem::take(&mut self.unexplained_misses);
            let samples = std::mem::take(&mut self.unexplained_samples);
            self.fault_samples.extend(samples.into_iter().map(|words| format!("lost: {words}")));
            self.fault_samples.truncate(FAULT_SAMPLES_MAX);
        }
    }

    /// Answers of all commands.
    pub fn requests(&self) -> u64 {
        self.commands.iter().map(|(_, command)| command.latency.histogram.len()).sum()
    }

    /// Faults of all classes.
    pub fn faults_count(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests() as f64 / (self.elapsed_ns.max(1) as f64 / 1e9)
    }

    /// Found keys among all keys asked for; `None` without a get.
    pub fn hit_ratio(&self) -> Option<f64> {
        let asked = self.hits + self.misses;
        (asked > 0).then(|| self.hits as f64 / asked as f64)
    }

    /// CPU time of the client per request, in microseconds.
    pub fn client_cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.requests().max(1) as f64
    }

    /// Latencies of all commands together.
    pub fn latency(&self) -> Latency {
        let mut all = Latency::default();
        for (_, command) in &self.commands {
            all.merge(&command.latency);
        }
        all
    }

    /// Adds what another thread counted in the same time.
    pub fn merge(&mut self, other: Tally) {
        for (kind, theirs) in other.commands {
            let ours = self.command(kind, theirs.service.is_some());
            ours.latency.merge(&theirs.latency);
            if let (Some(ours), Some(theirs)) = (&mut ours.service, &theirs.service) {
                ours.merge(theirs);
            }
        }
        self.hits += other.hits;
        self.misses += other.misses;
        self.unexplained_misses += other.unexplained_misses;
        self.unexplained_samples.extend(other.unexplained_samples);
        self.unexplained_samples.truncate(FAULT_SAMPLES_MAX);
        self.refusals += other.refusals;
        self.refusal_sample = self.refusal_sample.take().or(other.refusal_sample);
        self.unanswered += other.unanswered;
        self.connections_lost += other.connections_lost;
        self.dropped += other.dropped;
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        let room = FAULT_SAMPLES_MAX - self.fault_samples.len().min(FAULT_SAMPLES_MAX);
        self.fault_samples.extend(other.fault_samples.into_iter().take(room));
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.cpu_ns += other.cpu_ns;
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        self.turns += other.turns;
        match (&mut self.lag, other.lag) {
            (Some(ours), Some(theirs)) => ours.merge(&theirs),
            (ours @ None, theirs) => *ours = theirs,
            _ => {}
        }
        for interval in other.intervals {
            merge_interval(&mut self.intervals, interval);
        }
    }
}

/// Adds one thread's second to the seconds of all.
pub fn merge_interval(intervals: &mut Vec<Interval>, interval: Interval) {
    match intervals.iter_mut().find(|known| known.second == interval.second) {
        Some(known) => {
            known.requests += interval.requests;
            known.hits += interval.hits;
            known.misses += interval.misses;
            known.errors += interval.errors;
            // Both have the same bounds and auto-resize is off: cannot fail.
            let _ = known.latency.add(&interval.latency);
        }
        None => intervals.push(interval),
    }
}

impl Latency {
    /// Notes one request.
    #[inline]
    pub fn record(&mut self, nanoseconds: u64) {
        self.histogram.saturating_record(nanoseconds);
        self.max_ns = self.max_ns.max(nanoseconds);
    }

    /// The value at a quantile (0 to 1), in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        if quantile >= 1.0 {
            return self.max_ns as f64 / 1e3;
        }
        self.histogram.value_at_quantile(quantile).min(self.max_ns) as f64 / 1e3
    }

    /// Adds another's values.
    pub fn merge(&mut self, other: &Latency) {
        // Both have the same bounds: cannot fail.
        let _ = self.histogram.add(&other.histogram);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self { histogram: histogram(3), max_ns: 0 }
    }
}

impl Interval {
    /// An empty second.
    pub fn new(second: u32) -> Self {
        Self { second, requests: 0, hits: 0, misses: 0, errors: 0, latency: histogram(2) }
    }
}

fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, digits).unwrap_or_else(|error| panic!("constant bounds are valid: {error}"))
}

/// Longest time that a histogram tells apart: 100 s. Longer ones count as that, and in `max_ns` exactly.
const LATENCY_NS_MAX: u64 = 100_000_000_000;
/// Faults that are told in words; all are counted.
const FAULT_SAMPLES_MAX: usize = 20;

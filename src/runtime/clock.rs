//! The clocks of a node, read once per turn of a core and handed down.
//!
//! ```text
//!   at    `Monotonic`, never goes back or jumps: deadlines, patience, leases
//!   now   the wall clock, a `Timestamp`: expiry, versions            = at + what it was ahead of them a second ago at most
//! ```
//!
//! One reading of the system gives both. A step of the wall clock shows within a second, and ends nobody's patience.
//!
//! Builds with the feature `debugtime` can move, pause and resume the wall clock, so that tests of expiry need not wait.
//!
//! Lives here: the only reading of the system's clocks for items and deadlines. Not here: timers, the exptime rule (`time`).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::time::{Monotonic, Timestamp};

/// Both clocks, shared by all cores.
#[derive(Debug)]
pub struct Clock {
    started: std::time::Instant,
    /// What the wall clock is ahead of `at`, in milliseconds, and when that was found out.
    ahead_ms: AtomicI64,
    compared_ms: AtomicU64,
    /// Milliseconds added to the system's time.
    offset_ms: AtomicI64,
    /// The moment at which the wall clock stands still, or `RUNNING`.
    paused_ms: AtomicI64,
}

const RUNNING: i64 = i64::MIN;

/// How often the wall clock is compared, in milliseconds.
const COMPARE_MS: u64 = 1000;

impl Default for Clock {
    fn default() -> Self {
        let clock = Self {
            started: std::time::Instant::now(),
            ahead_ms: AtomicI64::new(0),
            compared_ms: AtomicU64::new(0),
            offset_ms: AtomicI64::new(0),
            paused_ms: AtomicI64::new(RUNNING),
        };
        clock.compare(clock.at().ms());
        clock
    }
}

impl Clock {
    /// Nanoseconds that never go back, for what lasts microseconds. About 25 ns.
    pub fn ns(&self) -> u64 {
        let elapsed = self.started.elapsed();
        // From 1 s on, so that `Monotonic::LONG_AGO` is long ago.
        (elapsed.as_secs() + 1) * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
    }

    /// The clock of deadlines. About 25 ns.
    pub fn at(&self) -> Monotonic {
        Monotonic::from_ms(self.ns() / 1_000_000)
    }

    /// Both clocks. About 25 ns.
    pub fn read(&self) -> (Timestamp, Monotonic) {
        let (now, ns) = self.read_ns();
        (now, Monotonic::from_ms(ns / 1_000_000))
    }

    /// The wall clock, and nanoseconds that never go back, of which milliseconds are made. About 25 ns.
    pub fn read_ns(&self) -> (Timestamp, u64) {
        let ns = self.ns();
        (self.wall(ns / 1_000_000), ns)
    }

    /// What the wall clock says at this millisecond.
    fn wall(&self, ms: u64) -> Timestamp {
        if ms >= self.compared_ms.load(Ordering::Relaxed) + COMPARE_MS {
            self.compare(ms);
        }
        let system_ms = ms as i64 + self.ahead_ms.load(Ordering::Relaxed);
        if !cfg!(feature = "debugtime") {
            return Timestamp { unix_ms: system_ms.max(0) as u64 };
        }
        let base_ms = match self.paused_ms.load(Ordering::Relaxed) {
            RUNNING => system_ms,
            paused => paused,
        };
        Timestamp { unix_ms: (base_ms + self.offset_ms.load(Ordering::Relaxed)).max(0) as u64 }
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.read().0
    }

    #[cold]
    fn compare(&self, ms: u64) {
        self.ahead_ms.store(unix_ms() as i64 - ms as i64, Ordering::Relaxed);
        self.compared_ms.store(ms, Ordering::Relaxed);
    }

    /// Moves the wall clock by `seconds`. Without effect unless built with `debugtime`.
    pub fn advance(&self, seconds: i64) {
        self.offset_ms.fetch_add(seconds.saturating_mul(1000), Ordering::Relaxed);
    }

    /// Stops the wall clock.
    pub fn pause(&self) {
        self.paused_ms.store(unix_ms() as i64, Ordering::Relaxed);
    }

    /// Lets the wall clock run again, from the system's time.
    pub fn resume(&self) {
        self.paused_ms.store(RUNNING, Ordering::Relaxed);
    }
}

/// The system's wall clock, in Unix milliseconds.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symptom: a step of the wall clock closed every idle client, or kept a drain from ending. Cause: patience was measured by it. Cure:
    /// deadlines have a clock of their own.
    #[test]
    fn a_step_of_the_wall_clock_moves_no_deadline() {
        let clock = Clock::default();
        let (before, at) = clock.read();
        // As if the system's time had been set an hour ahead since it was last compared.
        clock.ahead_ms.fetch_add(3_600_000, Ordering::Relaxed);
        let (after, later) = clock.read();
        assert!(after.unix_ms - before.unix_ms >= 3_600_000);
        assert!(later - at < 60_000, "{at:?} {later:?}");
        // Compared again, it is the system's.
        clock.compared_ms.store(0, Ordering::Relaxed);
        assert!(clock.now().unix_ms.abs_diff(unix_ms()) < 60_000);
    }
}

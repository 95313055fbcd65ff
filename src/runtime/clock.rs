//! The clock of a node: read once per turn of a core, handed down as `Instant`.
//!
//! Builds with the feature `debugtime` can move, pause and resume it, so that tests of expiry need not wait.
//!
//! Lives here: the only reading of the system's clock for items. Not here: timers, the exptime rule (`time`).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::time::Instant;

/// Wall-clock time, shared by all cores.
#[derive(Debug)]
pub struct Clock {
    /// Milliseconds added to the system's time.
    offset_ms: AtomicI64,
    /// The moment at which the clock stands still, or `RUNNING`.
    paused_ms: AtomicI64,
}

const RUNNING: i64 = i64::MIN;

impl Default for Clock {
    fn default() -> Self {
        Self { offset_ms: AtomicI64::new(0), paused_ms: AtomicI64::new(RUNNING) }
    }
}

impl Clock {
    /// The time now. About 25 ns.
    pub fn now(&self) -> Instant {
        let system_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        if !cfg!(feature = "debugtime") {
            return Instant { unix_ms: system_ms as u64 };
        }
        let base_ms = match self.paused_ms.load(Ordering::Relaxed) {
            RUNNING => system_ms,
            paused => paused,
        };
        Instant { unix_ms: (base_ms + self.offset_ms.load(Ordering::Relaxed)).max(0) as u64 }
    }

    /// Moves the clock by `seconds`. Without effect unless built with `debugtime`.
    pub fn advance(&self, seconds: i64) {
        self.offset_ms.fetch_add(seconds.saturating_mul(1000), Ordering::Relaxed);
    }

    /// Stops the clock.
    pub fn pause(&self) {
        let system_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        self.paused_ms.store(system_ms, Ordering::Relaxed);
    }

    /// Lets the clock run again, from the system's time.
    pub fn resume(&self) {
        self.paused_ms.store(RUNNING, Ordering::Relaxed);
    }
}

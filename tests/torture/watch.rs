//! How long the machine did not let this program run: then it may not have let the nodes run either.
//!
//! A node's cores stay on one CPU each, and those of small nodes all on the first one. A host that takes one CPU away for some seconds stops
//! them, and not a program that may go on on another: each CPU has a thread that looks.
//!
//! Lives here: threads that sleep and look at the clock. Not here: what follows from it (`episode`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Threads that watch the clock until it is dropped.
pub struct Watch {
    over: Arc<AtomicBool>,
    longest_us: Arc<AtomicU64>,
}

impl Watch {
    pub fn start() -> Self {
        let watch = Self { over: Arc::default(), longest_us: Arc::default() };
        for cpu in core_affinity::get_core_ids().expect("the CPUs that this program may use") {
            let (over, longest_us) = (watch.over.clone(), watch.longest_us.clone());
            std::thread::spawn(move || {
                assert!(core_affinity::set_for_current(cpu), "CPU {} cannot be chosen", cpu.id);
                let mut last = Instant::now();
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(PAUSE);
                    let now = Instant::now();
                    let late = now.duration_since(last).saturating_sub(PAUSE);
                    longest_us.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
                    last = now;
                }
            });
        }
        watch
    }

    /// Longest delay so far.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

//! When the requests of an open loop are due, whatever the answers take.
//!
//! A request keeps its intended time until it is sent: its latency counts from there. Fresh requests that are sent late show
//! how late this client is; those that had to wait for a free place in flight show how late the server is.

use std::collections::VecDeque;

use fastrand::Rng;

use crate::worker::Arrival;

/// When requests of an open loop are due.
pub struct Arrivals {
    gap_ns: f64,
    arrival: Arrival,
    next: f64,
    /// Due and not sent: intended time, and whether it has not yet waited for a free place.
    due: VecDeque<(u64, bool)>,
    dropped: u64,
}

impl Arrivals {
    /// Requests at so many per second, from `now` on.
    pub fn new(rate: f64, arrival: Arrival, now: u64) -> Self {
        Self { gap_ns: 1e9 / rate, arrival, next: now as f64, due: VecDeque::new(), dropped: 0 }
    }

    /// Whether requests are due that are not sent yet.
    pub fn waiting(&self) -> bool {
        !self.due.is_empty()
    }

    /// Requests that were never sent.
    pub fn left(&self) -> u64 {
        self.due.len() as u64 + self.dropped
    }

    /// Notes what has become due until `now`.
    pub fn advance(&mut self, now: u64, end: u64, rng: &mut Rng) {
        while self.next <= now as f64 && self.next < end as f64 {
            if self.due.len() < DUE_MAX {
                self.due.push_back((self.next as u64, true));
            } else {
                self.dropped += 1;
            }
            self.next += match self.arrival {
                Arrival::Constant => self.gap_ns,
                Arrival::Poisson => -self.gap_ns * (1.0 - rng.f64()).ln(),
            };
        }
    }

    /// The oldest that is due: its intended time, and whether it is fresh.
    pub fn front(&self) -> Option<(u64, bool)> {
        self.due.front().copied()
    }

    /// The oldest is sent.
    pub fn pop(&mut self) {
        self.due.pop_front();
    }

    /// When the next will be due.
    pub fn next(&self) -> u64 {
        self.next as u64
    }

    /// What is still due now waits for the server, not for this client.
    /// Notes that what is still due could not be sent at its time.
    pub fn mark_waiting(&mut self) {
        for entry in self.due.iter_mut().rev() {
            if !entry.1 {
                break;
            }
            entry.1 = false;
        }
    }
}

/// Requests that may wait: beyond that they are dropped and counted.
const DUE_MAX: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_due_as_the_rate_says() {
        for arrival in [Arrival::Constant, Arrival::Poisson] {
            let mut arrivals = Arrivals::new(1e6, arrival, 0);
            arrivals.advance(100_000_000, u64::MAX, &mut Rng::with_seed(1));
            let due = arrivals.left();
            assert!((99_000..101_001).contains(&due), "{arrival:?}: {due}");
        }
    }
}

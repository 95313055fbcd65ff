//! How much may be under way to one node that is catching up: clients must not feel it.
//!
//! ```text
//!   outstanding < size    size: one more for each quick answer, halved for each slow one
//!   tokens >= one item    tokens: `--handoff_rate` a second, of which two milliseconds' worth may go at once
//! ```
//!
//! A generation ends when everything under way is given up: what comes of it later does not count.
//!
//! Lives here: counts. Not here: what is sent (`replay`, `transfer`, `purge`).

use crate::limits;

/// What may be sent to a node now.
#[derive(Debug, Default)]
pub(super) struct Window {
    generation: u32,
    outstanding: u32,
    /// Items that may be under way; below `REPLAY_WINDOW_MIN` counts as that.
    size: u32,
    /// Items that may be sent now, in thousandths.
    tokens: u64,
}

impl Window {
    /// Names what is under way now.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.outstanding == 0
    }

    /// Whether one more may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.outstanding < self.size.max(limits::REPLAY_WINDOW_MIN) && !self.is_paced()
    }

    /// Whether the next item waits for the next millisecond.
    pub(super) fn is_paced(&self) -> bool {
        self.tokens < TOKEN
    }

    /// Time has passed, in which `rate` items a second may have been sent; 0 for as many as go.
    pub(super) fn refill(&mut self, rate: u64, passed_ms: u64) {
        self.tokens = match rate {
            0 => u64::MAX / 2,
            rate => (self.tokens + rate * passed_ms).min((rate * BURST_MS).max(TOKEN)),
        };
    }

    /// An item was sent.
    pub(super) fn spend(&mut self) {
        self.outstanding += 1;
        self.tokens = self.tokens.saturating_sub(TOKEN);
    }

    /// A frame that is no item was sent: it costs a place, and no token.
    pub(super) fn occupy(&mut self) {
        self.outstanding += 1;
    }

    /// One less is under way.
    pub(super) fn release(&mut self, generation: u32) {
        if self.generation == generation {
            self.outstanding -= 1;
        }
    }

    /// An item was answered, quickly or not.
    pub(super) fn answered(&mut self, generation: u32, is_slow: bool) {
        self.release(generation);
        self.size = match is_slow {
            true => (self.size / 2).max(limits::REPLAY_WINDOW_MIN),
            false => (self.size + 1).min(limits::REPLAY_WINDOW_MAX),
        };
    }

    /// Everything under way is given up.
    pub(super) fn reset(&mut self) {
        self.generation += 1;
        (self.outstanding, self.size) = (0, limits::REPLAY_WINDOW_MIN);
    }
}

/// What one item costs: thousandths.
const TOKEN: u64 = 1000;
/// Milliseconds whose items may go at once.
const BURST_MS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_does_not_count_when_it_comes() {
        let mut window = Window::default();
        window.refill(0, 1);
        let before = window.generation();
        window.spend();
        window.reset();
        assert!(window.is_empty());
        window.spend();
        window.answered(before, false);
        assert!(!window.is_empty());
        window.answered(window.generation(), false);
        assert!(window.is_empty());
    }

    #[test]
    fn a_rate_is_kept_and_its_burst_is_small() {
        let mut window = Window { size: limits::REPLAY_WINDOW_MAX, ..Window::default() };
        let mut sent = 0;
        for _ in 0..1000 {
            window.refill(500, 1);
            while window.has_room() {
                window.spend();
                window.release(window.generation());
                sent += 1;
            }
        }
        assert!((499..=500).contains(&sent), "{sent} items in a second");
    }
}

//! How much of the memory the small queue gets.
//!
//! ```text
//!              evicted from small -- 1,000 bytes ------> asked for again: 3 of 1,000 bytes     small is too short: it gets more
//!              evicted from main  --   200 bytes ------> asked for again: 1 of 1,000 bytes
//! ```
//!
//! A tenth is what suits keys whose popularity lasts. After a shift to other keys, and where items expire soon, main is full of
//! what nobody wants while small loses what would have been asked for again. Ghosts tell: both queues leave them, and a queue whose
//! evicted items return soon and more often, by the byte, should have been longer. The share begins at a third, moves only on
//! evidence (three standard deviations, and 1.6 times as often), and drifts to a tenth without.
//!
//! Figures (misses; traces as in `benches/traces.rs`, others as in `benches/hit_ratio.rs`), fixed tenth / fixed third / this: TTL
//! mix A .3284 / .3198 / .3282, B .3624 / .3527 / .3568; after a shift, over those of a fresh cache, 1.126 / 1.062 / 1.029; zipf
//! 0.99 with a tenth of the keys in memory .2147 / .2240 / .2140, `orm-night` .0616 / .0665 / .0609. Tried and dropped: steps of
//! equal size (the two orm traces 5 % worse than S3-FIFO, from noise); no test of significance (the same, on small caches); moving
//! at any difference in rates (zipf 0.99 .2322); counting late returns too (shares that swing from .60 to .10, because the returns
//! of what main lost in a hurry come when its losses are forgotten); ghosts of main back to small instead of main (`orm-busy` .1193
//! instead of .1178); main only when small is short (after a shift main lost nothing, so nobody learned that it was stale: 1.070
//! with 62 MiB); a drift of 0.001 (mix A .3254, `orm-busy` .1156, 4.05 % above S3-FIFO); counters always halved, or set to 0, on
//! their way back in main (zipf 0.99 +0.2 and +1.1 %).
//!
//! Lives here: counts and the share. Not here: who is evicted (`eviction`), ghosts (`index`).
//! A relative of ARC (FAST'03), and of the dynamic variant of S3-FIFO (SOSP'23), which count ghosts hit but not how many were made.

use super::segment::Queue;

/// Counts of what was evicted and asked for again, and what follows from them.
#[derive(Debug)]
pub(super) struct QueueSize {
    /// Part of the memory that the small queue should have.
    share: f64,
    /// Bytes evicted, by queue, older ones counting less.
    evicted_bytes: [f64; 2],
    /// Items asked for again, by the queue that they were evicted from.
    returned: [f64; 2],
    /// Bytes evicted since the share was last looked at.
    since_bytes: usize,
    /// Segments taken from the small queue since main last gave one.
    streak: u32,
}

impl Default for QueueSize {
    fn default() -> Self {
        Self { share: SHARE_START, evicted_bytes: [0.0; 2], returned: [0.0; 2], since_bytes: 0, streak: 0 }
    }
}

impl QueueSize {
    /// Whether the small queue is longer than it should be.
    #[inline]
    pub fn is_over(&self, small_bytes: usize, main_bytes: usize) -> bool {
        small_bytes as f64 > (small_bytes + main_bytes) as f64 * self.share
    }

    /// Which queue gives the next segment. Main gives one now and then whatever the share, or nobody would learn that it is stale.
    pub fn next(&mut self, small_bytes: usize, main_bytes: usize) -> Queue {
        if self.is_over(small_bytes, main_bytes) && self.streak < STREAK_MAX {
            self.streak += 1;
            return Queue::Small;
        }
        self.streak = 0;
        Queue::Main
    }

    /// Whether main seems to hold much that nobody asks for: what was used in it before may not be used again.
    #[inline]
    pub fn main_is_stale(&self) -> bool {
        self.share > SHARE_STALE
    }

    /// An item was evicted from this queue of a shard that holds `held_bytes`.
    #[inline]
    pub fn evicted(&mut self, queue: Queue, bytes: usize, held_bytes: usize) {
        self.evicted_bytes[queue as usize] += bytes as f64;
        self.since_bytes += bytes;
        if self.since_bytes * LOOKS >= held_bytes {
            self.look(held_bytes as f64);
        }
    }

    /// An item that was evicted from this queue was stored again, `age` ghosts later, in a shard of `items`. What returns late would
    /// not have been kept by a little more room, and would be held against evictions that are no longer counted.
    #[inline]
    pub fn returned(&mut self, queue: Queue, age: u64, items: usize) {
        if age <= (items / YOUNG_PART) as u64 {
            self.returned[queue as usize] += 1.0;
        }
    }

    fn look(&mut self, held_bytes: f64) {
        self.since_bytes = 0;
        self.share = (self.share + self.step(held_bytes)).clamp(SHARE_DEFAULT, SHARE_MAX);
        for count in self.evicted_bytes.iter_mut().chain(&mut self.returned) {
            *count *= 1.0 - 1.0 / LOOKS as f64;
        }
    }

    /// By how much the share should change.
    fn step(&self, held_bytes: f64) -> f64 {
        let drift = (SHARE_DEFAULT - self.share).max(-DRIFT);
        let [small_bytes, main_bytes] = self.evicted_bytes;
        let [small, main] = self.returned;
        let all = small + main;
        if small_bytes.min(main_bytes) < held_bytes / BYTES_PART_MIN || all == 0.0 {
            return drift;
        }
        // Were both queues alike, small would have its part of the returns, give or take the root of that.
        let part = small_bytes / (small_bytes + main_bytes);
        let deviations = (small - all * part) / (all * part * (1.0 - part)).sqrt();
        let (small_rate, main_rate) = (small / small_bytes, main / main_bytes);
        let ratio = small_rate.max(main_rate) / small_rate.min(main_rate);
        if deviations.abs() < DEVIATIONS_MIN || ratio < RATIO_MIN {
            return drift;
        }
        STEP * (ratio.min(RATIO_MAX) - 1.0) * deviations.signum()
    }
}

/// S3-FIFO's tenth.
const SHARE_DEFAULT: f64 = 0.1;
/// What is young has not had the time to show what it is worth.
const SHARE_START: f64 = 0.33;
const SHARE_STALE: f64 = 0.15;
const SHARE_MAX: f64 = 0.6;
/// Segments in a row that small gives at most.
const STREAK_MAX: u32 = 15;
/// Looks at the share while as many bytes are evicted as the shard holds; that is also how long counts last.
const LOOKS: usize = 128;
/// Change of the share in one look, for a rate twice as high.
const STEP: f64 = 0.004;
/// Change in one look without evidence.
const DRIFT: f64 = 0.0015;
/// Both queues must have lost one part in this many of the bytes held before they are compared.
const BYTES_PART_MIN: f64 = 64.0;
/// A return is young within one part in this many of the items held, in ghosts made since.
const YOUNG_PART: usize = 4;
const DEVIATIONS_MIN: f64 = 3.0;
const RATIO_MIN: f64 = 1.6;
const RATIO_MAX: f64 = 11.0;

#[cfg(test)]
mod tests {
    use super::*;

    const HELD_BYTES: usize = 1 << 20;

    /// The share after `rounds` times 64 evictions of 1 KiB from each queue, of which so many return.
    fn share_after(queue_size: &mut QueueSize, rounds: usize, small: usize, main: usize) -> f64 {
        for _ in 0..rounds {
            for number in 0..64 {
                for (queue, returns) in [(Queue::Small, small), (Queue::Main, main)] {
                    queue_size.evicted(queue, 1024, HELD_BYTES);
                    if number < returns {
                        queue_size.returned(queue, 0, 1000);
                    }
                }
            }
        }
        queue_size.share
    }

    #[test]
    fn the_queue_whose_items_return_more_often_grows_and_shrinks_again() {
        let mut queue_size = QueueSize::default();
        assert_eq!(share_after(&mut queue_size, 50, 8, 8), SHARE_DEFAULT);
        assert!(share_after(&mut queue_size, 50, 32, 8) > 0.3);
        assert!(queue_size.main_is_stale() && !queue_size.is_over(30, 70));
        assert_eq!(share_after(&mut queue_size, 500, 8, 32), SHARE_DEFAULT);
    }

    #[test]
    fn without_evidence_the_share_drifts_back() {
        let mut queue_size = QueueSize::default();
        assert_eq!(share_after(&mut queue_size, 500, 64, 0), SHARE_MAX);
        assert_eq!(share_after(&mut queue_size, 500, 8, 7), SHARE_DEFAULT);
        assert_eq!(share_after(&mut queue_size, 500, 0, 0), SHARE_DEFAULT);
    }
}

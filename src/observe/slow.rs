//! The last requests that took long, of one core.
//!
//! ```text
//!   turn took longer than --slow_ms             --> | its commands together             |   the last 128
//!   an answer from elsewhere came later than it --> | one command, where its key lies   |
//! ```
//!
//! From the clock of the turns: a turn is compared once, an answer from another core or node once, and nothing is read for it. What a
//! request waited for in a socket before its turn is not in it.
//!
//! Lives here: the list. Not here: who measures (`runtime`), how it is shown (`node::admin`).

use std::collections::VecDeque;

use crate::latency::Kind;
use crate::limits::SLOW_REQUESTS_PER_CORE as REQUESTS_MAX;

/// A request, or the commands of a turn, that took long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowRequest {
    /// When it was answered, in Unix milliseconds.
    pub unix_ms: u64,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
    /// What it was; of a turn, what most of its commands were. `None` for a turn without commands of clients.
    pub kind: Option<Kind>,
    /// Commands that took so long together.
    pub commands: u32,
    /// What is known of one that waited for another core or node.
    pub waited: Option<Waited>,
}

/// Who waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// Socket of the client.
    pub descriptor: i32,
    /// Upper half of the key's routing hash: enough for its partition and its owners.
    pub hash: u32,
}

/// The last ones of a core.
#[derive(Clone, Debug)]
pub struct SlowRequests {
    /// From how many nanoseconds on something is slow; the largest number for never.
    pub least_ns: u64,
    /// All that there were.
    pub count: u64,
    list: VecDeque<SlowRequest>,
}

impl SlowRequests {
    /// An empty list; `least_ms` of 0 is never. Memory is had at the first one: 6 KiB.
    pub fn new(least_ms: u32) -> Self {
        let least_ns = if least_ms == 0 { u64::MAX } else { u64::from(least_ms) * 1_000_000 };
        Self { least_ns, count: 0, list: VecDeque::new() }
    }

    /// Adds one, in place of the oldest if there are many.
    #[cold]
    pub fn note(&mut self, request: SlowRequest) {
        if self.list.capacity() == 0 {
            self.list.reserve_exact(REQUESTS_MAX);
        }
        if self.list.len() == REQUESTS_MAX {
            self.list.pop_front();
        }
        self.list.push_back(request);
        self.count += 1;
    }

    /// The last ones, oldest first.
    pub fn list(&self) -> Vec<SlowRequest> {
        self.list.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let mut slow = SlowRequests::new(10);
        assert_eq!((slow.least_ns, SlowRequests::new(0).least_ns), (10_000_000, u64::MAX));
        for took_ns in 0..300 {
            slow.note(SlowRequest { unix_ms: 1, took_ns, kind: None, commands: 1, waited: None });
        }
        let list = slow.list();
        assert_eq!((slow.count, list.len(), list[0].took_ns), (300, REQUESTS_MAX, 300 - REQUESTS_MAX as u64));
    }
}

//! How `--memory_size` is divided.
//!
//! ```text
//!   | receive buffers, requests under way | what is kept for other nodes | items and their index                     |
//!     2 MiB a core, at most                 --handoff_memory, at most      the rest, at least `ARENA_BYTES_PER_CORE_MIN`
//!     one part in `RESERVE_PART`            half of what is left           a core
//! ```
//!
//! Lives here: the division, and when there is too little. Not here: who takes what of its part (`arena`, `cluster::handoff`).

use super::StartError;
use super::options::Options;
use crate::limits;

/// The parts, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For items and their index.
    pub arena_bytes: usize,
    /// For what is kept for other nodes.
    pub handoff_bytes: usize,
    /// For all that is not the arena's.
    pub reserve_bytes: usize,
}

impl Budget {
    /// The division for a node with these options, which is part of a ring or not.
    ///
    /// # Errors
    /// A core would have too little to hold an item.
    pub fn new(options: &Options, is_ring: bool) -> Result<Self, StartError> {
        let (memory_bytes, cores) = ((options.memory_mb as usize) << 20, usize::from(options.cores));
        let buffers_bytes = (cores * limits::RESERVE_BYTES_PER_CORE).min(memory_bytes / limits::RESERVE_PART);
        let left_bytes = memory_bytes - buffers_bytes;
        let asked_bytes = memory_bytes / 100 * usize::from(options.handoff_percent);
        let handoff_bytes = if is_ring { asked_bytes.min(left_bytes / 2) } else { 0 };
        if is_ring && handoff_bytes < asked_bytes {
            log::warn!(
                "--handoff_memory {} is more than --memory_size {} has for it: {} KiB are used",
                options.handoff_percent,
                options.memory_mb,
                handoff_bytes >> 10
            );
        }
        let arena_bytes = left_bytes - handoff_bytes;
        if arena_bytes < cores * limits::ARENA_BYTES_PER_CORE_MIN {
            return Err(StartError(format!(
                "--memory_size {} is too little for --cores {cores}; give more memory or take fewer cores.",
                options.memory_mb
            )));
        }
        Ok(Self { arena_bytes, handoff_bytes, reserve_bytes: buffers_bytes + handoff_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symptom: `--memory_size 8 --cores 2 --handoff_memory 50` ended with a panic in a ring. Cause: the shares of buffers and hints could
    /// take all there is. Cure: neither takes more than half of what is left, and too little for the cores is said.
    #[test]
    fn whatever_is_asked_for_every_core_can_hold_items() {
        let base = Options::parse(["pbcache".to_string()], 1).unwrap();
        for memory_mb in [1, 2, 3, 8, 64, 100, 1000] {
            for cores in 1..=limits::CORES_MAX as u16 {
                for (handoff_percent, is_ring) in [(0, true), (10, true), (50, true), (50, false)] {
                    let options = Options { memory_mb, cores, handoff_percent, ..base.clone() };
                    let Ok(budget) = Budget::new(&options, is_ring) else {
                        assert!((memory_mb as usize) << 20 < 4 * usize::from(cores) * limits::ARENA_BYTES_PER_CORE_MIN);
                        continue;
                    };
                    assert!(budget.arena_bytes >= usize::from(cores) * limits::ARENA_BYTES_PER_CORE_MIN);
                    assert_eq!(budget.arena_bytes + budget.reserve_bytes, (memory_mb as usize) << 20);
                }
            }
        }
        let options = Options { memory_mb: 8, cores: 2, handoff_percent: 50, ..base };
        let budget = Budget::new(&options, true).unwrap();
        assert_eq!(budget.handoff_bytes, budget.arena_bytes, "half of what the buffers leave");
        assert_eq!(Budget::new(&options, false).map(|budget| budget.handoff_bytes), Ok(0));
    }
}

//! Counters (placeholder).
//!
//! Lives here: counters. Not here: printing.
use crate::command::{Reply, Verb};

/// Counters of one shard.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub accept_errors: u64,
    pub strangers_refused: u64,
    pub rejected_connections: u64,
    pub total_connections: u64,
    pub connections_moved: u64,
    pub idle_kicks: u64,
}

impl Counters {
    /// Counts a command.
    #[inline]
    pub fn record(&mut self, _verb: &Verb, _reply: &Reply<'_>) {}
}

//! `flush_all` for a whole ring: a fence, a version below which nothing is readable any more.
//!
//! ```text
//!   round 1: FENCE v  --> every core of every node that is there: "the greatest version that I know is w"
//!   round 2: FENCE w' --> w' is above all w: what was acknowledged before the flush is below the fence, what comes later above it
//! ```
//!
//! Every frame between nodes carries the fence of its sender, so that who was away hears of it before anything else.
//!
//! Lives here: the two rounds. Not here: what a fence does to items (`engine`), the other cores of this node (`node::ring`).

use super::coordinator::{OpKey, Phase, What};
use super::ringed::{Desk, Held, Origin};
use crate::cluster::wire::{self, Frame, Garbled, Kind};
use crate::command::Value;

impl Desk<'_> {
    /// Flushes the whole ring: everything that was written before is gone on every node that can be reached, and on the others when
    /// they are back. In the first round each core says the greatest version that it knows, in the second the greatest of all is the fence.
    /// `least` is what the cores of this node have given so far.
    pub fn flush_ring(&mut self, origin: Origin, least: u64) {
        let version = least.max(self.engine.new_version(self.now)) + 1;
        let key = self.insert(origin, 0, 0, Held::default(), Phase::Fencing { round: 1 });
        if let Some(op) = self.op(key) {
            op.work().version = version;
        }
        self.engine.raise_fence(version);
        self.send_fences(key);
    }

    pub(super) fn send_fences(&mut self, key: OpKey) {
        // Every core of every node must hear of it: how many there are must be known.
        if self.ring.peers.meet_all(self.ms) {
            self.ring.parked.push(key);
            return;
        }
        let (stamp, ms) = (self.stamp(), self.ms);
        let version = self.ring.ops[key.index as usize].work().version;
        let mut sent = 0;
        for link in self.ring.peers.links() {
            if self.ring.peers.link(link).state.is_away() {
                continue;
            }
            sent += 1;
            self.ring.peers.request(link, (Kind::Fence, 0), stamp, Value::EMPTY, What::Fence(key), ms, |output| {
                wire::write_version(version, output);
            });
        }
        self.ring.ops[key.index as usize].awaiting += sent;
        if sent == 0 {
            self.end_flush(key);
        }
    }

    pub(super) fn fenced(&mut self, key: OpKey, frame: &Frame<'_>) -> Result<(), Garbled> {
        let seen = if frame.head.kind == Kind::Done { wire::read_version(frame.meta)? } else { 0 };
        // Only in the first round: the fence of the second is what every node has by now, and what is written since is above it.
        if let Some(op) = self.op(key).filter(|op| op.phase == Phase::Fencing { round: 1 }) {
            op.work().version = op.work().version.max(seen);
        }
        self.unfenced(key);
        Ok(())
    }

    pub(super) fn unfenced(&mut self, key: OpKey) {
        let Some(op) = self.op(key) else { return };
        op.awaiting = op.awaiting.saturating_sub(1);
        if op.awaiting > 0 {
            return;
        }
        match op.phase {
            Phase::Fencing { round: 1 } => {
                op.phase = Phase::Fencing { round: 2 };
                let version = op.work().version;
                self.engine.raise_fence(version);
                self.send_fences(key);
            }
            _ => self.end_flush(key),
        }
    }

    /// The answer of a flush is its fence, for the other cores of this node.
    fn end_flush(&mut self, key: OpKey) {
        let Some(op) = self.op(key) else { return };
        let version = op.work().version;
        op.work().reply.clear();
        op.work().reply.put(&version.to_le_bytes());
        self.finish(key);
    }
}

//! `flush_all` for a whole ring: a fence, a version below which nothing is readable any more.
//!
//! ```text
//!   round 1: FENCE v  --> every core of every node that is there: "the greatest version that I know is w"
//!   round 2: FENCE w' --> w' is above all w: what was acknowledged before the flush is below the fence, what comes later above it
//! ```
//!
//! Every frame between nodes carries the fence of its sender, so that who was away hears of it before anything else. A round ends when all
//! have answered, or after `PEER_OPERATION_MS_MAX`: a node that has not by then hears of the fence in this way.
//!
//! Lives here: the two rounds. Not here: what a fence does to items (`engine`), the other cores of this node (`node::ring`).

use super::coordinate::Purpose;
use super::{Origin, Turn};
use crate::buffer::Buffer;
use crate::command::Value;
use crate::limits;
use crate::peer::frame::{self, Frame, FrameError, Kind};

/// A flush under way.
pub(super) struct Flush {
    number: u32,
    origin: Origin,
    /// The fence so far.
    version: u64,
    round: u8,
    round_began_ms: u64,
    /// Cores of other nodes that have not answered in this round; `None` before they were asked.
    waiting: Option<u32>,
}

impl Turn<'_> {
    /// Flushes the whole ring: everything that was written before is gone on every node that can be reached, and on the others when
    /// they are back. In the first round each core says the greatest version that it knows, in the second the greatest of all is the fence.
    /// `least` is what the cores of this node have given so far. The answer is the fence, as eight bytes.
    pub fn flush_ring(&mut self, origin: Origin, least: u64) {
        let version = least.max(self.engine.new_version(self.now)) + 1;
        self.cluster.flushes_begun = self.cluster.flushes_begun.wrapping_add(1);
        let number = self.cluster.flushes_begun;
        self.cluster.flushes.push(Flush { number, origin, version, round: 1, round_began_ms: self.ms, waiting: None });
        self.engine.raise_fence(version);
        self.send_fences(number);
    }

    fn flush(&mut self, number: u32, round: u8) -> Option<&mut Flush> {
        self.cluster.flushes.iter_mut().find(|flush| flush.number == number && flush.round == round)
    }

    fn send_fences(&mut self, number: u32) {
        // Every core of every node must hear of it: how many there are must be known.
        if self.cluster.peers.connect_unknown(self.ms) {
            return;
        }
        let Some(index) = self.cluster.flushes.iter().position(|flush| flush.number == number) else { return };
        let Flush { version, round, .. } = self.cluster.flushes[index];
        let (stamp, ms) = (self.stamp(), self.ms);
        let mut sent = 0;
        for link in self.cluster.peers.links() {
            if self.cluster.peers.link(link).state.is_away() {
                continue;
            }
            sent += 1;
            let purpose = Purpose::Fence(number, round);
            self.cluster.peers.request(link, (Kind::Fence, 0), stamp, Value::EMPTY, purpose, ms, |output| {
                frame::write_version(version, output);
            });
        }
        self.cluster.flushes[index].waiting = Some(sent);
        if sent == 0 {
            self.end_round(number, round);
        }
    }

    pub(super) fn on_fence_answer(&mut self, number: u32, round: u8, frame: &Frame<'_>) -> Result<(), FrameError> {
        let seen = if frame.head.kind == Kind::Done { frame::read_version(frame.meta, self.horizon())? } else { 0 };
        // Only in the first round: the fence of the second is what every node has by now, and what is written since is above it.
        if let Some(flush) = self.flush(number, 1) {
            flush.version = flush.version.max(seen);
        }
        self.on_fence_failed(number, round);
        Ok(())
    }

    /// A core of another node has answered, or never will.
    pub(super) fn on_fence_failed(&mut self, number: u32, round: u8) {
        let Some(Flush { waiting: Some(waiting), .. }) = self.flush(number, round) else { return };
        *waiting -= 1;
        if *waiting == 0 {
            self.end_round(number, round);
        }
    }

    /// The first round leads to the second; that one ends the flush.
    fn end_round(&mut self, number: u32, round: u8) {
        let ms = self.ms;
        let Some(flush) = self.flush(number, round) else { return };
        let version = flush.version;
        if round == 1 {
            (flush.round, flush.round_began_ms, flush.waiting) = (2, ms, None);
            self.engine.raise_fence(version);
            return self.send_fences(number);
        }
        let index = self.cluster.flushes.iter().position(|flush| flush.number == number);
        if let Some(Flush { origin, .. }) = index.map(|index| self.cluster.flushes.swap_remove(index)) {
            let mut fence = Buffer::default();
            fence.put(&version.to_le_bytes());
            self.cluster.outbox.put(origin, &mut fence);
        }
    }

    /// Goes on with flushes that wait for a node to become known, and with rounds that last too long.
    pub(super) fn retry_flushes(&mut self) {
        let waits: Vec<(u32, u8, bool, bool)> = self
            .cluster
            .flushes
            .iter()
            .map(|flush| {
                let late = self.ms >= flush.round_began_ms + limits::PEER_OPERATION_MS_MAX / 2;
                (flush.number, flush.round, flush.waiting.is_none(), late)
            })
            .collect();
        for (number, round, unsent, late) in waits {
            match (unsent, late) {
                (_, true) => self.end_round(number, round),
                (true, false) => self.send_fences(number),
                (false, false) => {}
            }
        }
    }
}

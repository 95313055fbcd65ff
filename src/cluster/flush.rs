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

use super::requests::{Purpose, Request};
use super::{Mistake, Origin, Turn};
use crate::buffer::Buffer;
use crate::limits;
use crate::peer::frame::{self, Frame, FrameError, Kind};
use crate::time::Monotonic;
use crate::version::Version;

/// Flushes under way.
#[derive(Default)]
pub(super) struct Flushes {
    flushes: Vec<Flush>,
    /// Flushes since start: the number of the last one.
    begun: u32,
}

/// A flush under way.
struct Flush {
    number: u32,
    origin: Origin,
    /// The fence so far.
    version: Version,
    round: u8,
    round_began_at: Monotonic,
    /// Cores of other nodes that have not answered in this round; `None` before they were asked.
    waiting: Option<u32>,
}

impl Flushes {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.flushes.len()
    }

    fn begin(&mut self, origin: Origin, version: Version, at: Monotonic) -> u32 {
        self.begun = self.begun.wrapping_add(1);
        let number = self.begun;
        self.flushes.push(Flush { number, origin, version, round: 1, round_began_at: at, waiting: None });
        number
    }

    fn find(&mut self, number: u32, round: u8) -> Option<&mut Flush> {
        self.flushes.iter_mut().find(|flush| flush.number == number && flush.round == round)
    }

    fn end(&mut self, number: u32) -> Option<Flush> {
        let index = self.flushes.iter().position(|flush| flush.number == number)?;
        Some(self.flushes.swap_remove(index))
    }
}

/// Flushes the whole ring: everything that was written before is gone on every node that can be reached, and on the others when
/// they are back. In the first round each core says the greatest version that it knows, in the second the greatest of all is the fence.
/// `least` is what the cores of this node have given so far. The answer is the fence, as eight bytes.
pub(super) fn begin(turn: &mut Turn<'_>, origin: Origin, least: Version) {
    let version = least.max(turn.engine.new_version(turn.now)).next();
    let number = turn.cluster.flushes.begin(origin, version, turn.at);
    turn.engine.raise_fence(version);
    send_fences(turn, number, 1);
}

/// Sends the fence of a round to every core of every other node that is there.
fn send_fences(turn: &mut Turn<'_>, number: u32, round: u8) {
    // Every core of every node must hear of it: how many there are must be known.
    if turn.cluster.links.connect_unknown(turn.at) {
        return;
    }
    let Some(&mut Flush { version, .. }) = turn.cluster.flushes.find(number, round) else { return };
    let (moment, mut sent) = (turn.moment(), 0);
    for link in turn.cluster.links.ids() {
        if turn.cluster.links.link(link).state.is_away() {
            continue;
        }
        sent += 1;
        let purpose = Purpose::Fence(number, round);
        turn.cluster.send(Request::new(link, Kind::Fence, purpose), moment, |output| {
            frame::write_version(version, output);
        });
    }
    if let Some(flush) = turn.cluster.flushes.find(number, round) {
        flush.waiting = Some(sent);
    }
    if sent == 0 || turn.cluster.options.has(Mistake::FlushAlone) {
        end_round(turn, number, round);
    }
}

/// A core of another node has heard of a fence.
pub(super) fn on_answer(turn: &mut Turn<'_>, number: u32, round: u8, frame: &Frame<'_>) -> Result<(), FrameError> {
    let seen = if frame.head.kind == Kind::Done { frame::read_version(frame.meta, turn.horizon())? } else { Version::NONE };
    // Only in the first round: the fence of the second is what every node has by now, and what is written since is above it.
    if let Some(flush) = turn.cluster.flushes.find(number, 1) {
        flush.version = flush.version.max(seen);
    }
    on_failed(turn, number, round);
    Ok(())
}

/// A core of another node has answered, or never will.
pub(super) fn on_failed(turn: &mut Turn<'_>, number: u32, round: u8) {
    let Some(Flush { waiting: Some(waiting), .. }) = turn.cluster.flushes.find(number, round) else { return };
    *waiting -= 1;
    if *waiting == 0 {
        end_round(turn, number, round);
    }
}

/// The first round leads to the second; that one ends the flush.
fn end_round(turn: &mut Turn<'_>, number: u32, round: u8) {
    let at = turn.at;
    let Some(flush) = turn.cluster.flushes.find(number, round) else { return };
    let version = flush.version;
    if round == 1 {
        (flush.round, flush.round_began_at, flush.waiting) = (2, at, None);
        turn.engine.raise_fence(version);
        return send_fences(turn, number, 2);
    }
    if let Some(Flush { origin, .. }) = turn.cluster.flushes.end(number) {
        let mut fence = Buffer::default();
        fence.put(&version.bits().to_le_bytes());
        turn.cluster.outbox.put(origin, &mut fence);
    }
}

/// Goes on with flushes that wait for a node to become known, and with rounds that last too long.
pub(super) fn retry(turn: &mut Turn<'_>) {
    let waits: Vec<(u32, u8, bool, bool)> = turn
        .cluster
        .flushes
        .flushes
        .iter()
        .map(|flush| {
            let late = turn.at >= flush.round_began_at + limits::PEER_OPERATION_MS_MAX / 2;
            (flush.number, flush.round, flush.waiting.is_none(), late)
        })
        .collect();
    for (number, round, unsent, late) in waits {
        match (unsent, late) {
            (_, true) => end_round(turn, number, round),
            (true, false) => send_fences(turn, number, round),
            (false, false) => {}
        }
    }
}

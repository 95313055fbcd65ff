//! What others lacked goes to them when they are back: hints one by one, dirty partitions whole.
//!
//! ```text
//!   owner is there --> keys that are missing there: only these may be stale there, and it fetches them when it is asked
//!                  --> hints, oldest first, at most `window` under way --> delivered: gone here too, where this node does not own it
//!                  --> then dirty partitions:  BEGIN (purge what is older than ..)  -->  walk: every item it owns  -->  clean
//!
//!   hints       what each node lacks                    window      how much may be under way
//!   replay      hints, sent                             transfer    dirty partitions, sent           partitions   lists of them
//!   purge       what is old here, or not owned
//! ```
//!
//! A node that has lost its memory gets everything again: all its partitions are dirty. A receiver that must purge does so in slices,
//! and says when it is done.
//!
//! Lives here: the state for one node, its pace, and answers. Not here: links (`links`), who grants a lease meanwhile (`serve`).
//! After Cassandra's and Riak's handoff; the promises are those of the design, section 8.

use std::collections::BTreeSet;

pub mod hints;
mod partitions;
pub(super) mod purge;
pub(super) mod replay;
pub(super) mod transfer;
mod window;

use self::hints::End;
pub use self::purge::Purges;
use self::replay::Announced;
use self::transfer::Transfer;
use self::window::Window;
use super::Turn;
use super::requests::SentItem;
use crate::cluster::view::PeerId;
use crate::key::{PARTITIONS_COUNT, routing_hash};
use crate::limits;
use crate::peer::frame::{Frame, FrameError, PutDone};
use crate::time::Monotonic;
use crate::version::Version;

/// Milliseconds between two ticks.
pub const TICK_MS: u64 = 10;

/// What is under way to one node.
#[derive(Debug, Default)]
pub struct Handoff {
    window: Window,
    announced: Announced,
    transfer: Option<Transfer>,
    /// Partitions of which this core has purged old items, and the node was not told so.
    purged: BTreeSet<u32>,
    /// Copies of what it owns next, under way to it.
    copies: u32,
    /// A change of the ring gives it something, and the walk over all that is here for it has not ended: how often it has failed.
    filling: Option<u8>,
    /// When that walk ended.
    filled_at: Monotonic,
}

/// When what others lack was last looked at.
#[derive(Debug, Default)]
pub(super) struct Pace {
    paced_at: Monotonic,
    /// Something is to be sent that waits for the next millisecond only.
    is_waiting: bool,
    /// When nobody held anything for anybody, and this core's clock then.
    settling: (Monotonic, Version),
}

impl Pace {
    /// Whether something is to be sent that waits for the next millisecond only.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }
}

impl Handoff {
    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.window.is_empty() && self.transfer.is_none()
    }

    /// Whether no copy of what the node owns next is under way.
    pub(super) fn has_no_copies(&self) -> bool {
        self.copies == 0
    }

    /// Whether a change of the ring gives the node something that was not brought to it yet.
    pub(super) fn is_filling(&self) -> bool {
        self.filling.is_some()
    }

    /// When everything of a change was brought to it.
    pub(super) fn filled_at(&self) -> Monotonic {
        self.filled_at
    }

    /// A walk over all that is here for the node has ended. One that takes nothing more, for want of memory, has what it has room for.
    pub(super) fn on_walked(&mut self, failed: bool, at: Monotonic) {
        match &mut self.filling {
            Some(failures) if failed && *failures < FILL_FAILURES_MAX => *failures += 1,
            Some(_) => (self.filling, self.filled_at) = (None, at),
            None => {}
        }
    }

    /// A copy of what the node owns next is under way.
    pub(super) fn add_copy(&mut self) {
        self.copies += 1;
    }

    /// Whether nothing but hints is under way that the node does not know of.
    pub fn has_announced_missing(&self) -> bool {
        self.announced.is_complete() && self.transfer.is_none()
    }

    /// Whether the node was told of everything that was purged here.
    pub fn has_announced_purged(&self) -> bool {
        self.purged.is_empty()
    }
}

/// A node has lost its memory: it gets everything of its own again.
pub(super) fn on_lost_memory(turn: &mut Turn<'_>, node: PeerId) {
    mark_all(turn, node, transfer::ALL);
}

/// A node may own more than before: what it lacks of that is not known, and it gets everything of its own. What it has is as good as what is
/// here: nothing of that is purged.
pub(super) fn on_gain(turn: &mut Turn<'_>, node: PeerId) {
    let has_items = mark_all(turn, node, transfer::PURGED);
    turn.cluster.handoffs[node.index()].filling = has_items.then_some(0);
}

/// All that is here for a node is sent again. False if that is nothing.
fn mark_all(turn: &mut Turn<'_>, node: PeerId, version: Version) -> bool {
    let has_items = turn.engine.statistics().items_count > 0;
    if has_items {
        turn.cluster.hints.mark_all(node, version);
        turn.cluster.hints.note_evicted(turn.engine.evicted_count());
    }
    break_off(turn, node);
    has_items
}

/// Another view counts: this node may hold what it does not own any more. That nobody has anything older must be found out anew.
pub(super) fn on_view(turn: &mut Turn<'_>) {
    turn.cluster.pace.settling = (Monotonic::LONG_AGO, Version::NONE);
    turn.cluster.purges.look_for_unowned(0..PARTITIONS_COUNT);
}

/// A node is not in the ring any more: it gets nothing.
pub(super) fn remove(turn: &mut Turn<'_>, node: PeerId) {
    break_off(turn, node);
    turn.cluster.handoffs[node.index()].filling = None;
    turn.cluster.handoffs[node.index()].purged.clear();
    turn.cluster.hints.remove(node);
}

/// Sends what others lack, a millisecond's share at a time: what goes in one piece is in the way of clients.
pub(super) fn pace(turn: &mut Turn<'_>) {
    let passed_ms = (turn.at - turn.cluster.pace.paced_at).min(TICK_MS);
    if passed_ms == 0 {
        return;
    }
    turn.cluster.pace.paced_at = turn.at;
    turn.cluster.pace.is_waiting = false;
    let rate = u64::from(turn.cluster.options.handoff_rate);
    for &node in turn.cluster.links.everyone().iter() {
        let index = node.index();
        let handoff = &mut turn.cluster.handoffs[index];
        handoff.window.refill(rate, passed_ms);
        if turn.cluster.hints.is_clean(node) && handoff.is_idle() && handoff.has_announced_purged() {
            continue;
        }
        replay::send(turn, node);
        turn.cluster.pace.is_waiting |= turn.cluster.handoffs[index].window.is_paced();
    }
}

/// Tells the engine up to which version nobody has anything older: all are there, and nobody holds anything for anybody. What was sent
/// before has a second to arrive.
pub(super) fn settle(turn: &mut Turn<'_>) {
    let hints = &turn.cluster.hints;
    let clean = turn.cluster.links.others().all(|node| hints.is_clean(node));
    if !clean || !turn.cluster.leases.all_peers_up(turn.at) || turn.cluster.leases.missing_count() > 0 {
        return;
    }
    let (clock, (marked_at, marked)) = (turn.engine.clock(), turn.cluster.pace.settling);
    let settled = if turn.at >= marked_at + SETTLE_MS { marked } else { Version::NONE };
    turn.engine.settle(settled, clock);
    if settled.is_some() || marked.is_none() {
        turn.cluster.pace.settling = (turn.at, clock);
    }
}

/// A node was told of keys that are missing there, or has refused them.
pub(super) fn on_missing_answer(turn: &mut Turn<'_>, node: PeerId, generation: u32, heard: bool) {
    let handoff = &mut turn.cluster.handoffs[node.index()];
    if handoff.window.generation() == generation {
        handoff.announced.answered(heard);
        replay::send(turn, node);
    }
}

/// A hint has arrived, or not.
pub(super) fn on_replayed(
    turn: &mut Turn<'_>,
    sent: &SentItem,
    frame: &Frame<'_>,
    sent_at: Monotonic,
) -> Result<(), FrameError> {
    let SentItem { node, ref key, version, .. } = *sent;
    let done = PutDone::of(frame, turn.horizon())?;
    answered(turn, sent, sent_at, done != PutDone::Busy);
    match done {
        PutDone::Busy => turn.cluster.hints.requeue(node, key),
        PutDone::Taken | PutDone::Kept(_) => {
            let end = if done == PutDone::Taken { End::Replayed } else { End::Superseded };
            if turn.cluster.hints.end(node, key, version, end) {
                purge::release_unowned(turn, key);
            }
            replay::send(turn, node);
        }
    }
    Ok(())
}

/// A copy of what a node owns next has arrived, or not: then it gets it later.
pub(super) fn on_copied(turn: &mut Turn<'_>, sent: &SentItem, frame: &Frame<'_>) -> Result<(), FrameError> {
    match PutDone::of(frame, turn.horizon())? {
        PutDone::Busy => on_copy_lost(turn, sent),
        PutDone::Taken | PutDone::Kept(_) => turn.cluster.handoffs[sent.node.index()].copies -= 1,
    }
    Ok(())
}

/// A copy of what a node owns next has not arrived.
pub(super) fn on_copy_lost(turn: &mut Turn<'_>, sent: &SentItem) {
    let &SentItem { node, ref key, version, .. } = sent;
    turn.cluster.handoffs[node.index()].copies -= 1;
    if turn.cluster.view.has(node) {
        let partition = turn.partition_of(routing_hash(key));
        turn.cluster.hints.add(node, key, version, partition, turn.now);
    }
}

/// A node was told of what was purged, or not.
pub(super) fn on_purged_answer(turn: &mut Turn<'_>, node: PeerId, generation: u32, partitions: &[u32], heard: bool) {
    let handoff = &mut turn.cluster.handoffs[node.index()];
    handoff.window.release(generation);
    if !heard {
        handoff.purged.extend(partitions);
    }
}

/// An item of a dirty partition has arrived, or not.
pub(super) fn on_streamed(
    turn: &mut Turn<'_>,
    sent: &SentItem,
    frame: &Frame<'_>,
    sent_at: Monotonic,
) -> Result<(), FrameError> {
    let done = PutDone::of(frame, turn.horizon())?;
    answered(turn, sent, sent_at, done != PutDone::Busy);
    if done == PutDone::Busy {
        transfer::fail(turn, sent.node);
    }
    replay::send(turn, sent.node);
    Ok(())
}

/// A partition has been cleared there, or the announcement was refused.
pub(super) fn on_begin_answer(turn: &mut Turn<'_>, node: PeerId, generation: u32, cleared: bool) {
    let handoff = &mut turn.cluster.handoffs[node.index()];
    if let Some(transfer) = &mut handoff.transfer
        && handoff.window.generation() == generation
    {
        transfer.confirmed(cleared);
    }
    if cleared {
        replay::send(turn, node);
    }
}

/// What was under way to a node is lost.
fn break_off(turn: &mut Turn<'_>, node: PeerId) {
    let handoff = &mut turn.cluster.handoffs[node.index()];
    handoff.window.reset();
    (handoff.transfer, handoff.announced) = (None, Announced::default());
    turn.cluster.hints.forget_missing(node);
}

/// A link to a node is lost: what it was told over it counts no more.
pub(super) fn on_link_lost(turn: &mut Turn<'_>, node: PeerId) {
    turn.cluster.hints.forget_missing(node);
    turn.cluster.handoffs[node.index()].announced.on_link_lost();
}

/// A hint was on its way over a link that is lost: it goes again.
pub(super) fn on_replay_lost(turn: &mut Turn<'_>, sent: &SentItem) {
    turn.cluster.hints.requeue(sent.node, &sent.key);
    turn.cluster.handoffs[sent.node.index()].window.release(sent.generation);
}

/// An item of a dirty partition was on its way over a link that is lost.
pub(super) fn on_stream_lost(turn: &mut Turn<'_>, sent: &SentItem) {
    transfer::fail(turn, sent.node);
    turn.cluster.handoffs[sent.node.index()].window.release(sent.generation);
}

fn answered(turn: &mut Turn<'_>, sent: &SentItem, sent_at: Monotonic, taken: bool) {
    let is_slow = !taken || turn.at - sent_at > limits::REPLAY_SLOW_MS;
    turn.cluster.handoffs[sent.node.index()].window.answered(sent.generation, is_slow);
}

/// Walks over all that is here for a node, where it had no memory for some of it.
const FILL_FAILURES_MAX: u8 = 3;
/// How long something that was sent may be on its way, in milliseconds: longer, and its link has been given up.
const SETTLE_MS: u64 = 1000;

//! Hints, sent to their owner: first which keys it lacks, then the items, oldest first.
//!
//! ```text
//!   MISSING k1 k2 ..  -->  from now on only these may be stale there: it asks for them when a client does
//!   PUT k1 | PUT k2   -->  taken: the hint ends        busy: again later        at most `Window` under way
//!   none left         -->  dirty partitions (`transfer`)
//! ```
//!
//! Lives here: what is announced, what is sent. Not here: the store of hints (`hints`), answers (`handoff`).

use arrayvec::ArrayVec;

use super::hints::End;
use super::{purge, transfer};
use crate::cluster::links::{LinkId, Reach};
use crate::cluster::requests::{Purpose, Request, SentItem};
use crate::cluster::view::PeerId;
use crate::cluster::{Cluster, Mistake, Turn};
use crate::command::Value;
use crate::key::{Key, partition_of_hash, routing_hash};
use crate::peer::frame::{self, Along, Kind};
use crate::placement::REDUNDANCY_MAX;
use crate::version::Version;

/// What a node was told of the keys that it lacks.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// Frames with missing keys under way.
    in_flight: u32,
    /// It has refused some: everything may be stale there until all hints have arrived.
    refused: bool,
}

impl Announced {
    /// Whether nothing waits for an answer, and nothing was refused.
    pub(super) fn is_complete(&self) -> bool {
        self.in_flight == 0 && !self.refused
    }

    /// A frame was answered.
    pub(super) fn answered(&mut self, heard: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.refused |= !heard;
    }

    /// Its link has gone: what it refused can be announced again.
    pub(super) fn on_link_lost(&mut self) {
        self.refused = false;
    }
}

/// Sends what a node lacks, as much as may go.
pub(in crate::cluster) fn send(turn: &mut Turn<'_>, node: PeerId) {
    let index = node.index();
    purge::announce(turn, node);
    if turn.cluster.hints.is_clean(node) && turn.cluster.handoffs[index].transfer.is_none() {
        return;
    }
    if !announce_missing(turn, node) {
        return;
    }
    let buckets = turn.buckets();
    while turn.cluster.handoffs[index].window.has_room() {
        let Some((key, hint)) = turn.cluster.hints.next(node, turn.now, |key| partition_of_hash(routing_hash(key), buckets))
        else {
            break;
        };
        let plain = Key::new(&key);
        if !turn.keeps(node, plain.hash) {
            if turn.cluster.hints.end(node, &key, hint.version, End::Rerouted) {
                reroute(turn, &plain, hint.version);
            }
            continue;
        }
        let target = match turn.cluster.options.has(Mistake::ReplayElsewhere) {
            true => turn.cluster.links.others().find(|&other| other != node).unwrap_or(node),
            false => node,
        };
        let Reach::There(link) = turn.cluster.links.reach(target, plain.hash, buckets, turn.at) else {
            turn.cluster.hints.requeue(node, &key);
            return;
        };
        let missing = also_lacking(turn, node, &plain);
        let (moment, now) = (turn.moment(), turn.now);
        // What was here and has gone is a miss everywhere, not what the owner had before.
        let gone = turn.engine.tombstone(plain, hint.version.previous(), now);
        let replica = turn.engine.copy_of(&plain, now).unwrap_or(gone);
        let generation = turn.cluster.handoffs[index].window.generation();
        let version = replica.version.max(hint.version);
        let purpose = Purpose::Replay(SentItem { node, key: key.clone(), version, generation });
        turn.cluster.send(Request::with_value(link, Kind::Put, replica.value, purpose).replayed(), moment, |output| {
            frame::write_replica(&replica, Along { missing: &missing, ..Along::default() }, output);
        });
        turn.cluster.handoffs[index].window.spend();
    }
    if turn.cluster.hints.target(node).pending() == 0 {
        transfer::send(turn, node);
    }
}

/// A hint's node does not own its key any more. If this node does not either, what it holds is for those who do.
fn reroute(turn: &mut Turn<'_>, key: &Key<'_>, version: Version) {
    let (bucket, partition, me) = (turn.bucket_of(key.hash), turn.partition_of(key.hash), turn.me());
    let owners = turn.owners(bucket);
    if !turn.keeps(me, key.hash) {
        owners.iter().for_each(|&owner| turn.cluster.hints.add(owner, key.bytes, version, partition, turn.now));
    }
}

/// The other owners that lack a key and cannot be reached from here: whoever takes it keeps hints for them, for it may reach them.
fn also_lacking(turn: &mut Turn<'_>, node: PeerId, key: &Key<'_>) -> ArrayVec<u64, REDUNDANCY_MAX> {
    let (bucket, buckets, me) = (turn.bucket_of(key.hash), turn.buckets(), turn.me());
    let owners = turn.owners(bucket);
    let Cluster { view, hints, links, .. } = &*turn.cluster;
    let lacks = |owner: PeerId| owner != node && owner != me && hints.get(owner, key.bytes).is_some();
    let owners = owners.iter().copied().filter(|&owner| lacks(owner) && links.is_away(owner, key.hash, buckets));
    owners.filter_map(|owner| Some(view.node(owner)?.node_hash)).collect()
}

/// Tells a node which keys are missing there, so that no others may be stale. True once it knows all of them.
fn announce_missing(turn: &mut Turn<'_>, node: PeerId) -> bool {
    let (index, buckets) = (node.index(), turn.buckets());
    let handoff = &turn.cluster.handoffs[index];
    if handoff.announced.in_flight > 0 {
        return false;
    }
    if handoff.announced.refused || turn.cluster.hints.target(node).all_announced() {
        return true;
    }
    let (generation, moment) = (handoff.window.generation(), turn.moment());
    let Cluster { hints, links, .. } = &mut *turn.cluster;
    let (mut lists, mut reached) = (Vec::<(LinkId, Vec<u8>)>::new(), true);
    hints.missing_keys(node, MISSING_KEYS_MAX, |key, version| {
        let hash = routing_hash(key);
        let Some(link) = links.reach(node, hash, buckets, moment.at).link() else {
            reached = false;
            return;
        };
        let place = lists.iter().position(|(other, _)| *other == link).unwrap_or_else(|| {
            lists.push((link, Vec::new()));
            lists.len() - 1
        });
        frame::write_lacking((hash, version), &mut lists[place].1);
    });
    if !reached {
        hints.forget_missing(node);
        return false;
    }
    for (link, list) in &lists {
        let purpose = Purpose::Missing(node, generation);
        turn.cluster.send(Request::with_value(*link, Kind::Missing, Value::Bytes(list), purpose), moment, |_| {});
    }
    turn.cluster.handoffs[index].announced.in_flight = lists.len() as u32;
    lists.is_empty() && turn.cluster.hints.target(node).all_announced()
}

/// Missing keys in one frame: 4 KiB.
const MISSING_KEYS_MAX: usize = 256;

//! What others lacked goes to them when they are back: hints one by one, dirty partitions whole.
//!
//! ```text
//!   owner is there --> keys that are missing there: only these may be stale there, and it fetches them when it is asked
//!                  --> hints, oldest first, at most `window` under way --> delivered: gone here too, where this node does not own it
//!                  --> then dirty partitions:  BEGIN (purge what is older than ..)  -->  walk: every item it owns  -->  clean
//!
//!   window: doubled while the owner answers quickly, halved when it is slow        rate: tokens, so that clients do not feel it
//! ```
//!
//! A node that has lost its memory gets everything again: all its partitions are dirty. A receiver that must purge does so in slices,
//! and says when it is done.
//!
//! Lives here: replay, transfer, purges. Not here: the store of hints (`hints`), links (`links`).
//! After Cassandra's and Riak's handoff; the promises are those of the design, section 8.

pub mod hints;

use std::collections::{BTreeMap, BTreeSet};

use arrayvec::ArrayVec;

use self::hints::End;
use crate::buffer::Buffer;
use crate::cluster::coordinate::{Purpose, SentItem};
use crate::cluster::links::{LinkId, Reach};
use crate::cluster::serve::REPLAYED;
use crate::cluster::{Cluster, Mistake, PeerRequest, Turn};
use crate::command::{Replica, Value};
use crate::engine::Cursor;
use crate::key::{Key, PARTITIONS_COUNT, bucket_of, partition_of, partition_of_hash, routing_hash};
use crate::limits;
use crate::peer::frame::{self, Along, Frame, FrameError, Kind, PutDone};
use crate::peer::handshake::Identity;
use crate::placement::NodeIndex;

/// Lines of the index that one step of a walk looks at.
const WALK_BUDGET: u32 = 32;
/// Milliseconds without a tick after which this core takes it that it stood still.
const STOOD_STILL_MS: u64 = 100;
/// Milliseconds between two ticks.
pub const TICK_MS: u64 = 10;

/// What is under way to one node.
#[derive(Debug, Default)]
pub struct Handoff {
    /// Raised when everything under way is given up: what comes of it later does not count.
    generation: u32,
    outstanding: u32,
    window: u32,
    /// Items that may be sent now, in thousandths.
    tokens: u64,
    transfer: Option<Transfer>,
    /// Frames with missing keys under way.
    lists_in_flight: u32,
    /// It has refused missing keys: everything may be stale there until all hints have arrived.
    missing_refused: bool,
    /// Partitions of which this core has purged old items, and the node was not told so.
    purged: BTreeSet<u32>,
}

/// Dirty partitions on their way.
#[derive(Debug)]
struct Transfer {
    /// Partitions and the versions up to which they were dirty when this began.
    marks: BTreeMap<u32, u64>,
    /// Their fences then, where there were any.
    fences: BTreeMap<u32, u64>,
    /// Announcements that were not confirmed yet.
    announced: u32,
    cursor: Option<Cursor>,
    /// An item did not arrive: the partitions stay dirty.
    failed: bool,
}

/// Partitions of which old items are to be purged, because a node that knows better has announced them.
#[derive(Debug, Default)]
pub struct Purges {
    /// Not begun.
    queued: Purge,
    /// The walk under way.
    cursor: Option<Cursor>,
    current: Purge,
    purged: u64,
    /// Partitions that were sent to their owners, and in which this node may hold what it does not own.
    unowned: BTreeSet<u32>,
    unowned_cursor: Option<Cursor>,
}

/// What one walk purges, and who waits for it.
#[derive(Debug, Default)]
struct Purge {
    /// By partition: 0 for nothing to purge, else 1 + the version up to which its items are stale. Empty for no partition at all.
    stale: Box<[u64]>,
    /// Partitions in which something was purged.
    purged: BTreeSet<u32>,
    waiting: Vec<PeerRequest>,
}

impl Purge {
    /// The version up to which items of this partition are purged.
    fn stale_through(&self, partition: u32) -> Option<u64> {
        self.stale.get(partition as usize).and_then(|stale| stale.checked_sub(1))
    }
}

impl Handoff {
    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.outstanding == 0 && self.transfer.is_none()
    }

    /// Whether nothing but hints is under way that the node does not know of.
    pub fn has_announced_missing(&self) -> bool {
        self.lists_in_flight == 0 && !self.missing_refused && self.transfer.is_none()
    }

    /// Whether the node was told of everything that was purged here.
    pub fn has_announced_purged(&self) -> bool {
        self.purged.is_empty()
    }
}

impl Purges {
    /// Whether one more announcement can be taken.
    pub fn has_room(&self) -> bool {
        self.queued.waiting.len() < ANNOUNCEMENTS_MAX
    }

    /// Notes an announcement of a partition.
    pub fn add(&mut self, partition: u32, stale_through: u64) {
        if self.queued.stale.is_empty() {
            self.queued.stale = vec![0; PARTITIONS_COUNT as usize].into();
        }
        let stale = &mut self.queued.stale[partition as usize];
        *stale = (*stale).max(stale_through + 1);
    }

    /// Notes who waits for what was announced.
    pub fn answer_later(&mut self, from: PeerRequest) {
        self.queued.waiting.push(from);
    }

    /// Whether something is to be purged.
    pub fn is_busy(&self) -> bool {
        !self.queued.waiting.is_empty() || self.cursor.is_some() || !self.unowned.is_empty()
    }

    /// Whether anything was ever purged: what is not here may be elsewhere.
    pub fn has_purged(&self) -> bool {
        self.purged > 0 || self.is_busy()
    }
}

impl Turn<'_> {
    /// A link of ours is up.
    pub fn link_up(&mut self, link: LinkId, identity: &Identity) {
        let node = self.cluster.peers.link(link).node;
        if self.cluster.peers.up(link, identity, self.ms) {
            self.on_lost_memory(node);
        }
        self.sync(link);
        self.retry();
        self.replay(node);
        self.advance_woken();
    }

    /// A link of ours could not be made, or is lost; `why` in words.
    pub fn link_down(&mut self, link: LinkId, why: &str) {
        let node = self.cluster.peers.link(link).node;
        let until_ms = self.cluster.peers.may_execute_until(link);
        let lost = self.cluster.peers.down(link, self.ms);
        self.cluster.peers.node_mut(node).trouble = why.into();
        self.cluster.hints.forget_missing(usize::from(node.0));
        self.cluster.handoffs[usize::from(node.0)].missing_refused = false;
        for (purpose, sent) in lost {
            self.lost(purpose, sent, until_ms);
        }
        self.retry();
    }

    /// A node has lost its memory: it gets everything of its own again.
    pub(super) fn on_lost_memory(&mut self, node: NodeIndex) {
        if self.engine.statistics().items_count > 0 {
            self.cluster.hints.mark_all(usize::from(node.0), ALL);
            self.cluster.hints.note_evicted(self.engine.evicted_count());
        }
        self.break_off(node);
    }

    /// What is to be done now and then. Cheap when it is called too often.
    pub fn tick(&mut self) {
        self.pace();
        if self.ms < self.cluster.ticked_ms + TICK_MS {
            return;
        }
        self.cluster.hints.note_evicted(self.engine.evicted_count());
        let passed_ms = (self.ms - self.cluster.ticked_ms).min(100);
        if passed_ms >= STOOD_STILL_MS {
            // This node did not listen: that others were silent meanwhile means nothing.
            self.cluster.peers.restart_timeouts(self.ms);
        }
        self.cluster.ticked_ms = self.ms;
        for link in self.cluster.peers.timed_out(self.ms) {
            self.cluster.peers.unwanted.push(link);
            self.link_down(link, "it does not answer");
        }
        let active = self.ms < self.cluster.active_ms + limits::PEER_ACTIVE_MS;
        if active {
            self.cluster.peers.connect_overlapping(self.ms);
            self.cluster.peers.recompute_leases(self.ms);
        }
        self.settle_engine();
        for link in self.cluster.peers.heartbeats_due(active, self.ms) {
            self.sync(link);
        }
        self.retry();
        self.hint_timed_out();
        self.purge_slice();
        self.unowned_slice();
    }

    /// Sends what others lack, a millisecond's share at a time: what goes in one piece is in the way of clients.
    fn pace(&mut self) {
        let passed_ms = (self.ms - self.cluster.paced_ms).min(TICK_MS);
        if passed_ms == 0 {
            return;
        }
        self.cluster.paced_ms = self.ms;
        self.cluster.is_paced = false;
        let rate = u64::from(self.cluster.options.handoff_rate);
        for node in self.cluster.peers.others() {
            let index = usize::from(node.0);
            let handoff = &mut self.cluster.handoffs[index];
            handoff.tokens = match rate {
                0 => u64::MAX / 2,
                rate => (handoff.tokens + rate * passed_ms).min((rate * BURST_MS).max(TOKEN)),
            };
            if self.cluster.hints.is_clean(index) && handoff.is_idle() && handoff.has_announced_purged() {
                continue;
            }
            self.replay(node);
            self.cluster.is_paced |= self.cluster.handoffs[index].tokens < TOKEN;
        }
    }

    /// Asks a node for a lease.
    fn sync(&mut self, link: LinkId) {
        if self.cluster.peers.has_room(link) {
            let (stamp, ms) = (self.stamp(), self.ms);
            let committed_through = self.committed_through();
            self.cluster.peers.request(link, (Kind::Sync, 0), stamp, Value::EMPTY, Purpose::Sync, ms, |output| {
                frame::write_version(committed_through, output);
            });
        }
    }

    /// Tells the engine up to which version nobody has anything older: all are there, and nobody holds anything for anybody. What was sent
    /// before has a second to arrive.
    fn settle_engine(&mut self) {
        let hints = &self.cluster.hints;
        let clean = self.cluster.peers.others().all(|node| hints.is_clean(usize::from(node.0)));
        if !clean || !self.cluster.peers.all_peers_up(self.ms) || self.cluster.peers.missing_count() > 0 {
            return;
        }
        let (clock, (marked_ms, marked)) = (self.engine.clock(), self.cluster.settling);
        let settled = if self.ms >= marked_ms + SETTLE_MS { marked } else { 0 };
        self.engine.settle(settled, clock);
        if settled > 0 || marked == 0 {
            self.cluster.settling = (self.ms, clock);
        }
    }

    /// Asks for the clock of a core that commands wait to be sent to.
    pub(super) fn ask_clock(&mut self, link: LinkId) {
        self.cluster.peers.need(link, self.ms);
        if self.cluster.peers.may_ask(link, self.ms) {
            self.sync(link);
        }
    }

    /// Sends what a node lacks, as much as may go.
    pub(super) fn replay(&mut self, node: NodeIndex) {
        let index = usize::from(node.0);
        self.announce_purged(node);
        if self.cluster.hints.is_clean(index) && self.cluster.handoffs[index].transfer.is_none() {
            return;
        }
        if !self.announce_missing(node) {
            return;
        }
        let buckets = self.buckets();
        while self.may_send(index) {
            let Some((key, hint)) =
                self.cluster.hints.next(index, self.now, |key| partition_of_hash(routing_hash(key), buckets))
            else {
                break;
            };
            let plain = Key::new(&key);
            if !self.owns(node, plain.hash) {
                self.cluster.hints.end(index, &key, hint.version, End::Rerouted);
                continue;
            }
            let target = match self.cluster.options.mistake {
                Some(Mistake::ReplayElsewhere) => self.cluster.peers.others().find(|&other| other != node).unwrap_or(node),
                _ => node,
            };
            let Reach::There(link) = self.cluster.peers.reach(target, plain.hash, buckets, self.ms) else {
                self.cluster.hints.requeue(index, &key);
                return;
            };
            let (stamp, ms, now) = (self.stamp(), self.ms, self.now);
            // What was here and has gone is a miss everywhere, not what the owner had before.
            let gone = self.engine.tombstone(plain, hint.version.saturating_sub(1), now);
            let replica = self.engine.copy_of(&plain, now).unwrap_or(gone);
            let generation = self.cluster.handoffs[index].generation;
            let version = replica.version.max(hint.version);
            let purpose = Purpose::Replay(SentItem { node, key: key.clone(), version, generation });
            self.cluster.peers.request(link, (Kind::Put, REPLAYED), stamp, replica.value, purpose, ms, |output| {
                frame::write_replica(&replica, Along::default(), output);
            });
            self.spend(index);
        }
        if self.cluster.hints.target(index).pending() == 0 {
            self.transfer(node);
        }
    }

    /// Tells a node which keys are missing there, so that no others may be stale. True once it knows all of them.
    fn announce_missing(&mut self, node: NodeIndex) -> bool {
        let (index, buckets) = (usize::from(node.0), self.buckets());
        let handoff = &self.cluster.handoffs[index];
        if handoff.lists_in_flight > 0 {
            return false;
        }
        if handoff.missing_refused || self.cluster.hints.target(index).all_announced() {
            return true;
        }
        let (generation, stamp, ms) = (handoff.generation, self.stamp(), self.ms);
        let Cluster { hints, peers, .. } = &mut *self.cluster;
        let (mut lists, mut reached) = (Vec::<(LinkId, Vec<u8>)>::new(), true);
        hints.missing_keys(index, MISSING_KEYS_MAX, |key, version| {
            let hash = routing_hash(key);
            let Some(link) = peers.reach(node, hash, buckets, ms).link() else {
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
            hints.forget_missing(index);
            return false;
        }
        for (link, list) in &lists {
            let purpose = Purpose::Missing(node, generation);
            peers.request(*link, (Kind::Missing, 0), stamp, Value::Bytes(list), purpose, ms, |_| {});
        }
        self.cluster.handoffs[index].lists_in_flight = lists.len() as u32;
        lists.is_empty() && self.cluster.hints.target(index).all_announced()
    }

    /// A node was told of keys that are missing there, or has refused them.
    pub(super) fn on_missing_answer(&mut self, node: NodeIndex, generation: u32, heard: bool) {
        let handoff = &mut self.cluster.handoffs[usize::from(node.0)];
        if handoff.generation == generation {
            handoff.lists_in_flight = handoff.lists_in_flight.saturating_sub(1);
            handoff.missing_refused |= !heard;
            self.replay(node);
        }
    }

    fn may_send(&self, index: usize) -> bool {
        let handoff = &self.cluster.handoffs[index];
        handoff.outstanding < handoff.window.max(limits::REPLAY_WINDOW_MIN) && handoff.tokens >= TOKEN
    }

    fn spend(&mut self, index: usize) {
        let handoff = &mut self.cluster.handoffs[index];
        handoff.outstanding += 1;
        handoff.tokens = handoff.tokens.saturating_sub(TOKEN);
    }

    /// One less is under way: its place in the window is free.
    pub(super) fn release_window(&mut self, node: NodeIndex, generation: u32) {
        let handoff = &mut self.cluster.handoffs[usize::from(node.0)];
        if handoff.generation == generation {
            handoff.outstanding -= 1;
        }
    }

    fn received(&mut self, sent: &SentItem, sent_ms: u64, taken: bool) {
        self.release_window(sent.node, sent.generation);
        let handoff = &mut self.cluster.handoffs[usize::from(sent.node.0)];
        let slow = !taken || self.ms.saturating_sub(sent_ms) > limits::REPLAY_SLOW_MS;
        handoff.window = match slow {
            true => (handoff.window / 2).max(limits::REPLAY_WINDOW_MIN),
            false => (handoff.window + 1).min(limits::REPLAY_WINDOW_MAX),
        };
    }

    /// A hint has arrived, or not.
    pub(super) fn replayed(&mut self, sent: &SentItem, frame: &Frame<'_>, sent_ms: u64) -> Result<(), FrameError> {
        let SentItem { node, ref key, version, .. } = *sent;
        let index = usize::from(node.0);
        let done = PutDone::of(frame, self.horizon())?;
        self.received(sent, sent_ms, done != PutDone::Busy);
        match done {
            PutDone::Busy => self.cluster.hints.requeue(index, key),
            PutDone::Taken | PutDone::Kept(_) => {
                let end = if done == PutDone::Taken { End::Replayed } else { End::Superseded };
                if self.cluster.hints.end(index, key, version, end) {
                    self.release_unowned(key);
                }
                self.replay(node);
            }
        }
        Ok(())
    }

    /// Removes an item that this node does not own, once every owner has it and no operation still needs it. Whatever its version: what
    /// is newer than the hint that has just ended came with hints of its own.
    pub(super) fn release_unowned(&mut self, key: &[u8]) {
        let key = Key::new(key);
        let (bucket, partition) = (self.bucket_of(key.hash), self.partition_of(key.hash));
        let owners = self.cluster.cache.owners_of(&self.cluster.view.ring, bucket);
        let hints = &self.cluster.hints;
        let lacks = |owner: &NodeIndex| {
            let index = usize::from(owner.0);
            hints.get(index, key.bytes).is_some() || hints.target(index).dirty_version(partition).is_some()
        };
        let mine = owners.is_empty() || owners.contains(&self.cluster.view.me);
        if !mine && !owners.iter().any(lacks) && !self.cluster.fallback_pins.contains_key(&key.hash) {
            self.engine.forget(&key, self.now);
        }
    }

    /// Sends dirty partitions, a slice at a time.
    fn transfer(&mut self, node: NodeIndex) {
        let index = usize::from(node.0);
        if self.cluster.handoffs[index].transfer.is_none() && !self.begin(node) {
            return;
        }
        while self.may_send(index) {
            let handoff = &mut self.cluster.handoffs[index];
            let Some(transfer) = &mut handoff.transfer else { return };
            if transfer.announced > 0 {
                return;
            }
            let Some(cursor) = transfer.cursor else { break };
            let marks = std::mem::take(&mut transfer.marks);
            let next = self.walk(node, cursor, &marks);
            if let Some(transfer) = &mut self.cluster.handoffs[index].transfer {
                (transfer.marks, transfer.cursor) = (marks, next);
            }
        }
        self.end_transfer(node);
    }

    /// Announces the partitions that the node must clear first. False if there is nothing to do, or the node is away.
    fn begin(&mut self, node: NodeIndex) -> bool {
        let index = usize::from(node.0);
        if self.cluster.hints.target(index).dirty_count() == 0 || self.cluster.handoffs[index].outstanding > 0 {
            return false;
        }
        let (hash, buckets) = (self.own_hash(), self.buckets());
        if self.cluster.peers.reach(node, hash, buckets, self.ms).link().is_none() {
            return false;
        }
        let target = self.cluster.hints.target(index);
        let marks: BTreeMap<u32, u64> =
            (0..PARTITIONS_COUNT).filter_map(|partition| Some((partition, target.dirty_version(partition)?))).collect();
        // With nothing evicted, all that is newer than what the node has is still here, and follows.
        let keeps_all = self.has_all_for(node);
        let mut lists = Vec::<(LinkId, Vec<Vec<u8>>)>::new();
        let mut fences = BTreeMap::new();
        for (&number, &version) in &marks {
            let fence = self.engine.partition_fence(number);
            if fence > 0 {
                fences.insert(number, fence);
            }
            // A node that has lost its memory has lost its fences, too: what lies below may have come back to it meanwhile.
            let stale_through = match version {
                PURGED => 0,
                _ if keeps_all => fence,
                version => (version - 1).max(fence),
            };
            if stale_through > 0 {
                let partition = frame::Partition { number, stale_through, fence };
                self.links_of(node, number).into_iter().for_each(|link| tell(&mut lists, link, partition));
            }
        }
        let (stamp, ms, generation) = (self.stamp(), self.ms, self.cluster.handoffs[index].generation);
        let mut announced = 0;
        for (link, list) in lists.iter().flat_map(|(link, lists)| lists.iter().map(|list| (*link, list))) {
            announced += 1;
            let purpose = Purpose::Begin(node, generation);
            self.cluster.peers.request(link, (Kind::Begin, 0), stamp, Value::Bytes(list), purpose, ms, |_| {});
        }
        self.cluster.handoffs[index].transfer =
            Some(Transfer { marks, fences, announced, cursor: Some(Cursor::default()), failed: false });
        true
    }

    /// The links to the cores of a node that have a partition: it may lie on two.
    fn links_of(&mut self, node: NodeIndex, partition: u32) -> ArrayVec<LinkId, 2> {
        let buckets = self.buckets();
        let range = self.cluster.view.ring.buckets_of(partition);
        let hash_of = |bucket: u32| ((u128::from(bucket) << 64).div_ceil(u128::from(buckets))) as u64;
        let mut links = ArrayVec::new();
        for hash in [hash_of(range.start), hash_of(range.end.saturating_sub(1).max(range.start))] {
            if let Reach::There(link) = self.cluster.peers.reach(node, hash, buckets, self.ms)
                && !links.contains(&link)
            {
                links.push(link);
            }
        }
        links
    }

    /// Tells a node of what was purged here, so that it sends what it has of that.
    fn announce_purged(&mut self, node: NodeIndex) {
        let index = usize::from(node.0);
        if self.cluster.handoffs[index].purged.is_empty() || !self.may_send(index) {
            return;
        }
        let purged = std::mem::take(&mut self.cluster.handoffs[index].purged);
        let mut lists = Vec::<(LinkId, Vec<Vec<u8>>)>::new();
        for number in purged {
            let links = self.links_of(node, number);
            if links.is_empty() {
                self.cluster.handoffs[index].purged.insert(number);
            }
            let partition = frame::Partition { number, stale_through: 0, fence: 0 };
            links.into_iter().for_each(|link| tell(&mut lists, link, partition));
        }
        let (stamp, ms, generation, horizon) = (self.stamp(), self.ms, self.cluster.handoffs[index].generation, self.horizon());
        for (link, list) in lists.iter().flat_map(|(link, lists)| lists.iter().map(|list| (*link, list))) {
            self.cluster.handoffs[index].outstanding += 1;
            let mut rest = &list[..];
            let numbers = std::iter::from_fn(|| Some(frame::read_partition(&mut rest, horizon).ok()??.number));
            let purpose = Purpose::Purged(node, generation, numbers.collect());
            self.cluster.peers.request(link, (Kind::Purged, 0), stamp, Value::Bytes(list), purpose, ms, |_| {});
        }
    }

    /// A node was told of what was purged, or not.
    pub(super) fn on_purged_answer(&mut self, node: NodeIndex, generation: u32, partitions: &[u32], heard: bool) {
        self.release_window(node, generation);
        if !heard {
            self.cluster.handoffs[usize::from(node.0)].purged.extend(partitions);
        }
    }

    /// One step of the walk: sends the items that the node owns in these partitions.
    fn walk(&mut self, node: NodeIndex, cursor: Cursor, marks: &BTreeMap<u32, u64>) -> Option<Cursor> {
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        let (view, buckets) = (self.cluster.view.clone(), self.buckets());
        let next = self.engine.walk_copies(cursor, self.now, WALK_BUDGET, &mut |replica: Replica<'_>| {
            let bucket = bucket_of(replica.key.hash, buckets);
            let partition = partition_of(bucket, buckets);
            if marks.contains_key(&partition) && view.ring.owners_of(bucket).contains(&node) {
                keys.push(replica.key.bytes.into());
            }
        });
        for key in keys {
            let plain = Key::new(&key);
            let Reach::There(link) = self.cluster.peers.reach(node, plain.hash, buckets, self.ms) else {
                self.fail_transfer(node);
                continue;
            };
            let (stamp, ms, now) = (self.stamp(), self.ms, self.now);
            let Some(replica) = self.engine.copy_of(&plain, now) else { continue };
            let generation = self.cluster.handoffs[usize::from(node.0)].generation;
            let purpose = Purpose::Stream(SentItem { node, key: key.clone(), version: replica.version, generation });
            self.cluster.figures.streamed += 1;
            self.cluster.peers.request(link, (Kind::Put, REPLAYED), stamp, replica.value, purpose, ms, |output| {
                frame::write_replica(&replica, Along { exempt: true, ..Along::default() }, output);
            });
            self.spend(usize::from(node.0));
        }
        next
    }

    /// A node has purged old items of a partition, and lacks what was purged. It is not told to purge again: others may have sent by then
    /// what an announcement of ours takes for old, and the two would go on for ever.
    pub(super) fn send_again(&mut self, node: NodeIndex, partition: u32) {
        let index = usize::from(node.0);
        let transfer = self.cluster.handoffs[index].transfer.as_mut().filter(|transfer| transfer.announced == 0);
        match transfer.and_then(|transfer| transfer.marks.remove(&partition)) {
            // It may have purged what this transfer has sent already.
            Some(version) => self.cluster.hints.lower(index, partition, version, PURGED),
            None => self.cluster.hints.mark(index, partition, PURGED),
        }
    }

    pub(super) fn fail_transfer(&mut self, node: NodeIndex) {
        if let Some(transfer) = &mut self.cluster.handoffs[usize::from(node.0)].transfer {
            transfer.failed = true;
        }
    }

    /// An item of a dirty partition has arrived, or not.
    pub(super) fn streamed(&mut self, sent: &SentItem, frame: &Frame<'_>, sent_ms: u64) -> Result<(), FrameError> {
        let done = PutDone::of(frame, self.horizon())?;
        self.received(sent, sent_ms, done != PutDone::Busy);
        if done == PutDone::Busy {
            self.fail_transfer(sent.node);
        }
        self.replay(sent.node);
        Ok(())
    }

    /// A partition has been cleared there, or the announcement was refused.
    pub(super) fn on_begin_answer(&mut self, node: NodeIndex, generation: u32, cleared: bool) {
        let handoff = &mut self.cluster.handoffs[usize::from(node.0)];
        if let Some(transfer) = &mut handoff.transfer
            && handoff.generation == generation
        {
            transfer.announced = transfer.announced.saturating_sub(1);
            transfer.failed |= !cleared;
        }
        if cleared {
            self.replay(node);
        }
    }

    /// The walk is over and everything has arrived: the partitions are clean, but for what was marked meanwhile.
    fn end_transfer(&mut self, node: NodeIndex) {
        let index = usize::from(node.0);
        let handoff = &mut self.cluster.handoffs[index];
        let over = |transfer: &Transfer| transfer.cursor.is_none() && transfer.announced == 0;
        if handoff.outstanding > 0 || !handoff.transfer.as_ref().is_some_and(over) {
            return;
        }
        let Some(transfer) = handoff.transfer.take() else { return };
        if transfer.failed {
            return;
        }
        for (&partition, &version) in &transfer.marks {
            // What has expired on the way, and left no more than a fence, is announced next.
            if self.engine.partition_fence(partition) == transfer.fences.get(&partition).copied().unwrap_or(0) {
                self.cluster.hints.clean(index, partition, version);
            }
        }
        // Partitions with hints too: their items were kept while the partition was dirty. Restart the scan to include them.
        self.cluster.purges.unowned.extend(transfer.marks.keys());
        self.cluster.purges.unowned_cursor = None;
    }

    /// Releases a slice of the items that this node does not own, in partitions that were sent whole.
    fn unowned_slice(&mut self) {
        if self.cluster.purges.unowned.is_empty() {
            return;
        }
        let (view, buckets) = (self.cluster.view.clone(), self.buckets());
        let unowned = std::mem::take(&mut self.cluster.purges.unowned);
        let mut cursor = Some(self.cluster.purges.unowned_cursor.unwrap_or_default());
        for _ in 0..PURGE_LINES / WALK_BUDGET {
            let Some(from) = cursor else { break };
            let mut keys: Vec<Box<[u8]>> = Vec::new();
            cursor = self.engine.walk_copies(from, self.now, WALK_BUDGET, &mut |replica: Replica<'_>| {
                let bucket = bucket_of(replica.key.hash, buckets);
                if unowned.contains(&partition_of(bucket, buckets)) && !view.ring.owners_of(bucket).contains(&view.me) {
                    keys.push(replica.key.bytes.into());
                }
            });
            keys.iter().for_each(|key| self.release_unowned(key));
        }
        self.cluster.purges.unowned_cursor = cursor;
        if cursor.is_some() {
            self.cluster.purges.unowned.extend(unowned);
        }
    }

    /// What was under way to a node is lost.
    pub(super) fn break_off(&mut self, node: NodeIndex) {
        let handoff = &mut self.cluster.handoffs[usize::from(node.0)];
        handoff.generation += 1;
        (handoff.outstanding, handoff.transfer, handoff.window) = (0, None, limits::REPLAY_WINDOW_MIN);
        (handoff.lists_in_flight, handoff.missing_refused) = (0, false);
        self.cluster.hints.forget_missing(usize::from(node.0));
    }

    /// Purges a slice of what other nodes have announced as old.
    fn purge_slice(&mut self) {
        let purges = &mut self.cluster.purges;
        if purges.cursor.is_none() {
            if purges.queued.waiting.is_empty() {
                return;
            }
            purges.current = std::mem::take(&mut purges.queued);
            purges.cursor = Some(Cursor::default());
        }
        let mut budget = PURGE_LINES / WALK_BUDGET;
        while let Some(cursor) = self.cluster.purges.cursor.filter(|_| budget > 0) {
            budget -= 1;
            let (buckets, current) = (self.buckets(), &self.cluster.purges.current);
            let mut keys: Vec<(Box<[u8]>, u64)> = Vec::new();
            let next = self.engine.walk_copies(cursor, self.now, WALK_BUDGET, &mut |replica: Replica<'_>| {
                let partition = partition_of_hash(replica.key.hash, buckets);
                if let Some(through) = current.stale_through(partition)
                    && replica.version <= through
                    && !replica.tombstone
                {
                    keys.push((replica.key.bytes.into(), through));
                }
            });
            for (key, through) in keys {
                let key = Key::new(&key);
                if self.engine.invalidate_through(&key, through, self.now) {
                    self.cluster.purges.purged += 1;
                    self.cluster.purges.current.purged.insert(partition_of_hash(key.hash, buckets));
                }
            }
            self.cluster.purges.cursor = next;
        }
        if self.cluster.purges.cursor.is_none() {
            let current = std::mem::take(&mut self.cluster.purges.current);
            for node in self.cluster.peers.others() {
                self.cluster.handoffs[usize::from(node.0)].purged.extend(&current.purged);
            }
            for from in current.waiting {
                let mut response = Buffer::default();
                let version = self.engine.clock();
                frame::write(&mut response, (Kind::Done, 0, 0, from.id), self.stamp(), Value::EMPTY, |meta| {
                    frame::write_version(version, meta);
                });
                self.cluster.outbox.put_frame(from, response);
            }
        }
    }
}

/// Marks of partitions that stand for no write: a node has purged what was old there, or has lost its memory.
const PURGED: u64 = 0;
const ALL: u64 = 1;

/// Adds a partition to what goes over a link, in lists of bounded length.
fn tell(lists: &mut Vec<(LinkId, Vec<Vec<u8>>)>, link: LinkId, partition: frame::Partition) {
    let place = lists.iter().position(|(other, _)| *other == link).unwrap_or_else(|| {
        lists.push((link, Vec::new()));
        lists.len() - 1
    });
    let lists = &mut lists[place].1;
    if lists.last().is_none_or(|list| list.len() >= frame::PARTITIONS_TOLD_MAX * frame::PARTITION_BYTES) {
        lists.push(Vec::new());
    }
    if let Some(list) = lists.last_mut() {
        frame::write_partition(partition, list);
    }
}

/// How long something that was sent may be on its way, in milliseconds: longer, and its link has been given up.
const SETTLE_MS: u64 = 1000;
/// Announcements that wait for one walk, at most.
const ANNOUNCEMENTS_MAX: usize = 1024;
/// Missing keys in one frame: 4 KiB.
const MISSING_KEYS_MAX: usize = 256;
/// What one item costs: thousandths.
const TOKEN: u64 = 1000;
/// Milliseconds whose items may go at once.
const BURST_MS: u64 = 2;

/// Lines of the index that one tick looks at for purges: about 100 us.
const PURGE_LINES: u32 = 1024;

//! Which nodes hold a key, and what to do while they do not. This file is the door: whoever moves bytes or commands calls [`Turn`].
//!
//! ```text
//!   Shard { engine, cluster: Some(Cluster) }  --turn(now)-->  Turn: everything of one core at one moment
//!
//!   in:   place, submit (client, other core)   handle_request (of a peer)   handle_response, handle_link_* (our links)   tick
//!   out:  poll_output: answers, frames that are ready, links to be made or closed, requests for other cores of this node
//!
//!   each file owns its state, and uses only those on its right or further down (`tests/tidy.rs` checks that there is no circle):
//!
//!   serve        requests of other nodes               change       another view: who comes, who goes, who owns more
//!   answers      responses, losses, what is tried again
//!   coordinate   from a command to its answer          flush        flush_all, in two rounds
//!   replicate    copies of one command                 merge        what others have of a key: asked for, taken over
//!   conclude     the end of a request                  refuse       commands that are not executed here, and their successors
//!   handoff/     what others lacked, when they are back
//!   leases       may this core answer alone            commit       what all owners have
//!   output       everything that leaves                requests     under way to other nodes
//!   progress     who has taken the view over           operations   under way here, in their order
//!   links        which nodes are there
//!   origin       who asked                             view         who is in the ring
//! ```
//!
//! Lives here: the door, and the state of a core's part of the ring as a whole. Not here: frames and handshakes (`peer`), who owns what
//! (`placement`), sockets (`runtime`).

use std::collections::VecDeque;
use std::sync::Arc;

mod answers;
mod change;
mod commit;
mod conclude;
mod coordinate;
mod flush;
pub mod handoff;
mod leases;
pub mod links;
mod merge;
mod operations;
mod origin;
mod output;
pub mod progress;
mod refuse;
mod replicate;
mod requests;
mod serve;
pub mod view;

use self::commit::{Uncommitted, Writes};
use self::conclude::Pins;
use self::flush::Flushes;
use self::handoff::hints::Hints;
use self::handoff::{Handoff, Pace, Purges, TICK_MS, purge, replay};
use self::leases::Leases;
use self::links::{Known, LinkId, Links, State};
use self::operations::{OpState, Operation, Operations, Passage};
use self::output::Outbox;
use self::progress::Progress;
use self::refuse::Refused;
use self::requests::{InFlight, Moment, Request, Requests};
use self::view::{Owners, PeerId, View};
use crate::buffer::Buffer;
use crate::command::Command;
use crate::engine::Engine;
use crate::key;
use crate::limits;
use crate::membership::driver::Reports;
use crate::metrics::Counters;
use crate::observe::Observer;
use crate::peer::frame::{self, Frame, FrameError, Horizon, Stamp};
use crate::peer::handshake::Identity;
use crate::placement::OwnersCache;
use crate::protocol::Head;
use crate::routing::{Place, Routes, ShardId};
use crate::time::{Monotonic, Timestamp};
use crate::version::Version;

pub use self::operations::{Moved, OperationId, StoredCommand};
pub use self::origin::{Origin, PeerRequest};
pub use self::output::{Answer, Output, Outputs};

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When every owner that is there has it, or who stands in for it.
    #[default]
    Live,
    /// When the node that coordinates has it.
    One,
}

/// How a core takes part in a ring.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `--ack`.
    pub ack: Ack,
    /// Memory for what this core keeps for other nodes, in bytes.
    pub handoff_bytes_max: usize,
    /// `--handoff_window`, in milliseconds.
    pub handoff_window_ms: u64,
    /// `--handoff_rate`: items that this core replays a second; 0 for as many as go.
    pub handoff_rate: u32,
    /// Cores of this node.
    pub cores: u16,
    /// A planted mistake, for tests that must catch it. Without the feature `planted_faults` it counts for nothing.
    pub mistake: Option<Mistake>,
}

/// Mistakes that a test plants to see that a check catches them. Never set by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A write is answered before the copies are there.
    AckBeforeCopies,
    /// Copies are not sent.
    CopiesForgotten,
    /// Hints are not kept.
    NoHints,
    /// A replayed item gets a new version where it arrives.
    HintWithoutVersion,
    /// Fences of others are not heard.
    FenceSkipped,
    /// Hints go to the node behind the owner.
    ReplayElsewhere,
    /// Peers that may have something newer are never read.
    NoPeerReads,
    /// Every node that is read calls its answer authoritative.
    AlwaysAuthoritative,
    /// Keys that others have announced as missing here are not fetched from them.
    MissingIgnored,
    /// What a change of view gives to a node is not marked as missing there.
    GainsForgotten,
    /// Who will own a bucket gets no copies of what is written before that.
    PendingForgotten,
    /// A core coordinates what another one did under the view before, without that one's word.
    WordNotAwaited,
    /// Commands under way to a node that has left the ring are given up at once.
    LinksCut,
    /// A copy that came under another view leaves no hints.
    OtherViewTrusted,
    /// A copy counts as committed though its coordinator has not said so.
    AllCommitted,
    /// A command that is repeated does not say so to the core that goes on with it.
    RepeatForgotten,
    /// Requests on one key do not wait for those before them.
    OrderIgnored,
    /// A command is executed though its sender may have given it up.
    DeadlineIgnored,
    /// A command that was sent to a node that has gone is given to another one at once.
    GivenUpEarly,
    /// What a node that has gone may have executed is executed again, whatever was written since.
    RepeatedBlindly,
    /// A read that may have passed the writes behind it is executed again.
    ReadsRepeated,
    /// A command that follows a refused one is executed.
    RefusalForgotten,
    /// Nobody waits for the end of a lease before he stands in for a node.
    LeaseNotAwaited,
    /// A command that has met something newer is answered as if it had not.
    ConflictForgotten,
    /// Copies that were found to be older are left as they are.
    NotRepaired,
    /// Keys that others have announced stay announced when they have nothing left.
    MissingKept,
    /// What a node does not own stays there for good.
    UnownedKept,
    /// A flush is answered before the other nodes have.
    FlushAlone,
    /// Versions of peers are believed, however late.
    FarVersionsBelieved,
}

impl ClusterOptions {
    /// Whether a test has planted this mistake.
    #[inline]
    fn has(&self, mistake: Mistake) -> bool {
        cfg!(feature = "planted_faults") && self.mistake == Some(mistake)
    }
}

/// The part of a core that knows other nodes.
pub struct Cluster {
    /// Who owns what.
    pub view: Arc<View>,
    /// How to take part.
    pub options: ClusterOptions,
    /// Links to the others.
    pub links: Links,
    /// What they have promised.
    pub leases: Leases,
    /// Requests under way to them.
    pub requests: Requests,
    /// What others lack.
    pub hints: Hints,
    /// How far they are with the view.
    progress: Progress,
    /// What happened.
    pub figures: Figures,
    outbox: Outbox,
    /// Requests of this core's clients that another core of this node must go on with, in order.
    to_cores: VecDeque<(ShardId, OperationId)>,
    operations: Operations,
    flushes: Flushes,
    refused: Refused,
    /// Writes of which copies are under way.
    writes: Writes,
    /// Copies of other coordinators' writes that are not known to be on every owner.
    uncommitted: Uncommitted,
    pins: Pins,
    /// By node.
    handoffs: Vec<Handoff>,
    purges: Purges,
    pace: Pace,
    cache: OwnersCache,
    scratch: Buffer,
    /// Millisecond of the last request for which leases matter.
    active_at: Monotonic,
    ticked_at: Monotonic,
    swept_at: Monotonic,
}

/// Counts of a core since start, for `stats peers` and `stats handoff`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Commands sent on to another node.
    pub forwarded: u64,
    /// Commands of other nodes executed here.
    pub served: u64,
    /// Copies sent.
    pub copies_sent: u64,
    /// Copies taken.
    pub copies_taken: u64,
    /// Keys asked of other nodes before a command was executed.
    pub consulted: u64,
    /// Older or missing copies renewed because a read found them.
    pub repaired: u64,
    /// Writes that met something newer elsewhere.
    pub conflicts: u64,
    /// Commands that were answered with an error because no node could be reached, or one went away.
    pub failed: u64,
    /// Items of dirty partitions sent.
    pub streamed: u64,
    /// Changes of the view.
    pub views: u64,
}

impl Cluster {
    /// The part of core `own` in the ring of this view.
    pub fn new(view: Arc<View>, own: ShardId, options: ClusterOptions) -> Self {
        let nodes = view.peers_count();
        // Half for hints, the rest for keys that are missing here, and for copies that are not known to be committed.
        let (hints_bytes, quarter_bytes) = (options.handoff_bytes_max / 2, options.handoff_bytes_max / 4);
        Self {
            links: Links::new(&view, own, options.cores),
            leases: Leases::new(nodes, quarter_bytes / limits::PEER_MISSING_BYTES),
            requests: Requests::default(),
            hints: Hints::new(nodes, hints_bytes, options.handoff_window_ms),
            progress: Progress::default(),
            outbox: Outbox::default(),
            to_cores: VecDeque::new(),
            figures: Figures::default(),
            operations: Operations::default(),
            flushes: Flushes::default(),
            refused: Refused::default(),
            writes: Writes::default(),
            uncommitted: Uncommitted::new(quarter_bytes),
            pins: Pins::default(),
            handoffs: (0..nodes).map(|_| Handoff::default()).collect(),
            purges: Purges::default(),
            pace: Pace::default(),
            cache: OwnersCache::default(),
            scratch: Buffer::default(),
            active_at: Monotonic::LONG_AGO,
            ticked_at: Monotonic::LONG_AGO,
            swept_at: Monotonic::LONG_AGO,
            view,
            options,
        }
    }

    /// Whether the core must look at the clock every few milliseconds: something is under way, or is to be tried again.
    pub fn is_busy(&self, at: Monotonic) -> bool {
        self.requests.outstanding() > 0
            || self.operations() > 0
            || at < self.active_at + limits::PEER_ACTIVE_MS
            || self.links.is_connecting()
            || self.links.others().any(|node| !self.hints.is_clean(node))
            || self.is_changing()
            || self.is_dropping()
    }

    /// Whether the ring changes, or has just changed: everybody says how far it is.
    fn is_changing(&self) -> bool {
        self.view.target.is_some() || self.progress.former().is_some()
    }

    /// Whether `poll_output` would give something.
    pub fn has_output(&self) -> bool {
        self.links.has_output() || !self.outbox.is_empty() || !self.to_cores.is_empty()
    }

    /// Whether items wait for the next millisecond to go to another node.
    pub fn is_paced(&self) -> bool {
        self.pace.is_waiting()
    }

    /// Keeps the leases for a while, though no client asks.
    pub fn active_now(&mut self, at: Monotonic) {
        self.active_at = at;
    }

    /// Whether something that came from other nodes is not done with: copies that may be under way to others, old items to be purged.
    pub fn is_dropping(&self) -> bool {
        !self.uncommitted.is_empty()
            || self.purges.is_busy()
            || self.handoffs.iter().any(|handoff| !handoff.has_announced_purged() || !handoff.is_idle())
    }

    /// Bytes of commands that are kept for requests under way, here and to other nodes.
    pub fn held_bytes(&self) -> usize {
        self.operations.stored_bytes() + self.requests.bytes()
    }

    /// What the other nodes have reported under this view, and whether this core has all that it is to own.
    pub fn reports(&self) -> Reports {
        self.progress.reports(&self.view, &self.links)
    }

    /// Commands of other nodes that were refused, as far as those that follow them are to be refused too.
    pub fn refused_count(&self) -> usize {
        self.refused.len()
    }

    /// Requests under way.
    pub fn operations(&self) -> usize {
        self.operations.len() + self.flushes.len()
    }

    /// Sends a request to another node.
    fn send(&mut self, request: Request<'_>, moment: Moment, meta: impl FnOnce(&mut Vec<u8>)) {
        self.requests.send(&mut self.links, request, moment, meta);
    }

    /// The request that a response over a link answers.
    fn answered(&mut self, link: LinkId, id: u32, at: Monotonic) -> Option<InFlight> {
        self.requests.answered(&mut self.links, link, id, at)
    }
}

/// One core at one moment: what every decision about a request needs.
pub struct Turn<'a> {
    /// Its items.
    pub engine: &'a mut Engine,
    /// Its counters.
    pub counters: &'a mut Counters,
    /// What is noted of the commands for who asked for it.
    pub observer: &'a mut Observer,
    /// Its part of the ring.
    pub cluster: &'a mut Cluster,
    /// Which core it is.
    pub core: ShardId,
    /// Which core has which hash.
    pub routes: &'a Routes,
    /// The time of items.
    pub now: Timestamp,
    /// The time of deadlines.
    pub at: Monotonic,
}

impl Turn<'_> {
    /// Where a command is executed that can be executed at once, without asking or telling anybody; `None` if it cannot.
    #[inline]
    pub fn place(&mut self, command: &Command<'_>) -> Option<Place> {
        coordinate::place(self, command)
    }

    /// Takes over a request of a client; its answer will be an output. False if too much is under way: ask again later.
    pub fn submit(&mut self, origin: Origin, command: &Command<'_>, framing: Head, words: &[u8]) -> bool {
        self.submit_repeated(origin, Version::NONE, command, framing, words)
    }

    /// As `submit`, for a request of another core of this node. Where a node that has gone away may have executed it, it is not executed
    /// again if its key was written since `repeated_since` by others; 0 where none can have.
    pub fn submit_repeated(
        &mut self,
        origin: Origin,
        repeated_since: Version,
        command: &Command<'_>,
        framing: Head,
        words: &[u8],
    ) -> bool {
        let taken = coordinate::take(self, origin, Passage { repeated_since, ..Passage::OWN }, command, framing, words);
        coordinate::advance_woken(self);
        taken
    }

    /// Flushes the whole ring. `least` is what the cores of this node have given so far; the answer is the fence, as eight bytes.
    pub fn flush_ring(&mut self, origin: Origin, least: Version) {
        flush::begin(self, origin, least);
    }

    /// Another view counts from now on: one that was made by `View::next`. What is known of members that stay is kept.
    ///
    /// Links to nodes that are not in it are closed, and what was under way to them is lost as with a link. What a node may own now and did
    /// not before is dirty for it, as for one that has lost its memory: it gets it from whoever has it, and until then it answers for no
    /// key without asking. While nodes differ in their views, a key may have two coordinators, as in a partition: a read may be stale, and
    /// of two writes the later one stays. What was acknowledged is not lost, if a node that goes leaves another copy behind.
    pub fn handle_view(&mut self, view: Arc<View>) {
        change::install(self, view);
        answers::retry(self);
        coordinate::advance_woken(self);
    }

    /// A node has shown who it is, over a connection of its own. Returns its id here, if it is in the view: else it may be in the next one,
    /// and is to be named again with what it asks then.
    pub fn handle_inbound(&mut self, identity: &Identity) -> Option<PeerId> {
        let node = self.cluster.view.peer_with_id(&identity.id).filter(|&node| node != self.cluster.view.me)?;
        self.on_identity(node, identity);
        self.on_contact(node);
        Some(node)
    }

    /// A connection of a peer has ended.
    pub fn handle_inbound_end(&mut self, connection: u32, generation: u32) {
        self.cluster.refused.forget(connection, generation);
    }

    /// Handles a request of a peer; what can be answered at once goes to `output`.
    ///
    /// # Errors
    /// It cannot be read: the connection must end.
    pub fn handle_request(&mut self, from: PeerRequest, frame: &Frame<'_>, output: &mut Buffer) -> Result<(), FrameError> {
        self.observe_head(&frame.head);
        let from = PeerRequest { node: from.node.filter(|&node| self.cluster.view.has(node)), ..from };
        if let Some(node) = from.node {
            self.on_contact(node);
            if !self.shares_view(&frame.head) {
                self.cluster.leases.end_of_node(node, &self.cluster.links);
            }
        }
        let result = serve::serve(self, from, frame, output);
        coordinate::advance_woken(self);
        result
    }

    /// Handles a response to a request of this core.
    ///
    /// # Errors
    /// It is no response to anything, or cannot be read: the link must end.
    pub fn handle_response(&mut self, link: LinkId, frame: &Frame<'_>) -> Result<(), FrameError> {
        let result = answers::respond(self, link, frame);
        coordinate::advance_woken(self);
        result
    }

    /// A link of ours is up.
    pub fn handle_link_up(&mut self, link: LinkId, identity: &Identity) {
        if self.cluster.links.link(link).state == State::Removed {
            return self.cluster.links.hang_up(link);
        }
        let node = self.cluster.links.link(link).node;
        self.on_identity(node, identity);
        if self.cluster.links.reconnect_all(self.at) {
            self.cluster.leases.suspend();
        }
        self.cluster.links.up(link, self.at);
        self.cluster.leases.end(link);
        leases::ask(self, link);
        answers::retry(self);
        replay::send(self, node);
        coordinate::advance_woken(self);
    }

    /// A link of ours could not be made, or is lost; `why` in words.
    pub fn handle_link_down(&mut self, link: LinkId, why: &str) {
        match self.cluster.links.link(link).state {
            State::Removed => return,
            State::Draining(_) => {
                change::end_drain(self, link);
                return answers::retry(self);
            }
            _ => {}
        }
        let node = self.cluster.links.link(link).node;
        let until = self.cluster.links.may_execute_until(link);
        let was_up = self.cluster.links.down(link, self.at);
        self.cluster.links.note_trouble(node, why);
        self.cluster.leases.on_link_lost(link, &self.cluster.links, self.at);
        self.cluster.progress.forget(link);
        handoff::on_link_lost(self, node);
        if was_up {
            change::on_source_lost(self, node);
        }
        for purpose in self.cluster.requests.take_lost(link, |_| true) {
            answers::lost(self, purpose, was_up, until);
        }
        answers::retry(self);
    }

    /// Moves everything that has become ready to `outputs`, which must be empty.
    pub fn poll_output(&mut self, outputs: &mut Outputs) {
        outputs.stamp = self.stamp();
        self.cluster.links.poll_output(&mut outputs.links);
        std::mem::swap(&mut self.cluster.outbox, &mut outputs.outbox);
        std::mem::swap(&mut self.cluster.to_cores, &mut outputs.to_cores);
    }

    /// Moves the frames that wait for a link to its socket, if the link is up.
    pub fn take_frames(&mut self, link: LinkId, output: &mut Buffer) {
        self.cluster.links.take_output(link, output);
    }

    /// Takes the command of a request out that goes to another core, with the ticket of its answer. `None` if it has ended.
    pub fn take_moved(&mut self, id: OperationId) -> Option<Moved> {
        let op = self.op(id).filter(|op| matches!(op.state(), OpState::Moved { .. }))?;
        let (ticket, stored) = (id.ticket(op.origin.descriptor()), std::mem::take(&mut op.stored));
        let repeated_since = op.repeated_since;
        let is_forgotten = self.cluster.options.has(Mistake::RepeatForgotten);
        Some(Moved { ticket, repeated_since: if is_forgotten { Version::NONE } else { repeated_since }, stored })
    }

    /// The other core has taken no command just now: it goes there later, and before all that come behind it.
    pub fn put_back(&mut self, core: ShardId, id: OperationId, moved: Moved, outputs: &mut Outputs) {
        conclude::restore_command(self, id, moved.stored);
        let later = std::mem::take(&mut self.cluster.to_cores);
        self.cluster.to_cores.push_back((core, id));
        self.cluster.to_cores.extend(outputs.to_cores.drain(..).chain(later));
    }

    /// The other core has answered a request that it was given.
    pub fn handle_moved(&mut self, id: OperationId, reply: &mut Buffer) {
        let Some(op) = self.op(id) else { return };
        let origin = op.origin;
        self.cluster.outbox.put(origin, reply);
        conclude::end(self, id);
        coordinate::advance_woken(self);
    }

    /// What is to be done now and then. Cheap when it is called too often.
    pub fn tick(&mut self) {
        handoff::pace(self);
        if self.at < self.cluster.ticked_at + TICK_MS {
            return;
        }
        self.cluster.hints.note_evicted(self.engine.evicted_count());
        let passed_ms = self.at - self.cluster.ticked_at;
        if passed_ms >= STOOD_STILL_MS {
            // This node did not listen: that others were silent meanwhile means little. A node that hardly ever runs gives up others all the
            // same, only later.
            self.cluster.links.forgive_silence(passed_ms - STOOD_STILL_MS / 2, self.at);
        }
        self.cluster.ticked_at = self.at;
        for link in self.cluster.links.timed_out(self.at) {
            if !self.cluster.links.is_draining(link) {
                self.cluster.links.hang_up(link);
            }
            self.handle_link_down(link, "it does not answer");
        }
        let active = self.cluster.is_changing() || self.at < self.cluster.active_at + limits::PEER_ACTIVE_MS;
        if active {
            self.cluster.links.connect_overlapping(self.at);
            self.cluster.leases.recompute(&self.cluster.links, self.at);
        }
        self.cluster.progress.end_former(&self.cluster.links, self.at);
        handoff::settle(self);
        for link in self.cluster.links.heartbeats_due(active, self.at) {
            leases::ask(self, link);
        }
        answers::retry(self);
        commit::hint_timed_out(self);
        purge::purge_slice(self);
        purge::unowned_slice(self);
    }

    /// What every frame says.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            clock: self.engine.clock(),
            fence: self.engine.fence(),
            sent_ms: self.at.ms() as u32,
            view: self.cluster.view.stamp(),
            ..Stamp::default()
        }
    }

    /// Whether what a frame says was said under our view.
    fn shares_view(&self, head: &frame::Head) -> bool {
        head.view == self.cluster.view.stamp()
    }

    /// What a frame says of now.
    fn moment(&self) -> Moment {
        Moment { stamp: self.stamp(), at: self.at }
    }

    /// What versions a peer may speak of.
    fn horizon(&self) -> Horizon {
        match self.cluster.options.has(Mistake::FarVersionsBelieved) {
            true => Horizon::at(Timestamp { unix_ms: u64::MAX >> 17 }),
            false => Horizon::at(self.now),
        }
    }

    fn buckets(&self) -> u32 {
        self.cluster.view.ring.buckets()
    }

    fn bucket_of(&self, hash: u64) -> u32 {
        key::bucket_of(hash, self.buckets())
    }

    fn partition_of(&self, hash: u64) -> u32 {
        key::partition_of_hash(hash, self.buckets())
    }

    /// The owners of a bucket, best first.
    fn owners(&mut self, bucket: u32) -> Owners {
        let Cluster { cache, view, .. } = &mut *self.cluster;
        view.owners(cache, bucket)
    }

    /// Whether a node is an owner of this hash, now or next: what it has of it stays there.
    fn keeps(&mut self, node: PeerId, hash: u64) -> bool {
        self.owns(node, hash) || self.cluster.view.is_pending(node, self.bucket_of(hash))
    }

    /// Whether a node is an owner of this hash.
    fn owns(&mut self, node: PeerId, hash: u64) -> bool {
        let bucket = self.bucket_of(hash);
        let Cluster { cache, view, .. } = &mut *self.cluster;
        let owners = cache.owners_of(&view.ring, bucket);
        view.index_of(node).is_some_and(|index| owners.contains(&index))
    }

    /// A hash of this core's part of the ring: a core of another node with the same hash overlaps this core.
    fn own_hash(&self) -> u64 {
        let (core, cores) = (u128::from(self.core.0), u128::from(self.cluster.options.cores));
        (((2 * core + 1) << 63) / cores) as u64
    }

    fn me(&self) -> PeerId {
        self.cluster.view.me
    }

    fn op(&mut self, id: OperationId) -> Option<&mut Operation> {
        self.cluster.operations.get(id)
    }

    /// Takes note of what every frame says.
    fn observe_head(&mut self, head: &frame::Head) {
        self.engine.observe(head.clock);
        if !self.cluster.options.has(Mistake::FenceSkipped) {
            self.engine.raise_fence(head.fence);
        }
    }

    /// A node has made contact: nobody stands in for it until it is known whether it is there.
    fn on_contact(&mut self, node: PeerId) {
        if self.cluster.links.on_contact(node, self.at) {
            self.cluster.leases.suspend();
        }
    }

    /// What a node says of itself.
    fn on_identity(&mut self, node: PeerId, identity: &Identity) {
        let known = self.cluster.links.on_identity(node, identity);
        if known == Known::Same {
            return;
        }
        self.cluster.leases.forget_node(node, &self.cluster.links);
        if known == Known::LostMemory {
            self.cluster.leases.forget_grant(node);
            handoff::on_lost_memory(self, node);
        }
    }

    /// Whether everything that came for a node since its first partition became dirty is still here.
    fn has_all_for(&self, node: PeerId) -> bool {
        self.engine.evicted_count() == self.cluster.hints.target(node).evicted_before
    }
}

/// Milliseconds without a tick after which this core takes it that it stood still.
const STOOD_STILL_MS: u64 = 100;

//! This core's links to the cores of other nodes: which of them are there, and which are to be made or given up.
//!
//! ```text
//!   node --> | link to core 0 | link to core 1 | ..     one connection each, made when first needed
//!
//!   Idle --first need--> Connecting --handshake--> Up --silence, reset--> Down --pause--> Probing --handshake--> Up
//!            (requests wait)                            (requests go to the next in the ranking)
//!
//!   node has left:  Up --commands under way--> Draining --all answered, or too late--> Removed          anything else --> Removed
//! ```
//!
//! Liveness lives here and nowhere else; who owns what never changes by it. A node that makes contact is tried again at once.
//!
//! A command that goes over a link says what was last heard of the other core's clock, and is executed there for `PEER_LEASE_MS` from then
//! on: from `PEER_LEASE_MS` after that moment on it can be given to somebody else, whatever became of the link (`may_execute_until`).
//!
//! Lives here: state, timeouts and pauses of links, their output. Not here: what is under way over them (`requests`), what the other side has
//! promised (`leases`), sockets.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::view::{PeerId, View};
use crate::buffer::Buffer;
use crate::key;
use crate::limits;
use crate::peer::frame::OpenBatch;
use crate::peer::handshake::Identity;
use crate::routing::ShardId;
use crate::time::Monotonic;

/// One of this core's links: an index into its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(pub u32);

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never needed so far.
    Idle,
    /// Being made for the first time, since this millisecond: requests wait for it.
    Connecting(Monotonic),
    /// There.
    Up,
    /// Away. Tried again after this millisecond, when something is to be sent.
    Down(Monotonic),
    /// Away, and being made again since this millisecond.
    Probing(Monotonic),
    /// Its node is not in the ring any more. Commands that were sent are answered until this millisecond, and nothing else goes there.
    Draining(Monotonic),
    /// Its node is not in the ring any more.
    Removed,
}

impl State {
    /// Whether the other side is taken to be away.
    pub fn is_away(self) -> bool {
        matches!(self, Self::Down(_) | Self::Probing(_) | Self::Draining(_) | Self::Removed)
    }
}

/// Whether requests may go to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// They may.
    There(LinkId),
    /// How many cores it has is not known yet: its first link is being made.
    Unknown,
    /// It is away.
    Away,
}

impl Reach {
    /// The link that requests may go over.
    pub fn link(self) -> Option<LinkId> {
        match self {
            Self::There(link) => Some(link),
            Self::Unknown | Self::Away => None,
        }
    }
}

/// A link to one core of another node.
pub struct Link {
    /// The node.
    pub node: PeerId,
    /// Which of its cores.
    pub core: u16,
    /// Where it stands.
    pub state: State,
    /// Requests under way.
    pub outstanding: u32,
    outgoing: Outgoing,
    /// It stands in `LinkOutputs::ready`.
    is_ready: bool,
    /// When something was last heard, or expected from.
    heard_at: Monotonic,
    /// What the other core's clock said when it was last heard, and when that was; 0 before.
    their_ms: u32,
    their_ms_at: Monotonic,
    /// When it was last asked because commands wait for its clock.
    asked_at: Monotonic,
    pinged_at: Monotonic,
    backoff_ms: u64,
    /// It is away, but its node has made contact: until it is up or has failed, nobody stands in for it.
    reconnecting: bool,
    /// When that was.
    reconnecting_since: Monotonic,
    /// Until this time, contact from the node does not trigger a reconnect: the last attempt failed. The next time, for
    /// `contact_ignored_ms`.
    contact_ignored_until: Monotonic,
    contact_ignored_ms: u64,
}

impl Link {
    /// Never needed so far.
    fn new(node: PeerId, core: u16) -> Self {
        Self {
            node,
            core,
            state: State::Idle,
            outstanding: 0,
            outgoing: Outgoing::default(),
            is_ready: false,
            heard_at: Monotonic::LONG_AGO,
            their_ms: 0,
            their_ms_at: Monotonic::LONG_AGO,
            asked_at: Monotonic::LONG_AGO,
            pinged_at: Monotonic::LONG_AGO,
            backoff_ms: limits::PEER_BACKOFF_MS_MIN,
            reconnecting: false,
            reconnecting_since: Monotonic::LONG_AGO,
            contact_ignored_until: Monotonic::LONG_AGO,
            contact_ignored_ms: limits::PEER_CONTACT_IGNORED_MS_MIN,
        }
    }
}

/// What waits to be sent over a link.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) output: Buffer,
    /// The last frame of the output, if commands may be added to it.
    pub(super) batch: Option<OpenBatch>,
}

/// What is known of a node.
#[derive(Default)]
pub struct Node {
    /// Its cores, once a handshake has told.
    pub cores: Option<u16>,
    /// Its view, as it last said.
    pub view: u64,
    /// Why it was last refused or lost.
    pub trouble: String,
    /// Drawn at its start; 0 before the first handshake.
    incarnation: u64,
    links: Vec<LinkId>,
    /// One of its links may be away.
    lost: bool,
}

/// What a handshake has told of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// What was known already, or the first there is to know.
    Same,
    /// It has another number of cores: what its cores have said counts no more.
    Recut,
    /// It has started again without its items.
    LostMemory,
}

/// What is to be done with the sockets of links.
#[derive(Default)]
pub(super) struct LinkOutputs {
    /// Links whose sockets are to be closed.
    pub(super) hang_up: VecDeque<LinkId>,
    /// Links to be connected.
    pub(super) dial: VecDeque<LinkId>,
    /// Links with output.
    pub(super) ready: VecDeque<LinkId>,
}

/// All links of a core.
pub struct Links {
    /// Every node of the view but this one.
    others: Arc<[PeerId]>,
    /// Where this core's part of the ring lies.
    own: ShardId,
    own_cores: u16,
    links: Vec<Link>,
    /// By `PeerId`.
    nodes: Vec<Node>,
    outputs: LinkOutputs,
    /// Links lost since start.
    pub lost: u64,
}

impl Links {
    /// Links to nobody so far.
    pub(super) fn new(view: &View, own: ShardId, own_cores: u16) -> Self {
        let mut links = Self {
            others: Arc::default(),
            own,
            own_cores,
            links: Vec::new(),
            nodes: Vec::new(),
            outputs: LinkOutputs::default(),
            lost: 0,
        };
        links.handle_view(view);
        links
    }

    /// Another view counts: new nodes get a first link, and nodes that are back get theirs again. Those that are not in it any more are
    /// removed by `remove`.
    pub(super) fn handle_view(&mut self, view: &View) {
        self.others = view.others().collect();
        self.nodes.resize_with(view.peers_count(), Node::default);
        for &node in self.everyone().iter() {
            for link in std::mem::take(&mut self.nodes[node.index()].links) {
                let link_mut = &mut self.links[link.0 as usize];
                if link_mut.state == State::Removed {
                    *link_mut = Link::new(node, link_mut.core);
                }
                self.nodes[node.index()].links.push(link);
            }
            self.ensure(node, 1);
        }
        // A batch says under which view it was sent.
        self.links.iter_mut().for_each(|link| link.outgoing.batch = None);
    }

    /// A node is not in the ring any more: nothing is known of it, and its links are to be closed by `close`, or by `drain` first.
    pub(super) fn remove(&mut self, node: PeerId) -> Vec<LinkId> {
        let links = std::mem::take(&mut self.nodes[node.index()].links);
        self.nodes[node.index()] = Node { links: links.clone(), ..Node::default() };
        links
    }

    /// Closes a link to a node that is not in the ring any more.
    pub(super) fn close(&mut self, link: LinkId, at: Monotonic) {
        if matches!(self.link(link).state, State::Connecting(_) | State::Up | State::Probing(_) | State::Draining(_)) {
            self.hang_up(link);
        }
        self.down(link, at);
        self.links[link.0 as usize].state = State::Removed;
        self.outputs.dial.retain(|&dial| dial != link);
    }

    /// So many commands are under way over a link to a node that is not in the ring any more: they are still answered.
    pub(super) fn drain(&mut self, link: LinkId, outstanding: u32, at: Monotonic) {
        let link = &mut self.links[link.0 as usize];
        (link.state, link.outstanding) = (State::Draining(at + limits::LINK_DRAIN_MS_MAX), outstanding);
    }

    /// Whether only what was sent before is answered over a link.
    pub(super) fn is_draining(&self, link: LinkId) -> bool {
        matches!(self.link(link).state, State::Draining(_))
    }

    /// Makes places for the links to the first `cores` cores of a node.
    fn ensure(&mut self, node: PeerId, cores: u16) {
        for core in self.nodes[node.index()].links.len() as u16..cores {
            self.nodes[node.index()].links.push(LinkId(self.links.len() as u32));
            self.links.push(Link::new(node, core));
        }
    }

    /// A link.
    pub fn link(&self, link: LinkId) -> &Link {
        &self.links[link.0 as usize]
    }

    /// What is known of a node.
    pub fn node(&self, node: PeerId) -> &Node {
        &self.nodes[node.index()]
    }

    /// Why a node was last refused or lost, in words.
    pub(super) fn note_trouble(&mut self, node: PeerId, why: &str) {
        self.nodes[node.index()].trouble = why.into();
    }

    /// Every node of the view but this one.
    pub fn others(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.others.iter().copied()
    }

    /// The same, to go through while something changes.
    pub(super) fn everyone(&self) -> Arc<[PeerId]> {
        self.others.clone()
    }

    /// All links.
    pub fn ids(&self) -> impl Iterator<Item = LinkId> + use<> {
        (0..self.links.len() as u32).map(LinkId)
    }

    /// The links to the cores of a node.
    pub(super) fn of_node(&self, node: PeerId) -> &[LinkId] {
        &self.node(node).links
    }

    /// The link to the core of a node that owns this hash there; its first link while it is not known how many it has.
    #[inline]
    pub(super) fn link_of(&self, node: PeerId, hash: u64, buckets: u32) -> LinkId {
        let known = self.node(node);
        let core = known.cores.map_or(0, |cores| key::core_of(key::bucket_of(hash, buckets), buckets, cores));
        known.links[usize::from(core)]
    }

    /// Whether requests for this hash may go to a node. A link that is away and whose pause is over is tried in the background.
    pub(super) fn reach(&mut self, node: PeerId, hash: u64, buckets: u32, at: Monotonic) -> Reach {
        let link = self.link_of(node, hash, buckets);
        match self.link(link).state {
            State::Up | State::Connecting(_) | State::Idle if self.node(node).cores.is_some() => Reach::There(link),
            State::Idle => {
                self.connect(link, at);
                Reach::Unknown
            }
            State::Up | State::Connecting(_) => Reach::Unknown,
            State::Draining(_) | State::Removed => Reach::Away,
            State::Down(_) | State::Probing(_) => {
                self.probe(link, at);
                if self.link(link).reconnecting { Reach::Unknown } else { Reach::Away }
            }
        }
    }

    /// Whether a node is away, as far as this hash is concerned. Changes nothing.
    pub fn is_away(&self, node: PeerId, hash: u64, buckets: u32) -> bool {
        self.link(self.link_of(node, hash, buckets)).state.is_away()
    }

    /// As `is_away`, of a node that may not be in the ring any more, or never was linked to.
    pub(super) fn is_known_away(&self, node: PeerId, hash: u64, buckets: u32) -> bool {
        self.node(node).links.is_empty() || self.is_away(node, hash, buckets)
    }

    /// Whether a node that is not away has not told how many cores it has; its first link is made then.
    pub(super) fn connect_unknown(&mut self, at: Monotonic) -> bool {
        let mut unknown = false;
        for &node in self.everyone().iter() {
            let (cores, link) = (self.node(node).cores, self.node(node).links[0]);
            match self.link(link).state {
                State::Idle if cores.is_none() => self.connect(link, at),
                State::Connecting(_) | State::Up if cores.is_none() => {}
                _ => continue,
            }
            unknown = true;
        }
        unknown
    }

    /// Whether no link to a node is up, and one was lost or could not be made.
    pub fn is_lost(&self, node: PeerId) -> bool {
        let links = &self.node(node).links;
        let state = |link: &LinkId| self.link(*link).state;
        !links.iter().any(|link| state(link) == State::Up) && links.iter().any(|link| state(link).is_away())
    }

    /// Tries a link again that is away, if its pause is over.
    fn probe(&mut self, link: LinkId, at: Monotonic) {
        if let State::Down(until) = self.link(link).state
            && until <= at
        {
            self.links[link.0 as usize].state = State::Probing(at);
            self.outputs.dial.push_back(link);
        }
    }

    /// A node has made contact: what is away is tried at once, and nobody stands in for it meanwhile. It may be answering others
    /// already. Returns whether that was so: it may hold something for us, too.
    #[inline]
    pub(super) fn on_contact(&mut self, node: PeerId, at: Monotonic) -> bool {
        self.node(node).lost && (self.reconnect_all(at) | self.reconnect_now(node, at))
    }

    /// Somebody is there again. Where most others were away, it was this node that was cut off, and they have gone on without it: all are tried
    /// at once, and nothing is answered as if they were away meanwhile. Returns whether there were such.
    pub(super) fn reconnect_all(&mut self, at: Monotonic) -> bool {
        let is_away = |links: &Self, node: PeerId| links.node(node).links.iter().any(|&link| links.link(link).state.is_away());
        let away: Vec<PeerId> = self.others().filter(|&node| is_away(self, node)).collect();
        let is_cut_off = 2 * away.len() > self.others().count();
        is_cut_off && away.into_iter().fold(false, |any, node| self.reconnect_now(node, at) | any)
    }

    fn reconnect_now(&mut self, node: PeerId, at: Monotonic) -> bool {
        let node = &mut self.nodes[node.index()];
        let mut any = false;
        node.lost = false;
        for &link in &node.links {
            let link = &mut self.links[link.0 as usize];
            node.lost |= link.state.is_away();
            if link.state.is_away() && at >= link.contact_ignored_until && !link.reconnecting {
                (link.reconnecting, link.reconnecting_since) = (true, at);
                any = true;
                if let State::Down(until) = &mut link.state {
                    *until = Monotonic::LONG_AGO;
                }
            }
        }
        any
    }

    fn connect(&mut self, link: LinkId, at: Monotonic) {
        self.links[link.0 as usize].state = State::Connecting(at);
        self.outputs.dial.push_back(link);
    }

    /// Makes a link if it was never needed.
    pub(super) fn need(&mut self, link: LinkId, at: Monotonic) {
        if self.link(link).state == State::Idle {
            self.connect(link, at);
        }
    }

    /// Whether the other core's clock was heard so lately that it may execute a command when that arrives.
    pub(super) fn may_execute(&self, link: LinkId, at: Monotonic) -> bool {
        let link = self.link(link);
        link.state == State::Up && link.their_ms_at > Monotonic::LONG_AGO && at < link.their_ms_at + limits::PEER_FRESH_MS
    }

    /// From when on the other core executes none of the commands that were sent over a link so far.
    pub(super) fn may_execute_until(&self, link: LinkId) -> Monotonic {
        self.link(link).their_ms_at + limits::PEER_LEASE_MS + LEASE_SLACK_MS
    }

    /// Whether a core whose clock is wanted is to be asked for it: it was not just now.
    pub(super) fn may_ask(&mut self, link: LinkId, at: Monotonic) -> bool {
        let link = &mut self.links[link.0 as usize];
        let asks = link.state == State::Up && at >= link.asked_at + ASK_PAUSE_MS;
        if asks {
            link.asked_at = at;
        }
        asks
    }

    /// What the clock of the other core said when it was last heard, if it was.
    pub(super) fn heard_clock(&self, link: LinkId) -> Option<u32> {
        let link = self.link(link);
        (link.their_ms_at > Monotonic::LONG_AGO).then_some(link.their_ms)
    }

    /// One request more goes over a link, which is made if it was never needed. Returns where it is to be written.
    pub(super) fn expect(&mut self, link: LinkId, at: Monotonic) -> &mut Outgoing {
        self.need(link, at);
        let target = &mut self.links[link.0 as usize];
        if target.outstanding == 0 {
            target.heard_at = at;
        }
        target.outstanding += 1;
        if !target.is_ready {
            target.is_ready = true;
            self.outputs.ready.push_back(link);
        }
        &mut target.outgoing
    }

    /// A request that went over a link was answered.
    pub(super) fn answered(&mut self, link: LinkId, at: Monotonic) {
        let link = &mut self.links[link.0 as usize];
        (link.outstanding, link.heard_at) = (link.outstanding - 1, at);
    }

    /// Takes the output of a link that is up.
    pub fn take_output(&mut self, link: LinkId, output: &mut Buffer) {
        let link = &mut self.links[link.0 as usize];
        if matches!(link.state, State::Up | State::Draining(_)) {
            (link.is_ready, link.outgoing.batch) = (false, None);
            output.append(&mut link.outgoing.output);
        }
    }

    /// Something has come over a link of ours, where the other core's clock said `their_ms`.
    pub(super) fn heard(&mut self, link: LinkId, their_ms: u32, at: Monotonic) {
        let link = &mut self.links[link.0 as usize];
        (link.their_ms, link.their_ms_at) = (their_ms, at);
    }

    /// The links to the cores of a node whose part of the ring overlaps ours.
    pub(super) fn overlapping(&self, node: PeerId) -> impl Iterator<Item = LinkId> + '_ {
        let known = self.node(node);
        let cores = u32::from(known.cores.unwrap_or(1));
        let (own, own_cores) = (u32::from(self.own.0), u32::from(self.own_cores));
        let first = own * cores / own_cores;
        let last = ((own + 1) * cores - 1) / own_cores;
        (first..=last).map(|core| known.links[core as usize])
    }

    /// Whether a node is taken to be away, as far as this link is concerned, and has not just made contact.
    pub(super) fn is_given_up(&self, link: LinkId) -> bool {
        let link = self.link(link);
        link.state.is_away() && !link.reconnecting
    }

    /// A handshake has succeeded.
    pub(super) fn up(&mut self, link: LinkId, at: Monotonic) {
        let target = &mut self.links[link.0 as usize];
        target.state = State::Up;
        (target.heard_at, target.pinged_at) = (at, at);
        (target.their_ms_at, target.asked_at) = (Monotonic::LONG_AGO, at);
        (target.backoff_ms, target.reconnecting) = (limits::PEER_BACKOFF_MS_MIN, false);
        target.contact_ignored_ms = limits::PEER_CONTACT_IGNORED_MS_MIN;
        // What waited for the link stood in `ready` before there was anything to send it over.
        target.is_ready |= !target.outgoing.output.bytes.is_empty();
        if target.is_ready && !self.outputs.ready.contains(&link) {
            self.outputs.ready.push_back(link);
        }
    }

    /// What a node says of itself, over a link of ours or of its own.
    pub(super) fn on_identity(&mut self, node: PeerId, identity: &Identity) -> Known {
        let known = &mut self.nodes[node.index()];
        let lost_memory = known.incarnation != 0 && known.incarnation != identity.incarnation;
        let recut = known.cores.is_some_and(|cores| cores != identity.cores);
        (known.incarnation, known.view, known.cores) = (identity.incarnation, identity.view, Some(identity.cores));
        known.trouble.clear();
        self.ensure(node, identity.cores);
        match (lost_memory, recut) {
            (true, _) => Known::LostMemory,
            (false, true) => Known::Recut,
            (false, false) => Known::Same,
        }
    }

    /// A link is lost or could not be made. Returns whether it was up: what was under way may have arrived.
    pub(super) fn down(&mut self, link: LinkId, at: Monotonic) -> bool {
        let target = &mut self.links[link.0 as usize];
        let was_up = target.state == State::Up;
        let since = if let State::Probing(since) = target.state { since } else { at };
        target.state = State::Down(at + target.backoff_ms);
        if target.reconnecting && since < target.reconnecting_since {
            // Tried before the node made contact: that it failed means nothing. It is tried again.
            target.state = State::Down(at);
        } else if std::mem::take(&mut target.reconnecting) {
            target.contact_ignored_until = at + target.contact_ignored_ms;
            target.contact_ignored_ms = (2 * target.contact_ignored_ms).min(limits::PEER_CONTACT_IGNORED_MS_MAX);
        }
        target.backoff_ms = (2 * target.backoff_ms).min(limits::PEER_BACKOFF_MS_MAX);
        (target.outstanding, target.is_ready, target.outgoing.batch) = (0, false, None);
        target.outgoing.output.clear();
        let node = target.node;
        self.nodes[node.index()].lost = true;
        self.lost += u64::from(was_up);
        self.outputs.ready.retain(|&ready| ready != link);
        was_up
    }

    /// Links that have timed out: silent, not made in time, or drained. Their sockets are to be closed, and `down` called.
    pub(super) fn timed_out(&mut self, at: Monotonic) -> ArrayVec<LinkId, 16> {
        let is_timed_out = |link: &Link| match link.state {
            State::Connecting(since) | State::Probing(since) => at - since > limits::PEER_CONNECT_MS_MAX,
            State::Up => link.outstanding > 0 && at - link.heard_at > limits::PEER_SILENCE_MS_MAX,
            State::Draining(until) => link.outstanding == 0 || at >= until,
            State::Idle | State::Down(_) | State::Removed => false,
        };
        self.ids().filter(|&link| is_timed_out(self.link(link))).take(16).collect()
    }

    /// A link is given up, whatever its socket says.
    pub(super) fn hang_up(&mut self, link: LinkId) {
        self.outputs.hang_up.push_back(link);
    }

    /// Whether something is to be done with a socket.
    pub(super) fn has_output(&self) -> bool {
        let LinkOutputs { hang_up, dial, ready } = &self.outputs;
        !(hang_up.is_empty() && dial.is_empty() && ready.is_empty())
    }

    /// Moves what is to be done with sockets out.
    pub(super) fn poll_output(&mut self, outputs: &mut LinkOutputs) {
        std::mem::swap(&mut self.outputs, outputs);
    }

    /// Does not count so many milliseconds of the silence of all links.
    pub(super) fn forgive_silence(&mut self, ms: u64, at: Monotonic) {
        for link in &mut self.links {
            link.heard_at = at.min(link.heard_at + ms);
            if let State::Connecting(since) | State::Probing(since) = &mut link.state {
                *since = at.min(*since + ms);
            }
        }
    }

    /// Links that are due for a heartbeat: those that owe an answer and are silent; with `active`, also those that overlap with us.
    pub(super) fn heartbeats_due(&mut self, active: bool, at: Monotonic) -> Vec<LinkId> {
        let mut due = Vec::new();
        if active {
            for node in self.others() {
                due.extend(self.overlapping(node).filter(|&link| self.is_heartbeat_due(link, at)));
            }
        }
        let silent = |link: &Link| link.outstanding > 0 && at >= link.heard_at + limits::PEER_PING_MS;
        let silent = self.ids().filter(|&link| self.is_heartbeat_due(link, at) && silent(self.link(link)));
        let silent: ArrayVec<LinkId, 16> = silent.filter(|link| !due.contains(link)).take(16).collect();
        due.extend(silent);
        due.iter().for_each(|link| self.links[link.0 as usize].pinged_at = at);
        due
    }

    fn is_heartbeat_due(&self, link: LinkId, at: Monotonic) -> bool {
        self.link(link).state == State::Up && at >= self.link(link).pinged_at + limits::PEER_PING_MS
    }

    /// Makes the links that overlap with us, where they were never needed: for a core that wants leases.
    pub fn connect_overlapping(&mut self, at: Monotonic) {
        for &node in self.everyone().iter() {
            let overlapping: Vec<LinkId> = self.overlapping(node).collect();
            for link in overlapping {
                match self.link(link).state {
                    State::Idle => self.connect(link, at),
                    State::Down(_) => self.probe(link, at),
                    _ => {}
                }
            }
        }
    }

    /// Whether a link is being made.
    pub(super) fn is_connecting(&self) -> bool {
        self.links.iter().any(|link| matches!(link.state, State::Connecting(_) | State::Probing(_)))
    }
}

/// A core that is asked for its clock and does not answer is asked again after this many milliseconds.
const ASK_PAUSE_MS: u64 = 50;
/// Two clocks that ran from the same moment on differ by less at the end of a lease, in milliseconds.
const LEASE_SLACK_MS: u64 = 10;

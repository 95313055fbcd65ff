//! This core's links to the cores of other nodes: which of them are there, what they owe us, what may be sent.
//!
//! ```text
//!   node --> | link to core 0 | link to core 1 | ..     one connection each, made when first needed
//!
//!   Idle --first need--> Connecting --handshake--> Up --silence, reset--> Down --pause--> Probing --handshake--> Up
//!            (requests wait)                            (requests go to the next in the ranking)
//! ```
//!
//! A *lease* is a peer's promise, valid `PEER_LEASE_MS`, that it holds no newer version for us except keys that it has
//! announced as missing here, and that it will not act in our place. While we hold leases from all live peers, our copy is the newest,
//! but for those keys. Liveness lives here and nowhere else; who owns what never changes by it.
//!
//! A command that goes over a link says what was last heard of the other core's clock, and is executed there for `PEER_LEASE_MS` from then
//! on: from `PEER_LEASE_MS` after that moment on it can be given to somebody else, whatever became of the link (`may_execute_until`).
//!
//! Lives here: links, requests under way, leases. Not here: what is asked and what an answer means (`coordinate`, `handoff`), sockets.

use std::collections::HashMap;

use arrayvec::ArrayVec;
use slab::Slab;

use crate::buffer::Buffer;
use crate::command::Value;
use crate::key;
use crate::limits;
use crate::peer::frame::{self, Kind, OpenBatch, Stamp};
use crate::peer::handshake::Identity;
use crate::placement::NodeIndex;
use crate::routing::ShardId;

/// One of this core's links: an index into its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(pub u32);

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never needed so far.
    Idle,
    /// Being made for the first time, since this millisecond: requests wait for it.
    Connecting(u64),
    /// There.
    Up,
    /// Away. Tried again after this millisecond, when something is to be sent.
    Down(u64),
    /// Away, and being made again since this millisecond.
    Probing(u64),
}

impl State {
    /// Whether the other side is taken to be away.
    pub fn is_away(self) -> bool {
        matches!(self, Self::Down(_) | Self::Probing(_))
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
    pub node: NodeIndex,
    /// Which of its cores.
    pub core: u16,
    /// Where it stands.
    pub state: State,
    /// Frames that wait to be sent.
    pub output: Buffer,
    /// Requests under way.
    pub outstanding: u32,
    /// The last frame of the output, if commands may be added to it.
    batch: Option<OpenBatch>,
    /// It stands in `Peers::ready`.
    is_ready: bool,
    /// When something was last heard, or expected from.
    heard_ms: u64,
    /// What the other core's clock said when it was last heard, and when that was; 0 before.
    their_ms: u32,
    their_ms_at: u64,
    /// When it was last asked because commands wait for its clock.
    asked_ms: u64,
    pinged_ms: u64,
    /// Until when the lease of that core is valid.
    lease_until_ms: u64,
    /// Keys that are missing here and that core has for us: routing hash and version.
    missing_keys: HashMap<u64, u64, ahash::RandomState>,
    /// When it last announced one.
    missing_ms: u64,
    backoff_ms: u64,
    /// It is away, but its node has made contact: until it is up or has failed, nobody stands in for it.
    reconnecting: bool,
    /// When that was.
    reconnecting_since_ms: u64,
    /// Until this time, contact from the node does not trigger a reconnect: the last attempt failed. The next time, for
    /// `contact_ignored_ms`.
    contact_ignored_until_ms: u64,
    contact_ignored_ms: u64,
}

/// What is known of a node.
pub struct Node {
    /// Its cores, once a handshake has told.
    pub cores: Option<u16>,
    /// Drawn at its start; 0 before the first handshake.
    pub incarnation: u64,
    /// Its view, as it last said.
    pub view: u64,
    links: Vec<LinkId>,
    /// One of its links may be away.
    lost: bool,
    /// When we last granted it a lease.
    pub lease_granted_ms: u64,
    /// Why it was last refused or lost.
    pub trouble: String,
}

/// A request under way.
pub struct InFlight<T> {
    /// Which link it went over.
    pub link: LinkId,
    /// When.
    pub sent_ms: u64,
    /// How many were sent before it.
    number: u64,
    /// How long it is.
    bytes: usize,
    /// What the answer is for.
    pub purpose: T,
}

/// A command on its way to the node that executes it.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// Nodes that it has passed, this one included.
    pub hops: u8,
    /// Others of its key are under way over the same link.
    pub follows: bool,
    /// How long it may be executed.
    pub life_ms: u64,
    /// See `Operation::repeated_since`.
    pub repeated_since: u64,
    /// The node that it came from, if that is another one: the hash of its id.
    pub passed_on: Option<u64>,
    /// The meta of its `Execute`.
    pub meta: &'a [u8],
    /// What it stores.
    pub value: Value<'a>,
}

/// All links of a core.
pub struct Peers<T> {
    me: NodeIndex,
    /// Where this core's part of the ring lies.
    own: ShardId,
    own_cores: u16,
    links: Vec<Link>,
    nodes: Box<[Node]>,
    in_flight: Slab<InFlight<T>>,
    /// Bytes of these requests, and whether they are too many, until they are half as many.
    outstanding_bytes: usize,
    is_full: bool,
    /// Links to be connected.
    pub wanted: Vec<LinkId>,
    /// Links whose sockets are to be closed.
    pub unwanted: Vec<LinkId>,
    /// Links with output.
    pub ready: Vec<LinkId>,
    /// Until when the leases of all live peers are valid: until then none of them holds something newer than we do.
    leases_until_ms: u64,
    /// Keys that others have announced as missing here, and how many they may be.
    missing_count: usize,
    missing_max: usize,
    /// When leases were last recomputed, no peer was away.
    all_peers_up: bool,
    /// Requests sent since start.
    pub sent: u64,
    /// Links lost since start.
    pub lost: u64,
}

impl<T> Peers<T> {
    /// Links to nobody so far; others may announce so many missing keys.
    pub fn new(nodes: usize, me: NodeIndex, own: ShardId, own_cores: u16, missing_max: usize) -> Self {
        let node = |_| Node {
            cores: None,
            incarnation: 0,
            view: 0,
            links: Vec::new(),
            lost: false,
            lease_granted_ms: 0,
            trouble: String::new(),
        };
        let mut peers = Self {
            me,
            own,
            own_cores,
            links: Vec::new(),
            nodes: (0..nodes).map(node).collect(),
            in_flight: Slab::new(),
            outstanding_bytes: 0,
            is_full: false,
            wanted: Vec::new(),
            unwanted: Vec::new(),
            ready: Vec::new(),
            leases_until_ms: if nodes == 1 { u64::MAX } else { 0 },
            missing_count: 0,
            missing_max,
            all_peers_up: nodes == 1,
            sent: 0,
            lost: 0,
        };
        (0..nodes).filter(|&node| node != usize::from(me.0)).for_each(|node| peers.ensure_links(node, 1));
        peers
    }

    /// Makes places for the links to the first `cores` cores of a node.
    fn ensure_links(&mut self, node: usize, cores: u16) {
        for core in self.nodes[node].links.len() as u16..cores {
            self.nodes[node].links.push(LinkId(self.links.len() as u32));
            self.links.push(Link {
                node: NodeIndex(node as u16),
                core,
                state: State::Idle,
                output: Buffer::default(),
                outstanding: 0,
                batch: None,
                is_ready: false,
                heard_ms: 0,
                their_ms: 0,
                their_ms_at: 0,
                asked_ms: 0,
                pinged_ms: 0,
                lease_until_ms: 0,
                missing_keys: HashMap::default(),
                missing_ms: 0,
                backoff_ms: limits::PEER_BACKOFF_MS_MIN,
                reconnecting: false,
                reconnecting_since_ms: 0,
                contact_ignored_until_ms: 0,
                contact_ignored_ms: limits::PEER_CONTACT_IGNORED_MS_MIN,
            });
        }
    }

    /// A link.
    pub fn link(&self, link: LinkId) -> &Link {
        &self.links[link.0 as usize]
    }

    /// What is known of a node.
    pub fn node(&self, node: NodeIndex) -> &Node {
        &self.nodes[usize::from(node.0)]
    }

    /// As `node`, to change.
    pub fn node_mut(&mut self, node: NodeIndex) -> &mut Node {
        &mut self.nodes[usize::from(node.0)]
    }

    /// Every node but this one.
    pub fn others(&self) -> impl Iterator<Item = NodeIndex> + use<T> {
        let me = self.me;
        (0..self.nodes.len() as u16).map(NodeIndex).filter(move |&node| node != me)
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + use<T> {
        (0..self.links.len() as u32).map(LinkId)
    }

    /// The link to the core of a node that owns this hash there; its first link while it is not known how many it has.
    fn link_of(&self, node: NodeIndex, hash: u64, buckets: u32) -> LinkId {
        let known = self.node(node);
        let core = known.cores.map_or(0, |cores| key::core_of(key::bucket_of(hash, buckets), buckets, cores));
        known.links[usize::from(core)]
    }

    /// Whether requests for this hash may go to a node. A link that is away and whose pause is over is tried in the background.
    pub fn reach(&mut self, node: NodeIndex, hash: u64, buckets: u32, now_ms: u64) -> Reach {
        let link = self.link_of(node, hash, buckets);
        match self.link(link).state {
            State::Up | State::Connecting(_) | State::Idle if self.node(node).cores.is_some() => Reach::There(link),
            State::Idle => {
                self.connect(link, now_ms);
                Reach::Unknown
            }
            State::Up | State::Connecting(_) => Reach::Unknown,
            State::Down(_) | State::Probing(_) => {
                self.probe(link, now_ms);
                if self.link(link).reconnecting { Reach::Unknown } else { Reach::Away }
            }
        }
    }

    /// Whether a node is away, as far as this hash is concerned. Changes nothing.
    pub fn is_away(&self, node: NodeIndex, hash: u64, buckets: u32) -> bool {
        self.link(self.link_of(node, hash, buckets)).state.is_away()
    }

    /// Whether a node that is not away has not told how many cores it has; its first link is made then.
    pub fn connect_unknown(&mut self, now_ms: u64) -> bool {
        let mut unknown = false;
        for node in self.others() {
            let (cores, link) = (self.node(node).cores, self.node(node).links[0]);
            match self.link(link).state {
                State::Idle if cores.is_none() => self.connect(link, now_ms),
                State::Connecting(_) | State::Up if cores.is_none() => {}
                _ => continue,
            }
            unknown = true;
        }
        unknown
    }

    /// Whether no link to a node is up, and one was lost or could not be made.
    pub fn is_lost(&self, node: NodeIndex) -> bool {
        let links = &self.node(node).links;
        let state = |link: &LinkId| self.link(*link).state;
        !links.iter().any(|link| state(link) == State::Up) && links.iter().any(|link| state(link).is_away())
    }

    /// Tries a link again that is away, if its pause is over.
    pub fn probe(&mut self, link: LinkId, now_ms: u64) {
        if let State::Down(until_ms) = self.link(link).state
            && until_ms <= now_ms
        {
            self.links[link.0 as usize].state = State::Probing(now_ms);
            self.wanted.push(link);
        }
    }

    /// A node has made contact: what is away is tried at once, and nobody stands in for it meanwhile. It may be answering others
    /// already.
    #[inline]
    pub fn on_contact(&mut self, node: NodeIndex, now_ms: u64) {
        if self.node(node).lost {
            self.reconnect_now(node, now_ms);
        }
    }

    fn reconnect_now(&mut self, node: NodeIndex, now_ms: u64) {
        let node = &mut self.nodes[usize::from(node.0)];
        node.lost = false;
        for &link in &node.links {
            let link = &mut self.links[link.0 as usize];
            node.lost |= link.state.is_away();
            if link.state.is_away() && now_ms >= link.contact_ignored_until_ms && !link.reconnecting {
                (link.reconnecting, link.reconnecting_since_ms) = (true, now_ms);
                // It may hold something for us, too.
                self.leases_until_ms = 0;
                if let State::Down(until_ms) = &mut link.state {
                    *until_ms = 0;
                }
            }
        }
    }

    fn connect(&mut self, link: LinkId, now_ms: u64) {
        self.links[link.0 as usize].state = State::Connecting(now_ms);
        self.wanted.push(link);
    }

    /// Whether one more command may go over a link.
    pub fn has_room(&self, link: LinkId) -> bool {
        !self.is_full && self.link(link).outstanding < limits::PEER_WINDOW
    }

    /// Whether so many bytes are under way that nothing should be written that must be copied.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Counts the bytes of a request that was just written behind `before` others.
    fn charge(&mut self, id: u32, before: usize) {
        let Some(in_flight) = self.in_flight.get_mut(id as usize) else { return };
        in_flight.bytes = self.links[in_flight.link.0 as usize].output.bytes.len() - before;
        self.outstanding_bytes += in_flight.bytes;
        self.is_full |= self.outstanding_bytes >= limits::PEER_OUTSTANDING_BYTES_MAX;
    }

    /// A request has been answered, or is lost.
    fn discharge(&mut self, bytes: usize) {
        self.outstanding_bytes -= bytes;
        self.is_full &= self.outstanding_bytes >= limits::PEER_OUTSTANDING_BYTES_MAX / 2;
    }

    /// Sends a request; makes the link if it was never needed.
    #[expect(clippy::too_many_arguments, reason = "the parts of a frame")]
    pub fn request(
        &mut self,
        link: LinkId,
        (kind, hops): (Kind, u8),
        stamp: Stamp,
        value: Value<'_>,
        purpose: T,
        now_ms: u64,
        meta: impl FnOnce(&mut Vec<u8>),
    ) {
        let (id, target) = self.expect(link, purpose, now_ms);
        let before = target.output.bytes.len();
        frame::write(&mut target.output, (kind, 0, hops, id), stamp, value, meta);
        self.charge(id, before);
    }

    /// Whether the other core's clock was heard so lately that it may execute a command when that arrives.
    pub fn may_execute(&self, link: LinkId, now_ms: u64) -> bool {
        let link = self.link(link);
        link.state == State::Up && link.their_ms_at > 0 && now_ms < link.their_ms_at + limits::PEER_FRESH_MS
    }

    /// From when on the other core executes none of the commands that were sent over a link so far.
    pub fn may_execute_until(&self, link: LinkId) -> u64 {
        self.link(link).their_ms_at + limits::PEER_LEASE_MS + LEASE_SLACK_MS
    }

    /// Whether a core whose clock is wanted is to be asked for it: it was not just now.
    pub fn may_ask(&mut self, link: LinkId, now_ms: u64) -> bool {
        let link = &mut self.links[link.0 as usize];
        let asks = link.state == State::Up && now_ms >= link.asked_ms + ASK_PAUSE_MS;
        if asks {
            link.asked_ms = now_ms;
        }
        asks
    }

    /// Makes a link if it was never needed.
    pub fn need(&mut self, link: LinkId, now_ms: u64) {
        if self.link(link).state == State::Idle {
            self.connect(link, now_ms);
        }
    }

    /// Sends a command, in one frame with those just before it that go the same way.
    pub fn execute(&mut self, link: LinkId, command: Forward<'_>, stamp: Stamp, purpose: T, now_ms: u64) {
        let Forward { hops, follows, life_ms, repeated_since, passed_on, meta, value } = command;
        let is_plain = repeated_since == 0 && passed_on.is_none();
        let (id, target) = self.expect(link, purpose, now_ms);
        let life = (life_ms.min(limits::PEER_LEASE_MS) / frame::LIFE_UNIT_MS) as u8;
        let stamp = Stamp { heard_ms: target.their_ms, life: if target.their_ms_at > 0 { life } else { 0 }, ..stamp };
        let (before, output) = (target.output.bytes.len(), &mut target.output);
        match value {
            Value::Bytes(value) if is_plain && frame::element_bytes(meta, value) <= BATCHED_BYTES_MAX => {
                let element_bytes = frame::element_bytes(meta, value);
                let open = target.batch.take().filter(|batch| batch.takes(output, hops, stamp, element_bytes));
                let mut batch = open.unwrap_or_else(|| OpenBatch::begin(output, hops, stamp));
                batch.push(output, (id, follows), stamp, meta, value);
                target.batch = Some(batch);
            }
            _ => {
                let follows = if follows { frame::FLAG_FOLLOWS } else { 0 };
                let repeated = if repeated_since > 0 { frame::FLAG_REPEATED } else { 0 };
                let passed = if passed_on.is_some() { frame::FLAG_PASSED_ON } else { 0 };
                frame::write(output, (Kind::Execute, follows | repeated | passed, hops, id), stamp, value, |output| {
                    if repeated_since > 0 {
                        frame::write_version(repeated_since, output);
                    }
                    if let Some(node) = passed_on {
                        output.extend_from_slice(&node.to_le_bytes());
                    }
                    output.extend_from_slice(meta);
                });
            }
        }
        self.charge(id, before);
    }

    /// Makes room for a request that is about to be written: its id, and where it goes.
    fn expect(&mut self, link: LinkId, purpose: T, now_ms: u64) -> (u32, &mut Link) {
        self.need(link, now_ms);
        let id = self.in_flight.insert(InFlight { link, sent_ms: now_ms, number: self.sent, bytes: 0, purpose }) as u32;
        self.sent += 1;
        let target = &mut self.links[link.0 as usize];
        if target.outstanding == 0 {
            target.heard_ms = now_ms;
        }
        target.outstanding += 1;
        if !target.is_ready {
            target.is_ready = true;
            self.ready.push(link);
        }
        (id, target)
    }

    /// Takes the output of a link that is up.
    pub fn take_output(&mut self, link: LinkId, output: &mut Buffer) {
        let link = &mut self.links[link.0 as usize];
        if link.state == State::Up {
            (link.is_ready, link.batch) = (false, None);
            output.append(&mut link.output);
        }
    }

    /// Something has come over a link of ours, where the other core's clock said `their_ms`.
    pub fn heard(&mut self, link: LinkId, their_ms: u32, now_ms: u64) {
        let link = &mut self.links[link.0 as usize];
        (link.their_ms, link.their_ms_at) = (their_ms, now_ms);
    }

    /// The request that a response answers; `None` if there is none, which no peer of ours does.
    pub fn answered(&mut self, link: LinkId, id: u32, now_ms: u64) -> Option<InFlight<T>> {
        let in_flight = self.in_flight.get(id as usize).filter(|in_flight| in_flight.link == link)?;
        debug_assert!(in_flight.sent_ms <= now_ms);
        let target = &mut self.links[link.0 as usize];
        target.outstanding -= 1;
        target.heard_ms = now_ms;
        let in_flight = self.in_flight.remove(id as usize);
        self.discharge(in_flight.bytes);
        Some(in_flight)
    }

    /// A node granted a lease over this link; it was asked at `sent_ms`, and the lease counts from then.
    pub fn lease(&mut self, link: LinkId, sent_ms: u64, now_ms: u64) {
        let link = &mut self.links[link.0 as usize];
        link.lease_until_ms = link.lease_until_ms.max(sent_ms + limits::PEER_LEASE_MS);
        self.recompute_leases(now_ms);
    }

    /// A node says that it holds something for us: its lease ends.
    pub fn end_lease(&mut self, link: LinkId) {
        self.links[link.0 as usize].lease_until_ms = 0;
        self.leases_until_ms = 0;
    }

    /// Whether that node may hold something newer of this hash than we do.
    pub fn may_be_stale(&self, node: NodeIndex, hash: u64, buckets: u32, now_ms: u64) -> bool {
        let link = self.link(self.link_of(node, hash, buckets));
        link.lease_until_ms <= now_ms || link.missing_keys.contains_key(&hash)
    }

    /// Until when a node's lease counts, as far as this hash is concerned.
    pub fn lease_until_ms(&self, node: NodeIndex, hash: u64, buckets: u32) -> u64 {
        self.link(self.link_of(node, hash, buckets)).lease_until_ms
    }

    /// Until when the leases of all live peers are valid.
    pub fn leases_until_ms(&self) -> u64 {
        self.leases_until_ms
    }

    /// Whether any node has said that it has something newer of this hash.
    #[inline]
    pub fn is_missing(&self, hash: u64, buckets: u32) -> bool {
        self.missing_count > 0
            && self.others().any(|node| self.link(self.link_of(node, hash, buckets)).missing_keys.contains_key(&hash))
    }

    /// Keys that are missing here, once for each peer that has announced them.
    pub fn missing_count(&self) -> usize {
        self.missing_count
    }

    /// A node announces that this version of a hash is missing here. False if there are too many.
    pub fn add_missing(&mut self, node: NodeIndex, (hash, version): (u64, u64), buckets: u32, now_ms: u64) -> bool {
        let link = self.link_of(node, hash, buckets);
        let link = &mut self.links[link.0 as usize];
        link.missing_ms = now_ms;
        if self.missing_count >= self.missing_max {
            return false;
        }
        let before = link.missing_keys.insert(hash, version);
        self.missing_count += usize::from(before.is_none());
        if let Some(before) = before.filter(|&before| before > version) {
            link.missing_keys.insert(hash, before);
        }
        true
    }

    /// This version of a hash has come from a node.
    pub fn forget_missing(&mut self, node: NodeIndex, hash: u64, version: u64, buckets: u32) {
        if self.missing_count == 0 {
            return;
        }
        let link = self.link_of(node, hash, buckets);
        let missing = &mut self.links[link.0 as usize].missing_keys;
        if missing.get(&hash).is_some_and(|&lacking| lacking <= version) {
            missing.remove(&hash);
            self.missing_count -= 1;
            if missing.is_empty() {
                *missing = HashMap::default();
            }
        }
    }

    /// Over this link a node was asked at `sent_ms`, and has nothing for us any more.
    pub fn forget_all_missing(&mut self, link: LinkId, sent_ms: u64) {
        let link = &mut self.links[link.0 as usize];
        // What it has announced since, it has announced later.
        if sent_ms > link.missing_ms {
            self.missing_count -= link.missing_keys.len();
            link.missing_keys = HashMap::default();
        }
    }

    /// Whether we hold leases of all live peers: none of them has something newer than we do.
    #[inline]
    pub fn has_all_leases(&self, now_ms: u64) -> bool {
        now_ms < self.leases_until_ms
    }

    /// Whether no peer is away and we hold leases of all: no node at all has something newer than we do.
    pub fn all_peers_up(&self, now_ms: u64) -> bool {
        self.all_peers_up && self.has_all_leases(now_ms)
    }

    /// The links to the cores of a node whose part of the ring overlaps ours.
    fn overlapping_links(&self, node: NodeIndex) -> impl Iterator<Item = LinkId> + '_ {
        let known = self.node(node);
        let cores = u32::from(known.cores.unwrap_or(1));
        let (own, own_cores) = (u32::from(self.own.0), u32::from(self.own_cores));
        let first = own * cores / own_cores;
        let last = ((own + 1) * cores - 1) / own_cores;
        (first..=last).map(|core| known.links[core as usize])
    }

    /// Computes again until when the leases of all live peers are valid.
    pub fn recompute_leases(&mut self, now_ms: u64) {
        let (mut leases_until_ms, mut all_peers_up) = (u64::MAX, true);
        for node in self.others() {
            for link in self.overlapping_links(node) {
                let link = self.link(link);
                match link.state.is_away() && !link.reconnecting {
                    true => all_peers_up = false,
                    false => leases_until_ms = leases_until_ms.min(link.lease_until_ms),
                }
            }
        }
        self.all_peers_up = all_peers_up;
        // With everybody away there is no lease to end it: look again soon.
        self.leases_until_ms = leases_until_ms.min(now_ms + limits::PEER_LEASE_MS);
    }

    /// A handshake has succeeded. Returns whether the node has lost its memory since we last heard of it.
    pub fn up(&mut self, link: LinkId, identity: &Identity, now_ms: u64) -> bool {
        let node = self.link(link).node;
        let lost_memory = self.on_identity(node, identity);
        let target = &mut self.links[link.0 as usize];
        target.state = State::Up;
        (target.heard_ms, target.pinged_ms, target.lease_until_ms) = (now_ms, now_ms, 0);
        (target.their_ms_at, target.asked_ms) = (0, now_ms);
        (target.backoff_ms, target.reconnecting) = (limits::PEER_BACKOFF_MS_MIN, false);
        target.contact_ignored_ms = limits::PEER_CONTACT_IGNORED_MS_MIN;
        self.leases_until_ms = 0;
        // What waited for the link stood in `ready` before there was anything to send it over.
        target.is_ready |= !target.output.bytes.is_empty();
        if target.is_ready && !self.ready.contains(&link) {
            self.ready.push(link);
        }
        lost_memory
    }

    /// What a node says of itself, over a link of ours or of its own. Returns whether it has lost its memory.
    pub fn on_identity(&mut self, node: NodeIndex, identity: &Identity) -> bool {
        let known = self.node_mut(node);
        let lost_memory = known.incarnation != 0 && known.incarnation != identity.incarnation;
        let recut = known.cores.is_some_and(|cores| cores != identity.cores);
        (known.incarnation, known.view, known.cores) = (identity.incarnation, identity.view, Some(identity.cores));
        known.trouble.clear();
        if lost_memory {
            known.lease_granted_ms = 0;
        }
        self.ensure_links(usize::from(node.0), identity.cores);
        if lost_memory || recut {
            for link in self.nodes[usize::from(node.0)].links.clone() {
                self.links[link.0 as usize].lease_until_ms = 0;
                self.forget_all_missing(link, u64::MAX);
            }
            self.leases_until_ms = 0;
        }
        lost_memory
    }

    /// A link is lost or could not be made. What was under way comes back in the order in which it was sent, with whether it can have
    /// arrived.
    pub fn down(&mut self, link: LinkId, now_ms: u64) -> Vec<(T, bool)> {
        let target = &mut self.links[link.0 as usize];
        let was_up = target.state == State::Up;
        let since_ms = if let State::Probing(since_ms) = target.state { since_ms } else { now_ms };
        target.state = State::Down(now_ms + target.backoff_ms);
        if target.reconnecting && since_ms < target.reconnecting_since_ms {
            // Tried before the node made contact: that it failed means nothing. It is tried again.
            target.state = State::Down(now_ms);
        } else if std::mem::take(&mut target.reconnecting) {
            target.contact_ignored_until_ms = now_ms + target.contact_ignored_ms;
            target.contact_ignored_ms = (2 * target.contact_ignored_ms).min(limits::PEER_CONTACT_IGNORED_MS_MAX);
        }
        target.backoff_ms = (2 * target.backoff_ms).min(limits::PEER_BACKOFF_MS_MAX);
        (target.outstanding, target.is_ready, target.lease_until_ms) = (0, false, 0);
        target.output.clear();
        target.batch = None;
        let node = target.node;
        self.nodes[usize::from(node.0)].lost = true;
        self.lost += u64::from(was_up);
        self.ready.retain(|&ready| ready != link);
        self.recompute_leases(now_ms);
        let of_link = self.in_flight.iter().filter(|(_, in_flight)| in_flight.link == link);
        let mut ids: Vec<(u64, usize)> = of_link.map(|(id, in_flight)| (in_flight.number, id)).collect();
        ids.sort_unstable();
        let mut lost = Vec::with_capacity(ids.len());
        for (_, id) in ids {
            let in_flight = self.in_flight.remove(id);
            self.discharge(in_flight.bytes);
            lost.push((in_flight.purpose, was_up));
        }
        lost
    }

    /// Links that have timed out: silent, or not made in time. Their sockets are to be closed, and `down` called.
    pub fn timed_out(&mut self, now_ms: u64) -> ArrayVec<LinkId, 16> {
        let is_timed_out = |link: &Link| match link.state {
            State::Connecting(since_ms) | State::Probing(since_ms) => {
                now_ms.saturating_sub(since_ms) > limits::PEER_CONNECT_MS_MAX
            }
            State::Up => link.outstanding > 0 && now_ms.saturating_sub(link.heard_ms) > limits::PEER_SILENCE_MS_MAX,
            State::Idle | State::Down(_) => false,
        };
        self.links().filter(|&link| is_timed_out(self.link(link))).take(16).collect()
    }

    /// Counts the silence of all links from now on.
    pub fn restart_timeouts(&mut self, now_ms: u64) {
        for link in &mut self.links {
            link.heard_ms = now_ms;
            if let State::Connecting(since_ms) | State::Probing(since_ms) = &mut link.state {
                *since_ms = now_ms;
            }
        }
    }

    /// Links that are due for a heartbeat: those that owe an answer and are silent; with `active`, also those that overlap with us.
    pub fn heartbeats_due(&mut self, active: bool, now_ms: u64) -> Vec<LinkId> {
        let mut due = Vec::new();
        if active {
            for node in self.others() {
                due.extend(self.overlapping_links(node).filter(|&link| self.is_heartbeat_due(link, now_ms)));
            }
        }
        let silent = |link: &Link| link.outstanding > 0 && now_ms >= link.heard_ms + limits::PEER_PING_MS;
        let silent = self.links().filter(|&link| self.is_heartbeat_due(link, now_ms) && silent(self.link(link)));
        let silent: ArrayVec<LinkId, 16> = silent.filter(|link| !due.contains(link)).take(16).collect();
        due.extend(silent);
        due.iter().for_each(|link| self.links[link.0 as usize].pinged_ms = now_ms);
        due
    }

    fn is_heartbeat_due(&self, link: LinkId, now_ms: u64) -> bool {
        self.link(link).state == State::Up && now_ms >= self.link(link).pinged_ms + limits::PEER_PING_MS
    }

    /// Makes the links that overlap with us, where they were never needed: for a core that wants leases.
    pub fn connect_overlapping(&mut self, now_ms: u64) {
        for node in self.others() {
            let overlapping: Vec<LinkId> = self.overlapping_links(node).collect();
            for link in overlapping {
                match self.link(link).state {
                    State::Idle => self.connect(link, now_ms),
                    State::Down(_) => self.probe(link, now_ms),
                    _ => {}
                }
            }
        }
    }

    /// Requests under way.
    pub fn outstanding(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a link is being made.
    pub fn is_connecting(&self) -> bool {
        self.links.iter().any(|link| matches!(link.state, State::Connecting(_) | State::Probing(_)))
    }
}

/// Commands longer than this travel in a frame of their own, in bytes.
const BATCHED_BYTES_MAX: usize = 2 << 10;
/// A core that is asked for its clock and does not answer is asked again after this many milliseconds.
const ASK_PAUSE_MS: u64 = 50;
/// Two clocks that ran from the same moment on differ by less at the end of a lease, in milliseconds.
const LEASE_SLACK_MS: u64 = 10;

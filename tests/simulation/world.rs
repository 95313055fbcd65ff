//! Nodes of several cores, a network and a clock, all of them made up: whole shards under virtual time.
//!
//! ```text
//!   events by time:  tick of a node | bytes of a link | a link is made, refused or broken | a client acts | a fault begins or ends
//! ```
//!
//! A link is what TCP gives: bytes in order and in pieces, or a break. Loss is a pause (what was sent comes later) that ends in a break
//! where it lasts. Links overtake each other freely. Both sides of a link are the node's own streams (`peer::stream`), and what a core asks
//! for is what the runtime's bridge is asked for (`Turn::poll_output`): handshake, decoder and codec are part of it. Duplicates, which TCP
//! does not make, are made of copies and questions all the same: what must not come twice is a command.
//!
//! Lives here: the machinery. Not here: what clients do (`clients`), what must hold (`laws`), which faults come (`main`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use pbcache::arena::{Arena, Body};
use pbcache::buffer::Buffer;
use pbcache::cluster::links::LinkId;
use pbcache::cluster::view::{self, Entry, PeerId, View};
use pbcache::cluster::{
    Ack, Answer, Cluster, ClusterOptions, Mistake, Moved, OperationId, Origin, Output, Outputs, PeerRequest, Turn,
};
use pbcache::command::{Command, Reply, Value};
use pbcache::engine::{Engine, Options, Replication};
use pbcache::key;
use pbcache::limits;
use pbcache::peer::frame::{self, Frame, HEAD_BYTES, Head, Horizon, Stamp};
use pbcache::peer::handshake::{Identity, Local, NONCE_BYTES};
use pbcache::peer::stream::Stream;
use pbcache::placement::{NodeId, OwnersCache};
use pbcache::protocol::{self, Framing};
use pbcache::routing::{Place, Routes, ShardId, Ticket};
use pbcache::shard::Shard;
use pbcache::time::{Monotonic, Timestamp};
use pbcache::version::Version;

use super::Random;
use super::evil::Evil;

/// Virtual time begins here, in Unix milliseconds.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// Largest item.
const ITEM_BYTES_MAX: usize = 1 << 20;
/// Largest value that a frame may carry.
pub const VALUE_BYTES_MAX: usize = ITEM_BYTES_MAX + frame::VALUE_BYTES_SLACK;
/// What was sent when nothing was in its way has arrived after this time, in milliseconds.
pub const ON_ITS_WAY_MS: u64 = 110;
/// What a link carries in a millisecond.
const BYTES_PER_MS: u64 = 200_000;
/// One of so many sendings comes in two pieces.
const PIECES_EVERY: u64 = 16;

/// Generation of a connection to which no answer goes.
const NOBODY: u32 = u32::MAX;

/// How a run is made up.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    /// Nodes that may be added; `cores`, `skew_ms` and `weights` have places for them behind the others.
    pub spare: usize,
    pub cores: Vec<u16>,
    pub redundancy: usize,
    pub buckets: u32,
    pub memory_bytes: usize,
    pub handoff_bytes: usize,
    pub window_ms: u64,
    pub skew_ms: Vec<i64>,
    pub weights: Vec<u32>,
    pub zones: usize,
    pub keys: u64,
    pub handoff_rate: u32,
    pub mistake: Option<Mistake>,
    pub reap_early: bool,
    /// What expires leaves no tombstone: the engine is told that nobody has anything older.
    pub expires_without_trace: bool,
    pub views_differ: bool,
    pub ack: Ack,
}

/// One node.
pub struct Node {
    pub cores: Vec<Shard>,
    pub alive: bool,
    /// Nothing runs before this time.
    pub paused_until: u64,
    pub incarnation: u64,
    pub skew_ms: i64,
    pub(super) view: Arc<View>,
    pub arena: Arc<Arena>,
}

/// One direction of one link, as TCP keeps it.
#[derive(Default)]
struct Pipe {
    /// What was sent and has not arrived, in order: whatever is due, its front arrives.
    sent: VecDeque<Vec<u8>>,
    /// When what was sent last arrives.
    last_at: u64,
}

/// A connection between two cores of different nodes.
pub(super) struct Connection {
    pub(super) from: (usize, u16),
    pub(super) link: LinkId,
    pub(super) to: (usize, u16),
    pub(super) generation: u32,
    pub(super) open: bool,
    /// The handshake is over; of the evil node, it may say more.
    pub(super) is_made: bool,
    /// What is on its way, both ways; kept while the network is cut.
    there: Pipe,
    back: Pipe,
    /// Of who made it, and of the other side, once the handshake has begun.
    streams: [Option<Box<Stream>>; 2],
    node: Option<PeerId>,
    /// One end lost its power: what was on its way is gone.
    pub(super) lost: bool,
    /// Of both ends, when it was made.
    incarnations: [u64; 2],
}

enum Event {
    Tick(usize),
    Connected(usize),
    Refused(usize),
    Broken(usize),
    Bytes {
        connection: usize,
        back: bool,
    },
    /// A request comes once more; nobody waits for the answer.
    Again {
        connection: usize,
        bytes: Vec<u8>,
    },
    Client(usize),
}

/// Everything.
pub struct World {
    pub plan: Plan,
    pub now: u64,
    pub nodes: Vec<Node>,
    /// The nodes that are in the ring, by their places in `nodes`: what a node hears of by `switch`.
    pub members: Vec<usize>,
    /// What a node begins with when it starts, where that is not all of `members`.
    pub begins_with: BTreeMap<usize, view::Plan>,
    pub random: Random,
    /// `cut[a][b]`: nothing that a sends reaches b.
    pub cut: Vec<Vec<bool>>,
    /// Added to every delay, at most, in milliseconds.
    pub jitter_ms: u64,
    pub(super) connections: Vec<Connection>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    payloads: BTreeMap<u64, Event>,
    sequence: u64,
    /// Answers for clients: connection, its request, bytes.
    pub answers: Vec<((usize, u32), u32, Vec<u8>)>,
    /// Clients that are due.
    pub due: Vec<usize>,
    /// Where the last request of each link of a (node, core, link) goes.
    open_links: BTreeMap<(usize, u16, u32), usize>,
    outputs: Vec<Outputs>,
    traced: Option<String>,
    /// What a check found.
    pub broken: Vec<String>,
    /// The evil node, if there is one.
    pub evil: Option<Evil>,
}

/// What a node is called.
pub fn id(node: usize) -> NodeId {
    NodeId::new(&format!("node-{node}")).unwrap()
}

/// The node that is called so.
pub fn number_of(id: &NodeId) -> usize {
    id.as_str()["node-".len()..].parse().unwrap()
}

impl World {
    pub fn new(plan: Plan, seed: u64) -> Self {
        let random = Random(seed ^ 0x5bd1_e995_97f4_a7c5);
        let mut world = Self {
            now: 0,
            nodes: Vec::new(),
            random,
            members: (0..plan.nodes).collect(),
            begins_with: BTreeMap::new(),
            cut: vec![vec![false; plan.nodes + plan.spare]; plan.nodes + plan.spare],
            jitter_ms: 2,
            connections: Vec::new(),
            events: BinaryHeap::new(),
            payloads: BTreeMap::new(),
            sequence: 0,
            answers: Vec::new(),
            due: Vec::new(),
            open_links: BTreeMap::new(),
            outputs: Vec::new(),
            broken: Vec::new(),
            evil: None,
            traced: std::env::var("SIMULATION_TRACE").ok(),
            plan,
        };
        for node in 0..world.plan.nodes {
            let made = world.make(node, seed);
            world.nodes.push(made);
            world.at(1 + node as u64, Event::Tick(node));
        }
        world
    }

    /// Who is in the ring, as a node has it.
    fn entries(&self, node: usize) -> Vec<Entry> {
        let plan = &self.plan;
        let entry = |&index: &usize| Entry {
            id: id(index),
            address: format!("10.0.0.{index}:11211"),
            // Weights that one node has rounded otherwise than the next: what floats would do.
            weight: plan.weights[index] * 1000 + if plan.views_differ { (node * 7 + index * 3) as u32 % 400 } else { 0 },
            zone: if plan.zones == 0 { String::new() } else { format!("zone-{}", index % plan.zones) },
        };
        self.members.iter().map(entry).collect()
    }

    fn make(&mut self, node: usize, seed: u64) -> Node {
        let plan = &self.plan;
        let view = Arc::new(match self.begins_with.get(&node) {
            Some(begin) => View::planned(begin, &id(node)).unwrap(),
            None => View::new(&self.entries(node), &id(node), plan.buckets, plan.redundancy).unwrap(),
        });
        let cores = plan.cores[node];
        let arena = Arena::new(plan.memory_bytes, plan.memory_bytes, usize::from(cores)).unwrap();
        let tombstone_s = if plan.reap_early { 0 } else { plan.window_ms as u32 / 1000 + 600 };
        let core = |core: u16| {
            let options = Options {
                item_bytes_max: ITEM_BYTES_MAX as u32,
                core,
                cores,
                eviction_disabled: false,
                replication: Some(Replication { buckets: plan.buckets, tombstone_s, node: node as u16 }),
            };
            let ring = ClusterOptions {
                ack: plan.ack,
                handoff_bytes_max: plan.handoff_bytes / usize::from(cores),
                handoff_window_ms: plan.window_ms,
                handoff_rate: plan.handoff_rate,
                cores,
                mistake: plan.mistake,
            };
            let engine = Engine::with_secret(options, arena.clone(), [seed, u64::from(core)]);
            let mut shard = Shard::new(ShardId(core), Routes::new(cores, plan.buckets), engine);
            shard.cluster = Some(Box::new(Cluster::new(view.clone(), ShardId(core), ring)));
            shard
        };
        let shards = (0..cores).map(core).collect();
        let incarnation = self.random.draw() | 1;
        Node { cores: shards, alive: true, paused_until: 0, incarnation, skew_ms: self.plan.skew_ms[node], view, arena }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence)));
        self.payloads.insert(self.sequence, event);
    }

    /// Has a client act at a time.
    pub fn wake_client(&mut self, client: usize, time: u64) {
        self.at(time.max(self.now), Event::Client(client));
    }

    /// The owners of a key, the first in the ranking first.
    pub fn owners_of(&self, key: &str) -> Vec<usize> {
        let view = &self.nodes[self.members[0]].cores[0].cluster.as_ref().unwrap().view;
        let bucket = view.ring.bucket(key::routing_hash(key.as_bytes()));
        view.owners(&mut OwnersCache::default(), bucket).iter().map(|&peer| number_of(view.id_of(peer))).collect()
    }

    /// Runs until something is for the clients, or the time is over. False when it is over.
    pub fn step(&mut self, end: u64) -> bool {
        while self.answers.is_empty() && self.due.is_empty() {
            let Some(&Reverse((time, sequence))) = self.events.peek() else { return false };
            if time > end {
                self.now = end;
                return false;
            }
            self.events.pop();
            self.now = self.now.max(time);
            if let Some(event) = self.payloads.remove(&sequence) {
                self.handle(event);
            }
        }
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(node) => self.tick(node),
            Event::Client(client) => self.due.push(client),
            Event::Connected(connection) => self.connected(connection),
            Event::Refused(connection) => self.end(connection, "refused"),
            Event::Broken(connection) => self.end(connection, "broken"),
            Event::Bytes { connection, back } => self.arrive(connection, back),
            Event::Again { connection, bytes } => self.arrive_again(connection, &bytes),
        }
    }

    fn runs(&self, node: usize) -> bool {
        self.nodes[node].alive && self.nodes[node].paused_until <= self.now
    }

    fn tick(&mut self, node: usize) {
        let resumed = self.nodes[node].paused_until.max(self.now + 10);
        let next = if self.runs(node) { self.now + 10 } else { resumed };
        self.at(next, Event::Tick(node));
        if !self.runs(node) {
            return;
        }
        if self.is_evil(node) {
            return self.evil_acts();
        }
        for core in 0..self.nodes[node].cores.len() {
            let expires_without_trace = self.plan.expires_without_trace;
            self.with_turn(node, core, |turn| {
                turn.tick();
                if expires_without_trace {
                    turn.engine.settle(Version::MAX, Version::MAX);
                }
                turn.engine.tick(turn.now, 64);
            });
            let shard = &self.nodes[node].cores[core];
            let cluster = shard.cluster.as_ref().unwrap();
            for other in cluster.links.others() {
                let account = cluster.hints.target(other).account();
                if !account.balances() {
                    self.broken.push(format!("hints of node {node} for {} do not balance: {account:?}", other.0));
                }
            }
        }
    }

    /// The time as a node sees it.
    pub fn clock(&self, node: usize) -> Timestamp {
        Timestamp { unix_ms: (EPOCH_MS + self.now).saturating_add_signed(self.nodes[node].skew_ms) }
    }

    /// The time of deadlines, which is the same everywhere here.
    pub fn moment(&self) -> Monotonic {
        Monotonic::from_ms(self.now + 1000)
    }

    /// Runs something on one core, and moves what came of it.
    pub fn with_turn<T>(&mut self, node: usize, core: usize, run: impl FnOnce(&mut Turn<'_>) -> T) -> T {
        let (now, at) = (self.clock(node), self.moment());
        let result = run(&mut self.nodes[node].cores[core].turn(now, at).unwrap());
        self.drain(node, core);
        result
    }

    /// Does what a core asks for, as the runtime's bridge does.
    fn drain(&mut self, node: usize, core: usize) {
        // Kept for the next time: what a core asks for may make another core ask for something.
        let mut outputs = self.outputs.pop().unwrap_or_default();
        while self.nodes[node].cores[core].cluster.as_ref().unwrap().has_output() {
            self.turn(node, core).poll_output(&mut outputs);
            while let Some(output) = outputs.next() {
                match output {
                    Output::HangUp(link) => {
                        if let Some(connection) = self.open_links.remove(&(node, core as u16, link.0)) {
                            self.connections[connection].open = false;
                        }
                    }
                    Output::Dial(link) => self.connect(node, core as u16, link),
                    Output::Ready(link) => {
                        let mut output = Buffer::default();
                        self.turn(node, core).take_frames(link, &mut output);
                        if let Some(&connection) = self.open_links.get(&(node, core as u16, link.0)) {
                            self.send(connection, false, output.flatten());
                        }
                    }
                    Output::Answer(origin, answer) => self.deliver(node, origin, answer),
                    Output::ToCore(target, id) => self.pass_on(node, core, target, id),
                }
            }
        }
        self.outputs.push(outputs);
    }

    fn turn(&mut self, node: usize, core: usize) -> Turn<'_> {
        let (now, at) = (self.clock(node), self.moment());
        self.nodes[node].cores[core].turn(now, at).unwrap()
    }

    fn deliver(&mut self, node: usize, origin: Origin, answer: Answer<'_>) {
        let body = |answer: Answer<'_>| match answer.into_parts() {
            (_, Some(buffer)) => buffer.flatten(),
            (bytes, None) => bytes.to_vec(),
        };
        match origin {
            Origin::Connection(ticket) => self.answer(ticket, body(answer)),
            Origin::Core(core, ticket) => self.answer_core(node, core, ticket, body(answer)),
            Origin::Peer(request) => {
                let mut output = Buffer::default();
                answer.write_response(request, &mut output);
                let connection = request.connection as usize;
                if self.connections[connection].generation == request.generation {
                    self.send(connection, true, output.flatten());
                }
            }
            Origin::Control(_) => {}
        }
    }

    fn answer(&mut self, ticket: Ticket, body: Vec<u8>) {
        self.answers.push(((ticket.connection as usize, ticket.generation), ticket.slot, body));
    }

    /// An answer of one core for a client of another one of the same node, or for a request that the other has given away.
    fn answer_core(&mut self, node: usize, core: ShardId, ticket: Ticket, body: Vec<u8>) {
        match OperationId::of_ticket(ticket) {
            None => self.answer(ticket, body),
            Some(key) => {
                let mut reply = Buffer { bytes: body, bodies: Vec::new() };
                self.with_turn(node, usize::from(core.0), |turn| turn.handle_moved(key, &mut reply));
            }
        }
    }

    fn pass_on(&mut self, node: usize, core: usize, target: ShardId, key: OperationId) {
        let (now, at) = (self.clock(node), self.moment());
        let Some(mut turn) = self.nodes[node].cores[core].turn(now, at) else { return };
        let Some(Moved { ticket, repeated_since, stored }) = turn.take_moved(key) else { return };
        let execute = stored.execute().unwrap();
        let head = protocol::Head::from_bytes(&execute.framing).unwrap();
        let (origin, target) = (Origin::Core(ShardId(core as u16), ticket), usize::from(target.0));
        if !repeated_since.is_some() {
            return self.execute(node, target, origin, &execute.command, &Framing { head, words: execute.words });
        }
        let taken = self.with_turn(node, target, |turn| {
            turn.submit_repeated(origin, repeated_since, &execute.command, head, execute.words)
        });
        assert!(taken, "too much under way for so few clients");
    }

    /// Gives a command to a core, as the runtime would.
    pub fn execute(&mut self, node: usize, core: usize, origin: Origin, command: &Command<'_>, framing: &Framing<'_>) {
        let place = self.with_turn(node, core, |turn| turn.place(command));
        match place {
            Some(Place::Core(target)) => {
                let Origin::Connection(ticket) = origin else { panic!("a command came to the wrong core") };
                let origin = Origin::Core(ShardId(core as u16), ticket);
                self.execute(node, usize::from(target.0), origin, command, framing);
            }
            Some(Place::Here) => {
                let now = self.clock(node);
                let mut output = Buffer::default();
                let reply = self.nodes[node].cores[core].engine.execute(command, now);
                let reply = if let Reply::Busy = reply { Reply::Error(pbcache::command::Error::OutOfMemory) } else { reply };
                protocol::encode(framing, command.key.bytes, &reply, &mut output);
                match origin {
                    Origin::Connection(ticket) => self.answer(ticket, output.flatten()),
                    Origin::Core(core, ticket) => self.answer_core(node, core, ticket, output.flatten()),
                    Origin::Peer(_) | Origin::Control(_) => unreachable!("a client's command"),
                }
            }
            None => {
                let taken = self.with_turn(node, core, |turn| turn.submit(origin, command, framing.head, framing.words));
                assert!(taken, "too much under way for so few clients");
            }
        }
    }

    /// A client's request at a node.
    pub fn request(&mut self, node: usize, core: usize, (client, generation): (usize, u32), number: u32, text: &[u8]) {
        let mut session = protocol::Session::new(protocol::Options::default());
        match session.step(text) {
            protocol::Step::Command { command, framing, .. } => {
                let ticket = Ticket { connection: client as u32, generation, slot: number, descriptor: client as i32 };
                self.execute(node, core, Origin::Connection(ticket), &command, &framing);
            }
            protocol::Step::Body { head, body, tail } => {
                let (head, rest) = text.split_at(head);
                let Some(body) = lease(&self.nodes[node].arena, &rest[..body]) else {
                    return self.answers.push(((client, generation), number, b"SERVER_ERROR no memory".into()));
                };
                let protocol::Step::Command { command, framing, .. } = session.resume(head, &body, &rest[body.len()..][..tail])
                else {
                    panic!("not a command")
                };
                let ticket = Ticket { connection: client as u32, generation, slot: number, descriptor: client as i32 };
                self.execute(node, core, Origin::Connection(ticket), &command, &framing);
            }
            step => panic!("not a command: {step:?}"),
        }
    }

    /// `flush_all` at a node, as its control plane does it. The answer is the fence.
    pub fn flush(&mut self, node: usize, (client, generation): (usize, u32), number: u32) {
        let least = self.nodes[node].cores.iter().map(|core| core.engine.clock()).max().unwrap_or_default();
        let ticket = Ticket { connection: client as u32, generation, slot: number, descriptor: client as i32 };
        self.with_turn(node, 0, |turn| turn.flush_ring(Origin::Connection(ticket), least));
    }

    /// The second half of a flush: all cores of the node hear of the fence.
    pub fn raise_fences(&mut self, node: usize, fence: u64) {
        self.nodes[node].cores.iter_mut().for_each(|core| core.engine.raise_fence(Version::from_bits(fence)));
    }

    fn identity(&self, node: usize) -> Identity {
        Identity {
            cluster: "sim".into(),
            id: id(node).as_str().into(),
            incarnation: self.nodes[node].incarnation,
            view: self.nodes[node].view.id().0,
            buckets: self.plan.buckets,
            redundancy: self.plan.redundancy as u8,
            cores: self.plan.cores[node],
            unix_ms: self.clock(node).unix_ms,
            target_core: 0,
        }
    }

    fn delay(&mut self) -> u64 {
        1 + self.random.below(1 + self.jitter_ms)
    }

    fn connect(&mut self, node: usize, core: u16, link: LinkId) {
        let cluster = self.nodes[node].cores[usize::from(core)].cluster.as_ref().unwrap();
        let wanted = cluster.links.link(link);
        let to = (number_of(cluster.view.id_of(wanted.node)), wanted.core);
        self.call((node, core), link, to);
    }

    /// Begins to connect.
    pub(super) fn call(&mut self, (node, core): (usize, u16), link: LinkId, to: (usize, u16)) {
        let connection = self.connections.len();
        self.connections.push(Connection {
            from: (node, core),
            link,
            to,
            generation: connection as u32,
            open: true,
            is_made: false,
            there: Pipe::default(),
            back: Pipe::default(),
            streams: [None, None],
            node: None,
            lost: false,
            incarnations: [self.nodes[node].incarnation, self.nodes[to.0].incarnation],
        });
        self.open_links.insert((node, core, link.0), connection);
        let delay = 2 * self.delay();
        let event = if self.nodes[to.0].alive { Event::Connected(connection) } else { Event::Refused(connection) };
        self.at(self.now + delay, event);
    }

    /// The handshake begins, unless somebody does not hear.
    fn connected(&mut self, connection: usize) {
        let Connection { from, to, open, .. } = self.connections[connection];
        if !open || !self.nodes[from.0].alive {
            return;
        }
        if !self.nodes[to.0].alive {
            return self.end(connection, "refused");
        }
        if self.cut[from.0][to.0] || self.cut[to.0][from.0] || !self.runs(to.0) || !self.runs(from.0) {
            // Tried again until somebody gives up.
            self.at(self.now + 50, Event::Connected(connection));
            return;
        }
        let (caller, called) = (self.local(from.0, to.1), self.local(to.0, to.1));
        let mut calling = Box::new(Stream::silent(VALUE_BYTES_MAX));
        calling.call(caller);
        let hello = calling.output.flatten();
        calling.output.clear();
        self.connections[connection].streams = [Some(calling), Some(Box::new(Stream::called(called, VALUE_BYTES_MAX)))];
        self.send(connection, false, hello);
    }

    /// What a node brings to a handshake.
    fn local(&mut self, node: usize, target_core: u16) -> Local {
        let mut nonce = [0; NONCE_BYTES];
        nonce.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.random.draw().to_le_bytes()[..chunk.len()]));
        let identity = Identity { target_core, ..self.identity(node) };
        Local { identity, key: None, nonce, is_known: true }
    }

    /// Sends bytes, now and then in two pieces.
    pub(super) fn send(&mut self, connection: usize, back: bool, mut bytes: Vec<u8>) {
        if bytes.is_empty() || !self.connections[connection].open {
            return;
        }
        if self.random.below(PIECES_EVERY) == 0 {
            let rest = bytes.split_off(self.random.below(bytes.len() as u64) as usize);
            self.send_piece(connection, back, bytes);
            return self.send_piece(connection, back, rest);
        }
        self.send_piece(connection, back, bytes);
    }

    fn send_piece(&mut self, connection: usize, back: bool, bytes: Vec<u8>) {
        let delay = self.delay() + bytes.len() as u64 / BYTES_PER_MS;
        let now = self.now;
        let pipe = self.pipe(connection, back);
        let at = (now + delay).max(pipe.last_at);
        pipe.last_at = at;
        pipe.sent.push_back(bytes);
        self.at(at, Event::Bytes { connection, back });
    }

    fn pipe(&mut self, connection: usize, back: bool) -> &mut Pipe {
        let connection = &mut self.connections[connection];
        if back { &mut connection.back } else { &mut connection.there }
    }

    fn arrive(&mut self, connection: usize, back: bool) {
        let Connection { from, to, open, .. } = self.connections[connection];
        let (source, target) = if back { (to, from) } else { (from, to) };
        // What was sent before its sender gave up still arrives, as long as that process lived.
        let dead = self.nodes[target.0].incarnation != self.connections[connection].incarnations[usize::from(!back)];
        if (back && !open) || dead || self.connections[connection].lost || !self.nodes[target.0].alive {
            return;
        }
        if self.cut[source.0][target.0] || !self.runs(target.0) {
            let again = self.now + 20;
            let pipe = self.pipe(connection, back);
            pipe.last_at = pipe.last_at.max(again);
            self.at(again, Event::Bytes { connection, back });
            return;
        }
        let Some(bytes) = self.pipe(connection, back).sent.pop_front() else { return };
        let Some(mut stream) = self.connections[connection].streams[usize::from(!back)].take() else { return };
        if let Err(why) = self.receive(connection, back, &mut stream, &bytes) {
            if self.is_evil(source.0) {
                return self.cut_off(connection, back, &why);
            }
            self.broken.push(format!("readable: node {} cannot read node {}: {why}", target.0, source.0));
        }
        let output = stream.output.flatten();
        stream.output.clear();
        self.connections[connection].streams[usize::from(!back)] = Some(stream);
        self.send(connection, !back, output);
    }

    /// Bytes have come to one side of a connection: it goes on with its handshake, or handles frames, as `runtime::peer_socket` does.
    fn receive(&mut self, connection: usize, back: bool, stream: &mut Stream, mut fresh: &[u8]) -> Result<(), String> {
        let Connection { from, to, link, generation, .. } = self.connections[connection];
        let (source, target) = if back { (to, from) } else { (from, to) };
        let core = usize::from(target.1);
        if !stream.is_open() {
            let Some(identity) = stream.handshake(fresh)? else { return Ok(()) };
            self.connections[connection].is_made = true;
            match back {
                _ if self.is_evil(target.0) => {}
                true => self.with_turn(target.0, core, |turn| turn.handle_link_up(link, &identity)),
                false => {
                    self.connections[connection].node = self.with_turn(target.0, core, |turn| turn.handle_inbound(&identity));
                }
            }
            fresh = &[];
        }
        let (node, horizon) = (self.connections[connection].node, Horizon::at(self.clock(target.0)));
        let arena = self.nodes[target.0].arena.clone();
        let blocked = stream.frames(fresh, (&arena, horizon), &mut |frame, output| {
            self.trace(source, target, frame);
            if self.is_evil(target.0) {
                self.evil_hears(connection, back, frame);
                return Ok(true);
            }
            match back {
                true => self.with_turn(target.0, core, |turn| turn.handle_response(link, frame))?,
                false => {
                    if !self.is_evil(source.0) {
                        self.duplicate(connection, frame);
                    }
                    // It may have become a member since it called.
                    let caller = self.identity(from.0);
                    let node = node.or_else(|| self.with_turn(target.0, core, |turn| turn.handle_inbound(&caller)));
                    self.connections[connection].node = node;
                    let deadline = frame.head.deadline(self.moment());
                    let id = frame.head.id;
                    let from = PeerRequest { connection: connection as u32, generation, id, node, deadline };
                    self.with_turn(target.0, core, |turn| turn.handle_request(from, frame, output))?;
                }
            }
            if self.is_evil(source.0) {
                self.check_bounds(target);
            }
            Ok(true)
        });
        if blocked.map_err(|garbled| garbled.0.to_string())? {
            // There was no memory for a large value: tried again.
            self.pipe(connection, back).sent.push_back(Vec::new());
            self.at(self.now + 10, Event::Bytes { connection, back });
        }
        Ok(())
    }

    /// Has a request of a kind that may come twice do so now and then, soon or late.
    fn duplicate(&mut self, connection: usize, frame: &Frame<'_>) {
        use frame::Kind::*;
        const KINDS: [frame::Kind; 6] = [Put, Fetch, Fence, Sync, Purged, Missing];
        // An item of a partition that was announced passes its fence: it comes once, before what is written later.
        const EXEMPT: u8 = 16;
        let Head { kind, flags, hops, id, clock, fence, sent_ms, heard_ms, life, view, .. } = frame.head;
        if kind == Put && frame.meta[0] & EXEMPT != 0 {
            return;
        }
        if KINDS.contains(&kind) && self.random.below(50) == 0 {
            let soon = self.random.below(2) == 0;
            let at = self.now + self.random.below(if soon { 10 } else { 900 });
            let (mut bytes, stamp) = (Buffer::default(), Stamp { clock, fence, sent_ms, heard_ms, life, view });
            frame::write(&mut bytes, (kind, flags, hops, id), stamp, frame.value, |meta| meta.extend_from_slice(frame.meta));
            self.at(at, Event::Again { connection, bytes: bytes.flatten() });
        }
    }

    fn arrive_again(&mut self, connection: usize, bytes: &[u8]) {
        let Connection { to, incarnations, node, .. } = self.connections[connection];
        if self.nodes[to.0].incarnation != incarnations[1] || !self.runs(to.0) || self.is_evil(to.0) {
            return;
        }
        let horizon = Horizon::at(self.clock(to.0));
        let Ok(head) = Head::read(bytes.first_chunk().expect("a whole frame"), VALUE_BYTES_MAX, horizon) else { return };
        let (meta, value) = bytes[HEAD_BYTES..].split_at(head.meta_bytes);
        let is_long = value.len() > limits::INLINE_VALUE_BYTES_MAX;
        let body = if is_long { lease(&self.nodes[to.0].arena, value) } else { None };
        if is_long && body.is_none() {
            return;
        }
        let frame = Frame { head, meta, value: body.as_ref().map_or(Value::Bytes(value), Value::Body) };
        let from =
            PeerRequest { connection: connection as u32, generation: NOBODY, id: head.id, node, deadline: Monotonic::LONG_AGO };
        let result = self.with_turn(to.0, usize::from(to.1), |turn| turn.handle_request(from, &frame, &mut Buffer::default()));
        if let Err(garbled) = result {
            self.broken.push(format!("readable: node {} cannot read a duplicate: {}", to.0, garbled.0));
        }
    }

    /// Prints what passes about the key that `SIMULATION_TRACE` names.
    fn trace(&self, source: (usize, u16), target: (usize, u16), frame: &Frame<'_>) {
        let Some(key) = &self.traced else { return };
        let value = frame.value.to_vec();
        let about = frame.meta.windows(key.len()).chain(value.windows(key.len())).any(|part| part == key.as_bytes());
        let horizon = Horizon::at(self.clock(target.0));
        let copy =
            frame::read_replica(frame.meta, frame.value, horizon).ok().filter(|put| put.replica.key.bytes == key.as_bytes());
        if about
            || matches!(frame.head.kind, frame::Kind::PutDone | frame::Kind::Begin | frame::Kind::Purged | frame::Kind::Fence)
        {
            let copy = copy.map(|put| (put.replica.version, put.replica.tombstone, put.exempt, put.missing));
            let (head, is_done) = (frame.head, frame.head.kind == frame::Kind::PutDone);
            let done = if is_done { frame::PutDone::read(frame.meta, horizon).ok() } else { None };
            let ((from, core), (to, to_core)) = (source, target);
            println!("{} {from}.{core} -> {to}.{to_core} {head:?} {copy:?} {done:?}", self.now);
        }
    }

    /// A link ends; its side that made it hears so.
    pub(super) fn end(&mut self, connection: usize, why: &str) {
        let Connection { from, link, open, .. } = self.connections[connection];
        if !open {
            return;
        }
        self.connections[connection].open = false;
        let key = (from.0, from.1, link.0);
        if self.open_links.get(&key) == Some(&connection) {
            self.open_links.remove(&key);
        }
        if self.nodes[from.0].alive && !self.is_evil(from.0) {
            self.with_turn(from.0, usize::from(from.1), |turn| turn.handle_link_down(link, why));
        }
    }

    /// A node dies with its memory. Its links break for the others a moment later.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node].alive = false;
        // A process that is killed leaves what it has sent to the kernel; a machine without power does not.
        let power = self.random.below(2) == 0;
        for connection in 0..self.connections.len() {
            let Connection { from, to, open, .. } = self.connections[connection];
            if !open {
                continue;
            }
            self.connections[connection].lost |= power && (from.0 == node || to.0 == node);
            if from.0 == node {
                self.connections[connection].open = false;
                self.open_links.remove(&(from.0, from.1, self.connections[connection].link.0));
            } else if to.0 == node {
                let delay = self.delay();
                self.at(self.now + delay, Event::Broken(connection));
            }
        }
    }

    /// A node comes into the ring, empty. The others hear of it by `switch`.
    pub fn add(&mut self) -> usize {
        let (node, seed) = (self.nodes.len(), self.random.draw());
        self.members.push(node);
        let made = self.make(node, seed);
        self.nodes.push(made);
        self.at(self.now + 1, Event::Tick(node));
        node
    }

    /// A core hears who is in the ring now. Each core of a node hears for itself, as in the runtime.
    pub fn switch(&mut self, node: usize, core: usize) {
        let view = self.nodes[node].cores[core].cluster.as_ref().unwrap().view.clone();
        let next = Arc::new(view.next(&self.entries(node), self.plan.redundancy).unwrap());
        self.nodes[node].view = next.clone();
        self.with_turn(node, core, |turn| turn.handle_view(next));
    }

    /// A node that died starts again, empty.
    pub fn restart(&mut self, node: usize) {
        let seed = self.random.draw();
        let skew_ms = self.nodes[node].skew_ms;
        self.nodes[node] = self.make(node, seed);
        self.nodes[node].skew_ms = skew_ms;
    }

    /// All links from one node to another break.
    pub fn break_links(&mut self, from: usize, to: usize) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.open && connection.from.0 == from && connection.to.0 == to {
                self.at(self.now + 1, Event::Broken(index));
            }
        }
    }

    /// A link of a node breaks, as a router that restarts would do it.
    pub fn break_link(&mut self) {
        let open: Vec<usize> = (0..self.connections.len()).filter(|&index| self.connections[index].open).collect();
        if !open.is_empty() {
            let index = open[self.random.below(open.len() as u64) as usize];
            self.at(self.now + 1, Event::Broken(index));
        }
    }

    /// Whether nobody holds anything for anybody, and everybody has a lease of everybody.
    pub fn is_settled(&self) -> bool {
        self.nodes.iter().filter(|node| node.alive).all(|node| {
            node.cores.iter().all(|core| {
                let cluster = core.cluster.as_ref().unwrap();
                let clean = cluster.links.others().all(|other| cluster.hints.is_clean(other));
                let leased = cluster.leases.has_all(self.moment()) && cluster.leases.missing_count() == 0;
                clean && leased && cluster.operations() == 0 && !cluster.is_dropping()
            })
        })
    }

    /// Who is not settled, and why.
    pub fn unsettled(&self) -> String {
        let mut reasons = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for (core, shard) in node.cores.iter().enumerate() {
                let cluster = shard.cluster.as_ref().unwrap();
                for other in cluster.links.others() {
                    let target = cluster.hints.target(other);
                    if !cluster.hints.is_clean(other) {
                        let (pending, dirty) = (target.pending(), target.dirty_count());
                        reasons.push(format!("{index}.{core} has {pending} hints, {dirty} dirty for {}", other.0));
                    }
                }
                if !cluster.leases.has_all(self.moment()) {
                    let links = cluster.links.ids().map(|link| cluster.links.link(link));
                    let states: Vec<String> = links
                        .map(|link| format!("{}.{} {:?} owes {}", link.node.0, link.core, link.state, link.outstanding))
                        .collect();
                    reasons.push(format!("{index}.{core} lacks leases: {}", states.join(", ")));
                }
                if cluster.operations() > 0 || cluster.is_dropping() {
                    reasons.push(format!("{index}.{core} has {} operations", cluster.operations()));
                }
            }
        }
        reasons.join("; ")
    }

    /// Keeps everybody asking for words, as `stats handoff wait` does.
    pub fn stir(&mut self) {
        let at = self.moment();
        let cores = self.nodes.iter_mut().flat_map(|node| &mut node.cores);
        cores.for_each(|core| core.cluster.as_mut().unwrap().active_now(at));
    }
}

/// A long value as it comes from a client's socket, in memory of its own. `None` if there is none.
fn lease(arena: &Arc<Arena>, value: &[u8]) -> Option<Arc<Body>> {
    let mut body = Body::lease(arena, value.len())?;
    body.write(0, value);
    Some(Arc::new(body))
}

//! One core at work: its conversations, its context, its links and its inbox, without the sockets.
//!
//! ```text
//!   socket bytes --> receive --> Connection --> shard, or link to the owning core
//!   links        --> pull    --> execute for others / fill the slots of our own   --> dirty connections --> flush --> output
//!   inbox        --> answer_control, run: questions of the control plane, executed here between two turns
//! ```
//!
//! Both engines of I/O drive the same core: `pump` (own io_uring) and `streams` (stock glommio).
//!
//! Lives here: what happens between the sockets and the shard. Not here: system calls.

use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender};
use slab::Slab;

use super::board::Publisher;
use super::bridge::{Bridge, Resolve};
use super::connection::{Connection, Flow, State};
use super::context::{Context, ControlRequest, MembersRequest};
use super::mesh::record::{Handover, Received, ReplyBytes, Request, Writer};
use super::mesh::{CorePeer, Mesh, Shared};
use super::peer_socket::{Peer, PeerSetup};
use crate::arena::Arena;
use crate::buffer::Buffer;
use crate::cluster::{OperationId, Origin};
use crate::command::{Error, Reply};
use crate::key::Key;
use crate::latency::Latency;
use crate::limits;
use crate::observe::Client;
use crate::observe::events::What;
use crate::observe::slow::SlowRequests;
use crate::protocol::{self, Session};
use crate::routing::Ticket;
use crate::routing::{Place, ShardId};
use crate::shard::Shard;
use crate::time::{Monotonic, Timestamp};

/// A message of the control plane to a core.
pub enum ToCore {
    /// The answer to a `ControlRequest`: bytes of the client's protocol.
    Answer {
        /// Whose answer.
        ticket: Ticket,
        /// What to send.
        bytes: Vec<u8>,
        /// Close the connection behind it.
        close: bool,
    },
    /// A piece of a long answer; `taken` hears when the client's socket has it, and is dropped when the client has gone.
    Part {
        /// Whose answer.
        ticket: Ticket,
        /// What to send.
        bytes: Vec<u8>,
        /// Told when the next piece may come.
        taken: Sender<()>,
    },
    /// The connection of this request watches from here on; `Part` brings its lines.
    Watch {
        /// Whose request.
        ticket: Ticket,
    },
    /// Something to do on the core, between two turns. Must be short.
    Run(Box<dyn FnOnce(&mut Core) + Send>),
    /// Stop accepting, answer what is in flight, close.
    Drain,
}

/// What is told of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its socket.
    pub descriptor: i32,
    /// What it is at.
    pub state: State,
    /// When its last commands were parsed, or it was made.
    pub last_command: Timestamp,
}

/// One core without its sockets.
pub struct Core {
    /// What the conversations work with.
    pub context: Context,
    /// The conversations.
    pub connections: Slab<Connection>,
    /// Connections that arrived from other cores and wait to be adopted.
    pub adopted: Vec<Handover>,
    /// Connections whose replies may have come due.
    pub to_flush: Vec<u32>,
    /// Connections with a piece of a long answer on its way out, and who waits to hear of it.
    pub parts: Vec<(u32, u32, Sender<()>)>,
    /// Set once the control plane asked to drain.
    pub draining: bool,
    /// What is between this core and other nodes.
    pub bridge: Bridge,
    publisher: Publisher,
    inbox: Receiver<ToCore>,
    generations: u32,
    scratch: Buffer,
}

/// What a core is made of.
pub struct CoreDeps {
    /// Its items and place.
    pub shard: Shard,
    /// Its queues to and from the other cores.
    pub mesh: Mesh,
    /// The node's memory.
    pub arena: Arc<Arena>,
    /// What sessions are told.
    pub protocol: protocol::Options,
    /// To the control plane.
    pub control: Sender<ControlRequest>,
    /// To the thread of the member table, if there is one.
    pub members: Option<Sender<MembersRequest>>,
    /// To the thread that tells other nodes of this one, if there can be any.
    pub facts: Option<Sender<MembersRequest>>,
    /// From how many milliseconds on a request is slow; 0 for never.
    pub slow_ms: u32,
    /// From the control plane.
    pub inbox: Receiver<ToCore>,
    /// How to speak with other nodes, if there are any.
    pub peer_setup: Option<Arc<PeerSetup>>,
    /// Who resolves their names.
    pub resolver: Option<Sender<Resolve>>,
}

impl Core {
    /// A core without connections.
    pub fn new(deps: CoreDeps) -> Self {
        let (now, ns) = deps.mesh.shared.clock.read_ns();
        let CoreDeps { shard, mesh, arena, protocol, control, members, facts, slow_ms, inbox, peer_setup, resolver } = deps;
        let bridge = Bridge::new(resolver);
        let publisher = Publisher::new(&mesh.own_state().board);
        Self {
            context: Context {
                shard,
                mesh,
                arena,
                now,
                at: Monotonic::from_ms(ns / 1_000_000),
                ns,
                latency: Latency::default(),
                slow: SlowRequests::new(slow_ms),
                unsampled: 0,
                sampled_ns: 0,
                peer_setup,
                protocol,
                control,
                members,
                facts,
                held_bytes: Rc::default(),
                charged_bytes: 0,
                serves_http: false,
            },
            connections: Slab::new(),
            adopted: Vec::new(),
            to_flush: Vec::new(),
            parts: Vec::new(),
            draining: false,
            publisher,
            bridge,
            inbox,
            generations: 0,
            scratch: Buffer::with_capacity(limits::OUTPUT_TURN_BYTES_MAX),
        }
    }

    /// Which core this is.
    pub fn id(&self) -> ShardId {
        self.context.shard.id
    }

    /// What all cores share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.context.mesh.shared
    }

    /// Reads the clock for the turn that begins.
    pub fn begin_turn(&mut self) {
        self.context.read_clocks();
        self.context.charge_held();
        self.publisher.tick(&self.context);
    }

    /// Writes the figures to the board, because the core goes to sleep.
    pub fn publish_figures(&mut self) {
        self.context.read_clocks();
        self.publisher.write(&self.context);
    }

    /// Opens a conversation; its index is free again after `close`. Who owns the socket tells its descriptor.
    pub fn open(&mut self, session: Option<Session>, input: Vec<u8>, mut peer: Option<Box<Peer>>) -> u32 {
        if let Some(peer) = &mut peer {
            peer.arrive(&mut self.context);
        }
        self.generations = self.generations.wrapping_add(1);
        let session = session.unwrap_or_else(|| Session::new(self.context.protocol));
        let connection = Connection::new(self.generations, session.options(), self.context.now);
        self.context.serves_http |= session.is_http();
        let second = self.context.second();
        self.connections.insert(connection.with_parts(session, input, peer, second)) as u32
    }

    /// The conversations of this core, at most `limits::CONNECTIONS_LISTED_MAX` of them.
    pub fn describe_connections(&self) -> Vec<Described> {
        let describe = |connection: &Connection| Described {
            descriptor: connection.descriptor,
            state: connection.state(),
            last_command: connection.last_command(),
        };
        self.connections.iter().map(|(_, connection)| describe(connection)).take(limits::CONNECTIONS_LISTED_MAX).collect()
    }

    /// Ends a conversation. Replies that are still under way to it are dropped when they come.
    pub fn close(&mut self, id: u32) -> Option<Connection> {
        let mut connection = self.connections.try_remove(id as usize)?;
        connection.release(&self.context);
        self.forget_link(&mut connection);
        self.forget_peer(id, &mut connection);
        Some(connection)
    }

    /// Handles bytes of a connection; replies that are due go to `output`.
    #[inline]
    pub fn receive(&mut self, id: u32, bytes: &[u8], output: &mut Buffer) -> Flow {
        match self.connections.get_mut(id as usize) {
            Some(connection) => {
                let flow = connection.receive(id, bytes, &mut self.context, output);
                if connection.is_peer() {
                    self.to_flush.push(id);
                    if connection.take_stranger() {
                        self.learn_addresses();
                    }
                }
                flow
            }
            None => Flow::Closing,
        }
    }

    /// Lets the engine fetch what the first requests of several connections will need; `received` is what each of them got. Parses
    /// them once more than needed, about 40 ns each, where the engine would wait three times as long for memory.
    pub fn foresee<'a>(&mut self, received: impl Iterator<Item = (u32, &'a [u8])>) {
        let connections = &self.connections;
        let Shard { engine, routes, id: own, .. } = &mut self.context.shard;
        let keys = received.filter_map(|(id, bytes)| connections.get(id as usize)?.first_key(bytes));
        let keys: ArrayVec<Key<'a>, { limits::BATCH_COMMANDS_MAX }> =
            keys.filter(|key| routes.core_of(key.hash) == *own).take(limits::BATCH_COMMANDS_MAX).collect();
        if keys.len() > 1 {
            engine.prepare(keys.iter());
        }
    }

    /// Moves the due replies of a connection to `output`.
    pub fn flush(&mut self, id: u32, output: &mut Buffer) {
        if let Some(connection) = self.connections.get_mut(id as usize) {
            connection.flush(&mut self.context, output);
        }
    }

    /// Handles what the other cores sent: executes their commands, places their replies, takes their connections. Bounded by
    /// the capacity of the links. Returns whether there was anything.
    pub fn pull(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.context.mesh.peers_count() {
            let Some(mut peer) = self.context.mesh.take(index) else { continue };
            any |= self.pull_replies(&mut peer);
            any |= self.pull_requests(ShardId(index as u16), &mut peer);
            self.context.mesh.put_back(index, peer);
        }
        any
    }

    fn pull_replies(&mut self, peer: &mut CorePeer) -> bool {
        let mut any = false;
        while let Some(received) = peer.replies_in.oldest() {
            if let Received::Reply(mut record) = received {
                let (ticket, bytes) = record.take();
                self.place(ticket, bytes);
            }
            any = true;
        }
        any
    }

    fn pull_requests(&mut self, core: ShardId, peer: &mut CorePeer) -> bool {
        let (mut any, mut prepared) = (false, 0);
        while peer.replies_out.has_room() {
            if prepared == 0 {
                prepared = self.prepare(peer);
            }
            prepared = prepared.saturating_sub(1);
            match peer.requests_in.oldest() {
                Some(Received::Request(mut record)) => {
                    let request = record.request();
                    let taken = self.take_request(core, &request, &mut peer.replies_out, &mut peer.starved_since);
                    if !taken {
                        record.leave();
                        break;
                    }
                }
                Some(Received::Handover(handover)) => self.adopted.push(*handover),
                Some(Received::Reply(_)) => debug_assert!(false, "replies have links of their own"),
                None => break,
            }
            any = true;
        }
        any
    }

    /// Executes a command of another core, or passes it on to its node. False when it must wait where it is.
    fn take_request(
        &mut self,
        core: ShardId,
        request: &Request<'_>,
        replies: &mut Writer,
        starved_since: &mut Option<Monotonic>,
    ) -> bool {
        let Request { ticket, repeated_since, command, framing } = request;
        let context = &mut self.context;
        let is_repeated = repeated_since.is_some();
        if context.shard.cluster.is_some() && (is_repeated || context.place(command) != Some(Place::Here)) {
            let Some(mut turn) = context.turn() else { return false };
            return turn.submit_repeated(Origin::Core(core, *ticket), *repeated_since, command, framing.head, framing.words);
        }
        let client = Client { descriptor: ticket.descriptor, meta: framing.head.is_meta() };
        let mut reply = context.shard.execute(command, client, context.now);
        if let Reply::Busy = reply {
            let since = *starved_since.get_or_insert(context.at);
            if context.at < since + limits::STARVED_MS_MAX {
                return false;
            }
            reply = Reply::Error(Error::OutOfMemory);
        }
        *starved_since = None;
        self.scratch.clear();
        protocol::encode(framing, command.key.bytes, &reply, &mut self.scratch);
        let written = replies.reply(*ticket, &mut self.scratch);
        debug_assert!(written, "has_room was asked before");
        true
    }

    /// Lets the engine fetch what the next commands of a peer will need. Returns how many they are.
    fn prepare(&mut self, peer: &mut CorePeer) -> usize {
        let requests = peer.requests_in.requests_ahead().take(limits::BATCH_COMMANDS_MAX);
        let keys: ArrayVec<Key<'_>, { limits::BATCH_COMMANDS_MAX }> = requests.map(|request| request.command.key).collect();
        if keys.len() > 1 {
            self.context.shard.engine.prepare(keys.iter());
        }
        keys.len()
    }

    /// Puts a reply into the slot that waits for it, unless its connection has gone.
    pub(super) fn place(&mut self, ticket: Ticket, bytes: ReplyBytes<'_>) {
        if let Some(id) = OperationId::of_ticket(ticket) {
            return self.moved_answered(id, bytes);
        }
        let Some(connection) = self.connections.get_mut(ticket.connection as usize) else { return };
        if connection.generation != ticket.generation {
            return;
        }
        if let Some(sent) = connection.fill(ticket.slot, bytes) {
            self.context.end_wait(sent, connection.descriptor);
        }
        if self.to_flush.last() != Some(&ticket.connection) {
            self.to_flush.push(ticket.connection);
        }
    }

    /// Handles the control plane's messages. Returns whether there were any.
    pub fn pull_inbox(&mut self) -> bool {
        let mut any = false;
        while let Ok(message) = self.inbox.try_recv() {
            any = true;
            match message {
                ToCore::Answer { ticket, bytes, close } => {
                    if let Some(connection) = self.connections.get_mut(ticket.connection as usize)
                        && connection.generation == ticket.generation
                    {
                        connection.control_answered(close);
                        self.place(ticket, ReplyBytes::Carried(Box::new(Buffer { bytes, bodies: Vec::new() })));
                    }
                }
                ToCore::Part { ticket, bytes, taken } => {
                    if let Some(connection) = self.connections.get_mut(ticket.connection as usize)
                        && connection.generation == ticket.generation
                        && connection.waits_for_control()
                    {
                        connection.push_part(bytes);
                        self.to_flush.push(ticket.connection);
                        self.parts.push((ticket.connection, ticket.generation, taken));
                    }
                }
                ToCore::Watch { ticket } => {
                    if let Some(connection) = self.connections.get_mut(ticket.connection as usize)
                        && connection.generation == ticket.generation
                        && connection.waits_for_control()
                    {
                        connection.start_watching(&self.context);
                    }
                }
                ToCore::Run(task) => task(self),
                ToCore::Drain => self.draining = true,
            }
        }
        any
    }

    /// Tells the senders of pieces whose sockets have them. `is_out` says so of a connection that is there.
    pub fn confirm_parts(&mut self, is_out: impl Fn(u32) -> bool) {
        let connections = &self.connections;
        self.parts.retain(|(id, generation, taken)| {
            let Some(connection) = connections.get(*id as usize) else { return false };
            if connection.generation != *generation {
                return false;
            }
            let done = is_out(*id);
            if done {
                let _ = taken.send(());
            }
            !done
        });
    }

    /// Whether the connection of this request is still there and waits for the control plane's answer.
    pub fn waits_for_control(&self, ticket: Ticket) -> bool {
        let connection = self.connections.get(ticket.connection as usize);
        connection.is_some_and(|connection| connection.generation == ticket.generation && connection.waits_for_control())
    }

    /// Whether the connection of this request still watches.
    pub fn is_watched_by(&self, ticket: Ticket) -> bool {
        let connection = self.connections.get(ticket.connection as usize);
        connection.is_some_and(|connection| connection.generation == ticket.generation && connection.is_watching())
    }

    /// Notes that a connection was accepted or closed, if somebody watches that.
    pub fn note_connection(&mut self, what: What, descriptor: i32) {
        self.context.shard.observer.events.note(what, b"", descriptor, self.context.now);
    }

    /// Whether this core has others to talk to.
    pub fn has_peers(&self) -> bool {
        self.context.mesh.peers_count() > 1
    }

    /// Whether something waits that a sleeping core would have to be woken for.
    pub fn has_inbound(&self) -> bool {
        !self.inbox.is_empty() || self.context.mesh.has_inbound() || self.has_news_for_nodes()
    }

    /// The least loaded core, if it has at least two connections fewer than this one: a new connection goes there.
    pub fn better_home(&self) -> Option<ShardId> {
        use std::sync::atomic::Ordering::Relaxed;
        let cores = &self.shared().cores;
        let own = cores[self.id().0 as usize].connections.load(Relaxed);
        let (index, least) = cores.iter().map(|core| core.connections.load(Relaxed)).enumerate().min_by_key(|&(_, n)| n)?;
        (least + 1 < own).then_some(ShardId(index as u16))
    }
}

//! What the conversations of one core work with: its shard, its mesh, the time of the turn, the way to the control plane.
//!
//! Lives here: the context of a core. Not here: its queues to other cores (`mesh`), one client's conversation (`connection`), I/O (`pump`, `streams`).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::mesh::Mesh;
use super::peer_socket::PeerSetup;
use super::replies::Sent;
use crate::arena::Arena;
use crate::cluster::Turn;
use crate::command::{Command, Control};
use crate::latency::Latency;
use crate::limits;
use crate::observe::slow::{SlowRequest, SlowRequests, Waited};
use crate::protocol::{self, Framing, Head};
use crate::routing::Ticket;
use crate::routing::{Place, ShardId};
use crate::shard::Shard;
use crate::time::{Monotonic, Timestamp};

/// What one core's conversations share.
pub struct Context {
    /// The core's items and counters.
    pub shard: Shard,
    /// To and from the other cores.
    pub mesh: Mesh,
    /// The node's memory, for large values.
    pub arena: Arc<Arena>,
    /// The time of this turn.
    pub now: Timestamp,
    /// The same for deadlines and patience.
    pub at: Monotonic,
    /// The same in nanoseconds, when this turn began.
    pub ns: u64,
    /// How long requests take.
    pub latency: Latency,
    /// The last ones that took long.
    pub slow: SlowRequests,
    /// Commands, and turns, since a command was last sampled for the keys that are asked for most.
    pub unsampled: u32,
    /// When the last of them was taken.
    pub sampled_ns: u64,
    /// How to speak with other nodes; `None` on a lone node.
    pub peer_setup: Option<Arc<PeerSetup>>,
    /// What new sessions are told.
    pub protocol: protocol::Options,
    /// Requests to the control plane.
    pub control: Sender<ControlRequest>,
    /// Questions about the ring, to its own thread; `None` where the ring is an explicit list, or none is possible.
    pub members: Option<Sender<MembersRequest>>,
    /// Questions of other nodes about this one; `None` where there can be no others.
    pub facts: Option<Sender<MembersRequest>>,
    /// Bytes that this core holds for its connections: long unparsed requests, and output that readers have not taken.
    pub held_bytes: Rc<Cell<usize>>,
    /// What of it, and of what is held for other nodes, is charged to the memory of items.
    pub charged_bytes: usize,
    /// An HTTP client was here since the last time that deadlines were looked at.
    pub serves_http: bool,
}

/// A request to the node, on its way to the control plane. Control traffic may allocate.
pub struct ControlRequest {
    /// The core that asks.
    pub core: ShardId,
    /// Where the answer goes.
    pub ticket: Ticket,
    /// What is asked.
    pub control: OwnedControl,
    /// How to write the answer.
    pub framing: Head,
}

/// What another node, or an operator, asks about the ring, on its way to the control plane.
pub struct MembersRequest {
    /// The core that asks.
    pub core: ShardId,
    /// The connection that it came over.
    pub connection: u32,
    /// See `PeerRequest::generation`.
    pub generation: u32,
    /// Of the request.
    pub id: u32,
    /// Who asks, as it calls itself.
    pub caller: String,
    /// A `MemberVerb`.
    pub verb: u8,
    /// A table, or words.
    pub value: Vec<u8>,
}

/// [`Control`] with its words owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedControl {
    /// See [`Control::FlushAll`].
    FlushAll { delay: crate::time::Exptime },
    /// See [`Control::Stats`].
    Stats { group: Vec<u8> },
    /// See [`Control::Verbosity`].
    Verbosity { level: u32 },
    /// See [`Control::CacheMemlimit`].
    CacheMemlimit { megabytes: u64 },
    /// See [`Control::LruCrawler`].
    LruCrawler { words: Vec<u8> },
    /// See [`Control::Watch`].
    Watch { words: Vec<u8> },
    /// See [`Control::Tune`].
    Tune { line: Vec<u8> },
    /// See [`Control::Shutdown`].
    Shutdown { mode: Vec<u8> },
    /// See [`Control::DebugTime`].
    DebugTime { words: Vec<u8> },
}

impl From<&Control<'_>> for OwnedControl {
    fn from(control: &Control<'_>) -> Self {
        match *control {
            Control::FlushAll { delay } => Self::FlushAll { delay },
            Control::Stats { group } => Self::Stats { group: group.to_vec() },
            Control::Verbosity { level } => Self::Verbosity { level },
            Control::CacheMemlimit { megabytes } => Self::CacheMemlimit { megabytes },
            Control::LruCrawler { words } => Self::LruCrawler { words: words.to_vec() },
            Control::Watch { words } => Self::Watch { words: words.to_vec() },
            Control::Tune { line } => Self::Tune { line: line.to_vec() },
            Control::Shutdown { mode } => Self::Shutdown { mode: mode.to_vec() },
            Control::DebugTime { words } => Self::DebugTime { words: words.to_vec() },
        }
    }
}

impl Context {
    /// Reads the clocks for the turn that begins.
    pub fn read_clocks(&mut self) {
        (self.now, self.ns) = self.mesh.shared.clock.read_ns();
        self.at = Monotonic::from_ms(self.ns / 1_000_000);
    }

    /// Reads the clock of deadlines anew.
    pub fn read_at(&mut self) {
        self.at = self.mesh.shared.clock.at();
    }

    /// The turn has ended, in which there was something to do.
    pub fn end_turn(&mut self) {
        let took_ns = self.mesh.shared.clock.ns() - self.ns;
        if took_ns >= self.slow.least_ns {
            let (kind, commands) = self.latency.turn_so_far();
            self.slow.note(SlowRequest { unix_ms: self.now.unix_ms, took_ns, kind, commands, waited: None });
        }
        // Turns count too: what is executed for other nodes is a command of this core as well.
        self.unsampled += self.latency.end_turn(took_ns) + 1;
        let has_paused = self.ns >= self.sampled_ns + limits::TOP_KEYS_PAUSE_NS;
        if self.unsampled >= limits::TOP_KEYS_SAMPLE || (has_paused && self.unsampled >= limits::TOP_KEYS_SAMPLE_MIN) {
            (self.unsampled, self.sampled_ns) = (0, self.ns);
            // Not always the first of a turn: a client that asks in a fixed order would show always the same key.
            self.shard.observer.sample((took_ns % limits::TOP_KEYS_SKIP) as u8);
        }
    }

    /// An answer has come from elsewhere, for the client with this socket.
    #[inline]
    pub fn end_wait(&mut self, sent: Sent, descriptor: i32) {
        let took_ns = self.ns.saturating_sub(sent.ns);
        self.latency.waited(sent.kind, took_ns);
        if took_ns >= self.slow.least_ns {
            let (unix_ms, waited) = (self.now.unix_ms, Some(Waited { descriptor, hash: sent.hash }));
            self.slow.note(SlowRequest { unix_ms, took_ns, kind: Some(sent.kind), commands: 1, waited });
        }
    }

    /// The second of `at`, for what need not be exact.
    pub fn second(&self) -> u32 {
        (self.at.ms() / 1000) as u32
    }

    /// This core's part of a ring at this turn; `None` on a lone node.
    #[inline]
    pub fn turn(&mut self) -> Option<Turn<'_>> {
        self.shard.turn(self.now, self.at)
    }

    /// Where a command of a ring node is executed, if that can be at once.
    #[inline]
    pub fn place(&mut self, command: &Command<'_>) -> Option<Place> {
        self.turn()?.place(command)
    }

    /// Charges what this core holds for others beyond `limits::HELD_BYTES_FREE` to the memory of items, which make room for it.
    pub fn charge_held(&mut self) {
        let for_nodes = self.shard.cluster.as_ref().map_or(0, |cluster| cluster.held_bytes());
        let beyond = (self.held_bytes.get() + for_nodes).saturating_sub(limits::HELD_BYTES_FREE);
        let wanted = beyond.next_multiple_of(limits::HELD_BYTES_STEP);
        if wanted > self.charged_bytes {
            self.arena.charge_used(wanted - self.charged_bytes);
        } else if wanted < self.charged_bytes {
            self.arena.discharge(self.charged_bytes - wanted);
        }
        self.charged_bytes = wanted;
    }

    /// Output that one connection may make in one turn: little, once slow readers hold much of what this core has for them.
    pub fn output_bytes_max(&self) -> usize {
        if self.held_bytes.get() < limits::HELD_BYTES_SOFT {
            limits::OUTPUT_TURN_BYTES_MAX
        } else {
            limits::OUTPUT_TIGHT_BYTES_MAX
        }
    }

    /// Sends a request to the control plane.
    pub fn ask_control(&self, ticket: Ticket, control: &Control<'_>, framing: &Framing<'_>) {
        let request = ControlRequest { core: self.shard.id, ticket, control: control.into(), framing: framing.head };
        // The channel closes only when the node ends; the connection is then closed too.
        let _ = self.control.send(request);
    }
}

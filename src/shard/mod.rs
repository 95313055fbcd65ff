//! What one core owns: its part of the ring, its items, its counters. Pure: no I/O, no clock.
//!
//! ```text
//!   command --> route --+-- Here     -> execute -> Reply (counted)
//!                       +-- Core(k)  -> the runtime sends it over the link to core k
//!                       +-- in a ring: `Turn`, which may ask and tell other nodes before it answers
//! ```
//!
//! Lives here: routing and local execution. Not here: how a command travels (`runtime::message`), protocols, sockets.

use crate::command::{Command, Reply};
use crate::engine::Engine;
use crate::metrics::Counters;
use crate::observe::events::{Batch, Kinds};
use crate::observe::{Client, Glance, Observer};
use crate::time::Instant;

mod answers;
pub mod coordinator;
mod copies;
mod flush;
pub mod handoff;
pub mod operations;
pub mod peers;
pub mod ringed;
mod route;
mod serve;
mod unsettled;

pub use operations::OperationId;
pub use ringed::{Ack, Cluster, ClusterOptions, Mistake, Origin, PeerRequest, Turn};
pub use route::Routes;

/// Which core of this node a shard is: 0-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// Where a reply belongs: a place in the reply queue of one connection of the asking core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the connection within its core.
    pub connection: u32,
    /// Tells connections apart that had the same index one after the other.
    pub generation: u32,
    /// Number of the slot within the connection.
    pub slot: u32,
    /// Descriptor of its socket, for who watches.
    pub descriptor: i32,
}

impl Ticket {
    /// The ticket of a request that another core of this node goes on with: its answer comes back to the request.
    pub const fn of_moved(key: OperationId, descriptor: i32) -> Self {
        Self { connection: MOVED, generation: key.serial, slot: key.index, descriptor }
    }

    /// The request whose answer this is the ticket of, if it is not a connection's.
    pub const fn moved(self) -> Option<OperationId> {
        if self.connection == MOVED { Some(OperationId { index: self.slot, serial: self.generation }) } else { None }
    }
}

/// No connection has this index.
const MOVED: u32 = u32::MAX;

/// Where a command is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this core.
    Here,
    /// On another core of this node.
    Core(ShardId),
}

/// One core's items, counters and view of who owns what.
pub struct Shard {
    /// Which core this is.
    pub id: ShardId,
    /// The items.
    pub engine: Engine,
    /// What happened, since start or `stats reset`.
    pub counters: Counters,
    /// What is noted of the commands for who asked for it.
    pub observer: Observer,
    /// Which core owns which key.
    pub routes: Routes,
    /// Its part of a ring of nodes; `None` on a lone node.
    pub ring: Option<Box<Cluster>>,
}

impl Shard {
    /// A shard without items.
    pub fn new(id: ShardId, routes: Routes, engine: Engine) -> Self {
        Self { id, engine, counters: Counters::default(), observer: Observer::default(), routes, ring: None }
    }

    /// Where the key with this routing hash lives. About 2 ns.
    #[inline]
    pub fn route(&self, hash: u64) -> Place {
        match self.routes.core_of(hash) {
            core if core == self.id => Place::Here,
            core => Place::Core(core),
        }
    }

    /// Everything of this core at one moment, where it is part of a ring. `ms` never goes back.
    #[inline]
    pub fn turn(&mut self, now: Instant, ms: u64) -> Option<Turn<'_>> {
        let Self { id, engine, counters, observer, routes, ring } = self;
        ring.as_deref_mut().map(|ring| Turn { engine, counters, observer, ring, core: *id, routes, now, ms })
    }

    /// Executes a command on this core's items and counts it. `Reply::Busy` is not counted: the command comes again.
    #[inline]
    pub fn execute<'s>(&'s mut self, command: &Command<'_>, client: Client, now: Instant) -> Reply<'s> {
        if self.observer.is_on() {
            return self.execute_observed(command, client, now);
        }
        let reply = self.engine.execute(command, now);
        self.counters.record(&command.verb, &reply);
        reply
    }

    #[cold]
    fn execute_observed<'s>(&'s mut self, command: &Command<'_>, client: Client, now: Instant) -> Reply<'s> {
        let before = glance(&self.observer, &mut self.engine, command, now);
        let reply = self.engine.execute(command, now);
        self.counters.record(&command.verb, &reply);
        self.observer.record(command, client, before, &reply, now);
        reply
    }

    /// Notes events of these kinds from now on.
    pub fn watch(&mut self, kinds: Kinds) {
        self.observer.watch(kinds);
        self.engine.watch_evictions(kinds.intersects(Kinds::EVICTIONS));
    }

    /// Takes the events noted so far.
    pub fn take_events(&mut self) -> [Batch; 2] {
        [self.observer.events.take(), self.engine.take_evictions()]
    }
}

/// What a command is about to find, for who watches; nothing where nobody does.
#[inline]
fn glance(observer: &Observer, engine: &mut Engine, command: &Command<'_>, now: Instant) -> Glance {
    if observer.is_on() { engine.glance(&command.key, now) } else { Glance::default() }
}

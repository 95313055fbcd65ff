//! What one core owns: its part of the ring, its items, its counters. Pure: no I/O, no clock.
//!
//! ```text
//!   command --> route --+-- Here     -> execute -> Reply (counted)
//!                       +-- Core(k)  -> the runtime sends it over the link to core k
//!                       +-- in a ring: `Turn`, which may ask and tell other nodes before it answers
//! ```
//!
//! Lives here: routing and local execution. Not here: how a command travels (`runtime::mesh::record`), protocols, sockets.

use crate::cluster::{Cluster, Turn};
use crate::command::{Command, Reply};
use crate::engine::Engine;
use crate::metrics::Counters;
use crate::observe::events::{Batch, Kinds};
use crate::observe::{Client, Observer};
use crate::routing::{Place, Routes, ShardId};
use crate::time::{Monotonic, Timestamp};

/// One core's items, counters and view of who owns what.
pub struct Shard {
    /// Which core this is.
    pub id: ShardId,
    /// The items.
    pub engine: Engine,
    /// What happened since the start.
    pub counters: Counters,
    /// What is noted of the commands for who asked for it.
    pub observer: Observer,
    /// Which core owns which key.
    pub routes: Routes,
    /// Its part of a ring of nodes; `None` on a lone node.
    pub cluster: Option<Box<Cluster>>,
}

impl Shard {
    /// A shard without items.
    pub fn new(id: ShardId, routes: Routes, engine: Engine) -> Self {
        Self { id, engine, counters: Counters::default(), observer: Observer::default(), routes, cluster: None }
    }

    /// Where the key with this routing hash lives. About 2 ns.
    #[inline]
    pub fn route(&self, hash: u64) -> Place {
        match self.routes.core_of(hash) {
            core if core == self.id => Place::Here,
            core => Place::Core(core),
        }
    }

    /// Everything of this core at one moment, where it is part of a ring. `at` never goes back.
    #[inline]
    pub fn turn(&mut self, now: Timestamp, at: Monotonic) -> Option<Turn<'_>> {
        let Self { id, engine, counters, observer, routes, cluster } = self;
        cluster.as_deref_mut().map(|cluster| Turn { engine, counters, observer, cluster, core: *id, routes, now, at })
    }

    /// Executes a command on this core's items and counts it. `Reply::Busy` is not counted: the command comes again.
    #[inline]
    pub fn execute<'s>(&'s mut self, command: &Command<'_>, client: Client, now: Timestamp) -> Reply<'s> {
        if self.observer.is_on() {
            return self.execute_observed(command, client, now);
        }
        let reply = self.engine.execute(command, now);
        self.counters.record(&command.verb, &reply);
        reply
    }

    #[cold]
    fn execute_observed<'s>(&'s mut self, command: &Command<'_>, client: Client, now: Timestamp) -> Reply<'s> {
        let before = self.engine.glance_for(&self.observer, command, now);
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

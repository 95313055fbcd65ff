//! What one core owns: its part of the ring, its items, its counters. Pure: no I/O, no clock.
//!
//! ```text
//!   command --> route --+-- Here     -> execute -> Reply (counted)
//!                       +-- Core(k)  -> the runtime sends it over the link to core k
//! ```
//!
//! Lives here: routing and local execution. Not here: how a command travels (`runtime::message`), protocols, sockets.

use crate::command::{Command, Reply};
use crate::engine::Engine;
use crate::metrics::Counters;
use crate::time::Instant;

mod route;

pub use route::Routes;

/// Which core of this node a shard is: 0-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardId(pub u16);

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
    /// Which core owns which key.
    pub routes: Routes,
}

impl Shard {
    /// A shard without items.
    pub fn new(id: ShardId, routes: Routes, engine: Engine) -> Self {
        Self { id, engine, counters: Counters::default(), routes }
    }

    /// Where the key with this routing hash lives. About 2 ns.
    #[inline]
    pub fn route(&self, hash: u64) -> Place {
        match self.routes.core_of(hash) {
            core if core == self.id => Place::Here,
            core => Place::Core(core),
        }
    }

    /// Executes a command on this core's items and counts it. `Reply::Busy` is not counted: the command comes again.
    #[inline]
    pub fn execute<'s>(&'s mut self, command: &Command<'_>, now: Instant) -> Reply<'s> {
        let reply = self.engine.execute(command, now);
        self.counters.record(&command.verb, &reply);
        reply
    }
}

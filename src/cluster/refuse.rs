//! Commands of other nodes that are refused, and with them those of the same key that follow before the sender knows it.
//!
//! ```text
//!   EXECUTE set k 1 | EXECUTE set k 2, follows | EXECUTE set k 3
//!   refused           refused as well            executed: its sender has got back what was under way of k
//! ```
//!
//! Lives here: which keys are refused on which connection. Not here: why (`serve`, `coordinate`).

use std::collections::{HashMap, HashSet};

use super::{PeerRequest, Turn};
use crate::buffer::Buffer;
use crate::command::Value;
use crate::limits;
use crate::peer::frame::{self, Kind};
use crate::time::Monotonic;

/// By connection of a peer, the commands that were refused.
#[derive(Default)]
pub(super) struct Refused(HashMap<(u32, u32), OfConnection, ahash::RandomState>);

/// Commands of one connection that were refused.
#[derive(Default)]
struct OfConnection {
    /// Hashes of their keys, at most `limits::PEER_WINDOW`.
    keys: HashSet<u64>,
    /// Until then everything that follows another command is refused, whatever its key.
    all_until: Monotonic,
}

impl Refused {
    /// Whether a command was sent behind another one of its key that was refused, before its sender knew that.
    pub(super) fn includes(&mut self, from: PeerRequest, follows: bool, key_hash: u64, at: Monotonic) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let connection = (from.connection, from.generation);
        let Some(refused) = self.0.get_mut(&connection) else { return false };
        if follows {
            return at < refused.all_until || refused.keys.contains(&key_hash);
        }
        // Its sender has got back all that it had under way of this key.
        refused.keys.remove(&key_hash);
        if refused.keys.is_empty() && at >= refused.all_until {
            self.0.remove(&connection);
        }
        false
    }

    /// A command is refused.
    fn add(&mut self, from: PeerRequest, key_hash: u64, at: Monotonic) {
        let refused = self.0.entry((from.connection, from.generation)).or_default();
        if refused.keys.len() >= limits::PEER_WINDOW as usize {
            // Too many to tell apart: refused are all that follow anything, until what was under way then has ended.
            refused.keys.clear();
            refused.all_until = at + limits::PEER_OPERATION_MS_MAX;
        }
        refused.keys.insert(key_hash);
    }

    /// How many keys are kept.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|refused| refused.keys.len()).sum()
    }

    /// A connection has ended.
    pub(super) fn forget(&mut self, connection: u32, generation: u32) {
        self.0.remove(&(connection, generation));
    }
}

/// Refuses a command, and with it those of its key that its sender sends before it knows that.
pub(super) fn refuse_key(turn: &mut Turn<'_>, from: PeerRequest, key_hash: u64, output: &mut Buffer) {
    turn.cluster.refused.add(from, key_hash, turn.at);
    refuse(turn, from, output);
}

/// Refuses a request.
pub(super) fn refuse(turn: &mut Turn<'_>, from: PeerRequest, output: &mut Buffer) {
    refuse_with(turn, from, 0, output);
}

/// As `refuse`, with a flag that says why.
pub(super) fn refuse_with(turn: &mut Turn<'_>, from: PeerRequest, flags: u8, output: &mut Buffer) {
    frame::write(output, (Kind::Refused, flags, 0, from.id), turn.stamp(), Value::EMPTY, |_| {});
}

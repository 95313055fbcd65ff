//! The end of a request: its answer, and what it leaves behind.
//!
//! ```text
//!   answer: reply --> outbox, its successors may go on         end: out of the table, pins and uncommitted writes let go
//!   finish = answer + end                                      fail = an error as the reply + finish
//! ```
//!
//! Lives here: answers and ends, pins of items that this node does not own. Not here: what leads to them (`coordinate`, `replicate`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::handoff::purge;
use super::operations::{OperationId, StoredCommand};
use super::{Cluster, Turn, commit};
use crate::command::{Command, Error, Reply};
use crate::key::Key;
use crate::limits::KEY_BYTES_MAX;
use crate::peer::frame;
use crate::protocol::{self, Framing, Head};
use crate::version::Version;

/// Items that this node stores without owning, by hash, with the number of operations that still need each.
#[derive(Default)]
pub(super) struct Pins(HashMap<u64, u32, ahash::RandomState>);

impl Pins {
    /// One operation more needs an item.
    fn add(&mut self, hash: u64) {
        *self.0.entry(hash).or_default() += 1;
    }

    /// One operation less does.
    fn release(&mut self, hash: u64) {
        if let Entry::Occupied(mut count) = self.0.entry(hash) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Whether an operation needs an item.
    pub(super) fn has(&self, hash: u64) -> bool {
        self.0.contains_key(&hash)
    }
}

/// What a command wrote on a node that does not own the key must not be let go of while its copies are under way.
pub(super) fn pin(turn: &mut Turn<'_>, id: OperationId) {
    let Some(hash) = turn.op(id).map(|op| op.hash) else { return };
    if turn.keeps(turn.cluster.view.me, hash) {
        return;
    }
    let Cluster { operations, pins, .. } = &mut *turn.cluster;
    if let Some(op) = operations.get(id)
        && !std::mem::replace(&mut op.write_state().is_pinned, true)
    {
        pins.add(hash);
    }
}

/// The answer goes out; the request lives on if something of it is still under way.
pub(super) fn answer(turn: &mut Turn<'_>, id: OperationId) {
    let Cluster { operations, outbox, .. } = &mut *turn.cluster;
    let Some(op) = operations.get(id).filter(|op| !op.is_answered()) else { return };
    outbox.put(op.origin, &mut op.write_state().reply);
    operations.unchain(id);
}

/// The answer goes out, and the request ends.
pub(super) fn finish(turn: &mut Turn<'_>, id: OperationId) {
    answer(turn, id);
    end(turn, id);
}

/// Ends a request that was answered, or whose sender hears otherwise.
pub(super) fn end(turn: &mut Turn<'_>, id: OperationId) {
    commit::track(turn, id, Version::NONE);
    unpin(turn, id);
    turn.cluster.operations.remove(id);
}

/// What a command left on a node that does not own the key goes, once all owners have it.
fn unpin(turn: &mut Turn<'_>, id: OperationId) {
    let Some(op) = turn.op(id).filter(|op| op.write_state.as_ref().is_some_and(|write| write.is_pinned)) else { return };
    let hash = op.hash;
    turn.cluster.pins.release(hash);
    with_command(turn, id, |turn, execute| {
        with_plain_key(&execute.command, |plain| purge::release_unowned(turn, plain.bytes));
    });
}

/// Ends a request with an error.
pub(super) fn fail(turn: &mut Turn<'_>, id: OperationId, error: Error) {
    with_command(turn, id, |turn, execute| {
        let Some(head) = Head::from_bytes(&execute.framing) else { return };
        let Some(op) = turn.op(id) else { return };
        let reply = &mut op.write_state().reply;
        reply.clear();
        let framing = Framing { head, words: execute.words };
        protocol::encode(&framing, execute.command.key.bytes, &Reply::Error(error), reply);
        turn.cluster.figures.failed += 1;
    });
    finish(turn, id);
}

/// Calls `with` with the command of a request, which is taken out meanwhile, so that the rest can be used. `None` if the request has
/// ended, or its command is elsewhere.
pub(super) fn with_command<T>(
    turn: &mut Turn<'_>,
    id: OperationId,
    with: impl FnOnce(&mut Turn<'_>, &frame::Execute<'_>) -> T,
) -> Option<T> {
    let stored = std::mem::take(&mut turn.op(id)?.stored);
    let result = stored.execute().ok().map(|execute| with(turn, &execute));
    restore_command(turn, id, stored);
    result
}

/// Gives a request the command back that was taken out.
pub(super) fn restore_command(turn: &mut Turn<'_>, id: OperationId, stored: StoredCommand) {
    if let Some(op) = turn.op(id) {
        op.stored = stored;
    }
}

/// Calls `with` with the key in plain bytes.
pub(super) fn with_plain_key<T>(command: &Command<'_>, with: impl FnOnce(&Key<'_>) -> T) -> T {
    let mut buffer = [0; KEY_BYTES_MAX];
    match command.key.decode(&mut buffer) {
        Some(key) => with(&key),
        None => with(&command.key),
    }
}

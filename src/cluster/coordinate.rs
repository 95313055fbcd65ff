//! From a command to its answer where more than one node has a part in it.
//!
//! ```text
//!   submit --> who is the first in the ranking that is there?
//!                another node  --> forward: EXECUTE over the link, its answer is the answer
//!                this one      --> coordinate:   read    --> execute --> copies --> answer
//!                                                |           |           |
//!                              others may hold something     engine      state, not operation, to the first `redundancy`
//!                              newer, or what we lack                    nodes that are there; hints for owners that are not
//! ```
//!
//! A request is forwarded at most twice: client's node -> coordinator as seen there -> coordinator as seen by that one, which must
//! execute it. It is executed at most once more after it was given up: the node that was sent it executes it only for a while after the
//! sender last heard of that node (`Operation::deadline`), and only then is it given to another one (`Operation::not_before`). If a
//! node that went away may have executed it, it is not executed again where that could count it twice.
//!
//! Lives here: the life of one request. Not here: the table of requests and their order (`operations`), answers of other nodes
//! (`answers`), requests of others (`serve`), what is sent later (`handoff`), flushes (`flush`), links (`links`).
//! After Dynamo (SOSP'07, 4.5 and 4.6), with one coordinator a key: the first of its ranking that is there.

use arrayvec::ArrayVec;

use super::conclude::{self, with_command, with_plain_key};
use super::links::{LinkId, Reach};
use super::merge::Found;
use super::operations::{Ahead, Attempt, NewOperation, OpState, OperationId, Passage, READ_PEERS_MAX, ReadScope};
use super::requests::{Forward, Purpose, Request};
use super::view::PeerId;
use super::{Cluster, Mistake, Origin, PeerRequest, Turn, leases, merge, refuse, replicate};
use crate::buffer::Buffer;
use crate::command::{Command, Effect, Error, Get, Reply, Value, Verb};
use crate::limits;
use crate::observe::Client;
use crate::peer::frame::{self, Along, Frame, FrameError, Kind};
use crate::protocol::{self, Framing, Head};
use crate::routing::{Place, ShardId};
use crate::time::Monotonic;
use crate::version::Version;

/// Who goes on with a request.
enum Direction {
    Me,
    Node(LinkId),
    /// Something must become known first, or a lease must end.
    Later,
}

/// What came of an execution.
enum Outcome {
    Done,
    Busy,
    /// It was not executed: see `may_repeat`.
    Overtaken,
    Copy,
}

/// Where a command is executed that can be executed at once, without asking or telling anybody; `None` if it cannot.
#[inline]
pub(super) fn place(turn: &mut Turn<'_>, command: &Command<'_>) -> Option<Place> {
    let bucket = turn.bucket_of(command.key.hash);
    let cluster = &mut *turn.cluster;
    let owners = cluster.cache.owners_of(&cluster.view.ring, bucket);
    let is_mine = cluster.view.me_index.is_some() && owners.first().copied() == cluster.view.me_index;
    if !is_mine || cluster.operations.has(&command.key) {
        return None;
    }
    let core = turn.routes.core_of(command.key.hash);
    if core != turn.core {
        return Some(Place::Core(core));
    }
    cluster.active_at = turn.at;
    if !cluster.leases.has_all(turn.at)
        || cluster.leases.is_missing(&cluster.links, command.key.hash, cluster.view.ring.buckets())
    {
        return None;
    }
    // What is written goes to those as well who own it next.
    let is_only_mine = owners.len() == 1 && cluster.view.target.is_none();
    if is_only_mine || (command.verb == Verb::Get(Get::default()) && reads_alone(turn, command)) {
        return Some(Place::Here);
    }
    None
}

/// Whether a read need not ask other owners: the item is here, or nothing was ever lost here.
fn reads_alone(turn: &mut Turn<'_>, command: &Command<'_>) -> bool {
    has_lost_nothing(turn) || with_plain_key(command, |key| turn.engine.contains(key, turn.now))
}

/// Whether what is not here is nowhere: with leases of all peers, and nothing evicted or purged.
pub(super) fn has_lost_nothing(turn: &Turn<'_>) -> bool {
    turn.engine.evicted_count() == 0 && !turn.cluster.purges.has_purged() && turn.cluster.leases.has_all(turn.at)
}

/// As `submit`, for a request that has come any way.
pub(super) fn take(
    turn: &mut Turn<'_>,
    origin: Origin,
    passage: Passage,
    command: &Command<'_>,
    framing: Head,
    words: &[u8],
) -> bool {
    if turn.cluster.operations.is_full() {
        return false;
    }
    let mut stored = turn.cluster.operations.spare();
    stored.keep(command, framing, words);
    let (hash, key_hash, kind) = (command.key.hash, command.key.whole_hash(), command.verb.effect());
    let new = NewOperation { origin, passage, hash, key_hash, stored, kind };
    let id = turn.cluster.operations.insert(new, turn.at);
    advance(turn, id);
    true
}

/// Goes on with what may have waited for something that has happened. Last of all, whatever came in.
pub(super) fn advance_woken(turn: &mut Turn<'_>) {
    while let Some(hash) = turn.cluster.operations.next_woken() {
        for id in turn.cluster.operations.idle(hash) {
            // One that asks again at the next tick keeps its place until then.
            if !turn.cluster.operations.asks_later(id) {
                try_again(turn, id);
            }
            // What is executed here and still waits holds back all behind it.
            if turn.op(id).is_some_and(|op| op.state() == OpState::Queued) {
                break;
            }
        }
    }
}

/// Goes on with a request that waits.
pub(super) fn try_again(turn: &mut Turn<'_>, id: OperationId) {
    match turn.op(id).map(|op| op.state()) {
        Some(OpState::Waiting) => advance(turn, id),
        Some(OpState::Queued) if turn.op(id).is_some_and(|op| op.scope == ReadScope::All) => run_in_turn(turn, id),
        // Perhaps by another node: unless there are others behind it, which must not overtake it.
        Some(OpState::Queued) if turn.cluster.operations.is_last(id) => {
            turn.cluster.operations.enter(id, OpState::Waiting);
            advance(turn, id);
        }
        Some(OpState::Queued) => coordinate(turn, id),
        Some(OpState::Refetching { node }) => replicate::refetch(turn, id, node),
        _ => {}
    }
}

/// Goes on with a request from the beginning, if it is its turn.
fn advance(turn: &mut Turn<'_>, id: OperationId) {
    let ahead = match turn.cluster.options.has(Mistake::OrderIgnored) {
        true => Ahead::Nobody,
        false => turn.cluster.operations.ahead(id),
    };
    let at = turn.at;
    let Some(op) = turn.op(id) else { return };
    if at < op.not_before {
        return turn.cluster.operations.park(id);
    }
    let (hash, hops) = (op.hash, op.hops);
    let core = turn.routes.core_of(hash);
    match ahead {
        // Each of these wakes what is behind it.
        Ahead::Waits => {}
        Ahead::Link(link) => forward(turn, id, link),
        Ahead::Core(core) => move_to(turn, id, core),
        Ahead::Here => {
            if core == turn.core && matches!(direct(turn, hash, hops), Direction::Me) {
                coordinate(turn, id);
            }
        }
        Ahead::Nobody => match direct(turn, hash, hops) {
            Direction::Later => turn.cluster.operations.park(id),
            Direction::Node(link) => forward(turn, id, link),
            Direction::Me if core == turn.core => coordinate(turn, id),
            Direction::Me => move_to(turn, id, core),
        },
    }
}

fn direct(turn: &mut Turn<'_>, hash: u64, hops: u8) -> Direction {
    let serves = turn.cluster.view.me_index.is_some();
    if hops >= HOPS_MAX && serves {
        return Direction::Me;
    }
    let (bucket, buckets, at) = (turn.bucket_of(hash), turn.buckets(), turn.at);
    // Most of the time the first owner is another node, and there.
    let Cluster { cache, view, links, leases, options, .. } = &mut *turn.cluster;
    let first = cache.owners_of(&view.ring, bucket).first().map(|&index| view.peer(index));
    // The next node may not know of keys that others have for us: they are fetched and answered here.
    let is_told = leases.is_missing(links, hash, buckets);
    if let Some(first) = first.filter(|&first| first != view.me && !is_told)
        && let Reach::There(link) = links.reach(first, hash, buckets, at)
    {
        return Direction::Node(link);
    }
    // A node that was given a lease may still answer for itself, also one that is not in the ring any more.
    let mut waits_until = leases.removed_until();
    for node in view.ranking(bucket) {
        if node == view.me {
            let here = turn.routes.core_of(hash) == turn.core;
            let waits = at < waits_until && !options.has(Mistake::LeaseNotAwaited);
            return if waits && here { Direction::Later } else { Direction::Me };
        }
        match links.reach(node, hash, buckets, at) {
            Reach::There(link) if !is_told => return Direction::Node(link),
            Reach::There(_) => {}
            Reach::Unknown => return Direction::Later,
            Reach::Away => waits_until = waits_until.max(leases.granted_until(node)),
        }
    }
    // A node that only routes waits until one of those that serve is back.
    if serves { Direction::Me } else { Direction::Later }
}

/// Gives a request to another core of this node, where its key lives. The answer comes back here: what came behind it waits for it.
fn move_to(turn: &mut Turn<'_>, id: OperationId, core: ShardId) {
    turn.cluster.operations.enter(id, OpState::Moved { core });
    turn.cluster.to_cores.push_back((core, id));
}

fn forward(turn: &mut Turn<'_>, id: OperationId, link: LinkId) {
    // Else woken when those that are under way have come back.
    let Some(follows) = turn.cluster.operations.may_forward(id, link) else { return };
    let moment = turn.moment();
    let Some(op) = turn.cluster.operations.get(id) else { return };
    if op.kind != Effect::Pure && moment.at >= op.deadline {
        return too_late(turn, id);
    }
    // A node that has left serves nothing. Who does not know that yet gets a command back, and not passed on to itself: it would wait there for
    // itself, and go round.
    let next = turn.cluster.links.link(link).node;
    let came_from_there = matches!(op.origin, Origin::Peer(PeerRequest { node: Some(node), .. }) if node == next);
    if came_from_there && turn.cluster.view.me_index.is_none() {
        return too_late(turn, id);
    }
    if op.kind != Effect::Pure && !turn.cluster.links.may_execute(link, moment.at) {
        leases::ask_clock(turn, link);
        return turn.cluster.operations.park(id);
    }
    // Over a link to a node that has left, nothing new: it waits for those in front of it, and goes elsewhere.
    if turn.cluster.links.is_draining(link) || !turn.cluster.requests.has_room(&turn.cluster.links, link) {
        return turn.cluster.operations.park(id);
    }
    turn.cluster.operations.enter(id, OpState::Forwarded { link });
    let Cluster { operations, links, requests, figures, view, .. } = &mut *turn.cluster;
    let Some(op) = operations.get(id) else { return };
    figures.forwarded += 1;
    let (hops, life_ms) = (op.hops + 1, op.deadline - moment.at);
    op.sent_clock = moment.stamp.clock;
    let (repeated_since, meta, value) = (op.repeated_since, op.stored.meta(), op.stored.value());
    let passed_on = match op.origin {
        Origin::Peer(PeerRequest { node: Some(node), .. }) => view.node(node).map(|node| node.node_hash),
        _ => None,
    };
    let command = Forward { hops, follows, life_ms, repeated_since, passed_on, meta, value };
    requests.execute(links, (link, id), command, moment);
}

/// The node that a command was sent to has answered, or has refused it.
pub(super) fn on_reply(turn: &mut Turn<'_>, id: OperationId, frame: &Frame<'_>) {
    let Some(op) = turn.op(id).filter(|op| matches!(op.state(), OpState::Forwarded { .. })) else { return };
    if frame.head.kind != Kind::Reply {
        if frame.head.flags & frame::FLAG_OVERTAKEN != 0 && turn.cluster.operations.is_read_before_writes(id) {
            return end_overtaken(turn, id);
        }
        turn.cluster.operations.enter(id, OpState::Waiting);
        return turn.cluster.operations.park(id);
    }
    match frame.value {
        Value::Body(body) => op.write_state().reply.put_body(body.clone()),
        Value::Bytes(bytes) => return on_short_reply(turn, id, bytes),
        Value::Pages(_) | Value::Dropped { .. } => {}
    }
    conclude::finish(turn, id);
}

/// As `on_reply`, for one of several replies.
pub(super) fn on_short_reply(turn: &mut Turn<'_>, id: OperationId, reply: &[u8]) {
    let Some(op) = turn.op(id).filter(|op| matches!(op.state(), OpState::Forwarded { .. })) else { return };
    let origin = op.origin;
    turn.cluster.outbox.put_bytes(origin, reply);
    conclude::end(turn, id);
}

/// The link that a command was sent over is lost.
pub(super) fn on_forward_lost(turn: &mut Turn<'_>, id: OperationId, sent: bool, until: Monotonic) {
    let overtaken = sent && turn.cluster.operations.is_read_before_writes(id);
    let overtaken = overtaken && !turn.cluster.options.has(Mistake::ReadsRepeated);
    let until = if turn.cluster.options.has(Mistake::GivenUpEarly) { Monotonic::LONG_AGO } else { until };
    let Some(op) = turn.op(id).filter(|op| matches!(op.state(), OpState::Forwarded { .. })) else { return };
    if overtaken {
        return end_overtaken(turn, id);
    }
    if sent && op.kind != Effect::Pure {
        (op.may_be_executed, op.not_before) = (true, until);
        if op.kind == Effect::Once {
            return conclude::fail(turn, id, Error::Interrupted);
        }
        if op.kind == Effect::Write && op.repeated_since.is_none() {
            op.repeated_since = op.sent_clock.max(Version::from_bits(1));
        }
    }
    turn.cluster.operations.enter(id, OpState::Waiting);
    try_again(turn, id);
}

/// Ends a read whose answer is lost, while the writes behind it may have been executed: nobody knows any more what was there in front of
/// them. For another node that asked, those may be of other clients than the read: it knows.
fn end_overtaken(turn: &mut Turn<'_>, id: OperationId) {
    let Some(op) = turn.op(id) else { return };
    let Origin::Peer(from) = op.origin else { return conclude::fail(turn, id, Error::Interrupted) };
    let mut frame = Buffer::default();
    refuse::refuse_with(turn, from, frame::FLAG_OVERTAKEN, &mut frame);
    turn.cluster.outbox.put_frame(from, frame);
    conclude::end(turn, id);
}

/// This node answers for the key.
fn coordinate(turn: &mut Turn<'_>, id: OperationId) {
    turn.cluster.active_at = turn.at;
    let Some(op) = turn.op(id) else { return };
    let hash = op.hash;
    if may_be_coordinated_elsewhere(turn, hash) {
        return try_at_next_tick(turn, id);
    }
    let Some(op) = turn.op(id) else { return };
    if op.scope == ReadScope::All || read_others(turn, id) {
        run_in_turn(turn, id);
    }
}

/// Whether another node has coordinated this hash under the view before, and may still do so: it has not said that it does not.
fn may_be_coordinated_elsewhere(turn: &mut Turn<'_>, hash: u64) -> bool {
    let (bucket, buckets) = (turn.bucket_of(hash), turn.buckets());
    let Cluster { progress, links, options, .. } = &*turn.cluster;
    let Some(former) = progress.former().filter(|_| !options.has(Mistake::WordNotAwaited)) else { return false };
    let was_there = |&node: &PeerId| node == former.me || !links.is_known_away(node, hash, buckets);
    former.ranking(bucket).find(was_there).is_some_and(|node| node != former.me)
}

/// Asks the nodes that may hold something newer, or what is not here. True if there are none.
fn read_others(turn: &mut Turn<'_>, id: OperationId) -> bool {
    let links = with_command(turn, id, |turn, execute| {
        let links = choose_read_peers(turn, id, &execute.command)?;
        if !links.is_empty() {
            turn.cluster.operations.enter(id, OpState::Reading { waiting: links.len() as u32 });
            let attempt = turn.cluster.operations.attempt(id);
            for &(node, link) in &links {
                merge::fetch(turn, link, &execute.command, Purpose::Read(attempt, node));
            }
        }
        Some(links)
    });
    if let Some(None) = links {
        try_at_next_tick(turn, id);
    }
    links.is_none_or(|links| links.is_some_and(|links| links.is_empty()))
}

/// The peers that must be read; `None` if one of them is not known yet.
fn choose_read_peers(
    turn: &mut Turn<'_>,
    op: OperationId,
    command: &Command<'_>,
) -> Option<ArrayVec<(PeerId, LinkId), READ_PEERS_MAX>> {
    let before = std::mem::replace(&mut turn.op(op)?.scope, ReadScope::All);
    if turn.cluster.options.has(Mistake::NoPeerReads) {
        return Some(ArrayVec::new());
    }
    let (hash, buckets, me, at) = (command.key.hash, turn.buckets(), turn.me(), turn.at);
    let i_own = turn.owns(me, hash);
    let is_repeated = turn.op(op)?.repeated_since.is_some();
    let lacks = (is_repeated || command.verb.needs_present()) && !has_lost_nothing(turn);
    let lacks = lacks && with_plain_key(command, |key| !turn.engine.contains(key, turn.now));
    if i_own && !lacks && turn.cluster.leases.has_all(at) && !turn.cluster.leases.is_missing(&turn.cluster.links, hash, buckets)
    {
        turn.op(op)?.known_until = turn.cluster.leases.all_until();
        return Some(ArrayVec::new());
    }
    let mut known_until = at + limits::PEER_LEASE_MS;
    let bucket = turn.bucket_of(hash);
    let Cluster { cache, view, links: table, leases, operations, .. } = &mut *turn.cluster;
    let owners = view.owners(cache, bucket);
    let mut links = ArrayVec::<(PeerId, LinkId), READ_PEERS_MAX>::new();
    for node in view.ranking(bucket).filter(|&node| node != me).take(READ_PEERS_MAX) {
        match table.reach(node, hash, buckets, at) {
            Reach::Away => {}
            Reach::Unknown => {
                operations.get(op)?.scope = before;
                return None;
            }
            Reach::There(link) => {
                let may_be_stale = leases.may_be_stale(link, hash, at);
                if may_be_stale || !i_own || (lacks && owners.contains(&node)) {
                    links.push((node, link));
                } else {
                    known_until = known_until.min(leases.until(link));
                }
            }
        }
    }
    operations.get(op)?.known_until = known_until;
    // Ask one other owner first: if it holds all leases, its answer is authoritative and nobody else need be asked.
    let mut others = owners.iter().filter(|&&owner| owner != me);
    if before == ReadScope::Nobody
        && i_own
        && links.len() > 1
        && let Some((owner, link)) = others.find_map(|&owner| Some((owner, table.reach(owner, hash, buckets, at).link()?)))
    {
        operations.get(op)?.scope = ReadScope::One;
        links.clear();
        links.push((owner, link));
    }
    Some(links)
}

/// A node has told what it has of a key, before the command is executed.
pub(super) fn on_found(turn: &mut Turn<'_>, attempt: Attempt, node: PeerId, frame: &Frame<'_>) -> Result<(), FrameError> {
    let is_authoritative = frame.head.flags & frame::FLAG_AUTHORITATIVE != 0 && turn.shares_view(&frame.head);
    let found = merge::take_over(turn, node, frame)?;
    let Some(op) = turn.cluster.operations.at(attempt) else { return Ok(()) };
    match found {
        Found::Here(version) => _ = op.write_state().found.try_push((node, version)),
        Found::Busy => op.scope = ReadScope::Nobody,
    }
    if is_authoritative && op.scope == ReadScope::One {
        op.scope = ReadScope::All;
    }
    read_less(turn, attempt);
    Ok(())
}

/// One of the nodes that were asked has answered, or never will.
pub(super) fn read_less(turn: &mut Turn<'_>, attempt: Attempt) {
    let Some(OpState::Reading { waiting }) = turn.cluster.operations.at(attempt).map(|op| op.state()) else { return };
    turn.cluster.operations.set(attempt.id, OpState::Reading { waiting: waiting - 1 });
    if waiting == 1 {
        read_answered(turn, attempt.id);
    }
}

/// A request keeps its place, and is tried again at the next tick.
fn try_at_next_tick(turn: &mut Turn<'_>, id: OperationId) {
    turn.cluster.operations.enter(id, OpState::Queued);
    turn.cluster.operations.park(id);
}

/// All that were asked have answered, or never will.
pub(super) fn read_answered(turn: &mut Turn<'_>, id: OperationId) {
    match turn.op(id).map(|op| op.scope) {
        Some(ReadScope::All) => run_in_turn(turn, id),
        Some(ReadScope::One) => coordinate(turn, id),
        Some(ReadScope::Nobody) => {
            // Something newer was told and there was no memory for it: asked again, when there is.
            try_at_next_tick(turn, id);
        }
        None => {}
    }
}

/// Executes a command, once those before it on its key are.
pub(super) fn run_in_turn(turn: &mut Turn<'_>, id: OperationId) {
    if turn.cluster.operations.may_execute(id) || turn.cluster.options.has(Mistake::OrderIgnored) {
        return run(turn, id);
    }
    turn.cluster.operations.enter(id, OpState::Queued);
}

/// Executes the command on what is here.
fn run(turn: &mut Turn<'_>, id: OperationId) {
    let at = turn.at;
    let Some(op) = turn.op(id) else { return };
    if op.kind != Effect::Pure && at >= op.deadline {
        return too_late(turn, id);
    }
    if at >= op.known_until {
        // Asked again: this process may have stood still since.
        (op.scope, op.known_until) = (ReadScope::Nobody, Monotonic::NEVER);
        return try_at_next_tick(turn, id);
    }
    // What is written must be copied: later, where too much is on its way already.
    if !op.kind.is_read() && turn.cluster.requests.is_full() {
        return try_at_next_tick(turn, id);
    }
    let outcome = with_command(turn, id, |turn, execute| match may_repeat(turn, id, &execute.command) {
        true => execute_command(turn, id, execute),
        false => Outcome::Overtaken,
    });
    match outcome.unwrap_or(Outcome::Done) {
        Outcome::Busy => try_at_next_tick(turn, id),
        Outcome::Done => conclude::finish(turn, id),
        Outcome::Overtaken => conclude::fail(turn, id, Error::Interrupted),
        Outcome::Copy => {
            turn.cluster.operations.enter(id, OpState::Writing { waiting: 0 });
            replicate::copy(turn, id);
        }
    }
}

/// Whether a command that a node may have executed that has gone away may be executed again. Not if its key was written since by
/// others: what they wrote would be overwritten by what came before it.
fn may_repeat(turn: &mut Turn<'_>, id: OperationId, command: &Command<'_>) -> bool {
    let Some(since) = turn.op(id).map(|op| op.repeated_since).filter(|since| since.is_some()) else { return true };
    if turn.cluster.options.has(Mistake::RepeatedBlindly) {
        return true;
    }
    with_plain_key(command, |plain| match (turn.engine.copy_of(plain, turn.now), command.verb) {
        (None, _) => true,
        (Some(replica), _) if replica.version <= since => true,
        // A tombstone may be that of somebody else, who has deleted what this one or one behind it wrote.
        (Some(replica), Verb::Store(_)) => !replica.tombstone && replica.value.to_vec() == command.value.to_vec(),
        (Some(_), _) => false,
    })
}

fn execute_command(turn: &mut Turn<'_>, id: OperationId, execute: &frame::Execute<'_>) -> Outcome {
    let Some(framing) = Head::from_bytes(&execute.framing) else { return Outcome::Done };
    let framing = Framing { head: framing, words: execute.words };
    let command = &execute.command;
    turn.engine.poll_change();
    let before = turn.engine.glance_for(turn.observer, command, turn.now);
    let mut reply = turn.engine.execute(command, turn.now);
    let Some(op) = turn.cluster.operations.get(id) else { return Outcome::Done };
    if let Reply::Busy = reply {
        if turn.at < op.started_at + limits::STARVED_MS_MAX * 4 / 5 {
            return Outcome::Busy;
        }
        reply = Reply::Error(Error::OutOfMemory);
    }
    let absent = matches!((&command.verb, &reply), (Verb::Delete(delete), Reply::NotFound) if !delete.invalidate);
    if matches!((&command.verb, &reply), (Verb::Delete(_), Reply::NotFound)) && op.repeated_since.is_some() {
        // Perhaps because it was executed before.
        reply = Reply::Error(Error::Interrupted);
    }
    let write = op.write_state();
    write.reply.clear();
    protocol::encode(&framing, command.key.bytes, &reply, &mut write.reply);
    turn.counters.record(&command.verb, &reply);
    if turn.observer.is_on() {
        let client = Client { descriptor: op.origin.descriptor(), meta: framing.head.is_meta() };
        turn.observer.record(command, client, before, &reply, turn.now);
    }
    let version = match turn.engine.poll_change() {
        Some(version) => Some(version),
        // A node that is away may have what is to be deleted: its owner, or one that has stood in for it.
        None if absent && !turn.cluster.leases.all_peers_up(turn.at) => {
            let version = turn.engine.new_version(turn.now);
            with_plain_key(command, |key| turn.engine.delete_as_of(key, version, turn.now));
            Some(version)
        }
        None => None,
    };
    let Some(version) = version else {
        repair(turn, id, command);
        return Outcome::Done;
    };
    turn.cluster.operations.note_repeated(id, version);
    let was_current = turn.cluster.leases.has_all(turn.at);
    let Some(op) = turn.op(id) else { return Outcome::Done };
    let write = op.write_state();
    (write.version, write.was_current) = (version, was_current);
    (write.may_be_seen, write.conflict) = (false, None);
    write.placed.clear();
    write.failed.clear();
    write.missing.clear();
    write.found.clear();
    Outcome::Copy
}

/// Sends what is here to the owners that were asked and had something older, unless the command has just changed it.
fn repair(turn: &mut Turn<'_>, id: OperationId, command: &Command<'_>) {
    let Some(op) = turn.op(id) else { return };
    let found = std::mem::take(&mut op.write_state().found);
    if turn.cluster.options.has(Mistake::NotRepaired) {
        return;
    }
    for (node, version) in found {
        if !turn.keeps(node, command.key.hash) {
            continue;
        }
        let Reach::There(link) = turn.cluster.links.reach(node, command.key.hash, turn.buckets(), turn.at) else {
            continue;
        };
        let moment = turn.moment();
        with_plain_key(command, |key| {
            let Some(replica) = turn.engine.copy_of(key, turn.now).filter(|replica| replica.version > version) else { return };
            turn.cluster.figures.repaired += 1;
            turn.cluster.send(Request::with_value(link, Kind::Put, replica.value, Purpose::Repair), moment, |output| {
                frame::write_replica(&replica, Along::default(), output);
            });
        });
    }
}

/// Its sender may have given a request up, or is to answer it itself: it is not executed. Nor are those that came behind it before the sender
/// knew that.
fn too_late(turn: &mut Turn<'_>, id: OperationId) {
    let followers = turn.cluster.operations.followers(id);
    for id in std::iter::once(id).chain(followers) {
        let Some(op) = turn.op(id) else { continue };
        match (op.origin, op.may_be_executed, op.state()) {
            (_, _, OpState::Writing { .. } | OpState::Forwarded { .. } | OpState::Moved { .. }) => {}
            // It was executed here, and lost to something newer.
            (_, true, _) => conclude::fail(turn, id, Error::Interrupted),
            (Origin::Peer(from), false, _) => {
                let (key_hash, mut frame) = (op.key_hash, Buffer::default());
                refuse::refuse_key(turn, from, key_hash, &mut frame);
                turn.cluster.outbox.put_frame(from, frame);
                conclude::end(turn, id);
            }
            (_, false, _) => conclude::fail(turn, id, Error::Unreachable),
        }
    }
}

/// Nodes that a command may pass before it is executed: the first executes it or sends it on, the second executes it.
pub(super) const HOPS_MAX: u8 = 2;

//! Requests under way to other nodes: what each is for, and how many there may be.
//!
//! ```text
//!   send(PUT, purpose) --> | id 0: link 3, purpose | id 1: .. |     frame with the id --> output of the link
//!   response with id 0 --> its purpose, once                       link 3 lost --> the purposes of all that went over it, in order
//! ```
//!
//! At most `PEER_WINDOW` commands are under way over one link, and `PEER_OUTSTANDING_BYTES_MAX` bytes over all: then nothing is executed
//! here that must be copied, until half of them are answered.
//!
//! Lives here: the table and the bounds. Not here: where a link stands (`links`), what an answer leads to (`answers`).

use slab::Slab;

use super::links::{LinkId, Links, Outgoing};
use super::operations::{Attempt, OperationId};
use super::view::PeerId;
use crate::command::Value;
use crate::limits;
use crate::peer::frame::{self, Kind, OpenBatch, Stamp};
use crate::time::Monotonic;
use crate::version::Version;

/// What a request was sent for.
#[derive(Debug)]
pub enum Purpose {
    /// The whole command.
    Forward(OperationId),
    /// What a node has of the key.
    Read(Attempt, PeerId),
    /// What a node has of the key that is newer than what the command wrote.
    Refetch(Attempt, PeerId),
    /// A copy of what a command wrote.
    Copy(Attempt, PeerId),
    /// A copy for a node that owns the key next: nobody waits for it.
    Pending(SentItem),
    /// A copy for a node whose own was older.
    Repair,
    /// Only its lease.
    Sync,
    /// A flush, by its number, and its round.
    Fence(u32, u8),
    /// A hint.
    Replay(SentItem),
    /// An item of a dirty partition.
    Stream(SentItem),
    /// The announcement of dirty partitions.
    Begin(PeerId, u32),
    /// Keys that are missing on a node.
    Missing(PeerId, u32),
    /// The notice of partitions whose old items were purged here.
    Purged(PeerId, u32, Box<[u32]>),
}

/// An item under way to a node that lacks it.
#[derive(Debug)]
pub struct SentItem {
    /// The node.
    pub node: PeerId,
    /// The key.
    pub key: Box<[u8]>,
    /// The version sent.
    pub version: Version,
    /// Names what was under way to the node when it was sent: what was given up since does not count.
    pub generation: u32,
}

/// A request under way.
pub(super) struct InFlight {
    link: LinkId,
    /// When it was sent.
    pub(super) sent_at: Monotonic,
    /// How many were sent before it.
    number: u64,
    /// How long it is.
    bytes: usize,
    /// What the answer is for.
    pub(super) purpose: Purpose,
}

/// What is sent, but for its meta.
pub(super) struct Request<'a> {
    link: LinkId,
    kind: Kind,
    hops: u8,
    value: Value<'a>,
    purpose: Purpose,
}

impl Request<'_> {
    /// A request without a value.
    pub(super) fn new(link: LinkId, kind: Kind, purpose: Purpose) -> Self {
        Self { link, kind, hops: 0, value: Value::EMPTY, purpose }
    }
}

impl<'a> Request<'a> {
    /// With a value.
    pub(super) fn with_value(link: LinkId, kind: Kind, value: Value<'a>, purpose: Purpose) -> Self {
        Self { link, kind, hops: 0, value, purpose }
    }

    /// An item that the node lacks: no new write.
    pub(super) fn replayed(self) -> Self {
        Self { hops: REPLAYED, ..self }
    }
}

/// `hops` of a `Put` that replays a hint or repairs: told apart from a new write only by tests.
pub(super) const REPLAYED: u8 = 1;

/// What a frame says of the moment at which it is sent.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) stamp: Stamp,
    pub(super) at: Monotonic,
}

/// A command on its way to the node that executes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forward<'a> {
    /// Nodes that it has passed, this one included.
    pub(super) hops: u8,
    /// Others of its key are under way over the same link.
    pub(super) follows: bool,
    /// How long it may be executed.
    pub(super) life_ms: u64,
    /// See `Operation::repeated_since`.
    pub(super) repeated_since: Version,
    /// The node that it came from, if that is another one: the hash of its id.
    pub(super) passed_on: Option<u64>,
    /// The meta of its `Execute`.
    pub(super) meta: &'a [u8],
    /// What it stores.
    pub(super) value: Value<'a>,
}

/// All requests of a core that are not answered.
#[derive(Default)]
pub struct Requests {
    in_flight: Slab<InFlight>,
    /// Bytes of these requests, and whether they are too many, until they are half as many.
    bytes: usize,
    is_full: bool,
    /// Requests sent since start.
    pub sent: u64,
}

impl Requests {
    /// Requests under way.
    pub(super) fn outstanding(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes of the requests under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one more command may go over a link.
    pub(super) fn has_room(&self, links: &Links, link: LinkId) -> bool {
        !self.is_full && links.link(link).outstanding < limits::PEER_WINDOW
    }

    /// Whether so many bytes are under way that nothing should be written that must be copied.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Sends a request; makes the link if it was never needed.
    pub(super) fn send(&mut self, links: &mut Links, request: Request<'_>, moment: Moment, meta: impl FnOnce(&mut Vec<u8>)) {
        let Request { link, kind, hops, value, purpose } = request;
        let (id, target) = self.expect(links, link, purpose, moment.at);
        let before = target.output.bytes.len();
        frame::write(&mut target.output, (kind, 0, hops, id), moment.stamp, value, meta);
        let bytes = target.output.bytes.len() - before;
        self.charge(id, bytes);
    }

    /// Sends a command, in one frame with those just before it that go the same way.
    pub(super) fn execute(
        &mut self,
        links: &mut Links,
        (link, id): (LinkId, OperationId),
        command: Forward<'_>,
        moment: Moment,
    ) {
        let Forward { hops, follows, life_ms, repeated_since, passed_on, meta, value } = command;
        let is_plain = repeated_since.is_none() && passed_on.is_none();
        let heard_ms = links.heard_clock(link);
        let (id, target) = self.expect(links, link, Purpose::Forward(id), moment.at);
        let life = (life_ms.min(limits::PEER_LEASE_MS) / frame::LIFE_UNIT_MS) as u8;
        let (heard_ms, life) = heard_ms.map_or((0, 0), |heard_ms| (heard_ms, life));
        let stamp = Stamp { heard_ms, life, ..moment.stamp };
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
                let repeated = if repeated_since.is_some() { frame::FLAG_REPEATED } else { 0 };
                let passed = if passed_on.is_some() { frame::FLAG_PASSED_ON } else { 0 };
                frame::write(output, (Kind::Execute, follows | repeated | passed, hops, id), stamp, value, |output| {
                    if repeated_since.is_some() {
                        frame::write_version(repeated_since, output);
                    }
                    if let Some(node) = passed_on {
                        output.extend_from_slice(&node.to_le_bytes());
                    }
                    output.extend_from_slice(meta);
                });
            }
        }
        let bytes = target.output.bytes.len() - before;
        self.charge(id, bytes);
    }

    /// Makes room for a request that is about to be written: its id, and where it goes.
    fn expect<'l>(&mut self, links: &'l mut Links, link: LinkId, purpose: Purpose, at: Monotonic) -> (u32, &'l mut Outgoing) {
        let id = self.in_flight.insert(InFlight { link, sent_at: at, number: self.sent, bytes: 0, purpose }) as u32;
        self.sent += 1;
        (id, links.expect(link, at))
    }

    /// Counts the bytes of a request that was just written.
    fn charge(&mut self, id: u32, bytes: usize) {
        let Some(in_flight) = self.in_flight.get_mut(id as usize) else { return };
        in_flight.bytes = bytes;
        self.bytes += bytes;
        self.is_full |= self.bytes >= limits::PEER_OUTSTANDING_BYTES_MAX;
    }

    /// A request has been answered, or is lost.
    fn discharge(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.is_full &= self.bytes >= limits::PEER_OUTSTANDING_BYTES_MAX / 2;
    }

    /// What a request that is under way over this link was sent for.
    pub(super) fn purpose(&self, link: LinkId, id: u32) -> Option<&Purpose> {
        self.in_flight.get(id as usize).filter(|in_flight| in_flight.link == link).map(|in_flight| &in_flight.purpose)
    }

    /// The request that a response answers; `None` if there is none, which no peer of ours does.
    pub(super) fn answered(&mut self, links: &mut Links, link: LinkId, id: u32, at: Monotonic) -> Option<InFlight> {
        let in_flight = self.in_flight.get(id as usize).filter(|in_flight| in_flight.link == link)?;
        debug_assert!(in_flight.sent_at <= at);
        links.answered(link, at);
        let in_flight = self.in_flight.remove(id as usize);
        self.discharge(in_flight.bytes);
        Some(in_flight)
    }

    /// A link is lost. What was under way over it, and is meant by `which`, is taken out, in the order in which it was sent.
    pub(super) fn take_lost(&mut self, link: LinkId, which: impl Fn(&Purpose) -> bool) -> Vec<Purpose> {
        let of_link = self.in_flight.iter().filter(|(_, in_flight)| in_flight.link == link && which(&in_flight.purpose));
        let mut ids: Vec<(u64, usize)> = of_link.map(|(id, in_flight)| (in_flight.number, id)).collect();
        ids.sort_unstable();
        let mut lost = Vec::with_capacity(ids.len());
        for (_, id) in ids {
            let in_flight = self.in_flight.remove(id);
            self.discharge(in_flight.bytes);
            lost.push(in_flight.purpose);
        }
        lost
    }

    /// Requests under way over a link. O(requests under way).
    pub(super) fn count_of(&self, link: LinkId) -> u32 {
        self.in_flight.iter().filter(|(_, in_flight)| in_flight.link == link).count() as u32
    }
}

/// Commands longer than this travel in a frame of their own, in bytes.
const BATCHED_BYTES_MAX: usize = 2 << 10;

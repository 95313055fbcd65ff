//! The bytes between two nodes: requests, each with one response, in any order.
//!
//! ```text
//!   0            4             8      9       10     11     12   16     20      28      36      40     44
//!   | meta bytes | value bytes | kind | flags | hops | life | id | sent | clock | fence | heard | view | meta ... | value ... |   little-endian
//!
//!   meta of a PUT:      replica (without value) | count of owners that lack it | hashes of their ids | committed through
//!   meta of a SYNC:     committed through                            value of a MISSING:  | hash | version | again and again
//!   value of a BEGIN and of a PURGED:  | partition | version up to which its items may be stale | its fence | again and again
//!   value of a REPLY:   bytes of the client's protocol               EXECUTE: see `commands`; BATCH, REPLIES: `batch`
//! ```
//!
//! Every frame carries its sender's clock (greatest version seen) and fence (everything below was flushed), so that both spread with
//! whatever is said; and what stands for its view, so that a word that was given under another one is told from one that counts. A command also says what its sender last heard of the receiver's clock, and how long from then on it may be executed:
//! afterwards its sender may have given it up and had it executed elsewhere. Every version that leaves this file is one that a clock can
//! have given by now (`Horizon`). Values above `limits::INLINE_VALUE_BYTES_MAX` are received into memory of their own.
//!
//! Lives here: layout, bounds, encoding, decoding. Not here: commands (`commands`), several in one frame (`batch`), what a frame leads to (`cluster`), how a link begins
//! (`handshake`), sockets. No byte of a peer panics or takes memory beyond the bounds.

mod batch;
mod commands;

use crate::buffer::Buffer;
use crate::command::{Replica, Value};
use crate::key::{Key, PARTITIONS_COUNT};
use crate::limits::{
    INLINE_VALUE_BYTES_MAX, KEY_BYTES_MAX, META_OPAQUE_BYTES_MAX, PEER_CLOCK_SKEW_MS_MAX, PEER_LEASE_MS, PEER_META_BYTES_MAX,
};
use crate::placement::REDUNDANCY_MAX;
use crate::time::{Expiry, Exptime, Monotonic, Timestamp};
use crate::version::Version;

pub use batch::{BATCH_COUNT_MAX, Element, OpenBatch, OpenReplies, element_bytes, read_element, read_reply};
pub use commands::{Execute, FRAMING_BYTES, read_execute, write_execute};

/// Bytes of the head of a frame.
pub const HEAD_BYTES: usize = 44;
/// Longest value of a frame beyond the largest item: a reply repeats key and words in front of it.
pub const VALUE_BYTES_SLACK: usize = 8 << 10;

/// Declares every kind of frame once, with its byte.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $byte:literal,)*) => {
        /// What a frame is. Responses have the high bit set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind = $byte,)*
        }

        impl Kind {
            const fn of(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Kind::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Execute a command and send its encoded reply.
    Execute = 1,
    /// Take a copy of an item.
    Put = 2,
    /// Tell what this key has.
    Fetch = 3,
    /// Flush everything below a version.
    Fence = 4,
    /// Are you there, and do you hold anything for me?
    Sync = 5,
    /// Partitions follow whole: what is older than a version and does not follow is not to be trusted.
    Begin = 6,
    /// The sender has purged what it had of some partitions: send it again.
    Purged = 7,
    /// Several small `Execute`s, each with an id of its own.
    Batch = 8,
    /// Keys that are missing at the receiver; they follow one by one.
    Missing = 9,
    /// To the control plane: who is in the ring, or what an operator asks. Meta: a `MemberVerb`.
    Members = 10,
    /// To `Execute`: bytes of the client's protocol.
    Reply = 0x81,
    /// To `Put`.
    PutDone = 0x82,
    /// To `Fetch`.
    Found = 0x83,
    /// To `Fence`, `Sync`, `Begin`, `Purged` and `Missing`.
    Done = 0x85,
    /// To several `Execute`s: the replies of each.
    Replies = 0x86,
    /// To `Members`. Meta: a `ToldCode`.
    Told = 0x87,
    /// To any: not here, not now.
    Refused = 0xff,
}

/// What a `Members` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberVerb {
    /// Here is my table; what is yours? No bytes: only the question.
    Compare = 0,
    /// Words of an operator.
    Order = 1,
    /// How is this node? No bytes. Any node answers, with JSON.
    Facts = 16,
    /// What has this node of a key, as its own copy? The key's bytes. Any node answers, with JSON.
    Copy = 17,
}

impl MemberVerb {
    /// The verb of a byte.
    pub fn of(byte: u8) -> Option<Self> {
        [Self::Compare, Self::Order, Self::Facts, Self::Copy].into_iter().find(|verb| *verb as u8 == byte)
    }
}

/// What the value of a `Told` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ToldCode {
    /// A table.
    Table = 0,
    /// A sentence why not.
    Refused = 1,
    /// Words for an operator.
    Text = 2,
}

impl ToldCode {
    /// What this meta says.
    pub fn of(meta: &[u8]) -> Option<Self> {
        [Self::Table, Self::Refused, Self::Text].into_iter().find(|code| *meta == [*code as u8])
    }
}

/// The node that answers grants a lease: it holds nothing for the one that asked but the missing keys that it has announced,
/// and will not stand in for it for a while.
pub const FLAG_SYNCED: u8 = 1;
/// Of a `Found`: the answer is authoritative, no node has anything newer of this key.
pub const FLAG_AUTHORITATIVE: u8 = 2;
/// The node that answers holds nothing at all for the one that asked.
pub const FLAG_CLEAN: u8 = 4;
/// Of an `Execute`: when it was sent, others of its key were under way over the same link. If one of them was refused, so must this be.
pub const FLAG_FOLLOWS: u8 = 8;
/// Of an `Execute`: a node that has gone away may have executed it. Its meta begins with the greatest version that was known when it was
/// first sent: what is newer may have come behind it.
pub const FLAG_REPEATED: u8 = 16;
/// Of an `Execute`: it is passed on for another node. Its meta begins with the hash of that node's id, behind the version if there is one.
pub const FLAG_PASSED_ON: u8 = 32;
/// Of a `Refused`: the answer to a read was lost on its way here, and writes that came behind it over the same link may have been executed.
pub const FLAG_OVERTAKEN: u8 = 64;

/// Of a `Done` or a `Found`: nothing is under way at the core that answers which was begun under another view.
pub const FLAG_SETTLED: u8 = 8;
/// Of a `Done` or a `Found`: the core that answers has brought the one that asked all that a change of the ring gives to it.
pub const FLAG_GAVE_ALL: u8 = 16;
/// Of a `Done` or a `Found`: the core that answers has all that it is to own.
pub const FLAG_WHOLE: u8 = 32;

/// Milliseconds of one unit of `Head::life`.
pub const LIFE_UNIT_MS: u64 = 2;

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes behind the head, before the value.
    pub meta_bytes: usize,
    /// Bytes of the value.
    pub value_bytes: usize,
    /// What it is.
    pub kind: Kind,
    /// See `FLAG_SYNCED`.
    pub flags: u8,
    /// Of an `Execute`: nodes that it has passed.
    pub hops: u8,
    /// Of an `Execute`: how long it may be executed after `heard_ms`, in units of `LIFE_UNIT_MS`.
    pub life: u8,
    /// Chosen by the asking side; the response repeats it.
    pub id: u32,
    /// When it was sent: milliseconds of a clock of the sender's own, which wrap.
    pub sent_ms: u32,
    /// Greatest version that the sender has seen.
    pub clock: Version,
    /// Version below which the sender has flushed everything.
    pub fence: Version,
    /// Of an `Execute`: the last `sent_ms` of the receiver that its sender had heard.
    pub heard_ms: u32,
    /// Stands for the sender's view of the ring: what it says of ownership and leases means something under the same view only.
    pub view: u32,
}

/// The latest version that a clock can have given by now: what a peer says to be later is refused, whatever it is about.
///
/// One such number, taken for a version, would put every later write of the ring in the past.
#[derive(Clone, Copy, Debug)]
pub struct Horizon(Version);

impl Horizon {
    /// At this moment. Two clocks may differ by `PEER_CLOCK_SKEW_MS_MAX`, and each may have taken over the time of a third one.
    pub fn at(now: Timestamp) -> Self {
        Self(Version::last_at(now.plus_ms(2 * PEER_CLOCK_SKEW_MS_MAX)))
    }

    fn check(self, bits: u64) -> Result<Version, FrameError> {
        let version = Version::from_bits(bits);
        if version <= self.0 { Ok(version) } else { Err(FrameError("a version that no clock can have given")) }
    }
}

/// A frame with its parts where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The fixed part.
    pub head: Head,
    /// What depends on the kind.
    pub meta: &'a [u8],
    /// The value.
    pub value: Value<'a>,
}

/// Why a link must end: the other side is broken, or no pbcache of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError(pub &'static str);

/// What a `Put` says beside the copy.
#[derive(Clone, Debug)]
pub struct Put<'a> {
    /// The copy.
    pub replica: Replica<'a>,
    /// A fence does not hold it back: the sender has announced its whole partition.
    pub exempt: bool,
    /// Hashes of the ids of the owners that lack this copy: who takes it keeps a hint for them.
    pub missing: arrayvec::ArrayVec<u64, REDUNDANCY_MAX>,
    /// Version through which all writes of this sender are on every owner; `None` if no other copy of this write is in flight.
    pub committed_through: Option<Version>,
}

/// What goes along with a copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Along<'a> {
    /// See `Put::exempt`.
    pub exempt: bool,
    /// See `Put::missing`.
    pub missing: &'a [u64],
    /// See `Put::committed_through`.
    pub committed_through: Option<Version>,
}

/// What a `Put` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutDone {
    /// It is what the key has there.
    Taken,
    /// Something of this version is there, or keeps it out.
    Kept(Version),
    /// No memory now.
    Busy,
}

impl Head {
    /// Reads a head. `value_bytes_max` bounds what the sender may announce.
    pub fn read(bytes: &[u8; HEAD_BYTES], value_bytes_max: usize, horizon: Horizon) -> Result<Self, FrameError> {
        let mut reader = Reader(bytes);
        let (meta_bytes, value_bytes) = (reader.u32()? as usize, reader.u32()? as usize);
        let kind = Kind::of(reader.u8()?).ok_or(FrameError("an unknown kind of frame"))?;
        let (flags, hops, life) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let (id, sent_ms) = (reader.u32()?, reader.u32()?);
        let (clock, fence, heard_ms) = (reader.version(horizon)?, reader.version(horizon)?, reader.u32()?);
        let view = reader.u32()?;
        let head = Self { meta_bytes, value_bytes, kind, flags, hops, life, id, sent_ms, clock, fence, heard_ms, view };
        let may_live = matches!(kind, Kind::Execute | Kind::Batch) || life == 0;
        if meta_bytes > PEER_META_BYTES_MAX || value_bytes > value_bytes_max || !may_live {
            return Err(FrameError("a frame beyond its bounds"));
        }
        Ok(head)
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&(self.meta_bytes as u32).to_le_bytes());
        output.extend_from_slice(&(self.value_bytes as u32).to_le_bytes());
        output.extend_from_slice(&[self.kind as u8, self.flags, self.hops, self.life]);
        output.extend_from_slice(&self.id.to_le_bytes());
        output.extend_from_slice(&self.sent_ms.to_le_bytes());
        output.extend_from_slice(&self.clock.bits().to_le_bytes());
        output.extend_from_slice(&self.fence.bits().to_le_bytes());
        output.extend_from_slice(&self.heard_ms.to_le_bytes());
        output.extend_from_slice(&self.view.to_le_bytes());
    }

    /// The moment of the receiver's clock from which on the command of this frame must not be executed, where that clock says `at` now.
    pub fn deadline(&self, at: Monotonic) -> Monotonic {
        let age_ms = u64::from((at.ms() as u32).wrapping_sub(self.heard_ms));
        (at + u64::from(self.life) * LIFE_UNIT_MS).minus_ms(age_ms)
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.meta_bytes + self.value_bytes
    }
}

impl Kind {
    /// Whether this answers a request.
    pub fn is_response(self) -> bool {
        self as u8 & 0x80 != 0
    }
}

/// Stamp of a frame: what its sender says with every one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    /// Greatest version seen.
    pub clock: Version,
    /// Everything below was flushed.
    pub fence: Version,
    /// The sender's milliseconds.
    pub sent_ms: u32,
    /// See `Head::heard_ms`.
    pub heard_ms: u32,
    /// See `Head::life`.
    pub life: u8,
    /// See `Head::view`.
    pub view: u32,
}

/// Appends a frame; `meta` writes what is between head and value.
pub fn write(
    output: &mut Buffer,
    (kind, flags, hops, id): (Kind, u8, u8, u32),
    stamp: Stamp,
    value: Value<'_>,
    meta: impl FnOnce(&mut Vec<u8>),
) {
    let start = output.bytes.len();
    let value_bytes = if let Value::Dropped { .. } = value { 0 } else { value.len() };
    let Stamp { clock, fence, sent_ms, heard_ms, life, view } = stamp;
    let mut head = Head { meta_bytes: 0, value_bytes, kind, flags, hops, life, id, sent_ms, clock, fence, heard_ms, view };
    head.write(&mut output.bytes);
    meta(&mut output.bytes);
    head.meta_bytes = output.bytes.len() - start - HEAD_BYTES;
    output.bytes[start..start + 4].copy_from_slice(&(head.meta_bytes as u32).to_le_bytes());
    output.put_value(value);
}

/// Splits the meta of an `Execute` with these flags: the version of `FLAG_REPEATED`, if any, the node of `FLAG_PASSED_ON`, and the
/// command.
pub fn read_history(flags: u8, meta: &[u8], horizon: Horizon) -> Result<(Version, Option<u64>, &[u8]), FrameError> {
    let mut reader = Reader(meta);
    let since = if flags & FLAG_REPEATED != 0 { reader.version(horizon)? } else { Version::NONE };
    let passed_on = if flags & FLAG_PASSED_ON != 0 { Some(reader.u64()?) } else { None };
    Ok((since, passed_on, reader.0))
}

/// Appends a `Reply` whose value is what `encode` wrote, which is moved there.
pub fn write_reply(output: &mut Buffer, id: u32, stamp: Stamp, reply: &mut Buffer) {
    let value_bytes = reply.total_bytes();
    let Stamp { clock, fence, sent_ms, heard_ms, life, view } = stamp;
    let kind = Kind::Reply;
    let head = Head { meta_bytes: 0, value_bytes, kind, flags: 0, hops: 0, life, id, sent_ms, clock, fence, heard_ms, view };
    head.write(&mut output.bytes);
    output.append(reply);
}

/// Writes the meta of a `Put`, or of a `Found` that found something.
pub fn write_replica(replica: &Replica<'_>, along: Along<'_>, output: &mut Vec<u8>) {
    let bits = u8::from(replica.stale)
        | u8::from(replica.token_sent) << 1
        | u8::from(replica.tombstone) << 2
        | u8::from(replica.cas_override.is_some()) << 3
        | u8::from(along.exempt) << 4
        | u8::from(along.committed_through.is_some()) << 5;
    output.push(bits);
    output.extend_from_slice(&replica.version.bits().to_le_bytes());
    output.extend_from_slice(&replica.expiry.0.to_le_bytes());
    output.extend_from_slice(&replica.client_flags.to_le_bytes());
    output.extend_from_slice(&replica.cas_override.unwrap_or(0).to_le_bytes());
    output.push(replica.key.bytes.len() as u8);
    output.extend_from_slice(replica.key.bytes);
    output.push(along.missing.len() as u8);
    let committed_through = along.committed_through.map(Version::bits);
    along.missing.iter().chain(&committed_through).for_each(|number| output.extend_from_slice(&number.to_le_bytes()));
}

/// Reads the meta of a `Put` or a `Found`.
pub fn read_replica<'a>(meta: &'a [u8], value: Value<'a>, horizon: Horizon) -> Result<Put<'a>, FrameError> {
    let mut reader = Reader(meta);
    let bits = reader.u8()?;
    let (version, expiry) = (reader.version(horizon)?, Expiry(reader.u32()?));
    let (client_flags, cas) = (reader.u32()?, reader.u64()?);
    let key_bytes = usize::from(reader.u8()?);
    let key = reader.take(key_bytes)?;
    if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Err(FrameError("a key of no length that a key has"));
    }
    let mut missing = arrayvec::ArrayVec::new();
    for _ in 0..reader.u8()? {
        let node_hash = reader.u64()?;
        missing.try_push(node_hash).map_err(|_| FrameError("more owners than copies"))?;
    }
    let committed_through = if bits & 32 != 0 { Some(reader.version(horizon)?) } else { None };
    reader.end()?;
    let replica = Replica {
        key: Key::new(key),
        value,
        client_flags,
        version,
        cas_override: (bits & 8 != 0).then_some(cas),
        expiry,
        stale: bits & 1 != 0,
        token_sent: bits & 2 != 0,
        tombstone: bits & 4 != 0,
    };
    if replica.tombstone && !value.is_empty() {
        return Err(FrameError("a tombstone with a value"));
    }
    Ok(Put { replica, exempt: bits & 16 != 0, missing, committed_through })
}

/// Writes the meta of a `Fetch`.
pub fn write_key(key: &Key<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(key.bytes);
}

/// Reads the meta of a `Fetch`: a plain key.
pub fn read_key(meta: &[u8]) -> Result<Key<'_>, FrameError> {
    if !(1..=KEY_BYTES_MAX).contains(&meta.len()) {
        return Err(FrameError("a key of no length that a key has"));
    }
    Ok(Key::new(meta))
}

/// A partition that a `Begin` or a `Lost` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub number: u32,
    /// Items up to this version may be stale where the sender does not send them again.
    pub stale_through: Version,
    /// Copies of absent keys up to this version are refused: the sender has forgotten which of them were deleted.
    pub fence: Version,
}

/// Partitions that one frame tells of, at most: the value stays below what is received in one piece.
pub const PARTITIONS_TOLD_MAX: usize = 512;

/// Bytes of an entry of the value of a `Begin` or a `Lost`.
pub const PARTITION_BYTES: usize = 20;

/// Writes an entry of the value of a `Begin` or a `Lost`.
pub fn write_partition(partition: Partition, output: &mut Vec<u8>) {
    output.extend_from_slice(&partition.number.to_le_bytes());
    output.extend_from_slice(&partition.stale_through.bits().to_le_bytes());
    output.extend_from_slice(&partition.fence.bits().to_le_bytes());
}

/// Takes the next entry out of the value of a `Begin` or a `Lost`; `None` at the end.
pub fn read_partition(list: &mut &[u8], horizon: Horizon) -> Result<Option<Partition>, FrameError> {
    if list.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(list);
    let number = reader.u32()?;
    let partition = Partition { number, stale_through: reader.version(horizon)?, fence: reader.version(horizon)? };
    *list = reader.0;
    if number >= PARTITIONS_COUNT { Err(FrameError("a partition that does not exist")) } else { Ok(Some(partition)) }
}

/// Writes an entry of the value of a `List`: the routing hash of a key, and the version that is lacking.
pub fn write_lacking((hash, version): (u64, Version), output: &mut Vec<u8>) {
    output.extend_from_slice(&hash.to_le_bytes());
    output.extend_from_slice(&version.bits().to_le_bytes());
}

/// Takes the next entry out of the value of a `List`; `None` at the end.
pub fn read_lacking(list: &mut &[u8], horizon: Horizon) -> Result<Option<(u64, Version)>, FrameError> {
    if list.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(list);
    let entry = (reader.u64()?, reader.version(horizon)?);
    *list = reader.0;
    Ok(Some(entry))
}

/// Writes one number: the meta of a `Fence`, a `Sync` and a `Done`.
pub fn write_version(version: Version, output: &mut Vec<u8>) {
    output.extend_from_slice(&version.bits().to_le_bytes());
}

/// Reads what `write_version` wrote.
pub fn read_version(meta: &[u8], horizon: Horizon) -> Result<Version, FrameError> {
    let mut reader = Reader(meta);
    let version = reader.version(horizon)?;
    reader.end()?;
    Ok(version)
}

impl PutDone {
    /// Writes the meta of the response.
    pub fn write(self, output: &mut Vec<u8>) {
        let (code, version) = match self {
            PutDone::Taken => (0, Version::NONE),
            PutDone::Kept(version) => (1, version),
            PutDone::Busy => (2, Version::NONE),
        };
        output.push(code);
        output.extend_from_slice(&version.bits().to_le_bytes());
    }

    /// What the response to a `Put` says; one that was refused may come again.
    pub fn of(response: &Frame<'_>, horizon: Horizon) -> Result<Self, FrameError> {
        if response.head.kind == Kind::PutDone { Self::read(response.meta, horizon) } else { Ok(PutDone::Busy) }
    }

    /// Reads it.
    pub fn read(meta: &[u8], horizon: Horizon) -> Result<Self, FrameError> {
        let mut reader = Reader(meta);
        let (code, version) = (reader.u8()?, reader.version(horizon)?);
        reader.end()?;
        match code {
            0 => Ok(PutDone::Taken),
            1 => Ok(PutDone::Kept(version)),
            2 => Ok(PutDone::Busy),
            _ => Err(FrameError("an unknown outcome of a copy")),
        }
    }
}

/// Reads from the front of some bytes.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameError("a frame shorter than what it says"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], FrameError> {
        let mut array = [0; COUNT];
        array.copy_from_slice(self.take(COUNT)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn version(&mut self, horizon: Horizon) -> Result<Version, FrameError> {
        horizon.check(self.u64()?)
    }

    fn number(&mut self) -> Result<Option<u64>, FrameError> {
        let (present, number) = (self.u8()?, self.u64()?);
        Ok((present != 0).then_some(number))
    }

    fn exptime(&mut self) -> Result<Option<Exptime>, FrameError> {
        Ok(self.number()?.map(|number| Exptime(number as i64)))
    }

    pub fn end(&self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError("a frame longer than what it says")) }
    }
}

const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(PARTITIONS_TOLD_MAX * PARTITION_BYTES <= INLINE_VALUE_BYTES_MAX);
const _: () = assert!(PEER_LEASE_MS / LIFE_UNIT_MS <= u8::MAX as u64);
const _: () = assert!(KEY_BYTES_MAX + crate::limits::LINE_BYTES_MAX + META_OPAQUE_BYTES_MAX + 256 <= PEER_META_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Horizon = Horizon(v(1 << 40));

    /// The version that is written as this number.
    const fn v(bits: u64) -> Version {
        Version::from_bits(bits)
    }

    #[test]
    fn replicas_arrive_as_they_were_sent_and_cut_ones_are_refused() {
        let replica = Replica {
            key: Key::new(b"k"),
            value: Value::EMPTY,
            client_flags: 3,
            version: v(99),
            cas_override: Some(5),
            expiry: Expiry(8),
            stale: true,
            token_sent: false,
            tombstone: true,
        };
        let mut meta = Vec::new();
        write_replica(&replica, Along { exempt: true, missing: &[11, 12], committed_through: Some(v(13)) }, &mut meta);
        let put = read_replica(&meta, Value::EMPTY, NOW).unwrap();
        assert_eq!((put.replica.version, put.replica.cas_override, put.replica.expiry), (v(99), Some(5), Expiry(8)));
        assert_eq!((put.exempt, &put.missing[..], put.committed_through), (true, &[11, 12][..], Some(v(13))));
        assert!(put.replica.tombstone && put.replica.stale && !put.replica.token_sent);
        assert!(read_replica(&meta, Value::Bytes(b"x"), NOW).is_err(), "a tombstone has no value");
        for end in 0..meta.len() {
            assert!(read_replica(&meta[..end], Value::EMPTY, NOW).is_err());
        }
    }

    #[test]
    fn heads_beyond_their_bounds_are_refused() {
        let mut buffer = Buffer::default();
        write(
            &mut buffer,
            (Kind::Sync, 0, 0, 7),
            Stamp { clock: v(1), fence: v(2), sent_ms: 3, ..Stamp::default() },
            Value::EMPTY,
            |_| {},
        );
        let bytes: [u8; HEAD_BYTES] = buffer.bytes[..].try_into().unwrap();
        let head = Head::read(&bytes, 100, NOW).unwrap();
        assert_eq!((head.kind, head.id, head.clock, head.fence, head.frame_bytes()), (Kind::Sync, 7, v(1), v(2), HEAD_BYTES));
        for (at, value) in [(0usize, 0xff), (2, 0xff), (6, 0xff), (7, 0x7f), (8, 0), (8, 0x7f), (11, 1), (27, 1), (35, 1)] {
            let mut broken = bytes;
            broken[at] = value;
            let result = Head::read(&broken, 100, NOW);
            assert!(result.is_err() || at == 0, "byte {at}: {result:?}");
        }
    }

    #[test]
    fn no_version_passes_that_no_clock_can_have_given() {
        let horizon = Horizon::at(Timestamp { unix_ms: 1_800_000_000_000 });
        let latest = ((1_800_000_000_000u64 + 2 * PEER_CLOCK_SKEW_MS_MAX) << 16) | 0xffff;
        for (version, passes) in [(0, true), (latest, true), (latest + 1, false), (u64::MAX >> 1, false), (u64::MAX, false)] {
            let version = v(version);
            let number = |write: &dyn Fn(&mut Vec<u8>)| {
                let mut meta = Vec::new();
                write(&mut meta);
                meta
            };
            let meta = number(&|meta| write_version(version, meta));
            assert_eq!(read_version(&meta, horizon).is_ok(), passes);
            let meta = number(&|meta| PutDone::Kept(version).write(meta));
            assert_eq!(PutDone::read(&meta, horizon).is_ok(), passes);
            for (stale_through, fence) in [(version, v(0)), (v(0), version)] {
                let list = number(&|list| write_partition(Partition { number: 1, stale_through, fence }, list));
                assert_eq!(read_partition(&mut &list[..], horizon).is_ok(), passes);
            }
            let list = number(&|list| write_lacking((u64::MAX, version), list));
            assert_eq!(read_lacking(&mut &list[..], horizon).is_ok(), passes, "a hash may be anything");
            let replica = Replica {
                key: Key::new(b"k"),
                value: Value::EMPTY,
                client_flags: 0,
                version,
                cas_override: Some(u64::MAX),
                expiry: Expiry(0),
                stale: false,
                token_sent: false,
                tombstone: false,
            };
            let meta = number(&|meta| write_replica(&replica, Along::default(), meta));
            assert_eq!(read_replica(&meta, Value::EMPTY, horizon).is_ok(), passes);
            let committed_through = Along { committed_through: Some(version), ..Along::default() };
            let meta = number(&|meta| write_replica(&Replica { version: v(1), ..replica }, committed_through, meta));
            assert_eq!(read_replica(&meta, Value::EMPTY, horizon).is_ok(), passes);
            for stamp in [Stamp { clock: version, ..Stamp::default() }, Stamp { fence: version, ..Stamp::default() }] {
                let mut frame = Buffer::default();
                write(&mut frame, (Kind::Sync, 0, 0, 7), stamp, Value::EMPTY, |_| {});
                assert_eq!(Head::read(frame.bytes.first_chunk().unwrap(), 100, horizon).is_ok(), passes);
            }
        }
    }

    #[test]
    fn a_command_lives_from_what_its_sender_last_heard() {
        let mut frame = Buffer::default();
        let stamp = Stamp { heard_ms: u32::MAX - 9, life: 150, ..Stamp::default() };
        write(&mut frame, (Kind::Execute, 0, 1, 7), stamp, Value::EMPTY, |_| {});
        let head = Head::read(frame.bytes.first_chunk().unwrap(), 100, NOW).unwrap();
        // The receiver's clock has gone on by 20 ms since, over the border of 32 bits.
        let ms = (5u64 << 32) + 10;
        let at = Monotonic::from_ms;
        assert_eq!(head.deadline(at(ms)), at(ms - 20 + 300));
        assert!(head.deadline(at(ms + 280)) <= at(ms + 280), "over");
        // What was never heard of, or is to come, was long ago.
        let never = Head { heard_ms: ms as u32 + 5, ..head };
        assert_eq!(never.deadline(at(ms)), at(ms + 300 - u64::from(u32::MAX - 4)));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut state = 0x1234_5678_9abc_def1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        for length in 0..3000usize {
            let bytes: Vec<u8> = (0..length % 90).map(|_| next() % if length % 3 == 0 { 8 } else { 255 }).collect();
            let _ = (read_execute(&bytes, Value::EMPTY), read_element(&mut &bytes[..]), read_lacking(&mut &bytes[..], NOW));
            let _ = read_reply(&mut &bytes[..]);
            let _ = read_replica(&bytes, Value::EMPTY, NOW);
            let _ =
                (read_partition(&mut &bytes[..], NOW), read_version(&bytes, NOW), read_key(&bytes), PutDone::read(&bytes, NOW));
        }
    }
}

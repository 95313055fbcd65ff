//! The bytes between two nodes: requests, each with one response, in any order.
//!
//! ```text
//!   0            4             8      9       10   11   12    16     20      28      36
//!   | meta bytes | value bytes | kind | flags | hops | 0 | id  | sent | clock | fence | meta ... | value ... |      little-endian
//!
//!   value of a BATCH:   | id | meta bytes | value bytes | meta of an EXECUTE | value |  again and again
//!                        0    4            6             8
//!   meta of a PUT:      replica (without value) | count of owners that lack it | their tags | version up to which all is settled
//!   meta of a SYNC:     version up to which all is settled           value of a LIST:  | hash | version | again and again
//!   meta of an EXECUTE: verb | framing of the reply | key | words;  value: what to store
//!   value of a REPLY:   bytes of the client's protocol
//! ```
//!
//! Every frame carries its sender's clock (greatest version seen) and fence (everything below was flushed), so that both spread with
//! whatever is said. Values above `limits::INLINE_VALUE_BYTES_MAX` are received into memory of their own.
//!
//! Lives here: layout, bounds, encoding, decoding. Not here: what a frame leads to (`shard::coordinator`), how a link begins
//! (`handshake`), sockets. No byte of a peer panics or takes memory beyond the bounds.

use crate::buffer::Buffer;
use crate::command::{Arithmetic, Command, Delete, Get, Replica, Store, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits::{INLINE_VALUE_BYTES_MAX, KEY_BYTES_MAX, META_OPAQUE_BYTES_MAX, PEER_META_BYTES_MAX};
use crate::ring::REDUNDANCY_MAX;
use crate::time::{Expiry, Exptime};

/// Bytes of the head of a frame.
pub const HEAD_BYTES: usize = 36;
/// Bytes of a framing that travels: see `protocol::Head::to_bytes`.
pub const FRAMING_BYTES: usize = 8;
/// Longest value of a frame beyond the largest item: a reply repeats key and words in front of it.
pub const VALUE_BYTES_SLACK: usize = 8 << 10;

/// Bytes in front of each command of a batch.
const ELEMENT_HEAD_BYTES: usize = 8;
/// Longest value of a batch: it is received into the buffer that it is parsed from.
const BATCH_BYTES_MAX: usize = INLINE_VALUE_BYTES_MAX;
/// Commands of one batch: their answers wait together where they cannot be sent.
pub const BATCH_COUNT_MAX: usize = 64;

/// What a frame is. Responses have the high bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
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
    /// A partition follows whole: what is older than this version and does not follow is not to be trusted.
    Begin = 6,
    /// What the sender had of a partition is lost: send it again.
    Lost = 7,
    /// Several small `Execute`s, each with an id of its own.
    Batch = 8,
    /// Keys that the receiver lacks; they follow one by one.
    List = 9,
    /// To `Execute`: bytes of the client's protocol.
    Reply = 0x81,
    /// To `Put`.
    PutDone = 0x82,
    /// To `Fetch`.
    Found = 0x83,
    /// To `Fence`, `Sync`, `Begin`, `Lost` and `List`.
    Done = 0x85,
    /// To any: not here, not now.
    Refused = 0xff,
}

/// The node that answers holds nothing for the one that asked but what it has listed, and will not stand in for it for a while: see
/// `lease`.
pub const FLAG_SYNCED: u8 = 1;
/// Of a `Found`: no node has anything newer of this key than what this one says.
pub const FLAG_SURE: u8 = 2;
/// The node that answers holds nothing at all for the one that asked.
pub const FLAG_CLEAN: u8 = 4;

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
    /// Chosen by the asking side; the response repeats it.
    pub id: u32,
    /// When it was sent: milliseconds of a clock of the sender's own, which wrap.
    pub sent_ms: u32,
    /// Greatest version that the sender has seen.
    pub clock: u64,
    /// Version below which the sender has flushed everything.
    pub fence: u64,
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
pub struct Garbled(pub &'static str);

/// What a `Put` says beside the copy.
#[derive(Clone, Debug)]
pub struct Put<'a> {
    /// The copy.
    pub replica: Replica<'a>,
    /// A fence does not hold it back: the sender has announced its whole partition.
    pub exempt: bool,
    /// Tags of the owners that lack this copy: who takes it keeps a hint for them.
    pub missing: arrayvec::ArrayVec<u64, REDUNDANCY_MAX>,
    /// Other copies of this write are under way; of all writes of this sender up to this version, none is.
    pub settled: Option<u64>,
}

/// What goes along with a copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Along<'a> {
    /// See `Put::exempt`.
    pub exempt: bool,
    /// See `Put::missing`.
    pub missing: &'a [u64],
    /// See `Put::settled`.
    pub settled: Option<u64>,
}

/// What an `Execute` says.
#[derive(Clone, Copy, Debug)]
pub struct Execute<'a> {
    /// The command.
    pub command: Command<'a>,
    /// How to write the reply.
    pub framing: [u8; FRAMING_BYTES],
    /// Words that the reply repeats.
    pub words: &'a [u8],
}

/// What a `Put` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutDone {
    /// It is what the key has there.
    Taken,
    /// Something of this version is there, or keeps it out.
    Kept(u64),
    /// No memory now.
    Busy,
}

impl Head {
    /// Reads a head. `value_bytes_max` bounds what the sender may announce.
    pub fn read(bytes: &[u8; HEAD_BYTES], value_bytes_max: usize) -> Result<Self, Garbled> {
        let mut reader = Reader(bytes);
        let (meta_bytes, value_bytes) = (reader.u32()? as usize, reader.u32()? as usize);
        let kind = Kind::of(reader.u8()?).ok_or(Garbled("an unknown kind of frame"))?;
        let (flags, hops, zero) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let (id, sent_ms, clock, fence) = (reader.u32()?, reader.u32()?, reader.u64()?, reader.u64()?);
        let head = Self { meta_bytes, value_bytes, kind, flags, hops, id, sent_ms, clock, fence };
        if meta_bytes > PEER_META_BYTES_MAX || value_bytes > value_bytes_max || zero != 0 {
            return Err(Garbled("a frame beyond its bounds"));
        }
        Ok(head)
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&(self.meta_bytes as u32).to_le_bytes());
        output.extend_from_slice(&(self.value_bytes as u32).to_le_bytes());
        output.extend_from_slice(&[self.kind as u8, self.flags, self.hops, 0]);
        output.extend_from_slice(&self.id.to_le_bytes());
        output.extend_from_slice(&self.sent_ms.to_le_bytes());
        output.extend_from_slice(&self.clock.to_le_bytes());
        output.extend_from_slice(&self.fence.to_le_bytes());
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.meta_bytes + self.value_bytes
    }
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        let all = [Execute, Put, Fetch, Fence, Sync, Begin, Lost, Batch, List, Reply, PutDone, Found, Done, Refused];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether this answers a request.
    pub fn is_response(self) -> bool {
        self as u8 & 0x80 != 0
    }
}

/// Stamp of a frame: what its sender says with every one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    /// Greatest version seen.
    pub clock: u64,
    /// Everything below was flushed.
    pub fence: u64,
    /// The sender's milliseconds.
    pub sent_ms: u32,
}

/// How late the frames of one link arrive, against the least that any of them took: what was sent before this node stood still has
/// been given up by its sender, and must not be executed any more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lateness {
    /// The last frame: what it said of its sender's clock, and that clock without wrapping.
    last: Option<(u32, i64)>,
    /// Our clock less theirs at the quickest frame so far, and when that was ours. Two clocks drift: it creeps up.
    quickest: Option<(i64, u64)>,
}

impl Lateness {
    /// Milliseconds that a frame was under way beyond the quickest one.
    pub fn of(&mut self, sent_ms: u32, now_ms: u64) -> u64 {
        // Their clock begins anywhere and wraps: only its steps are told.
        let theirs = self.last.map_or(0, |(last, theirs)| theirs + i64::from(sent_ms.wrapping_sub(last) as i32));
        self.last = Some((sent_ms, theirs));
        let passed = now_ms as i64 - theirs;
        let crept = |(least, since): (i64, u64)| least + (now_ms.saturating_sub(since) / DRIFT_PART) as i64;
        let least = self.quickest.map_or(passed, crept);
        if passed <= least {
            self.quickest = Some((passed, now_ms));
        }
        (passed - least).max(0) as u64
    }
}

/// Clocks drift by less than one part in this many.
const DRIFT_PART: u64 = 1000;

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
    let mut head = Head {
        meta_bytes: 0,
        value_bytes,
        kind,
        flags,
        hops,
        id,
        sent_ms: stamp.sent_ms,
        clock: stamp.clock,
        fence: stamp.fence,
    };
    head.write(&mut output.bytes);
    meta(&mut output.bytes);
    head.meta_bytes = output.bytes.len() - start - HEAD_BYTES;
    output.bytes[start..start + 4].copy_from_slice(&(head.meta_bytes as u32).to_le_bytes());
    output.put_value(value);
}

/// Appends a `Reply` whose value is what `encode` wrote, which is moved there.
pub fn write_reply(output: &mut Buffer, id: u32, stamp: Stamp, reply: &mut Buffer) {
    let value_bytes = reply.total_bytes();
    let Stamp { clock, fence, sent_ms } = stamp;
    let head = Head { meta_bytes: 0, value_bytes, kind: Kind::Reply, flags: 0, hops: 0, id, sent_ms, clock, fence };
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
        | u8::from(along.settled.is_some()) << 5;
    output.push(bits);
    output.extend_from_slice(&replica.version.to_le_bytes());
    output.extend_from_slice(&replica.expiry.0.to_le_bytes());
    output.extend_from_slice(&replica.client_flags.to_le_bytes());
    output.extend_from_slice(&replica.cas_override.unwrap_or(0).to_le_bytes());
    output.push(replica.key.bytes.len() as u8);
    output.extend_from_slice(replica.key.bytes);
    output.push(along.missing.len() as u8);
    along.missing.iter().chain(&along.settled).for_each(|number| output.extend_from_slice(&number.to_le_bytes()));
}

/// Reads the meta of a `Put` or a `Found`.
pub fn read_replica<'a>(meta: &'a [u8], value: Value<'a>) -> Result<Put<'a>, Garbled> {
    let mut reader = Reader(meta);
    let bits = reader.u8()?;
    let (version, expiry) = (reader.u64()?, Expiry(reader.u32()?));
    let (client_flags, cas) = (reader.u32()?, reader.u64()?);
    let key_bytes = usize::from(reader.u8()?);
    let key = reader.take(key_bytes)?;
    if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Err(Garbled("a key of no length that a key has"));
    }
    let mut missing = arrayvec::ArrayVec::new();
    for _ in 0..reader.u8()? {
        let tag = reader.u64()?;
        missing.try_push(tag).map_err(|_| Garbled("more owners than copies"))?;
    }
    let settled = if bits & 32 != 0 { Some(reader.u64()?) } else { None };
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
        return Err(Garbled("a tombstone with a value"));
    }
    Ok(Put { replica, exempt: bits & 16 != 0, missing, settled })
}

/// The batch at the end of what waits to be sent, while commands may be added to it.
#[derive(Clone, Copy, Debug)]
pub struct OpenBatch {
    start: usize,
    count: usize,
    hops: u8,
    sent_ms: u32,
}

impl OpenBatch {
    /// Begins a batch without commands behind what is there.
    pub fn begin(output: &mut Buffer, hops: u8, stamp: Stamp) -> Self {
        let start = output.bytes.len();
        write(output, (Kind::Batch, 0, hops, 0), stamp, Value::EMPTY, |_| {});
        Self { start, count: 0, hops, sent_ms: stamp.sent_ms }
    }

    /// Whether a command of this length may be added: nothing else was written since, and the batch is not full.
    pub fn takes(&self, output: &Buffer, hops: u8, stamp: Stamp, element_bytes: usize) -> bool {
        let value_bytes = output.bytes.get(self.start + 4..self.start + 8).and_then(|bytes| bytes.try_into().ok());
        let value_bytes = value_bytes.map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes) as usize);
        value_bytes.checked_add(self.start + HEAD_BYTES) == Some(output.bytes.len())
            && value_bytes + element_bytes <= BATCH_BYTES_MAX
            && (self.count < BATCH_COUNT_MAX && self.hops == hops && self.sent_ms == stamp.sent_ms)
    }

    /// Adds a command: the meta of its `Execute`, and its value.
    pub fn push(&mut self, output: &mut Buffer, id: u32, stamp: Stamp, meta: &[u8], value: &[u8]) {
        self.count += 1;
        let bytes = &mut output.bytes;
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&(meta.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
        bytes.extend_from_slice(meta);
        bytes.extend_from_slice(value);
        let value_bytes = bytes.len() - self.start - HEAD_BYTES;
        let head = &mut bytes[self.start..self.start + HEAD_BYTES];
        head[4..8].copy_from_slice(&(value_bytes as u32).to_le_bytes());
        // What the sender has seen before the last of the commands, it has seen before the batch arrives.
        head[20..28].copy_from_slice(&stamp.clock.to_le_bytes());
        head[28..36].copy_from_slice(&stamp.fence.to_le_bytes());
    }
}

/// Bytes of a command in a batch.
pub fn element_bytes(meta: &[u8], value: &[u8]) -> usize {
    ELEMENT_HEAD_BYTES + meta.len() + value.len()
}

/// Takes the next command out of the value of a `Batch`: its id and the command; `None` at the end.
pub fn read_element<'a>(batch: &mut &'a [u8]) -> Result<Option<(u32, Execute<'a>)>, Garbled> {
    if batch.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(batch);
    let (id, meta_bytes, value_bytes) = (reader.u32()?, usize::from(reader.u16()?), usize::from(reader.u16()?));
    let (meta, value) = (reader.take(meta_bytes)?, reader.take(value_bytes)?);
    *batch = reader.0;
    Ok(Some((id, read_execute(meta, Value::Bytes(value))?)))
}

/// Writes the meta of an `Execute`.
pub fn write_execute(command: &Command<'_>, framing: [u8; FRAMING_BYTES], words: &[u8], output: &mut Vec<u8>) {
    write_verb(&command.verb, output);
    output.extend_from_slice(&framing);
    let dropped = if let Value::Dropped { bytes } = command.value { bytes as u64 + 1 } else { 0 };
    output.extend_from_slice(&dropped.to_le_bytes());
    output.push(u8::from(command.key.encoded));
    output.extend_from_slice(&(command.key.bytes.len() as u16).to_le_bytes());
    output.extend_from_slice(command.key.bytes);
    output.extend_from_slice(&(words.len() as u16).to_le_bytes());
    output.extend_from_slice(words);
}

/// Reads the meta of an `Execute`.
pub fn read_execute<'a>(meta: &'a [u8], value: Value<'a>) -> Result<Execute<'a>, Garbled> {
    let mut reader = Reader(meta);
    let verb = read_verb(&mut reader)?;
    let mut framing = [0; FRAMING_BYTES];
    framing.copy_from_slice(reader.take(FRAMING_BYTES)?);
    let dropped = reader.u64()?;
    let encoded = reader.u8()? != 0;
    let key_bytes = usize::from(reader.u16()?);
    let key = reader.take(key_bytes)?;
    let words_bytes = usize::from(reader.u16()?);
    let words = reader.take(words_bytes)?;
    reader.end()?;
    let key = match encoded {
        true => Key::from_base64(key).ok_or(Garbled("a key that is no base64"))?,
        false if (1..=KEY_BYTES_MAX).contains(&key.len()) => Key::new(key),
        false => return Err(Garbled("a key of no length that a key has")),
    };
    let value = match dropped {
        0 => value,
        bytes => Value::Dropped { bytes: usize::try_from(bytes - 1).unwrap_or(usize::MAX) },
    };
    Ok(Execute { command: Command { key, verb, value }, framing, words })
}

/// Writes the meta of a `Fetch`.
pub fn write_key(key: &Key<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(key.bytes);
}

/// Reads the meta of a `Fetch`: a plain key.
pub fn read_key(meta: &[u8]) -> Result<Key<'_>, Garbled> {
    if !(1..=KEY_BYTES_MAX).contains(&meta.len()) {
        return Err(Garbled("a key of no length that a key has"));
    }
    Ok(Key::new(meta))
}

/// Writes the meta of a `Begin` or a `Lost`: a partition, the version up to which its items are doubted, and its fence.
pub fn write_begin((partition, doubted, fence): (u32, u64, u64), output: &mut Vec<u8>) {
    output.extend_from_slice(&partition.to_le_bytes());
    output.extend_from_slice(&doubted.to_le_bytes());
    output.extend_from_slice(&fence.to_le_bytes());
}

/// Reads what `write_begin` wrote.
pub fn read_begin(meta: &[u8]) -> Result<(u32, u64, u64), Garbled> {
    let mut reader = Reader(meta);
    let begin = (reader.u32()?, reader.u64()?, reader.u64()?);
    reader.end()?;
    if begin.0 >= crate::key::PARTITIONS_COUNT { Err(Garbled("a partition that does not exist")) } else { Ok(begin) }
}

/// Writes an entry of the value of a `List`: the routing hash of a key, and the version that is lacking.
pub fn write_lacking((hash, version): (u64, u64), output: &mut Vec<u8>) {
    output.extend_from_slice(&hash.to_le_bytes());
    output.extend_from_slice(&version.to_le_bytes());
}

/// Takes the next entry out of the value of a `List`; `None` at the end.
pub fn read_lacking(list: &mut &[u8]) -> Result<Option<(u64, u64)>, Garbled> {
    if list.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(list);
    let entry = (reader.u64()?, reader.u64()?);
    *list = reader.0;
    Ok(Some(entry))
}

/// Writes one number: the meta of a `Fence`, a `Sync` and a `Done`.
pub fn write_version(version: u64, output: &mut Vec<u8>) {
    output.extend_from_slice(&version.to_le_bytes());
}

/// Reads what `write_version` wrote.
pub fn read_version(meta: &[u8]) -> Result<u64, Garbled> {
    let mut reader = Reader(meta);
    let version = reader.u64()?;
    reader.end()?;
    Ok(version)
}

impl PutDone {
    /// Writes the meta of the response.
    pub fn write(self, output: &mut Vec<u8>) {
        let (code, version) = match self {
            PutDone::Taken => (0, 0),
            PutDone::Kept(version) => (1, version),
            PutDone::Busy => (2, 0u64),
        };
        output.push(code);
        output.extend_from_slice(&version.to_le_bytes());
    }

    /// What the response to a `Put` says; one that was refused may come again.
    pub fn of(response: &Frame<'_>) -> Result<Self, Garbled> {
        if response.head.kind == Kind::PutDone { Self::read(response.meta) } else { Ok(PutDone::Busy) }
    }

    /// Reads it.
    pub fn read(meta: &[u8]) -> Result<Self, Garbled> {
        let mut reader = Reader(meta);
        let (code, version) = (reader.u8()?, reader.u64()?);
        reader.end()?;
        match code {
            0 => Ok(PutDone::Taken),
            1 => Ok(PutDone::Kept(version)),
            2 => Ok(PutDone::Busy),
            _ => Err(Garbled("an unknown outcome of a copy")),
        }
    }
}

fn write_verb(verb: &Verb, output: &mut Vec<u8>) {
    fn exptime(exptime: Option<Exptime>, output: &mut Vec<u8>) {
        output.push(u8::from(exptime.is_some()));
        output.extend_from_slice(&exptime.map_or(0, |exptime| exptime.0).to_le_bytes());
    }
    fn number(number: Option<u64>, output: &mut Vec<u8>) {
        output.push(u8::from(number.is_some()));
        output.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
    }
    let bits = |flags: &[bool]| flags.iter().rev().fold(0u8, |bits, &flag| bits << 1 | u8::from(flag));
    match verb {
        Verb::Get(get) if *get == Get::default() => output.push(0),
        Verb::Get(get) => {
            output.extend_from_slice(&[1, bits(&[get.meta, get.peek, get.remaining_before, get.recache_before])]);
            exptime(get.touch, output);
            exptime(get.vivify, output);
            exptime(get.recache, output);
            number(get.cas_new, output);
        }
        Verb::Store(store) => {
            output.extend_from_slice(&[2, store.mode as u8, bits(&[store.invalidate, store.remove_on_failure])]);
            output.extend_from_slice(&store.client_flags.to_le_bytes());
            exptime(Some(store.exptime), output);
            number(store.compare, output);
            number(store.cas_new, output);
            exptime(store.vivify, output);
        }
        Verb::Delete(delete) => {
            output.extend_from_slice(&[3, bits(&[delete.invalidate, delete.drop_value])]);
            number(delete.compare, output);
            number(delete.cas_new, output);
            exptime(delete.touch, output);
        }
        Verb::Arithmetic(arithmetic) => {
            let flags = bits(&[arithmetic.decrement, arithmetic.meta, arithmetic.remaining_before]);
            output.extend_from_slice(&[4, flags]);
            output.extend_from_slice(&arithmetic.delta.to_le_bytes());
            output.extend_from_slice(&arithmetic.initial.to_le_bytes());
            number(arithmetic.compare, output);
            number(arithmetic.cas_new, output);
            exptime(arithmetic.vivify, output);
            exptime(arithmetic.touch, output);
        }
        Verb::Touch(time) => {
            output.push(5);
            exptime(Some(*time), output);
        }
        Verb::Inspect => output.push(6),
    }
}

fn read_verb(reader: &mut Reader<'_>) -> Result<Verb, Garbled> {
    Ok(match reader.u8()? {
        0 => Verb::Get(Get::default()),
        1 => {
            let bits = reader.u8()?;
            Verb::Get(Get {
                meta: bits & 1 != 0,
                peek: bits & 2 != 0,
                remaining_before: bits & 4 != 0,
                recache_before: bits & 8 != 0,
                touch: reader.exptime()?,
                vivify: reader.exptime()?,
                recache: reader.exptime()?,
                cas_new: reader.number()?,
            })
        }
        2 => {
            let modes = [StoreMode::Set, StoreMode::Add, StoreMode::Replace, StoreMode::Append, StoreMode::Prepend];
            let (mode, bits) = (reader.u8()?, reader.u8()?);
            Verb::Store(Store {
                mode: modes.into_iter().find(|known| *known as u8 == mode).ok_or(Garbled("an unknown kind of store"))?,
                invalidate: bits & 1 != 0,
                remove_on_failure: bits & 2 != 0,
                client_flags: reader.u32()?,
                exptime: reader.exptime()?.unwrap_or_default(),
                compare: reader.number()?,
                cas_new: reader.number()?,
                vivify: reader.exptime()?,
            })
        }
        3 => {
            let bits = reader.u8()?;
            Verb::Delete(Delete {
                invalidate: bits & 1 != 0,
                drop_value: bits & 2 != 0,
                compare: reader.number()?,
                cas_new: reader.number()?,
                touch: reader.exptime()?,
            })
        }
        4 => {
            let bits = reader.u8()?;
            Verb::Arithmetic(Arithmetic {
                decrement: bits & 1 != 0,
                meta: bits & 2 != 0,
                remaining_before: bits & 4 != 0,
                delta: reader.u64()?,
                initial: reader.u64()?,
                compare: reader.number()?,
                cas_new: reader.number()?,
                vivify: reader.exptime()?,
                touch: reader.exptime()?,
            })
        }
        5 => Verb::Touch(reader.exptime()?.unwrap_or_default()),
        6 => Verb::Inspect,
        _ => return Err(Garbled("an unknown verb")),
    })
}

/// Reads from the front of some bytes.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Garbled> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Garbled("a frame shorter than what it says"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], Garbled> {
        let mut array = [0; COUNT];
        array.copy_from_slice(self.take(COUNT)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, Garbled> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Garbled> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Garbled> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Garbled> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<Option<u64>, Garbled> {
        let (present, number) = (self.u8()?, self.u64()?);
        Ok((present != 0).then_some(number))
    }

    fn exptime(&mut self) -> Result<Option<Exptime>, Garbled> {
        Ok(self.number()?.map(|number| Exptime(number as i64)))
    }

    pub fn end(&self) -> Result<(), Garbled> {
        if self.0.is_empty() { Ok(()) } else { Err(Garbled("a frame longer than what it says")) }
    }
}

const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(KEY_BYTES_MAX + crate::limits::LINE_BYTES_MAX + META_OPAQUE_BYTES_MAX + 256 <= PEER_META_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs() -> Vec<Verb> {
        let exptime = Some(Exptime(-1));
        vec![
            Verb::Get(Get::default()),
            Verb::Get(Get {
                touch: exptime,
                vivify: Some(Exptime(5)),
                recache: Some(Exptime(30)),
                cas_new: Some(9),
                meta: true,
                ..Get::default()
            }),
            Verb::Get(Get { peek: true, remaining_before: true, recache_before: true, ..Get::default() }),
            Verb::Store(Store { mode: StoreMode::Prepend, client_flags: 7, exptime: Exptime(100), ..Store::default() }),
            Verb::Store(Store {
                compare: Some(3),
                cas_new: Some(4),
                invalidate: true,
                vivify: exptime,
                remove_on_failure: true,
                ..Store::default()
            }),
            Verb::Delete(Delete { compare: Some(0), cas_new: Some(2), invalidate: true, touch: exptime, drop_value: true }),
            Verb::Arithmetic(Arithmetic {
                delta: u64::MAX,
                decrement: true,
                initial: 5,
                vivify: exptime,
                ..Arithmetic::default()
            }),
            Verb::Arithmetic(Arithmetic {
                compare: Some(1),
                cas_new: Some(2),
                touch: exptime,
                meta: true,
                remaining_before: true,
                ..Arithmetic::default()
            }),
            Verb::Touch(Exptime(77)),
            Verb::Inspect,
        ]
    }

    #[test]
    fn every_verb_arrives_as_it_was_sent() {
        for verb in verbs() {
            let command = Command { key: Key::new(b"some key"), verb, value: Value::Bytes(b"value") };
            let mut meta = Vec::new();
            write_execute(&command, [1, 2, 3, 4, 5, 6, 7, 8], b"v t Oabc", &mut meta);
            let read = read_execute(&meta, Value::Bytes(b"value")).unwrap();
            assert_eq!(read.command.verb, verb);
            assert_eq!(
                (read.command.key.bytes, read.words, read.framing),
                (&b"some key"[..], &b"v t Oabc"[..], [1, 2, 3, 4, 5, 6, 7, 8])
            );
            for end in 0..meta.len() {
                assert!(read_execute(&meta[..end], Value::EMPTY).is_err(), "{verb:?} cut at {end}");
            }
        }
    }

    #[test]
    fn replicas_arrive_as_they_were_sent_and_cut_ones_are_refused() {
        let replica = Replica {
            key: Key::new(b"k"),
            value: Value::EMPTY,
            client_flags: 3,
            version: 99,
            cas_override: Some(5),
            expiry: Expiry(8),
            stale: true,
            token_sent: false,
            tombstone: true,
        };
        let mut meta = Vec::new();
        write_replica(&replica, Along { exempt: true, missing: &[11, 12], settled: Some(13) }, &mut meta);
        let put = read_replica(&meta, Value::EMPTY).unwrap();
        assert_eq!((put.replica.version, put.replica.cas_override, put.replica.expiry), (99, Some(5), Expiry(8)));
        assert_eq!((put.exempt, &put.missing[..], put.settled), (true, &[11, 12][..], Some(13)));
        assert!(put.replica.tombstone && put.replica.stale && !put.replica.token_sent);
        assert!(read_replica(&meta, Value::Bytes(b"x")).is_err(), "a tombstone has no value");
        for end in 0..meta.len() {
            assert!(read_replica(&meta[..end], Value::EMPTY).is_err());
        }
    }

    #[test]
    fn a_batch_takes_commands_until_it_is_full_or_something_else_is_written() {
        let (mut meta, mut output) = (Vec::new(), Buffer::default());
        let command = Command { key: Key::new(b"k"), verb: Verb::Get(Get::default()), value: Value::EMPTY };
        write_execute(&command, [1; FRAMING_BYTES], b"words", &mut meta);
        let stamp = |clock| Stamp { clock, fence: 2, sent_ms: 3 };
        let mut batch = OpenBatch::begin(&mut output, 1, stamp(4));
        for id in 0..BATCH_COUNT_MAX as u32 {
            assert!(batch.takes(&output, 1, stamp(5), element_bytes(&meta, b"value")));
            assert!(!batch.takes(&output, 2, stamp(5), 10) && !batch.takes(&output, 1, stamp(5), BATCH_BYTES_MAX + 1));
            batch.push(&mut output, id, stamp(5 + u64::from(id)), &meta, b"value");
        }
        assert!(!batch.takes(&output, 1, stamp(5), 10), "full");
        let head = Head::read(output.bytes.first_chunk().unwrap(), 1 << 20).unwrap();
        assert_eq!((head.kind, head.clock, head.frame_bytes()), (Kind::Batch, 4 + BATCH_COUNT_MAX as u64, output.bytes.len()));
        let mut rest = &output.bytes[HEAD_BYTES..];
        for wanted in 0..BATCH_COUNT_MAX as u32 {
            let (id, execute) = read_element(&mut rest).unwrap().unwrap();
            assert_eq!((id, execute.command.key.bytes, execute.words), (wanted, &b"k"[..], &b"words"[..]));
            assert_eq!(execute.command.value.to_vec(), b"value");
        }
        assert!(read_element(&mut rest).unwrap().is_none());
        for end in HEAD_BYTES + 1..HEAD_BYTES + element_bytes(&meta, b"value") {
            assert!(read_element(&mut &output.bytes[HEAD_BYTES..end]).is_err(), "cut at {end}");
        }
        let batch = OpenBatch::begin(&mut output, 1, stamp(4));
        write(&mut output, (Kind::Sync, 0, 0, 7), stamp(4), Value::EMPTY, |_| {});
        assert!(!batch.takes(&output, 1, stamp(4), 10), "something else was written");
        output.clear();
        assert!(!batch.takes(&output, 1, stamp(4), 10), "it was sent");
    }

    #[test]
    fn heads_beyond_their_bounds_are_refused() {
        let mut buffer = Buffer::default();
        write(&mut buffer, (Kind::Sync, 0, 0, 7), Stamp { clock: 1, fence: 2, sent_ms: 3 }, Value::EMPTY, |_| {});
        let bytes: [u8; HEAD_BYTES] = buffer.bytes[..].try_into().unwrap();
        let head = Head::read(&bytes, 100).unwrap();
        assert_eq!((head.kind, head.id, head.clock, head.fence, head.frame_bytes()), (Kind::Sync, 7, 1, 2, HEAD_BYTES));
        for (at, value) in [(0usize, 0xff), (2, 0xff), (6, 0xff), (7, 0x7f), (8, 0), (8, 0x7f), (11, 1)] {
            let mut broken = bytes;
            broken[at] = value;
            let result = Head::read(&broken, 100);
            assert!(result.is_err() || at == 0, "byte {at}: {result:?}");
        }
    }

    #[test]
    fn lateness_is_against_the_quickest_and_forgives_drift() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.of(1001, 1000), 0);
        assert!(lateness.of(1002, 11_000) > 9900, "two clocks that began together");
        let mut lateness = Lateness::default();
        assert_eq!(lateness.of(u32::MAX - 5, 1000), 0);
        assert_eq!(lateness.of(4, 1010), 0, "the sender's clock has wrapped");
        assert!((490..=500).contains(&lateness.of(5, 1511)));
        assert_eq!(lateness.of(505, 1508), 0, "one that was quicker");
        // A day later, the sender's clock has lost 40 s: no frame is late by that.
        assert!(lateness.of(505 + 86_360_000, 1508 + 86_400_000) < 100);
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
            let _ = (read_execute(&bytes, Value::EMPTY), read_element(&mut &bytes[..]), read_lacking(&mut &bytes[..]));
            let _ = read_replica(&bytes, Value::EMPTY);
            let _ = (read_begin(&bytes), read_version(&bytes), read_key(&bytes), PutDone::read(&bytes));
        }
    }
}

//! The binary protocol of memcached.
//!
//! ```text
//!   |magic|opcode| key bytes |extras bytes|type|vbucket / status| total bytes | opaque  |  CAS  |    24 bytes, then
//!   | 1   | 1    | 2         | 1          | 1  | 2              | 4           | 4       |  8    |    extras, key, value
//! ```
//!
//! ```text
//!   |--- head: header, extras, key ---|--- value ---|    values up to INLINE_VALUE_BYTES_MAX are one step with their head,
//!                                                        longer ones are received elsewhere: `Step::Body`, then `resume`
//! ```
//!
//! Rules easily missed: a quiet read hides its miss and every other quiet command its success, so that failures always show. A
//! header that contradicts its opcode is answered and closes the connection, because nobody knows what follows; an unknown
//! opcode is answered and skipped. The opaque goes back as it came, the opcode too, quiet or not.
//!
//! Lives here: packets to commands, replies to packets. Not here: what a command does, the text protocols.
//! Layout, statuses and texts follow memcached's doc/protocol-binary.xml and the behaviour of its release 1.6.18.

use super::{Door, Framing, Session, Step, VERSION};
use crate::buffer::Buffer;
use crate::command::{Arithmetic, Command, Control, Delete, Error, Get, Item, Reply, Store, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits::{INLINE_VALUE_BYTES_MAX, KEY_BYTES_MAX, item_total_bytes};
use crate::time::Exptime;

/// First byte of every binary request.
pub const REQUEST_MAGIC: u8 = 0x80;

/// What a binary reply must remember of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The opcode of the request.
    pub opcode: u8,
    /// CAS is shown as 0 (`-C`).
    pub cas_disabled: bool,
    /// The opaque of the request, as received.
    pub opaque: u32,
}

impl Head {
    pub(super) fn to_bytes(self) -> [u8; 6] {
        let [a, b, c, d] = self.opaque.to_le_bytes();
        [self.opcode, u8::from(self.cas_disabled), a, b, c, d]
    }

    pub(super) fn from_bytes(bytes: [u8; 6]) -> Self {
        let opaque = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        Self { opcode: bytes[0], cas_disabled: bytes[1] != 0, opaque }
    }
}

/// The header of a request.
#[derive(Clone, Copy)]
struct Header {
    opcode: u8,
    key_bytes: usize,
    extras_bytes: usize,
    /// Extras, key and value together.
    total_bytes: usize,
    opaque: u32,
    cas: u64,
}

/// What an opcode asks for, quiet or not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    ReadAndTouch,
    Touch,
    Store(StoreMode),
    /// Append or prepend.
    Join(StoreMode),
    Delete,
    Arithmetic {
        decrement: bool,
    },
    Flush,
    Stat,
    Noop,
    Version,
    Quit,
    SaslList,
    Sasl,
    Unknown,
}

/// One step from the front of the input, between two packets.
#[inline]
pub(super) fn step<'a>(session: &mut Session, input: &'a [u8]) -> Step<'a> {
    let Some(bytes) = input.first_chunk::<HEADER_BYTES>() else {
        return Step::Incomplete { needed: HEADER_BYTES };
    };
    match single_get(session, bytes, input) {
        Some(step) => step,
        None => step_packet(session, bytes, input),
    }
}

/// A step over any packet; `bytes` is its header.
fn step_packet<'a>(session: &mut Session, bytes: &[u8; HEADER_BYTES], input: &'a [u8]) -> Step<'a> {
    if bytes[0] != REQUEST_MAGIC {
        return close(session, &Header::read(bytes), Reply::Bye, true);
    }
    let header = Header::read(bytes);
    let operation = operation(header.opcode);
    if header.key_bytes + header.extras_bytes > header.total_bytes {
        return close(session, &header, error(UNKNOWN_COMMAND), false);
    }
    if header.key_bytes > KEY_BYTES_MAX || !header.suits(operation) {
        return close(session, &header, error(INVALID), false);
    }
    if matches!(operation, Operation::Unknown | Operation::SaslList | Operation::Sasl) {
        session.swallow(header.total_bytes as u64, Door::Binary);
        return answer(session, &header, error(UNKNOWN_COMMAND), HEADER_BYTES);
    }
    let head_bytes = header.head_bytes();
    match operation {
        Operation::Store(_) | Operation::Join(_) => store(session, input, &header, operation),
        _ if input.len() < head_bytes => Step::Incomplete { needed: head_bytes },
        Operation::Flush | Operation::Stat | Operation::Noop | Operation::Version | Operation::Quit => {
            administer(session, input, &header, operation)
        }
        _ => {
            // What follows the key of a touch means nothing.
            session.swallow((header.total_bytes + HEADER_BYTES - head_bytes) as u64, Door::Binary);
            command(session, input, &header, operation, Value::EMPTY, head_bytes)
        }
    }
}

/// A get with nothing unusual, which is most of all requests.
#[inline]
fn single_get<'a>(session: &Session, bytes: &[u8; HEADER_BYTES], input: &'a [u8]) -> Option<Step<'a>> {
    let [REQUEST_MAGIC, opcode @ (GET | GETQ | GETK | GETKQ), high, low, 0, ..] = *bytes else { return None };
    let key_bytes = u16::from_be_bytes([high, low]) as usize;
    if number32(bytes, 8) as usize != key_bytes || key_bytes == 0 || key_bytes > KEY_BYTES_MAX {
        return None;
    }
    let consumed = HEADER_BYTES + key_bytes;
    let key = Key::new(input.get(HEADER_BYTES..consumed)?);
    let head = Head { opcode, cas_disabled: session.options.cas_disabled, opaque: number32(bytes, 12) };
    Some(Step::Command {
        command: Command { key, verb: Verb::Get(Get::default()), value: Value::EMPTY },
        framing: Framing { head: super::Head::Binary(head), words: &[] },
        consumed,
    })
}

impl Header {
    #[inline]
    fn read(bytes: &[u8; HEADER_BYTES]) -> Self {
        Self {
            opcode: bytes[1],
            key_bytes: u16::from_be_bytes([bytes[2], bytes[3]]).into(),
            extras_bytes: bytes[4].into(),
            total_bytes: number32(bytes, 8) as usize,
            opaque: number32(bytes, 12),
            cas: number64(bytes, 16),
        }
    }

    /// Bytes in front of the value.
    #[inline]
    fn head_bytes(&self) -> usize {
        HEADER_BYTES + self.extras_bytes + self.key_bytes
    }

    /// Bytes of the value.
    #[inline]
    fn value_bytes(&self) -> usize {
        self.total_bytes - self.extras_bytes - self.key_bytes
    }

    /// Whether the lengths are those that the operation has.
    #[inline]
    fn suits(&self, operation: Operation) -> bool {
        let (key, extras, value) = (self.key_bytes, self.extras_bytes, self.value_bytes());
        match operation {
            Operation::Read | Operation::Delete => key > 0 && extras == 0 && value == 0,
            Operation::Touch | Operation::ReadAndTouch => key > 0 && extras == 4,
            Operation::Store(_) => key > 0 && extras == 8,
            Operation::Join(_) | Operation::Sasl => key > 0 && extras == 0,
            Operation::Arithmetic { .. } => key > 0 && extras == 20 && value == 0,
            Operation::Flush => key == 0 && (extras == 0 || extras == 4) && value == 0,
            Operation::Stat => extras == 0,
            Operation::Noop | Operation::Version | Operation::Quit | Operation::SaslList => self.total_bytes == 0,
            Operation::Unknown => true,
        }
    }
}

#[inline]
fn operation(opcode: u8) -> Operation {
    match opcode {
        GET | GETQ | GETK | GETKQ => Operation::Read,
        GAT | GATQ | GATK | GATKQ => Operation::ReadAndTouch,
        TOUCH => Operation::Touch,
        SET | SETQ => Operation::Store(StoreMode::Set),
        ADD | ADDQ => Operation::Store(StoreMode::Add),
        REPLACE | REPLACEQ => Operation::Store(StoreMode::Replace),
        APPEND | APPENDQ => Operation::Join(StoreMode::Append),
        PREPEND | PREPENDQ => Operation::Join(StoreMode::Prepend),
        DELETE | DELETEQ => Operation::Delete,
        INCREMENT | INCREMENTQ => Operation::Arithmetic { decrement: false },
        DECREMENT | DECREMENTQ => Operation::Arithmetic { decrement: true },
        FLUSH | FLUSHQ => Operation::Flush,
        STAT => Operation::Stat,
        NOOP => Operation::Noop,
        VERSION_OPCODE => Operation::Version,
        QUIT | QUITQ => Operation::Quit,
        SASL_LIST => Operation::SaslList,
        SASL_AUTH | SASL_STEP => Operation::Sasl,
        _ => Operation::Unknown,
    }
}

/// Whether success (of reads: a miss) goes unanswered.
#[inline]
const fn is_quiet(opcode: u8) -> bool {
    matches!(opcode, GETQ | GETKQ | GATQ | GATKQ | SETQ..=PREPENDQ)
}

/// Whether the reply repeats the key.
#[inline]
const fn shows_key(opcode: u8) -> bool {
    matches!(opcode, GETK | GETKQ | GATK | GATKQ)
}

fn framing<'a>(session: &Session, header: &Header) -> Framing<'a> {
    let head = Head { opcode: header.opcode, cas_disabled: session.options.cas_disabled, opaque: header.opaque };
    Framing { head: super::Head::Binary(head), words: &[] }
}

/// The step of an answer that needs nobody.
fn answer<'a>(session: &Session, header: &Header, reply: Reply<'a>, consumed: usize) -> Step<'a> {
    Step::Reply { reply, framing: framing(session, header), consumed, close: false }
}

/// The step that ends the connection, with an answer or without.
#[cold]
fn close<'a>(session: &Session, header: &Header, reply: Reply<'a>, silent: bool) -> Step<'a> {
    let header = Header { opcode: if silent { QUITQ } else { header.opcode }, ..*header };
    Step::Reply { reply, framing: framing(session, &header), consumed: HEADER_BYTES, close: true }
}

fn error<'a>((status, text): (u16, &'static str)) -> Reply<'a> {
    Reply::Error(Error::Binary { status, text })
}

/// The command of a packet whose head lies at the front of `input`, as `Header::suits` has found it.
#[inline]
fn command<'a>(
    session: &Session,
    input: &'a [u8],
    header: &Header,
    operation: Operation,
    value: Value<'a>,
    consumed: usize,
) -> Step<'a> {
    let extras = &input[HEADER_BYTES..HEADER_BYTES + header.extras_bytes];
    let key = &input[HEADER_BYTES + header.extras_bytes..header.head_bytes()];
    let compare = (header.cas != 0).then_some(header.cas);
    let verb = match operation {
        Operation::ReadAndTouch => Verb::Get(Get { touch: Some(exptime(extras, 0)), ..Get::default() }),
        Operation::Touch => Verb::Touch(exptime(extras, 0)),
        // A compared store is `cas`, whichever of the three it is.
        Operation::Store(mode) => Verb::Store(Store {
            mode: if compare.is_some() { StoreMode::Set } else { mode },
            client_flags: number32(extras, 0),
            exptime: exptime(extras, 4),
            compare,
            remove_on_failure: mode == StoreMode::Set,
            ..Store::default()
        }),
        Operation::Join(mode) => Verb::Store(Store { mode, compare, ..Store::default() }),
        Operation::Delete => Verb::Delete(Delete { compare, ..Delete::default() }),
        Operation::Arithmetic { decrement } => Verb::Arithmetic(Arithmetic {
            delta: number64(extras, 0),
            decrement,
            compare,
            initial: number64(extras, 8),
            vivify: (number32(extras, 16) != NO_VIVIFY).then(|| exptime(extras, 16)),
            ..Arithmetic::default()
        }),
        _ => Verb::Get(Get::default()),
    };
    Step::Command { command: Command { key: Key::new(key), verb, value }, framing: framing(session, header), consumed }
}

/// Set, Add, Replace, Append, Prepend.
fn store<'a>(session: &mut Session, input: &'a [u8], header: &Header, operation: Operation) -> Step<'a> {
    let (head, body) = (header.head_bytes(), header.value_bytes());
    if input.len() < head {
        return Step::Incomplete { needed: head };
    }
    if item_total_bytes(header.key_bytes, body) > session.options.item_bytes_max as usize {
        session.swallow(body as u64, Door::Binary);
        return command(session, input, header, operation, Value::Dropped { bytes: body }, head);
    }
    if body > INLINE_VALUE_BYTES_MAX {
        return Step::Body { head, body, tail: 0 };
    }
    match input.get(head..head + body) {
        Some(value) => command(session, input, header, operation, Value::Bytes(value), head + body),
        None => Step::Incomplete { needed: head + body },
    }
}

/// The step of a large store whose value has arrived or was dropped; `head` is its header, extras and key.
pub(super) fn resume<'a>(session: &mut Session, head: &'a [u8], value: Value<'a>) -> Step<'a> {
    // `step` has accepted this very head when it asked for the body.
    match head.first_chunk::<HEADER_BYTES>().map(Header::read) {
        Some(header) if header.head_bytes() == head.len() && header.suits(operation(header.opcode)) => {
            command(session, head, &header, operation(header.opcode), value, head.len())
        }
        _ => Step::Skip { consumed: head.len() },
    }
}

/// Commands to the node.
fn administer<'a>(session: &mut Session, input: &'a [u8], header: &Header, operation: Operation) -> Step<'a> {
    let consumed = header.head_bytes();
    let control = match operation {
        Operation::Flush if session.options.flush_disabled => {
            return answer(session, header, error(AUTHENTICATION), consumed);
        }
        Operation::Flush => {
            let delay = if header.extras_bytes == 4 { exptime(input, HEADER_BYTES) } else { Exptime::NEVER };
            Control::FlushAll { delay }
        }
        Operation::Stat => {
            session.swallow(header.value_bytes() as u64, Door::Binary);
            let group = &input[HEADER_BYTES..consumed];
            // Its lines have no names that packets could carry.
            if group.starts_with(b"cachedump") {
                return answer(session, header, error(NOT_FOUND), consumed);
            }
            Control::Stats { group }
        }
        Operation::Quit => {
            return Step::Reply { reply: Reply::Bye, framing: framing(session, header), consumed, close: true };
        }
        Operation::Version => return answer(session, header, Reply::Version(VERSION), consumed),
        _ => return answer(session, header, Reply::Noop, consumed),
    };
    Step::Control { control, framing: framing(session, header), consumed }
}

#[inline]
fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn number64(bytes: &[u8], at: usize) -> u64 {
    (u64::from(number32(bytes, at)) << 32) | u64::from(number32(bytes, at + 4))
}

/// An exptime: unsigned here, so that there is no negative one.
#[inline]
fn exptime(bytes: &[u8], at: usize) -> Exptime {
    Exptime(number32(bytes, at).into())
}

/// Writes the reply of one packet.
#[inline]
pub(super) fn encode(head: Head, key: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
    if let Reply::Item(item) = reply {
        return encode_item(head, key, item, output);
    }
    let read = matches!(operation(head.opcode), Operation::Read | Operation::ReadAndTouch);
    let quiet = is_quiet(head.opcode);
    match reply {
        Reply::NotFound if read && quiet => {}
        Reply::NotFound if shows_key(head.opcode) => put(head, NOT_FOUND.0, (&[], key, &[]), 0, output),
        Reply::NotFound => fail(head, NOT_FOUND, output),
        Reply::NotStored => fail(head, not_stored(head.opcode), output),
        Reply::Exists => fail(head, EXISTS, output),
        Reply::Error(error) => fail(head, failure(head.opcode, *error), output),
        Reply::Busy => fail(head, OUT_OF_MEMORY, output),
        Reply::Stats(rows) => {
            for (name, value) in rows.iter() {
                put(head, 0, (&[], name.as_bytes(), value.as_bytes()), 0, output);
            }
            put(head, 0, NOTHING, 0, output);
        }
        Reply::Text(text) if head.opcode == STAT => {
            put(head, 0, (&[], b"detailed", text), 0, output);
            put(head, 0, NOTHING, 0, output);
        }
        Reply::Text(text) => put(head, INVALID.0, (&[], &[], text), 0, output),
        Reply::Version(version) => put(head, 0, (&[], &[], version.as_bytes()), 0, output),
        _ if quiet => {}
        Reply::Stored(item) => put(head, 0, NOTHING, item.cas, output),
        Reply::Touched(item) => put(head, 0, (&item.client_flags.to_be_bytes(), &[], &[]), item.cas, output),
        Reply::Number { number, item, .. } => put(head, 0, (&[], &[], &number.to_be_bytes()), item.cas, output),
        Reply::Item(_) | Reply::Integer(_) | Reply::Deleted | Reply::Ok | Reply::Reset | Reply::Noop | Reply::Bye => {
            put(head, 0, NOTHING, 0, output);
        }
    }
}

/// A hit: the client flags as extras, the key if it was asked for, the value.
#[inline]
fn encode_item(head: Head, key: &[u8], item: &Item<'_>, output: &mut Buffer) {
    let key = if shows_key(head.opcode) { key } else { &[] };
    let total_bytes = 4 + key.len() + item.value.len();
    let mut front = [0; HEADER_BYTES + 4];
    front[..HEADER_BYTES].copy_from_slice(&header(head, 0, (4, key.len()), total_bytes, item.cas));
    front[HEADER_BYTES..].copy_from_slice(&item.client_flags.to_be_bytes());
    output.bytes.reserve(front.len() + key.len() + item.value.copied_bytes());
    output.put(&front);
    output.put(key);
    output.put_value(item.value);
}

/// Writes one packet of extras, key and value.
fn put(head: Head, status: u16, (extras, key, value): (&[u8], &[u8], &[u8]), cas: u64, output: &mut Buffer) {
    let total_bytes = extras.len() + key.len() + value.len();
    output.bytes.reserve(HEADER_BYTES + total_bytes);
    output.put(&header(head, status, (extras.len(), key.len()), total_bytes, cas));
    output.put(extras);
    output.put(key);
    output.put(value);
}

/// Writes a packet with an error's text.
fn fail(head: Head, (status, text): (u16, &'static str), output: &mut Buffer) {
    put(head, status, (&[], &[], text.as_bytes()), 0, output);
}

/// The header of a response.
#[inline]
fn header(
    head: Head,
    status: u16,
    (extras_bytes, key_bytes): (usize, usize),
    total_bytes: usize,
    cas: u64,
) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = RESPONSE_MAGIC;
    bytes[1] = head.opcode;
    bytes[2..4].copy_from_slice(&(key_bytes as u16).to_be_bytes());
    bytes[4] = extras_bytes as u8;
    bytes[6..8].copy_from_slice(&status.to_be_bytes());
    bytes[8..12].copy_from_slice(&(total_bytes as u32).to_be_bytes());
    bytes[12..16].copy_from_slice(&head.opaque.to_be_bytes());
    let cas = if head.cas_disabled { 0 } else { cas };
    bytes[16..].copy_from_slice(&cas.to_be_bytes());
    bytes
}

/// What an unmet condition is called: Add and Replace tell which state they found.
fn not_stored(opcode: u8) -> (u16, &'static str) {
    match operation(opcode) {
        Operation::Store(StoreMode::Add) => EXISTS,
        Operation::Store(StoreMode::Replace) => NOT_FOUND,
        _ => NOT_STORED,
    }
}

/// Status and text of an error.
fn failure(opcode: u8, error: Error) -> (u16, &'static str) {
    match error {
        Error::TooLarge => TOO_LARGE,
        Error::OutOfMemory => OUT_OF_MEMORY,
        Error::NonNumeric | Error::Overflow => NON_NUMERIC,
        Error::Binary { status, text } => (status, text),
        Error::Unreachable => UNREACHABLE,
        Error::Interrupted => INTERRUPTED,
        Error::Line(_) if opcode == STAT => NOT_FOUND,
        Error::Line(_) => INVALID,
    }
}

pub(super) const HEADER_BYTES: usize = 24;
const RESPONSE_MAGIC: u8 = 0x81;
const NOTHING: (&[u8], &[u8], &[u8]) = (&[], &[], &[]);

/// Exptime of an arithmetic that creates nothing.
const NO_VIVIFY: u32 = u32::MAX;

const NOT_FOUND: (u16, &str) = (0x01, "Not found");
const EXISTS: (u16, &str) = (0x02, "Data exists for key.");
const TOO_LARGE: (u16, &str) = (0x03, "Too large.");
const INVALID: (u16, &str) = (0x04, "Invalid arguments");
const NOT_STORED: (u16, &str) = (0x05, "Not stored.");
const NON_NUMERIC: (u16, &str) = (0x06, "Non-numeric server-side value for incr or decr");
/// Internal error, in the binary protocol's list of statuses.
const INTERRUPTED: (u16, &str) = (0x84, "The node for this key went away; the command may have been executed");
/// Temporary failure.
const UNREACHABLE: (u16, &str) = (0x86, "No node for this key could be reached");
const AUTHENTICATION: (u16, &str) = (0x20, "Auth failure.");
const UNKNOWN_COMMAND: (u16, &str) = (0x81, "Unknown command");
const OUT_OF_MEMORY: (u16, &str) = (0x82, "Out of memory");

const GET: u8 = 0x00;
const SET: u8 = 0x01;
const ADD: u8 = 0x02;
const REPLACE: u8 = 0x03;
const DELETE: u8 = 0x04;
const INCREMENT: u8 = 0x05;
const DECREMENT: u8 = 0x06;
const QUIT: u8 = 0x07;
const FLUSH: u8 = 0x08;
const GETQ: u8 = 0x09;
const NOOP: u8 = 0x0a;
const VERSION_OPCODE: u8 = 0x0b;
const GETK: u8 = 0x0c;
const GETKQ: u8 = 0x0d;
const APPEND: u8 = 0x0e;
const PREPEND: u8 = 0x0f;
const STAT: u8 = 0x10;
const SETQ: u8 = 0x11;
const ADDQ: u8 = 0x12;
const REPLACEQ: u8 = 0x13;
const DELETEQ: u8 = 0x14;
const INCREMENTQ: u8 = 0x15;
const DECREMENTQ: u8 = 0x16;
const QUITQ: u8 = 0x17;
const FLUSHQ: u8 = 0x18;
const APPENDQ: u8 = 0x19;
const PREPENDQ: u8 = 0x1a;
const TOUCH: u8 = 0x1c;
const GAT: u8 = 0x1d;
const GATQ: u8 = 0x1e;
const SASL_LIST: u8 = 0x20;
const SASL_AUTH: u8 = 0x21;
const SASL_STEP: u8 = 0x22;
const GATK: u8 = 0x23;
const GATKQ: u8 = 0x24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Options;

    /// The short way of a get and the way of any packet lead to the same step.
    #[test]
    fn a_single_get_is_the_step_of_any_packet() {
        let mut taken = 0;
        for opcode in [GET, GETQ, GETK, GETKQ, SET, DELETE, TOUCH, 0x77] {
            for key_bytes in [0, 1, 5, 250, 251, 300] {
                for (extras_bytes, value_bytes) in [(0, 0), (4, 0), (0, 3)] {
                    let mut packet = vec![REQUEST_MAGIC, opcode];
                    packet.extend((key_bytes as u16).to_be_bytes());
                    packet.extend([extras_bytes as u8, 1, 0, 9]);
                    packet.extend(((key_bytes + extras_bytes + value_bytes) as u32).to_be_bytes());
                    packet.extend([1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
                    packet.extend(vec![b'x'; key_bytes + extras_bytes + value_bytes]);
                    let mut session = Session::new(Options::default());
                    let bytes = packet.first_chunk().expect("a header");
                    if let Some(step) = single_get(&session, bytes, &packet) {
                        let any = step_packet(&mut session, bytes, &packet);
                        assert_eq!(format!("{step:?}"), format!("{any:?}"));
                        taken += 1;
                    }
                }
            }
        }
        assert_eq!(taken, 4 * 3, "four opcodes, three good keys");
    }
}

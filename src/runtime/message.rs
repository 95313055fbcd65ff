//! What travels between the cores of a node: commands, their replies, connections.
//!
//! ```text
//!   request:   | head: ticket, hash, verb, framing, lengths, what is large | key | words | value |        what is small
//!   reply:     | head: ticket, length, bytes if large                       | bytes if small              |
//!   handover:  | a box with the connection                                  |
//! ```
//!
//! The owning core executes and encodes, so that the reply comes back as bytes of the client's protocol and the asking core only
//! puts them in their place. Small values are copied into the record; larger ones go by pointer.
//!
//! Lives here: the records. Not here: the queue (`link`), what is done with them (`core`).
//! Unsafe lives here: heads are written to and read from raw record bytes, within one process.

use std::sync::Arc;

use super::link::{Producer, RECORD_HEAD_BYTES};
use crate::arena::Body;
use crate::buffer::Buffer;
use crate::command::{Command, Value, Verb};
use crate::key::Key;
use crate::limits::{KEY_BYTES_MAX, LINK_BYTES_MIN};
use crate::protocol::{Framing, Head};
pub use crate::shard::Ticket;

/// Kind of a record that carries a command.
pub const REQUEST: u32 = 1;
/// Kind of a record that carries the bytes of a reply.
pub const REPLY: u32 = 2;
/// Kind of a record that carries a connection.
pub const HANDOVER: u32 = 3;

struct RequestHead {
    ticket: Ticket,
    hash: u64,
    verb: Verb,
    framing: Head,
    key_bytes: u16,
    key_encoded: bool,
    key_tagged: bool,
    words_bytes: u16,
    value_bytes: u32,
    carried: Carried,
    /// Key and words, where they are longer than the record may be.
    names: Option<Box<[u8]>>,
}

enum Carried {
    Inline,
    Boxed(Box<[u8]>),
    Body(Arc<Body>),
    Dropped(usize),
}

struct ReplyHead {
    ticket: Ticket,
    bytes: u32,
    carried: Option<Box<Buffer>>,
}

/// A command from another core, borrowed from its record.
pub struct Request<'a> {
    /// Where the reply goes.
    pub ticket: Ticket,
    /// What to do.
    pub command: Command<'a>,
    /// How to encode the reply.
    pub framing: Framing<'a>,
}

/// The bytes of a reply from another core.
pub enum ReplyBytes<'a> {
    /// Small, without bodies.
    Inline(&'a [u8]),
    /// Large, or with bodies.
    Carried(Box<Buffer>),
}

const _: () = assert!(align_of::<RequestHead>() <= 8 && align_of::<ReplyHead>() <= 8);
/// The smallest link takes a command with a long key and a few words in its record.
const _: () = assert!(size_of::<RequestHead>() + KEY_BYTES_MAX + 64 <= LINK_BYTES_MIN / 4 - RECORD_HEAD_BYTES);

/// Writes a command for another core. False, and nothing written, when the queue is full.
pub fn write_request(link: &mut Producer, ticket: Ticket, command: &Command<'_>, framing: &Framing<'_>) -> bool {
    let head_bytes = size_of::<RequestHead>();
    let (key, words) = (command.key.bytes, framing.words);
    let room = link.payload_bytes_max() - head_bytes;
    let names: &[&[u8]] = if key.len() + words.len() <= room { &[key, words] } else { &[] };
    let names_bytes: usize = names.iter().map(|name| name.len()).sum();
    let (carried, inline): (Carried, &[u8]) = match command.value {
        Value::Bytes(bytes) if bytes.len() <= room - names_bytes => (Carried::Inline, bytes),
        Value::Bytes(bytes) => (Carried::Boxed(bytes.into()), &[]),
        Value::Body(body) => (Carried::Body(body.clone()), &[]),
        Value::Pages(_) => (Carried::Boxed(command.value.to_vec().into()), &[]),
        Value::Dropped { bytes } => (Carried::Dropped(bytes), &[]),
    };
    let Some(payload) = link.reserve(REQUEST, head_bytes + names_bytes + inline.len()) else { return false };
    let head = RequestHead {
        ticket,
        hash: command.key.hash,
        verb: command.verb,
        framing: framing.head,
        key_bytes: key.len() as u16,
        key_encoded: command.key.encoded,
        key_tagged: command.key.tagged,
        words_bytes: words.len() as u16,
        value_bytes: inline.len() as u32,
        carried,
        names: names.is_empty().then(|| [key, words].concat().into()),
    };
    // SAFETY: the payload is at least `head_bytes` long and 8-byte aligned, as a record is.
    unsafe { payload.as_mut_ptr().cast::<RequestHead>().write(head) };
    let mut rest = &mut payload[head_bytes..];
    for part in names.iter().copied().chain([inline]) {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    true
}

/// Reads the command in a record without taking anything out of it.
///
/// # Safety
/// - `payload` is the payload of a record that `write_request` wrote in this process, and `drop_request` was not called on it.
pub unsafe fn read_request(payload: &[u8]) -> Request<'_> {
    // SAFETY: the caller's promise; the record is 8-byte aligned.
    let head = unsafe { &*payload.as_ptr().cast::<RequestHead>() };
    let rest = &payload[size_of::<RequestHead>()..];
    let (names, rest) = match &head.names {
        Some(names) => (&names[..], rest),
        None => rest.split_at(head.key_bytes as usize + head.words_bytes as usize),
    };
    let (key, words) = names.split_at(head.key_bytes as usize);
    let value = match &head.carried {
        Carried::Inline => Value::Bytes(&rest[..head.value_bytes as usize]),
        Carried::Boxed(bytes) => Value::Bytes(bytes),
        Carried::Body(body) => Value::Body(body),
        &Carried::Dropped(bytes) => Value::Dropped { bytes },
    };
    let key = Key { bytes: key, hash: head.hash, encoded: head.key_encoded, tagged: head.key_tagged };
    Request {
        ticket: head.ticket,
        command: Command { key, verb: head.verb, value },
        framing: Framing { head: head.framing, words },
    }
}

/// Releases what a request record owns. Call once, before the record is popped.
///
/// # Safety
/// - as for `read_request`, and nothing borrowed from the record is used afterwards.
pub unsafe fn drop_request(payload: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::drop_in_place(payload.as_mut_ptr().cast::<RequestHead>()) };
}

/// Writes the encoded reply of a request. The caller asked `has_room` before it executed.
pub fn write_reply(link: &mut Producer, ticket: Ticket, reply: &mut Buffer) -> bool {
    let head_bytes = size_of::<ReplyHead>();
    let fits = reply.bodies.is_empty() && head_bytes + reply.bytes.len() <= link.payload_bytes_max();
    let (carried, inline) = if fits { (None, reply.bytes.len()) } else { (Some(Box::new(std::mem::take(reply))), 0) };
    let Some(payload) = link.reserve(REPLY, head_bytes + inline) else { return false };
    let head = ReplyHead { ticket, bytes: inline as u32, carried };
    // SAFETY: the payload is at least `head_bytes` long and 8-byte aligned, as a record is.
    unsafe { payload.as_mut_ptr().cast::<ReplyHead>().write(head) };
    payload[head_bytes..].copy_from_slice(&reply.bytes[..inline]);
    true
}

/// Takes the reply out of a record.
///
/// # Safety
/// - `payload` is the payload of a record that `write_reply` wrote in this process; it is read once and then popped.
pub unsafe fn take_reply(payload: &[u8]) -> (Ticket, ReplyBytes<'_>) {
    // SAFETY: the caller's promise; reading moves the head out, and the record is not read again.
    let head = unsafe { payload.as_ptr().cast::<ReplyHead>().read() };
    let bytes = match head.carried {
        Some(buffer) => ReplyBytes::Carried(buffer),
        None => ReplyBytes::Inline(&payload[size_of::<ReplyHead>()..][..head.bytes as usize]),
    };
    (head.ticket, bytes)
}

/// Writes a boxed value, whose type both sides know by the kind of the record.
pub fn write_box<T: Send>(link: &mut Producer, kind: u32, value: Box<T>) -> Result<(), Box<T>> {
    let Some(payload) = link.reserve(kind, size_of::<*mut T>()) else { return Err(value) };
    // SAFETY: the payload is as long as a pointer and 8-byte aligned, as a record is.
    unsafe { payload.as_mut_ptr().cast::<*mut T>().write(Box::into_raw(value)) };
    Ok(())
}

/// Takes a boxed value out of a record.
///
/// # Safety
/// - the record was written by `write_box::<T>` with this `T` in this process; it is read once and then popped.
pub unsafe fn take_box<T: Send>(payload: &[u8]) -> Box<T> {
    // SAFETY: the caller's promise: the record holds what came out of `Box::into_raw` of the same type.
    unsafe { Box::from_raw(payload.as_ptr().cast::<*mut T>().read()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Get, Store};
    use crate::runtime::link::queue;

    fn framing(words: &[u8]) -> Framing<'_> {
        Framing { head: Head::Binary(Default::default()), words }
    }

    #[test]
    fn a_command_arrives_as_it_was_sent_small_and_large() {
        let (mut producer, mut consumer) = queue(LINK_BYTES_MIN);
        let sizes = [0usize, 5, 900, 3000, 4096, 16 << 10];
        let words = [b"v t".to_vec(), vec![b'w'; crate::limits::LINE_BYTES_MAX]];
        for (value_bytes, words) in sizes.into_iter().flat_map(|bytes| words.iter().map(move |words| (bytes, words))) {
            let value = vec![7u8; value_bytes];
            let command =
                Command { key: Key::new(b"{a}key"), verb: Verb::Store(Store::default()), value: Value::Bytes(&value) };
            let ticket = Ticket { connection: 1, generation: 2, slot: 3, descriptor: 7 };
            assert!(write_request(&mut producer, ticket, &command, &framing(words)));
            producer.publish();
            let (kind, payload) = consumer.peek().unwrap();
            assert_eq!(kind, REQUEST);
            // SAFETY: the record was written above.
            let request = unsafe { read_request(payload) };
            assert_eq!(request.ticket, ticket);
            assert_eq!(request.command.key.bytes, b"{a}key");
            assert_eq!(request.command.key.hash, command.key.hash);
            assert_eq!(request.command.value.to_vec(), value);
            assert_eq!(request.framing.words, words);
            // SAFETY: once, and nothing borrowed is used below.
            unsafe { drop_request(payload) };
            consumer.pop();
            consumer.release();
        }
    }

    #[test]
    fn a_body_travels_by_reference_and_is_released() {
        let arena = crate::arena::Arena::new(1 << 20, 1 << 20, 1).unwrap();
        let body = Arc::new(Body::lease(&arena, 100_000).unwrap());
        let (mut producer, mut consumer) = queue(4096);
        let command = Command { key: Key::new(b"k"), verb: Verb::Get(Get::default()), value: Value::Body(&body) };
        assert!(write_request(
            &mut producer,
            Ticket { connection: 0, generation: 0, slot: 0, descriptor: 7 },
            &command,
            &framing(b"")
        ));
        producer.publish();
        let (_, payload) = consumer.peek().unwrap();
        assert_eq!(Arc::strong_count(&body), 2);
        // SAFETY: the record was written above and is dropped once.
        unsafe { drop_request(payload) };
        consumer.pop();
        assert_eq!(Arc::strong_count(&body), 1);
    }

    #[test]
    fn replies_come_back_inline_or_carried() {
        let (mut producer, mut consumer) = queue(4096);
        for length in [0usize, 10, 900, 5000] {
            let mut buffer = Buffer::default();
            buffer.put(&vec![9u8; length]);
            assert!(write_reply(&mut producer, Ticket { connection: 4, generation: 5, slot: 6, descriptor: 7 }, &mut buffer));
            producer.publish();
            let (kind, payload) = consumer.peek().unwrap();
            assert_eq!(kind, REPLY);
            // SAFETY: the record was written above and is read once.
            let (ticket, bytes) = unsafe { take_reply(payload) };
            assert_eq!(ticket.slot, 6);
            match bytes {
                ReplyBytes::Inline(bytes) => assert_eq!(bytes, vec![9u8; length]),
                ReplyBytes::Carried(buffer) => assert_eq!(buffer.bytes, vec![9u8; length]),
            }
            consumer.pop();
            consumer.release();
        }
    }
}

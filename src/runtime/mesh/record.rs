//! What travels between the cores of a node: commands, their replies, connections.
//!
//! ```text
//!   request:   | head: ticket, hash, verb, framing, lengths, what is large | key | words | value |        what is small
//!   reply:     | head: ticket, length, bytes if large                       | bytes if small              |
//!   handover:  | a box with the connection                                  |
//! ```
//!
//! What is received is a `Record`, which lets go of what it holds and leaves the queue when it is dropped. So does what nobody receives,
//! when both ends of the queue are gone.
//!
//! The owning core executes and encodes, so that the reply comes back as bytes of the client's protocol and the asking core only
//! puts them in their place. Small values are copied into the record; larger ones go by pointer.
//!
//! Lives here: the records. Not here: the queue (`queue`), what is done with them (`core`).
//! Unsafe lives here: heads are written to and read from raw record bytes, within one process.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::queue::{self, Consumer, Producer, RECORD_HEAD_BYTES};
use crate::arena::Body;
use crate::buffer::Buffer;
use crate::command::{Command, Value, Verb};
use crate::key::{Encoding, Key};
use crate::limits::{KEY_BYTES_MAX, QUEUE_BYTES_MIN};
use crate::protocol::{Framing, Head, Session};
use crate::routing::Ticket;
use crate::runtime::peer_socket::Peer;
use crate::runtime::service::ServiceId;
use crate::version::Version;

/// The end of a queue that messages are written to.
pub struct Writer(Producer);

/// The end of a queue that messages are taken from.
pub struct Reader(Consumer);

/// A queue of `capacity_bytes`, a power of two of at least 1 KiB.
pub fn queue(capacity_bytes: usize) -> (Writer, Reader) {
    let (producer, consumer) = queue::queue(capacity_bytes, dispose);
    (Writer(producer), Reader(consumer))
}

/// At most `count` such queues, in one piece of memory.
pub fn queues(count: usize, capacity_bytes: usize) -> impl Iterator<Item = (Writer, Reader)> {
    queue::queues(count, capacity_bytes, dispose).map(|(producer, consumer)| (Writer(producer), Reader(consumer)))
}

/// Kind of a record that carries a command.
const REQUEST: u32 = 1;
/// Kind of a record that carries the bytes of a reply.
const REPLY: u32 = 2;
/// Kind of a record that carries a connection.
const HANDOVER: u32 = 3;

/// What a command's record begins with.
pub struct RequestHead {
    ticket: Ticket,
    repeated_since: Version,
    hash: u64,
    verb: Verb,
    framing: Head,
    key_bytes: u16,
    key_encoding: Encoding,
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

/// What a reply's record begins with.
pub struct ReplyHead {
    ticket: Ticket,
    bytes: u32,
    carried: Option<Box<Buffer>>,
}

/// A connection on its way to another core.
pub struct Handover {
    /// The socket.
    pub fd: OwnedFd,
    /// Its session so far; a fresh one when it was just accepted.
    pub session: Session,
    /// Bytes received and not yet parsed.
    pub input: Vec<u8>,
    /// The node on the other side, if it is one.
    pub peer: Option<Box<Peer>>,
    /// What it counts as.
    pub service: ServiceId,
    /// Where the client is; `None` on a unix socket.
    pub address: Option<SocketAddr>,
}

/// A message from another core.
pub enum Received<'a> {
    /// A command.
    Request(Record<'a, RequestHead>),
    /// A reply.
    Reply(Record<'a, ReplyHead>),
    /// A connection; it has left the queue.
    Handover(Box<Handover>),
}

/// A message in its place in the queue. Dropped, it lets go of what it holds and makes way for the next one.
pub struct Record<'a, H> {
    consumer: &'a mut Consumer,
    /// An `H`, and the bytes behind it.
    payload: NonNull<[u8]>,
    head: PhantomData<H>,
}

/// A command from another core, borrowed from its record.
pub struct Request<'a> {
    /// Where the reply goes.
    pub ticket: Ticket,
    /// Versions above this are of others, where a node that has gone away may have executed the command; 0 where none can have.
    pub repeated_since: Version,
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

const _: () = assert!(align_of::<RequestHead>() <= 8 && align_of::<ReplyHead>() <= 8 && align_of::<Box<Handover>>() <= 8);
/// The smallest queue takes a command with a long key and a few words in its record.
const _: () = assert!(size_of::<RequestHead>() + KEY_BYTES_MAX + 64 <= QUEUE_BYTES_MIN / 4 - RECORD_HEAD_BYTES);

impl Writer {
    /// Writes a command for another core, which a node may have executed that has gone away, if `repeated_since` is one. False, and
    /// nothing written, when the queue is full.
    pub fn request(&mut self, ticket: Ticket, repeated_since: Version, command: &Command<'_>, framing: &Framing<'_>) -> bool {
        let (key, words) = (command.key.bytes, framing.words);
        let room = self.0.payload_bytes_max() - size_of::<RequestHead>();
        let names: &[&[u8]] = if key.len() + words.len() <= room { &[key, words] } else { &[] };
        let names_bytes: usize = names.iter().map(|name| name.len()).sum();
        let (carried, inline): (Carried, &[u8]) = match command.value {
            Value::Bytes(bytes) if bytes.len() <= room - names_bytes => (Carried::Inline, bytes),
            Value::Bytes(bytes) => (Carried::Boxed(bytes.into()), &[]),
            Value::Body(body) => (Carried::Body(body.clone()), &[]),
            Value::Pages(_) => (Carried::Boxed(command.value.to_vec().into()), &[]),
            Value::Dropped { bytes } => (Carried::Dropped(bytes), &[]),
        };
        let head = RequestHead {
            ticket,
            repeated_since,
            hash: command.key.hash,
            verb: command.verb,
            framing: framing.head,
            key_bytes: key.len() as u16,
            key_encoding: command.key.encoding,
            key_tagged: command.key.has_hash_tag,
            words_bytes: words.len() as u16,
            value_bytes: inline.len() as u32,
            carried,
            names: names.is_empty().then(|| [key, words].concat().into()),
        };
        let Ok(mut rest) = self.write(REQUEST, head, names_bytes + inline.len()) else { return false };
        for part in names.iter().copied().chain([inline]) {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        true
    }

    /// Writes the encoded reply of a request. The caller asked `has_room` before it executed.
    pub fn reply(&mut self, ticket: Ticket, reply: &mut Buffer) -> bool {
        let fits = reply.bodies.is_empty() && size_of::<ReplyHead>() + reply.bytes.len() <= self.0.payload_bytes_max();
        let (carried, inline) = if fits { (None, reply.bytes.len()) } else { (Some(Box::new(std::mem::take(reply))), 0) };
        let head = ReplyHead { ticket, bytes: inline as u32, carried };
        let Ok(rest) = self.write(REPLY, head, inline) else { return false };
        rest.copy_from_slice(&reply.bytes[..inline]);
        true
    }

    /// Writes a connection; gives it back when the queue is full.
    pub fn hand_over(&mut self, handover: Box<Handover>) -> Result<(), Box<Handover>> {
        self.write(HANDOVER, handover, 0).map(|_| ())
    }

    /// Writes a head, and gives the bytes behind it; gives the head back when the queue is full.
    fn write<H: Send>(&mut self, kind: u32, head: H, rest_bytes: usize) -> Result<&mut [u8], H> {
        let Some(payload) = self.0.reserve(kind, size_of::<H>() + rest_bytes) else { return Err(head) };
        let (place, rest) = payload.split_at_mut(size_of::<H>());
        // SAFETY: the place is as long as a head, and 8-byte aligned, as a record is.
        unsafe { place.as_mut_ptr().cast::<H>().write(head) };
        Ok(rest)
    }

    /// Room for one more message of the largest size.
    pub fn has_room(&mut self) -> bool {
        self.0.has_room()
    }

    /// Lets the other core see everything written so far. Returns whether there was anything new.
    pub fn publish(&mut self) -> bool {
        self.0.publish()
    }
}

impl Reader {
    /// The oldest message.
    pub fn oldest(&mut self) -> Option<Received<'_>> {
        let (kind, payload) = self.0.peek()?;
        let payload = NonNull::from(payload);
        Some(match kind {
            REQUEST => Received::Request(Record { consumer: &mut self.0, payload, head: PhantomData }),
            REPLY => Received::Reply(Record { consumer: &mut self.0, payload, head: PhantomData }),
            _ => {
                // SAFETY: only a `Writer` writes to the queue, and it makes records of three kinds. This one has such a box, which leaves
                // the queue with it: the record is popped and not read again.
                let handover = unsafe { payload.cast::<Box<Handover>>().read() };
                self.0.pop();
                Received::Handover(handover)
            }
        })
    }

    /// The commands that wait, from the oldest on, without taking any. For prefetching.
    pub fn requests_ahead(&mut self) -> impl Iterator<Item = Request<'_>> {
        self.0.ahead().filter(|&(kind, _)| kind == REQUEST).map(|(_, payload)| {
            let (head, rest) = payload.split_at(size_of::<RequestHead>());
            // SAFETY: a record of this kind begins with such a head, 8-byte aligned, which is there until its `Record` is dropped.
            read_request(unsafe { &*head.as_ptr().cast::<RequestHead>() }, rest)
        })
    }

    /// Gives the space of all messages that left back to the writer. Once a turn is enough.
    pub fn release(&mut self) {
        self.0.release();
    }

    /// Whether a message waits, looking at the shared position.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<H> Record<'_, H> {
    fn parts(&mut self) -> (&mut H, &mut [u8]) {
        // SAFETY: the payload of the oldest record, which stays where it is and is nobody else's until this value pops it.
        let (head, rest) = unsafe { self.payload.as_mut() }.split_at_mut(size_of::<H>());
        // SAFETY: `oldest` makes a record of the type whose kind `Writer` gave it; it is 8-byte aligned, and dropped with this value only.
        (unsafe { &mut *head.as_mut_ptr().cast::<H>() }, rest)
    }
}

impl Record<'_, RequestHead> {
    /// The command.
    pub fn request(&mut self) -> Request<'_> {
        let (head, rest) = self.parts();
        read_request(head, rest)
    }

    /// Leaves it where it is: it is still the oldest.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Record<'_, ReplyHead> {
    /// Takes the reply out.
    pub fn take(&mut self) -> (Ticket, ReplyBytes<'_>) {
        let (head, rest) = self.parts();
        let bytes = match head.carried.take() {
            Some(buffer) => ReplyBytes::Carried(buffer),
            None => ReplyBytes::Inline(&rest[..head.bytes as usize]),
        };
        (head.ticket, bytes)
    }
}

impl<H> Drop for Record<'_, H> {
    fn drop(&mut self) {
        // SAFETY: the head is there, and nobody comes to it again: its record is popped.
        unsafe { std::ptr::drop_in_place(self.parts().0) };
        self.consumer.pop();
    }
}

/// The command that a head and the bytes behind it tell of.
fn read_request<'a>(head: &'a RequestHead, rest: &'a [u8]) -> Request<'a> {
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
    let key = Key { bytes: key, hash: head.hash, encoding: head.key_encoding, has_hash_tag: head.key_tagged };
    Request {
        ticket: head.ticket,
        repeated_since: head.repeated_since,
        command: Command { key, verb: head.verb, value },
        framing: Framing { head: head.framing, words },
    }
}

/// Lets go of what a record holds that nobody has taken.
///
/// # Safety
/// - A `Writer` wrote the record, nobody took it, and nobody comes to it again.
unsafe fn dispose(kind: u32, payload: &mut [u8]) {
    let head = payload.as_mut_ptr();
    // SAFETY: the caller's promise; each kind begins with its type, 8-byte aligned.
    unsafe {
        match kind {
            REQUEST => std::ptr::drop_in_place(head.cast::<RequestHead>()),
            REPLY => std::ptr::drop_in_place(head.cast::<ReplyHead>()),
            _ => std::ptr::drop_in_place(head.cast::<Box<Handover>>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};

    use super::*;
    use crate::command::{Get, Store};
    use crate::protocol::Options;

    const TICKET: Ticket = Ticket { connection: 1, generation: 2, slot: 3, descriptor: 7 };

    fn framing(words: &[u8]) -> Framing<'_> {
        Framing { head: Head::Binary(Default::default()), words }
    }

    fn store(value: Value<'_>) -> Command<'_> {
        Command { key: Key::new(b"{a}key"), verb: Verb::Store(Store::default()), value }
    }

    fn oldest_request(reader: &mut Reader) -> Record<'_, RequestHead> {
        match reader.oldest() {
            Some(Received::Request(record)) => record,
            _ => panic!("no command"),
        }
    }

    #[test]
    fn a_command_arrives_as_it_was_sent_small_and_large() {
        let (mut writer, mut reader) = queue(QUEUE_BYTES_MIN);
        let sizes = [0usize, 5, 900, 3000, 4096, 16 << 10];
        let words = [b"v t".to_vec(), vec![b'w'; crate::limits::LINE_BYTES_MAX]];
        for (value_bytes, words) in sizes.into_iter().flat_map(|bytes| words.iter().map(move |words| (bytes, words))) {
            let value = vec![7u8; value_bytes];
            let command = store(Value::Bytes(&value));
            assert!(writer.request(TICKET, Version::from_bits(5), &command, &framing(words)));
            writer.publish();
            assert_eq!(reader.requests_ahead().map(|request| request.command.key.hash).collect::<Vec<_>>(), [command.key.hash]);
            // Left once, and then taken.
            oldest_request(&mut reader).leave();
            let mut record = oldest_request(&mut reader);
            let request = record.request();
            assert_eq!((request.ticket, request.repeated_since), (TICKET, Version::from_bits(5)));
            assert_eq!(request.command.key.bytes, b"{a}key");
            assert_eq!(request.command.key.hash, command.key.hash);
            assert_eq!(request.command.value.to_vec(), value);
            assert_eq!(request.framing.words, words);
            drop(record);
            assert!(reader.oldest().is_none() && reader.is_empty());
            reader.release();
        }
    }

    #[test]
    fn a_body_travels_by_reference_and_is_released() {
        let arena = crate::arena::Arena::new(1 << 20, 1 << 20, 1).unwrap();
        let body = Arc::new(Body::lease(&arena, 100_000).unwrap());
        let (mut writer, mut reader) = queue(4096);
        let command = Command { key: Key::new(b"k"), verb: Verb::Get(Get::default()), value: Value::Body(&body) };
        assert!(writer.request(TICKET, Version::from_bits(5), &command, &framing(b"")));
        writer.publish();
        let record = oldest_request(&mut reader);
        assert_eq!(Arc::strong_count(&body), 2);
        drop(record);
        assert_eq!(Arc::strong_count(&body), 1);
    }

    #[test]
    fn replies_come_back_inline_or_carried() {
        let (mut writer, mut reader) = queue(4096);
        for length in [0usize, 10, 900, 5000] {
            let mut buffer = Buffer::default();
            buffer.put(&vec![9u8; length]);
            assert!(writer.reply(TICKET, &mut buffer));
            writer.publish();
            let Some(Received::Reply(mut record)) = reader.oldest() else { panic!("no reply") };
            let (ticket, bytes) = record.take();
            assert_eq!(ticket.slot, 3);
            match bytes {
                ReplyBytes::Inline(bytes) => assert_eq!(bytes, vec![9u8; length]),
                ReplyBytes::Carried(buffer) => assert_eq!(buffer.bytes, vec![9u8; length]),
            }
            drop(record);
            reader.release();
        }
    }

    /// A connection, and its other end; a pipe, because Miri knows those.
    fn handover() -> (Box<Handover>, PipeReader) {
        let (theirs, ours) = pipe().unwrap();
        let session = Session::new(Options::default());
        let (fd, input) = (OwnedFd::from(ours), b"get k".to_vec());
        (Box::new(Handover { fd, session, input, peer: None, service: ServiceId::Clients, address: None }), theirs)
    }

    /// Symptom: bodies, replies and descriptors of a node that ended were never given back. Cause: the bytes of the records were freed, and
    /// what they own was not. Cure: the queue disposes of what nobody took.
    #[test]
    fn nothing_that_is_still_in_a_queue_leaks_when_both_ends_go() {
        let arena = crate::arena::Arena::new(1 << 20, 1 << 20, 1).unwrap();
        for writer_first in [true, false] {
            let body = Arc::new(Body::lease(&arena, 100_000).unwrap());
            let (mut writer, mut reader) = queue(4096);
            for round in 0..2 {
                assert!(writer.request(TICKET, Version::from_bits(5), &store(Value::Body(&body)), &framing(b"")));
                let mut reply = Buffer::default();
                reply.put_body(body.clone());
                assert!(writer.reply(TICKET, &mut reply));
                // The second round is not published.
                if round == 0 {
                    writer.publish();
                }
            }
            let (connection, mut client) = handover();
            assert!(writer.hand_over(connection).is_ok());
            assert_eq!(Arc::strong_count(&body), 5);
            drop(oldest_request(&mut reader));
            assert_eq!(Arc::strong_count(&body), 4);
            match writer_first {
                true => (drop(writer), drop(reader)),
                false => (drop(reader), drop(writer)),
            };
            assert_eq!(Arc::strong_count(&body), 1);
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the connection is closed");
        }
    }

    #[test]
    fn a_connection_moves_and_comes_back_where_there_is_no_room() {
        let (mut writer, mut reader) = queue(1024);
        let (connection, _client) = handover();
        assert!(writer.hand_over(connection).is_ok());
        writer.publish();
        let Some(Received::Handover(arrived)) = reader.oldest() else { panic!("no connection") };
        assert_eq!(arrived.input, b"get k");
        assert!(reader.oldest().is_none());
        while writer.reply(TICKET, &mut Buffer::default()) {}
        assert!(writer.hand_over(arrived).is_err());
    }
}

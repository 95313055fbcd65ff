//! Several commands in one frame, and several replies: one head, one look at the clock and one check of the view for all of them.
//!
//! ```text
//!   value of a BATCH:    | id | meta bytes | follows, value bytes | meta of an EXECUTE | value |  again and again
//!                         0    4            6                      8
//!   value of a REPLIES:  | id | bytes | reply |  again and again
//!                         0    4       6
//! ```
//!
//! The frame at the end of what waits to be sent stays open while more may be added to it: its head is written first, and mended with each.
//!
//! Lives here: open frames, their elements. Not here: what a command says (`commands`), what comes of one (`cluster`).

use super::{Execute, FrameError, HEAD_BYTES, Kind, Reader, Stamp, read_execute, write};
use crate::buffer::Buffer;
use crate::command::Value;
use crate::limits::INLINE_VALUE_BYTES_MAX;

/// Bytes in front of each command of a batch.
const COMMAND_HEAD_BYTES: usize = 8;
/// Bytes in front of each of several replies.
const REPLY_HEAD_BYTES: usize = 6;
/// Longest value of such a frame: it is received into the buffer that it is parsed from.
const BATCH_BYTES_MAX: usize = INLINE_VALUE_BYTES_MAX;
/// Commands or replies of one frame: answers of commands wait together where they cannot be sent.
pub const BATCH_COUNT_MAX: usize = 64;
/// `FLAG_FOLLOWS` of a command in a batch: the highest bit of the length of its value.
const ELEMENT_FOLLOWS: u16 = 1 << 15;

const _: () = assert!(BATCH_BYTES_MAX < ELEMENT_FOLLOWS as usize);

/// The frame at the end of what waits to be sent, while something may be added to it.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    start: usize,
    count: usize,
    sent_ms: u32,
    view: u32,
}

impl OpenFrame {
    fn begin(output: &mut Buffer, (kind, hops): (Kind, u8), stamp: Stamp) -> Self {
        let start = output.bytes.len();
        write(output, (kind, 0, hops, 0), stamp, Value::EMPTY, |_| {});
        Self { start, count: 0, sent_ms: stamp.sent_ms, view: stamp.view }
    }

    /// Whether so many bytes may be added: nothing else was written since, and the frame is not full.
    fn takes(&self, output: &Buffer, stamp: Stamp, element_bytes: usize) -> bool {
        let value_bytes = output.bytes.get(self.start + 4..self.start + 8).and_then(|bytes| bytes.try_into().ok());
        let value_bytes = value_bytes.map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes) as usize);
        value_bytes.checked_add(self.start + HEAD_BYTES) == Some(output.bytes.len())
            && value_bytes + element_bytes <= BATCH_BYTES_MAX
            && self.count < BATCH_COUNT_MAX
            && (self.sent_ms, self.view) == (stamp.sent_ms, stamp.view)
    }

    /// Mends the head after something was added.
    fn mend(&mut self, output: &mut Buffer, stamp: Stamp) {
        self.count += 1;
        let value_bytes = output.bytes.len() - self.start - HEAD_BYTES;
        let head = &mut output.bytes[self.start..self.start + HEAD_BYTES];
        head[4..8].copy_from_slice(&(value_bytes as u32).to_le_bytes());
        // What the sender has seen before the last of them, it has seen before the frame arrives.
        head[20..28].copy_from_slice(&stamp.clock.bits().to_le_bytes());
        head[28..36].copy_from_slice(&stamp.fence.bits().to_le_bytes());
    }
}

/// A `Batch` that is open.
#[derive(Clone, Copy, Debug)]
pub struct OpenBatch {
    frame: OpenFrame,
    hops: u8,
    life: u8,
}

impl OpenBatch {
    /// Begins a batch without commands behind what is there.
    pub fn begin(output: &mut Buffer, hops: u8, stamp: Stamp) -> Self {
        Self { frame: OpenFrame::begin(output, (Kind::Batch, hops), stamp), hops, life: stamp.life }
    }

    /// Whether a command of this length may be added: nothing else was written since, and the batch is not full.
    pub fn takes(&self, output: &Buffer, hops: u8, stamp: Stamp, element_bytes: usize) -> bool {
        (self.hops, self.life) == (hops, stamp.life) && self.frame.takes(output, stamp, element_bytes)
    }

    /// Adds a command: the meta of its `Execute`, and its value.
    pub fn push(&mut self, output: &mut Buffer, (id, follows): (u32, bool), stamp: Stamp, meta: &[u8], value: &[u8]) {
        let bytes = &mut output.bytes;
        let mark = if follows { ELEMENT_FOLLOWS } else { 0 };
        let mut head = [0; COMMAND_HEAD_BYTES];
        head[..4].copy_from_slice(&id.to_le_bytes());
        head[4..6].copy_from_slice(&(meta.len() as u16).to_le_bytes());
        head[6..].copy_from_slice(&(value.len() as u16 | mark).to_le_bytes());
        bytes.reserve(element_bytes(meta, value));
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(meta);
        bytes.extend_from_slice(value);
        self.frame.mend(output, stamp);
    }
}

/// Bytes of a command in a batch.
pub fn element_bytes(meta: &[u8], value: &[u8]) -> usize {
    COMMAND_HEAD_BYTES + meta.len() + value.len()
}

/// A command of a `Batch`.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// Chosen by the asking side.
    pub id: u32,
    /// See `FLAG_FOLLOWS`.
    pub follows: bool,
    /// The command.
    pub execute: Execute<'a>,
}

/// Takes the next command out of the value of a `Batch`; `None` at the end.
pub fn read_element<'a>(batch: &mut &'a [u8]) -> Result<Option<Element<'a>>, FrameError> {
    if batch.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(batch);
    let (id, meta_bytes, length) = (reader.u32()?, usize::from(reader.u16()?), reader.u16()?);
    let value_bytes = usize::from(length & !ELEMENT_FOLLOWS);
    let (meta, value) = (reader.take(meta_bytes)?, reader.take(value_bytes)?);
    *batch = reader.0;
    let (follows, execute) = (length & ELEMENT_FOLLOWS != 0, read_execute(meta, Value::Bytes(value))?);
    Ok(Some(Element { id, follows, execute }))
}

/// The `Replies` that commands of one batch are answered with, while more may be added.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenReplies(Option<OpenFrame>);

impl OpenReplies {
    /// Adds a reply: to the open frame, or to a new one behind what is there. False if it is too long for one; then nothing is written.
    pub fn push(&mut self, output: &mut Buffer, id: u32, stamp: Stamp, reply: &Buffer) -> bool {
        let element_bytes = REPLY_HEAD_BYTES + reply.bytes.len();
        if element_bytes > BATCH_BYTES_MAX / 4 || !reply.bodies.is_empty() {
            return false;
        }
        let open = self.0.take().filter(|frame| frame.takes(output, stamp, element_bytes));
        let mut frame = open.unwrap_or_else(|| OpenFrame::begin(output, (Kind::Replies, 0), stamp));
        let bytes = &mut output.bytes;
        let mut head = [0; REPLY_HEAD_BYTES];
        head[..4].copy_from_slice(&id.to_le_bytes());
        head[4..].copy_from_slice(&(reply.bytes.len() as u16).to_le_bytes());
        bytes.reserve(element_bytes);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&reply.bytes);
        frame.mend(output, stamp);
        self.0 = Some(frame);
        true
    }
}

/// Takes the next reply and the id of its command out of the value of a `Replies`; `None` at the end.
pub fn read_reply<'a>(replies: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, FrameError> {
    if replies.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(replies);
    let (id, bytes) = (reader.u32()?, usize::from(reader.u16()?));
    let reply = reader.take(bytes)?;
    *replies = reader.0;
    Ok(Some((id, reply)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Get, Verb};
    use crate::key::Key;
    use crate::peer::frame::{FRAMING_BYTES, Head, Horizon, write_execute};
    use crate::version::Version;

    /// The version that is written as this number.
    const fn v(bits: u64) -> Version {
        Version::from_bits(bits)
    }

    const NOW: Horizon = Horizon(v(1 << 40));

    #[test]
    fn a_batch_takes_commands_until_it_is_full_or_something_else_is_written() {
        let (mut meta, mut output) = (Vec::new(), Buffer::default());
        let command = Command { key: Key::new(b"k"), verb: Verb::Get(Get::default()), value: Value::EMPTY };
        write_execute(&command, [1; FRAMING_BYTES], b"words", &mut meta);
        let stamp = |clock| Stamp { clock: v(clock), fence: v(2), sent_ms: 3, ..Stamp::default() };
        let mut batch = OpenBatch::begin(&mut output, 1, stamp(4));
        for id in 0..BATCH_COUNT_MAX as u32 {
            assert!(batch.takes(&output, 1, stamp(5), element_bytes(&meta, b"value")));
            assert!(!batch.takes(&output, 2, stamp(5), 10) && !batch.takes(&output, 1, stamp(5), BATCH_BYTES_MAX + 1));
            batch.push(&mut output, (id, id % 3 == 0), stamp(5 + u64::from(id)), &meta, b"value");
        }
        assert!(!batch.takes(&output, 1, stamp(5), 10), "full");
        let head = Head::read(output.bytes.first_chunk().unwrap(), 1 << 20, NOW).unwrap();
        assert_eq!(
            (head.kind, head.clock, head.frame_bytes()),
            (Kind::Batch, v(4 + BATCH_COUNT_MAX as u64), output.bytes.len())
        );
        let mut rest = &output.bytes[HEAD_BYTES..];
        for wanted in 0..BATCH_COUNT_MAX as u32 {
            let Element { id, follows, execute } = read_element(&mut rest).unwrap().unwrap();
            assert_eq!((id, follows, execute.command.key.bytes), (wanted, wanted % 3 == 0, &b"k"[..]));
            assert_eq!(execute.words, b"words");
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
    fn replies_go_together_until_something_else_is_written() {
        let (mut output, mut replies) = (Buffer::default(), OpenReplies::default());
        let reply = |text: &[u8]| Buffer { bytes: text.to_vec(), bodies: Vec::new() };
        let stamp = |clock| Stamp { clock: v(clock), fence: v(2), sent_ms: 3, ..Stamp::default() };
        for id in 0..BATCH_COUNT_MAX as u32 {
            assert!(replies.push(&mut output, id, stamp(5 + u64::from(id)), &reply(b"END\r\n")));
        }
        let full = output.bytes.len();
        assert!(replies.push(&mut output, 64, stamp(90), &reply(b"")));
        let head = |at: usize| Head::read(output.bytes[at..].first_chunk().unwrap(), 1 << 20, NOW).unwrap();
        assert_eq!((head(0).kind, head(0).clock, head(0).frame_bytes()), (Kind::Replies, v(68), full));
        assert_eq!((head(full).clock, head(full).value_bytes), (v(90), REPLY_HEAD_BYTES));
        let mut rest = &output.bytes[HEAD_BYTES..full];
        for wanted in 0..BATCH_COUNT_MAX as u32 {
            assert_eq!(read_reply(&mut rest).unwrap(), Some((wanted, &b"END\r\n"[..])));
        }
        assert_eq!(read_reply(&mut rest).unwrap(), None);
        for end in HEAD_BYTES + 1..HEAD_BYTES + REPLY_HEAD_BYTES + 5 {
            assert!(read_reply(&mut &output.bytes[HEAD_BYTES..end]).is_err(), "cut at {end}");
        }
        let before = output.bytes.len();
        assert!(!replies.push(&mut output, 65, stamp(91), &reply(&[0; BATCH_BYTES_MAX / 4])), "too long");
        assert_eq!(output.bytes.len(), before);
        write(&mut output, (Kind::Done, 0, 0, 9), stamp(91), Value::EMPTY, |_| {});
        let other = output.bytes.len();
        assert!(replies.push(&mut output, 66, stamp(92), &reply(b"x")));
        let head = Head::read(output.bytes[other..].first_chunk().unwrap(), 1 << 20, NOW).unwrap();
        assert_eq!((head.kind, head.clock, head.value_bytes), (Kind::Replies, v(92), REPLY_HEAD_BYTES + 1));
    }
}

//! The replies of one conversation that wait for their turn, because one before them comes from another core.
//!
//! ```text
//!   slots:  | Ready | Waiting (core 1) | Ready | Waiting (core 2) | Ready |      stash: bytes of the ready ones
//!             ^ first                                               ^ end of the group: sent together, once none of it waits
//! ```
//!
//! Replies go out in groups: what one received batch asked for. Sending the ready ones ahead would cost a second send, and a client
//! that answers each piece with its next requests would ask in ever smaller pieces.
//!
//! Several answers may be parts of one (`DEL a b c`): they are gathered when their turn has come, and the last one lets the sum go out.
//!
//! Lives here: order, grouping, the bytes kept meanwhile. Not here: what is asked and of whom (`connection`).

use std::collections::VecDeque;

use super::mesh::record::ReplyBytes;
use crate::buffer::Buffer;
use crate::command::Reply;
use crate::latency::Kind;
use crate::limits;
use crate::protocol::resp::{Gathered, Part};
use crate::protocol::{self, Framing};

/// Replies in the order of their requests, from the first that is not there yet.
#[derive(Default)]
pub struct Replies {
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    first: u32,
    /// Bytes of the replies that are ready before their turn.
    stash: Vec<u8>,
    /// Slots that wait.
    waiting: u32,
    /// Number of the slot behind the group that goes out next.
    group_end: u32,
    /// Slots that wait, of that group.
    group_waiting: u32,
    /// The parts so far of an answer whose last part has not had its turn.
    gathered: Gathered,
    /// Length of recent replies from other cores, in bytes: the larger of the last one and a decaying memory.
    recent_bytes: usize,
}

/// A request that was sent elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What it is.
    pub kind: Kind,
    /// Upper half of its key's routing hash.
    pub hash: u32,
    /// When its turn began, in nanoseconds.
    pub ns: u64,
}

enum Slot {
    /// For the answer to a request; to what was asked of the control plane otherwise.
    Waiting(Option<Sent>, Option<Part>),
    /// A range of `stash`.
    Ready { start: usize, end: usize, part: Option<Part> },
    /// A large reply, or one with bodies.
    Carried(Box<Buffer>),
}

impl Replies {
    /// Whether nothing waits: a reply may go straight to the output.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether some parts of an answer are here, and not all.
    pub fn are_gathering(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// Takes a part back that was just written behind `start`; with the last one, the answer stands there.
    pub fn gather(&mut self, part: Part, start: usize, output: &mut Buffer) {
        self.gathered.take(part, start, output);
    }

    /// Whether the replies under way fill the output already: their number is bounded, and so is their expected length.
    pub fn are_enough(&self) -> bool {
        let count = self.slots.len();
        count >= limits::REPLIES_WAITING_MAX
            || (count >= limits::REPLIES_WAITING_MIN && count * self.recent_bytes >= limits::OUTPUT_TURN_BYTES_MAX)
    }

    /// Number that the next slot will have.
    pub fn next_slot(&self) -> u32 {
        self.first.wrapping_add(self.slots.len() as u32)
    }

    /// Adds a slot for a reply that will come from elsewhere.
    pub fn push_waiting(&mut self, sent: Option<Sent>, part: Option<Part>) {
        self.slots.push_back(Slot::Waiting(sent, part));
        self.waiting += 1;
    }

    /// Keeps a reply whose turn has not come.
    pub fn push(&mut self, framing: &Framing<'_>, key: &[u8], reply: &Reply<'_>) {
        let start = self.stash.len();
        let mut buffer = Buffer { bytes: std::mem::take(&mut self.stash), bodies: Vec::new() };
        protocol::encode(framing, key, reply, &mut buffer);
        let slot = if buffer.bodies.is_empty() {
            Slot::Ready { start, end: buffer.bytes.len(), part: framing.head.part() }
        } else {
            let bytes = buffer.bytes.split_off(start);
            buffer.bodies.iter_mut().for_each(|inset| inset.offset -= start);
            Slot::Carried(Box::new(Buffer { bytes, bodies: std::mem::take(&mut buffer.bodies) }))
        };
        self.stash = buffer.bytes;
        self.slots.push_back(slot);
    }

    /// Puts a piece of a long answer ahead of its end, which the first slot waits for.
    pub fn push_part(&mut self, bytes: Vec<u8>) {
        self.push_front(Slot::Carried(Box::new(Buffer { bytes, bodies: Vec::new() })));
    }

    fn push_front(&mut self, slot: Slot) {
        self.first = self.first.wrapping_sub(1);
        self.slots.push_front(slot);
    }

    /// Puts a reply from elsewhere into its slot. `flush` moves it on. Tells what the slot was made with.
    pub fn fill(&mut self, number: u32, reply: ReplyBytes<'_>) -> Option<Sent> {
        let index = number.wrapping_sub(self.first) as usize;
        let Some(slot) = self.slots.get_mut(index) else {
            debug_assert!(false, "a reply for a slot that is not there");
            return None;
        };
        let Slot::Waiting(sent, part) = *slot else {
            debug_assert!(false, "a reply that nobody waits for");
            return None;
        };
        let length = match &reply {
            ReplyBytes::Inline(bytes) => bytes.len(),
            ReplyBytes::Carried(buffer) => buffer.total_bytes(),
        };
        self.recent_bytes = length.max(self.recent_bytes - self.recent_bytes / 8);
        *slot = match reply {
            ReplyBytes::Inline(bytes) => {
                let start = self.stash.len();
                self.stash.extend_from_slice(bytes);
                Slot::Ready { start, end: self.stash.len(), part }
            }
            // A part is a number or a line.
            ReplyBytes::Carried(buffer) if part.is_some() => {
                let start = self.stash.len();
                self.stash.extend_from_slice(&buffer.bytes);
                Slot::Ready { start, end: self.stash.len(), part }
            }
            ReplyBytes::Carried(buffer) => Slot::Carried(buffer),
        };
        self.waiting -= 1;
        // Wrapping: numbers before the end of the group are "negative".
        if (number.wrapping_sub(self.group_end) as i32) < 0 {
            self.group_waiting -= 1;
        }
        sent
    }

    /// A received batch has ended. What it put into `output`, from `bytes_start` and `bodies_start` on, is taken back if the rest of
    /// the batch waits and the piece is small.
    pub fn close_batch(&mut self, output: &mut Buffer, bytes_start: usize, bodies_start: usize) {
        if self.waiting == 0 || self.group_waiting > 0 {
            return;
        }
        let piece = output.bytes.len() - bytes_start;
        if piece > 0 && piece <= limits::REPLIES_GROUPED_BYTES_MAX && output.bodies.len() == bodies_start {
            let start = self.stash.len();
            self.stash.extend_from_slice(&output.bytes[bytes_start..]);
            output.bytes.truncate(bytes_start);
            self.push_front(Slot::Ready { start, end: self.stash.len(), part: None });
        }
        self.open_group();
    }

    /// What is there now goes out together.
    fn open_group(&mut self) {
        self.group_end = self.next_slot();
        self.group_waiting = self.waiting;
    }

    /// Moves the replies whose turn has come to the output.
    pub fn flush(&mut self, output: &mut Buffer) {
        if self.group_waiting > 0 && self.stash.len() <= limits::REPLIES_GROUPED_BYTES_MAX {
            return;
        }
        self.flush_ready(output);
    }

    /// Moves what is ready to the output, whether or not it is the whole group.
    pub fn flush_ready(&mut self, output: &mut Buffer) {
        while let Some(slot) = self.slots.front_mut() {
            match slot {
                Slot::Waiting(..) => {
                    if self.group_waiting == 0 {
                        self.open_group();
                    }
                    return;
                }
                &mut Slot::Ready { start, end, part: None } => output.put(&self.stash[start..end]),
                &mut Slot::Ready { start, end, part: Some(part) } => {
                    self.gathered.add(&self.stash[start..end]);
                    self.gathered.finish(part, output);
                }
                Slot::Carried(buffer) => output.append(buffer),
            }
            self.slots.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        self.stash.clear();
        if self.stash.capacity() > limits::STASH_KEPT_BYTES_MAX {
            self.stash = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(bytes: &[u8]) -> ReplyBytes<'_> {
        ReplyBytes::Inline(bytes)
    }

    fn flushed(replies: &mut Replies) -> String {
        let mut output = Buffer::default();
        replies.flush(&mut output);
        String::from_utf8(output.flatten()).unwrap()
    }

    #[test]
    fn a_batch_goes_out_together_once_none_of_it_waits() {
        let mut replies = Replies::default();
        let mut output = Buffer::default();
        output.put(b"before ");
        output.put(b"a ");
        let (b, c) = (replies.next_slot(), replies.next_slot() + 1);
        replies.push_waiting(None, None);
        replies.push_waiting(None, None);
        replies.close_batch(&mut output, 7, 0);
        assert_eq!(output.bytes, b"before ", "what others put there stays");
        // Numbers do not change when the piece that was taken back goes in front.
        replies.fill(c, ready(b"c "));
        assert_eq!(flushed(&mut replies), "");
        // The next batch is a group of its own, and does not delay the first.
        let d = replies.next_slot();
        replies.push_waiting(None, None);
        replies.close_batch(&mut Buffer::default(), 0, 0);
        replies.fill(b, ready(b"b "));
        assert_eq!(flushed(&mut replies), "a b c ");
        assert_eq!(flushed(&mut replies), "");
        replies.fill(d, ready(b"d "));
        assert_eq!(flushed(&mut replies), "d ");
        assert!(replies.is_empty());
    }

    #[test]
    fn a_large_piece_is_not_held_back() {
        let mut replies = Replies::default();
        let mut output = Buffer::default();
        output.put(&vec![b'x'; limits::REPLIES_GROUPED_BYTES_MAX + 1]);
        let (first, second) = (replies.next_slot(), replies.next_slot() + 1);
        replies.push_waiting(None, None);
        replies.push_waiting(None, None);
        replies.close_batch(&mut output, 0, 0);
        assert_eq!(output.bytes.len(), limits::REPLIES_GROUPED_BYTES_MAX + 1);
        replies.fill(first, ready(&vec![b'y'; limits::REPLIES_GROUPED_BYTES_MAX + 1]));
        assert_eq!(flushed(&mut replies).len(), limits::REPLIES_GROUPED_BYTES_MAX + 1);
        replies.fill(second, ready(b"z"));
        assert_eq!(flushed(&mut replies), "z");
    }

    #[test]
    fn parts_of_an_answer_go_out_as_one_whichever_comes_last() {
        let part = |last| Some(Part { sums: true, last });
        for error in [false, true] {
            let mut replies = Replies::default();
            let first = replies.next_slot();
            (0..3).for_each(|index| replies.push_waiting(None, part(index == 2)));
            replies.push_waiting(None, None);
            replies.close_batch(&mut Buffer::default(), 0, 0);
            replies.fill(first + 2, ready(b":1\r\n"));
            replies.fill(first, ready(if error { b"-ERR first\r\n" } else { b":1\r\n" }));
            replies.fill(first + 3, ready(b"next"));
            assert!(!replies.are_gathering());
            assert_eq!(flushed(&mut replies), "");
            replies.fill(first + 1, ready(if error { b"-ERR second\r\n" } else { b":1\r\n" }));
            assert_eq!(flushed(&mut replies), if error { "-ERR first\r\nnext" } else { ":3\r\nnext" });
            // At once, where nothing waits.
            let mut output = Buffer::default();
            for (index, last) in [false, true].into_iter().enumerate() {
                assert_eq!(replies.are_gathering(), index > 0);
                output.put(b"+OK\r\n");
                replies.gather(Part { sums: false, last }, 0, &mut output);
            }
            assert_eq!(output.bytes, b"+OK\r\n");
        }
    }

    #[test]
    fn numbers_wrap() {
        let mut replies = Replies { first: u32::MAX - 1, group_end: u32::MAX - 1, ..Replies::default() };
        for round in 0..4 {
            let numbers: Vec<u32> = (0..3)
                .map(|_| {
                    let number = replies.next_slot();
                    replies.push_waiting(None, None);
                    number
                })
                .collect();
            replies.close_batch(&mut Buffer::default(), 0, 0);
            for (index, number) in numbers.iter().enumerate().rev() {
                assert_eq!(flushed(&mut replies), "", "round {round}");
                replies.fill(*number, ready(&[b'a' + index as u8]));
            }
            assert_eq!(flushed(&mut replies), "abc");
        }
    }
}

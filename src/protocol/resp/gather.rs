//! Answers that a client gets as one: `DEL a b c` is three commands, perhaps of three cores, and one number.
//!
//! ```text
//!   :1\r\n  :0\r\n  :1\r\n        ->  :2\r\n
//!   +OK\r\n -OOM ...\r\n +OK\r\n  ->  -OOM ...\r\n       the first error
//! ```
//!
//! Lives here: the parts so far. Not here: whose turn it is (`runtime::replies`), which answers are parts (`answer::Part`).

use super::answer::{Part, put_integer};
use super::wire;
use crate::buffer::Buffer;

/// Parts of one answer, in the order of their keys.
#[derive(Debug, Default)]
pub struct Gathered {
    count: u32,
    sum: i64,
    /// The first error among them.
    error: Option<Vec<u8>>,
}

impl Gathered {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes a part back that was just written behind `start` of the output; with the last one, the answer stands there.
    pub fn take(&mut self, part: Part, start: usize, output: &mut Buffer) {
        self.add(&output.bytes[start..]);
        output.bytes.truncate(start);
        self.finish(part, output);
    }

    /// Adds the bytes of a part, as they were written.
    pub fn add(&mut self, bytes: &[u8]) {
        self.count += 1;
        match bytes {
            [b':', digits @ .., b'\r', b'\n'] => self.sum += wire::number(digits).unwrap_or(0),
            [b'-', ..] if self.error.is_none() => self.error = Some(bytes.to_vec()),
            _ => {}
        }
    }

    /// Writes the answer, if this part was the last.
    pub fn finish(&mut self, part: Part, output: &mut Buffer) {
        if !part.last {
            return;
        }
        match std::mem::take(self) {
            Self { error: Some(line), .. } => output.put(&line),
            Self { sum, .. } if part.sums => put_integer(sum, output),
            _ => output.put(b"+OK\r\n"),
        }
    }
}

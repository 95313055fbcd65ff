//! Bytes without meaning: so many out, so many back. The client's half of `loadgen echo`.

use super::{Answer, Step};

/// Sizes of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    /// Bytes of a request.
    pub request_bytes: usize,
    /// Bytes of an answer.
    pub reply_bytes: usize,
}

impl Raw {
    /// Appends a request.
    pub fn request(&self, output: &mut Vec<u8>) {
        output.resize(output.len() + self.request_bytes, b'q');
    }

    /// An answer is over when its bytes are there.
    pub fn step<'a>(&self, input: &'a [u8]) -> Step<'a> {
        if input.len() < self.reply_bytes {
            return Step::Incomplete;
        }
        Step::Done { consumed: self.reply_bytes, answer: Answer::Ok }
    }
}

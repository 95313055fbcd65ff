//! Bytes on their way out: what `encode` writes to.
//!
//! ```text
//!   bytes:  | header | \r\n | header | value | \r\n |
//!                   ^ body 0 goes here: sent from where it lies, not copied
//! ```
//!
//! Lives here: the byte vector and the list of large bodies between its bytes. Not here: sockets, connections.

use std::ops::Range;
use std::sync::Arc;

use crate::arena::Body;
use crate::command::Value;

/// Output bytes with large values in between.
#[derive(Default)]
pub struct Buffer {
    /// Everything but the large bodies, in order.
    pub bytes: Vec<u8>,
    /// Large values: each is sent when the bytes before its `offset` have been.
    pub bodies: Vec<Inset>,
}

/// A large value, or a part of one, that goes out at `offset` of the bytes.
pub struct Inset {
    /// Position in `Buffer::bytes` before which the body goes.
    pub offset: usize,
    /// The value, pinned for as long as this lives.
    pub body: Arc<Body>,
    /// Which of its bytes.
    pub range: Range<usize>,
}

impl Inset {
    /// How many bytes go out.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether none do.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Their pieces.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.body.slices_of(self.range.clone())
    }
}

impl Buffer {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), bodies: Vec::new() }
    }

    /// Appends bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a value; a large one without copying it. A dropped one has no bytes.
    #[inline]
    pub fn put_value(&mut self, value: Value<'_>) {
        if let Value::Bytes(bytes) = value { self.put(bytes) } else { self.put_long(value) }
    }

    /// Apart, so that the way of a short value stays short.
    #[inline(never)]
    fn put_long(&mut self, value: Value<'_>) {
        match value {
            Value::Body(body) => self.put_body(body.clone()),
            value => value.each_slice(|slice| self.put(slice)),
        }
    }

    /// Appends a large value without copying it.
    pub fn put_body(&mut self, body: Arc<Body>) {
        let range = 0..body.len();
        self.bodies.push(Inset { offset: self.bytes.len(), body, range });
    }

    /// Appends a part of a value, of a large one without copying it. The range lies within the value.
    pub fn put_part(&mut self, value: Value<'_>, range: Range<usize>) {
        if let Value::Body(body) = value {
            return self.bodies.push(Inset { offset: self.bytes.len(), body: body.clone(), range });
        }
        let mut at = 0;
        value.each_slice(|slice| {
            let within = |place: usize| place.saturating_sub(at).min(slice.len());
            self.put(&slice[within(range.start)..within(range.end)]);
            at += slice.len();
        });
    }

    /// Moves another buffer's content behind this one's.
    pub fn append(&mut self, other: &mut Buffer) {
        let start = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.bodies.extend(other.bodies.drain(..).map(|inset| Inset { offset: start + inset.offset, ..inset }));
    }

    /// Appends a number in decimal. About 3 ns.
    #[inline]
    pub fn put_number(&mut self, mut number: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        // A CAS has 19 digits: two at a time.
        while number >= 100 {
            at -= 2;
            let pair = (number % 100) as u8;
            (digits[at], digits[at + 1]) = (b'0' + pair / 10, b'0' + pair % 10);
            number /= 100;
        }
        if number >= 10 {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        at -= 1;
        digits[at] = b'0' + number as u8;
        self.bytes.extend_from_slice(&digits[at..]);
    }

    /// Total length with the bodies, in bytes.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len() + self.bodies.iter().map(Inset::len).sum::<usize>()
    }

    /// Empties the buffer and keeps its capacity. Unpins the bodies.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bodies.clear();
    }

    /// The whole output as one vector, bodies copied in. For tests and for doors that cannot send in parts.
    pub fn flatten(&self) -> Vec<u8> {
        let mut flat = Vec::with_capacity(self.total_bytes());
        let mut from = 0;
        for inset in &self.bodies {
            flat.extend_from_slice(&self.bytes[from..inset.offset]);
            from = inset.offset;
            inset.slices().for_each(|slice| flat.extend_from_slice(slice));
        }
        flat.extend_from_slice(&self.bytes[from..]);
        flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_in_decimal() {
        for number in [0, 9, 10, 12345, u64::MAX] {
            let mut buffer = Buffer::default();
            buffer.put_number(number);
            assert_eq!(buffer.bytes, number.to_string().into_bytes());
        }
    }
}

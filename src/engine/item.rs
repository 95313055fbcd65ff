//! The bytes of one item in a segment.
//!
//! ```text
//!   0         8        12     16      18
//!   | version | expiry | word | marks | client flags 4 B if not 0 | CAS 8 B if set by a client | key | value | 0..1 B |
//!
//!   word  = value length 20 bits | key length 8 bits | has client flags 1 | has CAS 1 | value is an extent 1 | tombstone 1
//!   marks = stale 1 | token sent 1 | seconds from writing to last use 14 bits
//! ```
//!
//! 18 bytes and what is set. The time of writing is the version's own; the last use is kept relative to it: exact for the first 68
//! minutes, then in steps of 4 s to 5.7 hours, 16 s to a day, 128 s to a week, beyond which it stays there. In place of a value that
//! is an extent of the log stand the 4-byte number of the extent, those of its pages if it has any, and what is behind them.
//!
//! Key lengths above 250 are free: 255 is kept for records with more fields (a type, a longer key), which cost those without nothing.
//!
//! Lives here: the layout, reading and writing it. Not here: where records lie (`segment`), the index, what a command means.

use crate::time::{Expiry, Seconds};
use crate::version::Version;

/// What is fixed about a record before it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub key_bytes: usize,
    /// Bytes in the record: the value, or what stands for it.
    pub value_bytes: usize,
    pub client_flags: u32,
    pub cas_override: Option<u64>,
    /// The value is an extent of the log.
    pub extended: bool,
    /// The key was deleted: nothing to read, but older copies from elsewhere must not come back.
    pub tombstone: bool,
}

/// What changes about a record while it lies there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub version: Version,
    pub expiry: Expiry,
    pub stale: bool,
    pub token_sent: bool,
}

impl Shape {
    /// Bytes from the start of the record to its value.
    #[inline]
    pub fn value_offset(&self) -> usize {
        let flags_bytes = if self.client_flags == 0 { 0 } else { 4 };
        let cas_bytes = if self.cas_override.is_some() { 8 } else { 0 };
        HEADER_BYTES + flags_bytes + cas_bytes + self.key_bytes
    }

    /// Bytes of the record, padding included.
    #[inline]
    pub fn record_bytes(&self) -> usize {
        padded(self.value_offset() + self.value_bytes)
    }

    /// Writes everything but the value to the front of `record`.
    #[inline]
    pub fn write(&self, record: &mut [u8], key: &[u8], stamp: Stamp) {
        debug_assert!(key.len() == self.key_bytes && self.value_bytes <= VALUE_BYTES_MAX);
        let word = self.value_bytes as u32
            | (self.key_bytes as u32) << KEY_SHIFT
            | if self.client_flags != 0 { FLAGS_BIT } else { 0 }
            | if self.cas_override.is_some() { CAS_BIT } else { 0 }
            | if self.extended { EXTENT_BIT } else { 0 }
            | if self.tombstone { TOMBSTONE_BIT } else { 0 };
        record[8..12].copy_from_slice(&stamp.expiry.0.to_le_bytes());
        record[12..16].copy_from_slice(&word.to_le_bytes());
        record[..8].copy_from_slice(&stamp.version.bits().to_le_bytes());
        record[16..18].copy_from_slice(&marks(stamp, 0).to_le_bytes());
        let mut at = HEADER_BYTES;
        if self.client_flags != 0 {
            record[at..at + 4].copy_from_slice(&self.client_flags.to_le_bytes());
            at += 4;
        }
        if let Some(cas) = self.cas_override {
            record[at..at + 8].copy_from_slice(&cas.to_le_bytes());
            at += 8;
        }
        record[at..at + key.len()].copy_from_slice(key);
    }
}

/// A record as it lies in a segment.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record in exactly these bytes.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        debug_assert_eq!(bytes.len(), size(bytes));
        Self { bytes }
    }

    /// Length with padding.
    #[inline]
    pub fn record_bytes(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn word(&self) -> u32 {
        u32_at(self.bytes, 12)
    }

    #[inline]
    fn marks(&self) -> u16 {
        u16::from_le_bytes([self.bytes[16], self.bytes[17]])
    }

    #[inline]
    pub fn version(&self) -> Version {
        Version::from_bits(u64_at(self.bytes, 0))
    }

    #[inline]
    pub fn expiry(&self) -> Expiry {
        Expiry(u32_at(self.bytes, 8))
    }

    #[inline]
    pub fn stale(&self) -> bool {
        self.marks() & STALE_BIT != 0
    }

    #[inline]
    pub fn token_sent(&self) -> bool {
        self.marks() & TOKEN_BIT != 0
    }

    #[inline]
    pub fn stamp(&self) -> Stamp {
        Stamp { version: self.version(), expiry: self.expiry(), stale: self.stale(), token_sent: self.token_sent() }
    }

    /// Whether the value is an extent of the log.
    #[inline]
    pub fn is_extended(&self) -> bool {
        self.word() & EXTENT_BIT != 0
    }

    /// Whether the record only says that its key was deleted.
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        self.word() & TOMBSTONE_BIT != 0
    }

    #[inline]
    fn key_offset(&self) -> usize {
        let word = self.word();
        HEADER_BYTES + if word & FLAGS_BIT != 0 { 4 } else { 0 } + if word & CAS_BIT != 0 { 8 } else { 0 }
    }

    #[inline]
    pub fn key(&self) -> &'a [u8] {
        let start = self.key_offset();
        &self.bytes[start..start + (self.word() >> KEY_SHIFT & KEY_MASK) as usize]
    }

    /// The value, or what stands for it.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        let word = self.word();
        let start = self.key_offset() + (word >> KEY_SHIFT & KEY_MASK) as usize;
        &self.bytes[start..start + (word & VALUE_MASK) as usize]
    }

    /// The number of the value's extent; only for a record that `is_extended`.
    pub fn extent_id(&self) -> u32 {
        debug_assert!(self.is_extended());
        u32_at(self.value(), 0)
    }

    #[inline]
    pub fn client_flags(&self) -> u32 {
        if self.word() & FLAGS_BIT != 0 { u32_at(self.bytes, HEADER_BYTES) } else { 0 }
    }

    /// The CAS that a client set instead of the version.
    #[inline]
    pub fn cas_override(&self) -> Option<u64> {
        let word = self.word();
        let at = HEADER_BYTES + if word & FLAGS_BIT != 0 { 4 } else { 0 };
        (word & CAS_BIT != 0).then(|| u64_at(self.bytes, at))
    }

    /// What clients see as CAS.
    #[inline]
    pub fn cas(&self) -> u64 {
        self.cas_override().unwrap_or(self.version().bits())
    }

    /// The shape that this record has.
    pub fn shape(&self) -> Shape {
        Shape {
            key_bytes: self.key().len(),
            value_bytes: self.value().len(),
            client_flags: self.client_flags(),
            cas_override: self.cas_override(),
            extended: self.is_extended(),
            tombstone: self.is_tombstone(),
        }
    }

    /// Seconds since the last use.
    #[inline]
    pub fn idle_s(&self, now: Seconds) -> u32 {
        idle_s(self.bytes, now)
    }

    /// Whether the item is out of its time, or from before a flush.
    #[inline]
    pub fn unreadable(&self, now: Seconds, fence: Version) -> bool {
        self.expiry().expired(now) || self.version() < fence
    }
}

/// Length of the record that starts with these bytes (at least the header).
#[inline]
pub(super) fn size(bytes: &[u8]) -> usize {
    let word = u32_at(bytes, 12);
    let optional = if word & FLAGS_BIT != 0 { 4 } else { 0 } + if word & CAS_BIT != 0 { 8 } else { 0 };
    padded(HEADER_BYTES + optional + (word >> KEY_SHIFT & KEY_MASK) as usize + (word & VALUE_MASK) as usize)
}

/// Writes a new stamp over a record; the last use becomes the time of `version`.
#[inline]
pub(super) fn restamp(record: &mut [u8], stamp: Stamp) {
    record[..8].copy_from_slice(&stamp.version.bits().to_le_bytes());
    record[8..12].copy_from_slice(&stamp.expiry.0.to_le_bytes());
    record[16..18].copy_from_slice(&marks(stamp, 0).to_le_bytes());
}

/// Whether a header tells of nothing that a client may see: out of its time, from before a flush, or a tombstone.
#[inline]
pub(super) fn hidden(header: &[u8], now: Seconds, fence: Version) -> bool {
    Expiry(u32_at(header, 8)).expired(now)
        || Version::from_bits(u64_at(header, 0)) < fence
        || u32_at(header, 12) & TOMBSTONE_BIT != 0
}

/// Whether a header has a mark that meta commands look at.
#[inline]
pub(super) fn is_marked(header: &[u8]) -> bool {
    header[16] & (STALE_BIT | TOKEN_BIT) as u8 != 0
}

/// Seconds since the last use that a header tells of.
#[inline]
pub(super) fn idle_s(header: &[u8], now: Seconds) -> u32 {
    let code = u16::from_le_bytes([header[16], header[17]]) >> TIME_SHIFT;
    now.0.saturating_sub(written(header).0.saturating_add(seconds_of(code)))
}

/// Sets the expiry and nothing else.
#[inline]
pub(super) fn set_expiry(record: &mut [u8], expiry: Expiry) {
    record[8..12].copy_from_slice(&expiry.0.to_le_bytes());
}

/// Marks that one client was told to fill the item.
pub(super) fn set_token_sent(record: &mut [u8]) {
    record[16] |= TOKEN_BIT as u8;
}

/// Notes a use at `now`. Writes only when the second has changed, so that a hot item's line stays clean.
#[inline]
pub(super) fn used(record: &mut [u8], now: Seconds) {
    let before = u16::from_le_bytes([record[16], record[17]]);
    let age_s = now.0.saturating_sub(written(record).0);
    let after = before & ((1 << TIME_SHIFT) - 1) | code_of(age_s) << TIME_SHIFT;
    if before != after {
        record[16..18].copy_from_slice(&after.to_le_bytes());
    }
}

/// The second in which a record was written.
#[inline]
fn written(header: &[u8]) -> Seconds {
    Version::from_bits(u64_at(header, 0)).given_at().seconds()
}

fn marks(stamp: Stamp, code: u16) -> u16 {
    (u16::from(stamp.stale) * STALE_BIT) | (u16::from(stamp.token_sent) * TOKEN_BIT) | (code << TIME_SHIFT)
}

/// 14 bits for a span of seconds: 2 for the length of a step, 12 to count steps.
#[inline]
fn code_of(seconds: u32) -> u16 {
    if seconds < SCALE_STEPS {
        return seconds as u16;
    }
    let (mut start, mut scale) = (SCALE_STEPS, 1);
    while scale < SCALES_MAX && seconds - start >= SCALE_STEPS << SCALE_SHIFTS[scale] {
        start += SCALE_STEPS << SCALE_SHIFTS[scale];
        scale += 1;
    }
    (((seconds - start) >> SCALE_SHIFTS[scale]).min(SCALE_STEPS - 1) + scale as u32 * SCALE_STEPS) as u16
}

/// The least span that has this code.
#[inline]
fn seconds_of(code: u16) -> u32 {
    if u32::from(code) < SCALE_STEPS {
        return u32::from(code);
    }
    let (scale, steps) = (u32::from(code) / SCALE_STEPS, u32::from(code) % SCALE_STEPS);
    let start: u32 = (0..scale as usize).map(|below| SCALE_STEPS << SCALE_SHIFTS[below]).sum();
    start + (steps << SCALE_SHIFTS[scale as usize])
}

#[inline]
pub(super) const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(UNIT_BYTES)
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[at..at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = &bytes[at..at + 8];
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// Bytes of every record before its optional fields.
pub(super) const HEADER_BYTES: usize = 18;
/// Bytes of an extent's number in a record.
pub(super) const EXTENT_ID_BYTES: usize = 4;
/// Records start and end at multiples of this.
pub(super) const UNIT_BYTES: usize = 2;
/// Longest value in a record.
pub(super) const VALUE_BYTES_MAX: usize = (1 << 20) - 1;

const VALUE_MASK: u32 = (1 << 20) - 1;
const KEY_SHIFT: u32 = 20;
const KEY_MASK: u32 = 0xff;
const FLAGS_BIT: u32 = 1 << 28;
const CAS_BIT: u32 = 1 << 29;
const EXTENT_BIT: u32 = 1 << 30;
const TOMBSTONE_BIT: u32 = 1 << 31;
const STALE_BIT: u16 = 1;
const TOKEN_BIT: u16 = 2;
const TIME_SHIFT: u32 = 2;
const SCALE_STEPS: u32 = 1 << 12;
/// Logarithms of the steps' lengths in seconds.
const SCALE_SHIFTS: [u32; 4] = [0, 2, 4, 7];
const SCALES_MAX: usize = SCALE_SHIFTS.len() - 1;

/// Instead of the key's length, of a record with more fields than these. None is written so far.
const EXTENDED_KEY_LENGTH: usize = KEY_MASK as usize;

const _: () = assert!(crate::limits::KEY_BYTES_MAX < EXTENDED_KEY_LENGTH);
const _: () = assert!(crate::limits::SEGMENT_BYTES_MAX / 2 <= VALUE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn what_is_written_is_read_again_whatever_fields_are_set() {
        for client_flags in [0, 7] {
            for cas_override in [None, Some(9)] {
                for value in [&b""[..], b"v", b"value of some length"] {
                    let shape =
                        Shape { key_bytes: 3, value_bytes: value.len(), client_flags, cas_override, ..Shape::default() };
                    let stamp =
                        Stamp { version: Version::from_bits(5 << 40), expiry: Expiry(77), stale: true, token_sent: false };
                    let mut bytes = vec![0xee; shape.record_bytes()];
                    shape.write(&mut bytes, b"key", stamp);
                    bytes[shape.value_offset()..][..value.len()].copy_from_slice(value);
                    let record = Record::new(&bytes);
                    assert_eq!((record.key(), record.value(), record.shape()), (&b"key"[..], value, shape));
                    assert_eq!(record.stamp(), stamp);
                    assert_eq!(record.cas(), cas_override.unwrap_or(5 << 40));
                }
            }
        }
    }

    #[test]
    fn the_last_use_is_exact_for_an_hour_and_close_for_a_week() {
        let shape = Shape { key_bytes: 1, ..Shape::default() };
        let written = 1_700_000_000u32;
        let borders = [(4095, 1), (4096, 4), (20_479, 4), (20_480, 16), (86_015, 16), (86_016, 128), (610_303, 128)];
        for (age_s, step_s) in [(0, 1), (1, 1), (59, 1)].into_iter().chain(borders) {
            let mut bytes = vec![0; shape.record_bytes()];
            shape.write(
                &mut bytes,
                b"k",
                Stamp { version: Version::first_at(Timestamp::from_seconds(written)), ..Stamp::default() },
            );
            used(&mut bytes, Seconds(written + age_s));
            let idle_s = Record::new(&bytes).idle_s(Seconds(written + age_s));
            assert!(idle_s < step_s, "used {age_s} s after writing, told as {idle_s} s ago");
        }
    }
}

//! What a server may answer: the ledger of this client's own writes, and the judge of every hit and miss.
//!
//! ```text
//!   cell of a key (64 bits):  acknowledged serial 29 | issued serial 29 | deleted | refused | uncertain | temporary | written
//!
//!   write:  begin (issued + 1, at most one in flight per key) ........ finish (acknowledged = issued)
//!   read:   issue: note acknowledged serial .......................... reply: hit must not be older than the note
//! ```
//!
//! One write at a time per key makes the order of writes certain, so every older value is a fault, never a race:
//! - wrong key: a whole value, written under another key
//! - torn: bytes that were never written together
//! - stale: older than a write that was acknowledged before the read was sent; a deleted item that comes back
//! - lost: a miss although a write was acknowledged, nothing took it away, and the server says that it evicted nothing
//! - miscounted: a counter whose next value is not one more than the last
//! - expired: an item served more than `EXPIRY_SLACK_SECONDS` after its time
//!
//! A write without an answer leaves its key uncertain: it may take effect at any time, so age is no longer judged there.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::work::values::{Damage, Label};

/// The ledger of all keys, shared by all threads of the client.
pub struct Ledger {
    cells: Vec<AtomicU64>,
    /// The name under which this process writes.
    pub writer: u32,
    /// What its counters must say next.
    pub counters: Counters,
    /// Other clients write the same keys: their values are accepted, age and loss are not judged.
    pub shared: bool,
}

/// What a read may find, noted when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation(u64);

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Acknowledged: the value is the newest. `temporary`: with a time to live.
    Stored {
        /// It has a time to live: a later miss proves nothing.
        temporary: bool,
    },
    /// Acknowledged: the item is gone.
    Deleted,
    /// The server refused in words: the old item may be there or not, the new one is not.
    Refused,
    /// Never sent: nothing has changed.
    Abandoned,
    /// No answer.
    Unknown,
}

/// A fault of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The value of another key.
    WrongKey,
    /// Bytes never written together.
    Torn,
    /// Older than an acknowledged write, or deleted before.
    Stale,
    /// A miss where an acknowledged write must be.
    Lost,
    /// Served after its time to live.
    Expired,
    /// A counter that does not count by one.
    Miscounted,
    /// An answer outside the protocol.
    Garbled,
}

impl Ledger {
    /// A ledger of so many keys, none written.
    pub fn new(keys: u32, writer: u32, shared: bool) -> Self {
        let mut cells = Vec::new();
        cells.resize_with(keys as usize, AtomicU64::default);
        Self { cells, writer, counters: Counters::new(keys.min(COUNTERS_MAX)), shared }
    }

    /// Begins a write of a key and gives its serial; `None` while another write of the key is in flight.
    #[inline]
    pub fn begin(&self, index: u32) -> Option<u32> {
        let cell = &self.cells[index as usize];
        let old = cell.load(Ordering::Acquire);
        if old & WRITING != 0 {
            return None;
        }
        let serial = (issued(old) + 1) & SERIAL_MASK as u32;
        let new = (old & !(SERIAL_MASK << ISSUED_SHIFT)) | (serial as u64) << ISSUED_SHIFT | WRITING;
        cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).ok().map(|_| serial)
    }

    /// Ends the write that `begin` began.
    #[inline]
    pub fn finish(&self, index: u32, ending: Ending) {
        let cell = &self.cells[index as usize];
        let old = cell.load(Ordering::Acquire);
        let serials = old & SERIALS;
        let acknowledged = (issued(old) as u64) << ISSUED_SHIFT | issued(old) as u64;
        let uncertain = old & UNCERTAIN;
        let new = match ending {
            Ending::Stored { temporary: false } => acknowledged | WRITTEN | uncertain,
            Ending::Stored { temporary: true } => acknowledged | WRITTEN | TEMPORARY | uncertain,
            Ending::Deleted => acknowledged | WRITTEN | DELETED | uncertain,
            Ending::Refused => serials | old & (WRITTEN | DELETED | TEMPORARY) | REFUSED | uncertain,
            Ending::Abandoned => old & !WRITING,
            Ending::Unknown => serials | UNCERTAIN,
        };
        // Only the one writer of this key changes its cell while WRITING is set.
        cell.store(new, Ordering::Release);
    }

    /// Notes what a read that is sent now may find.
    #[inline]
    pub fn expect(&self, index: u32) -> Expectation {
        Expectation(self.cells[index as usize].load(Ordering::Acquire))
    }

    /// Judges a hit. `damage` or label come from the value itself; `now` is Unix time in seconds.
    #[inline]
    pub fn judge_hit(&self, index: u32, expected: Expectation, found: Result<Label, Damage>, now: u32) -> Option<Fault> {
        let label = match found {
            Err(Damage::WrongKey) => return Some(Fault::WrongKey),
            Err(Damage::Torn) => return Some(Fault::Torn),
            Ok(label) => label,
        };
        if label.expires != 0 && now > label.expires.saturating_add(EXPIRY_SLACK_SECONDS) {
            return Some(Fault::Expired);
        }
        let Expectation(then) = expected;
        if self.shared || label.serial == 0 || then & UNCERTAIN != 0 {
            return None;
        }
        let foreign = label.writer != 0 && label.writer != self.writer;
        if foreign {
            // Left from an earlier run: in order only as long as this run has not written the key.
            return (then & WRITTEN != 0).then_some(Fault::Stale);
        }
        let deleted = then & DELETED != 0 && label.serial == acknowledged(then);
        if label.serial < acknowledged(then) || deleted {
            return Some(Fault::Stale);
        }
        let newest = issued(self.cells[index as usize].load(Ordering::Acquire));
        // Short values carry no writer: a serial from the future can be from an earlier run.
        (label.serial > newest && label.writer != 0).then_some(Fault::Torn)
    }

    /// Whether a miss contradicts an acknowledged write. The caller must still rule out eviction.
    #[inline]
    pub fn judge_miss(&self, index: u32, expected: Expectation) -> bool {
        let Expectation(then) = expected;
        let certain = then & (WRITTEN | DELETED | REFUSED | UNCERTAIN | TEMPORARY | WRITING) == WRITTEN;
        certain && !self.shared && self.cells[index as usize].load(Ordering::Acquire) == then
    }
}

impl Expectation {
    /// What was known of the key when the read was sent.
    pub fn words(self) -> String {
        let Expectation(cell) = self;
        let state = if cell & DELETED != 0 { "a delete" } else { "a store" };
        format!("{state}, write {}, was acknowledged before", acknowledged(cell))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        output.write_str(match self {
            Fault::WrongKey => "wrong key",
            Fault::Torn => "torn",
            Fault::Stale => "stale",
            Fault::Lost => "lost",
            Fault::Expired => "expired",
            Fault::Miscounted => "miscounted",
            Fault::Garbled => "garbled",
        })
    }
}

/// What counters must say next. One count at a time is in flight per counter, so that the answer is certain.
pub struct Counters {
    cells: Vec<AtomicU64>,
}

impl Counters {
    /// So many counters, none known.
    pub fn new(count: u32) -> Self {
        let mut cells = Vec::new();
        cells.resize_with(count as usize, AtomicU64::default);
        Self { cells }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.cells.len() as u32
    }

    /// Begins a count; `None` while another is in flight, else the last value if it is known.
    pub fn begin(&self, index: u32) -> Option<Option<u64>> {
        let cell = &self.cells[index as usize];
        let old = cell.load(Ordering::Acquire);
        let free = old & COUNTING == 0;
        let taken = free && cell.compare_exchange(old, old | COUNTING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        taken.then(|| Self::value(old))
    }

    /// The last value of a counter, if it is known.
    pub fn known(&self, index: u32) -> Option<u64> {
        Self::value(self.cells[index as usize].load(Ordering::Acquire))
    }

    /// Ends the count with the value that the counter has now, `None`: not known.
    pub fn finish(&self, index: u32, value: Option<u64>) {
        let cell = value.map_or(0, |value| value & COUNT_MASK | KNOWN);
        self.cells[index as usize].store(cell, Ordering::Release);
    }

    fn value(cell: u64) -> Option<u64> {
        (cell & KNOWN != 0).then_some(cell & COUNT_MASK)
    }
}

fn acknowledged(cell: u64) -> u32 {
    (cell & SERIAL_MASK) as u32
}

fn issued(cell: u64) -> u32 {
    (cell >> ISSUED_SHIFT & SERIAL_MASK) as u32
}

/// Counters of a run: few enough that each is counted often.
const COUNTERS_MAX: u32 = 10_000;

const SERIAL_MASK: u64 = (1 << 29) - 1;
const ISSUED_SHIFT: u32 = 29;
const SERIALS: u64 = SERIAL_MASK | SERIAL_MASK << ISSUED_SHIFT;
const DELETED: u64 = 1 << 58;
const REFUSED: u64 = 1 << 59;
const UNCERTAIN: u64 = 1 << 60;
const TEMPORARY: u64 = 1 << 61;
const WRITTEN: u64 = 1 << 62;
const WRITING: u64 = 1 << 63;

const COUNTING: u64 = 1 << 63;
const KNOWN: u64 = 1 << 62;
const COUNT_MASK: u64 = KNOWN - 1;

/// How long after its time an item may still be served: memcached's clock ticks once a second, and seconds are cut.
pub const EXPIRY_SLACK_SECONDS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 7;

    fn label(serial: u32) -> Result<Label, Damage> {
        Ok(Label { writer: OURS, serial, expires: 0 })
    }

    #[test]
    fn a_hit_older_than_an_acknowledged_write_is_stale() {
        let ledger = Ledger::new(1, OURS, false);
        for _ in 0..2 {
            ledger.begin(0).expect("no write in flight");
            ledger.finish(0, Ending::Stored { temporary: false });
        }
        let expected = ledger.expect(0);
        assert_eq!(ledger.judge_hit(0, expected, label(1), 0), Some(Fault::Stale));
        assert_eq!(ledger.judge_hit(0, expected, label(2), 0), None);
        assert_eq!(ledger.judge_hit(0, expected, label(3), 0), Some(Fault::Torn));
        let third = ledger.begin(0).expect("no write in flight");
        assert_eq!(ledger.judge_hit(0, expected, label(third), 0), None, "a write in flight may be seen");
        assert_eq!(ledger.begin(0), None, "one write at a time");
    }

    #[test]
    fn a_deleted_item_must_not_come_back_and_may_be_missed() {
        let ledger = Ledger::new(1, OURS, false);
        ledger.begin(0);
        ledger.finish(0, Ending::Stored { temporary: false });
        assert!(ledger.judge_miss(0, ledger.expect(0)));
        ledger.begin(0);
        ledger.finish(0, Ending::Deleted);
        assert_eq!(ledger.judge_hit(0, ledger.expect(0), label(1), 0), Some(Fault::Stale));
        assert!(!ledger.judge_miss(0, ledger.expect(0)));
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let ledger = Ledger::new(1, OURS, false);
        ledger.begin(0);
        ledger.finish(0, Ending::Unknown);
        ledger.begin(0);
        ledger.finish(0, Ending::Stored { temporary: false });
        assert_eq!(ledger.judge_hit(0, ledger.expect(0), label(1), 0), None);
        assert!(!ledger.judge_miss(0, ledger.expect(0)));
    }

    #[test]
    fn an_item_after_its_time_is_expired() {
        let ledger = Ledger::new(1, OURS, false);
        let found = Ok(Label { writer: OURS, serial: 1, expires: 1000 });
        assert_eq!(ledger.judge_hit(0, ledger.expect(0), found, 1003), Some(Fault::Expired));
        assert_eq!(ledger.judge_hit(0, Expectation(0), Ok(Label { writer: 9, serial: 4, expires: 1000 }), 1002), None);
    }
}

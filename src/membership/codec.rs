//! The bytes of a table and of a record: one way to write each, so that equal tables have equal bytes.
//!
//! ```text
//!   table:   version u8 | ring id u64 | written u64 | buckets u32 | redundancy u8 | name | count u16 | records, by id
//!   record:  id | address | zone | epoch u32 | state u8 | flags u8 | written u64 | asked u64 | weight u16 | next u16 | incarnation u64
//!   text:    bytes u8 | that many                                                                            all little-endian
//! ```
//!
//! Lives here: writing, reading with bounds, digests. Not here: what may stand in a table (`table`).

use xxhash_rust::xxh3::xxh3_64;

use super::table::{Record, Refusal, RingRecord, State, Table, Written};
use crate::limits::MEMBER_RECORDS_MAX;
use crate::placement::NodeId;

/// The version of these bytes.
const VERSION: u8 = 1;
const FLAG_MOVING: u8 = 1;
const FLAG_FRONT: u8 = 2;

/// The bytes of a table.
pub fn encode(table: &Table) -> Vec<u8> {
    let ring = table.ring();
    let mut output = vec![VERSION];
    output.extend_from_slice(&ring.ring_id.to_le_bytes());
    output.extend_from_slice(&ring.written.0.to_le_bytes());
    output.extend_from_slice(&ring.buckets.to_le_bytes());
    output.push(ring.redundancy);
    put_text(&ring.name, &mut output);
    output.extend_from_slice(&(table.records().len() as u16).to_le_bytes());
    table.records().for_each(|record| put_record(record, &mut output));
    output
}

/// The table of these bytes, all of which is possible.
///
/// # Errors
/// They are no table, or what they say cannot be.
pub fn decode(bytes: &[u8], now_ms: u64) -> Result<Table, Refusal> {
    let mut reader = Reader(bytes);
    if reader.u8()? != VERSION {
        return Err(Refusal::Garbled("another version"));
    }
    let (ring_id, written) = (reader.u64()?, Written(reader.u64()?));
    let (buckets, redundancy, name) = (reader.u32()?, reader.u8()?, reader.text()?.to_string());
    let mut table = Table::new(RingRecord { ring_id, name, buckets, redundancy, written });
    let count = usize::from(reader.u16()?);
    if count > MEMBER_RECORDS_MAX {
        return Err(Refusal::TooMany);
    }
    for _ in 0..count {
        let record = reader.record()?;
        let follows = table.records().next_back().is_none_or(|last| last.id < record.id);
        if !follows {
            return Err(Refusal::Garbled("records out of their order"));
        }
        table.put(record, now_ms)?;
    }
    if !reader.0.is_empty() {
        return Err(Refusal::Garbled("more than what it says"));
    }
    table.check(now_ms)?;
    Ok(table)
}

/// The bytes of a record.
pub fn record_bytes(record: &Record) -> Vec<u8> {
    let mut output = Vec::with_capacity(160);
    put_record(record, &mut output);
    output
}

/// The record of these bytes, which is possible.
///
/// # Errors
/// They are no record, or what they say cannot be.
pub fn decode_record(bytes: &[u8], now_ms: u64) -> Result<Record, Refusal> {
    let mut reader = Reader(bytes);
    let record = reader.record()?;
    if !reader.0.is_empty() {
        return Err(Refusal::Garbled("more than what it says"));
    }
    record.check(now_ms)?;
    Ok(record)
}

/// Stands for these bytes.
pub fn digest(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

fn put_record(record: &Record, output: &mut Vec<u8>) {
    put_text(record.id.as_str(), output);
    put_text(&record.address, output);
    put_text(&record.zone, output);
    output.extend_from_slice(&record.epoch.to_le_bytes());
    output.push(match record.state {
        State::Joining => 0,
        State::Normal => 1,
        State::Leaving => 2,
        State::Left => 3,
        State::Removed => 4,
    });
    output.push(if record.is_moving { FLAG_MOVING } else { 0 } | if record.is_front { FLAG_FRONT } else { 0 });
    output.extend_from_slice(&record.written.0.to_le_bytes());
    output.extend_from_slice(&record.asked.0.to_le_bytes());
    output.extend_from_slice(&(record.weight as u16).to_le_bytes());
    output.extend_from_slice(&(record.weight_next as u16).to_le_bytes());
    output.extend_from_slice(&record.incarnation.to_le_bytes());
}

/// Names are at most 255 bytes long: `Record::check` and the options see to it.
pub(super) fn put_text(text: &str, output: &mut Vec<u8>) {
    let bytes = &text.as_bytes()[..text.len().min(usize::from(u8::MAX))];
    output.push(bytes.len() as u8);
    output.extend_from_slice(bytes);
}

/// Reads from the front of some bytes.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Refusal::Garbled("less than what it says"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], Refusal> {
        let mut array = [0; COUNT];
        array.copy_from_slice(self.take(COUNT)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Refusal> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Refusal> {
        let bytes = usize::from(self.u8()?);
        std::str::from_utf8(self.take(bytes)?).map_err(|_| Refusal::Garbled("a name that is no text"))
    }

    fn record(&mut self) -> Result<Record, Refusal> {
        let id = NodeId::new(self.text()?).map_err(|_| Refusal::Garbled("an id that is none"))?;
        let (address, zone) = (self.text()?.to_string(), self.text()?.to_string());
        let epoch = self.u32()?;
        let state = match self.u8()? {
            0 => State::Joining,
            1 => State::Normal,
            2 => State::Leaving,
            3 => State::Left,
            4 => State::Removed,
            _ => return Err(Refusal::Garbled("a state that is none")),
        };
        let flags = self.u8()?;
        if flags & !(FLAG_MOVING | FLAG_FRONT) != 0 {
            return Err(Refusal::Garbled("a flag that is none"));
        }
        let (written, asked) = (Written(self.u64()?), Written(self.u64()?));
        let (weight, weight_next) = (u32::from(self.u16()?), u32::from(self.u16()?));
        let incarnation = self.u64()?;
        let (is_moving, is_front) = (flags & FLAG_MOVING != 0, flags & FLAG_FRONT != 0);
        let record =
            Record { id, epoch, state, is_moving, is_front, written, asked, weight, weight_next, zone, address, incarnation };
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{NOW_MS, draw, record, table};
    use super::*;
    use crate::random::Random;

    #[test]
    fn tables_come_back_as_they_were() {
        let mut random = Random(3);
        for _ in 0..500 {
            let table = draw(&mut random);
            assert_eq!(decode(&encode(&table), NOW_MS), Ok(table.clone()));
            for record in table.records() {
                assert_eq!(decode_record(&record_bytes(record), NOW_MS).as_ref(), Ok(record));
            }
        }
    }

    #[test]
    fn cut_and_broken_bytes_are_refused_or_another_possible_table() {
        let mut random = Random(9);
        let whole = table(&[record("a", State::Normal, NOW_MS), record("b", State::Leaving, NOW_MS)]);
        let bytes = encode(&whole);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], NOW_MS).is_err(), "cut at {end}");
        }
        assert!(decode(&[&bytes[..], &[0]].concat(), NOW_MS).is_err(), "a byte more");
        for _ in 0..20_000 {
            let mut broken = bytes.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(broken.len() as u64) as usize;
                broken[at] = random.next() as u8;
            }
            if let Ok(table) = decode(&broken, NOW_MS) {
                assert_eq!(encode(&table), broken, "there is one way to write a table");
                assert_eq!(table.check(NOW_MS), Ok(()));
            }
        }
        for length in 0..300 {
            let garbage: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            let _ = (decode(&garbage, NOW_MS), decode_record(&garbage, NOW_MS));
        }
    }

    #[test]
    fn records_out_of_order_or_twice_are_refused() {
        let (a, b) = (record("a", State::Normal, NOW_MS), record("b", State::Normal, NOW_MS));
        let head = encode(&table(&[]));
        let of = |records: [&Record; 2]| {
            let mut bytes = [&head[..head.len() - 2], &2u16.to_le_bytes()].concat();
            records.iter().for_each(|record| bytes.extend(record_bytes(record)));
            decode(&bytes, NOW_MS)
        };
        assert!(of([&a, &b]).is_ok());
        assert_eq!(of([&b, &a]), Err(Refusal::Garbled("records out of their order")));
        assert_eq!(of([&a, &a]), Err(Refusal::Garbled("records out of their order")));
    }
}

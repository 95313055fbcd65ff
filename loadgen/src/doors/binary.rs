//! memcached's binary protocol (protocol_binary.txt), as a client speaks it.
//!
//! Get with one key: GetK, always answered. Get with more: GetKQ for each, and Noop behind them.
//!
//! ```text
//!   magic 1 | opcode 1 | key length 2 | extras length 1 | type 1 | vbucket or status 2 | body length 4 | opaque 4 | cas 8
//! ```

use super::{Answer, Get, Step, Store};
use crate::work::mix::Kind;

pub fn get_key(get: Get, key: &[u8], output: &mut Vec<u8>) {
    header(if get.single { GETK } else { GETKQ }, key.len(), 0, 0, 0, output);
    output.extend_from_slice(key);
}

pub fn get_end(get: Get, output: &mut Vec<u8>) {
    if !get.single {
        header(NOOP, 0, 0, 0, 0, output);
    }
}

pub fn store_begin(store: Store<'_>, output: &mut Vec<u8>) {
    header(SET, store.key.len(), 8, store.value_bytes, store.cas.unwrap_or(0), output);
    output.extend_from_slice(&[0; 4]);
    output.extend_from_slice(&store.exptime.to_be_bytes());
    output.extend_from_slice(store.key);
}

pub fn delete(key: &[u8], output: &mut Vec<u8>) {
    header(DELETE, key.len(), 0, 0, 0, output);
    output.extend_from_slice(key);
}

pub fn touch(key: &[u8], exptime: u32, output: &mut Vec<u8>) {
    header(TOUCH, key.len(), 4, 0, 0, output);
    output.extend_from_slice(&exptime.to_be_bytes());
    output.extend_from_slice(key);
}

pub fn incr(key: &[u8], output: &mut Vec<u8>) {
    header(INCREMENT, key.len(), 20, 0, 0, output);
    output.extend_from_slice(&1u64.to_be_bytes());
    output.extend_from_slice(&0u64.to_be_bytes());
    // This expiry means: do not create the counter.
    output.extend_from_slice(&u32::MAX.to_be_bytes());
    output.extend_from_slice(key);
}

fn header(opcode: u8, key: usize, extras: u8, value: usize, cas: u64, output: &mut Vec<u8>) {
    let body = key as u32 + extras as u32 + value as u32;
    let mut bytes = [0u8; HEADER_BYTES];
    bytes[0] = 0x80;
    bytes[1] = opcode;
    bytes[2..4].copy_from_slice(&(key as u16).to_be_bytes());
    bytes[4] = extras;
    bytes[8..12].copy_from_slice(&body.to_be_bytes());
    bytes[16..24].copy_from_slice(&cas.to_be_bytes());
    output.extend_from_slice(&bytes);
}

/// The first answer in the input, to a request of this kind.
#[inline]
pub fn step(kind: Kind, input: &[u8]) -> Step<'_> {
    if input.first().is_some_and(|magic| *magic != 0x81) {
        return garbage(input);
    }
    let Some(head) = input.first_chunk::<HEADER_BYTES>() else { return Step::Incomplete };
    let key_bytes = u16::from_be_bytes([head[2], head[3]]) as usize;
    let extras_bytes = head[4] as usize;
    let status = u16::from_be_bytes([head[6], head[7]]);
    let body_bytes = u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let consumed = HEADER_BYTES + body_bytes;
    if key_bytes + extras_bytes > body_bytes {
        return garbage(input);
    }
    if input.len() < consumed {
        return Step::Incomplete;
    }
    let body = &input[HEADER_BYTES + extras_bytes..consumed];
    let (key, value) = body.split_at(key_bytes);
    let get = matches!(kind, Kind::Get | Kind::Gets);
    let answer = match (status, head[1]) {
        (0, GETK | GETKQ) if get => {
            let cas = u64::from_be_bytes([head[16], head[17], head[18], head[19], head[20], head[21], head[22], head[23]]);
            return Step::Hit { consumed, key, value, cas };
        }
        (0, NOOP) | (1, GETK) if get => Answer::End,
        (0, INCREMENT) if kind == Kind::Incr => match value.first_chunk::<8>() {
            Some(bytes) => Answer::Number(u64::from_be_bytes(*bytes)),
            None => return garbage(input),
        },
        (0, SET) if matches!(kind, Kind::Set | Kind::CounterSet | Kind::Cas) => Answer::Ok,
        (0, DELETE) if kind == Kind::Delete => Answer::Ok,
        (0, TOUCH) if kind == Kind::Touch => Answer::Ok,
        (0, _) => return garbage(input),
        (1, _) => Answer::NotFound,
        (2 | 5, _) => Answer::NotStored,
        _ => Answer::Error(value),
    };
    Step::Done { consumed, answer }
}

fn garbage(input: &[u8]) -> Step<'_> {
    Step::Done { consumed: 0, answer: Answer::Garbage(&input[..input.len().min(HEADER_BYTES + 16)]) }
}

const HEADER_BYTES: usize = 24;
const SET: u8 = 0x01;
const DELETE: u8 = 0x04;
const INCREMENT: u8 = 0x05;
const NOOP: u8 = 0x0a;
const GETK: u8 = 0x0c;
const GETKQ: u8 = 0x0d;
const TOUCH: u8 = 0x1c;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(opcode: u8, status: u16, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        header(opcode, key.len(), extras.len() as u8, value.len(), 9, &mut bytes);
        bytes[0] = 0x81;
        bytes[6..8].copy_from_slice(&status.to_be_bytes());
        [bytes.as_slice(), extras, key, value].concat()
    }

    #[test]
    fn answers_are_read_and_cut_ones_wait() {
        let hit = answer(GETK, 0, &[0; 4], b"k", b"abc");
        for cut in 1..hit.len() {
            assert_eq!(step(Kind::Get, &hit[..cut]), Step::Incomplete, "{cut}");
        }
        assert_eq!(step(Kind::Get, &hit), Step::Hit { consumed: 32, key: b"k", value: b"abc", cas: 9 });
        let miss = answer(GETK, 1, &[], b"k", b"");
        assert_eq!(step(Kind::Get, &miss), Step::Done { consumed: 25, answer: Answer::End });
        let count = answer(INCREMENT, 0, &[], b"", &17u64.to_be_bytes());
        assert_eq!(step(Kind::Incr, &count), Step::Done { consumed: 32, answer: Answer::Number(17) });
        assert!(matches!(step(Kind::Get, b"SERVER"), Step::Done { answer: Answer::Garbage(_), .. }));
    }
}

//! RESP2, the protocol of Redis and Valkey, as a client speaks it: GET, MGET, SET, SETEX, DEL, EXPIRE, PERSIST, INCR.
//!
//! Answers carry no keys: they come in the order of the keys asked for, and a request is over with its last key.

use super::{Answer, Get, Step, Store, decimal, garbage, line, number};
use crate::work::mix::Kind;

pub fn get_begin(get: Get, keys: usize, output: &mut Vec<u8>) {
    output.push(b'*');
    decimal(keys as u64 + 1, output);
    output.extend_from_slice(if get.single { b"\r\n$3\r\nGET\r\n" } else { b"\r\n$4\r\nMGET\r\n" });
}

pub fn get_key(key: &[u8], output: &mut Vec<u8>) {
    word(key, output);
}

pub fn store_begin(store: Store<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(if store.exptime == 0 { b"*3\r\n$3\r\nSET\r\n" } else { b"*4\r\n$5\r\nSETEX\r\n" });
    word(store.key, output);
    if store.exptime != 0 {
        number_word(store.exptime, output);
    }
    output.push(b'$');
    decimal(store.value_bytes as u64, output);
    output.extend_from_slice(b"\r\n");
}

pub fn delete(key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n");
    word(key, output);
}

pub fn touch(key: &[u8], exptime: u32, output: &mut Vec<u8>) {
    if exptime == 0 {
        output.extend_from_slice(b"*2\r\n$7\r\nPERSIST\r\n");
        return word(key, output);
    }
    output.extend_from_slice(b"*3\r\n$6\r\nEXPIRE\r\n");
    word(key, output);
    number_word(exptime, output);
}

pub fn incr(key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"*2\r\n$4\r\nINCR\r\n");
    word(key, output);
}

fn word(bytes: &[u8], output: &mut Vec<u8>) {
    output.push(b'$');
    decimal(bytes.len() as u64, output);
    output.extend_from_slice(b"\r\n");
    output.extend_from_slice(bytes);
    output.extend_from_slice(b"\r\n");
}

fn number_word(value: u32, output: &mut Vec<u8>) {
    let mut digits = Vec::with_capacity(10);
    decimal(value as u64, &mut digits);
    word(&digits, output);
}

/// The first answer in the input, to a request of this kind.
#[inline]
pub fn step(kind: Kind, input: &[u8]) -> Step<'_> {
    let first = match line(input) {
        Ok(Some(first)) => first,
        Ok(None) => return Step::Incomplete,
        Err(()) => return garbage(&input[..input.len().min(80)]),
    };
    let consumed = first.len() + 2;
    let get = matches!(kind, Kind::Get | Kind::Gets);
    let Some((sort, rest)) = first.split_first() else { return garbage(first) };
    let answer = match (sort, kind) {
        (b'-', _) => Answer::Error(first),
        (b'*', _) if get => return Step::Skip { consumed },
        (b'$', _) if get && rest == b"-1" => return Step::Miss { consumed },
        (b'$', _) if get => return hit(rest, consumed, first, input),
        (b'+', Kind::Set | Kind::CounterSet) => Answer::Ok,
        (b':', Kind::Incr) => number(rest).map_or(Answer::Garbage(first), Answer::Number),
        (b':', Kind::Delete) if rest == b"0" => Answer::NotFound,
        (b':', Kind::Delete | Kind::Touch) => Answer::Ok,
        _ => Answer::Garbage(first),
    };
    Step::Done { consumed, answer }
}

fn hit<'a>(length: &[u8], start: usize, first: &'a [u8], input: &'a [u8]) -> Step<'a> {
    let length = number(length).filter(|length| *length < u32::MAX as u64);
    let Some(end) = length.map(|length| start + length as usize) else { return garbage(first) };
    if input.len() < end + 2 {
        return Step::Incomplete;
    }
    if input[end..end + 2] != *b"\r\n" {
        return garbage(first);
    }
    Step::Hit { consumed: end + 2, key: b"", value: &input[start..end], cas: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let hit = Step::Hit { consumed: 9, key: b"", value: b"abc", cas: 0 };
        assert_eq!(step(Kind::Get, b"$3\r\nabc\r\n"), hit);
        assert_eq!(step(Kind::Get, b"$3\r\nabc\r"), Step::Incomplete);
        assert_eq!(step(Kind::Get, b"$-1\r\n"), Step::Miss { consumed: 5 });
        assert_eq!(step(Kind::Get, b"*2\r\n$-1\r\n"), Step::Skip { consumed: 4 });
        assert_eq!(step(Kind::Set, b"+OK\r\n"), Step::Done { consumed: 5, answer: Answer::Ok });
        assert_eq!(step(Kind::Incr, b":17\r\n"), Step::Done { consumed: 5, answer: Answer::Number(17) });
        assert_eq!(step(Kind::Get, b"-ERR no\r\n"), Step::Done { consumed: 9, answer: Answer::Error(b"-ERR no") });
    }
}

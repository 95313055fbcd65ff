//! memcached's meta commands (protocol.txt, *Meta Commands*), as a client speaks them.
//!
//! Get with one key: `mg`, answered by VA or EN. Get with more: `mg` with the quiet flag for each, and `mn` behind them.

use super::{Answer, Get, Step, Store, decimal, garbage, line, number};
use crate::work::mix::Kind;

pub fn get_key(get: Get, key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"mg ");
    output.extend_from_slice(key);
    output.extend_from_slice(match (get.single, get.cas) {
        (true, false) => b" k v\r\n".as_slice(),
        (true, true) => b" k v c\r\n",
        (false, _) => b" k v q\r\n",
    });
}

pub fn get_end(get: Get, output: &mut Vec<u8>) {
    if !get.single {
        output.extend_from_slice(b"mn\r\n");
    }
}

pub fn store_begin(store: Store<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(b"ms ");
    output.extend_from_slice(store.key);
    output.push(b' ');
    decimal(store.value_bytes as u64, output);
    if store.exptime != 0 {
        output.extend_from_slice(b" T");
        decimal(store.exptime as u64, output);
    }
    if let Some(cas) = store.cas {
        output.extend_from_slice(b" C");
        decimal(cas, output);
    }
    output.extend_from_slice(b"\r\n");
}

pub fn delete(key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"md ");
    output.extend_from_slice(key);
    output.extend_from_slice(b"\r\n");
}

pub fn touch(key: &[u8], exptime: u32, output: &mut Vec<u8>) {
    output.extend_from_slice(b"mg ");
    output.extend_from_slice(key);
    output.extend_from_slice(b" T");
    decimal(exptime as u64, output);
    output.extend_from_slice(b"\r\n");
}

pub fn incr(key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"ma ");
    output.extend_from_slice(key);
    output.extend_from_slice(b" v\r\n");
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
    if let Some(rest) = first.strip_prefix(b"VA ")
        && matches!(kind, Kind::Get | Kind::Gets | Kind::Incr)
    {
        return value(kind, rest, first, input);
    }
    let get = matches!(kind, Kind::Get | Kind::Gets);
    // memcached repeats asked-for flags behind some of the codes: `EN kfoo`.
    let code = first.split(|byte| *byte == b' ').next().unwrap_or(first);
    let answer = match code {
        b"EN" | b"MN" if get => Answer::End,
        b"EN" | b"NF" => Answer::NotFound,
        b"NS" | b"EX" if !get => Answer::NotStored,
        b"HD" if !get => Answer::Ok,
        b"ERROR" => Answer::Error(first),
        _ if first.starts_with(b"SERVER_ERROR") || first.starts_with(b"CLIENT_ERROR") => Answer::Error(first),
        _ => Answer::Garbage(first),
    };
    Step::Done { consumed, answer }
}

/// `size flags`, then the value: of a get, or the number of a counter.
#[inline]
fn value<'a>(kind: Kind, fields: &'a [u8], first: &'a [u8], input: &'a [u8]) -> Step<'a> {
    let mut parts = fields.split(|byte| *byte == b' ');
    let length = parts.next().and_then(number).filter(|length| *length < u32::MAX as u64);
    let Some(length) = length else { return garbage(first) };
    let (start, end) = (first.len() + 2, first.len() + 2 + length as usize);
    if input.len() < end + 2 {
        return Step::Incomplete;
    }
    if input[end..end + 2] != *b"\r\n" {
        return garbage(first);
    }
    let value = &input[start..end];
    if kind == Kind::Incr {
        let answer = number(value).map_or(Answer::Garbage(value), Answer::Number);
        return Step::Done { consumed: end + 2, answer };
    }
    let (mut key, mut cas) = (b"".as_slice(), 0);
    for part in parts {
        match part.split_first() {
            Some((b'k', rest)) => key = rest,
            Some((b'c', rest)) => cas = number(rest).unwrap_or(0),
            _ => {}
        }
    }
    Step::Hit { consumed: end + 2, key, value, cas }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let hit = Step::Hit { consumed: 17, key: b"k", value: b"abc", cas: 7 };
        assert_eq!(step(Kind::Gets, b"VA 3 kk c7\r\nabc\r\n"), hit);
        assert_eq!(step(Kind::Incr, b"VA 2\r\n17\r\n"), Step::Done { consumed: 10, answer: Answer::Number(17) });
        assert_eq!(step(Kind::Get, b"EN\r\n"), Step::Done { consumed: 4, answer: Answer::End });
        assert_eq!(step(Kind::Get, b"EN kfoo\r\n"), Step::Done { consumed: 9, answer: Answer::End });
        assert!(matches!(step(Kind::Set, b"VA 1\r\na\r\n"), Step::Done { answer: Answer::Garbage(_), .. }));
        assert_eq!(step(Kind::Set, b"HD\r\n"), Step::Done { consumed: 4, answer: Answer::Ok });
        assert_eq!(step(Kind::Get, b"VA 3 kk\r\nab"), Step::Incomplete);
    }
}

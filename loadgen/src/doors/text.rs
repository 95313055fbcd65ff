//! memcached's text protocol (protocol.txt), as a client speaks it.

use super::{Answer, Get, Step, Store, decimal, line, number};
use crate::work::mix::Kind;

pub fn get_begin(get: Get, output: &mut Vec<u8>) {
    output.extend_from_slice(if get.cas { b"gets" } else { b"get" });
}

pub fn get_key(key: &[u8], output: &mut Vec<u8>) {
    output.push(b' ');
    output.extend_from_slice(key);
}

pub fn get_end(output: &mut Vec<u8>) {
    output.extend_from_slice(b"\r\n");
}

pub fn store_begin(store: Store<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(if store.cas.is_some() { b"cas " } else { b"set " });
    output.extend_from_slice(store.key);
    output.extend_from_slice(b" 0 ");
    decimal(store.exptime as u64, output);
    output.push(b' ');
    decimal(store.value_bytes as u64, output);
    if let Some(cas) = store.cas {
        output.push(b' ');
        decimal(cas, output);
    }
    output.extend_from_slice(b"\r\n");
}

pub fn delete(key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"delete ");
    output.extend_from_slice(key);
    output.extend_from_slice(b"\r\n");
}

pub fn touch(key: &[u8], exptime: u32, output: &mut Vec<u8>) {
    output.extend_from_slice(b"touch ");
    output.extend_from_slice(key);
    output.push(b' ');
    decimal(exptime as u64, output);
    output.extend_from_slice(b"\r\n");
}

pub fn incr(key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(b"incr ");
    output.extend_from_slice(key);
    output.extend_from_slice(b" 1\r\n");
}

/// The first answer in the input, to a request of this kind.
#[inline]
pub fn step(kind: Kind, input: &[u8]) -> Step<'_> {
    let get = matches!(kind, Kind::Get | Kind::Gets);
    if get && input.starts_with(b"END\r\n") {
        return Step::Done { consumed: 5, answer: Answer::End };
    }
    let first = match line(input) {
        Ok(Some(first)) => first,
        Ok(None) => return Step::Incomplete,
        Err(()) => return done(input, input.len(), Answer::Garbage(&input[..input.len().min(80)])),
    };
    if get && let Some(rest) = first.strip_prefix(b"VALUE ") {
        return hit(rest, first, input, first.len() + 2);
    }
    done(input, first.len() + 2, answer(kind, first))
}

/// `key flags bytes [cas]`, then the value.
#[inline]
fn hit<'a>(fields: &'a [u8], line: &'a [u8], input: &'a [u8], start: usize) -> Step<'a> {
    let mut parts = fields.split(|byte| *byte == b' ');
    let (key, _flags) = (parts.next().unwrap_or(b""), parts.next());
    let Some(length) = parts.next().and_then(number) else { return done(input, start, Answer::Garbage(line)) };
    let cas = parts.next().and_then(number).unwrap_or(0);
    let Some(end) = (start as u64).checked_add(length).map(|end| end as usize) else {
        return done(input, start, Answer::Garbage(line));
    };
    if input.len() < end.saturating_add(2) {
        return Step::Incomplete;
    }
    if input[end..end + 2] != *b"\r\n" {
        return done(input, start, Answer::Garbage(line));
    }
    Step::Hit { consumed: end + 2, key, value: &input[start..end], cas }
}

fn answer<'a>(kind: Kind, line: &'a [u8]) -> Answer<'a> {
    match (kind, line) {
        (Kind::Set | Kind::CounterSet | Kind::Cas, b"STORED") | (Kind::Delete, b"DELETED") | (Kind::Touch, b"TOUCHED") => {
            Answer::Ok
        }
        (Kind::Set | Kind::CounterSet | Kind::Cas, b"NOT_STORED" | b"EXISTS") => Answer::NotStored,
        (Kind::Cas | Kind::Delete | Kind::Touch | Kind::Incr, b"NOT_FOUND") => Answer::NotFound,
        (_, b"ERROR") => Answer::Error(line),
        _ if line.starts_with(b"SERVER_ERROR") || line.starts_with(b"CLIENT_ERROR") => Answer::Error(line),
        (Kind::Incr, _) => number(line).map_or(Answer::Garbage(line), Answer::Number),
        _ => Answer::Garbage(line),
    }
}

fn done<'a>(input: &'a [u8], consumed: usize, answer: Answer<'a>) -> Step<'a> {
    Step::Done { consumed: consumed.min(input.len()), answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let ok = |consumed, answer| Step::Done { consumed, answer };
        assert_eq!(step(Kind::Set, b"STORED\r\nrest"), ok(8, Answer::Ok));
        assert_eq!(step(Kind::Get, b"END\r\n"), ok(5, Answer::End));
        assert_eq!(step(Kind::Incr, b"17\r\n"), ok(4, Answer::Number(17)));
        assert_eq!(step(Kind::Delete, b"NOT_FOUND\r\n"), ok(11, Answer::NotFound));
        assert_eq!(step(Kind::Set, b"SERVER_ERROR out of memory\r\n"), ok(28, Answer::Error(b"SERVER_ERROR out of memory")));
        assert_eq!(step(Kind::Get, b"STORED\r\n"), ok(8, Answer::Garbage(b"STORED")));
    }

    #[test]
    fn a_hit_is_incomplete_until_its_last_byte() {
        let input = b"VALUE k 0 3 9\r\nabc\r\nEND\r\n";
        for cut in 0..20 {
            assert_eq!(step(Kind::Gets, &input[..cut]), Step::Incomplete, "{cut}");
        }
        assert_eq!(step(Kind::Gets, input), Step::Hit { consumed: 20, key: b"k", value: b"abc", cas: 9 });
        let longer = b"VALUE k 0 3\r\nabcd\r\n";
        assert!(matches!(step(Kind::Get, longer), Step::Done { answer: Answer::Garbage(_), .. }));
    }
}

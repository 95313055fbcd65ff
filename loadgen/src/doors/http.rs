//! HTTP/1.1, as a client speaks it: a path is a key, a body is its value, an ETag its CAS unique.
//!
//! A get of many keys is as many requests in one piece. Answers carry no keys: they come in order.

use super::{Answer, Get, Step, Store, decimal, garbage, line, number};
use crate::work::mix::Kind;

/// What every head ends with.
const HEAD_END: &[u8] = b" HTTP/1.1\r\nHost: localhost\r\n\r\n";

pub fn get_key(_: Get, key: &[u8], output: &mut Vec<u8>) {
    request(b"GET /", key, output);
}

pub fn store_begin(store: Store<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(b"PUT /");
    output.extend_from_slice(store.key);
    if store.exptime != 0 {
        output.extend_from_slice(b"?ttl=");
        decimal(store.exptime.into(), output);
    }
    output.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: ");
    decimal(store.value_bytes as u64, output);
    if let Some(cas) = store.cas {
        output.extend_from_slice(b"\r\nIf-Match: \"");
        decimal(cas, output);
        output.push(b'"');
    }
    output.extend_from_slice(b"\r\n\r\n");
}

pub fn delete(key: &[u8], output: &mut Vec<u8>) {
    request(b"DELETE /", key, output);
}

fn request(start: &[u8], key: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(start);
    output.extend_from_slice(key);
    output.extend_from_slice(HEAD_END);
}

/// What the head of an answer says.
#[derive(Default)]
struct Head {
    status: u64,
    value_bytes: usize,
    cas: u64,
    /// Bytes of it.
    bytes: usize,
}

/// The first answer in the input, to a request of this kind.
#[inline]
pub fn step(kind: Kind, input: &[u8]) -> Step<'_> {
    let head = match read_head(input) {
        Ok(Some(head)) => head,
        Ok(None) => return Step::Incomplete,
        Err(()) => return garbage(&input[..input.len().min(80)]),
    };
    let consumed = head.bytes + head.value_bytes;
    let Some(value) = input.get(head.bytes..consumed) else { return Step::Incomplete };
    let reads = matches!(kind, Kind::Get | Kind::Gets);
    let answer = match (head.status, kind) {
        (200, _) if reads => return Step::Hit { consumed, key: b"", value, cas: head.cas },
        (204 | 404, _) if reads => return Step::Miss { consumed },
        (201 | 204, Kind::Set | Kind::CounterSet | Kind::Cas | Kind::Delete) => Answer::Ok,
        (412, Kind::Cas) => Answer::NotStored,
        (404, Kind::Delete) => Answer::NotFound,
        (400.., _) => Answer::Error(value.trim_ascii_end()),
        _ => return garbage(&input[..head.bytes]),
    };
    Step::Done { consumed, answer }
}

/// The head at the front of the input, `Ok(None)` while it is not whole, `Err` if it is none.
fn read_head(input: &[u8]) -> Result<Option<Head>, ()> {
    let mut head = Head::default();
    loop {
        let Some(text) = line(&input[head.bytes..])? else { return Ok(None) };
        let first = head.bytes == 0;
        head.bytes += text.len() + 2;
        if first {
            let status = text.strip_prefix(b"HTTP/1.1 ").and_then(|text| number(text.get(..3)?));
            head.status = status.ok_or(())?;
        } else if text.is_empty() {
            return Ok(Some(head));
        } else if let Some(bytes) = text.strip_prefix(b"Content-Length: ") {
            head.value_bytes = number(bytes).filter(|&bytes| bytes <= u32::MAX.into()).ok_or(())? as usize;
        } else if let Some(tag) = text.strip_prefix(b"ETag: \"") {
            head.cas = tag.strip_suffix(b"\"").and_then(number).ok_or(())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let hit = b"HTTP/1.1 200 OK\r\nDate: x\r\nETag: \"7\"\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(step(Kind::Get, hit), Step::Hit { consumed: hit.len(), key: b"", value: b"abc", cas: 7 });
        for end in 0..hit.len() {
            assert_eq!(step(Kind::Get, &hit[..end]), Step::Incomplete, "{end}");
        }
        let miss = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(step(Kind::Get, miss), Step::Miss { consumed: miss.len() });
        assert_eq!(step(Kind::Set, miss), Step::Done { consumed: miss.len(), answer: Answer::Ok });
        let failed = b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(step(Kind::Cas, failed), Step::Done { consumed: failed.len(), answer: Answer::NotStored });
        let error = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n";
        assert_eq!(step(Kind::Get, error), Step::Done { consumed: error.len(), answer: Answer::Error(b"no") });
        let garbage = Step::Done { consumed: 0, answer: Answer::Garbage(b"VALUE a 0 1\r\n") };
        assert_eq!(step(Kind::Get, b"VALUE a 0 1\r\n"), garbage);
    }
}

//! A recorded sequence of requests, to be asked again in its order.
//!
//! ```text
//!   Twitter's form, 7 columns:  timestamp,anonymized key,key size,value size,client id,operation,TTL
//!   simple form, 4 columns:     time,key,size,op
//! ```
//!
//! Times are not kept: requests follow each other as fast as the pace allows. Reads are reads, everything that writes a value
//! is a set, `delete` is a delete; `incr` and `decr` look an item up and count as reads. What a read misses is stored again,
//! with the largest size that the trace gives the key, if `--fill_misses` is set.
//!
//! Lives here: reading the file, keys and sizes. Not here: sending (`request`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::mix::Kind;

/// A trace in memory: 16 bytes per request, and its keys once.
#[derive(Debug)]
pub struct Trace {
    /// The requests.
    pub operations: Vec<Operation>,
    keys: Vec<Box<[u8]>>,
    sizes: Vec<u32>,
}

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which key.
    pub index: u32,
    /// Bytes of the value, for a write.
    pub value_bytes: u32,
    /// Seconds to live, for a write.
    pub exptime: u32,
    /// Get, Set or Delete.
    pub kind: Kind,
}

impl Trace {
    /// Reads a trace of at most `limit` requests.
    pub fn open(path: &Path, limit: usize) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::read(BufReader::with_capacity(1 << 20, file), limit).map_err(|words| format!("{}: {words}", path.display()))
    }

    fn read(input: impl BufRead, limit: usize) -> Result<Self, String> {
        let mut trace = Self { operations: Vec::new(), keys: Vec::new(), sizes: Vec::new() };
        let mut indices: HashMap<Box<[u8]>, u32> = HashMap::new();
        for (number, line) in input.lines().enumerate() {
            let line = line.map_err(|error| error.to_string())?;
            if trace.operations.len() == limit {
                break;
            }
            if line.is_empty() || number == 0 && line.starts_with(|first: char| first.is_alphabetic()) {
                continue;
            }
            let row =
                Row::parse(&line).ok_or_else(|| format!("line {} has neither 7 nor 4 columns that fit: {line}", number + 1))?;
            let key = usable(row.key.as_bytes());
            let index = *indices.entry(key).or_insert_with_key(|key| {
                trace.keys.push(key.clone());
                trace.sizes.push(0);
                trace.keys.len() as u32 - 1
            });
            let size = &mut trace.sizes[index as usize];
            *size = (*size).max(row.value_bytes);
            let Row { value_bytes, exptime, kind, .. } = row;
            trace.operations.push(Operation { index, value_bytes, exptime, kind });
        }
        if trace.operations.is_empty() {
            return Err("there is no request in it".into());
        }
        Ok(trace)
    }

    /// How many different keys there are.
    pub fn keys_count(&self) -> u32 {
        self.keys.len() as u32
    }

    /// A key.
    pub fn key(&self, index: u32) -> &[u8] {
        &self.keys[index as usize]
    }

    /// The largest size that the trace gives the value of a key; 100 bytes where it gives none.
    pub fn value_bytes(&self, index: u32) -> u32 {
        match self.sizes[index as usize] {
            0 => 100,
            size => size,
        }
    }

    /// The largest size of all.
    pub fn value_bytes_max(&self) -> u32 {
        self.sizes.iter().copied().max().unwrap_or(0).max(100)
    }
}

struct Row<'a> {
    key: &'a str,
    value_bytes: u32,
    exptime: u32,
    kind: Kind,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let columns: Vec<&str> = line.split(',').map(str::trim).collect();
        // Anonymised keys may hold commas: the columns behind the key are counted from the end.
        let count = columns.len();
        let (key, size, operation, exptime) = match count {
            0..4 => return None,
            4 => (columns[1], columns[2], columns[3], "0"),
            5..7 => return None,
            _ => {
                let start = columns[0].len() + 1;
                let tail: usize = columns[count - 5..].iter().map(|column| column.len() + 1).sum();
                (line.get(start..line.len().checked_sub(tail)?)?, columns[count - 4], columns[count - 2], columns[count - 1])
            }
        };
        let kind = match operation {
            "get" | "gets" | "incr" | "decr" | "read" => Kind::Get,
            "set" | "add" | "replace" | "cas" | "append" | "prepend" | "write" => Kind::Set,
            "delete" | "remove" => Kind::Delete,
            _ => return None,
        };
        let value_bytes = size.parse::<u32>().ok()?.min(VALUE_BYTES_MAX);
        let exptime = exptime.parse::<u32>().ok()?.min(EXPTIME_MAX);
        (!key.is_empty()).then_some(Self { key, value_bytes, exptime, kind })
    }
}

/// A key that every protocol takes: too long ones and those with blanks become their hash.
fn usable(key: &[u8]) -> Box<[u8]> {
    let plain = key.len() <= KEY_BYTES_MAX && key.iter().all(|byte| *byte > 32 && *byte != 127);
    if plain { key.into() } else { format!("{:016x}", xxh3_64(key)).into_bytes().into() }
}

const KEY_BYTES_MAX: usize = 250;
/// Sizes are cut here: memcached's default limit of an item is 1 MiB.
const VALUE_BYTES_MAX: u32 = 1_000_000;
/// 30 days: more would mean a date.
const EXPTIME_MAX: u32 = 30 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let text = "0,nz:u:eeW511,15,230,7,get,0\n1,a,b c,9,100,3,set,3600\n2,nz:u:eeW511,15,240,7,delete,0\n";
        let trace = Trace::read(text.as_bytes(), 100).expect("a trace");
        assert_eq!((trace.keys_count(), trace.key(0), trace.value_bytes(0)), (2, b"nz:u:eeW511".as_slice(), 240));
        assert_eq!(trace.key(1).len(), 16, "a key with a comma and a blank");
        assert_eq!(trace.operations[1], Operation { index: 1, value_bytes: 100, exptime: 3600, kind: Kind::Set });
        let trace = Trace::read("time,key,size,op\n5,k,7,get\n6,k,8,set\n".as_bytes(), 1).expect("a trace");
        assert_eq!((trace.operations.len(), trace.value_bytes(0)), (1, 7));
    }

    #[test]
    fn what_is_not_a_trace_is_told_with_its_line() {
        let error = Trace::read("1,k,5,get\n1,k\n".as_bytes(), 9).expect_err("an error");
        assert!(error.contains("line 2"), "{error}");
        assert!(Trace::read("".as_bytes(), 9).is_err());
    }
}

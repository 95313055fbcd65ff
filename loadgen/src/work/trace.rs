//! A recorded sequence of requests, to be asked again in its order.
//!
//! ```text
//!   Twitter's form, 7 columns:  timestamp,anonymized key,key size,value size,client id,operation,TTL
//!   simple form, 4 columns:     time,key,size,op
//!   bare form, NAME.trace:      reads of numbered objects, 4 bytes each, the highest first; no sizes
//! ```
//!
//! A name that ends in `.xz` is read through `xz`.
//!
//! Times are not kept: requests follow each other as fast as the pace allows. Reads are reads, everything that writes a value
//! is a set, `delete` is a delete; `incr` and `decr` look an item up and count as reads. What a read misses is stored again,
//! with the largest size that the trace gives the key, if `--fill_misses` is set.
//!
//! Lives here: reading the file, keys and sizes. Not here: sending (`request`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

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
        let packed = path.extension().is_some_and(|extension| extension == "xz");
        let inner = if packed { Path::new(path.file_stem().unwrap_or_default()) } else { path };
        let bare = inner.extension().is_some_and(|extension| extension == "trace");
        let read = |input: &mut dyn Read| {
            let input = BufReader::with_capacity(1 << 20, input);
            if bare { Self::read_bare(input, limit) } else { Self::read(input, limit) }
        };
        let result = if packed { unpacked(file, read) } else { read(&mut { file }) };
        result.map_err(|words| format!("{}: {words}", path.display()))
    }

    fn read_bare(mut input: impl Read, limit: usize) -> Result<Self, String> {
        let mut bytes = Vec::new();
        input.by_ref().take(4 * limit as u64).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.is_empty() || bytes.len() % 4 != 0 {
            return Err(format!("{} bytes are no row of numbers of 4 bytes", bytes.len()));
        }
        let mut trace = Self { operations: Vec::with_capacity(bytes.len() / 4), keys: Vec::new(), sizes: Vec::new() };
        let mut indices: HashMap<u32, u32> = HashMap::new();
        for number in bytes.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]])) {
            let index = *indices.entry(number).or_insert_with(|| {
                trace.keys.push(format!("object:{number}").into_bytes().into());
                trace.keys.len() as u32 - 1
            });
            trace.operations.push(Operation { index, value_bytes: 0, exptime: 0, kind: Kind::Get });
        }
        trace.sizes = vec![0; trace.keys.len()];
        Ok(trace)
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

    /// Whether it tells the size of any value.
    pub fn has_sizes(&self) -> bool {
        self.sizes.iter().any(|size| *size > 0)
    }

    /// The largest size of all.
    pub fn value_bytes_max(&self) -> u32 {
        self.sizes.iter().copied().max().unwrap_or(0).max(100)
    }
}

/// What `read` makes of the contents of a packed file.
fn unpacked(file: File, read: impl FnOnce(&mut dyn Read) -> Result<Trace, String>) -> Result<Trace, String> {
    let mut xz = Command::new("xz");
    xz.args(["--decompress", "--stdout"]).stdin(file).stdout(Stdio::piped());
    let mut child = xz.spawn().map_err(|error| format!("xz unpacks it, and cannot be started: {error}"))?;
    let mut output = child.stdout.take().ok_or("xz has no output")?;
    let result = read(&mut output);
    // Read to its end, xz has nothing to complain of; left before that, it may.
    let whole = matches!(output.read(&mut [0]), Ok(0));
    drop(output);
    let status = child.wait().map_err(|error| format!("xz: {error}"))?;
    if whole && !status.success() { Err(format!("xz cannot unpack it: {status}")) } else { result }
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
    fn a_bare_trace_is_a_row_of_numbers() {
        let trace = Trace::read_bare([0, 0, 1, 2, 9, 9, 9, 9, 0, 0, 1, 2].as_slice(), 100).expect("a trace");
        assert_eq!(trace.operations.iter().map(|operation| operation.index).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!((trace.keys_count(), trace.key(0), trace.has_sizes()), (2, b"object:258".as_slice(), false));
        assert_eq!(Trace::read_bare([0; 12].as_slice(), 2).expect("a trace").operations.len(), 2);
        assert!(Trace::read_bare([0; 5].as_slice(), 9).is_err() && Trace::read_bare([].as_slice(), 9).is_err());
    }

    #[test]
    fn a_file_that_ends_in_the_middle_is_told_of_by_xz() {
        let path = std::env::temp_dir().join(format!("loadgen-trace-{}.trace.xz", std::process::id()));
        std::fs::write(&path, b"\xfd7zXZ\0\0\x04").expect("a file");
        let error = Trace::open(&path, 9).expect_err("an error");
        assert!(error.contains("xz"), "{error}");
        std::fs::remove_file(&path).expect("the file goes");
    }

    #[test]
    fn what_is_not_a_trace_is_told_with_its_line() {
        let error = Trace::read("1,k,5,get\n1,k\n".as_bytes(), 9).expect_err("an error");
        assert!(error.contains("line 2"), "{error}");
        assert!(Trace::read("".as_bytes(), 9).is_err());
    }
}

//! Values: how large they are, and what stands in them, so that a reader can tell whose value it is and how old.
//!
//! ```text
//!   24 bytes and more:  key hash 8 | writer 4 | serial 4 | expires 4 | checksum 4 | filler ...     any change shows
//!   8 to 23 bytes:      serial 4 | check 4 | filler ...         check = hash of key, serial, filler: any change shows
//!   1 to 7 bytes:       bytes of the hash of key and length                                        no age
//! ```
//!
//! The filler is a slice of one random block, chosen by the serial: two values differ all along, so that a value made of
//! two halves is seen. Writing costs one copy and one checksum, about 10 ns for 100 bytes.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;
use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How large the values of a run are. The size of a key's value is a function of the key, so that overwriting keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Sizes {
    /// All alike.
    Fixed(u32),
    /// Uniform between two sizes, both included.
    Range(u32, u32),
    /// Sizes with weights.
    List(Vec<(u32, f64)>),
    /// Log-normal with this median and this standard deviation of the logarithm.
    LogNormal {
        /// Half of the values are smaller.
        median: f64,
        /// 0.5 is narrow, 1.5 has a heavy tail.
        sigma: f64,
    },
    /// Generalised Pareto, as in the model of Facebook's ETC pool.
    Pareto {
        /// Smallest value.
        location: f64,
        /// Spread.
        scale: f64,
        /// Weight of the tail.
        shape: f64,
    },
}

/// What a value says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The process that wrote it; 0 in the short forms, which have no room.
    pub writer: u32,
    /// Number of this write among the writes of the key, from 1; 0 where the form has no room.
    pub serial: u32,
    /// Unix time at which the item ends, 0: never.
    pub expires: u32,
}

/// Why a value is not one that was ever written under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A whole value, but of another key.
    WrongKey,
    /// Bytes that no writer ever wrote together: cut, mixed or overwritten.
    Torn,
}

/// Writes values.
pub struct ValueMaker {
    block: Vec<u8>,
}

impl ValueMaker {
    /// A maker for values up to `bytes_max`.
    pub fn new(bytes_max: usize, seed: u64) -> Self {
        let mut block = vec![0; bytes_max + FILLER_SHIFTS];
        Rng::with_seed(seed ^ 0x5eed).fill(&mut block);
        Self { block }
    }

    /// Appends the value of `length` bytes with this label for the key with this hash.
    pub fn write(&self, key_hash: u64, label: Label, length: usize, output: &mut Vec<u8>) {
        let start = output.len();
        let shift = (label.serial as usize).wrapping_mul(97) % FILLER_SHIFTS;
        if length >= FULL_BYTES {
            output.extend_from_slice(&key_hash.to_le_bytes());
            output.extend_from_slice(&label.writer.to_le_bytes());
            output.extend_from_slice(&label.serial.to_le_bytes());
            output.extend_from_slice(&label.expires.to_le_bytes());
            output.extend_from_slice(&[0; 4]);
            output.extend_from_slice(&self.block[shift..shift + length - FULL_BYTES]);
            let checksum = full_checksum(&output[start..]);
            output[start + 20..start + 24].copy_from_slice(&checksum.to_le_bytes());
        } else if length >= SHORT_BYTES {
            output.extend_from_slice(&label.serial.to_le_bytes());
            output.extend_from_slice(&[0; 4]);
            output.extend_from_slice(&self.block[shift..shift + length - SHORT_BYTES]);
            let check = short_check(key_hash, &output[start..]);
            output[start + 4..start + 8].copy_from_slice(&check.to_le_bytes());
        } else {
            output.extend_from_slice(&tiny(key_hash, length)[..length]);
        }
    }
}

/// Reads the label of a value found under the key with this hash.
#[inline]
pub fn read(key_hash: u64, value: &[u8]) -> Result<Label, Damage> {
    if value.len() >= FULL_BYTES {
        if full_checksum(value) != word(value, 20) {
            return Err(Damage::Torn);
        }
        let owner = word(value, 0) as u64 | (word(value, 4) as u64) << 32;
        if owner != key_hash {
            return Err(Damage::WrongKey);
        }
        return Ok(Label { writer: word(value, 8), serial: word(value, 12), expires: word(value, 16) });
    }
    let sound = match value.len() {
        SHORT_BYTES.. => short_check(key_hash, value) == word(value, 4),
        length => tiny(key_hash, length)[..length] == *value,
    };
    let serial = if value.len() >= SHORT_BYTES { word(value, 0) } else { 0 };
    if sound { Ok(Label { writer: 0, serial, expires: 0 }) } else { Err(Damage::Torn) }
}

fn word(value: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]])
}

/// Covers everything except the checksum's own four bytes; seeded with the length, so that a cut value shows.
fn full_checksum(value: &[u8]) -> u32 {
    let head = xxh3_64_with_seed(&value[..20], value.len() as u64);
    xxh3_64_with_seed(&value[FULL_BYTES..], head) as u32
}

fn short_check(key_hash: u64, value: &[u8]) -> u32 {
    let head = key_hash ^ (word(value, 0) as u64) << 8 ^ value.len() as u64;
    xxh3_64_with_seed(&value[SHORT_BYTES..], head) as u32
}

fn tiny(key_hash: u64, length: usize) -> [u8; 8] {
    xxh3_64_with_seed(&key_hash.to_le_bytes(), length as u64).to_le_bytes()
}

/// The hash of a key that values carry.
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

impl Sizes {
    /// The size of the value of a key, in bytes: a function of the key's index and the seed.
    #[inline]
    pub fn of(&self, index: u32, seed: u64) -> u32 {
        match self {
            Sizes::Fixed(size) => *size,
            _ => self.draw(&mut Rng::with_seed(seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        }
    }

    /// The largest size that can come.
    pub fn bytes_max(&self) -> u32 {
        match self {
            Sizes::Fixed(size) | Sizes::Range(_, size) => *size,
            Sizes::List(list) => list.iter().map(|(size, _)| *size).max().unwrap_or(0),
            Sizes::LogNormal { .. } | Sizes::Pareto { .. } => TAIL_BYTES_MAX,
        }
    }

    /// The mean size, in bytes, over the first keys.
    pub fn mean(&self, seed: u64) -> f64 {
        (0..10_000).map(|index| self.of(index, seed) as f64).sum::<f64>() / 10_000.0
    }

    fn draw(&self, rng: &mut Rng) -> u32 {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Range(low, high) => rng.u32(*low..=*high),
            Sizes::List(list) => {
                let mut point = rng.f64() * list.iter().map(|(_, weight)| weight).sum::<f64>();
                for (size, weight) in list {
                    point -= weight;
                    if point < 0.0 {
                        return *size;
                    }
                }
                list.last().map_or(0, |(size, _)| *size)
            }
            Sizes::LogNormal { median, sigma } => {
                // Box and Muller: two uniform numbers make one normal.
                let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
                tail(median * (sigma * normal).exp())
            }
            Sizes::Pareto { location, scale, shape } => {
                let rest = 1.0 - rng.f64();
                tail(location + scale * (rest.powf(-shape) - 1.0) / shape)
            }
        }
    }
}

fn tail(size: f64) -> u32 {
    (size as u32).clamp(1, TAIL_BYTES_MAX)
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| bytes(part).ok_or_else(|| format!("`{part}` is not a size"));
        let real = |part: &str| part.parse::<f64>().map_err(|_| format!("`{part}` is not a number"));
        let sizes = if let Some(rest) = text.strip_prefix("lognormal:") {
            let (median, sigma) = rest.split_once(',').ok_or("lognormal:MEDIAN,SIGMA is wanted")?;
            Sizes::LogNormal { median: real(median)?, sigma: real(sigma)? }
        } else if let Some(rest) = text.strip_prefix("pareto:") {
            let parts = rest.split(',').map(real).collect::<Result<Vec<_>, _>>()?;
            let [location, scale, shape] = parts[..] else { return Err("pareto:LOCATION,SCALE,SHAPE is wanted".into()) };
            Sizes::Pareto { location, scale, shape }
        } else if text.contains(':') {
            let pair = |part: &str| {
                let (size, weight) = part.split_once(':').ok_or(format!("`{part}` is not SIZE:WEIGHT"))?;
                Ok::<_, String>((number(size)?, real(weight)?))
            };
            Sizes::List(text.split(',').map(pair).collect::<Result<_, _>>()?)
        } else if let Some((low, high)) = text.split_once('-') {
            Sizes::Range(number(low)?, number(high)?)
        } else {
            Sizes::Fixed(number(text)?)
        };
        match &sizes {
            Sizes::Range(low, high) if low > high => Err("the smaller size comes first".into()),
            _ if sizes.bytes_max() > VALUE_BYTES_MAX => Err(format!("values may have at most {VALUE_BYTES_MAX} bytes")),
            _ => Ok(sizes),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(size) => write!(output, "{size}"),
            Sizes::Range(low, high) => write!(output, "{low}-{high}"),
            Sizes::List(list) => {
                let parts: Vec<String> = list.iter().map(|(size, weight)| format!("{size}:{weight}")).collect();
                write!(output, "{}", parts.join(","))
            }
            Sizes::LogNormal { median, sigma } => write!(output, "lognormal:{median},{sigma}"),
            Sizes::Pareto { location, scale, shape } => write!(output, "pareto:{location},{scale},{shape}"),
        }
    }
}

/// A size in bytes with an optional k, K, m or M behind it (powers of 1024).
pub fn bytes(text: &str) -> Option<u32> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<u32>().ok()?.checked_mul(unit)
}

/// Largest value that can be asked for: 128 MiB.
pub const VALUE_BYTES_MAX: u32 = 128 << 20;

/// Where the tails of log-normal and Pareto sizes are cut: below memcached's default item limit of 1 MiB.
const TAIL_BYTES_MAX: u32 = 1_000_000;

const FULL_BYTES: usize = 24;
const SHORT_BYTES: usize = 8;
/// How many places of the random block a filler can start at.
const FILLER_SHIFTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_any_length_is_recognised_and_any_changed_byte_is_seen() {
        let maker = ValueMaker::new(300, 1);
        let hash = key_hash(b"key:1");
        for length in (0..200).chain([255, 256, 300]) {
            let label = Label { writer: 5, serial: 77, expires: 9 };
            let mut value = Vec::new();
            maker.write(hash, label, length, &mut value);
            assert_eq!(value.len(), length);
            let read_back = read(hash, &value).expect("a sound value");
            if length >= FULL_BYTES {
                assert_eq!(read_back, label);
                assert_eq!(read(key_hash(b"key:2"), &value), Err(Damage::WrongKey));
            }
            for at in 0..length {
                value[at] ^= 1;
                assert!(read(hash, &value).is_err(), "length {length}, byte {at}");
                value[at] ^= 1;
            }
        }
    }

    #[test]
    fn two_halves_of_two_values_are_torn() {
        let maker = ValueMaker::new(100, 1);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        maker.write(1, Label { writer: 1, serial: 1, expires: 0 }, 100, &mut first);
        maker.write(1, Label { writer: 1, serial: 2, expires: 0 }, 100, &mut second);
        first[50..].copy_from_slice(&second[50..]);
        assert_eq!(read(1, &first), Err(Damage::Torn));
    }

    #[test]
    fn sizes_read_back_what_they_print() {
        for text in ["100", "10-400", "32:5,1024:1", "lognormal:230,1.2", "pareto:0,214.476,0.348238"] {
            assert_eq!(text.parse::<Sizes>().expect(text).to_string(), text);
        }
        assert_eq!("4k".parse(), Ok(Sizes::Fixed(4096)));
        for text in ["", "x", "5-", "9-1", "lognormal:1", "300m"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }
}

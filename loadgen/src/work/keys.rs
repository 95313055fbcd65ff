//! Keys: from an index to bytes, and which index is next.
//!
//! ```text
//!   index 0..count --> "key:000000000042" padded to --key_size         uniform: every index alike
//!                                                                      zipf: rank r with weight 1 / r^alpha, ranks scattered
//!                                                                      hotspot: some keys get most requests
//!                                                                      latest: zipf, counted back from the newest key
//!                                                                      sequential: round and round
//! ```
//!
//! Zipf numbers come from rejection-inversion (Hoermann and Derflinger, "Rejection-inversion to generate variates from
//! monotone discrete distributions", 1996): constant time and no table, so that 100 million keys cost no memory.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;
use serde::Serialize;

/// The keys of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KeySpace {
    /// How many keys.
    pub count: u32,
    /// Length of each key in bytes; at least `KEY_BYTES_MIN`.
    pub size: u8,
}

/// Which key is asked for next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Distribution {
    /// Every key alike.
    Uniform,
    /// Weight of the r-th most popular key: `1 / r^alpha`. Popular keys are scattered over the key space.
    Zipf {
        /// 0.99 is YCSB's, the median of Twitter's clusters is 1.2.
        alpha: f64,
    },
    /// A share of the keys gets a share of the requests.
    Hotspot {
        /// Share of the keys that is hot, 0 to 1.
        keys: f64,
        /// Share of the requests that goes to them, 0 to 1.
        requests: f64,
    },
    /// Zipf over age: the key stored last is the most popular one.
    Latest {
        /// As for zipf.
        alpha: f64,
    },
    /// 0, 1, 2, ... and from the beginning again.
    Sequential,
}

/// Draws keys for one thread.
pub struct KeyPicker {
    count: u32,
    distribution: Distribution,
    zipf: Option<Zipf>,
    next: u32,
    /// The newest key, for `Latest`.
    pub newest: u32,
}

impl KeySpace {
    /// Appends the key of an index.
    #[inline]
    pub fn write(&self, index: u32, output: &mut Vec<u8>) {
        self.write_with(b"key:", index, output);
    }

    /// Appends the key of a counter.
    pub fn write_counter(&self, index: u32, output: &mut Vec<u8>) {
        self.write_with(b"cnt:", index, output);
    }

    #[inline]
    fn write_with(&self, prefix: &[u8; 4], index: u32, output: &mut Vec<u8>) {
        let start = output.len();
        output.extend_from_slice(prefix);
        output.resize(start + self.size as usize, b'0');
        let mut at = start + self.size as usize;
        let mut rest = index;
        while rest > 0 {
            at -= 1;
            output[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }

    /// The index of a key, if it is one of ours.
    #[cfg(test)]
    pub fn index_of(&self, key: &[u8]) -> Option<u32> {
        let digits = key.strip_prefix(b"key:")?;
        let index = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (key.len() == self.size as usize && index < self.count).then_some(index)
    }
}

impl KeyPicker {
    /// A picker whose sequential walk starts at `first`.
    pub fn new(keys: KeySpace, distribution: Distribution, first: u32) -> Self {
        let zipf = match distribution {
            Distribution::Zipf { alpha } | Distribution::Latest { alpha } => Some(Zipf::new(keys.count, alpha)),
            _ => None,
        };
        Self { count: keys.count, distribution, zipf, next: first % keys.count, newest: keys.count - 1 }
    }

    /// The index of the next key.
    #[inline]
    pub fn pick(&mut self, rng: &mut Rng) -> u32 {
        match self.distribution {
            Distribution::Uniform => rng.u32(0..self.count),
            Distribution::Zipf { .. } => scatter(self.rank(rng), self.count),
            Distribution::Latest { .. } => (self.newest + self.count - self.rank(rng)) % self.count,
            Distribution::Hotspot { keys, requests } => {
                let hot = ((self.count as f64 * keys) as u32).clamp(1, self.count);
                if rng.f64() < requests || hot == self.count {
                    scatter(rng.u32(0..hot), self.count)
                } else {
                    scatter(rng.u32(hot..self.count), self.count)
                }
            }
            Distribution::Sequential => {
                let index = self.next;
                self.next = if index + 1 == self.count { 0 } else { index + 1 };
                index
            }
        }
    }

    fn rank(&self, rng: &mut Rng) -> u32 {
        self.zipf.as_ref().map_or(0, |zipf| zipf.sample(rng))
    }
}

/// A permutation of `0..count`: neighbours in rank are not neighbours in the key space. Walks a Feistel network over the
/// next power of four until it lands inside.
fn scatter(rank: u32, count: u32) -> u32 {
    let bits = (64 - (count as u64 - 1).leading_zeros()).max(2).div_ceil(2);
    let mask = (1u64 << bits) - 1;
    let mut value = rank as u64;
    loop {
        let (mut left, mut right) = (value >> bits, value & mask);
        for round in 1..=3u64 {
            let mixed = (right ^ round << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29;
            (left, right) = (right, left ^ (mixed & mask));
        }
        value = left << bits | right;
        if value < count as u64 {
            return value as u32;
        }
    }
}

/// Zipf-distributed ranks `0..count` by rejection-inversion.
struct Zipf {
    exponent: f64,
    count: f64,
    integral_first: f64,
    integral_last: f64,
    shortcut: f64,
}

impl Zipf {
    fn new(count: u32, exponent: f64) -> Self {
        let count = count as f64;
        let mut zipf = Self { exponent, count, integral_first: 0.0, integral_last: 0.0, shortcut: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(count + 0.5);
        zipf.shortcut = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    fn sample(&self, rng: &mut Rng) -> u32 {
        loop {
            let point = self.integral_last + rng.f64() * (self.integral_first - self.integral_last);
            let position = self.inverse(point);
            let rank = (position + 0.5).floor().clamp(1.0, self.count);
            let accept = rank - position <= self.shortcut || point >= self.integral(rank + 0.5) - self.weight(rank);
            if accept {
                return rank as u32 - 1;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        ratio_exp((1.0 - self.exponent) * log) * log
    }

    fn inverse(&self, x: f64) -> f64 {
        let scaled = (x * (1.0 - self.exponent)).max(-1.0);
        (ratio_log(scaled) * x).exp()
    }
}

/// `(e^x - 1) / x`, also near 0.
fn ratio_exp(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x * 0.5 }
}

/// `ln(1 + x) / x`, also near 0.
fn ratio_log(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * 0.5 }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let number = |part: &str| part.parse::<f64>().map_err(|_| format!("`{part}` is not a number"));
        let numbers = rest.map_or(Ok(Vec::new()), |rest| rest.split(',').map(number).collect::<Result<Vec<f64>, _>>())?;
        let law = match (name, &numbers[..]) {
            ("uniform", []) => Distribution::Uniform,
            ("sequential", []) => Distribution::Sequential,
            ("zipf", []) => Distribution::Zipf { alpha: ALPHA },
            ("zipf", [alpha]) => Distribution::Zipf { alpha: *alpha },
            ("latest", []) => Distribution::Latest { alpha: ALPHA },
            ("latest", [alpha]) => Distribution::Latest { alpha: *alpha },
            ("hotspot", []) => Distribution::Hotspot { keys: 0.2, requests: 0.8 },
            ("hotspot", [keys, requests]) => Distribution::Hotspot { keys: *keys, requests: *requests },
            _ => return Err(format!("one of {} is wanted", Distribution::FORMS)),
        };
        match law {
            Distribution::Zipf { alpha } | Distribution::Latest { alpha } if !(0.0..=10.0).contains(&alpha) => {
                Err("ALPHA must lie between 0 and 10".into())
            }
            Distribution::Hotspot { keys, requests } if ![keys, requests].iter().all(|share| (0.0..=1.0).contains(share)) => {
                Err("KEYS and REQUESTS are shares between 0 and 1".into())
            }
            law => Ok(law),
        }
    }
}

impl Distribution {
    /// How each is written; what stands in brackets may be left out.
    pub const FORMS: &str = "uniform, zipf[:ALPHA], hotspot[:KEYS,REQUESTS], latest[:ALPHA], sequential";
}

impl fmt::Display for Distribution {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => write!(output, "uniform"),
            Distribution::Zipf { alpha } => write!(output, "zipf:{alpha}"),
            Distribution::Latest { alpha } => write!(output, "latest:{alpha}"),
            Distribution::Hotspot { keys, requests } => write!(output, "hotspot:{keys},{requests}"),
            Distribution::Sequential => write!(output, "sequential"),
        }
    }
}

/// YCSB's; `zipf` and `latest` without a number.
const ALPHA: f64 = 0.99;
/// "key:" and ten digits.
pub const KEY_BYTES_MIN: u8 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_index() {
        let keys = KeySpace { count: 1000, size: 20 };
        for index in [0, 1, 9, 10, 999] {
            let mut key = Vec::new();
            keys.write(index, &mut key);
            assert_eq!((key.len(), keys.index_of(&key)), (20, Some(index)));
        }
        assert_eq!(keys.index_of(b"key:0000000000001000"), None);
    }

    #[test]
    fn a_law_has_its_own_numbers_and_no_others() {
        let law = |text: &str| text.parse::<Distribution>();
        assert_eq!(law("zipf"), law("zipf:0.99"));
        assert_eq!(law("hotspot"), law("hotspot:0.2,0.8"));
        for text in
            ["zipf:", "zipf:x", "zipf:1,2", "zipf:11", "latest:-1", "hotspot:0.5", "hotspot:2,0.5", "uniform:1", "zip", ""]
        {
            assert!(law(text).is_err(), "{text}");
        }
    }

    #[test]
    fn scatter_is_a_permutation() {
        for count in [1u32, 2, 3, 10, 1000, 4097] {
            let mut seen: Vec<u32> = (0..count).map(|rank| scatter(rank, count)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn zipf_shares_follow_the_law() {
        for alpha in [0.5, 0.99, 1.0, 1.2] {
            let zipf = Zipf::new(1000, alpha);
            let mut rng = Rng::with_seed(7);
            let draws = 200_000;
            let first = (0..draws).filter(|_| zipf.sample(&mut rng) == 0).count() as f64 / draws as f64;
            let sum: f64 = (1..=1000).map(|rank| (rank as f64).powf(-alpha)).sum();
            assert!((first * sum - 1.0).abs() < 0.05, "alpha {alpha}: {first} against {}", 1.0 / sum);
        }
    }
}

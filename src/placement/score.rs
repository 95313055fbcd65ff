//! The numbers that rank nodes: an integer for each pair of node and bucket, and what a weight makes of it.
//!
//! A node of weight w should come first in a share w / sum of the buckets. If s is a node's score, uniform in (0, 1), then the
//! smallest -log2(s) / w comes first with just that probability. Two nodes whose floats differ in one bit would disagree about
//! owners, so the logarithm is a table and a straight line between its entries, in integers.
//!
//! ```text
//!   score = splitmix64(seed of the node, bucket) / 2^16          48 bits, so that a score and a node fit into 64
//!
//!   (score + 1/2) * 2^16 << zeros = | 1 | index 8 bits | fraction 30 bits | 25 bits, not used |         zeros = leading zeros
//!
//!   log   = -log2((score + 1/2) / 2^48) * 2^40
//!         = (zeros + 1) * 2^40 - (LOG2[index] + (LOG2[index + 1] - LOG2[index]) * fraction / 2^30)
//!   cost  = log * 2^16 / weight                                  smallest first
//! ```
//!
//! The line errs by less than 3e-6, and by less than 1e-3 of the value where that is near 0: the same for all nodes.
//!
//! Lives here: scores, seeds, logarithms, costs. Not here: who comes before whom (`preference`). Credit: weighted rendezvous hashing by
//! the logarithm is Schindelhauer and Schomaker's (2005), the integer table Ceph's idea (straw2), the mixer Steele, Lea and
//! Flood's (SplitMix64, variant 13 of Stafford).

/// Bits of a score.
pub const SCORE_BITS: u32 = 48;
/// Bits by which a logarithm is widened before it is divided by a weight.
const COST_SHIFT: u32 = 16;
/// Bits behind the point of a logarithm.
pub const LOG_FRACTION_BITS: u32 = 40;
/// Cells of the table between 1 and 2, as a power of two.
const CELL_BITS: u32 = 8;
/// Bits of the way through a cell. Steps of the table are below 2^33, so that the product stays below 2^63.
const FRACTION_BITS: u32 = 30;
/// Entries of [`LOG2`]: one more than cells.
const LOG2_COUNT: usize = (1 << CELL_BITS) + 1;

/// `LOG2[i]` is log2(1 + i / 256) * 2^40, rounded to the nearest integer. 2 KiB.
pub static LOG2: [u64; LOG2_COUNT] = log2_table();

/// The step between two states of SplitMix64: 2^64 divided by the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The output function of SplitMix64: a bijection in which each bit of the input turns about half of those of the output.
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A 64-bit hash of a few bytes: FNV-1a, then mixed. For names and tables, not against anyone who wants collisions.
pub fn digest(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(FNV_OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)))
}

/// How far a bucket's state lies from each node's seed. Computed once for all nodes.
#[inline(always)]
pub const fn stride(bucket: u32) -> u64 {
    (bucket as u64 + 1).wrapping_mul(STEP)
}

/// Score of the node with this seed: the greater, the further in front among nodes of equal weight. Below 2^[`SCORE_BITS`].
///
/// It is output number `bucket` (from 0) of a SplitMix64 generator that started at `seed`, without the low bits. About 1.5 ns.
#[inline(always)]
pub const fn score(seed: u64, stride: u64) -> u64 {
    mix(seed.wrapping_add(stride)) >> (64 - SCORE_BITS)
}

/// -log2((score + 1/2) / 2^48) * 2^40: 3 to 49 * 2^40. Never grows with the score. The half makes 0 no exception.
#[inline(always)]
pub fn log(score: u64) -> u64 {
    let score = score << (64 - SCORE_BITS) | 1 << (63 - SCORE_BITS);
    let zeros = score.leading_zeros();
    let shifted = score << zeros;
    let index = (shifted >> (63 - CELL_BITS)) as usize & ((1 << CELL_BITS) - 1);
    let fraction = (shifted >> (63 - CELL_BITS - FRACTION_BITS)) & ((1 << FRACTION_BITS) - 1);
    let (low, high) = (LOG2[index], LOG2[index + 1]);
    (u64::from(zeros + 1) << LOG_FRACTION_BITS) - (low + (((high - low) * fraction) >> FRACTION_BITS))
}

/// A weight, prepared for [`Divisor::cost`].
#[derive(Clone, Copy, Debug)]
pub struct Divisor {
    /// 2^(63 + shift) / weight, rounded up: 2^63 to 2^64 - 1.
    factor: u64,
    /// log2 of the weight, rounded up.
    shift: u32,
    /// All ones for weight 0.
    infinite: u64,
}

impl Divisor {
    /// To divide by this weight, below 2^16.
    pub fn new(weight: u32) -> Self {
        if weight == 0 {
            return Self { factor: 0, shift: 0, infinite: u64::MAX };
        }
        let shift = weight.next_power_of_two().trailing_zeros();
        let factor = (1u128 << (63 + shift)).div_ceil(u128::from(weight)) as u64;
        Self { factor, shift, infinite: 0 }
    }

    /// log * 2^16 / weight, rounded down: below 2^62, or 2^64 - 1 for weight 0.
    ///
    /// Multiplies by the reciprocal, which is exact because the dividend is below 2^63 and the factor errs by less than
    /// 2^shift / weight (Granlund and Montgomery 1994, theorem 4.2). 1 ns, where a division takes 4.
    #[inline(always)]
    pub fn cost(self, log: u64) -> u64 {
        let product = (u128::from(log << (COST_SHIFT + 1)) * u128::from(self.factor)) >> 64;
        (product as u64 >> self.shift) | self.infinite
    }
}

/// The table, bit by bit: squaring a number doubles its logarithm, so each squaring that passes 2 yields a one.
const fn log2_table() -> [u64; LOG2_COUNT] {
    /// Bits behind the point of the number that is squared. Each squaring errs by less than 2^-62, which the bits before it
    /// have already halved in effect, so that all of them err by less than 2^-61 together: far below a rounding of 2^-41.
    const POINT: u32 = 62;
    let mut table = [0; LOG2_COUNT];
    let mut index = 0;
    while index < LOG2_COUNT - 1 {
        let mut number = ((1 << CELL_BITS) + index as u128) << (POINT - CELL_BITS);
        let (mut bits, mut log) = (0, 0);
        while bits <= LOG_FRACTION_BITS {
            number = (number * number) >> POINT;
            let passed = number >> (POINT + 1);
            number >>= passed;
            log = log << 1 | passed as u64;
            bits += 1;
        }
        table[index] = (log + 1) >> 1;
        index += 1;
    }
    table[LOG2_COUNT - 1] = 1 << LOG_FRACTION_BITS;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_splitmix64() {
        // First outputs for the seed 1234567, as they are printed in many places.
        let outputs = [0, 1, 2].map(|bucket| mix(stride(bucket).wrapping_add(1_234_567)));
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        assert_eq!(score(1_234_567, stride(2)), 9_817_491_932_198_370_423 >> 16);
    }

    #[test]
    fn the_digest_is_fnv1a_mixed() {
        assert_eq!(digest(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(digest(b"foobar"), mix(0x8594_4171_f739_67e8));
    }

    #[test]
    fn the_table_is_the_logarithm() {
        for (index, &entry) in LOG2.iter().enumerate() {
            let exact = (1.0 + index as f64 / 256.0).log2() * (1u64 << LOG_FRACTION_BITS) as f64;
            assert!((entry as f64 - exact).abs() < 0.51, "entry {index}: {entry}, not {exact}");
        }
    }

    /// Scores of all magnitudes and at the borders of cells, in order.
    fn scores() -> Vec<u64> {
        const MAX: u64 = (1 << SCORE_BITS) - 1;
        let mut scores: Vec<u64> = (0..100_000u32).map(|bucket| score(99, stride(bucket)) >> (bucket % 48)).collect();
        scores.extend((0..256).flat_map(|cell| [(256 + cell) << 39, ((256 + cell) << 39) - 1]));
        scores.extend([0, 1, 2, 3, MAX, MAX - 1, MAX - 127, MAX - 128]);
        scores.sort_unstable();
        scores
    }

    #[test]
    fn the_logarithm_errs_little_and_never_grows_with_the_score() {
        for pair in scores().windows(2) {
            assert!(log(pair[0]) >= log(pair[1]), "{} and {}", pair[0], pair[1]);
        }
        for score in scores() {
            let exact = 48.0 - (score as f64 + 0.5).log2();
            let found = log(score) as f64 / (1u64 << LOG_FRACTION_BITS) as f64;
            assert!((found - exact).abs() < 3e-6, "{score}: {found}, not {exact}");
        }
        assert_eq!((log((1 << 48) - 1), log(0)), (3, 49 << LOG_FRACTION_BITS));
    }

    #[test]
    fn the_cost_is_the_quotient() {
        let logs: Vec<u64> = scores().into_iter().step_by(97).map(log).chain([1, 49 << LOG_FRACTION_BITS]).collect();
        let weights =
            (1..=300).chain((0..16).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])).chain([65_534, 65_535]);
        for weight in weights.filter(|&weight| weight > 0) {
            let divisor = Divisor::new(weight);
            for &log in &logs {
                assert_eq!(divisor.cost(log), (log << 16) / u64::from(weight), "{log} / {weight}");
            }
        }
        assert_eq!(Divisor::new(0).cost(1), u64::MAX);
    }
}

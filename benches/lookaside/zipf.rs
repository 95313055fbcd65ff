//! Ranks by popularity.

use super::random::Random;

/// Ranks by the law of Zipf, from the table of sums.
pub struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    pub fn new(keys: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Self { sums: sums.collect() }
    }

    pub fn rank(&self, random: &mut Random) -> u64 {
        let at = random.unit() * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|&sum| sum < at) as u64
    }
}

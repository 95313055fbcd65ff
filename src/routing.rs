//! Which core owns a hash, and how what is asked and answered between cores is named.
//!
//! ```text
//!   hash:  0 ........ first[1] ........ first[2] ........ 2^64
//!          |  core 0  |      core 1     |      core 2     |        the ring's buckets in contiguous ranges, one a core
//! ```
//!
//! `core = floor(bucket * cores / buckets)` costs a 64-bit division. Because ranges are contiguous, the first hash of each core is
//! computed once, and a multiplication guesses the core to within one.
//!
//! Lives here: the table, and the words that speak of cores. Not here: which node owns a bucket (`placement`, `cluster`), how a request
//! travels (`runtime::mesh`).

/// Which core of this node a shard is: 0-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// Where a reply belongs: a place in the reply queue of one connection of the asking core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the connection within its core.
    pub connection: u32,
    /// Tells connections apart that had the same index one after the other.
    pub generation: u32,
    /// Number of the slot within the connection.
    pub slot: u32,
    /// Descriptor of its socket, for who watches.
    pub descriptor: i32,
}

/// Where a command is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this core.
    Here,
    /// On another core of this node.
    Core(ShardId),
}

/// The first hash of each core of this node.
#[derive(Clone, Debug)]
pub struct Routes {
    /// `first[k]` is the smallest hash that core k owns. Cores behind the last bucket (more cores than buckets) are left out.
    first: Box<[u64]>,
    cores_count: u16,
}

impl Routes {
    /// The table for `cores` (at least 1) over a ring of `buckets` (at least 1).
    pub fn new(cores: u16, buckets: u32) -> Self {
        let first = (0..cores as u128).map(|core| {
            let bucket = (core * buckets as u128).div_ceil(cores as u128);
            (bucket << 64).div_ceil(buckets as u128)
        });
        Self { first: first.map_while(|hash| u64::try_from(hash).ok()).collect(), cores_count: cores }
    }

    /// Cores of this node.
    pub fn cores_count(&self) -> u16 {
        self.cores_count
    }

    /// The core that owns `hash`: equal to `key::core_of(key::bucket_of(hash))`.
    #[inline]
    pub fn core_of(&self, hash: u64) -> ShardId {
        let cores = self.first.len();
        if cores == 1 {
            return ShardId(0);
        }
        let mut core = ((hash as u128 * cores as u128) >> 64) as usize;
        while hash < self.first[core] {
            core -= 1; // `first[0]` is 0
        }
        while core + 1 < cores && hash >= self.first[core + 1] {
            core += 1;
        }
        ShardId(core as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key;

    #[test]
    fn the_table_agrees_with_its_definition_at_every_border() {
        for cores in [1u16, 2, 3, 7, 8, 64] {
            for buckets in [1u32, 2, 5, 64, 100, 4096, 10_000_000, u32::MAX] {
                let routes = Routes::new(cores, buckets);
                let borders = routes.first.iter().flat_map(|&hash| [hash.wrapping_sub(1), hash, hash.wrapping_add(1)]);
                let spread = (0..10_000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                for hash in borders.chain(spread) {
                    let expected = key::core_of(key::bucket_of(hash, buckets), buckets, cores);
                    assert_eq!(routes.core_of(hash).0, expected, "hash {hash:#x}, {cores} cores, {buckets} buckets");
                }
            }
        }
    }
}

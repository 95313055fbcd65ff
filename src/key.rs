//! From a key to a hash, and which bits of the hash are spent on what.
//!
//! ```text
//!   h = XXH3-64(routing part, ROUTING_SEED)          the same on every machine and in every version
//! ```
//!
//! ```text
//!   bucket    = floor(h * buckets / 2^64)             high bits: place on the ring
//!   partition = floor(bucket * 4096 / buckets)        high bits: unit of transfer
//!   core      = floor(bucket * cores / buckets)       high bits: shard within this node
//!   index     = h mixed with the process's secret     the engine's own business, independent of the above
//! ```
//!
//! The routing part is the key, or the text between the first `{` and the next `}` if that is not empty, so that the items
//! of one record (`{user:7}:name`, `{user:7}:cart`) live together on one core of one node. Keys with one tag therefore
//! share `hash`; what must tell keys apart compares `bytes`, and the engine mixes the whole key in when a tag is present.
//!
//! Lives here: hashing and the arithmetic of places. Not here: who owns a bucket (`ring`), where an item lies (`engine`).
//! Hash tags follow the Redis Cluster specification, *Hash tags*.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Seed of the routing hash. Part of the published placement function: changing it moves every key of every ring.
pub const ROUTING_SEED: u64 = 0x7062_6361_6368_6531; // "pbcache1"

/// Contiguous parts of the ring that are the unit of work for transfer, digests and dirty bits.
pub const PARTITIONS_COUNT: u32 = 4096;

/// A key with its routing hash, computed once per request where the request is parsed.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The key as the client sent it: 1 to 250 bytes, any bytes (text forbids controls and spaces, binary and base64 do not).
    pub bytes: &'a [u8],
    /// Routing hash of the key: `routing_hash(bytes)`.
    pub hash: u64,
}

impl<'a> Key<'a> {
    /// The key of these bytes, hashed. About 4 ns for a 16-byte key.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, hash: routing_hash(bytes) }
    }
}

/// The routing hash of a key.
#[inline]
pub fn routing_hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(routing_part(key), ROUTING_SEED)
}

/// The part of a key that decides its place: the text in the first `{...}` if there is one and it is not empty.
#[inline]
pub fn routing_part(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let rest = &key[open + 1..];
    match memchr::memchr(b'}', rest) {
        Some(close) if close > 0 => &rest[..close],
        _ => key,
    }
}

/// The bucket of the ring that a hash falls into. `buckets >= 1`.
#[inline]
pub const fn bucket_of(hash: u64, buckets: u32) -> u32 {
    ((hash as u128 * buckets as u128) >> 64) as u32
}

/// The partition that a bucket lies in.
#[inline]
pub const fn partition_of(bucket: u32, buckets: u32) -> u32 {
    (bucket as u64 * PARTITIONS_COUNT as u64 / buckets as u64) as u32
}

/// The core of this node that owns a bucket: contiguous ranges of equal width.
#[inline]
pub const fn core_of(bucket: u32, buckets: u32, cores: u16) -> u16 {
    (bucket as u64 * cores as u64 / buckets as u64) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_where_a_key_goes() {
        assert_eq!(routing_part(b"{user:7}:name"), b"user:7");
        assert_eq!(routing_part(b"cart:{user:7}"), b"user:7");
        assert_eq!(routing_hash(b"{user:7}:name"), routing_hash(b"cart:{user:7}"));
    }

    #[test]
    fn an_empty_or_unclosed_tag_is_part_of_the_key() {
        assert_eq!(routing_part(b"{}name"), b"{}name");
        assert_eq!(routing_part(b"{name"), b"{name");
        assert_eq!(routing_part(b"a}b{c}"), b"c");
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // Golden values: a client in another language must find the same (`src/ring/SPEC.md`).
        assert_eq!(routing_hash(b"a"), xxh3_64_with_seed(b"a", 0x7062_6361_6368_6531));
    }

    #[test]
    fn buckets_and_cores_cover_their_whole_range() {
        assert_eq!(bucket_of(0, 10_000_000), 0);
        assert_eq!(bucket_of(u64::MAX, 10_000_000), 9_999_999);
        assert_eq!(core_of(0, 10_000_000, 8), 0);
        assert_eq!(core_of(9_999_999, 10_000_000, 8), 7);
        assert_eq!(bucket_of(u64::MAX, 1), 0);
        assert_eq!(partition_of(9_999_999, 10_000_000), 4095);
    }
}

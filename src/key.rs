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
//! A key that a client sent as base64 (meta flag `b`) or with percent signs (HTTP) travels as that text, because a command borrows from
//! the input and the decoded bytes would need a place of their own. Its hash is that of the decoded key, so that routing is right
//! everywhere; the engine decodes it on its stack where it executes the command. The price for all other keys is one flag.
//!
//! Lives here: hashing and the arithmetic of places. Not here: who owns a bucket (`ring`), where an item lies (`engine`).
//! Hash tags follow the Redis Cluster specification, *Hash tags*.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::limits::{KEY_BYTES_MAX, PERCENT_KEY_BYTES_MAX};

/// Seed of the routing hash. Part of the published placement function: changing it moves every key of every ring.
pub const ROUTING_SEED: u64 = 0x7062_6361_6368_6531; // "pbcache1"

/// Contiguous parts of the ring that are the unit of work for transfer, digests and dirty bits.
pub const PARTITIONS_COUNT: u32 = 4096;

/// A key with its routing hash, computed once per request where the request is parsed.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The key as the client sent it: 1 to 250 bytes, any bytes (text forbids controls and spaces, binary and base64 do not). Up to
    /// 750 where it is percent-encoded.
    pub bytes: &'a [u8],
    /// Routing hash of the key, decoded: `routing_hash(bytes)` where that is [`Encoding::Plain`].
    pub hash: u64,
    /// How `bytes` tells the key: see [`Key::decode`].
    pub encoding: Encoding,
    /// A hash tag hides a part of the key from `hash`: see [`routing_part`].
    pub has_hash_tag: bool,
}

/// How the bytes of a [`Key`] tell the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// They are the key.
    #[default]
    Plain,
    /// They are its base64 text (RFC 4648 section 4, with padding).
    Base64,
    /// They are its text in a URI: `%41` is `A` (RFC 3986 section 2.1).
    Percent,
}

impl Encoding {
    /// The encoding with this number, as it travels between nodes; `None` if there is none.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Plain, Self::Base64, Self::Percent].into_iter().find(|encoding| *encoding as u8 == byte)
    }
}

impl<'a> Key<'a> {
    /// The key of these bytes, hashed. About 4 ns for a 16-byte key.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        let part = routing_part(bytes);
        let hash = xxh3_64_with_seed(part, ROUTING_SEED);
        Self { bytes, hash, encoding: Encoding::Plain, has_hash_tag: part.len() != bytes.len() }
    }

    /// The key that this base64 text stands for. `None` if it is empty, longer than a key, or not the one way to write it
    /// (RFC 4648 section 4, with padding).
    pub fn from_base64(text: &'a [u8]) -> Option<Self> {
        if text.len() > KEY_BYTES_MAX {
            return None;
        }
        Self::from_text(text, Encoding::Base64)
    }

    /// The key that this part of a URI stands for, decoded once. `None` if it is empty or longer than a key, or has a `%` without two hex
    /// digits behind it.
    pub fn from_percent(text: &'a [u8]) -> Option<Self> {
        if text.len() > PERCENT_KEY_BYTES_MAX {
            return None;
        }
        Self::from_text(text, Encoding::Percent)
    }

    fn from_text(text: &'a [u8], encoding: Encoding) -> Option<Self> {
        let key = Self { bytes: text, hash: 0, encoding, has_hash_tag: false };
        let mut buffer = [0; KEY_BYTES_MAX];
        let Key { hash, has_hash_tag, .. } = key.decode(&mut buffer)?;
        Some(Self { hash, has_hash_tag, ..key })
    }

    /// Hash of the whole key, decoded: tells keys apart that a hash tag gives the same `hash`.
    #[inline]
    pub fn whole_hash(&self) -> u64 {
        if !self.has_hash_tag {
            return self.hash;
        }
        let mut buffer = [0; KEY_BYTES_MAX];
        self.decode(&mut buffer).map_or(self.hash, |key| xxh3_64_with_seed(key.bytes, ROUTING_SEED))
    }

    /// The key that an encoded one stands for, in `buffer`; a plain one as it is. `None` never comes back for a key that `from_base64` or
    /// `from_percent` made.
    pub fn decode<'b>(&self, buffer: &'b mut [u8; KEY_BYTES_MAX]) -> Option<Key<'b>>
    where
        'a: 'b,
    {
        let bytes = match self.encoding {
            Encoding::Plain => return Some(*self),
            Encoding::Base64 => STANDARD.decode_slice(self.bytes, buffer).ok()?,
            Encoding::Percent => decode_percent(self.bytes, buffer)?,
        };
        (bytes > 0).then(|| Key::new(&buffer[..bytes]))
    }
}

/// Decodes the text of a URI into `buffer`. Returns how many bytes it is; `None` if they do not fit, or it is no such text.
fn decode_percent(text: &[u8], buffer: &mut [u8; KEY_BYTES_MAX]) -> Option<usize> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (mut at, mut bytes) = (0, 0);
    while at < text.len() {
        let byte = match text[at] {
            b'%' => {
                let value = digit(text.get(at + 1)?)? << 4 | digit(text.get(at + 2)?)?;
                at += 2;
                value as u8
            }
            byte => byte,
        };
        *buffer.get_mut(bytes)? = byte;
        (at, bytes) = (at + 1, bytes + 1);
    }
    Some(bytes)
}

/// The routing hash of a key.
#[inline]
pub fn routing_hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(routing_part(key), ROUTING_SEED)
}

/// The part of a key that decides its place: the text in the first `{...}` if there is one and it is not empty.
#[inline]
pub fn routing_part(key: &[u8]) -> &[u8] {
    if has_brace(key) { tag_of(key) } else { key }
}

fn tag_of(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let rest = &key[open + 1..];
    match memchr::memchr(b'}', rest) {
        Some(close) if close > 0 => &rest[..close],
        _ => key,
    }
}

/// Whether a `{` is among the bytes: sixteen at a time, in line, because a call costs more than the search in a short key.
#[inline]
fn has_brace(bytes: &[u8]) -> bool {
    const LOW: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let among_16 = |bytes: &[u8; 16]| bytes.iter().fold(false, |found, &byte| found | (byte == b'{'));
    let among_8 = |bytes: &[u8; 8]| {
        let word = u64::from_le_bytes(*bytes) ^ (LOW * b'{' as u64);
        word.wrapping_sub(LOW) & !word & HIGH != 0
    };
    // The last ones overlap those before them.
    if let Some(last) = bytes.last_chunk() {
        return among_16(last) || bytes[..bytes.len() - 1].as_chunks().0.iter().any(among_16);
    }
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => among_8(first) | among_8(last),
        _ => bytes.contains(&b'{'),
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

/// The partition that a hash falls into.
#[inline]
pub const fn partition_of_hash(hash: u64, buckets: u32) -> u32 {
    partition_of(bucket_of(hash, buckets), buckets)
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
    fn a_brace_is_found_wherever_it_is() {
        for length in 0..40 {
            let mut bytes = vec![b'z'; length];
            assert!(!has_brace(&bytes), "{length}");
            for at in 0..length {
                bytes[at] = b'{';
                assert!(has_brace(&bytes), "{length} {at}");
                bytes[at] = b'|';
            }
        }
    }

    #[test]
    fn a_base64_key_routes_as_the_key_it_stands_for() {
        let key = Key::from_base64(b"Zm9v").expect("foo");
        assert_eq!((key.bytes, key.hash), (&b"Zm9v"[..], routing_hash(b"foo")));
        let mut buffer = [0; KEY_BYTES_MAX];
        let decoded = key.decode(&mut buffer).expect("made from base64");
        assert_eq!((decoded.bytes, decoded.hash, decoded.encoding), (&b"foo"[..], key.hash, Encoding::Plain));
    }

    #[test]
    fn a_key_tells_whether_a_tag_hides_a_part_of_it() {
        assert!(Key::new(b"{user:7}:name").has_hash_tag && Key::new(b"{a}").has_hash_tag);
        assert!(!Key::new(b"user:7").has_hash_tag && !Key::new(b"{}name").has_hash_tag && !Key::new(b"{name").has_hash_tag);
        assert!(Key::from_base64(b"e2F9Yg==").expect("{a}b").has_hash_tag);
    }

    #[test]
    fn only_the_one_right_base64_text_is_a_key() {
        for text in ["", "Zm9", "Zm9vY", "Zm9-", "Zm9=", "====", "Zm8=Zm9v", "Zm 9"] {
            assert!(Key::from_base64(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Key::from_base64(&[b'A'; 248]).is_some());
        assert!(Key::from_base64(&[b'A'; 252]).is_none());
    }

    #[test]
    fn a_percent_encoded_key_is_decoded_once_and_only_if_it_is_one() {
        let decoded = |text: &str| {
            let mut buffer = [0; KEY_BYTES_MAX];
            let key = Key::from_percent(text.as_bytes())?;
            let plain = key.decode(&mut buffer)?;
            assert_eq!((plain.hash, plain.has_hash_tag), (key.hash, key.has_hash_tag));
            Some(plain.bytes.to_vec())
        };
        for (text, key) in [("a%20b", &b"a b"[..]), ("%2541", b"%41"), ("%c3%A4", b"\xc3\xa4"), ("%00", b"\0"), ("a+b", b"a+b")]
        {
            assert_eq!(decoded(text).as_deref(), Some(key), "{text}");
        }
        for text in ["", "%", "%4", "a%", "%4g", "%%41", "% 41", "%+1"] {
            assert_eq!(decoded(text), None, "{text}");
        }
        assert_eq!(decoded(&"%41".repeat(250)), Some(vec![b'A'; 250]));
        assert_eq!(decoded(&"%41".repeat(251)), None);
        assert_eq!(decoded(&format!("{}%41", "A".repeat(250))), None);
        assert!(Key::from_percent(b"%7ba%7Db").expect("{a}b").has_hash_tag);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // From `tests/placement/vectors.txt`, which another program checks: a client in another language must find the same (`src/placement/SPEC.md`).
        assert_eq!(routing_hash(b"a"), 0xb7cd_1647_0e19_6d69);
        assert_eq!(routing_hash(b"key:000000000001"), 0xe1fe_8d3a_8c75_28e9);
        assert_eq!(routing_hash(b"{user:7}:name"), 0x00dc_081b_478d_3e04);
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

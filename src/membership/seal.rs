//! The envelope of a datagram of gossip: only nodes of this ring can have sent it, and lately.
//!
//! ```text
//!   version u8 | kind u8 | ring id u64 | sent, Unix ms u64 | mac 16 B | body            34 bytes before the body, all little-endian
//! ```
//!
//! The mac is keyed with what is derived from the secret of the cluster, over all but itself. Without a secret its key is no secret either: it
//! keeps other clusters and bits that have flipped out, and who may send at all is told by addresses (`node::gossip`). A datagram that was
//! recorded counts for `SENT_MS_MAX`; what it says then is no news to who has heard it before.
//!
//! Lives here: sealing, and the reasons not to open. Not here: bodies (`gossip`), sockets.

use std::fmt;

/// The version of these bytes.
const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + 1 + 8 + 8;

/// Bytes of the envelope.
pub const SEAL_BYTES: usize = HEAD_BYTES + MAC_BYTES;

/// How old, or how far ahead, a datagram may be by this node's clock, in milliseconds.
pub const SENT_MS_MAX: u64 = 30_000;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of the failure detector.
    Swim = 1,
    /// What stands for a table.
    Digest = 2,
}

/// Why a datagram was not opened. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unopened {
    /// Shorter than an envelope, longer than a datagram of gossip, or of no known kind.
    Garbled,
    /// Of another version of pbcache.
    Version,
    /// Of another cluster, of nobody who knows the secret, or changed on its way.
    Seal,
    /// Of another ring of this cluster.
    Ring,
    /// Sent so many milliseconds ago, or ahead: a clock is wrong, or somebody sends it again.
    Time { off_ms: u64 },
}

impl fmt::Display for Unopened {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbled => write!(formatter, "it is no datagram of gossip"),
            Self::Version => write!(formatter, "it is of another version of pbcache"),
            Self::Seal => write!(formatter, "its seal is not that of this cluster"),
            Self::Ring => write!(formatter, "it is of another ring"),
            Self::Time { off_ms } => {
                write!(formatter, "it was sent {} s away from this node's time; is a clock wrong?", off_ms / 1000)
            }
        }
    }
}

/// Seals what is sent, and opens what comes.
#[derive(Clone, Debug)]
pub struct Seal {
    key: [u8; 32],
    ring_id: u64,
}

impl Seal {
    /// Of one ring of one cluster; `secret` is what both ends derive from its secret, if it has one.
    pub fn new(secret: Option<[u8; 32]>, cluster: &str, ring_id: u64) -> Self {
        let material = secret.as_ref().map_or(cluster.as_bytes(), |secret| secret.as_slice());
        Self { key: blake3::derive_key("pbcache gossip 1", material), ring_id }
    }

    /// A body in its envelope.
    pub fn close(&self, kind: Kind, body: &[u8], unix_ms: u64) -> Vec<u8> {
        let mut packet = Vec::with_capacity(SEAL_BYTES + body.len());
        packet.extend_from_slice(&[VERSION, kind as u8]);
        packet.extend_from_slice(&self.ring_id.to_le_bytes());
        packet.extend_from_slice(&unix_ms.to_le_bytes());
        let mac = self.mac(&packet, body);
        packet.extend_from_slice(&mac);
        packet.extend_from_slice(body);
        packet
    }

    /// What an envelope contains.
    ///
    /// # Errors
    /// Why it is not opened.
    pub fn open<'a>(&self, packet: &'a [u8], unix_ms: u64) -> Result<(Kind, &'a [u8]), Unopened> {
        let (head, rest) = packet.split_at_checked(HEAD_BYTES).ok_or(Unopened::Garbled)?;
        let (mac, body) = rest.split_first_chunk::<MAC_BYTES>().ok_or(Unopened::Garbled)?;
        if head[0] != VERSION {
            return Err(Unopened::Version);
        }
        if !is_same(mac, &self.mac(head, body)) {
            return Err(Unopened::Seal);
        }
        let number = |at: usize| head[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if number(2) != self.ring_id {
            return Err(Unopened::Ring);
        }
        let off_ms = number(10).abs_diff(unix_ms);
        if off_ms > SENT_MS_MAX {
            return Err(Unopened::Time { off_ms });
        }
        match head[1] {
            1 => Ok((Kind::Swim, body)),
            2 => Ok((Kind::Digest, body)),
            _ => Err(Unopened::Garbled),
        }
    }

    fn mac(&self, head: &[u8], body: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let whole = hasher.update(head).update(body).finalize();
        std::array::from_fn(|index| whole.as_bytes()[index])
    }
}

/// Whether two macs are equal; how much of a guess was right shows in nothing.
fn is_same(a: &[u8; MAC_BYTES], b: &[u8; MAC_BYTES]) -> bool {
    a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn what_is_sealed_is_opened_by_who_belongs_to_the_ring() {
        let own = Seal::new(Some([7; 32]), "c", 3);
        let packet = own.close(Kind::Digest, b"body", NOW_MS);
        assert_eq!(packet.len(), SEAL_BYTES + 4);
        assert_eq!(own.open(&packet, NOW_MS), Ok((Kind::Digest, &b"body"[..])));
        let other = |secret, cluster, ring| Seal::new(secret, cluster, ring).open(&packet, NOW_MS);
        assert_eq!(other(Some([7; 32]), "other", 3), Ok((Kind::Digest, &b"body"[..])), "the secret says which cluster");
        assert_eq!(other(Some([8; 32]), "c", 3), Err(Unopened::Seal));
        assert_eq!(other(None, "c", 3), Err(Unopened::Seal));
        assert_eq!(other(Some([7; 32]), "c", 4), Err(Unopened::Ring));
        let open = Seal::new(None, "c", 3).close(Kind::Swim, b"", NOW_MS);
        assert_eq!(Seal::new(None, "d", 3).open(&open, NOW_MS), Err(Unopened::Seal));
        assert_eq!(Seal::new(None, "c", 3).open(&open, NOW_MS), Ok((Kind::Swim, &b""[..])));
    }

    #[test]
    fn old_and_early_datagrams_count_for_nothing() {
        let seal = Seal::new(None, "c", 3);
        let packet = seal.close(Kind::Swim, b"x", NOW_MS);
        for at in [NOW_MS - SENT_MS_MAX, NOW_MS + SENT_MS_MAX] {
            assert!(seal.open(&packet, at).is_ok());
        }
        for at in [NOW_MS - SENT_MS_MAX - 1, NOW_MS + SENT_MS_MAX + 1] {
            assert_eq!(seal.open(&packet, at), Err(Unopened::Time { off_ms: SENT_MS_MAX + 1 }));
        }
    }

    #[test]
    fn cut_broken_and_foreign_bytes_are_not_opened() {
        let seal = Seal::new(Some([1; 32]), "c", 3);
        let packet = seal.close(Kind::Swim, b"some body", NOW_MS);
        for end in 0..packet.len() {
            assert!(seal.open(&packet[..end], NOW_MS).is_err(), "cut at {end}");
        }
        for bit in 0..8 * packet.len() {
            let mut broken = packet.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(seal.open(&broken, NOW_MS).is_err(), "bit {bit}");
        }
        let mut random = Random(1);
        for length in 0..2000 {
            let garbage: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            assert!(seal.open(&garbage, NOW_MS).is_err());
        }
    }
}

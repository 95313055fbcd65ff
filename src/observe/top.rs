//! Keys that are asked for most, from a sample of the commands that a core executes.
//!
//! ```text
//!   1 of 16 to 1,024 commands --> | key, count, error | ..  64 of them       a key that is not among them takes the place of the least,
//!                                                                            with its count: what it may have had is its error
//! ```
//!
//! What is asked for in more than one of 64 samples is always among them, and is counted too high by its error at most. Counts are halved
//! each minute: a key that nobody asks for any more is overtaken.
//!
//! Lives here: the counts of one core. Not here: which commands are sampled (`Observer`), the node's keys together (`node::admin`).
//! Space-saving: Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005.

use crate::limits::{KEY_BYTES_MAX, TOP_KEYS_PER_CORE as KEYS_MAX};

/// How long counts last, in seconds, before they count for half.
const HALF_LIFE_S: u32 = 60;

/// One of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopKey {
    /// Samples of it, at most `error` of them of others.
    pub count: u32,
    /// See `count`.
    pub error: u32,
    /// Of `count - error`: reads.
    pub reads: u32,
    key: [u8; KEY_BYTES_MAX],
    key_bytes: u8,
}

impl TopKey {
    fn new(key: &[u8], count: u32, error: u32) -> Self {
        let key = &key[..key.len().min(KEY_BYTES_MAX)];
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Self { count, error, reads: 0, key: bytes, key_bytes: key.len() as u8 }
    }

    /// The key, in plain bytes.
    pub fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_bytes)]
    }
}

/// The keys of one core.
#[derive(Clone, Debug, Default)]
pub struct TopKeys {
    /// In no order.
    pub keys: Vec<TopKey>,
    /// Samples that were taken, halved like the counts.
    pub samples: u32,
    /// When counts are halved next, in seconds.
    halved_s: u32,
}

impl TopKeys {
    /// Counts a sampled command on a key at a second. Memory is had at the first one: 17 KiB.
    pub fn note(&mut self, key: &[u8], is_read: bool, now_s: u32) {
        if self.keys.capacity() == 0 {
            self.keys.reserve_exact(KEYS_MAX);
            self.halved_s = now_s;
        }
        self.age(now_s);
        self.samples = self.samples.saturating_add(1);
        let known = self.keys.iter().position(|entry| entry.key() == key);
        let place = known.unwrap_or_else(|| self.place_for(key));
        let entry = &mut self.keys[place];
        entry.count = entry.count.saturating_add(1);
        entry.reads += u32::from(is_read);
    }

    /// A place for a new key: a free one, or that of the least.
    fn place_for(&mut self, key: &[u8]) -> usize {
        if self.keys.len() < KEYS_MAX {
            self.keys.push(TopKey::new(key, 0, 0));
            return self.keys.len() - 1;
        }
        let least = self.keys.iter().enumerate().min_by_key(|(_, entry)| entry.count);
        let (place, count) = least.map_or((0, 0), |(place, entry)| (place, entry.count));
        self.keys[place] = TopKey::new(key, count, count);
        place
    }

    /// Halves the counts for each half-life that has passed.
    pub fn age(&mut self, now_s: u32) {
        let halvings = now_s.saturating_sub(self.halved_s) / HALF_LIFE_S;
        if halvings == 0 {
            return;
        }
        self.halved_s += halvings * HALF_LIFE_S;
        let halved = |count: u32| count.checked_shr(halvings).unwrap_or(0);
        self.samples = halved(self.samples);
        for entry in &mut self.keys {
            (entry.count, entry.error, entry.reads) = (halved(entry.count), halved(entry.error), halved(entry.reads));
        }
        self.keys.retain(|entry| entry.count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'t>(top: &'t TopKeys, key: &str) -> &'t TopKey {
        top.keys.iter().find(|entry| entry.key() == key.as_bytes()).expect("among the keys")
    }

    #[test]
    fn a_key_that_is_asked_for_often_is_found_among_many_others() {
        let mut top = TopKeys::default();
        for round in 0..20_000u32 {
            top.note(format!("cold{round}").as_bytes(), true, 1000);
            if round % 10 == 0 {
                top.note(b"hot", round % 20 == 0, 1000);
            }
        }
        assert_eq!((top.keys.len(), top.samples), (KEYS_MAX, 22_000));
        let hot = find(&top, "hot");
        // Exact but for its error, and that is at most the samples over the places.
        assert!(hot.count >= 2000 && hot.count - hot.error <= 2000 && hot.error as usize <= 22_000 / KEYS_MAX, "{hot:?}");
        assert!((900..=1100).contains(&hot.reads), "{hot:?}");
        let most = top.keys.iter().max_by_key(|entry| entry.count - entry.error).unwrap();
        assert_eq!(most.key(), b"hot");
    }

    #[test]
    fn what_was_a_minute_ago_counts_half_and_is_forgotten_in_the_end() {
        let mut top = TopKeys::default();
        (0..16).for_each(|_| top.note(b"a", true, 1000));
        top.note(b"b", false, 1059);
        assert_eq!((find(&top, "a").count, top.samples), (16, 17));
        top.age(1060);
        assert_eq!((find(&top, "a").count, find(&top, "a").reads, top.samples, top.keys.len()), (8, 8, 8, 1));
        top.age(1060 + 60 * 40);
        assert_eq!((top.keys.len(), top.samples), (0, 0));
        // Clocks may be set back.
        top.note(&[b'x'; KEY_BYTES_MAX], true, 5);
        assert_eq!(top.keys[0].key().len(), KEY_BYTES_MAX);
    }
}

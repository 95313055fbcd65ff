//! Owners that were looked up before, for rings so large that a lookup in memory beats a ranking.
//!
//! ```text
//!   set = bucket mod sets          buckets: 4 places of 4 B, which buckets are here, the newest first
//!                                  nodes:   4 places of 2 B a copy, their owners; NONE behind the last one
//! ```
//!
//! Up to [`COMPUTED_MEMBERS_MAX`] members it computes and takes no memory; above, 256 KiB and 128 KiB a copy. Each core has its
//! own. Where all places of a set are taken, the oldest goes: keys that are asked for often come back soon.
//!
//! Lives here: places and when they are void. Not here: the ranking (`preference`).

use super::preference::Owners;
use super::{NodeIndex, Ring, ViewId};

/// Rings with more members than this are worth a lookup in memory.
pub const COMPUTED_MEMBERS_MAX: usize = 32;
/// Places, in sets of `WAYS_COUNT`.
const PLACES_COUNT: usize = 1 << 16;
/// Places that a bucket may be in: 16 bytes of `buckets`, compared at once. With one, a fifth of 16,384 hot buckets displace each other.
const WAYS_COUNT: usize = 4;
/// A place without a bucket: there are at most `u32::MAX` buckets, so that none has this number.
const EMPTY: u32 = u32::MAX;
/// No further owner.
const NONE: u16 = u16::MAX;

/// A cache of [`Ring::owners_of`] for one core. It notices by the view id when it is asked for another ring.
#[derive(Debug, Default)]
pub struct OwnersCache {
    view: ViewId,
    redundancy: usize,
    buckets: Box<[[u32; WAYS_COUNT]]>,
    nodes: Box<[u16]>,
}

impl OwnersCache {
    /// What [`Ring::owners_of`] says. The first question after a change of view clears the places.
    #[inline]
    pub fn owners_of(&mut self, ring: &Ring, bucket: u32) -> Owners {
        if ring.members().len() <= COMPUTED_MEMBERS_MAX {
            return ring.owners_of(bucket);
        }
        if self.view != ring.view() || self.buckets.is_empty() {
            self.clear(ring);
        }
        let set = bucket as usize % self.buckets.len();
        let Some(way) = self.buckets[set].iter().position(|&held| held == bucket) else { return self.fill(ring, bucket, set) };
        let start = (set * WAYS_COUNT + way) * self.redundancy;
        let mut owners = Owners::of(&[]);
        for &node in &self.nodes[start..start + self.redundancy] {
            if node != NONE {
                owners.push(NodeIndex(node));
            }
        }
        owners
    }

    #[cold]
    fn clear(&mut self, ring: &Ring) {
        self.view = ring.view();
        self.redundancy = ring.redundancy();
        self.buckets = vec![[EMPTY; WAYS_COUNT]; PLACES_COUNT / WAYS_COUNT].into();
        self.nodes = vec![NONE; PLACES_COUNT * self.redundancy].into();
    }

    #[inline(never)]
    fn fill(&mut self, ring: &Ring, bucket: u32, set: usize) -> Owners {
        let owners = ring.owners_of(bucket);
        self.buckets[set].copy_within(..WAYS_COUNT - 1, 1);
        self.buckets[set][0] = bucket;
        let nodes = &mut self.nodes[set * WAYS_COUNT * self.redundancy..][..WAYS_COUNT * self.redundancy];
        nodes.copy_within(..(WAYS_COUNT - 1) * self.redundancy, self.redundancy);
        for (at, place) in nodes[..self.redundancy].iter_mut().enumerate() {
            *place = owners.get(at).map_or(NONE, |node| node.0);
        }
        owners
    }
}

const _: () = assert!(PLACES_COUNT.is_multiple_of(WAYS_COUNT));

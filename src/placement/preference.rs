//! The order of the nodes for a bucket: owners first, then who stands in for them.
//!
//! ```text
//!   ranking by score         d   b   f   e   a   c        zones: b, d, f in north; a, c, e in south
//!   owners, redundancy 2     d           e                the best of each zone, while there are zones that own nothing yet
//!   preference list          d   e | b   f   a   c        owners by rank, then the rest by rank
//! ```
//!
//! Whether one node comes before another never depends on a third, so a node that comes or goes changes nothing between others.
//! (With zones it may promote one owner: its zone's next best, or the next zone's best.)
//!
//! One pass over the members finds the owners: a member is an integer, its *key*, and keys are exchanged without branches, which
//! nobody could predict. The rest of the ranking is found by one more pass each, without any memory, because it is asked for only
//! when an owner cannot be reached.
//!
//! ```text
//!   key, equal weights    score 48 bits | 65535 - node 16 bits                                      greatest first
//!   key, weights          2^64 - 1 - cost 64 bits | score 48 bits | 65535 - node 16 bits
//! ```
//!
//! Lives here: comparison, owners, ranking. Not here: the numbers compared (`score`). *Preference list* is Dynamo's word.

use super::score::{log, score, stride};
use super::{Node, NodeIndex, REDUNDANCY_MAX, Ring};

/// The owners of a bucket, best first, all distinct. At least one, at most `redundancy`. Reads as a slice.
#[derive(Clone, Copy)]
pub struct Owners {
    nodes: [NodeIndex; REDUNDANCY_MAX],
    count: u8,
}

/// All members in the order in which they are asked for a bucket: its owners, then the others. Nothing is allocated.
///
/// Each fallback costs a pass over the members, about what [`Ring::owners_of`] costs.
#[derive(Clone, Debug)]
pub struct Ranking<'r> {
    ring: &'r Ring,
    bucket: u32,
    owners: Owners,
    /// How many of the owners, then of the assigned nodes behind them, were given.
    given: usize,
    /// Key of the last one given by rank.
    last: Weighted,
}

/// A member in the race for a bucket, as an integer: the greatest wins. No two members have the same.
///
/// By cost, then by score, then by id. With equal weights the cost cannot contradict the score, so that both kinds agree.
trait Key: Copy + Ord {
    /// Below the keys of all members with a weight, above those of all without.
    const FLOOR: Self;
    fn of(node: &Node, stride: u64) -> Self;
    fn node(self) -> NodeIndex;
    /// Keeps the greater of two keys and gives the lesser.
    fn exchange(&mut self, key: Self) -> Self;
}

/// Score and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Equal(u64);

/// Cost, score and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Weighted(u128);

impl Ring {
    /// The nodes that hold a bucket, in the order in which they coordinate.
    ///
    /// With equal weights and one copy 9 ns for 3 nodes, 20 ns for 10; `benches/record` has more. [`super::OwnersCache`] serves large rings.
    #[inline]
    pub fn owners_of(&self, bucket: u32) -> Owners {
        let listed = self.assigned_to(bucket);
        if !listed.is_empty() {
            return self.owners_assigned(bucket, listed);
        }
        if self.equal { self.owners_by::<Equal>(bucket) } else { self.owners_by::<Weighted>(bucket) }
    }

    /// All members in the order in which they are asked for a bucket.
    pub fn ranking(&self, bucket: u32) -> Ranking<'_> {
        Ranking { ring: self, bucket, owners: self.owners_of(bucket), given: 0, last: Weighted(u128::MAX) }
    }

    #[inline(always)]
    fn owners_by<K: Key>(&self, bucket: u32) -> Owners {
        let stride = stride(bucket);
        match (self.owners_count, self.zones_count > 1) {
            (1, _) => {
                let mut best = K::FLOOR;
                self.nodes.iter().for_each(|node| _ = best.exchange(K::of(node, stride)));
                let mut owners = Owners::of(&[]);
                owners.push(best.node());
                owners
            }
            (2, false) => self.owners_unzoned::<K, 2>(stride),
            (3, false) => self.owners_unzoned::<K, 3>(stride),
            (_, false) => self.owners_unzoned::<K, REDUNDANCY_MAX>(stride),
            (2, true) => self.owners_zoned::<K, 2>(stride),
            (3, true) => self.owners_zoned::<K, 3>(stride),
            (_, true) => self.owners_zoned::<K, REDUNDANCY_MAX>(stride),
        }
    }

    /// The greatest keys of all.
    #[inline]
    fn owners_unzoned<K: Key, const COUNT: usize>(&self, stride: u64) -> Owners {
        let mut best = [K::FLOOR; COUNT];
        self.nodes.iter().for_each(|node| offer(&mut best, K::of(node, stride)));
        self.collect(best)
    }

    /// The greatest keys of each zone apart from the others. The others get a place only where there are fewer zones than copies.
    fn owners_zoned<K: Key, const COUNT: usize>(&self, stride: u64) -> Owners {
        let others_count = self.owners_count.saturating_sub(self.zones_count);
        let (mut firsts, mut others) = ([K::FLOOR; COUNT], [K::FLOOR; COUNT]);
        let mut start = 0;
        for &end in &self.zone_ends {
            let zone = &self.nodes[start..usize::from(end)];
            start = usize::from(end);
            let mut first = K::FLOOR;
            if others_count == 0 {
                zone.iter().for_each(|node| _ = first.exchange(K::of(node, stride)));
            } else {
                zone.iter().for_each(|node| offer(&mut others, first.exchange(K::of(node, stride))));
            }
            offer(&mut firsts, first);
        }
        others[..others_count].iter().for_each(|&key| offer(&mut firsts, key));
        self.collect(firsts)
    }

    #[inline(always)]
    fn collect<K: Key, const COUNT: usize>(&self, best: [K; COUNT]) -> Owners {
        let mut owners = Owners::of(&[]);
        for (place, key) in owners.nodes.iter_mut().zip(best) {
            *place = key.node();
        }
        owners.count = self.owners_count as u8;
        owners
    }

    /// Who a bucket is assigned to, then by rank: those of unused zones, and if there are none, any.
    #[cold]
    fn owners_assigned(&self, bucket: u32, listed: &[NodeIndex]) -> Owners {
        let mut owners = Owners::of(&listed[..listed.len().min(self.redundancy)]);
        let ranked_from = usize::from(owners.count);
        for zones_differ in [true, false] {
            let mut last = Weighted(u128::MAX);
            while usize::from(owners.count) < self.redundancy
                && let Some(next) = self.after(bucket, last, &owners)
                && next > Weighted::FLOOR
            {
                last = next;
                let used = owners.iter().any(|&owner| self.member(owner).zone == self.member(next.node()).zone);
                if !(zones_differ && used) {
                    owners.push(next.node());
                }
            }
        }
        let stride = stride(bucket);
        let key = |index: NodeIndex| self.nodes.iter().find(|node| node.index == index).map(|node| Weighted::of(node, stride));
        owners.nodes[ranked_from..usize::from(owners.count)].sort_by_key(|&index| std::cmp::Reverse(key(index)));
        owners
    }

    /// The greatest key below `last` of a member that is not among `except`.
    fn after(&self, bucket: u32, last: Weighted, except: &[NodeIndex]) -> Option<Weighted> {
        let stride = stride(bucket);
        let keys = self.nodes.iter().map(|node| Weighted::of(node, stride));
        keys.filter(|key| *key < last && !except.contains(&key.node())).max()
    }
}

/// Puts a key where it belongs among the best so many, greatest first; the least of them all falls out.
#[inline(always)]
fn offer<K: Key, const COUNT: usize>(best: &mut [K; COUNT], key: K) {
    best.iter_mut().fold(key, |key, place| place.exchange(key));
}

impl Key for Equal {
    const FLOOR: Self = Self(0);

    #[inline(always)]
    fn of(node: &Node, stride: u64) -> Self {
        Self(score(node.seed, stride) << 16 | u64::from(!node.index.0))
    }

    #[inline(always)]
    fn node(self) -> NodeIndex {
        NodeIndex(!(self.0 as u16))
    }

    #[inline(always)]
    fn exchange(&mut self, key: Self) -> Self {
        let lesser = key.min(*self);
        *self = key.max(*self);
        lesser
    }
}

impl Key for Weighted {
    const FLOOR: Self = Self(u64::MAX as u128);

    #[inline(always)]
    fn of(node: &Node, stride: u64) -> Self {
        let score = score(node.seed, stride);
        let cost = node.divisor.cost(log(score));
        Self(u128::from(!cost) << 64 | u128::from(score << 16 | u64::from(!node.index.0)))
    }

    #[inline(always)]
    fn node(self) -> NodeIndex {
        NodeIndex(!(self.0 as u16))
    }

    #[inline(always)]
    fn exchange(&mut self, key: Self) -> Self {
        let lesser = key.min(*self);
        *self = key.max(*self);
        lesser
    }
}

impl Owners {
    /// These nodes. At most [`REDUNDANCY_MAX`].
    #[inline(always)]
    pub(super) fn of(nodes: &[NodeIndex]) -> Self {
        let mut owners = Self { nodes: [NodeIndex(0); REDUNDANCY_MAX], count: nodes.len() as u8 };
        owners.nodes[..nodes.len()].copy_from_slice(nodes);
        owners
    }

    #[inline(always)]
    pub(super) fn push(&mut self, node: NodeIndex) {
        self.nodes[usize::from(self.count)] = node;
        self.count += 1;
    }
}

impl std::ops::Deref for Owners {
    type Target = [NodeIndex];

    #[inline(always)]
    fn deref(&self) -> &[NodeIndex] {
        &self.nodes[..usize::from(self.count)]
    }
}

impl PartialEq for Owners {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Owners {}

impl std::fmt::Debug for Owners {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(formatter)
    }
}

impl Iterator for Ranking<'_> {
    type Item = NodeIndex;

    fn next(&mut self) -> Option<NodeIndex> {
        let owner = self.owners.get(self.given).copied();
        if owner.is_some() {
            self.given += 1;
            return owner;
        }
        // Behind the owners, who is assigned beyond the redundancy; then the rest.
        let listed = self.ring.assigned_to(self.bucket);
        if let Some(&node) = listed.get(self.given) {
            self.given += 1;
            return Some(node);
        }
        loop {
            let next = self.ring.after(self.bucket, self.last, &self.owners)?;
            self.last = next;
            if !listed.contains(&next.node()) {
                return Some(next.node());
            }
        }
    }
}

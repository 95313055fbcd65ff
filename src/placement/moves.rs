//! What changes hands between two rings, partition by partition.
//!
//! ```text
//!   old owners   a  b          losers  a        sends the bucket, or drops it when the winners have it
//!   new owners   b  c          winners c        asks a or b for it
//! ```
//!
//! Nothing is stored: a partition of 2,400 buckets is compared when somebody asks, for 2 lookups a bucket.
//!
//! Lives here: the comparison. Not here: who sends what and when (`cluster`).

use super::preference::Owners;
use super::{NodeIndex, Ring, RingError};

/// Two rings, ready to be compared.
#[derive(Debug)]
pub struct Moves<'r> {
    old: &'r Ring,
    new: &'r Ring,
    /// The index in the new ring of each member of the old one.
    renumbered: Box<[Option<NodeIndex>]>,
}

/// A bucket whose set of owners changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The bucket.
    pub bucket: u32,
    /// Owners that own it no longer, as the old ring counts its members. Some of them may be no members any more.
    pub losers: Owners,
    /// Owners that did not own it, as the new ring counts its members.
    pub winners: Owners,
}

/// Prepares to tell which buckets change hands from one ring to another. O(members).
pub fn moved<'r>(old: &'r Ring, new: &'r Ring) -> Result<Moves<'r>, RingError> {
    if old.buckets() != new.buckets() {
        return Err(RingError::BucketsDiffer { old: old.buckets(), new: new.buckets() });
    }
    let renumbered = old.members().iter().map(|member| new.index_of(member.id.as_str())).collect();
    Ok(Moves { old, new, renumbered })
}

impl<'r> Moves<'r> {
    /// The buckets of a partition that change hands, in order. A change of the owners' order alone is none.
    ///
    /// Two lookups for each bucket of the partition: 115 us for 10 nodes and 10 million buckets.
    pub fn partition(&self, partition: u32) -> impl Iterator<Item = Move> + use<'_, 'r> {
        self.old.buckets_of(partition).filter_map(|bucket| self.of(bucket))
    }

    /// How one bucket changes hands, if it does.
    pub fn of(&self, bucket: u32) -> Option<Move> {
        let (old, new) = (self.old.owners_of(bucket), self.new.owners_of(bucket));
        let (mut losers, mut stayed) = (Owners::of(&[]), Owners::of(&[]));
        for &owner in old.iter() {
            match self.renumbered[usize::from(owner.0)].filter(|index| new.contains(index)) {
                Some(index) => stayed.push(index),
                None => losers.push(owner),
            }
        }
        let mut winners = Owners::of(&[]);
        new.iter().filter(|owner| !stayed.contains(owner)).for_each(|&owner| winners.push(owner));
        (!losers.is_empty() || !winners.is_empty()).then_some(Move { bucket, losers, winners })
    }
}

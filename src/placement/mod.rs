//! Consistent hashing: which nodes hold a key, as a pure function of a table that all nodes share.
//!
//! A hash falls into one of many buckets, and for each bucket the nodes are ranked by weighted rendezvous hashing. Nothing is
//! stored per bucket: memory and start time depend on the members alone, and a lookup costs a few nanoseconds per member.
//!
//! ```text
//!   hash --floor(hash * buckets / 2^64)--> bucket --rank the members--> d  b | e  a  c      redundancy 2
//!                                            |                         owners  fallbacks
//!   unit of transfer: partition = floor(bucket * 4096 / buckets)
//! ```
//!
//! What follows from the table being the only input: two nodes with equal tables agree without talking, in whatever order they
//! heard of changes. When a member comes or goes or changes weight, only the buckets that it wins or loses change hands, and they come
//! from or go to the others in proportion to weight. A node that is merely away changes nothing here.
//!
//! ```
//! use pbcache::placement::{Layout, Member, NodeId, Ring};
//!
//! let member = |id: &str| Member { id: NodeId::new(id).unwrap(), weight: 1, zone: String::new() };
//! let members = vec![member("10.0.0.1:11211"), member("10.0.0.2:11211"), member("10.0.0.3:11211")];
//! let ring = Ring::new(Layout { buckets: 10_000_000, redundancy: 2, members, assignments: Vec::new() }).unwrap();
//!
//! let hash = 0x0123_4567_89ab_cdef; // of the key: `pbcache::key::routing_hash`
//! let owners: Vec<&str> = ring.owners(hash).iter().map(|&node| ring.member(node).id.as_str()).collect();
//! let everyone: Vec<_> = ring.ranking(ring.bucket(hash)).collect();
//! assert_eq!((owners.len(), everyone.len()), (2, 3));
//! ```
//!
//! `SPEC.md` in this folder defines the function for other languages, and `tests/placement/vectors.txt` has values to check them by.
//!
//! Lives here: the layout, its rules, its view id. Not here: scores (`score`), the order (`preference`), what a change moves
//! (`moves`), the cache for large rings (`cache`); and nothing at all of hashing keys, of liveness, of addresses or of sockets.
#![forbid(unsafe_code)]

mod cache;
mod moves;
mod preference;
mod score;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use cache::OwnersCache;
pub use moves::{Move, Moves, moved};
pub use preference::{Owners, Ranking};
pub use score::{LOG_FRACTION_BITS, LOG2};

use score::Divisor;

/// Contiguous parts of the ring that are the unit of work for transfer, digests and dirty bits. The bucket places, not the partition.
pub const PARTITIONS_COUNT: u32 = 4096;
/// Most copies of an item.
pub const REDUNDANCY_MAX: usize = 16;
/// Most members of a ring: 1.5 us, with weights 5 us, for a lookup that the cache does not know.
pub const MEMBERS_MAX: usize = 1024;
/// Greatest weight of a member: with it the error of a rounded cost stays below 1e-9.
pub const WEIGHT_MAX: u32 = 65_535;
/// Longest id and longest name of a zone, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// First words of what a view id is a digest of: a layout that another version would place otherwise gets another view.
const VIEW_LABEL: &[u8] = b"pbcache ring 1";

/// All that decides who owns what: equal on all nodes of a ring, or they name each other's differences (see [`ViewId`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Virtual buckets: at least 1. More even out the nodes' shares (10 million: within 0.1 % at 10 nodes) and cost nothing.
    pub buckets: u32,
    /// Copies of an item, on as many nodes: 1 to [`REDUNDANCY_MAX`]. With fewer members than that, as many as there are.
    pub redundancy: usize,
    /// The members in any order.
    pub members: Vec<Member>,
    /// Exceptions from the ranking, in any order; no partition twice.
    pub assignments: Vec<Assignment>,
}

/// A node as far as placement knows it. Its address is no part of it: a node that moves keeps its buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is, for good.
    pub id: NodeId,
    /// Its share of the buckets in proportion to the others': up to [`WEIGHT_MAX`]. Only ratios matter. A member with 0 owns
    /// nothing that is not assigned to it, and comes last in every ranking.
    ///
    /// With `redundancy` R a member heavier than 1/R of all cannot get its full share, because it holds one copy of an item at most;
    /// and zones of unequal weight pull shares towards the lighter ones.
    pub weight: u32,
    /// Nodes that fail together: printable ASCII without spaces. Empty is a zone like any other.
    pub zone: String,
}

/// An exception: these nodes hold these partitions.
///
/// They come first in the ranking, in the order given, also those with weight 0; the first `redundancy` of them own. Where they are
/// fewer, the ranking goes on behind them. An id that is no member is passed over, so that an assignment outlives absences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// First to last partition, below [`PARTITIONS_COUNT`].
    pub partitions: RangeInclusive<u32>,
    /// The nodes, best first, none twice.
    pub nodes: Vec<NodeId>,
}

/// The stable name of a node: 1 to [`NAME_BYTES_MAX`] bytes of printable ASCII without spaces. A copy is a count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// A member by its place among the members sorted by id. Means nothing outside its own [`Ring`]: the next view may count otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u16);

/// A digest of a layout: equal if and only if (but for one chance in 2^64) two nodes place every key alike for the same reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ViewId(pub u64);

/// Why there is no ring of this layout, or no comparison. The configuration's fault; nothing was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingError {
    /// No bucket.
    NoBuckets,
    /// Not 1 to [`REDUNDANCY_MAX`] copies.
    Redundancy { redundancy: usize },
    /// No member has a weight.
    NoMembers,
    /// More than [`MEMBERS_MAX`].
    TooManyMembers { members_count: usize },
    /// Empty where it must not be, too long, or with something other than printable ASCII.
    Name { name: String },
    /// Above [`WEIGHT_MAX`].
    Weight { id: NodeId, weight: u32 },
    /// Two members, or two nodes of one assignment, with the same id.
    Twice { id: NodeId },
    /// An assignment of no partition, of one that does not exist, or to no node.
    Assignment { first: u32, last: u32 },
    /// A partition is assigned twice.
    Overlap { partition: u32 },
    /// Two rings do not divide hashes alike, so that their buckets cannot be compared.
    BucketsDiffer { old: u32, new: u32 },
}

/// A layout, ready to be asked. Immutable: a change makes another ring. Some 100 bytes per member.
#[derive(Debug)]
pub struct Ring {
    /// Sorted by id.
    members: Box<[Member]>,
    /// What the ranking needs of each member, by zone.
    nodes: Box<[Node]>,
    /// Where in `nodes` each zone ends.
    zone_ends: Box<[u16]>,
    /// Sorted, disjoint.
    assigned: Box<[Assigned]>,
    buckets: u32,
    redundancy: usize,
    /// How many nodes own each bucket that is not assigned: `redundancy`, or all with a weight.
    owners_count: usize,
    /// Distinct zones of members with a weight.
    zones_count: usize,
    /// All weights are equal: scores decide alone.
    equal: bool,
    view: ViewId,
}

/// 32 bytes: two to a cache line.
#[derive(Clone, Copy, Debug)]
struct Node {
    seed: u64,
    divisor: Divisor,
    index: NodeIndex,
}

/// An assignment, resolved: first to last bucket, and the members among its nodes.
#[derive(Debug)]
struct Assigned {
    first: u32,
    last: u32,
    nodes: Box<[NodeIndex]>,
}

impl Ring {
    /// The ring of this layout. O(members * log members), whatever the number of buckets.
    pub fn new(layout: Layout) -> Result<Self, RingError> {
        let layout = layout.sorted()?;
        let view = layout.view();
        let members: Box<[Member]> = layout.members.into();
        let mut by_zone: Vec<usize> = (0..members.len()).collect();
        by_zone.sort_by(|&a, &b| members[a].zone.cmp(&members[b].zone));
        let zones = || by_zone.chunk_by(|&a, &b| members[a].zone == members[b].zone);
        let zone_ends = zones().scan(0, |end, zone| {
            *end += zone.len() as u16;
            Some(*end)
        });
        let node = |&index: &usize| Node {
            seed: score::digest(members[index].id.as_str().as_bytes()),
            divisor: Divisor::new(members[index].weight),
            index: NodeIndex(index as u16),
        };
        let mut ring = Self {
            nodes: by_zone.iter().map(node).collect(),
            zone_ends: zone_ends.collect(),
            equal: members.iter().all(|member| member.weight == members[0].weight),
            owners_count: members.iter().filter(|member| member.weight > 0).count().min(layout.redundancy),
            zones_count: zones().filter(|zone| zone.iter().any(|&index| members[index].weight > 0)).count(),
            assigned: Box::default(),
            buckets: layout.buckets,
            redundancy: layout.redundancy,
            view,
            members,
        };
        ring.assigned = layout.assignments.iter().filter_map(|assignment| ring.resolve(assignment)).collect();
        Ok(ring)
    }

    /// The nodes that hold keys of this hash, in the order in which they coordinate. Costs as [`Ring::owners_of`].
    #[inline]
    pub fn owners(&self, hash: u64) -> Owners {
        self.owners_of(self.bucket(hash))
    }

    /// The bucket that a hash falls into.
    #[inline]
    pub fn bucket(&self, hash: u64) -> u32 {
        ((u128::from(hash) * u128::from(self.buckets)) >> 64) as u32
    }

    /// The partition that a bucket lies in. With fewer buckets than partitions some partitions are empty.
    #[inline]
    pub fn partition(&self, bucket: u32) -> u32 {
        (u64::from(bucket) * u64::from(PARTITIONS_COUNT) / u64::from(self.buckets)) as u32
    }

    /// The buckets of a partition, in order: those that [`Ring::partition`] puts there. Past the last partition there are none.
    pub fn buckets_of(&self, partition: u32) -> std::ops::Range<u32> {
        let start = |partition: u32| {
            let partition = u64::from(partition.min(PARTITIONS_COUNT));
            (partition * u64::from(self.buckets)).div_ceil(u64::from(PARTITIONS_COUNT)) as u32
        };
        start(partition)..start(partition.saturating_add(1))
    }

    /// Number of buckets.
    pub fn buckets(&self) -> u32 {
        self.buckets
    }

    /// Copies that are wanted; where members are fewer, [`Ring::owners`] are too.
    pub fn redundancy(&self) -> usize {
        self.redundancy
    }

    /// Digest of the layout.
    #[inline]
    pub fn view(&self) -> ViewId {
        self.view
    }

    /// The members sorted by id: `members()[i]` is [`NodeIndex`] i.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this index.
    ///
    /// # Panics
    /// If the index comes from a ring with more members.
    pub fn member(&self, node: NodeIndex) -> &Member {
        &self.members[usize::from(node.0)]
    }

    /// The index of the member with this id. O(log members).
    pub fn index_of(&self, id: &str) -> Option<NodeIndex> {
        let index = self.members.binary_search_by(|member| member.id.as_str().cmp(id)).ok()?;
        Some(NodeIndex(index as u16))
    }

    /// The nodes that a bucket is assigned to; empty where the ranking decides.
    #[inline]
    fn assigned_to(&self, bucket: u32) -> &[NodeIndex] {
        if self.assigned.is_empty() {
            return &[];
        }
        let index = self.assigned.partition_point(|assigned| assigned.last < bucket);
        self.assigned.get(index).filter(|assigned| assigned.first <= bucket).map_or(&[], |assigned| &assigned.nodes)
    }

    /// `None` if it has no effect: no bucket lies there, or none of its nodes is a member.
    fn resolve(&self, assignment: &Assignment) -> Option<Assigned> {
        let first = self.buckets_of(*assignment.partitions.start()).start;
        let end = self.buckets_of(*assignment.partitions.end()).end;
        let nodes: Box<[_]> = assignment.nodes.iter().filter_map(|id| self.index_of(id.as_str())).collect();
        (first < end && !nodes.is_empty()).then(|| Assigned { first, last: end - 1, nodes })
    }
}

impl Layout {
    /// Digest of a layout: of its canonical bytes as `SPEC.md` defines them. Orders do not matter.
    ///
    /// A layout that makes no ring has a digest too, but nothing to use it for.
    pub fn view(&self) -> ViewId {
        let mut members: Vec<&Member> = self.members.iter().collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        let mut assignments: Vec<&Assignment> = self.assignments.iter().collect();
        assignments.sort_by_key(|assignment| *assignment.partitions.start());

        let mut bytes = Vec::new();
        let number = |bytes: &mut Vec<u8>, number: u64| bytes.extend_from_slice(&number.to_le_bytes());
        let text = |bytes: &mut Vec<u8>, text: &[u8]| {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text);
        };
        text(&mut bytes, VIEW_LABEL);
        number(&mut bytes, u64::from(self.buckets));
        number(&mut bytes, self.redundancy as u64);
        number(&mut bytes, members.len() as u64);
        for member in members {
            text(&mut bytes, member.id.as_str().as_bytes());
            number(&mut bytes, u64::from(member.weight));
            text(&mut bytes, member.zone.as_bytes());
        }
        number(&mut bytes, assignments.len() as u64);
        for assignment in assignments {
            number(&mut bytes, u64::from(*assignment.partitions.start()));
            number(&mut bytes, u64::from(*assignment.partitions.end()));
            number(&mut bytes, assignment.nodes.len() as u64);
            assignment.nodes.iter().for_each(|id| text(&mut bytes, id.as_str().as_bytes()));
        }
        ViewId(score::digest(&bytes))
    }

    /// The same layout with members and assignments in order, if it obeys the rules.
    fn sorted(mut self) -> Result<Self, RingError> {
        if self.buckets == 0 {
            return Err(RingError::NoBuckets);
        }
        if !(1..=REDUNDANCY_MAX).contains(&self.redundancy) {
            return Err(RingError::Redundancy { redundancy: self.redundancy });
        }
        if self.members.len() > MEMBERS_MAX {
            return Err(RingError::TooManyMembers { members_count: self.members.len() });
        }
        self.members.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(RingError::Twice { id: pair[0].id.clone() });
        }
        for member in &self.members {
            if !is_name(&member.zone) {
                return Err(RingError::Name { name: member.zone.clone() });
            }
            if member.weight > WEIGHT_MAX {
                return Err(RingError::Weight { id: member.id.clone(), weight: member.weight });
            }
        }
        if self.members.iter().all(|member| member.weight == 0) {
            return Err(RingError::NoMembers);
        }
        self.assignments.sort_by_key(|assignment| *assignment.partitions.start());
        self.assignments.iter().try_for_each(Assignment::check)?;
        let overlap = self.assignments.windows(2).find(|pair| pair[0].partitions.end() >= pair[1].partitions.start());
        match overlap {
            Some(pair) => Err(RingError::Overlap { partition: *pair[1].partitions.start() }),
            None => Ok(self),
        }
    }
}

impl Assignment {
    fn check(&self) -> Result<(), RingError> {
        let (first, last) = (*self.partitions.start(), *self.partitions.end());
        if first > last || last >= PARTITIONS_COUNT || self.nodes.is_empty() {
            return Err(RingError::Assignment { first, last });
        }
        let mut ids: Vec<&NodeId> = self.nodes.iter().collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(RingError::Twice { id: pair[0].clone() }),
            None => Ok(()),
        }
    }
}

impl NodeId {
    /// The id with this text, if it is one.
    pub fn new(text: &str) -> Result<Self, RingError> {
        if text.is_empty() || !is_name(text) {
            return Err(RingError::Name { name: text.into() });
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for ViewId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBuckets => write!(formatter, "a ring has at least one bucket"),
            Self::Redundancy { redundancy } => write!(formatter, "{redundancy} copies are not between 1 and {REDUNDANCY_MAX}"),
            Self::NoMembers => write!(formatter, "no member has a weight"),
            Self::TooManyMembers { members_count } => write!(formatter, "{members_count} members are more than {MEMBERS_MAX}"),
            Self::Name { name } => {
                write!(formatter, "{name:?} is no name: printable ASCII without spaces, at most {NAME_BYTES_MAX} bytes")
            }
            Self::Weight { id, weight } => write!(formatter, "weight {weight} of {id} is above {WEIGHT_MAX}"),
            Self::Twice { id } => write!(formatter, "{id} is there twice"),
            Self::Assignment { first, last } => {
                write!(
                    formatter,
                    "an assignment of the partitions {first} to {last} needs a node and partitions below {PARTITIONS_COUNT}"
                )
            }
            Self::Overlap { partition } => write!(formatter, "partition {partition} is assigned twice"),
            Self::BucketsDiffer { old, new } => write!(formatter, "rings of {old} and {new} buckets cannot be compared"),
        }
    }
}

impl std::error::Error for RingError {}

/// Printable ASCII without spaces, so that names fit into lines, tables and the sort order of every language.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

// A node is the low 16 bits of a key in `preference`, which is above 0, and `cache` marks empty places with the greatest index.
const _: () = assert!(MEMBERS_MAX < u16::MAX as usize);
// `Divisor` is exact for divisors below 2^16 and dividends below 2^63.
const _: () = assert!(WEIGHT_MAX < 1 << 16);

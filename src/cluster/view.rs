//! Who is in the ring: the member table and what follows from it.
//!
//! ```text
//!   --ringnode a, b, c/weight=2  +  this node  --> View { ring, nodes sorted by id, which of them is me }   immutable, shared by the cores
//!
//!   view 1:  a b c        next:  a c d          NodeIndex (of the ring):   0 1 2       0 1 2       counted anew in each view
//!                                               PeerId (of this process):  0 1 2       0 2 3       b keeps 1, also when it comes back
//! ```
//!
//! All state about other nodes stands under their `PeerId`, so that a view may change under it. `NodeIndex` is the ring's word, and goes no
//! further than this file and the cache of owners: a table turns the one into the other.
//!
//! Configured explicitly for now; gossip will publish other views through the same type.
//!
//! Lives here: the table, ids, what a change may give to a node. Not here: who answers (`links`), which buckets follow (`placement`), what a
//! change does to the state of a core (`change`), names and addresses of sockets (`node`).

use arrayvec::ArrayVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::placement::{Layout, Member, NodeId, NodeIndex, OwnersCache, REDUNDANCY_MAX, Ring, RingError};

/// One node as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who it is, for good.
    pub id: NodeId,
    /// Where it listens for clients and peers: `HOST:PORT`.
    pub address: String,
    /// Its share.
    pub weight: u32,
    /// What fails together with it.
    pub zone: String,
}

/// A node of a view.
#[derive(Clone, Debug)]
pub struct Node {
    /// What was configured.
    pub entry: Entry,
    /// Stands for the id on the wire.
    pub node_hash: u64,
}

/// A node for the life of this process: given when the node is first in a view, kept over all later ones, and never given to another.
///
/// Small and dense: state about nodes lies in tables by it. What a node that has left keeps there is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);

impl PeerId {
    /// Its place in a table of all that were ever seen.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The owners of a key, best first.
pub type Owners = ArrayVec<PeerId, REDUNDANCY_MAX>;

/// The ring as this node sees it. Equal view ids mean equal owners of every key.
#[derive(Debug)]
pub struct View {
    /// Who owns what.
    pub ring: Ring,
    /// By `NodeIndex`.
    pub nodes: Box<[Node]>,
    /// This node.
    pub me: PeerId,
    /// This node, in this view.
    pub me_index: NodeIndex,
    /// By `NodeIndex`.
    peers: Box<[PeerId]>,
    /// By `PeerId`: where it stands in this view, if it does.
    indexes: Box<[Option<NodeIndex>]>,
    /// By `PeerId`: every node that was ever in a view.
    seen: Box<[NodeId]>,
}

impl View {
    /// The first view of a process, of these nodes; `me` is one of them.
    ///
    /// # Errors
    /// What the ring refuses: an id twice, weights out of bounds, ..
    pub fn new(entries: &[Entry], me: &NodeId, buckets: u32, redundancy: usize) -> Result<Self, RingError> {
        Self::of(entries, me, (buckets, redundancy), &[])
    }

    /// The view that comes after this one: other nodes, this one among them, or other copies.
    ///
    /// # Errors
    /// What the ring refuses; also more nodes, since the start of this process, than there are ids.
    pub fn next(&self, entries: &[Entry], redundancy: usize) -> Result<Self, RingError> {
        let me = &self.ring.member(self.me_index).id;
        Self::of(entries, me, (self.ring.buckets(), redundancy), &self.seen)
    }

    fn of(entries: &[Entry], me: &NodeId, (buckets, redundancy): (u32, usize), seen: &[NodeId]) -> Result<Self, RingError> {
        let member = |entry: &Entry| Member { id: entry.id.clone(), weight: entry.weight, zone: entry.zone.clone() };
        let layout = Layout { buckets, redundancy, members: entries.iter().map(member).collect(), assignments: Vec::new() };
        let ring = Ring::new(layout)?;
        let node = |member: &Member| {
            let entry = entries.iter().find(|entry| entry.id == member.id)?.clone();
            Some(Node { entry, node_hash: node_hash(&member.id) })
        };
        let nodes = ring.members().iter().filter_map(node).collect();
        let me_index = ring.index_of(me.as_str()).ok_or(RingError::NoMembers)?;
        let mut seen = seen.to_vec();
        let peers: Box<[PeerId]> = ring.members().iter().map(|member| peer_of(&member.id, &mut seen)).collect();
        if seen.len() > PEERS_MAX {
            return Err(RingError::TooManyMembers { members_count: seen.len() });
        }
        let mut indexes = vec![None; seen.len()];
        peers.iter().zip(0..).for_each(|(peer, index)| indexes[peer.index()] = Some(NodeIndex(index)));
        let me = peers[usize::from(me_index.0)];
        Ok(Self { ring, nodes, me, me_index, peers, indexes: indexes.into(), seen: seen.into() })
    }

    /// How many nodes were ever in a view: their ids are all below.
    pub fn peers_count(&self) -> usize {
        self.seen.len()
    }

    /// The members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.iter().copied()
    }

    /// The members but for this node.
    pub fn others(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.members().filter(|&peer| peer != self.me)
    }

    /// Whether a node is a member.
    #[inline]
    pub fn has(&self, peer: PeerId) -> bool {
        self.index_of(peer).is_some()
    }

    /// Where a node stands in this view.
    #[inline]
    pub fn index_of(&self, peer: PeerId) -> Option<NodeIndex> {
        self.indexes.get(peer.index()).copied().flatten()
    }

    /// The node that stands there in this view.
    #[inline]
    pub fn peer(&self, index: NodeIndex) -> PeerId {
        self.peers[usize::from(index.0)]
    }

    /// What the table has of a node, if it is a member.
    pub fn node(&self, peer: PeerId) -> Option<&Node> {
        self.index_of(peer).map(|index| &self.nodes[usize::from(index.0)])
    }

    /// What this node is called, whether it is a member or was one.
    pub fn id(&self, peer: PeerId) -> &NodeId {
        &self.seen[peer.index()]
    }

    /// The member with this id.
    pub fn peer_with_id(&self, id: &str) -> Option<PeerId> {
        self.ring.index_of(id).map(|index| self.peer(index))
    }

    /// The member whose id has this hash.
    pub fn peer_with_hash(&self, node_hash: u64) -> Option<PeerId> {
        self.nodes.iter().zip(&self.peers).find(|(node, _)| node.node_hash == node_hash).map(|(_, &peer)| peer)
    }

    /// All members in the order in which they are asked for a bucket.
    pub fn ranking(&self, bucket: u32) -> impl Iterator<Item = PeerId> + '_ {
        self.ring.ranking(bucket).map(|index| self.peer(index))
    }

    /// The owners of a bucket, best first.
    #[inline]
    pub fn owners(&self, cache: &mut OwnersCache, bucket: u32) -> Owners {
        cache.owners_of(&self.ring, bucket).iter().map(|&index| self.peer(index)).collect()
    }

    /// What stands for the view in frames.
    #[inline]
    pub fn stamp(&self) -> u32 {
        let view = self.ring.view().0;
        (view ^ (view >> 32)) as u32
    }

    /// Whether a node may own something that it did not own in the view before: it is new, has become heavier, or others have made room
    /// for it. A node that merely comes takes from others and gives nothing to them.
    pub fn may_gain(&self, before: &View, peer: PeerId) -> bool {
        let entry = |view: &View, peer| view.node(peer).map(|node| (node.entry.weight, node.entry.zone.clone()));
        let (Some((old_weight, old_zone)), Some((weight, zone))) = (entry(before, peer), entry(self, peer)) else {
            return true;
        };
        let made_room = |other: PeerId| match (entry(before, other), entry(self, other)) {
            (Some((old_weight, old_zone)), Some((weight, zone))) => weight < old_weight || zone != old_zone,
            (Some(_), None) => true,
            (None, _) => false,
        };
        weight > old_weight
            || zone != old_zone
            || self.ring.redundancy() > before.ring.redundancy()
            || before.members().any(made_room)
    }
}

/// The id of a node: the one that it has, or the next.
fn peer_of(id: &NodeId, seen: &mut Vec<NodeId>) -> PeerId {
    let known = seen.iter().position(|other| other == id);
    let index = known.unwrap_or_else(|| {
        seen.push(id.clone());
        seen.len() - 1
    });
    PeerId(index as u16)
}

/// Nodes that one process may ever see in its views: ids are 16 bits, and none is given twice.
const PEERS_MAX: usize = 1 << 16;

/// What stands for an id in frames.
pub fn node_hash(id: &NodeId) -> u64 {
    xxh3_64(id.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn entry(name: usize, weight: u32, zone: &str) -> Entry {
        let id = NodeId::new(&format!("n{name}")).unwrap();
        Entry { id, address: String::new(), weight, zone: zone.into() }
    }

    fn names(view: &View) -> Vec<(&str, u16)> {
        view.members().map(|peer| (view.id(peer).as_str(), peer.0)).collect()
    }

    #[test]
    fn a_node_keeps_its_id_over_all_views() {
        let [a, b, c, d] = [0, 1, 2, 3].map(|name| entry(name, 1, ""));
        let first = View::new(&[a.clone(), c.clone(), d.clone()], &c.id, 1000, 2).unwrap();
        assert_eq!(names(&first), [("n0", 0), ("n2", 1), ("n3", 2)]);
        let second = first.next(&[a.clone(), b.clone(), c.clone()], 2).unwrap();
        assert_eq!(names(&second), [("n0", 0), ("n1", 3), ("n2", 1)]);
        assert_eq!((second.me, second.index_of(second.me)), (first.me, Some(NodeIndex(2))));
        assert!(!second.has(PeerId(2)) && second.node(PeerId(2)).is_none() && second.id(PeerId(2)).as_str() == "n3");
        let third = second.next(&[d, c.clone()], 2).unwrap();
        assert_eq!(names(&third), [("n2", 1), ("n3", 2)]);
        assert!(third.next(&[a, b], 2).is_err(), "this node is always a member");
    }

    #[test]
    fn only_who_may_gain_does() {
        let mut random = Random(11);
        for _ in 0..300 {
            let draw = |random: &mut Random| {
                let nodes: Vec<usize> = (1..7).filter(|_| random.below(4) > 0).collect();
                let of = |&name: &usize| entry(name, 1 + (name as u32 % 2), ["", "a", "b", "c"][name % 4]);
                let mut entries: Vec<Entry> = std::iter::once(&0).chain(&nodes).map(of).collect();
                if random.below(3) == 0 {
                    let place = random.below(entries.len() as u64) as usize;
                    entries[place].weight += random.below(2) as u32;
                    entries[place].zone = "b".into();
                }
                entries
            };
            let me = NodeId::new("n0").unwrap();
            let before = View::new(&draw(&mut random), &me, 500, 1 + random.below(3) as usize).unwrap();
            let after = before.next(&draw(&mut random), 1 + random.below(3) as usize).unwrap();
            let mut cache = OwnersCache::default();
            for bucket in 0..500 {
                let (old, new) = (before.owners(&mut cache, bucket), after.owners(&mut cache, bucket));
                let gained = new.iter().find(|&&peer| !old.contains(&peer) && !after.may_gain(&before, peer));
                assert_eq!(gained, None, "bucket {bucket}: {:?} to {:?}", names(&before), names(&after));
            }
        }
    }
}

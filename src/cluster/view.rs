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
//! While the ring changes there are two layouts. The one that serves says who coordinates and who is read. Writes go to the owners of the
//! target as well, and what those lack is brought to them; then the whole view changes at once, and the target serves.
//!
//! ```text
//!   serving a b c, target a b c d:    bucket owned by a b, then by d a     write: a b, and a copy for d     read: a, then b
//! ```
//!
//! Lives here: the table, ids, what a change may give to a node. Not here: who answers (`links`), which buckets follow (`placement`), what a
//! change does to the state of a core (`change`), names and addresses of sockets (`node`).

use arrayvec::ArrayVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::membership::changes::{self, Layouts};
use crate::membership::table::{Record, Table};
use crate::placement::{Layout, Member, NodeId, NodeIndex, OwnersCache, REDUNDANCY_MAX, Ring, RingError, ViewId};

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
    /// Who it is in this process.
    pub peer: PeerId,
}

/// The layout that comes next.
#[derive(Debug)]
pub struct Target {
    /// Who owns what then.
    pub ring: Ring,
    /// The data moves: everybody writes to both layouts already.
    pub is_moving: bool,
    /// By `NodeIndex` of its ring.
    peers: Box<[PeerId]>,
}

impl Target {
    /// Whether a node owns something then.
    pub fn has(&self, peer: PeerId) -> bool {
        self.peers.contains(&peer)
    }
}

/// What a view is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All nodes of either layout, and this one.
    pub entries: Vec<Entry>,
    /// Divides the ring.
    pub buckets: u32,
    /// Copies of every item.
    pub redundancy: usize,
    /// Who owns now.
    pub serving: Vec<Member>,
    /// Who owns next, and whether the data moves.
    pub target: Option<(Vec<Member>, bool)>,
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

impl Plan {
    /// What follows from a table for one of its nodes.
    pub fn of_table(table: &Table, me: &NodeId) -> Self {
        let Layouts { serving, target } = changes::layouts(table);
        let is_placed = |id: &NodeId| {
            let mut members = serving.iter().chain(target.iter().flat_map(|target| &target.members));
            members.any(|member| member.id == *id)
        };
        let entry = |record: &Record| Entry {
            id: record.id.clone(),
            address: record.address.clone(),
            weight: record.weight,
            zone: record.zone.clone(),
        };
        let entries = table.records().filter(|record| record.id == *me || is_placed(&record.id)).map(entry).collect();
        let (buckets, redundancy) = (table.ring().buckets, usize::from(table.ring().redundancy));
        Self { entries, buckets, redundancy, serving, target: target.map(|target| (target.members, target.is_moving)) }
    }
}

/// The ring as this node sees it. Equal view ids mean equal owners of every key.
#[derive(Debug)]
pub struct View {
    /// Who owns what.
    pub ring: Ring,
    /// Who owns what next, where that differs.
    pub target: Option<Target>,
    /// All nodes of either layout and this one, in the order of their ids.
    pub nodes: Box<[Node]>,
    /// This node.
    pub me: PeerId,
    /// This node among those that serve; `None` while it only routes.
    pub me_index: Option<NodeIndex>,
    id: ViewId,
    /// By `NodeIndex`.
    peers: Box<[PeerId]>,
    /// By `PeerId`: where it stands among those that serve, if it does.
    indexes: Box<[Option<NodeIndex>]>,
    /// By `PeerId`: where it stands in `nodes`, if it does.
    places: Box<[Option<u16>]>,
    /// By `PeerId`: every node that was ever in a view.
    seen: Box<[NodeId]>,
}

impl View {
    /// The first view of a process, of these nodes, which all serve; `me` is one of them.
    ///
    /// # Errors
    /// What the ring refuses: an id twice, weights out of bounds, ..
    pub fn new(entries: &[Entry], me: &NodeId, buckets: u32, redundancy: usize) -> Result<Self, RingError> {
        Self::of(&Plan { entries: entries.to_vec(), buckets, redundancy, serving: members(entries), target: None }, me, &[])
    }

    /// The first view of a process; `me` is one of the entries.
    ///
    /// # Errors
    /// What the rings refuse.
    pub fn planned(plan: &Plan, me: &NodeId) -> Result<Self, RingError> {
        Self::of(plan, me, &[])
    }

    /// The view that comes after this one: other nodes, this one among them, or other copies.
    ///
    /// # Errors
    /// What the ring refuses; also more nodes, since the start of this process, than there are ids.
    pub fn next(&self, entries: &[Entry], redundancy: usize) -> Result<Self, RingError> {
        let buckets = self.ring.buckets();
        self.next_planned(&Plan { entries: entries.to_vec(), buckets, redundancy, serving: members(entries), target: None })
    }

    /// As `next`, with layouts of their own.
    ///
    /// # Errors
    /// As `next`.
    pub fn next_planned(&self, plan: &Plan) -> Result<Self, RingError> {
        Self::of(plan, self.id_of(self.me), &self.seen)
    }

    fn of(plan: &Plan, me: &NodeId, seen: &[NodeId]) -> Result<Self, RingError> {
        let &Plan { ref entries, buckets, redundancy, .. } = plan;
        let ring_of =
            |members: &[Member]| Ring::new(Layout { buckets, redundancy, members: members.to_vec(), assignments: Vec::new() });
        let ring = ring_of(&plan.serving)?;
        let target = plan.target.as_ref().map(|(members, is_moving)| Ok((ring_of(members)?, *is_moving))).transpose()?;
        let mut seen = seen.to_vec();
        let mut sorted: Vec<&Entry> = entries.iter().collect();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let node = |entry: &&Entry| Node {
            entry: (*entry).clone(),
            node_hash: node_hash(&entry.id),
            peer: peer_of(&entry.id, &mut seen),
        };
        let nodes: Box<[Node]> = sorted.iter().map(node).collect();
        let peer_in = |id: &NodeId| nodes.iter().find(|node| node.entry.id == *id).map(|node| node.peer);
        let peers_in = |ring: &Ring| -> Result<Box<[PeerId]>, RingError> {
            ring.members().iter().map(|member| peer_in(&member.id).ok_or(RingError::NoMembers)).collect()
        };
        let me_index = ring.index_of(me.as_str());
        let me = peer_in(me).ok_or(RingError::NoMembers)?;
        if seen.len() > PEERS_MAX {
            return Err(RingError::TooManyMembers { members_count: seen.len() });
        }
        let peers = peers_in(&ring)?;
        let (mut indexes, mut places) = (vec![None; seen.len()], vec![None; seen.len()]);
        peers.iter().zip(0..).for_each(|(peer, index)| indexes[peer.index()] = Some(NodeIndex(index)));
        nodes.iter().zip(0..).for_each(|(node, place)| places[node.peer.index()] = Some(place));
        let target = target.map(|(ring, is_moving)| Ok(Target { peers: peers_in(&ring)?, ring, is_moving })).transpose()?;
        let id = id_of_both(&ring, target.as_ref());
        let (indexes, places, seen) = (indexes.into(), places.into(), seen.into());
        Ok(Self { ring, target, nodes, me, me_index, id, peers, indexes, places, seen })
    }

    /// Stands for both layouts: equal on all nodes that decide alike.
    pub fn id(&self) -> ViewId {
        self.id
    }

    /// How many nodes were ever in a view: their ids are all below.
    pub fn peers_count(&self) -> usize {
        self.seen.len()
    }

    /// The nodes of either layout and this one, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.nodes.iter().map(|node| node.peer)
    }

    /// The same but for this node.
    pub fn others(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.members().filter(|&peer| peer != self.me)
    }

    /// Whether a node is in either layout, or this one.
    #[inline]
    pub fn has(&self, peer: PeerId) -> bool {
        self.places.get(peer.index()).is_some_and(Option::is_some)
    }

    /// Where a node stands among those that serve.
    #[inline]
    pub fn index_of(&self, peer: PeerId) -> Option<NodeIndex> {
        self.indexes.get(peer.index()).copied().flatten()
    }

    /// The node that stands there among those that serve.
    #[inline]
    pub fn peer(&self, index: NodeIndex) -> PeerId {
        self.peers[usize::from(index.0)]
    }

    /// What the table has of a node, if it is a member.
    pub fn node(&self, peer: PeerId) -> Option<&Node> {
        self.places.get(peer.index()).copied().flatten().map(|place| &self.nodes[usize::from(place)])
    }

    /// What this node is called, whether it is a member or was one.
    pub fn id_of(&self, peer: PeerId) -> &NodeId {
        &self.seen[peer.index()]
    }

    /// The member with this id.
    pub fn peer_with_id(&self, id: &str) -> Option<PeerId> {
        self.nodes.iter().find(|node| node.entry.id.as_str() == id).map(|node| node.peer)
    }

    /// The member whose id has this hash.
    pub fn peer_with_hash(&self, node_hash: u64) -> Option<PeerId> {
        self.nodes.iter().find(|node| node.node_hash == node_hash).map(|node| node.peer)
    }

    /// All that serve, in the order in which they are asked for a bucket.
    pub fn ranking(&self, bucket: u32) -> impl Iterator<Item = PeerId> + '_ {
        self.ring.ranking(bucket).map(|index| self.peer(index))
    }

    /// The owners of a bucket, best first.
    #[inline]
    pub fn owners(&self, cache: &mut OwnersCache, bucket: u32) -> Owners {
        cache.owners_of(&self.ring, bucket).iter().map(|&index| self.peer(index)).collect()
    }

    /// Nodes that own a bucket next and do not now: they get copies of what is written, and count for nothing else so far.
    pub fn pending(&self, bucket: u32) -> Owners {
        let Some(target) = &self.target else { return Owners::new() };
        let owners = self.ring.owners_of(bucket);
        let owns = |peer: PeerId| self.index_of(peer).is_some_and(|index| owners.contains(&index));
        let next = target.ring.owners_of(bucket);
        next.iter().map(|&index| target.peers[usize::from(index.0)]).filter(|&peer| !owns(peer)).collect()
    }

    /// Whether a node owns a bucket now or next: what it has of it stays there.
    pub fn keeps(&self, peer: PeerId, bucket: u32) -> bool {
        self.index_of(peer).is_some_and(|index| self.ring.owners_of(bucket).contains(&index)) || self.is_pending(peer, bucket)
    }

    /// Whether a node owns a bucket next and does not now.
    pub fn is_pending(&self, peer: PeerId, bucket: u32) -> bool {
        self.target.is_some() && self.pending(bucket).contains(&peer)
    }

    /// What stands for the view in frames.
    #[inline]
    pub fn stamp(&self) -> u32 {
        (self.id.0 ^ (self.id.0 >> 32)) as u32
    }

    /// Whether a node may lack something of what it owns now, when this view comes behind `before`. A node that merely comes takes from
    /// others and gives nothing to them. Where everything was brought to the new owners before, nobody lacks anything.
    pub fn may_gain(&self, before: &View, peer: PeerId) -> bool {
        let was_moved = before.target.as_ref().is_some_and(|target| target.is_moving && target.ring.view() == self.ring.view());
        !was_moved && gains(&before.ring, &self.ring, self.id_of(peer))
    }

    /// Whether a node will own more than it does.
    pub fn will_gain(&self, peer: PeerId) -> bool {
        self.target.as_ref().is_some_and(|target| gains(&self.ring, &target.ring, self.id_of(peer)))
    }

    /// Whether a node must be brought what it will own and does not now, when this view comes behind `before`: the data moves from here on.
    pub fn must_fill(&self, before: &View, peer: PeerId) -> bool {
        let Some(target) = self.target.as_ref().filter(|target| target.is_moving) else { return false };
        let goes_on =
            before.target.as_ref().is_some_and(|earlier| earlier.is_moving && earlier.ring.view() == target.ring.view());
        let goes_on = goes_on && before.ring.view() == self.ring.view();
        !goes_on && gains(&self.ring, &target.ring, self.id_of(peer))
    }
}

/// Whether a node may own something in a ring that it did not own in the one before: it is new, has become heavier, or others have made room
/// for it.
fn gains(before: &Ring, after: &Ring, id: &NodeId) -> bool {
    let member = |ring: &Ring, id: &NodeId| ring.index_of(id.as_str()).map(|index| ring.member(index).clone());
    let Some(new) = member(after, id) else { return false };
    let Some(old) = member(before, id) else { return true };
    let made_room = |old: &Member| match member(after, &old.id) {
        Some(new) => new.weight < old.weight || new.zone != old.zone,
        None => true,
    };
    new.weight > old.weight
        || new.zone != old.zone
        || after.redundancy() > before.redundancy()
        || before.members().iter().any(made_room)
}

/// Everybody of these owns a share.
fn members(entries: &[Entry]) -> Vec<Member> {
    let member = |entry: &Entry| Member { id: entry.id.clone(), weight: entry.weight, zone: entry.zone.clone() };
    entries.iter().map(member).collect()
}

/// A digest of both layouts; with one, that of its ring.
fn id_of_both(ring: &Ring, target: Option<&Target>) -> ViewId {
    let Some(target) = target else { return ring.view() };
    let mut bytes = [0; 17];
    bytes[..8].copy_from_slice(&ring.view().0.to_le_bytes());
    bytes[8..16].copy_from_slice(&target.ring.view().0.to_le_bytes());
    bytes[16] = u8::from(target.is_moving);
    ViewId(xxh3_64(&bytes))
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
        view.members().map(|peer| (view.id_of(peer).as_str(), peer.0)).collect()
    }

    #[test]
    fn a_node_keeps_its_id_over_all_views() {
        let [a, b, c, d] = [0, 1, 2, 3].map(|name| entry(name, 1, ""));
        let first = View::new(&[a.clone(), c.clone(), d.clone()], &c.id, 1000, 2).unwrap();
        assert_eq!(names(&first), [("n0", 0), ("n2", 1), ("n3", 2)]);
        let second = first.next(&[a.clone(), b.clone(), c.clone()], 2).unwrap();
        assert_eq!(names(&second), [("n0", 0), ("n1", 3), ("n2", 1)]);
        assert_eq!((second.me, second.index_of(second.me)), (first.me, Some(NodeIndex(2))));
        assert!(!second.has(PeerId(2)) && second.node(PeerId(2)).is_none() && second.id_of(PeerId(2)).as_str() == "n3");
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

//! Leases: may this core answer alone, or may another node hold something newer?
//!
//! ```text
//!   we:    SYNC, FETCH, .. at 100 ms  -->              <-- DONE + lease                    valid until 100 + PEER_LEASE_MS
//!   we hold leases from all live peers: our copy is the newest          but for:  | hash, version | ..  keys that they announced
//! ```
//!
//! A *lease* is a peer's promise, valid `PEER_LEASE_MS`, that it holds no newer version for us except keys that it has
//! announced as missing here, and that it will not act in our place. While we hold leases from all live peers, our copy is the newest,
//! but for those keys.
//!
//! Lives here: the leases of others, the keys that they hold for us, and when we granted ours. Not here: who is live (`links`), when a lease
//! is granted (`serve`).

use std::collections::HashMap;

use super::Turn;
use super::commit;
use super::links::{LinkId, Links};
use super::requests::{Purpose, Request};
use super::view::PeerId;
use crate::limits;
use crate::peer::frame::{self, Kind};
use crate::time::Monotonic;
use crate::version::Version;

/// What the core at the other end of a link has promised.
#[derive(Default)]
struct Lease {
    /// Until when it is valid.
    until: Monotonic,
    /// Keys that are missing here and that core has for us: routing hash and version.
    missing_keys: HashMap<u64, Version, ahash::RandomState>,
    /// When it last announced one.
    missing_at: Monotonic,
}

/// Leases of a core.
pub struct Leases {
    /// By link.
    leases: Vec<Lease>,
    /// Until when the leases of all live peers are valid: until then none of them holds something newer than we do.
    all_until: Monotonic,
    /// When that was last computed, no peer was away.
    all_peers_up: bool,
    /// Keys that others have announced as missing here, and how many they may be.
    missing_count: usize,
    missing_max: usize,
    /// By node: when we last granted it a lease.
    granted_at: Vec<Monotonic>,
    /// Up to when a node that is not in the ring any more may hold a lease of ours, and answer alone.
    removed_until: Monotonic,
}

impl Leases {
    /// None so far, of so many nodes with this one; they may announce so many missing keys.
    pub(super) fn new(nodes: usize, missing_max: usize) -> Self {
        Self {
            leases: Vec::new(),
            all_until: if nodes == 1 { Monotonic::NEVER } else { Monotonic::LONG_AGO },
            all_peers_up: nodes == 1,
            missing_count: 0,
            missing_max,
            granted_at: vec![Monotonic::LONG_AGO; nodes],
            removed_until: Monotonic::LONG_AGO,
        }
    }

    fn lease(&self, link: LinkId) -> Option<&Lease> {
        self.leases.get(link.0 as usize)
    }

    fn lease_mut(&mut self, link: LinkId) -> &mut Lease {
        let index = link.0 as usize;
        if index >= self.leases.len() {
            self.leases.resize_with(index + 1, Lease::default);
        }
        &mut self.leases[index]
    }

    /// Whether we hold leases of all live peers: none of them has something newer than we do.
    #[inline]
    pub fn has_all(&self, at: Monotonic) -> bool {
        at < self.all_until
    }

    /// Whether no peer is away and we hold leases of all: no node at all has something newer than we do.
    pub(super) fn all_peers_up(&self, at: Monotonic) -> bool {
        self.all_peers_up && self.has_all(at)
    }

    /// Until when the leases of all live peers are valid.
    pub(super) fn all_until(&self) -> Monotonic {
        self.all_until
    }

    /// Until when the lease of the core at the other end of a link is valid.
    pub(super) fn until(&self, link: LinkId) -> Monotonic {
        self.lease(link).map_or(Monotonic::LONG_AGO, |lease| lease.until)
    }

    /// Whether the core at the other end of a link may hold something newer of this hash than we do.
    pub(super) fn may_be_stale(&self, link: LinkId, hash: u64, at: Monotonic) -> bool {
        self.lease(link).is_none_or(|lease| lease.until <= at || lease.missing_keys.contains_key(&hash))
    }

    /// A lease was granted over a link; it was asked for at `sent_at`, and counts from then.
    pub(super) fn granted(&mut self, link: LinkId, links: &Links, sent_at: Monotonic, at: Monotonic) {
        let lease = self.lease_mut(link);
        lease.until = lease.until.max(sent_at + limits::PEER_LEASE_MS);
        self.recompute(links, at);
    }

    /// The core at the other end of a link holds something for us, or must say anew that it does not.
    pub(super) fn end(&mut self, link: LinkId) {
        self.lease_mut(link).until = Monotonic::LONG_AGO;
        self.suspend();
    }

    /// A link is lost, and its lease with it.
    pub(super) fn on_link_lost(&mut self, link: LinkId, links: &Links, at: Monotonic) {
        self.lease_mut(link).until = Monotonic::LONG_AGO;
        self.recompute(links, at);
    }

    /// Another node may hold something newer, though nothing is known of it.
    pub(super) fn suspend(&mut self) {
        self.all_until = Monotonic::LONG_AGO;
    }

    /// A node has another view: what its cores have promised is void.
    pub(super) fn end_of_node(&mut self, node: PeerId, links: &Links) {
        links.of_node(node).iter().for_each(|&link| self.end(link));
    }

    /// What the cores of a node have said counts no more: it has other ones, or has lost its memory.
    pub(super) fn forget_node(&mut self, node: PeerId, links: &Links) {
        for &link in links.of_node(node) {
            self.end(link);
            self.forget_all_missing(link, Monotonic::NEVER);
        }
    }

    /// Computes again until when the leases of all live peers are valid.
    pub(super) fn recompute(&mut self, links: &Links, at: Monotonic) {
        let (mut until, mut all_peers_up) = (Monotonic::NEVER, true);
        for link in links.others().flat_map(|node| links.overlapping(node)) {
            match links.is_given_up(link) {
                true => all_peers_up = false,
                false => until = until.min(self.until(link)),
            }
        }
        self.all_peers_up = all_peers_up;
        if at < self.removed_until {
            until = Monotonic::LONG_AGO;
        }
        // With everybody away there is no lease to end it: look again soon.
        self.all_until = until.min(at + limits::PEER_LEASE_MS);
    }

    /// Whether any node has said that it has something newer of this hash.
    #[inline]
    pub(super) fn is_missing(&self, links: &Links, hash: u64, buckets: u32) -> bool {
        let has = |link| self.lease(link).is_some_and(|lease| lease.missing_keys.contains_key(&hash));
        self.missing_count > 0 && links.others().any(|node| has(links.link_of(node, hash, buckets)))
    }

    /// Keys that are missing here, once for each peer that has announced them.
    pub fn missing_count(&self) -> usize {
        self.missing_count
    }

    /// Over this link a core announces that this version of a hash is missing here. False if there are too many.
    pub(super) fn add_missing(&mut self, link: LinkId, (hash, version): (u64, Version), at: Monotonic) -> bool {
        let is_full = self.missing_count >= self.missing_max;
        let lease = self.lease_mut(link);
        lease.missing_at = at;
        if is_full {
            return false;
        }
        let before = lease.missing_keys.insert(hash, version);
        if let Some(before) = before.filter(|&before| before > version) {
            lease.missing_keys.insert(hash, before);
        }
        self.missing_count += usize::from(before.is_none());
        true
    }

    /// This version of a hash has come from a node.
    pub(super) fn forget_missing(&mut self, (node, links): (PeerId, &Links), (hash, version): (u64, Version), buckets: u32) {
        if self.missing_count == 0 {
            return;
        }
        let link = links.link_of(node, hash, buckets);
        let missing = &mut self.lease_mut(link).missing_keys;
        if missing.get(&hash).is_some_and(|&lacking| lacking <= version) {
            missing.remove(&hash);
            if missing.is_empty() {
                *missing = HashMap::default();
            }
            self.missing_count -= 1;
        }
    }

    /// The core at the other end of a link was asked at `sent_at`, and has nothing for us any more.
    pub(super) fn forget_all_missing(&mut self, link: LinkId, sent_at: Monotonic) {
        let lease = self.lease_mut(link);
        // What it has announced since, it has announced later.
        if sent_at > lease.missing_at {
            let forgotten = std::mem::take(&mut lease.missing_keys).len();
            self.missing_count -= forgotten;
        }
    }

    /// We grant a node a lease.
    pub(super) fn note_grant(&mut self, node: PeerId, at: Monotonic) {
        self.granted_at[node.index()] = at;
    }

    /// A node has lost its memory, and with it the lease that we granted.
    pub(super) fn forget_grant(&mut self, node: PeerId) {
        self.granted_at[node.index()] = Monotonic::LONG_AGO;
    }

    /// Up to when a node may hold a lease of ours; long ago if it has none.
    pub(super) fn granted_until(&self, node: PeerId) -> Monotonic {
        match self.granted_at[node.index()] {
            Monotonic::LONG_AGO => Monotonic::LONG_AGO,
            granted_at => granted_at + limits::PEER_LEASE_MS,
        }
    }

    /// Up to when a node that is not in the ring any more may hold one.
    pub(super) fn removed_until(&self) -> Monotonic {
        self.removed_until
    }

    /// Another view counts, in which so many nodes were ever seen: what was promised under the one before is void.
    pub(super) fn handle_view(&mut self, nodes: usize) {
        self.granted_at.resize(nodes, Monotonic::LONG_AGO);
        self.leases.iter_mut().for_each(|lease| lease.until = Monotonic::LONG_AGO);
        self.all_peers_up = false;
        self.suspend();
    }

    /// A node is not in the ring any more: what it has promised is void, and what we have promised to it must end.
    pub(super) fn remove_node(&mut self, node: PeerId, links: &Links) {
        self.forget_node(node, links);
        self.removed_until = self.removed_until.max(self.granted_until(node));
        self.forget_grant(node);
    }
}

/// Asks for a lease over a link.
pub(super) fn ask(turn: &mut Turn<'_>, link: LinkId) {
    if turn.cluster.requests.has_room(&turn.cluster.links, link) {
        let (moment, committed_through) = (turn.moment(), commit::committed_through(turn));
        turn.cluster.send(Request::new(link, Kind::Sync, Purpose::Sync), moment, |output| {
            frame::write_version(committed_through, output);
        });
    }
}

/// Asks for the clock of a core that commands wait to be sent to.
pub(super) fn ask_clock(turn: &mut Turn<'_>, link: LinkId) {
    turn.cluster.links.need(link, turn.at);
    if turn.cluster.links.may_ask(link, turn.at) {
        ask(turn, link);
    }
}

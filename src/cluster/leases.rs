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

/// What the core at the other end of a link has promised.
#[derive(Default)]
struct Lease {
    /// Until when it is valid.
    until_ms: u64,
    /// Keys that are missing here and that core has for us: routing hash and version.
    missing_keys: HashMap<u64, u64, ahash::RandomState>,
    /// When it last announced one.
    missing_ms: u64,
}

/// Leases of a core.
pub struct Leases {
    /// By link.
    leases: Vec<Lease>,
    /// Until when the leases of all live peers are valid: until then none of them holds something newer than we do.
    all_until_ms: u64,
    /// When that was last computed, no peer was away.
    all_peers_up: bool,
    /// Keys that others have announced as missing here, and how many they may be.
    missing_count: usize,
    missing_max: usize,
    /// By node: when we last granted it a lease.
    granted_ms: Vec<u64>,
    /// Up to when a node that is not in the ring any more may hold a lease of ours, and answer alone.
    removed_until_ms: u64,
}

impl Leases {
    /// None so far, of so many nodes with this one; they may announce so many missing keys.
    pub(super) fn new(nodes: usize, missing_max: usize) -> Self {
        Self {
            leases: Vec::new(),
            all_until_ms: if nodes == 1 { u64::MAX } else { 0 },
            all_peers_up: nodes == 1,
            missing_count: 0,
            missing_max,
            granted_ms: vec![0; nodes],
            removed_until_ms: 0,
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
    pub fn has_all(&self, now_ms: u64) -> bool {
        now_ms < self.all_until_ms
    }

    /// Whether no peer is away and we hold leases of all: no node at all has something newer than we do.
    pub(super) fn all_peers_up(&self, now_ms: u64) -> bool {
        self.all_peers_up && self.has_all(now_ms)
    }

    /// Until when the leases of all live peers are valid.
    pub(super) fn all_until_ms(&self) -> u64 {
        self.all_until_ms
    }

    /// Until when the lease of the core at the other end of a link is valid.
    pub(super) fn until_ms(&self, link: LinkId) -> u64 {
        self.lease(link).map_or(0, |lease| lease.until_ms)
    }

    /// Whether the core at the other end of a link may hold something newer of this hash than we do.
    pub(super) fn may_be_stale(&self, link: LinkId, hash: u64, now_ms: u64) -> bool {
        self.lease(link).is_none_or(|lease| lease.until_ms <= now_ms || lease.missing_keys.contains_key(&hash))
    }

    /// A lease was granted over a link; it was asked for at `sent_ms`, and counts from then.
    pub(super) fn granted(&mut self, link: LinkId, links: &Links, sent_ms: u64, now_ms: u64) {
        let lease = self.lease_mut(link);
        lease.until_ms = lease.until_ms.max(sent_ms + limits::PEER_LEASE_MS);
        self.recompute(links, now_ms);
    }

    /// The core at the other end of a link holds something for us, or must say anew that it does not.
    pub(super) fn end(&mut self, link: LinkId) {
        self.lease_mut(link).until_ms = 0;
        self.suspend();
    }

    /// A link is lost, and its lease with it.
    pub(super) fn on_link_lost(&mut self, link: LinkId, links: &Links, now_ms: u64) {
        self.lease_mut(link).until_ms = 0;
        self.recompute(links, now_ms);
    }

    /// Another node may hold something newer, though nothing is known of it.
    pub(super) fn suspend(&mut self) {
        self.all_until_ms = 0;
    }

    /// A node has another view: what its cores have promised is void.
    pub(super) fn end_of_node(&mut self, node: PeerId, links: &Links) {
        links.of_node(node).iter().for_each(|&link| self.end(link));
    }

    /// What the cores of a node have said counts no more: it has other ones, or has lost its memory.
    pub(super) fn forget_node(&mut self, node: PeerId, links: &Links) {
        for &link in links.of_node(node) {
            self.end(link);
            self.forget_all_missing(link, u64::MAX);
        }
    }

    /// Computes again until when the leases of all live peers are valid.
    pub(super) fn recompute(&mut self, links: &Links, now_ms: u64) {
        let (mut until_ms, mut all_peers_up) = (u64::MAX, true);
        for link in links.others().flat_map(|node| links.overlapping(node)) {
            match links.is_given_up(link) {
                true => all_peers_up = false,
                false => until_ms = until_ms.min(self.until_ms(link)),
            }
        }
        self.all_peers_up = all_peers_up;
        if now_ms < self.removed_until_ms {
            until_ms = 0;
        }
        // With everybody away there is no lease to end it: look again soon.
        self.all_until_ms = until_ms.min(now_ms + limits::PEER_LEASE_MS);
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
    pub(super) fn add_missing(&mut self, link: LinkId, (hash, version): (u64, u64), now_ms: u64) -> bool {
        let is_full = self.missing_count >= self.missing_max;
        let lease = self.lease_mut(link);
        lease.missing_ms = now_ms;
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
    pub(super) fn forget_missing(&mut self, (node, links): (PeerId, &Links), (hash, version): (u64, u64), buckets: u32) {
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

    /// The core at the other end of a link was asked at `sent_ms`, and has nothing for us any more.
    pub(super) fn forget_all_missing(&mut self, link: LinkId, sent_ms: u64) {
        let lease = self.lease_mut(link);
        // What it has announced since, it has announced later.
        if sent_ms > lease.missing_ms {
            let forgotten = std::mem::take(&mut lease.missing_keys).len();
            self.missing_count -= forgotten;
        }
    }

    /// We grant a node a lease.
    pub(super) fn note_grant(&mut self, node: PeerId, now_ms: u64) {
        self.granted_ms[node.index()] = now_ms;
    }

    /// A node has lost its memory, and with it the lease that we granted.
    pub(super) fn forget_grant(&mut self, node: PeerId) {
        self.granted_ms[node.index()] = 0;
    }

    /// Up to when a node may hold a lease of ours; 0 for none.
    pub(super) fn granted_until_ms(&self, node: PeerId) -> u64 {
        match self.granted_ms[node.index()] {
            0 => 0,
            granted_ms => granted_ms + limits::PEER_LEASE_MS,
        }
    }

    /// Up to when a node that is not in the ring any more may hold one.
    pub(super) fn removed_until_ms(&self) -> u64 {
        self.removed_until_ms
    }

    /// Another view counts, in which so many nodes were ever seen: what was promised under the one before is void.
    pub(super) fn handle_view(&mut self, nodes: usize) {
        self.granted_ms.resize(nodes, 0);
        self.leases.iter_mut().for_each(|lease| lease.until_ms = 0);
        self.all_peers_up = false;
        self.suspend();
    }

    /// A node is not in the ring any more: what it has promised is void, and what we have promised to it must end.
    pub(super) fn remove_node(&mut self, node: PeerId, links: &Links) {
        self.forget_node(node, links);
        self.removed_until_ms = self.removed_until_ms.max(self.granted_until_ms(node));
        self.forget_grant(node);
    }
}

/// Asks for a lease over a link.
pub(super) fn ask(turn: &mut Turn<'_>, link: LinkId) {
    if turn.cluster.requests.has_room(&turn.cluster.links, link) {
        let (at, committed_through) = (turn.moment(), commit::committed_through(turn));
        turn.cluster.send(Request::new(link, Kind::Sync, Purpose::Sync), at, |output| {
            frame::write_version(committed_through, output);
        });
    }
}

/// Asks for the clock of a core that commands wait to be sent to.
pub(super) fn ask_clock(turn: &mut Turn<'_>, link: LinkId) {
    turn.cluster.links.need(link, turn.ms);
    if turn.cluster.links.may_ask(link, turn.ms) {
        ask(turn, link);
    }
}

//! Uncommitted copies: it is not known here whether every other owner has them too.
//!
//! ```text
//!   coordinator   writes under way, by version:  | 31 ended | 35 | 36 ended | 40 |        committed through 34
//!                                                             goes with every copy, and with every SYNC
//!   other nodes   copies taken, by link:         | (33, key) | (35, key) | (40, key) |    33 is committed, and goes
//! ```
//!
//! A coordinator that dies while its copies are under way leaves some owners with the new item and some with the old one, and none that
//! knows. So a node that has taken such a copy, and is not told in time that it is committed, keeps hints for the other
//! owners.
//!
//! Lives here: both lists. Not here: copies (`replicate`), hints (`handoff`).
//! After the commit point that Viewstamped Replication (MIT-CSAIL-TR-2012-021, 4.1) sends along with what comes next.

use std::collections::VecDeque;

use super::operations::OperationId;
use super::view::PeerId;
use super::{PeerRequest, Turn};
use crate::key::Key;
use crate::limits;
use crate::time::Monotonic;
use crate::version::Version;

/// Writes that this core coordinates, while copies of them are under way to more than one node.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Version and whether it has ended; versions rise, and the first has not ended.
    under_way: VecDeque<(Version, bool)>,
}

impl Writes {
    /// Copies of this version go out. It is mostly greater than those before, but for one that needs another copy later.
    pub(super) fn begin(&mut self, version: Version) {
        let index = self.under_way.partition_point(|&(before, _)| before < version);
        self.under_way.insert(index, (version, false));
    }

    /// They have arrived, or hints say where not.
    pub(super) fn end(&mut self, version: Version) {
        if let Ok(index) = self.under_way.binary_search_by_key(&version, |&(version, _)| version) {
            self.under_way[index].1 = true;
        }
        while self.under_way.front().is_some_and(|&(_, ended)| ended) {
            self.under_way.pop_front();
        }
    }

    /// The version up to which everything has ended, where `clock` is the greatest that was given.
    pub(super) fn committed_through(&self, clock: Version) -> Version {
        self.under_way.front().map_or(clock, |&(version, _)| version.previous())
    }
}

/// Copies that this core has taken, and of which it has not heard that all others have arrived.
#[derive(Debug)]
pub(super) struct Uncommitted {
    links: Vec<Link>,
    bytes: usize,
    bytes_max: usize,
}

/// What came over one connection of another node.
#[derive(Debug)]
struct Link {
    connection: (u32, u32),
    node: PeerId,
    copies: VecDeque<Copy>,
    /// The keys of the copies, one behind the other.
    keys: VecDeque<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Copy {
    version: Version,
    since: Monotonic,
    key_bytes: usize,
}

impl Link {
    /// Takes out the first copy: its version and its key.
    fn pop(&mut self) -> Option<(Version, Vec<u8>)> {
        let copy = self.copies.pop_front()?;
        let key = self.keys.drain(..copy.key_bytes).collect();
        if self.copies.is_empty() && self.copies.capacity() > KEPT_MAX {
            (self.copies, self.keys) = (VecDeque::new(), VecDeque::new());
        }
        Some((copy.version, key))
    }
}

impl Uncommitted {
    /// None so far; all together may take so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { links: Vec::new(), bytes: 0, bytes_max }
    }

    /// Notes a copy. Keeps its key's bytes; allocates only while more is noted than ever before.
    pub(super) fn add(&mut self, from: PeerRequest, version: Version, key: &[u8], at: Monotonic) {
        let (Some(node), connection) = (from.node, (from.connection, from.generation)) else { return };
        let index = self.links.iter().position(|link| link.connection == connection).unwrap_or_else(|| {
            // Connections come and go: one of which nothing is left gives its place to the next.
            let free = self.links.iter().position(|link| link.copies.is_empty());
            free.unwrap_or_else(|| {
                self.links.push(Link { connection, node, copies: VecDeque::new(), keys: VecDeque::new() });
                self.links.len() - 1
            })
        });
        let link = &mut self.links[index];
        (link.connection, link.node) = (connection, node);
        link.copies.push_back(Copy { version, since: at, key_bytes: key.len() });
        link.keys.extend(key);
        self.bytes += bytes_of(key);
    }

    /// Everything up to this version that came over this connection has arrived everywhere.
    pub(super) fn commit_through(&mut self, from: PeerRequest, version: Version) {
        let connection = (from.connection, from.generation);
        if let Some(link) = self.links.iter_mut().find(|link| link.connection == connection) {
            while link.copies.front().is_some_and(|copy| copy.version <= version)
                && let Some((_, key)) = link.pop()
            {
                self.bytes -= bytes_of(&key);
            }
        }
    }

    /// A copy that has waited for too long, or is one too many: its version, its key, and the node that it came from.
    fn timed_out(&mut self, at: Monotonic) -> Option<(Version, Vec<u8>, PeerId)> {
        let many = self.bytes > self.bytes_max;
        let is_over = |copy: &Copy| many || copy.since + limits::PEER_UNCOMMITTED_MS_MAX <= at;
        let link = self.links.iter_mut().find(|link| link.copies.front().is_some_and(is_over))?;
        let node = link.node;
        let (version, key) = link.pop()?;
        self.bytes -= bytes_of(&key);
        Some((version, key, node))
    }

    /// Whether all copies are committed.
    pub(super) fn is_empty(&self) -> bool {
        self.links.iter().all(|link| link.copies.is_empty())
    }
}

/// What a copy takes.
fn bytes_of(key: &[u8]) -> usize {
    limits::PEER_UNCOMMITTED_BYTES + key.len()
}

/// Room for so many copies is kept where there are none.
const KEPT_MAX: usize = 1024;

/// The version up to which all that this core has coordinated is where it belongs, or known to be missing.
pub(super) fn committed_through(turn: &Turn<'_>) -> Version {
    turn.cluster.writes.committed_through(turn.engine.clock())
}

/// Keeps hints for the owners that may lack a copy, where its coordinator has not said in time that it is committed.
pub(super) fn hint_timed_out(turn: &mut Turn<'_>) {
    while let Some((version, key, source)) = turn.cluster.uncommitted.timed_out(turn.at) {
        let key = Key::new(&key);
        if turn.engine.copy_of(&key, turn.now).is_none_or(|copy| copy.version != version) {
            // Something newer has come, with hints of its own where they are needed.
            continue;
        }
        let (bucket, partition) = (turn.bucket_of(key.hash), turn.partition_of(key.hash));
        let owners = turn.owners(bucket);
        for &owner in owners.iter().filter(|&&owner| owner != turn.cluster.view.me && owner != source) {
            turn.cluster.hints.add(owner, key.bytes, version, partition, turn.now);
        }
    }
}

/// Notes the version of which copies are under way, in place of the one before; 0 for none.
pub(super) fn track(turn: &mut Turn<'_>, id: OperationId, version: Version) {
    let Some(write) = turn.op(id).and_then(|op| op.write_state.as_deref_mut()) else { return };
    let before = std::mem::replace(&mut write.uncommitted_version, version);
    if before == version {
        return;
    }
    if version.is_some() {
        turn.cluster.writes.begin(version);
    }
    if before.is_some() {
        turn.cluster.writes.end(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version that is written as this number.
    const fn v(bits: u64) -> Version {
        Version::from_bits(bits)
    }

    fn from(connection: u32) -> PeerRequest {
        PeerRequest { connection, generation: 7, id: 0, node: Some(PeerId(3)), deadline: Monotonic::LONG_AGO }
    }

    #[test]
    fn writes_are_committed_through_the_first_that_is_not() {
        let mut writes = Writes::default();
        assert_eq!(writes.committed_through(v(50)), v(50));
        [31, 36, 35, 40].into_iter().for_each(|version| writes.begin(v(version)));
        writes.end(v(36));
        assert_eq!(writes.committed_through(v(50)), v(30));
        writes.end(v(31));
        assert_eq!(writes.committed_through(v(50)), v(34));
        writes.end(v(35));
        assert_eq!(writes.committed_through(v(50)), v(39));
        writes.end(v(40));
        writes.end(v(40));
        assert_eq!(writes.committed_through(v(50)), v(50));
    }

    #[test]
    fn a_copy_times_out_unless_it_is_committed() {
        let mut uncommitted = Uncommitted::new(1 << 20);
        let at = Monotonic::from_ms(1000);
        uncommitted.add(from(1), v(33), b"first", at);
        uncommitted.add(from(2), v(34), b"other link", at);
        uncommitted.add(from(1), v(35), b"second", at + 1);
        uncommitted.commit_through(from(1), v(34));
        let late = at + limits::PEER_UNCOMMITTED_MS_MAX;
        assert_eq!(uncommitted.timed_out(late.minus_ms(1)), None);
        assert_eq!(uncommitted.timed_out(late), Some((v(34), b"other link".to_vec(), PeerId(3))));
        assert_eq!(uncommitted.timed_out(late), None);
        uncommitted.commit_through(from(1), v(35));
        assert!(uncommitted.is_empty() && uncommitted.timed_out(late + 1).is_none());
    }

    #[test]
    fn they_never_take_too_much() {
        let mut uncommitted = Uncommitted::new(100 * bytes_of(b"key"));
        (0..100).for_each(|version| uncommitted.add(from(1 + version as u32 % 2), v(version), b"key", Monotonic::LONG_AGO));
        assert_eq!(uncommitted.timed_out(Monotonic::LONG_AGO), None);
        uncommitted.add(from(3), v(100), b"key", Monotonic::LONG_AGO);
        assert_eq!(uncommitted.timed_out(Monotonic::LONG_AGO).map(|(version, ..)| version), Some(v(0)));
        assert_eq!(uncommitted.timed_out(Monotonic::LONG_AGO), None);
        (1..=3).for_each(|connection| uncommitted.commit_through(from(connection), v(100)));
        assert!(uncommitted.is_empty() && uncommitted.bytes == 0);
    }
}

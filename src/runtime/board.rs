//! The board of a core: its figures, written by it alone, read by anybody at any time.
//!
//! ```text
//!   core:   counters, engine, latency, ring --four times a second, and before it parks--> | stamp | words .. | stamp |
//!   admin thread:                                                        read again where the stamp has changed meanwhile
//! ```
//!
//! Plain atomics under a sequence lock: a core never waits for a reader, a reader wakes no core, and what it reads is of one moment, so that
//! hits and misses add up to gets. When a core last wrote tells whether it still turns.
//!
//! Lives here: what stands on the board, in which order. Not here: what is made of it (`node::admin`), when it is written (`pump`,
//! `streams`).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use crate::cluster::handoff::hints::Account;
use crate::cluster::view::PeerId;
use crate::cluster::{Cluster, Figures};
use crate::engine::Statistics;
use crate::latency::{Histogram, KINDS};
use crate::limits;
use crate::metrics::Counters;
use crate::shard::Shard;

use super::context::Context;

/// What one core knew of another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerFigures {
    /// Links that are up, and links whose other side is away.
    pub links_up: u64,
    /// See `links_up`.
    pub links_away: u64,
    /// Requests under way to it.
    pub waiting: u64,
    /// Its view as it last said; 0 before.
    pub view: u64,
    /// Cores that it has; 0 before it has told.
    pub cores: u64,
    /// Since when a link to it is away, by `Context::ms`; 0 where none is.
    pub away_since_ms: u64,
    /// Hints for it.
    pub hints: Account,
    /// Partitions that are to be sent to it whole.
    pub dirty: u64,
    /// Age of the oldest hint, in milliseconds.
    pub oldest_ms: u64,
}

/// What one core knew of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFigures {
    /// What was sent to other nodes and taken from them.
    pub figures: Figures,
    /// Requests sent, and links lost.
    pub requests_sent: u64,
    /// See `requests_sent`.
    pub links_lost: u64,
    /// Requests that other nodes have a part in, now.
    pub operations: u64,
    /// Bytes of hints.
    pub hint_bytes: u64,
    /// Keys that others have announced as missing here.
    pub missing: u64,
    /// 1 while every other node has said that it holds nothing for this one.
    pub synced: u64,
}

/// What stands on a board.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When the core wrote it, by `Clock::ms`; 0 before it did.
    pub written_ms: u64,
    /// Its counters.
    pub counters: Counters,
    /// Its engine.
    pub engine: Statistics,
    /// Bytes that it holds for connections.
    pub held_bytes: u64,
    /// Requests, by `latency::Kind`.
    pub kinds: [Histogram; KINDS],
    /// Turns.
    pub turns: Histogram,
    /// Its part of the ring; all zero on a lone node.
    pub ring: RingFigures,
    /// Other nodes, by `PeerId`; none on a lone node.
    pub peers: Box<[PeerFigures]>,
}

impl Snapshot {
    /// Nothing, of a node that knows so many others.
    pub fn empty(peers: usize) -> Self {
        Self {
            written_ms: 0,
            counters: Counters::default(),
            engine: Statistics::default(),
            held_bytes: 0,
            kinds: Default::default(),
            turns: Histogram::default(),
            ring: RingFigures::default(),
            peers: vec![PeerFigures::default(); peers].into(),
        }
    }

    /// Gives every word to `visit`, always in the same order.
    fn visit(&mut self, visit: &mut impl FnMut(&mut u64)) {
        visit(&mut self.written_ms);
        visit(&mut self.held_bytes);
        self.counters.visit(visit);
        visit_engine(&mut self.engine, visit);
        for histogram in self.kinds.iter_mut().chain([&mut self.turns]) {
            histogram.buckets.iter_mut().for_each(&mut *visit);
            visit(&mut histogram.sum_ns);
        }
        visit_ring(&mut self.ring, visit);
        for peer in &mut self.peers {
            let PeerFigures { links_up, links_away, waiting, view, cores, away_since_ms, hints, dirty, oldest_ms } = peer;
            let Account { created, replayed, superseded, expired, degraded, rerouted, pending } = hints;
            [links_up, links_away, waiting, view, cores, away_since_ms, dirty, oldest_ms].into_iter().for_each(&mut *visit);
            [created, replayed, superseded, expired, degraded, rerouted, pending].into_iter().for_each(&mut *visit);
        }
    }

    /// Takes the figures of a core as they are now.
    fn take(&mut self, context: &Context) {
        let Shard { engine, counters, cluster, .. } = &context.shard;
        self.written_ms = context.at.ms();
        self.held_bytes = context.held_bytes.get() as u64;
        self.counters = *counters;
        self.engine = engine.statistics();
        self.kinds = context.latency.kinds;
        self.turns = context.latency.turns;
        if let Some(cluster) = cluster {
            self.take_ring(cluster, context);
        }
    }

    fn take_ring(&mut self, cluster: &Cluster, context: &Context) {
        self.ring = RingFigures {
            figures: cluster.figures,
            requests_sent: cluster.requests.sent,
            links_lost: cluster.links.lost,
            operations: cluster.operations() as u64,
            hint_bytes: cluster.hints.bytes() as u64,
            missing: cluster.leases.missing_count() as u64,
            synced: u64::from(cluster.leases.has_all(context.at)),
        };
        let members = cluster.view.peers_count().min(self.peers.len());
        for (index, peer) in self.peers.iter_mut().enumerate().take(members) {
            let (id, target) = (PeerId(index as u16), cluster.hints.target(PeerId(index as u16)));
            let node = cluster.links.node(id);
            *peer = PeerFigures {
                view: node.view,
                cores: node.cores.map_or(0, u64::from),
                hints: target.account(),
                dirty: target.dirty_count().into(),
                oldest_ms: cluster.hints.oldest_ms(id, context.now),
                away_since_ms: peer.away_since_ms,
                ..PeerFigures::default()
            };
        }
        for id in cluster.links.ids() {
            let link = cluster.links.link(id);
            let Some(peer) = self.peers.get_mut(link.node.index()) else { continue };
            peer.links_up += u64::from(link.state == crate::cluster::links::State::Up);
            peer.links_away += u64::from(link.state.is_away());
            peer.waiting += u64::from(link.outstanding);
        }
        for peer in &mut self.peers {
            peer.away_since_ms = match (peer.links_away, peer.away_since_ms) {
                (0, _) => 0,
                (_, 0) => context.at.ms(),
                (_, since_ms) => since_ms,
            };
        }
    }
}

fn visit_engine(engine: &mut Statistics, visit: &mut impl FnMut(&mut u64)) {
    // Every field by its name, so that a new one is thought of.
    let Statistics { items_count, items_total, item_bytes, index_bytes, segment_bytes, evicted, .. } = engine;
    [items_count, items_total, item_bytes, index_bytes, segment_bytes, evicted].into_iter().for_each(&mut *visit);
    let Statistics { evicted_unfetched, evicted_nonzero, evicted_time_s, expired, expired_unfetched, .. } = engine;
    [evicted_unfetched, evicted_nonzero, evicted_time_s, expired, expired_unfetched].into_iter().for_each(&mut *visit);
    let Statistics { found_expired, found_flushed, out_of_memory, judged, moved_bytes, .. } = engine;
    [found_expired, found_flushed, out_of_memory, judged, moved_bytes].into_iter().for_each(&mut *visit);
}

fn visit_ring(ring: &mut RingFigures, visit: &mut impl FnMut(&mut u64)) {
    let RingFigures { figures, requests_sent, links_lost, operations, hint_bytes, missing, synced } = ring;
    [requests_sent, links_lost, operations, hint_bytes, missing, synced].into_iter().for_each(&mut *visit);
    let Figures { forwarded, served, copies_sent, copies_taken, consulted, .. } = figures;
    [forwarded, served, copies_sent, copies_taken, consulted].into_iter().for_each(&mut *visit);
    let Figures { repaired, conflicts, failed, streamed, views, .. } = figures;
    [repaired, conflicts, failed, streamed, views].into_iter().for_each(&mut *visit);
}

/// One core's board.
#[derive(Default)]
pub struct Board {
    /// Even while the words are whole; odd while they are being written.
    stamp: AtomicU64,
    words: Box<[AtomicU64]>,
    /// Other nodes that it has room for.
    peers: usize,
}

impl Board {
    /// A board with room for so many other nodes. 5 KiB, and 120 bytes for each of them.
    pub fn new(peers: usize) -> Self {
        let mut count = 0;
        Snapshot::empty(peers).visit(&mut |_| count += 1);
        Self { stamp: AtomicU64::new(0), words: (0..count).map(|_| AtomicU64::new(0)).collect(), peers }
    }

    /// A snapshot to be written here, or to be read into.
    pub fn blank(&self) -> Snapshot {
        Snapshot::empty(self.peers)
    }

    /// Writes a snapshot. For the core that the board is of, and nobody else. About 1 us.
    fn write(&self, snapshot: &mut Snapshot) {
        let stamp = self.stamp.load(Relaxed);
        self.stamp.store(stamp + 1, Relaxed);
        fence(Release);
        let mut words = self.words.iter();
        snapshot.visit(&mut |word| {
            if let Some(place) = words.next() {
                place.store(*word, Relaxed);
            }
        });
        self.stamp.store(stamp + 2, Release);
    }

    /// Reads what stands there. Read again while it is being written, which takes a microsecond; a bounded number of times, because a
    /// core may be stopped in the middle: then it is what was there, of two moments.
    pub fn read(&self) -> Snapshot {
        self.read_once().0
    }

    /// As `read`, and whether it is of one moment.
    fn read_once(&self) -> (Snapshot, bool) {
        let mut snapshot = self.blank();
        for _ in 0..limits::BOARD_READS_MAX {
            let before = self.stamp.load(Acquire);
            let mut words = self.words.iter();
            snapshot.visit(&mut |word| *word = words.next().map_or(0, |place| place.load(Relaxed)));
            fence(Acquire);
            if before.is_multiple_of(2) && self.stamp.load(Relaxed) == before {
                return (snapshot, true);
            }
            std::hint::spin_loop();
        }
        (snapshot, false)
    }

    /// When the core last wrote, by `Clock::ms`; 0 before it did.
    pub fn written_ms(&self) -> u64 {
        self.words.first().map_or(0, |word| word.load(Relaxed))
    }
}

/// What a core keeps for its board.
pub struct Publisher {
    snapshot: Snapshot,
    /// When it is to be written next.
    due_ms: u64,
}

impl Publisher {
    /// For this board.
    pub fn new(board: &Board) -> Self {
        Self { snapshot: board.blank(), due_ms: 0 }
    }

    /// Writes the figures of a core if it is time.
    #[inline]
    pub fn tick(&mut self, context: &Context) {
        if context.at.ms() >= self.due_ms {
            self.write(context);
        }
    }

    /// Writes the figures of a core.
    #[cold]
    pub fn write(&mut self, context: &Context) {
        self.due_ms = context.at.ms() + limits::BOARD_PERIOD_MS;
        self.snapshot.take(context);
        context.mesh.own_state().board.write(&mut self.snapshot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot in which every word is another one, from `first` on.
    fn numbered(peers: usize, first: u64) -> Snapshot {
        let mut snapshot = Snapshot::empty(peers);
        let mut next = first;
        snapshot.visit(&mut |word| {
            *word = next;
            next += 1;
        });
        snapshot
    }

    #[test]
    fn what_is_written_is_read() {
        let board = Board::new(3);
        assert_eq!((board.read(), board.written_ms()), (Snapshot::empty(3), 0));
        let mut snapshot = numbered(3, 7);
        board.write(&mut snapshot);
        assert_eq!(board.read(), snapshot);
        assert_eq!(board.written_ms(), 7);
        assert_ne!(snapshot.peers[2].hints.pending, 0);
    }

    /// A field that `visit` leaves out would always be read as 0.
    #[test]
    fn every_word_of_a_snapshot_stands_on_the_board() {
        let mut count = 0;
        Snapshot::empty(0).visit(&mut |_| count += 1);
        let bytes = size_of::<Snapshot>() - size_of::<Box<[PeerFigures]>>();
        assert_eq!(count * size_of::<u64>(), bytes);
        Snapshot::empty(1).visit(&mut |_| count += 1);
        assert_eq!((count * size_of::<u64>()) - bytes, bytes + size_of::<PeerFigures>());
    }

    #[test]
    fn a_reader_sees_one_moment() {
        let board = std::sync::Arc::new(Board::new(1));
        let writer = board.clone();
        let written = std::thread::spawn(move || {
            for round in 1..5_000u64 {
                writer.write(&mut numbered(1, round * 1_000_000));
                // A core does so four times a second; written without a pause, nothing could ever be read.
                (0..5_000).for_each(|_| std::hint::spin_loop());
            }
        });
        let mut whole = 0;
        while !written.is_finished() {
            // Where the writer was stopped in the middle, the reader is told.
            let (read, is_whole) = board.read_once();
            let expected = numbered(1, read.written_ms);
            assert!(!is_whole || read.written_ms == 0 || read == expected, "{} of two moments", read.written_ms);
            whole += u32::from(is_whole);
        }
        written.join().unwrap();
        assert!(whole > 0 && board.read_once() == (numbered(1, 4_999_000_000), true));
    }
}

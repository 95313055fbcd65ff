//! Between the cores of one node: a queue for each pair and direction, and what they tell each other of sleep.
//!
//! ```text
//!   core 0 --requests--> core 1        its own commands for core 1's keys
//!          <--replies---
//!          <--requests--               core 1's for core 0's
//!          --replies-->
//! ```
//!
//! What a turn writes is published at its end, and a core that sleeps is woken then: each pair costs one shared line a turn.
//!
//! Lives here: the ends that a core holds, and what all cores share. Not here: the queue itself (`queue`), what is in it (`record`), who
//! reads it (`core`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub mod queue;
pub mod record;

use self::record::{Handover, Reader, Writer};
use crate::buffer::Buffer;
use crate::command::Command;
use crate::limits;
use crate::protocol::Framing;
use crate::routing::{ShardId, Ticket};
use crate::runtime::board::Board;
use crate::runtime::clock::Clock;
use crate::runtime::service::Services;
use crate::sync::{self, fence};
use crate::time::Monotonic;
use crate::version::Version;

/// What the cores of a node share. Plain atomics; nothing here is touched per request.
pub struct Shared {
    /// The clock.
    pub clock: Clock,
    /// One per core.
    pub cores: Box<[CoreState]>,
    /// Connections of the node, by what they are served as.
    pub services: Services,
    /// Cores that listen: while there are any, connections may come to every core.
    pub listening: AtomicU32,
    /// The node is about to end: it is not ready any more, and HTTP connections are closed behind their next answer.
    pub leaving: AtomicBool,
}

/// What the others must know of a core.
#[repr(align(128))]
#[derive(Default)]
pub struct CoreState {
    /// `AWAKE`, or `WAITING` when the core sleeps and wants to be woken.
    pub sleep: sync::AtomicU32,
    /// Client connections of the core.
    pub connections: AtomicU32,
    /// File descriptor of the core's io_uring, for wake-up messages, + 1; 0 where there is none.
    pub uring_fd: AtomicU32,
    /// File descriptor to which eight bytes are written to ring the core's doorbell, + 1.
    pub doorbell: AtomicU32,
    /// Its figures.
    pub board: Board,
}

/// The core looks at its queues and its control channel by itself.
pub const AWAKE: u32 = 0;
/// The core sleeps.
pub const WAITING: u32 = 1;

impl CoreState {
    /// The state of a core of a node that knows so many others, itself included.
    pub fn new(peers: usize) -> Self {
        Self { board: Board::new(peers), ..Self::default() }
    }

    /// Says that this core is about to sleep. It must then look once more at everything that could have woken it.
    pub fn prepare_to_wait(&self) {
        self.sleep.store(WAITING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that this core is awake.
    pub fn awake(&self) {
        if self.sleep.load(Ordering::Relaxed) != AWAKE {
            self.sleep.store(AWAKE, Ordering::Relaxed);
        }
    }

    /// Whether the core must be woken; true for one caller per sleep. Call after publishing what it should see.
    pub fn claim_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleep.load(Ordering::Relaxed) == WAITING && self.sleep.swap(AWAKE, Ordering::AcqRel) == WAITING
    }

    /// Wakes the core through its doorbell if it sleeps. A system call; from any thread.
    pub fn ring_doorbell(&self) {
        if self.claim_wake() {
            self.write_doorbell();
        }
    }

    /// Writes the doorbell whether the core sleeps or not.
    pub fn write_doorbell(&self) {
        if let Some(fd) = self.doorbell.load(Ordering::Acquire).checked_sub(1) {
            crate::runtime::sys::ring_doorbell(fd as i32);
        }
    }
}

/// One core's ends of the queues to and from the others.
pub struct Mesh {
    id: ShardId,
    /// The core that is woken next when memory is wanted.
    next_nudged: usize,
    /// Per peer; `None` for the core itself.
    peers: Box<[Option<CorePeer>]>,
    /// The states of all cores.
    pub shared: Arc<Shared>,
}

/// The four ends that join this core to one other.
pub struct CorePeer {
    /// Commands and connections for the peer.
    pub requests_out: Writer,
    /// Replies to the peer's commands.
    pub replies_out: Writer,
    /// Commands and connections from the peer.
    pub requests_in: Reader,
    /// Replies to our commands.
    pub replies_in: Reader,
    /// Since when the peer's oldest command waits for memory.
    pub starved_since: Option<Monotonic>,
}

impl Mesh {
    /// The ends of a whole node, one `Mesh` per core. Each pair of cores gets its part of `limits::MESH_BYTES_PER_CORE`.
    pub fn of_node(shared: &Arc<Shared>) -> Vec<Mesh> {
        let (cores, capacity) = (shared.cores.len(), queue_bytes(shared.cores.len()));
        let mut peers: Vec<Vec<Option<CorePeer>>> = (0..cores).map(|_| (0..cores).map(|_| None).collect()).collect();
        let mut queues = record::queues(2 * cores * (cores - 1), capacity);
        for (a, b) in (0..cores).flat_map(|a| (a + 1..cores).map(move |b| (a, b))) {
            let mut four = || (queues.next(), queues.next(), queues.next(), queues.next());
            let (Some((a_asks, b_hears)), Some((b_asks, a_hears)), Some((a_replies, b_gets)), Some((b_replies, a_gets))) =
                four()
            else {
                break;
            };
            peers[a][b] = Some(CorePeer::new(a_asks, a_replies, a_hears, a_gets));
            peers[b][a] = Some(CorePeer::new(b_asks, b_replies, b_hears, b_gets));
        }
        let ids = (0..cores as u16).map(ShardId);
        ids.zip(peers).map(|(id, peers)| Mesh { id, next_nudged: 0, peers: peers.into(), shared: shared.clone() }).collect()
    }

    /// Other cores of this node, with this core's own place empty.
    pub fn peers_count(&self) -> usize {
        self.peers.len()
    }

    /// The ends to one other core, taken out so that the rest of the context can be used meanwhile; `put_back` returns them.
    pub fn take(&mut self, core: usize) -> Option<CorePeer> {
        self.peers[core].take()
    }

    /// See `take`.
    pub fn put_back(&mut self, core: usize, peer: CorePeer) {
        self.peers[core] = Some(peer);
    }

    /// Sends a command to its core. False when that queue is full: wait a turn.
    #[inline]
    pub fn request(
        &mut self,
        core: ShardId,
        ticket: Ticket,
        repeated_since: Version,
        command: &Command<'_>,
        framing: &Framing<'_>,
    ) -> bool {
        match &mut self.peers[core.0 as usize] {
            Some(peer) => peer.requests_out.request(ticket, repeated_since, command, framing),
            None => false,
        }
    }

    /// Sends the bytes of a reply to the core whose client waits for it. False when that queue is full.
    pub fn reply(&mut self, core: ShardId, ticket: Ticket, reply: &mut Buffer) -> bool {
        match &mut self.peers[core.0 as usize] {
            // Asked first: a large reply that does not fit would be lost.
            Some(peer) => peer.replies_out.has_room() && peer.replies_out.reply(ticket, reply),
            None => true,
        }
    }

    /// Sends a connection to another core. Gives it back when that queue is full.
    pub fn hand_over(&mut self, core: ShardId, handover: Box<Handover>) -> Result<(), Box<Handover>> {
        match &mut self.peers[core.0 as usize] {
            Some(peer) => peer.requests_out.hand_over(handover),
            None => Err(handover),
        }
    }

    /// Publishes what this turn wrote and calls `wake` with every core that must be woken for it.
    pub fn publish(&mut self, mut wake: impl FnMut(&CoreState)) {
        for (core, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            peer.requests_in.release();
            peer.replies_in.release();
            let news = peer.requests_out.publish() | peer.replies_out.publish();
            if news && self.shared.cores[core].claim_wake() {
                wake(&self.shared.cores[core]);
            }
        }
    }

    /// Calls `wake` with one other core that sleeps, in turn: memory is wanted, and a core that sleeps gives none back. One at a time,
    /// or all of them would give for the same want.
    pub fn nudge(&mut self, wake: impl FnOnce(&CoreState)) {
        let count = self.shared.cores.len();
        self.next_nudged = (self.next_nudged + 1) % count;
        if self.next_nudged != self.id.0 as usize && self.shared.cores[self.next_nudged].claim_wake() {
            wake(&self.shared.cores[self.next_nudged]);
        }
    }

    /// Whether a record waits on any queue.
    pub fn has_inbound(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.requests_in.is_empty() || !peer.replies_in.is_empty())
    }

    /// This core's own state.
    pub fn own_state(&self) -> &CoreState {
        &self.shared.cores[self.id.0 as usize]
    }
}

/// Capacity of each queue of a node with so many cores, in bytes: the largest power of two with which those of a core keep to their part.
fn queue_bytes(cores: usize) -> usize {
    let share = limits::MESH_BYTES_PER_CORE / (2 * cores);
    let capacity = (share + 1).next_power_of_two() / 2;
    capacity.clamp(limits::QUEUE_BYTES_MIN, limits::QUEUE_BYTES_MAX)
}

impl CorePeer {
    fn new(requests_out: Writer, replies_out: Writer, requests_in: Reader, replies_in: Reader) -> Self {
        Self { requests_out, replies_out, requests_in, replies_in, starved_since: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symptom: a node with 128 cores took 508 MB beside its memory, one with 256 cores 2 GB. Cause: a queue had 16 KiB at least, and there are
    /// as many as pairs of cores. Cure: long commands are carried beside the record, and the least queue is as small as 256 cores need.
    #[test]
    fn the_queues_of_a_core_keep_to_their_part_however_many_cores_there_are() {
        for cores in 2..=limits::CORES_MAX {
            let inbound = 2 * (cores - 1) * queue_bytes(cores);
            assert!(inbound <= limits::MESH_BYTES_PER_CORE, "{cores} cores: {inbound} bytes each");
        }
    }
}

/// Every order of what a core that falls asleep and those that wake it do, under the model checker (`tests/run loom`).
#[cfg(all(loom, test))]
mod models {
    use loom::thread;

    use super::queue;
    use super::*;

    #[test]
    fn model_a_core_that_sleeps_is_woken_for_what_it_has_not_seen() {
        loom::model(|| {
            let state = sync::Arc::new(CoreState::default());
            let (mut producer, consumer) = queue::queue(64, |_, _| {});
            let waking = state.clone();
            let sender = thread::spawn(move || {
                producer.reserve(1, 0).unwrap();
                producer.publish();
                waking.claim_wake()
            });
            state.prepare_to_wait();
            let sleeps = consumer.is_empty();
            let woken = sender.join().unwrap();
            assert!(!sleeps || woken, "a record waits, the core sleeps, and nobody wakes it");
        });
    }

    #[test]
    fn model_one_of_two_wakes_and_an_awake_core_is_woken_by_nobody() {
        loom::model(|| {
            let state = sync::Arc::new(CoreState::default());
            assert!(!state.claim_wake());
            state.prepare_to_wait();
            let other = state.clone();
            let there = thread::spawn(move || other.claim_wake());
            let here = state.claim_wake();
            assert!(here != there.join().unwrap());
            state.awake();
            assert!(!state.claim_wake());
        });
    }
}

//! What the admin listener knows: the boards of the cores, and what was settled at the start. Reading wakes no core.
//!
//! Lives here: figures of the node at one moment, whether it is healthy and ready. Not here: how they are written (`metrics`, `api`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cluster::view::View;
use crate::limits;
use crate::node::control::Memory;
use crate::node::host::Finding;
use crate::node::members::Published;
use crate::node::options::Options;
use crate::node::stats::{CoreFigures, ProcessFigures};
use crate::node::watch::WatchFigures;
use crate::runtime::IoBackend;
use crate::runtime::board::Snapshot;
use crate::runtime::mesh::Shared;
use crate::time::Timestamp;

/// What is known of the node, shared by the admin listener and who ends the node.
pub struct Facts {
    /// Boards, clock, services.
    pub shared: Arc<Shared>,
    /// Its memory.
    pub memory: Memory,
    /// What it was started with.
    pub options: Options,
    /// Who is in the ring.
    pub published: Arc<Published>,
    /// How it was found to serve.
    pub io: IoBackend,
    /// The machine at the start.
    pub findings: Vec<Finding>,
    /// When it was started.
    pub started: Timestamp,
}

impl Facts {
    /// Who is in the ring now; `None` on a lone node.
    pub fn view(&self) -> Option<Arc<View>> {
        self.published.view()
    }

    /// What stands on the boards, by core.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.shared.cores.iter().map(|core| core.board.read()).collect()
    }

    /// Connections of clients, by core.
    pub fn connections(&self) -> Vec<u32> {
        self.shared.cores.iter().map(|core| core.connections.load(Ordering::Relaxed)).collect()
    }

    /// The figures that `stats` prints, from the boards.
    pub fn core_figures(&self, snapshots: &[Snapshot]) -> Vec<CoreFigures> {
        let figures = |(snapshot, connections): (&Snapshot, u32)| CoreFigures {
            counters: snapshot.counters,
            engine: snapshot.engine,
            connections,
        };
        snapshots.iter().zip(self.connections()).map(figures).collect()
    }

    /// The figures of the process.
    pub fn process_figures(&self) -> ProcessFigures {
        let now = self.shared.clock.now();
        ProcessFigures::take(now, self.started, self.memory.limit_bytes(), WatchFigures::default())
    }

    /// What this node is called: its id in a ring, where it listens otherwise.
    pub fn id(&self) -> String {
        match self.view() {
            Some(view) => view.id_of(view.me).as_str().into(),
            None => self.options.addresses.first().map_or("this node".into(), ToString::to_string),
        }
    }

    /// Cores that have not turned for too long, and for how many milliseconds.
    pub fn silent_cores(&self) -> Vec<(usize, u64)> {
        silent(self.shared.cores.iter().map(|core| core.board.written_ms()), self.shared.clock.at().ms())
    }

    /// Why the node is not healthy, a sentence each; none if it is.
    pub fn ailments(&self) -> Vec<String> {
        let sentence = |(core, ms): (usize, u64)| format!("core {core} has not turned for {} s", ms / 1000);
        self.silent_cores().into_iter().map(sentence).collect()
    }

    /// Why the node is not ready, a sentence each; none if it is.
    pub fn hindrances(&self) -> Vec<String> {
        let mut reasons = self.ailments();
        if self.shared.leaving.load(Ordering::Acquire) {
            reasons.insert(0, "the node is about to end".into());
        }
        let listening = self.shared.listening.load(Ordering::Acquire) as usize;
        if listening < self.shared.cores.len() {
            reasons.push(format!("{listening} of {} cores listen", self.shared.cores.len()));
        }
        reasons
    }
}

/// Those that wrote too long ago, and how long ago.
fn silent(written_ms: impl Iterator<Item = u64>, now_ms: u64) -> Vec<(usize, u64)> {
    let silence = written_ms.map(|written_ms| now_ms.saturating_sub(written_ms)).enumerate();
    silence.filter(|&(_, ms)| ms > limits::CORE_SILENCE_MS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_silent_beyond_five_seconds() {
        assert_eq!(silent([4_000, 3_999, 9_001, 9_000].into_iter(), 9_000), [(1, 5_001)]);
    }
}

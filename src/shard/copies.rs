//! What a command wrote, on its way to the other nodes that are to have it.
//!
//! ```text
//!   executed --> the first `redundancy` nodes of the ranking that are there get the item: PUT        owners that are away: hints, here
//!                  taken: one less is awaited        failed: the next in the ranking, and a hint     and with every copy
//!                  lost to something newer: fetch that, execute again
//! ```
//!
//! Lives here: copies of one command. Not here: its beginning and end (`coordinator`), what is sent when an owner is back (`handoff`).

use arrayvec::ArrayVec;

use super::coordinator::{OpKey, Phase, What, with_plain_key};
use super::peers::{LinkId, Reach};
use super::ringed::{Ack, Desk, Mistake};
use crate::cluster::wire::{self, Along, Frame, Garbled, Kind, PutDone};
use crate::command::Command;
use crate::limits;
use crate::ring::{NodeIndex, REDUNDANCY_MAX};

impl Desk<'_> {
    /// Sends what the command wrote to the nodes that are to have it and do not.
    pub(super) fn copy(&mut self, key: OpKey) {
        self.arrive(key);
        let Some(op) = self.op(key) else { return };
        let hash = op.hash;
        let (failed, before) = (op.work().failed.clone(), op.work().missing.len());
        let (chosen, missing) = self.choose(hash, &failed);
        let held = self.lend(key);
        if let Ok(execute) = held.execute() {
            // Who has a copy already hears of the owners that have gone since.
            if missing.len() != before {
                self.ring.ops[key.index as usize].work().placed.clear();
            }
            self.ring.ops[key.index as usize].work().missing = missing.clone();
            self.hint(&execute.command, key, &missing);
            if chosen.len() > 1 {
                let version = self.ring.ops[key.index as usize].work().version;
                self.note(key, version);
            }
            for (node, link) in chosen {
                if !self.ring.ops[key.index as usize].work().placed.contains(&node) {
                    self.put(key, node, link, &execute.command, &missing);
                }
            }
        }
        self.give_back(key, held);
        let early = self.ring.options.ack == Ack::One || self.ring.options.mistake == Some(Mistake::AckBeforeCopies);
        let Some(op) = self.op(key) else { return };
        op.phase = Phase::Copying;
        if op.awaiting == 0 {
            self.finish(key);
        } else if early {
            self.answer(key);
        }
    }

    /// Notes the version of which copies are under way, in place of the one before; 0 for none.
    pub(super) fn note(&mut self, key: OpKey, version: u64) {
        let Some(work) = self.op(key).and_then(|op| op.work.as_deref_mut()) else { return };
        let before = std::mem::replace(&mut work.noted, version);
        if before == version {
            return;
        }
        if version > 0 {
            self.ring.writes.begin(version);
        }
        if before > 0 {
            self.ring.writes.end(before);
        }
    }

    /// Ends a request whose copies are under way for too long: who has not confirmed its copy gets a hint.
    pub(super) fn abandon(&mut self, key: OpKey) {
        let Some(op) = self.op(key) else { return };
        let hash = op.hash;
        let placed = op.work().placed.clone();
        let (bucket, me) = (self.bucket_of(hash), self.me());
        let owners = self.ring.cache.owners_of(&self.ring.view.ring, bucket);
        let lacking: ArrayVec<NodeIndex, REDUNDANCY_MAX> =
            owners.iter().copied().filter(|owner| *owner != me && !placed.contains(owner)).collect();
        let held = self.lend(key);
        if let Ok(execute) = held.execute() {
            self.hint(&execute.command, key, &lacking);
        }
        self.give_back(key, held);
        self.finish(key);
    }

    /// What a command wrote on a node that does not own the key must not be let go of while its copies are under way.
    fn arrive(&mut self, key: OpKey) {
        let Some(op) = self.op(key) else { return };
        let (hash, me) = (op.hash, self.me());
        if !self.owns(me, hash) && !std::mem::replace(&mut self.ring.ops[key.index as usize].work().is_guest, true) {
            *self.ring.guests.entry(hash).or_default() += 1;
        }
    }

    /// The nodes besides this one that are to have a copy, and the owners that cannot.
    fn choose(
        &mut self,
        hash: u64,
        failed: &[NodeIndex],
    ) -> (ArrayVec<(NodeIndex, LinkId), REDUNDANCY_MAX>, ArrayVec<NodeIndex, REDUNDANCY_MAX>) {
        let (view, bucket, buckets) = (self.ring.view.clone(), self.bucket_of(hash), self.buckets());
        let owners = self.ring.cache.owners_of(&view.ring, bucket);
        let (mut chosen, mut missing) = (ArrayVec::new(), ArrayVec::new());
        // This node has one whether or not its place in the ranking asks for it.
        let wanted = view.ring.redundancy() - 1;
        for node in view.ring.ranking(bucket).filter(|&node| node != view.me) {
            let reach = match failed.contains(&node) {
                true => Reach::Away,
                false => self.ring.peers.reach(node, hash, buckets, self.ms),
            };
            match reach {
                Reach::There(link) if chosen.len() < wanted || owners.contains(&node) => _ = chosen.try_push((node, link)),
                Reach::There(_) => {}
                Reach::Away | Reach::Unknown if owners.contains(&node) => missing.push(node),
                Reach::Away | Reach::Unknown => {}
            }
            if chosen.len() >= wanted && owners.iter().all(|owner| *owner == view.me || seen(*owner, &chosen, &missing)) {
                break;
            }
        }
        (chosen, missing)
    }

    /// Keeps hints for owners that lack what was written.
    fn hint(&mut self, command: &Command<'_>, key: OpKey, missing: &[NodeIndex]) {
        if self.ring.options.mistake == Some(Mistake::NoHints) {
            return;
        }
        let (version, partition) = (self.ring.ops[key.index as usize].work().version, self.partition_of(command.key.hash));
        let (hints, now) = (&mut self.ring.hints, self.now);
        with_plain_key(command, |key| {
            missing.iter().for_each(|node| hints.add(usize::from(node.0), key.bytes, version, partition, now));
        });
    }

    fn put(&mut self, op: OpKey, node: NodeIndex, link: LinkId, command: &Command<'_>, missing: &[NodeIndex]) {
        let (stamp, ms, now) = (self.stamp(), self.ms, self.now);
        let settled = (self.ring.ops[op.index as usize].work().noted > 0).then(|| self.settled());
        let view = &self.ring.view;
        let tags: ArrayVec<u64, REDUNDANCY_MAX> = match self.ring.options.mistake {
            Some(Mistake::NoHints) => ArrayVec::new(),
            _ => missing.iter().map(|node| view.nodes[usize::from(node.0)].tag).collect(),
        };
        let (peers, engine, figures) = (&mut self.ring.peers, &mut *self.engine, &mut self.ring.figures);
        let sent = with_plain_key(command, |key| {
            // It may have been evicted since; then there is nothing to copy, and a hint says so.
            let Some(replica) = engine.copy_of(key, now) else { return false };
            figures.copies_sent += 1;
            peers.request(link, (Kind::Put, 0), stamp, replica.value, What::Copy(op, node), ms, |output| {
                wire::write_replica(&replica, Along { missing: &tags, settled, ..Along::default() }, output);
            });
            true
        });
        self.ring.ops[op.index as usize].awaiting += u32::from(sent);
    }

    pub(super) fn copied(&mut self, key: OpKey, node: NodeIndex, frame: &Frame<'_>) -> Result<(), Garbled> {
        let done = PutDone::of(frame)?;
        let Some(op) = self.op(key) else { return Ok(()) };
        op.awaiting = op.awaiting.saturating_sub(1);
        let version = op.work().version;
        match done {
            PutDone::Taken => _ = op.work().placed.try_push(node),
            PutDone::Kept(other) if other <= version => _ = op.work().placed.try_push(node),
            PutDone::Kept(other) => return self.lost_to(key, node, other),
            PutDone::Busy => return self.uncopied(key, node),
        }
        if op.awaiting == 0 {
            self.finish(key);
        }
        Ok(())
    }

    /// A node could not take its copy.
    pub(super) fn uncopied(&mut self, key: OpKey, node: NodeIndex) -> Result<(), Garbled> {
        let Some(op) = self.op(key) else { return Ok(()) };
        let _ = op.work().failed.try_push(node);
        if op.phase == Phase::Copying {
            self.copy(key);
        }
        Ok(())
    }

    /// A node has something newer of this key than what the command wrote.
    fn lost_to(&mut self, key: OpKey, node: NodeIndex, other: u64) -> Result<(), Garbled> {
        self.engine.observe(other);
        let held = self.lend(key);
        if let Ok(execute) = held.execute() {
            let command = &execute.command;
            let mine = with_plain_key(command, |key| self.engine.copy_of(key, self.now).map_or(0, |replica| replica.version));
            let reach = self.ring.peers.reach(node, command.key.hash, self.buckets(), self.ms);
            let op = &mut self.ring.ops[key.index as usize];
            let newer = mine < other && op.phase == Phase::Copying && op.conflicts < limits::PEER_CONFLICTS_MAX;
            match reach {
                Reach::There(link) if newer => {
                    op.conflicts += 1;
                    op.phase = Phase::Conflict;
                    op.awaiting += 1;
                    self.ring.figures.conflicts += 1;
                    self.fetch(link, command, What::Consult(key, node));
                }
                // A later write of ours is there already.
                _ => _ = op.work().placed.try_push(node),
            }
        }
        self.give_back(key, held);
        if self.op(key).is_some_and(|op| op.awaiting == 0) {
            self.finish(key);
        }
        Ok(())
    }

    /// What the command lost to is here now: it is executed on that. Where it lost to a fence, what it wrote gets a newer version.
    pub(super) fn start_again(&mut self, key: OpKey) {
        let Some(op) = self.op(key) else { return };
        let version = op.work().version;
        op.phase = Phase::New;
        let held = self.lend(key);
        let mut renewed = false;
        if let Ok(execute) = held.execute() {
            with_plain_key(&execute.command, |plain| {
                let still_ours = self.engine.copy_of(plain, self.now).is_some_and(|replica| replica.version == version);
                if let Some(version) = still_ours.then(|| self.engine.renew_key(plain, self.now)).flatten() {
                    let op = &mut self.ring.ops[key.index as usize];
                    (op.work().version, renewed) = (version, true);
                    op.work().placed.clear();
                }
            });
        }
        self.give_back(key, held);
        if renewed { self.copy(key) } else { self.run(key) }
    }
}

fn seen(owner: NodeIndex, chosen: &[(NodeIndex, LinkId)], missing: &[NodeIndex]) -> bool {
    missing.contains(&owner) || chosen.iter().any(|(node, _)| *node == owner)
}

//! Another view while the node runs: who comes, who goes, and who owns more than before.
//!
//! ```text
//!   new node        a place in every table, a first link; all that this core has of what it owns is dirty for it
//!   removed node    commands under way are answered, links closed --> what else was under way is lost, and goes on under the new view;
//!                   hints end as rerouted, leases end
//!   others          links, hints, transfers and leases that we granted stay; leases that they granted must be granted anew
//! ```
//!
//! What a node newly owns, it gets from everybody that has it, as one that has lost its memory: it holds no lease until then, and asks. What it
//! will own next it gets before that, while the others answer for it, from one of those that have it. What a node does not own any more goes
//! when its owners have it, and not before all that are there share its view.
//!
//! Lives here: the order of these steps. Not here: views and ids (`view`), what each table does (`links`, `leases`, `handoff`), which items a
//! node that comes gets first, and how fast.

use std::sync::Arc;

use super::handoff::{self, Handoff};
use super::links::{LinkId, State};
use super::requests::Purpose;
use super::view::{PeerId, View};
use super::{Mistake, Turn, answers, leases};
use crate::time::Monotonic;

/// Makes a view the one that counts.
pub(super) fn install(turn: &mut Turn<'_>, view: Arc<View>) {
    let before = std::mem::replace(&mut turn.cluster.view, view.clone());
    debug_assert_eq!(before.me, view.me, "the next view of another node");
    let coordinated = turn.cluster.operations.coordinated();
    turn.cluster.progress.on_view(before.clone(), coordinated, turn.at);
    turn.cluster.figures.views += 1;
    let nodes = view.peers_count();
    turn.cluster.hints.grow(nodes);
    turn.cluster.handoffs.resize_with(nodes, Handoff::default);
    turn.cluster.leases.handle_view(nodes);
    let returns = view.others().filter(|&node| !before.has(node) && node.index() < before.peers_count());
    let drains: Vec<LinkId> = returns.flat_map(|node| turn.cluster.links.of_node(node).to_vec()).collect();
    drains.into_iter().filter(|&link| turn.cluster.links.is_draining(link)).collect::<Vec<_>>().into_iter().for_each(|link| {
        end_drain(turn, link);
    });
    turn.cluster.links.handle_view(&view);
    let lost: Vec<_> = before.others().filter(|&node| !view.has(node)).flat_map(|node| remove(turn, node)).collect();
    if !turn.cluster.options.has(Mistake::GainsForgotten) {
        let lacks = |&node: &PeerId| view.may_gain(&before, node) || view.must_fill(&before, node);
        view.others().filter(lacks).for_each(|node| handoff::on_gain(turn, node));
    }
    handoff::on_view(turn);
    // Only now: it goes on under the new view, in all its parts.
    for (purpose, was_up, until) in lost {
        answers::lost(turn, purpose, was_up, until);
    }
    // Who has taken the view over is asked at once: requests may wait for that.
    let overlapping: Vec<_> = view.others().flat_map(|node| turn.cluster.links.overlapping(node).collect::<Vec<_>>()).collect();
    for link in overlapping {
        if turn.cluster.links.link(link).state == State::Up {
            leases::ask(turn, link);
        }
    }
}

/// A node that served is lost while data moves: what it would have brought to the new owners, others bring.
pub(super) fn on_source_lost(turn: &mut Turn<'_>, node: PeerId) {
    let view = turn.cluster.view.clone();
    if view.index_of(node).is_none() || !view.target.as_ref().is_some_and(|target| target.is_moving) {
        return;
    }
    view.others().filter(|&other| other != node && view.will_gain(other)).for_each(|other| handoff::on_gain(turn, other));
}

/// A node is not in the ring any more. Returns what was under way to it and is lost: its answers to commands are waited for, for it may have
/// executed them and goes on until everybody has heard that it is not in the ring.
fn remove(turn: &mut Turn<'_>, node: PeerId) -> Vec<(Purpose, bool, Monotonic)> {
    turn.cluster.leases.remove_node(node, &turn.cluster.links);
    handoff::remove(turn, node);
    let mut lost = Vec::new();
    for link in turn.cluster.links.remove(node) {
        let was_up = turn.cluster.links.link(link).state == State::Up;
        let until = turn.cluster.links.may_execute_until(link);
        let drains = was_up && !turn.cluster.options.has(Mistake::LinksCut);
        let taken = turn.cluster.requests.take_lost(link, |purpose| !(drains && matches!(purpose, Purpose::Forward(_))));
        lost.extend(taken.into_iter().map(|purpose| (purpose, was_up, until)));
        match turn.cluster.requests.count_of(link) {
            0 => turn.cluster.links.close(link, turn.at),
            commands => turn.cluster.links.drain(link, commands, turn.at),
        }
    }
    lost
}

/// No more answers come over a link to a node that is not in the ring any more. What was not answered is lost.
pub(super) fn end_drain(turn: &mut Turn<'_>, link: LinkId) {
    let until = turn.cluster.links.may_execute_until(link);
    turn.cluster.links.close(link, turn.at);
    for purpose in turn.cluster.requests.take_lost(link, |_| true) {
        answers::lost(turn, purpose, true, until);
    }
}

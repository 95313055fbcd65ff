//! Another view while the node runs: who comes, who goes, and who owns more than before.
//!
//! ```text
//!   new node        a place in every table, a first link; all that this core has of what it owns is dirty for it
//!   removed node    links closed --> what was under way is lost, and goes on under the new view; hints end as rerouted, leases end
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
use super::links::State;
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

/// A node is not in the ring any more. Returns what was under way to it.
fn remove(turn: &mut Turn<'_>, node: PeerId) -> Vec<(Purpose, bool, Monotonic)> {
    turn.cluster.leases.remove_node(node, &turn.cluster.links);
    handoff::remove(turn, node);
    let mut lost = Vec::new();
    for (link, was_up) in turn.cluster.links.remove(node, turn.at) {
        let until = turn.cluster.links.may_execute_until(link);
        lost.extend(turn.cluster.requests.take_lost(link).into_iter().map(|purpose| (purpose, was_up, until)));
    }
    lost
}

//! Rings that change while clients work: a node comes, or one goes for good.
//!
//! ```text
//!   comes:  empty, under the new view | core after core of the others hears of it, within a second
//!   goes:   core after core of the others hears of it, while it goes on under the old view | then it is gone, with its memory
//! ```
//!
//! While the cores differ in their views, two of them may answer for one key: clients are judged as in a partition. In the end nothing that
//! was acknowledged is lost, and the owners are equal.
//!
//! Lives here: changes, their laws and planted mistakes. Not here: faults (`main`), machinery (`world`).

use pbcache::cluster::{Ack, Mistake};

use super::clients::Clients;
use super::controls::is_caught;
use super::world::{Plan, World};
use super::{Random, advance, hold, seeds};

/// Seeds of a normal run.
const SEEDS_COUNT: usize = 300;
/// Nodes that may come.
const SPARE_COUNT: usize = 3;

/// A plan with changes in place of faults.
fn changing(plan: &mut Plan) {
    let mut random = Random(plan.keys ^ plan.nodes as u64 ^ (plan.skew_ms[0] as u64) << 8);
    plan.spare = SPARE_COUNT;
    for _ in 0..SPARE_COUNT {
        plan.cores.push(1 + random.below(3) as u16);
        plan.skew_ms.push(random.below(10_000) as i64 - 5000);
        plan.weights.push(1 + random.below(3) as u32);
    }
    // With one copy, a node that goes takes what it has with it.
    plan.redundancy = plan.redundancy.max(2);
    plan.ack = Ack::Live;
}

/// One change, from its beginning to its end.
pub fn change(world: &mut World, clients: &mut Clients) {
    (clients.steady, clients.sound) = (false, None);
    world.jitter_ms = [2, 60][world.random.below(2) as usize];
    let may_come = world.nodes.len() < world.plan.nodes + world.plan.spare;
    let goes = !may_come || (world.members.len() > world.plan.redundancy && world.random.below(2) == 0);
    let (hearing, victim) = if goes {
        let place = world.random.below(world.members.len() as u64) as usize;
        let victim = world.members.remove(place);
        (world.members.clone(), Some(victim))
    } else {
        let hearing = world.members.clone();
        world.add();
        (hearing, None)
    };
    if std::env::var_os("SIMULATION_TRACE").is_some() {
        println!("{} change: {victim:?} goes, {:?} stay", world.now, world.members);
    }
    let mut cores: Vec<(usize, usize)> =
        hearing.iter().flat_map(|&node| (0..world.nodes[node].cores.len()).map(move |core| (node, core))).collect();
    for step in (1..=cores.len()).rev() {
        let place = world.random.below(step as u64) as usize;
        let (node, core) = cores.swap_remove(place);
        let moment = world.now + world.random.below(1000 / hearing.len() as u64 / 2);
        advance(world, clients, moment);
        if world.random.below(8) == 0 {
            world.break_link();
        }
        world.switch(node, core);
    }
    let end = world.now + world.random.below(500);
    advance(world, clients, end);
    world.jitter_ms = 2;
    if let Some(victim) = victim {
        world.crash(victim);
    }
    advance(world, clients, end + 500);
}

#[test]
fn the_laws_hold_while_the_ring_changes() {
    hold(&seeds().take(SEEDS_COUNT).collect::<Vec<_>>(), changing);
}

#[test]
fn gains_that_are_forgotten_are_caught() {
    is_caught("owners-agree", 0, changing, |plan| plan.mistake = Some(Mistake::GainsForgotten));
}

#[test]
fn a_copy_that_is_trusted_under_another_view_is_caught() {
    is_caught("owners-agree", 0, changing, |plan| plan.mistake = Some(Mistake::OtherViewTrusted));
}

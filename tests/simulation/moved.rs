//! A set that goes from core to core while it is repeated, against what was written meanwhile.
//!
//! Symptom: node 1 executes `set k old`, passes a copy on and is cut off; `old` is read and overwritten by `new`, and then `old` is back.
//! Cause: the core that had sent the set to node 1 gave it to the core of its key, and forgot on the way since when it was repeated.
//! Cure: that goes with it, and the set is not executed over what others have written since.
//!
//! Lives here: this story, at every phase of the heartbeats. Not here: what chance makes of it (`main`).

use pbcache::cluster::Mistake;
use pbcache::key;

use super::stories::plan_of;
use super::world::World;

/// How often `old` came back, and how often `new` was stored after `old` was read, of some phases.
fn tell(mistake: Option<Mistake>) -> (u32, u32) {
    let (mut returned, mut told) = (0, 0);
    for phase in 0..30 {
        let mut world = World::new(plan_of(vec![2, 1, 1], 3, mistake), phase);
        let key = key_for(&world);
        ask(&mut world, 0, 0, 1, &format!("get {key}\r\n"), 1000);
        ask(&mut world, 0, 1, 2, &format!("get {key}\r\n"), 1000);
        step(&mut world, 500 + phase);
        world.request(0, 0, (0, 0), 3, format!("set {key} 0 0 3\r\nold\r\n").as_bytes());
        // The copy is at node 0, and nothing else comes from node 1.
        for _ in 0..1000 {
            if has_copy(&mut world, &key) {
                break;
            }
            step(&mut world, 1);
        }
        (0..3).filter(|&other| other != 1).for_each(|other| (world.cut[1][other], world.cut[other][1]) = (true, true));
        world.request(0, 1, (0, 1), 4, format!("get {key}\r\n").as_bytes());
        world.request(0, 1, (0, 1), 5, format!("set {key} 0 0 3\r\nnew\r\n").as_bytes());
        let answers = step(&mut world, 2000);
        let has = |number: u32, part: &str| {
            answers.iter().any(|(answered, bytes)| *answered == number && String::from_utf8_lossy(bytes).contains(part))
        };
        world.cut = vec![vec![false; 3]; 3];
        step(&mut world, 3000);
        let last = ask(&mut world, 2, 0, 6, &format!("get {key}\r\n"), 2000);
        if has(4, "old") && has(5, "STORED") {
            told += 1;
            returned += u32::from(!last.contains("new"));
        }
    }
    (returned, told)
}

/// A key that node 1 answers for, node 0 behind it, there with its second core.
fn key_for(world: &World) -> String {
    let ring = &world.nodes[0].cores[0].cluster.as_ref().unwrap().view.ring;
    let fits = |name: &String| {
        let hash = key::routing_hash(name.as_bytes());
        let ranking: Vec<u16> = ring.ranking(ring.bucket(hash)).map(|node| node.0).take(2).collect();
        ranking == [1, 0] && world.nodes[0].cores[0].routes.core_of(hash).0 == 1
    };
    (0..).map(|number| format!("key{number}")).find(fits).unwrap()
}

fn has_copy(world: &mut World, name: &str) -> bool {
    let now = world.clock(0);
    world.nodes[0].cores[1].engine.contains(&key::Key::new(name.as_bytes()), now)
}

fn step(world: &mut World, ms: u64) -> Vec<(u32, Vec<u8>)> {
    let (end, mut answers) = (world.now + ms, Vec::new());
    while world.step(end) {
        answers.extend(std::mem::take(&mut world.answers).into_iter().map(|(_, number, bytes)| (number, bytes)));
    }
    answers
}

/// Asks a core, and gives what it answers within this time; waits no longer than that takes.
fn ask(world: &mut World, node: usize, core: usize, number: u32, text: &str, ms: u64) -> String {
    world.request(node, core, (node, 0), number, text.as_bytes());
    for _ in 0..ms {
        if let Some((_, bytes)) = step(world, 1).into_iter().find(|(answered, _)| *answered == number) {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    "nothing".into()
}

#[test]
fn what_is_repeated_on_another_core_does_not_come_back() {
    let (returned, told) = tell(None);
    assert!(told > 10, "the story was told {told} times");
    assert_eq!(returned, 0, "of {told} times");
    let (returned, told) = tell(Some(Mistake::RepeatForgotten));
    assert!(returned > 0, "the mistake does not show in {told} times");
}

//! Gossip, tried in a world of its own: no sockets, virtual time, faults by seed (`GOSSIP_SEED` names one).
//!
//! Lives here: what gossip promises, the traps of the library below it, and what strangers can send. Not here: the world (`world`), sealing
//! (`membership::seal` tries itself), real nodes (`tests/cluster`).
#![allow(clippy::disallowed_methods)] // a test may read its environment

#[path = "../random/mod.rs"]
mod random;
mod removal;
mod world;

use pbcache::limits::{GOSSIP_PACKET_BYTES_MAX, MEMBER_TEXT_BYTES_MAX};
use pbcache::membership::gossip::{Contact, Gossip, Life, Now, Output, Reach, Swim};
use pbcache::membership::seal::{Kind, SEAL_BYTES, Seal};
use pbcache::membership::table::{Record, Written};
use pbcache::time::Monotonic;

use random::Random;
use world::{EPOCH_MS, World, id, place, record, seal, tag};

/// One seed of the environment, or so many.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("GOSSIP_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

/// A world in which everybody knows everybody.
fn settled(count: usize, seed: u64) -> World {
    println!("GOSSIP_SEED={seed}");
    let mut world = World::new(count, seed);
    assert!(world.until(15_000, World::all_up).is_some(), "they do not find each other");
    world.run(20_000);
    world
}

fn mean(numbers: &[u64]) -> f64 {
    numbers.iter().sum::<u64>() as f64 / numbers.len() as f64
}

#[test]
fn all_find_each_other_by_their_tables() {
    for count in [2, 3, 10, 40] {
        for seed in seeds(5) {
            let mut world = World::new(count, seed);
            let took = world.until(15_000, World::all_up);
            assert!(took.is_some_and(|ms| ms < 5000), "{count} nodes, seed {seed}: {took:?}");
        }
    }
}

#[test]
fn a_record_is_everywhere_within_a_second() {
    let mut all = Vec::new();
    for seed in seeds(40) {
        let mut world = settled(10, seed);
        (world.links_closed, world.loss) = (true, 20);
        let writer = world.random.below(10) as usize;
        world.write(writer);
        let digest = world.nodes[writer].table.digest();
        let took = world.until(5000, |world| world.nodes.iter().all(|node| node.table.digest() == digest));
        all.push(took.unwrap_or_else(|| panic!("seed {seed}: it is not everywhere")));
    }
    println!(
        "a record at all of 10 nodes, 5 % of the datagrams lost: mean {:.0} ms, worst {:?} ms",
        mean(&all),
        all.iter().max()
    );
    assert!(all.iter().all(|&ms| ms < 1000), "{all:?}");
}

#[test]
fn a_crash_is_down_everywhere_in_eight_seconds() {
    let (mut first, mut everywhere) = (Vec::new(), Vec::new());
    for seed in seeds(60) {
        let mut world = settled(10, seed);
        let victim = world.random.below(10) as usize;
        let moment = world.random.below(1000);
        world.run(moment);
        world.crash(victim);
        let others = move |world: &World, all: bool| {
            let mut others = (0..10).filter(|&node| node != victim).map(|node| world.reach(node, victim) == Reach::Down);
            if all { others.all(|is| is) } else { others.any(|is| is) }
        };
        let some = world.until(30_000, |world| others(world, false)).unwrap();
        first.push(some);
        everywhere.push(some + world.until(5000, |world| others(world, true)).unwrap());
        assert!(world.downs(0).iter().all(|down| down.1 == tag(victim)), "seed {seed}: another one is down");
    }
    println!(
        "a crash of 1 of 10 nodes is down: first after {:.0} ms, everywhere after {:.0} ms, mean",
        mean(&first),
        mean(&everywhere)
    );
    assert!(mean(&everywhere) < 8000.0, "{:.0} ms", mean(&everywhere));
}

/// Pauses that are shorter than the suspicion lasts, one after the other, with losses: nobody is down, for anybody.
#[test]
fn short_pauses_make_nobody_down() {
    for seed in seeds(20) {
        let mut world = settled(10, seed);
        world.loss = 50;
        let start = world.now;
        while world.now < start + 300_000 {
            for node in 0..10 {
                // It runs for a while in between: else it is one pause.
                if world.nodes[node].paused_until + 2000 <= world.now && world.random.below(8) == 0 {
                    world.nodes[node].paused_until = world.now + 100 + world.random.below(4000);
                }
            }
            world.run(1000);
        }
        assert_eq!(world.downs(start), [], "seed {seed}");
    }
}

/// Symptom without `wake`: at the end of a pause its timers are due, the answers of the others are in the socket's queue or lost, and it
/// takes all of them to be down.
#[test]
fn who_stood_still_for_long_accuses_nobody_and_is_back_soon() {
    for seed in seeds(30) {
        let mut world = settled(6, seed);
        world.nodes[2].paused_until = world.now + 20_000;
        world.run(19_999);
        assert!((0..6).filter(|&node| node != 2).all(|node| world.reach(node, 2) == Reach::Down), "seed {seed}");
        let moment = world.now;
        let took = world.until(20_000, World::all_up);
        assert!(took.is_some_and(|ms| ms < 3000), "seed {seed}: {took:?}");
        assert_eq!(world.downs(moment), [], "seed {seed}");
    }
}

/// The library forgets its timers when nobody is there: without courting, two nodes that were cut apart never meet again.
#[test]
fn both_sides_of_a_cut_meet_again() {
    for seed in seeds(10) {
        for (count, side) in [(2, 1), (10, 5), (10, 1), (5, 2)] {
            let mut world = settled(count, seed);
            let (some, others): (Vec<usize>, Vec<usize>) = (0..count).partition(|&node| node < side);
            world.cut_between(&some, &others, true);
            world.run(60_000);
            assert!(
                some.iter()
                    .all(|&a| others.iter().all(|&b| world.reach(a, b) == Reach::Down && world.reach(b, a) == Reach::Down))
            );
            assert!(world.nodes[0].swim.gone_ms(tag(count - 1), Monotonic::from_ms(world.now)).unwrap() > 45_000);
            world.write(0);
            world.run(30_000);
            world.cut_between(&some, &others, false);
            let took = world.until(60_000, World::all_up);
            assert!(took.is_some_and(|ms| ms < 40_000), "seed {seed}, {side} of {count}: {took:?}");
            // Written while they were apart, sent as often as it is sent, and forgotten: the digests show it.
            let digest = world.nodes[0].table.digest();
            let took = world.until(40_000, |world| world.nodes.iter().all(|node| node.table.digest() == digest));
            assert!(took.is_some(), "seed {seed}, {side} of {count}: the tables differ");
        }
    }
}

#[test]
fn a_way_that_is_lost_between_two_makes_nobody_down() {
    for seed in seeds(10) {
        let mut world = settled(5, seed);
        let start = world.now;
        (world.cut[0][1], world.cut[1][0]) = (true, true);
        world.run(300_000);
        assert_eq!(world.downs(start), [], "seed {seed}: others reach both");
    }
}

#[test]
fn all_that_start_again_at_once_meet() {
    for seed in seeds(10) {
        let mut world = settled(10, seed);
        (0..10).for_each(|node| world.crash(node));
        world.run(3000);
        for node in 0..10 {
            world.restart(node);
            let pause = world.random.below(500);
            world.run(pause);
        }
        let took = world.until(20_000, World::all_up);
        assert!(took.is_some_and(|ms| ms < 10_000), "seed {seed}: {took:?}");
    }
}

/// Nobody sees a fast restart: what was lost by it shows elsewhere.
#[test]
fn a_fast_restart_is_no_death() {
    for seed in seeds(20) {
        let mut world = settled(5, seed);
        let start = world.now;
        world.crash(3);
        world.run(400);
        world.restart(3);
        world.run(30_000);
        assert!(world.all_up());
        assert_eq!(world.downs(start), [], "seed {seed}");
        assert!((0..5).all(|node| world.nodes[node].doubles.is_empty()));
    }
}

#[test]
fn who_says_that_it_goes_is_down_at_once() {
    for seed in seeds(10) {
        let mut world = settled(5, seed);
        let now = world.clock(4);
        world.nodes[4].swim.leave(now);
        world.outputs(4);
        world.crash(4);
        let took = world.until(5000, |world| (0..4).all(|node| world.reach(node, 4) == Reach::Down));
        assert!(took.is_some_and(|ms| ms < 1500), "seed {seed}: {took:?}");
    }
}

#[test]
fn an_idle_ring_says_little() {
    for count in [3, 10, 30] {
        let mut world = settled(count, 7);
        world.run(120_000);
        let before: u64 = world.nodes.iter().map(|node| node.sent_bytes).sum();
        world.run(600_000);
        let after: u64 = world.nodes.iter().map(|node| node.sent_bytes).sum();
        let rate = (after - before) as f64 / 600.0 / count as f64;
        println!("{count} idle nodes: {rate:.0} bytes a second and node, with IP and UDP");
        assert!(rate < 300.0, "{rate:.0}");
        assert!(world.nodes.iter().all(|node| node.swim.backlog() == 0), "everything that waits is sent and forgotten");
        assert!(world.nodes.iter().all(|node| node.backlog_max <= 2 * count && node.packet_max <= GOSSIP_PACKET_BYTES_MAX));
    }
}

/// Two processes with one id call each other dead without end, where each comes back at once.
#[test]
fn two_lives_of_one_id_are_named_and_do_not_fill_the_network() {
    for seed in seeds(5) {
        let mut world = settled(4, seed);
        // The last node takes over the id of another one.
        let own = Life { tag: tag(1), incarnation: EPOCH_MS + world.now, place: place(3) };
        world.nodes[3].swim = Swim::new(own, seal(), 99, world.clock(3));
        let contacts = (0..3).map(|node| Contact { tag: tag(node), place: place(node) }).collect();
        let now = world.clock(3);
        world.nodes[3].swim.know(contacts, now);
        world.run(60_000);
        let named = |node: usize, other: usize| world.nodes[node].doubles == [place(other)];
        assert!(named(1, 3) || named(3, 1), "seed {seed}: {:?} {:?}", world.nodes[1].doubles, world.nodes[3].doubles);
        let sent: u64 = world.nodes.iter().map(|node| node.sent_count).sum();
        let lives = |world: &World| [1, 3].map(|node: usize| world.nodes[node].swim.own().incarnation);
        let (mut before, mut begun) = (lives(&world), 0);
        for _ in 0..3000 {
            world.run(100);
            let now = lives(&world);
            begun += now.iter().zip(&before).filter(|(now, before)| now != before).count();
            before = now;
        }
        assert!(begun <= 20, "seed {seed}: {begun} lives in five minutes");
        let after: u64 = world.nodes.iter().map(|node| node.sent_count).sum();
        assert!((after - sent) / 300 < 60, "seed {seed}: {} datagrams a second", (after - sent) / 300);
    }
}

/// The library keeps what never fits into a datagram in its backlog for ever.
#[test]
fn a_record_that_does_not_fit_is_refused_and_the_largest_possible_one_spreads() {
    let mut world = settled(3, 1);
    let now = world.clock(0);
    let large = |bytes: usize| Record { zone: "z".repeat(bytes), ..record(0, EPOCH_MS + 5) };
    assert!(world.nodes[0].swim.tell(&large(255), now).is_ok());
    let too_large = Record { address: "a".repeat(255), ..large(255) };
    assert!(world.nodes[0].swim.tell(&too_large, now).is_err());
    world.outputs(0);
    let (zone, address) = ("z".repeat(255), "a".repeat(MEMBER_TEXT_BYTES_MAX - 255 - id(0).as_str().len()));
    let most = Record { zone, address, ..record(0, EPOCH_MS + 9) };
    world.nodes[0].swim.tell(&most, now).unwrap();
    world.outputs(0);
    world.run(20_000);
    assert!((1..3).all(|node| world.nodes[node].table.get(id(0).as_str()) == Some(&most)));
    assert!(world.nodes.iter().all(|node| node.swim.backlog() == 0));
}

/// Anybody who knows the secret can say that a node is down, in any order: it comes back, with another life.
#[test]
fn who_is_called_down_wrongly_is_back_at_once() {
    for seed in seeds(10) {
        let mut world = settled(5, seed);
        let before = world.nodes[2].swim.own();
        // A message that says that the receiver is down; its sender is one of the others.
        let mut forged = Forger { from: world.nodes[0].swim.own(), to: before };
        let packet = seal().close(Kind::Swim, &forged.turn_undead(), EPOCH_MS + world.now);
        world.send(0, place(2), packet);
        world.run(3000);
        assert!(world.nodes[2].swim.own().incarnation > before.incarnation);
        assert!(world.all_up(), "seed {seed}");
    }
}

/// Writes messages by hand.
struct Forger {
    from: Life,
    to: Life,
}

impl Forger {
    fn life(life: &Life) -> Vec<u8> {
        let std::net::IpAddr::V4(ip) = life.place.ip() else { unreachable!("the world is IPv4") };
        [&life.tag.to_le_bytes()[..], &life.incarnation.to_le_bytes(), &[4], &ip.octets(), &life.place.port().to_le_bytes()]
            .concat()
    }

    fn header(&self, code: u8) -> Vec<u8> {
        [&Self::life(&self.from)[..], &0u16.to_le_bytes(), &Self::life(&self.to), &[code]].concat()
    }

    fn turn_undead(&mut self) -> Vec<u8> {
        self.header(10)
    }

    /// Gossip without news of members, and with one piece of data.
    fn carry(&self, data: &[u8]) -> Vec<u8> {
        [&self.header(8)[..], &0u16.to_be_bytes(), &(data.len() as u16).to_be_bytes(), data].concat()
    }
}

#[test]
fn datagrams_of_wrong_clocks_and_other_clusters_are_refused_and_named() {
    let mut world = settled(3, 3);
    world.nodes[2].skew_ms = 10_000;
    world.run(30_000);
    assert!(world.all_up() && world.nodes[0].refused.is_empty(), "ten seconds are borne");
    world.nodes[2].skew_ms = 45_000;
    world.run(30_000);
    assert_eq!(world.reach(0, 2), Reach::Down);
    assert!(world.nodes[0].refused.iter().any(|why| why.contains("is a clock wrong")), "{:?}", world.nodes[0].refused);
    world.nodes[2].skew_ms = 0;
    world.run(20_000);
    assert!(world.all_up());
    world.nodes[0].refused.clear();
    let body = Forger { from: world.nodes[1].swim.own(), to: world.nodes[0].swim.own() }.header(8);
    for (other, why) in [
        (Seal::new(Some([6; 32]), "sim", 1), "not that of this cluster"),
        (Seal::new(None, "sim", 1), "not that of this cluster"),
        (Seal::new(Some([5; 32]), "sim", 2), "of another ring"),
    ] {
        let packet = other.close(Kind::Swim, &body, EPOCH_MS + world.now);
        let now = world.clock(0);
        world.nodes[0].swim.handle_packet(place(1), &packet, now);
        world.outputs(0);
        let said = world.nodes[0].refused.pop().unwrap();
        assert!(said.contains(why), "{said}");
    }
    // Recorded, and sent again later.
    let packet = seal().close(Kind::Swim, &body, EPOCH_MS + world.now);
    world.run(31_000);
    let now = world.clock(0);
    world.nodes[0].refused.clear();
    world.nodes[0].swim.handle_packet(place(1), &packet, now);
    world.outputs(0);
    assert!(world.nodes[0].refused.pop().unwrap().contains("31 s"));
}

/// A datagram that is sent again while it counts says nothing that was not said before.
#[test]
fn replayed_datagrams_change_nothing() {
    for seed in seeds(5) {
        let mut world = settled(3, seed);
        let mut recorded: Vec<Vec<u8>> = Vec::new();
        let start = world.now;
        for round in 0..200 {
            let now = world.clock(0);
            world.nodes[0].swim.handle_time(now);
            while let Some(output) = world.nodes[0].swim.poll_output() {
                if let Output::Send { to, packet } = output {
                    recorded.push(packet.clone());
                    world.send(0, to, packet);
                }
            }
            if let Some(packet) = recorded.get(world.random.below(recorded.len().max(1) as u64) as usize).cloned() {
                let to = place(1 + round % 2);
                world.send(0, to, packet);
            }
            world.run(100);
        }
        world.run(5000);
        assert!(world.all_up() && world.downs(start).is_empty(), "seed {seed}");
    }
}

#[test]
fn impossible_records_are_refused_and_named() {
    let mut world = settled(3, 4);
    let forger = Forger { from: world.nodes[1].swim.own(), to: world.nodes[0].swim.own() };
    let before = world.nodes[0].table.clone();
    let now_ms = EPOCH_MS + world.now;
    let bytes = pbcache::membership::codec::record_bytes;
    let far = Record { written: Written::at(now_ms + 120_000), ..record(1, 0) };
    for (data, why) in [
        (bytes(&Record { asked: far.written, ..far }), "node-1 has a stamp of the future"),
        (bytes(&Record { epoch: 0, ..record(1, now_ms) }), "node-1 has an epoch"),
        (bytes(&Record { epoch: u32::MAX, ..record(1, now_ms) }), "node-1 has an epoch"),
        (bytes(&Record { weight: 0, weight_next: 1, ..record(1, now_ms) }), "node-1 has a weight"),
        (b"no record".to_vec(), "cannot be read"),
    ] {
        let packet = seal().close(Kind::Swim, &forger.carry(&data), now_ms);
        let now = world.clock(0);
        world.nodes[0].swim.handle_packet(place(1), &packet, now);
        world.outputs(0);
        let said = world.nodes[0].refused.pop().unwrap_or_default();
        assert!(said.contains(why), "{said:?} and not {why:?}");
        assert_eq!(world.nodes[0].table, before);
    }
    let good = seal().close(Kind::Swim, &forger.carry(&bytes(&record(1, now_ms))), now_ms);
    let now = world.clock(0);
    world.nodes[0].swim.handle_packet(place(1), &good, now);
    world.outputs(0);
    assert!(world.nodes[0].refused.is_empty() && world.nodes[0].table != before, "a possible one is taken");
}

/// Even what knows the secret may send anything: cut, garbled, of itself, of nobody. Nothing breaks, and nothing grows.
#[test]
fn whatever_is_sent_under_the_right_seal_breaks_nothing() {
    for seed in seeds(8) {
        let mut world = settled(4, seed);
        let mut random = Random(seed | 1);
        let bodies: Vec<Vec<u8>> = (0..11u8)
            .map(|code| {
                let forger = Forger { from: world.nodes[1].swim.own(), to: world.nodes[0].swim.own() };
                let more: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8).collect();
                [&forger.header(code)[..], &more].concat()
            })
            .collect();
        for _ in 0..3000 {
            let mut body = bodies[random.below(bodies.len() as u64) as usize].clone();
            for _ in 0..random.below(4) {
                let at = random.below(body.len() as u64) as usize;
                body[at] = random.next() as u8;
            }
            body.truncate(random.below(2 * body.len() as u64) as usize);
            let kind = if random.one_in(8) { Kind::Digest } else { Kind::Swim };
            let now = Now { at: Monotonic::from_ms(world.now), unix_ms: EPOCH_MS + world.now };
            world.nodes[0].swim.handle_packet(place(1), &seal().close(kind, &body, now.unix_ms), now);
            while let Some(output) = world.nodes[0].swim.poll_output() {
                if let Output::Send { packet, .. } = output {
                    assert!(packet.len() <= GOSSIP_PACKET_BYTES_MAX && packet.len() >= SEAL_BYTES);
                }
            }
            let garbage: Vec<u8> = (0..random.below(1500)).map(|_| random.next() as u8).collect();
            world.nodes[0].swim.handle_packet(place(1), &garbage, now);
        }
        while world.nodes[0].swim.poll_output().is_some() {}
        world.run(180_000);
        assert!(
            (0..4).all(|a| (0..4).all(|b| a == b || world.reach(a, b) == Reach::Up)),
            "seed {seed}: they are all there still"
        );
        assert!(
            world.nodes.iter().all(|node| node.swim.members() <= 4),
            "seed {seed}: who was never in the table is forgotten"
        );
    }
}

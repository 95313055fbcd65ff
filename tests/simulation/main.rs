//! Rings of whole shards under virtual time, with faults from a seed, and the laws that must hold in the end.
//!
//! ```text
//!   calm -> fault (partition, pause, crash, breaks, ..) -> heal -> settle -> calm -> .. -> stop clients -> drain -> laws
//! ```
//!
//! `SIMULATION_SEED=n` replays one seed; `SIMULATION_SEEDS=n` tries as many. A failing seed names itself.
//!
//! Lives here: which faults come when. Not here: machinery (`world`), clients (`clients`), laws (`laws`, `histories`), whether they see
//! anything (`controls`), rings that change (`ring`, and at once: `change`).

mod change;
mod clients;
mod controls;
mod evil;
mod histories;
mod laws;
mod moved;
mod ring;
mod stories;
mod world;

use pbcache::cluster::Ack;

use clients::Clients;
use evil::Evil;
use world::{Plan, World};

/// Seeds of a normal run.
const SEEDS_COUNT: u64 = 1000;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }
}

/// The run that a seed stands for.
fn plan(seed: u64) -> (Plan, bool) {
    let mut random = Random(seed);
    let nodes = 3 + random.below(if seed.is_multiple_of(10) { 7 } else { 3 }) as usize;
    let redundancy = 1 + random.below(3) as usize;
    let evicts = random.below(5) == 0;
    let plan = Plan {
        nodes,
        spare: 0,
        cores: (0..nodes).map(|_| 1 + random.below(3) as u16).collect(),
        redundancy,
        buckets: [64, 1000, 10_000_000][random.below(3) as usize],
        // Room for some long values of each length, and for those that they have replaced.
        memory_bytes: match (evicts, seed % 5) {
            (true, _) => 2 << 20,
            (false, 2) => 64 << 20,
            (false, _) => 16 << 20,
        },
        handoff_bytes: if random.below(4) == 0 { 600 } else { 1 << 20 },
        window_ms: if random.below(4) == 0 { 2000 } else { 3_600_000 },
        skew_ms: (0..nodes).map(|_| random.below(10_000) as i64 - 5000).collect(),
        weights: (0..nodes).map(|_| 1 + random.below(3) as u32).collect(),
        zones: random.below(4) as usize,
        // Few keys are written often, many show what nobody writes again.
        keys: if evicts { 400 } else { [30, 400, 30, 5000][seed as usize % 4] },
        // Slow enough that clients meet nodes that are still catching up.
        handoff_rate: if seed % 3 == 1 { 100 } else { 0 },
        mistake: None,
        reap_early: false,
        expires_without_trace: false,
        views_differ: false,
        ack: if seed % 8 == 5 { Ack::One } else { Ack::Live },
    };
    (plan, evicts)
}

/// Runs one seed; what is broken.
fn run(seed: u64, change: impl FnOnce(&mut Plan)) -> Vec<String> {
    let (mut plan, evicts) = plan(seed);
    change(&mut plan);
    let mut world = World::new(plan, seed);
    let value_bytes = if evicts { 3000 } else { 20 };
    let mut clients = Clients::new(4, world.plan.keys, value_bytes, seed.is_multiple_of(3));
    clients.writes_long = !evicts && seed % 5 == 2;
    (0..clients.clients.len()).for_each(|client| world.wake_client(client, 10 + client as u64));
    let mut calm = 0;
    for episode in 0..3 {
        // What was said before a fault may come after it: calm begins when all is settled and nothing is under way.
        settle(&mut world, &mut clients, &mut Vec::new());
        calm += 1;
        (clients.steady, clients.sound) = (true, Some(calm));
        clients.calm = Some(calm);
        let end = world.now + 800;
        advance(&mut world, &mut clients, end);
        clients.calm = None;
        match world.plan.spare {
            0 => fault(&mut world, &mut clients, episode),
            _ => change::change(&mut world, &mut clients),
        }
        if std::env::var_os("SIMULATION_TRACE").is_some() {
            println!("{} healed", world.now);
        }
    }
    conclude(&mut world, &mut clients, evicts)
}

/// Runs one seed with a node among the others that is let in and says anything. In the end it is replaced by an honest one.
fn run_with_evil(seed: u64, change: impl FnOnce(&mut Plan)) -> Vec<String> {
    let (mut plan, _) = plan(seed);
    (plan.ack, plan.memory_bytes, plan.keys) = (Ack::Live, 32 << 20, plan.keys.min(400));
    change(&mut plan);
    let mut world = World::new(plan, seed);
    let mut clients = Clients::new(4, world.plan.keys, 20, false);
    (0..clients.clients.len()).for_each(|client| world.wake_client(client, 10 + client as u64));
    settle(&mut world, &mut clients, &mut Vec::new());
    (clients.steady, clients.sound, clients.calm) = (true, Some(1), Some(1));
    let end = world.now + 500;
    advance(&mut world, &mut clients, end);
    let node = world.random.below(world.nodes.len() as u64) as usize;
    world.evil = Some(Evil::new(node));
    let end = world.now + 5000;
    advance(&mut world, &mut clients, end);
    world.end_evil();
    let end = world.now + 100;
    advance(&mut world, &mut clients, end);
    world.restart(node);
    conclude(&mut world, &mut clients, false)
}

/// Lets everything come to rest, reads all, and judges.
fn conclude(world: &mut World, clients: &mut Clients, evicts: bool) -> Vec<String> {
    let mut broken = Vec::new();
    settle(world, clients, &mut broken);
    clients.stopped = true;
    let end = world.now + clients::PATIENCE_MS + 2000;
    finish(world, clients, end);
    settle(world, clients, &mut broken);
    // What has a time to live is gone everywhere then, whatever the clocks.
    let end = world.now + 20_000;
    advance(world, clients, end);
    clients.sound = Some(u32::MAX);
    clients.read_all(world);
    let end = world.now + clients::PATIENCE_MS;
    finish(world, clients, end);
    clients.forget_evil(world);
    broken.extend(laws::check(world, clients, evicts));
    broken
}

/// Lets what is under way be answered.
fn finish(world: &mut World, clients: &mut Clients, end: u64) {
    while !clients.are_idle() && world.now < end {
        let next = world.now + 100;
        advance(world, clients, next);
    }
}

/// Lets the world go on with its clients.
fn advance(world: &mut World, clients: &mut Clients, end: u64) {
    while world.step(end) {
        for (connection, number, bytes) in std::mem::take(&mut world.answers) {
            clients.answer(world, connection, number, &bytes);
        }
        for client in std::mem::take(&mut world.due) {
            clients.act(world, client);
        }
    }
}

/// Waits until nobody holds anything for anybody.
fn settle(world: &mut World, clients: &mut Clients, broken: &mut Vec<String>) {
    let end = world.now + 30_000;
    let paused = std::mem::replace(&mut clients.stopped, true);
    while world.now < end {
        world.stir();
        let next = world.now + 100;
        advance(world, clients, next);
        if clients.are_idle() && world.is_settled() {
            break;
        }
    }
    if !world.is_settled() {
        broken.push(format!("hints-drain: the ring does not settle in 30 s: {}", world.unsettled()));
    }
    clients.stopped = paused;
    if !paused {
        (0..clients.clients.len()).for_each(|client| world.wake_client(client, world.now + 1));
    }
}

/// One fault, from its beginning to its end.
fn fault(world: &mut World, clients: &mut Clients, episode: u64) {
    let nodes = world.nodes.len();
    let victim = world.random.below(nodes as u64) as usize;
    let kind = world.random.below(6);
    if std::env::var_os("SIMULATION_TRACE").is_some() {
        println!("{} fault {kind} of {victim}", world.now);
    }
    // With one copy a crash loses what it may lose.
    let may_crash = world.plan.redundancy > 1;
    let length = 200 + world.random.below(4000);
    let end = world.now + length;
    match kind {
        0 | 1 if may_crash => crash(world, clients, victim, length),
        0..=2 => {
            clients.steady = false;
            world.nodes[victim].paused_until = end;
            // Sometimes two at once, which know nothing better than each other when they are back.
            let paused = 1 + world.random.below(2) as usize;
            // Where no owner of a key is left, its stand-in knows nothing of it.
            clients.sound = clients.sound.filter(|_| world.plan.redundancy > paused);
            if paused > 1 {
                world.nodes[(victim + 1) % nodes].paused_until = end;
            }
            advance(world, clients, end);
            // What all owners were away with is not known until one of them is asked again, up to a second later.
            clients.steady = world.plan.redundancy > paused;
            advance(world, clients, end + 500);
        }
        3 => {
            (clients.steady, clients.sound) = (false, None);
            // A part of the ring is cut off from the rest, both ways or one way.
            let one_way = world.random.below(2) == 0;
            let side: Vec<bool> = (0..nodes).map(|_| world.random.below(2) == 0).collect();
            for a in 0..nodes {
                for b in 0..nodes {
                    world.cut[a][b] = a != b && side[a] != side[b] && (!one_way || side[a]);
                }
            }
            advance(world, clients, end);
        }
        4 => {
            // Who stands in for an owner meanwhile asks another one: if there is one, and it has what was written.
            if world.plan.redundancy == 1 || world.plan.ack == Ack::One {
                (clients.steady, clients.sound) = (false, None);
            }
            world.jitter_ms = 60;
            for step in 0..20 {
                world.break_link();
                let next = world.now + length / 20;
                advance(world, clients, next.max(world.now + step));
            }
        }
        _ => {
            (clients.steady, clients.sound) = (false, None);
            // Several at once.
            (0..nodes).for_each(|node| world.cut[victim][node] = node != victim && world.random.below(2) == 0);
            let other = (victim + 1 + episode as usize) % nodes;
            if other != victim {
                world.nodes[other].paused_until = world.now + length / 2;
            }
            advance(world, clients, end);
        }
    }
    world.jitter_ms = 2;
    world.cut.iter_mut().for_each(|row| row.fill(false));
}

/// One node dies with its memory, or two, and is started again.
fn crash(world: &mut World, clients: &mut Clients, victim: usize, length: u64) {
    // Whoever is left has everything that was acknowledged. Slow links just before: many copies are under way.
    world.jitter_ms = [2, 100][world.random.below(2) as usize];
    let moment = world.now + world.random.below(100);
    advance(world, clients, moment);
    world.jitter_ms = 2;
    // With three copies, two nodes may die at once.
    let other = (victim + 1) % world.nodes.len();
    let victims: &[usize] = if world.plan.redundancy > 2 { &[victim, other] } else { &[victim] };
    let victims = &victims[..1 + world.random.below(victims.len() as u64) as usize];
    victims.iter().for_each(|&victim| world.crash(victim));
    if world.plan.ack == Ack::One {
        clients.note_deaths(world, victims);
    }
    let end = world.now + length;
    advance(world, clients, end);
    if world.plan.ack == Ack::One {
        // Who coordinates changes now: the next one may not know yet what was answered.
        (clients.steady, clients.sound) = (false, None);
    }
    victims.iter().for_each(|&victim| world.restart(victim));
    advance(world, clients, end + 500);
}

fn seeds() -> Box<dyn Iterator<Item = u64>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("SIMULATION_SEED"), number("SIMULATION_SEEDS")) {
        (Some(seed), _) => Box::new(std::iter::once(seed)),
        (None, count) => Box::new(0..count.unwrap_or(SEEDS_COUNT)),
    }
}

#[test]
fn the_laws_hold_for_every_seed() {
    hold(&seeds().collect::<Vec<_>>(), |_| {});
}

/// Every law must hold for these seeds, with this change of their plans.
fn hold(seeds: &[u64], base: impl Fn(&mut Plan) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (base, failures) = (&base, &failures);
            scope.spawn(move || {
                for &seed in seeds.iter().skip(thread).step_by(threads) {
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, base)));
                    let broken = result.unwrap_or_else(|_| vec!["a panic".into()]);
                    if !broken.is_empty() {
                        failures.lock().unwrap().push((seed, broken));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    for (seed, broken) in failures.iter().take(12) {
        let (plan, evicts) = plan(*seed);
        println!("SIMULATION_SEED={seed}: {} nodes, {} copies, {:?}, evicts {evicts}", plan.nodes, plan.redundancy, plan.ack);
        broken.iter().take(4).for_each(|sentence| println!("    {sentence}"));
    }
    assert!(failures.is_empty(), "{} of {} seeds break a law", failures.len(), seeds.len());
}

//! One episode: a ring is started, clients work, the plan is carried out, everything heals, and what is left is looked at.
//!
//! ```text
//!   start --> counters are set --> clients ... steps ... --> heal --> settle --> read everything at every node --> owners compared
//!                                                                                  perhaps: stop each node in turn, read again
//! ```
//!
//! Lives here: the order of things, and laws about nodes instead of calls. Not here: what is done (`plan`), laws about calls (`judge`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use super::clients::{self, CLIENTS, Client, Line, Notes, PATIENCE_US, Stage};
use super::history::{Ask, Call, Micros, NEVER};
use super::judge::{Judgement, Story, Violation, judge};
use super::nodes::{self, Nodes};
use super::plan::{Plan, Step};
use super::speech::Dialect;
use super::watch::Watch;
use super::ways::Ways;

/// How long the ring may take until everything has gone where it belongs.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at the ring.
const LOOK: Duration = Duration::from_millis(100);
/// How long clients work after a partition.
const AFTER_PARTITION: Duration = Duration::from_millis(800);
/// How long an answer may take at a node that nothing was done to. Usual are 0.6 s; what hangs is given up by the node after 5 s.
const WAIT_MAX_US: Micros = 4_000_000;
/// How long a node that was stopped or started needs to be as good as the others.
const AFTER_FAULT_US: Micros = 1_000_000;
/// A machine that lets this program wait for so long lets nodes wait as well: they may have taken each other to be away.
const STALL_MAX: Duration = Duration::from_millis(250);

/// What came of an episode.
pub struct Outcome {
    pub judgement: Judgement,
    pub story: Story,
    /// What was done, and when.
    pub log: Vec<String>,
    /// Longest time that an answer took at a node that nothing was done to.
    pub waited: Duration,
    /// Longest time that the machine did not let this program run.
    pub stalled: Duration,
}

/// An episode under way.
struct Episode<'a> {
    plan: &'a Plan,
    stage: &'a Stage,
    nodes: Nodes,
    ways: Ways,
    /// What is wrong, when, with which node.
    open: BTreeMap<String, Micros>,
    faults: Vec<(String, Micros, Micros)>,
    log: Vec<String>,
    violations: Vec<Violation>,
    notes: Notes,
}

/// Carries out a plan; logs of nodes go to `folder`.
pub fn run(plan: &Plan, folder: &Path) -> Outcome {
    let addresses = nodes::addresses(plan.shape.nodes());
    let ways = Ways::new(&addresses).expect("listeners on loopback");
    let nodes = Nodes::start(&plan.shape, addresses.clone(), &ways, folder);
    let stage = Stage::new(&addresses, plan.is_parted());
    let mut episode = Episode {
        plan,
        stage: &stage,
        nodes,
        ways,
        open: BTreeMap::new(),
        faults: Vec::new(),
        log: Vec::new(),
        violations: Vec::new(),
        notes: Notes::default(),
    };
    let watch = Watch::start();
    let (parted, settled) = episode.play();
    let stalled = watch.longest();
    let Episode { faults, mut log, mut violations, notes, .. } = episode;
    let mut story = Story { calls: notes.calls, nodes: notes.nodes.into_iter().collect(), faults, settled, parted };
    story.calls.sort_by_key(|call| (call.invoked, call.connection, call.number));
    let mut judgement = judge(&story);
    violations.extend(notes.complaints.iter().map(|text| about_ring("answers", text.clone())));
    violations.extend(unanswered(&story));
    violations.extend(waited_too_long(&story));
    let waited = Duration::from_micros(slowest(&story).map_or(0, |(_, waited)| waited));
    log.push(format!("{} calls, {} connections", story.calls.len(), story.nodes.len()));
    violations.append(&mut judgement.violations);
    judgement.violations = violations;
    Outcome { judgement, story, log, waited, stalled }
}

fn about_ring(law: &'static str, text: String) -> Violation {
    Violation { law, key: String::new(), text, calls: Vec::new() }
}

/// Whether something was done to the node of a call between two times.
fn is_hit(story: &Story, call: &Call, from: Micros, to: Micros) -> bool {
    let name = format!("n{}", story.nodes.get(&call.connection).copied().unwrap_or(usize::MAX));
    story.faults.iter().any(|(what, begun, ended)| what.contains(&name) && *begun <= to && *ended >= from)
}

/// `answers`: a node that nothing was done to answers within the patience of a client, and with an error only where it is promised: to
/// what another node that went away may have executed.
fn unanswered(story: &Story) -> Vec<Violation> {
    let mut violations = Vec::new();
    for call in story.calls.iter().filter(|call| !call.is_known() && call.ask != Ask::Flush) {
        let end = call.invoked + PATIENCE_US;
        let near = story.faults.iter().any(|(_, begun, ended)| *begun <= end && ended + AFTER_FAULT_US >= call.invoked);
        let interrupted = near && call.answer.as_ref().is_err_and(|why| why.contains("may have been executed"));
        let promised = interrupted && !is_read_alone(story, call);
        if !promised && !is_hit(story, call, call.invoked, end) {
            let text = "a node that was there all the time did not answer as it should".into();
            violations.push(Violation { law: "answers", key: call.key.clone(), text, calls: vec![call.clone()] });
        }
    }
    violations.truncate(3);
    violations
}

/// Whether a request only reads, and was not sent together with something that changes its key.
fn is_read_alone(story: &Story, call: &Call) -> bool {
    let together = |other: &Call| {
        (other.connection, &other.key) == (call.connection, &call.key) && other.invoked.abs_diff(call.invoked) < AFTER_FAULT_US
    };
    call.ask == Ask::Get && !story.calls.iter().any(|other| other.may_change() && together(other))
}

/// The answer that took longest at a node that nothing was done to, and how long.
fn slowest(story: &Story) -> Option<(&Call, Micros)> {
    let known = story.calls.iter().filter(|call| call.is_known() && call.ask != Ask::Flush);
    let there = known.filter(|call| !is_hit(story, call, call.invoked.saturating_sub(AFTER_FAULT_US), call.answered));
    there.map(|call| (call, call.answered - call.invoked)).max_by_key(|(_, waited)| *waited)
}

/// `waits`: a node that nothing was done to answers soon, whatever becomes of the others.
fn waited_too_long(story: &Story) -> Option<Violation> {
    let (call, waited) = slowest(story).filter(|(_, waited)| *waited > WAIT_MAX_US)?;
    let text = format!("a node that was there all the time took {} ms", waited / 1000);
    Some(Violation { law: "waits", key: call.key.clone(), text, calls: vec![call.clone()] })
}

impl Episode<'_> {
    /// Everything from the first request to the last look. When a partition was over, and when everything was settled for good.
    fn play(&mut self) -> (Option<Micros>, Micros) {
        self.set_counters();
        self.with_clients(0, |episode| episode.plan.steps.iter().for_each(|step| episode.step(step)));
        let parted = self.plan.is_parted().then(|| {
            self.settle();
            let healed = self.stage.now();
            self.read_everything(Some(0));
            self.with_clients(CLIENTS, |_| std::thread::sleep(AFTER_PARTITION));
            healed
        });
        self.settle();
        let settled = self.stage.now();
        self.read_everything(None);
        self.compare_owners();
        if self.plan.takes_turns && !self.plan.is_parted() {
            self.take_turns();
        }
        self.look_at_accounts();
        self.look_at_processes();
        (parted, settled)
    }

    /// Does something while clients are at work. They begin to count at `first`.
    fn with_clients(&mut self, first: usize, act: impl FnOnce(&mut Self)) {
        let (stage, seed) = (self.stage, self.plan.seed);
        stage.over.store(false, Ordering::Relaxed);
        let notes: Vec<Notes> = std::thread::scope(|scope| {
            let clients: Vec<ScopedJoinHandle<'_, Notes>> =
                (first..first + CLIENTS).map(|number| scope.spawn(move || Client::new(stage, number, seed).run())).collect();
            // Whatever happens here, the clients must end, or the scope would wait for ever.
            let end = EndOfStage(stage);
            act(self);
            drop(end);
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        });
        for notes in notes {
            self.notes.calls.extend(notes.calls);
            self.notes.nodes.extend(notes.nodes);
            self.notes.complaints.extend(notes.complaints);
        }
    }

    fn note(&mut self, text: String) {
        let now = self.stage.now();
        self.log.push(format!("{:>6}.{:03} {text}", now / 1000, now % 1000));
    }

    fn begin_fault(&mut self, name: String) {
        let now = self.stage.now();
        self.open.entry(name).or_insert(now);
    }

    fn end_faults(&mut self, which: impl Fn(&str) -> bool) {
        let now = self.stage.now();
        let ended: Vec<String> = self.open.keys().filter(|name| which(name)).cloned().collect();
        for name in ended {
            if let Some(begun) = self.open.remove(&name) {
                self.faults.push((name, begun, now));
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.look_at_processes();
        self.note(step.to_string());
        match *step {
            Step::Wait { ms } => std::thread::sleep(Duration::from_millis(ms)),
            Step::Lull { ms } => {
                self.stage.quiet.store(true, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(ms));
                self.stage.quiet.store(false, Ordering::Relaxed);
            }
            Step::Stop { node } => {
                self.begin_fault(format!("stop n{node}"));
                self.nodes.stop(node);
            }
            Step::Resume { node } => {
                self.nodes.resume(node);
                self.end_faults(|name| name == format!("stop n{node}"));
            }
            Step::Kill { node } => {
                self.begin_fault(format!("kill n{node}"));
                self.nodes.kill(node);
                self.stage.admitted[node].store(false, Ordering::SeqCst);
            }
            Step::Start { node } => {
                self.nodes.start_one(node);
                self.stage.admitted[node].store(true, Ordering::SeqCst);
                self.end_faults(|name| name == format!("kill n{node}"));
            }
            Step::Clear { node } => self.clear(node),
            Step::Admit { node } => self.stage.admitted[node].store(true, Ordering::SeqCst),
            Step::Cut { from, to } => {
                // Where clients are on one side only, that side has no excuse.
                let excused = if self.plan.is_parted() { "n" } else { "" };
                self.begin_fault(format!("cut {excused}{from} {excused}{to}"));
                self.ways.cut(from, to);
            }
            Step::Delay { from, to, ms } => {
                self.begin_fault(format!("slow {from} {to}"));
                self.ways.slow(from, to, Duration::from_millis(ms));
            }
            Step::Break { from, to } => {
                let now = self.stage.now();
                self.ways.end(from, to);
                self.faults.push((format!("break {from} {to}"), now, self.stage.now()));
            }
            Step::Heal { reset } => {
                self.ways.heal(reset);
                self.end_faults(|name| name.starts_with("cut") || name.starts_with("slow"));
            }
            Step::Flush { node } => self.flush(node),
            Step::Settle => self.settle(),
        }
    }

    /// Waits until the clients have left a node.
    fn clear(&mut self, node: usize) {
        self.stage.admitted[node].store(false, Ordering::SeqCst);
        let end = Instant::now() + Duration::from_micros(PATIENCE_US);
        while self.stage.present[node].load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < end, "clients do not leave n{node}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn flush(&mut self, node: usize) {
        let Ok(mut line) = Line::open(self.stage, node, Dialect::Text, &mut self.notes) else { return };
        let sent = line.send(self.stage, vec![(String::new(), Ask::Flush, 0)]).map_err(|error| error.to_string());
        if let Err(why) = sent.and_then(|()| line.read_until(self.stage, 0, &mut self.notes)) {
            line.give_up(&why, &mut self.notes);
        }
    }

    /// Counters begin at 0, everywhere.
    fn set_counters(&mut self) {
        let asks = clients::keys().into_iter().filter(|key| key.starts_with('n'));
        let asks = asks.map(|key| (key, Ask::Set { value: "0".into(), ttl_s: 0 }, 0)).collect();
        self.ask_all(0, asks);
    }

    fn ask_all(&mut self, node: usize, asks: Vec<(String, Ask, usize)>) {
        let Ok(mut line) = Line::open(self.stage, node, Dialect::Meta, &mut self.notes) else {
            self.violations.push(about_ring("answers", format!("n{node} does not listen")));
            return;
        };
        let sent = line.send(self.stage, asks).map_err(|error| error.to_string());
        if let Err(why) = sent.and_then(|()| line.read_until(self.stage, 0, &mut self.notes)) {
            line.give_up(&why, &mut self.notes);
        }
    }

    /// `settle`: every node says that everything has gone where it belongs, and none takes another to be away.
    fn settle(&mut self) {
        let end = Instant::now() + SETTLE_MAX;
        loop {
            match self.unsettled() {
                None => break,
                Some(why) if Instant::now() > end => {
                    self.note(format!("not settled: {why}"));
                    self.violations.push(about_ring("settle", why));
                    return;
                }
                Some(_) => std::thread::sleep(LOOK),
            }
        }
        self.note("settled".into());
    }

    /// What is not settled.
    fn unsettled(&mut self) -> Option<String> {
        for node in 0..self.plan.shape.nodes() {
            let told = match self.nodes.stats(node, "handoff wait 1") {
                Ok(told) => told,
                Err(why) => return Some(why),
            };
            let odd = told.iter().find(|(name, value)| match name.rsplit(':').next().unwrap_or("") {
                "settled" => value != "yes",
                "pending" | "dirty_partitions" => value != "0",
                _ => false,
            });
            if let Some((name, value)) = odd {
                let all: Vec<String> = told.iter().map(|(name, value)| format!("{name} {value}")).collect();
                return Some(format!("n{node}: {name} is {value} ({})", all.join(", ")));
            }
        }
        self.look_for_absent()
    }

    /// A node that takes another to be away. Links are tried again when something is to be sent: so everything is read, and by every
    /// core where that was not enough.
    fn look_for_absent(&mut self) -> Option<String> {
        for node in 0..self.plan.shape.nodes() {
            self.ask_all(node, clients::keys().into_iter().map(|key| (key, Ask::Get, 0)).collect());
            let told = match self.nodes.stats(node, "peers") {
                Ok(told) => told,
                Err(why) => return Some(why),
            };
            if let Some((name, value)) = told.iter().find(|(name, value)| name.ends_with(":links_away") && value != "0") {
                return self
                    .nodes
                    .read_on_all_cores(node, &clients::keys())
                    .err()
                    .or(Some(format!("n{node}: {name} is {value}")));
            }
        }
        None
    }

    /// Reads every key at every node, but one that is stopped.
    fn read_everything(&mut self, only: Option<usize>) {
        for node in (0..self.plan.shape.nodes()).filter(|&node| only.is_none_or(|only| only == node)) {
            self.ask_all(node, clients::keys().into_iter().map(|key| (key, Ask::Get, 0)).collect());
        }
    }

    /// Each node is stopped while the others are read: what is on them must do without it.
    fn take_turns(&mut self) {
        for node in 0..self.plan.shape.nodes() {
            self.step(&Step::Stop { node });
            let other = (node + 1) % self.plan.shape.nodes();
            self.read_everything(Some(other));
            self.step(&Step::Resume { node });
            self.step(&Step::Settle);
        }
    }

    /// `owners-agree`: the owners of a key have the same version of it, with the same time to live, and nobody else has anything.
    fn compare_owners(&mut self) {
        let count = self.plan.shape.nodes();
        let mut held: BTreeMap<String, BTreeMap<usize, (u64, i64)>> = BTreeMap::new();
        for node in 0..count {
            match self.nodes.held(node) {
                Ok(items) => items
                    .into_iter()
                    .for_each(|(key, version, end)| _ = held.entry(key).or_default().insert(node, (version, end))),
                Err(why) => self.violations.push(about_ring("owners-agree", why)),
            }
        }
        for (key, copies) in held {
            let Ok(stats) = self.nodes.stats(0, &format!("where {key}")) else { continue };
            let owner = |(name, value): &(String, String)| {
                name.strip_prefix("owner_")?;
                value.strip_prefix('n')?.split(' ').next()?.parse::<usize>().ok()
            };
            let owners: Vec<usize> = stats.iter().filter_map(owner).collect();
            let first = copies.values().next();
            let same = copies.values().all(|copy| Some(copy) == first);
            // What has a time to live may go on one node just before it goes on the next.
            let brief = copies.values().any(|(_, end)| *end >= 0);
            let whole = brief || owners.iter().all(|owner| copies.contains_key(owner));
            let stray = copies.keys().find(|node| !owners.contains(node));
            if owners.len() != self.plan.shape.redundancy || !same || !whole || stray.is_some() {
                let text = format!("owners {owners:?} and others hold {copies:?} (node: version, end)");
                let of_key =
                    self.notes.calls.iter().filter(|call| call.key == key && call.answered < NEVER && call.has_changed());
                let mut calls: Vec<Call> = of_key.cloned().collect();
                calls.sort_by_key(|call| call.invoked);
                let calls = calls.split_off(calls.len().saturating_sub(4));
                self.violations.push(Violation { law: "owners-agree", key, text, calls });
            }
        }
    }

    /// `accounts`: what became of hints adds up.
    fn look_at_accounts(&mut self) {
        for node in 0..self.plan.shape.nodes() {
            let Ok(stats) = self.nodes.stats(node, "handoff") else { continue };
            let number = |name: String| {
                stats.iter().find(|(found, _)| *found == name).and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0)
            };
            for other in 0..self.plan.shape.nodes() {
                let ends = ["replayed", "superseded", "expired", "degraded", "rerouted", "pending"];
                let sum: u64 = ends.iter().map(|end| number(format!("{other}:{end}"))).sum();
                let created = number(format!("{other}:created"));
                if created != sum {
                    let text = format!("n{node} has created {created} hints for n{other}, of which {sum} are accounted for");
                    self.violations.push(about_ring("accounts", text));
                }
            }
        }
    }

    /// `alive`: no node ends by itself.
    fn look_at_processes(&mut self) {
        for (node, status) in self.nodes.ended() {
            self.violations.push(about_ring("alive", format!("n{node} has ended: {status}")));
            self.nodes.kill(node);
            self.nodes.start_one(node);
        }
    }
}

/// Ends the stage when it goes.
struct EndOfStage<'a>(&'a Stage);

impl Drop for EndOfStage<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Outcome {
    /// Whether the machine may have been the reason of what was found.
    pub fn is_disturbed(&self) -> bool {
        self.stalled > STALL_MAX
    }
}

//! Rings of real nodes that are killed, stopped, cut off and slowed down, under clients that pipeline; judged from outside.
//!
//! ```text
//!   seed --plan--> nodes (3 to 5 processes, proxies between them)  <-- clients (several requests in flight, histories)
//!                    ^ kill -9, SIGSTOP, cuts, delays, lulls                 |
//!                    +-- episode ------------------------------------------> judge --> report: seed, what was done, the calls that clash
//! ```
//!
//! `tests/run torture` plays episodes for two minutes. The environment makes that longer or shorter, or plays one again:
//!
//! - `TORTURE_SECONDS=36000`: for so long; `TORTURE_EPISODES=200`: so many, if the time suffices
//! - `TORTURE_SEED=17`: the first seed; the episodes that follow have the next ones
//! - `TORTURE_THEME=Storm`: only seeds of this theme (`plan::Theme`)
//! - `TORTURE_NODE=path`: another build of the program
//!
//! The same seed does the same things in the same order; what the machine makes of it differs, so a fault may need a few tries.
//! Everything about an episode in which something was found is below `target/tmp/torture/SEED/`.
//!
//! Lives here: which episodes are played, and reports. Not here: one episode (`episode`), made-up faults by the thousand (`simulation`).
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

mod clients;
mod episode;
mod history;
mod judge;
mod nodes;
mod plan;
#[path = "../random/mod.rs"]
mod random;
mod speech;
mod watch;
mod ways;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use episode::Outcome;
use history::Call;
use plan::Plan;

/// How long episodes are played unless the environment says otherwise.
const SECONDS_DEFAULT: u64 = 120;
/// Reports of one episode that are printed; the others are in its folder.
const REPORTS_MAX: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
#[ignore = "takes minutes: tests/run torture"]
fn episodes() {
    let end = Instant::now() + Duration::from_secs(number("TORTURE_SECONDS").unwrap_or(SECONDS_DEFAULT));
    let most = number("TORTURE_EPISODES").unwrap_or(u64::MAX);
    let theme = std::env::var("TORTURE_THEME").ok();
    let of_theme = |plan: &Plan| theme.as_ref().is_none_or(|theme| *theme == format!("{:?}", plan.theme));
    let mut plans = (number("TORTURE_SEED").unwrap_or(1)..).map(Plan::new).filter(of_theme);
    let (mut played, mut disturbed) = (0, 0);
    let mut broken: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
    while played < most && (played == 0 || Instant::now() < end) {
        let plan = plans.next().expect("seeds without end");
        let seed = plan.seed;
        let outcome = play(&plan);
        played += 1;
        if outcome.is_disturbed() {
            // What was found may be the machine's fault: told, not counted.
            disturbed += 1;
            continue;
        }
        for violation in &outcome.judgement.violations {
            let seeds = broken.entry(violation.law).or_default();
            if seeds.last() != Some(&seed) {
                seeds.push(seed);
            }
        }
    }
    println!("{played} episodes, {disturbed} of them disturbed by the machine");
    assert!(
        disturbed * 2 <= played,
        "the machine is too busy to judge anything: {disturbed} of {played} episodes were disturbed"
    );
    assert!(broken.is_empty(), "laws that were broken, and the seeds: {broken:?}");
}

/// Judges the story of a file again, as it is in `story.txt` of an episode, or what is left of it: `TORTURE_STORY=file`.
#[test]
#[ignore = "needs a file with a story"]
fn a_story_again() {
    let path = std::env::var("TORTURE_STORY").expect("TORTURE_STORY names a file");
    let story: judge::Story = fs::read_to_string(path).unwrap().parse().unwrap();
    let found = judge::judge(&story);
    for violation in &found.violations {
        println!("{} {}: {}", violation.law, violation.key, violation.text);
        violation.calls.iter().for_each(|call| println!("    {call}"));
    }
    assert!(found.violations.is_empty(), "{} of {} keys", found.violations.len(), found.keys);
}

/// Plays an episode and tells of it.
fn play(plan: &Plan) -> Outcome {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("torture").join(plan.seed.to_string());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for logs");
    let begun = Instant::now();
    let outcome = episode::run(plan, &folder);
    let found = &outcome.judgement;
    println!(
        "seed {}: {:?}, {} nodes of {:?} cores, {} copies: {} calls of {} keys, {} not searched to the end, the slowest {} ms; {:.1} s{}, {}",
        plan.seed,
        plan.theme,
        plan.shape.nodes(),
        plan.shape.cores,
        plan.shape.redundancy,
        outcome.story.calls.len(),
        found.keys,
        found.unknown,
        outcome.waited.as_millis(),
        begun.elapsed().as_secs_f64(),
        if outcome.is_disturbed() { format!(", the machine stalled for {:?}", outcome.stalled) } else { String::new() },
        if found.violations.is_empty() { "clean".into() } else { format!("{} VIOLATIONS", found.violations.len()) },
    );
    if found.violations.is_empty() {
        let _ = fs::remove_dir_all(&folder);
    } else {
        tell(plan, &outcome, &folder);
    }
    outcome
}

/// Writes down everything, and prints what fits on a screen.
fn tell(plan: &Plan, outcome: &Outcome, folder: &Path) {
    let mut text = format!("seed {}\n{:?}\n", plan.seed, plan);
    outcome.log.iter().for_each(|line| text += &format!("{line}\n"));
    for violation in &outcome.judgement.violations {
        text += &format!("\n{}: {}: {}\n", violation.law, violation.key, violation.text);
        violation.calls.iter().for_each(|call| text += &format!("    {}\n", at_node(outcome, call)));
    }
    let _ = fs::write(folder.join("report.txt"), &text);
    let _ = fs::write(folder.join("story.txt"), outcome.story.to_string());
    println!("    what was done (milliseconds): {}", outcome.log.join("; ").split_whitespace().collect::<Vec<_>>().join(" "));
    for violation in outcome.judgement.violations.iter().take(REPORTS_MAX) {
        println!("  {} {}: {}", violation.law, violation.key, violation.text);
        violation.calls.iter().for_each(|call| println!("    {}", at_node(outcome, call)));
    }
    println!("    again: TORTURE_SEED={} TORTURE_EPISODES=1 tests/run torture    all of it: {}", plan.seed, folder.display());
}

/// A call, and the node that was asked.
fn at_node(outcome: &Outcome, call: &Call) -> String {
    let node = outcome.story.nodes.get(&call.connection).map_or("?".into(), |node| format!("n{node}"));
    format!("{node} {call}")
}

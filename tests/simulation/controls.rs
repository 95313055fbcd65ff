//! Whether the laws see anything: every planted mistake breaks the law that is there for it, on a seed that breaks none without it.
//!
//! `seed` is where the search begins: the first that broke the law when this was written. It goes on from there.
//!
//! Lives here: mistakes that laws see in runs by seed. Not here: those that a story tells (`stories`).

use pbcache::cluster::{Ack, Mistake};

use super::world::Plan;
use super::{run, run_with_evil};

/// Seeds that are tried for a mistake, at most.
const TRIES: u64 = 3000;

/// A planted mistake must be caught by the law that is there for it, on a seed that breaks no law without it. `base` changes both runs.
pub fn is_caught(law: &str, seed: u64, base: impl Fn(&mut Plan), mistake: impl Fn(&mut Plan)) {
    let breaks = |seed: u64| {
        let broken = run(seed, |plan| {
            base(plan);
            mistake(plan);
        });
        broken.iter().any(|sentence| sentence.starts_with(law))
    };
    let seed = (seed..seed + TRIES).find(|&seed| breaks(seed)).unwrap_or_else(|| panic!("no seed breaks the law {law}"));
    println!("the law {law} is broken by seed {seed}");
    let without = run(seed, &base);
    assert!(without.is_empty(), "seed {seed} breaks a law without the mistake, too: {without:?}");
}

/// As `is_caught`, for a mistake of `shard` in a run that is like any other.
fn law_sees(law: &str, seed: u64, mistake: Mistake) {
    is_caught(law, seed, |_| {}, |plan| plan.mistake = Some(mistake));
}

#[test]
fn an_answer_before_the_copies_is_caught() {
    law_sees("versions-rise", 438, Mistake::AckBeforeCopies);
}

#[test]
fn copies_that_are_not_sent_are_caught_where_nobody_waits_for_them() {
    let base = |plan: &mut Plan| (plan.ack, plan.redundancy) = (Ack::One, plan.redundancy.max(2));
    is_caught("nothing-lost", 0, base, |plan| plan.mistake = Some(Mistake::CopiesForgotten));
}

#[test]
fn hints_that_are_not_kept_are_caught() {
    law_sees("owners-agree", 0, Mistake::NoHints);
}

#[test]
fn hints_without_a_version_are_caught() {
    law_sees("owners-agree", 0, Mistake::HintWithoutVersion);
}

#[test]
fn a_replay_to_somebody_else_is_caught() {
    law_sees("owners-agree", 0, Mistake::ReplayElsewhere);
}

#[test]
fn a_fence_that_is_not_heard_is_caught() {
    law_sees("flush-stays", 9, Mistake::FenceSkipped);
}

#[test]
fn a_flush_that_waits_for_nobody_is_caught() {
    law_sees("flush-order", 609, Mistake::FlushAlone);
}

#[test]
fn a_tombstone_that_goes_early_is_caught() {
    is_caught("nothing-lost", 22, |_| {}, |plan| plan.reap_early = true);
}

#[test]
fn expiry_that_leaves_no_trace_is_caught() {
    is_caught("versions-rise", 21, |_| {}, |plan| plan.expires_without_trace = true);
}

#[test]
fn doubt_that_is_not_felt_is_caught() {
    law_sees("versions-rise", 0, Mistake::NoPeerReads);
}

#[test]
fn copies_that_nobody_settles_are_caught() {
    let base = |plan: &mut Plan| (plan.redundancy, plan.keys) = (3, 5000);
    is_caught("owners-agree", 460, base, |plan| plan.mistake = Some(Mistake::AllCommitted));
}

#[test]
fn lists_that_are_not_heeded_are_caught() {
    law_sees("versions-rise", 0, Mistake::MissingIgnored);
}

#[test]
fn sureness_without_everybodys_word_is_caught() {
    law_sees("versions-rise", 0, Mistake::AlwaysAuthoritative);
}

#[test]
fn views_that_differ_by_a_rounding_are_caught() {
    is_caught("owners-agree", 0, |_| {}, |plan| plan.views_differ = true);
}

#[test]
fn requests_that_overtake_each_other_are_caught() {
    law_sees("connection-order", 1, Mistake::OrderIgnored);
}

#[test]
fn a_command_that_is_executed_late_is_caught() {
    law_sees("one-order", 1, Mistake::DeadlineIgnored);
}

#[test]
fn a_command_that_is_repeated_over_what_others_wrote_is_caught() {
    law_sees("connection-order", 92, Mistake::RepeatedBlindly);
}

#[test]
fn a_read_that_is_repeated_behind_later_writes_is_caught() {
    law_sees("written-there", 148, Mistake::ReadsRepeated);
}

#[test]
fn a_command_that_follows_a_refused_one_is_caught() {
    law_sees("connection-order", 376, Mistake::RefusalForgotten);
}

#[test]
fn a_lease_that_is_not_awaited_is_caught() {
    law_sees("versions-rise", 122, Mistake::LeaseNotAwaited);
}

#[test]
fn items_that_stay_where_nobody_owns_them_are_caught() {
    law_sees("owners-agree", 1, Mistake::UnownedKept);
}

/// An evil node must break nothing, and does where its numbers are believed.
#[test]
fn an_evil_node_breaks_no_law() {
    for seed in 0..40 {
        let broken = run_with_evil(seed, |_| {});
        assert!(broken.is_empty(), "seed {seed}: {broken:?}");
    }
    let breaks = |seed: u64| {
        let broken = run_with_evil(seed, |plan| plan.mistake = Some(Mistake::FarVersionsBelieved));
        broken.iter().any(|sentence| sentence.starts_with("clocks-near"))
    };
    assert!((0..40).any(breaks), "no seed breaks the law clocks-near where numbers of peers are believed");
}

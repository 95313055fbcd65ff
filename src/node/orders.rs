//! What an operator asks of this node about its ring, and the answers: lines of words, the same for people and scripts.
//!
//! ```text
//!   status        ready yes | settled yes | node ID STATE REACH SHARE NEXT ADDRESS ..     log        the last changes
//!   leave, cancel, weight N        this node's own change                                  redundancy N, remove ID
//! ```
//!
//! Dangerous orders are refused with a sentence unless they end with `force`.
//!
//! Lives here: orders and their refusals. Not here: how they come (`exchange`, `operator`), the rules of changes (`membership::driver`).

use std::fmt::Write;

use super::members::Members;
use super::ring;
use crate::membership::changes::{self, Layouts};
use crate::membership::driver::{self, Order, Reports};
use crate::membership::gossip::Reach;
use crate::membership::table::{Record, State, Table};
use crate::placement::{Member, NodeId, REDUNDANCY_MAX, WEIGHT_MAX};
use crate::runtime::clock::unix_ms;

/// Does what the words say. What there is to tell.
///
/// # Errors
/// Why it does not: a sentence. Nothing changed.
pub(super) fn obey(members: &mut Members, words: &str) -> Result<String, String> {
    let mut words: Vec<&str> = words.split_whitespace().collect();
    let force = words.last() == Some(&"force");
    if force {
        words.pop();
    }
    match words[..] {
        ["status"] => Ok(status(members)),
        ["log"] => Ok(members.log.join("\n")),
        ["leave"] => {
            check_calm(members, force)?;
            check_copies_left(&members.begin.table, force)?;
            order(members, Order::Leave)
        }
        ["cancel"] => order(members, Order::Cancel),
        ["weight", number] => {
            let weight = number.parse::<u32>().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
            let weight = weight.ok_or_else(|| format!("{number} is no weight: 1 to {WEIGHT_MAX}"))?;
            check_calm(members, force)?;
            order(members, Order::Weight(weight))
        }
        ["redundancy", number] => {
            let copies = number.parse::<u8>().ok().filter(|copies| (1..=REDUNDANCY_MAX).contains(&usize::from(*copies)));
            let copies = copies.ok_or_else(|| format!("{number} is no number of copies: 1 to {REDUNDANCY_MAX}"))?;
            check_calm(members, force)?;
            set_redundancy(members, copies, force)
        }
        ["remove", id] => remove(members, id, force),
        _ => Err("orders are status, log, leave, cancel, weight N, redundancy N and remove ID".into()),
    }
}

fn order(members: &mut Members, order: Order) -> Result<String, String> {
    let record = driver::ordered(&members.begin.table, &members.begin.me, order, unix_ms())?;
    let told = format!("{} is {}", record.id, record.state_name());
    members.write(record)?;
    Ok(told)
}

fn set_redundancy(members: &mut Members, copies: u8, force: bool) -> Result<String, String> {
    let nodes = members.begin.table.serving().count();
    if usize::from(copies) > nodes && !force {
        return Err(format!("{copies} copies are more than the ring has nodes ({nodes}); say force if it is to grow"));
    }
    let before = members.begin.table.clone();
    members.begin.table.set_redundancy(copies, unix_ms());
    members.changed(&before);
    Ok(format!("items have {copies} {} from now on, older ones too", if copies == 1 { "copy" } else { "copies" }))
}

/// Writes a node off that is away for good.
fn remove(members: &mut Members, id: &str, force: bool) -> Result<String, String> {
    let record = members.begin.table.get(id).ok_or_else(|| format!("{id} is not in the ring"))?.clone();
    if record.state.is_terminal() {
        return Err(format!("{id} is {} already", record.state_name()));
    }
    if record.id == members.begin.me {
        return Err(format!("{id} is this node: it can leave"));
    }
    let reports = members.reports().unwrap_or_default();
    let is_there = |id: &NodeId| reports.others.iter().any(|(other, report)| other == id && report.is_there);
    if is_there(&record.id) && !force {
        return Err(format!("{id} answers: let it leave, or say force"));
    }
    let (serving, there) =
        members.begin.table.serving().filter(|other| other.id != record.id).fold((1, 0), |(all, there), other| {
            (all + 1, there + usize::from(other.id == members.begin.me || is_there(&other.id)))
        });
    if record.state.is_serving() && 2 * there <= serving && !force {
        return Err(format!(
            "only {there} of {serving} nodes can be reached from here: the others may be a ring of their own; say force"
        ));
    }
    if members.begin.table.ring().redundancy < 2 && record.state.is_serving() && !force {
        return Err(format!("items have one copy: what {id} has is lost; say force"));
    }
    let written = members.begin.table.next_written(unix_ms());
    members.write(Record { state: State::Removed, is_moving: false, written, ..record })?;
    Ok(format!("{id} is removed"))
}

/// One change at a time, and none while a node is away.
fn check_calm(members: &Members, force: bool) -> Result<(), String> {
    if force {
        return Ok(());
    }
    if let Some(change) = changes::queue(&members.begin.table).first() {
        return Err(format!(
            "the {} of {} is under way; wait, or say force to queue behind it",
            change.kind.name(),
            change.node
        ));
    }
    let reports = members.reports().unwrap_or_default();
    match reports.others.iter().find(|(_, report)| !report.is_there) {
        Some((away, _)) => Err(format!("{away} cannot be reached; wait until it is back, remove it, or say force")),
        None => Ok(()),
    }
}

fn check_copies_left(table: &Table, force: bool) -> Result<(), String> {
    let (nodes, copies) = (table.serving().count(), usize::from(table.ring().redundancy));
    if nodes <= copies && !force {
        return Err(format!("{} nodes would be left for {copies} copies of every item; say force", nodes - 1));
    }
    Ok(())
}

/// What there is to tell of the ring.
fn status(members: &Members) -> String {
    let (table, me) = (&members.begin.table, &members.begin.me);
    let reports = members.reports();
    let Layouts { serving, target } = changes::layouts(table);
    let own = table.get(me.as_str());
    let settled = (0..SETTLED_LOOKS).any(|look| look > 0 && pause() || ring::is_settled(&members.cores));
    let queue = changes::queue(table);
    let is_in = own.is_some_and(|own| own.state == State::Normal);
    let is_shared =
        reports.as_ref().is_none_or(|reports| reports.others.iter().all(|(_, report)| !report.is_there || report.shares_view));
    let mut text = String::new();
    let yes = |is: bool| if is { "yes" } else { "no" };
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{words}");
    };
    line(format_args!(
        "ring {:016x} {} buckets {} redundancy {}",
        table.ring().ring_id,
        table.ring().name,
        table.ring().buckets,
        table.ring().redundancy
    ));
    line(format_args!("me {me}"));
    line(format_args!("ready {}", yes(is_in && is_shared && queue.iter().all(|change| change.node != *me))));
    line(format_args!("settled {}", yes(settled && queue.is_empty() && is_in)));
    for (place, change) in queue.iter().enumerate() {
        let step = if place > 0 {
            "waits"
        } else if change.is_moving {
            "moving"
        } else {
            "announced"
        };
        line(format_args!("change {} {} {step}", change.kind.name(), change.node));
    }
    for record in table.records() {
        let reach = reach(record, members, reports.as_ref());
        let next = target.as_ref().map_or(share(&serving, &record.id), |target| share(&target.members, &record.id));
        let state = record.state_name();
        let now = share(&serving, &record.id);
        line(format_args!(
            "node {} {state} {reach} share {now:.2} next {next:.2} weight {} {}",
            record.id, record.weight, record.address
        ));
    }
    text
}

/// How often it is asked whether everything is settled: leases that nobody needs have ended, and are granted again when somebody asks.
const SETTLED_LOOKS: u32 = 5;

/// Waits for the leases of the cores. Always false.
fn pause() -> bool {
    std::thread::sleep(std::time::Duration::from_millis(50));
    false
}

/// Whether a node can be reached: by the links where they know, and by gossip where no link was needed.
fn reach(record: &Record, members: &Members, reports: Option<&Reports>) -> &'static str {
    if record.id == members.begin.me {
        return "here";
    }
    let of = |reports: &Reports| reports.others.iter().find(|(id, _)| *id == record.id).map(|(_, report)| report.is_there);
    match (reports.and_then(of), members.heard(&record.id)) {
        (Some(false), _) => "away",
        (_, Reach::Down) => "down",
        (_, Reach::Suspect) => "suspect",
        (Some(true), _) | (None, Reach::Up) => "up",
        (None, Reach::Unknown) => "unknown",
    }
}

/// The share of a node, in percent.
fn share(members: &[Member], id: &NodeId) -> f64 {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let own = members.iter().find(|member| member.id == *id).map_or(0, |member| member.weight);
    100.0 * f64::from(own) / total.max(1) as f64
}

//! What a node writes next of itself: its way into the ring, its change, its way out.
//!
//! ```text
//!   asked for --> first of the queue, and everybody shares that view: all write to both layouts --> moving
//!   moving --> everybody shares that view, and every new owner has all that it is to own --> done: joining -> normal, leaving -> left, ..
//! ```
//!
//! The node whose record changes drives its change, and writes its end only with reports of more than half of those that own something:
//! else a split could end and write off the same join. Nodes that are away do not hold it up; what they owe to new owners they bring along.
//!
//! Lives here: when which record is written, as a function of the table and of what the others have said. Not here: how they are heard
//! (`cluster`), how the record spreads (`node`).

use super::changes::{self, ChangeKind};
use super::table::{Record, Refusal, State, Table};
use crate::placement::NodeId;

/// What another node has reported, as the cores of this one have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// It can be reached, or is not known to be away.
    pub is_there: bool,
    /// Its cores have taken the view of this table over, and nothing of before is under way there.
    pub shares_view: bool,
    /// Each of its cores has all that it is to own, and said so under this view.
    pub is_whole: bool,
}

/// What has been reported to this node, or to one of its cores, under one view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Stands for the view.
    pub view: u64,
    /// By the others in the view.
    pub others: Vec<(NodeId, Report)>,
    /// This side has all that it is to own.
    pub is_whole: bool,
}

impl Reports {
    /// What all cores of a node know together; `None` where they do not share a view.
    pub fn of_cores(cores: impl IntoIterator<Item = Self>) -> Option<Self> {
        cores.into_iter().map(Some).reduce(|all, core| all?.and(core?)).flatten()
    }

    /// A node is there if one core reaches it, and has reported what it has reported to every core.
    fn and(mut self, core: Self) -> Option<Self> {
        let same = self.view == core.view && self.others.len() == core.others.len();
        for ((id, all), (other, report)) in self.others.iter_mut().zip(core.others) {
            if *id != other {
                return None;
            }
            all.is_there |= report.is_there;
            all.shares_view &= report.shares_view;
            all.is_whole &= report.is_whole;
        }
        self.is_whole &= core.is_whole;
        same.then_some(self)
    }

    /// Whether everybody who is there, and more than half of those that own something, has reported this.
    fn all_say(&self, table: &Table, me: &str, say: impl Fn(&Report) -> bool) -> bool {
        let serving = table.serving().count();
        let word = |id: &str| self.others.iter().find(|(other, _)| other.as_str() == id).map(|(_, word)| word);
        let saying = table.serving().filter(|record| {
            let id = record.id.as_str();
            id == me || word(id).is_some_and(|word| word.is_there && say(word))
        });
        2 * saying.count() > serving && self.others.iter().all(|(_, word)| !word.is_there || say(word))
    }
}

/// The record that this node writes next, if it is time for one.
pub fn next_record(table: &Table, me: &NodeId, reports: &Reports, now_ms: u64) -> Option<Record> {
    let own = table.get(me.as_str())?;
    let written = table.next_written(now_ms);
    if own.state == State::Joining && !own.is_placed() {
        // A front node waits for nobody.
        return Some(Record { state: State::Normal, written, ..own.clone() });
    }
    let head = changes::queue(table).into_iter().next().filter(|head| head.node == *me)?;
    changes::layouts(table).target?;
    if !head.is_moving {
        let heard = reports.all_say(table, me.as_str(), |word| word.shares_view);
        return heard.then(|| Record { is_moving: true, written, ..own.clone() });
    }
    if !reports.is_whole || !reports.all_say(table, me.as_str(), |word| word.shares_view && word.is_whole) {
        return None;
    }
    let done = Record { is_moving: false, written, ..own.clone() };
    Some(match head.kind {
        ChangeKind::Join => Record { state: State::Normal, ..done },
        ChangeKind::Leave => Record { state: State::Left, ..done },
        ChangeKind::Weight => Record { weight: own.weight_next, ..done },
    })
}

/// The record of a node whose change holds up all others and that is away for `CHANGE_AWAY_MS_MAX`: one that joins is removed, for it owns
/// nothing; what another one was about to do is not done. Only with the reports of more than half of those that own something.
pub fn give_up(table: &Table, me: &NodeId, reports: &Reports, away_ms: u64, now_ms: u64) -> Option<Record> {
    let head = changes::queue(table).into_iter().next()?;
    let is_away = |id: &NodeId| !reports.others.iter().any(|(other, report)| other == id && report.is_there);
    let serves = table.get(me.as_str())?.state.is_serving();
    if head.node == *me || !serves || away_ms < CHANGE_AWAY_MS_MAX || !is_away(&head.node) {
        return None;
    }
    let written = table.next_written(now_ms);
    let record = Record { is_moving: false, written, ..table.get(head.node.as_str())?.clone() };
    reports.all_say(table, me.as_str(), |report| report.shares_view).then_some(match head.kind {
        ChangeKind::Join => Record { state: State::Removed, ..record },
        ChangeKind::Leave => Record { state: State::Normal, ..record },
        ChangeKind::Weight => Record { weight_next: record.weight, ..record },
    })
}

/// The record of a node that is gone for good, as far as this one can tell: for `after_ms` nobody has heard of it, by gossip and on every link
/// (`gone_ms`). Only in a ring of at least three, with the reports of more than half of them that each has all that it is to own, so that one
/// goes after the other; and only where items have another copy. The first node that is there writes it; the others when that one does not.
pub fn write_off(
    table: &Table,
    me: &NodeId,
    reports: &Reports,
    gone_ms: impl Fn(&NodeId) -> Option<u64>,
    after_ms: u64,
    now_ms: u64,
) -> Option<Record> {
    let is_calm = changes::queue(table).is_empty() && table.ring().redundancy >= 2;
    let serves = table.get(me.as_str())?.state.is_serving();
    if after_ms == 0 || !is_calm || !serves || table.serving().count() < REMOVAL_NODES_MIN {
        return None;
    }
    let is_there = |id: &NodeId| id == me || reports.others.iter().any(|(other, report)| other == id && report.is_there);
    let is_first = table.serving().find(|record| is_there(&record.id)).is_some_and(|first| first.id == *me);
    let patience_ms = if is_first { after_ms } else { after_ms.saturating_add(REMOVAL_SECOND_MS) };
    let is_gone = |record: &&Record| !is_there(&record.id) && gone_ms(&record.id).is_some_and(|gone_ms| gone_ms >= patience_ms);
    let record = table.serving().find(is_gone)?;
    let all_whole = reports.is_whole && reports.all_say(table, me.as_str(), |report| report.shares_view && report.is_whole);
    let written = table.next_written(now_ms);
    all_whole.then(|| Record { state: State::Removed, is_moving: false, weight_next: record.weight, written, ..record.clone() })
}

/// Nodes that a ring must have before it removes one by itself: of two, each would be the majority of what it sees.
const REMOVAL_NODES_MIN: usize = 3;
/// How much later than the first node another one writes somebody off, in milliseconds.
const REMOVAL_SECOND_MS: u64 = 10_000;

/// How long a node may be away whose change holds up all others, in milliseconds.
pub const CHANGE_AWAY_MS_MAX: u64 = 60_000;

/// What a node is when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Who it is.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
    /// Its share; 0 for a front node.
    pub weight: u32,
    /// What fails together with it.
    pub zone: String,
    /// Above that of every earlier life, as far as it knows.
    pub incarnation: u64,
}

/// The record with which a node starts under this table, which may have one of an earlier life. A node that owned a share goes on, empty:
/// its items come from the others as for one that has lost its memory. One that was on its way in or out begins anew.
pub fn start_record(table: &Table, start: &Start, now_ms: u64) -> Record {
    let Start { id, address, weight, zone, incarnation } = start.clone();
    let before = table.get(id.as_str());
    let written = table.next_written(now_ms);
    let is_front = weight == 0;
    let fresh = Record {
        id,
        epoch: before.map_or(1, |before| before.epoch),
        state: State::Joining,
        is_moving: false,
        is_front,
        written,
        asked: written,
        weight: weight.max(1),
        weight_next: weight.max(1),
        zone: zone.clone(),
        address: address.clone(),
        incarnation: before.map_or(incarnation, |before| incarnation.max(before.incarnation + 1)),
    };
    match before {
        Some(before) if before.state.is_terminal() => Record { epoch: before.epoch + 1, ..fresh },
        Some(before) if before.state == State::Normal && before.is_front == is_front => {
            // What it weighs is in the table: an option does not move data by itself.
            Record { written, address, incarnation: fresh.incarnation, is_moving: false, ..before.clone() }
        }
        Some(before) if before.state == State::Leaving => Record {
            state: State::Normal,
            written,
            address,
            incarnation: fresh.incarnation,
            is_moving: false,
            ..before.clone()
        },
        Some(before) if before.state == State::Normal => Record { epoch: before.epoch + 1, ..fresh },
        _ => fresh,
    }
}

/// What an operator may ask of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hand everything over and go.
    Leave,
    /// Become so heavy.
    Weight(u32),
    /// Do not, after all.
    Cancel,
}

/// The record with which a node begins what it was told to do.
///
/// # Errors
/// Why it does not, in words.
pub fn ordered(table: &Table, me: &NodeId, order: Order, now_ms: u64) -> Result<Record, String> {
    let own = table.get(me.as_str()).ok_or_else(|| format!("{me} is not in the ring"))?;
    let written = table.next_written(now_ms);
    let asked = Record { written, asked: written, is_moving: false, ..own.clone() };
    match (order, own.state) {
        // It owns nothing that anybody would have to take over.
        (Order::Leave | Order::Cancel, State::Joining) => Ok(Record { state: State::Left, ..asked }),
        (Order::Leave, State::Normal) if own.is_front => Ok(Record { state: State::Left, ..asked }),
        (Order::Leave, State::Normal) if table.serving().count() < 2 => {
            Err(format!("{me} is the only one that owns anything: nobody could take it over"))
        }
        (Order::Leave, State::Normal) => Ok(Record { state: State::Leaving, weight_next: own.weight, ..asked }),
        (Order::Leave, State::Leaving) => Err(format!("{me} is leaving already")),
        (Order::Weight(weight), State::Normal) if weight > 0 && !own.is_front => Ok(Record { weight_next: weight, ..asked }),
        (Order::Weight(_), _) => Err(format!("{me} is {}: its weight cannot change now", own.state_name())),
        (Order::Cancel, State::Leaving) => Ok(Record { state: State::Normal, ..asked }),
        (Order::Cancel, State::Normal) if own.weight != own.weight_next => Ok(Record { weight_next: own.weight, ..asked }),
        (Order::Cancel, _) => Err(format!("nothing of {me} is under way")),
        (Order::Leave, State::Left | State::Removed) => Err(format!("{me} is not in the ring")),
    }
}

/// Takes the id of another ring over: this node is the only one of its own, and joins that one. What it was in its own is forgotten.
///
/// # Errors
/// Both rings have members, or they differ in what no ring changes.
pub fn adopt(own: &Table, me: &NodeId, other: Table) -> Result<Table, Refusal> {
    let (ours, theirs) = (own.ring(), other.ring());
    super::table::check_same("cluster", &ours.name, &theirs.name)?;
    super::table::check_same("number of buckets", &ours.buckets, &theirs.buckets)?;
    if ours.ring_id != theirs.ring_id && own.records().any(|record| record.id != *me && !record.state.is_terminal()) {
        return Err(Refusal::OtherRing { ours: ours.ring_id, theirs: theirs.ring_id });
    }
    Ok(other)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{NOW_MS, record, ring, table};
    use super::*;

    fn reports(table: &Table, me: &str, report: impl Fn(&str) -> Report) -> Reports {
        let others = table.records().filter(|record| record.id.as_str() != me && !record.state.is_terminal());
        Reports {
            view: 1,
            others: others.map(|record| (record.id.clone(), report(record.id.as_str()))).collect(),
            is_whole: true,
        }
    }

    const FULL: Report = Report { is_there: true, shares_view: true, is_whole: true };
    const AWAY: Report = Report { is_there: false, shares_view: false, is_whole: false };

    fn three_and(own: Record) -> (Table, NodeId) {
        let me = own.id.clone();
        let normal = |name| record(name, State::Normal, NOW_MS - 9);
        (table(&[&[normal("a"), normal("b"), normal("c")][..], &[own]].concat()), me)
    }

    #[test]
    fn a_node_comes_in_by_steps_that_the_others_have_heard_of() {
        let (mut table, me) = three_and(record("d", State::Joining, NOW_MS - 5));
        let next = |table: &Table, report: Report| next_record(table, &me, &reports(table, "d", |_| report), NOW_MS);
        assert_eq!(next(&table, Report { shares_view: false, ..FULL }), None, "one of them still writes to one layout only");
        let moving = next(&table, Report { is_whole: false, ..FULL }).unwrap();
        assert_eq!((moving.state, moving.is_moving, moving.state_name()), (State::Joining, true, "syncing"));
        assert!(table.put(moving, NOW_MS).unwrap());
        assert_eq!(next(&table, Report { is_whole: false, ..FULL }), None, "it lacks something");
        assert_eq!(next(&table, Report { shares_view: false, ..FULL }), None, "that was said of something else");
        assert_eq!(next_record(&table, &me, &Reports { is_whole: false, ..reports(&table, "d", |_| FULL) }, NOW_MS), None);
        let normal = next(&table, FULL).unwrap();
        assert_eq!((normal.state, normal.is_moving), (State::Normal, false));
        assert!(table.put(normal, NOW_MS).unwrap());
        assert_eq!(next(&table, FULL), None);
    }

    #[test]
    fn a_minority_ends_nothing_and_those_that_are_away_hold_nothing_up() {
        let (mut table, me) = three_and(record("d", State::Joining, NOW_MS - 5));
        let some = |table: &Table, away: &[&str]| {
            next_record(table, &me, &reports(table, "d", |id| if away.contains(&id) { AWAY } else { FULL }), NOW_MS)
        };
        assert!(some(&table, &["a"]).is_some() && some(&table, &["a", "b"]).is_none());
        let moving = some(&table, &["a"]).unwrap();
        table.put(moving, NOW_MS).unwrap();
        assert!(some(&table, &["a"]).is_some() && some(&table, &["a", "b"]).is_none());
        // One that owns something counts itself.
        let (table, me) = three_and(Record { state: State::Leaving, ..record("d", State::Normal, NOW_MS - 5) });
        let some = |away: &[&str]| {
            next_record(&table, &me, &reports(&table, "d", |id| if away.contains(&id) { AWAY } else { FULL }), NOW_MS)
        };
        assert!(some(&["a"]).is_some() && some(&["a", "b"]).is_none(), "half is no majority");
    }

    #[test]
    fn a_change_of_a_node_that_is_away_is_given_up_by_a_majority() {
        let away = |table: &Table, gone: &[&str], ms| {
            let a = NodeId::new("a").unwrap();
            give_up(table, &a, &reports(table, "a", |id| if gone.contains(&id) { AWAY } else { FULL }), ms, NOW_MS)
        };
        for (state, next) in [(State::Joining, State::Removed), (State::Leaving, State::Normal)] {
            let (mut table, _) = three_and(Record { is_moving: true, ..record("d", state, NOW_MS - 5) });
            assert_eq!(away(&table, &["d"], CHANGE_AWAY_MS_MAX - 1), None);
            assert_eq!(away(&table, &[], CHANGE_AWAY_MS_MAX), None, "it is there");
            assert_eq!(away(&table, &["d", "b", "c"], CHANGE_AWAY_MS_MAX), None, "a minority");
            let given_up = away(&table, &["d"], CHANGE_AWAY_MS_MAX).unwrap();
            assert_eq!((given_up.state, given_up.is_moving), (next, false));
            assert!(table.put(given_up, NOW_MS).unwrap() && changes::queue(&table).is_empty());
        }
        let (mut table, _) = three_and(Record { weight_next: 3, ..record("d", State::Normal, NOW_MS - 5) });
        table.put(away(&table, &["d"], CHANGE_AWAY_MS_MAX).unwrap(), NOW_MS).unwrap();
        assert_eq!((table.get("d").unwrap().weight_next, changes::queue(&table).len()), (1, 0));
    }

    #[test]
    fn who_is_gone_for_long_is_written_off_by_a_majority_of_three_and_one_at_a_time() {
        let normal = |name| record(name, State::Normal, NOW_MS - 9);
        let of = |count: usize| table(&["a", "b", "c", "d", "e"][..count].iter().map(|name| normal(name)).collect::<Vec<_>>());
        let off = |table: &Table, me: &str, away: &[&str], ms: u64, after_ms: u64| {
            let reports = reports(table, me, |id| if away.contains(&id) { AWAY } else { FULL });
            let gone = |id: &NodeId| away.contains(&id.as_str()).then_some(ms);
            write_off(table, &NodeId::new(me).unwrap(), &reports, gone, after_ms, NOW_MS)
                .map(|record| record.id.as_str().to_string())
        };
        let five = of(5);
        assert_eq!(off(&five, "a", &["d"], 900, 900).as_deref(), Some("d"));
        assert_eq!(off(&five, "a", &["d"], 899, 900), None, "too early");
        assert_eq!(off(&five, "a", &["d"], 90_000, 0), None, "never by itself");
        assert_eq!(off(&five, "b", &["d"], 900, 900), None, "another one writes it");
        assert_eq!(off(&five, "b", &["d"], 900 + REMOVAL_SECOND_MS, 900).as_deref(), Some("d"), "who has not");
        assert_eq!(off(&five, "a", &["d", "e"], 900, 900).as_deref(), Some("d"), "one at a time");
        assert_eq!(off(&five, "a", &["c", "d", "e"], 900, 900), None, "a minority");
        assert_eq!(off(&of(4), "a", &["c", "d"], 900, 900), None, "half");
        assert_eq!(off(&of(3), "a", &["c"], 900, 900).as_deref(), Some("c"));
        assert_eq!(off(&of(2), "a", &["b"], 900, 900), None, "of two");
        let mut one_copy = of(5);
        one_copy.set_redundancy(1, NOW_MS);
        assert_eq!(off(&one_copy, "a", &["d"], 900, 900), None, "it would be lost for good");
        let mut busy = of(5);
        busy.put(record("f", State::Joining, NOW_MS), NOW_MS).unwrap();
        assert_eq!(off(&busy, "a", &["d"], 900, 900), None, "a change is under way");
        let gone = |_: &NodeId| Some(900);
        let lacking = reports(&five, "a", |id| if id == "d" { AWAY } else { Report { is_whole: id != "b", ..FULL } });
        assert!(write_off(&five, &NodeId::new("a").unwrap(), &lacking, gone, 900, NOW_MS).is_none(), "one lacks something");
        let there = reports(&five, "a", |_| FULL);
        assert!(write_off(&five, &NodeId::new("a").unwrap(), &there, gone, 900, NOW_MS).is_none(), "its links are there");
    }

    #[test]
    fn only_the_first_of_the_queue_goes_on() {
        let (mut table, me) = three_and(record("d", State::Joining, NOW_MS - 5));
        table.put(record("e", State::Joining, NOW_MS - 6), NOW_MS).unwrap();
        let e = NodeId::new("e").unwrap();
        assert_eq!(next_record(&table, &me, &reports(&table, "d", |_| FULL), NOW_MS), None);
        let mut next = next_record(&table, &e, &reports(&table, "e", |_| FULL), NOW_MS);
        while let Some(record) = next {
            table.put(record, NOW_MS).unwrap();
            next = next_record(&table, &e, &reports(&table, "e", |_| FULL), NOW_MS);
        }
        assert_eq!(table.get("e").unwrap().state, State::Normal);
        assert!(next_record(&table, &me, &reports(&table, "d", |_| FULL), NOW_MS).is_some());
    }

    #[test]
    fn leaves_and_weights_end_as_they_should() {
        for (order, expected) in [(Order::Leave, (State::Left, 1)), (Order::Weight(5), (State::Normal, 5))] {
            let (mut table, me) = three_and(record("d", State::Normal, NOW_MS - 5));
            let mut next = Some(ordered(&table, &me, order, NOW_MS).unwrap());
            for _ in 0..3 {
                table.put(next.take().unwrap(), NOW_MS).unwrap();
                next = next_record(&table, &me, &reports(&table, "d", |_| FULL), NOW_MS);
            }
            let own = table.get("d").unwrap();
            assert_eq!(((own.state, own.weight), next, own.is_moving), (expected, None, false));
        }
        let (mut table, me) = three_and(record("d", State::Normal, NOW_MS - 5));
        for order in [Order::Leave, Order::Weight(7)] {
            table.put(ordered(&table, &me, order, NOW_MS).unwrap(), NOW_MS).unwrap();
            assert_eq!(changes::queue(&table).len(), 1);
            table.put(ordered(&table, &me, Order::Cancel, NOW_MS).unwrap(), NOW_MS).unwrap();
            assert!(changes::queue(&table).is_empty(), "cancelled");
        }
        assert!(ordered(&table, &me, Order::Cancel, NOW_MS).is_err());
        let alone = self::table(&[record("d", State::Normal, NOW_MS - 5)]);
        assert!(ordered(&alone, &me, Order::Leave, NOW_MS).unwrap_err().contains("only one"));
    }

    #[test]
    fn a_node_that_starts_goes_on_from_what_it_was() {
        let start =
            Start { id: NodeId::new("d").unwrap(), address: "d:2".into(), weight: 3, zone: "z".into(), incarnation: NOW_MS };
        let begun = |state, is_moving| {
            let (table, _) = three_and(Record { is_moving, ..record("d", state, NOW_MS - 5) });
            let record = start_record(&table, &start, NOW_MS);
            assert!(record.check(NOW_MS).is_ok() && record.beats(table.get("d").unwrap()));
            assert_eq!((record.address.as_str(), record.is_moving), ("d:2", false));
            (record.state, record.epoch, record.weight)
        };
        assert_eq!(begun(State::Normal, false), (State::Normal, 1, 1), "the table's weight counts");
        assert_eq!(begun(State::Leaving, true), (State::Normal, 1, 1));
        assert_eq!(begun(State::Joining, true), (State::Joining, 1, 3));
        assert_eq!(begun(State::Left, false), (State::Joining, 2, 3));
        assert_eq!(begun(State::Removed, false), (State::Joining, 2, 3));
        let nothing = start_record(&Table::new(ring()), &start, NOW_MS);
        assert_eq!((nothing.state, nothing.epoch, nothing.incarnation), (State::Joining, 1, NOW_MS));
    }

    #[test]
    fn a_ring_of_one_joins_another_and_two_rings_do_not() {
        let other = Table::new(crate::membership::table::RingRecord { ring_id: 8, ..ring() });
        let me = NodeId::new("a").unwrap();
        let lone = table(&[record("a", State::Normal, NOW_MS)]);
        assert_eq!(adopt(&lone, &me, other.clone()).unwrap().ring().ring_id, 8);
        let two = table(&[record("a", State::Normal, NOW_MS), record("b", State::Normal, NOW_MS)]);
        assert!(matches!(adopt(&two, &me, other.clone()), Err(Refusal::OtherRing { .. })));
        let was_two = table(&[record("a", State::Normal, NOW_MS), record("b", State::Left, NOW_MS)]);
        assert!(adopt(&was_two, &me, other).is_ok());
        let buckets = Table::new(crate::membership::table::RingRecord { buckets: 5, ..ring() });
        assert!(adopt(&lone, &me, buckets).unwrap_err().to_string().contains("buckets"));
    }
}

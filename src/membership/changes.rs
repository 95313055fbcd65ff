//! What follows from a table: who owns now, who will own next, and whose change it is.
//!
//! ```text
//!   serving   normal + leaving, with their weights                       reads, coordinators
//!   target    serving with the first change of the queue applied         copies of writes go there too; its new owners get what they lack
//!   queue     joins, leaves, weights by (moving first, asked, id)        the first is under way, the others wait
//! ```
//!
//! All of it is a function of the table, in whole numbers: two nodes with the same table agree, and nobody decides for the others.
//!
//! Lives here: those functions. Not here: who writes which record when (`driver`), what a layout means (`placement`).

use super::table::{Record, State, Table, Written};
use crate::placement::{Member, NodeId};

/// What a node wants to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// To own a share.
    Join,
    /// To own nothing.
    Leave,
    /// To own more, or less.
    Weight,
}

impl ChangeKind {
    /// What an operator calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Weight => "weight",
        }
    }
}

/// A change that was asked for and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose it is: this node drives it.
    pub node: NodeId,
    /// Which.
    pub kind: ChangeKind,
    /// When it was asked for.
    pub asked: Written,
    /// Its data moves.
    pub is_moving: bool,
}

/// The layout that comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who owns then, by id.
    pub members: Vec<Member>,
    /// The data moves: everybody writes to both layouts already.
    pub is_moving: bool,
}

/// Both layouts of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layouts {
    /// Who owns now, by id. Empty where nobody does.
    pub serving: Vec<Member>,
    /// Who owns next, where a change is under way.
    pub target: Option<Target>,
}

/// What a record asks for.
fn change_of(record: &Record) -> Option<Change> {
    let kind = match record.state {
        _ if !record.is_placed() => return None,
        State::Joining => ChangeKind::Join,
        State::Leaving => ChangeKind::Leave,
        State::Normal if record.weight != record.weight_next => ChangeKind::Weight,
        State::Normal | State::Left | State::Removed => return None,
    };
    Some(Change { node: record.id.clone(), kind, asked: record.asked, is_moving: record.is_moving })
}

/// The changes that were asked for, in their order. Whose data moves comes first: it has been the first before.
pub fn queue(table: &Table) -> Vec<Change> {
    let mut changes: Vec<Change> = table.records().filter_map(change_of).collect();
    changes.sort_by(|a, b| (!a.is_moving, a.asked, &a.node).cmp(&(!b.is_moving, b.asked, &b.node)));
    changes
}

/// Both layouts of a table.
pub fn layouts(table: &Table) -> Layouts {
    let member = |record: &Record, weight| Member { id: record.id.clone(), weight, zone: record.zone.clone() };
    let serving: Vec<Member> = table.serving().map(|record| member(record, record.weight)).collect();
    let head = queue(table).into_iter().next();
    let target = head.and_then(|change| {
        let record = table.get(change.node.as_str())?;
        let mut members: Vec<Member> = serving.iter().filter(|other| other.id != record.id).cloned().collect();
        if change.kind != ChangeKind::Leave {
            members.push(member(record, record.weight_next));
            members.sort_by(|a, b| a.id.cmp(&b.id));
        }
        // The last one has nobody to hand over to.
        (!members.is_empty()).then_some(Target { members, is_moving: change.is_moving })
    });
    Layouts { serving, target }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{NOW_MS, draw, record, table};
    use super::*;
    use crate::random::Random;

    fn ids(members: &[Member]) -> String {
        members.iter().map(|member| format!("{}{}", member.id, member.weight)).collect::<Vec<_>>().join(" ")
    }

    fn told(table: &Table) -> (String, Option<String>) {
        let Layouts { serving, target } = layouts(table);
        (
            ids(&serving),
            target.map(|target| format!("{}{}", ids(&target.members), if target.is_moving { " moving" } else { "" })),
        )
    }

    #[test]
    fn the_first_change_makes_the_target() {
        let normal = |name| record(name, State::Normal, NOW_MS - 9);
        let base = [normal("a"), normal("b")];
        assert_eq!(told(&table(&base)), ("a1 b1".into(), None));
        let joins = [&base[..], &[record("d", State::Joining, NOW_MS - 3), record("c", State::Joining, NOW_MS - 2)]].concat();
        assert_eq!(told(&table(&joins)), ("a1 b1".into(), Some("a1 b1 d1".into())), "who asked first");
        let mut moving = joins.clone();
        moving[3].is_moving = true;
        assert_eq!(told(&table(&moving)), ("a1 b1".into(), Some("a1 b1 c1 moving".into())), "whose data moves");
        let leaves = [normal("a"), record("b", State::Leaving, NOW_MS)];
        assert_eq!(told(&table(&leaves)), ("a1 b1".into(), Some("a1".into())));
        assert_eq!(told(&table(&leaves[1..])), ("b1".into(), None), "the last one cannot");
        let heavier = [normal("a"), Record { weight_next: 3, ..normal("b") }];
        assert_eq!(told(&table(&heavier)), ("a1 b1".into(), Some("a1 b3".into())));
        let gone = [normal("a"), record("b", State::Left, NOW_MS), record("c", State::Removed, NOW_MS)];
        assert_eq!(told(&table(&gone)), ("a1".into(), None));
        let front = [normal("a"), Record { is_front: true, ..record("b", State::Joining, NOW_MS) }];
        assert_eq!(told(&table(&front)), ("a1".into(), None), "a front node is in no layout");
    }

    #[test]
    fn equal_tables_agree_and_targets_differ_in_one_node() {
        let mut random = Random(21);
        for _ in 0..2000 {
            let (a, b) = (draw(&mut random), draw(&mut random));
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(&b, NOW_MS).unwrap();
            ba.merge(&a, NOW_MS).unwrap();
            assert_eq!((queue(&ab), layouts(&ab)), (queue(&ba), layouts(&ba)));
            let Layouts { serving, target: Some(target) } = layouts(&ab) else { continue };
            let only = |some: &[Member], others: &[Member]| some.iter().filter(|member| !others.contains(member)).count();
            assert!(only(&serving, &target.members) <= 1 && only(&target.members, &serving) <= 1);
        }
    }
}

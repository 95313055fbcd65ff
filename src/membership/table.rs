//! The member table: a record for each node that was ever in the ring, and one for the ring.
//!
//! ```text
//!   joining --> normal <--> leaving --> left          removed: from any, written by others          new join: epoch + 1, joining
//!      |          |            |
//!      +----------+------------+-- moving: the data moves for the change that is asked for (a joining node that moves is `syncing`)
//!
//!   merge of two records of a node:  the greater of (epoch, terminal?, stamp, bytes)
//! ```
//!
//! `epoch` counts joins. `left` and `removed` are terminal: they beat everything else of their epoch, whatever its stamp, so that a node that
//! was cut off and goes on stamping cannot overrule its removal. The merge is associative, commutative and idempotent: in whatever order and
//! however often records come, the table is the same.
//!
//! A node writes its own record. Others write it only where it is away: `removed`, or what an operator forces.
//!
//! Lives here: records, the merge, what is impossible. Not here: bytes (`codec`), what follows from a table (`changes`).
//! After the state-based CRDTs of Shapiro et al. (INRIA RR-7506, 2011).

use std::collections::BTreeMap;
use std::fmt;

use crate::limits::{MEMBER_RECORDS_MAX, MEMBER_TEXT_BYTES_MAX, PEER_CLOCK_SKEW_MS_MAX};
use crate::placement::{NodeId, REDUNDANCY_MAX, WEIGHT_MAX};

use super::codec;

/// When something was written, by a hybrid logical clock: 48 bits of milliseconds and 16 of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Written(pub u64);

impl Written {
    /// The first one of a millisecond.
    pub fn at(unix_ms: u64) -> Self {
        Self(unix_ms << 16)
    }

    /// Its millisecond.
    pub fn unix_ms(self) -> u64 {
        self.0 >> 16
    }
}

/// What a node is in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It wants to come in, and owns nothing so far.
    Joining,
    /// It owns its share.
    Normal,
    /// It owns its share, and hands it over.
    Leaving,
    /// It has left by itself.
    Left,
    /// The others have written it off.
    Removed,
}

impl State {
    /// Whether nothing else of its epoch comes behind it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Left | Self::Removed)
    }

    /// Whether the node owns its share now.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Normal | Self::Leaving)
    }
}

/// What the table has of one node. About 150 bytes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who it is, for good.
    pub id: NodeId,
    /// How often it has come in, from 1 on.
    pub epoch: u32,
    /// What it is.
    pub state: State,
    /// The data moves for the change that is asked for.
    pub is_moving: bool,
    /// It routes and owns nothing, and is in no layout.
    pub is_front: bool,
    /// When this was written.
    pub written: Written,
    /// When the change under way was asked for; kept until it ends. Orders the queue.
    pub asked: Written,
    /// Its share, in proportion to the others'.
    pub weight: u32,
    /// What its share is to become; equal to `weight` where it is to stay.
    pub weight_next: u32,
    /// What fails together with it.
    pub zone: String,
    /// Where it listens: `HOST:PORT`.
    pub address: String,
    /// Rises with each start of its process.
    pub incarnation: u64,
}

impl Record {
    /// What decides between two records of one node. The bytes come last: equal stamps are two lives of one node, or a forgery.
    fn rank(&self) -> (u32, bool, Written) {
        (self.epoch, self.state.is_terminal(), self.written)
    }

    /// Whether this record takes the place of the other one.
    pub fn beats(&self, other: &Self) -> bool {
        match self.rank().cmp(&other.rank()) {
            std::cmp::Ordering::Equal => codec::record_bytes(self) > codec::record_bytes(other),
            order => order.is_gt(),
        }
    }

    /// Whether it is a part of layouts, now or after its change.
    pub fn is_placed(&self) -> bool {
        !self.is_front && self.weight_next > 0
    }

    /// What an operator calls it.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Joining if self.is_moving => "syncing",
            State::Joining => "joining",
            State::Normal if self.is_front => "front",
            State::Normal => "normal",
            State::Leaving => "leaving",
            State::Left => "left",
            State::Removed => "removed",
        }
    }

    /// What no node can have written.
    ///
    /// # Errors
    /// Names it.
    pub fn check(&self, now_ms: u64) -> Result<(), Refusal> {
        let text_bytes = self.id.as_str().len() + self.zone.len() + self.address.len();
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let latest = Written::at(now_ms.saturating_add(PEER_CLOCK_SKEW_MS_MAX + 1));
        let what = match () {
            () if self.epoch == 0 || self.epoch > EPOCH_MAX => "an epoch that no node comes to",
            () if self.written >= latest => "a stamp of the future",
            () if self.asked > self.written => "a change that was asked for behind its stamp",
            () if self.is_moving && self.state.is_terminal() => "data that moves to or from a node that is out",
            () if self.weight > WEIGHT_MAX || self.weight_next > WEIGHT_MAX => "a weight above the greatest",
            () if self.is_placed() != (!self.is_front && self.weight > 0) => "a weight that comes or goes with a change",
            () if self.address.is_empty() || !printable(&self.address) => "an address that is none",
            () if !printable(&self.zone) => "a zone that is no name",
            () if text_bytes > MEMBER_TEXT_BYTES_MAX => "names beyond their bounds",
            () => return Ok(()),
        };
        Err(Refusal::Impossible { id: self.id.as_str().into(), what })
    }
}

/// What the table has of the ring as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingRecord {
    /// Drawn when the ring was founded.
    pub ring_id: u64,
    /// `--cluster_name`.
    pub name: String,
    /// Fixed for good.
    pub buckets: u32,
    /// Copies of every item.
    pub redundancy: u8,
    /// When the redundancy was written.
    pub written: Written,
}

impl RingRecord {
    fn check(&self, now_ms: u64) -> Result<(), Refusal> {
        let latest = Written::at(now_ms.saturating_add(PEER_CLOCK_SKEW_MS_MAX + 1));
        let what = match () {
            () if self.buckets == 0 => "a ring without buckets",
            () if !(1..=REDUNDANCY_MAX).contains(&usize::from(self.redundancy)) => "a number of copies that no ring has",
            () if self.written >= latest => "a stamp of the future",
            () if self.name.is_empty() || !self.name.bytes().all(|byte| byte.is_ascii_graphic()) => "a name that is none",
            () => return Ok(()),
        };
        Err(Refusal::Impossible { id: "the ring".into(), what })
    }
}

/// Why a table or a record was not taken. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is of another ring.
    OtherRing { ours: u64, theirs: u64 },
    /// Both rings have more than one node, or other buckets, or another name.
    Different { what: &'static str, ours: String, theirs: String },
    /// No node can have written this.
    Impossible { id: String, what: &'static str },
    /// More records than a table holds.
    TooMany,
    /// The bytes are no table of this version.
    Garbled(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherRing { ours, theirs } => {
                write!(formatter, "it is of the ring {theirs:016x}, and this one is {ours:016x}; both have members")
            }
            Self::Different { what, ours, theirs } => write!(formatter, "the {what} here is {ours}, there {theirs}"),
            Self::Impossible { id, what } => write!(formatter, "the record of {id} has {what}"),
            Self::TooMany => write!(formatter, "it has more than {MEMBER_RECORDS_MAX} nodes"),
            Self::Garbled(what) => write!(formatter, "it cannot be read: {what}"),
        }
    }
}

/// Every node that was ever in the ring. Equal digests mean equal tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    ring: RingRecord,
    records: BTreeMap<NodeId, Record>,
}

impl Table {
    /// A ring without nodes so far.
    pub fn new(ring: RingRecord) -> Self {
        Self { ring, records: BTreeMap::new() }
    }

    /// What it has of the ring.
    pub fn ring(&self) -> &RingRecord {
        &self.ring
    }

    /// What it has of the nodes, in the order of their ids.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> + ExactSizeIterator {
        self.records.values()
    }

    /// What it has of one node.
    pub fn get(&self, id: &str) -> Option<&Record> {
        // The map is small and its keys share their text: a key for the search costs more than to go through.
        self.records.values().find(|record| record.id.as_str() == id)
    }

    /// Takes a record over if it beats what is here. Whether it did.
    ///
    /// # Errors
    /// It cannot be; nothing changed.
    pub fn put(&mut self, record: Record, now_ms: u64) -> Result<bool, Refusal> {
        record.check(now_ms)?;
        if !self.records.contains_key(&record.id) && self.records.len() >= MEMBER_RECORDS_MAX {
            return Err(Refusal::TooMany);
        }
        let wins = self.records.get(&record.id).is_none_or(|here| record.beats(here));
        if wins {
            self.records.insert(record.id.clone(), record);
        }
        Ok(wins)
    }

    /// Writes the redundancy.
    pub fn set_redundancy(&mut self, redundancy: u8, now_ms: u64) {
        self.ring.written = self.next_written(now_ms);
        self.ring.redundancy = redundancy;
    }

    /// Takes over what beats what is here. Whether anything did.
    ///
    /// # Errors
    /// It is of another ring, or has what cannot be; nothing changed.
    pub fn merge(&mut self, other: &Self, now_ms: u64) -> Result<bool, Refusal> {
        let (ours, theirs) = (&self.ring, &other.ring);
        if ours.ring_id != theirs.ring_id {
            return Err(Refusal::OtherRing { ours: ours.ring_id, theirs: theirs.ring_id });
        }
        check_same("cluster", &ours.name, &theirs.name)?;
        check_same("number of buckets", &ours.buckets, &theirs.buckets)?;
        other.check(now_ms)?;
        let fresh = other.records.keys().filter(|id| !self.records.contains_key(*id)).count();
        if self.records.len() + fresh > MEMBER_RECORDS_MAX {
            return Err(Refusal::TooMany);
        }
        let mut changed = false;
        if (theirs.written, theirs.redundancy) > (ours.written, ours.redundancy) {
            self.ring = theirs.clone();
            changed = true;
        }
        for record in other.records() {
            changed |= self.put(record.clone(), now_ms)?;
        }
        Ok(changed)
    }

    /// Whether every part of it is possible.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self, now_ms: u64) -> Result<(), Refusal> {
        self.ring.check(now_ms)?;
        self.records().try_for_each(|record| record.check(now_ms))
    }

    /// What the next record that this node writes is stamped with: above everything in the table.
    pub fn next_written(&self, now_ms: u64) -> Written {
        let greatest = self.records().map(|record| record.written).max().unwrap_or_default().max(self.ring.written);
        Written::at(now_ms).max(Written(greatest.0 + 1))
    }

    /// Nodes that own a share now.
    pub fn serving(&self) -> impl Iterator<Item = &Record> {
        self.records().filter(|record| record.state.is_serving() && record.is_placed())
    }

    /// Stands for the whole table.
    pub fn digest(&self) -> u64 {
        codec::digest(&codec::encode(self))
    }
}

/// Two rings must have this in common.
pub(super) fn check_same<T: PartialEq + fmt::Display>(what: &'static str, ours: &T, theirs: &T) -> Result<(), Refusal> {
    if ours == theirs {
        return Ok(());
    }
    Err(Refusal::Different { what, ours: ours.to_string(), theirs: theirs.to_string() })
}

/// A node that joins every second for thirty years has not come so far.
const EPOCH_MAX: u32 = 1 << 30;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::random::Random;

    pub const NOW_MS: u64 = 1_800_000_000_000;

    pub fn ring() -> RingRecord {
        RingRecord { ring_id: 7, name: "test".into(), buckets: 1000, redundancy: 2, written: Written::at(NOW_MS - 50_000) }
    }

    pub fn record(name: &str, state: State, written_ms: u64) -> Record {
        Record {
            id: NodeId::new(name).unwrap(),
            epoch: 1,
            state,
            is_moving: false,
            is_front: false,
            written: Written::at(written_ms),
            asked: Written::at(written_ms),
            weight: 1,
            weight_next: 1,
            zone: String::new(),
            address: format!("{name}:11211"),
            incarnation: 1,
        }
    }

    pub fn table(records: &[Record]) -> Table {
        let mut table = Table::new(ring());
        records.iter().for_each(|record| assert!(table.put(record.clone(), NOW_MS).unwrap()));
        table
    }

    pub fn draw(random: &mut Random) -> Table {
        let mut table = Table::new(RingRecord { redundancy: 1 + random.below(3) as u8, ..ring() });
        table.ring.written = Written::at(NOW_MS - 60_000 + random.below(4));
        for _ in 0..random.below(6) {
            let states = [State::Joining, State::Normal, State::Leaving, State::Left, State::Removed];
            let mut record = record(random.pick(&["a", "b", "c"]), random.pick(&states), NOW_MS - random.below(3));
            record.epoch = 1 + random.below(2) as u32;
            record.incarnation = random.below(3);
            record.is_moving = !record.state.is_terminal() && random.one_in(2);
            table.put(record, NOW_MS).unwrap();
        }
        table
    }

    fn merged(a: &Table, b: &Table) -> Table {
        let mut result = a.clone();
        result.merge(b, NOW_MS).unwrap();
        result
    }

    #[test]
    fn tables_merge_to_the_same_whatever_comes_first() {
        let mut random = Random(5);
        for _ in 0..3000 {
            let (a, b, c) = (draw(&mut random), draw(&mut random), draw(&mut random));
            assert_eq!(merged(&a, &a), a, "idempotent");
            assert_eq!(merged(&a, &b), merged(&b, &a), "commutative");
            assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)), "associative");
            let both = merged(&a, &b);
            assert!(a.records().all(|record| !record.beats(both.get(record.id.as_str()).unwrap())), "nothing goes back");
            assert_eq!(both.digest() == a.digest(), both == a);
            assert_eq!(a.clone().merge(&b, NOW_MS).unwrap(), both != a, "it says whether it changed");
        }
    }

    #[test]
    fn who_was_removed_stays_out_until_it_joins_anew() {
        let mut table = table(&[record("a", State::Normal, NOW_MS - 100)]);
        assert!(table.put(record("a", State::Removed, NOW_MS - 99), NOW_MS).unwrap());
        assert!(!table.put(record("a", State::Normal, NOW_MS), NOW_MS).unwrap(), "a later stamp does not overrule it");
        let anew = Record { epoch: 2, ..record("a", State::Joining, NOW_MS - 98) };
        assert!(table.put(anew, NOW_MS).unwrap());
        assert!(!table.put(record("a", State::Removed, NOW_MS), NOW_MS).unwrap(), "that was the life before");
    }

    #[test]
    fn what_no_node_can_have_written_is_refused_and_named() {
        type Break = fn(&mut Record);
        let cases: [(Break, &str); 10] = [
            (|record| record.epoch = 0, "an epoch"),
            (|record| record.epoch = EPOCH_MAX + 1, "an epoch"),
            (|record| record.written = Written::at(NOW_MS + PEER_CLOCK_SKEW_MS_MAX + 1), "future"),
            (|record| record.asked = Written(record.written.0 + 1), "behind its stamp"),
            (|record| (record.state, record.is_moving) = (State::Left, true), "data that moves"),
            (|record| record.weight_next = WEIGHT_MAX + 1, "a weight above"),
            (|record| record.weight = 0, "comes or goes"),
            (|record| record.address.clear(), "an address"),
            (|record| record.zone = "a b".into(), "a zone"),
            (|record| record.zone = "z".repeat(MEMBER_TEXT_BYTES_MAX), "names beyond"),
        ];
        for (change, sentence) in cases {
            let mut broken = record("a", State::Normal, NOW_MS);
            assert_eq!(broken.check(NOW_MS), Ok(()));
            change(&mut broken);
            let mut table = table(&[]);
            let refusal = table.put(broken, NOW_MS).unwrap_err().to_string();
            assert!(refusal.contains(sentence) && refusal.contains("record of a"), "{refusal}");
            assert_eq!(table.records().len(), 0);
        }
        let edge = Record {
            written: Written(Written::at(NOW_MS + PEER_CLOCK_SKEW_MS_MAX + 1).0 - 1),
            ..record("a", State::Normal, 1)
        };
        assert_eq!(edge.check(NOW_MS), Ok(()), "the last stamp that a clock can have given");
    }

    #[test]
    fn another_ring_is_refused_as_a_whole() {
        let mut here = table(&[record("a", State::Normal, NOW_MS)]);
        let before = here.clone();
        type Break = fn(&mut Table);
        let cases: [(Break, &str); 4] = [
            (|table| table.ring.ring_id = 8, "ring 0000000000000008"),
            (|table| table.ring.buckets = 999, "999"),
            (|table| table.ring.name = "other".into(), "other"),
            (|table| table.ring.redundancy = 0, "copies"),
        ];
        for (change, sentence) in cases {
            let mut there = table(&[record("b", State::Normal, NOW_MS)]);
            change(&mut there);
            let refusal = here.merge(&there, NOW_MS).unwrap_err().to_string();
            assert!(refusal.contains(sentence), "{refusal}");
            assert_eq!(here, before);
        }
    }

    #[test]
    fn a_table_has_a_last_place() {
        let mut full = table(&[]);
        for number in 0..MEMBER_RECORDS_MAX {
            assert!(full.put(record(&format!("n{number}"), State::Normal, NOW_MS), NOW_MS).unwrap());
        }
        assert_eq!(full.put(record("more", State::Normal, NOW_MS), NOW_MS), Err(Refusal::TooMany));
        assert!(full.put(record("n0", State::Left, NOW_MS), NOW_MS).unwrap(), "who is there can still change");
        let other = table(&[record("more", State::Normal, NOW_MS)]);
        assert_eq!(full.merge(&other, NOW_MS), Err(Refusal::TooMany));
    }
}

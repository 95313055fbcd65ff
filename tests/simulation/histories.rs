//! What clients were told of one key must fit into one order.
//!
//! ```text
//!   cluster of a value:   its write and all reads that returned it          A ends before B begins:   A comes before B
//!
//!   no order:   | write x |      | write y |      | read x |                x before y before x
//!   no order:   | write x | | delete | | read x |         | set x, get -> nothing |         | incr -> 7 | | incr -> 7 |
//! ```
//!
//! Two requests of one connection have an order even where both were under way at once: that of the connection. Only what was asked while no
//! two nodes could answer for one key counts (`Record::sound`): in a partition both sides go on.
//!
//! Lives here: these laws. Not here: laws about what nodes have in the end (`laws`).
//! Clusters and their zones are those of Gibbons and Korach, *Testing Shared Memories* (SIAM J. Comput. 26, 1997).

use std::collections::{BTreeMap, HashMap, HashSet};

use pbcache::cluster::Ack;

use super::clients::{Asked, Clients, Record, Told};

/// A write and the reads of its value: when the first of them was over, and when the last began.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    first_end: u64,
    last_begin: u64,
}

/// Adds what is broken, a sentence each that begins with the name of the law.
pub fn check(clients: &Clients, evicts: bool, ack: Ack, broken: &mut Vec<String>) {
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in clients.history.iter().filter(|record| !record.key.is_empty()) {
        keys.entry(&record.key).or_default().push(record);
    }
    let flushes: Vec<&Record> = clients.history.iter().filter(|record| record.asked == Asked::Flush).collect();
    for records in keys.values() {
        flushed_is_gone(records, &flushes, broken);
    }
    for (key, records) in &keys {
        let flushed = !flushes.is_empty();
        match () {
            () if key.starts_with("count") => counts_are_linear(key, records, evicts || flushed, broken),
            () if key.starts_with("list") => tokens_come_once(key, records, evicts || flushed || ack == Ack::One, broken),
            () => {
                values_have_an_order(key, records, ack, broken);
                deleted_stays_away(key, records, broken);
                if !evicts {
                    written_is_there(key, records, &flushes, broken);
                }
            }
        }
    }
}

fn clusters<'a>(records: &[&'a Record]) -> HashMap<&'a str, Cluster> {
    let mut clusters: HashMap<&str, Cluster> = HashMap::new();
    for record in records.iter().filter(|record| record.sound.is_some()) {
        // A write of unknown outcome counts once its value is read: it began then, and has no end.
        let unknown = match (&record.asked, &record.told) {
            (Asked::Set { value, .. } | Asked::Compare { value, .. }, None | Some(Told::Interrupted | Told::Failed(_))) => {
                Some(value.as_str())
            }
            _ => None,
        };
        let Some(value) = record.value().or(unknown) else { continue };
        let end = record.ended.filter(|_| unknown.is_none()).unwrap_or(u64::MAX);
        let cluster = clusters.entry(value).or_insert(Cluster { first_end: u64::MAX, last_begin: 0 });
        cluster.first_end = cluster.first_end.min(end);
        cluster.last_begin = cluster.last_begin.max(record.begun);
    }
    clusters
}

/// The records of each connection in their order there.
fn by_connection<'a>(records: &[&'a Record]) -> Vec<Vec<&'a Record>> {
    let mut connections: BTreeMap<(usize, u32), Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.sound.is_some()) {
        connections.entry(record.connection).or_default().push(record);
    }
    connections.into_values().collect()
}

/// `one-order`: no value comes before another one and behind it as well. `connection-order`: nor do the requests of one connection
/// contradict the order of all.
fn values_have_an_order(key: &str, records: &[&Record], ack: Ack, broken: &mut Vec<String>) {
    let clusters = clusters(records);
    let before = |a: &str, b: &str| match (clusters.get(a), clusters.get(b)) {
        (Some(a), Some(b)) => a.first_end < b.last_begin,
        _ => false,
    };
    let mut values: Vec<(&str, Cluster)> = clusters.iter().map(|(value, cluster)| (*value, *cluster)).collect();
    values.sort_by_key(|(_, cluster)| cluster.first_end);
    for (index, (x, a)) in values.iter().enumerate().filter(|_| ack == Ack::Live) {
        for (y, b) in &values[index + 1..] {
            if b.first_end >= a.last_begin {
                break;
            }
            if a.first_end < b.last_begin {
                broken.push(format!("one-order: {key} was {} {a:?} and {} {b:?}, each before the other", short(x), short(y)));
            }
        }
    }
    let mut edges: HashSet<(&str, &str)> = HashSet::new();
    for connection in by_connection(records) {
        let told: Vec<&str> = connection.iter().filter_map(|record| record.value()).collect();
        for (index, x) in told.iter().enumerate() {
            edges.extend(told[index + 1..].iter().filter(|y| *y != x).map(|y| (*x, *y)));
        }
    }
    for (x, y) in &edges {
        if edges.contains(&(y, x)) || (ack == Ack::Live && before(y, x)) {
            let (x, y) = (short(x), short(y));
            broken.push(format!("connection-order: {key} was {x} and then {y} over one connection, and the other way round"));
        }
    }
}

fn short(value: &str) -> &str {
    value.split(':').next().unwrap_or(value)
}

/// `deleted-stays`: what was there before a delete is not there behind it.
fn deleted_stays_away(key: &str, records: &[&Record], broken: &mut Vec<String>) {
    let sound = || records.iter().filter(|record| record.sound.is_some());
    let deletes: Vec<&&Record> = sound()
        .filter(|record| record.asked == Asked::Delete && matches!(record.told, Some(Told::Deleted | Told::Absent)))
        .collect();
    // What has a time to live is gone on one node and not yet on another, by their clocks: there a delete may find nothing.
    let may_expire = |value: &str| {
        let gives_time = |record: &&Record| match &record.asked {
            Asked::Set { value: written, exptime_s } => *exptime_s > 0 && written == value,
            Asked::Touch { .. } => true,
            _ => false,
        };
        records.iter().copied().any(|record| gives_time(&record))
    };
    for read in sound().filter(|record| record.asked == Asked::Get) {
        let Some(value) = read.value() else { continue };
        let was_there = |delete: &Record| {
            let found = delete.told == Some(Told::Deleted) || !may_expire(value);
            found && sound().any(|early| early.value() == Some(value) && early.precedes(delete))
        };
        if let Some(delete) = deletes.iter().find(|delete| delete.precedes(read) && was_there(delete)) {
            let (begun, ended) = (delete.begun, delete.ended);
            broken.push(format!(
                "deleted-stays: {key} was {}, deleted from {begun} to {ended:?} ({:?}), and read again at {}",
                short(value),
                delete.told,
                read.begun
            ));
        }
    }
}

/// `flush-order`: what was written before a flush is not read behind it, by whoever and wherever.
fn flushed_is_gone(records: &[&Record], flushes: &[&Record], broken: &mut Vec<String>) {
    let done = |flush: &&&Record| flush.sound.is_some() && matches!(flush.told, Some(Told::Flushed(_)));
    for flush in flushes.iter().filter(done) {
        let stored = |record: &&&Record| matches!(record.told, Some(Told::Stored(_))) && record.precedes(flush);
        let old: HashSet<&str> = records.iter().filter(stored).filter_map(|record| record.value()).collect();
        let read = |record: &&&Record| record.asked == Asked::Get && record.sound.is_some() && flush.precedes(record);
        for read in records.iter().filter(read).filter(|read| read.value().is_some_and(|value| old.contains(value))) {
            broken.push(format!("flush-order: {} of before {:?} was read at {}", read.key, flush.ended, read.begun));
        }
    }
}

/// `written-there`: what was written for good, and what nothing has removed since, is found.
fn written_is_there(key: &str, records: &[&Record], flushes: &[&Record], broken: &mut Vec<String>) {
    let misses =
        records.iter().filter(|record| record.sound.is_some() && record.told == Some(Told::Absent) && !record.may_remove());
    for miss in misses {
        let removers: Vec<&Record> =
            records.iter().chain(flushes).copied().filter(|record| record.may_remove() && !miss.precedes(record)).collect();
        let lost = records.iter().find(|write| {
            let stays = write.sound.is_some()
                && !write.may_be_lost
                && !write.may_remove()
                && matches!(write.told, Some(Told::Stored(_)));
            stays && write.precedes(miss) && removers.iter().all(|remover| remover.precedes(write))
        });
        if let Some(write) = lost {
            broken.push(format!(
                "written-there: {key} was written from {} to {:?} ({:?}), and not found at {}",
                write.begun, write.ended, write.told, miss.begun
            ));
        }
    }
}

/// `counts-linear`: no number of a counter is given twice, and later ones are greater.
fn counts_are_linear(key: &str, records: &[&Record], resets: bool, broken: &mut Vec<String>) {
    let number = |record: &Record| match record.told {
        Some(Told::Number(number)) if record.sound.is_some() => Some(number),
        _ => None,
    };
    let told: Vec<(&Record, u64)> = records.iter().filter_map(|record| Some((*record, number(record)?))).collect();
    for (index, (a, first)) in told.iter().enumerate() {
        for (b, second) in &told[index + 1..] {
            let backwards = (a.precedes(b) && second <= first) || (b.precedes(a) && first <= second);
            if (first == second || backwards) && a.sound == b.sound && !resets {
                let span = |record: &Record| (record.begun, record.ended);
                broken.push(format!("counts-linear: {key} gave {first} in {:?} and {second} in {:?}", span(a), span(b)));
            }
        }
    }
}

/// `tokens-once`: what was appended is there once, from then on.
fn tokens_come_once(key: &str, records: &[&Record], resets: bool, broken: &mut Vec<String>) {
    for read in records.iter().filter(|record| record.asked == Asked::Get && record.sound.is_some()) {
        let Some(Told::Value(_, value)) = &read.told else { continue };
        let tokens: Vec<&str> = value.split(';').skip(1).collect();
        let once: HashSet<&str> = tokens.iter().copied().collect();
        if once.len() < tokens.len() {
            broken.push(format!("tokens-once: {key} has a token twice at {}: {value}", read.begun));
        }
        for write in records.iter().filter(|record| record.sound == read.sound && record.precedes(read) && !resets) {
            let (Asked::Append { token }, Some(Told::Stored(_))) = (&write.asked, &write.told) else { continue };
            if !once.contains(&token[1..]) {
                broken.push(format!(
                    "tokens-once: {key} lacks {token} at {}, appended from {} to {:?}",
                    read.begun, write.begun, write.ended
                ));
            }
        }
    }
}

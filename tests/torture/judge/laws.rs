//! Laws with names, each over the calls of one key. They say in a sentence what the search can only call impossible.
//!
//! ```text
//!   own-values    a value was written by somebody, for this key
//!   appends       what was appended stands behind one value, whoever reads it
//!   order         what follows on one connection sees nothing older than an acknowledged write before it
//!   counters      no number is told twice, later ones are greater, the last is what was acknowledged and at most what is uncertain
//!   cas-once      of two comparisons with one token at most one is stored
//!   returned      what was seen to be gone does not come back
//!   clusters      a write and the reads of its value are together in time: never A before B before A
//!   lost          what was acknowledged is there until something that removes it
//!   versions      later tokens are not smaller, and a token stands for one value
//!   newest-stays  after a partition, nothing is left that an acknowledged write has overwritten later
//! ```
//!
//! Lives here: the laws. Not here: which of them hold after what (`judge`), histories without a simple contradiction (`search`).
//! The zones of `clusters` follow Gibbons and Korach (SIAM J. Comput. 26, 1997).

use std::collections::{BTreeMap, HashMap};

use super::super::history::{Answer, Ask, Call, Micros, NEVER, last_tag};

/// A law that is broken: what is wrong, and the calls that show it.
pub struct Broken {
    pub law: &'static str,
    pub text: String,
    pub calls: Vec<Call>,
}

/// Versions of two sides of a partition compare as their clocks do: what happened this much later is newer.
const CLOCK_SLACK_US: Micros = 100_000;

fn broken(law: &'static str, text: String, calls: &[&Call]) -> Option<Broken> {
    let mut calls: Vec<Call> = calls.iter().map(|&call| call.clone()).collect();
    calls.sort_by_key(|call| (call.invoked, call.connection, call.number));
    calls.dedup();
    Some(Broken { law, text, calls })
}

/// Whether the key counts.
fn is_counter(calls: &[Call]) -> bool {
    calls.iter().any(|call| call.ask == Ask::Increment)
}

/// Who wrote each tag.
fn writers(calls: &[Call]) -> HashMap<&str, &Call> {
    calls.iter().filter_map(|call| Some((call.writes()?, call))).collect()
}

/// `own-values`.
pub fn own_values(calls: &[Call]) -> Option<Broken> {
    if is_counter(calls) {
        return None;
    }
    let writers = writers(calls);
    for call in calls {
        let Ok(Answer::Value { value, .. }) = &call.answer else { continue };
        for tag in value.split('+') {
            match writers.get(tag) {
                None => return broken("own-values", format!("nobody wrote {tag}"), &[call]),
                Some(writer) if writer.invoked > call.answered => {
                    return broken("own-values", format!("{tag} was read before it was written"), &[call, writer]);
                }
                Some(_) => {}
            }
        }
    }
    None
}

/// `appends`: a tag stands behind the same value whoever reads it, because it was appended once.
pub fn appends(calls: &[Call]) -> Option<Broken> {
    let mut seen: HashMap<&str, (&str, &Call)> = HashMap::new();
    for call in calls {
        let Ok(Answer::Value { value, .. }) = &call.answer else { continue };
        let (first, before) = *seen.entry(last_tag(value)).or_insert((value, call));
        if first != value {
            return broken("appends", "what was appended stands behind two different values".into(), &[before, call]);
        }
    }
    None
}

/// Whether something that may remove the item can have been executed after `from` was and before `to` was.
fn is_removable(calls: &[Call], from: &Call, to: &Call) -> bool {
    let between = |call: &Call| {
        let behind = call.connection == from.connection && call.number < from.number && call.is_known() && !may_expire(call);
        let ahead = call.connection == to.connection && call.number > to.number && call.is_known();
        call.invoked < to.answered && (call.answered > from.invoked || may_expire(call)) && !behind && !ahead
    };
    may_expire(from) || calls.iter().any(|call| call.may_remove() && between(call))
}

fn may_expire(call: &Call) -> bool {
    matches!(call.ask, Ask::Set { ttl_s: 1.., .. } | Ask::Touch { ttl_s: 1.. } | Ask::GetTouch { ttl_s: 1.. })
}

/// `order`: on one connection.
pub fn order(calls: &[Call]) -> Option<Broken> {
    let writers = writers(calls);
    let mut connections: BTreeMap<u32, Vec<&Call>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.is_known()) {
        connections.entry(call.connection).or_default().push(call);
    }
    for on_one in connections.values_mut() {
        on_one.sort_by_key(|call| call.number);
        let ahead = |read: &&&Call| {
            let writer = read.reads().and_then(|tag| writers.get(tag));
            writer.is_some_and(|writer| writer.connection == read.connection && writer.number > read.number)
        };
        if let Some(read) = on_one.iter().find(ahead) {
            let text = "a request saw what a request behind it on its connection wrote".into();
            return broken("order", text, &[read, writers[read.reads().unwrap_or("")]]);
        }
        let told: Vec<(&Call, u64)> = on_one.iter().filter_map(|&call| Some((call, call.token()?))).collect();
        let falls = told.windows(2).find(|pair| pair[1].1 < pair[0].1);
        if let Some(&[(before, greater), (later, token)]) = falls {
            let text = format!("the token {token} was told behind {greater} on the same connection");
            return broken("order", text, &[before, later]);
        }
        for (index, write) in on_one.iter().enumerate().filter(|(_, call)| call.has_changed()) {
            let behind = &on_one[index + 1..];
            let found = behind.iter().find_map(|later| sees_older(calls, &writers, write, later));
            if found.is_some() {
                return found;
            }
            // Another connection that asks when both are acknowledged.
            let elsewhere = calls.iter().filter(|call| call.invoked > write.answered);
            let first_stays = |read: &Call| {
                let first = writers.get(read.reads()?).filter(|first| first.is_known())?;
                let together = first.connection == write.connection && first.answered >= write.invoked;
                let is_first = together && first.number < write.number;
                let text = "of two acknowledged requests of one connection, the first was executed last".to_string();
                (is_first && replaces(write)).then(|| broken("order", text, &[first, write, read]))?
            };
            if let Some(found) = elsewhere.into_iter().find_map(first_stays) {
                return Some(found);
            }
        }
    }
    None
}

/// Whether nothing of an older value is left after this.
fn replaces(call: &Call) -> bool {
    call.has_changed() && !matches!(call.ask, Ask::Touch { .. } | Ask::GetTouch { .. } | Ask::Increment)
}

/// Whether `later`, behind `write` on its connection, sees something older.
fn sees_older(calls: &[Call], writers: &HashMap<&str, &Call>, write: &Call, later: &Call) -> Option<Broken> {
    let number = |call: &Call| match &call.answer {
        Ok(Answer::Number { number, .. }) => Some(*number),
        Ok(Answer::Value { value, .. }) => value.parse().ok(),
        _ => None,
    };
    if write.ask == Ask::Increment
        && let (Some(told), Some(seen)) = (number(write), number(later))
        && seen < told + u64::from(later.ask == Ask::Increment)
    {
        return broken("order", format!("{seen} was told behind {told} on the same connection"), &[write, later]);
    }
    if let Some(writer) = later.reads().and_then(|tag| writers.get(tag))
        && writer.is_known()
        && replaces(write)
        && **writer != *write
    {
        let same = writer.connection == write.connection && writer.number < write.number;
        if same || writer.answered < write.invoked {
            let text = "a request behind an acknowledged write of its connection saw something older".into();
            return broken("order", text, &[writer, write, later]);
        }
    }
    if later.shows_absence() && write.shows_presence() && !is_removable(calls, write, later) {
        return broken("order", "a request behind an acknowledged write of its connection missed it".into(), &[write, later]);
    }
    None
}

/// `counters`: of keys that are set once and then only counted up.
pub fn counters(calls: &[Call]) -> Option<Broken> {
    if !is_counter(calls) || calls.iter().any(|call| call.ask == Ask::Flush) {
        return None;
    }
    let mut told: Vec<(&Call, u64)> = Vec::new();
    for call in calls {
        match &call.answer {
            Ok(Answer::Number { number, .. }) => told.push((call, *number)),
            Ok(Answer::NotFound | Answer::Miss) => {
                let first = calls.iter().find(|first| matches!(first.ask, Ask::Set { .. } | Ask::Add { .. }))?;
                return broken("counters", "the counter is gone".into(), &[first, call]);
            }
            _ => {}
        }
    }
    let mut numbers: HashMap<u64, &Call> = HashMap::new();
    for (call, number) in &told {
        if let Some(before) = numbers.insert(*number, call) {
            return broken("counters", format!("{number} was told twice"), &[before, call]);
        }
    }
    if let Some((before, most, call, number)) = falls(&told) {
        return broken("counters", format!("{number} was told after {most}"), &[before, call]);
    }
    count_at_the_end(calls, told.len() as u64)
}

/// A number that is smaller than one that was told before its call began: the greater, and the smaller.
fn falls<'a>(told: &[(&'a Call, u64)]) -> Option<(&'a Call, u64, &'a Call, u64)> {
    let (mut later, mut ended) = (told.to_vec(), told.to_vec());
    later.sort_by_key(|(call, _)| call.invoked);
    ended.sort_by_key(|(call, _)| call.answered);
    let mut ended = ended.into_iter().peekable();
    let mut greatest: Option<(&Call, u64)> = None;
    for (call, number) in later {
        while let Some((before, told)) = ended.next_if(|(before, _)| before.answered < call.invoked) {
            if greatest.is_none_or(|(_, most)| told > most) {
                greatest = Some((before, told));
            }
        }
        if let Some((before, most)) = greatest.filter(|&(_, most)| number < most) {
            return Some((before, most, call, number));
        }
    }
    None
}

/// The last read is what was acknowledged, and at most what is uncertain more.
fn count_at_the_end(calls: &[Call], acknowledged: u64) -> Option<Broken> {
    let increments = || calls.iter().filter(|call| call.ask == Ask::Increment);
    let last = increments().filter(|call| call.is_known()).map(|call| call.answered).max()?;
    let reads = calls.iter().filter(|call| call.ask == Ask::Get && call.invoked > last);
    let uncertain = increments().filter(|call| !call.is_known()).count() as u64;
    let first = calls.iter().find_map(|call| match &call.ask {
        Ask::Set { value, .. } | Ask::Add { value } => value.parse::<u64>().ok(),
        _ => None,
    })?;
    for read in reads {
        let Ok(Answer::Value { value, .. }) = &read.answer else { continue };
        let count = value.parse::<u64>().ok()?.wrapping_sub(first);
        if count < acknowledged || count > acknowledged + uncertain {
            let text = format!("{acknowledged} increments were acknowledged, {uncertain} are uncertain, {count} are counted");
            return broken("counters", text, &[read]);
        }
    }
    None
}

/// `cas-once`.
pub fn comparisons_win_once(calls: &[Call]) -> Option<Broken> {
    let mut won: HashMap<u64, &Call> = HashMap::new();
    for call in calls {
        if let (Ask::Cas { token, .. }, Ok(Answer::Stored { .. })) = (&call.ask, &call.answer)
            && let Some(before) = won.insert(*token, call)
        {
            return broken("cas-once", format!("two comparisons with the token {token} were stored"), &[before, call]);
        }
    }
    None
}

/// From the first answer of a value's write and reads to the last invocation among them.
struct Zone<'a> {
    first: &'a Call,
    last: &'a Call,
    writer: &'a Call,
}

impl Zone<'_> {
    fn from(&self) -> Micros {
        self.first.answered
    }

    fn to(&self) -> Micros {
        self.last.invoked
    }

    /// Whether the value was there without interruption between two moments.
    fn is_forward(&self) -> bool {
        self.from() < self.to()
    }
}

fn zones(calls: &[Call]) -> Vec<Zone<'_>> {
    let writers = writers(calls);
    let mut zones: BTreeMap<&str, Zone<'_>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.is_known()) {
        let written = call.writes().filter(|_| call.has_changed());
        let Some(tag) = written.or(call.reads()) else { continue };
        let Some(&writer) = writers.get(tag) else { continue };
        let zone = zones.entry(tag).or_insert(Zone { first: call, last: call, writer });
        if call.answered < zone.first.answered {
            zone.first = call;
        }
        if call.invoked > zone.last.invoked {
            zone.last = call;
        }
    }
    zones.into_values().collect()
}

/// `returned`: absence that lies wholly between two sights of a value.
pub fn nothing_returns(calls: &[Call]) -> Option<Broken> {
    if is_counter(calls) {
        return None;
    }
    let absences: Vec<&Call> = calls.iter().filter(|call| call.shows_absence()).collect();
    zones(calls).iter().filter(|zone| zone.is_forward()).find_map(|zone| {
        let gone = absences.iter().find(|gone| zone.from() < gone.invoked && gone.answered < zone.to())?;
        let text = format!("{} was gone and came back", zone.writer.writes().unwrap_or("a value"));
        broken("returned", text, &[zone.writer, zone.first, gone, zone.last])
    })
}

/// `clusters`: two values that were each there, without interruption, at the same time.
pub fn clusters(calls: &[Call]) -> Option<Broken> {
    if is_counter(calls) {
        return None;
    }
    let zones = zones(calls);
    for a in zones.iter().filter(|zone| zone.is_forward()) {
        for b in zones.iter().filter(|b| b.writer != a.writer) {
            let clash = match b.is_forward() {
                true => a.from() < b.to() && b.from() < a.to(),
                false => a.from() < b.to() && b.from() < a.to() && b.to() <= b.from(),
            };
            if clash {
                let name = |zone: &Zone<'_>| zone.writer.writes().unwrap_or("?").to_string();
                let text = format!("{} was there before and after {}", name(a), name(b));
                return broken("clusters", text, &[a.writer, a.first, a.last, b.writer, b.first, b.last]);
            }
        }
    }
    None
}

/// `lost`: absence after presence, with nothing that removes in between.
pub fn nothing_is_lost(calls: &[Call]) -> Option<Broken> {
    let mut present: Option<&Call> = None;
    let mut by_answer: Vec<&Call> = calls.iter().filter(|call| call.is_known() && call.shows_presence()).collect();
    by_answer.sort_by_key(|call| call.answered);
    let mut absences: Vec<&Call> = calls.iter().filter(|call| call.shows_absence() && call.ask != Ask::Flush).collect();
    absences.sort_by_key(|call| call.invoked);
    let mut next = by_answer.iter().peekable();
    for gone in absences.into_iter().filter(|gone| gone.answer != Ok(Answer::Deleted)) {
        while let Some(call) = next.next_if(|call| call.answered < gone.invoked) {
            present = Some(call);
        }
        if let Some(before) = present.filter(|before| !is_removable(calls, before, gone)) {
            return broken("lost", "what was acknowledged is not there, and nothing has removed it".into(), &[before, gone]);
        }
    }
    None
}

/// `versions`.
pub fn versions_rise(calls: &[Call]) -> Option<Broken> {
    let mut values: HashMap<u64, &Call> = HashMap::new();
    let told: Vec<(&Call, u64)> = calls.iter().filter_map(|call| Some((call, call.token()?))).collect();
    let value = |call: &Call| match (&call.ask, &call.answer) {
        (_, Ok(Answer::Value { value, .. })) => Some(value.clone()),
        (Ask::Append { .. }, _) => None,
        _ => call.writes().map(str::to_string),
    };
    for &(call, token) in told.iter().filter(|(call, _)| value(call).is_some()) {
        let before = values.entry(token).or_insert(call);
        if value(before) != value(call) {
            return broken("versions", format!("the token {token} stands for two values"), &[before, call]);
        }
    }
    let (before, most, call, token) = falls(&told)?;
    broken("versions", format!("the token {token} was told after {most}"), &[before, call])
}

/// `newest-stays`: what the first read after a partition shows was not overwritten by an acknowledged write that began after its own had
/// ended.
pub fn the_newest_stays(calls: &[Call], healed: Micros) -> Option<Broken> {
    let writers = writers(calls);
    let known = |call: &&Call| call.is_known() && call.answered < healed && matches!(call.ask, Ask::Set { .. } | Ask::Delete);
    let read = calls.iter().find(|call| call.invoked >= healed && call.ask == Ask::Get && call.is_known())?;
    let text = "what is left after a partition is older than an acknowledged write".to_string();
    if let Some(writer) = read.reads().and_then(|tag| writers.get(tag)).filter(|writer| writer.answered < NEVER) {
        // A touch gives what it finds a newer version.
        let touches = |call: &&Call| matches!(call.ask, Ask::Touch { .. } | Ask::GetTouch { .. }) && call.has_changed();
        let touched = calls.iter().filter(touches).map(|call| call.answered).max().unwrap_or(0);
        let newest = touched.max(writer.answered).saturating_add(CLOCK_SLACK_US);
        let later = calls.iter().filter(known).find(|later| later.invoked > newest)?;
        return broken("newest-stays", text, &[writer, later, read]);
    }
    let last = calls.iter().filter(known).filter(|call| call.ask != Ask::Delete).max_by_key(|call| call.invoked)?;
    // A delete that finds nothing on its side counts on the other.
    let may_remove = |call: &Call| call.may_remove() || call.ask == Ask::Delete;
    let removed = |call: &Call| may_remove(call) && call.answered.saturating_add(CLOCK_SLACK_US) >= last.invoked;
    if read.answer == Ok(Answer::Miss) && !calls.iter().any(removed) {
        return broken("newest-stays", text, &[last, read]);
    }
    None
}

/// The calls without those that saw a change which was not acknowledged yet when something failed: what is only read may be lost
/// with the node that has it. `troubled` tells whether something failed between two times; from `settled` on, what is seen stays.
pub fn without_early_sights(calls: &[Call], settled: Micros, troubled: impl Fn(Micros, Micros) -> bool) -> Vec<Call> {
    let hit: Vec<&Call> = calls.iter().filter(|call| call.has_changed() && troubled(call.invoked, call.answered)).collect();
    let is_early = |call: &Call| {
        let overlaps = |change: &Call| call.invoked <= change.answered && change.invoked <= call.answered;
        call.invoked < settled && hit.iter().any(|change| overlaps(change) && sees(call, change))
    };
    calls.iter().filter(|call| call.has_changed() || !is_early(call)).cloned().collect()
}

/// Whether an answer may be owed to a change.
fn sees(call: &Call, change: &Call) -> bool {
    match (&call.ask, &call.answer) {
        (_, Ok(Answer::Value { value, .. })) if change.ask == Ask::Increment => match change.answer {
            Ok(Answer::Number { number, .. }) => value.parse() == Ok(number),
            _ => true,
        },
        (_, Ok(Answer::Value { .. })) => call.reads() == change.writes(),
        (_, Ok(Answer::Miss | Answer::NotFound)) => change.may_remove(),
        (Ask::Append { .. } | Ask::Replace { .. }, Ok(Answer::NotStored)) => change.may_remove(),
        (_, Ok(Answer::NotStored | Answer::Exists)) => change.writes().is_some(),
        _ => false,
    }
}

//! Whether the calls of one key can have been executed one after the other, each at one moment between its two times.
//!
//! ```text
//!   calls by invocation   |--set 1--|      |---get -> 2---|            candidates: invoked before the first answer that is still due
//!                             |------set 2------|                      done so far + state of the item: visited once
//! ```
//!
//! A call that changes nothing and fits is taken at once: doing so never closes a way. Only changes branch. A call whose outcome is not
//! known may be executed at any moment after its invocation, or never. Calls of one connection keep their order. The time to live
//! lets an item vanish between two moments, because clocks of nodes and clients are read at different times.
//!
//! Lives here: the search, and which calls of an impossible history are needed to see that it is. Not here: laws with names (`laws`).
//! After Wing and Gong (JPDC 17, 1993), with the memory of visited states of Lowe (2017).

use std::collections::{HashMap, HashSet};

use super::super::history::{Answer, Ask, Call, Micros, NEVER};

/// States visited for one history before the search gives up.
const VISITS_MAX: usize = 100_000;
/// The same for each of the many histories that are tried to find a short one.
const VISITS_SHORT_MAX: usize = 3_000;
/// Expiry is in whole seconds of a clock that is read once a turn, and a node may stand still in between.
const EXPIRY_SLACK_US: Micros = 1_300_000;
/// Times that a history is searched to find out what of it is needed.
const SHORTENINGS_MAX: usize = 300;

/// What a search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Possible,
    Impossible,
    /// Too many ways to try them all.
    Unknown,
}

/// What a key has at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Absent,
    Present {
        /// Index of the value.
        value: u32,
        /// Not gone before this time.
        keeps: Micros,
        /// Gone after this time.
        ends: Micros,
    },
}

/// A way to go on.
#[derive(Clone, Copy)]
struct Move {
    /// The call that is executed; `None`: the item's time is over.
    call: Option<usize>,
    state: State,
}

/// A place where ways part.
struct Fork {
    /// Calls that were taken on arrival.
    taken: Vec<usize>,
    moves: Vec<Move>,
    next: usize,
    /// The call of the way that is being tried.
    tried: Option<usize>,
    low: Micros,
}

/// The calls of one key, and how far the search has come.
struct Search<'a> {
    /// By invocation.
    calls: Vec<&'a Call>,
    /// The call of the same connection that must be executed before.
    before: Vec<Option<usize>>,
    /// Calls that need not be executed.
    optional: Vec<usize>,
    /// Tags that somebody has read.
    seen: HashSet<&'a str>,
    values: Vec<String>,
    value_index: HashMap<String, u32>,
    /// What was read with each token.
    tokens: HashMap<u64, u32>,
    done: Vec<bool>,
    /// Known calls that are not done.
    left: usize,
    digest: u128,
    /// Latest invocation of what is done: no later call can be executed before it.
    low: Micros,
    visited: HashSet<(u128, State)>,
}

/// Whether these calls of one key, with the flushes of all keys, can have happened.
pub fn search(calls: &[Call]) -> Verdict {
    search_within(calls, VISITS_MAX)
}

fn search_within(calls: &[Call], visits_max: usize) -> Verdict {
    Search::new(those_that_matter(calls)).run(State::Absent, visits_max)
}

/// The same, whatever was there before the first call.
fn search_from_anything(calls: &[Call]) -> Verdict {
    let calls = those_that_matter(calls);
    let mut starts: HashSet<String> = HashSet::from(["something".to_string()]);
    for call in &calls {
        match &call.answer {
            Ok(Answer::Value { value, .. }) => {
                starts.extend(value.match_indices('+').map(|(end, _)| value[..end].to_string()));
                starts.insert(value.clone());
            }
            Ok(Answer::Number { number, .. }) => _ = starts.insert(number.wrapping_sub(1).to_string()),
            _ => {}
        }
    }
    let before = |value: &String| {
        let mut search = Search::new(calls.clone());
        let value = search.value(value.clone());
        search.run(State::Present { value, keeps: 0, ends: NEVER }, VISITS_SHORT_MAX)
    };
    let absent = Search::new(calls.clone()).run(State::Absent, VISITS_SHORT_MAX);
    let all = std::iter::once(absent).chain(starts.iter().map(before));
    let mut verdict = Verdict::Impossible;
    for one in all {
        match one {
            Verdict::Possible => return Verdict::Possible,
            Verdict::Unknown => verdict = Verdict::Unknown,
            Verdict::Impossible => {}
        }
    }
    verdict
}

fn those_that_matter(calls: &[Call]) -> Vec<&Call> {
    let seen = tags_read(calls.iter());
    let mut calls: Vec<&Call> = calls.iter().filter(|call| call.is_known() || may_matter(call, calls, &seen)).collect();
    calls.sort_by_key(|call| (call.invoked, call.connection, call.number));
    calls
}

/// Whether it makes a difference that a call with an unknown outcome was executed. What needs an item, leaves one, and was never seen
/// makes none.
fn may_matter(call: &Call, calls: &[Call], seen: &HashSet<&str>) -> bool {
    let timed = || calls.iter().any(|call| matches!(call.ask, Ask::Set { ttl_s: 1.., .. } | Ask::Touch { ttl_s: 1.. }));
    match &call.ask {
        Ask::Get => false,
        Ask::Append { .. } | Ask::Replace { .. } | Ask::Cas { .. } => {
            call.writes().is_some_and(|tag| seen.contains(tag)) || timed()
        }
        Ask::Touch { .. } | Ask::GetTouch { .. } => timed(),
        _ => true,
    }
}

/// The tags in all that was read.
fn tags_read<'a>(calls: impl Iterator<Item = &'a Call>) -> HashSet<&'a str> {
    let value = |call: &'a Call| match &call.answer {
        Ok(Answer::Value { value, .. }) => Some(value.split('+')),
        _ => None,
    };
    calls.filter_map(value).flatten().collect()
}

impl<'a> Search<'a> {
    fn new(calls: Vec<&'a Call>) -> Self {
        let mut last: HashMap<u32, usize> = HashMap::new();
        let mut before = vec![None; calls.len()];
        for (index, call) in calls.iter().enumerate().filter(|(_, call)| call.is_known()) {
            before[index] = last.insert(call.connection, index);
        }
        let mut search = Self {
            before,
            optional: (0..calls.len()).filter(|&index| !calls[index].is_known()).collect(),
            seen: tags_read(calls.iter().copied()),
            values: Vec::new(),
            value_index: HashMap::new(),
            tokens: HashMap::new(),
            done: vec![false; calls.len()],
            left: calls.iter().filter(|call| call.is_known()).count(),
            digest: 0,
            low: 0,
            visited: HashSet::new(),
            calls,
        };
        for index in 0..search.calls.len() {
            if let Ok(Answer::Value { value, token: Some(token) }) = &search.calls[index].answer {
                let value = search.value(value.clone());
                search.tokens.insert(*token, value);
            }
        }
        search
    }

    fn value(&mut self, text: String) -> u32 {
        let next = self.values.len() as u32;
        *self.value_index.entry(text).or_insert_with_key(|text| {
            self.values.push(text.clone());
            next
        })
    }

    fn run(mut self, mut state: State, visits_max: usize) -> Verdict {
        let mut forks: Vec<Fork> = Vec::new();
        loop {
            let low = self.low;
            let taken = self.take_fitting(state);
            if self.left == 0 {
                return Verdict::Possible;
            }
            if self.visited.len() >= visits_max {
                return Verdict::Unknown;
            }
            let moves = if self.visited.insert((self.digest, state)) { self.moves(state) } else { Vec::new() };
            forks.push(Fork { taken, moves, next: 0, tried: None, low });
            state = loop {
                let Some(fork) = forks.last_mut() else { return Verdict::Impossible };
                if let Some(&Move { call, state }) = fork.moves.get(fork.next) {
                    (fork.next, fork.tried) = (fork.next + 1, call);
                    if let Some(call) = call {
                        self.toggle(call);
                        self.low = self.low.max(self.calls[call].invoked);
                    }
                    break state;
                }
                // No way from here: back to the fork before.
                let Some(fork) = forks.pop() else { return Verdict::Impossible };
                fork.taken.iter().for_each(|&call| self.toggle(call));
                if let Some(call) = forks.last_mut().and_then(|fork| fork.tried.take()) {
                    self.toggle(call);
                }
                // What was taken on arrival at that fork counts again: its calls are done.
                self.low = forks
                    .last()
                    .map_or(0, |fork| fork.taken.iter().map(|&call| self.calls[call].invoked).max().unwrap_or(0).max(fork.low));
            };
        }
    }

    /// Marks a call as done, or as not done.
    fn toggle(&mut self, call: usize) {
        self.done[call] = !self.done[call];
        self.digest ^= mark(call);
        if self.calls[call].is_known() {
            match self.done[call] {
                true => self.left -= 1,
                false => self.left += 1,
            }
        }
    }

    /// Calls that may be next, by invocation, and the first answer that is due.
    fn candidates(&self) -> (Vec<usize>, Micros) {
        let mut due = NEVER;
        let mut found = Vec::new();
        let first = self.done.iter().enumerate().position(|(index, done)| !done && self.calls[index].is_known()).unwrap_or(0);
        for index in first..self.calls.len() {
            let call = self.calls[index];
            if call.invoked > due {
                break;
            }
            if call.is_known() && !self.done[index] {
                due = due.min(call.answered);
                found.push(index);
            }
        }
        found.retain(|&index| self.calls[index].invoked <= due && self.before[index].is_none_or(|before| self.done[before]));
        (found, due)
    }

    /// Executes everything that changes nothing and fits, unless something that must come earlier in time may still be wanted.
    fn take_fitting(&mut self, state: State) -> Vec<usize> {
        let mut taken = Vec::new();
        loop {
            let (candidates, _) = self.candidates();
            let before = taken.len();
            for index in candidates {
                let call = self.calls[index];
                let overtakes = self.optional.iter().any(|&other| {
                    let latest = self.calls[other].answered;
                    !self.done[other] && latest < call.invoked && latest >= self.low
                });
                if !call.has_changed() && !overtakes && self.apply(index, state) == Some(state) {
                    self.toggle(index);
                    self.low = self.low.max(call.invoked);
                    taken.push(index);
                }
            }
            if taken.len() == before {
                return taken;
            }
        }
    }

    fn moves(&mut self, state: State) -> Vec<Move> {
        let (mut candidates, due) = self.candidates();
        candidates.sort_by_key(|&index| self.calls[index].answered);
        let mut moves = Vec::new();
        for index in candidates {
            if let Some(state) = self.apply(index, state) {
                moves.push(Move { call: Some(index), state });
            }
        }
        if let State::Present { keeps, .. } = state
            && keeps <= due
        {
            moves.push(Move { call: None, state: State::Absent });
        }
        let mut counted = false;
        for optional in 0..self.optional.len() {
            let index = self.optional[optional];
            let call = self.calls[index];
            if self.done[index] || call.invoked > due || call.answered < self.low {
                continue;
            }
            // One uncertain increment is like the other: the first stands for all.
            if call.ask == Ask::Increment && std::mem::replace(&mut counted, true) {
                continue;
            }
            if let Some(next) = self.apply(index, state).filter(|next| *next != state)
                && self.is_of_use(index, state, next)
            {
                moves.push(Move { call: Some(index), state: next });
            }
        }
        moves
    }

    /// Whether executing an uncertain call now may be needed. It can wait until just before a call that does not fit without it, unless
    /// something is appended to the value that it leaves.
    fn is_of_use(&mut self, index: usize, state: State, next: State) -> bool {
        let call = self.calls[index];
        if call.ask == Ask::Increment {
            return true;
        }
        let is_seen = |search: &Self, call: usize| search.calls[call].writes().is_some_and(|tag| search.seen.contains(tag));
        let (mut others, _) = self.candidates();
        others.extend(self.optional.iter().filter(|&&other| !self.done[other] && is_seen(self, other)));
        let appended = others.iter().any(|&other| matches!(self.calls[other].ask, Ask::Append { .. }) && other != index);
        // What it leaves may be gone by then.
        let is_timed = matches!(next, State::Present { keeps, .. } if keeps < NEVER);
        (appended && is_seen(self, index))
            || others.iter().any(|&other| {
                let fits = self.apply(other, next).is_some() || (is_timed && self.apply(other, State::Absent).is_some());
                fits && self.apply(other, state).is_none()
            })
    }

    /// What the key has after a call; `None` if the call cannot have been answered as it was.
    fn apply(&mut self, index: usize, state: State) -> Option<State> {
        let call = self.calls[index];
        let present = match state {
            State::Present { ends, .. } if call.invoked > ends => None,
            State::Present { value, keeps, ends } => Some((value, keeps, ends)),
            State::Absent => None,
        };
        let (value, keeps, ends) = present.unwrap_or((u32::MAX, NEVER, NEVER));
        let (here, absent) = (present.is_some(), state == State::Absent);
        let kept = |value| Some(State::Present { value, keeps, ends });
        let same = |fits: bool| fits.then_some(state);
        match (&call.ask, &call.answer) {
            (Ask::Get, Ok(Answer::Value { value: read, .. })) => same(here && self.values[value as usize] == *read),
            (Ask::GetTouch { ttl_s }, Ok(Answer::Value { value: read, .. })) => {
                (here && self.values[value as usize] == *read).then(|| timed(value, *ttl_s, call))
            }
            (Ask::GetTouch { ttl_s } | Ask::Touch { ttl_s }, Ok(Answer::Touched) | Err(_)) => {
                here.then(|| timed(value, *ttl_s, call))
            }
            (_, Ok(Answer::Miss | Answer::NotFound)) => same(absent),
            (Ask::Set { value, ttl_s }, _) => {
                let value = self.value(value.clone());
                Some(timed(value, *ttl_s, call))
            }
            (Ask::Add { .. }, Ok(Answer::NotStored)) => same(here),
            (Ask::Add { value }, _) => {
                let value = absent.then(|| self.value(value.clone()))?;
                Some(timed(value, 0, call))
            }
            (Ask::Replace { .. } | Ask::Append { .. }, Ok(Answer::NotStored)) => same(absent),
            (Ask::Replace { value }, _) => {
                let value = here.then(|| self.value(value.clone()))?;
                Some(timed(value, 0, call))
            }
            (Ask::Append { value: added }, _) => {
                let text = here.then(|| format!("{}{added}", self.values[value as usize]))?;
                kept(self.value(text))
            }
            (Ask::Cas { .. }, Ok(Answer::Exists)) => same(here),
            (Ask::Cas { value: written, token }, _) => {
                let fits = here && self.tokens.get(token).is_none_or(|&read| read == value);
                let value = fits.then(|| self.value(written.clone()))?;
                Some(timed(value, 0, call))
            }
            (Ask::Delete, _) => here.then_some(State::Absent),
            (Ask::Increment, answer) => {
                let number = here.then(|| self.values[value as usize].parse::<u64>().ok())?? + 1;
                let told = matches!(answer, Ok(Answer::Number { number: told, .. }) if *told != number);
                if told { None } else { kept(self.value(number.to_string())) }
            }
            (Ask::Flush, _) => Some(State::Absent),
            _ => None,
        }
    }
}

/// The item that a call leaves, with the time to live that it gives.
fn timed(value: u32, ttl_s: u32, call: &Call) -> State {
    if ttl_s == 0 {
        return State::Present { value, keeps: NEVER, ends: NEVER };
    }
    let life = Micros::from(ttl_s) * 1_000_000;
    let keeps = (call.invoked + life).saturating_sub(EXPIRY_SLACK_US);
    let ends = call.answered.saturating_add(life + EXPIRY_SLACK_US);
    State::Present { value, keeps, ends }
}

/// Numbers that look random and differ for every index (splitmix64).
fn mark(index: usize) -> u128 {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let index = 2 * index as u64 + 1;
    (u128::from(mix(index)) << 64) | u128::from(mix(index + 1))
}

/// The calls of an impossible history without which it would be possible. What is left out could have happened at any time, or never.
pub fn shorten(calls: &[Call]) -> Vec<Call> {
    let mut ends: Vec<Micros> = calls.iter().map(|call| call.answered).filter(|&end| end < NEVER).collect();
    ends.sort_unstable();
    let first_impossible =
        least(ends.len(), |count| search_within(&until(calls, ends[count - 1]), VISITS_MAX) == Verdict::Impossible);
    let calls = until(calls, ends[first_impossible.max(1) - 1]);
    let from = |left_out: usize| since(&calls, ends[left_out - 1]);
    let first_possible =
        least(first_impossible.max(1), |left_out| search_from_anything(&from(left_out)) != Verdict::Impossible);
    let calls = match first_possible {
        0 | 1 => calls,
        possible => from(possible - 1),
    };
    let impossible = |calls: &[Call]| match first_possible {
        0 | 1 => search_within(calls, VISITS_SHORT_MAX) == Verdict::Impossible,
        _ => search_from_anything(calls) == Verdict::Impossible,
    };
    let mut free = vec![false; calls.len()];
    let mut tries = 0;
    let mut step = calls.len().div_ceil(2);
    while step > 0 && tries < SHORTENINGS_MAX {
        for start in (0..calls.len()).step_by(step) {
            let range = start..calls.len().min(start + step);
            if range.clone().all(|index| free[index]) {
                continue;
            }
            let before = free.clone();
            free[range].fill(true);
            tries += 1;
            if !impossible(&freed(&calls, &free)) {
                free = before;
            }
        }
        step /= 2;
    }
    shown(&calls, &free)
}

/// The least number from 1 to `most` for which something holds, if what holds for one holds for all that are greater; `most` if none.
fn least(most: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if holds(middle) { high = middle } else { low = middle }
    }
    high
}

/// What was not over at a time. What had begun by then may have happened before it.
fn since(calls: &[Call], end: Micros) -> Vec<Call> {
    let open = |call: &&Call| call.answered > end && (call.invoked > end || call.may_change());
    let known = |call: &Call| match call.invoked > end {
        true => call.clone(),
        false => Call { invoked: 0, answered: NEVER, answer: Err("begun before".into()), ..call.clone() },
    };
    calls.iter().filter(open).map(known).collect()
}

/// What was known at a time.
fn until(calls: &[Call], end: Micros) -> Vec<Call> {
    let invoked = calls.iter().filter(|call| call.invoked <= end);
    let known = |call: &Call| match call.answered <= end {
        true => call.clone(),
        false => Call { answered: NEVER, answer: Err("not yet".into()), ..call.clone() },
    };
    invoked.map(known).filter(|call| call.is_known() || call.may_change()).collect()
}

/// The calls, some of them without what is known of them.
fn freed(calls: &[Call], free: &[bool]) -> Vec<Call> {
    let forget = |(call, &free): (&Call, &bool)| match free {
        true => Call { invoked: 0, answered: NEVER, answer: Err("free".into()), ..call.clone() },
        false => call.clone(),
    };
    calls.iter().zip(free).map(forget).collect()
}

/// The calls that are not free, and those that wrote what these read.
fn shown(calls: &[Call], free: &[bool]) -> Vec<Call> {
    let read = tags_read(calls.iter().zip(free).filter(|(_, free)| !**free).map(|(call, _)| call));
    let named = |call: &Call| call.writes().is_some_and(|tag| read.contains(tag));
    let mut shown: Vec<Call> =
        calls.iter().zip(free).filter(|(call, free)| !**free || named(call)).map(|(call, _)| call.clone()).collect();
    shown.sort_by_key(|call| (call.invoked, call.connection, call.number));
    shown
}

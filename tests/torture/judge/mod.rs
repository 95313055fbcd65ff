//! What must follow from what clients were told.
//!
//! ```text
//!   calls of an episode --by key--> laws with names, the first that is broken --none--> search
//! ```
//!
//! Lives here: which laws hold when. Not here: the laws (`laws`), the search (`search`), made-up histories for both (`controls`).

mod controls;
mod laws;
mod search;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::history::{Answer, Ask, Call, Micros, ms, us};
use laws::Broken;
use search::Verdict;

/// How long after a fault the nodes may still be finding out about it.
const AFTERMATH_US: Micros = 2_000_000;

/// What an episode leaves to be judged.
#[derive(Default)]
pub struct Story {
    pub calls: Vec<Call>,
    /// Which node each connection goes to.
    pub nodes: BTreeMap<u32, usize>,
    /// What was stopped, killed, cut or slow, and between which times.
    pub faults: Vec<(String, Micros, Micros)>,
    /// When everything had gone where it belongs for the last time; what was read since is what is left.
    pub settled: Micros,
    /// Both sides of a partition had clients, and all nodes agreed again at this time. Before it, only what the ring promises for
    /// partitions is judged; the first read of each key since then is where it begins anew.
    pub parted: Option<Micros>,
}

/// A story as text: what is known beside the calls in lines that begin with `#`, then the calls.
impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, begun, ended) in &self.faults {
            writeln!(f, "# fault {}..{} {name}", ms(*begun), ms(*ended))?;
        }
        writeln!(f, "# settled {}", ms(self.settled))?;
        self.nodes.iter().try_for_each(|(connection, node)| writeln!(f, "# node c{connection} n{node}"))?;
        self.parted.iter().try_for_each(|parted| writeln!(f, "# parted {}", ms(*parted)))?;
        self.calls.iter().try_for_each(|call| writeln!(f, "{call}"))
    }
}

impl FromStr for Story {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut story = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let Some(rest) = line.strip_prefix('#') else {
                story.calls.push(line.parse()?);
                continue;
            };
            let (name, value) = rest.trim().split_once(' ').ok_or(line)?;
            match name {
                "settled" => story.settled = us(value).ok_or(line)?,
                "parted" => story.parted = Some(us(value).ok_or(line)?),
                "node" => {
                    let (connection, node) = value.split_once(" n").ok_or(line)?;
                    let connection = connection.strip_prefix('c').and_then(|number| number.parse().ok()).ok_or(line)?;
                    story.nodes.insert(connection, node.parse().map_err(|_| line)?);
                }
                "fault" => {
                    let (span, what) = value.split_once(' ').ok_or(line)?;
                    let (begun, ended) = span.split_once("..").ok_or(line)?;
                    story.faults.push((what.into(), us(begun).ok_or(line)?, us(ended).ok_or(line)?));
                }
                _ => return Err(line.into()),
            }
        }
        Ok(story)
    }
}

/// What is wrong with one key, or with the ring.
#[derive(Debug)]
pub struct Violation {
    pub law: &'static str,
    pub key: String,
    pub text: String,
    /// The calls that show it.
    pub calls: Vec<Call>,
}

/// What was found, and how many histories were too tangled to be searched to the end.
#[derive(Debug, Default)]
pub struct Judgement {
    pub violations: Vec<Violation>,
    pub keys: usize,
    pub unknown: usize,
}

/// Judges every key of an episode.
pub fn judge(story: &Story) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, calls) in by_key(&story.calls) {
        judgement.keys += 1;
        let law = laws::own_values(&calls).or_else(|| match story.parted {
            Some(healed) => laws::the_newest_stays(&calls, healed)
                .or_else(|| judge_whole(&since(&calls, healed), story, &mut judgement.unknown)),
            None => judge_whole(&calls, story, &mut judgement.unknown),
        });
        if let Some(Broken { law, text, calls }) = law {
            judgement.violations.push(Violation { law, key, text, calls });
        }
    }
    judgement
}

/// The calls of each key, with the flushes of all keys.
fn by_key(calls: &[Call]) -> BTreeMap<String, Vec<Call>> {
    let mut keys: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.ask != Ask::Flush) {
        keys.entry(call.key.clone()).or_default().push(call.clone());
    }
    let flushes: Vec<&Call> = calls.iter().filter(|call| call.ask == Ask::Flush).collect();
    for history in keys.values_mut() {
        for flush in &flushes {
            // Two fences: what is written between them may be gone as well as what was there before.
            let again = Call { answer: Err("again".into()), ..(*flush).clone() };
            history.extend([(*flush).clone(), again]);
        }
        history.sort_by_key(|call| (call.invoked, call.connection, call.number));
    }
    keys
}

/// What was asked since a time at which nothing was under way, with the first thing that was read as if it were written then.
fn since(calls: &[Call], begin: Micros) -> Vec<Call> {
    let mut calls: Vec<Call> = calls.iter().filter(|call| call.invoked >= begin).cloned().collect();
    let first = calls.iter_mut().find(|call| call.ask == Ask::Get && call.is_known());
    if let Some(Call { ask, answer, .. }) = first
        && let Ok(Answer::Value { value, .. }) = answer
    {
        (*ask, *answer) = (Ask::Set { value: value.clone(), ttl_s: 0 }, Ok(Answer::Stored { token: None }));
    }
    calls
}

fn judge_whole(calls: &[Call], story: &Story, unknown: &mut usize) -> Option<Broken> {
    let troubled = |from: Micros, to: Micros| {
        story.faults.iter().any(|&(_, begun, ended)| from <= ended.saturating_add(AFTERMATH_US) && to >= begun)
    };
    let firm = laws::without_early_sights(calls, story.settled, troubled);
    let named = laws::order(&firm)
        .or_else(|| laws::counters(&firm))
        .or_else(|| laws::comparisons_win_once(&firm))
        .or_else(|| laws::appends(&firm))
        .or_else(|| laws::nothing_returns(&firm))
        .or_else(|| laws::clusters(&firm))
        .or_else(|| laws::nothing_is_lost(&firm))
        .or_else(|| laws::versions_rise(&firm));
    if named.is_some() {
        return named;
    }
    match search::search(&firm) {
        Verdict::Possible => None,
        Verdict::Unknown => {
            *unknown += 1;
            None
        }
        Verdict::Impossible => {
            let text = "no order of these calls explains their answers".into();
            Some(Broken { law: "linear", text, calls: search::shorten(&firm) })
        }
    }
}

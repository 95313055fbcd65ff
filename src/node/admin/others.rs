//! What this node knows of the other nodes of its ring, and what they tell of themselves.
//!
//! ```text
//!   boards of the cores --> peers, handoff                                      what this node knows
//!   question to each node that is there, over a connection of its own --> nodes      what each node knows: kept for a second
//!        answered there by a thread of the control plane, from its boards: no core works for it
//! ```
//!
//! Asked only while somebody looks; whoever looks meanwhile is told what came last. A node that is away is not asked.
//!
//! Lives here: who is asked, what is kept. Not here: how a question travels (`exchange`), the answering side (`telling`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::facts::Facts;
use super::{App, overview};
use crate::cluster::handoff::hints::Account;
use crate::cluster::view::{PeerId, View};
use crate::limits;
use crate::node::exchange::{Answer, Caller};
use crate::node::ring;
use crate::peer::frame::MemberVerb;
use crate::runtime::board::{PeerFigures, RingFigures, Snapshot};

/// How long what other nodes have told is good enough.
const KEPT: Duration = Duration::from_secs(1);
/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 8;

/// `/api/v1/peers`.
#[derive(Debug, Default, Serialize)]
pub struct PeersFacts {
    nodes: Vec<overview::PeerNow>,
    commands_forwarded: u64,
    commands_served: u64,
    copies_sent: u64,
    copies_taken: u64,
    keys_consulted: u64,
    copies_repaired: u64,
    conflicts: u64,
    commands_failed: u64,
    requests_sent: u64,
    links_lost: u64,
    operations: u64,
    views: u64,
}

/// `/api/v1/handoff`.
#[derive(Debug, Default, Serialize)]
pub struct HandoffFacts {
    targets: Vec<TargetNow>,
    hint_bytes: u64,
    items_streamed: u64,
    listed_by_others: u64,
    synced: bool,
}

/// What is kept for one node.
#[derive(Debug, Serialize)]
struct TargetNow {
    id: String,
    created: u64,
    replayed: u64,
    superseded: u64,
    expired: u64,
    degraded: u64,
    rerouted: u64,
    pending: u64,
    oldest_s: f64,
    dirty_partitions: u64,
}

/// `/api/v1/peers`; of a lone node, nothing.
pub fn peers(facts: &Facts) -> PeersFacts {
    let Some(view) = facts.view() else { return PeersFacts::default() };
    let snapshots = facts.snapshots();
    let sum = |part: fn(&RingFigures) -> u64| snapshots.iter().map(|core| part(&core.ring)).sum::<u64>();
    PeersFacts {
        nodes: view.others().map(|peer| overview::peer_now(facts, &view, &snapshots, peer)).collect(),
        commands_forwarded: sum(|ring| ring.figures.forwarded),
        commands_served: sum(|ring| ring.figures.served),
        copies_sent: sum(|ring| ring.figures.copies_sent),
        copies_taken: sum(|ring| ring.figures.copies_taken),
        keys_consulted: sum(|ring| ring.figures.consulted),
        copies_repaired: sum(|ring| ring.figures.repaired),
        conflicts: sum(|ring| ring.figures.conflicts),
        commands_failed: sum(|ring| ring.figures.failed),
        requests_sent: sum(|ring| ring.requests_sent),
        links_lost: sum(|ring| ring.links_lost),
        operations: sum(|ring| ring.operations),
        views: sum(|ring| ring.figures.views),
    }
}

/// `/api/v1/handoff`; of a lone node, nothing.
pub fn handoff(facts: &Facts) -> HandoffFacts {
    let Some(view) = facts.view() else { return HandoffFacts { synced: true, ..HandoffFacts::default() } };
    let snapshots = facts.snapshots();
    let sum = |part: fn(&RingFigures) -> u64| snapshots.iter().map(|core| part(&core.ring)).sum::<u64>();
    HandoffFacts {
        targets: view.others().map(|peer| target(&view, &snapshots, peer)).collect(),
        hint_bytes: sum(|ring| ring.hint_bytes),
        items_streamed: sum(|ring| ring.figures.streamed),
        listed_by_others: sum(|ring| ring.missing),
        synced: snapshots.iter().all(|core| core.ring.synced == 1),
    }
}

fn target(view: &View, snapshots: &[Snapshot], peer: PeerId) -> TargetNow {
    let figures: Vec<&PeerFigures> = snapshots.iter().filter_map(|core| core.peers.get(peer.index())).collect();
    let mut account = Account::default();
    figures.iter().for_each(|core| account.add(&core.hints));
    let most = |part: fn(&PeerFigures) -> u64| figures.iter().map(|core| part(core)).max().unwrap_or(0);
    let Account { created, replayed, superseded, expired, degraded, rerouted, pending } = account;
    let id = view.id_of(peer).as_str().into();
    let (oldest_s, dirty_partitions) = (most(|peer| peer.oldest_ms) as f64 / 1000.0, most(|peer| peer.dirty));
    TargetNow { id, created, replayed, superseded, expired, degraded, rerouted, pending, oldest_s, dirty_partitions }
}

/// What the nodes of the ring have told.
pub struct Others {
    caller: Option<Caller>,
    /// What came last, and when.
    last: Mutex<(Option<Instant>, Arc<Value>)>,
    /// Held by whoever asks.
    asking: tokio::sync::Mutex<()>,
}

impl Others {
    /// Nothing so far. Without a caller there are no others.
    pub fn new(caller: Option<Caller>) -> Self {
        Self { caller, last: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn last(&self) -> (Option<Instant>, Arc<Value>) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `/api/v1/nodes`: every node of the ring as it tells of itself, at most a second old, or what came last while they are asked.
pub async fn nodes(app: &Arc<App>) -> Arc<Value> {
    let (at, last) = app.others.last();
    if at.is_some_and(|at| at.elapsed() < KEPT) {
        return last;
    }
    let turn = match at {
        None => Some(app.others.asking.lock().await),
        Some(_) => app.others.asking.try_lock().ok(),
    };
    let Some(_turn) = turn else { return last };
    let asking = app.clone();
    let told = super::api::asked(move || Arc::new(all_nodes(&asking))).await.unwrap_or_default();
    *app.others.last.lock().unwrap_or_else(PoisonError::into_inner) = (Some(Instant::now()), told.clone());
    told
}

/// Asks each node that is there; blocks for as long as the slowest of them, `exchange`'s bound.
fn all_nodes(app: &App) -> Value {
    let facts = &app.facts;
    let own = json!({ "id": facts.id(), "trouble": null, "report": overview::report(facts) });
    let Some(view) = facts.view() else { return json!({ "nodes": [own] }) };
    let snapshots = facts.snapshots();
    let others: Vec<(String, String, bool)> = view
        .others()
        .take(limits::BOARD_PEERS_MAX)
        .map(|peer| {
            let address = view.node(peer).map_or(String::new(), |node| node.entry.address.clone());
            (view.id_of(peer).as_str().into(), address, overview::peer_now(facts, &view, &snapshots, peer).is_away())
        })
        .collect();
    let ask = |(id, address, is_away): &(String, String, bool)| match is_away {
        true => json!({ "id": id, "trouble": "it is away", "report": null }),
        false => match question(app, address, MemberVerb::Facts, b"") {
            Ok(report) => json!({ "id": id, "trouble": null, "report": report }),
            Err(trouble) => json!({ "id": id, "trouble": trouble, "report": null }),
        },
    };
    let mut nodes = vec![own];
    nodes.extend(at_once(&others, ask));
    json!({ "nodes": nodes })
}

/// The answers to a question to each of these, several at once, in their order.
fn at_once<T: Sync>(list: &[T], ask: impl Fn(&T) -> Value + Sync) -> Vec<Value> {
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(vec![Value::Null; list.len()]));
    let work = || {
        while let Some((index, each)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, list.get(index)?)))
        {
            let answer = ask(each);
            answers.lock().unwrap_or_else(PoisonError::into_inner)[index] = answer;
        }
    };
    std::thread::scope(|scope| {
        // Where there is no thread, this one does it all.
        let helpers = list.len().min(ASKED_AT_ONCE).saturating_sub(1);
        for _ in 0..helpers {
            let _ = std::thread::Builder::new().name("pbcache-ask".into()).spawn_scoped(scope, work);
        }
        work();
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Asks one node something that it answers with JSON.
///
/// # Errors
/// A sentence.
fn question(app: &App, address: &str, verb: MemberVerb, bytes: &[u8]) -> Result<Value, String> {
    let Some(caller) = &app.others.caller else { return Err("this node has no way to others".into()) };
    match caller.ask(address, verb, bytes)? {
        Answer::Text(text) if text.len() > limits::REPORT_BYTES_MAX => Err("it tells too much".into()),
        Answer::Text(text) => serde_json::from_str(&text).map_err(|_| "what it tells cannot be read".into()),
        Answer::Refused(why) => Err(why),
        Answer::Table(_) => Err("it answers something else".into()),
    }
}

/// What each owner of a key has of it. Blocks as `nodes`.
pub fn copies(app: &App, key: &[u8]) -> Vec<Value> {
    let (facts, cores) = (&app.facts, &app.ways.cores);
    let own = |id: &str, serves: bool| match super::items::copy_here(&facts.options, cores, key) {
        Some(copy) => json!({ "id": id, "state": "here", "serves": serves, "trouble": null, "copy": copy }),
        None => json!({ "id": id, "state": "here", "serves": serves, "trouble": "a core does not answer", "copy": null }),
    };
    let Some(view) = facts.view() else { return vec![own(&facts.id(), true)] };
    let place = ring::whereabouts(&view, cores, &facts.options, key);
    let served_by = place.served_by.unwrap_or_default();
    at_once(&place.owners, |(id, state)| {
        let serves = *id == served_by;
        let address = view.peer_with_id(id).and_then(|peer| view.node(peer)).map(|node| node.entry.address.clone());
        let told = match (*state, address) {
            ("here", _) => return own(id, serves),
            ("away", _) | (_, None) => Err("it is away".into()),
            (_, Some(address)) => question(app, &address, MemberVerb::Copy, key),
        };
        let (copy, trouble) = told.map_or_else(|trouble| (Value::Null, Some(trouble)), |copy| (copy, None));
        json!({ "id": id, "state": state, "serves": serves, "trouble": trouble, "copy": copy })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let list: Vec<u64> = (0..50).collect();
        let answers = at_once(&list, |number| json!(number * 2));
        assert_eq!(answers, list.iter().map(|number| json!(number * 2)).collect::<Vec<_>>());
        assert!(at_once(&Vec::<u64>::new(), |_| Value::Null).is_empty());
    }
}

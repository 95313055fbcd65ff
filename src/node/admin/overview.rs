//! What is told of the node as JSON, put together from the boards: no core is woken.
//!
//! Lives here: the shapes and their arithmetic. Not here: routes (`api`), what needs a core's answer (`api`).
//! Every field is described in `openapi.json`, which a test holds against the answers.

use serde::Serialize;

use super::facts::Facts;
use super::metrics::resident_bytes;
use crate::cluster::view::{PeerId, View};
use crate::latency::{self, Histogram};
use crate::metrics::ROWS;
use crate::node::host;
use crate::node::stats::Lines;
use crate::node::words::{duration, grouped};
use crate::placement::OwnersCache;
use crate::runtime::board::{PeerFigures, Snapshot};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Somebody must look.
    Bad,
    /// It passes, or wants to be known.
    Warn,
    /// All is well.
    Ok,
}

/// A sentence about the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How bad it is.
    pub level: Level,
    /// What it is.
    pub text: String,
}

/// `/api/v1/node`.
#[derive(Debug, Serialize)]
pub struct NodeFacts {
    id: String,
    version: &'static str,
    memcached_version: &'static str,
    pid: u32,
    started_unix_s: u64,
    uptime_s: u64,
    cores: u16,
    io: String,
    listening: Vec<String>,
    ready: bool,
    reasons: Vec<String>,
    verdicts: Vec<Verdict>,
    memory: Memory,
    tuning: Vec<Knob>,
    actions_allowed: bool,
    keys_shown: bool,
}

#[derive(Debug, Serialize)]
struct Memory {
    limit_bytes: u64,
    resident_bytes: u64,
    item_bytes: u64,
    index_bytes: u64,
    segment_bytes: u64,
    held_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Knob {
    name: &'static str,
    state: &'static str,
    found: String,
    wanted: String,
    why: &'static str,
}

/// `/api/v1/ring`.
#[derive(Debug, Serialize)]
pub struct RingFacts {
    view: String,
    cluster: String,
    buckets: u32,
    redundancy: u8,
    me: String,
    nodes: Vec<Member>,
    second_copies: Vec<Vec<f64>>,
}

/// A node of the ring, as this one knows it.
#[derive(Debug, Serialize)]
pub struct Member {
    id: String,
    address: String,
    weight: u32,
    zone: String,
    share: f64,
    #[serde(flatten)]
    now: MemberNow,
}

/// What changes about a node.
#[derive(Debug, Default, Serialize)]
pub struct MemberNow {
    state: &'static str,
    away_s: Option<f64>,
    links_up: u64,
    links_away: u64,
    requests_waiting: u64,
    cores: Option<u64>,
    same_view: Option<bool>,
    hints_pending: u64,
    hints_created: u64,
    hints_replayed: u64,
    hints_degraded: u64,
    oldest_hint_s: f64,
    dirty_partitions: u64,
}

/// `/api/v1/stats`.
#[derive(Debug, Serialize)]
pub struct StatsFacts {
    totals: serde_json::Map<String, serde_json::Value>,
    cores: Vec<CoreNow>,
    latencies: Vec<LatencyNow>,
}

/// A core.
#[derive(Debug, Serialize)]
pub struct CoreNow {
    core: usize,
    silent_ms: u64,
    connections: u32,
    items: u64,
    item_bytes: u64,
    requests: u64,
    crossed: u64,
    evictions: u64,
    turns: u64,
    busy_s: f64,
}

/// A door and an operation.
#[derive(Debug, Serialize)]
pub struct LatencyNow {
    door: &'static str,
    operation: &'static str,
    count: u64,
    mean_s: f64,
    p50_s: f64,
    p99_s: f64,
    p999_s: f64,
}

/// What the first event tells.
#[derive(Debug, Serialize)]
pub struct Hello {
    /// As `/api/v1/node`.
    pub node: NodeFacts,
    /// As `/api/v1/ring`.
    pub ring: RingFacts,
}

/// What an event tells, once a second.
#[derive(Debug, Serialize)]
pub struct Figures {
    unix_ms: u64,
    verdicts: Vec<Verdict>,
    gets: u64,
    hits: u64,
    stores: u64,
    requests: u64,
    evictions: u64,
    received_bytes: u64,
    sent_bytes: u64,
    connections: u32,
    items: u64,
    item_bytes: u64,
    index_bytes: u64,
    segment_bytes: u64,
    memory_limit_bytes: u64,
    /// Requests by how long they took: the buckets of `latency`, not cumulative.
    latency: [u64; latency::BUCKETS],
    cores: Vec<CoreNow>,
    peers: Vec<PeerNow>,
}

/// A node of the ring, in an event.
#[derive(Debug, Serialize)]
pub struct PeerNow {
    id: String,
    #[serde(flatten)]
    now: MemberNow,
}

/// What a node tells other nodes of itself: a part of `/api/v1/nodes`.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    uptime_s: u64,
    ready: bool,
    view: String,
    cores: u16,
    connections: u32,
    items: u64,
    memory_used_bytes: u64,
    memory_limit_bytes: u64,
    gets: u64,
    hits: u64,
    stores: u64,
    requests: u64,
    unix_ms: u64,
    verdict: Verdict,
    peers: Vec<PeerNow>,
}

/// Of this node, for others.
pub fn report(facts: &Facts) -> Report {
    let Figures { unix_ms, gets, hits, stores, requests, connections, items, index_bytes, segment_bytes, peers, .. } =
        figures(facts);
    let view = facts.view();
    let me = view.as_ref().map(|view| view.id_of(view.me).as_str().to_string());
    Report {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: facts.process_figures().uptime_s,
        ready: facts.hindrances().is_empty(),
        view: format!("{:016x}", view.map_or(0, |view| view.id().0)),
        cores: facts.options.cores,
        connections,
        items,
        memory_used_bytes: index_bytes + segment_bytes,
        memory_limit_bytes: facts.memory.limit_bytes() as u64,
        gets,
        hits,
        stores,
        requests,
        unix_ms,
        verdict: verdicts(facts, &facts.snapshots()).swap_remove(0),
        peers: peers.into_iter().filter(|peer| me.as_ref() != Some(&peer.id)).collect(),
    }
}

/// What is known of one node of the ring.
pub fn peer_now(facts: &Facts, view: &View, snapshots: &[Snapshot], peer: PeerId) -> PeerNow {
    PeerNow { id: view.id_of(peer).as_str().into(), now: member_now(facts, view, snapshots, peer) }
}

impl PeerNow {
    /// Whether no core of this node has a way to it, though one had tried.
    pub fn is_away(&self) -> bool {
        self.now.away_s.is_some()
    }
}

/// `/api/v1/node`.
pub fn node(facts: &Facts, actions_allowed: bool, keys_shown: bool) -> NodeFacts {
    let snapshots = facts.snapshots();
    let (process, reasons) = (facts.process_figures(), facts.hindrances());
    let sum = |part: fn(&Snapshot) -> u64| snapshots.iter().map(part).sum::<u64>();
    NodeFacts {
        id: facts.id(),
        version: env!("CARGO_PKG_VERSION"),
        memcached_version: crate::node::VERSION,
        pid: process.pid,
        started_unix_s: facts.started.unix_ms / 1000,
        uptime_s: process.uptime_s,
        cores: facts.options.cores,
        io: format!("{:?}", facts.io).to_lowercase(),
        listening: facts.options.addresses.iter().map(ToString::to_string).collect(),
        ready: reasons.is_empty(),
        reasons,
        verdicts: verdicts(facts, &snapshots),
        memory: Memory {
            limit_bytes: facts.memory.limit_bytes() as u64,
            resident_bytes: resident_bytes(),
            item_bytes: sum(|core| core.engine.item_bytes),
            index_bytes: sum(|core| core.engine.index_bytes),
            segment_bytes: sum(|core| core.engine.segment_bytes),
            held_bytes: sum(|core| core.held_bytes),
        },
        tuning: facts.findings.iter().map(knob).collect(),
        actions_allowed,
        keys_shown,
    }
}

fn knob(finding: &host::Finding) -> Knob {
    let state = match finding.state {
        host::State::Good => "good",
        host::State::Wanting => "wanting",
        host::State::Optional => "optional",
        host::State::NotApplicable => "not applicable",
    };
    let (found, wanted) = (finding.found.clone(), finding.wanted.clone());
    Knob { name: finding.name, state, found, wanted, why: finding.why }
}

/// `/api/v1/ring`; of a lone node, a ring of one.
pub fn ring(facts: &Facts) -> RingFacts {
    let Some(view) = &facts.view() else { return ring_of_one(facts) };
    let snapshots = facts.snapshots();
    let total: f64 = view.nodes.iter().map(|node| f64::from(node.entry.weight)).sum();
    let member = |node: &crate::cluster::view::Node| Member {
        id: node.entry.id.as_str().into(),
        address: node.entry.address.clone(),
        weight: node.entry.weight,
        zone: node.entry.zone.clone(),
        share: f64::from(node.entry.weight) / total.max(1.0),
        now: member_now(facts, view, &snapshots, node.peer),
    };
    RingFacts {
        view: format!("{:016x}", view.id().0),
        cluster: facts.options.cluster_name.clone(),
        buckets: view.ring.buckets(),
        redundancy: view.ring.redundancy() as u8,
        me: view.id_of(view.me).as_str().into(),
        nodes: view.nodes.iter().map(member).collect(),
        second_copies: second_copies(view),
    }
}

fn ring_of_one(facts: &Facts) -> RingFacts {
    let id = facts.id();
    let now =
        MemberNow { state: "here", same_view: Some(true), cores: Some(facts.options.cores.into()), ..MemberNow::default() };
    let member = Member { id: id.clone(), address: id.clone(), weight: 1, zone: String::new(), share: 1.0, now };
    let cluster = facts.options.cluster_name.clone();
    let buckets = facts.options.buckets;
    RingFacts {
        view: "0".repeat(16),
        cluster,
        buckets,
        redundancy: 1,
        me: id,
        nodes: vec![member],
        second_copies: vec![vec![0.0]],
    }
}

/// Of the keys whose first owner is the node of the row, the share whose second owner is the node of the column. From a sample of buckets,
/// one in each partition: to within 2 %.
fn second_copies(view: &View) -> Vec<Vec<f64>> {
    let count = view.nodes.len();
    let place = |peer: PeerId| view.nodes.iter().position(|node| node.peer == peer);
    let mut found = vec![vec![0.0; count]; count];
    let mut cache = OwnersCache::default();
    let samples = view.ring.buckets().min(crate::key::PARTITIONS_COUNT);
    for sample in 0..samples {
        let bucket = (u64::from(sample) * u64::from(view.ring.buckets()) / u64::from(samples)) as u32;
        let owners = view.owners(&mut cache, bucket);
        if let [first, second, ..] = owners[..]
            && let (Some(first), Some(second)) = (place(first), place(second))
        {
            found[first][second] += 1.0;
        }
    }
    for row in &mut found {
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|count| *count = if total > 0.0 { (*count / total * 1000.0).round() / 1000.0 } else { 0.0 });
    }
    found
}

fn member_now(facts: &Facts, view: &View, snapshots: &[Snapshot], peer: PeerId) -> MemberNow {
    if peer == view.me {
        let cores = Some(facts.options.cores.into());
        return MemberNow { state: "here", same_view: Some(true), cores, ..MemberNow::default() };
    }
    let figures: Vec<PeerFigures> = snapshots.iter().filter_map(|core| core.peers.get(peer.index()).copied()).collect();
    let sum = |part: fn(&PeerFigures) -> u64| figures.iter().map(part).sum::<u64>();
    let most = |part: fn(&PeerFigures) -> u64| figures.iter().map(part).max().unwrap_or(0);
    let (links_up, links_away) = (sum(|peer| peer.links_up), sum(|peer| peer.links_away));
    let state = match (links_up, links_away) {
        (0, 0) => "not needed yet",
        (0, _) => "away",
        (_, 0) => "up",
        _ => "partly up",
    };
    let since_ms = figures.iter().map(|peer| peer.away_since_ms).filter(|&since_ms| since_ms > 0).min();
    let now_ms = facts.shared.clock.at().ms();
    let seconds = |ms: u64| (ms as f64 / 100.0).round() / 10.0;
    MemberNow {
        state,
        // A link that is not needed is not made again: one that is there shows that the node is.
        away_s: since_ms.filter(|_| links_up == 0).map(|since_ms| seconds(now_ms.saturating_sub(since_ms))),
        links_up,
        links_away,
        requests_waiting: sum(|peer| peer.waiting),
        cores: Some(most(|peer| peer.cores)).filter(|&cores| cores > 0),
        same_view: Some(most(|peer| peer.view)).filter(|&theirs| theirs > 0).map(|theirs| theirs == view.id().0),
        hints_pending: sum(|peer| peer.hints.pending),
        hints_created: sum(|peer| peer.hints.created),
        hints_replayed: sum(|peer| peer.hints.replayed),
        hints_degraded: sum(|peer| peer.hints.degraded),
        oldest_hint_s: seconds(most(|peer| peer.oldest_ms)),
        dirty_partitions: most(|peer| peer.dirty),
    }
}

/// `/api/v1/stats`.
pub fn stats(facts: &Facts) -> StatsFacts {
    let snapshots = facts.snapshots();
    let mut totals = serde_json::Map::new();
    for row in ROWS {
        let sum: u64 = snapshots.iter().map(|core| (row.read)(&core.counters)).sum();
        totals.insert(row.field.into(), sum.into());
    }
    let mut kinds = vec![Histogram::default(); latency::KINDS];
    snapshots.iter().for_each(|core| kinds.iter_mut().zip(&core.kinds).for_each(|(total, kind)| total.merge(kind)));
    let told = latency::Kind::all().zip(&kinds).filter(|(_, histogram)| histogram.count() > 0);
    let latency = |((door, operation), histogram): ((latency::Door, latency::Operation), &Histogram)| LatencyNow {
        door: door.name(),
        operation: operation.name(),
        count: histogram.count(),
        mean_s: histogram.sum_ns as f64 / 1e9 / histogram.count() as f64,
        p50_s: histogram.quantile_s(0.5).unwrap_or(0.0),
        p99_s: histogram.quantile_s(0.99).unwrap_or(0.0),
        p999_s: histogram.quantile_s(0.999).unwrap_or(0.0),
    };
    StatsFacts { totals, cores: cores(facts, &snapshots), latencies: told.map(latency).collect() }
}

fn cores(facts: &Facts, snapshots: &[Snapshot]) -> Vec<CoreNow> {
    let (connections, now_ms) = (facts.connections(), facts.shared.clock.at().ms());
    let core = |(core, snapshot): (usize, &Snapshot)| CoreNow {
        core,
        silent_ms: now_ms.saturating_sub(snapshot.written_ms),
        connections: connections[core],
        items: snapshot.engine.items_count,
        item_bytes: snapshot.engine.item_bytes,
        requests: snapshot.kinds.iter().map(Histogram::count).sum(),
        crossed: snapshot.counters.requests_crossed,
        evictions: snapshot.engine.evicted,
        turns: snapshot.turns.count(),
        busy_s: snapshot.turns.sum_ns as f64 / 1e9,
    };
    snapshots.iter().enumerate().map(core).collect()
}

/// What an event tells now.
pub fn figures(facts: &Facts) -> Figures {
    let snapshots = facts.snapshots();
    let sum = |part: fn(&Snapshot) -> u64| snapshots.iter().map(part).sum::<u64>();
    let mut all = Histogram::default();
    snapshots.iter().flat_map(|core| &core.kinds).for_each(|kind| all.merge(kind));
    Figures {
        unix_ms: facts.shared.clock.now().unix_ms,
        verdicts: verdicts(facts, &snapshots),
        gets: sum(|core| core.counters.get_hits + core.counters.get_misses),
        hits: sum(|core| core.counters.get_hits),
        stores: sum(|core| core.counters.cmd_set),
        requests: all.count(),
        evictions: sum(|core| core.engine.evicted),
        received_bytes: sum(|core| core.counters.bytes_read),
        sent_bytes: sum(|core| core.counters.bytes_written),
        connections: facts.connections().iter().sum(),
        items: sum(|core| core.engine.items_count),
        item_bytes: sum(|core| core.engine.item_bytes),
        index_bytes: sum(|core| core.engine.index_bytes),
        segment_bytes: sum(|core| core.engine.segment_bytes),
        memory_limit_bytes: facts.memory.limit_bytes() as u64,
        latency: all.buckets,
        cores: cores(facts, &snapshots),
        peers: facts
            .view()
            .map_or_else(Vec::new, |view| view.members().map(|id| peer_now(facts, &view, &snapshots, id)).collect()),
    }
}

/// What is to be said of the node, worst first; one sentence where all is well.
pub fn verdicts(facts: &Facts, snapshots: &[Snapshot]) -> Vec<Verdict> {
    let mut found = Vec::new();
    let mut say = |level: Level, text: String| found.push(Verdict { level, text });
    facts.ailments().into_iter().for_each(|text| say(Level::Bad, text));
    if let Some(view) = &facts.view() {
        for peer in view.others() {
            let (now, id) = (member_now(facts, view, snapshots, peer), view.id_of(peer).as_str());
            verdict_of_peer(&now, id, &mut say);
        }
    }
    facts.hindrances().into_iter().skip(facts.ailments().len()).for_each(|text| say(Level::Warn, text));
    let (connections, most) = (facts.connections().iter().sum::<u32>(), facts.options.conn_limit);
    if u64::from(connections) * 5 > u64::from(most) * 4 {
        say(Level::Warn, format!("{connections} of {most} connections are in use"));
    }
    found.sort_by_key(|verdict| verdict.level);
    if found.is_empty() {
        let items: u64 = snapshots.iter().map(|core| core.engine.items_count).sum();
        let nodes = facts.view().map_or(String::new(), |view| format!("{} nodes, ", view.nodes.len()));
        let cores = if snapshots.len() == 1 { "1 core".into() } else { format!("{} cores", snapshots.len()) };
        found.push(Verdict { level: Level::Ok, text: format!("All is well: {nodes}{cores}, {} items.", grouped(items)) });
    }
    found
}

fn verdict_of_peer(now: &MemberNow, id: &str, say: &mut impl FnMut(Level, String)) {
    let waiting = match now.hints_pending {
        0 => String::new(),
        1 => "; 1 key waits for it".into(),
        count => format!("; {} keys wait for it", grouped(count)),
    };
    match now.away_s {
        Some(away_s) => say(Level::Bad, format!("Node {id} is away since {}{waiting}.", duration(away_s as u64))),
        None if now.hints_pending > 0 => {
            say(Level::Warn, format!("{} keys are on their way to node {id}.", grouped(now.hints_pending)));
        }
        None => {}
    }
    if now.dirty_partitions > 0 {
        let count = grouped(now.dirty_partitions);
        say(Level::Warn, format!("{count} of 4,096 partitions go to node {id} whole."));
    }
    if now.same_view == Some(false) {
        say(Level::Bad, format!("Node {id} knows another ring: its options differ."));
    }
}

/// Lines of `stats` as one object.
pub fn object(lines: Lines) -> serde_json::Map<String, serde_json::Value> {
    lines.into_iter().map(|(name, value)| (name, value.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_away_is_told_first_and_what_waits_for_it() {
        let mut said = Vec::new();
        let now = MemberNow { away_s: Some(12.4), hints_pending: 1204, dirty_partitions: 7, ..MemberNow::default() };
        verdict_of_peer(&now, "c:1", &mut |level, text| said.push((level, text)));
        let wanted = [
            (Level::Bad, "Node c:1 is away since 12 s; 1,204 keys wait for it.".to_string()),
            (Level::Warn, "7 of 4,096 partitions go to node c:1 whole.".to_string()),
        ];
        assert_eq!(said, wanted);
        said.clear();
        verdict_of_peer(&MemberNow { same_view: Some(true), ..MemberNow::default() }, "c:1", &mut |level, text| {
            said.push((level, text))
        });
        assert!(said.is_empty());
        verdict_of_peer(&MemberNow { same_view: Some(false), ..MemberNow::default() }, "c:1", &mut |level, text| {
            said.push((level, text))
        });
        assert_eq!(said[0].0, Level::Bad);
    }
}

//! This node in its ring: which nodes there are by the options, their names, what is told of them.
//!
//! ```text
//!   --ringnode a --ringnode b/weight=2 --advertise a  -->  View + PeerSetup, the same on every core
//! ```
//!
//! Lives here: from options to a view, `stats ring | peers | handoff | where`. Not here: what the view leads to (`cluster`), names of nodes
//! (`names`), the secret (`secret`).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;

use crossbeam_channel::bounded;

use super::StartError;
use super::control::{Cores, patiently};
use super::exchange::Caller;
use super::joining::{self, Begun};
use super::members::{self, Published};
use super::options::{self, Options};
use super::secret;
use super::stats::Lines;
use crate::arena::Arena;
use crate::cluster::Figures;
use crate::cluster::handoff::hints::Account;
use crate::cluster::links::State;
use crate::cluster::view::{self, Entry, PeerId, View};
use crate::cluster::{ClusterOptions, Turn};
use crate::engine::Replication;
use crate::key;
use crate::limits;
use crate::peer::handshake::{Identity, key_of};
use crate::placement::{NodeId, OwnersCache};
use crate::runtime::core::Core;
use crate::runtime::peer_socket::{KnownAddresses, PeerSetup, value_bytes_max};
use crate::version::Version;

/// What every core of a node is given that is in a ring, or may come into one.
#[derive(Clone)]
pub struct RingPlan {
    /// Who is in the ring; `None` for a node that is alone so far.
    pub view: Option<Arc<View>>,
    /// Its member table; `None` where the ring is an explicit list.
    pub begun: Option<Begun>,
    /// How to speak with them.
    pub setup: Arc<PeerSetup>,
    /// How a core takes part.
    pub options: ClusterOptions,
}

impl RingPlan {
    /// The plan where all cores together may keep this much for other nodes.
    pub fn with_memory(mut self, handoff_bytes: usize) -> Self {
        self.options.handoff_bytes_max = handoff_bytes / usize::from(self.options.cores);
        self
    }

    /// What the engine of a core must know in a ring.
    pub fn replication(&self, options: &Options) -> Replication {
        let listed = self.view.as_ref().filter(|_| self.begun.is_none()).and_then(|view| view.me_index);
        Replication {
            buckets: options.buckets,
            tombstone_s: options.handoff_window_s.saturating_add(limits::TOMBSTONE_SLACK_S),
            // Where nodes come and go, nobody has a number of its own: by the id, two of them seldom have the same.
            node: listed.map_or_else(|| key::routing_hash(self.setup.identity.id.as_bytes()) as u16, |index| index.0),
        }
    }

    /// As whom this node asks others.
    pub fn caller(&self, arena: &Arc<Arena>) -> Caller {
        let PeerSetup { identity, key, source, .. } = &*self.setup;
        Caller { identity: identity.clone(), key: *key, source: *source, arena: arena.clone() }
    }

    /// What the actor of the member table is started with; `arena` is what items may have in a ring.
    pub fn begin(&self, options: &Options, arena: (Arc<Arena>, usize)) -> Option<members::Begin> {
        let Begun { me, table, seeds } = self.begun.clone()?;
        let setup = self.setup.clone();
        let caller = self.caller(&arena.0);
        let (replication, data_dir) = (self.replication(options), options.data_dir.clone());
        let (bind, removal_after_ms) = (*options.addresses.first()?, u64::from(options.removal_after_s) * 1000);
        let options = self.options.clone();
        Some(members::Begin { me, table, caller, setup, options, replication, arena, data_dir, seeds, bind, removal_after_ms })
    }
}

/// The ring that the options describe; `None` for a lone node. Warns of what may be meant otherwise.
///
/// # Errors
/// It cannot be told which of the nodes this is, the nodes contradict each other, or the secret cannot be read.
pub fn plan(options: &Options) -> Result<Option<RingPlan>, StartError> {
    let key = secret::read(options)?.map(|secret| key_of(&secret));
    // With a seed, the list is what the table begins with.
    if options.ringnodes.is_empty() || !options.joins.is_empty() {
        return if options.addresses.is_empty() && options.joins.is_empty() {
            Ok(None)
        } else {
            changing(options, key).map(Some)
        };
    }
    if key.is_none() {
        log::warn!(
            "this ring has no secret: whoever calls from the address of a --ringnode is taken for that node; --cluster_secret_file keeps \
             others out"
        );
    }
    let (entries, me) = entries(options)?;
    warn_of_few(entries.len(), options.redundancy);
    if entries.len() == 1 {
        return Ok(None);
    }
    let view = View::new(&entries, &me, options.buckets, usize::from(options.redundancy))
        .map_err(|error| StartError(format!("the ring cannot be formed: {error}.")))?;
    let identity = identity(options, &me, view.id().0, options.redundancy)?;
    let setup = PeerSetup {
        identity,
        key,
        known: Arc::new(KnownAddresses::of(view.nodes.iter().map(|node| node.entry.address.as_str()))),
        source: source(options),
        value_bytes_max: value_bytes_max(options.item_bytes_max),
        trusts_loopback: false,
    };
    let (view, setup) = (Some(Arc::new(view)), Arc::new(setup));
    Ok(Some(RingPlan { view, begun: None, setup, options: cluster_options(options) }))
}

/// The plan of a node whose ring may change: by its member table.
fn changing(options: &Options, key: Option<[u8; 32]>) -> Result<RingPlan, StartError> {
    let (listed, me, address) = own_of(options)?;
    let identity = identity(options, &me, 0, 0)?;
    let arena = Arena::new(CALLER_BYTES, CALLER_BYTES, 1)
        .map_err(|error| StartError(format!("memory for the member table cannot be had: {error}.")))?;
    let caller = Caller { identity: identity.clone(), key, source: source(options), arena };
    let begun = joining::begin(options, &me, (&address, &listed), &caller)?;
    let plan = view::Plan::of_table(&begun.table, &me);
    let refused = |error| StartError(format!("the ring cannot be formed: {error}."));
    let view = (plan.entries.len() > 1).then(|| View::planned(&plan, &me)).transpose().map_err(refused)?;
    let known = KnownAddresses::of(plan.entries.iter().map(|entry| entry.address.as_str()));
    let setup = PeerSetup {
        identity,
        key,
        known: Arc::new(known),
        source: source(options),
        value_bytes_max: value_bytes_max(options.item_bytes_max).max(limits::MEMBER_TABLE_BYTES_MAX),
        trusts_loopback: true,
    };
    let (view, setup) = (view.map(Arc::new), Arc::new(setup));
    Ok(RingPlan { view, begun: Some(begun), setup, options: cluster_options(options) })
}

/// The nodes of the list, if there is one; who this node is, and its address.
fn own_of(options: &Options) -> Result<(Vec<Entry>, NodeId, String), StartError> {
    if options.ringnodes.is_empty() {
        let address = joining::own_address(options)?;
        let id = options.node_id.as_deref().unwrap_or(&address);
        let me = NodeId::new(id).map_err(|error| StartError(format!("{id} cannot be the id of a node: {error}.")))?;
        return Ok((Vec::new(), me, address));
    }
    let (entries, me) = entries(options)?;
    let own = entries.iter().find(|entry| entry.id == me).map(|own| own.address.clone());
    Ok((entries, me, own.unwrap_or_default()))
}

/// Memory for the answers of other nodes' control planes, in bytes; resident while one is read.
const CALLER_BYTES: usize = 4 * limits::MEMBER_TABLE_BYTES_MAX;

/// As what this node calls itself to others.
fn identity(options: &Options, me: &NodeId, view: u64, redundancy: u8) -> Result<Identity, StartError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| StartError(format!("the system gives no random numbers: {error}.")))?;
    Ok(Identity {
        cluster: options.cluster_name.clone(),
        id: me.as_str().into(),
        incarnation: u64::from_le_bytes(random) | 1,
        view,
        buckets: options.buckets,
        redundancy,
        cores: options.cores,
        unix_ms: 0,
        target_core: 0,
    })
}

/// How a core takes part in a ring; its memory for that comes later.
fn cluster_options(options: &Options) -> ClusterOptions {
    ClusterOptions {
        ack: options.ack,
        handoff_bytes_max: 0,
        handoff_window_ms: u64::from(options.handoff_window_s) * 1000,
        handoff_rate: options.handoff_rate,
        cores: options.cores,
        mistake: None,
    }
}

/// A ring may be told of more copies than it has nodes: it may grow, and all nodes must be told the same.
fn warn_of_few(nodes: usize, redundancy: u8) {
    if usize::from(redundancy) > nodes {
        log::warn!(
            "--redundancy is {redundancy}, more than the ring has nodes ({nodes}): an item has as many copies as there are nodes"
        );
    }
}

/// All nodes, and which of them is this one.
fn entries(options: &Options) -> Result<(Vec<Entry>, NodeId), StartError> {
    let own_port = options.addresses.first().map_or(options.port, SocketAddr::port);
    let mine = match &options.advertise {
        Some(advertise) => options::with_port(advertise, own_port),
        None => own_address(options)?,
    };
    let id = |text: &str| NodeId::new(text).map_err(|error| StartError(format!("{text} cannot be the id of a node: {error}.")));
    let mut entries = Vec::new();
    let mut me = None;
    for node in &options.ringnodes {
        let is_me = node.address == mine || (options.node_id.is_some() && node.id == options.node_id);
        let configured = node.id.clone().unwrap_or_else(|| node.address.clone());
        let mut entry =
            Entry { id: id(&configured)?, address: node.address.clone(), weight: node.weight, zone: node.zone.clone() };
        if is_me {
            if let Some(own) = &options.node_id
                && node.id.as_ref().is_some_and(|listed| listed != own)
            {
                return Err(contradiction("id", &configured, "--node_id", own));
            }
            if options.weight.is_some_and(|weight| node.weight != 1 && weight != node.weight) {
                return Err(contradiction("weight", &node.weight.to_string(), "--weight", "another one"));
            }
            entry.id = id(options.node_id.as_deref().unwrap_or(&configured))?;
            entry.weight = options.weight.unwrap_or(node.weight);
            entry.zone = options.zone.clone().unwrap_or(node.zone.clone());
            me = Some(entry.id.clone());
        }
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    let me = match me {
        Some(me) => me,
        None => {
            let count = entries.len();
            log::warn!("this node, {mine}, is not among the {count} of --ringnode: the ring is these and this one");
            let own = id(options.node_id.as_deref().unwrap_or(&mine))?;
            let (weight, zone) = (options.weight.unwrap_or(1), options.zone.clone().unwrap_or_default());
            entries.push(Entry { id: own.clone(), address: mine, weight, zone });
            own
        }
    };
    Ok((entries, me))
}

fn contradiction(what: &str, listed: &str, option: &str, own: &str) -> StartError {
    StartError(format!("--ringnode gives this node the {what} {listed}, {option} {own}; let them agree."))
}

/// The address that this node calls others from: the one that it listens on, so that they know it by their tables.
fn source(options: &Options) -> Option<IpAddr> {
    match options.addresses[..] {
        [address] if !address.ip().is_unspecified() => Some(address.ip()),
        _ => None,
    }
}

/// Where others reach this node, where --advertise does not say: the one address that it listens on, or the one entry of the ring
/// that is an address of this machine with its port.
fn own_address(options: &Options) -> Result<String, StartError> {
    let Some(listening) = options.addresses.first() else {
        return Err(StartError("a node of a ring needs a TCP port; give --port or --ip.".into()));
    };
    if options.addresses.len() == 1 && !listening.ip().is_unspecified() {
        let named = options.ringnodes.iter().find(|node| node.address == listening.to_string());
        return Ok(named.map_or(listening.to_string(), |node| node.address.clone()));
    }
    let is_local = |ip: IpAddr| !ip.is_unspecified() && UdpSocket::bind((ip, 0)).is_ok();
    let is_this = |address: &str| {
        let Ok(mut addresses) = address.to_socket_addrs() else { return false };
        addresses.any(|found| options.addresses.iter().any(|own| own.port() == found.port()) && is_local(found.ip()))
    };
    let mut own = options.ringnodes.iter().filter(|node| is_this(&node.address));
    match (own.next(), own.next()) {
        (Some(node), None) => Ok(node.address.clone()),
        _ => Err(StartError(
            "it cannot be told which --ringnode is this node; give --advertise HOST:PORT, as the others reach it.".into(),
        )),
    }
}

/// Flushes the whole ring, and this node's cores with it. False if not every core of this node has said that it is flushed.
pub fn flush(cores: &Cores) -> bool {
    let clocks = cores.ask(|core| core.context.shard.engine.clock());
    let least = clocks.into_iter().max().unwrap_or_default();
    let (sender, receiver) = bounded(1);
    let _ = cores.ask_one(0, move |core| {
        let origin = core.bridge.expect(sender);
        if let Some(mut turn) = core.context.turn() {
            turn.flush_ring(origin, least);
        }
    });
    let bytes: Vec<u8> = patiently(&receiver).unwrap_or_default();
    let Some(fence) = bytes.first_chunk::<8>().map(|bytes| Version::from_bits(u64::from_le_bytes(*bytes))) else {
        return false;
    };
    cores.tell_all(move |core| core.context.shard.engine.raise_fence(fence))
}

/// What one core knows of the ring.
struct Snapshot {
    hint_bytes: usize,
    all_leases: bool,
    missing: usize,
    figures: Figures,
    nodes: Vec<NodeSnapshot>,
    operations: usize,
    sent: u64,
    lost: u64,
}

/// What one core knows of another node.
#[derive(Clone, Default)]
struct NodeSnapshot {
    id: String,
    account: Account,
    dirty: u32,
    oldest_ms: u64,
    up: u32,
    away: u32,
    waiting: u32,
    view: u64,
    cores: Option<u16>,
    trouble: String,
}

impl Snapshot {
    /// What it knows of one node, if that is in its view.
    fn of(&self, id: &str) -> Option<&NodeSnapshot> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

fn snapshot(core: &mut Core) -> Option<Snapshot> {
    let (now, at) = (core.context.now, core.context.at);
    let cluster = core.context.shard.cluster.as_ref()?;
    let view = &cluster.view;
    let mut nodes: Vec<_> = view
        .members()
        .map(|peer| {
            let (node, target) = (cluster.links.node(peer), cluster.hints.target(peer));
            NodeSnapshot {
                id: view.id_of(peer).as_str().into(),
                account: target.account(),
                dirty: target.dirty_count(),
                oldest_ms: cluster.hints.oldest_ms(peer, now),
                view: node.view,
                cores: node.cores,
                trouble: node.trouble.clone(),
                ..NodeSnapshot::default()
            }
        })
        .collect();
    for link in cluster.links.ids() {
        let link = cluster.links.link(link);
        let Some(index) = view.nodes.iter().position(|node| node.peer == link.node) else { continue };
        let node = &mut nodes[index];
        node.up += u32::from(link.state == State::Up);
        node.away += u32::from(link.state.is_away());
        node.waiting += link.outstanding;
    }
    Some(Snapshot {
        hint_bytes: cluster.hints.bytes(),
        all_leases: cluster.leases.has_all(at),
        missing: cluster.leases.missing_count(),
        figures: cluster.figures,
        nodes,
        operations: cluster.operations(),
        sent: cluster.requests.sent,
        lost: cluster.links.lost,
    })
}

/// `stats ring`: the member table.
pub fn stats_ring(view: &View, options: &Options) -> Lines {
    let mut lines = Lines::new();
    let mut put = |name: String, value: String| lines.push((name, value));
    put("nodes".into(), view.nodes.len().to_string());
    put("buckets".into(), view.ring.buckets().to_string());
    put("redundancy".into(), view.ring.redundancy().to_string());
    put("view".into(), format!("{:016x}", view.id().0));
    put("cluster".into(), options.cluster_name.clone());
    put("me".into(), view.id_of(view.me).as_str().into());
    let total: u64 = view.nodes.iter().map(|node| u64::from(node.entry.weight)).sum();
    for (index, node) in view.nodes.iter().enumerate() {
        put(format!("{index}:id"), node.entry.id.as_str().into());
        put(format!("{index}:address"), node.entry.address.clone());
        put(format!("{index}:weight"), node.entry.weight.to_string());
        put(format!("{index}:zone"), if node.entry.zone.is_empty() { "-".into() } else { node.entry.zone.clone() });
        put(format!("{index}:share_percent"), format!("{:.2}", 100.0 * f64::from(node.entry.weight) / total.max(1) as f64));
    }
    lines
}

/// `stats peers`: the links to the other nodes, all cores together.
pub fn stats_peers(view: &View, cores: &Cores) -> Lines {
    let snapshots: Vec<Snapshot> = cores.ask(snapshot).into_iter().flatten().collect();
    let mut lines = Lines::new();
    for (index, node) in view.nodes.iter().enumerate().filter(|(_, node)| node.peer != view.me) {
        let cores: Vec<&NodeSnapshot> = snapshots.iter().filter_map(|core| core.of(node.entry.id.as_str())).collect();
        let sum = |part: fn(&NodeSnapshot) -> u32| cores.iter().map(|core| part(core)).sum::<u32>();
        let (up, away, waiting) = (sum(|node| node.up), sum(|node| node.away), sum(|node| node.waiting));
        let state = match (up, away) {
            (0, 0) => "not needed yet",
            (0, _) => "away",
            (_, 0) => "up",
            _ => "partly up",
        };
        let mut put = |name: &str, value: String| lines.push((format!("{index}:{name}"), value));
        put("id", node.entry.id.as_str().into());
        put("state", state.into());
        put("links_up", up.to_string());
        put("links_away", away.to_string());
        put("requests_waiting", waiting.to_string());
        let known = cores.iter().find(|node| node.cores.is_some());
        put("cores", known.and_then(|node| node.cores).map_or("unknown".into(), |cores| cores.to_string()));
        let same = known.map_or("unknown", |known| if known.view == view.id().0 { "yes" } else { "no" });
        put("same_view", same.into());
        let trouble = cores.iter().map(|core| &core.trouble).find(|trouble| !trouble.is_empty());
        put("trouble", trouble.map_or("none".into(), |trouble| trouble.clone()));
    }
    let mut sum =
        |name: &str, part: fn(&Snapshot) -> u64| lines.push((name.into(), snapshots.iter().map(part).sum::<u64>().to_string()));
    sum("commands_forwarded", |core| core.figures.forwarded);
    sum("commands_served", |core| core.figures.served);
    sum("copies_sent", |core| core.figures.copies_sent);
    sum("copies_taken", |core| core.figures.copies_taken);
    sum("keys_consulted", |core| core.figures.consulted);
    sum("copies_repaired", |core| core.figures.repaired);
    sum("conflicts", |core| core.figures.conflicts);
    sum("commands_failed", |core| core.figures.failed);
    sum("requests_sent", |core| core.sent);
    sum("links_lost", |core| core.lost);
    sum("operations", |core| core.operations as u64);
    lines
}

/// `stats handoff`: what others lack, by node, all cores together.
pub fn stats_handoff(view: &View, cores: &Cores) -> Lines {
    let snapshots: Vec<Snapshot> = cores.ask(snapshot).into_iter().flatten().collect();
    let mut lines = Lines::new();
    for (index, node) in view.nodes.iter().enumerate().filter(|(_, node)| node.peer != view.me) {
        let mut account = Account::default();
        let cores: Vec<&NodeSnapshot> = snapshots.iter().filter_map(|core| core.of(node.entry.id.as_str())).collect();
        cores.iter().for_each(|core| account.add(&core.account));
        let mut put = |name: &str, value: String| lines.push((format!("{index}:{name}"), value));
        put("id", node.entry.id.as_str().into());
        put("pending", account.pending.to_string());
        put("created", account.created.to_string());
        put("replayed", account.replayed.to_string());
        put("superseded", account.superseded.to_string());
        put("expired", account.expired.to_string());
        put("degraded", account.degraded.to_string());
        put("rerouted", account.rerouted.to_string());
        put("dirty_partitions", cores.iter().map(|core| core.dirty).max().unwrap_or(0).to_string());
        put("oldest_ms", cores.iter().map(|core| core.oldest_ms).max().unwrap_or(0).to_string());
    }
    lines.push(("hint_bytes".into(), snapshots.iter().map(|core| core.hint_bytes).sum::<usize>().to_string()));
    lines.push(("items_streamed".into(), snapshots.iter().map(|core| core.figures.streamed).sum::<u64>().to_string()));
    lines.push(("listed_by_others".into(), snapshots.iter().map(|core| core.missing).sum::<usize>().to_string()));
    lines.push(("synced".into(), if snapshots.iter().all(|core| core.all_leases) { "yes" } else { "no" }.into()));
    lines
}

/// `stats handoff wait`: whether this node holds nothing for nodes that are there, and they hold nothing for it. Who asks keeps the leases.
pub fn is_settled(cores: &Cores) -> bool {
    let settled = cores.ask(|core| {
        let Some(Turn { cluster, at, .. }) = core.context.turn() else { return true };
        // Leases are kept while somebody asks.
        cluster.active_now(at);
        let clean = cluster.links.others().all(|node| cluster.hints.is_clean(node) || cluster.links.is_lost(node));
        clean && cluster.leases.has_all(at) && cluster.leases.missing_count() == 0
    });
    settled.iter().all(|settled| *settled)
}

/// Whether nodes that are there have all that is kept for them here.
pub fn has_handed_out(cores: &Cores) -> bool {
    let clean = cores.ask(|core| {
        let Some(Turn { cluster, at, .. }) = core.context.turn() else { return true };
        let is_clean = cluster.links.others().all(|node| cluster.hints.is_clean(node) || cluster.links.is_lost(node));
        if !is_clean {
            // Links that nobody needs do not find out who is there.
            cluster.active_now(at);
        }
        is_clean
    });
    clean.iter().all(|clean| *clean)
}

/// Whether this node has all that it is to own, and serves; a front node has nothing to own.
pub fn is_whole(published: &Published, cores: &Cores, is_front: bool) -> bool {
    let Some(view) = published.view() else { return true };
    (is_front || view.me_index.is_some()) && is_settled(cores)
}

/// Where a key lives, and who would answer for it now.
pub struct Whereabouts {
    /// Its routing hash.
    pub hash: u64,
    /// Its bucket.
    pub bucket: u32,
    /// Its partition.
    pub partition: u32,
    /// The core of this node that has it, if this node does.
    pub core_here: u16,
    /// Its owners, best first, and whether they are `here`, `there` or `away`.
    pub owners: Vec<(String, &'static str)>,
    /// Who answers for it.
    pub served_by: Option<String>,
}

/// Looks a key up. Asks the core of this node that speaks to its owners.
pub fn whereabouts(view: &View, cores: &Cores, options: &Options, key: &[u8]) -> Whereabouts {
    let hash = key::routing_hash(key);
    let (bucket, buckets) = (view.ring.bucket(hash), view.ring.buckets());
    let core_here = key::core_of(bucket, buckets, options.cores);
    let owners = view.owners(&mut OwnersCache::default(), bucket);
    let away = cores.ask_one(usize::from(core_here), move |core| {
        let Some(cluster) = &core.context.shard.cluster else { return Vec::new() };
        let others: Vec<PeerId> = cluster.links.others().collect();
        others.into_iter().filter(|&node| cluster.links.is_away(node, hash, buckets)).collect::<Vec<_>>()
    });
    let away = away.unwrap_or_default();
    let id = |node: PeerId| view.id_of(node).as_str().to_string();
    let state = |owner: PeerId| match owner {
        _ if owner == view.me => "here",
        _ if away.contains(&owner) => "away",
        _ => "there",
    };
    let server = view.ranking(bucket).find(|node| *node == view.me || !away.contains(node));
    Whereabouts {
        hash,
        bucket,
        partition: view.ring.partition(bucket),
        core_here,
        owners: owners.iter().map(|&owner| (id(owner), state(owner))).collect(),
        served_by: server.map(id),
    }
}

/// `stats where KEY`.
pub fn stats_where(view: &View, cores: &Cores, options: &Options, key: &[u8]) -> Lines {
    let place = whereabouts(view, cores, options, key);
    let mut lines: Lines = vec![
        ("hash".into(), format!("{:016x}", place.hash)),
        ("bucket".into(), place.bucket.to_string()),
        ("partition".into(), place.partition.to_string()),
        ("core_here".into(), place.core_here.to_string()),
    ];
    let owners = place.owners.iter().enumerate();
    lines.extend(owners.map(|(rank, (id, state))| (format!("owner_{rank}"), format!("{id} ({state})"))));
    lines.push(("served_by".into(), place.served_by.unwrap_or_else(|| "nobody".into())));
    lines
}

/// Partitions that are to be sent to a node whole, in order, by what all cores know.
pub fn dirty_partitions(cores: &Cores, node: PeerId) -> Vec<u32> {
    let of_cores = cores.ask(move |core| {
        let Some(cluster) = &core.context.shard.cluster else { return Vec::new() };
        let target = cluster.hints.target(node);
        (0..key::PARTITIONS_COUNT).filter(|&partition| target.dirty_version(partition).is_some()).collect::<Vec<_>>()
    });
    let mut all = of_cores.concat();
    all.sort_unstable();
    all.dedup();
    all
}

//! The member table of this node: kept, spread, and turned into views of the cores.
//!
//! ```text
//!   MEMBERS of other nodes, answers of those that were asked, reports of the cores --> one thread --> table
//!   table has changed --> file, view to every core, to all others at once           each 5 s: with one of them, at random
//!   own change under way --> reports of the cores --> next record (membership::driver) --> table
//!   gossip: records, tables that differ, who is down      down for long, on every link too, as the majority sees it --> removed
//! ```
//!
//! One actor, one event at a time. Whom it asks, it asks on threads of their own, one for each node.
//!
//! Lives here: the actor, the file of the table. Not here: the rules (`membership`), how a question travels (`exchange`), datagrams
//! (`gossip`), orders of an operator (`orders`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, never, select};

use super::StartError;
use super::control::Cores;
use super::exchange::{Answer, Caller};
use super::gossip::{self, Handle, Notice};
use super::orders;
use super::signals;
use crate::arena::Arena;
use crate::cluster::view::{Entry, Plan, View};
use crate::cluster::{Cluster, ClusterOptions};
use crate::engine::Replication;
use crate::membership::driver::{self, Reports};
use crate::membership::file::{self, Saved};
use crate::membership::gossip::{Contact, Life, Reach, tag_of};
use crate::membership::table::{Record, State, Table};
use crate::membership::{changes, codec};
use crate::peer::frame::{MemberVerb, ToldCode};
use crate::placement::NodeId;
use crate::routing::ShardId;
use crate::runtime::clock::unix_ms;
use crate::runtime::context::MembersRequest;
use crate::runtime::core::Core;
use crate::runtime::peer_socket::PeerSetup;
use crate::time::Monotonic;

/// How often the cores are asked how far they are, while a change of this node is under way.
const LOOK: Duration = Duration::from_millis(50);
/// How often a table is compared with that of another node: where gossip tells of tables that differ, and where it does not.
const COMPARE_MS: u64 = 60_000;
const COMPARE_ALONE_MS: u64 = 5000;
/// How often it is looked whether somebody is gone for good.
const GONE_LOOK_MS: u64 = 1000;
/// How long a node that has left goes on routing, so that all hear of it.
const LINGER_MS: u64 = 1500;
/// Lines of the log of changes.
const LOG_LINES_MAX: usize = 32;
/// The file in `--data_dir`.
pub const FILE_NAME: &str = "members";

/// What of the ring counts now, for whoever answers questions about it.
#[derive(Default)]
pub struct Published {
    view: Mutex<Option<Arc<View>>>,
    gossip: Mutex<Option<Arc<Handle>>>,
}

impl Published {
    /// Before anything has changed.
    pub fn new(view: Option<Arc<View>>) -> Self {
        Self { view: Mutex::new(view), gossip: Mutex::default() }
    }

    /// The view; `None` on a lone node.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gossip, where there is any.
    pub fn gossip(&self) -> Option<Arc<Handle>> {
        self.gossip.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, view: &Arc<View>) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view.clone());
    }

    fn set_gossip(&self, gossip: Arc<Handle>) {
        *self.gossip.lock().unwrap_or_else(PoisonError::into_inner) = Some(gossip);
    }
}

/// What the actor is started with.
pub struct Begin {
    /// Who this node is.
    pub me: NodeId,
    /// With the record of this node in it.
    pub table: Table,
    /// As whom it asks others.
    pub caller: Caller,
    /// How the cores speak with other nodes.
    pub setup: Arc<PeerSetup>,
    /// How a core takes part in a ring.
    pub options: ClusterOptions,
    /// What the engine must know in a ring, but for this node's number.
    pub replication: Replication,
    /// The node's memory, and what of it items may have in a ring, in bytes.
    pub arena: (Arc<Arena>, usize),
    /// `--data_dir`.
    pub data_dir: Option<PathBuf>,
    /// Nodes that were named at the start: they hear of this one first.
    pub seeds: Vec<String>,
    /// Where this node listens: for gossip, too.
    pub bind: SocketAddr,
    /// `--removal_after`, in milliseconds.
    pub removal_after_ms: u64,
}

/// What has come back from a node that was asked.
struct Compared {
    address: String,
    result: Result<Answer, String>,
}

/// The actor.
pub struct Members {
    pub(super) begin: Begin,
    pub(super) cores: Cores,
    published: Arc<Published>,
    view: Option<Arc<View>>,
    /// Nodes that are being asked, and whether they are to be asked again behind that.
    asking: BTreeMap<String, bool>,
    answers: (Sender<Compared>, Receiver<Compared>),
    compared_at: Monotonic,
    /// Gossip, once this node is not alone.
    gossip: Option<Arc<Handle>>,
    gone_looked_at: Monotonic,
    /// Since when nodes cannot be reached over any link of any core.
    away_since: BTreeMap<NodeId, Monotonic>,
    /// Since when the node is away whose change is the first.
    head_away_since: Option<Monotonic>,
    /// When this node had left, if it has; `NEVER` once it has said so.
    left_at: Option<Monotonic>,
    pub(super) log: Vec<String>,
    /// Why nodes could not be asked, each told once.
    troubles: BTreeMap<String, String>,
}

impl Members {
    /// An actor over the cores of a node that was just started with the view of its table, if there are others in it.
    pub fn new(begin: Begin, cores: Cores, published: Arc<Published>) -> Self {
        let view = published.view();
        Self {
            begin,
            cores,
            published,
            view,
            asking: BTreeMap::new(),
            answers: crossbeam_channel::unbounded(),
            compared_at: Monotonic::LONG_AGO,
            gossip: None,
            gone_looked_at: Monotonic::LONG_AGO,
            away_since: BTreeMap::new(),
            head_away_since: None,
            left_at: None,
            log: Vec::new(),
            troubles: BTreeMap::new(),
        }
    }

    /// Serves until the cores have ended.
    pub fn run(&mut self, requests: &Receiver<MembersRequest>) {
        self.tell_all();
        self.compare_with_seeds();
        if self.view.is_some() {
            self.begin_gossip();
        }
        loop {
            let notices = self.gossip.as_ref().map_or_else(never, |gossip| gossip.notices.clone());
            let answers = self.answers.1.clone();
            select! {
                recv(requests) -> request => match request {
                    Ok(request) => self.answer(&request),
                    Err(_) => return,
                },
                recv(notices) -> notice => match notice {
                    Ok(notice) => self.noticed(notice),
                    // Its thread has ended, and has said why.
                    Err(_) => self.gossip = None,
                },
                recv(answers) -> compared => compared.into_iter().for_each(|compared| self.compared(compared)),
                default(LOOK) => {}
            }
            self.look();
        }
    }

    fn compare_with_seeds(&mut self) {
        let seeds = self.begin.seeds.clone();
        seeds.into_iter().for_each(|seed| self.compare(seed));
    }

    /// This node is not alone: it gossips from now on.
    fn begin_gossip(&mut self) {
        let Some(own) = self.begin.table.get(self.begin.me.as_str()) else { return };
        let place = own.address.to_socket_addrs().ok().and_then(|mut places| places.next()).unwrap_or(self.begin.bind);
        let place = SocketAddr::new(place.ip().to_canonical(), place.port());
        let begin = gossip::Begin {
            own: Life { tag: tag_of(&own.id), incarnation: own.incarnation, place },
            bind: self.begin.bind,
            ring_id: self.begin.table.ring().ring_id,
            setup: self.begin.setup.clone(),
            shared: self.cores.shared.clone(),
        };
        match Handle::start(begin) {
            Ok(gossip) => {
                let gossip = Arc::new(gossip);
                self.published.set_gossip(gossip.clone());
                self.begin.table.records().for_each(|record| gossip.tell(record));
                self.gossip = Some(gossip);
                self.tell_gossip();
            }
            Err(error) => log::error!(
                "gossip cannot use UDP on {}: {error}; links go on, and nobody is removed by this node itself",
                self.begin.bind
            ),
        }
    }

    /// What gossip knows of a node.
    pub(super) fn heard(&self, id: &NodeId) -> Reach {
        self.gossip.as_ref().map_or(Reach::Unknown, |gossip| gossip.reach(id))
    }

    /// Gossip hears of the table.
    fn tell_gossip(&self) {
        let Some(gossip) = &self.gossip else { return };
        let contact = |record: &Record| {
            let place = record.address.to_socket_addrs().ok()?.next()?;
            let place = SocketAddr::new(place.ip().to_canonical(), place.port());
            self.begin.setup.known.add(place.ip());
            Some(Contact { tag: tag_of(&record.id), place })
        };
        gossip.table(self.others().filter_map(contact).collect(), self.begin.table.digest());
    }

    /// Gossip has found something out.
    fn noticed(&mut self, notice: Notice) {
        let named = |members: &Self, tag: u64| members.others().find(|record| tag_of(&record.id) == tag).cloned();
        match notice {
            Notice::Record(record) => {
                if let Err(why) = self.write(*record) {
                    log::warn!("a record that came by gossip is refused: {why}");
                }
            }
            Notice::Differs(tag) => {
                if let Some(record) = named(self, tag) {
                    self.compare(record.address);
                }
            }
            Notice::Turned { tag, is_up } => {
                if let Some(record) = named(self, tag) {
                    log::info!("gossip: {} is {}", record.id, if is_up { "there" } else { "down" });
                }
            }
            Notice::Double(place) => log::error!(
                "two nodes have the id {}: this one and one at {place}; give one of them another --node_id or --data_dir, or end it",
                self.begin.me
            ),
        }
    }

    /// Answers what another node, or an operator, asks.
    fn answer(&mut self, request: &MembersRequest) {
        let (code, bytes) = match MemberVerb::of(request.verb) {
            Some(MemberVerb::Compare) if request.value.is_empty() => (ToldCode::Table, codec::encode(&self.begin.table)),
            Some(MemberVerb::Compare) => match self.merge(&request.value) {
                Ok(()) => (ToldCode::Table, codec::encode(&self.begin.table)),
                Err(why) => {
                    log::warn!("the table of {} is refused: {why}", request.caller);
                    (ToldCode::Refused, why.into_bytes())
                }
            },
            Some(MemberVerb::Order) => match orders::obey(self, &String::from_utf8_lossy(&request.value)) {
                Ok(text) => (ToldCode::Text, text.into_bytes()),
                Err(why) => (ToldCode::Refused, why.into_bytes()),
            },
            Some(MemberVerb::Facts | MemberVerb::Copy) | None => {
                (ToldCode::Refused, b"it does not know this question".to_vec())
            }
        };
        let (connection, generation, id) = (request.connection, request.generation, request.id);
        let tell = move |core: &mut Core| core.answer_members(connection, generation, id, code, &bytes);
        self.cores.send(usize::from(request.core.0), crate::runtime::core::ToCore::Run(Box::new(tell)));
    }

    /// Takes over what a table has that this one has not.
    fn merge(&mut self, bytes: &[u8]) -> Result<(), String> {
        let now_ms = unix_ms();
        let table = codec::decode(bytes, now_ms).map_err(|refusal| refusal.to_string())?;
        let before = self.begin.table.clone();
        if self.begin.table.merge(&table, now_ms).map_err(|refusal| refusal.to_string())? {
            self.changed(&before);
        }
        Ok(())
    }

    /// Takes a record over, if it beats what is here.
    pub(super) fn write(&mut self, record: Record) -> Result<(), String> {
        let before = self.begin.table.clone();
        if self.begin.table.put(record, unix_ms()).map_err(|refusal| refusal.to_string())? {
            self.changed(&before);
        }
        Ok(())
    }

    /// Something of the ring as a whole was written.
    pub(super) fn changed(&mut self, before: &Table) {
        for record in self.begin.table.records() {
            let old = before.get(record.id.as_str());
            let was = old.map_or("unknown", Record::state_name);
            if old.is_none_or(|old| old.state_name() != record.state_name() || old.weight != record.weight) {
                let line = format!("{}: {was} -> {}, weight {}", record.id, record.state_name(), record.weight);
                log::info!("ring: {line}");
                self.log.push(line);
            }
            if let Some(gossip) = self.gossip.as_ref().filter(|_| old != Some(record)) {
                gossip.tell(record);
            }
        }
        let excess = self.log.len().saturating_sub(LOG_LINES_MAX);
        self.log.drain(..excess);
        self.save();
        self.publish();
        self.tell_gossip();
        self.tell_all();
        let own = self.begin.table.get(self.begin.me.as_str()).map(|own| own.state);
        match own {
            Some(State::Removed) => {
                log::error!("the others have removed this node while it could not be reached; start it again to let it join");
                signals::raise();
            }
            Some(State::Left) if self.left_at.is_none() => self.left_at = Some(self.cores.shared.clock.at()),
            _ => {}
        }
    }

    /// Gives the cores the view of the table, if it is another one.
    fn publish(&mut self) {
        let plan = Plan::of_table(&self.begin.table, &self.begin.me);
        for entry in &plan.entries {
            let addresses = entry.address.to_socket_addrs().into_iter().flatten();
            addresses.for_each(|address| self.begin.setup.known.add(address.ip()));
        }
        let Some(view) = &self.view else { return self.begin_ring(&plan) };
        let next = match view.next_planned(&plan) {
            Ok(next) => Arc::new(next),
            Err(error) => return log::error!("the table makes no ring: {error}"),
        };
        if next.id() == view.id() && same_nodes(&next, view) {
            return;
        }
        let installed = next.clone();
        self.cores.tell_all(move |core| {
            if let Some(mut turn) = core.context.turn() {
                turn.handle_view(installed.clone());
            }
        });
        self.published.set(&next);
        self.view = Some(next);
    }

    /// This node is not alone any more: each core gets its part of a ring.
    fn begin_ring(&mut self, plan: &Plan) {
        if plan.entries.len() < 2 {
            return;
        }
        let own: Vec<Entry> = plan.entries.iter().filter(|entry| entry.id == self.begin.me).cloned().collect();
        let alone = View::new(&own, &self.begin.me, plan.buckets, plan.redundancy);
        let (alone, view) = match alone.and_then(|alone| Ok((Arc::new(alone.next_planned(plan)?), alone))) {
            Ok((view, alone)) => (Arc::new(alone), view),
            Err(error) => return log::error!("the table makes no ring: {error}"),
        };
        let (arena, bytes) = &self.begin.arena;
        if !arena.set_limit(*bytes) {
            log::warn!("what is kept for other nodes does not fit into --memory_size; items are evicted for it");
        }
        let (options, replication, next) = (self.begin.options.clone(), self.begin.replication, view.clone());
        self.cores.tell_all(move |core| {
            let shard = &mut core.context.shard;
            shard.engine.replicate(replication);
            // From the ring of one: what is here is for the others, too.
            shard.cluster = Some(Box::new(Cluster::new(alone.clone(), ShardId(shard.id.0), options.clone())));
            if let Some(mut turn) = core.context.turn() {
                turn.handle_view(next.clone());
            }
        });
        self.cores.shared.services.open_to_nodes();
        self.published.set(&view);
        self.view = Some(view);
        self.begin_gossip();
    }

    /// Writes the table to its file, whole or not at all.
    fn save(&self) {
        let Some(folder) = &self.begin.data_dir else { return };
        if let Err(error) = save(folder, &self.begin.me, &self.begin.table) {
            log::error!("the member table cannot be written to {}: {error}", folder.display());
        }
    }

    /// Every node that is in the ring hears of the table.
    fn tell_all(&mut self) {
        let addresses: Vec<String> = self.others().map(|record| record.address.clone()).collect();
        addresses.into_iter().for_each(|address| self.compare(address));
    }

    /// Tells a node this table and hears its own, on a thread.
    fn compare(&mut self, address: String) {
        if let Some(again) = self.asking.get_mut(&address) {
            *again = true;
            return;
        }
        self.asking.insert(address.clone(), false);
        let (caller, sender, bytes) = (self.begin.caller.clone(), self.answers.0.clone(), codec::encode(&self.begin.table));
        let run = move || {
            let result = caller.ask(&address, MemberVerb::Compare, &bytes);
            let _ = sender.send(Compared { address, result });
        };
        if std::thread::Builder::new().name("pbcache-compare".into()).spawn(run).is_err() {
            log::warn!("no thread to tell other nodes of the ring; it is tried again");
        }
    }

    /// A node has answered, or not.
    fn compared(&mut self, Compared { address, result }: Compared) {
        let again = self.asking.remove(&address).unwrap_or(false);
        let trouble = match result {
            Ok(Answer::Table(bytes)) => self.merge(&bytes).err(),
            Ok(Answer::Refused(why)) => Some(why),
            Ok(Answer::Text(_)) => None,
            Err(why) => Some(why),
        };
        match trouble {
            Some(why) if self.troubles.get(&address) != Some(&why) => {
                log::warn!("{address} does not take the table of the ring: {why}");
                self.troubles.insert(address.clone(), why);
            }
            Some(_) => {}
            None => _ = self.troubles.remove(&address),
        }
        if again {
            self.compare(address);
        }
    }

    /// What is to be done now and then.
    fn look(&mut self) {
        let at = self.cores.shared.clock.at();
        if self.left_at.is_some_and(|left_at| at >= left_at + LINGER_MS) {
            log::info!("this node has left the ring");
            self.left_at = Some(Monotonic::NEVER);
            signals::raise();
        }
        let has_company = self.gossip.as_ref().is_some_and(|gossip| gossip.has_company());
        let pause_ms = if has_company { COMPARE_MS } else { COMPARE_ALONE_MS };
        if at >= self.compared_at + pause_ms {
            self.compared_at = at;
            let others: Vec<String> = self.others().map(|record| record.address.clone()).collect();
            if !others.is_empty() {
                self.compare(others[(at.ms() / COMPARE_ALONE_MS) as usize % others.len()].clone());
            }
            if !has_company {
                // Their names resolve anew, and may lead elsewhere by now.
                self.compare_with_seeds();
                self.tell_gossip();
            }
        }
        self.look_for_gone(at);
        let own = self.begin.table.get(self.begin.me.as_str());
        let Some(head) = changes::queue(&self.begin.table).into_iter().next() else {
            self.head_away_since = None;
            if own.is_none_or(|own| own.state != State::Joining) {
                return;
            }
            return self.go_on(&Reports::default());
        };
        let Some(reports) = self.reports() else { return };
        let is_there = reports.others.iter().any(|(id, report)| *id == head.node && report.is_there);
        if is_there || head.node == self.begin.me {
            self.head_away_since = None;
            return self.go_on(&reports);
        }
        let away_ms = at - *self.head_away_since.get_or_insert(at);
        if let Some(record) = driver::give_up(&self.begin.table, &self.begin.me, &reports, away_ms, unix_ms()) {
            log::warn!("the {} of {} is given up: it is away for {} s", head.kind.name(), head.node, away_ms / 1000);
            self.write_or_say(record);
        }
    }

    /// Removes a node that is gone for good, if it is for this one to do so.
    fn look_for_gone(&mut self, at: Monotonic) {
        let Some(gossip) = self.gossip.clone().filter(|_| self.begin.removal_after_ms > 0) else { return };
        if at < self.gone_looked_at + GONE_LOOK_MS {
            return;
        }
        self.gone_looked_at = at;
        if self.others().all(|record| gossip.gone_ms(&record.id).is_none()) {
            return self.away_since.clear();
        }
        // Links that nobody needs do not find out by themselves.
        self.cores.tell_all(|core| {
            if let Some(turn) = core.context.turn() {
                turn.cluster.active_now(turn.at);
            }
        });
        let Some(reports) = self.reports() else { return };
        let away = reports.others.iter().filter(|(_, report)| !report.is_there).map(|(id, _)| id.clone());
        let before = std::mem::take(&mut self.away_since);
        self.away_since = away.map(|id| (id.clone(), before.get(&id).copied().unwrap_or(at))).collect();
        let gone_ms = |id: &NodeId| Some(gossip.gone_ms(id)?.min(at - *self.away_since.get(id)?));
        let (table, me, after_ms) = (&self.begin.table, &self.begin.me, self.begin.removal_after_ms);
        if let Some(record) = driver::write_off(table, me, &reports, gone_ms, after_ms, unix_ms()) {
            log::warn!("{} is removed: nobody has heard of it for {} s", record.id, after_ms / 1000);
            self.write_or_say(record);
        }
    }

    /// Writes the next record of this node, if it is time for one.
    fn go_on(&mut self, reports: &Reports) {
        if let Some(record) = driver::next_record(&self.begin.table, &self.begin.me, reports, unix_ms()) {
            self.write_or_say(record);
        }
    }

    fn write_or_say(&mut self, record: Record) {
        if let Err(why) = self.write(record) {
            log::error!("the change of the ring cannot go on: {why}");
        }
    }

    fn others(&self) -> impl Iterator<Item = &Record> {
        self.begin.table.records().filter(|record| record.id != self.begin.me && !record.state.is_terminal())
    }

    /// What the cores have heard under the view of the table, if all of them have that view.
    pub(super) fn reports(&self) -> Option<Reports> {
        let view = self.view.as_ref()?;
        let of_cores = self.cores.ask(|core| core.context.shard.cluster.as_ref().map(|cluster| cluster.reports()));
        let all = of_cores.len() == self.cores.inboxes.len();
        let of_cores: Option<Vec<Reports>> = of_cores.into_iter().collect();
        Reports::of_cores(of_cores.filter(|_| all)?).filter(|reports| reports.view == view.id().0)
    }
}

/// Whether two views name the same nodes at the same places.
fn same_nodes(a: &View, b: &View) -> bool {
    a.nodes.len() == b.nodes.len() && a.nodes.iter().zip(&b.nodes).all(|(a, b)| a.entry == b.entry)
}

/// Writes the table of a node to its folder.
///
/// # Errors
/// As the system says; the file is the old one then.
pub fn save(folder: &Path, me: &NodeId, table: &Table) -> std::io::Result<()> {
    let incarnation = table.get(me.as_str()).map_or(0, |own| own.incarnation);
    write_file(folder, &file::encode(&Saved { id: me.clone(), incarnation, table: table.clone() }))
}

/// Writes a file so that it is the old one or the new one, whatever happens.
fn write_file(folder: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = folder.join(format!("{FILE_NAME}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(FILE_NAME))?;
    File::open(folder)?.sync_all()
}

/// What the file in `--data_dir` says; `None` where there is none.
///
/// # Errors
/// It is there and cannot be read, or the folder cannot be written to: a sentence.
pub fn read_file(folder: &Path) -> Result<Option<Saved>, StartError> {
    let place = folder.display();
    fs::create_dir_all(folder).map_err(|error| StartError(format!("--data_dir {place} cannot be made: {error}.")))?;
    let probe = folder.join(format!("{FILE_NAME}.new"));
    File::create(&probe).map_err(|error| StartError(format!("--data_dir {place} cannot be written to: {error}.")))?;
    let bytes = match fs::read(folder.join(FILE_NAME)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StartError(format!("{place}/{FILE_NAME} cannot be read: {error}."))),
        Ok(bytes) => bytes,
    };
    let saved = file::decode(&bytes, unix_ms());
    saved.map(Some).map_err(|refusal| {
        StartError(format!("{place}/{FILE_NAME} is no member table: {refusal}; move it away and start with --join."))
    })
}

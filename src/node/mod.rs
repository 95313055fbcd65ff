//! The control plane: options, start and stop, statistics.
//!
//! ```text
//!   Options -> preflight -> arena, links, listeners -> one thread per core, each says that it listens -> Node
//!   signal or shutdown -> Drain to every core -> answered, closed, joined -> exit code 0
//! ```
//!
//! Lives here: what happens once or rarely. Not here: the path of a request.
#![allow(clippy::disallowed_methods)]

pub mod admin;
pub mod budget;
pub mod control;
pub mod exchange;
pub mod gossip;
pub mod host;
pub mod joining;
pub mod log_lines;
pub mod members;
pub mod memcached_compat;
pub mod names;
pub mod operator;
pub mod options;
mod orders;
pub mod preflight;
pub mod process;
pub mod ring;
pub mod secret;
pub mod signals;
pub mod sockets;
pub mod stats;
pub mod telling;
pub mod top;
pub mod waits;
pub mod watch;
pub mod words;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use self::admin::Admin;
use self::admin::actions::Ways;
use self::admin::facts::Facts;
use self::budget::Budget;
use self::control::{Action, Control, Cores, Memory};
use self::host::Finding;
use self::members::{Members, Published};
use self::options::Options;
use self::ring::RingPlan;
use crate::arena::Arena;
use crate::cluster::Cluster;
use crate::engine;
use crate::limits;
use crate::observe::Observer;
use crate::protocol;
use crate::routing::{Routes, ShardId};
use crate::runtime::bridge::Resolve;
use crate::runtime::clock::Clock;
use crate::runtime::core::{CoreDeps, ToCore};
use crate::runtime::listener::Listener;
use crate::runtime::service::Services;
use crate::runtime::{self, CoreOptions, IoBackend};
use crate::runtime::{
    context::{ControlRequest, MembersRequest},
    mesh::{CoreState, Mesh, Shared},
};
use crate::shard::Shard;

/// Version that `version` and `stats` tell: what clients compare is memcached's, the rest is ours.
pub const VERSION: &str = protocol::VERSION;

/// Exit code of a process whose node was not started.
pub const NOT_STARTED: u8 = 2;

/// A running node.
pub struct Node {
    cores: Cores,
    threads: Vec<JoinHandle<Result<(), String>>>,
    control: Option<JoinHandle<()>>,
    admin: Option<Admin>,
    published: Arc<Published>,
    is_front: bool,
    /// Its ring is an explicit list.
    is_listed: bool,
    /// Where it listens, as one text.
    pub listening: String,
    /// What is said of the machine, unless it is not to be.
    pub tuning_hint: Option<String>,
}

/// Why a node did not start: one sentence with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl Node {
    /// Starts all cores and returns when every one of them listens.
    ///
    /// # Errors
    /// The first reason not to start; nothing keeps running then but threads that end with the process.
    pub fn start(mut options: Options) -> Result<Self, StartError> {
        preflight::raise_limits(options.cores, options.conn_limit).map_err(StartError)?;
        let io = preflight::choose_io(options.io).map_err(StartError)?;
        let cpus = preflight::assign_cpus(options.cores);
        resolve_ports(&mut options)?;
        let admin = admin::prepare(&options)?;
        let memory_bytes = (options.memory_mb as usize) << 20;
        let ceiling_bytes = memory_bytes.max(physical_memory_bytes());
        let (plan, Budget { arena_bytes, reserve_bytes, .. }, in_ring) = plan_ring(&options, io)?;
        let is_ring = plan.as_ref().is_some_and(|plan| plan.view.is_some());
        let arena = Arena::new(arena_bytes, ceiling_bytes, options.cores as usize)
            .map_err(|error| StartError(format!("memory for --memory_size {} cannot be had: {error}.", options.memory_mb)))?;
        let peers = plan.as_ref().map_or(0, |_| limits::BOARD_PEERS_MAX);
        let shared = shared(&options, peers, is_ring);
        let (control_sender, requests) = unbounded();
        let (members_sender, members_requests) = unbounded();
        let (facts_sender, facts_requests) = bounded(limits::FACTS_QUESTIONS_MAX);
        let resolver = plan.as_ref().map(|plan| names::start(plan.setup.clone())).transpose()?;
        let (questions, meet) = resolver.unzip();
        let starter = Starter {
            options: &options,
            // Sessions hold it as long as they live, which nobody knows; there is one in a process.
            http: Box::leak(Box::new(options.http_rules())),
            arena: &arena,
            shared: &shared,
            control: control_sender,
            members: members_sender,
            facts: facts_sender,
            io,
            plan: plan.as_ref(),
            resolver: questions,
        };
        let (inboxes, threads) = starter.start_cores(&cpus)?;
        drop(starter);
        let cores = Cores { inboxes, shared };
        if let Some(meet) = meet {
            let _ = meet.send(cores.clone());
        }
        let listening = listening(&options);
        process::write_port_file(&options);
        let (tuning_hint, findings) = look_at_machine(&options);
        let wanting = findings.iter().filter(|finding| finding.state == host::State::Wanting).count();
        let memory = Memory { arena, reserve_bytes };
        let published = Arc::new(Published::new(plan.as_ref().and_then(|plan| plan.view.clone())));
        if let Some(begin) = plan.as_ref().and_then(|plan| plan.begin(&options, (memory.arena.clone(), in_ring.arena_bytes))) {
            start_members(members_requests, Members::new(begin, cores.clone(), published.clone()))?;
        }
        let facts = Arc::new(Facts {
            shared: cores.shared.clone(),
            memory: memory.clone(),
            options: options.clone(),
            published: published.clone(),
            io,
            findings,
            started: cores.shared.clock.now(),
        });
        let caller = plan.as_ref().map(|plan| plan.caller(&memory.arena));
        if plan.is_some() {
            telling::start(facts_requests, facts.clone(), cores.clone())?;
        }
        let (actions_sender, actions) = unbounded();
        let ways = Ways { cores: cores.clone(), actions: actions_sender };
        let admin = admin.map(|admin| admin.start(facts, ways, caller)).transpose()?;
        let is_front = options.weight == Some(0);
        let is_listed = !options.ringnodes.is_empty() && options.joins.is_empty();
        let control = Control::new(cores.clone(), memory, options, published.clone(), wanting);
        let control = Some(start_control((requests, actions), control)?);
        Ok(Self { cores, threads, control, admin, published, is_front, is_listed, listening, tuning_hint })
    }

    /// Calls `ready` when this node has all that it is to own: at once where it is alone, else from a thread. Until then it calls `still` now
    /// and then. Nodes of an explicit list do not ask after each other at their start: they are ready at once, too.
    pub fn when_ready(&self, still: impl Fn() + Send + 'static, ready: impl FnOnce() + Send + 'static) {
        if self.published.view().is_none() || self.is_listed {
            return ready();
        }
        let (cores, published, is_front) = (self.cores.clone(), self.published.clone(), self.is_front);
        let run = move || {
            let ends = || cores.shared.leaving.load(Ordering::Acquire);
            for look in 0u32.. {
                if ends() {
                    return;
                }
                if ring::is_whole(&published, &cores, is_front) && !ends() {
                    return ready();
                }
                if look % (STILL_PAUSE.as_millis() / READY_LOOK.as_millis()) as u32 == 0 {
                    still();
                }
                std::thread::sleep(READY_LOOK);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("pbcache-ready".into()).spawn(run) {
            log::error!("nobody is told when this node is ready: a thread cannot be started: {error}");
        }
    }

    /// Tells whoever asks that this node is about to end. It serves on.
    pub fn leave(&self) {
        self.cores.shared.leaving.store(true, Ordering::Release);
    }

    /// Gives other nodes what is kept for them here, as far as they are there, for a bounded time; and says that this one goes. It stays in
    /// the ring: a stop is no leave.
    fn hand_out(&self) {
        if self.published.view().is_none() {
            return;
        }
        let end = std::time::Instant::now() + std::time::Duration::from_millis(limits::LEAVE_DRAIN_MS_MAX);
        while !ring::has_handed_out(&self.cores) {
            if std::time::Instant::now() >= end {
                log::warn!("other nodes lack something that only this one has, and it ends");
                break;
            }
            std::thread::sleep(HAND_OUT_LOOK);
        }
        self.published.gossip().iter().for_each(|gossip| gossip.leave());
    }

    /// Drains every core and waits for them: what is in flight is answered, within a bounded time.
    pub fn stop(mut self) {
        self.leave();
        self.hand_out();
        for core in 0..self.threads.len() {
            self.cores.send(core, ToCore::Drain);
        }
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                log::error!("a core ended with an error: {error}");
            }
        }
        drop(self.cores);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
        // Last, so that it can be seen why a drain takes long.
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
    }
}

/// What the cores share, with room for what is known of so many other nodes.
fn shared(options: &Options, peers: usize, is_ring: bool) -> Arc<Shared> {
    Arc::new(Shared {
        clock: Clock::default(),
        cores: (0..options.cores).map(|_| CoreState::new(peers)).collect(),
        services: Services::new(options.incoming.clone().into(), options.conn_limit, is_ring),
        listening: AtomicU32::new(options.cores.into()),
        leaving: AtomicBool::new(false),
    })
}

/// How often it is looked whether the node is ready, and how often it is said that it is not.
const READY_LOOK: std::time::Duration = std::time::Duration::from_millis(200);
const STILL_PAUSE: std::time::Duration = std::time::Duration::from_secs(10);
/// How often it is looked whether the others have what is kept for them, before the node ends.
const HAND_OUT_LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// The ring of a node, how its memory is divided, and how that would be in a ring.
fn plan_ring(options: &Options, io: IoBackend) -> Result<(Option<RingPlan>, Budget, Budget), StartError> {
    let plan = ring::plan(options)?;
    let is_ring = plan.as_ref().is_some_and(|plan| plan.view.is_some());
    if is_ring && io == IoBackend::Streams {
        return Err(StartError(
            "a ring of nodes needs Linux 6.1 or later and io_uring; start without --ringnode and --join, or leave --io at auto."
                .into(),
        ));
    }
    let budget = Budget::new(options, is_ring)?;
    // What it becomes when others join.
    let in_ring = if is_ring { budget } else { Budget::new(options, plan.is_some()).unwrap_or(budget) };
    let plan = plan.map(|plan| plan.with_memory(in_ring.handoff_bytes)).filter(|_| io != IoBackend::Streams);
    Ok((plan, budget, in_ring))
}

/// The level of the log for a verbosity: warnings, then what happens to the node, then everything.
pub fn log_level(verbosity: u32) -> log::LevelFilter {
    match verbosity {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    }
}

/// What is said of the machine at the start, and its knobs. Each that is wanting is a line for those who want more lines.
fn look_at_machine(options: &Options) -> (Option<String>, Vec<Finding>) {
    let needs = host::Needs { cores: options.cores, connections: options.conn_limit };
    let findings = host::check(&host::Machine::default(), needs);
    let wanting = findings.iter().filter(|finding| finding.state == host::State::Wanting);
    wanting.for_each(|finding| log::info!("{}", finding.sentence()));
    (host::hint(&findings, needs).filter(|_| !options.tuning_hint_disabled), findings)
}

fn start_control(
    (requests, actions): (Receiver<ControlRequest>, Receiver<Action>),
    mut control: Control,
) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name("pbcache-control".into())
        .spawn(move || control.run(&requests, &actions))
        .map_err(|error| StartError(format!("a thread cannot be started: {error}.")))
}

fn start_members(requests: Receiver<MembersRequest>, mut members: Members) -> Result<(), StartError> {
    let started = std::thread::Builder::new().name("pbcache-members".into()).spawn(move || members.run(&requests));
    started.map(drop).map_err(|error| StartError(format!("a thread cannot be started: {error}.")))
}

struct Starter<'a> {
    options: &'a Options,
    http: &'static protocol::http::Rules,
    arena: &'a Arc<Arena>,
    shared: &'a Arc<Shared>,
    control: Sender<ControlRequest>,
    members: Sender<MembersRequest>,
    facts: Sender<MembersRequest>,
    io: IoBackend,
    plan: Option<&'a RingPlan>,
    resolver: Option<Sender<Resolve>>,
}

type Started = (Vec<Sender<ToCore>>, Vec<JoinHandle<Result<(), String>>>);

impl Starter<'_> {
    fn start_cores(&self, cpus: &[Option<usize>]) -> Result<Started, StartError> {
        let count = self.options.cores as usize;
        let (ready_sender, ready) = bounded(count);
        let (mut inboxes, mut threads) = (Vec::new(), Vec::new());
        for (index, mesh) in Mesh::of_node(self.shared).into_iter().enumerate() {
            let (inbox_sender, inbox) = unbounded();
            inboxes.push(inbox_sender);
            let listeners = self.listeners(index as u16)?;
            let deps = self.deps(index as u16, mesh, inbox);
            let core_options =
                CoreOptions { cpu: cpus[index], io: self.io, idle_timeout_s: self.options.idle_timeout_s, listeners };
            let ready = ready_sender.clone();
            let started = runtime::start_core(deps, core_options, index as u16, move |result| drop(ready.send(result)));
            threads.push(started.map_err(|error| StartError(format!("a thread cannot be started: {error}.")))?);
        }
        drop(ready_sender);
        for _ in 0..count {
            match ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(StartError(preflight::start_failure(&error))),
                Err(_) => return Err(StartError("a core ended before it listened; the log tells why.".into())),
            }
        }
        Ok((inboxes, threads))
    }

    fn deps(&self, index: u16, mesh: Mesh, inbox: Receiver<ToCore>) -> impl FnOnce() -> CoreDeps + Send + 'static {
        let options = self.options;
        let engine_options = engine::Options {
            item_bytes_max: options.item_bytes_max,
            core: index,
            cores: options.cores,
            eviction_disabled: options.evictions_disabled,
            replication: self.plan.filter(|plan| plan.view.is_some()).map(|plan| plan.replication(options)),
        };
        let protocol = protocol::Options {
            item_bytes_max: options.item_bytes_max,
            protocols: options.protocols,
            flush_disabled: options.flush_disabled,
            dump_disabled: options.dump_disabled,
            cas_disabled: options.cas_disabled,
            http: self.http,
        };
        let routes = Routes::new(options.cores, options.buckets);
        let (arena, control) = (self.arena.clone(), self.control.clone());
        let members = self.plan.is_some_and(|plan| plan.begun.is_some()).then(|| self.members.clone());
        let facts = self.plan.is_some().then(|| self.facts.clone());
        let (plan, resolver, slow_ms) = (self.plan.cloned(), self.resolver.clone(), options.slow_ms);
        let (delimiter, detail) = (options.delimiter, options.detail);
        move || CoreDeps {
            shard: Shard {
                cluster: plan.as_ref().and_then(|plan| {
                    let view = plan.view.clone()?;
                    Some(Box::new(Cluster::new(view, ShardId(index), plan.options.clone())))
                }),
                observer: Observer::new(delimiter, detail),
                ..Shard::new(ShardId(index), routes, engine::Engine::new(engine_options, arena.clone()))
            },
            peer_setup: plan.map(|plan| plan.setup),
            resolver,
            mesh,
            arena,
            protocol,
            control,
            members,
            facts,
            slow_ms,
            inbox,
        }
    }

    /// The listening sockets of one core: every address, the unix socket on core 0, its shard port.
    fn listeners(&self, index: u16) -> Result<Vec<Listener>, StartError> {
        let options = self.options;
        let backlog = options.listen_backlog as i32;
        let tcp = |address: SocketAddr, balanced| {
            Listener::tcp(address, backlog, balanced).map_err(|error| cannot_listen(address, &error))
        };
        let mut listeners = Vec::new();
        for &address in &options.addresses {
            listeners.push(tcp(address, true)?);
        }
        if let (0, Some(path)) = (index, &options.unix_socket) {
            let listener = Listener::unix(path, options.unix_mask, backlog).map_err(|error| {
                StartError(format!(
                    "cannot listen on the unix socket {}: {error}; choose another --unix_socket.",
                    path.display()
                ))
            })?;
            listeners.push(listener);
        }
        if let Some(base) = options.shard_ports {
            for address in &options.addresses {
                listeners.push(tcp(SocketAddr::new(address.ip(), base + index), false)?);
            }
        }
        Ok(listeners)
    }
}

/// Checks that nobody else listens, and replaces port 0 by the one that the system gives.
fn resolve_ports(options: &mut Options) -> Result<(), StartError> {
    for address in &mut options.addresses {
        *address = probe(*address).map_err(|error| cannot_listen(*address, &error))?;
    }
    if options.port == 0 {
        options.port = options.addresses.first().map_or(0, SocketAddr::port);
    }
    if let Some(base) = options.shard_ports {
        for core in 0..options.cores {
            for address in &options.addresses {
                let address = SocketAddr::new(address.ip(), base + core);
                Listener::probe_tcp(address).map_err(|error| cannot_listen(address, &error))?;
            }
        }
    }
    Ok(())
}

/// Whether an address is free. A process that was killed a moment ago may hold it still: the kernel ends its rings behind its back.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let end = std::time::Instant::now() + PORT_WAIT;
    loop {
        match Listener::probe_tcp(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && std::time::Instant::now() < end => {
                std::thread::sleep(PORT_WAIT / 20);
            }
            result => return result,
        }
    }
}

/// Longest wait for an address that is in use.
const PORT_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

fn cannot_listen(address: SocketAddr, error: &io::Error) -> StartError {
    StartError(match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("cannot listen on {address}: the port is in use; stop the other process or choose another --port.")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("cannot listen on {address}: this machine has no such address; choose another --ip.")
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot listen on {address}: ports below 1024 need privileges; choose another --port.")
        }
        _ => format!("cannot listen on {address}: {error}; choose another --ip or --port."),
    })
}

fn listening(options: &Options) -> String {
    let mut places: Vec<_> = options.addresses.iter().map(ToString::to_string).collect();
    places.extend(options.unix_socket.iter().map(|path| path.display().to_string()));
    if let Some(base) = options.shard_ports {
        places.push(format!("shard ports {base} to {}", base + options.cores - 1));
    }
    let cores = if options.cores == 1 { "1 core".to_string() } else { format!("{} cores", options.cores) };
    format!("pbcache listens on {} with {cores} and {} MB", places.join(", "), options.memory_mb)
}

/// Memory of this machine, in bytes: the ceiling of `cache_memlimit`.
fn physical_memory_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.map_or(limits::ITEM_BYTES_MAX, |kib| kib << 10)
}

//! The control plane: options, start and stop, statistics.
//!
//! Lives here: what happens once or rarely. Not here: the path of a request.
#![allow(clippy::disallowed_methods)]

pub mod control;
pub mod signals;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;

use crossbeam_channel::{bounded, unbounded};

use self::control::Cores;
use crate::arena::Arena;
use crate::engine;
use crate::protocol;
use crate::runtime::clock::Clock;
use crate::runtime::context::{CoreState, Links, Shared};
use crate::runtime::core::{Parts, ToCore};
use crate::runtime::listener::Listener;
use crate::runtime::{self, CoreOptions, Engine};
use crate::shard::{Routes, Shard, ShardId};

/// A running node.
pub struct Node {
    cores: Cores,
    threads: Vec<JoinHandle<Result<(), String>>>,
    control: JoinHandle<()>,
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data cores.
    pub cores: u16,
    /// Memory budget in bytes.
    pub memory_bytes: usize,
    /// Which I/O.
    pub engine: Engine,
    /// Addresses to listen on.
    pub addresses: Vec<SocketAddr>,
}

impl Node {
    /// Starts all cores and returns when every one of them listens.
    ///
    /// # Errors
    /// The first core's reason not to start.
    pub fn start(options: &Options) -> io::Result<Self> {
        let cores_count = options.cores as usize;
        let arena = Arena::new(options.memory_bytes, options.memory_bytes, cores_count)?;
        let shared = Arc::new(Shared {
            clock: Clock::default(),
            cores: (0..cores_count).map(|_| CoreState::default()).collect(),
            connections: AtomicU32::new(0),
            connections_max: 20000,
        });
        let (control_sender, requests) = unbounded();
        let (ready_sender, ready) = bounded(cores_count);
        let mut inboxes = Vec::new();
        let mut threads = Vec::new();
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        let admitted: Arc<[ipnet::IpNet]> = Arc::new(["127.0.0.0/8".parse().map_err(io::Error::other)?]);
        for (index, links) in Links::mesh(&shared).into_iter().enumerate() {
            let (inbox_sender, inbox) = unbounded();
            inboxes.push(inbox_sender);
            let listeners = options
                .addresses
                .iter()
                .map(|&address| Listener::tcp(address, 1024, admitted.clone(), true))
                .collect::<io::Result<Vec<_>>>()?;
            let engine_options = engine::Options { item_bytes_max: 1 << 20, cores: options.cores, eviction_disabled: false };
            let (arena, control, routes) = (arena.clone(), control_sender.clone(), Routes::new(options.cores, 10_000_000));
            let parts = move || Parts {
                shard: Shard::new(ShardId(index as u16), routes, engine::Engine::new(engine_options, arena.clone())),
                links,
                arena,
                protocol: protocol::Options::default(),
                control,
                inbox,
            };
            let cpu = (cores_count <= cpus.len()).then(|| cpus[index].id);
            let core_options = CoreOptions { cpu, engine: options.engine, idle_timeout_s: 0, listeners };
            let ready = ready_sender.clone();
            threads.push(runtime::start_core(parts, core_options, index as u16, move |result| drop(ready.send(result)))?);
        }
        for _ in 0..cores_count {
            ready.recv().map_err(io::Error::other)??;
        }
        let cores = Cores { inboxes, shared };
        let control = std::thread::Builder::new().name("pbcache-control".into()).spawn({
            let cores = cores.clone();
            move || control::run(&requests, &cores)
        })?;
        Ok(Self { cores, threads, control })
    }

    /// Drains every core and waits for them.
    pub fn stop(self) {
        for core in 0..self.threads.len() {
            self.cores.send(core, ToCore::Drain);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        drop(self.cores);
        let _ = self.control.join();
    }
}

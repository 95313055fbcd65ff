//! glommio and io_uring: what turns a pure core into a serving one.
//!
//! ```text
//!   start_core: thread -> glommio executor, pinned -> Pump (own io_uring) or Streams (stock glommio) -> Core -> Connection -> Shard
//! ```
//!
//! Reading order: [`connection`] and [`replies`] (one client), [`core`] (one core), [`pump`] (its sockets), [`mesh`] (between the
//! cores), [`peer_socket`] and [`bridge`] (other nodes), [`service`] and [`listener`] (who may come), [`board`] (what is shown of a core), [`uring`],
//! [`park`].
//!
//! Lives here: I/O, clocks, threads of the data plane. Not here: what a command does, options, the control plane (`node`).
#![allow(clippy::disallowed_methods)]

pub mod backlog;
pub mod board;
pub mod bridge;
pub mod clock;
pub mod connection;
pub mod context;
pub mod core;
pub mod listener;
pub mod mesh;
pub mod park;
pub mod peer_socket;
pub mod pump;
pub mod receiving;
pub mod replies;
pub mod service;
pub mod streams;
pub mod sys;
pub mod uring;

use std::io;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use self::core::{Core, CoreDeps};
use self::listener::Listener;
use self::pump::Pump;
use self::streams::Streams;

/// Which I/O a core uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoBackend {
    /// Its own io_uring: multishot receives, one send per connection and turn.
    Pump,
    /// Stock glommio streams: kernels before 6.1, and the baseline of benches.
    Streams,
}

/// How a core is started.
pub struct CoreOptions {
    /// CPU to pin to, if the core has one.
    pub cpu: Option<usize>,
    /// Which I/O.
    pub io: IoBackend,
    /// Seconds without traffic after which a connection is closed; 0 for never.
    pub idle_timeout_s: u32,
    /// Its listening sockets.
    pub listeners: Vec<Listener>,
}

/// glommio's preempt timer, practically never: the pump yields by itself, and its helpers wait for rings, not for the timer.
///
/// Symptom: of 128 cores on two CPUs, some listened and never answered nor ended. Cause: glommio 0.9 looks at the timer before it runs the
/// first task of a turn, and where it had already fired (the thread did not run for those 5 ms) it sleeps as if there were none to run.
const PREEMPT_TIMER: Duration = Duration::from_secs(3600);
/// The same for streams, whose tasks keep each other from the reactor until it fires.
const PREEMPT_TIMER_STREAMS: Duration = Duration::from_millis(100);
/// Memory that glommio registers for direct I/O, which data cores do not do yet.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Starts one core on a thread of its own. `ready` is called on that thread when it listens, or with the reason why not.
///
/// # Errors
/// When the executor's thread cannot be made. What fails later goes to `ready`.
pub fn start_core(
    deps: impl FnOnce() -> CoreDeps + Send + 'static,
    options: CoreOptions,
    index: u16,
    ready: impl FnOnce(io::Result<()>) + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<(), String>>, io::Error> {
    std::thread::Builder::new().name(format!("pbcache-{index}")).spawn(move || {
        let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let executor = LocalExecutorBuilder::new(placement)
            .name(&format!("pbcache-{index}"))
            .io_memory(IO_MEMORY_BYTES)
            .preempt_timer(if options.io == IoBackend::Streams { PREEMPT_TIMER_STREAMS } else { PREEMPT_TIMER })
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
            .make();
        let executor = match executor {
            Ok(executor) => executor,
            Err(error) => {
                let text = error.to_string();
                ready(Err(io::Error::other(text.clone())));
                return Err(text);
            }
        };
        executor.run(async move {
            let core = Core::new(deps());
            if options.io == IoBackend::Streams {
                let streams = match Streams::new(core, options.idle_timeout_s) {
                    Ok(streams) => streams,
                    Err(error) => {
                        let text = error.to_string();
                        ready(Err(error));
                        return Err(text);
                    }
                };
                ready(Ok(()));
                streams.run(options.listeners).await;
                return Ok(());
            }
            let pump = match Pump::new(core, options.listeners, options.idle_timeout_s) {
                Ok(pump) => pump,
                Err(error) => {
                    let text = error.to_string();
                    ready(Err(error));
                    return Err(text);
                }
            };
            ready(Ok(()));
            pump.run().await.map_err(|error| error.to_string())
        })
    })
}

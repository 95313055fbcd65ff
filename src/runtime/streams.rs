//! The fallback: stock glommio streams instead of an io_uring of our own, for kernels before 6.1, and as the baseline of benches.
//!
//! ```text
//!   one task per listener:    accept -> check -> this core, or hand over
//!   one task per connection:  read -> Core::receive -> write -> (wait until what it asked elsewhere is answered) -> read
//!   one task per core:        doorbell -> links, inbox, adopted connections -> wakes the connection tasks
//! ```
//!
//! The same `Core`, `Connection` and `Shard` as the pump. Slower by design: two system calls a request and a task a connection; a
//! connection reads on only when its last bytes are answered, and it stays on the core that accepted it.
//!
//! Lives here: those tasks. Not here: what bytes mean (`core`, `connection`).
//! Unsafe lives here: descriptors are given to glommio's types for good.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;

use super::connection::Flow;
use super::core::Core;
use super::listener::{self, Admission, Listener};
use super::mesh::CoreState;
use super::mesh::record::Handover;
use super::park::Doorbell;
use super::service::ServiceId;
use super::sys;
use crate::buffer::Buffer;
use crate::limits;
use crate::observe::events::{CloseReason, What};
use crate::protocol::Session;
use crate::routing::ShardId;
use crate::time::Monotonic;

/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;
/// Wait before a blocked conversation is tried again.
const RETRY: Duration = Duration::from_millis(1);
/// Wait after a failed accept, most often for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);
/// Items that upkeep may touch after one read.
const UPKEEP_BUDGET: u32 = 64;
/// How long a draining core lets its clients take their answers.
const DRAIN_TRIES_MAX: u32 = 500;

/// One core that serves by stock glommio streams. Any kernel that glommio runs on.
pub struct Streams {
    core: RefCell<Core>,
    doorbell: Rc<Doorbell>,
    /// Connections that wait for something to come to their core.
    sleepers: RefCell<Vec<Waker>>,
    idle_timeout_s: u32,
    /// The task of each open connection.
    tasks: RefCell<HashMap<u32, glommio::task::JoinHandle<()>>>,
    open: Cell<usize>,
    /// Milliseconds since start until which a draining core awaits a client's next request; 0 before it drains.
    requests_end: Cell<Monotonic>,
    /// The listeners are shut down.
    deaf: Cell<bool>,
}

impl Streams {
    /// A core and its doorbell.
    ///
    /// # Errors
    /// When the doorbell cannot be had.
    pub fn new(core: Core, idle_timeout_s: u32) -> io::Result<Rc<Self>> {
        let doorbell = Doorbell::new()?;
        // Without a ring of our own, others ring the eventfd that glommio reads.
        core.context.mesh.own_state().doorbell.store(doorbell.signal_fd() as u32 + 1, Release);
        Ok(Rc::new(Self {
            core: RefCell::new(core),
            doorbell,
            sleepers: RefCell::default(),
            idle_timeout_s,
            tasks: RefCell::default(),
            open: Cell::new(0),
            requests_end: Cell::new(Monotonic::LONG_AGO),
            deaf: Cell::new(false),
        }))
    }

    /// Serves until the control plane asked to drain and the connections are gone.
    pub async fn run(self: Rc<Self>, listeners: Vec<Listener>) {
        let helpers = self.doorbell.clone().start();
        let listeners: Vec<_> = listeners.into_iter().map(Rc::new).collect();
        let accepting: Vec<_> = listeners
            .iter()
            .map(|listener| {
                let (streams, listener) = (self.clone(), listener.clone());
                glommio::spawn_local(async move { streams.accept(listener).await })
            })
            .collect();
        while !self.core.borrow().draining {
            self.core.borrow().context.mesh.own_state().prepare_to_wait();
            if !self.core.borrow().has_inbound() {
                self.doorbell.wait().await;
            }
            self.core.borrow().context.mesh.own_state().awake();
            self.turn();
            glommio::executor().yield_if_needed().await;
        }
        // The order is that of `pump::drain`.
        listeners.iter().for_each(|listener| listener.ignore_newcomers());
        sleep(Duration::from_millis(limits::DRAIN_LISTEN_MS)).await;
        self.deaf.set(true);
        listeners.iter().for_each(|listener| listener.shut_down());
        for task in accepting {
            task.await;
        }
        drop(listeners);
        let shared = self.core.borrow().shared().clone();
        shared.listening.fetch_sub(1, AcqRel);
        for _ in 0..DRAIN_TRIES_MAX {
            self.turn();
            self.end_idle();
            // Connections of other cores may need this one for their answers.
            if self.open.get() == 0 && shared.listening.load(Acquire) == 0 && shared.services.open() == 0 {
                break;
            }
            self.wake_sleepers();
            sleep(ACCEPT_RETRY).await;
        }
        let tasks = self.tasks.take();
        for (_, task) in tasks {
            task.cancel();
            task.await;
        }
        helpers.end().await;
    }

    /// What came from other cores and the control plane.
    fn turn(self: &Rc<Self>) {
        let adopted = {
            let mut core = self.core.borrow_mut();
            core.begin_turn();
            let any = core.pull() | core.pull_inbox();
            core.to_flush.clear();
            let now = core.context.now;
            if core.draining && self.requests_end.get() == Monotonic::LONG_AGO {
                self.requests_end.set(core.context.at + limits::DRAIN_LISTEN_MS);
            }
            core.context.shard.engine.tick(now, UPKEEP_BUDGET);
            publish(&mut core);
            let adopted = std::mem::take(&mut core.adopted);
            drop(core);
            if any {
                self.wake_sleepers();
            }
            adopted
        };
        adopted.into_iter().for_each(|handover| self.adopt(handover));
    }

    /// Ends the connections that wait for a request, once none is awaited any more: their tasks wait in a read.
    fn end_idle(&self) {
        let core = self.core.borrow();
        if core.context.at >= self.requests_end.get() {
            let idle = core.connections.iter().filter(|(_, connection)| connection.is_drained() && !connection.is_blocked());
            idle.for_each(|(_, connection)| sys::end_input(connection.descriptor));
        }
    }

    fn wake_sleepers(&self) {
        self.sleepers.take().into_iter().for_each(Waker::wake);
    }

    async fn accept(self: Rc<Self>, listener: Rc<Listener>) {
        let Ok(fd) = listener.fd.try_clone() else { return };
        // SAFETY: a descriptor of our own, given to the listener for good. It need not be TCP: accept works on any.
        let acceptor = unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) };
        loop {
            let Ok(accepted) = acceptor.shared_accept().await else {
                if self.deaf.get() {
                    return;
                }
                self.core.borrow_mut().context.shard.counters.accept_errors += 1;
                sleep(ACCEPT_RETRY).await;
                continue;
            };
            let stream = accepted.bind_to_executor();
            // A second descriptor, because glommio's stream gives its own away only by closing it.
            // SAFETY: the stream owns the descriptor and lives across the borrow.
            let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.as_raw_fd()) };
            let Ok(fd) = borrowed.try_clone_to_owned() else { continue };
            drop(stream);
            let (home, address) = {
                let core = &mut *self.core.borrow_mut();
                let address = match listener::check(&fd, &core.context.mesh.shared.services) {
                    Admission::Denied => {
                        core.context.shard.counters.strangers_refused += 1;
                        continue;
                    }
                    Admission::Full => {
                        core.context.shard.counters.rejected_connections += 1;
                        continue;
                    }
                    Admission::Admitted(address, _) => address,
                };
                core.context.shard.counters.total_connections += 1;
                core.note_connection(What::Opened(address), fd.as_raw_fd());
                (if listener.balanced && !core.draining { core.better_home() } else { None }, address)
            };
            let session = Session::new(self.core.borrow().context.protocol);
            self.settle(Handover { fd, session, input: Vec::new(), peer: None, address, service: ServiceId::Clients }, home);
        }
    }

    fn settle(self: &Rc<Self>, handover: Handover, home: Option<ShardId>) {
        let refused = {
            let core = &mut *self.core.borrow_mut();
            let target = home.unwrap_or(core.id());
            let refused = match home {
                Some(home) => core.context.mesh.hand_over(home, Box::new(handover)).err(),
                None => Some(Box::new(handover)),
            };
            let target = if refused.is_some() { core.id() } else { target };
            core.shared().cores[target.0 as usize].connections.fetch_add(1, Relaxed);
            publish(core);
            refused
        };
        if let Some(handover) = refused {
            self.adopt(*handover);
        }
    }

    fn adopt(self: &Rc<Self>, handover: Handover) {
        let (id, draining, at) = {
            let core = &mut *self.core.borrow_mut();
            let id = core.open(Some(handover.session), handover.input, None);
            core.connections[id as usize].descriptor = handover.fd.as_raw_fd();
            (id, core.draining, core.context.at)
        };
        if draining {
            self.requests_end.set(at + limits::DRAIN_LISTEN_MS);
        }
        // SAFETY: a descriptor of our own, given to the stream for good.
        let mut stream = unsafe { TcpStream::from_raw_fd(handover.fd.into_raw_fd()) };
        let _ = stream.set_read_timeout((self.idle_timeout_s > 0).then(|| Duration::from_secs(self.idle_timeout_s.into())));
        self.open.set(self.open.get() + 1);
        let streams = self.clone();
        let task = glommio::spawn_local(async move {
            let reason = streams.converse(id, &mut stream).await;
            sys::hang_up(stream.as_raw_fd());
            drop(stream);
            streams.close(id, handover.address, reason);
        });
        self.tasks.borrow_mut().insert(id, task.detach());
    }

    fn close(&self, id: u32, address: Option<SocketAddr>, reason: CloseReason) {
        let mut core = self.core.borrow_mut();
        if let Some(connection) = core.close(id) {
            core.note_connection(What::Closed(address, reason), connection.descriptor);
        }
        let shared = core.shared();
        shared.cores[core.id().0 as usize].connections.fetch_sub(1, Relaxed);
        shared.services.leave(ServiceId::Clients);
        self.open.set(self.open.get() - 1);
        self.tasks.borrow_mut().remove(&id);
    }

    async fn converse(self: &Rc<Self>, id: u32, stream: &mut TcpStream) -> CloseReason {
        let mut input = vec![0; READ_BYTES];
        let mut output = Buffer::default();
        let (mut length, mut reason) = (0, CloseReason::Normal);
        loop {
            let mut flow = self.step(id, &input[..length], &mut output);
            loop {
                self.core.borrow_mut().connections[id as usize].unsent = output.total_bytes() > 0;
                if write(stream, &mut output).await.is_err() {
                    return CloseReason::Error;
                }
                self.core.borrow_mut().confirm_parts(|part| part == id);
                let (drained, control, watches_to_the_end) = {
                    let core = &mut *self.core.borrow_mut();
                    let draining = core.draining;
                    let connection = &mut core.connections[id as usize];
                    connection.unsent = false;
                    (connection.is_drained(), connection.waits_for_control(), draining && connection.is_watching())
                };
                if drained && flow != Flow::Blocked {
                    break;
                }
                if watches_to_the_end {
                    return CloseReason::Shutdown;
                }
                if flow == Flow::Blocked && !control && drained {
                    sleep(RETRY).await;
                } else {
                    self.news().await;
                }
                flow = self.step(id, &[], &mut output);
            }
            let (draining, at) = {
                let core = self.core.borrow();
                (core.draining, core.context.at)
            };
            if flow == Flow::Closing {
                self.linger(id, stream, &mut input).await;
                return reason;
            }
            if draining && at >= self.requests_end.get() {
                return CloseReason::Shutdown;
            }
            if draining {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(limits::DRAIN_LISTEN_MS)));
            }
            length = match self.read(id, stream, &mut input).await {
                Err(_) if draining => return CloseReason::Shutdown,
                Ok(length) if length > 0 => length,
                end => {
                    reason = match end {
                        Ok(_) => CloseReason::Normal,
                        Err(error) if error.kind() == io::ErrorKind::TimedOut => CloseReason::IdleTimeout,
                        Err(_) => CloseReason::Error,
                    };
                    self.core.borrow_mut().connections[id as usize].end_of_input();
                    0
                }
            };
        }
    }

    /// Reads. An HTTP client is looked at once a second, and answered where it is overdue.
    async fn read(&self, id: u32, stream: &mut TcpStream, input: &mut [u8]) -> io::Result<usize> {
        let mut waited_s = 0;
        while self.core.borrow().connections[id as usize].is_http() && !self.core.borrow().draining {
            let mut output = Buffer::default();
            {
                let core = &mut *self.core.borrow_mut();
                core.begin_turn();
                let second = core.context.second();
                let connection = &mut core.connections[id as usize];
                if connection.is_overdue(second) {
                    connection.time_out(&mut core.context.shard.counters, &mut output);
                }
            }
            let is_idle = self.idle_timeout_s > 0 && waited_s >= self.idle_timeout_s;
            if is_idle || self.core.borrow().connections[id as usize].is_closing() {
                write(stream, &mut output).await?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            match stream.read(input).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => waited_s += 1,
                end => return end,
            }
        }
        stream.read(input).await
    }

    /// Ends the output of an HTTP client that was refused, and drops what it still sends (`pump::linger`).
    async fn linger(&self, id: u32, stream: &mut TcpStream, input: &mut [u8]) {
        let lingers = self.core.borrow().connections[id as usize].lingers() && !self.core.borrow().draining;
        if !lingers {
            return;
        }
        sys::end_output(stream.as_raw_fd());
        let _ = stream.set_read_timeout(Some(Duration::from_secs(limits::HTTP_LINGER_S_MAX.into())));
        let at = || self.core.borrow().shared().clock.at();
        let (end, mut left) = (at() + u64::from(limits::HTTP_LINGER_S_MAX) * 1000, limits::HTTP_LINGER_BYTES_MAX);
        while let Ok(count) = stream.read(input).await
            && count > 0
            && left > count
            && at() < end
        {
            left -= count;
        }
    }

    fn step(&self, id: u32, bytes: &[u8], output: &mut Buffer) -> Flow {
        let core = &mut *self.core.borrow_mut();
        core.begin_turn();
        core.flush(id, output);
        let flow = core.receive(id, bytes, output);
        let now = core.context.now;
        core.context.shard.engine.tick(now, UPKEEP_BUDGET);
        core.context.end_turn();
        let counters = &mut core.context.shard.counters;
        counters.bytes_read += bytes.len() as u64;
        counters.bytes_written += output.total_bytes() as u64;
        publish(core);
        flow
    }

    /// Waits until something has come to this core.
    async fn news(&self) {
        let mut registered = false;
        poll_fn(|task| {
            if std::mem::replace(&mut registered, true) {
                return Poll::Ready(());
            }
            self.sleepers.borrow_mut().push(task.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Lets the other cores see what this one wrote.
fn publish(core: &mut Core) {
    core.context.mesh.publish(CoreState::write_doorbell);
    if core.context.arena.wanted_bytes() > 0 {
        core.context.mesh.nudge(CoreState::write_doorbell);
    }
}

async fn write(stream: &mut TcpStream, output: &mut Buffer) -> io::Result<()> {
    let mut from = 0;
    for inset in &output.bodies {
        stream.write_all(&output.bytes[from..inset.offset]).await?;
        from = inset.offset;
        for slice in inset.slices() {
            stream.write_all(slice).await?;
        }
    }
    stream.write_all(&output.bytes[from..]).await?;
    output.clear();
    Ok(())
}

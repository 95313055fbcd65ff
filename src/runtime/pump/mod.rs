//! The pump: one task of the core's executor that owns an io_uring and drives the core with it, turn by turn.
//!
//! ```text
//!   turn:  completions -> receive (parse, execute, encode into the turn's output) -> links, inbox, blocked ones, upkeep
//!          -> one send per connection with output -> wake-ups for other cores -> enter (submits, waits)
//!
//!   sends: MSG_DONTWAIT | MSG_WAITALL and CQE_SKIP_SUCCESS: complete during `enter`, and only the ones that did not go out
//!          whole report. So the turn's output is free again as soon as `enter` returns; what is left over goes to a backlog.
//!
//!   idle:  wait in the own io_uring -> after two ticks without traffic park in glommio, woken by an eventfd
//! ```
//!
//! Lives here: sockets and the order of a turn. Not here: what bytes mean (`core`, `connection`), the io_uring itself (`uring`).
//! Unsafe lives here: submissions point into the turn's output, which is not touched between the push and the `enter`.

mod dial;
mod drain;
mod linger;
mod moves;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use socket2::SockAddr;

use self::drain::Drain;
use self::linger::Lingering;
use crate::buffer::Buffer;
use crate::limits;
use crate::observe::events::{CloseReason, What};
use crate::routing::ShardId;
use crate::runtime::backlog::Backlog;
use crate::runtime::connection::Flow;
use crate::runtime::core::Core;
use crate::runtime::listener::{self, Listener};
use crate::runtime::mesh::CoreState;
use crate::runtime::park::Doorbell;
use crate::runtime::service::ServiceId;
use crate::runtime::sys;
use crate::runtime::uring::{BUFFER_GROUP, Completion, Kind, Mark, Uring};

/// A timer that runs on while the core waits in its own io_uring; glommio's tasks are late by as much. A timeout per wait would have to be
/// set and taken back each time: on a virtual machine that cost a core with one client a fifth of its time. Each tick wakes a thread that
/// has nothing to do, and where all CPUs are in use somebody's request waits for it: with 10 ms a store in a thousand took twice as long.
static TICK: types::Timespec = types::Timespec::new().nsec(100_000_000);
/// The same in a ring, whose deadlines are hundreds of milliseconds away.
static DEADLINE_TICK: types::Timespec = types::Timespec::new().nsec(10_000_000);
/// The same while items go to another node, a few each time.
static PACED_TICK: types::Timespec = types::Timespec::new().nsec(1_000_000);
/// Ticks without traffic after which the core parks in glommio.
const IDLE_TICKS_BEFORE_PARK: u32 = 2;
/// Wait of a core that drains.
const WAIT_DRAINING: Duration = Duration::from_millis(1);
/// Wait when only blocked conversations remain: memory or a link is expected within microseconds.
const WAIT_BLOCKED: Duration = Duration::from_micros(50);
/// Output of a turn that is sent before the turn goes on, in bytes: many connections with long replies do not make it grow. Smaller
/// values (32 KiB) were tried for the cache's sake and gained nothing: the client wakes earlier and batches less.
const OUTPUT_FLUSH_BYTES: usize = 192 << 10;
/// Received bytes up to which they are taken for one request.
const SINGLE_REQUEST_BYTES: i32 = 256;
/// Items that upkeep may touch in one turn.
const UPKEEP_BUDGET: u32 = 64;

/// One connection's socket.
struct Socket {
    fd: OwnedFd,
    generation: u32,
    /// A multishot receive is armed.
    receiving: bool,
    /// Its cancellation is under way: to pause, or to move.
    cancelling: bool,
    /// Receives are armed one by one: a multishot receive brings up to 256 KiB before it can be stopped, which would have to be
    /// held for a client that sends faster than it reads.
    single: bool,
    /// In the list of blocked ones.
    blocked: bool,
    /// In the list of those to be closed.
    closing: bool,
    /// Its output has ended; what still comes is dropped.
    lingering: Option<Lingering>,
    moving_to: Option<ShardId>,
    /// Made by this core: a link to another node, which is no client.
    outgoing: bool,
    /// What it counts as, unless this core has made it.
    service: ServiceId,
    /// Range of this turn's output, if any.
    output: Option<(u32, u32)>,
    backlog: Option<Box<Backlog>>,
    /// Second of the last traffic, by `Context::second`.
    active_s: u32,
    /// Where the client is; `None` on a unix socket.
    address: Option<SocketAddr>,
}

impl Socket {
    fn new(fd: OwnedFd, generation: u32, active_s: u32) -> Self {
        Self {
            fd,
            generation,
            receiving: false,
            cancelling: false,
            single: false,
            blocked: false,
            closing: false,
            lingering: None,
            moving_to: None,
            outgoing: false,
            service: ServiceId::Clients,
            output: None,
            backlog: None,
            active_s,
            address: None,
        }
    }
}

/// The sockets of one core and the io_uring that moves their bytes.
pub struct Pump {
    core: Core,
    uring: Uring,
    doorbell: Rc<Doorbell>,
    doorbell_value: Box<u64>,
    listeners: Vec<Listener>,
    sockets: Vec<Option<Socket>>,
    /// Completions of the last `enter`.
    completions: Vec<Completion>,
    /// The other vector of completions: one is filled while one is handled.
    spare: Vec<Completion>,
    /// Output of this turn.
    output: Buffer,
    /// Connections with a range of `output`, in order.
    senders: Vec<u32>,
    /// Connections that could not go on.
    blocked: Vec<u32>,
    /// Connections to be closed when their output is out.
    closers: Vec<u32>,
    /// Backlogs of closed connections whose last send has not ended.
    dying_sends: Vec<(Mark, Box<Backlog>)>,
    /// Addresses of links that are being connected: the kernel reads them until it is done.
    connecting: Vec<(Mark, Box<SockAddr>)>,
    /// Ticks since the last traffic.
    idle_ticks: u32,
    /// A tick is under way.
    ticking: bool,
    idle_timeout_s: u32,
    /// Accepts that are armed.
    accepting: u32,
    drain: Option<Drain>,
    swept_s: u32,
}

impl Pump {
    /// A pump over `listeners`, set up on the thread that will run it.
    ///
    /// # Errors
    /// When the io_uring or the doorbell cannot be had.
    pub fn new(core: Core, listeners: Vec<Listener>, idle_timeout_s: u32) -> io::Result<Self> {
        let mut uring = Uring::new()?;
        let doorbell = Doorbell::new()?;
        uring.register_eventfd(doorbell.signal_fd())?;
        let state = core.context.mesh.own_state();
        state.uring_fd.store(uring.fd() as u32 + 1, Release);
        state.doorbell.store(doorbell.bell_fd() as u32 + 1, Release);
        let mut pump = Self {
            core,
            uring,
            doorbell,
            doorbell_value: Box::new(0),
            listeners,
            sockets: Vec::new(),
            completions: Vec::with_capacity(1024),
            spare: Vec::with_capacity(1024),
            output: Buffer::with_capacity(4 * limits::OUTPUT_TURN_BYTES_MAX),
            senders: Vec::new(),
            blocked: Vec::new(),
            closers: Vec::new(),
            dying_sends: Vec::new(),
            connecting: Vec::new(),
            idle_ticks: 0,
            ticking: false,
            idle_timeout_s,
            accepting: 0,
            drain: None,
            swept_s: 0,
        };
        (0..pump.listeners.len()).for_each(|index| pump.arm_accept(index));
        pump.arm_doorbell();
        pump.uring.enter(0, None)?;
        Ok(pump)
    }

    /// Runs until the control plane asked to drain and the connections are gone.
    ///
    /// # Errors
    /// A broken io_uring.
    pub async fn run(mut self) -> io::Result<()> {
        let helpers = self.doorbell.clone().start();
        while !self.finished() {
            let busy = self.turn();
            self.wait(busy).await?;
            glommio::executor().yield_if_needed().await;
        }
        helpers.end().await;
        Ok(())
    }

    /// Handles what the last `enter` brought. Returns whether there is more to do at once.
    fn turn(&mut self) -> bool {
        self.core.begin_turn();
        let mut completions = std::mem::replace(&mut self.completions, std::mem::take(&mut self.spare));
        let mut any = false;
        for batch in completions.chunks(limits::BATCH_COMMANDS_MAX) {
            self.foresee(batch);
            for &completion in batch {
                any |= completion.mark.kind() != Kind::Tick;
                self.handle_completion(completion);
                if self.output.bytes.len() >= OUTPUT_FLUSH_BYTES {
                    self.send_early();
                }
            }
        }
        completions.clear();
        self.spare = completions;
        any |= self.core.pull();
        any |= self.core.pull_inbox();
        self.adopt();
        self.retry_blocked();
        self.attend_nodes();
        self.flush_connections();
        let now = self.core.context.now;
        let more_upkeep = self.core.context.shard.engine.tick(now, UPKEEP_BUDGET);
        if self.core.context.second() != self.swept_s {
            self.sweep();
        }
        if any {
            self.idle_ticks = 0;
            self.core.context.end_turn();
        }
        self.push_sends();
        self.wake_others();
        self.uring.publish_buffers();
        more_upkeep
    }

    /// Lets the engine fetch what single requests of several connections will need. Longer pieces are foreseen as they are parsed.
    fn foresee(&mut self, batch: &[Completion]) {
        if batch.len() < 2 {
            return;
        }
        let uring = &self.uring;
        self.core.foresee(batch.iter().filter_map(|completion| {
            let short = completion.mark.kind() == Kind::Receive && (1..=SINGLE_REQUEST_BYTES).contains(&completion.result);
            let buffer = completion.buffer().filter(|_| short)?;
            Some((completion.mark.index(), uring.received(buffer, completion.result as usize)))
        }));
    }

    /// Sends what the turn has made so far, so that its output stays small.
    fn send_early(&mut self) {
        self.push_sends();
        // A broken io_uring shows itself at the end of the turn; until then the output stays, because entries may point to it.
        if self.uring.enter(0, None).is_ok() {
            self.collect();
        }
    }

    /// Submits, waits if there is nothing to do, and collects the completions.
    async fn wait(&mut self, busy: bool) -> io::Result<()> {
        if busy || !self.closers.is_empty() {
            self.uring.enter(0, None)?;
        } else if !self.blocked.is_empty() {
            self.uring.enter(1, Some(WAIT_BLOCKED))?;
        } else {
            // Sending takes long enough for others to answer: a core that sends is not asleep, and need not be woken.
            if self.core.has_peers() && !self.senders.is_empty() {
                self.uring.enter(0, None)?;
            }
            self.core.context.mesh.own_state().prepare_to_wait();
            if self.core.has_inbound() || self.uring.has_completions() {
                self.uring.enter(0, None)?;
            } else if self.core.draining {
                self.uring.enter(1, Some(WAIT_DRAINING))?;
            } else if self.idle_ticks < IDLE_TICKS_BEFORE_PARK || self.core.has_deadlines() {
                self.arm_tick();
                self.uring.enter(1, None)?;
            } else {
                self.park().await?;
            }
            self.core.context.mesh.own_state().awake();
        }
        self.collect();
        Ok(())
    }

    /// Sleeps in glommio until a completion or the doorbell, or the tick of a second.
    async fn park(&mut self) -> io::Result<()> {
        self.core.publish_figures();
        self.uring.signal_completions(true);
        self.uring.enter(0, None)?;
        if !self.uring.has_completions() && !self.core.has_inbound() {
            self.doorbell.wait().await;
            self.uring.enter(0, None)?;
        }
        self.uring.signal_completions(false);
        Ok(())
    }

    /// Takes the completions. Sends that did not go out whole are handled at once, because the turn's output is reused.
    fn collect(&mut self) {
        let (completions, sockets) = (&mut self.completions, &mut self.sockets);
        let (output, held) = (&self.output, &self.core.context.held_bytes);
        let (mut leftovers, mut broken) = (false, Vec::new());
        self.uring.completions(|_, completion| {
            if completion.mark.kind() != Kind::Send {
                completions.push(completion);
                return;
            }
            let (mark, id) = (completion.mark, completion.mark.index());
            let socket = sockets.get_mut(id as usize).and_then(Option::as_mut);
            let Some(socket) = socket.filter(|socket| mark.is_of(socket.generation)) else { return };
            let Some((start, end)) = socket.output else { return };
            match completion.result {
                sent if sent >= 0 => {
                    let rest = &output.bytes[start as usize + sent as usize..end as usize];
                    socket.backlog.get_or_insert_with(|| Backlog::new(held)).put(rest);
                    leftovers = true;
                }
                error if error == -libc::EAGAIN => {
                    let rest = &output.bytes[start as usize..end as usize];
                    socket.backlog.get_or_insert_with(|| Backlog::new(held)).put(rest);
                    leftovers = true;
                }
                _ => broken.push(id),
            }
        });
        let senders = std::mem::take(&mut self.senders);
        for &id in &senders {
            let Some(socket) = self.sockets[id as usize].as_mut() else { continue };
            socket.output = None;
            if leftovers && socket.backlog.is_some() {
                self.core.connections[id as usize].unsent = true;
                self.send_backlog(id);
            }
        }
        self.senders = senders;
        self.senders.clear();
        self.output.clear();
        if !self.core.parts.is_empty() {
            let sockets = &self.sockets;
            self.core.confirm_parts(|id| sockets[id as usize].as_ref().is_some_and(|socket| socket.backlog.is_none()));
        }
        broken.into_iter().for_each(|id| self.close_now(id, CloseReason::Error));
        self.close_drained();
    }

    fn handle_completion(&mut self, completion: Completion) {
        let (mark, result) = (completion.mark, completion.result);
        match mark.kind() {
            Kind::Receive => self.handle_receive(completion),
            Kind::Accept => self.handle_accept(completion),
            Kind::Backlog => self.handle_backlog(mark, result),
            Kind::Doorbell => self.arm_doorbell(),
            Kind::Connect => self.handle_connect(mark, result),
            Kind::Tick => {
                self.ticking = false;
                self.idle_ticks += 1;
            }
            Kind::Send | Kind::Wake | Kind::Cancel => {}
        }
    }

    fn handle_receive(&mut self, completion: Completion) {
        let (mark, result) = (completion.mark, completion.result);
        let id = mark.index();
        let (mut holds, mut lingers) = (false, false);
        let live = match self.sockets.get_mut(id as usize).and_then(Option::as_mut) {
            Some(socket) if mark.is_of(socket.generation) => {
                if !completion.more() {
                    socket.receiving = false;
                    socket.cancelling = false;
                }
                // A reader that has not taken its last output gets no more: its requests wait.
                // Answers of other nodes are always taken: they would wait for each other's readers.
                holds = !socket.outgoing && (socket.backlog.is_some() || socket.blocked);
                lingers = socket.lingering.is_some();
                true
            }
            _ => false,
        };
        if lingers {
            return self.receive_lingering(id, completion);
        }
        if let Some(buffer) = completion.buffer() {
            if live && result > 0 {
                let bodies_start = self.output.bodies.len();
                let start = self.output.bytes.len();
                let received = self.uring.received(buffer, result as usize);
                self.core.context.shard.counters.bytes_read += result as u64;
                let flow = match self.core.connections.get_mut(id as usize) {
                    Some(connection) if holds => {
                        connection.buffer(received, &self.core.context);
                        Flow::Blocked
                    }
                    _ => self.core.receive(id, received, &mut self.output),
                };
                self.uring.recycle(buffer);
                self.emit(id, start, bodies_start);
                self.follow(id, flow);
                return;
            }
            self.uring.recycle(buffer);
        }
        if !live {
            return;
        }
        match -result {
            0 => self.handle_end(id),
            libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.go_on(id),
            _ => self.close_now(id, CloseReason::Error),
        }
    }

    /// After some bytes were handled: arms, pauses, moves or closes as the conversation wants.
    fn follow(&mut self, id: u32, flow: Flow) {
        let Some(socket) = self.sockets[id as usize].as_mut() else { return };
        socket.active_s = self.core.context.second();
        if socket.service != ServiceId::Nodes && !socket.outgoing && self.core.connections[id as usize].is_peer() {
            let shared = self.core.shared();
            socket.service = shared.services.prove(socket.service);
        }
        match flow {
            Flow::Read if socket.receiving => {
                if self.core.context.mesh.peers_count() > 1 {
                    self.consider_moving(id);
                }
            }
            Flow::Read => self.go_on(id),
            Flow::Blocked => {
                let connection = &self.core.connections[id as usize];
                if !socket.blocked && socket.backlog.is_none() && !connection.waits_for_control() {
                    socket.blocked = true;
                    self.blocked.push(id);
                }
                if socket.receiving && !socket.cancelling && connection.input_bytes() > limits::INPUT_PAUSE_BYTES {
                    socket.single = true;
                    socket.cancelling = true;
                    self.cancel(Mark::new(Kind::Receive, self.sockets_generation(id), id));
                }
            }
            Flow::Closing => close_later(socket, id, &mut self.closers),
        }
    }

    /// The receive ended without end of input: move, stay paused, or arm it again.
    fn go_on(&mut self, id: u32) {
        let Some(socket) = self.sockets[id as usize].as_mut() else { return };
        if socket.receiving || socket.closing {
            return;
        }
        let connection = &self.core.connections[id as usize];
        if let Some(core) = socket.moving_to.take()
            && connection.belongs_to() == Some(core)
            && socket.backlog.is_none()
            && socket.output.is_none()
        {
            self.move_to(id, core);
            return;
        }
        if !connection.is_blocked() || connection.input_bytes() <= limits::INPUT_PAUSE_BYTES {
            self.arm_receive(id);
        }
    }

    fn handle_end(&mut self, id: u32) {
        let Some(connection) = self.core.connections.get_mut(id as usize) else { return };
        connection.end_of_input();
        if let Some(socket) = self.sockets[id as usize].as_mut()
            && connection.is_closing()
        {
            close_later(socket, id, &mut self.closers);
        }
    }

    /// Notes the output that a conversation wrote behind `start`, to be sent at the end of the turn.
    fn emit(&mut self, id: u32, start: usize, bodies_start: usize) {
        let Some(socket) = self.sockets[id as usize].as_mut() else {
            self.output.bytes.truncate(start);
            self.output.bodies.truncate(bodies_start);
            return;
        };
        let end = self.output.bytes.len();
        let has_bodies = self.output.bodies.len() > bodies_start;
        if end == start && !has_bodies {
            return;
        }
        self.core.context.shard.counters.bytes_written += (end - start) as u64;
        if socket.backlog.is_none() && !has_bodies {
            match &mut socket.output {
                None => {
                    socket.output = Some((start as u32, end as u32));
                    self.senders.push(id);
                    return;
                }
                Some((_, previous)) if *previous as usize == start => {
                    *previous = end as u32;
                    return;
                }
                Some(_) => {}
            }
        }
        let backlog = socket.backlog.get_or_insert_with(|| Backlog::new(&self.core.context.held_bytes));
        if let Some((start, end)) = socket.output.take() {
            backlog.put(&self.output.bytes[start as usize..end as usize]);
        }
        for inset in &self.output.bodies[bodies_start..] {
            self.core.context.shard.counters.bytes_written += inset.len() as u64;
        }
        backlog.take_from(&mut self.output, start, bodies_start);
        self.core.connections[id as usize].unsent = true;
        self.send_backlog(id);
    }

    /// One send per connection with output. Points into `output`, which stays as it is until `enter` has returned.
    fn push_sends(&mut self) {
        let base = self.output.bytes.as_ptr();
        for index in 0..self.senders.len() {
            let id = self.senders[index];
            let Some(socket) = &self.sockets[id as usize] else { continue };
            let Some((start, end)) = socket.output else { continue };
            // SAFETY: the range was written this turn, so it lies inside the output.
            let bytes = unsafe { base.add(start as usize) };
            let entry = opcode::Send::new(types::Fd(socket.fd.as_raw_fd()), bytes, end - start)
                .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Mark::new(Kind::Send, socket.generation, id).0);
            // SAFETY: DONTWAIT sends end within the next `enter`; the output is cleared only in `collect`, behind it.
            unsafe { self.uring.push(&entry) };
        }
    }

    fn send_backlog(&mut self, id: u32) {
        let Some(socket) = self.sockets[id as usize].as_mut() else { return };
        let Some(backlog) = &mut socket.backlog else { return };
        if backlog.sending || backlog.is_empty() {
            return;
        }
        backlog.sending = true;
        let mark = Mark::new(Kind::Backlog, socket.generation, id);
        let entry = opcode::SendMsg::new(types::Fd(socket.fd.as_raw_fd()), backlog.message())
            .flags(libc::MSG_NOSIGNAL as u32)
            .build()
            .user_data(mark.0);
        // SAFETY: the backlog is boxed and lives until this send has ended, in the socket or in `dying_sends`.
        unsafe { self.uring.push(&entry) };
    }

    fn handle_backlog(&mut self, mark: Mark, result: i32) {
        let id = mark.index();
        let socket = self.sockets.get_mut(id as usize).and_then(Option::as_mut);
        let Some(socket) = socket.filter(|socket| mark.is_of(socket.generation)) else {
            self.dying_sends.retain(|(send, _)| *send != mark);
            return;
        };
        let Some(backlog) = &mut socket.backlog else { return };
        backlog.sending = false;
        match result {
            sent if sent >= 0 => backlog.advance(sent as usize),
            error if error == -libc::EAGAIN || error == -libc::EINTR => {}
            _ => {
                self.close_now(id, CloseReason::Error);
                return;
            }
        }
        socket.active_s = self.core.context.second();
        if !backlog.is_empty() {
            self.send_backlog(id);
            return;
        }
        socket.backlog = None;
        self.core.connections[id as usize].unsent = false;
        if self.core.connections[id as usize].is_closing() {
            close_later(socket, id, &mut self.closers);
        } else if self.core.connections[id as usize].is_blocked() {
            self.resume(id);
        } else {
            self.go_on(id);
        }
    }

    /// Lets a conversation go on with what it has.
    fn resume(&mut self, id: u32) {
        let (start, bodies_start) = (self.output.bytes.len(), self.output.bodies.len());
        self.core.flush(id, &mut self.output);
        let flow = self.core.receive(id, &[], &mut self.output);
        self.emit(id, start, bodies_start);
        self.follow(id, flow);
    }

    fn retry_blocked(&mut self) {
        let mut blocked = std::mem::take(&mut self.blocked);
        for id in blocked.drain(..) {
            let Some(socket) = self.sockets[id as usize].as_mut() else { continue };
            socket.blocked = false;
            if socket.backlog.is_none() {
                self.resume(id);
            }
        }
        if self.blocked.is_empty() {
            self.blocked = blocked;
        }
    }

    fn flush_connections(&mut self) {
        let mut to_flush = std::mem::take(&mut self.core.to_flush);
        for id in to_flush.drain(..) {
            let Some(connection) = self.core.connections.get(id as usize) else { continue };
            if connection.is_blocked() && self.sockets[id as usize].as_ref().is_some_and(|s| s.backlog.is_none()) {
                self.resume(id);
                continue;
            }
            let (start, bodies_start) = (self.output.bytes.len(), self.output.bodies.len());
            self.core.flush(id, &mut self.output);
            self.emit(id, start, bodies_start);
            match self.sockets[id as usize].as_mut() {
                Some(socket) if self.core.connections[id as usize].is_closing() => {
                    close_later(socket, id, &mut self.closers);
                }
                Some(socket) if socket.receiving => self.consider_moving(id),
                _ => {}
            }
        }
        self.core.to_flush = to_flush;
    }

    fn seat(&mut self, id: u32, socket: Socket) {
        let index = id as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(socket);
    }

    fn wake_others(&mut self) {
        let uring = &mut self.uring;
        self.core.context.mesh.publish(|state| wake(uring, state));
        if self.core.context.arena.wanted_bytes() > 0 {
            self.core.context.mesh.nudge(|state| wake(uring, state));
        }
    }

    fn handle_accept(&mut self, completion: Completion) {
        let index = completion.mark.index() as usize;
        if !completion.more() {
            self.accepting -= 1;
            if self.drain.as_ref().is_none_or(Drain::accepts) {
                self.arm_accept(index);
            }
        }
        if completion.result < 0 {
            self.core.context.shard.counters.accept_errors += u64::from(!self.core.draining);
            return;
        }
        // SAFETY: a fresh descriptor that the kernel gave to this completion alone.
        let fd = unsafe { OwnedFd::from_raw_fd(completion.result) };
        let Some(listener) = self.listeners.get(index) else { return };
        let counters = &mut self.core.context.shard.counters;
        match listener::check(&fd, &self.core.context.mesh.shared.services) {
            listener::Admission::Denied => counters.strangers_refused += 1,
            listener::Admission::Full => counters.rejected_connections += 1,
            listener::Admission::Admitted(address, service) => {
                counters.total_connections += 1;
                let home = if listener.balanced && !self.core.draining { self.core.better_home() } else { None };
                self.settle(fd, (address, service), home);
            }
        }
    }

    fn sockets_generation(&self, id: u32) -> u32 {
        self.sockets[id as usize].as_ref().map_or(0, |socket| socket.generation)
    }

    fn arm_receive(&mut self, id: u32) {
        let Some(socket) = self.sockets[id as usize].as_mut() else { return };
        socket.receiving = true;
        let fd = types::Fd(socket.fd.as_raw_fd());
        let entry = if socket.single {
            let receive = opcode::Recv::new(fd, std::ptr::null_mut(), limits::RECEIVE_BUFFER_BYTES as u32)
                .buf_group(BUFFER_GROUP)
                .build();
            receive.flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, BUFFER_GROUP).build()
        };
        let entry = entry.user_data(Mark::new(Kind::Receive, socket.generation, id).0);
        // SAFETY: the entry points nowhere; the buffers are the ring's.
        unsafe { self.uring.push(&entry) };
    }

    fn arm_accept(&mut self, index: usize) {
        self.accepting += 1;
        let fd = self.listeners[index].fd.as_raw_fd();
        let entry = opcode::AcceptMulti::new(types::Fd(fd))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Mark::new(Kind::Accept, 0, index as u32).0);
        // SAFETY: the entry points nowhere.
        unsafe { self.uring.push(&entry) };
    }

    fn arm_doorbell(&mut self) {
        let value: *mut u64 = &mut *self.doorbell_value;
        let entry = opcode::Read::new(types::Fd(self.doorbell.heard_fd()), value.cast(), 8)
            .build()
            .user_data(Mark::new(Kind::Doorbell, 0, 0).0);
        // SAFETY: the value is boxed and lives as long as the pump, which drops its ring first (field order).
        unsafe { self.uring.push(&entry) };
    }

    /// Keeps one tick under way while the core waits in its io_uring.
    fn arm_tick(&mut self) {
        if self.ticking {
            return;
        }
        self.ticking = true;
        let tick = match &self.core.context.shard.cluster {
            None => &raw const TICK,
            Some(_) if self.core.is_paced() => &raw const PACED_TICK,
            Some(_) => &raw const DEADLINE_TICK,
        };
        let entry = opcode::Timeout::new(tick).build().user_data(Mark::new(Kind::Tick, 0, 0).0);
        // SAFETY: both times are static.
        unsafe { self.uring.push(&entry) };
    }

    fn cancel(&mut self, mark: Mark) {
        let entry = opcode::AsyncCancel::new(mark.0)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Mark::new(Kind::Cancel, 0, 0).0);
        // SAFETY: the entry points nowhere.
        unsafe { self.uring.push(&entry) };
    }

    /// Closes the connections that have nothing more to send.
    fn close_drained(&mut self) {
        if self.closers.is_empty() {
            return;
        }
        let mut closers = std::mem::take(&mut self.closers);
        closers.retain(|&id| {
            let Some(socket) = self.sockets[id as usize].as_ref() else { return false };
            let waiting = self.core.connections.get(id as usize).is_some_and(|connection| !connection.is_drained());
            if socket.backlog.is_none() && !waiting {
                if !self.linger(id) {
                    self.close_now(id, CloseReason::Normal);
                }
                return false;
            }
            // Waiting for a core, a reader, or the control plane: its completion calls `close_later` again.
            if let Some(socket) = self.sockets[id as usize].as_mut() {
                socket.closing = false;
            }
            false
        });
        self.closers.append(&mut closers);
    }

    fn close_now(&mut self, id: u32, reason: CloseReason) {
        let Some(mut socket) = self.sockets[id as usize].take() else { return };
        self.core.close(id);
        if !socket.outgoing {
            self.core.note_connection(What::Closed(socket.address, reason), socket.fd.as_raw_fd());
            let shared = self.core.shared();
            shared.cores[self.core.id().0 as usize].connections.fetch_sub(1, Relaxed);
            shared.services.leave(socket.service);
        }
        if socket.output.is_some() {
            // Whoever gets this index in the same turn sends for itself.
            self.senders.retain(|&sender| sender != id);
        }
        let sending = socket.backlog.as_ref().is_some_and(|backlog| backlog.sending);
        if self.core.draining {
            sys::hang_up(socket.fd.as_raw_fd());
        } else if socket.receiving || sending {
            sys::shutdown(socket.fd.as_raw_fd());
        }
        if let Some(backlog) = socket.backlog.take().filter(|_| sending) {
            self.dying_sends.push((Mark::new(Kind::Backlog, socket.generation, id), backlog));
        }
    }

    /// Once a second: idle connections, and those past their deadlines.
    fn sweep(&mut self) {
        let second = self.core.context.second();
        self.swept_s = second;
        let serves_http = std::mem::take(&mut self.core.context.serves_http);
        if self.idle_timeout_s == 0 && self.core.context.shard.cluster.is_none() && !serves_http {
            return;
        }
        for id in 0..self.sockets.len() as u32 {
            let Some(socket) = &self.sockets[id as usize] else { continue };
            let connection = self.core.connections.get(id as usize);
            let patience_s = connection.map_or(0, |connection| connection.patience_s(self.idle_timeout_s));
            if patience_s > 0 && socket.active_s.saturating_add(patience_s) <= second {
                self.core.context.shard.counters.idle_kicks += 1;
                self.close_now(id, CloseReason::IdleTimeout);
            } else if connection.is_some_and(|connection| connection.is_http()) {
                self.core.context.serves_http = true;
                self.enforce_deadlines(id);
            }
        }
    }
}

/// Wakes a core that sleeps: through its io_uring, or by its doorbell where it has none.
fn wake(uring: &mut Uring, state: &CoreState) {
    let Some(fd) = state.uring_fd.load(Relaxed).checked_sub(1) else { return state.write_doorbell() };
    let entry = opcode::MsgRingData::new(types::Fd(fd as RawFd), 0, Mark::new(Kind::Wake, 0, 0).0, None)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(Mark::new(Kind::Cancel, 0, 0).0);
    // SAFETY: the entry points nowhere.
    unsafe { uring.push(&entry) };
}

fn close_later(socket: &mut Socket, id: u32, closers: &mut Vec<u32>) {
    if !socket.closing {
        socket.closing = true;
        closers.push(id);
    }
}

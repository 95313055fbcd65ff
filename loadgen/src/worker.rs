//! One thread of the client: its pump, its connections, and the loop that keeps them busy.
//!
//! ```text
//!   turn:  pump (send all, wait) -> answers: step, judge, count -> free places -> next requests -> outboxes to the pump
//!   closed loop: a free place is filled at once                    open loop: a place is filled when a request is due
//! ```
//!
//! The clock is read once a turn, right after the wait: an answer counts as arrived, and a new request as started, then.
//!
//! Lives here: places in flight, intended times, the phases of one thread. Not here: bytes (`doors`), what is true
//! (`verify`), threads and phases of all (`session`).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use crate::arrivals::Arrivals;
use crate::doors::Door;
use crate::interrupt;
use crate::lane::{Connection, Lane};
use crate::pump::{Event, Pump};
use crate::request::Times;
use crate::shards::ShardMap;
use crate::tally::{Interval, Tally};
use crate::target::Target;
use crate::verify::Ledger;
use crate::work::Work;

/// What a thread is made from.
pub struct Setup {
    /// Number of this thread among `threads_count`.
    pub thread: u32,
    /// How many threads there are.
    pub threads_count: u32,
    /// What to ask for.
    pub work: Arc<Work>,
    /// What was written.
    pub ledger: Arc<Ledger>,
    /// The protocol.
    pub door: Door,
    /// Where each connection leads.
    pub targets: Vec<Target>,
    /// A request without an answer for so long ends its connection.
    pub timeout: Duration,
    /// Whether values are read and judged.
    pub verify: bool,
    /// Requests after which a connection is closed and opened again, 0: never.
    pub churn: u64,
    /// Open loop: poll shortly before a request is due.
    pub spin: bool,
    /// Which core owns a key: connections to target i are for the keys of core i.
    pub shards: Option<ShardMap>,
    /// Target of the first connection; the next ones follow in turn.
    pub first_target: usize,
}

/// What a thread is told to do.
pub enum Order {
    /// Store every key of this thread's part once.
    Load,
    /// Read every key of this thread's part once.
    Audit,
    /// Work and count.
    Measure(Plan),
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// When counting begins; work begins at once.
    pub begin: Instant,
    /// When it ends.
    pub end: Instant,
    /// Requests in flight per connection.
    pub depth: usize,
    /// Open loop: requests per second of this thread, and whether they arrive at random.
    pub rate: Option<(f64, Arrival)>,
}

/// How requests of an open loop arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// One after the other at equal distances
    Constant,
    /// At random, independent of each other
    Poisson,
}

/// What a thread tells.
pub enum Message {
    /// So many keys more are stored or read.
    Progress(u32),
    /// Loading or auditing is over.
    Walked(Box<Tally>),
    /// A second of the measurement is over.
    Second(Interval),
    /// The measurement is over.
    Finished(Box<Tally>),
    /// The thread cannot go on; what it counted until then.
    Failed(String, Box<Tally>),
}

/// The thread's side of the channel to the session.
pub struct Line {
    /// Orders come here.
    pub orders: Receiver<Order>,
    /// Messages go here, with the number of the thread.
    pub messages: Sender<(u32, Message)>,
}

struct Worker {
    pump: Pump,
    lane: Lane,
    events: Vec<Event>,
    line: Line,
    /// When counting begins or began.
    begin: u64,
}

/// Runs a thread until its channel of orders is closed.
pub fn run(setup: Setup, sockets: Vec<OwnedFd>, line: Line) {
    let (thread, messages) = (setup.thread, line.messages.clone());
    interrupt::wake_on_time();
    let result = Worker::new(setup, sockets, line).and_then(Worker::obey);
    if let Err((words, tally)) = result {
        let _ = messages.send((thread, Message::Failed(words, tally)));
    }
}

type Failure = (String, Box<Tally>);

impl Worker {
    fn new(setup: Setup, sockets: Vec<OwnedFd>, line: Line) -> Result<Self, Failure> {
        let fail = |error: std::io::Error| (ring_words(&error), Box::default());
        let mut pump = Pump::new(sockets.len() + SPARE_SOCKETS).map_err(fail)?;
        let mut lane = Lane::new(setup, sockets.len() + SPARE_SOCKETS);
        for (number, socket) in sockets.into_iter().enumerate() {
            let token = pump.add(socket).map_err(fail)?;
            let target = (lane.setup.first_target + number) % lane.setup.targets.len();
            lane.connections.push(Connection::new(target, token));
            lane.by_token[token as usize] = number;
        }
        Ok(Self { pump, lane, events: Vec::new(), line, begin: 0 })
    }

    fn obey(mut self) -> Result<(), Failure> {
        while let Ok(order) = self.line.orders.recv() {
            let done = match order {
                Order::Load => self.walk(false),
                Order::Audit => self.walk(true),
                Order::Measure(plan) => self.measure(plan),
            };
            if let Err(words) = done {
                self.lane.tally.elapsed_ns = self.lane.read_clock().saturating_sub(self.begin);
                return Err((words, Box::new(std::mem::take(&mut self.lane.tally))));
            }
        }
        Ok(())
    }

    fn tell(&self, message: Message) {
        // A session that has gone away wants no news.
        let _ = self.line.messages.send((self.lane.setup.thread, message));
    }

    /// Stores or reads every key of this thread's part once.
    fn walk(&mut self, auditing: bool) -> Result<(), String> {
        let setup = &self.lane.setup;
        let (count, threads) = (setup.work.keys.count as u64, setup.threads_count as u64);
        let first = (count * setup.thread as u64 / threads) as u32;
        let last = (count * (setup.thread as u64 + 1) / threads) as u32;
        let mean = setup.work.sizes.mean(setup.work.seed).max(1.0);
        let depth = ((LOAD_BYTES_IN_FLIGHT / mean) as usize).clamp(1, LOAD_DEPTH_MAX);
        self.lane.load = Some((first, last));
        self.lane.auditing = auditing;
        self.lane.begin(None);
        self.lane.counting = auditing;
        self.lane.loaded = 0;
        let (mut told, mut told_at) = (0, self.lane.read_clock());
        while self.lane.load.is_some_and(|(next, last)| next < last) || self.lane.in_flight() {
            self.fill(depth);
            let now = self.turn(IDLE_WAIT)?;
            if interrupt::CAUGHT.load(Ordering::Relaxed) {
                break;
            }
            if now - told_at > PROGRESS_NS {
                self.tell(Message::Progress(self.lane.loaded - told));
                (told, told_at) = (self.lane.loaded, now);
            }
        }
        self.lane.load = None;
        self.tell(Message::Progress(self.lane.loaded - told));
        self.lane.counting = false;
        let tally = Box::new(std::mem::take(&mut self.lane.tally));
        self.tell(Message::Walked(tally));
        Ok(())
    }

    fn measure(&mut self, plan: Plan) -> Result<(), String> {
        let origin = self.lane.origin;
        let since = |instant: Instant| instant.saturating_duration_since(origin).as_nanos() as u64;
        let (begin, end) = (since(plan.begin), since(plan.end));
        let mut arrivals = plan.rate.map(|(rate, arrival)| Arrivals::new(rate, arrival, self.lane.read_clock()));
        self.begin = begin;
        self.lane.begin(arrivals.is_some().then_some((begin, end)));
        let mut cpu_before = 0;
        loop {
            if !self.lane.counting && self.lane.now >= begin {
                self.lane.counting = true;
                cpu_before = thread_cpu_ns();
                self.lane.tally.turns = 0;
            }
            let now = match &mut arrivals {
                None => {
                    self.fill(plan.depth);
                    self.turn(IDLE_WAIT)?
                }
                Some(arrivals) => {
                    let wait = self.lane.dispatch(arrivals, plan.depth, end);
                    self.flush();
                    // Waking takes some tens of microseconds: who wants to be on time stays awake.
                    self.turn(if self.lane.setup.spin { wait.saturating_sub(SPIN_BEFORE) } else { wait })?
                }
            };
            if self.lane.counting && now >= begin + (self.lane.interval.second as u64 + 1) * 1_000_000_000 {
                let interval = self.lane.next_interval();
                self.tell(Message::Second(interval));
            }
            if now >= end || self.lane.exhausted() || interrupt::CAUGHT.load(Ordering::Relaxed) {
                let counted = self.lane.counting;
                self.lane.tally.cpu_ns = if counted { thread_cpu_ns() - cpu_before } else { 0 };
                self.lane.tally.elapsed_ns = now.saturating_sub(begin);
                break;
            }
        }
        self.lane.counting = false;
        self.drain(&mut arrivals, plan.depth, end)?;
        self.lane.next_interval();
        let tally = Box::new(std::mem::take(&mut self.lane.tally));
        self.tell(Message::Finished(tally));
        Ok(())
    }

    /// Waits for what is in flight. An open loop still sends what was due before the end, or its latencies would look
    /// better than they are.
    fn drain(&mut self, arrivals: &mut Option<Arrivals>, depth: usize, end: u64) -> Result<(), String> {
        let until = self.lane.read_clock() + self.lane.setup.timeout.as_nanos() as u64;
        while self.lane.in_flight() || arrivals.as_ref().is_some_and(Arrivals::waiting) {
            if let Some(arrivals) = arrivals {
                self.lane.dispatch(arrivals, depth, end);
            }
            self.flush();
            if self.turn(IDLE_WAIT)? > until {
                break;
            }
        }
        self.lane.tally.dropped += arrivals.as_ref().map_or(0, Arrivals::left);
        Ok(())
    }

    /// Closed loop: fills every free place, then hands the outboxes to the pump.
    fn fill(&mut self, depth: usize) {
        let now = self.lane.now;
        for at in 0..self.lane.touched.len() {
            let number = self.lane.touched[at];
            while self.lane.connections[number].free(depth, self.lane.setup.churn)
                && self.lane.next_request(number, Times { intended: now, sent: now })
            {}
        }
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(number) = self.lane.untouch() {
            let connection = &mut self.lane.connections[number];
            if let Some(token) = connection.token
                && connection.worn(self.lane.setup.churn)
                && connection.flights.is_empty()
            {
                self.pump.close(token);
                continue;
            }
            if let Some(token) = connection.token
                && !connection.sending
                && !connection.outbox.is_empty()
            {
                connection.sending = true;
                self.lane.tally.sent_bytes += connection.outbox.len() as u64;
                self.pump.send(token, std::mem::take(&mut connection.outbox));
            }
        }
    }

    /// One turn of the pump; gives the time after the wait.
    fn turn(&mut self, wait: Duration) -> Result<u64, String> {
        self.pump.turn(wait, &mut self.events).map_err(|error| ring_words(&error))?;
        let now = self.lane.read_clock();
        self.lane.tally.turns += 1;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Received { token, buffer, length } => {
                    let number = self.lane.by_token[token as usize];
                    if !self.lane.handle_input(number, self.pump.bytes(buffer, length), now) {
                        self.pump.close(token);
                    }
                    self.pump.release(buffer);
                }
                Event::Sent { token, buffer } => self.lane.handle_sent(token, buffer),
                Event::Closed { token, error } => {
                    if let Some(number) = self.lane.handle_closed(token, error) {
                        self.reconnect(number, now);
                    }
                }
                Event::Accepted { .. } => {}
            }
        }
        self.events = events;
        if now >= self.lane.next_upkeep {
            self.upkeep(now)?;
        }
        Ok(now)
    }

    /// Ends what has waited too long, and connects again what was lost.
    fn upkeep(&mut self, now: u64) -> Result<(), String> {
        self.lane.next_upkeep = now + UPKEEP_NS;
        let timeout = self.lane.setup.timeout.as_nanos() as u64;
        let mut alive = 0;
        for number in 0..self.lane.connections.len() {
            let connection = &self.lane.connections[number];
            match connection.token {
                Some(token) => {
                    alive += 1;
                    if connection.flights.front().is_some_and(|flight| now - flight.times.sent > timeout) {
                        self.lane.tally.connections_lost += 1;
                        self.pump.close(token);
                    }
                }
                None if now >= connection.retry_at => alive += self.reconnect(number, now) as usize,
                None => {}
            }
        }
        self.lane.last_alive = if alive > 0 { now } else { self.lane.last_alive };
        if now - self.lane.last_alive > GIVE_UP_NS {
            let reason = self.lane.last_error.clone().unwrap_or_else(|| "closed by the server".into());
            return Err(format!("{} is gone: {reason}", self.lane.setup.targets[0]));
        }
        Ok(())
    }

    fn reconnect(&mut self, number: usize, now: u64) -> bool {
        let connection = &mut self.lane.connections[number];
        connection.retry_at = now + RETRY_NS;
        let target = &self.lane.setup.targets[connection.target];
        let token = match target.connect(RECONNECT_TIMEOUT).and_then(|socket| self.pump.add(socket)) {
            Ok(token) => token,
            Err(error) => {
                self.lane.last_error = Some(error.to_string());
                return false;
            }
        };
        connection.token = Some(token);
        self.lane.by_token[token as usize] = number;
        self.lane.touch(number);
        true
    }
}

/// What is wrong when the ring cannot be made or entered.
fn ring_words(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => {
            format!(
                "io_uring is refused here ({error}): allow it in the container's seccomp profile and in kernel.io_uring_disabled"
            )
        }
        Some(libc::EINVAL) => {
            format!("the kernel is too old for this client's io_uring ({error}): Linux 6.1 or newer is needed")
        }
        Some(libc::ENOMEM) => format!("not enough locked memory for io_uring ({error}): raise ulimit -l"),
        _ => format!("io_uring fails: {error}"),
    }
}

/// CPU time of the calling thread, in nanoseconds.
fn thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// Longest wait of a turn: the timeouts of requests and phases are looked at so often.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// How long before a request is due `--spin` polls.
const SPIN_BEFORE: Duration = Duration::from_micros(60);
/// Bytes of values in flight per connection while loading, and requests at most.
const LOAD_BYTES_IN_FLIGHT: f64 = 256.0 * 1024.0;
const LOAD_DEPTH_MAX: usize = 64;
/// How often loading tells of its progress: 50 ms.
const PROGRESS_NS: u64 = 50_000_000;
/// How often connections are looked after: 100 ms.
const UPKEEP_NS: u64 = 100_000_000;
/// A lost connection is tried again after 200 ms; without any connection for 2 s the thread gives up.
const RETRY_NS: u64 = 200_000_000;
const GIVE_UP_NS: u64 = 2_000_000_000;
const RECONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Places in the pump beyond the connections: for sockets that are still closing while their successors open.
const SPARE_SOCKETS: usize = 64;

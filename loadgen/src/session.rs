//! All threads of the client together: connect, load, measure, as often as wanted, end.
//!
//! ```text
//!   session --Order--> thread 0..n       Load, Measure(begin, end)
//!           <-Message-                   Progress, Loaded, Second, Finished | Failed
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::doors::{Door, Protocol, raw::Raw};
use crate::shards::ShardMap;
use crate::tally::{Interval, Tally, merge_interval};
use crate::target::Target;
use crate::verify::Ledger;
use crate::work::Work;
use crate::worker::{self, Arrival, Line, Message, Order, Plan, Setup};

/// How the client reaches the server, apart from what it asks.
#[derive(Clone, Debug)]
pub struct Client {
    /// The servers; connections are dealt out in turn.
    pub targets: Vec<Target>,
    /// The protocol.
    pub protocol: Protocol,
    /// Sizes of an exchange, for `Protocol::Raw`.
    pub raw: Option<Raw>,
    /// Connections of all threads.
    pub connections: usize,
    /// Threads.
    pub threads: usize,
    /// The CPUs of the threads, dealt out in turn; empty: not pinned.
    pub cpus: Vec<usize>,
    /// A request without an answer for so long ends its connection.
    pub timeout: Duration,
    /// Whether values are judged.
    pub verify: bool,
    /// Requests after which a connection is closed and opened again, 0: never.
    pub churn: u64,
    /// Open loop: poll shortly before a request is due.
    pub spin: bool,
    /// Which core of the server owns a key; then `targets` are the cores' ports, in order.
    pub shards: Option<ShardMap>,
}

/// How long and how hard to measure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Work before counting begins.
    pub warm_up: Duration,
    /// Length of the measurement.
    pub duration: Duration,
    /// Requests in flight per connection.
    pub depth: usize,
    /// Open loop: requests per second of all threads.
    pub rate: Option<(f64, Arrival)>,
}

/// Running threads.
pub struct Session {
    threads: Vec<(Sender<Order>, JoinHandle<()>)>,
    messages: Receiver<(u32, Message)>,
    /// Longest that a thread may stay silent.
    patience: Duration,
}

/// What was counted, and what ended it early, if anything did.
pub struct Outcome {
    /// The counts.
    pub tally: Tally,
    /// Why the measurement is not whole.
    pub failure: Option<String>,
}

impl Session {
    /// Connects and starts the threads.
    pub fn open(client: &Client, work: &Arc<Work>, ledger: &Arc<Ledger>) -> Result<Self, String> {
        let (told, messages) = channel();
        let threads_count = client.threads.clamp(1, client.connections.max(1));
        let mut threads = Vec::new();
        for thread in 0..threads_count {
            let share = client.connections / threads_count + usize::from(thread < client.connections % threads_count);
            let first = threads.len();
            let targets = client.targets.clone();
            let sockets = connect(&targets, first, share)?;
            let door = Door::new(client.protocol, client.raw);
            let setup = Setup {
                thread: thread as u32,
                threads_count: threads_count as u32,
                work: work.clone(),
                ledger: ledger.clone(),
                door,
                targets,
                timeout: client.timeout,
                verify: client.verify,
                churn: client.churn,
                spin: client.spin,
                shards: client.shards,
                first_target: first % client.targets.len(),
            };
            let (order, orders) = channel();
            let cpu = (!client.cpus.is_empty()).then(|| client.cpus[thread % client.cpus.len()]);
            let line = Line { orders, messages: told.clone() };
            let handle = std::thread::Builder::new()
                .name(format!("client-{thread}"))
                .spawn(move || {
                    if let Some(cpu) = cpu {
                        core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
                    }
                    worker::run(setup, sockets, line);
                })
                .map_err(|error| format!("cannot start a thread: {error}"))?;
            threads.push((order, handle));
        }
        Ok(Self { threads, messages, patience: client.timeout + Duration::from_secs(5) })
    }

    /// Stores every key once; `progress` is told how many keys more are stored.
    pub fn load(&self, progress: impl FnMut(u32)) -> Result<Tally, String> {
        self.walk(|| Order::Load, progress)
    }

    /// Reads every key once, and judges what comes.
    pub fn audit(&self, progress: impl FnMut(u32)) -> Result<Tally, String> {
        self.walk(|| Order::Audit, progress)
    }

    fn walk(&self, order: impl Fn() -> Order, mut progress: impl FnMut(u32)) -> Result<Tally, String> {
        self.order(order)?;
        let mut all = Tally::default();
        let mut waiting = self.threads.len();
        while waiting > 0 {
            match self.messages.recv_timeout(self.patience) {
                Ok((_, Message::Progress(keys))) => progress(keys),
                Ok((_, Message::Walked(tally))) => {
                    all.merge(*tally);
                    waiting -= 1;
                }
                Ok((_, Message::Failed(words, _))) => return Err(words),
                Ok(_) => {}
                Err(_) => return Err("a client thread fell silent".into()),
            }
        }
        Ok(all)
    }

    /// Works and counts. `edges` is called when counting begins and when it ends; `second` once a second.
    pub fn measure(&self, pace: Pace, mut edges: impl FnMut(), mut second: impl FnMut(&Interval)) -> Outcome {
        let begin = Instant::now() + pace.warm_up;
        let end = begin + pace.duration;
        let rate = pace.rate.map(|(rate, arrival)| (rate / self.threads.len() as f64, arrival));
        let mut outcome = Outcome { tally: Tally::default(), failure: None };
        if let Err(words) = self.order(|| Order::Measure(Plan { begin, end, depth: pace.depth, rate })) {
            outcome.failure = Some(words);
            return outcome;
        }
        let mut waiting = self.threads.len();
        let mut seconds: Vec<Interval> = Vec::new();
        let mut told = 0;
        let mut next_edges = [Some(begin), Some(end)].into_iter().flatten().peekable();
        while waiting > 0 {
            let now = Instant::now();
            while next_edges.next_if(|edge| *edge <= now).is_some() {
                edges();
            }
            let wait = next_edges.peek().map_or(self.patience, |edge| edge.saturating_duration_since(now));
            match self.messages.recv_timeout(wait) {
                Ok((_, Message::Second(interval))) => {
                    let number = interval.second;
                    told += 1;
                    merge_interval(&mut seconds, interval);
                    if told % self.threads.len() == 0
                        && let Some(whole) = seconds.iter().find(|interval| interval.second == number)
                    {
                        second(whole);
                    }
                }
                Ok((_, Message::Finished(tally))) => {
                    outcome.tally.merge(*tally);
                    waiting -= 1;
                }
                Ok((_, Message::Failed(words, tally))) => {
                    outcome.tally.merge(*tally);
                    outcome.failure = Some(words);
                    waiting -= 1;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if next_edges.peek().is_some() => {}
                Err(_) => {
                    outcome.failure = Some("a client thread fell silent".into());
                    break;
                }
            }
        }
        for _ in next_edges {
            edges();
        }
        outcome
    }

    fn order(&self, order: impl Fn() -> Order) -> Result<(), String> {
        for (orders, _) in &self.threads {
            if orders.send(order()).is_err() {
                return Err(match self.messages.try_recv() {
                    Ok((_, Message::Failed(words, _))) => words,
                    _ => "a client thread has ended".into(),
                });
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for (orders, handle) in self.threads.drain(..) {
            drop(orders);
            let _ = handle.join();
        }
    }
}

fn connect(targets: &[Target], first: usize, count: usize) -> Result<Vec<OwnedFd>, String> {
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        let target = &targets[(first + number) % targets.len()];
        let socket = target.connect(CONNECT_TIMEOUT).map_err(|error| match error.raw_os_error() {
            Some(libc::EMFILE) => format!("too many open files for {count} connections: raise ulimit -n"),
            _ => format!("cannot connect to {target}: {error}"),
        })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Longest wait for one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

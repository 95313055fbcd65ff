//! The control plane's own thread: answers what clients ask of the node rather than of a key.
//!
//! ```text
//!   core --ControlRequest--> control thread --Run(closure)--> every core --answer--> control thread --Answer--> core
//! ```
//!
//! One actor, one request at a time; it may allocate and be slow. Cores never wait for it, only the asking client does. Dumps of
//! keys have a thread of their own, one at a time, because they last as long as their client reads.
//!
//! Lives here: the questions to the cores and the answers to clients. Not here: the words of `stats` (`stats`), data commands.
//! Unsafe lives here: one foreign call that reads the process's CPU time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select};

use super::members::Published;
use super::memcached_compat::{self, Crawl};
use super::options::Options;
use super::ring;
use super::signals;
use super::sockets;
use super::stats::{self, CoreFigures, Lines, ProcessFigures};
use super::waits::Waits;
use super::watch::{self, Refused, Watching};
use crate::arena::Arena;
use crate::buffer::Buffer;
use crate::command::{Error, Reply};
use crate::engine::{Cursor, Statistics};
use crate::metrics::Counters;
use crate::observe::prefixes::Prefixes;
use crate::protocol::{self, Framing, Head};
use crate::routing::ShardId;
use crate::routing::Ticket;
use crate::runtime::core::{Core, ToCore};
use crate::runtime::{
    context::{ControlRequest, OwnedControl},
    mesh::Shared,
};
use crate::time::{Exptime, Timestamp};

/// Longest wait for a core's answer: a core that is silent for so long has ended.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const ANSWER_LOOK: Duration = Duration::from_millis(100);
/// Longest wait for a client to take a piece of a dump.
const DUMP_WAIT: Duration = Duration::from_secs(60);
/// How often a delayed flush looks at the clock.
const FLUSH_LOOK: Duration = Duration::from_millis(50);
/// Longest `stats handoff wait`, and what it waits where no time is given, in seconds.
const WAIT_MAX_S: u32 = 3600;
const WAIT_DEFAULT_S: u32 = 60;
/// Items of one piece of a dump.
const DUMP_ITEMS: u32 = 200;
/// Bytes of one `stats cachedump`: memcached's bound.
const CACHEDUMP_BYTES_MAX: usize = 2 << 20;

/// The control plane's ways to the cores.
#[derive(Clone)]
pub struct Cores {
    /// One inbox per core.
    pub inboxes: Vec<Sender<ToCore>>,
    /// Doorbells and gauges.
    pub shared: Arc<Shared>,
}

impl Cores {
    /// Sends a message to one core and wakes it.
    pub fn send(&self, core: usize, message: ToCore) {
        // A closed inbox means that the core has ended; then nobody waits for the message either.
        let _ = self.inboxes[core].send(message);
        self.shared.cores[core].ring_doorbell();
    }

    /// Runs `question` on every core and returns the answers in the order of the cores.
    pub fn ask<T: Send + 'static>(&self, question: impl Fn(&mut Core) -> T + Send + Clone + 'static) -> Vec<T> {
        let answers: Vec<_> = (0..self.inboxes.len()).map(|core| self.start(core, question.clone())).collect();
        answers.iter().filter_map(patiently).collect()
    }

    /// Runs `order` on every core. False if one of them did not say that it has.
    pub fn tell_all(&self, order: impl Fn(&mut Core) + Send + Clone + 'static) -> bool {
        self.ask(order).len() == self.inboxes.len()
    }

    /// Runs `question` on one core.
    pub fn ask_one<T: Send + 'static>(&self, core: usize, question: impl FnOnce(&mut Core) -> T + Send + 'static) -> Option<T> {
        patiently(&self.start(core, question))
    }

    fn start<T: Send + 'static>(&self, core: usize, question: impl FnOnce(&mut Core) -> T + Send + 'static) -> Receiver<T> {
        let (sender, receiver) = bounded(1);
        self.send(core, ToCore::Run(Box::new(move |core| drop(sender.send(question(core))))));
        receiver
    }
}

/// The answer, once it comes; `None` if it does not in `ANSWER_WAIT`. Waited for in pieces: where the whole process stands still for
/// longer than that, it is one piece.
pub(in crate::node) fn patiently<T>(answer: &Receiver<T>) -> Option<T> {
    for _ in 0..ANSWER_WAIT.as_millis() / ANSWER_LOOK.as_millis() {
        match answer.recv_timeout(ANSWER_LOOK) {
            Ok(answer) => return Some(answer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

/// The node's memory budget.
#[derive(Clone)]
pub struct Memory {
    /// What items and indexes lease from.
    pub arena: Arc<Arena>,
    /// What is set aside for the connections, in bytes.
    pub reserve_bytes: usize,
}

impl Memory {
    /// `--memory_size`, or what `cache_memlimit` made of it, in bytes.
    pub fn limit_bytes(&self) -> usize {
        self.arena.limit_bytes() + self.reserve_bytes
    }
}

/// Something that the admin listener was asked to do.
pub struct Action {
    /// What: as a client would ask for it.
    pub control: OwnedControl,
    /// Told when it is done, or why not.
    pub done: Sender<Result<(), String>>,
}

/// The actor.
pub struct Control {
    cores: Cores,
    memory: Memory,
    options: Options,
    /// Who is in the ring.
    published: Arc<Published>,
    /// Number of the latest flush: one that waits for its time and is not the latest does not take place.
    flushes: Arc<AtomicU64>,
    /// Knobs of the machine that are not as wanted.
    tuning_wanting: usize,
    started: Timestamp,
    verbosity: u32,
    dumping: Arc<AtomicBool>,
    watching: Arc<Watching>,
    waits: Waits,
    /// What the cores had counted at the last `stats reset`; empty before the first. The cores count on: `/metrics` never goes back.
    totals_at_reset: Vec<(Counters, Statistics)>,
}

/// What a request is answered with.
enum Answer {
    Reply(Reply<'static>),
    Stats(Lines),
    Text(Vec<u8>),
    /// The answer comes from elsewhere.
    Later,
    /// Nothing, and the connection is closed.
    Close,
}

impl Control {
    /// An actor over the cores of a node that was just started.
    pub fn new(cores: Cores, memory: Memory, options: Options, published: Arc<Published>, tuning_wanting: usize) -> Self {
        let started = cores.shared.clock.now();
        let verbosity = options.verbosity as u32;
        let (dumping, totals_at_reset) = (Arc::default(), Vec::new());
        let (flushes, watching) = (Arc::default(), Watching::new(cores.clone()));
        let waits = Waits::default();
        Self {
            cores,
            memory,
            options,
            published,
            flushes,
            tuning_wanting,
            started,
            verbosity,
            dumping,
            watching,
            waits,
            totals_at_reset,
        }
    }

    /// Answers requests until every core has ended.
    pub fn run(&mut self, requests: &Receiver<ControlRequest>, actions: &Receiver<Action>) {
        loop {
            let request = select! {
                recv(requests) -> request => match request {
                    Ok(request) => request,
                    Err(_) => return,
                },
                recv(actions) -> action => {
                    match action {
                        Ok(action) => self.act(action),
                        // There is no admin listener: nobody else sends any.
                        Err(_) => return self.run(requests, &never()),
                    }
                    continue;
                }
            };
            let answer = self.answer(&request);
            let close = matches!(answer, Answer::Close);
            let reply = match &answer {
                Answer::Reply(reply) => *reply,
                Answer::Stats(lines) => Reply::Stats(lines),
                Answer::Text(text) => Reply::Text(text),
                Answer::Close => Reply::Text(b""),
                Answer::Later => continue,
            };
            reply_to(&self.cores, request.core, request.ticket, request.framing, &reply, close);
        }
    }

    /// Does what the admin listener was asked to do. Only what is answered at once.
    fn act(&mut self, action: Action) {
        let ticket = Ticket { connection: u32::MAX, generation: 0, slot: 0, descriptor: -1 };
        let framing = Head::Text(protocol::text::Head::default());
        let answer = self.answer(&ControlRequest { core: ShardId(0), ticket, control: action.control, framing });
        let text = match answer {
            Answer::Reply(Reply::Ok | Reply::Reset) | Answer::Close => Ok(()),
            Answer::Reply(Reply::Error(Error::Line(line))) => Err(line.to_string()),
            Answer::Text(text) => Err(String::from_utf8_lossy(&text).trim_end().to_string()),
            _ => Err("this cannot be done".into()),
        };
        let _ = action.done.send(text);
    }

    fn answer(&mut self, request: &ControlRequest) -> Answer {
        match &request.control {
            OwnedControl::FlushAll { delay } => self.flush(*delay),
            OwnedControl::Stats { group } => self.stats(group, request),
            OwnedControl::Verbosity { level } => {
                self.verbosity = *level;
                log::set_max_level(super::log_level(*level));
                Answer::Reply(Reply::Ok)
            }
            OwnedControl::CacheMemlimit { megabytes } => self.set_limit(*megabytes),
            OwnedControl::LruCrawler { words } => self.crawl(words, request),
            OwnedControl::Watch { words } => self.watch(words, request),
            OwnedControl::Tune { line } => text_line(memcached_compat::tune(line)),
            OwnedControl::Shutdown { .. } if !self.options.shutdown_enabled => text_line("SERVER_ERROR: shutdown not enabled"),
            OwnedControl::Shutdown { mode } if mode.is_empty() || mode == b"graceful" => {
                signals::raise();
                Answer::Close
            }
            OwnedControl::Shutdown { .. } => text_line("CLIENT_ERROR invalid shutdown mode"),
            OwnedControl::DebugTime { words } => self.debug_time(words),
        }
    }

    fn flush(&self, delay: Exptime) -> Answer {
        let now = self.cores.shared.clock.now();
        let at = match delay.expiry(now.seconds()).0 {
            0 | 1 => now,
            second => Timestamp::from_seconds(second),
        };
        let number = self.flushes.fetch_add(1, Ordering::AcqRel) + 1;
        let flushed = match self.published.view() {
            None => self.cores.tell_all(move |core| core.context.shard.engine.flush(at)),
            Some(_) if at <= now => ring::flush(&self.cores),
            Some(_) => {
                self.flush_later(at, number);
                true
            }
        };
        let _ = self.cores.ask_one(0, |core| core.context.shard.counters.cmd_flush += 1);
        match flushed {
            true => Answer::Reply(Reply::Ok),
            false => Answer::Reply(Reply::Error(Error::Line("SERVER_ERROR not everything could be flushed; flush again"))),
        }
    }

    /// Flushes the ring when it is time, unless another flush was asked for meanwhile. A node that ends takes its plan with it.
    fn flush_later(&self, at: Timestamp, number: u64) {
        let (cores, flushes) = (self.cores.clone(), self.flushes.clone());
        let run = move || {
            let is_latest = || flushes.load(Ordering::Acquire) == number;
            while is_latest() && cores.shared.clock.now() < at {
                std::thread::sleep(FLUSH_LOOK);
            }
            if is_latest() && !ring::flush(&cores) {
                log::warn!("a delayed flush_all did not reach every core of this node; flush again");
            }
        };
        if std::thread::Builder::new().name("pbcache-flush".into()).spawn(run).is_err() {
            log::warn!("no thread for a delayed flush_all; it takes place now");
            ring::flush(&self.cores);
        }
    }

    /// `stats ring | peers | handoff [wait [SECONDS]] | where KEY`; on a lone node there is little to tell.
    fn ring_stats(&self, group: &str, rest: &[u8]) -> Answer {
        let Some(view) = &self.published.view() else {
            return Answer::Stats(vec![("nodes".into(), "1".into()), ("buckets".into(), self.options.buckets.to_string())]);
        };
        let mut words = memcached_compat::words(rest);
        match group {
            "ring" => Answer::Stats(ring::stats_ring(view, &self.options)),
            "peers" => Answer::Stats(ring::stats_peers(view, &self.cores)),
            "where" => match words.next() {
                Some(key) => Answer::Stats(ring::stats_where(view, &self.cores, &self.options, key.as_bytes())),
                None => Answer::Reply(Reply::Error(Error::Line("CLIENT_ERROR usage: stats where KEY"))),
            },
            _ => Answer::Stats(ring::stats_handoff(view, &self.cores)),
        }
    }

    /// Answers `stats handoff wait` when everything has gone where it belongs, or the time is over.
    fn wait_handoff(&self, seconds: Option<&str>, request: &ControlRequest) -> Answer {
        let Some(view) = &self.published.view() else { return Answer::Stats(vec![("settled".into(), "yes".into())]) };
        let seconds = seconds
            .map_or(Some(WAIT_DEFAULT_S), |text| memcached_compat::number(text).filter(|&seconds| seconds <= WAIT_MAX_S));
        let Some(seconds) = seconds else {
            return Answer::Reply(Reply::Error(Error::Line("CLIENT_ERROR usage: stats handoff wait [SECONDS], at most 3600")));
        };
        match self.waits.add(&self.cores, view, (request.core, request.ticket, request.framing), seconds) {
            true => Answer::Later,
            false => Answer::Reply(Reply::Error(Error::Line("SERVER_ERROR too many clients wait already"))),
        }
    }

    /// `watch fetchers mutations ...`.
    fn watch(&self, words: &[u8], request: &ControlRequest) -> Answer {
        if self.options.watch_disabled {
            return text_line("CLIENT_ERROR watch commands not allowed");
        }
        let Some(kinds) = watch::kinds(memcached_compat::words(words)) else { return text_line("ERROR") };
        match self.watching.add(request.core, request.ticket, kinds) {
            Ok(()) => Answer::Later,
            Err(Refused::TooMany) => text_line("WATCHER_TOO_MANY log watcher limit reached"),
            Err(Refused::Failed) => text_line("WATCHER_FAILED failed to add log watcher"),
        }
    }

    fn settings(&self) -> Lines {
        stats::settings(&self.options, self.memory.limit_bytes() as u64, self.verbosity, self.tuning_wanting)
    }

    fn stats(&mut self, group: &[u8], request: &ControlRequest) -> Answer {
        let mut words = memcached_compat::words(group);
        match words.next().unwrap_or("") {
            "" => Answer::Stats(stats::general(&self.figures(), &self.process(), &self.options)),
            "settings" => Answer::Stats(self.settings()),
            "items" => Answer::Stats(stats::items(&self.figures())),
            "slabs" => Answer::Stats(stats::slabs(&self.figures(), self.memory.arena.segment_bytes() as u64)),
            "shards" => Answer::Stats(stats::shards(&self.figures(), &self.options)),
            "handoff" if group.starts_with(b"handoff wait") => self.wait_handoff(words.nth(1), request),
            name @ ("ring" | "peers" | "handoff" | "where") => self.ring_stats(name, &group[name.len().min(group.len())..]),
            "sizes" => Answer::Stats(vec![("sizes_status".into(), "disabled".into())]),
            "conns" => {
                let connections: Vec<_> = self.cores.ask(|core| core.describe_connections()).concat();
                let now = self.cores.shared.clock.now();
                Answer::Stats(stats::conns(&stats::connections(&sockets::list(), &connections, now, self.started)))
            }
            "extstore" => Answer::Stats(Lines::new()),
            "reset" => {
                self.reset();
                Answer::Reply(Reply::Reset)
            }
            "detail" => self.detail(words.next()),
            "cachedump" => self.cachedump(words.next(), words.next()),
            _ => Answer::Reply(Reply::Error(Error::Line("ERROR"))),
        }
    }

    /// `stats detail on | off | dump`: counters by prefix of the key.
    fn detail(&mut self, word: Option<&str>) -> Answer {
        match word {
            Some(switch @ ("on" | "off")) => {
                let on = switch == "on";
                self.options.detail = on;
                self.cores.ask(move |core| core.context.shard.observer.count_prefixes(on));
                Answer::Reply(Reply::Ok)
            }
            Some("dump") => {
                let mut node = Prefixes::of_node();
                let tables = self.cores.ask(|core| core.context.shard.observer.prefixes.pack());
                tables.iter().for_each(|table| node.add(table));
                Answer::Text(stats::prefixes(&node))
            }
            _ => Answer::Reply(Reply::Error(Error::Line("CLIENT_ERROR usage: stats detail on|off|dump"))),
        }
    }

    /// Counts from here on: all totals are told as what was added since.
    fn reset(&mut self) {
        self.watching.reset();
        self.totals_at_reset = self.cores.ask(|core| {
            core.context.shard.observer.prefixes.clear();
            (core.context.shard.counters, core.context.shard.engine.statistics())
        });
    }

    fn figures(&self) -> Vec<CoreFigures> {
        let mut figures = self.cores.ask(|core| CoreFigures {
            counters: core.context.shard.counters,
            engine: core.context.shard.engine.statistics(),
            connections: core.context.mesh.own_state().connections.load(Ordering::Relaxed),
        });
        for (core, (counters, engine)) in figures.iter_mut().zip(&self.totals_at_reset) {
            core.counters = core.counters.since(counters);
            core.engine = stats::since(&core.engine, engine);
        }
        figures
    }

    fn process(&self) -> ProcessFigures {
        let now = self.cores.shared.clock.now();
        ProcessFigures::take(now, self.started, self.memory.limit_bytes(), self.watching.figures())
    }

    fn cachedump(&self, class: Option<&str>, limit: Option<&str>) -> Answer {
        if self.options.dump_disabled {
            return Answer::Text(b"CLIENT_ERROR stats cachedump not allowed\r\n".to_vec());
        }
        let (Some(class), Some(limit)) = (class, limit) else {
            return Answer::Text(b"CLIENT_ERROR bad command line\r\n".to_vec());
        };
        let (Some(class), Some(limit)) = (memcached_compat::number(class), memcached_compat::number(limit)) else {
            return Answer::Text(b"CLIENT_ERROR bad command line format\r\n".to_vec());
        };
        if class > memcached_compat::CLASS_MAX {
            return Answer::Text(b"CLIENT_ERROR Illegal slab id\r\n".to_vec());
        }
        let mut text = Vec::new();
        let mut left = if limit == 0 { u32::MAX } else { limit };
        for core in 0..self.cores.inboxes.len() {
            let mut cursor = Some(Cursor::default());
            while let Some(from) = cursor.filter(|_| class == 1 && left > 0 && text.len() < CACHEDUMP_BYTES_MAX) {
                let piece = self.cores.ask_one(core, move |core| {
                    let (mut lines, now) = (Vec::new(), core.context.now);
                    let next = core.context.shard.engine.walk(from, now, DUMP_ITEMS, &mut |entry| {
                        let mut line = Vec::new();
                        stats::cachedump_line(entry.key, &entry.item, &mut line);
                        lines.push(line);
                    });
                    (lines, next)
                });
                let Some((lines, next)) = piece else { break };
                let count = lines.len().min(left as usize);
                lines[..count].iter().for_each(|line| text.extend_from_slice(line));
                left -= count as u32;
                cursor = next;
            }
        }
        text.extend_from_slice(b"END\r\n");
        Answer::Text(text)
    }

    fn set_limit(&self, megabytes: u64) -> Answer {
        if megabytes < 8 {
            return Answer::Text(b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n".to_vec());
        }
        let bytes = usize::try_from(megabytes << 20).unwrap_or(usize::MAX);
        if bytes > self.memory.reserve_bytes && self.memory.arena.set_limit(bytes - self.memory.reserve_bytes) {
            Answer::Reply(Reply::Ok)
        } else {
            Answer::Text(b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n".to_vec())
        }
    }

    fn crawl(&self, words: &[u8], request: &ControlRequest) -> Answer {
        match memcached_compat::crawl(words, self.options.dump_disabled) {
            Crawl::Line(line) => text_line(line),
            Crawl::Dump { short } => self.dump(short, request),
        }
    }

    /// Starts a dump of all keys on a thread of its own.
    fn dump(&self, short: bool, request: &ControlRequest) -> Answer {
        if self.dumping.swap(true, Ordering::AcqRel) {
            return Answer::Text(b"BUSY currently processing crawler request\r\n".to_vec());
        }
        let dump = Dump {
            cores: self.cores.clone(),
            core: request.core,
            ticket: request.ticket,
            framing: request.framing,
            short,
            dumping: self.dumping.clone(),
        };
        match std::thread::Builder::new().name("pbcache-dump".into()).spawn(move || dump.run()) {
            Ok(_) => Answer::Later,
            Err(_) => {
                self.dumping.store(false, Ordering::Release);
                Answer::Text(b"ERROR failed to start lru crawler thread\r\n".to_vec())
            }
        }
    }

    fn debug_time(&self, words: &[u8]) -> Answer {
        let clock = &self.cores.shared.clock;
        match words {
            b"p" => clock.pause(),
            b"r" => clock.resume(),
            _ => match std::str::from_utf8(words).ok().and_then(|text| text.parse().ok()) {
                Some(seconds) => clock.advance(seconds),
                None => return Answer::Reply(Reply::Error(Error::Line("ERROR"))),
            },
        }
        // A turn that began before may still have the old time; the next one has the new.
        self.cores.ask(|core| core.begin_turn());
        Answer::Reply(Reply::Ok)
    }
}

/// A dump of all keys, sent piece by piece as its client takes them.
struct Dump {
    cores: Cores,
    core: ShardId,
    ticket: Ticket,
    framing: Head,
    short: bool,
    dumping: Arc<AtomicBool>,
}

impl Dump {
    fn run(self) {
        let end: &[u8] = if self.short { b"EN\r\n" } else { b"END\r\n" };
        if self.pieces().is_some() {
            reply_to(&self.cores, self.core, self.ticket, self.framing, &Reply::Text(end), false);
        }
        self.dumping.store(false, Ordering::Release);
    }

    /// `None` when the client has gone.
    fn pieces(&self) -> Option<()> {
        let short = self.short;
        for core in 0..self.cores.inboxes.len() {
            let mut cursor = Some(Cursor::default());
            while let Some(from) = cursor {
                let (bytes, next) = self.cores.ask_one(core, move |core| {
                    let (mut bytes, now) = (Vec::new(), core.context.now);
                    let next = core.context.shard.engine.walk(from, now, DUMP_ITEMS, &mut |entry| {
                        if short {
                            bytes.extend_from_slice(b"mg ");
                            bytes.extend_from_slice(entry.key);
                            bytes.extend_from_slice(b"\r\n");
                        } else {
                            stats::metadump_line(entry.key, &entry.item, now.seconds().0, &mut bytes);
                        }
                    });
                    (bytes, next)
                })?;
                if !bytes.is_empty() {
                    let (taken, confirmed) = bounded(1);
                    self.cores.send(self.core.0 as usize, ToCore::Part { ticket: self.ticket, bytes, taken });
                    confirmed.recv_timeout(DUMP_WAIT).ok()?;
                }
                cursor = next;
            }
        }
        Some(())
    }
}

/// Answers a client.
pub(super) fn reply_to(cores: &Cores, core: ShardId, ticket: Ticket, framing: Head, reply: &Reply<'_>, close: bool) {
    let mut buffer = Buffer::default();
    protocol::encode(&Framing { head: framing, words: b"" }, b"", reply, &mut buffer);
    cores.send(core.0 as usize, ToCore::Answer { ticket, bytes: buffer.flatten(), close });
}

/// A line of text as an answer.
fn text_line(line: &str) -> Answer {
    Answer::Text(format!("{line}\r\n").into_bytes())
}

/// CPU time of the process in user mode and in the kernel.
pub(super) fn cpu_time_us() -> (u64, u64) {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the struct lives across the call, and all zero is a value of it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    (us(usage.ru_utime), us(usage.ru_stime))
}

//! `watch`: lines about what happens on all cores, for connections that asked for them.
//!
//! ```text
//!   core 0: events --+                                        +--> watcher: | lines not sent yet | --Part--> its core --> its socket
//!   core 1: events --+-- taken by one thread, put in order ---+--> watcher: | ...                |
//! ```
//!
//! The thread runs while somebody watches, and looks more often the more there is. A watcher that does not read loses lines and is told
//! how many; it holds back nobody else.
//!
//! Lives here: watchers, and the lines. Not here: what is noted (`observe`), sending (`runtime::core`).
//! Words and lines follow memcached's doc/protocol.txt, *Watchers*, and its releases 1.6.18 to 1.6.45.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use super::control::Cores;
use super::stats::uri_encode;
use crate::command::StoreMode;
use crate::limits;
use crate::observe::events::{self, Batch, CloseReason, Event, Found, Kinds, Stored, What};
use crate::routing::ShardId;
use crate::routing::Ticket;
use crate::runtime::core::ToCore;

/// Pause between two looks at the cores: the shorter while there is something, the longer while there is nothing.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a `watch` line asks for; `None` if one of its words means nothing.
pub fn kinds<'a>(words: impl Iterator<Item = &'a str>) -> Option<Kinds> {
    let mut kinds = None;
    for word in words {
        let more = match word {
            "fetchers" => Kinds::FETCHERS,
            "mutations" => Kinds::MUTATIONS,
            "evictions" => Kinds::EVICTIONS,
            "connevents" => Kinds::CONNEVENTS,
            "deletions" => Kinds::DELETIONS,
            // Of what is not here nothing is ever told: crawlers and slab movers, a proxy. memcached has no lines for rawcmds either.
            "sysevents" | "rawcmds" | "proxyreqs" | "proxyevents" | "proxyuser" => Kinds::NONE,
            _ => return None,
        };
        kinds = Some(kinds.unwrap_or(Kinds::NONE).with(more));
    }
    Some(kinds.unwrap_or(Kinds::FETCHERS))
}

/// Why nobody more may watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are `limits::WATCHERS_MAX`.
    TooMany,
    /// No thread could be started.
    Failed,
}

/// Totals of what was noted and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchFigures {
    /// Events taken from the cores.
    pub written: u64,
    /// Events for which a core had no room.
    pub dropped: u64,
    /// Lines sent to watchers.
    pub sent: u64,
    /// Lines that watchers did not take in time.
    pub skipped: u64,
    /// Watchers now.
    pub watchers: u64,
}

#[derive(Default)]
struct Totals {
    written: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
    skipped: AtomicU64,
}

/// Everybody who watches.
pub struct Watching {
    cores: Cores,
    watchers: Mutex<Watchers>,
    totals: Totals,
}

#[derive(Default)]
struct Watchers {
    list: Vec<Watcher>,
    /// The thread runs.
    running: bool,
    /// What the cores were told to note.
    kinds: Kinds,
}

/// One connection that watches.
struct Watcher {
    core: ShardId,
    ticket: Ticket,
    kinds: Kinds,
    /// Events up to this one were before its time.
    gid: u64,
    /// Lines that were not sent yet.
    lines: Vec<u8>,
    /// Answered when the piece that was sent last is in the socket.
    under_way: Option<Receiver<()>>,
    /// Lines lost since the last one that found room.
    skipped: u64,
}

impl Watching {
    /// Nobody watches yet.
    pub fn new(cores: Cores) -> Arc<Self> {
        Arc::new(Self { cores, watchers: Mutex::default(), totals: Totals::default() })
    }

    /// Adds the connection with this ticket. It is answered, and sees all that happens after its answer.
    pub fn add(self: &Arc<Self>, core: ShardId, ticket: Ticket, kinds: Kinds) -> Result<(), Refused> {
        let mut watchers = self.lock();
        if watchers.list.len() >= limits::WATCHERS_MAX {
            return Err(Refused::TooMany);
        }
        let gid = events::next_gid();
        let (lines, skipped) = (b"OK\r\n".to_vec(), 0);
        if !watchers.running {
            let watching = self.clone();
            let thread = std::thread::Builder::new().name("pbcache-watch".into()).spawn(move || watching.run());
            thread.map_err(|_| Refused::Failed)?;
            watchers.running = true;
        }
        watchers.list.push(Watcher { core, ticket, kinds, gid, lines, under_way: None, skipped });
        self.cores.send(core.0.into(), ToCore::Watch { ticket });
        self.tell_kinds(&mut watchers);
        if let Some(watcher) = watchers.list.last_mut() {
            watcher.send(&self.cores);
        }
        Ok(())
    }

    /// Totals, and who watches now.
    pub fn figures(&self) -> WatchFigures {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        WatchFigures {
            written: read(&self.totals.written),
            dropped: read(&self.totals.dropped),
            sent: read(&self.totals.sent),
            skipped: read(&self.totals.skipped),
            watchers: self.lock().list.len() as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watchers> {
        // Whoever panicked with it left a list that is whole: it is changed by single calls.
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from here on.
    pub fn reset(&self) {
        let Totals { written, dropped, sent, skipped } = &self.totals;
        [written, dropped, sent, skipped].into_iter().for_each(|total| total.store(0, Ordering::Relaxed));
    }

    /// Lets the cores note what anybody wants.
    fn tell_kinds(&self, watchers: &mut Watchers) {
        let wanted = watchers.list.iter().fold(Kinds::NONE, |kinds, watcher| kinds.with(watcher.kinds));
        if wanted != watchers.kinds {
            watchers.kinds = wanted;
            self.cores.ask(move |core| core.context.shard.watch(wanted));
        }
    }

    /// Until nobody watches.
    fn run(&self) {
        let mut pause = PAUSE_MIN;
        loop {
            std::thread::sleep(pause);
            let places: Vec<(ShardId, Ticket)> =
                self.lock().list.iter().map(|watcher| (watcher.core, watcher.ticket)).collect();
            let answers = self.cores.ask(move |core| {
                let is_gone = |(id, ticket): &&(ShardId, Ticket)| *id == core.id() && !core.is_watched_by(*ticket);
                let gone: Vec<_> = places.iter().filter(is_gone).copied().collect();
                (core.context.shard.take_events(), gone)
            });
            // No core is left to answer: the node ends.
            let ended = answers.is_empty();
            let mut watchers = self.lock();
            for (_, gone) in &answers {
                watchers.list.retain(|watcher| !gone.contains(&(watcher.core, watcher.ticket)));
            }
            let batches: Vec<Batch> = answers.into_iter().flat_map(|(batches, _)| batches).collect();
            let found = self.deliver(&mut watchers.list, &batches);
            watchers.list.retain_mut(|watcher| watcher.send(&self.cores));
            self.tell_kinds(&mut watchers);
            if watchers.list.is_empty() || ended {
                watchers.running = false;
                return;
            }
            pause = if found > 0 { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        }
    }

    /// Writes the lines of these events to whoever wants them. Returns how many events there were.
    fn deliver(&self, watchers: &mut [Watcher], batches: &[Batch]) -> usize {
        let mut events: Vec<(&Batch, &Event)> =
            batches.iter().flat_map(|batch| batch.events.iter().map(move |event| (batch, event))).collect();
        events.sort_unstable_by_key(|(_, event)| event.gid);
        let (mut line, mut sent, mut skipped) = (Vec::new(), 0, 0);
        for (batch, event) in &events {
            line.clear();
            write_line(event, batch.key(event), &mut line);
            for watcher in watchers.iter_mut() {
                if watcher.kinds.intersects(event.what.kind()) && event.gid > watcher.gid {
                    match watcher.push(&line) {
                        true => sent += 1,
                        false => skipped += 1,
                    }
                }
            }
        }
        // What a core had no room for is missing behind what it had room for.
        let mut dropped = 0;
        for batch in batches {
            dropped += batch.dropped.iter().sum::<u64>();
            for watcher in watchers.iter_mut() {
                watcher.skipped += watcher.kinds.numbers().map(|number| batch.dropped[number]).sum::<u64>();
            }
        }
        self.totals.written.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.totals.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.totals.sent.fetch_add(sent, Ordering::Relaxed);
        self.totals.skipped.fetch_add(skipped, Ordering::Relaxed);
        events.len()
    }
}

impl Watcher {
    /// Adds a line, behind word of those that were lost before it. False when there is no room: it is lost too.
    fn push(&mut self, line: &[u8]) -> bool {
        if self.lines.len() + line.len() + SKIPPED_BYTES_MAX > limits::WATCHER_BYTES_MAX {
            self.skipped += 1;
            return false;
        }
        if self.skipped > 0 {
            let _ = writeln!(self.lines, "skipped={}", self.skipped);
            self.skipped = 0;
        }
        self.lines.extend_from_slice(line);
        true
    }

    /// Sends what there is, unless the last piece is still under way. False when the connection has gone.
    fn send(&mut self, cores: &Cores) -> bool {
        match self.under_way.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return true,
            Some(Err(TryRecvError::Disconnected)) => return false,
            Some(Ok(())) | None => {}
        }
        self.under_way = None;
        if !self.lines.is_empty() {
            let (taken, confirmed) = bounded(1);
            let bytes = std::mem::take(&mut self.lines);
            cores.send(self.core.0.into(), ToCore::Part { ticket: self.ticket, bytes, taken });
            self.under_way = Some(confirmed);
        }
        true
    }
}

/// Longest line that says how many were lost.
const SKIPPED_BYTES_MAX: usize = 32;

/// Writes the line of an event.
fn write_line(event: &Event, key: &[u8], line: &mut Vec<u8>) {
    let (ms, gid, cfd) = (event.at.unix_ms, event.gid, event.descriptor);
    // Writing to a vector does not fail.
    let _ = write!(line, "ts={}.{:06} gid={gid} type=", ms / 1000, ms % 1000 * 1000);
    let class = |present: bool| u8::from(present);
    let _ = match event.what {
        What::Get { found, value_bytes } => {
            put_key(line, "item_get", key);
            let (status, class) = (found_text(found), class(found == Found::Item));
            writeln!(line, " status={status} clsid={class} cfd={cfd} size={value_bytes}")
        }
        What::Store { outcome, mode, compares, ttl_s, value_bytes } => {
            put_key(line, "item_store", key);
            let (status, class) = (stored_text(outcome), class(outcome != Stored::TooLarge));
            let command = command_text(mode, compares);
            writeln!(line, " status={status} cmd={command} ttl={ttl_s} clsid={class} cfd={cfd} size={value_bytes}")
        }
        What::Delete { meta, value_bytes } => {
            put_key(line, "deleted", key);
            writeln!(line, " cmd={} clsid=1 size={value_bytes}", if meta { "md" } else { "delete" })
        }
        What::Eviction { fetched, ttl_s, idle_s, value_bytes } => {
            put_key(line, "eviction", key);
            let (fetch, ttl) = (if fetched { "yes" } else { "no" }, ttl_s.map_or(-1, i64::from));
            writeln!(line, " fetch={fetch} ttl={ttl} la={idle_s} clsid=1 size={value_bytes}")
        }
        What::Opened(address) => {
            put_address(line, "conn_new", address);
            writeln!(line, " cfd={cfd}")
        }
        What::Closed(address, reason) => {
            put_address(line, "conn_close", address);
            writeln!(line, " reason={} cfd={cfd}", reason_text(reason))
        }
    };
}

fn put_key(line: &mut Vec<u8>, name: &str, key: &[u8]) {
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b" key=");
    uri_encode(key, line);
}

fn put_address(line: &mut Vec<u8>, name: &str, address: Option<SocketAddr>) {
    let _ = match address {
        Some(address) => write!(line, "{name} rip={} rport={} transport=tcp", address.ip(), address.port()),
        None => write!(line, "{name} rip=unix rport=0 transport=local"),
    };
}

fn found_text(found: Found) -> &'static str {
    match found {
        Found::Nothing => "not_found",
        Found::Item => "found",
        Found::Flushed => "flushed",
        Found::Expired => "expired",
    }
}

fn stored_text(outcome: Stored) -> &'static str {
    match outcome {
        Stored::NotStored => "not_stored",
        Stored::Stored => "stored",
        Stored::Exists => "exists",
        Stored::NotFound => "not_found",
        Stored::TooLarge => "too_large",
        Stored::NoMemory => "no_memory",
    }
}

fn command_text(mode: StoreMode, compares: bool) -> &'static str {
    match mode {
        StoreMode::Set if compares => "cas",
        StoreMode::Set => "set",
        StoreMode::Add => "add",
        StoreMode::Replace => "replace",
        StoreMode::Append => "append",
        StoreMode::Prepend => "prepend",
    }
}

fn reason_text(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Error => "error",
        CloseReason::Normal => "normal",
        CloseReason::IdleTimeout => "idle_timeout",
        CloseReason::Shutdown => "shutdown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_line_names_kinds_and_without_any_means_fetchers() {
        let kinds = |line: &str| kinds(line.split_whitespace());
        assert_eq!(kinds(""), Some(Kinds::FETCHERS));
        assert_eq!(kinds("mutations evictions"), Some(Kinds::MUTATIONS.with(Kinds::EVICTIONS)));
        assert_eq!(kinds("connevents connevents"), Some(Kinds::CONNEVENTS));
        assert_eq!(kinds("rawcmds"), Some(Kinds::NONE));
        assert_eq!(kinds("sysevents proxyreqs deletions"), Some(Kinds::DELETIONS));
        assert_eq!(kinds("fetchers foo"), None);
    }

    #[test]
    fn a_watcher_without_room_loses_lines_and_is_told_how_many() {
        let ticket = Ticket { connection: 0, generation: 0, slot: 0, descriptor: 0 };
        let (kinds, lines) = (Kinds::FETCHERS, Vec::new());
        let mut watcher = Watcher { core: ShardId(0), ticket, kinds, gid: 0, lines, under_way: None, skipped: 0 };
        let line = [b'x'; 1000];
        let mut taken = 0;
        while watcher.push(&line) {
            taken += 1;
        }
        assert!(!watcher.push(&line));
        assert!(watcher.lines.len() <= limits::WATCHER_BYTES_MAX && taken >= limits::WATCHER_BYTES_MAX / 1000 - 1);
        watcher.lines.clear();
        assert!(watcher.push(b"next\n"));
        assert_eq!(watcher.lines, b"skipped=2\nnext\n");
        watcher.lines.clear();
        assert!(watcher.push(b"next\n"));
        assert_eq!(watcher.lines, b"next\n");
    }
}

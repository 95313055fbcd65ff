//! Runs transcripts against whoever answers.
//!
//! Lives here: which files, against whom, and what a failure says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::format::{self, Action, Line, Match, Names, Options, Transcript};
use crate::memory::{Cut, Memory};
use crate::original::{self, Version, original};
use crate::skip;
use crate::tcp::{Server, Tcp};

/// Whoever answers.
pub trait Peer {
    /// Makes `name` the connection that the following lines mean.
    fn connect(&mut self, name: &str) -> Result<(), String>;
    /// Sends bytes.
    fn send(&mut self, bytes: &[u8]) -> Result<(), String>;
    /// Appends what arrives; waits long for it.
    fn receive(&mut self, into: &mut Vec<u8>) -> Arrival;
    /// Appends what arrives; waits only as long as an answer might take that should not come.
    fn settle(&mut self, into: &mut Vec<u8>) -> Arrival {
        self.receive(into)
    }
    /// Moves the clock.
    fn advance(&mut self, _seconds: u32) {
        unreachable!("no transcript that moves the clock runs here");
    }
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Bytes,
    Quiet,
    Closed,
}

/// Every transcript of `folder` that needs no control plane, in memory.
pub fn in_memory(folder: &str, cut: Cut) {
    run_all(
        folder,
        |options| !options.node_only,
        |transcript| {
            run(transcript, &mut Memory::new(&transcript.options, cut), None)
                .map_err(|failure| format!("{failure}\n  in memory, {cut:?}"))
        },
    );
}

/// Every transcript of `folder` in which we mean to agree with memcached, against it. What is of another release than that memcached
/// is skipped, and counted aloud.
pub fn against_memcached(folder: &str) {
    let Some(original) = original() else { return };
    let version = original::show(original.version);
    let other = |options: &Options| !format::holds((options.since, options.before), Some(original.version));
    let mut servers = Servers::new(|options: &Options| Server::memcached(original, options));
    servers.original = Some(original.version);
    let (mut files, mut exchanges) = (0, 0);
    run_all(
        folder,
        |options| {
            let ours = options.differs || options.clock || options.memory_only;
            files += usize::from(!ours && other(options));
            !ours && !other(options)
        },
        |transcript| {
            let skipped = servers.run(transcript).map_err(|failure| format!("{failure}\n  against memcached {version}"))?;
            exchanges += skipped;
            Ok(skipped)
        },
    );
    if files + exchanges > 0 {
        original::say(&format!(
            "{folder}: {files} transcripts and {exchanges} exchanges are of another release than memcached {version}, and were skipped."
        ));
    }
}

/// Every transcript of `folder` in which we mean to agree with Redis, against the one that is installed.
pub fn against_redis(folder: &str) {
    if !Command::new("redis-server").arg("--version").output().is_ok_and(|answer| answer.status.success()) {
        return skip::because("redis-server is not installed: expectations are not checked against it");
    }
    let mut servers = Servers::new(|_: &Options| Server::redis());
    servers.emptied_by = (b"FLUSHALL\r\n", b"+OK\r\n");
    run_all(
        folder,
        |options| !(options.differs || options.clock || options.memory_only),
        |transcript| servers.run(transcript).map_err(|failure| format!("{failure}\n  against redis-server")),
    );
}

/// Transcripts of `folder` against a node: the plain ones, or those that ask for options and the control plane. Those that move
/// the clock are among the latter, in builds with `debugtime`.
pub fn against_node(folder: &str, plain: bool, arguments: &[&str]) {
    let mut servers = Servers::new(|options: &Options| Server::node(options, arguments));
    run_all(
        folder,
        |options| {
            let runs = !options.memory_only && (cfg!(feature = "debugtime") || !options.clock);
            runs && (options.plain() && !options.clock) == plain
        },
        |transcript| servers.run(transcript).map_err(|failure| format!("{failure}\n  against a node")),
    );
}

/// Seed of the cuts: from the environment, or of the moment. A failure prints it.
pub fn seed() -> u64 {
    match std::env::var("TRANSCRIPT_SEED") {
        Ok(seed) => seed.parse().expect("TRANSCRIPT_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
    }
}

/// One server per set of options, emptied between transcripts.
struct Servers<F> {
    start: F,
    /// The release of the original that they are; `None` for ours, which is the latest.
    original: Option<Version>,
    /// What removes all items, and its answer.
    emptied_by: (&'static [u8], &'static [u8]),
    running: HashMap<Options, Server>,
}

impl<F: Fn(&Options) -> Server> Servers<F> {
    fn new(start: F) -> Self {
        Self { start, original: None, emptied_by: (b"flush_all\r\n", b"OK\r\n"), running: HashMap::new() }
    }

    /// Runs a transcript. What goes by seconds of the clock is only right within one: a failure counts unless one began meanwhile.
    fn run(&mut self, transcript: &Transcript) -> Result<usize, String> {
        let second = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        for _ in 0..TRIES_MAX {
            let before = second();
            let result = self.run_once(transcript);
            if result.is_ok() || second() == before {
                return result;
            }
        }
        self.run_once(transcript)
    }

    fn run_once(&mut self, transcript: &Transcript) -> Result<usize, String> {
        let options = Options { node_only: false, differs: false, since: None, before: None, ..transcript.options.clone() };
        // What cannot be emptied again starts anew.
        if options.flush_disabled || options.cas_disabled {
            self.running.remove(&options);
        }
        let server = self.running.entry(options.clone()).or_insert_with(|| (self.start)(&options));
        if !options.flush_disabled && !options.cas_disabled {
            empty(server, self.emptied_by)?;
        }
        if options.clock {
            server.debug_time("p");
        }
        run(transcript, &mut Tcp::new(server), self.original)
    }
}

/// Removes all items, and with them a flush that an earlier transcript planned. An immediate flush is exact in 1.6: it goes by
/// the order of CAS, not by seconds.
fn empty(server: &Server, (order, answer): (&[u8], &[u8])) -> Result<(), String> {
    let mut peer = Tcp::new(server);
    let mut received = Vec::new();
    peer.connect("flush")?;
    peer.send(order)?;
    while received != answer {
        if peer.receive(&mut received) != Arrival::Bytes {
            return Err(format!("emptied between transcripts: {}", format::show(&received)));
        }
    }
    Ok(())
}

fn run_all(folder: &str, mut wanted: impl FnMut(&Options) -> bool, mut run: impl FnMut(&Transcript) -> Result<usize, String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(folder);
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let filter = std::env::var("TRANSCRIPT").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for path in paths.iter().filter(|path| path.to_string_lossy().contains(&filter)) {
        let transcript = format::read(path);
        if wanted(&transcript.options) && failures.len() < FAILURES_MAX {
            count += 1;
            failures.extend(run(&transcript).err());
        }
    }
    assert!(failures.is_empty(), "{} of {count} transcripts fail\n\n{}", failures.len(), failures.join("\n\n"));
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            paths.push(path);
        }
    }
}

/// Runs one transcript against a server of this release; the failure names file, line, what was expected and what came. Returns how
/// many exchanges are of another release and were skipped.
pub fn run(transcript: &Transcript, peer: &mut dyn Peer, release: Option<Version>) -> Result<usize, String> {
    let mut run = Run { peer, names: Names::new(), received: HashMap::new(), current: "main".into(), unsent: Vec::new() };
    run.peer.connect("main")?;
    let (mut skipped, mut skipping) = (0, false);
    for line in &transcript.lines {
        if !format::holds(line.releases, release) {
            let sends = matches!(line.action, Action::Send(_) | Action::SendPacket(_));
            skipped += usize::from(sends && !skipping);
            skipping = sends;
            continue;
        }
        run.line(line).map_err(|reason| {
            let path = transcript.path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&transcript.path);
            format!("{}:{}: {}\n  {reason}", path.display(), line.number, line.source)
        })?;
    }
    run.finish().map_err(|reason| format!("{}: at the end: {reason}", transcript.path.display()))?;
    Ok(skipped)
}

struct Run<'p> {
    peer: &'p mut dyn Peer,
    names: Names,
    received: HashMap<String, Vec<u8>>,
    current: String,
    unsent: Vec<u8>,
}

impl Run<'_> {
    fn line(&mut self, line: &Line) -> Result<(), String> {
        match &line.action {
            Action::Send(parts) => self.unsent.extend(format::assemble(parts, &self.names)?),
            Action::SendPacket(packet) => self.unsent.extend(packet.assemble(&self.names)?),
            Action::Expect(parts) => {
                self.flush()?;
                self.expect(|received, names| format::matches(parts, received, names))?;
            }
            Action::ExpectPacket(packet) => {
                self.flush()?;
                self.expect(|received, names| packet.matches(received, names))?;
            }
            Action::Closed => {
                self.flush()?;
                self.closed()?;
            }
            Action::Quiet => {
                self.flush()?;
                self.quiet()?;
            }
            Action::Clock(seconds) => {
                self.flush()?;
                self.peer.advance(*seconds);
            }
            Action::Connection(name) => {
                self.flush()?;
                self.peer.connect(name)?;
                self.current = name.clone();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let bytes = std::mem::take(&mut self.unsent);
        if bytes.is_empty() { Ok(()) } else { self.peer.send(&bytes) }
    }

    fn expect(&mut self, matches: impl Fn(&[u8], &mut Names) -> Result<Match, String>) -> Result<(), String> {
        let received = self.received.entry(self.current.clone()).or_default();
        loop {
            match matches(received, &mut self.names)? {
                Match::Full(length) => {
                    received.drain(..length);
                    return Ok(());
                }
                Match::Wrong => return Err(format!("got      {}", format::show(received))),
                Match::Partial => match self.peer.receive(received) {
                    Arrival::Bytes => {}
                    end => return Err(format!("got      {} and then {end:?}", format::show(received))),
                },
            }
        }
    }

    fn closed(&mut self) -> Result<(), String> {
        let received = self.received.entry(self.current.clone()).or_default();
        loop {
            match self.peer.receive(received) {
                Arrival::Bytes => {}
                Arrival::Quiet => return Err(format!("still open; got {}", format::show(received))),
                Arrival::Closed if received.is_empty() => return Ok(()),
                Arrival::Closed => return Err(format!("closed, but first came {}", format::show(received))),
            }
        }
    }

    fn quiet(&mut self) -> Result<(), String> {
        let received = self.received.entry(self.current.clone()).or_default();
        match self.peer.settle(received) {
            Arrival::Quiet if received.is_empty() => Ok(()),
            Arrival::Closed if received.is_empty() => Err("closed".into()),
            _ => Err(format!("got      {}", format::show(received))),
        }
    }

    /// Nothing more may come on any connection.
    fn finish(&mut self) -> Result<(), String> {
        self.flush()?;
        let received = self.received.entry(self.current.clone()).or_default();
        if received.is_empty() {
            self.peer.settle(received);
        }
        match self.received.iter().find(|(_, bytes)| !bytes.is_empty()) {
            Some((name, bytes)) => Err(format!("connection {name}: unexpected {}", format::show(bytes))),
            None => Ok(()),
        }
    }
}

/// Times that a transcript is tried again because a second began while it ran.
const TRIES_MAX: usize = 3;
/// Failures after which a test ends: each may have waited long for its answer.
const FAILURES_MAX: usize = 12;

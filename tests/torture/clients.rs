//! Clients that have several requests in flight on one connection, and write down everything.
//!
//! ```text
//!   burst: 1 to 12 requests, for one key or for several --one write--> node        answers are read until few are missing, then the next
//!
//!   r0..   all commands         b0..   with a time to live         n0..   counters: set once, then counted up and read
//!   q0..   all commands, but seldom, so that what is left of a fault is not overwritten at once
//! ```
//!
//! A client stays at a node for a while, leaves it when it is closed, killed or cleared, and gives up a connection that does not answer
//! for `PATIENCE_US`: what was under way then has an unknown outcome.
//!
//! Lives here: what is asked, connections. Not here: what may be answered (`judge`).

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::history::{Answer, Ask, Call, Micros, NEVER};
use super::random::Random;
use super::speech::{Dialect, Request};

/// How long a client waits for an answer: above every pause of a node, and above the longest life of a request in the ring.
pub const PATIENCE_US: Micros = 9_000_000;
/// Clients of an episode.
pub const CLIENTS: usize = 6;
/// Keys of each kind. Few, so that clients meet; enough, so that a key's history can be searched.
const REGISTERS: u64 = 28;
const BRIEFS: u64 = 8;
const COUNTERS: u64 = 6;
const QUIETS: u64 = 60;
/// Requests without an answer beyond which a client only reads.
const WINDOW: usize = 24;

/// What clients and the one who plays with the nodes share.
pub struct Stage {
    begun: Instant,
    addresses: Vec<SocketAddr>,
    /// Nodes that clients may talk to.
    pub admitted: Vec<AtomicBool>,
    /// Clients that have a connection to each node.
    pub present: Vec<AtomicUsize>,
    /// Clients ask nothing for now.
    pub quiet: AtomicBool,
    pub over: AtomicBool,
    /// No items with a time to live: in a partition nobody can tell what they should be.
    pub timeless: bool,
    connections: AtomicU32,
}

impl Stage {
    pub fn new(addresses: &[SocketAddr], timeless: bool) -> Self {
        Self {
            begun: Instant::now(),
            addresses: addresses.to_vec(),
            admitted: addresses.iter().map(|_| AtomicBool::new(true)).collect(),
            present: addresses.iter().map(|_| AtomicUsize::new(0)).collect(),
            quiet: AtomicBool::new(false),
            over: AtomicBool::new(false),
            timeless,
            connections: AtomicU32::new(0),
        }
    }

    /// Microseconds since the episode began.
    pub fn now(&self) -> Micros {
        self.begun.elapsed().as_micros() as Micros
    }

    fn is_admitted(&self, node: usize) -> bool {
        self.admitted[node].load(Ordering::Relaxed)
    }
}

/// Every key of an episode.
pub fn keys() -> Vec<String> {
    let named = |kind: char, count: u64| (0..count).map(move |number| format!("{kind}{number}"));
    named('r', REGISTERS).chain(named('b', BRIEFS)).chain(named('n', COUNTERS)).chain(named('q', QUIETS)).collect()
}

/// What was asked over a connection and is not answered yet.
struct Pending {
    request: Request,
    invoked: Micros,
}

/// A connection to a node, and the calls that went over it.
pub struct Line {
    id: u32,
    stream: TcpStream,
    input: Vec<u8>,
    pending: VecDeque<Pending>,
    number: u32,
    dialect: Dialect,
}

/// What a client leaves.
#[derive(Default)]
pub struct Notes {
    pub calls: Vec<Call>,
    /// Node of each connection.
    pub nodes: HashMap<u32, usize>,
    /// Answers that no server gives.
    pub complaints: Vec<String>,
}

impl Line {
    /// # Errors
    /// The node does not listen.
    pub fn open(stage: &Stage, node: usize, dialect: Dialect, notes: &mut Notes) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&stage.addresses[node], Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let id = stage.connections.fetch_add(1, Ordering::Relaxed);
        notes.nodes.insert(id, node);
        Ok(Self { id, stream, input: Vec::new(), pending: VecDeque::new(), number: 0, dialect })
    }

    /// Sends some requests in one piece.
    ///
    /// # Errors
    /// The connection is gone. The requests count as sent.
    pub fn send(&mut self, stage: &Stage, asks: Vec<(String, Ask, usize)>) -> std::io::Result<()> {
        let mut output = Vec::new();
        let invoked = stage.now();
        for (key, ask, padding) in asks {
            self.number += 1;
            let request = Request { dialect: self.dialect, key, ask, number: self.number, padding };
            request.write(&mut output);
            self.pending.push_back(Pending { request, invoked });
        }
        self.stream.write_all(&output)
    }

    /// Reads what comes until at most `most` requests are without an answer.
    ///
    /// # Errors
    /// Why no more is to be expected.
    pub fn read_until(&mut self, stage: &Stage, most: usize, notes: &mut Notes) -> Result<(), String> {
        let mut piece = [0; 16 << 10];
        while self.pending.len() > most {
            let waits = self.pending.front().map_or(0, |pending| stage.now().saturating_sub(pending.invoked));
            let left = PATIENCE_US.saturating_sub(waits).max(1000);
            self.stream.set_read_timeout(Some(Duration::from_micros(left))).map_err(|error| error.to_string())?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err("closed".into()),
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err("no answer".into()),
                Err(error) => return Err(error.to_string()),
            }
            self.take_answers(stage.now(), notes)?;
        }
        Ok(())
    }

    fn take_answers(&mut self, now: Micros, notes: &mut Notes) -> Result<(), String> {
        let mut used = 0;
        while let Some(pending) = self.pending.front() {
            match pending.request.read(&self.input[used..]) {
                Ok(None) => break,
                Ok(Some((answer, bytes))) => {
                    used += bytes;
                    let answered = if answer.is_ok() { now } else { NEVER };
                    let pending = self.pending.pop_front().expect("the front");
                    notes.calls.push(self.call(pending, answered, answer));
                }
                Err(wrong) => {
                    notes.complaints.push(wrong.clone());
                    return Err(wrong);
                }
            }
        }
        self.input.drain(..used);
        Ok(())
    }

    fn call(&self, pending: Pending, answered: Micros, answer: Result<Answer, String>) -> Call {
        let Request { key, ask, number, .. } = pending.request;
        Call { connection: self.id, number, key, ask, invoked: pending.invoked, answered, answer }
    }

    /// Ends the connection: nobody knows about what is under way.
    pub fn give_up(mut self, why: &str, notes: &mut Notes) {
        while let Some(pending) = self.pending.pop_front() {
            let call = self.call(pending, NEVER, Err(why.into()));
            notes.calls.push(call);
        }
    }
}

/// One client, a thread.
pub struct Client<'a> {
    stage: &'a Stage,
    number: usize,
    random: Random,
    serial: u32,
    /// Last token read of each key.
    tokens: HashMap<String, u64>,
    notes: Notes,
}

impl<'a> Client<'a> {
    pub fn new(stage: &'a Stage, number: usize, seed: u64) -> Self {
        let mut random = Random((seed ^ ((number as u64 + 1) << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        Self { stage, number, random, serial: 0, tokens: HashMap::new(), notes: Notes::default() }
    }

    /// Asks until the stage is over.
    pub fn run(mut self) -> Notes {
        while !self.stage.over.load(Ordering::Relaxed) {
            let admitted: Vec<usize> = (0..self.stage.addresses.len()).filter(|&node| self.stage.is_admitted(node)).collect();
            let node = self.random.pick(&admitted);
            self.stage.present[node].fetch_add(1, Ordering::SeqCst);
            if self.stage.is_admitted(node) {
                self.visit(node);
            }
            self.stage.present[node].fetch_sub(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1 + self.random.below(10)));
        }
        self.notes
    }

    /// One connection, for as long as it lasts.
    fn visit(&mut self, node: usize) {
        let dialect = self.random.pick(&[Dialect::Text, Dialect::Meta]);
        let Ok(mut line) = Line::open(self.stage, node, dialect, &mut self.notes) else { return };
        let bursts = 20 + self.random.below(400);
        for _ in 0..bursts {
            if self.stage.over.load(Ordering::Relaxed) || !self.stage.is_admitted(node) {
                break;
            }
            let quiet = self.stage.quiet.load(Ordering::Relaxed);
            let asks = if quiet { Vec::new() } else { self.burst() };
            let most = if quiet { 0 } else { self.random.below(WINDOW as u64 / 2) as usize };
            let sent = line.send(self.stage, asks).map_err(|error| error.to_string());
            let known = self.notes.calls.len();
            let result = sent.and_then(|()| line.read_until(self.stage, most, &mut self.notes));
            self.remember(known);
            if let Err(why) = result {
                return line.give_up(&why, &mut self.notes);
            }
            std::thread::sleep(Duration::from_micros(2000 + self.random.below(18_000)));
        }
        match line.read_until(self.stage, 0, &mut self.notes) {
            Ok(()) => {}
            Err(why) => line.give_up(&why, &mut self.notes),
        }
    }

    /// Keeps tokens for later comparisons.
    fn remember(&mut self, known: usize) {
        for call in &self.notes.calls[known..] {
            if let Ok(Answer::Value { token: Some(token), .. }) = &call.answer {
                self.tokens.insert(call.key.clone(), *token);
            }
        }
    }

    fn burst(&mut self) -> Vec<(String, Ask, usize)> {
        let count = 1 + self.random.pick(&[0, 1, 1, 2, 3, 5, 11]);
        let first = self.key();
        let together = self.random.one_in(2);
        (0..count)
            .map(|_| {
                let key = if together { first.clone() } else { self.key() };
                let padding = match self.random.below(40) {
                    0 => 20_000 + self.random.below(20_000) as usize,
                    1..=4 => self.random.below(3000) as usize,
                    _ => 0,
                };
                let ask = self.ask(&key);
                (key, ask, padding)
            })
            .collect()
    }

    fn key(&mut self) -> String {
        match self.random.below(20) {
            // The first keys are asked for more often.
            0..=10 => format!("r{}", self.random.below(REGISTERS).min(self.random.below(REGISTERS))),
            11..=14 if !self.stage.timeless => format!("b{}", self.random.below(BRIEFS)),
            11..=15 => format!("n{}", self.random.below(COUNTERS)),
            _ => format!("q{}", self.random.below(QUIETS)),
        }
    }

    fn ask(&mut self, key: &str) -> Ask {
        if key.starts_with('n') {
            return if self.random.one_in(3) { Ask::Get } else { Ask::Increment };
        }
        self.serial += 1;
        let tag = format!("{key}:{}.{}", self.number, self.serial);
        let brief = key.starts_with('b');
        match self.random.below(100) {
            0..=24 if key.starts_with('q') => Ask::Delete,
            0..=39 => Ask::Get,
            40..=66 if brief => Ask::Set { value: tag, ttl_s: self.random.pick(&[0, 1, 2, 3]) },
            40..=66 => Ask::Set { value: tag, ttl_s: 0 },
            67..=75 => Ask::Delete,
            76..=80 => Ask::Add { value: tag },
            81..=83 => Ask::Replace { value: tag },
            84..=88 => Ask::Append { value: format!("+{tag}") },
            89..=94 => match self.tokens.get(key) {
                Some(&token) => Ask::Cas { value: tag, token },
                None => Ask::Get,
            },
            95..=97 if brief => Ask::Touch { ttl_s: self.random.pick(&[0, 1, 2, 3]) },
            95..=97 => Ask::Touch { ttl_s: 0 },
            _ if brief => Ask::GetTouch { ttl_s: self.random.pick(&[0, 2]) },
            _ => Ask::GetTouch { ttl_s: 0 },
        }
    }
}

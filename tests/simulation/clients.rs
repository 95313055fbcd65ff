//! Clients that set, get, delete, count and compare, and remember everything that they were told.
//!
//! ```text
//!   value:  <key>=<serial>          so that a value of another key, or one that nobody wrote, is seen
//!   a request that is not answered in time has an unknown outcome: it may still take effect, at any time
//! ```
//!
//! Lives here: what is asked, and the memory of answers. Not here: what must follow from it (`laws`).

use std::collections::BTreeMap;

use super::Random;
use super::world::World;

/// How long a client waits before it gives up, in virtual milliseconds.
pub const PATIENCE_MS: u64 = 8000;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Set { value: String },
    Get,
    Delete,
    Increment,
    Compare { expected: u64, value: String },
    Flush,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Written, with this version.
    Stored(u64),
    /// Read: version and value.
    Value(u64, String),
    Absent,
    Deleted,
    Number(u64),
    Exists,
    /// The fence.
    Flushed(u64),
    Failed(String),
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Record {
    pub node: usize,
    pub key: String,
    pub asked: Asked,
    pub begun: u64,
    pub ended: Option<u64>,
    pub told: Option<Told>,
    /// Number of the calm period that it lies in wholly, if it does.
    pub calm: Option<u32>,
    /// Everybody was there all the time, though perhaps not settled after the absence of one.
    pub steady: bool,
}

pub struct Client {
    node: usize,
    /// Record of the request under way.
    waits: Option<(u32, usize, u64)>,
    number: u32,
    /// Last version read of each key, for `Compare`.
    seen: BTreeMap<String, u64>,
}

/// All clients and the history.
pub struct Clients {
    pub clients: Vec<Client>,
    pub history: Vec<Record>,
    pub keys: u64,
    pub value_bytes: usize,
    /// Number of the calm period, while there is one.
    pub calm: Option<u32>,
    /// Everybody is there, and was but for one at a time.
    pub steady: bool,
    pub flushes: bool,
    pub stopped: bool,
    serial: u64,
    /// Greatest version that each key was acknowledged with: a value, or a tombstone.
    pub acknowledged: BTreeMap<String, u64>,
    /// Greatest fence that a flush was acknowledged with.
    pub flushed: u64,
}

impl Clients {
    pub fn new(count: usize, keys: u64, value_bytes: usize, flushes: bool) -> Self {
        let client = |_| Client { node: 0, waits: None, number: 0, seen: BTreeMap::new() };
        Self {
            clients: (0..count).map(client).collect(),
            history: Vec::new(),
            keys,
            value_bytes,
            calm: None,
            steady: true,
            flushes,
            stopped: false,
            serial: 0,
            acknowledged: BTreeMap::new(),
            flushed: 0,
        }
    }

    /// A client's turn: gives up what takes too long, or asks something new.
    pub fn act(&mut self, world: &mut World, client: usize) {
        if let Some((_, record, begun)) = self.clients[client].waits {
            let node = self.history[record].node;
            let gone = !world.nodes[node].alive;
            if !gone && world.now < begun + PATIENCE_MS {
                world.wake_client(client, world.now + 50);
                return;
            }
            self.clients[client].waits = None;
        }
        if self.stopped {
            return;
        }
        self.ask(world, client);
        let pause = world.random.below(30) + 1;
        world.wake_client(client, world.now + pause);
    }

    fn ask(&mut self, world: &mut World, client: usize) {
        let alive: Vec<usize> = (0..world.nodes.len())
            .filter(|&node| world.nodes[node].alive && world.nodes[node].paused_until <= world.now)
            .collect();
        if alive.is_empty() {
            return;
        }
        let moves = world.random.below(20) == 0 || !alive.contains(&self.clients[client].node);
        if moves {
            self.clients[client].node = alive[world.random.below(alive.len() as u64) as usize];
        }
        let node = self.clients[client].node;
        let (key, asked) = self.choose(&mut world.random, client);
        let text = request(&key, &asked);
        let number = self.clients[client].number;
        self.clients[client].number += 1;
        self.clients[client].waits = Some((number, self.history.len(), world.now));
        self.history.push(Record {
            node,
            key,
            asked: asked.clone(),
            begun: world.now,
            ended: None,
            told: None,
            calm: self.calm,
            steady: self.steady,
        });
        let core = world.random.below(world.nodes[node].cores.len() as u64) as usize;
        match asked {
            Asked::Flush => world.flush(node, client, number),
            _ => world.request(node, core, client, number, text.as_bytes()),
        }
    }

    fn choose(&mut self, random: &mut Random, client: usize) -> (String, Asked) {
        self.serial += 1;
        let key = format!("key{}", random.below(self.keys));
        let serial = self.serial;
        let value = |key: &str| format!("{key}={serial}:{}", "x".repeat(self.value_bytes));
        match random.below(100) {
            0..40 => (key, Asked::Get),
            40..70 => {
                let value = value(&key);
                (key, Asked::Set { value })
            }
            70..80 => (key, Asked::Delete),
            80..90 => (format!("count{}", random.below(4)), Asked::Increment),
            90..99 => match self.clients[client].seen.get(&key) {
                Some(&expected) => {
                    let value = value(&key);
                    (key, Asked::Compare { expected, value })
                }
                None => (key, Asked::Get),
            },
            _ if self.flushes && random.below(8) == 0 => (String::new(), Asked::Flush),
            _ => (key, Asked::Get),
        }
    }

    /// An answer for a client.
    pub fn answer(&mut self, world: &mut World, client: usize, number: u32, bytes: &[u8]) {
        let Some((waits, record, _)) = self.clients[client].waits else { return };
        if waits != number || !world.nodes[self.history[record].node].alive {
            return;
        }
        self.clients[client].waits = None;
        let told = read(&self.history[record].asked, bytes);
        let entry = &mut self.history[record];
        entry.ended = Some(world.now);
        if entry.calm != self.calm {
            entry.calm = None;
        }
        entry.steady &= self.steady;
        match &told {
            Told::Stored(version) => {
                let known = self.acknowledged.entry(entry.key.clone()).or_default();
                *known = (*known).max(*version);
                self.clients[client].seen.remove(&entry.key);
            }
            Told::Value(version, _) => _ = self.clients[client].seen.insert(entry.key.clone(), *version),
            Told::Deleted => {
                let version = greatest_tombstone(world, &entry.key);
                let known = self.acknowledged.entry(entry.key.clone()).or_default();
                *known = (*known).max(version);
            }
            Told::Flushed(fence) => {
                self.flushed = self.flushed.max(*fence);
                let node = entry.node;
                world.raise_fences(node, *fence);
            }
            _ => {}
        }
        if std::env::var("SIMULATION_TRACE").is_ok_and(|key| key == self.history[record].key) {
            let Record { node, asked, begun, .. } = &self.history[record];
            println!("{} client {client} at {node} asked at {begun} {asked:?}: {told:?}", world.now);
        }
        self.history[record].told = Some(told);
    }

    /// Whether all requests are answered or given up.
    pub fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.waits.is_none())
    }
}

/// What a delete that was just acknowledged has left. A node that is dead may have tombstones that nobody was told of.
fn greatest_tombstone(world: &mut World, key: &str) -> u64 {
    let mut greatest = 0;
    for node in (0..world.nodes.len()).filter(|&node| world.nodes[node].alive).collect::<Vec<_>>() {
        let now = world.clock(node);
        for core in &mut world.nodes[node].cores {
            let copy = core.engine.copy_of(&pbcache::key::Key::new(key.as_bytes()), now);
            greatest = greatest.max(copy.filter(|copy| copy.tombstone).map_or(0, |copy| copy.version));
        }
    }
    greatest
}

fn request(key: &str, asked: &Asked) -> String {
    match asked {
        Asked::Set { value } => format!("ms {key} {} c\r\n{value}\r\n", value.len()),
        Asked::Compare { expected, value } => format!("ms {key} {} C{expected} c\r\n{value}\r\n", value.len()),
        Asked::Get => format!("mg {key} v c\r\n"),
        Asked::Delete => format!("delete {key}\r\n"),
        Asked::Increment => format!("ma {key} N0 J1 v\r\n"),
        Asked::Flush => String::new(),
    }
}

fn read(asked: &Asked, bytes: &[u8]) -> Told {
    if let (Asked::Flush, Some(fence)) = (asked, bytes.first_chunk::<8>()) {
        return Told::Flushed(u64::from_le_bytes(*fence));
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let cas = || words.iter().find_map(|word| word.strip_prefix('c')?.parse().ok()).unwrap_or(0);
    match (words[0], asked) {
        ("HD", Asked::Set { .. } | Asked::Compare { .. }) => Told::Stored(cas()),
        ("VA", Asked::Increment) => Told::Number(lines.next().unwrap_or("").parse().unwrap_or(0)),
        ("VA", _) => Told::Value(cas(), lines.next().unwrap_or("").into()),
        ("EN" | "NF" | "NOT_FOUND", _) => Told::Absent,
        ("DELETED", _) => Told::Deleted,
        ("EX", _) => Told::Exists,
        _ => Told::Failed(text.trim_end().into()),
    }
}

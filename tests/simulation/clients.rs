//! Clients that read, write, delete, count, append and compare over pipelined connections, and remember everything that they were told.
//!
//! ```text
//!   connection:   ask k1 | ask k2 | ask k1 |  ->  a node            several requests in one piece, often on the same key
//!                 <- answers, in the order of the requests         one that comes early waits for those before it
//!   value:        <key>=<serial>:<length>      so that a value of another key, or one that nobody wrote, is seen; each byte follows from it
//!   long:         values of 10 KB to 900 KB
//!   list:         ;<serial>;<serial>  grows by append alone: a command that is executed twice is seen
//!
//!   a request that is not answered in time has an unknown outcome: it may still take effect, at any time
//! ```
//!
//! Lives here: what is asked, and the memory of answers. Not here: what must follow from it (`laws`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Random;
use super::world::{self, World};

/// How long a client waits before it gives its connection up, in virtual milliseconds.
pub const PATIENCE_MS: u64 = 8000;
/// Requests of one connection that are under way at most.
const DEPTH_MAX: usize = 8;

/// Bytes of a value of a key `long..`.
const LONG_BYTES: std::ops::Range<u64> = 10_000..900_000;
/// Keys of such values.
const LONG_COUNT: u64 = 3;

/// What was asked. Values by their names: see `value_of`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `exptime_s`: 0 for never.
    Set {
        value: String,
        exptime_s: u32,
    },
    Get,
    Delete,
    /// Gives the item a time to live.
    Touch {
        exptime_s: u32,
    },
    Increment,
    Append {
        token: String,
    },
    Compare {
        expected: u64,
        value: String,
    },
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
    Touched,
    Number(u64),
    Exists,
    /// The fence.
    Flushed(u64),
    /// It may have been executed, or not.
    Interrupted,
    Failed(String),
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Record {
    pub node: usize,
    /// Which connection it went over, and its place there.
    pub connection: (usize, u32),
    pub place: usize,
    pub key: String,
    pub asked: Asked,
    pub begun: u64,
    /// When the answer was there, and those of all requests before it.
    pub ended: Option<u64>,
    pub told: Option<Told>,
    /// What was acknowledged: the version of a value, or of a tombstone; else 0.
    pub version: u64,
    /// Its coordinator died before the copies were sent, where a write is answered before that.
    pub may_be_lost: bool,
    /// Number of the calm period that it lies in wholly, if it does.
    pub calm: Option<u32>,
    /// Everybody was there all the time, though perhaps not settled after the absence of one.
    pub steady: bool,
    /// Nothing happened meanwhile that lets two nodes answer for one key, or one that knows nothing of it. Else `None`; the number tells
    /// apart the times between which such a thing happened.
    pub sound: Option<u32>,
}

impl Record {
    /// The value that it wrote or read for sure.
    pub fn value(&self) -> Option<&str> {
        match (&self.asked, &self.told) {
            (Asked::Set { value, .. } | Asked::Compare { value, .. }, Some(Told::Stored(_))) => Some(value),
            (Asked::Get, Some(Told::Value(_, value))) => Some(value),
            _ => None,
        }
    }

    /// Whether the item of its key may have gone because of it.
    pub fn may_remove(&self) -> bool {
        match &self.asked {
            Asked::Set { exptime_s, .. } => *exptime_s > 0,
            Asked::Delete | Asked::Touch { .. } | Asked::Flush => true,
            _ => false,
        }
    }

    /// Whether it was over before another one began, in time or by its place in one connection.
    pub fn precedes(&self, other: &Record) -> bool {
        match self.ended {
            Some(ended) if ended < other.begun => true,
            Some(_) => self.connection == other.connection && self.place < other.place,
            None => false,
        }
    }
}

/// A request whose answer, or one before it, has not come.
struct Waiting {
    number: u32,
    record: usize,
    told: Option<Told>,
}

#[derive(Default)]
pub struct Client {
    node: usize,
    core: usize,
    /// How many connections it has given up.
    generation: u32,
    waiting: VecDeque<Waiting>,
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
    /// Some keys have long values.
    pub writes_long: bool,
    /// Number of the calm period, while there is one.
    pub calm: Option<u32>,
    /// Everybody is there, and was but for one at a time.
    pub steady: bool,
    /// See `Record::sound`.
    pub sound: Option<u32>,
    pub flushes: bool,
    pub stopped: bool,
    serial: u64,
    /// Who died when, where a write is answered before its copies are sent.
    deaths: Vec<(usize, u64)>,
    /// Greatest fence that a flush was acknowledged with.
    pub flushed: u64,
}

impl Clients {
    pub fn new(count: usize, keys: u64, value_bytes: usize, flushes: bool) -> Self {
        Self {
            clients: (0..count).map(|_| Client::default()).collect(),
            history: Vec::new(),
            keys,
            value_bytes,
            writes_long: false,
            calm: None,
            steady: true,
            sound: Some(0),
            flushes,
            stopped: false,
            serial: 0,
            deaths: Vec::new(),
            flushed: 0,
        }
    }

    /// A client's turn: gives up what takes too long, or asks something new.
    pub fn act(&mut self, world: &mut World, client: usize) {
        let waiting = &self.clients[client].waiting;
        if let Some(oldest) = waiting.front() {
            let Record { node, begun, .. } = self.history[oldest.record];
            if !world.nodes[node].alive || world.now >= begun + PATIENCE_MS {
                self.hang_up(client);
            }
        }
        let busy =
            self.clients[client].waiting.len() >= DEPTH_MAX || (self.stopped && !self.clients[client].waiting.is_empty());
        if busy {
            world.wake_client(client, world.now + 20);
            return;
        }
        if self.stopped {
            return;
        }
        self.ask_some(world, client);
        let pause = world.random.below(40) + 1;
        world.wake_client(client, world.now + pause);
    }

    /// Ends a connection: what was not answered never will be.
    fn hang_up(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.generation += 1;
        client.waiting.clear();
    }

    /// Several requests in one piece, or one.
    fn ask_some(&mut self, world: &mut World, client: usize) {
        let alive: Vec<usize> = (0..world.nodes.len())
            .filter(|&node| world.nodes[node].alive && world.nodes[node].paused_until <= world.now && !world.is_evil(node))
            .collect();
        if alive.is_empty() {
            return;
        }
        if world.random.below(20) == 0 || !alive.contains(&self.clients[client].node) {
            self.hang_up(client);
            let node = alive[world.random.below(alive.len() as u64) as usize];
            let core = world.random.below(world.nodes[node].cores.len() as u64) as usize;
            (self.clients[client].node, self.clients[client].core) = (node, core);
        }
        let count = if world.random.below(2) == 0 { 1 } else { 2 + world.random.below(4) };
        let mut key = self.choose_key(&mut world.random);
        for _ in 0..count {
            if world.random.below(3) == 0 {
                key = self.choose_key(&mut world.random);
            }
            let asked = self.choose(&mut world.random, client, &key);
            let barrier = asked == Asked::Flush;
            // The runtime takes a flush only where nothing before it waits, and nothing behind it before it is answered.
            if barrier && !self.clients[client].waiting.is_empty() {
                continue;
            }
            self.ask(world, client, &key, asked);
            if barrier {
                return;
            }
        }
    }

    fn ask(&mut self, world: &mut World, client: usize, key: &str, asked: Asked) {
        let Client { node, core, generation, number, .. } = self.clients[client];
        let waits_for_flush = |waiting: &Waiting| self.history[waiting.record].asked == Asked::Flush;
        if self.clients[client].waiting.iter().any(waits_for_flush) {
            return;
        }
        let text = request(key, &asked);
        self.clients[client].number += 1;
        self.clients[client].waiting.push_back(Waiting { number, record: self.history.len(), told: None });
        self.history.push(Record {
            node,
            connection: (client, generation),
            place: self.history.len(),
            key: key.into(),
            asked: asked.clone(),
            begun: world.now,
            ended: None,
            told: None,
            version: 0,
            may_be_lost: false,
            calm: self.calm,
            steady: self.steady,
            sound: self.sound,
        });
        match asked {
            Asked::Flush => world.flush(node, (client, generation), number),
            _ => world.request(node, core, (client, generation), number, text.as_bytes()),
        }
    }

    fn choose_key(&self, random: &mut Random) -> String {
        match random.below(10) {
            0 => format!("count{}", random.below(4)),
            1 => format!("list{}", random.below(4)),
            2 if self.writes_long && random.below(3) == 0 => format!("long{}", random.below(LONG_COUNT)),
            _ => format!("key{}", random.below(self.keys)),
        }
    }

    fn choose(&mut self, random: &mut Random, client: usize, key: &str) -> Asked {
        self.serial += 1;
        let serial = self.serial;
        if key.starts_with("count") {
            return Asked::Increment;
        }
        if key.starts_with("list") {
            return if random.below(2) == 0 { Asked::Get } else { Asked::Append { token: format!(";{serial}") } };
        }
        let length = match key.starts_with("long") {
            true => LONG_BYTES.start + random.below(LONG_BYTES.end - LONG_BYTES.start),
            false => self.value_bytes as u64,
        };
        let value = || format!("{key}={serial}:{length}");
        match random.below(100) {
            0..42 => Asked::Get,
            42..72 => Asked::Set { value: value(), exptime_s: 0 },
            72..77 => Asked::Set { value: value(), exptime_s: 1 + random.below(3) as u32 },
            77..87 => Asked::Delete,
            87..89 => Asked::Touch { exptime_s: 1 + random.below(3) as u32 },
            89..99 => match self.clients[client].seen.get(key) {
                Some(&expected) => Asked::Compare { expected, value: value() },
                None => Asked::Get,
            },
            _ if self.flushes && random.below(8) == 0 => Asked::Flush,
            _ => Asked::Get,
        }
    }

    /// An answer for a client.
    pub fn answer(&mut self, world: &mut World, (client, generation): (usize, u32), number: u32, bytes: &[u8]) {
        if self.clients[client].generation != generation || !world.nodes[self.clients[client].node].alive {
            return;
        }
        let Some(index) = self.clients[client].waiting.iter().position(|waiting| waiting.number == number) else { return };
        let record = self.clients[client].waiting[index].record;
        self.clients[client].waiting[index].told = Some(read(&self.history[record].asked, bytes));
        while let Some(Waiting { told: Some(_), .. }) = self.clients[client].waiting.front() {
            let Some(Waiting { record, told: Some(told), .. }) = self.clients[client].waiting.pop_front() else { return };
            self.told(world, client, record, told);
        }
    }

    /// A client takes the next answer.
    fn told(&mut self, world: &mut World, client: usize, record: usize, told: Told) {
        let entry = &mut self.history[record];
        entry.ended = Some(world.now);
        if entry.calm != self.calm {
            entry.calm = None;
        }
        entry.steady &= self.steady;
        entry.sound = entry.sound.filter(|_| entry.sound == self.sound);
        let coordinator = world.owners_of(&entry.key).first().copied();
        if self.deaths.iter().any(|&(node, at)| Some(node) == coordinator && entry.begun <= at) {
            (entry.may_be_lost, entry.sound, entry.steady) = (true, None, false);
        }
        match &told {
            Told::Stored(version) => {
                entry.version = *version;
                self.clients[client].seen.remove(&entry.key);
            }
            Told::Value(version, _) => _ = self.clients[client].seen.insert(entry.key.clone(), *version),
            Told::Deleted => entry.version = greatest_tombstone(world, &entry.key),
            Told::Flushed(fence) => {
                self.flushed = self.flushed.max(*fence);
                let node = entry.node;
                world.raise_fences(node, *fence);
            }
            _ => {}
        }
        if std::env::var("SIMULATION_TRACE").is_ok_and(|key| key == self.history[record].key) {
            let Record { node, asked, begun, connection, .. } = &self.history[record];
            println!("{} client {connection:?} at {node} asked at {begun} {asked:?}: {told:?}", world.now);
        }
        self.history[record].told = Some(told);
    }

    /// Nodes die now. Where a write is answered before its copies are sent (`ack one`), it is lost with the node that executed it if that
    /// died within `world::ON_ITS_WAY_MS` of the answer; no other write is. What was read of its key so far may be undone with it.
    pub fn note_deaths(&mut self, world: &World, nodes: &[usize]) {
        self.deaths.extend(nodes.iter().map(|&node| (node, world.now)));
        let is_late = |record: &&Record| record.ended.is_none_or(|ended| ended + world::ON_ITS_WAY_MS >= world.now);
        let late: BTreeSet<String> = self.history.iter().filter(is_late).map(|record| record.key.clone()).collect();
        let of_dead = |key: &&String| world.owners_of(key).first().is_some_and(|first| nodes.contains(first));
        let doubtful: BTreeSet<&String> = late.iter().filter(of_dead).collect();
        for record in self.history.iter_mut().filter(|record| doubtful.contains(&record.key)) {
            record.may_be_lost |= record.ended.is_none_or(|ended| ended + world::ON_ITS_WAY_MS >= world.now);
            (record.sound, record.steady) = (None, false);
        }
    }

    /// Two nodes have written a key at once in a calm period: that one of them lost is no mistake.
    pub fn forgive_interrupted(&mut self, calm: u32) {
        let of_period = self.history.iter_mut().filter(|record| record.calm == Some(calm));
        of_period.filter(|record| record.told == Some(Told::Interrupted)).for_each(|record| record.calm = None);
    }

    /// Forgets what was asked of keys that the evil node owns.
    pub fn forget_evil(&mut self, world: &World) {
        self.history.retain(|record| record.key.is_empty() || !world.is_owned_by_evil(&record.key));
    }

    /// Whether all requests are answered or given up.
    pub fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.waiting.is_empty())
    }

    /// Reads every key once more, from anywhere: what is there in the end is judged as what was read before.
    pub fn read_all(&mut self, world: &mut World) {
        let keys: BTreeSet<String> =
            self.history.iter().map(|record| record.key.clone()).filter(|key| !key.is_empty()).collect();
        for (index, key) in keys.into_iter().enumerate() {
            let client = index % self.clients.len();
            let asked = if key.starts_with("count") { Asked::Increment } else { Asked::Get };
            self.ask(world, client, &key, asked);
        }
    }
}

/// What a delete that was just acknowledged has left. A node that is dead may have tombstones that nobody was told of.
fn greatest_tombstone(world: &mut World, key: &str) -> u64 {
    let mut greatest = 0;
    for node in (0..world.nodes.len()).filter(|&node| world.nodes[node].alive).collect::<Vec<_>>() {
        let now = world.clock(node);
        for core in &mut world.nodes[node].cores {
            let copy = core.engine.copy_of(&pbcache::key::Key::new(key.as_bytes()), now);
            greatest = greatest.max(copy.filter(|copy| copy.tombstone).map_or(0, |copy| copy.version.bits()));
        }
    }
    greatest
}

fn request(key: &str, asked: &Asked) -> String {
    match asked {
        Asked::Set { value, exptime_s } => {
            let value = value_of(value);
            format!("ms {key} {} T{exptime_s} c\r\n{value}\r\n", value.len())
        }
        Asked::Compare { expected, value } => {
            let value = value_of(value);
            format!("ms {key} {} C{expected} c\r\n{value}\r\n", value.len())
        }
        Asked::Append { token } => format!("ms {key} {} MA N0 c\r\n{token}\r\n", token.len()),
        Asked::Get => format!("mg {key} v c\r\n"),
        Asked::Delete => format!("delete {key}\r\n"),
        Asked::Touch { exptime_s } => format!("touch {key} {exptime_s}\r\n"),
        Asked::Increment => format!("ma {key} N0 J1 v\r\n"),
        Asked::Flush => String::new(),
    }
}

/// The bytes of a value: its name, and then what follows from that.
fn value_of(name: &str) -> String {
    let Some(length) = name.split(':').nth(1).and_then(|length| length.parse().ok()) else { return name.into() };
    let mut value = format!("{name}:");
    while value.len() < length {
        value += name;
        value += ":";
    }
    value
}

/// The name of a value that was read; of one that is not whole, what is to be told of it.
fn name_of(value: &str) -> String {
    let name: String = value.splitn(3, ':').take(2).collect::<Vec<_>>().join(":");
    match value_of(&name) == value {
        true => name,
        false => format!("{} bytes, no value: {}", value.len(), value.chars().take(80).collect::<String>()),
    }
}

fn read(asked: &Asked, bytes: &[u8]) -> Told {
    if *asked == Asked::Flush {
        return match bytes.first_chunk::<8>() {
            Some(fence) => Told::Flushed(u64::from_le_bytes(*fence)),
            None => Told::Failed(String::from_utf8_lossy(bytes).into_owned()),
        };
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let cas = || words.iter().find_map(|word| word.strip_prefix('c')?.parse().ok()).unwrap_or(0);
    match (words[0], asked) {
        ("HD", Asked::Set { .. } | Asked::Compare { .. } | Asked::Append { .. }) => Told::Stored(cas()),
        ("VA", Asked::Increment) => Told::Number(lines.next().unwrap_or("").parse().unwrap_or(0)),
        ("VA", _) => Told::Value(cas(), name_of(lines.next().unwrap_or(""))),
        ("EN" | "NF" | "NOT_FOUND", _) => Told::Absent,
        ("DELETED", _) => Told::Deleted,
        ("TOUCHED", _) => Told::Touched,
        ("EX", _) => Told::Exists,
        _ if text.contains("may have been executed") => Told::Interrupted,
        _ => Told::Failed(text.trim_end().into()),
    }
}

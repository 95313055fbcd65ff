//! What one thread of the client knows, without its ring: connections, requests in flight, what answers mean.
//!
//! ```text
//!   connection:  outbox -> (pump) -> server -> (pump) -> inbox, only what was cut
//!                flights [get 2 keys][set][get 1 key]...      oldest first: answers come in this order
//!                wanted  [k][k]     [k]  [k]                  their keys, with what the ledger knew when they were sent
//! ```
//!
//! Pure: bytes and times in, bytes and counts out; the ring is the `worker`'s.

use std::collections::VecDeque;
use std::io;
use std::time::{Instant, SystemTime};

use fastrand::Rng;

use crate::doors::{Answer, Step, Store};
use crate::pump::Token;
use crate::tally::{Interval, Tally};
use crate::verify::{Ending, Expectation, Fault};
use crate::work::keys::KeyPicker;
use crate::work::mix::Kind;
use crate::work::values::{self, Label, ValueMaker};
use crate::worker::{Arrival, Setup};

/// One connection.
pub struct Connection {
    /// Where it leads: index into the targets.
    pub target: usize,
    /// The pump's name for it; `None` while it is lost.
    pub token: Option<Token>,
    /// Requests not yet handed to the pump.
    pub outbox: Vec<u8>,
    /// The pump is sending.
    pub sending: bool,
    /// When to connect again.
    pub retry_at: u64,
    /// The requests in flight.
    pub flights: VecDeque<Flight>,
    wanted: VecDeque<Wanted>,
    inbox: Vec<u8>,
    fills: VecDeque<u32>,
    queued: bool,
}

/// A request in flight.
#[derive(Clone, Copy)]
pub struct Flight {
    /// The command.
    pub kind: Kind,
    /// When it was sent, in nanoseconds of the lane's clock.
    pub sent: u64,
    intended: u64,
    /// Keys not yet answered, at the front of `wanted`.
    keys: u16,
}

/// A key in flight.
#[derive(Clone, Copy)]
struct Wanted {
    index: u32,
    expected: Expectation,
}

/// Everything of a thread but its ring.
pub struct Lane {
    /// What the thread was made from.
    pub setup: Setup,
    /// Its connections.
    pub connections: Vec<Connection>,
    /// From the pump's names to connections.
    pub by_token: Vec<usize>,
    /// What was counted.
    pub tally: Tally,
    /// The current second.
    pub interval: Interval,
    /// Answers count now (closed loop).
    pub counting: bool,
    /// Time 0 of the clock.
    pub origin: Instant,
    /// The last reading of the clock, in nanoseconds.
    pub now: u64,
    /// Connections with bytes to send or places to fill.
    pub touched: Vec<usize>,
    /// While loading: the next key to store, and the end.
    pub load: Option<(u32, u32)>,
    /// Keys stored while loading.
    pub loaded: u32,
    /// When connections are looked after next.
    pub next_upkeep: u64,
    /// When a connection was alive last.
    pub last_alive: u64,
    /// Why the last connection was lost.
    pub last_error: Option<String>,
    picker: KeyPicker,
    maker: ValueMaker,
    rng: Rng,
    /// Open loop: the intended times that count.
    window: Option<(u64, u64)>,
    origin_unix: u64,
    next_connection: usize,
    key: Vec<u8>,
}

impl Connection {
    /// A fresh connection.
    pub fn new(target: usize, token: Token) -> Self {
        Self {
            target,
            token: Some(token),
            outbox: Vec::new(),
            sending: false,
            retry_at: 0,
            flights: VecDeque::new(),
            wanted: VecDeque::new(),
            inbox: Vec::new(),
            fills: VecDeque::new(),
            queued: false,
        }
    }

    /// Whether another request may be sent.
    #[inline]
    pub fn free(&self, depth: usize) -> bool {
        self.flights.len() < depth && self.token.is_some()
    }
}

impl Lane {
    /// A lane whose pump has so many places.
    pub fn new(setup: Setup, places: usize) -> Self {
        let work = &setup.work;
        let first = (work.keys.count as u64 * setup.thread as u64 / setup.threads_count as u64) as u32;
        let picker = KeyPicker::new(work.keys, work.distribution, first);
        let maker = ValueMaker::new(work.sizes.bytes_max() as usize, work.seed);
        let rng = Rng::with_seed(work.seed.wrapping_add(setup.thread as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            connections: Vec::new(),
            by_token: vec![0; places],
            tally: Tally::default(),
            interval: Interval::new(0),
            counting: false,
            origin: Instant::now(),
            now: 0,
            touched: Vec::new(),
            load: None,
            loaded: 0,
            next_upkeep: 0,
            last_alive: 0,
            last_error: None,
            picker,
            maker,
            rng,
            window: None,
            origin_unix: unix,
            next_connection: 0,
            key: Vec::new(),
            setup,
        }
    }

    /// Clears the counts for a new phase; `window`: the intended times that count in an open loop.
    pub fn begin(&mut self, window: Option<(u64, u64)>) {
        self.tally = Tally::default();
        self.interval = Interval::new(0);
        self.counting = false;
        self.window = window;
        let now = self.read_clock();
        self.last_alive = now;
        (0..self.connections.len()).for_each(|number| self.touch(number));
    }

    /// Reads the clock.
    #[inline]
    pub fn read_clock(&mut self) -> u64 {
        self.now = self.origin.elapsed().as_nanos() as u64;
        self.now
    }

    /// Notes that a connection has bytes to send or places to fill.
    #[inline]
    pub fn touch(&mut self, number: usize) {
        if !self.connections[number].queued {
            self.connections[number].queued = true;
            self.touched.push(number);
        }
    }

    /// Takes the next touched connection off the list.
    #[inline]
    pub fn untouch(&mut self) -> Option<usize> {
        let number = self.touched.pop()?;
        self.connections[number].queued = false;
        Some(number)
    }

    /// Whether any request is in flight.
    pub fn in_flight(&self) -> bool {
        self.connections.iter().any(|connection| !connection.flights.is_empty())
    }

    /// Ends the current second.
    pub fn next_interval(&mut self) -> Interval {
        let next = Interval::new(self.interval.second + 1);
        let interval = std::mem::replace(&mut self.interval, next);
        self.tally.intervals.push(interval.clone());
        interval
    }

    /// Open loop: sends what is due, and says how long nothing will be due.
    pub fn dispatch(&mut self, arrivals: &mut Arrivals, depth: usize, end: u64) -> std::time::Duration {
        let now = self.read_clock();
        arrivals.advance(now, end, &mut self.rng);
        while let Some((intended, fresh)) = arrivals.front() {
            let Some(number) = self.free_connection(depth) else { break };
            arrivals.pop();
            if fresh {
                self.tally.lag.get_or_insert_default().record(now - intended);
            }
            self.next_request(number, intended, now);
            self.touch(number);
        }
        arrivals.mark_waiting();
        std::time::Duration::from_nanos(arrivals.next().saturating_sub(now).clamp(1000, 20_000_000))
    }

    fn free_connection(&mut self, depth: usize) -> Option<usize> {
        let count = self.connections.len();
        for _ in 0..count {
            let number = self.next_connection;
            self.next_connection = if number + 1 == count { 0 } else { number + 1 };
            if self.connections[number].free(depth) {
                return Some(number);
            }
        }
        None
    }

    /// Appends the next request of the work to the outbox of a connection; false if there is nothing left to do.
    #[inline]
    pub fn next_request(&mut self, number: usize, intended: u64, now: u64) -> bool {
        if let Some((next, last)) = self.load {
            if next < last {
                self.load = Some((next + 1, last));
                self.loaded += 1;
                self.store(number, next, intended, now);
            }
            return next < last;
        }
        if let Some(index) = self.connections[number].fills.pop_front() {
            return self.store(number, index, intended, now) || self.get(number, Kind::Get, index, intended, now);
        }
        let kind = self.setup.work.mix.pick(&mut self.rng);
        let index = self.picker.pick(&mut self.rng);
        let sent = match kind {
            Kind::Get | Kind::Gets => false,
            Kind::Set => self.store(number, index, intended, now),
            Kind::Delete => self.delete(number, index, intended, now),
            Kind::Touch => self.touch_item(number, index, intended, now),
            Kind::Cas | Kind::Incr => false,
        };
        sent || self.get(number, Kind::Get, index, intended, now)
    }

    #[inline]
    fn get(&mut self, number: usize, kind: Kind, first: u32, intended: u64, now: u64) -> bool {
        let connection = &mut self.connections[number];
        let keys = if kind == Kind::Get { self.setup.work.multi_get } else { 1 };
        self.setup.door.get_begin(kind == Kind::Gets, &mut connection.outbox);
        for at in 0..keys {
            let index = if at == 0 { first } else { self.picker.pick(&mut self.rng) };
            self.key.clear();
            self.setup.work.keys.write(index, &mut self.key);
            self.setup.door.get_key(&self.key, &mut connection.outbox);
            let expected = self.setup.ledger.expect(index);
            connection.wanted.push_back(Wanted { index, expected });
        }
        self.setup.door.get_end(&mut connection.outbox);
        connection.flights.push_back(Flight { kind, sent: now, intended, keys });
        true
    }

    /// False if another write of the key is in flight.
    fn store(&mut self, number: usize, index: u32, intended: u64, now: u64) -> bool {
        let Some(serial) = self.setup.ledger.begin(index) else { return false };
        self.store_value(number, Kind::Set, index, serial, None);
        self.launch_write(number, Kind::Set, index, intended, now);
        true
    }

    fn store_value(&mut self, number: usize, _kind: Kind, index: u32, serial: u32, cas: Option<u64>) {
        let work = &self.setup.work;
        let outbox = &mut self.connections[number].outbox;
        self.key.clear();
        work.keys.write(index, &mut self.key);
        let exptime = work.ttls.pick(&mut self.rng);
        let expires = if exptime == 0 { 0 } else { (self.origin_unix + self.now / 1_000_000_000) as u32 + exptime };
        let value_bytes = work.sizes.of(index, work.seed) as usize;
        let start = outbox.len();
        self.setup.door.store_begin(Store { key: &self.key, exptime, value_bytes, cas }, outbox);
        let label = Label { writer: self.setup.ledger.writer, serial, expires };
        self.maker.write(values::key_hash(&self.key), label, value_bytes, outbox);
        self.setup.door.store_end(start, outbox);
    }

    fn delete(&mut self, number: usize, index: u32, intended: u64, now: u64) -> bool {
        if self.setup.ledger.begin(index).is_none() {
            return false;
        }
        self.key.clear();
        self.setup.work.keys.write(index, &mut self.key);
        self.setup.door.delete(&self.key, &mut self.connections[number].outbox);
        self.launch_write(number, Kind::Delete, index, intended, now);
        true
    }

    fn touch_item(&mut self, number: usize, index: u32, intended: u64, now: u64) -> bool {
        self.key.clear();
        self.setup.work.keys.write(index, &mut self.key);
        let exptime = self.setup.work.ttls.pick(&mut self.rng);
        self.setup.door.touch(&self.key, exptime, &mut self.connections[number].outbox);
        self.launch_write(number, Kind::Touch, index, intended, now);
        true
    }

    fn launch_write(&mut self, number: usize, kind: Kind, index: u32, intended: u64, now: u64) {
        let expected = self.setup.ledger.expect(index);
        let connection = &mut self.connections[number];
        connection.wanted.push_back(Wanted { index, expected });
        connection.flights.push_back(Flight { kind, sent: now, intended, keys: 1 });
    }

    /// The pump has taken a connection's message.
    #[inline]
    pub fn handle_sent(&mut self, token: Token, buffer: Vec<u8>) {
        let number = self.by_token[token as usize];
        let connection = &mut self.connections[number];
        if connection.token != Some(token) {
            return;
        }
        connection.sending = false;
        if connection.outbox.is_empty() {
            connection.outbox = buffer;
        } else {
            self.touch(number);
        }
    }

    /// A connection is gone: what was in flight on it stays unanswered.
    pub fn handle_closed(&mut self, token: Token, error: Option<io::Error>) {
        let number = self.by_token[token as usize];
        let connection = &mut self.connections[number];
        if connection.token != Some(token) {
            return;
        }
        self.last_error = error.map(|error| error.to_string()).or(self.last_error.take());
        self.tally.connections_lost += 1;
        self.tally.unanswered += connection.flights.len() as u64;
        self.interval.errors += connection.flights.len() as u64;
        connection.token = None;
        connection.sending = false;
        connection.retry_at = self.now;
        connection.outbox.clear();
        connection.inbox.clear();
        for flight in connection.flights.drain(..) {
            for _ in 0..flight.keys {
                let Some(wanted) = connection.wanted.pop_front() else { break };
                if matches!(flight.kind, Kind::Set | Kind::Delete | Kind::Cas) {
                    self.setup.ledger.finish(wanted.index, Ending::Unknown);
                }
            }
        }
        connection.wanted.clear();
    }

    /// Bytes have come; false if they are not answers and the connection must end.
    #[inline]
    pub fn handle_input(&mut self, number: usize, bytes: &[u8], now: u64) -> bool {
        self.tally.received_bytes += bytes.len() as u64;
        self.touch(number);
        if self.connections[number].inbox.is_empty() {
            let consumed = self.answers(number, bytes, now);
            let Some(consumed) = consumed else { return false };
            self.connections[number].inbox.extend_from_slice(&bytes[consumed..]);
            return true;
        }
        let mut inbox = std::mem::take(&mut self.connections[number].inbox);
        inbox.extend_from_slice(bytes);
        let consumed = self.answers(number, &inbox, now);
        if let Some(consumed) = consumed {
            inbox.drain(..consumed);
            self.connections[number].inbox = inbox;
        }
        consumed.is_some()
    }

    /// Takes the answers at the front of the input; gives the bytes that they took, or `None` after garbage.
    fn answers(&mut self, number: usize, input: &[u8], now: u64) -> Option<usize> {
        let mut at = 0;
        while at < input.len() {
            let Some(flight) = self.connections[number].flights.front().copied() else {
                self.garbled(number, &input[at..], "an answer to nothing that was asked");
                return None;
            };
            match self.setup.door.step(flight.kind, &input[at..]) {
                Step::Incomplete => break,
                Step::Hit { consumed, key, value, cas } => {
                    at += consumed;
                    self.handle_hit(number, key, value, cas, now);
                }
                Step::Done { answer: Answer::Garbage(line), .. } => {
                    self.garbled(number, line, "not an answer of the protocol");
                    return None;
                }
                Step::Done { consumed, answer } => {
                    at += consumed;
                    self.handle_done(number, flight, answer, now);
                }
            }
        }
        Some(at)
    }

    #[inline]
    fn handle_hit(&mut self, number: usize, key: &[u8], value: &[u8], _cas: u64, now: u64) {
        loop {
            let connection = &mut self.connections[number];
            let Some(flight) = connection.flights.front_mut().filter(|flight| flight.keys > 0) else {
                let words = || format!("wrong key: {} came, which was not asked for", text(key));
                self.tally.fault(Fault::WrongKey, words);
                return;
            };
            flight.keys -= 1;
            let Some(wanted) = connection.wanted.pop_front() else { return };
            self.key.clear();
            self.setup.work.keys.write(wanted.index, &mut self.key);
            if self.key != key {
                self.miss(number, wanted);
                continue;
            }
            if self.counting || self.window.is_some() {
                self.tally.hits += 1;
                self.interval.hits += 1;
            }
            if self.setup.verify {
                self.judge(wanted, value, now);
            }
            return;
        }
    }

    #[inline]
    fn judge(&mut self, wanted: Wanted, value: &[u8], now: u64) {
        let found = values::read(values::key_hash(&self.key), value);
        let unix = (self.origin_unix + now / 1_000_000_000) as u32;
        if let Some(fault) = self.setup.ledger.judge_hit(wanted.index, wanted.expected, found, unix) {
            let key = text(&self.key);
            self.interval.errors += 1;
            self.tally.fault(fault, || match found {
                Ok(label) => format!(
                    "{fault}: {key} has write {} of writer {:08x}; {}",
                    label.serial,
                    label.writer,
                    wanted.expected.words()
                ),
                Err(_) => format!("{fault}: {key} has {} bytes: {}", value.len(), text(&value[..value.len().min(48)])),
            });
        }
    }

    fn miss(&mut self, number: usize, wanted: Wanted) {
        if self.setup.ledger.judge_miss(wanted.index, wanted.expected) {
            self.tally.unexplained_misses += 1;
        }
        if self.counting || self.window.is_some() {
            self.tally.misses += 1;
            self.interval.misses += 1;
        }
        let fills = &mut self.connections[number].fills;
        if self.setup.work.fill_misses && fills.len() < FILLS_MAX {
            fills.push_back(wanted.index);
        }
    }

    #[inline]
    fn handle_done(&mut self, number: usize, flight: Flight, answer: Answer<'_>, now: u64) {
        let connection = &mut self.connections[number];
        let keys_left = connection.flights.pop_front().map_or(0, |flight| flight.keys);
        if matches!(flight.kind, Kind::Get | Kind::Gets) {
            for _ in 0..keys_left {
                let Some(wanted) = self.connections[number].wanted.pop_front() else { break };
                if answer == Answer::End {
                    self.miss(number, wanted);
                }
            }
        } else if let Some(wanted) = connection.wanted.pop_front() {
            self.finish_write(flight.kind, wanted.index, answer);
        }
        if let Answer::Error(words) = answer {
            self.tally.refusals += 1;
            self.interval.errors += 1;
            self.tally.refusal_sample.get_or_insert_with(|| text(words));
        }
        self.count(flight, now);
    }

    fn finish_write(&mut self, kind: Kind, index: u32, answer: Answer<'_>) {
        let temporary = self.setup.work.ttls.any();
        let ending = match (kind, answer) {
            (Kind::Touch, _) => return,
            (Kind::Delete, Answer::Ok | Answer::NotFound) => Ending::Deleted,
            (_, Answer::Ok) => Ending::Stored { temporary },
            (_, Answer::NotStored | Answer::NotFound) => Ending::Abandoned,
            _ => Ending::Refused,
        };
        self.setup.ledger.finish(index, ending);
    }

    #[inline]
    fn count(&mut self, flight: Flight, now: u64) {
        let counts = match self.window {
            None => self.counting,
            Some((begin, end)) => (begin..end).contains(&flight.intended),
        };
        if !counts {
            return;
        }
        let command = self.tally.command(flight.kind, self.window.is_some());
        command.latency.record(now - flight.intended);
        if let Some(service) = &mut command.service {
            service.record(now - flight.sent);
        }
        self.interval.requests += 1;
        self.interval.latency.saturating_record(now - flight.intended);
    }

    fn garbled(&mut self, number: usize, bytes: &[u8], what: &str) {
        let target = &self.setup.targets[self.connections[number].target];
        self.last_error = Some(format!("{what}: {}", text(&bytes[..bytes.len().min(80)])));
        let words = || format!("garbled: from {target}, {what}: {}", text(&bytes[..bytes.len().min(80)]));
        self.tally.fault(Fault::Garbled, words);
    }
}

/// When requests of an open loop are due.
pub struct Arrivals {
    gap_ns: f64,
    arrival: Arrival,
    next: f64,
    /// Due and not sent: intended time, and whether it has not yet waited for a free place.
    due: VecDeque<(u64, bool)>,
    dropped: u64,
}

impl Arrivals {
    /// Requests at so many per second, from `now` on.
    pub fn new(rate: f64, arrival: Arrival, now: u64) -> Self {
        Self { gap_ns: 1e9 / rate, arrival, next: now as f64, due: VecDeque::new(), dropped: 0 }
    }

    /// Whether requests are due that are not sent yet.
    pub fn waiting(&self) -> bool {
        !self.due.is_empty()
    }

    /// Requests that were never sent.
    pub fn left(&self) -> u64 {
        self.due.len() as u64 + self.dropped
    }

    fn advance(&mut self, now: u64, end: u64, rng: &mut Rng) {
        while self.next <= now as f64 && self.next < end as f64 {
            if self.due.len() < DUE_MAX {
                self.due.push_back((self.next as u64, true));
            } else {
                self.dropped += 1;
            }
            self.next += match self.arrival {
                Arrival::Constant => self.gap_ns,
                Arrival::Poisson => -self.gap_ns * (1.0 - rng.f64()).ln(),
            };
        }
    }

    fn front(&self) -> Option<(u64, bool)> {
        self.due.front().copied()
    }

    fn pop(&mut self) {
        self.due.pop_front();
    }

    fn next(&self) -> u64 {
        self.next as u64
    }

    /// What is still due now waits for the server, not for this client.
    fn mark_waiting(&mut self) {
        for entry in self.due.iter_mut().rev() {
            if !entry.1 {
                break;
            }
            entry.1 = false;
        }
    }
}

/// Bytes as text, with what cannot be printed escaped.
pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Requests of an open loop that may wait: beyond that they are dropped and counted.
const DUE_MAX: usize = 1_000_000;
/// Stores after misses that may wait per connection.
const FILLS_MAX: usize = 1024;

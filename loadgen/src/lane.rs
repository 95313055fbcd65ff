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

use crate::arrivals::Arrivals;
use crate::doors::{Answer, Step};
use crate::pump::Token;
use crate::request::{FollowUp, Times};
use crate::tally::{Interval, Tally};
use crate::verify::{Ending, Expectation, Fault};
use crate::work::keys::KeyPicker;
use crate::work::mix::Kind;
use crate::work::values::{self, ValueMaker};
use crate::worker::Setup;

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
    /// The keys of the requests in flight.
    pub wanted: VecDeque<Wanted>,
    /// Requests since it was opened.
    pub requests: u64,
    inbox: Vec<u8>,
    queued: bool,
    /// Sent what is not an answer: what still comes is not looked at.
    broken: bool,
}

/// A request in flight.
#[derive(Clone, Copy)]
pub struct Flight {
    /// The command.
    pub kind: Kind,
    /// When.
    pub times: Times,
    /// Keys not yet answered, at the front of `wanted`.
    pub keys: u16,
    /// It asked for one key only.
    pub single: bool,
}

/// A key in flight.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Which key, or which counter.
    pub index: u32,
    /// Of a write: its serial.
    pub serial: u32,
    /// What the ledger knew when the request was sent.
    pub expected: Expectation,
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
    /// While loading or auditing: the next key, and the end.
    pub load: Option<(u32, u32)>,
    /// Those keys are read, not stored.
    pub auditing: bool,
    /// Keys stored or read so.
    pub loaded: u32,
    /// When connections are looked after next.
    pub next_upkeep: u64,
    /// When a connection was alive last.
    pub last_alive: u64,
    /// Why the last connection was lost.
    pub last_error: Option<String>,
    /// Chooses keys.
    pub picker: KeyPicker,
    /// Writes values.
    pub maker: ValueMaker,
    /// Random numbers of this thread.
    pub rng: Rng,
    /// Scratch for a key.
    pub key: Vec<u8>,
    /// Unix time at time 0 of the clock, in nanoseconds.
    pub unix_ns: u64,
    /// The work touches items.
    pub touches: bool,
    /// The next request of the trace.
    pub trace_next: usize,
    /// Open loop: the intended times that count.
    window: Option<(u64, u64)>,
    next_connection: usize,
    follow_ups: Vec<FollowUp>,
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
            requests: 0,
            inbox: Vec::new(),
            queued: false,
            broken: false,
        }
    }

    /// Whether another request may be sent.
    #[inline]
    pub fn free(&self, depth: usize, churn: u64) -> bool {
        self.flights.len() < depth && self.token.is_some() && !self.worn(churn)
    }

    /// Whether it has served so long that it is to be opened anew.
    #[inline]
    pub fn worn(&self, churn: u64) -> bool {
        churn != 0 && self.requests >= churn
    }
}

impl Lane {
    /// A lane whose pump has so many places.
    pub fn new(setup: Setup, places: usize) -> Self {
        let work = &setup.work;
        let first = (work.keys.count as u64 * setup.thread as u64 / setup.threads_count as u64) as u32;
        let picker = KeyPicker::new(work.keys, work.distribution, first);
        let maker = ValueMaker::new(work.value_bytes_max() as usize, work.seed);
        let rng = Rng::with_seed(work.seed.wrapping_add(setup.thread as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
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
            auditing: false,
            loaded: 0,
            next_upkeep: 0,
            last_alive: 0,
            last_error: None,
            picker,
            maker,
            rng,
            key: Vec::new(),
            unix_ns: unix,
            touches: work.mix.share(Kind::Touch) > 0.0,
            trace_next: setup.thread as usize,
            window: None,
            next_connection: 0,
            follow_ups: Vec::new(),
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

    /// Whether the trace has come to its end, and all its answers are there.
    pub fn exhausted(&self) -> bool {
        let over = self.setup.work.trace.as_ref().is_some_and(|trace| self.trace_next >= trace.operations.len());
        over && !self.in_flight()
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
            self.next_request(number, Times { intended, sent: now });
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
            if self.connections[number].free(depth, self.setup.churn) {
                return Some(number);
            }
        }
        None
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

    /// A connection is gone: what was in flight on it stays unanswered. Gives its number if it was closed only to be opened
    /// anew.
    pub fn handle_closed(&mut self, token: Token, error: Option<io::Error>) -> Option<usize> {
        let number = self.by_token[token as usize];
        let connection = &mut self.connections[number];
        if connection.token != Some(token) {
            return None;
        }
        if connection.worn(self.setup.churn) && connection.flights.is_empty() {
            (connection.token, connection.sending, connection.requests) = (None, false, 0);
            return Some(number);
        }
        connection.requests = 0;
        self.last_error = error.map(|error| error.to_string()).or(self.last_error.take());
        self.tally.connections_lost += 1;
        self.tally.unanswered += connection.flights.len() as u64;
        self.interval.errors += connection.flights.len() as u64;
        connection.token = None;
        connection.broken = false;
        connection.sending = false;
        connection.retry_at = self.now;
        connection.outbox.clear();
        connection.inbox.clear();
        for flight in connection.flights.drain(..) {
            for _ in 0..flight.keys {
                let Some(wanted) = connection.wanted.pop_front() else { break };
                match flight.kind {
                    Kind::Set | Kind::Delete | Kind::Cas => self.setup.ledger.finish(wanted.index, Ending::Unknown),
                    Kind::Gets => self.setup.ledger.finish(wanted.index, Ending::Abandoned),
                    Kind::Incr | Kind::CounterSet => self.setup.ledger.counters.finish(wanted.index, None),
                    Kind::Get | Kind::Touch => {}
                }
            }
        }
        connection.wanted.clear();
        None
    }

    /// Bytes have come; false if they are not answers and the connection must end.
    #[inline]
    pub fn handle_input(&mut self, number: usize, bytes: &[u8], now: u64) -> bool {
        if self.connections[number].broken {
            return false;
        }
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
                    let ended = flight.single && self.setup.door.hit_ends() || self.positional_end(number);
                    if ended {
                        self.handle_done(number, flight, Answer::End, now);
                    }
                }
                Step::Skip { consumed } => at += consumed,
                Step::Miss { consumed } => {
                    at += consumed;
                    self.handle_next_miss(number);
                    if self.positional_end(number) {
                        self.handle_done(number, flight, Answer::End, now);
                    }
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

    /// Whether all keys of the oldest request are answered, in a protocol that marks the end in no other way.
    #[inline]
    fn positional_end(&self, number: usize) -> bool {
        let answered = |flight: &Flight| flight.keys == 0;
        self.setup.door.positional() && self.connections[number].flights.front().is_some_and(answered)
    }

    fn handle_next_miss(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let Some(flight) = connection.flights.front_mut().filter(|flight| flight.keys > 0) else { return };
        flight.keys -= 1;
        let kind = flight.kind;
        if let Some(wanted) = connection.wanted.pop_front() {
            self.miss(kind, wanted);
        }
    }

    #[inline]
    fn handle_hit(&mut self, number: usize, key: &[u8], value: &[u8], cas: u64, now: u64) {
        loop {
            let connection = &mut self.connections[number];
            let Some(flight) = connection.flights.front_mut().filter(|flight| flight.keys > 0) else {
                let words = || format!("wrong key: {} came, which was not asked for", text(key));
                self.tally.fault(Fault::WrongKey, words);
                return;
            };
            flight.keys -= 1;
            let flight_kind = flight.kind;
            let Some(wanted) = connection.wanted.pop_front() else { return };
            self.key.clear();
            self.setup.work.write_key(wanted.index, &mut self.key);
            if self.key != key && !key.is_empty() {
                self.miss(flight_kind, wanted);
                continue;
            }
            if flight_kind == Kind::Gets {
                self.follow_ups.push(FollowUp::Cas(wanted.index, wanted.serial, cas));
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
        let unix = ((self.unix_ns + now) / 1_000_000_000) as u32;
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

    fn miss(&mut self, kind: Kind, wanted: Wanted) {
        if kind == Kind::Gets {
            self.setup.ledger.finish(wanted.index, Ending::Abandoned);
        } else if self.setup.ledger.judge_miss(wanted.index, wanted.expected) {
            self.key.clear();
            self.setup.work.write_key(wanted.index, &mut self.key);
            let key = &self.key;
            self.tally.unexplained_miss(|| format!("{} is missing; {}", text(key), wanted.expected.words()));
        }
        if self.counting || self.window.is_some() {
            self.tally.misses += 1;
            self.interval.misses += 1;
        }
        if self.setup.work.fill_misses && self.follow_ups.len() < FOLLOW_UPS_MAX {
            self.follow_ups.push(FollowUp::Fill(wanted.index));
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
                    self.miss(flight.kind, wanted);
                } else if flight.kind == Kind::Gets {
                    self.setup.ledger.finish(wanted.index, Ending::Abandoned);
                }
            }
        } else if let Some(wanted) = connection.wanted.pop_front() {
            self.finish_write(flight.kind, wanted, answer);
        }
        if let Answer::Error(words) = answer {
            self.tally.refusals += 1;
            self.interval.errors += 1;
            self.tally.refusal_sample.get_or_insert_with(|| text(words));
        }
        self.count(flight, now);
        while let Some(follow_up) = self.follow_ups.pop() {
            self.follow_up(number, follow_up, now);
        }
    }

    fn finish_write(&mut self, kind: Kind, wanted: Wanted, answer: Answer<'_>) {
        let temporary = self.setup.work.temporary();
        let ending = match (kind, answer) {
            (Kind::Touch, _) => return,
            (Kind::Incr | Kind::CounterSet, _) => return self.finish_count(kind, wanted.index, answer),
            (Kind::Delete, Answer::Ok | Answer::NotFound) => Ending::Deleted,
            (_, Answer::Ok) => Ending::Stored { temporary },
            (_, Answer::NotStored | Answer::NotFound) => Ending::Abandoned,
            _ => Ending::Refused,
        };
        self.setup.ledger.finish(wanted.index, ending);
    }

    fn finish_count(&mut self, kind: Kind, index: u32, answer: Answer<'_>) {
        let known = self.setup.ledger.counters.known(index);
        let value = match (kind, answer) {
            (Kind::CounterSet, Answer::Ok) => Some(0),
            (Kind::Incr, Answer::Number(value)) => Some(value),
            _ => None,
        };
        self.setup.ledger.counters.finish(index, value);
        if let (Kind::Incr, Some(before), false) = (kind, known, self.setup.ledger.shared || !self.setup.verify) {
            match answer {
                Answer::Number(value) if value != before + 1 => {
                    self.tally
                        .fault(Fault::Miscounted, || format!("miscounted: counter {index} went from {before} to {value}"));
                }
                Answer::NotFound => self.tally.unexplained_miss(|| format!("counter {index} is missing; it stood at {before}")),
                _ => {}
            }
        }
    }

    #[inline]
    fn count(&mut self, flight: Flight, now: u64) {
        let counts = match self.window {
            None => self.counting,
            Some((begin, end)) => (begin..end).contains(&flight.times.intended),
        };
        if !counts {
            return;
        }
        let command = self.tally.command(flight.kind, self.window.is_some());
        command.latency.record(now - flight.times.intended);
        if let Some(service) = &mut command.service {
            service.record(now - flight.times.sent);
        }
        self.interval.requests += 1;
        self.interval.latency.saturating_record(now - flight.times.intended);
    }

    fn garbled(&mut self, number: usize, bytes: &[u8], what: &str) {
        self.connections[number].broken = true;
        let target = &self.setup.targets[self.connections[number].target];
        self.last_error = Some(format!("{what}: {}", text(&bytes[..bytes.len().min(80)])));
        let words = || format!("garbled: from {target}, {what}: {}", text(&bytes[..bytes.len().min(80)]));
        self.tally.fault(Fault::Garbled, words);
    }
}

/// Bytes as text, with what cannot be printed escaped.
pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Stores that may follow one answer: as many as a get has keys.
const FOLLOW_UPS_MAX: usize = 1024;

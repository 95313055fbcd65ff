//! The sending half of a lane: from the work to bytes in an outbox, and a note of what is in flight.
//!
//! A write is begun in the ledger before its bytes are made; where another write of the key is in flight, a get is sent in
//! its place, so that the order of writes stays certain.

use crate::doors::{Get, Store};
use crate::lane::{Flight, Lane, Wanted};
use crate::work::mix::Kind;
use crate::work::values::{self, Label};

/// When a request was meant to start and when it starts, in nanoseconds of the lane's clock.
#[derive(Clone, Copy)]
pub struct Times {
    /// Its latency counts from here.
    pub intended: u64,
    /// Its service time counts from here.
    pub sent: u64,
}

/// A store that follows an answer: of a miss, or after a get with CAS unique.
#[derive(Clone, Copy)]
pub enum FollowUp {
    /// Store the key again.
    Fill(u32),
    /// Store if unchanged: key, serial, CAS unique.
    Cas(u32, u32, u64),
}

/// Size and time to live of an item that is stored.
#[derive(Clone, Copy)]
struct Shape {
    value_bytes: usize,
    exptime: u32,
}

impl Lane {
    /// Appends the next request of the work to the outbox of a connection; false if there is nothing left to do.
    #[inline]
    pub fn next_request(&mut self, number: usize, times: Times) -> bool {
        if let Some((next, last)) = self.load {
            if next < last {
                self.load = Some((next + 1, last));
                self.loaded += 1;
                if self.auditing {
                    self.get(number, next, 1, times);
                } else {
                    self.store(number, next, times);
                }
            }
            return next < last;
        }
        if self.setup.work.trace.is_some() {
            return self.next_of_trace(number, times);
        }
        let kind = self.setup.work.mix.pick(&mut self.rng);
        let index = self.pick(number);
        let sent = match kind {
            Kind::Get | Kind::Gets | Kind::CounterSet => false,
            Kind::Set => self.store(number, index, times),
            Kind::Delete => self.delete(number, index, times),
            Kind::Touch => self.touch_item(number, index, times),
            Kind::Cas => self.gets(number, index, times),
            Kind::Incr => self.incr(number, index, times),
        };
        if !sent {
            self.get(number, index, self.setup.work.multi_get, times);
        }
        true
    }

    /// The next key for a connection: where the client knows the cores of the server, one of the connection's core.
    #[inline]
    fn pick(&mut self, number: usize) -> u32 {
        let Some(shards) = self.setup.shards else { return self.picker.pick(&mut self.rng) };
        let core = self.connections[number].target as u32;
        let mut index = 0;
        // Few keys may leave a core without any: then the key goes to a wrong core, which knows what to do.
        for _ in 0..PICKS_MAX {
            index = self.picker.pick(&mut self.rng);
            self.key.clear();
            self.setup.work.write_key(index, &mut self.key);
            if shards.core_of(&self.key) == core {
                break;
            }
        }
        index
    }

    /// The thread's next request of the trace; false at its end.
    fn next_of_trace(&mut self, number: usize, times: Times) -> bool {
        let Some(operation) = self.setup.work.trace.as_ref().and_then(|trace| trace.operations.get(self.trace_next).copied())
        else {
            return false;
        };
        self.trace_next += self.setup.threads_count as usize;
        let shape = Shape { value_bytes: operation.value_bytes as usize, exptime: operation.exptime };
        let index = operation.index;
        let sent = match operation.kind {
            Kind::Set => self.store_shaped(number, index, shape, times),
            Kind::Delete => self.delete(number, index, times),
            _ => false,
        };
        if !sent {
            self.get(number, index, 1, times);
        }
        true
    }

    /// Sends what an answer asks for.
    pub fn follow_up(&mut self, number: usize, follow_up: FollowUp, now: u64) {
        let times = Times { intended: now, sent: now };
        match follow_up {
            FollowUp::Fill(index) => {
                self.store(number, index, times);
            }
            FollowUp::Cas(index, serial, cas) => {
                let shape = self.shape(index);
                self.value(number, index, serial, shape, Some(cas));
                self.launch(number, Kind::Cas, index, 0, times);
            }
        }
    }

    #[inline]
    fn get(&mut self, number: usize, first: u32, keys: u16, times: Times) {
        let get = Get { single: keys == 1, cas: false };
        self.setup.door.get_begin(get, keys as usize, &mut self.connections[number].outbox);
        for at in 0..keys {
            let index = if at == 0 { first } else { self.pick(number) };
            self.key.clear();
            self.setup.work.write_key(index, &mut self.key);
            let connection = &mut self.connections[number];
            self.setup.door.get_key(get, &self.key, &mut connection.outbox);
            let expected = self.setup.ledger.expect(index);
            connection.wanted.push_back(Wanted { index, serial: 0, expected });
        }
        let connection = &mut self.connections[number];
        connection.requests += 1;
        self.setup.door.get_end(get, &mut connection.outbox);
        connection.flights.push_back(Flight { kind: Kind::Get, times, keys, single: get.single });
    }

    /// The read half of a CAS: holds the key until the store is answered.
    fn gets(&mut self, number: usize, index: u32, times: Times) -> bool {
        let Some(serial) = self.setup.ledger.begin(index) else { return false };
        let get = Get { single: true, cas: true };
        self.key.clear();
        self.setup.work.write_key(index, &mut self.key);
        let outbox = &mut self.connections[number].outbox;
        self.setup.door.get_begin(get, 1, outbox);
        self.setup.door.get_key(get, &self.key, outbox);
        self.setup.door.get_end(get, outbox);
        self.launch(number, Kind::Gets, index, serial, times);
        true
    }

    fn store(&mut self, number: usize, index: u32, times: Times) -> bool {
        let shape = self.shape(index);
        self.store_shaped(number, index, shape, times)
    }

    /// The size of a key's value and how long the item is to live.
    fn shape(&mut self, index: u32) -> Shape {
        let work = &self.setup.work;
        Shape { value_bytes: work.value_bytes(index) as usize, exptime: work.ttls.pick(&mut self.rng) }
    }

    fn store_shaped(&mut self, number: usize, index: u32, shape: Shape, times: Times) -> bool {
        let Some(serial) = self.setup.ledger.begin(index) else { return false };
        self.value(number, index, serial, shape, None);
        self.launch(number, Kind::Set, index, serial, times);
        true
    }

    /// The bytes of a store.
    fn value(&mut self, number: usize, index: u32, serial: u32, shape: Shape, cas: Option<u64>) {
        let Shape { value_bytes, exptime } = shape;
        let work = &self.setup.work;
        let outbox = &mut self.connections[number].outbox;
        self.key.clear();
        work.write_key(index, &mut self.key);
        // A touch changes when an item ends: then the value cannot know.
        let expires =
            if exptime == 0 || self.touches { 0 } else { (self.unix_ns + self.now).div_ceil(SECOND_NS) as u32 + exptime };
        let start = outbox.len();
        self.setup.door.store_begin(Store { key: &self.key, exptime, value_bytes, cas }, outbox);
        let label = Label { writer: self.setup.ledger.writer, serial, expires };
        self.maker.write(values::key_hash(&self.key), label, value_bytes, outbox);
        self.setup.door.store_end(start, outbox);
    }

    fn delete(&mut self, number: usize, index: u32, times: Times) -> bool {
        if self.setup.ledger.begin(index).is_none() {
            return false;
        }
        self.key.clear();
        self.setup.work.write_key(index, &mut self.key);
        self.setup.door.delete(&self.key, &mut self.connections[number].outbox);
        self.launch(number, Kind::Delete, index, 0, times);
        true
    }

    fn touch_item(&mut self, number: usize, index: u32, times: Times) -> bool {
        self.key.clear();
        self.setup.work.write_key(index, &mut self.key);
        let exptime = self.setup.work.ttls.pick(&mut self.rng);
        self.setup.door.touch(&self.key, exptime, &mut self.connections[number].outbox);
        self.launch(number, Kind::Touch, index, 0, times);
        true
    }

    /// Counts up; a counter not known yet is set to 0 instead.
    fn incr(&mut self, number: usize, index: u32, times: Times) -> bool {
        let index = index % self.setup.ledger.counters.count();
        let Some(known) = self.setup.ledger.counters.begin(index) else { return false };
        self.key.clear();
        self.setup.work.keys.write_counter(index, &mut self.key);
        let outbox = &mut self.connections[number].outbox;
        let kind = if known.is_some() {
            self.setup.door.incr(&self.key, outbox);
            Kind::Incr
        } else {
            let start = outbox.len();
            self.setup.door.store_begin(Store { key: &self.key, exptime: 0, value_bytes: 1, cas: None }, outbox);
            outbox.push(b'0');
            self.setup.door.store_end(start, outbox);
            Kind::CounterSet
        };
        self.launch(number, kind, index, 0, times);
        true
    }

    fn launch(&mut self, number: usize, kind: Kind, index: u32, serial: u32, times: Times) {
        let expected = self.setup.ledger.expect(index);
        let connection = &mut self.connections[number];
        connection.requests += 1;
        connection.wanted.push_back(Wanted { index, serial, expected });
        connection.flights.push_back(Flight { kind, times, keys: 1, single: true });
    }
}

/// Draws of a key until one of the right core must come.
const PICKS_MAX: usize = 1000;
const SECOND_NS: u64 = 1_000_000_000;

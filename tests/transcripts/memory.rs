//! A server in memory: sessions and one engine, no sockets, a clock that only the transcript moves.
//!
//! ```text
//!   bytes --(cut)--> input --> Session::step --> Engine::execute --> encode --> output
//! ```
//!
//! Lives here: a partial control plane, enough for flush_all. Not here: statistics (`@node` transcripts).

use std::collections::HashMap;
use std::sync::Arc;

use pbcache::arena::{Arena, Body};
use pbcache::buffer::Buffer;
use pbcache::command::{Command, Control, Error, Reply};
use pbcache::engine::{self, Engine};
use pbcache::limits;
use pbcache::protocol::http::{Chunks, Fault};
use pbcache::protocol::resp::Gathered;
use pbcache::protocol::{self, Framing, Session, Step};
use pbcache::time::{Exptime, Timestamp};

use crate::format::Options;
use crate::run::{Arrival, Peer};

/// How the bytes of a send are cut on their way in.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Whole,
    Bytes,
    Random { seed: u64 },
}

/// Engine, clock and connections.
pub struct Memory {
    arena: Arc<Arena>,
    engine: Engine,
    now: Timestamp,
    options: protocol::Options,
    cut: Cut,
    random: u64,
    current: String,
    connections: HashMap<String, Connection>,
}

struct Connection {
    session: Session,
    input: Vec<u8>,
    receiving: Option<Receiving>,
    /// The head of a request, and its body in chunks.
    chunked: Option<(Vec<u8>, Chunks)>,
    output: Buffer,
    /// Parts of an answer whose last part is to come.
    gathered: Gathered,
    closed: bool,
}

/// A large value on its way in.
struct Receiving {
    head: Vec<u8>,
    body: Body,
    filled: usize,
    tail_bytes: usize,
}

impl Memory {
    pub fn new(options: &Options, cut: Cut) -> Self {
        let item_bytes_max = options.max_item_size.unwrap_or(limits::ITEM_BYTES_DEFAULT as u32);
        let arena = Arena::new(64 << 20, 64 << 20, 1).expect("an arena");
        let engine_options = engine::Options { item_bytes_max, core: 0, cores: 1, eviction_disabled: false, replication: None };
        let seed = if let Cut::Random { seed } = cut { seed } else { 1 };
        Self {
            engine: Engine::new(engine_options, arena.clone()),
            arena,
            now: Timestamp::from_seconds(1_700_000_000),
            options: protocol::Options {
                item_bytes_max,
                flush_disabled: options.flush_disabled,
                dump_disabled: options.dump_disabled,
                cas_disabled: options.cas_disabled,
                http: options.http_rules(),
                ..protocol::Options::default()
            },
            cut,
            random: seed | 1,
            current: "main".into(),
            connections: HashMap::new(),
        }
    }

    /// Forgets the current connection.
    pub fn disconnect(&mut self) {
        self.connections.remove(&self.current);
    }

    /// Lets the engine check itself.
    pub fn verify(&self) {
        self.engine.verify();
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Length of the next piece of `left` bytes.
    fn piece(&mut self, left: usize) -> usize {
        let length = match self.cut {
            Cut::Whole => left,
            // Long values byte by byte would say nothing new after the first bytes.
            Cut::Bytes if left > 10_000 => 5_000,
            Cut::Bytes => 1,
            Cut::Random { .. } => {
                let bound = [2, 5, 40, 3_000][(self.next_random() % 4) as usize];
                1 + (self.next_random() % bound) as usize
            }
        };
        length.clamp(1, left)
    }
}

impl Peer for Memory {
    fn connect(&mut self, name: &str) -> Result<(), String> {
        let options = self.options;
        self.connections.entry(name.into()).or_insert_with(|| Connection {
            session: Session::new(options),
            input: Vec::new(),
            receiving: None,
            chunked: None,
            output: Buffer::default(),
            gathered: Gathered::default(),
            closed: false,
        });
        self.current = name.into();
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        let mut connection = self.connections.remove(&self.current).ok_or("no connection")?;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.piece(bytes.len()));
            connection.input.extend_from_slice(piece);
            bytes = rest;
            self.turn(&mut connection)?;
        }
        self.connections.insert(self.current.clone(), connection);
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> Arrival {
        let Some(connection) = self.connections.get_mut(&self.current) else { return Arrival::Closed };
        if connection.output.total_bytes() > 0 {
            into.extend(connection.output.flatten());
            connection.output.clear();
            return Arrival::Bytes;
        }
        if connection.closed { Arrival::Closed } else { Arrival::Quiet }
    }

    fn advance(&mut self, seconds: u32) {
        self.now = self.now.plus_ms(u64::from(seconds) * 1000);
    }
}

impl Memory {
    /// Takes all steps that the input allows.
    fn turn(&mut self, connection: &mut Connection) -> Result<(), String> {
        while !connection.closed {
            if let Some(receiving) = &mut connection.receiving {
                if !receiving.take(&mut connection.input) {
                    return Ok(());
                }
                let receiving = connection.receiving.take().expect("just seen");
                self.store_large(connection, receiving)?;
                continue;
            }
            if let Some((head, mut chunks)) = connection.chunked.take() {
                let step = match chunks.take(&connection.input) {
                    Ok(taken) => {
                        connection.input.drain(..taken);
                        if !chunks.is_whole() {
                            connection.chunked = Some((head, chunks));
                            return Ok(());
                        }
                        None
                    }
                    Err(fault) => Some(fault),
                };
                self.store_chunked(connection, &head, &chunks, step)?;
                continue;
            }
            let input = std::mem::take(&mut connection.input);
            connection.session.set_moment(self.now.seconds().0, false);
            let consumed = self.step(connection, &input)?;
            connection.input = input[consumed.unwrap_or(0)..].to_vec();
            if consumed.is_none() && connection.receiving.is_none() && connection.chunked.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One step; what it consumed, or `None` when nothing more can be done with this input.
    fn step(&mut self, connection: &mut Connection, input: &[u8]) -> Result<Option<usize>, String> {
        let step = connection.session.step(input);
        let consumed = match step {
            Step::Body { head, body, tail } => {
                let Some(leased) = Body::lease(&self.arena, body) else {
                    let step = connection.session.refuse(&input[..head], body + tail);
                    return self.perform(connection, step).map(|()| Some(head));
                };
                let head_bytes = input[..head].to_vec();
                connection.receiving = Some(Receiving { head: head_bytes, body: leased, filled: 0, tail_bytes: tail });
                return Ok(Some(head));
            }
            Step::Chunked { head } => {
                let bytes_max = connection.session.options().item_bytes_max as usize;
                connection.chunked = Some((input[..head].to_vec(), Chunks::new(bytes_max)));
                return Ok(Some(head));
            }
            Step::Incomplete { needed } => {
                if needed <= input.len() || needed > NEEDED_MAX {
                    return Err(format!("{needed} bytes needed after {}", input.len()));
                }
                return Ok(None);
            }
            Step::Command { consumed, .. }
            | Step::Control { consumed, .. }
            | Step::Reply { consumed, .. }
            | Step::Skip { consumed } => consumed,
        };
        if consumed > input.len() {
            return Err(format!("{consumed} bytes consumed of {}", input.len()));
        }
        self.perform(connection, step)?;
        Ok(Some(consumed))
    }

    fn store_chunked(&mut self, to: &mut Connection, head: &[u8], chunks: &Chunks, fault: Option<Fault>) -> Result<(), String> {
        let value = chunks.value();
        if let Some(fault) = fault {
            let step = to.session.refuse_chunked(fault);
            return self.perform(to, step);
        }
        if value.len() <= limits::INLINE_VALUE_BYTES_MAX {
            let step = to.session.resume_chunked(head, value);
            return self.perform(to, step);
        }
        let Some(mut body) = Body::lease(&self.arena, value.len()) else { return Err("no memory".into()) };
        body.write(0, value);
        let body = Arc::new(body);
        let step = to.session.resume(head, &body, b"");
        self.perform(to, step)
    }

    fn store_large(&mut self, connection: &mut Connection, receiving: Receiving) -> Result<(), String> {
        let tail = connection.input[..receiving.tail_bytes].to_vec();
        let body = Arc::new(receiving.body);
        let session_before = connection.session;
        let step = connection.session.resume(&receiving.head, &body, &tail);
        if let Step::Incomplete { needed } = step {
            if needed <= tail.len() || needed > limits::RESP_TAIL_BYTES_MAX {
                return Err(format!("{needed} bytes needed of a tail of {}", tail.len()));
            }
            connection.session = session_before;
            let body = Arc::into_inner(body).ok_or("the value is held")?;
            connection.receiving = Some(Receiving { body, tail_bytes: needed, ..receiving });
            return Ok(());
        }
        connection.input.drain(..tail.len());
        if let Step::Command { consumed, .. } | Step::Reply { consumed, .. } = step
            && consumed != receiving.head.len()
        {
            return Err("resume consumes the head".into());
        }
        self.perform(connection, step)
    }

    /// Executes a step and encodes its reply.
    fn perform(&mut self, connection: &mut Connection, step: Step<'_>) -> Result<(), String> {
        let output = &mut connection.output;
        let start = output.bytes.len();
        match step {
            Step::Command { command, framing, .. } => {
                self.execute(&command, &framing, output)?;
                if let Some(part) = framing.head.part() {
                    connection.gathered.take(part, start, output);
                }
            }
            Step::Control { control, framing, .. } => {
                let reply = self.control(control);
                protocol::encode(&framing, b"", &reply, output);
            }
            Step::Reply { reply, framing, close, .. } => {
                protocol::encode(&framing, b"", &reply, output);
                if let Some(part) = framing.head.part() {
                    connection.gathered.take(part, start, output);
                }
                connection.closed |= close;
            }
            Step::Skip { .. } => {}
            Step::Body { .. } | Step::Chunked { .. } | Step::Incomplete { .. } => return Err("nothing to perform".into()),
        }
        Ok(())
    }

    fn execute(&mut self, command: &Command<'_>, framing: &Framing<'_>, output: &mut Buffer) -> Result<(), String> {
        for _ in 0..1000 {
            let reply = self.engine.execute(command, self.now);
            if !matches!(reply, Reply::Busy) {
                protocol::encode(framing, command.key.bytes, &reply, output);
                return Ok(());
            }
            self.engine.tick(self.now, 1000);
        }
        Err("busy for ever".into())
    }

    fn control(&mut self, control: Control<'_>) -> Reply<'static> {
        match control {
            Control::FlushAll { delay } => {
                let at = match delay {
                    Exptime::NEVER => self.now,
                    delay => Timestamp::from_seconds(delay.expiry(self.now.seconds()).0),
                };
                self.engine.flush(at);
                Reply::Ok
            }
            Control::Verbosity { .. } | Control::CacheMemlimit { .. } => Reply::Ok,
            Control::Stats { group: b"reset" } => Reply::Reset,
            _ => Reply::Error(Error::Line("ERROR")),
        }
    }
}

impl Receiving {
    /// Moves bytes of the value out of the input; whether value and tail are there.
    fn take(&mut self, input: &mut Vec<u8>) -> bool {
        let count = input.len().min(self.body.len() - self.filled);
        self.body.write(self.filled, &input[..count]);
        self.filled += count;
        input.drain(..count);
        self.filled == self.body.len() && input.len() >= self.tail_bytes
    }
}

/// No step may ask for more input than this: a long line, or a head with an inline value.
const NEEDED_MAX: usize = limits::MULTI_GET_LINE_BYTES_MAX + limits::INLINE_VALUE_BYTES_MAX;

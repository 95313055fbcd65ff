//! One client's conversation: bytes in, commands out to their cores, replies in the order of the requests.
//!
//! ```text
//!   received bytes --> (input: what was cut) --> Session::step --> batch of up to 16 --> prepare --> execute
//!                                                                                     |
//!   replies:  | Ready | Waiting (core 1) | Ready | Ready |   <------------------------+
//!                ^ first slot                          only while something waits; else replies go straight to the output
//! ```
//!
//! Back-pressure: a conversation is *blocked* when its output is full, a link is full, no memory is free, or a control request is
//! under way. It then keeps its unparsed bytes, and whoever owns the socket stops reading and calls `receive` again later.
//!
//! Lives here: the conversation, without I/O. Not here: sockets (`pump`, `streams`), the links themselves (`core`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayVec;

use super::context::Context;
use super::listener::FULL;
use super::mesh::record::ReplyBytes;
use super::peer_socket::Peer;
use super::receiving::Receiving;
use super::replies::{Replies, Sent};
use super::sys;
use crate::arena::Body;
use crate::buffer::Buffer;
use crate::cluster::Origin;
use crate::command::{Command, Control, Error, Reply};
use crate::key::Key;
use crate::latency::Kind;
use crate::limits;
use crate::metrics::Counters;
use crate::observe::Client;
use crate::peer::handshake::MAGIC;
use crate::protocol::http::GivenUp;
use crate::protocol::{self, Framing, Session, Step};
use crate::routing::Ticket;
use crate::routing::{Place, ShardId};
use crate::shard::Shard;
use crate::time::{Monotonic, Timestamp};
use crate::version::Version;

/// The state of one client's conversation.
pub struct Connection {
    /// Tells this connection from earlier ones with the same index.
    pub generation: u32,
    /// Its socket's descriptor, by which operators know it; -1 without a socket.
    pub descriptor: i32,
    /// Output waits for the reader to take it. Told by who owns the socket.
    pub unsent: bool,
    session: Session,
    /// Bytes received and not yet parsed.
    input: Vec<u8>,
    /// Least length of `input` with which another step can be made.
    needed: usize,
    replies: Replies,
    receiving: Option<Box<Receiving>>,
    /// It speaks HTTP, or may do so: it has deadlines.
    http: bool,
    /// The client is in the middle of an HTTP request.
    midway: bool,
    /// Since when it is, or is not, in seconds of `Context::second`.
    since_s: u32,
    /// Length of the body that is dropped, as it was when the client came to be midway.
    swallowed_bytes: usize,
    /// What the client still sends is to be read and dropped before the socket is closed.
    lingers: bool,
    control_pending: bool,
    /// It watches: nothing that it sends is looked at any more.
    watching: bool,
    /// It is being sent a long answer in pieces.
    dumping: bool,
    closing: bool,
    blocked: bool,
    /// The client closed its side; what is complete is still answered.
    ended: bool,
    /// Bytes of `input` that are counted in `Context::held_bytes`.
    held: usize,
    /// Since when a command waits for memory.
    starved_since: Option<Monotonic>,
    /// Nothing was received so far here.
    unread: bool,
    /// When its last commands were parsed.
    last_command: Timestamp,
    /// There are as many clients as may be: whoever this is must be a node.
    pub only_peers: bool,
    /// A node that calls from an address that no node of the table has, as far as is known.
    is_stranger: bool,
    /// The other side is a node.
    peer: Option<Box<Peer>>,
    /// The core that the last commands went to, if it is not this one, and how many in a row.
    steering: (ShardId, u32),
}

/// What a conversation is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has come so far.
    Fresh,
    /// It waits for a request, or for the rest of its line.
    Reading,
    /// It waits for the rest of a value.
    ReadingValue,
    /// It waits for the rest of a value that was refused.
    Swallowing,
    /// It has requests that wait for memory, or for room on a link.
    Pending,
    /// It waits for another core or node.
    Elsewhere,
    /// The control plane works on its command.
    Executing,
    /// It takes lines as they come: it watches, or has asked for all keys.
    Watching,
    /// It waits for its reader.
    Writing,
    /// It ends.
    Closing,
    /// The other side is a node.
    Peer,
}

/// What a conversation wants of its socket after some bytes were handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More bytes.
    Read,
    /// No more bytes for now; call `receive` again, with none, in a later turn.
    Blocked,
    /// Nothing more is read; close when `Connection::is_drained` and the output was sent.
    Closing,
}

/// Why parsing stopped.
enum Stop {
    Incomplete(usize),
    Blocked,
    Body { head: usize, body: usize, tail: usize },
    Chunked { head: usize },
    Close,
}

impl Stop {
    /// Why parsing stops in front of what such a step tells; `None` for a step that is a request.
    fn before(step: &Step<'_>) -> Option<Self> {
        Some(match *step {
            Step::Incomplete { needed } => Self::Incomplete(needed),
            Step::Body { head, body, tail } => Self::Body { head, body, tail },
            Step::Chunked { head } => Self::Chunked { head },
            _ => return None,
        })
    }
}

/// What became of one command.
enum Outcome {
    Done,
    Blocked,
}

/// One step made ahead of execution.
struct Planned<'a> {
    session_before: Session,
    offset_before: usize,
    step: Step<'a>,
}

impl Connection {
    /// A new conversation.
    pub fn new(generation: u32, options: protocol::Options, now: Timestamp) -> Self {
        Self {
            generation,
            descriptor: -1,
            unsent: false,
            session: Session::new(options),
            input: Vec::new(),
            needed: 1,
            replies: Replies::default(),
            receiving: None,
            http: false,
            midway: false,
            since_s: 0,
            swallowed_bytes: 0,
            lingers: false,
            control_pending: false,
            watching: false,
            dumping: false,
            closing: false,
            blocked: false,
            ended: false,
            held: 0,
            starved_since: None,
            unread: true,
            last_command: now,
            only_peers: false,
            is_stranger: false,
            peer: None,
            steering: (ShardId(0), 0),
        }
    }

    /// Bytes that wait to be parsed.
    pub fn input_bytes(&self) -> usize {
        self.input.len()
    }

    /// Whether the conversation cannot go on by itself.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether it waits for the control plane's answer only: no use in trying again before.
    pub fn waits_for_control(&self) -> bool {
        self.control_pending
    }

    /// Whether every request has been answered into the output.
    pub fn is_drained(&self) -> bool {
        self.replies.is_empty() && !self.control_pending && self.peer.as_ref().is_none_or(|peer| peer.is_drained())
    }

    /// Whether it ends when it is drained.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// No more requests will come: the client closed its side. What is complete is still answered.
    pub fn end_of_input(&mut self) {
        self.ended = true;
        if self.watching {
            self.stop_watching();
        }
        self.closing |= !self.blocked;
    }

    /// From here on it watches, and what it sends means nothing.
    pub fn start_watching(&mut self, context: &Context) {
        debug_assert!(self.control_pending);
        self.watching = true;
        self.input = Vec::new();
        self.count_held(context);
    }

    /// Whether it watches.
    pub fn is_watching(&self) -> bool {
        self.watching
    }

    /// Lines that it has not been sent are dropped, and it waits for nobody.
    fn stop_watching(&mut self) {
        (self.watching, self.control_pending, self.blocked) = (false, false, false);
        self.replies = Replies::default();
    }

    /// The core that this conversation belongs to, if its last commands all went to one other core. Only at a request boundary
    /// with nothing pending.
    pub fn belongs_to(&self) -> Option<ShardId> {
        if let Some(peer) = &self.peer {
            return peer.belongs_to();
        }
        let (core, streak) = self.steering;
        let settled = streak >= limits::STEERING_STREAK_MIN;
        let movable =
            self.is_drained() && !self.replies.are_gathering() && self.receiving.is_none() && !self.blocked && !self.closing;
        (settled && movable).then_some(core)
    }

    /// The parts that move to another core.
    pub fn into_parts(mut self) -> (Session, Vec<u8>, Option<Box<Peer>>) {
        (self.session, std::mem::take(&mut self.input), self.peer.take())
    }

    /// This conversation with what it had on another core, at this second of `Context::second`.
    pub fn with_parts(self, session: Session, input: Vec<u8>, peer: Option<Box<Peer>>, second: u32) -> Self {
        Self { http: session.is_http(), since_s: second, session, input, peer, ..self }
    }

    /// What it is at.
    pub fn state(&self) -> State {
        match () {
            () if self.peer.is_some() => State::Peer,
            () if self.closing => State::Closing,
            () if self.unsent => State::Writing,
            () if self.watching || self.dumping => State::Watching,
            () if self.control_pending => State::Executing,
            () if self.receiving.is_some() => State::ReadingValue,
            () if !self.replies.is_empty() => State::Elsewhere,
            () if self.blocked => State::Pending,
            () if self.session.is_fresh() => State::Fresh,
            () if self.session.is_swallowing() => State::Swallowing,
            () if self.session.awaits_value(&self.input) => State::ReadingValue,
            () => State::Reading,
        }
    }

    /// When its last commands were parsed, or it was made.
    pub fn last_command(&self) -> Timestamp {
        self.last_command
    }

    /// Whether a node has just called from an address that no node of the table has, as far as is known. Told once.
    pub fn take_stranger(&mut self) -> bool {
        std::mem::take(&mut self.is_stranger)
    }

    /// The node on the other side, if it is one.
    pub fn peer(&mut self) -> Option<&mut Peer> {
        self.peer.as_deref_mut()
    }

    /// Whether this is a conversation with a node.
    pub fn is_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// After how many silent seconds it is closed, where clients are after `client_s`; 0 for never.
    pub fn patience_s(&self, client_s: u32) -> u32 {
        match &self.peer {
            None if self.watching => 0,
            None if self.only_peers => limits::PEER_STALL_S_MAX,
            None => client_s,
            Some(peer) if peer.is_midway() && !self.blocked => limits::PEER_STALL_S_MAX,
            Some(_) => 0,
        }
    }

    /// Whether what the client still sends is to be read and dropped before its socket is closed, or it might lose the answer.
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// Whether an HTTP client has been silent, or slow with its request, for longer than it may.
    pub fn is_overdue(&self, second: u32) -> bool {
        if !self.http || self.closing || self.blocked || self.unsent || !self.session.is_http() || !self.is_drained() {
            return false;
        }
        let body_bytes = match &self.receiving {
            Some(receiving) => receiving.known_bytes(),
            None if self.session.awaits_value(&self.input) => self.needed,
            None => self.swallowed_bytes,
        };
        let patience_s = match self.midway {
            true => limits::HTTP_REQUEST_S_MAX.saturating_add((body_bytes / limits::HTTP_BODY_BYTES_PER_S) as u32),
            false => limits::HTTP_IDLE_S_MAX,
        };
        second > self.since_s.saturating_add(patience_s)
    }

    /// Ends the conversation with an HTTP client that is overdue: with words, if it is in the middle of a request.
    pub fn time_out(&mut self, counters: &mut Counters, output: &mut Buffer) {
        if self.midway {
            self.session.give_up(GivenUp::Late, output);
            self.lingers = true;
            counters.http_late += 1;
        } else {
            counters.idle_kicks += 1;
        }
        (self.receiving, self.input) = (None, Vec::new());
        self.closing = true;
    }

    /// Whether its socket is closed where its reader takes nothing for `limits::HTTP_IDLE_S_MAX`.
    pub fn is_http(&self) -> bool {
        self.http
    }

    /// Notes since when the client is in the middle of a request, or is not.
    #[cold]
    fn note_progress(&mut self, context: &mut Context) {
        context.serves_http = true;
        let is_midway = self.receiving.is_some() || !self.input.is_empty() || self.session.is_swallowing();
        if !is_midway || !self.midway || self.blocked {
            self.since_s = context.second();
            self.swallowed_bytes = self.session.swallowed_bytes() as usize;
        }
        self.midway = is_midway;
    }

    /// Keeps bytes for later, because the output of earlier ones is not out yet.
    pub fn buffer(&mut self, bytes: &[u8], context: &Context) {
        // Exactly: doubling would cost up to as much again, for every connection that waits.
        self.input.reserve_exact(bytes.len());
        self.input.extend_from_slice(bytes);
        self.blocked = true;
        self.needed = 0;
        self.count_held(context);
    }

    /// Counts the input against what the core may hold.
    fn count_held(&mut self, context: &Context) {
        let bytes = self.input.len() + self.receiving.as_ref().map_or(0, |receiving| receiving.held_bytes());
        let held = if bytes > limits::INPUT_KEPT_BYTES_MAX { bytes } else { 0 };
        if held != self.held {
            context.held_bytes.update(|total| total + held - self.held);
            self.held = held;
        }
    }

    /// Takes what this connection holds out of the count, because it ends or moves.
    pub fn release(&mut self, context: &Context) {
        context.held_bytes.update(|total| total - self.held);
        self.held = 0;
    }

    /// A request that is long and not complete, on a core that holds too much already: it ends here, as on memcached.
    fn refuse_long_request(&mut self, context: &Context, output: &mut Buffer) {
        self.count_held(context);
        if context.held_bytes.get() <= limits::HELD_BYTES_MAX {
            return;
        }
        // A head that is long and not whole carries no value: it is not waited for while others are.
        let is_head = self.session.is_http() && self.receiving.is_none() && !self.session.awaits_value(&self.input);
        let short_bytes = if is_head { limits::LINE_BYTES_MAX } else { limits::INPUT_SHORT_BYTES };
        if self.held > short_bytes {
            if self.session.is_http() && self.replies.is_empty() {
                self.session.give_up(GivenUp::Crowded, output);
                self.lingers = true;
                // Others wait for this room, not for the end of this connection.
                (self.receiving, self.input) = (None, Vec::new());
                self.count_held(context);
            } else if self.session.is_resp() {
                let has_turn = self.replies.is_empty() && !self.replies.are_gathering();
                output.put(if has_turn { b"-ERR out of memory reading request\r\n" } else { b"" });
            } else if !self.session.is_binary() && self.replies.is_empty() {
                output.put(b"SERVER_ERROR out of memory reading request\r\n");
            }
            self.closing = true;
        }
    }

    /// Key of the request that `fresh` begins with, if it begins one that is all there. Changes nothing.
    pub fn first_key<'a>(&self, fresh: &'a [u8]) -> Option<Key<'a>> {
        if !self.input.is_empty() || self.receiving.is_some() || self.closing || self.peer.is_some() || self.http {
            return None;
        }
        let mut session = self.session;
        match session.step(fresh) {
            Step::Command { command, .. } => Some(command.key),
            _ => None,
        }
    }

    /// Handles `fresh` bytes behind what is waiting. Replies that are due go to `output`.
    pub fn receive(&mut self, id: u32, fresh: &[u8], context: &mut Context, output: &mut Buffer) -> Flow {
        if self.closing {
            return Flow::Closing;
        }
        if self.peer.is_some() || (self.unread && fresh.first() == Some(&MAGIC[0]) && context.peer_setup.is_some()) {
            return self.receive_peer(id, fresh, context);
        }
        let first = self.unread && !(fresh.is_empty() && self.input.is_empty());
        self.unread &= !first;
        if self.only_peers {
            context.shard.counters.rejected_connections += 1;
            output.put(FULL);
            self.closing = true;
            return Flow::Closing;
        }
        if self.watching {
            return Flow::Blocked;
        }
        if self.control_pending {
            self.buffer(fresh, context);
            return Flow::Blocked;
        }
        self.blocked = false;
        let undecided = self.session.is_fresh();
        if undecided || self.http {
            self.session.set_moment(context.now.seconds().0, context.mesh.shared.leaving.load(Relaxed));
        }
        let output_start = output.total_bytes();
        let (bytes_start, bodies_start) = (output.bytes.len(), output.bodies.len());
        if self.input.is_empty() {
            let consumed = self.advance(id, fresh, context, output, output_start);
            if self.closing {
                self.lingers |= self.session.is_http() && consumed < fresh.len();
            } else if consumed < fresh.len() {
                self.input.extend_from_slice(&fresh[consumed..]);
            }
        } else {
            self.input.extend_from_slice(fresh);
            if self.input.len() >= self.needed {
                let mut input = std::mem::take(&mut self.input);
                let consumed = self.advance(id, &input, context, output, output_start);
                input.drain(..consumed);
                self.lingers |= self.session.is_http() && self.closing && !input.is_empty();
                if input.capacity() > limits::INPUT_SHORT_BYTES && input.len() < input.capacity() / 4 {
                    input.shrink_to_fit();
                }
                if !input.is_empty() || input.capacity() <= limits::INPUT_KEPT_BYTES_MAX {
                    self.input = input;
                }
            }
        }
        if !self.control_pending {
            self.replies.close_batch(output, bytes_start, bodies_start);
        }
        self.http |= undecided && self.session.is_http();
        if self.http {
            self.note_progress(context);
        }
        if self.blocked {
            self.needed = 0;
            self.count_held(context);
            return Flow::Blocked;
        }
        if !self.closing {
            self.refuse_long_request(context, output);
        }
        self.closing |= self.ended;
        if self.closing { Flow::Closing } else { Flow::Read }
    }

    /// As `receive`, for a node. What is to be sent goes out with `flush`.
    #[cold]
    fn receive_peer(&mut self, id: u32, fresh: &[u8], context: &mut Context) -> Flow {
        let Some(setup) = context.peer_setup.clone() else { return Flow::Closing };
        if self.peer.is_none() {
            let caller = sys::peer_ip(self.descriptor);
            self.is_stranger = caller.is_none_or(|caller| !setup.known.has(caller));
            match Peer::accepted(&setup, context, caller) {
                Ok(peer) => self.peer = Some(Box::new(peer)),
                Err(_) => {
                    self.closing = true;
                    return Flow::Closing;
                }
            }
        }
        let Some(peer) = &mut self.peer else { return Flow::Closing };
        let mut input = std::mem::take(&mut self.input);
        let flow = if input.is_empty() {
            peer.receive((id, self.generation), fresh, &setup, context)
        } else {
            input.extend_from_slice(fresh);
            peer.receive((id, self.generation), &input, &setup, context)
        };
        self.blocked = flow == Flow::Blocked;
        self.count_held(context);
        match flow {
            Flow::Blocked if self.starved_too_long(context.at) => self.closing = true,
            Flow::Blocked => {}
            Flow::Read => self.starved_since = None,
            Flow::Closing => self.closing = true,
        }
        self.closing |= self.ended;
        if self.closing { Flow::Closing } else { flow }
    }

    /// Parses and executes from the front of `input`; returns how much was used up.
    fn advance(&mut self, id: u32, input: &[u8], context: &mut Context, output: &mut Buffer, output_start: usize) -> usize {
        let mut at = 0;
        loop {
            if self.receiving.is_some() {
                at += self.fill_body(&input[at..], context);
                match self.finish_body(id, context, output) {
                    Some(Outcome::Done) => {}
                    Some(Outcome::Blocked) => {
                        self.blocked = true;
                        return at;
                    }
                    // More words behind the value have come already.
                    None if at < input.len() => continue,
                    None => {
                        self.needed = 1;
                        return at;
                    }
                }
            }
            match self.parse(id, input, &mut at, context, output, output_start) {
                Stop::Incomplete(needed) => {
                    self.needed = needed;
                    return at;
                }
                Stop::Blocked => {
                    self.blocked = true;
                    return at;
                }
                Stop::Close => {
                    self.closing = true;
                    self.lingers = self.session.is_cut_short();
                    context.shard.counters.http_refused += u64::from(self.session.has_refused());
                    return at;
                }
                Stop::Body { head, body, tail } => {
                    self.receiving = Some(Box::new(Receiving::new(&input[at..at + head], body, tail)));
                    self.midway = false;
                    at += head;
                }
                Stop::Chunked { head } => {
                    let bytes_max = self.session.options().item_bytes_max as usize;
                    self.receiving = Some(Box::new(Receiving::chunked(&input[at..at + head], bytes_max)));
                    self.midway = false;
                    at += head;
                }
            }
        }
    }

    /// Steps over whole requests in batches: parse up to 16, let the engine prefetch, execute in order.
    fn parse(
        &mut self,
        id: u32,
        input: &[u8],
        at: &mut usize,
        context: &mut Context,
        output: &mut Buffer,
        output_start: usize,
    ) -> Stop {
        loop {
            let mut batch: ArrayVec<Planned<'_>, { limits::BATCH_COMMANDS_MAX }> = ArrayVec::new();
            let mut stop = None;
            let mut end = *at;
            while !batch.is_full() && stop.is_none() {
                let (session_before, offset_before) = (self.session, end);
                let step = self.session.step(&input[end..]);
                match &step {
                    Step::Command { consumed, .. } => end += consumed,
                    Step::Reply { consumed, close, .. } => {
                        end += consumed;
                        if *close {
                            stop = Some(Stop::Close);
                        }
                    }
                    Step::Control { consumed, .. } => {
                        end += consumed;
                        stop = Some(Stop::Blocked);
                    }
                    Step::Skip { consumed } => {
                        end += consumed;
                        continue;
                    }
                    Step::Incomplete { .. } | Step::Body { .. } | Step::Chunked { .. } => {
                        stop = Stop::before(&step);
                        break;
                    }
                }
                batch.push(Planned { session_before, offset_before, step });
            }
            self.last_command = if batch.is_empty() { self.last_command } else { context.now };
            self.midway &= batch.is_empty();
            if batch.len() > 1 {
                let Shard { engine, routes, id, .. } = &mut context.shard;
                engine.prepare(batch.iter().filter_map(|planned| match &planned.step {
                    Step::Command { command, .. } if routes.core_of(command.key.hash) == *id => Some(&command.key),
                    _ => None,
                }));
            }
            for planned in &batch {
                let full = output.total_bytes() - output_start >= context.output_bytes_max();
                if full
                    || self.replies.are_enough()
                    || matches!(self.take_step(id, &planned.step, context, output), Outcome::Blocked)
                {
                    self.session = planned.session_before;
                    *at = planned.offset_before;
                    return Stop::Blocked;
                }
            }
            *at = end;
            match stop {
                Some(stop) => return stop,
                None => continue,
            }
        }
    }

    #[inline]
    fn take_step(&mut self, id: u32, step: &Step<'_>, context: &mut Context, output: &mut Buffer) -> Outcome {
        match step {
            Step::Command { command, framing, .. } => self.execute(id, command, framing, context, output),
            Step::Reply { reply, framing, .. } => {
                self.answer(framing, b"", reply, output);
                Outcome::Done
            }
            Step::Control { control, framing, .. } => self.ask_control(id, control, framing, context),
            Step::Skip { .. } | Step::Incomplete { .. } | Step::Body { .. } | Step::Chunked { .. } => Outcome::Done,
        }
    }

    fn execute(
        &mut self,
        id: u32,
        command: &Command<'_>,
        framing: &Framing<'_>,
        context: &mut Context,
        output: &mut Buffer,
    ) -> Outcome {
        let place = match context.shard.cluster.is_some() {
            false => context.shard.route(command.key.hash),
            true => match context.place(command) {
                Some(place) => place,
                None => return self.submit(id, command, framing, context),
            },
        };
        match place {
            Place::Here => {
                self.steering.1 = 0;
                let client = Client { descriptor: self.descriptor, meta: framing.head.is_meta() };
                let reply = context.shard.execute(command, client, context.now);
                if let Reply::Busy = reply {
                    if !self.starved_too_long(context.at) {
                        return Outcome::Blocked;
                    }
                    self.answer(framing, command.key.bytes, &Reply::Error(Error::OutOfMemory), output);
                } else if self.replies.is_empty() {
                    let start = output.bytes.len();
                    protocol::encode(framing, command.key.bytes, &reply, output);
                    if let Some(part) = framing.head.part() {
                        self.replies.gather(part, start, output);
                    }
                } else {
                    self.replies.push(framing, command.key.bytes, &reply);
                }
                self.starved_since = None;
                context.latency.count(Kind::of(framing.head.door(), &command.verb));
                Outcome::Done
            }
            Place::Core(core) => {
                let ticket = self.next_ticket(id);
                if !context.mesh.request(core, ticket, Version::NONE, command, framing) {
                    return Outcome::Blocked;
                }
                context.shard.counters.requests_crossed += 1;
                self.replies.push_waiting(Some(sent(command, framing, context)), framing.head.part());
                self.steering = if self.steering.0 == core { (core, self.steering.1 + 1) } else { (core, 1) };
                Outcome::Done
            }
        }
    }

    /// Hands a command over in which other nodes have a part.
    fn submit(&mut self, id: u32, command: &Command<'_>, framing: &Framing<'_>, context: &mut Context) -> Outcome {
        let origin = Origin::Connection(self.next_ticket(id));
        let Some(mut turn) = context.turn() else { return Outcome::Blocked };
        if !turn.submit(origin, command, framing.head, framing.words) {
            return Outcome::Blocked;
        }
        self.replies.push_waiting(Some(sent(command, framing, context)), framing.head.part());
        self.steering.1 = 0;
        Outcome::Done
    }

    /// Whether a command has waited for memory for as long as it may.
    fn starved_too_long(&mut self, at: Monotonic) -> bool {
        let since = *self.starved_since.get_or_insert(at);
        at >= since + limits::STARVED_MS_MAX
    }

    /// Control requests are barriers: nothing before is unanswered, nothing behind is parsed until the answer is there. So
    /// `flush_all` takes effect between its neighbours, on all cores.
    fn ask_control(&mut self, id: u32, control: &Control<'_>, framing: &Framing<'_>, context: &mut Context) -> Outcome {
        if !self.replies.is_empty() {
            return Outcome::Blocked;
        }
        let ticket = self.next_ticket(id);
        context.ask_control(ticket, control, framing);
        self.replies.push_waiting(None, None);
        self.control_pending = true;
        Outcome::Done
    }

    fn next_ticket(&self, connection: u32) -> Ticket {
        Ticket { connection, generation: self.generation, slot: self.replies.next_slot(), descriptor: self.descriptor }
    }

    fn answer(&mut self, framing: &Framing<'_>, key: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
        if self.replies.is_empty() {
            let start = output.bytes.len();
            protocol::encode(framing, key, reply, output);
            if let Some(part) = framing.head.part() {
                self.replies.gather(part, start, output);
            }
        } else {
            self.replies.push(framing, key, reply);
        }
    }

    /// Puts a reply from elsewhere into its slot. `flush` moves it on.
    /// Tells which request it answers, unless the control plane was asked.
    pub fn fill(&mut self, slot: u32, reply: ReplyBytes<'_>) -> Option<Sent> {
        self.replies.fill(slot, reply)
    }

    /// A piece of a long answer of the control plane, ahead of its end, which the first slot waits for.
    pub fn push_part(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.control_pending);
        self.dumping = true;
        self.replies.push_part(bytes);
    }

    /// The control plane has answered: the barrier is lifted.
    pub fn control_answered(&mut self, close: bool) {
        (self.control_pending, self.dumping) = (false, false);
        self.closing |= close;
    }

    /// Moves the replies whose turn has come to the output.
    pub fn flush(&mut self, context: &mut Context, output: &mut Buffer) {
        if let Some(peer) = &mut self.peer {
            return peer.flush(context, output);
        }
        match self.control_pending {
            true => self.replies.flush_ready(output),
            false => self.replies.flush(output),
        }
    }

    /// Takes what belongs to the large value from `bytes`; returns how much. Leases its memory first.
    fn fill_body(&mut self, bytes: &[u8], context: &mut Context) -> usize {
        let Some(receiving) = &mut self.receiving else { return 0 };
        let taken = receiving.take_chunks(bytes);
        if receiving.wants_memory() {
            receiving.body = Body::lease(&context.arena, receiving.length);
            if receiving.body.is_none() && context.shard.engine.make_space(receiving.length, context.now) {
                receiving.body = Body::lease(&context.arena, receiving.length);
            }
            if receiving.body.is_none() {
                context.arena.want(receiving.length + context.arena.segment_bytes());
                return taken;
            }
            self.starved_since = None;
        }
        taken + receiving.fill(&bytes[taken..])
    }

    /// Executes the store of a large value that is complete. `None`: more bytes are needed.
    fn finish_body(&mut self, id: u32, context: &mut Context, output: &mut Buffer) -> Option<Outcome> {
        let receiving = self.receiving.as_mut()?;
        if let Some(fault) = receiving.fault {
            self.receiving = None;
            let step = self.session.refuse_chunked(fault);
            return Some(self.take_step(id, &step, context, output));
        }
        if receiving.wants_memory() {
            if !self.starved_too_long(context.at) {
                return Some(Outcome::Blocked);
            }
            let receiving = self.receiving.take()?;
            self.starved_since = None;
            let rest = if receiving.chunks.is_some() { 0 } else { receiving.length + receiving.tail_bytes };
            let step = self.session.refuse(&receiving.head, rest);
            return Some(self.take_step(id, &step, context, output));
        }
        if !receiving.is_complete() {
            return None;
        }
        let mut receiving = self.receiving.take()?;
        receiving.complete = receiving.complete.take().or(receiving.body.take().map(Arc::new));
        let session_before = self.session;
        let full = self.replies.are_enough();
        let step = match (&receiving.complete, &receiving.chunks) {
            (Some(body), _) => self.session.resume(&receiving.head, body, &receiving.tail),
            (None, Some(chunks)) => self.session.resume_chunked(&receiving.head, chunks.value()),
            (None, None) => return None,
        };
        // Words behind the value.
        if let Step::Incomplete { needed } = step {
            self.session = session_before;
            receiving.tail_bytes = needed;
            self.receiving = Some(receiving);
            return None;
        }
        if full || matches!(self.take_step(id, &step, context, output), Outcome::Blocked) {
            self.session = session_before;
            self.receiving = Some(receiving);
            return Some(Outcome::Blocked);
        }
        self.midway = false;
        Some(Outcome::Done)
    }
}

/// What is remembered of a command that is sent elsewhere in this turn.
#[inline]
fn sent(command: &Command<'_>, framing: &Framing<'_>, context: &Context) -> Sent {
    let kind = Kind::of(framing.head.door(), &command.verb);
    Sent { kind, hash: (command.key.hash >> 32) as u32, ns: context.ns }
}

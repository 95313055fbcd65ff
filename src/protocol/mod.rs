//! Bytes to commands and replies to bytes: sans-io, one `Session` per connection.
//!
//! ```text
//!   first byte 0x80                                        -> binary
//!   first byte *, or a line with a command of RESP alone   -> RESP, for the whole conversation
//!   first byte A to Z, and a first line that ends in HTTP/ -> HTTP, for the whole conversation
//!   `m` + one letter + space                               -> meta
//!   anything else                                          -> text
//! ```
//!
//! ```text
//!                 +--------- step: at most one command from the front of the input ---------+
//!   input bytes --> Session                                                                  --> Step
//!                 +--------------------------------------------------------------------------+
//!   Reply + Framing --> encode --> output bytes                    (any core may encode: it needs no session)
//! ```
//!
//! Rules that may not be broken here:
//! 1. The same steps come out however the bytes were cut.
//! 2. consumed + what is left = the input; nothing is read behind `consumed` later on.
//! 3. One key per command: `get a b c` is three steps, whose framing the session keeps (`END` after the last); MGET likewise.
//! 4. No input panics, and no input makes `Incomplete::needed` exceed `limits`.
//! 5. A `Session` is a small copy: the pump steps ahead of execution and goes back to the copy when a command must wait.
//!
//! Lives here: the session, its steps, the choice of protocol. Not here: what a command does, sockets, other cores.

use std::sync::Arc;

use crate::arena::Body;
use crate::buffer::Buffer;
use crate::command::{Command, Control, Reply, Value};
use crate::latency;

pub mod binary;
pub mod http;
pub mod meta;
pub mod resp;
pub mod scan;
pub mod text;

/// What `version` answers: the memcached release whose behaviour is offered. Clients compare it (Dalli wants 1.6 or later).
pub const VERSION: &str = "1.6.45";

/// What a session must know of the node.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `--max_item_size`: largest item (key, value and about 50 bytes of header), in bytes.
    pub item_bytes_max: u32,
    /// Which protocols are spoken (`-B`).
    pub protocols: Protocols,
    /// `-F`: `flush_all` is refused.
    pub flush_disabled: bool,
    /// `-X`: `stats cachedump`, `stats detail` and dumps of keys are refused.
    pub dump_disabled: bool,
    /// `-C`: CAS is shown as 0 and not stored by `gets`.
    pub cas_disabled: bool,
    /// `--http` and its relatives; they live as long as the process.
    pub http: &'static http::Rules,
}

/// Which protocols a listener speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// Told apart by the first byte.
    #[default]
    Any,
    /// `-B ascii`.
    TextOnly,
    /// `-B binary`.
    BinaryOnly,
    /// `--redis_port`.
    RespOnly,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            item_bytes_max: crate::limits::ITEM_BYTES_DEFAULT as u32,
            protocols: Protocols::Any,
            flush_disabled: false,
            dump_disabled: false,
            cas_disabled: false,
            http: http::Rules::DEFAULT,
        }
    }
}

/// The protocol state of one connection. A plain copy of a few words.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    options: Options,
    state: State,
    /// Second of the clock, since 1970: the date of HTTP answers.
    second: u32,
    /// The node is about to end: HTTP connections are closed behind their next answer.
    leaving: bool,
}

/// Where in the stream the session stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing received yet: the first byte decides.
    Fresh,
    /// The first word of a line, and not all of the line: RESP or HTTP.
    Open,
    /// Between two text or meta commands.
    Text,
    /// Within a line longer than `limits::LINE_BYTES_MAX`, whose first `scanned` bytes hold no newline. Kept so that a long
    /// line that comes in small pieces is scanned once.
    Line { scanned: u32 },
    /// Within the keys of a text read that was validated as a whole.
    Keys(text::Keys),
    /// Between two binary packets.
    Binary,
    /// Between two HTTP requests.
    Http(http::Between),
    /// A conversation in RESP.
    Resp(resp::Conversation),
    /// Data of a refused command that is still to come, and the protocol behind it.
    Swallow { remaining: u64, door: Door },
}

/// The protocols between whose requests data may have to be dropped. Meta commands are among those of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Text,
    Binary,
    Http,
    Resp(resp::Conversation),
}

/// What the front of the input is.
#[derive(Debug)]
pub enum Step<'a> {
    /// A command on a key, for the shard.
    Command {
        /// What to do.
        command: Command<'a>,
        /// How to write its reply.
        framing: Framing<'a>,
        /// Bytes of the input that belong to it.
        consumed: usize,
    },
    /// A request to the node.
    Control {
        /// What is asked.
        control: Control<'a>,
        /// How to write its reply.
        framing: Framing<'a>,
        /// Bytes of the input that belong to it.
        consumed: usize,
    },
    /// An answer that needs nobody: errors of syntax, `version`, `mn`, `quit`.
    Reply {
        /// The answer; encode it in turn with the others.
        reply: Reply<'a>,
        /// How to write it.
        framing: Framing<'a>,
        /// Bytes of the input that belong to it. 0 for HTTP's `100 Continue`, whose request goes on, and where an HTTP connection is closed
        /// behind an answer.
        consumed: usize,
        /// Close the connection once everything up to here was sent.
        close: bool,
    },
    /// These bytes carry nothing (data of a refused command). `consumed > 0`.
    Skip {
        /// Bytes to drop.
        consumed: usize,
    },
    /// A store of more than `limits::INLINE_VALUE_BYTES_MAX` bytes. Keep `head` bytes of the input, receive `body` bytes into
    /// a leased [`Body`] and `tail` more bytes, then call [`Session::resume`], which may ask for a longer tail by `Incomplete`. Nothing is
    /// consumed before.
    Body {
        /// Bytes of the command before the value.
        head: usize,
        /// Bytes of the value.
        body: usize,
        /// Bytes behind the value (its line end; 0 for binary).
        tail: usize,
    },
    /// A request whose body comes in chunks. Keep `head` bytes of the input, give what is behind them to [`http::Chunks`] until the body is
    /// whole, then call [`Session::resume_chunked`], or where it is wrong [`Session::refuse_chunked`]. Nothing is consumed before.
    Chunked {
        /// Bytes of the request before the body.
        head: usize,
    },
    /// The front of the input is not a whole request: come back with at least `needed` bytes in total.
    Incomplete {
        /// Least length of the input with which a further step can be made; at most `limits` allow.
        needed: usize,
    },
}

/// How the reply of one command is written: kept from the request until the reply is encoded, by whichever core.
#[derive(Clone, Copy, Debug)]
pub struct Framing<'a> {
    /// The fixed part; a plain copy.
    pub head: Head,
    /// Words of the request that the reply repeats: meta flags as they were sent. Empty for text and binary.
    pub words: &'a [u8],
}

/// The fixed part of a framing.
#[derive(Clone, Copy, Debug)]
pub enum Head {
    /// A text command.
    Text(text::Head),
    /// A meta command.
    Meta(meta::Head),
    /// A binary packet.
    Binary(binary::Head),
    /// An HTTP request.
    Http(http::Head),
    /// A RESP request, or one key of it.
    Resp(resp::Head),
}

/// Bytes of a [`Head`] that travels to another node.
pub const HEAD_BYTES: usize = 8;

impl Head {
    /// The head as another node of this version reads it: its protocol, then what that protocol keeps.
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let (protocol, rest) = match self {
            Head::Text(head) => (PROTOCOL_TEXT, head.to_bytes()),
            Head::Meta(head) => (PROTOCOL_META, head.to_bytes()),
            Head::Binary(head) => (PROTOCOL_BINARY, head.to_bytes()),
            Head::Http(head) => (PROTOCOL_HTTP, head.to_bytes()),
            Head::Resp(head) => (PROTOCOL_RESP, head.to_bytes()),
        };
        bytes[0] = protocol;
        bytes[1..7].copy_from_slice(&rest);
        bytes
    }

    /// The door that the request came in by.
    #[inline]
    pub fn door(&self) -> latency::Door {
        match self {
            Head::Text(_) => latency::Door::Text,
            Head::Meta(_) => latency::Door::Meta,
            Head::Binary(_) => latency::Door::Binary,
            Head::Http(_) => latency::Door::Http,
            Head::Resp(_) => latency::Door::Resp,
        }
    }

    /// Which of several answers it is that the client gets as one; `None` for an answer of its own.
    #[inline]
    pub fn part(&self) -> Option<resp::Part> {
        if let Head::Resp(head) = self { head.as_part() } else { None }
    }

    /// Whether it is of a meta command.
    #[inline]
    pub fn is_meta(&self) -> bool {
        matches!(self, Head::Meta(_))
    }

    /// The head that another node sent; `None` if it is none.
    pub fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let rest = [bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6]];
        match bytes[0] {
            PROTOCOL_TEXT => text::Head::from_bytes(rest).map(Head::Text),
            PROTOCOL_META => meta::Head::from_bytes(rest).map(Head::Meta),
            PROTOCOL_BINARY => Some(Head::Binary(binary::Head::from_bytes(rest))),
            PROTOCOL_HTTP => http::Head::from_bytes(rest).map(Head::Http),
            PROTOCOL_RESP => resp::Head::from_bytes(rest).map(Head::Resp),
            _ => None,
        }
    }
}

const PROTOCOL_TEXT: u8 = 1;
const PROTOCOL_META: u8 = 2;
const PROTOCOL_BINARY: u8 = 3;
const PROTOCOL_HTTP: u8 = 4;
const PROTOCOL_RESP: u8 = 5;

impl Session {
    /// The session of a new connection.
    pub fn new(options: Options) -> Self {
        let state = match options.protocols {
            Protocols::Any => State::Fresh,
            Protocols::TextOnly => State::Text,
            Protocols::BinaryOnly => State::Binary,
            Protocols::RespOnly => State::Resp(resp::Conversation::NEW),
        };
        Self { options, state, second: 0, leaving: false }
    }

    /// Takes at most one step from the front of `input`, which must continue where the last step's `consumed` ended.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        if input.is_empty() {
            return self.step_without_input();
        }
        // Most of all steps: before the others, and in line.
        if let State::Text = self.state {
            return text::step(self, input);
        }
        if let State::Resp(conversation) = self.state {
            return resp::step(self, conversation, input);
        }
        if let State::Fresh | State::Open = self.state
            && !self.choose(input)
        {
            return Step::Incomplete { needed: input.len() + 1 };
        }
        match self.state {
            State::Fresh | State::Open | State::Text => text::step_line(self, 0, input),
            State::Resp(conversation) => resp::step(self, conversation, input),
            State::Line { scanned } => text::step_line(self, scanned, input),
            State::Keys(_) => text::step_keys(self, input),
            State::Binary => binary::step(self, input),
            State::Http(between) => http::step(self, between, input),
            State::Swallow { remaining, door } => {
                let consumed = remaining.min(input.len() as u64) as usize;
                self.swallow(remaining - consumed as u64, door);
                Step::Skip { consumed }
            }
        }
    }

    /// Chooses the protocol of a conversation by its first bytes. False if they do not tell.
    #[cold]
    fn choose(&mut self, input: &[u8]) -> bool {
        let may_be_http = input[0].is_ascii_uppercase() && self.options.http.mode != http::Mode::Off;
        self.state = match (input[0], resp::claim(input)) {
            (binary::REQUEST_MAGIC, _) => State::Binary,
            (_, resp::Claim::Yes) => State::Resp(resp::Conversation::NEW),
            (_, resp::Claim::Open) => {
                self.state = if may_be_http { State::Open } else { State::Fresh };
                return false;
            }
            _ if may_be_http => State::Http(http::Between::FIRST),
            _ => State::Text,
        };
        true
    }

    /// The end of an HTTP conversation needs no input; every other step does.
    #[cold]
    fn step_without_input<'a>(&mut self) -> Step<'a> {
        match self.state {
            State::Http(between) if between.is_over() => http::step(self, between, b""),
            _ => Step::Incomplete { needed: 1 },
        }
    }

    /// The step of a large store whose value has arrived: `head` and `tail` as [`Step::Body`] asked. `consumed` counts only
    /// `head`; everything given has been used up.
    pub fn resume<'a>(&mut self, head: &'a [u8], body: &'a Arc<Body>, tail: &'a [u8]) -> Step<'a> {
        match self.state {
            State::Binary => binary::resume(self, head, Value::Body(body)),
            State::Http(_) => http::resume(self, head, Value::Body(body)),
            State::Resp(conversation) => resp::resume(self, conversation, head, Value::Body(body), tail),
            _ => text::resume(self, head, Value::Body(body), tail),
        }
    }

    /// As `resume`, of a request whose body came in chunks and is not longer than `limits::INLINE_VALUE_BYTES_MAX`.
    pub fn resume_chunked<'a>(&mut self, head: &'a [u8], value: &'a [u8]) -> Step<'a> {
        http::resume(self, head, Value::Bytes(value))
    }

    /// The step of a request whose body in chunks is wrong, instead of `resume_chunked`.
    pub fn refuse_chunked<'a>(&mut self, fault: http::Fault) -> Step<'a> {
        http::refuse(self, fault.0, 0)
    }

    /// The step of a large store for which no memory could be had, instead of `resume`: a command whose value is
    /// [`Value::Dropped`], to be executed and answered like any other (`Error::OutOfMemory`). The `rest` bytes of value and
    /// line end that are still to come are swallowed.
    pub fn refuse<'a>(&mut self, head: &'a [u8], rest: usize) -> Step<'a> {
        let value = Value::Dropped { bytes: 0 };
        let (door, step) = match self.state {
            State::Binary => (Door::Binary, binary::resume(self, head, value)),
            State::Http(_) => (Door::Http, http::resume(self, head, value)),
            State::Resp(conversation) => {
                let step = resp::resume(self, conversation, head, value, b"");
                (Door::Resp(self.conversation()), step)
            }
            _ => (Door::Text, text::resume(self, head, value, text::LINE_END)),
        };
        // Where the connection is closed behind the answer, what is still to come is dropped anyway.
        if !matches!(self.state, State::Http(between) if between.is_over()) {
            self.swallow(rest as u64, door);
        }
        step
    }

    /// Writes the answer to an HTTP request that is given up in the middle. The connection is to be closed behind it.
    pub fn give_up(&mut self, why: http::GivenUp, output: &mut Buffer) {
        http::give_up(self, why, output);
    }

    /// Skips the next `bytes` of the input.
    fn swallow(&mut self, bytes: u64, door: Door) {
        self.state = match (bytes, door) {
            (0, Door::Text) => State::Text,
            (0, Door::Binary) => State::Binary,
            (0, Door::Http) => State::Http(http::Between::START),
            (0, Door::Resp(conversation)) => State::Resp(conversation),
            (remaining, door) => State::Swallow { remaining, door },
        };
    }

    /// Tells the time of the turn, in seconds since 1970, and whether the node is about to end. Of no effect but on HTTP.
    #[inline]
    pub fn set_moment(&mut self, second: u32, leaving: bool) {
        (self.second, self.leaving) = (second, leaving);
    }

    /// The conversation, where this is one in RESP.
    fn conversation(&self) -> resp::Conversation {
        match self.state {
            State::Resp(conversation) | State::Swallow { door: Door::Resp(conversation), .. } => conversation,
            _ => resp::Conversation::NEW,
        }
    }

    /// What the session was told of the node.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Whether nothing has told yet which protocol it is.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::Fresh | State::Open)
    }

    /// Whether data of a refused command is still to come.
    pub fn is_swallowing(&self) -> bool {
        matches!(self.state, State::Swallow { .. })
    }

    /// Whether `input`, with which no further step can be made, holds the head of a store whose value is still to come.
    pub fn awaits_value(&self, input: &[u8]) -> bool {
        match self.state {
            State::Binary => input.len() >= binary::HEADER_BYTES,
            State::Http(_) => memchr::memmem::find(input, b"\r\n\r\n").is_some(),
            State::Open => false,
            _ => scan::newline(input, 0).is_some(),
        }
    }

    /// Whether this connection speaks binary (its errors at close look different).
    pub fn is_binary(&self) -> bool {
        matches!(self.state, State::Binary | State::Swallow { door: Door::Binary, .. })
    }

    /// Whether this connection speaks HTTP, or may do so as far as its first line has come.
    pub fn is_http(&self) -> bool {
        matches!(self.state, State::Http(_) | State::Open | State::Swallow { door: Door::Http, .. })
    }

    /// Whether this connection speaks RESP.
    pub fn is_resp(&self) -> bool {
        matches!(self.state, State::Resp(_) | State::Swallow { door: Door::Resp(_), .. })
    }

    /// Whether an HTTP request was refused.
    pub fn has_refused(&self) -> bool {
        matches!(self.state, State::Http(between) if between.is_refused())
    }

    /// Whether the end came before that of an HTTP request: what the client still sends is to be read and dropped.
    pub fn is_cut_short(&self) -> bool {
        matches!(self.state, State::Http(between) if between.is_cut_short())
    }

    /// Bytes of the input that are still to be dropped.
    pub fn swallowed_bytes(&self) -> u64 {
        if let State::Swallow { remaining, .. } = self.state { remaining } else { 0 }
    }
}

/// Writes the reply of one command. `key` is the command's key (empty where there is none). Never called with `Reply::Busy`.
///
/// Copies small values into `output`; large ones are pinned in it. Costs about 20 ns and the copy of the value.
pub fn encode(framing: &Framing<'_>, key: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
    match framing.head {
        Head::Text(head) => text::encode(head, key, reply, output),
        Head::Meta(head) => meta::encode(head, framing.words, key, reply, output),
        Head::Binary(head) => binary::encode(head, key, reply, output),
        Head::Http(head) => http::encode(head, framing.words, reply, output),
        Head::Resp(head) => resp::encode(head, framing.words, reply, output),
    }
}

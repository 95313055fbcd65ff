//! Bytes to commands and replies to bytes: sans-io, one `Session` per connection.
//!
//! ```text
//!   first byte 0x80            -> binary
//!   `m` + one letter + space   -> meta
//!   anything else              -> text
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
//! 3. One key per command: `get a b c` is three steps, whose framing the session keeps (`END` after the last).
//! 4. No input panics, and no input makes `Incomplete::needed` exceed `limits`.
//! 5. A `Session` is a small copy: the pump steps ahead of execution and goes back to the copy when a command must wait.
//!
//! Lives here: the session, its steps, the choice of protocol. Not here: what a command does, sockets, other cores.

use std::sync::Arc;

use crate::arena::Body;
use crate::buffer::Buffer;
use crate::command::{Command, Control, Reply, Value};

pub mod binary;
pub mod meta;
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            item_bytes_max: crate::limits::ITEM_BYTES_DEFAULT as u32,
            protocols: Protocols::Any,
            flush_disabled: false,
            dump_disabled: false,
            cas_disabled: false,
        }
    }
}

/// The protocol state of one connection. A plain copy of a few words.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    options: Options,
    state: State,
}

/// Where in the stream the session stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing received yet: the first byte decides.
    Fresh,
    /// Between two text or meta commands.
    Text,
    /// Within a line longer than `limits::LINE_BYTES_MAX`, whose first `scanned` bytes hold no newline. Kept so that a long
    /// line that comes in small pieces is scanned once.
    Line { scanned: u32 },
    /// Within the keys of a text read that was validated as a whole.
    Keys(text::Keys),
    /// Between two binary packets.
    Binary,
    /// Data of a refused command that is still to come, and the state behind it.
    Swallow { remaining: u64, binary: bool },
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
        /// Bytes of the input that belong to it.
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
    /// a leased [`Body`] and `tail` more bytes, then call [`Session::resume`]. Nothing is consumed before.
    Body {
        /// Bytes of the command before the value.
        head: usize,
        /// Bytes of the value.
        body: usize,
        /// Bytes behind the value (its line end; 0 for binary).
        tail: usize,
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
        };
        bytes[0] = protocol;
        bytes[1..7].copy_from_slice(&rest);
        bytes
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
            _ => None,
        }
    }
}

const PROTOCOL_TEXT: u8 = 1;
const PROTOCOL_META: u8 = 2;
const PROTOCOL_BINARY: u8 = 3;

impl Session {
    /// The session of a new connection.
    pub fn new(options: Options) -> Self {
        let state = match options.protocols {
            Protocols::Any => State::Fresh,
            Protocols::TextOnly => State::Text,
            Protocols::BinaryOnly => State::Binary,
        };
        Self { options, state }
    }

    /// Takes at most one step from the front of `input`, which must continue where the last step's `consumed` ended.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        if input.is_empty() {
            return Step::Incomplete { needed: 1 };
        }
        if let State::Fresh = self.state {
            self.state = if input[0] == binary::REQUEST_MAGIC { State::Binary } else { State::Text };
        }
        match self.state {
            State::Fresh | State::Text => text::step(self, input),
            State::Line { scanned } => text::step_line(self, scanned, input),
            State::Keys(_) => text::step_keys(self, input),
            State::Binary => binary::step(self, input),
            State::Swallow { remaining, binary } => {
                let consumed = remaining.min(input.len() as u64) as usize;
                self.swallow(remaining - consumed as u64, binary);
                Step::Skip { consumed }
            }
        }
    }

    /// The step of a large store whose value has arrived: `head` and `tail` as [`Step::Body`] asked. `consumed` counts only
    /// `head`; everything given has been used up.
    pub fn resume<'a>(&mut self, head: &'a [u8], body: &'a Arc<Body>, tail: &'a [u8]) -> Step<'a> {
        match self.state {
            State::Binary => binary::resume(self, head, Value::Body(body)),
            _ => text::resume(self, head, Value::Body(body), tail),
        }
    }

    /// The step of a large store for which no memory could be had, instead of `resume`: a command whose value is
    /// [`Value::Dropped`], to be executed and answered like any other (`Error::OutOfMemory`). The `rest` bytes of value and
    /// line end that are still to come are swallowed.
    pub fn refuse<'a>(&mut self, head: &'a [u8], rest: usize) -> Step<'a> {
        let binary = self.is_binary();
        let value = Value::Dropped { bytes: 0 };
        let step = if binary { binary::resume(self, head, value) } else { text::resume(self, head, value, text::LINE_END) };
        self.swallow(rest as u64, binary);
        step
    }

    /// Skips the next `bytes` of the input.
    fn swallow(&mut self, bytes: u64, binary: bool) {
        self.state = match bytes {
            0 if binary => State::Binary,
            0 => State::Text,
            remaining => State::Swallow { remaining, binary },
        };
    }

    /// What the session was told of the node.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Whether nothing has told yet which protocol it is.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::Fresh)
    }

    /// Whether data of a refused command is still to come.
    pub fn is_swallowing(&self) -> bool {
        matches!(self.state, State::Swallow { .. })
    }

    /// Whether `input`, with which no further step can be made, holds the head of a store whose value is still to come.
    pub fn awaits_value(&self, input: &[u8]) -> bool {
        match self.is_binary() {
            true => input.len() >= binary::HEADER_BYTES,
            false => scan::newline(input, 0).is_some(),
        }
    }

    /// Whether this connection speaks binary (its errors at close look different).
    pub fn is_binary(&self) -> bool {
        matches!(self.state, State::Binary | State::Swallow { binary: true, .. })
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
    }
}

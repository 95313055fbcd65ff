//! HTTP/1.1 and 1.0 on the port of all doors: a path is a key, a body is its value.
//!
//! ```text
//!   PUT /key?ttl=60 HTTP/1.1\r\nHost: cache:11211\r\nContent-Length: 5\r\n\r\nhello
//!   |------------------------------ head ------------------------------------||body|   up to INLINE_VALUE_BYTES_MAX one step over
//!                                                                                      both; beyond, `Step::Body`
//!   Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n                           `Step::Chunked`, whatever the length
//! ```
//!
//! ```text
//!   end of the head found, line by line -> httparse, once -> rules of framing -> Host and Origin -> method and target -> Command
//!          (here)                              (head)            (head)            (host)               (target)
//!   a GET of a key and nothing else: in one pass (plain) --------------------------------------------------------> Command
//! ```
//!
//! Rules easily missed: what two parsers could read differently is refused, and a refusal closes the connection. Keys are decoded once
//! and no dot or slash of a path is tidied away. A web page of somewhere else is refused before its request is looked at. The answer may be
//! written by another node: all that it needs travels in [`Head`] and in the conditions of the head, as they were sent.
//!
//! Lives here: where a conversation stands, from heads and bodies to steps. Not here: what a head says (`head`), whom it may come from
//! (`host`), which key it means (`target`), bodies in chunks (`chunks`), answers (`answer`).
//! RFC 9110 (what requests mean) and RFC 9112 (how they are written). Paths follow Velour Fog.

mod answer;
mod chunks;
mod head;
mod host;
mod plain;
mod target;

pub use self::answer::Head;
pub use self::chunks::{Chunks, Fault};
pub use self::host::{check as check_host, parse as parse_host};

use self::answer::Status;
use self::head::{Length, Request};
use super::{Door, Framing, Session, State, Step, scan, text};
use crate::buffer::Buffer;
use crate::command::{Command, Get, Reply, Value, Verb};
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_LINE_BYTES_MAX, HTTP_LINGER_BYTES_MAX, INLINE_VALUE_BYTES_MAX};

/// What the door is told of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `--http`.
    pub mode: Mode,
    /// `--http_miss`.
    pub miss: Miss,
    /// Names by which this node is called, beside addresses and names that no web page can have: `--http_host`,
    /// `--advertise`, `--ringnode`.
    pub hosts: Vec<String>,
    /// `--http_max_age`: answers with an item that will expire say for how long caches may keep them.
    pub max_age: bool,
}

/// Which requests are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All.
    #[default]
    On,
    /// Those that change nothing.
    ReadOnly,
    /// None: a request is closed without a word.
    Off,
}

/// What a read of an absent key is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Miss {
    /// 204, as Velour Fog does.
    #[default]
    NoContent,
    /// 404.
    NotFound,
}

impl Rules {
    /// Those of a node that was told nothing.
    pub const DEFAULT: &'static Rules = &Rules { mode: Mode::On, miss: Miss::NoContent, hosts: Vec::new(), max_age: false };
}

/// Where a conversation stands between two requests.
#[derive(Clone, Copy, Debug)]
pub struct Between {
    /// Bytes at the front of the input that hold neither the end of the head nor a fault.
    scanned: u32,
    stage: Stage,
    /// Empty lines in front of the request so far.
    blanks: u8,
    /// The client was told to send the body of the request at the front.
    continued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The first line of a conversation, which may not be HTTP.
    Undecided,
    /// Within the first line of a request, or in front of it.
    Line,
    /// Behind the first line.
    Fields,
    /// The last request is answered: the connection is closed.
    Last,
    /// The same, and the body of that request is dropped, as far as it still comes.
    LastUnread,
    /// A request was refused: the connection is closed, and what still comes is dropped.
    Refused,
}

impl Between {
    /// In front of the first request.
    pub(super) const FIRST: Self = Self { stage: Stage::Undecided, ..Self::START };
    /// In front of a request.
    pub(super) const START: Self = Self { scanned: 0, stage: Stage::Line, blanks: 0, continued: false };
    const LAST: Self = Self { stage: Stage::Last, ..Self::START };
    const LAST_UNREAD: Self = Self { stage: Stage::LastUnread, ..Self::START };
    const REFUSED: Self = Self { stage: Stage::Refused, ..Self::START };

    /// Whether nothing more is looked at.
    pub(super) fn is_over(self) -> bool {
        matches!(self.stage, Stage::Last | Stage::LastUnread | Stage::Refused)
    }

    /// Whether a request was refused.
    pub(super) fn is_refused(self) -> bool {
        self.stage == Stage::Refused
    }

    /// Whether the client may be in the middle of a request that is not read to its end.
    pub(super) fn is_cut_short(self) -> bool {
        matches!(self.stage, Stage::LastUnread | Stage::Refused)
    }
}

/// A status, and what is wrong in a sentence.
type Refusal = (Status, &'static str);

/// What the front of the input is.
enum Front {
    /// A head of so many bytes.
    Head(usize),
    /// The beginning of one.
    Part(Between),
    /// No HTTP: a line of the text protocol.
    Text,
    /// Wrong by so many bytes.
    Wrong(Refusal, usize),
}

/// One step from the front of the input, which may be empty if `between` is over.
pub(super) fn step<'a>(session: &mut Session, between: Between, input: &'a [u8]) -> Step<'a> {
    if matches!((between.stage, between.scanned), (Stage::Undecided | Stage::Line, 0))
        && !session.leaving
        && let Some(request) = plain::read(session.options, input)
    {
        session.state = State::Http(Between::START);
        let command = Command { key: request.key, verb: Verb::Get(Get::default()), value: Value::EMPTY };
        let framing = Framing { head: super::Head::Http(request.answer.at(session.second)), words: &[] };
        return Step::Command { command, framing, consumed: request.head_bytes };
    }
    if between.is_over() {
        return Step::Reply { reply: Reply::Bye, framing: note(session, Status::NoContent), consumed: 0, close: true };
    }
    if between.stage == Stage::Line && input.starts_with(b"\r\n") {
        if between.blanks == BLANKS_MAX {
            return refuse(session, (Status::BadRequest, "too many empty lines in front of a request"), 2);
        }
        session.state = State::Http(Between { scanned: 0, blanks: between.blanks + 1, ..between });
        return Step::Skip { consumed: 2 };
    }
    match find_head(between, input) {
        Front::Head(bytes) => request(session, between, input, bytes),
        Front::Part(between) => {
            session.state = State::Http(between);
            Step::Incomplete { needed: input.len() + 1 }
        }
        Front::Text => {
            session.state = State::Text;
            text::step(session, input)
        }
        Front::Wrong(refusal, bytes) => refuse_of(session, refusal, input, bytes),
    }
}

/// Looks for the end of the head. What is wrong is found at the same byte however the input was cut.
fn find_head(mut between: Between, input: &[u8]) -> Front {
    let window = &input[..input.len().min(HTTP_HEAD_BYTES_MAX)];
    let mut from = between.scanned as usize;
    // Its line end included.
    let line_bytes_max = HTTP_LINE_BYTES_MAX + 2;
    let in_first_line = |between: &Between| matches!(between.stage, Stage::Undecided | Stage::Line);
    while let Some(newline) = scan::newline(window, from) {
        if in_first_line(&between) {
            if newline >= line_bytes_max {
                break;
            }
            if between.stage == Stage::Undecided && !names_version(scan::line(input, newline)) && !names_method(input) {
                return Front::Text;
            }
            between.stage = Stage::Fields;
        }
        match window[..newline] {
            [.., b'\n', b'\r'] => return Front::Head(newline + 1),
            [.., b'\r'] => {}
            _ => return Front::Wrong((Status::BadRequest, "a line ends without a carriage return"), newline + 1),
        }
        from = newline + 1;
    }
    match () {
        () if in_first_line(&between) && input.len() >= line_bytes_max => match between.stage {
            Stage::Undecided if !names_method(input) => Front::Text,
            _ => Front::Wrong((Status::UriTooLong, "the first line is too long"), line_bytes_max),
        },
        () if input.len() > HTTP_HEAD_BYTES_MAX => {
            Front::Wrong((Status::FieldsTooLarge, "the head is too long"), HTTP_HEAD_BYTES_MAX + 1)
        }
        () => Front::Part(Between { scanned: window.len() as u32, ..between }),
    }
}

/// Whether an input whose first line ends at `newline` begins with a request.
pub(super) fn begins(input: &[u8], newline: usize) -> bool {
    names_version(scan::line(input, newline)) || names_method(input)
}

/// Whether a line ends with the name of the protocol.
fn names_version(line: &[u8]) -> bool {
    let line = scan::trim_end(line);
    let start = memchr::memrchr(b' ', line).map_or(0, |space| space + 1);
    line[start..].starts_with(b"HTTP/")
}

/// Whether the input begins with a method and a target.
fn names_method(input: &[u8]) -> bool {
    let word_end = input.iter().take(METHOD_BYTES_MAX + 1).position(|&byte| byte == b' ').unwrap_or(0);
    let is_target = match input.get(word_end + 1..) {
        Some([b'/' | b'*', ..]) => true,
        Some(target) => target.starts_with(b"http:"),
        None => false,
    };
    is_target && head::is_method(&input[..word_end])
}

/// The step of a request whose head is at the front of the input.
fn request<'a>(session: &mut Session, between: Between, input: &'a [u8], head_bytes: usize) -> Step<'a> {
    let request = match Request::read(session.options, &input[..head_bytes]) {
        Ok(request) => request.of_session(session.leaving),
        Err(refusal) => return refuse_of(session, refusal, input, head_bytes),
    };
    let body_bytes_max = match request.is_store() {
        true => u64::from(session.options.item_bytes_max),
        false => HTTP_LINGER_BYTES_MAX as u64,
    };
    if matches!(request.length, Length::Bytes(bytes) if bytes > body_bytes_max) {
        return refuse_of(session, (Status::ContentTooLarge, "the body is longer than an item may be"), input, head_bytes);
    }
    if request.expects && request.length != Length::Bytes(0) && !between.continued {
        session.state = State::Http(Between { continued: true, ..Between::START });
        return Step::Reply { reply: Reply::Text(b""), framing: note(session, Status::Continue), consumed: 0, close: false };
    }
    match request.length {
        Length::Chunked => {
            session.state = State::Http(Between::START);
            Step::Chunked { head: head_bytes }
        }
        Length::Bytes(bytes) if !request.is_store() => {
            let step = perform(session, &request, Value::EMPTY, head_bytes);
            match request.keeps {
                _ if bytes == 0 => {}
                true => session.swallow(bytes, Door::Http),
                false => session.state = State::Http(Between::LAST_UNREAD),
            }
            step
        }
        Length::Bytes(bytes) if bytes as usize > INLINE_VALUE_BYTES_MAX => {
            session.state = State::Http(Between::START);
            Step::Body { head: head_bytes, body: bytes as usize, tail: 0 }
        }
        Length::Bytes(bytes) => {
            let consumed = head_bytes + bytes as usize;
            match input.get(head_bytes..consumed) {
                Some(value) => perform(session, &request, Value::Bytes(value), consumed),
                None => {
                    session.state = State::Http(Between { continued: between.continued, ..Between::START });
                    Step::Incomplete { needed: consumed }
                }
            }
        }
    }
}

/// The step of a store whose value has arrived elsewhere or was dropped; `head` is its head.
pub(super) fn resume<'a>(session: &mut Session, head: &'a [u8], value: Value<'a>) -> Step<'a> {
    // `step` has accepted this very head when it asked for the body.
    match Request::read(session.options, head) {
        Ok(request) => {
            let request = request.of_session(session.leaving);
            perform(session, &request, value, head.len())
        }
        Err(_) => Step::Skip { consumed: head.len() },
    }
}

/// The step of a request that is all there.
fn perform<'a>(session: &mut Session, request: &Request<'a>, value: Value<'a>, consumed: usize) -> Step<'a> {
    session.state = State::Http(if request.keeps { Between::START } else { Between::LAST });
    let head = super::Head::Http(request.answer.at(session.second));
    let framing = Framing { head, words: request.words };
    match request.deed {
        head::Deed::Command(key, verb) => {
            let value = if request.is_store() { value } else { Value::EMPTY };
            Step::Command { command: Command { key, verb, value }, framing, consumed }
        }
        head::Deed::Ready if session.leaving => {
            let answer = request.answer.with_status(Status::Unavailable).at(session.second);
            let framing = Framing { head: super::Head::Http(answer), words: &[] };
            Step::Reply { reply: Reply::Text(b"the node is about to end"), framing, consumed, close: false }
        }
        head::Deed::Ready => Step::Reply { reply: Reply::Text(b"ok"), framing, consumed, close: false },
        head::Deed::Note(text) => Step::Reply { reply: Reply::Text(text.as_bytes()), framing, consumed, close: false },
    }
}

/// The step that refuses a request and closes the connection.
pub(super) fn refuse<'a>(session: &mut Session, refusal: Refusal, consumed: usize) -> Step<'a> {
    refuse_of(session, refusal, b"", consumed)
}

/// As `refuse`, of the request that `input` begins with: the answer to HEAD has no body.
#[cold]
fn refuse_of<'a>(session: &mut Session, (status, reason): Refusal, input: &[u8], consumed: usize) -> Step<'a> {
    session.state = State::Http(Between::REFUSED);
    let mut head = Head::note(session, status).closing();
    if input.starts_with(b"HEAD ") {
        head = head.without_body();
    }
    let framing = Framing { head: super::Head::Http(head), words: &[] };
    Step::Reply { reply: Reply::Text(reason.as_bytes()), framing, consumed, close: true }
}

fn note<'a>(session: &Session, status: Status) -> Framing<'a> {
    Framing { head: super::Head::Http(Head::note(session, status)), words: &[] }
}

/// Why a request is given up in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The client was too slow: 408.
    Late,
    /// Too much is being received at once: 503.
    Crowded,
}

/// Writes the answer to a request that is given up. The connection is to be closed behind it.
#[cold]
pub(super) fn give_up(session: &mut Session, why: GivenUp, output: &mut Buffer) {
    let refusal = match why {
        GivenUp::Late => (Status::RequestTimeout, "the request did not arrive in time"),
        GivenUp::Crowded => (Status::Unavailable, "too much is being received at once; try again"),
    };
    if let Step::Reply { reply, framing, .. } = refuse(session, refusal, 0) {
        super::encode(&framing, b"", &reply, output);
    }
}

/// Writes the reply of one request.
pub(super) use self::answer::encode;

/// Empty lines that a client may send in front of a request. RFC 9112 section 2.2 wants one at least.
const BLANKS_MAX: u8 = 2;

/// Longest method that is known.
const METHOD_BYTES_MAX: usize = 7;

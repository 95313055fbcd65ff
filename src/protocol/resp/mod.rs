//! RESP, the protocol of Redis and Valkey: a door for their clients, over the same items.
//!
//! ```text
//!   *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n      one step over a whole request
//!   |------------- head --------------|body|tail|      a value above INLINE_VALUE_BYTES_MAX: `Step::Body`; words behind it are the tail
//!
//!   *3\r\n$4\r\nMGET\r\n $1\r\na\r\n $1\r\nb\r\n        several keys: one step per key, as soon as that key is there
//!   |-------- step 1 ----------| |- 2 -|               the conversation remembers how many are left
//! ```
//!
//! Rules easily missed: a request begins with `*`, or it is a line. Nothing of a request is kept that is not needed to answer it: arguments
//! of an unknown command are dropped as they come, a million keys of MGET need the memory of one. A broken frame is answered and the
//! connection closed, for nobody knows where the next request begins.
//!
//! Lives here: where a conversation stands, from bytes to calls. Not here: frames (`wire`), which commands there are (`table`), what
//! they mean (`commands`), answers (`answer`).
//! The protocol is that of redis.io, *RESP protocol description*; borders and order of checks those of Redis 7.0, `networking.c`.

mod answer;
mod commands;
mod gather;
pub mod table;
mod wire;

use arrayvec::ArrayVec;

pub(super) use self::answer::encode;
pub use self::answer::{Head, Part, put_bulk, put_integer, put_map, put_number};
pub use self::gather::Gathered;
pub use self::wire::Args;

use self::answer::Form;
use self::commands::{Call, Deed, Refusal, WORDS_MAX};
use self::table::{Fan, ROWS, Row, row_of};
use self::wire::{Bulk, Fault, Header, Word};
use super::{Door, Framing, Session, State, Step, scan};
use crate::command::{Command, Error, Get, Reply, Value, Verb};
use crate::key::Key;
use crate::limits::{
    HTTP_LINE_BYTES_MAX, INLINE_VALUE_BYTES_MAX, KEY_BYTES_MAX, RESP_ARGUMENT_BYTES_MAX, RESP_ARGUMENTS_MAX,
    RESP_LINE_BYTES_MAX, RESP_REQUEST_BYTES_MAX, RESP_TAIL_BYTES_MAX, item_total_bytes,
};

/// Where a conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// It speaks RESP3.
    resp3: bool,
    /// `CLIENT REPLY`.
    quiet: Quiet,
    stage: Stage,
}

/// Which answers are not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quiet {
    /// All are wanted.
    No,
    /// Not that of the next command.
    Next,
    /// None is.
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In front of a request.
    Start,
    /// Within the arguments of a command that is taken key by key.
    Keys(Keys),
    /// Within arguments that are dropped.
    Drop { left: u32 },
}

/// What is left of a command that is taken key by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keys {
    row: u8,
    /// Its answers are not wanted.
    quiet: bool,
    /// The first argument is the value of a key that was refused, and is dropped.
    drops: bool,
    /// Arguments.
    left: u32,
    /// Bytes of the line that holds them; 0 where they are framed.
    line_bytes: u32,
}

/// A value above `INLINE_VALUE_BYTES_MAX`, where it is.
#[derive(Clone, Copy)]
enum Long<'a> {
    /// Still to come.
    Ahead,
    /// Received elsewhere; this has come behind it.
    Here(Value<'a>, &'a [u8]),
    /// There was no memory for it.
    Lost,
}

/// A request as far as its command is known.
struct Front<'a> {
    input: &'a [u8],
    /// Where its name starts, with its length.
    name_at: usize,
    /// Where the next argument starts.
    at: usize,
    /// Arguments from there on.
    count: u32,
    /// Where its line ends, the line end included; 0 where it is framed.
    line_end: usize,
    long: Long<'a>,
}

impl Conversation {
    /// That of a new connection.
    pub(super) const NEW: Self = Self { resp3: false, quiet: Quiet::No, stage: Stage::Start };

    fn head(&self, form: Form) -> Head {
        Head::new(form, self.resp3, false)
    }

    /// Whether the answer of the command that begins is not wanted.
    fn take_quiet(&mut self) -> bool {
        let quiet = self.quiet != Quiet::No;
        if self.quiet == Quiet::Next {
            self.quiet = Quiet::No;
        }
        quiet
    }
}

/// Whether a connection of which nothing is known speaks RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Yes,
    No,
    /// More must come.
    Open,
}

/// Whether a conversation that begins like this speaks RESP: with `*`, or with a line whose first word is a command of the table that is
/// none of memcached's, and which is no request of HTTP.
pub(super) fn claim(input: &[u8]) -> Claim {
    if input[0] == b'*' {
        return Claim::Yes;
    }
    let window = &input[..input.len().min(NAME_BYTES_MAX + 1)];
    let Some(end) = window.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n')) else {
        let begins =
            |row: &Row| row.name.len() > window.len() && row.name.as_bytes()[..window.len()].eq_ignore_ascii_case(window);
        let is_open = table::commands().any(|row| begins(row) || row.name.as_bytes().eq_ignore_ascii_case(window));
        return if is_open { Claim::Open } else { Claim::No };
    };
    let name = &input[..end];
    if table::find(name).is_none() || MEMCACHED.contains(&name) {
        return Claim::No;
    }
    match scan::newline(input, end) {
        Some(newline) if super::http::begins(input, newline) => Claim::No,
        Some(_) => Claim::Yes,
        None if input.len() > HTTP_LINE_BYTES_MAX => Claim::No,
        None => Claim::Open,
    }
}

/// One step from the front of the input.
#[inline]
pub(super) fn step<'a>(session: &mut Session, conversation: Conversation, input: &'a [u8]) -> Step<'a> {
    match conversation.stage {
        Stage::Start => match single_get(conversation, input) {
            Some(step) => step,
            None => request(session, conversation, input, Long::Ahead),
        },
        Stage::Keys(keys) => match keys.drops {
            true => drop_argument(
                session,
                Conversation { stage: Stage::Keys(Keys { drops: false, left: keys.left - 1, ..keys }), ..conversation },
                input,
            ),
            false => next_key(session, conversation, keys, front_of_keys(keys, input, Long::Ahead)),
        },
        Stage::Drop { left } => {
            let stage = if left > 1 { Stage::Drop { left: left - 1 } } else { Stage::Start };
            drop_argument(session, Conversation { stage, ..conversation }, input)
        }
    }
}

/// The step of a large store whose value has arrived: `head` as [`Step::Body`] asked. `Incomplete` asks for a longer tail.
pub(super) fn resume<'a>(
    session: &mut Session,
    conversation: Conversation,
    head: &'a [u8],
    value: Value<'a>,
    tail: &'a [u8],
) -> Step<'a> {
    let long = if let Value::Dropped { .. } = value { Long::Lost } else { Long::Here(value, tail) };
    match conversation.stage {
        Stage::Keys(keys) => next_key(session, conversation, keys, front_of_keys(keys, head, long)),
        _ => request(session, conversation, head, long),
    }
}

/// `GET` with nothing unusual, which is most of all requests.
#[inline]
fn single_get(conversation: Conversation, input: &[u8]) -> Option<Step<'_>> {
    let (begin, rest) = input.split_first_chunk::<14>()?;
    if begin != b"*2\r\n$3\r\nGET\r\n$" && begin != b"*2\r\n$3\r\nget\r\n$" || conversation.quiet != Quiet::No {
        return None;
    }
    let (length, digits) = match *rest {
        [a @ b'1'..=b'9', b'\r', ..] => (usize::from(a - b'0'), 1),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', ..] => (usize::from(a - b'0') * 10 + usize::from(b - b'0'), 2),
        _ => return None,
    };
    let start = digits + 2;
    let key = rest.get(start..start + length + 2)?.get(..length)?;
    Some(Step::Command {
        command: Command { key: Key::new(key), verb: Verb::Get(Get::default()), value: Value::EMPTY },
        framing: framing(conversation.head(Form::Value), b""),
        consumed: begin.len() + start + length + 2,
    })
}

fn framing(head: Head, words: &[u8]) -> Framing<'_> {
    Framing { head: super::Head::Resp(head), words }
}

/// The step of a request at the front of the input.
fn request<'a>(session: &mut Session, conversation: Conversation, input: &'a [u8], long: Long<'a>) -> Step<'a> {
    let read = if input[0] == b'*' { framed(input) } else { inline(input) };
    let (name, front) = match read {
        Ok(Some((name, front))) => (name, Front { long, ..front }),
        Ok(None) => {
            let consumed = match wire::header(input, 0) {
                Header::Number(_, behind) if input[0] == b'*' => behind,
                _ => wire::line(input).map_or(input.len(), |(_, behind)| behind),
            };
            return Step::Skip { consumed };
        }
        Err(step) => return broken(conversation, step),
    };
    let Some(row) = table::find(name) else { return unknown(session, conversation, front) };
    if !row.is_container() || front.count == 0 {
        return call(session, conversation, row, front);
    }
    match front.next() {
        Ok((subcommand, at)) => match table::find_in(row, subcommand) {
            Some(row) => call(session, conversation, row, Front { at, count: front.count - 1, ..front }),
            None => {
                let words = &front.input[front.name_at..at];
                let mut conversation = conversation;
                let head = Head::new(Form::UnknownSubcommand, conversation.resp3, conversation.take_quiet());
                let head = head.with(row_of(row)).worded(front.line_end == 0);
                refuse(session, conversation, head, words, front)
            }
        },
        Err(stop) => broken(conversation, stop),
    }
}

/// Why a request cannot be read further now.
enum Stop {
    /// So many bytes are needed.
    Incomplete(usize),
    /// The frame is wrong, up to here.
    Broken(Fault, usize),
    /// The line is refused in these words, up to here, and the conversation goes on.
    Line(&'static str, usize),
}

type Named<'a> = Result<Option<(&'a [u8], Front<'a>)>, Stop>;

/// The name of a framed request; `None` if there is nothing in it.
fn framed(input: &[u8]) -> Named<'_> {
    let (words, name_at) = match wire::header(input, 0) {
        Header::Part(needed) => return Err(Stop::Incomplete(needed)),
        Header::Long => return Err(Stop::Broken(Fault::LongCount, RESP_LINE_BYTES_MAX + 1)),
        Header::Number(..=0, _) => return Ok(None),
        Header::Number(words @ 1..=RESP_ARGUMENTS_MAX, behind) => (words as u32, behind),
        Header::Number(_, behind) | Header::Wrong(behind) => return Err(Stop::Broken(Fault::Count, behind)),
    };
    let front = |at| Front { input, name_at, at, count: words - 1, line_end: 0, long: Long::Ahead };
    match wire::bulk(input, name_at) {
        Bulk::Part(needed) => Err(Stop::Incomplete(needed)),
        Bulk::Wrong(fault, behind) => Err(Stop::Broken(fault, behind)),
        // No command has such a name: it is dropped with its arguments, and its beginning is shown.
        Bulk::Known(start, length) if length > RESP_ARGUMENT_BYTES_MAX => match input.len() < start + SHOWN_BYTES {
            true => Err(Stop::Incomplete(start + SHOWN_BYTES)),
            false => Ok(Some((b"", Front { count: words, ..front(name_at) }))),
        },
        Bulk::Known(start, length) => match input.len() < start + length + 2 {
            true => Err(Stop::Incomplete(start + length + 2)),
            false => Ok(Some((&input[start..start + length], front(start + length + 2)))),
        },
    }
}

/// The name of a request in a line; `None` if the line is empty.
fn inline(input: &[u8]) -> Named<'_> {
    let Some((line, line_end)) = wire::line(&input[..input.len().min(RESP_LINE_BYTES_MAX + 2)]) else {
        return Err(match input.len() > RESP_LINE_BYTES_MAX {
            true => Stop::Broken(Fault::LongLine, RESP_LINE_BYTES_MAX + 1),
            false => Stop::Incomplete(input.len() + 1),
        });
    };
    let count = match wire::words(line) {
        Ok(0) => return Ok(None),
        Ok(count) => count,
        Err(Word::Unbalanced) => return Err(Stop::Broken(Fault::Quotes, line_end)),
        Err(_) => return Err(Stop::Line(LINE_REFUSED, line_end)),
    };
    let Word::Found(start, end, behind) = wire::word(line) else { return Ok(None) };
    let name = &line[start..end];
    // Somebody's browser: nothing that a page could make use of is answered.
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        return Err(Stop::Broken(Fault::LongLine, 0));
    }
    Ok(Some((name, Front { input, name_at: 0, at: behind, count: count - 1, line_end, long: Long::Ahead })))
}

impl<'a> Front<'a> {
    /// Bytes that belong to a request that has been read to its end: those of its line, or up to the next argument.
    fn end(&self) -> usize {
        if self.line_end > 0 { self.line_end } else { self.at }
    }

    /// The next argument, which is short, and where the one behind it starts.
    fn next(&self) -> Result<(&'a [u8], usize), Stop> {
        if self.line_end > 0 {
            return Ok(match wire::word(&self.input[self.at..self.line_end]) {
                Word::Found(start, end, behind) => (&self.input[self.at + start..self.at + end], self.at + behind),
                _ => (b"", self.at),
            });
        }
        match wire::bulk(self.input, self.at) {
            Bulk::Part(needed) => Err(Stop::Incomplete(needed)),
            Bulk::Wrong(fault, behind) => Err(Stop::Broken(fault, behind)),
            Bulk::Known(start, length) => {
                // As much as is shown is enough of one that is too long.
                let taken = length.min(SHOWN_BYTES);
                let behind = if length > taken { start + taken } else { start + length + 2 };
                if self.input.len() < behind {
                    return Err(Stop::Incomplete(behind));
                }
                Ok((&self.input[start..start + taken], if length > taken { self.at } else { behind }))
            }
        }
    }
}

/// The step of a request that cannot be read further.
fn broken<'a>(conversation: Conversation, stop: Stop) -> Step<'a> {
    match stop {
        Stop::Incomplete(needed) => Step::Incomplete { needed },
        Stop::Broken(_, 0) => {
            let framing = framing(conversation.head(Form::Raw), b"");
            Step::Reply { reply: Reply::Bye, framing, consumed: 1, close: true }
        }
        Stop::Broken(fault, consumed) => {
            let (number, byte) = fault.number();
            let head = conversation.head(Form::Protocol).with(u32::from_le_bytes([number, byte, 0, 0]));
            Step::Reply { reply: Reply::Text(b""), framing: framing(head, b""), consumed, close: true }
        }
        Stop::Line(line, consumed) => {
            let framing = framing(conversation.head(Form::Error), b"");
            Step::Reply { reply: Reply::Text(line.as_bytes()), framing, consumed, close: false }
        }
    }
}

/// The step of a request that is refused before its arguments are looked at; they are dropped as they come.
fn refuse<'a>(session: &mut Session, conversation: Conversation, head: Head, words: &'a [u8], front: Front<'a>) -> Step<'a> {
    let stage = if front.line_end == 0 && front.count > 0 { Stage::Drop { left: front.count } } else { Stage::Start };
    session.state = State::Resp(Conversation { stage, ..conversation });
    Step::Reply { reply: Reply::Text(b""), framing: framing(head, words), consumed: front.end(), close: false }
}

/// The step of a command that is not in the table. As many of its arguments are waited for as are shown.
fn unknown<'a>(session: &mut Session, mut conversation: Conversation, front: Front<'a>) -> Step<'a> {
    let (mut at, mut shown) = (front.at, 0);
    for _ in 0..front.count {
        if shown >= SHOWN_BYTES || front.line_end > 0 {
            break;
        }
        match (Front { at, ..front }).next() {
            Ok((_, behind)) if behind == at => {
                // Longer than what is shown of all.
                if let Bulk::Known(start, _) = wire::bulk(front.input, at) {
                    at = start + SHOWN_BYTES;
                }
                break;
            }
            Ok((argument, behind)) => {
                shown += argument.len() + 3;
                at = behind;
            }
            Err(stop) => return broken(conversation, stop),
        }
    }
    let words = &front.input[front.name_at..if front.line_end > 0 { front.line_end } else { at }];
    let quiet = conversation.take_quiet();
    let head = Head::new(Form::Unknown, conversation.resp3, quiet).worded(front.line_end == 0);
    refuse(session, conversation, head, words, front)
}

/// Drops the argument at the front of the input.
fn drop_argument<'a>(session: &mut Session, behind: Conversation, input: &'a [u8]) -> Step<'a> {
    match wire::bulk(input, 0) {
        Bulk::Part(needed) => Step::Incomplete { needed },
        Bulk::Wrong(fault, at) => broken(behind, Stop::Broken(fault, at)),
        Bulk::Known(start, length) => {
            session.swallow(length as u64 + 2, Door::Resp(behind));
            Step::Skip { consumed: start }
        }
    }
}

/// The step of a command of the table.
fn call<'a>(session: &mut Session, conversation: Conversation, row: &'static Row, front: Front<'a>) -> Step<'a> {
    let is_pair = row.fan == Fan::AllOk;
    if !row.takes(front.count + 1 + u32::from(row.name.contains('|'))) || (is_pair && !front.count.is_multiple_of(2)) {
        let mut conversation = conversation;
        let quiet = conversation.take_quiet();
        let head = Head::new(Form::Arity, conversation.resp3, quiet).with(row_of(row));
        return refuse(session, conversation, head, b"", front);
    }
    if row.fan == Fan::One {
        return whole(session, conversation, row, front);
    }
    let mut conversation = conversation;
    let quiet = conversation.take_quiet();
    let line_bytes = front.line_end.saturating_sub(front.at) as u32;
    let keys = Keys { row: row_of(row) as u8, quiet, drops: false, left: front.count, line_bytes };
    let is_single = front.count == 1 + u32::from(is_pair);
    let step = next_key(session, conversation, keys, front);
    begin(step, row, keys, is_single)
}

/// The first step of a command that is taken key by key: an array begins with it, or it is the only one.
fn begin<'a>(mut step: Step<'a>, row: &Row, keys: Keys, is_single: bool) -> Step<'a> {
    if let Step::Command { framing, .. } | Step::Reply { framing, .. } = &mut step
        && let super::Head::Resp(head) = &mut framing.head
        && head.form != Form::Protocol
    {
        match row.fan {
            Fan::Each => *head = head.beginning(keys.left),
            _ if is_single => *head = head.alone(),
            _ => {}
        }
    }
    step
}

/// A request of which the next thing is an argument of a command that is taken key by key.
fn front_of_keys<'a>(keys: Keys, input: &'a [u8], long: Long<'a>) -> Front<'a> {
    Front { input, name_at: 0, at: 0, count: keys.left, line_end: keys.line_bytes as usize, long }
}

/// The step of the next key of a command, and of its value if it has one.
fn next_key<'a>(session: &mut Session, conversation: Conversation, keys: Keys, front: Front<'a>) -> Step<'a> {
    let row = &ROWS[usize::from(keys.row)];
    if front.line_end > 0 {
        return next_word(session, conversation, keys, front);
    }
    let (key_at, key_bytes) = match wire::bulk(front.input, front.at) {
        Bulk::Part(needed) => return Step::Incomplete { needed },
        Bulk::Wrong(fault, behind) => return broken(conversation, Stop::Broken(fault, behind)),
        Bulk::Known(start, length) => (start, length),
    };
    // One byte more than a key has is enough to refuse it.
    let taken = key_bytes.min(KEY_BYTES_MAX + 1);
    let is_long = key_bytes > KEY_BYTES_MAX;
    let key_end = if is_long { key_at + taken } else { key_at + key_bytes + 2 };
    if front.input.len() < key_end {
        return Step::Incomplete { needed: key_end };
    }
    let key = &front.input[key_at..key_at + taken];
    let pair = row.fan == Fan::AllOk;
    let left = front.count - 1 - u32::from(pair);
    if is_long {
        let behind = Keys { left: left + u32::from(pair), drops: pair, ..keys };
        let step = key_step(session, conversation, (row, keys, left == 0), (key, Value::EMPTY), key_at);
        session.swallow(key_bytes as u64 + 2, Door::Resp(conversation.behind(behind)));
        return step;
    }
    let behind = Keys { left, ..keys };
    if !pair {
        let step = key_step(session, conversation, (row, keys, left == 0), (key, Value::EMPTY), key_end);
        session.state = State::Resp(conversation.behind(behind));
        return step;
    }
    match value_at(session, &front, key_end, key.len()) {
        Found::Stop(stop) => broken(conversation, stop),
        Found::Body(step) => step,
        Found::Value(value, end) => {
            let step = key_step(session, conversation, (row, keys, left == 0), (key, value), end);
            session.state = State::Resp(conversation.behind(behind));
            step
        }
        Found::Dropped(bytes, start, rest) => {
            let value = Value::Dropped { bytes };
            let step = key_step(session, conversation, (row, keys, left == 0), (key, value), start);
            session.swallow(rest, Door::Resp(conversation.behind(behind)));
            step
        }
    }
}

impl Conversation {
    /// The conversation behind one key of a command.
    fn behind(self, keys: Keys) -> Self {
        Self { stage: if keys.left > 0 { Stage::Keys(keys) } else { Stage::Start }, ..self }
    }
}

/// As `next_key`, for a request in a line.
fn next_word<'a>(session: &mut Session, conversation: Conversation, keys: Keys, front: Front<'a>) -> Step<'a> {
    let row = &ROWS[usize::from(keys.row)];
    let pair = row.fan == Fan::AllOk;
    let (key, mut at) = front.next().unwrap_or((b"", front.at));
    let mut value: &[u8] = b"";
    if pair {
        (value, at) = Front { at, ..front }.next().unwrap_or((b"", at));
    }
    let left = front.count - 1 - u32::from(pair);
    let consumed = if left == 0 { front.line_end } else { at };
    let behind = Keys { left, line_bytes: (front.line_end - consumed) as u32, ..keys };
    let key = &key[..key.len().min(KEY_BYTES_MAX + 1)];
    let step = key_step(session, conversation, (row, keys, left == 0), (key, Value::Bytes(value)), consumed);
    session.state = State::Resp(conversation.behind(behind));
    step
}

/// The step of one key of a command.
fn key_step<'a>(
    session: &mut Session,
    mut conversation: Conversation,
    (row, keys, last): (&'static Row, Keys, bool),
    (key, value): (&'a [u8], Value<'a>),
    consumed: usize,
) -> Step<'a> {
    let mut words = ArrayVec::new();
    words.push(key);
    let count = 1 + u32::from(row.fan == Fan::AllOk);
    let options = session.options;
    let deed = (row.plan)(&mut Call { words, count, value, options, conversation: &mut conversation });
    let head = |form| {
        let head = Head::new(form, conversation.resp3, keys.quiet);
        if row.fan == Fan::Each { head } else { head.part(row.fan == Fan::Sum, last) }
    };
    match deed {
        Ok(Deed::Command(command, form)) => Step::Command { command, framing: framing(head(form), b""), consumed },
        Ok(Deed::Answer(reply, form) | Deed::Loud(reply, form) | Deed::Last(reply, form)) => {
            Step::Reply { reply, framing: framing(head(form), b""), consumed, close: false }
        }
        Ok(Deed::Control(control, form)) => Step::Control { control, framing: framing(head(form), b""), consumed },
        Err(Refusal::Line(line)) => Step::Reply {
            reply: Reply::Error(Error::Line(line)),
            framing: framing(head(Form::Flag), b""),
            consumed,
            close: false,
        },
        Ok(Deed::Nothing) | Err(Refusal::Arity) => Step::Skip { consumed },
    }
}

/// What is where a value should be.
enum Found<'a> {
    /// The value, and where the next argument starts.
    Value(Value<'a>, usize),
    /// It is longer than an item may be, or there is no memory for it: its length, where it starts, and how much is to be dropped.
    Dropped(usize, usize, u64),
    /// It is to be received elsewhere.
    Body(Step<'a>),
    Stop(Stop),
}

/// The value at `at`, of a key of so many bytes.
fn value_at<'a>(session: &Session, front: &Front<'a>, at: usize, key_bytes: usize) -> Found<'a> {
    let (start, length) = match wire::bulk(front.input, at) {
        Bulk::Part(needed) => return Found::Stop(Stop::Incomplete(needed)),
        Bulk::Wrong(fault, behind) => return Found::Stop(Stop::Broken(fault, behind)),
        Bulk::Known(start, length) => (start, length),
    };
    if item_total_bytes(key_bytes, length) > session.options.item_bytes_max as usize {
        return Found::Dropped(length, start, length as u64 + 2);
    }
    if length > INLINE_VALUE_BYTES_MAX {
        return match front.long {
            Long::Ahead => Found::Body(Step::Body { head: start, body: length, tail: 2 }),
            Long::Here(value, _) => Found::Value(value, start),
            // What is to be dropped is known to who has found no memory.
            Long::Lost => Found::Dropped(0, start, 0),
        };
    }
    match front.input.get(start..start + length + 2) {
        Some(value) => Found::Value(Value::Bytes(&value[..length]), start + length + 2),
        None => Found::Stop(Stop::Incomplete(start + length + 2)),
    }
}

/// The step of a command that is taken as a whole.
fn whole<'a>(session: &mut Session, conversation: Conversation, row: &'static Row, front: Front<'a>) -> Step<'a> {
    let mut words = ArrayVec::<&'a [u8], WORDS_MAX>::new();
    let mut value = Value::EMPTY;
    // The words behind a long value are in its tail.
    let (mut input, mut at) = (front.input, front.at);
    let is_line = front.line_end > 0;
    for index in 1..=front.count {
        if index == u32::from(row.value) && !is_line {
            let key_bytes = words.first().map_or(0, |key: &&[u8]| key.len());
            match value_at(session, &front, at, key_bytes) {
                Found::Stop(stop) => return broken(conversation, stop),
                Found::Body(step) => return step,
                Found::Value(found, end) => (value, at) = (found, end),
                Found::Dropped(bytes, start, rest) => {
                    let left = front.count - index;
                    let dropped = Value::Dropped { bytes };
                    let step = perform(session, conversation, row, (words, index - 1, dropped), start);
                    let stage = if left > 0 { Stage::Drop { left } } else { Stage::Start };
                    session.swallow(rest, Door::Resp(Conversation { stage, ..session.conversation() }));
                    return step;
                }
            }
            _ = words.try_push(if let Value::Bytes(bytes) = value { bytes } else { b"" });
            if let (Value::Body(_), Long::Here(_, tail)) = (value, front.long) {
                (input, at) = (tail, 2);
            }
            continue;
        }
        let (word, behind) = match (Front { input, at, ..front }).argument() {
            Ok(found) => found,
            Err(Left::Stop(Stop::Incomplete(needed))) if is_tail(&front, input) && needed > RESP_TAIL_BYTES_MAX => {
                return too_long(session, conversation, (input, at), (&front, index));
            }
            Err(Left::Stop(Stop::Broken(fault, _))) if is_tail(&front, input) => {
                return broken(conversation, Stop::Broken(fault, front.input.len()));
            }
            Err(Left::Stop(stop)) => return broken(conversation, stop),
            Err(Left::Long) => return too_long(session, conversation, (input, at), (&front, index)),
        };
        if index == u32::from(row.value) {
            value = Value::Bytes(word);
        }
        _ = words.try_push(word);
        at = behind;
    }
    let consumed = match () {
        () if is_line => front.line_end,
        () if is_tail(&front, input) => front.input.len(),
        () => at,
    };
    perform(session, conversation, row, (words, front.count, value), consumed)
}

/// Whether the bytes are those behind a long value.
fn is_tail(front: &Front<'_>, input: &[u8]) -> bool {
    matches!(front.long, Long::Here(_, tail) if std::ptr::eq(tail, input))
}

/// Why an argument cannot be had.
enum Left {
    Stop(Stop),
    /// It is longer than any that is no value.
    Long,
}

impl<'a> Front<'a> {
    /// The next argument, all of it, and where the one behind it starts.
    fn argument(&self) -> Result<(&'a [u8], usize), Left> {
        if self.line_end > 0 {
            return self.next().map_err(Left::Stop);
        }
        match wire::bulk(self.input, self.at) {
            Bulk::Part(needed) => Err(Left::Stop(Stop::Incomplete(needed))),
            Bulk::Wrong(fault, behind) => Err(Left::Stop(Stop::Broken(fault, behind))),
            Bulk::Known(start, length) => {
                let end = start + length + 2;
                if length > RESP_ARGUMENT_BYTES_MAX || end > RESP_REQUEST_BYTES_MAX {
                    return Err(Left::Long);
                }
                match self.input.get(start..end) {
                    Some(argument) => Ok((&argument[..length], end)),
                    None => Err(Left::Stop(Stop::Incomplete(end))),
                }
            }
        }
    }
}

/// The step of a command with an argument, at `at`, that is longer than it may be; it and those behind it are dropped.
#[cold]
fn too_long<'a>(
    session: &mut Session,
    mut conversation: Conversation,
    (input, at): (&'a [u8], usize),
    (front, index): (&Front<'a>, u32),
) -> Step<'a> {
    let quiet = conversation.take_quiet();
    let left = front.count - index;
    let stage = if left > 0 { Stage::Drop { left } } else { Stage::Start };
    let behind = Conversation { stage, ..conversation };
    let framing = framing(Head::new(Form::Error, conversation.resp3, quiet), b"");
    let reply = Reply::Text(ARGUMENT_REFUSED.as_bytes());
    match wire::bulk(input, at) {
        Bulk::Known(start, length) => {
            let is_tail = is_tail(front, input);
            let come = if is_tail { input.len() - start } else { 0 };
            session.swallow((length + 2 - come.min(length + 2)) as u64, Door::Resp(behind));
            let consumed = if is_tail { front.input.len() } else { start };
            Step::Reply { reply, framing, consumed, close: false }
        }
        // Not even the header is there, and as much has come as may.
        _ => Step::Reply { reply, framing, consumed: front.input.len(), close: true },
    }
}

/// The step of a command whose words are there.
fn perform<'a>(
    session: &mut Session,
    mut conversation: Conversation,
    row: &'static Row,
    (words, count, value): (ArrayVec<&'a [u8], WORDS_MAX>, u32, Value<'a>),
    consumed: usize,
) -> Step<'a> {
    let quiet = conversation.take_quiet();
    let options = session.options;
    let deed = (row.plan)(&mut Call { words, count, value, options, conversation: &mut conversation });
    session.state = State::Resp(conversation);
    let plain = |form| framing(Head::new(form, conversation.resp3, quiet), b"");
    match deed {
        Ok(Deed::Command(command, form)) => Step::Command { command, framing: plain(form), consumed },
        Ok(Deed::Answer(reply, form)) => Step::Reply { reply, framing: plain(form), consumed, close: false },
        Ok(Deed::Loud(reply, form)) => {
            let head = super::Head::Resp(Head::new(form, conversation.resp3, false));
            Step::Reply { reply, framing: Framing { head, words: b"" }, consumed, close: false }
        }
        Ok(Deed::Nothing) => Step::Skip { consumed },
        Ok(Deed::Last(reply, form)) => Step::Reply { reply, framing: plain(form), consumed, close: true },
        Ok(Deed::Control(control, form)) => Step::Control { control, framing: plain(form), consumed },
        Err(Refusal::Line(line)) => {
            Step::Reply { reply: Reply::Text(line.as_bytes()), framing: plain(Form::Error), consumed, close: false }
        }
        Err(Refusal::Arity) => {
            let mut framing = plain(Form::Arity);
            framing.head = super::Head::Resp(Head::new(Form::Arity, conversation.resp3, quiet).with(row_of(row)));
            Step::Reply { reply: Reply::Text(b""), framing, consumed, close: false }
        }
    }
}

/// What a client that speaks in lines is told of what only frames can say.
const LINE_REFUSED: &str =
    "ERR a line with escapes between quotes, or with a word above 16 KiB, is not understood here; send an array";
const ARGUMENT_REFUSED: &str = "ERR an argument that is no value is longer than 16 KiB, or the request than 64 KiB";
/// As much of an argument as is shown of one that is not understood.
const SHOWN_BYTES: usize = 128;
/// Longest name of a command.
const NAME_BYTES_MAX: usize = 16;
/// Words that are memcached's where they stand first in a line, in exactly these letters.
const MEMCACHED: [&[u8]; 10] =
    [b"get", b"set", b"append", b"touch", b"quit", b"incr", b"decr", b"watch", b"shutdown", b"verbosity"];

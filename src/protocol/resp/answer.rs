//! What a RESP answer looks like, in RESP2 and RESP3.
//!
//! ```text
//!   form     Value      Set    Flag  Length  Integer  Type      Fault of the protocol, of a command
//!   answer   $3 or $-1  +OK    :1    :5      :42      +string   -ERR ...
//!
//!   MGET a b:   *2\r\n $1\r\n1\r\n   written with the first key
//!                      $-1\r\n       each key by whichever core has it
//!   DEL a b:           :1\r\n :0\r\n           parts, gathered into :1\r\n where the client is (`Part`)
//! ```
//!
//! The answer may be written on another core or node than the one that read the request: all that it needs are [`Head`], six bytes, and of
//! an unknown command its arguments.
//!
//! Lives here: heads, forms, bytes of answers. Not here: which command has which form (`commands`), arrays and maps about the node
//! (`node::redis`).
//! Words of errors are those of Redis 7.0, `server.c` and `t_string.c`.

use super::table::ROWS;
use super::wire::{Args, Fault};
use crate::buffer::Buffer;
use crate::command::{Error, Reply};

/// What a RESP reply must remember of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub(super) form: Form,
    bits: u8,
    /// The length of the array that begins here, the command of an error, or a fault: see `Form`.
    pub(super) number: u32,
}

/// What is written for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// The value, or null.
    Value,
    /// `OK` if it was stored, else null.
    Set,
    /// 1 if it took place, else 0.
    Flag,
    /// Length of the value.
    Length,
    /// The number.
    Integer,
    /// The name of the type.
    Type,
    /// A short text.
    Simple,
    /// A text with its length.
    Bulk,
    /// An error, with its code.
    Error,
    /// Bytes that are an answer already.
    Raw,
    /// `PONG`, or the message.
    Subscribed,
    /// Of a command that is not in the table; the words are its name and arguments.
    Unknown,
    /// Of a subcommand that is not in the table; the words are those of the command, `number` is the row of the command.
    UnknownSubcommand,
    /// `number` is the row of the command that wants other arguments.
    Arity,
    /// `number` is the row of the command that has no such expire time.
    ExpireTime,
    /// The protocol is broken; `number` is the fault.
    Protocol,
}

const FORMS: [Form; 16] = [
    Form::Value,
    Form::Set,
    Form::Flag,
    Form::Length,
    Form::Integer,
    Form::Type,
    Form::Simple,
    Form::Bulk,
    Form::Error,
    Form::Raw,
    Form::Subscribed,
    Form::Unknown,
    Form::UnknownSubcommand,
    Form::Arity,
    Form::ExpireTime,
    Form::Protocol,
];

/// The connection speaks RESP3.
const RESP3: u8 = 1;
/// Nothing is written.
const QUIET: u8 = 1 << 1;
/// An array begins here.
const BEGINS: u8 = 1 << 2;
/// One of several numbers that are added.
const SUM: u8 = 1 << 3;
/// One of several that must all be `OK`.
const ALL_OK: u8 = 1 << 4;
/// The last of those.
const LAST: u8 = 1 << 5;
/// The words are those of a line.
const LINE: u8 = 1 << 6;

/// One answer of several that the client gets as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Numbers are added; otherwise all must be `OK`.
    pub sums: bool,
    /// The last one: the client is answered.
    pub last: bool,
}

impl Head {
    pub(super) fn new(form: Form, resp3: bool, quiet: bool) -> Self {
        Self { form, bits: (u8::from(resp3) * RESP3) | (u8::from(quiet) * QUIET), number: 0 }
    }

    pub(super) fn with(self, number: u32) -> Self {
        Self { number, ..self }
    }

    /// The first of `count` answers in one array.
    pub(super) fn beginning(self, count: u32) -> Self {
        Self { bits: self.bits | BEGINS, number: count, ..self }
    }

    /// The words of the request came framed, or in a line.
    pub(super) fn worded(self, framed: bool) -> Self {
        Self { bits: self.bits | if framed { 0 } else { LINE }, ..self }
    }

    /// One of several answers that are gathered.
    pub(super) fn part(self, sums: bool, last: bool) -> Self {
        let bits = (if sums { SUM } else { ALL_OK }) | if last { LAST } else { 0 };
        Self { bits: self.bits | if self.is_quiet() { 0 } else { bits }, ..self }
    }

    /// The only one of those: it is answered as it is.
    pub(super) fn alone(self) -> Self {
        Self { bits: self.bits & !(SUM | ALL_OK | LAST), ..self }
    }

    /// Whether the connection speaks RESP3.
    pub fn is_resp3(self) -> bool {
        self.bits & RESP3 != 0
    }

    fn is_quiet(self) -> bool {
        self.bits & QUIET != 0
    }

    /// Which part it is, if it is one.
    #[inline]
    pub fn as_part(self) -> Option<Part> {
        (self.bits & (SUM | ALL_OK) != 0).then_some(Part { sums: self.bits & SUM != 0, last: self.bits & LAST != 0 })
    }

    pub(in crate::protocol) fn to_bytes(self) -> [u8; 6] {
        let [a, b, c, d] = self.number.to_le_bytes();
        [self.form as u8, self.bits, a, b, c, d]
    }

    pub(in crate::protocol) fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        let form = *FORMS.get(usize::from(bytes[0]))?;
        Some(Self { form, bits: bytes[1], number: u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) })
    }
}

/// Writes the reply of one command, or of one key of it.
#[inline]
pub(in crate::protocol) fn encode(head: Head, words: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
    if head.bits & (QUIET | BEGINS) != 0 {
        if head.is_quiet() {
            return;
        }
        put_number(b'*', u64::from(head.number), output);
    }
    if let (Form::Value, Reply::Item(item)) = (head.form, reply) {
        output.bytes.reserve(LENGTH_BYTES_MAX + item.value.copied_bytes());
        put_number(b'$', item.value.len() as u64, output);
        output.put_value(item.value);
        return output.put(LINE_END);
    }
    encode_other(head, words, reply, output);
}

/// Every reply but a value.
fn encode_other(head: Head, words: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
    match (head.form, reply) {
        (_, Reply::Bye) => {}
        (_, Reply::Error(error)) => put_error(error_line(*error), output),
        (_, Reply::Ok) | (Form::Set, Reply::Stored(_)) => output.put(b"+OK\r\n"),
        (_, Reply::Integer(number)) => put_integer(*number, output),
        (Form::Value, Reply::NotFound) | (Form::Set, Reply::NotStored | Reply::NotFound | Reply::Exists) => {
            put_null(head, output)
        }
        (Form::Flag, Reply::NotFound | Reply::NotStored) => output.put(b":0\r\n"),
        (Form::Flag, Reply::Item(_) | Reply::Stored(_) | Reply::Touched(_) | Reply::Deleted) => output.put(b":1\r\n"),
        (Form::Length, Reply::Item(item)) => put_number(b':', item.value.len() as u64, output),
        (Form::Length, Reply::Stored(item)) => put_number(b':', item.stored_bytes.into(), output),
        (Form::Length, Reply::NotFound) => output.put(b":0\r\n"),
        // A value that would become too long.
        (Form::Length, Reply::NotStored) => put_error(error_line(Error::TooLarge), output),
        (Form::Type, Reply::Item(_)) => output.put(b"+string\r\n"),
        (Form::Type, Reply::NotFound) => output.put(b"+none\r\n"),
        (Form::Simple, Reply::Text(text)) => put_line(b'+', text, output),
        (Form::Bulk, Reply::Text(text)) => put_bulk(text, output),
        (Form::Error, Reply::Text(text)) => put_line(b'-', text, output),
        (Form::Raw, Reply::Text(text)) => output.put(text),
        (_, Reply::Text(_)) => fault(head, words, output),
        // Another node may ask for what no client can.
        _ => put_error("ERR no such reply", output),
    }
}

/// The errors that tell something of the request.
#[cold]
fn fault(head: Head, words: &[u8], output: &mut Buffer) {
    let name = ROWS.get(head.number as usize).map_or("", |row| row.name);
    match head.form {
        Form::Unknown => unknown(Args { bytes: words, framed: head.bits & LINE == 0 }, output),
        Form::UnknownSubcommand => {
            let subcommand = Args { bytes: words, framed: head.bits & LINE == 0 }.nth(1).unwrap_or(b"");
            output.put(b"-ERR unknown subcommand '");
            put_words(&subcommand[..subcommand.len().min(SHOWN_BYTES_MAX)], output);
            output.put(b"'. Try ");
            output.put(name.to_ascii_uppercase().as_bytes());
            output.put(b" HELP.\r\n");
        }
        Form::Arity => {
            output.put(b"-ERR wrong number of arguments for '");
            output.put(name.as_bytes());
            output.put(b"' command\r\n");
        }
        Form::ExpireTime => {
            output.put(b"-ERR invalid expire time in '");
            output.put(name.as_bytes());
            output.put(b"' command\r\n");
        }
        Form::Protocol => {
            let [number, byte, ..] = head.number.to_le_bytes();
            output.put(b"-ERR Protocol error: ");
            output.put(Fault::words(number).as_bytes());
            if (number, 0) == (Fault::Dollar(0).number().0, 0) {
                put_words(&[byte], output);
                output.put(b"'");
            }
            output.put(LINE_END);
        }
        _ => put_error("ERR no such reply", output),
    }
}

/// `unknown command 'x', with args beginning with: 'a' 'b' `. As much of them as Redis shows.
fn unknown(mut args: Args<'_>, output: &mut Buffer) {
    let name = args.next().unwrap_or(b"");
    output.put(b"-ERR unknown command '");
    put_words(&name[..name.len().min(SHOWN_BYTES_MAX)], output);
    output.put(b"', with args beginning with: ");
    let mut shown = 0;
    while let Some(argument) = args.next().filter(|_| shown < SHOWN_BYTES_MAX) {
        let argument = &argument[..argument.len().min(SHOWN_BYTES_MAX - shown)];
        output.put(b"'");
        put_words(argument, output);
        output.put(b"' ");
        shown += argument.len() + 3;
    }
    output.put(LINE_END);
}

/// Bytes of a request within a line: its line ends are shown as spaces.
fn put_words(words: &[u8], output: &mut Buffer) {
    output.bytes.extend(words.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
}

/// The words of an error, its code first.
fn error_line(error: Error) -> &'static str {
    match error {
        Error::TooLarge => "ERR string exceeds maximum allowed size (max_item_size)",
        Error::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
        Error::NonNumeric => "ERR value is not an integer or out of range",
        Error::Overflow => "ERR increment or decrement would overflow",
        Error::Unreachable => "CLUSTERDOWN no node for this key could be reached",
        Error::Interrupted => "ERR the node for this key went away; the command may have been executed",
        Error::Line(line) => line,
        Error::Binary { text, .. } => text,
    }
}

/// A line that is an error. Those of other doors have no code.
fn put_error(line: &str, output: &mut Buffer) {
    let code = line.split(' ').next().unwrap_or("");
    let has_code = !code.is_empty() && !OTHER_CODES.contains(&code) && code.bytes().all(|byte| byte.is_ascii_uppercase());
    output.put(if has_code { b"-" } else { b"-ERR " });
    output.put(line.as_bytes());
    output.put(LINE_END);
}

fn put_line(mark: u8, text: &[u8], output: &mut Buffer) {
    output.bytes.push(mark);
    output.put(text);
    output.put(LINE_END);
}

/// Writes a null.
pub(super) fn put_null(head: Head, output: &mut Buffer) {
    output.put(if head.is_resp3() { b"_\r\n" } else { b"$-1\r\n" });
}

/// Writes a text with its length.
pub fn put_bulk(text: &[u8], output: &mut Buffer) {
    put_number(b'$', text.len() as u64, output);
    output.put(text);
    output.put(LINE_END);
}

/// Writes a header, or a number that is none below 0.
#[inline]
pub fn put_number(mark: u8, number: u64, output: &mut Buffer) {
    output.bytes.push(mark);
    output.put_number(number);
    output.put(LINE_END);
}

/// Writes a number.
pub fn put_integer(number: i64, output: &mut Buffer) {
    output.put(if number < 0 { b":-" } else { b":" });
    output.put_number(number.unsigned_abs());
    output.put(LINE_END);
}

/// Writes the head of a map of so many pairs: an array of twice as many in RESP2.
pub fn put_map(head: Head, pairs: usize, output: &mut Buffer) {
    match head.is_resp3() {
        true => put_number(b'%', pairs as u64, output),
        false => put_number(b'*', 2 * pairs as u64, output),
    }
}

pub(super) const LINE_END: &[u8] = b"\r\n";
/// Bytes around a value: its length and two line ends.
const LENGTH_BYTES_MAX: usize = 16;
/// How much of what it does not know Redis shows.
const SHOWN_BYTES_MAX: usize = 128;
/// First words of errors of other doors, which clients of this one would take for codes.
const OTHER_CODES: [&str; 2] = ["ERROR", "RESET"];

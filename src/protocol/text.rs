//! The classic text protocol of memcached.
//!
//! ```text
//!   get a bb ccc\r\n             one line, validated as a whole, then one step per key:
//!   |----|  |-|  |----|          consumed: `get a `, `bb `, `ccc\r\n`; the session remembers how much of the line is left
//! ```
//!
//! ```text
//!   set k 5 60 3\r\nabc\r\n      |--- head ---|body|tail|      up to INLINE_VALUE_BYTES_MAX one step over everything;
//!                                                              beyond, the value is received elsewhere: `Step::Body`
//! ```
//!
//! Rules easily missed: words are split at spaces only, so that a tab belongs to its word. `noreply` is the last word, and hides
//! everything that is found wrong behind the length. A refused store whose length can be read takes its data with it, lest the data be
//! executed as commands; with an unreadable length nobody knows where the data ends.
//!
//! Lives here: lines to commands, replies to lines. Not here: what a command does, the meta commands (`meta`).
//! Words and answers follow memcached's doc/protocol.txt and its release 1.6.45. Where that one takes anything (words behind a delete)
//! or nothing (spaces in front of a command), earlier releases.

use super::{Door, Framing, Session, State, Step, VERSION, meta, scan};
use crate::buffer::Buffer;
use crate::command::{Arithmetic, Command, Control, Delete, Error, Get, Item, Reply, Store, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits::{INLINE_VALUE_BYTES_MAX, KEY_BYTES_MAX, LINE_BYTES_MAX, MULTI_GET_LINE_BYTES_MAX, item_total_bytes};
use crate::time::Exptime;

/// What a text reply must remember of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// How a read shows its item.
    read: Read,
    /// `END` follows: this is the last key of a read.
    end: bool,
    /// Nothing is written.
    noreply: bool,
}

/// How a read shows its item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Read {
    /// The command is no read.
    #[default]
    No,
    /// `get`, `gat`: without the CAS.
    Plain,
    /// `gets`, `gats`: with the CAS.
    Cas,
    /// `gets`, `gats` where CAS is switched off (`-C`): always 0.
    CasZero,
}

impl Head {
    pub(super) fn to_bytes(self) -> [u8; 6] {
        [self.read as u8, u8::from(self.end), u8::from(self.noreply), 0, 0, 0]
    }

    pub(super) fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        let read = [Read::No, Read::Plain, Read::Cas, Read::CasZero].into_iter().find(|read| *read as u8 == bytes[0])?;
        Some(Self { read, end: bytes[1] != 0, noreply: bytes[2] != 0 })
    }
}

/// The rest of a `get a b c` line that was validated as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// Bytes of the line from the next key to the end of the last one.
    keys_bytes: u32,
    /// Bytes behind the last key: spaces and line end.
    tail_bytes: u32,
    read: Read,
    /// Exptime that each item gets (`gat`, `gats`).
    touch: Option<Exptime>,
}

/// What ends every line that is written, and every value that is read.
pub(super) const LINE_END: &[u8] = b"\r\n";

/// One step from the front of the input, between two commands.
#[inline(always)]
pub(super) fn step<'a>(session: &mut Session, input: &'a [u8]) -> Step<'a> {
    match single_get(input) {
        Some(step) => step,
        None => step_line(session, 0, input),
    }
}

/// `get` with one key and nothing unusual, which is most of all requests: one pass over the key.
#[inline(always)]
fn single_get(input: &[u8]) -> Option<Step<'_>> {
    let (word, rest) = input.split_first_chunk::<4>()?;
    if word != b"get " {
        return None;
    }
    let end = scan::blank(rest, 0)?;
    if end == 0 || end > KEY_BYTES_MAX || rest.get(end..end + 2)? != LINE_END {
        return None;
    }
    Some(Step::Command {
        command: Command { key: Key::new(&rest[..end]), verb: Verb::Get(Get::default()), value: Value::EMPTY },
        framing: framing(Head { read: Read::Plain, end: true, noreply: false }),
        consumed: 4 + end + 2,
    })
}

/// A step over a line whose first `scanned` bytes hold no newline.
pub(super) fn step_line<'a>(session: &mut Session, scanned: u32, input: &'a [u8]) -> Step<'a> {
    let newline = scan::newline(input, scanned as usize);
    let line_bytes = newline.unwrap_or(input.len());
    if line_bytes > LINE_BYTES_MAX {
        let line_bytes_max = if is_multi_get(input) { MULTI_GET_LINE_BYTES_MAX } else { LINE_BYTES_MAX };
        if line_bytes > line_bytes_max {
            return hang_up(line_bytes_max + 1);
        }
    }
    let Some(newline) = newline else {
        if input.len() > LINE_BYTES_MAX {
            session.state = State::Line { scanned: input.len() as u32 };
        }
        return Step::Incomplete { needed: input.len() + 1 };
    };
    session.state = State::Text;
    let line = scan::line(input, newline);
    let consumed = newline + 1;
    if is_meta(line) {
        return meta::step(session, input, consumed);
    }
    if let [b'g', ..] = line
        && let Some(reads) = Reads::of(session, &line[..scan::word_end(line, 0)])
    {
        return read(session, reads, input, line, consumed);
    }
    dispatch(session, input, line, consumed)
}

/// Whether a line longer than all others may be: a read with many keys.
fn is_multi_get(input: &[u8]) -> bool {
    let start = scan::word_start(input, 0);
    let rest = &input[start..];
    start <= LEADING_SPACES_MAX && READS.iter().any(|word| rest.starts_with(word) && rest.get(word.len()) == Some(&b' '))
}

/// Whether the line is a meta command: `m`, one of its letters, and a space or the end.
fn is_meta(line: &[u8]) -> bool {
    let start = if let [b' ', ..] = line { scan::word_start(line, 0) } else { 0 };
    let line = &line[start..];
    matches!(line, [b'm', b'g' | b's' | b'd' | b'a' | b'n' | b'e'] | [b'm', b'g' | b's' | b'd' | b'a' | b'n' | b'e', b' ', ..])
}

/// The connection is closed without a word, as memcached does.
fn hang_up<'a>(consumed: usize) -> Step<'a> {
    Step::Reply { reply: Reply::Bye, framing: framing(Head::default()), consumed, close: true }
}

fn framing<'a>(head: Head) -> Framing<'a> {
    Framing { head: super::Head::Text(head), words: &[] }
}

/// The step of an answer that needs nobody.
fn answer<'a>(reply: Reply<'a>, noreply: bool, consumed: usize) -> Step<'a> {
    Step::Reply { reply, framing: framing(Head { noreply, ..Head::default() }), consumed, close: false }
}

/// The step of a line that is refused with these words.
fn refuse<'a>(line: &'static str, noreply: bool, consumed: usize) -> Step<'a> {
    answer(Reply::Error(Error::Line(line)), noreply, consumed)
}

fn control<'a>(control: Control<'a>, noreply: bool, consumed: usize) -> Step<'a> {
    Step::Control { control, framing: framing(Head { noreply, ..Head::default() }), consumed }
}

/// Which of the reads a command is.
#[derive(Clone, Copy)]
struct Reads {
    read: Read,
    touches: bool,
}

impl Reads {
    /// `get`, `gets`, `gat`, `gats`; `None` for any other word.
    #[inline]
    fn of(session: &Session, word: &[u8]) -> Option<Self> {
        let with_cas = if session.options.cas_disabled { Read::CasZero } else { Read::Cas };
        let (read, touches) = match word {
            b"get" => (Read::Plain, false),
            b"gets" => (with_cas, false),
            b"gat" => (Read::Plain, true),
            b"gats" => (with_cas, true),
            _ => return None,
        };
        Some(Self { read, touches })
    }
}

/// A read with any number of keys; the line starts with its word.
fn read<'a>(session: &mut Session, reads: Reads, input: &'a [u8], line: &'a [u8], consumed: usize) -> Step<'a> {
    let Reads { read, touches } = reads;
    let word_end = scan::word_end(line, 0);
    let mut start = scan::word_start(line, word_end);
    if start == line.len() {
        return refuse(BAD_FORMAT, false, consumed);
    }
    let mut touch = None;
    if touches {
        let end = scan::word_end(line, start);
        if scan::word_start(line, end) == line.len() {
            return refuse(BAD_FORMAT, false, consumed);
        }
        match scan::signed(&line[start..end]) {
            Some(exptime) => touch = Some(Exptime::of_line(exptime)),
            None => return refuse(BAD_EXPTIME, false, consumed),
        }
        start = scan::word_start(line, end);
    }
    // The whole line is looked at before the first key is answered: one bad key drops all.
    let keys = scan::trim_end(&line[start..]);
    if has_long_word(keys) {
        return refuse(BAD_FORMAT, false, consumed);
    }
    session.state =
        State::Keys(Keys { keys_bytes: keys.len() as u32, tail_bytes: (consumed - start - keys.len()) as u32, read, touch });
    next_key(session, &input[start..], start)
}

/// Whether a word is longer than a key may be. Looks at one space in 250 bytes, not at every word: where no word is too long,
/// every 251 bytes hold a space.
fn has_long_word(mut text: &[u8]) -> bool {
    while text.len() > KEY_BYTES_MAX {
        match memchr::memrchr(b' ', &text[..=KEY_BYTES_MAX]) {
            Some(space) => text = &text[space + 1..],
            None => return true,
        }
    }
    false
}

/// The step of the next key of a read; the input starts with that key.
pub(super) fn step_keys<'a>(session: &mut Session, input: &'a [u8]) -> Step<'a> {
    next_key(session, input, 0)
}

/// One key from the front of `input`, which lies `before` bytes behind the front of what was not consumed yet. The state is
/// changed where it lies: a copy of it would wait for the stores of the step before.
#[inline]
fn next_key<'a>(session: &mut Session, input: &'a [u8], before: usize) -> Step<'a> {
    let State::Keys(keys) = &mut session.state else { return step_line(session, 0, input) };
    let line_bytes = (keys.keys_bytes + keys.tail_bytes) as usize;
    if input.len() < line_bytes {
        return Step::Incomplete { needed: line_bytes };
    }
    let text = &input[..keys.keys_bytes as usize];
    let end = scan::word_end(text, 0);
    let next = scan::word_start(text, end);
    let last = next == text.len();
    let (read, touch) = (keys.read, keys.touch);
    let mut consumed = before + next;
    if last {
        consumed += keys.tail_bytes as usize;
        session.state = State::Text;
    } else {
        keys.keys_bytes -= next as u32;
    }
    Step::Command {
        command: Command { key: Key::new(&text[..end]), verb: Verb::Get(Get { touch, ..Get::default() }), value: Value::EMPTY },
        framing: framing(Head { read, end: last, noreply: false }),
        consumed,
    }
}

type Words<'a> = scan::Words<'a, WORDS_MAX>;

/// Every line but the reads.
fn dispatch<'a>(session: &mut Session, input: &'a [u8], line: &'a [u8], consumed: usize) -> Step<'a> {
    let mut words = Words::EMPTY;
    words.split(line);
    match words.at(0) {
        b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => store_line(session, input, &words, consumed),
        b"delete" => delete(&words, consumed),
        b"incr" => arithmetic(&words, consumed, false),
        b"decr" => arithmetic(&words, consumed, true),
        b"touch" => touch(&words, consumed),
        b"version" => answer(Reply::Version(VERSION), false, consumed),
        b"quit" => hang_up(consumed),
        // A read behind leading spaces.
        word => match Reads::of(session, word) {
            Some(reads) => {
                let start = scan::word_start(line, 0);
                behind(read(session, reads, &input[start..], &line[start..], consumed - start), start)
            }
            None => administer(session, line, &words, consumed),
        },
    }
}

/// The same step with `skipped` more bytes consumed in front.
fn behind(mut step: Step<'_>, skipped: usize) -> Step<'_> {
    match &mut step {
        Step::Command { consumed, .. } | Step::Reply { consumed, .. } => *consumed += skipped,
        Step::Control { .. } | Step::Skip { .. } | Step::Body { .. } | Step::Chunked { .. } | Step::Incomplete { .. } => {}
    }
    step
}

/// A store as its line tells it.
#[derive(Clone, Copy)]
struct StoreLine<'a> {
    key: &'a [u8],
    store: Store,
    length: usize,
    noreply: bool,
}

/// Why the line of a store is refused.
enum StoreFault {
    /// There are too few words, or the length cannot be read: what follows is taken as commands, and `noreply` is not looked for.
    Length,
    /// Something else is wrong: the data goes with the line.
    Field { noreply: bool, length: usize },
}

fn parse_store<'a>(words: &Words<'a>) -> Result<StoreLine<'a>, StoreFault> {
    let (mode, compares) = match words.at(0) {
        b"set" => (StoreMode::Set, false),
        b"add" => (StoreMode::Add, false),
        b"replace" => (StoreMode::Replace, false),
        b"append" => (StoreMode::Append, false),
        b"prepend" => (StoreMode::Prepend, false),
        _ => (StoreMode::Set, true),
    };
    // Where there are too few words, the length is empty.
    let length = match scan::unsigned(words.at(4)) {
        Some(length) if length <= LENGTH_MAX => length as usize,
        _ => return Err(StoreFault::Length),
    };
    let noreply = words.last() == NOREPLY;
    let fault = StoreFault::Field { noreply, length };
    let key = words.at(1);
    let (Some(client_flags), Some(exptime)) = (scan::unsigned32(words.at(2)), scan::signed(words.at(3))) else {
        return Err(fault);
    };
    if key.len() > KEY_BYTES_MAX {
        return Err(fault);
    }
    let compare = match compares {
        true => match scan::unsigned(words.at(5)) {
            Some(cas) => Some(cas),
            None => return Err(fault),
        },
        false => None,
    };
    let store = Store {
        mode,
        client_flags,
        exptime: Exptime::of_line(exptime),
        compare,
        remove_on_failure: mode == StoreMode::Set && !compares,
        ..Store::default()
    };
    Ok(StoreLine { key, store, length, noreply })
}

/// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
fn store_line<'a>(session: &mut Session, input: &'a [u8], words: &Words<'a>, head_bytes: usize) -> Step<'a> {
    let line = match parse_store(words) {
        Ok(line) => line,
        Err(StoreFault::Length) => return refuse(BAD_FORMAT, false, head_bytes),
        Err(StoreFault::Field { noreply, length }) => {
            session.swallow((length + LINE_END.len()) as u64, Door::Text);
            return refuse(BAD_FORMAT, noreply, head_bytes);
        }
    };
    if item_total_bytes(line.key.len(), line.length) > session.options.item_bytes_max as usize {
        session.swallow((line.length + LINE_END.len()) as u64, Door::Text);
        return store(&line, Value::Dropped { bytes: line.length }, head_bytes);
    }
    if line.length > INLINE_VALUE_BYTES_MAX {
        return Step::Body { head: head_bytes, body: line.length, tail: LINE_END.len() };
    }
    let value_end = head_bytes + line.length;
    let consumed = value_end + LINE_END.len();
    let Some(tail) = input.get(value_end..consumed) else {
        return Step::Incomplete { needed: consumed };
    };
    if tail != LINE_END {
        return refuse(BAD_DATA, line.noreply, consumed);
    }
    store(&line, Value::Bytes(&input[head_bytes..value_end]), consumed)
}

fn store<'a>(line: &StoreLine<'a>, value: Value<'a>, consumed: usize) -> Step<'a> {
    Step::Command {
        command: Command { key: Key::new(line.key), verb: Verb::Store(line.store), value },
        framing: framing(Head { noreply: line.noreply, ..Head::default() }),
        consumed,
    }
}

/// The step of a large store whose value has arrived or was dropped; `head` is its line, `tail` what came behind the value.
pub(super) fn resume<'a>(session: &mut Session, head: &'a [u8], value: Value<'a>, tail: &'a [u8]) -> Step<'a> {
    let line = scan::line(head, head.len().saturating_sub(1));
    if is_meta(line) {
        return meta::resume(session, head, value, tail);
    }
    // `step` has accepted this very line when it asked for the body.
    let mut words = Words::EMPTY;
    words.split(line);
    let Ok(line) = parse_store(&words) else {
        return refuse(BAD_FORMAT, false, head.len());
    };
    if tail != LINE_END {
        return refuse(BAD_DATA, line.noreply, head.len());
    }
    store(&line, value, head.len())
}

/// `delete K [0] [noreply]`.
fn delete<'a>(words: &Words<'a>, consumed: usize) -> Step<'a> {
    if words.count < 2 {
        return refuse(BAD_FORMAT, false, consumed);
    }
    let noreply = words.count > 2 && words.last() == NOREPLY;
    let valid = match words.count {
        2 => true,
        3 => noreply || words.at(2) == b"0",
        4 => noreply && words.at(2) == b"0",
        _ => false,
    };
    if !valid {
        return refuse(DELETE_USAGE, noreply, consumed);
    }
    keyed(words.at(1), Verb::Delete(Delete::default()), noreply, consumed)
}

/// The step of a command without value.
fn keyed<'a>(key: &'a [u8], verb: Verb, noreply: bool, consumed: usize) -> Step<'a> {
    if key.len() > KEY_BYTES_MAX {
        return refuse(BAD_FORMAT, noreply, consumed);
    }
    Step::Command {
        command: Command { key: Key::new(key), verb, value: Value::EMPTY },
        framing: framing(Head { noreply, ..Head::default() }),
        consumed,
    }
}

/// `incr K n [noreply]`, `decr K n [noreply]`.
fn arithmetic<'a>(words: &Words<'a>, consumed: usize, decrement: bool) -> Step<'a> {
    if words.count < 3 {
        return refuse(BAD_FORMAT, false, consumed);
    }
    let noreply = words.last() == NOREPLY;
    if words.at(1).len() > KEY_BYTES_MAX {
        return refuse(BAD_FORMAT, noreply, consumed);
    }
    match scan::unsigned(words.at(2)) {
        Some(delta) => {
            let verb = Verb::Arithmetic(Arithmetic { delta, decrement, ..Arithmetic::default() });
            keyed(words.at(1), verb, noreply, consumed)
        }
        None => refuse(BAD_DELTA, noreply, consumed),
    }
}

/// `touch K exptime [noreply]`.
fn touch<'a>(words: &Words<'a>, consumed: usize) -> Step<'a> {
    if words.count < 3 {
        return refuse(BAD_FORMAT, false, consumed);
    }
    let noreply = words.last() == NOREPLY;
    if words.at(1).len() > KEY_BYTES_MAX {
        return refuse(BAD_FORMAT, noreply, consumed);
    }
    match scan::signed(words.at(2)) {
        Some(exptime) => keyed(words.at(1), Verb::Touch(Exptime::of_line(exptime)), noreply, consumed),
        None => refuse(BAD_EXPTIME, noreply, consumed),
    }
}

/// Commands to the node.
fn administer<'a>(session: &Session, line: &'a [u8], words: &Words<'a>, consumed: usize) -> Step<'a> {
    match (words.at(0), words.count) {
        (b"flush_all", _) => flush_all(session, words, consumed),
        (b"verbosity", _) => {
            let noreply = words.last() == NOREPLY;
            match scan::unsigned32(words.at(1)) {
                Some(level) => control(Control::Verbosity { level }, noreply, consumed),
                None => refuse(BAD_FORMAT, noreply, consumed),
            }
        }
        (b"stats", _) => stats(session, line, words, consumed),
        (b"cache_memlimit", _) => {
            let noreply = words.last() == NOREPLY;
            match scan::unsigned32(words.at(1)) {
                Some(megabytes) if megabytes < MEGABYTES_MIN => refuse(MEMLIMIT_TOO_SMALL, noreply, consumed),
                Some(megabytes) if megabytes > MEGABYTES_MAX => refuse(MEMLIMIT_IN_BYTES, noreply, consumed),
                Some(megabytes) => control(Control::CacheMemlimit { megabytes: megabytes.into() }, noreply, consumed),
                None => refuse(ERROR, noreply, consumed),
            }
        }
        (b"lru_crawler", 2..) => lru_crawler(session, line, words, consumed),
        (b"slabs" | b"lru" | b"extstore", 2..) => control(Control::Tune { line: words_behind(line, 0) }, false, consumed),
        (b"watch", _) => control(Control::Watch { words: words_behind(line, 1) }, false, consumed),
        (b"shutdown", _) => control(Control::Shutdown { mode: words_behind(line, 1) }, false, consumed),
        #[cfg(feature = "debugtime")]
        (b"debugtime", 2..) => control(Control::DebugTime { words: words_behind(line, 1) }, false, consumed),
        // No request begins a conversation here (`http`): answer nothing that could do as a page.
        _ if is_http(line) => hang_up(consumed),
        // Too short to be any command.
        _ if consumed < COMMAND_BYTES_MIN => refuse(BAD_FORMAT, false, consumed),
        _ => refuse(ERROR, false, consumed),
    }
}

/// `flush_all [delay] [noreply]`.
fn flush_all<'a>(session: &Session, words: &Words<'a>, consumed: usize) -> Step<'a> {
    let noreply = words.count > 1 && words.last() == NOREPLY;
    if session.options.flush_disabled {
        return refuse("CLIENT_ERROR flush_all not allowed", noreply, consumed);
    }
    if words.count == 1 + usize::from(noreply) {
        return control(Control::FlushAll { delay: Exptime::NEVER }, noreply, consumed);
    }
    match scan::signed(words.at(1)) {
        Some(delay) => control(Control::FlushAll { delay: Exptime::of_line(delay) }, noreply, consumed),
        None => refuse(BAD_EXPTIME, noreply, consumed),
    }
}

/// `stats [group ...]`.
fn stats<'a>(session: &Session, line: &'a [u8], words: &Words<'a>, consumed: usize) -> Step<'a> {
    if session.options.dump_disabled && words.at(1) == b"cachedump" {
        return refuse("CLIENT_ERROR stats cachedump not allowed", false, consumed);
    }
    if session.options.dump_disabled && words.at(1) == b"detail" {
        return refuse("CLIENT_ERROR stats detail not allowed", false, consumed);
    }
    control(Control::Stats { group: words_behind(line, 1) }, false, consumed)
}

/// `lru_crawler ...`.
fn lru_crawler<'a>(session: &Session, line: &'a [u8], words: &Words<'a>, consumed: usize) -> Step<'a> {
    if session.options.dump_disabled {
        match words.at(1) {
            b"metadump" => return refuse("ERROR metadump not allowed", false, consumed),
            b"mgdump" => return refuse("ERROR key dump not allowed", false, consumed),
            _ => {}
        }
    }
    if (words.at(1), words.count) == (b"sleep", 3) {
        match scan::unsigned32(words.at(2)) {
            Some(microseconds) if microseconds > CRAWLER_SLEEP_US_MAX => {
                return refuse("CLIENT_ERROR sleep must be one second or less", false, consumed);
            }
            Some(_) => {}
            None => return refuse(BAD_FORMAT, false, consumed),
        }
    }
    control(Control::LruCrawler { words: words_behind(line, 1) }, false, consumed)
}

/// The line from word `index` on, without spaces around.
fn words_behind(line: &[u8], index: usize) -> &[u8] {
    let mut from = scan::word_start(line, 0);
    for _ in 0..index {
        from = scan::word_start(line, scan::word_end(line, from));
    }
    line[from..].trim_ascii_end()
}

/// Whether the last word says that this is an HTTP request.
fn is_http(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let start = memchr::memrchr(b' ', line).map_or(0, |space| space + 1);
    line[start..].starts_with(b"HTTP/")
}

/// Writes the reply of one text command.
#[inline]
pub(super) fn encode(head: Head, key: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
    if head.noreply {
        return;
    }
    match (reply, head.read) {
        (Reply::Item(item), _) => encode_item(head, key, item, output),
        (Reply::NotFound, Read::Plain | Read::Cas | Read::CasZero) => {
            if head.end {
                output.put(b"END\r\n");
            }
        }
        // A read that failed in the middle of a line counts as a miss; at its end the error stands in for `END`.
        (Reply::Error(_), Read::Plain | Read::Cas | Read::CasZero) if !head.end => {}
        _ => encode_line(reply, output),
    }
}

/// `VALUE key flags length [cas]`, the value, and `END` if it is the last.
#[inline]
fn encode_item(head: Head, key: &[u8], item: &Item<'_>, output: &mut Buffer) {
    // ` flags length cas\r\n` is written from its end; 1 + 10 + 1 + 20 + 1 + 20 + 2 bytes at most.
    let mut numbers = [0u8; 64];
    let mut at = numbers.len() - LINE_END.len();
    numbers[at..].copy_from_slice(LINE_END);
    match head.read {
        Read::Cas => at = prepend_number(&mut numbers, at, item.cas),
        Read::CasZero => at = prepend_number(&mut numbers, at, 0),
        Read::Plain | Read::No => {}
    }
    at = prepend_number(&mut numbers, at, item.value.len() as u64);
    at = prepend_number(&mut numbers, at, item.client_flags.into());
    let end: &[u8] = if head.end { b"\r\nEND\r\n" } else { LINE_END };
    output.bytes.reserve(b"VALUE ".len() + key.len() + (numbers.len() - at) + item.value.copied_bytes() + end.len());
    output.put(b"VALUE ");
    output.put(key);
    output.put(&numbers[at..]);
    output.put_value(item.value);
    output.put(end);
}

/// Writes a space and `number` in front of `at`. Returns where they start.
#[inline]
fn prepend_number(buffer: &mut [u8; 64], mut at: usize, mut number: u64) -> usize {
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    at -= 1;
    buffer[at] = b' ';
    at
}

/// Every reply but a value.
fn encode_line(reply: &Reply<'_>, output: &mut Buffer) {
    let line: &[u8] = match reply {
        Reply::Stored(_) => b"STORED\r\n",
        Reply::Touched(_) => b"TOUCHED\r\n",
        Reply::Deleted => b"DELETED\r\n",
        Reply::NotStored => b"NOT_STORED\r\n",
        Reply::Exists => b"EXISTS\r\n",
        Reply::NotFound => b"NOT_FOUND\r\n",
        Reply::Ok => b"OK\r\n",
        Reply::Reset => b"RESET\r\n",
        Reply::Noop => b"MN\r\n",
        Reply::Bye => b"",
        Reply::Text(text) => text,
        Reply::Number { number, .. } => {
            output.put_number(*number);
            LINE_END
        }
        Reply::Version(version) => {
            output.put(b"VERSION ");
            output.put(version.as_bytes());
            LINE_END
        }
        Reply::Stats(rows) => {
            rows.iter().for_each(|(name, value)| put_stat(name, value, output));
            b"END\r\n"
        }
        Reply::Error(error) => {
            output.put(error_line(*error).as_bytes());
            LINE_END
        }
        Reply::Item(_) | Reply::Integer(_) | Reply::Busy => {
            debug_assert!(false, "an item has its own encoder, nobody asks here for integers, and Busy is asked again");
            b"SERVER_ERROR out of memory\r\n"
        }
    };
    output.put(line);
}

fn put_stat(name: &str, value: &str, output: &mut Buffer) {
    output.put(b"STAT ");
    output.put(name.as_bytes());
    output.put(b" ");
    output.put(value.as_bytes());
    output.put(LINE_END);
}

/// The words of an error, without the line end. The same for meta commands.
pub(super) fn error_line(error: Error) -> &'static str {
    match error {
        Error::TooLarge => "SERVER_ERROR object too large for cache",
        Error::OutOfMemory => "SERVER_ERROR out of memory storing object",
        Error::NonNumeric => "CLIENT_ERROR cannot increment or decrement non-numeric value",
        Error::Overflow => "CLIENT_ERROR increment or decrement would overflow",
        Error::Unreachable => "SERVER_ERROR no node for this key could be reached",
        Error::Interrupted => "SERVER_ERROR the node for this key went away; the command may have been executed",
        Error::Line(line) => line,
        Error::Binary { text, .. } => text,
    }
}

/// Words of a line that are told apart: `cas` with `noreply`, and one too many.
const WORDS_MAX: usize = 7;

/// Largest length of a data block that is believed. memcached: `INT_MAX - 2`.
const LENGTH_MAX: u64 = i32::MAX as u64 - 2;

/// Longest pause of `lru_crawler sleep`, in microseconds. memcached 1.6.
const CRAWLER_SLEEP_US_MAX: u32 = 1_000_000;

/// Least megabytes of `cache_memlimit`, and most: with more, somebody took them for bytes. memcached 1.6.
const MEGABYTES_MIN: u32 = 8;
const MEGABYTES_MAX: u32 = 1_000_000_000;

/// Bytes of the shortest command, with its line end. memcached 1.6.
const COMMAND_BYTES_MIN: usize = 4;

/// Spaces in front of a line longer than others. memcached 1.6.
const LEADING_SPACES_MAX: usize = 100;

/// Commands whose line may be long.
const READS: [&[u8]; 4] = [b"get", b"gets", b"gat", b"gats"];

const NOREPLY: &[u8] = b"noreply";
const ERROR: &str = "ERROR";
pub(super) const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
pub(super) const BAD_DATA: &str = "CLIENT_ERROR bad data chunk";
const BAD_DELTA: &str = "CLIENT_ERROR invalid numeric delta argument";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
const DELETE_USAGE: &str = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
const MEMLIMIT_IN_BYTES: &str = "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes";
const MEMLIMIT_TOO_SMALL: &str = "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m";

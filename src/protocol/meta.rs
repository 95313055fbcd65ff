//! The meta commands of the text protocol: mg, ms, md, ma, mn, me.
//!
//! ```text
//!   mg key  s v t O12 \r\n        VA 5 s5 t-1 O12\r\nhello\r\n        the reply repeats flags in the order of the request
//!      |-|  |-------|                |--------|
//!      key  words ------ Framing ----> encode reads them again, with the item at hand
//! ```
//!
//! ```text
//!   ms key 5 T60 c\r\nhello\r\n   |--- head ---|body|tail|   as in `text`: one step, or `Step::Body` for a large value
//! ```
//!
//! Rules easily missed: any flag may stand behind any command, where it means nothing it is ignored; only twice is wrong.
//! Errors are never hidden by `q`, nor are NF of `md` and `ma`. A refused `ms` whose length can be read takes its data with
//! it. `t` in front of `T` tells the old time to live, behind it the new one, and so `R` is compared. A key with `b` stays base64 text until the engine
//! executes the command (see `key`), and is repeated as it was sent.
//!
//! Lives here: meta lines to commands, replies to lines. Not here: what a command does, when a line is complete (`text`).
//! Words and answers follow memcached's doc/protocol.txt, *Meta Commands*; error texts are those of release 1.6.45.

use super::text::{self, BAD_DATA, BAD_FORMAT, LINE_END, error_line};
use super::{Door, Framing, Session, Step, scan};
use crate::buffer::Buffer;
use crate::command::{Arithmetic, Command, Delete, Error, Get, Item, Reply, Store, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits::{INLINE_VALUE_BYTES_MAX, KEY_BYTES_MAX, META_OPAQUE_BYTES_MAX, META_WORDS_MAX, item_total_bytes};
use crate::time::Exptime;

/// What a meta reply must remember of its request beside the flag words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    name: Name,
    /// Flag `q`: the nominal answer is hidden.
    quiet: bool,
    /// Flag `v`: the value is shown.
    value: bool,
    /// Flag `b`: the key is base64 text.
    encoded: bool,
    /// CAS is shown as 0 (`-C`).
    cas_disabled: bool,
}

/// Which command it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    #[default]
    Get,
    Store,
    Delete,
    Arithmetic,
    Inspect,
}

impl Head {
    pub(super) fn to_bytes(self) -> [u8; 6] {
        let flags = [self.quiet, self.value, self.encoded, self.cas_disabled].map(u8::from);
        [self.name as u8, flags[0], flags[1], flags[2], flags[3], 0]
    }

    pub(super) fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        let names = [Name::Get, Name::Store, Name::Delete, Name::Arithmetic, Name::Inspect];
        let name = names.into_iter().find(|name| *name as u8 == bytes[0])?;
        let [quiet, value, encoded, cas_disabled] = [bytes[1], bytes[2], bytes[3], bytes[4]].map(|flag| flag != 0);
        Some(Self { name, quiet, value, encoded, cas_disabled })
    }
}

/// Steps over a meta command; `line_bytes` is the length of its first line with the line end.
pub(super) fn step<'a>(session: &mut Session, input: &'a [u8], line_bytes: usize) -> Step<'a> {
    let line = scan::line(input, line_bytes - 1);
    let start = scan::word_start(line, 0);
    match line[start + 1] {
        b'n' => answer(Reply::Noop, line_bytes),
        b's' => store(session, input, line, line_bytes),
        b'e' => inspect(session, line, line_bytes),
        letter => keyed(session, line, letter, line_bytes),
    }
}

/// The step of an answer that needs nobody.
fn answer<'a>(reply: Reply<'a>, consumed: usize) -> Step<'a> {
    let framing = Framing { head: super::Head::Text(text::Head::default()), words: &[] };
    Step::Reply { reply, framing, consumed, close: false }
}

/// The step of a line that is refused with these words.
fn refuse<'a>(line: &'static str, consumed: usize) -> Step<'a> {
    answer(Reply::Error(Error::Line(line)), consumed)
}

/// The key of a line and where the words behind it begin. The key is empty where there is none.
fn key_of(line: &[u8]) -> (&[u8], usize) {
    let from = scan::word_start(line, scan::word_end(line, scan::word_start(line, 0)));
    let end = scan::word_end(line, from);
    (&line[from..end], scan::word_start(line, end))
}

/// `mg`, `md`, `ma`.
fn keyed<'a>(session: &Session, line: &'a [u8], letter: u8, consumed: usize) -> Step<'a> {
    let (key, from) = key_of(line);
    let name = match letter {
        b'g' => Name::Get,
        b'd' => Name::Delete,
        _ => Name::Arithmetic,
    };
    if key.is_empty() {
        return refuse(BAD_FORMAT, consumed);
    }
    // `ma` tells every fault in the same words.
    let told = |fault| if name == Name::Arithmetic { BAD_FLAG } else { fault };
    if key.len() > KEY_BYTES_MAX {
        return refuse(told(BAD_FORMAT), consumed);
    }
    let words = &line[from..];
    if name == Name::Get
        && let Some(letters) = Letters::plain(words)
        && !letters.has(b'b')
    {
        return Step::Command {
            command: Command { key: Key::new(key), verb: letters.get(), value: Value::EMPTY },
            framing: framing(session, name, letters, words),
            consumed,
        };
    }
    if too_many(words, META_WORDS_MAX - 2) {
        return refuse(told(TOO_MANY), consumed);
    }
    let mut flags = Flags::default();
    let key = match flags.read(words).and_then(|()| flags.key(key)) {
        Ok(key) => key,
        Err(fault) => return refuse(told(fault), consumed),
    };
    let verb = match name {
        Name::Get => flags.get(),
        Name::Delete => flags.delete(),
        _ => match flags.arithmetic() {
            Some(verb) => verb,
            None => return refuse("CLIENT_ERROR invalid mode for ma M token", consumed),
        },
    };
    if flags.opaque_too_long {
        return refuse(OPAQUE_TOO_LONG, consumed);
    }
    Step::Command {
        command: Command { key, verb, value: Value::EMPTY },
        framing: framing(session, name, flags.letters, words),
        consumed,
    }
}

fn framing<'a>(session: &Session, name: Name, letters: Letters, words: &'a [u8]) -> Framing<'a> {
    let head = Head {
        name,
        quiet: letters.has(b'q'),
        value: letters.has(b'v'),
        encoded: letters.has(b'b'),
        cas_disabled: session.options.cas_disabled,
    };
    Framing { head: super::Head::Meta(head), words }
}

/// `me key [b]`.
fn inspect<'a>(session: &Session, line: &'a [u8], consumed: usize) -> Step<'a> {
    let (key, from) = key_of(line);
    let words = &line[from..];
    let encoded = &words[..scan::word_end(words, 0)] == b"b";
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return refuse(BAD_FORMAT, consumed);
    }
    let Some(key) = (if encoded { Key::from_base64(key) } else { Some(Key::new(key)) }) else {
        return refuse(BAD_FORMAT, consumed);
    };
    Step::Command {
        command: Command { key, verb: Verb::Inspect, value: Value::EMPTY },
        framing: framing(session, Name::Inspect, Letters::default(), words),
        consumed,
    }
}

/// Why the line of an `ms` is refused.
enum StoreFault {
    /// The length cannot be read: what follows is taken as commands.
    Length,
    /// Something else is wrong: the data goes with the line.
    Field { fault: &'static str, length: usize },
}

/// An `ms` as its line tells it.
struct StoreLine<'a> {
    key: Key<'a>,
    store: Store,
    length: usize,
    letters: Letters,
    words: &'a [u8],
}

fn parse_store(line: &[u8]) -> Result<StoreLine<'_>, StoreFault> {
    let (key, from) = key_of(line);
    let end = scan::word_end(line, from);
    let length = match scan::unsigned(&line[from..end]) {
        Some(length) if length <= LENGTH_MAX => length as usize,
        _ => return Err(StoreFault::Length),
    };
    let refused = |fault| StoreFault::Field { fault, length };
    let words = &line[scan::word_start(line, end)..];
    if key.len() > KEY_BYTES_MAX {
        return Err(refused(BAD_FORMAT));
    }
    if too_many(words, META_WORDS_MAX - 3) {
        return Err(refused(TOO_MANY));
    }
    let mut flags = Flags::default();
    flags.read(words).map_err(refused)?;
    let key = flags.key(key).map_err(refused)?;
    let store = flags.store().ok_or(refused("CLIENT_ERROR invalid mode for ms M token"))?;
    if flags.opaque_too_long {
        return Err(refused(OPAQUE_TOO_LONG));
    }
    Ok(StoreLine { key, store, length, letters: flags.letters, words })
}

/// `ms key length flags*` and the value.
fn store<'a>(session: &mut Session, input: &'a [u8], line: &'a [u8], head_bytes: usize) -> Step<'a> {
    let line = match parse_store(line) {
        Ok(line) => line,
        Err(StoreFault::Length) => return refuse(BAD_FORMAT, head_bytes),
        Err(StoreFault::Field { fault, length }) => {
            session.swallow((length + LINE_END.len()) as u64, Door::Text);
            return refuse(fault, head_bytes);
        }
    };
    if item_total_bytes(line.key.bytes.len(), line.length) > session.options.item_bytes_max as usize {
        session.swallow((line.length + LINE_END.len()) as u64, Door::Text);
        return stored(session, &line, Value::Dropped { bytes: line.length }, head_bytes);
    }
    if line.length > INLINE_VALUE_BYTES_MAX {
        return Step::Body { head: head_bytes, body: line.length, tail: LINE_END.len() };
    }
    let value_end = head_bytes + line.length;
    let consumed = value_end + LINE_END.len();
    match input.get(value_end..consumed) {
        None => Step::Incomplete { needed: consumed },
        Some(LINE_END) => stored(session, &line, Value::Bytes(&input[head_bytes..value_end]), consumed),
        Some(_) => refuse(BAD_DATA, consumed),
    }
}

fn stored<'a>(session: &Session, line: &StoreLine<'a>, value: Value<'a>, consumed: usize) -> Step<'a> {
    Step::Command {
        command: Command { key: line.key, verb: Verb::Store(line.store), value },
        framing: framing(session, Name::Store, line.letters, line.words),
        consumed,
    }
}

/// The step of a large `ms` whose value has arrived or was dropped; `head` is its line, `tail` what came behind the value.
pub(super) fn resume<'a>(session: &mut Session, head: &'a [u8], value: Value<'a>, tail: &'a [u8]) -> Step<'a> {
    // `step` has accepted this very line when it asked for the body.
    let Ok(line) = parse_store(scan::line(head, head.len().saturating_sub(1))) else {
        return refuse(BAD_FORMAT, head.len());
    };
    if tail != LINE_END {
        return refuse(BAD_DATA, head.len());
    }
    stored(session, &line, value, head.len())
}

/// Whether there are more than `count_max` words.
fn too_many(words: &[u8], count_max: usize) -> bool {
    // A word and its space take two bytes.
    words.len() >= 2 * count_max && Tokens { words }.nth(count_max).is_some()
}

/// The words of a line, one after the other.
struct Tokens<'a> {
    words: &'a [u8],
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.words.is_empty() {
            return None;
        }
        // Most flags are one letter.
        let end = if let [_] | [_, b' ', ..] = self.words { 1 } else { scan::word_end(self.words, 0) };
        let word = &self.words[..end];
        self.words = &self.words[scan::word_start(self.words, end)..];
        Some(word)
    }
}

/// Which flags a line has: one bit for each letter from `A` to `z`.
#[derive(Clone, Copy, Default)]
struct Letters(u64);

impl Letters {
    /// Those of a line whose flags have no tokens, or an opaque of good length: most lines. `None` for any other line, right
    /// or wrong.
    #[inline]
    fn plain(words: &[u8]) -> Option<Self> {
        let mut letters = Self::default();
        for word in (Tokens { words }) {
            let letter = word[0];
            let plain = if word.len() == 1 { PLAIN.has(letter) } else { letter == b'O' && word.len() <= META_OPAQUE_BYTES_MAX };
            if !plain || letters.has(letter) {
                return None;
            }
            letters = letters.with(letter);
        }
        Some(letters)
    }

    #[inline]
    const fn has(self, letter: u8) -> bool {
        self.0 & Self::bit(letter) != 0
    }

    #[inline]
    const fn with(self, letter: u8) -> Self {
        Self(self.0 | Self::bit(letter))
    }

    /// 0 for what is no letter.
    #[inline]
    const fn bit(letter: u8) -> u64 {
        match letter {
            b'A'..=b'z' => 1 << (letter - b'A'),
            _ => 0,
        }
    }

    const fn all(letters: &[u8]) -> Self {
        let mut all = Self(0);
        let mut at = 0;
        while at < letters.len() {
            all = all.with(letters[at]);
            at += 1;
        }
        all
    }

    /// An `mg` with these flags only.
    #[inline]
    fn get(self) -> Verb {
        Verb::Get(Get { meta: true, peek: self.has(b'u'), ..Get::default() })
    }
}

/// Flags that may stand alone.
const PLAIN: Letters = Letters::all(b"bcfhklqstuvxILOP");

/// The flags of a line.
#[derive(Clone, Copy, Default)]
struct Flags {
    letters: Letters,
    touch: Option<Exptime>,
    vivify: Option<Exptime>,
    /// Exptime of an item that `mg` or `ma` creates: that of `N`, or of a `T` behind it.
    created: Option<Exptime>,
    recache: Option<Exptime>,
    compare: Option<u64>,
    cas_new: Option<u64>,
    client_flags: u32,
    /// Letter of `M`, 0 where there is none.
    mode: u8,
    delta: Option<u64>,
    initial: u64,
    /// `t` stands in front of `T`.
    remaining_before: bool,
    /// `R` stands in front of `T`.
    recache_before: bool,
    opaque_too_long: bool,
}

impl Flags {
    /// Reads the flags. A letter that is there twice or unknown is told at once, of wrong tokens the last.
    fn read(&mut self, words: &[u8]) -> Result<(), &'static str> {
        let mut fault = None;
        for word in (Tokens { words }) {
            let letter = word[0];
            if letter >= 127 || self.has(letter) {
                return Err("CLIENT_ERROR duplicate flag");
            }
            self.letters = self.letters.with(letter);
            if let Err(wrong) = self.take(letter, &word[1..])? {
                fault = Some(wrong);
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// Takes one flag. The outer error is an unknown letter, the inner one a wrong token.
    #[inline]
    fn take(&mut self, letter: u8, token: &[u8]) -> Result<Result<(), &'static str>, &'static str> {
        let taken = match letter {
            b'b' | b'c' | b'f' | b'h' | b'k' | b'l' | b'q' | b's' | b't' | b'u' | b'v' | b'x' | b'I' | b'L' | b'P' => Ok(()),
            b'O' => {
                self.opaque_too_long = token.len() + 1 > META_OPAQUE_BYTES_MAX;
                Ok(())
            }
            b'T' => {
                self.remaining_before = self.has(b't');
                self.recache_before = self.has(b'R');
                exptime(token).map(|exptime| {
                    self.touch = Some(exptime);
                    self.created = self.created.map(|_| exptime);
                })
            }
            b'N' => exptime(token).map(|exptime| {
                self.vivify = Some(exptime);
                self.created = Some(exptime);
            }),
            b'R' => exptime(token).map(|exptime| self.recache = Some(exptime)),
            b'C' => number(token, BAD_TOKEN).map(|cas| self.compare = Some(cas)),
            b'E' => number(token, BAD_TOKEN).map(|cas| self.cas_new = Some(cas)),
            b'F' => scan::unsigned32(token).ok_or(BAD_FORMAT).map(|client_flags| self.client_flags = client_flags),
            b'J' => number(token, "CLIENT_ERROR invalid numeric initial value").map(|initial| self.initial = initial),
            b'D' => number(token, "CLIENT_ERROR invalid numeric delta value").map(|delta| self.delta = Some(delta)),
            b'M' => {
                // Without a letter it is a mode that no command has.
                self.mode = token.first().copied().unwrap_or(b' ');
                Ok(())
            }
            _ => return Err("CLIENT_ERROR invalid flag"),
        };
        Ok(taken)
    }

    #[inline]
    fn has(&self, letter: u8) -> bool {
        self.letters.has(letter)
    }

    /// The key of a line with these flags.
    fn key<'a>(&self, key: &'a [u8]) -> Result<Key<'a>, &'static str> {
        if self.has(b'b') { Key::from_base64(key).ok_or("CLIENT_ERROR error decoding key") } else { Ok(Key::new(key)) }
    }

    fn get(&self) -> Verb {
        Verb::Get(Get {
            touch: self.touch,
            vivify: self.created,
            recache: self.recache,
            recache_before: self.recache_before,
            cas_new: self.cas_new,
            meta: true,
            peek: self.has(b'u'),
            remaining_before: self.remaining_before,
        })
    }

    fn delete(&self) -> Verb {
        Verb::Delete(Delete {
            compare: self.compare,
            cas_new: self.cas_new,
            invalidate: self.has(b'I'),
            touch: self.touch,
            drop_value: self.has(b'x'),
        })
    }

    /// `None` for an unknown mode.
    fn arithmetic(&self) -> Option<Verb> {
        let decrement = match self.mode {
            0 | b'I' | b'+' => false,
            b'D' | b'-' => true,
            _ => return None,
        };
        Some(Verb::Arithmetic(Arithmetic {
            delta: self.delta.unwrap_or(1),
            decrement,
            // As in memcached, 0 compares with nothing here.
            compare: self.compare.filter(|&cas| cas != 0),
            cas_new: self.cas_new,
            vivify: self.created,
            initial: self.initial,
            touch: self.touch,
            meta: true,
            remaining_before: self.remaining_before,
        }))
    }

    /// `None` for an unknown mode.
    fn store(&self) -> Option<Store> {
        let mode = match self.mode {
            0 | b'S' => StoreMode::Set,
            b'E' => StoreMode::Add,
            b'R' => StoreMode::Replace,
            b'A' => StoreMode::Append,
            b'P' => StoreMode::Prepend,
            _ => return None,
        };
        let joins = matches!(mode, StoreMode::Append | StoreMode::Prepend);
        let compare = match mode {
            StoreMode::Add => None,
            _ if joins => self.compare.filter(|&cas| cas != 0),
            _ => self.compare,
        };
        Some(Store {
            // A compared replace is a compared set: both want the item.
            mode: if compare.is_some() && !joins { StoreMode::Set } else { mode },
            client_flags: self.client_flags,
            exptime: self.touch.unwrap_or_default(),
            compare,
            cas_new: self.cas_new,
            invalidate: self.has(b'I') && compare.is_some() && !joins,
            vivify: self.vivify.filter(|_| joins),
            remove_on_failure: true,
        })
    }
}

#[inline]
fn exptime(token: &[u8]) -> Result<Exptime, &'static str> {
    scan::signed(token).map(Exptime::of_line).ok_or(BAD_TOKEN)
}

#[inline]
fn number(token: &[u8], fault: &'static str) -> Result<u64, &'static str> {
    scan::unsigned(token).ok_or(fault)
}

/// Writes the reply of one meta command.
#[inline]
pub(super) fn encode(head: Head, words: &[u8], key: &[u8], reply: &Reply<'_>, output: &mut Buffer) {
    match (reply, head.name) {
        (Reply::Item(item), Name::Inspect) => encode_inspected(key, item, output),
        (Reply::Item(item), _) => encode_item(head, words, key, item, output),
        (Reply::NotFound, Name::Inspect) => output.put(b"EN\r\n"),
        (Reply::NotFound, Name::Get) if head.quiet => {}
        (Reply::NotFound, Name::Get) => encode_status(head, b"EN", words, key, None, output),
        (Reply::NotFound, _) => encode_status(head, b"NF", words, key, None, output),
        (Reply::NotStored, _) => encode_status(head, b"NS", words, key, None, output),
        (Reply::Exists, _) => encode_status(head, b"EX", words, key, None, output),
        (Reply::Stored(_) | Reply::Number { .. } | Reply::Deleted, _) if head.quiet => {}
        (Reply::Stored(item), _) => encode_status(head, b"HD", words, key, Some(item), output),
        (Reply::Number { number, item, .. }, _) => encode_number(head, words, key, *number, item, output),
        (Reply::Deleted, _) => encode_status(head, b"HD", words, key, None, output),
        (Reply::Error(error), _) => {
            output.put(error_line(*error).as_bytes());
            output.put(LINE_END);
        }
        _ => {
            debug_assert!(false, "no such reply to a meta command");
            output.put(b"SERVER_ERROR out of memory\r\n");
        }
    }
}

/// A hit of `mg`.
#[inline]
fn encode_item(head: Head, words: &[u8], key: &[u8], item: &Item<'_>, output: &mut Buffer) {
    let value = head.value && !is_known(words, item.cas);
    if value {
        output.put(b"VA ");
        output.put_number(item.value.len() as u64);
    } else {
        output.put(b"HD");
    }
    encode_words(head, words, key, Some((item, item.value.len())), output);
    for (shown, flag) in [(item.token_sent, b" Z"), (item.stale, b" X"), (item.won, b" W")] {
        if shown {
            output.put(flag);
        }
    }
    output.put(LINE_END);
    if value {
        output.put_value(item.value);
        output.put(LINE_END);
    }
}

/// Whether flag `C` says that the client has the value with this CAS already.
fn is_known(words: &[u8], cas: u64) -> bool {
    Tokens { words }.any(|word| word[0] == b'C' && scan::unsigned(&word[1..]) == Some(cas))
}

/// A result of `ma`.
fn encode_number(head: Head, words: &[u8], key: &[u8], number: u64, item: &Item<'_>, output: &mut Buffer) {
    if !head.value {
        return encode_status(head, b"HD", words, key, Some(item), output);
    }
    output.put(b"VA ");
    output.put_number(number.checked_ilog10().map_or(1, |log| u64::from(log) + 1));
    encode_words(head, words, key, Some((item, 0)), output);
    output.put(LINE_END);
    output.put_number(number);
    output.put(LINE_END);
}

/// A status word and the flags.
fn encode_status(head: Head, status: &[u8], words: &[u8], key: &[u8], item: Option<&Item<'_>>, output: &mut Buffer) {
    output.put(status);
    encode_words(head, words, key, item.map(|item| (item, item.stored_bytes as usize)), output);
    output.put(LINE_END);
}

/// The flags that a reply repeats, in the order of the request, with the item and the length of its value if there is one.
fn encode_words(head: Head, words: &[u8], key: &[u8], item: Option<(&Item<'_>, usize)>, output: &mut Buffer) {
    for word in (Tokens { words }) {
        match word[0] {
            b'O' => {
                output.put(b" ");
                output.put(word);
            }
            b'k' => {
                output.put(b" k");
                output.put(key);
                if head.encoded {
                    output.put(b" b");
                }
            }
            letter => match item {
                Some((item, value_bytes)) => encode_property(head, letter, item, value_bytes, output),
                // An `ms` that has stored nothing shows a CAS all the same.
                None if letter == b'c' && head.name == Name::Store => output.put(b" c0"),
                None => {}
            },
        }
    }
}

/// One flag that tells of the item, if the command has it.
fn encode_property(head: Head, letter: u8, item: &Item<'_>, value_bytes: usize, output: &mut Buffer) {
    let number = match (letter, head.name) {
        (b'c', _) => {
            if head.cas_disabled {
                0
            } else {
                item.cas
            }
        }
        (b's', Name::Get | Name::Store) => value_bytes as u64,
        (b't', Name::Get | Name::Arithmetic) => match item.remaining_s {
            Some(seconds) => seconds.into(),
            None => return output.put(b" t-1"),
        },
        (b'f', Name::Get) => item.client_flags.into(),
        (b'l', Name::Get) => item.idle_s.into(),
        (b'h', Name::Get) => item.fetched.into(),
        _ => return,
    };
    // ` ` letter number, written from its end.
    let mut text = [0; 22];
    let mut at = text.len();
    let mut rest = number;
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text[at - 1] = letter;
    text[at - 2] = b' ';
    output.put(&text[at - 2..]);
}

/// The line of `me`. We have no slab classes: `cls` is always 1.
fn encode_inspected(key: &[u8], item: &Item<'_>, output: &mut Buffer) {
    output.put(b"ME ");
    output.put(key);
    match item.remaining_s {
        Some(seconds) => {
            output.put(b" exp=");
            output.put_number(seconds.into());
        }
        None => output.put(b" exp=-1"),
    }
    output.put(b" la=");
    output.put_number(item.idle_s.into());
    output.put(b" cas=");
    output.put_number(item.cas);
    output.put(if item.fetched { b" fetch=yes" } else { b" fetch=no" });
    output.put(b" cls=1 size=");
    output.put_number(item.total_bytes.into());
    output.put(LINE_END);
}

/// Largest length of a data block that is believed. memcached: `INT_MAX - 2`.
const LENGTH_MAX: u64 = i32::MAX as u64 - 2;

const BAD_FLAG: &str = "CLIENT_ERROR invalid or duplicate flag";
const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
const TOO_MANY: &str = "CLIENT_ERROR options flags are too long";
const OPAQUE_TOO_LONG: &str = "CLIENT_ERROR opaque token too long";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn plain_flags_are_what_any_line_has() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut taken = 0;
        for _ in 0..20_000 {
            let mut words = Vec::new();
            for _ in 0..random.below(7) {
                words.push(random.pick(b"bcfhklqstuvxILOPOTNRCEFMJDaAz!~5"));
                words.extend(random.pick(&[&b" "[..], b" ", b" ", b"  ", b"12 ", b"x "]));
            }
            if let Some(letters) = Letters::plain(&words) {
                let mut flags = Flags::default();
                assert_eq!(flags.read(&words), Ok(()), "{}", words.escape_ascii());
                assert_eq!((letters.0, letters.get()), (flags.letters.0, flags.get()), "{}", words.escape_ascii());
                assert!(!flags.opaque_too_long);
                taken += 1;
            }
        }
        assert!(taken > 1_000, "{taken}");
    }

    #[test]
    fn plain_flags_stop_where_a_token_or_a_fault_is() {
        for words in [&b"v v"[..], b"T0", b"v T0 s", b"\x7f", b"a", b"v!", b"O0123456789012345678901234567890123456789"] {
            assert!(Letters::plain(words).is_none(), "{}", words.escape_ascii());
        }
        assert!(Letters::plain(b"").is_some());
        assert!(Letters::plain(b"b c f h k l q s t u v x I L O1 P").is_some());
    }

    #[test]
    fn words_are_counted_up_to_the_bound() {
        assert!(!too_many(b"a b c", 3));
        assert!(too_many(b"a b c d", 3));
        assert!(!too_many(b"aaaaaa   b   ", 3));
    }
}

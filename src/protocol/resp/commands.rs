//! What each command means: from its words to a verb, an answer, or a question to the node.
//!
//! ```text
//!   SET k v NX         -> Verb::Store { mode: Add }     form Set
//!   MGET a b           -> Verb::Get, Verb::Get          form Value: a plan sees one key at a time
//!   PING               -> answer                        form Simple
//!   FLUSHALL           -> Control::FlushAll             form Set
//! ```
//!
//! Lives here: plans of the rows. Not here: how words were found (`mod`), what a verb does to an item (`engine`).
//! Options, their order and the words of errors follow Redis 7.0: `t_string.c`, `expire.c`, `networking.c`.

use arrayvec::ArrayVec;

use super::answer::Form;
use super::{Conversation, Quiet};
use crate::command::{Command, Control, Delete, Get, Reply, Store, StoreMode, Value, Verb};
use crate::key::Key;
use crate::limits::KEY_BYTES_MAX;
use crate::protocol::Options;
use crate::time::Exptime;

/// A command whose words are all there: of one that is taken key by key, those of one key.
pub(super) struct Call<'s, 'a> {
    /// The words behind the name, as many as fit. The value is empty here if it is long.
    pub words: ArrayVec<&'a [u8], WORDS_MAX>,
    /// How many there are.
    pub count: u32,
    /// The word that is a value.
    pub value: Value<'a>,
    /// What the node is told to allow.
    pub options: Options,
    /// What the conversation is at.
    pub conversation: &'s mut Conversation,
}

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Deed<'a> {
    /// For the shard.
    Command(Command<'a>, Form),
    /// An answer that needs nobody.
    Answer(Reply<'a>, Form),
    /// The same, though answers are not wanted.
    Loud(Reply<'a>, Form),
    /// No answer.
    Nothing,
    /// An answer, and the connection is closed.
    Last(Reply<'a>, Form),
    /// For the node.
    Control(Control<'a>, Form),
}

/// Why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// In these words, the code first.
    Line(&'static str),
    /// It takes other arguments.
    Arity,
}

/// Words behind the name that a plan can look at.
pub(super) const WORDS_MAX: usize = 16;

type Planned<'a> = Result<Deed<'a>, Refusal>;

impl<'a> Call<'_, 'a> {
    fn word(&self, index: usize) -> &'a [u8] {
        self.words.get(index).copied().unwrap_or(b"")
    }

    /// The deed of a read of the first word, or of something else that finds nothing where no key can be.
    fn read(&self, verb: Verb, form: Form) -> Planned<'a> {
        let key = self.word(0);
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Ok(Deed::Answer(Reply::NotFound, form));
        }
        Ok(Deed::Command(Command { key: Key::new(key), verb, value: Value::EMPTY }, form))
    }

    /// The deed of a write to the first word.
    fn write(&self, verb: Verb, form: Form) -> Planned<'a> {
        let key = self.word(0);
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Refusal::Line("ERR a key has 1 to 250 bytes here"));
        }
        Ok(Deed::Command(Command { key: Key::new(key), verb, value: self.value }, form))
    }
}

/// Whether a word is an option, in any case.
fn is(word: &[u8], option: &str) -> bool {
    word.eq_ignore_ascii_case(option.as_bytes())
}

pub(super) fn get<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    call.read(Verb::Get(Get::default()), Form::Value)
}

pub(super) fn strlen<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    call.read(Verb::Get(Get::default()), Form::Length)
}

pub(super) fn type_of<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    call.read(Verb::Inspect, Form::Type)
}

pub(super) fn exists<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    call.read(Verb::Inspect, Form::Flag)
}

pub(super) fn touch<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    call.read(Verb::Get(Get::default()), Form::Flag)
}

pub(super) fn delete<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    call.read(Verb::Delete(Delete::default()), Form::Flag)
}

/// `SET key value [NX|XX]`, and one pair of `MSET`.
pub(super) fn set<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    let mut store = Store::default();
    for index in 2..call.count as usize {
        match call.word(index) {
            word if is(word, "nx") && store.mode != StoreMode::Replace => store.mode = StoreMode::Add,
            word if is(word, "xx") && store.mode != StoreMode::Add => store.mode = StoreMode::Replace,
            _ => return Err(SYNTAX),
        }
    }
    call.write(Verb::Store(store), Form::Set)
}

pub(super) fn setnx<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    call.write(Verb::Store(Store { mode: StoreMode::Add, ..Store::default() }), Form::Flag)
}

pub(super) fn append<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    let store = Store { mode: StoreMode::Append, vivify: Some(Exptime::NEVER), ..Store::default() };
    call.write(Verb::Store(store), Form::Length)
}

/// `FLUSHALL [ASYNC|SYNC]`, `FLUSHDB`: there is one database.
pub(super) fn flush<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    if call.count > 1 || (call.count == 1 && !is(call.word(0), "async") && !is(call.word(0), "sync")) {
        return Err(SYNTAX);
    }
    if call.options.flush_disabled {
        return Err(Refusal::Line("ERR flushing is disabled on this node"));
    }
    Ok(Deed::Control(Control::FlushAll { delay: Exptime::NEVER }, Form::Set))
}

pub(super) fn ping<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    match call.count {
        0 => Ok(Deed::Answer(Reply::Text(b"PONG"), Form::Simple)),
        1 => Ok(Deed::Answer(Reply::Text(call.word(0)), Form::Bulk)),
        _ => Err(Refusal::Arity),
    }
}

pub(super) fn echo<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    Ok(Deed::Answer(Reply::Text(call.word(0)), Form::Bulk))
}

/// `AUTH [username] password`: nobody has a password, and there is one user.
pub(super) fn auth<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    match call.count {
        1 => Err(NO_PASSWORD),
        2 if call.word(0) == DEFAULT_USER => Ok(Deed::Answer(Reply::Ok, Form::Set)),
        2 => Err(WRONG_PASSWORD),
        _ => Err(SYNTAX),
    }
}

/// `SELECT index`.
pub(super) fn select<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    match super::wire::number(call.word(0)) {
        Some(0) => Ok(Deed::Answer(Reply::Ok, Form::Set)),
        Some(number) if i32::try_from(number).is_ok() => Err(Refusal::Line("ERR DB index is out of range")),
        Some(_) => Err(Refusal::Line("ERR value is out of range, value must between -2147483648 and 2147483647")),
        None => Err(NO_INTEGER),
    }
}

pub(super) fn quit<'a>(_: &mut Call<'_, 'a>) -> Planned<'a> {
    Ok(Deed::Last(Reply::Ok, Form::Set))
}

pub(super) fn reset<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    (call.conversation.resp3, call.conversation.quiet) = (false, Quiet::No);
    Ok(Deed::Answer(Reply::Text(b"RESET"), Form::Simple))
}

/// `CLIENT REPLY ON | OFF | SKIP`.
pub(super) fn client_reply<'a>(call: &mut Call<'_, 'a>) -> Planned<'a> {
    let quiet = &mut call.conversation.quiet;
    match call.words.first() {
        Some(word) if is(word, "on") => {
            *quiet = Quiet::No;
            Ok(Deed::Loud(Reply::Ok, Form::Set))
        }
        Some(word) if is(word, "off") => {
            *quiet = Quiet::Yes;
            Ok(Deed::Nothing)
        }
        Some(word) if is(word, "skip") => {
            *quiet = if *quiet == Quiet::Yes { Quiet::Yes } else { Quiet::Next };
            Ok(Deed::Nothing)
        }
        _ => Err(SYNTAX),
    }
}

/// What has subcommands is not asked for itself.
pub(super) fn container<'a>(_: &mut Call<'_, 'a>) -> Planned<'a> {
    Err(Refusal::Arity)
}

const NO_INTEGER: Refusal = Refusal::Line("ERR value is not an integer or out of range");
const SYNTAX: Refusal = Refusal::Line("ERR syntax error");
const NO_PASSWORD: Refusal = Refusal::Line(
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
);
const WRONG_PASSWORD: Refusal = Refusal::Line("WRONGPASS invalid username-password pair or user is disabled.");
const DEFAULT_USER: &[u8] = b"default";

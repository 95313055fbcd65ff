//! Every command of the door, one row each: what it is called, what it takes, and what becomes of it.
//!
//! ```text
//!   row:  name | arity | flags | keys first last step | fan | which argument is a value | plan | group, release, summary
//!
//!   name --find--> row --+-- arity, unknown subcommands --> errors
//!                        +-- fan: one step, or one per key
//!                        +-- plan --> Verb, answer or question to the node
//!                        +-- COMMAND (COUNT LIST INFO DOCS GETKEYS)
//! ```
//!
//! What is not here is answered `ERR unknown command`. A subcommand is a row of its own, `client|id`.
//!
//! Lives here: the rows and how they are found. Not here: what their plans do (`commands`).
//! Names, arities, flags and keys are those of Redis 7.0 (`src/commands/*.json`), and of 7.2 where the row says so.

use super::commands::{self as plans, Call, Deed, Refusal};

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// In lower case; of a subcommand with its command in front: `client|id`.
    pub name: &'static str,
    /// How many words, the name included; of a negative number at least as many as it says.
    pub arity: i8,
    /// What it does, as clients are told: see `FLAGS`.
    pub flags: u16,
    /// Which words are keys.
    pub keys: Keys,
    /// Whether it is one command or one per key.
    pub fan: Fan,
    /// Which word may be long, because it is a value; 0 for none.
    pub value: u8,
    pub(super) plan: Plan,
    /// Heading in the documentation.
    pub group: &'static str,
    /// The release of Redis that has it first.
    pub since: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
}

/// What becomes of a command whose words are there.
pub(super) type Plan = for<'a> fn(&mut Call<'_, 'a>) -> Result<Deed<'a>, Refusal>;

/// Which words are keys: the first, the last (negative from the end), and every how many. 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Word of the first key; the name is word 0.
    pub first: i8,
    /// Word of the last.
    pub last: i8,
    /// From one to the next.
    pub step: i8,
}

/// How a command with several keys is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fan {
    /// As one.
    One,
    /// Key by key; the answers are an array.
    Each,
    /// Key by key; the answers are numbers that are added.
    Sum,
    /// Key by key, each with a value behind; the answer is `OK`.
    AllOk,
}

/// Changes data.
pub const WRITE: u16 = 1;
/// Shows data.
pub const READONLY: u16 = 1 << 1;
/// May need memory.
pub const DENYOOM: u16 = 1 << 2;
/// About the node.
pub const ADMIN: u16 = 1 << 3;
/// Not from a script.
pub const NOSCRIPT: u16 = 1 << 4;
/// While data is loaded, too.
pub const LOADING: u16 = 1 << 5;
/// On a stale replica, too.
pub const STALE: u16 = 1 << 6;
/// In constant time.
pub const FAST: u16 = 1 << 7;
/// Before a client has said who it is.
pub const NO_AUTH: u16 = 1 << 8;
/// While a script is busy, too.
pub const ALLOW_BUSY: u16 = 1 << 9;

/// The words for the flags, in their order.
pub const FLAGS: [&str; 10] =
    ["write", "readonly", "denyoom", "admin", "noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];

/// Of commands about the connection.
const PLAIN: u16 = LOADING | STALE;
/// The same, as quick as may be.
const QUICK: u16 = LOADING | STALE | FAST;

impl Row {
    const fn key(self) -> Self {
        Self { keys: Keys { first: 1, last: 1, step: 1 }, ..self }
    }

    const fn fan(self, fan: Fan) -> Self {
        let step = if matches!(fan, Fan::AllOk) { 2 } else { 1 };
        Self { keys: Keys { first: 1, last: -1, step }, fan, ..self }
    }

    const fn value(self, value: u8) -> Self {
        Self { value, ..self.key() }
    }

    /// Whether so many words may be.
    pub fn takes(&self, words: u32) -> bool {
        let arity = u32::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= arity } else { words == arity }
    }

    /// Whether it has subcommands, and is none.
    pub fn is_container(&self) -> bool {
        subcommands(self).next().is_some()
    }

    /// Its name without that of the command that it belongs to.
    pub fn short_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, short)| short)
    }
}

/// The rows that are no subcommands.
pub fn commands() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| !row.name.contains('|'))
}

/// The subcommands of a command.
pub fn subcommands(row: &Row) -> impl Iterator<Item = &'static Row> {
    let name = row.name;
    ROWS.iter().filter(move |other| other.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('|')))
}

/// The row of a command; names are the same in any case. A few comparisons of two words.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Row> {
    let code = code_of(name)?;
    CODES.binary_search(&code).ok().map(|index| &ROWS[index])
}

/// The row of a subcommand.
pub fn find_in(row: &Row, subcommand: &[u8]) -> Option<&'static Row> {
    subcommands(row).find(|other| other.short_name().as_bytes().eq_ignore_ascii_case(subcommand))
}

/// The place of a row in the table, by which heads and errors tell of it.
pub(super) fn row_of(row: &Row) -> u32 {
    let code = code_of(row.name.as_bytes()).unwrap_or_default();
    CODES.binary_search(&code).unwrap_or_default() as u32
}

/// The name as a number that sorts as the name does. `None` if it is longer than any.
const fn code_of(name: &[u8]) -> Option<u128> {
    if name.len() > size_of::<u128>() {
        return None;
    }
    let (mut code, mut at) = (0u128, 0);
    while at < name.len() {
        code = code << 8 | name[at].to_ascii_lowercase() as u128;
        at += 1;
    }
    Some(code << (8 * (size_of::<u128>() - name.len()) % 128))
}

const CODES: [u128; ROWS.len()] = {
    let mut codes = [0; ROWS.len()];
    let mut at = 0;
    while at < ROWS.len() {
        codes[at] = match code_of(ROWS[at].name.as_bytes()) {
            Some(code) => code,
            None => panic!("a name longer than 16 letters"),
        };
        assert!(at == 0 || codes[at - 1] < codes[at], "rows stand in the order of their names");
        at += 1;
    }
    codes
};

const fn row(name: &'static str, arity: i8, flags: u16, plan: Plan, since: &'static str, summary: &'static str) -> Row {
    let group = if flags & (LOADING | ADMIN) != 0 { "connection" } else { "generic" };
    Row { name, arity, flags, keys: Keys { first: 0, last: 0, step: 0 }, fan: Fan::One, value: 0, plan, group, since, summary }
}

/// A row of the group "string".
const fn string(name: &'static str, arity: i8, flags: u16, plan: Plan, since: &'static str, summary: &'static str) -> Row {
    Row { group: "string", ..row(name, arity, flags, plan, since, summary) }
}

/// A row of the group "server".
const fn server(name: &'static str, arity: i8, flags: u16, plan: Plan, since: &'static str, summary: &'static str) -> Row {
    Row { group: "server", ..row(name, arity, flags, plan, since, summary) }
}

/// Every command, in the order of the names.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    string("append", 3, WRITE | DENYOOM | FAST, plans::append, "2.0.0", "Adds to the end of a value, which is made if it is not there.").value(2),
    row("auth", -2, NOSCRIPT | QUICK | NO_AUTH | ALLOW_BUSY, plans::auth, "1.0.0", "Says who the client is."),
    row("client", -2, 0, plans::container, "2.4.0", "About connections."),
    row("client|reply", 3, NOSCRIPT | PLAIN, plans::client_reply, "3.2.0", "Says whether answers are wanted."),
    row("del", -2, WRITE, plans::delete, "1.0.0", "Removes keys.").fan(Fan::Sum),
    row("echo", 2, QUICK, plans::echo, "1.0.0", "Answers the message."),
    row("exists", -2, READONLY | FAST, plans::exists, "1.0.0", "Counts the keys that are there.").fan(Fan::Sum),
    server("flushall", -1, WRITE, plans::flush, "1.0.0", "Removes everything."),
    server("flushdb", -1, WRITE, plans::flush, "1.0.0", "Removes everything in the database."),
    string("get", 2, READONLY | FAST, plans::get, "1.0.0", "Shows a value.").key(),
    string("mget", -2, READONLY | FAST, plans::get, "1.0.0", "Shows values.").fan(Fan::Each),
    string("mset", -3, WRITE | DENYOOM, plans::set, "1.0.1", "Sets values, key by key.").fan(Fan::AllOk),
    row("ping", -1, FAST, plans::ping, "1.0.0", "Answers PONG, or the message."),
    row("quit", -1, NOSCRIPT | QUICK | NO_AUTH | ALLOW_BUSY, plans::quit, "1.0.0", "Closes the connection."),
    row("reset", 1, NOSCRIPT | QUICK | NO_AUTH | ALLOW_BUSY, plans::reset, "6.2.0", "Makes the connection as new."),
    row("select", 2, QUICK, plans::select, "1.0.0", "Chooses a database; there is database 0."),
    string("set", -3, WRITE | DENYOOM, plans::set, "1.0.0", "Sets a value.").value(2),
    string("setnx", 3, WRITE | DENYOOM | FAST, plans::setnx, "1.0.0", "Sets a value that is not there.").value(2),
    string("strlen", 2, READONLY | FAST, plans::strlen, "2.2.0", "Shows the length of a value.").key(),
    row("touch", -2, READONLY | FAST, plans::touch, "3.2.1", "Counts the keys that are there, as a use of them.").fan(Fan::Sum),
    row("type", 2, READONLY | FAST, plans::type_of, "1.0.0", "Shows of which type a value is.").key(),
    row("unlink", -2, WRITE | FAST, plans::delete, "4.0.0", "Removes keys.").fan(Fan::Sum),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case_and_nothing_else_is() {
        for row in commands() {
            let upper = row.name.to_ascii_uppercase();
            let mixed: String =
                row.name.char_indices().map(|(at, c)| if at == 0 { c.to_ascii_uppercase() } else { c }).collect();
            for name in [row.name, upper.as_str(), mixed.as_str()] {
                assert_eq!(find(name.as_bytes()).map(|found| found.name), Some(row.name));
            }
            assert!(find(format!("{}x", row.name).as_bytes()).is_none());
            assert!(row.summary.ends_with('.') && !row.since.is_empty());
        }
        for name in ["", "g", "ge", "gets", "GET ", "averyveryverylongname", "client|id"] {
            assert!(find(name.as_bytes()).is_none_or(|row| row.name == "client|id"), "{name}");
        }
    }

    #[test]
    fn the_readme_names_every_command() {
        let readme = include_str!("../../../README.md");
        let (_, rest) = readme.split_once("<!-- commands of RESP -->").unwrap();
        let (section, _) = rest.split_once("\n\n").unwrap();
        let words: Vec<&str> = section.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
        for row in ROWS {
            let name = row.short_name().to_ascii_uppercase();
            assert!(words.contains(&name.as_str()), "{name} is not in the README");
        }
    }

    #[test]
    fn a_command_key_by_key_has_a_key_or_a_pair_at_least() {
        for row in ROWS.iter().filter(|row| row.fan != Fan::One) {
            assert_eq!((row.arity < 0, row.keys.first, row.keys.last), (true, 1, -1), "{}", row.name);
            assert_eq!(row.arity, if row.fan == Fan::AllOk { -3 } else { -2 }, "{}", row.name);
        }
    }
}

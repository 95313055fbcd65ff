//! `pbcache ring ..`: asks a running node about its ring, or tells it what to do.
//!
//! ```text
//!   pbcache ring status | log | leave [ID] | cancel [ID] | weight [ID] N | redundancy N | remove ID | wait ready|settled [SECONDS]
//!                [--node HOST[:PORT]] [--force] [--cluster_name NAME] [--cluster_secret_file FILE]
//! ```
//!
//! Any node will do: what is about another one is told to that one, at the address that the table has. Exit codes: 0 done or so, 1 refused or not
//! in time, 2 the words make no sense or nobody answers.
//!
//! Lives here: words of the command line. Not here: what a node does (`orders`), how it is asked (`exchange`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::exchange::{Answer, Caller};
use super::{options, secret};
use crate::arena::Arena;
use crate::peer::frame::MemberVerb;
use crate::peer::handshake::{Identity, key_of};

/// Said where the words make no sense.
const USAGE: &str = "usage: pbcache ring status | log | leave [ID] | cancel [ID] | weight [ID] N | redundancy N | remove ID | \
                     wait ready|settled [SECONDS], with --node HOST[:PORT], --force, --cluster_name NAME, --cluster_secret_file FILE";
/// What `wait` waits where no time is given, in seconds.
const WAIT_DEFAULT_S: u64 = 60;
/// How often it asks.
const WAIT_LOOK: Duration = Duration::from_millis(200);
/// memcached's port.
const PORT_DEFAULT: u16 = 11211;

/// What a command line has come to: what is to be printed, and the exit code.
pub type Done = (String, u8);

struct Words {
    words: Vec<String>,
    node: String,
    force: bool,
    caller: Caller,
}

/// Does what the words behind `pbcache ring` say.
pub fn run(words: impl Iterator<Item = String>) -> Done {
    let parsed = match parse(words) {
        Ok(parsed) => parsed,
        Err(sentence) => return (sentence, 2),
    };
    let words: Vec<&str> = parsed.words.iter().map(String::as_str).collect();
    match words[..] {
        ["wait", what @ ("ready" | "settled")] => wait(&parsed, what, WAIT_DEFAULT_S),
        ["wait", what @ ("ready" | "settled"), seconds] => match seconds.parse() {
            Ok(seconds) => wait(&parsed, what, seconds),
            Err(_) => (USAGE.into(), 2),
        },
        ["status" | "log" | "leave" | "cancel"] | ["weight" | "redundancy" | "remove", _] => {
            order(&parsed, &parsed.node, &words.join(" "))
        }
        [verb @ ("leave" | "cancel"), id] => order_at(&parsed, id, verb),
        ["weight", id, number] => order_at(&parsed, id, &format!("weight {number}")),
        _ => (USAGE.into(), 2),
    }
}

fn parse(words: impl Iterator<Item = String>) -> Result<Words, String> {
    let (mut plain, mut node, mut force) = (Vec::new(), "127.0.0.1".to_string(), false);
    let (mut cluster, mut file) = ("pbcache".to_string(), None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let (name, given) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value.to_string())));
        let mut value = || given.clone().or_else(|| words.next()).ok_or_else(|| format!("{name} needs a value. {USAGE}"));
        match name.replace('-', "_").as_str() {
            "__node" => node = value()?,
            "__cluster_name" => cluster = value()?,
            "__cluster_secret_file" => file = Some(PathBuf::from(value()?)),
            "__force" => force = true,
            _ if name.starts_with("--") => return Err(format!("there is no option {name}. {USAGE}")),
            _ => plain.push(word),
        }
    }
    let secret = secret::read_file(file.as_deref()).map_err(|error| error.0)?;
    let identity = Identity {
        cluster,
        id: format!("operator-{}", std::process::id()),
        incarnation: 1,
        view: 0,
        buckets: 0,
        redundancy: 0,
        cores: 1,
        unix_ms: 0,
        target_core: 0,
    };
    let arena = Arena::new(8 << 20, 8 << 20, 1).map_err(|error| format!("no memory: {error}"))?;
    let caller = Caller { identity, key: secret.map(|secret| key_of(&secret)), source: None, arena };
    Ok(Words { words: plain, node: options::with_port(&node, PORT_DEFAULT), force, caller })
}

fn order(words: &Words, node: &str, order: &str) -> Done {
    let order = if words.force { format!("{order} force") } else { order.to_string() };
    ask(&words.caller, node, &order)
}

fn ask(caller: &Caller, node: &str, order: &str) -> Done {
    match caller.ask(node, MemberVerb::Order, order.as_bytes()) {
        Ok(Answer::Text(text)) => (text, 0),
        Ok(Answer::Refused(why)) => (format!("refused: {why}"), 1),
        Ok(Answer::Table(_)) => ("it answers something else".into(), 2),
        Err(why) => (why, 2),
    }
}

/// Tells a node by its id, at the address that the table has.
fn order_at(words: &Words, id: &str, verb: &str) -> Done {
    let (status, code) = self::order(words, &words.node, "status");
    if code != 0 {
        return (status, code);
    }
    let of_node = |line: &str| {
        let mut fields = line.split(' ');
        (fields.next() == Some("node") && fields.next() == Some(id)).then(|| fields.next_back().unwrap_or("").to_string())
    };
    match status.lines().find_map(of_node) {
        Some(address) => order(words, &address, verb),
        None => (format!("{id} is not in the ring"), 1),
    }
}

fn wait(words: &Words, what: &str, seconds: u64) -> Done {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let (text, code) = ask(&words.caller, &words.node, "status");
        let is_so = text.lines().any(|line| line == format!("{what} yes"));
        if code == 0 && is_so {
            return (what.to_string(), 0);
        }
        if Instant::now() >= end {
            return (format!("not {what} after {seconds} s\n{text}"), 1);
        }
        std::thread::sleep(WAIT_LOOK);
    }
}

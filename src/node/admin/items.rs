//! What is told of items: lists of keys, the keys that are asked for most, memory by time to live, one key and its copies.
//!
//! ```text
//!   question --> a core at a time, a piece of a few hundred items between two of its turns --> JSON
//! ```
//!
//! Keys are shown with the token, or with `--admin_keys`. What is told of memory is an estimate from a sample, and shows no key.
//!
//! Lives here: those questions and their answers. Not here: where a key lives (`node::ring`), other nodes' copies (`others`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use super::api::{asked, json_of, key_of, number_of, own_door, parameter, silent};
use super::{App, others, problem};
use crate::engine::Cursor;
use crate::key::{self, Key};
use crate::limits;
use crate::node::control::Cores;
use crate::node::options::Options;
use crate::observe::top::TopKey;
use crate::runtime::core::Core;

/// Bytes of a value that the key inspector shows.
const SHOWN_BYTES_MAX: usize = 4 << 10;
/// Keys of one answer, and how many where nothing is said.
const KEYS_MAX: usize = 200;
const KEYS_DEFAULT: usize = 50;
/// Items that one core looks at between two turns, and pieces of that size of one question.
const PIECE_ITEMS: u32 = 200;
const PIECES_MAX: u32 = 64;
/// Pieces of each core that memory is estimated from.
const SAMPLE_PIECES: u32 = 10;
/// Keys that are told as asked for most.
const TOP_MAX: usize = 50;
/// Bounds of the classes of times to live, in seconds, and their names.
const CLASSES: [(u32, &str); 6] = [
    (60, "less than a minute"),
    (600, "less than 10 minutes"),
    (3600, "less than an hour"),
    (86_400, "less than a day"),
    (604_800, "less than a week"),
    (u32::MAX, "a week or more"),
];

/// The answer to those who may not see keys.
fn refusal(app: &App, headers: &HeaderMap) -> Option<Response> {
    let sentence = "keys and values are shown with the token of --admin_token_file, or with --admin_keys";
    (!app.guard.may_see_keys(headers)).then(|| problem(StatusCode::FORBIDDEN, sentence))
}

/// A key as JSON can have it: as text, or in base64.
fn shown(key: &[u8]) -> (String, bool) {
    std::str::from_utf8(key).map_or_else(|_| (STANDARD.encode(key), false), |text| (text.into(), true))
}

/// `/api/v1/keys`: those of this node, in no order, with what they take.
pub async fn keys(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if let Some(refusal) = refusal(&app, &headers) {
        return refusal;
    }
    let query = query.as_deref();
    let (prefix, limit) = (parameter(query, "prefix").unwrap_or(Ok(Vec::new())), number_of(query, "limit", KEYS_DEFAULT));
    let cursor = match parameter(query, "cursor") {
        None => Some((0, Cursor::default())),
        Some(text) => text.ok().and_then(|text| cursor_of(&text)).filter(|&(core, _)| core < app.ways.cores.inboxes.len()),
    };
    let (Ok(prefix), Some(limit @ 1..=KEYS_MAX), Some(cursor)) = (prefix, limit, cursor) else {
        return problem(StatusCode::BAD_REQUEST, "prefix=TEXT, limit=1 to 200 and cursor= as the last answer told it");
    };
    let asking = app.clone();
    match asked(move || list(&asking.ways.cores, &prefix, limit, cursor)).await.flatten() {
        Some(answer) => json_of(&answer),
        None => silent(),
    }
}

/// `CORE-PLACE`, as `list` tells it.
fn cursor_of(text: &[u8]) -> Option<(usize, Cursor)> {
    let (core, place) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some((core.parse().ok()?, Cursor(u64::from_str_radix(place, 16).ok()?)))
}

/// Keys with a prefix from a cursor on, about `limit` of them; `None` if a core does not answer.
fn list(cores: &Cores, prefix: &[u8], limit: usize, cursor: (usize, Cursor)) -> Option<Value> {
    let (mut found, mut next, mut looked_at) = (Vec::new(), Some(cursor), 0);
    for _ in 0..PIECES_MAX {
        let Some((core, from)) = next.filter(|_| found.len() < limit) else { break };
        let (prefix, budget) = (prefix.to_vec(), PIECE_ITEMS.min((limit - found.len()) as u32));
        let budget = if prefix.is_empty() { budget } else { PIECE_ITEMS };
        let (mut piece, count, rest) = cores.ask_one(core, move |core| keys_of(core, &prefix, from, budget))?;
        looked_at += count;
        found.append(&mut piece);
        next = match rest {
            Some(rest) => Some((core, rest)),
            None => Some((core + 1, Cursor::default())).filter(|&(core, _)| core < cores.inboxes.len()),
        };
    }
    let cursor = next.map(|(core, Cursor(place))| format!("{core}-{place:x}"));
    Some(json!({ "keys": found, "looked_at": looked_at, "cursor": cursor }))
}

fn keys_of(core: &mut Core, prefix: &[u8], from: Cursor, budget: u32) -> (Vec<Value>, u32, Option<Cursor>) {
    let (now, mut found, mut count) = (core.context.now, Vec::new(), 0);
    let rest = core.context.shard.engine.walk(from, now, budget, &mut |entry| {
        count += 1;
        if entry.key.starts_with(prefix) {
            let (key, is_text) = shown(entry.key);
            found.push(
                json!({ "key": key, "is_text": is_text, "size_bytes": entry.item.value.len(), "ttl_s": entry.item.remaining_s,
                "idle_s": entry.item.idle_s, "flags": entry.item.client_flags }),
            );
        }
    });
    (found, count, rest)
}

/// `/api/v1/top`: the keys that are asked for most at this node.
pub async fn top(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = refusal(&app, &headers) {
        return refusal;
    }
    let asking = app.clone();
    let tables = asked(move || {
        asking.ways.cores.ask(|core| {
            let now_s = core.context.now.seconds().0;
            let top = &mut core.context.shard.observer.top;
            top.age(now_s);
            (top.samples, top.keys.clone())
        })
    });
    match tables.await {
        Some(tables) => json_of(&most_wanted(&tables)),
        None => silent(),
    }
}

fn most_wanted(tables: &[(u32, Vec<TopKey>)]) -> Value {
    let samples: u64 = tables.iter().map(|(samples, _)| u64::from(*samples)).sum();
    let of_cores = tables.iter().enumerate();
    let mut keys: Vec<(usize, &TopKey)> =
        of_cores.flat_map(|(core, (_, keys))| keys.iter().map(move |key| (core, key))).collect();
    keys.sort_by_key(|(_, key)| (std::cmp::Reverse(key.count - key.error), key.error));
    let share = |count: u32| (f64::from(count) / samples.max(1) as f64 * 1e4).round() / 1e4;
    let told = keys.iter().take(TOP_MAX).map(|(core, key)| {
        let (text, is_text) = shown(key.key());
        json!({ "key": text, "is_text": is_text, "core": core, "share": share(key.count - key.error), "share_most": share(key.count),
            "reads": f64::from(key.reads) / f64::from((key.count - key.error).max(1)) })
    });
    json!({ "samples": samples, "keys": told.collect::<Vec<_>>() })
}

/// `/api/v1/memory`: items and bytes of this node by the time that they have to live.
pub async fn memory(State(app): State<Arc<App>>) -> Response {
    let asking = app.clone();
    match asked(move || by_ttl(&asking.ways.cores)).await.flatten() {
        Some(answer) => json_of(&answer),
        None => silent(),
    }
}

/// A class of times to live.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Class {
    name: &'static str,
    items: u64,
    bytes: u64,
}

/// `None` if a core does not answer.
fn by_ttl(cores: &Cores) -> Option<Value> {
    // What never expires stands behind the others.
    let mut classes = [Class::default(); CLASSES.len() + 1];
    let (mut sampled, mut items) = (0, 0);
    for core in 0..cores.inboxes.len() {
        let (mut of_core, mut seen, mut cursor) = ([(0, 0); CLASSES.len() + 1], 0, Some(Cursor::default()));
        for _ in 0..SAMPLE_PIECES {
            let Some(from) = cursor else { break };
            let (piece, rest) = cores.ask_one(core, move |core| classes_of(core, from))?;
            piece.iter().zip(&mut of_core).for_each(|(piece, total)| *total = (total.0 + piece.0, total.1 + piece.1));
            cursor = rest;
        }
        seen += of_core.iter().map(|(count, _)| count).sum::<u64>();
        let count = cores.ask_one(core, |core| core.context.shard.engine.statistics().items_count)?;
        let scale =
            |part: u64| if cursor.is_none() { part } else { (part as f64 * count as f64 / seen.max(1) as f64).round() as u64 };
        for (class, (count, bytes)) in classes.iter_mut().zip(of_core) {
            (class.items, class.bytes) = (class.items + scale(count), class.bytes + scale(bytes));
        }
        (sampled, items) = (sampled + seen, items + count);
    }
    let names = CLASSES.iter().map(|(_, name)| *name).chain(["never expires"]);
    classes.iter_mut().zip(names).for_each(|(class, name)| class.name = name);
    Some(json!({ "sampled": sampled, "items": items, "classes": classes }))
}

type Classes = [(u64, u64); CLASSES.len() + 1];

fn classes_of(core: &mut Core, from: Cursor) -> (Classes, Option<Cursor>) {
    let (now, mut classes) = (core.context.now, Classes::default());
    let rest = core.context.shard.engine.walk(from, now, PIECE_ITEMS, &mut |entry| {
        let class = match entry.item.remaining_s {
            None => CLASSES.len(),
            Some(seconds) => CLASSES.iter().position(|&(bound_s, _)| seconds < bound_s).unwrap_or(CLASSES.len() - 1),
        };
        classes[class].0 += 1;
        classes[class].1 += u64::from(entry.item.total_bytes);
    });
    (classes, rest)
}

/// `/api/v1/key`: the item as a client would get it, and what each owner has.
pub async fn key(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if let Some(refusal) = refusal(&app, &headers) {
        return refusal;
    }
    let key = match key_of(query.as_deref()) {
        Ok(key) => key,
        Err(sentence) => return problem(StatusCode::BAD_REQUEST, sentence),
    };
    let asking = app.clone();
    // The copies first: the question of a client may repair them.
    let found = asked(move || (others::copies(&asking, &key), look_up(&asking.facts.options, &key))).await;
    match found {
        Some((copies, Ok(Some(item)))) => json_of(&Found { item, copies }),
        Some((_, Ok(None))) => problem(StatusCode::NOT_FOUND, "there is no such key"),
        Some((_, Err(error))) => problem(StatusCode::BAD_GATEWAY, &format!("the node's own port does not answer: {error}")),
        None => silent(),
    }
}

/// The answer to `key`.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    item: Item,
    copies: Vec<Value>,
}

/// What is told of an item.
#[derive(Debug, Serialize)]
struct Item {
    size_bytes: usize,
    flags: u32,
    cas: u64,
    ttl_s: Option<i64>,
    idle_s: Option<u64>,
    value: String,
    is_text: bool,
    is_whole: bool,
}

/// Asks this node for a key, as a client would, through its own door: in a ring, whoever owns it answers.
fn look_up(options: &Options, key: &[u8]) -> io::Result<Option<Item>> {
    let mut stream = own_door(options)?;
    stream.write_all(format!("mg {} b v s f c t l\r\n", STANDARD.encode(key)).as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.by_ref().take(limits::LINE_BYTES_MAX as u64).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["VA", bytes, flags @ ..] = &words[..] else {
        return if words == ["EN"] { Ok(None) } else { Err(io::Error::other(line.trim_end().to_string())) };
    };
    let size_bytes: usize = bytes.parse().map_err(io::Error::other)?;
    let mut value = vec![0; size_bytes.min(SHOWN_BYTES_MAX)];
    reader.read_exact(&mut value)?;
    let flag = |letter: char| flags.iter().find_map(|flag| flag.strip_prefix(letter));
    let number = |letter: char| flag(letter).and_then(|text| text.parse::<i64>().ok());
    let text = String::from_utf8(value);
    let is_text = text.is_ok();
    Ok(Some(Item {
        size_bytes,
        flags: number('f').unwrap_or(0) as u32,
        cas: flag('c').and_then(|text| text.parse().ok()).unwrap_or(0),
        ttl_s: number('t').filter(|&seconds| seconds >= 0),
        idle_s: number('l').map(|seconds| seconds.max(0) as u64),
        value: text.unwrap_or_else(|error| STANDARD.encode(error.into_bytes())),
        is_text,
        is_whole: size_bytes <= SHOWN_BYTES_MAX,
    }))
}

/// This node's own copy of a key, tombstones included, without its value; JSON's null where there is none. `None` if the core does not answer.
pub fn copy_here(options: &Options, cores: &Cores, key: &[u8]) -> Option<Value> {
    let bucket = key::bucket_of(key::routing_hash(key), options.buckets);
    let core = key::core_of(bucket, options.buckets, options.cores);
    let key = key.to_vec();
    cores.ask_one(core.into(), move |core| {
        let now = core.context.now;
        let Some(copy) = core.context.shard.engine.copy_of(&Key::new(&key), now) else { return Value::Null };
        json!({ "version": copy.version.bits().to_string(), "written_unix_ms": copy.version.given_at().unix_ms, "size_bytes": copy.value.len(),
            "flags": copy.client_flags, "ttl_s": copy.expiry.remaining(now.seconds()), "is_deleted": copy.tombstone, "is_stale": copy.stale })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_told_and_garbage_is_none() {
        assert_eq!(cursor_of(b"3-ff0000000a"), Some((3, Cursor(0xff_0000_000a))));
        for garbage in ["", "3", "-", "3-", "x-1", "3-g", "-1-1", "3-11112222333344445"] {
            assert_eq!(cursor_of(garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!((shown(b"a b"), shown(&[255, 0])), (("a b".into(), true), ("/wA=".into(), false)));
    }
}

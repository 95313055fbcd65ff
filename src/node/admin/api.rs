//! JSON for programs and for the page: `/api/v1`, read only.
//!
//! Lives here: routes, parameters, where a key lives. Not here: shapes (`overview`), items (`items`), clients (`clients`), other nodes
//! (`others`), what changes something (`actions`).
//! Described in `openapi.json` beside this file, which the node serves too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;
use serde_json::json;

use super::{App, clients, events, items, others, overview, problem, typed};
use crate::key;
use crate::limits;
use crate::node::options::Options;
use crate::node::{ring, stats};
use crate::protocol::Protocols;

/// The description of this interface.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Longest wait for this node's own door.
const DOOR_WAIT: Duration = Duration::from_secs(5);

/// The routes.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/node", get(node))
        .route("/api/v1/ring", get(async |State(app): State<Arc<App>>| json_of(&overview::ring(&app.facts))))
        .route("/api/v1/stats", get(async |State(app): State<Arc<App>>| json_of(&overview::stats(&app.facts))))
        .route("/api/v1/settings", get(settings))
        .route("/api/v1/where", get(where_is))
        .route("/api/v1/partitions", get(partitions))
        .route("/api/v1/key", get(items::key))
        .route("/api/v1/keys", get(items::keys))
        .route("/api/v1/top", get(items::top))
        .route("/api/v1/memory", get(items::memory))
        .route("/api/v1/conns", get(clients::conns))
        .route("/api/v1/slow", get(clients::slow))
        .route("/api/v1/peers", get(async |State(app): State<Arc<App>>| json_of(&others::peers(&app.facts))))
        .route("/api/v1/handoff", get(async |State(app): State<Arc<App>>| json_of(&others::handoff(&app.facts))))
        .route("/api/v1/nodes", get(async |State(app): State<Arc<App>>| json_of(&*others::nodes(&app).await)))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/openapi.json", get(async || typed("application/json", OPENAPI)))
}

/// An answer as JSON.
pub fn json_of(answer: &impl Serialize) -> Response {
    match serde_json::to_string(answer) {
        Ok(text) => typed("application/json", text),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written"),
    }
}

async fn node(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    json_of(&overview::node(&app.facts, app.guard.has_token(), app.guard.may_see_keys(&headers)))
}

async fn settings(State(app): State<Arc<App>>) -> Response {
    let facts = &app.facts;
    let wanting = facts.findings.iter().filter(|finding| finding.state == crate::node::host::State::Wanting).count();
    let verbosity = log::max_level() as u32;
    let lines = stats::settings(&facts.options, facts.memory.limit_bytes() as u64, verbosity.saturating_sub(2), wanting);
    json_of(&overview::object(lines))
}

async fn where_is(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    let key = match key_of(query.as_deref()) {
        Ok(key) => key,
        Err(sentence) => return problem(StatusCode::BAD_REQUEST, sentence),
    };
    let Some(view) = app.facts.view() else {
        let (hash, id) = (crate::key::routing_hash(&key), app.facts.id());
        let Options { buckets, cores, .. } = app.facts.options;
        let core = key::core_of(key::bucket_of(hash, buckets), buckets, cores);
        return json_of(&json!({ "hash": format!("{hash:016x}"), "angle": angle(hash), "core_here": core,
            "owners": [{ "id": id, "state": "here" }], "served_by": id }));
    };
    let asking = app.clone();
    let found = asked(move || ring::whereabouts(&view, &asking.ways.cores, &asking.facts.options, &key)).await;
    let Some(place) = found else { return silent() };
    let owners: Vec<_> = place.owners.iter().map(|(id, state)| json!({ "id": id, "state": state })).collect();
    json_of(&json!({ "hash": format!("{:016x}", place.hash), "angle": angle(place.hash), "bucket": place.bucket,
        "partition": place.partition, "core_here": place.core_here, "owners": owners, "served_by": place.served_by }))
}

/// Where a hash stands on a circle, from 0 to 1.
fn angle(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

async fn partitions(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    let Some(Ok(target)) = parameter(query.as_deref(), "target") else {
        return problem(StatusCode::BAD_REQUEST, "target=NODE is needed");
    };
    let target = String::from_utf8_lossy(&target).into_owned();
    let peer = app.facts.view().and_then(|view| view.peer_with_id(&target));
    let Some(peer) = peer else { return problem(StatusCode::NOT_FOUND, "this ring has no such node") };
    let asking = app.clone();
    match asked(move || ring::dirty_partitions(&asking.ways.cores, peer)).await {
        Some(dirty) => json_of(&json!({ "target": target, "partitions": crate::key::PARTITIONS_COUNT, "dirty": dirty })),
        None => silent(),
    }
}

/// A core is stuck, or has ended.
pub fn silent() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "a core does not answer")
}

/// Asks something that waits for a core, on a thread for that.
pub async fn asked<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(question).await.ok()
}

/// The key of a query.
///
/// # Errors
/// A sentence: none is there, or none that can be one.
pub fn key_of(query: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let key =
        parameter(query, "key").ok_or("key=KEY is needed")?.map_err(|()| "a percent sign needs two hexadecimal digits")?;
    match key.len() {
        1..=limits::KEY_BYTES_MAX => Ok(key),
        _ => Err("a key has 1 to 250 bytes"),
    }
}

/// A parameter of a query, decoded; `Err` if it cannot be.
pub fn parameter(query: Option<&str>, name: &str) -> Option<Result<Vec<u8>, ()>> {
    let pairs = query.unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| decode(value).ok_or(())).next()
}

/// A parameter that is a whole number; `default` where it is not there, `None` where it is none.
pub fn number_of(query: Option<&str>, name: &str, default: usize) -> Option<usize> {
    match parameter(query, name) {
        None => Some(default),
        Some(text) => std::str::from_utf8(&text.ok()?).ok()?.parse().ok(),
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let (high, low) = (digit(rest.first()?)?, digit(rest.get(1)?)?);
        bytes.push((high * 16 + low) as u8);
        rest = &rest[2..];
    }
    Some(bytes)
}

/// A connection to this node's own port.
///
/// # Errors
/// There is none that speaks text, or it does not answer.
pub fn own_door(options: &Options) -> io::Result<TcpStream> {
    let address = options.addresses.first().filter(|_| options.protocols != Protocols::BinaryOnly);
    let Some(&address) = address else { return Err(io::Error::other("there is no TCP port that speaks text")) };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), DOOR_WAIT)?;
    stream.set_read_timeout(Some(DOOR_WAIT))?;
    stream.set_write_timeout(Some(DOOR_WAIT))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_decoded_once_and_held_against_its_bounds() {
        let key = |query: &str| key_of(Some(query));
        assert_eq!(key("key=a%20b%25%2B+"), Ok(b"a b%++".to_vec()));
        assert_eq!(key("x=1&key=%00%ff"), Ok(vec![0, 255]));
        for garbage in ["key=%", "key=%2", "key=%zz", "key=a%G0"] {
            assert_eq!(key(garbage), Err("a percent sign needs two hexadecimal digits"), "{garbage}");
        }
        assert_eq!((key_of(None), key("keys=a")), (Err("key=KEY is needed"), Err("key=KEY is needed")));
        assert_eq!(
            (key("key="), key(&format!("key={}", "x".repeat(251)))),
            (Err("a key has 1 to 250 bytes"), Err("a key has 1 to 250 bytes"))
        );
        assert!(key(&format!("key={}", "x".repeat(250))).is_ok());
    }

    #[test]
    fn a_number_is_whole_or_none() {
        let number = |query: &str| number_of(Some(query), "limit", 7);
        assert_eq!([number(""), number("limit=12"), number("limit=0")], [Some(7), Some(12), Some(0)]);
        assert_eq!([number("limit="), number("limit=-1"), number("limit=1e9"), number("limit=%zz")], [None; 4]);
    }

    #[test]
    fn a_hash_has_a_place_on_the_circle() {
        assert_eq!((angle(0), angle(1 << 63)), (0.0, 0.5));
        assert!(angle(u64::MAX) < 1.0);
    }
}

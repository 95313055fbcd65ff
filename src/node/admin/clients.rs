//! What is told of clients: their connections, and their requests that took long.
//!
//! Lives here: those questions and their answers. Not here: what the cores note (`observe::slow`), words of `stats conns` (`stats`).

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::api::{asked, json_of, number_of, silent};
use super::facts::Facts;
use super::{App, problem};
use crate::cluster::view::View;
use crate::key;
use crate::node::{sockets, stats};
use crate::observe::slow::SlowRequest;
use crate::placement::OwnersCache;

/// Connections of one answer, and how many where nothing is said.
const CONNS_MAX: usize = 1000;
const CONNS_DEFAULT: usize = 200;
/// Slow requests of one answer.
const SLOW_MAX: usize = 200;

/// `/api/v1/conns`: listeners and connections, in the order of their descriptors.
pub async fn conns(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    let Some(limit @ 1..=CONNS_MAX) = number_of(query.as_deref(), "limit", CONNS_DEFAULT) else {
        return problem(StatusCode::BAD_REQUEST, "limit=1 to 1000");
    };
    let asking = app.clone();
    let listed = asked(move || {
        let described = asking.ways.cores.ask(|core| core.describe_connections()).concat();
        let now = asking.facts.shared.clock.now();
        stats::connections(&sockets::list(), &described, now, asking.facts.started)
    });
    match listed.await {
        Some(listed) => json_of(&json!({ "count": listed.len(), "conns": &listed[..listed.len().min(limit)] })),
        None => silent(),
    }
}

/// `/api/v1/slow`: the last requests that took longer than `--slow_ms`, latest first.
pub async fn slow(State(app): State<Arc<App>>) -> Response {
    let asking = app.clone();
    let found = asked(move || {
        let lists = asking.ways.cores.ask(|core| (core.context.slow.count, core.context.slow.list()));
        let addresses = sockets::list().into_iter().map(|socket| (socket.descriptor, socket.address)).collect();
        told(&asking.facts, &lists, &addresses)
    });
    match found.await {
        Some(answer) => json_of(&answer),
        None => silent(),
    }
}

fn told(facts: &Facts, lists: &[(u64, Vec<SlowRequest>)], addresses: &HashMap<i32, String>) -> Value {
    let of_cores = lists.iter().enumerate();
    let mut all: Vec<(usize, &SlowRequest)> =
        of_cores.flat_map(|(core, (_, list))| list.iter().map(move |request| (core, request))).collect();
    all.sort_by_key(|(_, request)| std::cmp::Reverse(request.unix_ms));
    let (view, buckets) = (facts.view(), facts.options.buckets);
    let request = |(core, request): &(usize, &SlowRequest)| {
        let (door, operation) = request.kind.map(|kind| kind.parts()).unzip();
        let place = request.waited.map(|waited| key::bucket_of(u64::from(waited.hash) << 32, buckets));
        json!({
            "unix_ms": request.unix_ms,
            "took_s": request.took_ns as f64 / 1e9,
            "core": core,
            "what": if request.waited.is_some() { "answer from elsewhere" } else { "turn" },
            "door": door.map(|door| door.name()),
            "operation": operation.map(|operation| operation.name()),
            "commands": request.commands,
            "client": request.waited.and_then(|waited| addresses.get(&waited.descriptor)),
            "partition": place.map(|bucket| key::partition_of(bucket, buckets)),
            "owners": place.and_then(|bucket| Some(owners(view.as_deref()?, bucket))).unwrap_or_default(),
        })
    };
    let count: u64 = lists.iter().map(|(count, _)| count).sum();
    json!({ "least_ms": facts.options.slow_ms, "count": count, "requests": all.iter().take(SLOW_MAX).map(request).collect::<Vec<_>>() })
}

fn owners(view: &View, bucket: u32) -> Vec<String> {
    view.owners(&mut OwnersCache::default(), bucket).iter().map(|&owner| view.id_of(owner).as_str().into()).collect()
}

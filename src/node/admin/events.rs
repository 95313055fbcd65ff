//! Who this is, then figures once a second, as server-sent events: one stream for a page, at most `limits::ADMIN_WATCHERS_MAX`.
//!
//! A watcher that does not read gets the next figures when it reads again: nothing is kept for it but what its socket holds.
//!
//! Lives here: the stream. Not here: what an event tells (`overview`).
//! Format: WHATWG HTML, *Server-sent events*.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_lite::stream;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{App, overview, problem};

/// How often a watcher is told.
const PERIOD: Duration = Duration::from_secs(1);

/// `/api/v1/events`.
pub async fn events(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let Ok(place) = app.watchers.clone().try_acquire_owned() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too many watch already");
    };
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let keys_shown = app.guard.may_see_keys(&headers);
    let stream = stream::unfold((app, ticks, place, true), move |(app, mut ticks, place, is_first)| async move {
        let event = if is_first {
            let (node, ring) = (overview::node(&app.facts, app.guard.has_token(), keys_shown), overview::ring(&app.facts));
            event("hello", &overview::Hello { node, ring })
        } else {
            ticks.tick().await;
            event("figures", &overview::figures(&app.facts))
        };
        Some((Ok::<_, Infallible>(event), (app, ticks, place, false)))
    });
    Sse::new(stream).into_response()
}

fn event(name: &str, told: &impl Serialize) -> Event {
    Event::default().event(name).data(serde_json::to_string(told).unwrap_or_default())
}

//! Figures once a second, as server-sent events: one stream for a page, at most `limits::ADMIN_WATCHERS_MAX`.
//!
//! A watcher that does not read gets the next figures when it reads again: nothing is kept for it but what its socket holds.
//!
//! Lives here: the stream. Not here: what an event tells (`overview`).
//! Format: WHATWG HTML, *Server-sent events*.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_lite::stream;
use tokio::time::{MissedTickBehavior, interval};

use super::{App, overview, problem};

/// How often a watcher is told.
const PERIOD: Duration = Duration::from_secs(1);

/// `/api/v1/events`.
pub async fn events(State(app): State<Arc<App>>) -> Response {
    let Ok(place) = app.watchers.clone().try_acquire_owned() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too many watch already");
    };
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = stream::unfold((app, ticks, place), |(app, mut ticks, place)| async move {
        ticks.tick().await;
        let text = serde_json::to_string(&overview::figures(&app.facts)).unwrap_or_default();
        Some((Ok::<_, Infallible>(Event::default().event("figures").data(text)), (app, ticks, place)))
    });
    Sse::new(stream).into_response()
}

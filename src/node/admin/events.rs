//! Who this is, then once a second figures and, in a ring, what all its nodes tell, as server-sent events: one stream for a page, at most `limits::ADMIN_WATCHERS_MAX`.
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

use super::{App, others, overview, problem};

/// What a watcher is told next.
enum Next {
    /// Who this is.
    Hello,
    /// Figures, when a second has passed.
    Figures,
    /// What all nodes tell, in a ring.
    Nodes,
}

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
    let stream = stream::unfold((app, ticks, place, Next::Hello), move |(app, mut ticks, place, next)| async move {
        let (event, next) = match next {
            Next::Hello => {
                let (node, ring) = (overview::node(&app.facts, app.guard.has_token(), keys_shown), overview::ring(&app.facts));
                (event("hello", &overview::Hello { node, ring }), Next::Figures)
            }
            Next::Figures => {
                ticks.tick().await;
                let next = if app.facts.view().is_some() { Next::Nodes } else { Next::Figures };
                (event("figures", &overview::figures(&app.facts)), next)
            }
            Next::Nodes => (event("nodes", &*others::nodes(&app).await), Next::Figures),
        };
        Some((Ok::<_, Infallible>(event), (app, ticks, place, next)))
    });
    Sse::new(stream).into_response()
}

fn event(name: &str, told: &impl Serialize) -> Event {
    Event::default().event(name).data(serde_json::to_string(told).unwrap_or_default())
}

//! What the admin listener may change: with the token, as JSON, and with a line in the log each time.
//!
//! ```text
//!   POST /api/v1/actions/NAME    Authorization: Bearer TOKEN    Content-Type: application/json    { .. }
//!   audit action=memlimit from=127.0.0.1:4711 result=ok
//! ```
//!
//! A page of somewhere else can send neither the token nor this type without being asked first, and is not answered when it asks.
//!
//! Lives here: the actions. Not here: who may (`guard`), what they do (`node::control`).

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::{Sender, bounded};
use serde::Deserialize;
use serde_json::json;

use super::api::{asked, json_of, own_door};
use super::{App, Visitor, problem};
use crate::limits;
use crate::node::control::{Action, Cores, patiently};
use crate::node::options::Options;
use crate::node::signals;
use crate::runtime::context::OwnedControl;
use crate::time::Exptime;

/// Ways from the admin thread to the rest of the node.
pub struct Ways {
    /// To the cores.
    pub cores: Cores,
    /// To the control thread.
    pub actions: Sender<Action>,
}

/// The route.
pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/api/v1/actions/{name}", post(act))
}

/// What an action may be told. Which of them it needs is checked where it is done.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// Of `flush`: seconds until it takes effect.
    delay_s: Option<u32>,
    /// Of `memlimit`.
    megabytes: Option<u64>,
    /// Of `verbosity`.
    level: Option<u32>,
    /// Of `set`.
    key: Option<String>,
    /// Of `set`.
    value: Option<String>,
    /// Of `set`: seconds that the item lives; for ever otherwise.
    ttl_s: Option<u32>,
}

/// Why an action was not done.
type Refusal = (StatusCode, String);

async fn act(
    State(app): State<Arc<App>>,
    Extension(Visitor(caller)): Extension<Visitor>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let known = ["flush", "memlimit", "verbosity", "reset", "refresh_certs", "drain", "shutdown", "set"];
    let Some(name) = known.into_iter().find(|known| *known == name) else {
        return problem(StatusCode::NOT_FOUND, "there is no such action");
    };
    let result = match words(&app, &headers, body) {
        Ok(words) => perform(&app, name, words).await,
        Err(refusal) => Err(refusal),
    };
    let told = result.as_ref().map_or_else(|(status, _)| status.as_str().to_string(), |()| "ok".into());
    log::warn!("audit action={name} from={caller} result={told}");
    match result {
        Ok(()) => json_of(&json!({ "done": name })),
        Err((status, sentence)) => {
            let mut response = problem(status, &sentence);
            if status == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

/// Who asks may, and what was asked can be read.
fn words(app: &App, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Words, Refusal> {
    let refuse = |status, sentence: &str| Err((status, sentence.to_string()));
    if !app.guard.has_token() {
        return refuse(StatusCode::FORBIDDEN, "this node takes no actions: it has no --admin_token_file");
    }
    if !app.guard.knows(headers) {
        return refuse(StatusCode::UNAUTHORIZED, "actions need the token of --admin_token_file");
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "actions are told as application/json");
    }
    let body = body.map_err(|error| (error.status(), "the body is too long, or was cut".to_string()))?;
    serde_json::from_slice(&body).map_err(|error| (StatusCode::BAD_REQUEST, format!("this is not an action's JSON: {error}")))
}

async fn perform(app: &Arc<App>, name: &'static str, words: Words) -> Result<(), Refusal> {
    let missing = |what: &str| (StatusCode::BAD_REQUEST, format!("{name} needs {what}"));
    let control = match name {
        "flush" => OwnedControl::FlushAll { delay: Exptime(words.delay_s.unwrap_or(0).into()) },
        "memlimit" => OwnedControl::CacheMemlimit { megabytes: words.megabytes.ok_or_else(|| missing("megabytes"))? },
        "verbosity" => OwnedControl::Verbosity { level: words.level.ok_or_else(|| missing("level"))? },
        "reset" => OwnedControl::Stats { group: b"reset".to_vec() },
        "set" => {
            let (Some(key), Some(value)) = (words.key, words.value) else { return Err(missing("key and value")) };
            return set(app, key, value, words.ttl_s.unwrap_or(0)).await;
        }
        // The seam for TLS: who renews certificates asks for this already.
        "refresh_certs" => return Err((StatusCode::CONFLICT, "this node has no certificates: it does not speak TLS".into())),
        _ if !app.facts.options.shutdown_enabled => {
            return Err((StatusCode::FORBIDDEN, format!("{name} needs --enable_shutdown")));
        }
        "drain" => {
            app.facts.shared.leaving.store(true, Ordering::Release);
            return Ok(());
        }
        _ => {
            signals::raise();
            return Ok(());
        }
    };
    let asking = app.clone();
    let told = asked(move || {
        let (done, answer) = bounded(1);
        // Closed only when the node ends.
        let _ = asking.ways.actions.send(Action { control, done });
        patiently(&answer)
    });
    match told.await.flatten() {
        Some(Ok(())) => Ok(()),
        Some(Err(sentence)) => Err((StatusCode::CONFLICT, sentence)),
        None => Err((StatusCode::SERVICE_UNAVAILABLE, "the node does not answer".into())),
    }
}

/// Stores through the node's own door: in a ring, who owns the key stores it.
async fn set(app: &Arc<App>, key: String, value: String, ttl_s: u32) -> Result<(), Refusal> {
    if !(1..=limits::KEY_BYTES_MAX).contains(&key.len()) {
        return Err((StatusCode::BAD_REQUEST, "a key has 1 to 250 bytes".into()));
    }
    let asking = app.clone();
    let stored = asked(move || store(&asking.facts.options, &key, &value, ttl_s)).await;
    match stored {
        Some(Ok(line)) if line == "HD" => Ok(()),
        Some(Ok(line)) => Err((StatusCode::CONFLICT, line)),
        Some(Err(error)) => Err((StatusCode::BAD_GATEWAY, format!("the node's own port does not answer: {error}"))),
        None => Err((StatusCode::SERVICE_UNAVAILABLE, "the node does not answer".into())),
    }
}

fn store(options: &Options, key: &str, value: &str, ttl_s: u32) -> io::Result<String> {
    let mut stream = own_door(options)?;
    let head = format!("ms {} {} b T{ttl_s}\r\n", STANDARD.encode(key), value.len());
    stream.write_all(&[head.as_bytes(), value.as_bytes(), b"\r\n"].concat())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().into())
}

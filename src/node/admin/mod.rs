//! The admin listener: metrics, health, JSON and a page for people, on a thread of its own.
//!
//! ```text
//!   thread pbcache-admin: tokio on this thread alone -> a task per connection (32 at most): hyper -> guard -> router
//!                                                                    reads the boards of the cores: nobody is woken
//! ```
//!
//! The thread has no timer while nobody is connected: an idle node stays idle. Data cores know nothing of tokio.
//!
//! Reading order: [`facts`] (what is known), [`guard`] (who may ask), [`metrics`] and [`exporter`] (names), [`families`] (texts),
//! [`overview`] and [`api`] (JSON), [`items`], [`clients`], [`others`] (what the boards do not tell), [`events`] (once a second), [`actions`]
//! (what changes something).
//!
//! Lives here: the socket, limits on connections, bodies and time, the routes. Not here: the protocol on the data port (`protocol`).

pub mod actions;
pub mod api;
pub mod clients;
pub mod events;
pub mod exporter;
pub mod facts;
pub mod families;
pub mod guard;
pub mod items;
pub mod metrics;
pub mod others;
pub mod overview;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::actions::Ways;
use self::facts::Facts;
use self::families::Families;
use self::guard::Guard;
use self::others::Others;
use crate::limits;
use crate::node::StartError;
use crate::node::exchange::Caller;
use crate::node::options::Options;

/// Bytes of stack of the thread; little of it is touched.
const STACK_BYTES: usize = 512 << 10;
/// Wait after a failed accept, most often for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a client that is not served may take to read why.
const TURN_AWAY: Duration = Duration::from_secs(1);

/// A socket that listens, and the rules for it.
pub struct Prepared {
    listener: TcpListener,
    guard: Guard,
}

/// The running thread.
pub struct Admin {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What the routes share.
pub struct App {
    /// The node.
    pub facts: Arc<Facts>,
    /// Who may ask for what.
    pub guard: Guard,
    /// To the cores and the control thread, for what no board tells.
    pub ways: Ways,
    /// What other nodes tell.
    pub others: Others,
    /// Places for those who watch events.
    pub watchers: Arc<Semaphore>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Visitor(pub SocketAddr);

/// Binds the socket; `None` where there is to be no listener, or the default port is taken: that is a log line.
///
/// # Errors
/// A port that was asked for and cannot be had, an address that is not of this machine, a token file that is none.
pub fn prepare(options: &Options) -> Result<Option<Prepared>, StartError> {
    let admin = &options.admin;
    if admin.address.port() == 0 {
        return Ok(None);
    }
    let guard = Guard::new(options)?;
    match TcpListener::bind(admin.address) {
        Ok(listener) => Ok(Some(Prepared { listener, guard })),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !admin.port_given => {
            log::warn!(
                "{} is taken: this node has no admin page and no metrics; --admin_port gives it another port",
                admin.address
            );
            Ok(None)
        }
        Err(error) => Err(cannot_listen(admin.address, &error)),
    }
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> StartError {
    StartError(match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the admin listener cannot have {address}: the port is in use; choose another --admin_port, or 0 for none.")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("the admin listener cannot have {address}: this machine has no such address; choose another --admin_ip.")
        }
        io::ErrorKind::PermissionDenied => {
            format!("the admin listener cannot have {address}: ports below 1024 need privileges; choose another --admin_port.")
        }
        _ => format!("the admin listener cannot have {address}: {error}; choose another --admin_ip or --admin_port."),
    })
}

impl Prepared {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread.
    pub fn start(self, facts: Arc<Facts>, ways: Ways, caller: Option<Caller>) -> Result<Admin, StartError> {
        let watchers = Arc::new(Semaphore::new(limits::ADMIN_WATCHERS_MAX));
        let address = facts.options.admin.address;
        let app = Arc::new(App { facts, guard: self.guard, ways, others: Others::new(caller), watchers });
        let (stop, stopped) = oneshot::channel();
        let listener = self.listener;
        log::info!("admin page at http://{address}/");
        let run = move || {
            if let Err(error) = run(listener, app, stopped) {
                log::error!("the admin listener ended: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("pbcache-admin".into()).stack_size(STACK_BYTES).spawn(run);
        let thread = thread.map_err(|error| StartError(format!("a thread cannot be started: {error}.")))?;
        Ok(Admin { stop, thread })
    }
}

impl Admin {
    /// Ends the thread: the socket is closed, connections are cut.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn run(listener: TcpListener, app: Arc<App>, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(4).build()?;
    let served = runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            () = accept(listener, app) => {}
            _ = stopped => {}
        }
        Ok(())
    });
    // A thread that waits for a core that is stuck is not waited for.
    runtime.shutdown_background();
    served
}

async fn accept(listener: tokio::net::TcpListener, app: Arc<App>) {
    let places = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS_MAX));
    let turned_away = Arc::new(Semaphore::new(limits::ADMIN_TURNED_AWAY_MAX));
    let router = router(app.clone());
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        if !app.facts.shared.services.clients.admits(address.ip()) && !is_own(address.ip()) {
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            if let Ok(place) = turned_away.clone().try_acquire_owned() {
                tokio::spawn(turn_away(stream, "503 Service Unavailable", place));
            }
            continue;
        };
        tokio::spawn(serve(stream, router.clone().layer(Extension(Visitor(address))), place));
    }
}

/// One connection, for as long as its client asks in time.
async fn serve(stream: TcpStream, router: Router, place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits::ADMIN_HEAD_S_MAX))
        .max_buf_size(limits::ADMIN_HEAD_BYTES_MAX)
        .max_headers(limits::ADMIN_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let ended = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let parts = connection.into_parts();
    // A client that hangs up, or says nothing, is no news; one that is too slow with a request is told.
    if ended.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty() {
        turn_away(parts.io.into_inner(), "408 Request Timeout", place).await;
    }
}

/// Whether an address is of this machine's loopback: `--incoming_ip` is about clients of the cache.
fn is_own(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Answers who is not served, and reads what it still sends for a moment: what is not read when a socket is closed destroys the answer.
async fn turn_away(mut stream: TcpStream, status: &str, place: OwnedSemaphorePermit) {
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n");
    let answered = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(limits::ADMIN_HEAD_BYTES_MAX as u64);
        let mut bytes = [0; 1024];
        while rest.read(&mut bytes).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(TURN_AWAY, answered).await;
    drop(place);
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/", get(async || kept("text/html; charset=utf-8", include_str!("page/index.html"))))
        .route("/page.css", get(async || kept("text/css; charset=utf-8", include_str!("page/page.css"))))
        .route("/page.js", get(async || kept("text/javascript; charset=utf-8", include_str!("page/page.js"))))
        .merge(api::routes())
        .merge(actions::routes())
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::max(limits::ADMIN_BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), admit))
        .with_state(app)
}

/// In front of every route, those that do not exist included.
async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match app.guard.admit(request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, sentence)) => problem(status, sentence),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What pages of this listener may do: load what comes with them from here, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// An error as JSON, for programs, with a sentence, for people.
pub fn problem(status: StatusCode, sentence: &str) -> Response {
    let body = serde_json::json!({ "error": sentence }).to_string();
    let mut response = typed("application/json", body);
    *response.status_mut() = status;
    response
}

async fn nothing_here() -> Response {
    problem(StatusCode::NOT_FOUND, "there is nothing here")
}

async fn not_so() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this is asked for in another way; see Allow")
}

async fn metrics_text(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let families = collect(&app.facts);
    let wanted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !wanted.contains("application/openmetrics-text") {
        return typed("text/plain; version=0.0.4; charset=utf-8", families.text());
    }
    match families.open_metrics() {
        Ok(text) => typed("application/openmetrics-text; version=1.0.0; charset=utf-8", text),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
    }
}

/// All metrics of this moment.
pub fn collect(facts: &Facts) -> Families {
    let snapshots = facts.snapshots();
    let mut families = Families::default();
    metrics::collect(facts, &snapshots, &mut families);
    if facts.options.admin.metrics_compat {
        exporter::collect(facts, &snapshots, &mut families);
    }
    families
}

async fn healthz(State(app): State<Arc<App>>) -> Response {
    verdict(&app.facts.ailments())
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    verdict(&app.facts.hindrances())
}

/// `ok`, or the reasons why not, one a line.
fn verdict(reasons: &[String]) -> Response {
    let (status, text) = match reasons.is_empty() {
        true => (StatusCode::OK, "ok\n".into()),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    };
    let mut response = typed("text/plain; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

/// A file of the page. Asked for anew each time: it is small, and changes with the program.
fn kept(kind: &'static str, text: &'static str) -> Response {
    let mut response = typed(kind, text);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn typed(kind: &'static str, text: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, kind)], text.into()).into_response()
}

//! One node ends and the next begins on the same port, while clients come and go.
//!
//! Symptom: behind the end of a process one more connection was accepted and reset, and the next process found the port in use.
//! Cause: the kernel takes back the accepts of a ring after the process is gone, and until then they hold the listener.
//! Cure: listeners are shut down first, once every handshake that had begun has ended (`runtime::listener`).
//!
//! Lives here: what clients see of a restart. Not here: answers to what is in flight (`life`).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::server::{Server, command};

/// Clients of one address, over and over: half of them ask once and close, the others ask on as long as they can.
struct Clients {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of the connections.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicBool,
    /// Requests that were answered.
    answers: AtomicU64,
    /// Nobody listened.
    refused: AtomicU64,
    /// Accepted, and closed in order before an answer.
    ended: AtomicU64,
    /// Accepted, and thrown out.
    reset: AtomicU64,
}

impl Clients {
    fn start<S: Read + Write>(connect: impl Fn() -> std::io::Result<S> + Clone + Send + 'static) -> Self {
        let seen = Arc::new(Seen::default());
        let threads = [1, 1, u32::MAX, u32::MAX].map(|requests| {
            let (seen, connect) = (seen.clone(), connect.clone());
            std::thread::spawn(move || {
                while !seen.done.load(Relaxed) {
                    if let Some(counter) = converse(connect(), requests, &seen) {
                        counter.fetch_add(1, Relaxed);
                    }
                }
            })
        });
        Self { seen, threads: threads.into() }
    }

    /// Waits until so many more requests are answered.
    fn await_answers(&self, count: u64) {
        let wanted = self.seen.answers.load(Relaxed) + count;
        while self.seen.answers.load(Relaxed) < wanted {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) -> Arc<Seen> {
        self.seen.done.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.seen
    }
}

/// One connection, from its beginning to its end: where that is counted, if it was not the client's doing.
fn converse<S: Read + Write>(connected: std::io::Result<S>, requests: u32, seen: &Seen) -> Option<&AtomicU64> {
    use ErrorKind::{BrokenPipe, ConnectionRefused, NotFound, TimedOut, UnexpectedEof, WouldBlock};
    let mut stream = match connected {
        Ok(stream) => stream,
        // Nobody listens, or nobody answers the first packet; the socket has no file, or its queue is full.
        Err(error) if [ConnectionRefused, TimedOut, NotFound, WouldBlock].contains(&error.kind()) => {
            std::thread::sleep(Duration::from_millis(1));
            return Some(&seen.refused);
        }
        Err(_) => return Some(&seen.reset),
    };
    for _ in 0..requests {
        let mut answer = [0; 4];
        let outcome = stream.write_all(b"mn\r\n").and_then(|()| stream.read_exact(&mut answer));
        match outcome.map_err(|error| error.kind()) {
            Ok(()) => _ = seen.answers.fetch_add(1, Relaxed),
            // A writer hears of the end in its own way.
            Err(UnexpectedEof | BrokenPipe) => return Some(&seen.ended),
            Err(_) => return Some(&seen.reset),
        }
        if seen.done.load(Relaxed) {
            break;
        }
    }
    None
}

/// Far below the time that a node gives to clients that do not take their answers: nobody here does so.
const END_MAX: Duration = Duration::from_secs(3);

/// A free port that no client gets for its own end: one that did would hold it while no node listens, or even answer itself. Each test has
/// its own: between two nodes of one test the port looks free to the others.
fn lasting_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let start = 10_000 + (std::process::id() % 10_000) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    loop {
        let taken = TAKEN.load(Relaxed);
        let port = (start.max(taken + 1)..first).find(is_free).expect("a free port below the range of clients");
        if TAKEN.compare_exchange(taken, port, Relaxed, Relaxed).is_ok() {
            return port;
        }
    }
}

/// Starts and ends nodes under clients; every start succeeds, nobody connects to one that has ended, and no client is reset.
fn restart(rounds: usize, options: &[&str]) {
    let port = lasting_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let clients = Clients::start(move || {
        let stream = TcpStream::connect_timeout(&address, Duration::from_millis(300))?;
        stream.set_read_timeout(Some(Duration::from_secs(8)))?;
        Ok(stream)
    });
    for round in 0..rounds {
        let mut server = Server::spawn(command(port, options), port);
        clients.await_answers(100);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait(END_MAX), Some(0), "round {round}");
        let after = TcpStream::connect(address).map_err(|error| error.kind());
        assert_eq!(after.map(drop), Err(ErrorKind::ConnectionRefused), "a process that has ended accepts, round {round}");
    }
    let seen = clients.stop();

    assert_eq!(seen.reset.load(Relaxed), 0, "of {seen:?}");
    assert!(seen.refused.load(Relaxed) > 0, "the clients were there all the time: {seen:?}");
}

#[test]
fn fifty_restarts_on_one_port_reset_nobody() {
    restart(50, &["--cores", "2", "--conn_limit", "500"]);
}

#[test]
fn restarts_with_stock_streams_reset_nobody() {
    restart(10, &["--cores", "2", "--conn_limit", "500", "--io", "streams"]);
}

#[test]
fn restarts_on_a_unix_socket_reset_nobody() {
    let path: PathBuf = std::env::temp_dir().join(format!("pbcache-test-{}-restart.sock", std::process::id()));
    for engine in ["pump", "streams"] {
        let place = path.clone();
        let clients = Clients::start(move || {
            let stream = UnixStream::connect(&place)?;
            stream.set_read_timeout(Some(Duration::from_secs(8)))?;
            Ok(stream)
        });
        for round in 0..10 {
            let options = ["--cores", "2", "--io", engine, "--unix_socket", path.to_str().unwrap()];
            let mut server = Server::start(&options);
            clients.await_answers(100);
            server.signal(libc::SIGTERM);
            assert_eq!(server.wait(END_MAX), Some(0), "{engine}, round {round}");
        }
        let seen = clients.stop();

        assert_eq!(seen.reset.load(Relaxed), 0, "of {seen:?}");
    }
}

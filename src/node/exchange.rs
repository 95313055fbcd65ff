//! One question to another node's control plane, over a connection of its own: who is in the ring, and what an operator asks.
//!
//! ```text
//!   connect --> handshake, as every link --> MEMBERS: verb, bytes --> TOLD: table | sentence why not | text --> close
//! ```
//!
//! Blocks, and is bounded: `EXCHANGE_MS_MAX` for each step. Never called by a core.
//!
//! Lives here: the asking side. Not here: what is asked and why (`members`), the answering side (`runtime::peer_socket`).

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::arena::Arena;
use crate::buffer::Buffer;
use crate::command::Value;
use crate::peer::frame::{self, Frame, Horizon, Kind, MemberVerb, Stamp, ToldCode};
use crate::peer::handshake::{Identity, Local, NONCE_BYTES};
use crate::peer::stream::Stream;
use crate::runtime::clock::unix_ms;
use crate::time::Timestamp;

/// Longest wait for a connection, and for each piece of an answer.
const EXCHANGE_MS_MAX: Duration = Duration::from_secs(2);
/// What is said of one that does not answer as a node does.
pub const NO_NODE: &str = "what answers there is no pbcache of this version";
/// Longest wait for what another kind of server says to an empty line.
const EMPTY_LINE_WAIT: Duration = Duration::from_millis(300);
/// Largest answer: a table of 4,096 nodes.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// Who asks, and what a handshake needs.
#[derive(Clone)]
pub struct Caller {
    /// As what it calls.
    pub identity: Identity,
    /// Of the secret.
    pub key: Option<[u8; 32]>,
    /// The address to call from, if it is not the system's choice.
    pub source: Option<IpAddr>,
    /// Memory for large answers.
    pub arena: Arc<Arena>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The table of the node that was asked.
    Table(Vec<u8>),
    /// It does not do what was asked: a sentence.
    Refused(String),
    /// What it tells an operator.
    Text(String),
}

impl Caller {
    /// Asks the node at an address; names are resolved at each call, and all their addresses are tried.
    ///
    /// # Errors
    /// It could not be asked: a sentence.
    pub fn ask(&self, address: &str, verb: MemberVerb, bytes: &[u8]) -> Result<Answer, String> {
        let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?.collect();
        let mut why = format!("{address} does not resolve");
        for place in found {
            match self.ask_at(place, verb, bytes) {
                Ok(answer) => return Ok(answer),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        Err(why)
    }

    fn ask_at(&self, place: SocketAddr, verb: MemberVerb, bytes: &[u8]) -> Result<Answer, String> {
        let mut socket = self.connect(place).map_err(|error| error.to_string())?;
        let mut stream = Stream::silent(ANSWER_BYTES_MAX);
        stream.call(self.local()?);
        send(&mut socket, &mut stream.output)?;
        let (mut received, mut asked, mut answer) = (vec![0; 64 << 10], false, None);
        while answer.is_none() {
            let count = match socket.read(&mut received) {
                Ok(count) if count > 0 => count,
                Err(error) if !is_closed(error.kind()) && (asked || !speaks_lines(&mut socket)) => {
                    return Err(format!("no answer: {error}"));
                }
                _ if asked => return Err("it has closed the connection".into()),
                _ => return Err(NO_NODE.into()),
            };
            let mut fresh = &received[..count];
            if !stream.is_open() {
                let is_over = stream.handshake(fresh)?.is_some();
                fresh = &[];
                if is_over && !std::mem::replace(&mut asked, true) {
                    frame::write(&mut stream.output, (Kind::Members, 0, 0, 1), Stamp::default(), Value::Bytes(bytes), |meta| {
                        meta.push(verb as u8);
                    });
                }
            }
            if stream.is_open() {
                let horizon = Horizon::at(Timestamp { unix_ms: unix_ms() });
                let read = stream.frames(fresh, (&self.arena, horizon), &mut |frame, _| {
                    answer = answer.take().or(answer_of(frame));
                    Ok(true)
                });
                read.map_err(|garbled| format!("its answer cannot be read: {}", garbled.0))?;
            }
            send(&mut socket, &mut stream.output)?;
        }
        answer.ok_or_else(|| "no answer".into())
    }

    fn connect(&self, place: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(place), Type::STREAM, None)?;
        if let Some(source) = self.source.filter(|source| source.is_ipv4() == place.is_ipv4()) {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&place.into(), EXCHANGE_MS_MAX)?;
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(EXCHANGE_MS_MAX))?;
        socket.set_write_timeout(Some(EXCHANGE_MS_MAX))?;
        Ok(socket)
    }

    fn local(&self) -> Result<Local, String> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| format!("the system gives no random numbers: {error}"))?;
        // Any core will do: no core has this number.
        let identity = Identity { unix_ms: unix_ms(), target_core: u16::MAX, ..self.identity.clone() };
        Ok(Local { identity, key: self.key, nonce, is_known: true })
    }
}

/// Whether a server that has been silent so far answers an empty line, as memcached does. A node does not.
fn speaks_lines(socket: &mut TcpStream) -> bool {
    let mut answer = [0; 16];
    let is_sent = socket.write_all(b"\r\n").and_then(|()| socket.set_read_timeout(Some(EMPTY_LINE_WAIT)));
    is_sent.is_ok() && socket.read(&mut answer).is_ok_and(|count| count > 0 && answer[..count].is_ascii())
}

fn send(socket: &mut TcpStream, output: &mut Buffer) -> Result<(), String> {
    let bytes = output.flatten();
    output.clear();
    socket.write_all(&bytes).map_err(|error| match is_closed(error.kind()) {
        true => NO_NODE.into(),
        false => format!("it takes no question: {error}"),
    })
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}

fn answer_of(frame: &Frame<'_>) -> Option<Answer> {
    let bytes = frame.value.to_vec();
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    match (frame.head.kind, ToldCode::of(frame.meta)) {
        (Kind::Told, Some(ToldCode::Table)) => Some(Answer::Table(bytes)),
        (Kind::Told, Some(ToldCode::Refused)) => Some(Answer::Refused(text())),
        (Kind::Told, Some(ToldCode::Text)) => Some(Answer::Text(text())),
        (Kind::Refused, _) => Some(Answer::Refused("it is busy; ask again".into())),
        _ => None,
    }
}

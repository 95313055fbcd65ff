//! The events of an admin listener, as samples: who the node is, who is in its ring, figures now and a second ago.
//!
//! ```text
//!   GET /api/v1/events HTTP/1.0  -->  event: hello, data: {..} | event: figures, data: {..} | ..      1.0: no chunks to be undone
//! ```
//!
//! Lives here: the request, the stream. Not here: what the fields mean (`openapi.json`), what is shown (`screen`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// Longest wait for a connection, and for the next event.
const WAIT: Duration = Duration::from_secs(5);
/// Longest line of an event, in bytes: a ring of 64 nodes needs a tenth of it.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// `/api/v1/node`.
    pub node: Value,
    /// `/api/v1/ring`.
    pub ring: Value,
    /// `/api/v1/nodes`; null on a lone node.
    pub nodes: Value,
    /// Figures of this second.
    pub now: Value,
    /// Figures of the second before; `None` at first.
    pub then: Option<Value>,
}

/// A stream of events.
pub struct Feed {
    reader: BufReader<TcpStream>,
    address: String,
    last: Sample,
}

impl Feed {
    /// Asks the admin listener at an address for its events.
    ///
    /// # Errors
    /// A sentence: nobody is there, or it gives no events.
    pub fn connect(address: &str) -> Result<Self, String> {
        let wrong = |error: std::io::Error| format!("no admin listener answers at {address}: {error}");
        let place = address.to_socket_addrs().map_err(wrong)?.next();
        let place = place.ok_or_else(|| format!("{address} does not resolve"))?;
        let mut stream = TcpStream::connect_timeout(&place, WAIT).map_err(wrong)?;
        stream.set_read_timeout(Some(WAIT)).map_err(wrong)?;
        stream.write_all(format!("GET /api/v1/events HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).map_err(wrong)?;
        let mut feed = Self { reader: BufReader::new(stream), address: address.into(), last: Sample::default() };
        let status = feed.line()?;
        let code = status.split(' ').nth(1).unwrap_or("");
        while !feed.line()?.is_empty() {}
        match code {
            "200" => Ok(feed),
            "503" => Err(format!("too many watch {address} already")),
            _ => Err(format!("{address} gives no events: {status}")),
        }
    }

    /// The next sample, once its figures are there.
    ///
    /// # Errors
    /// A sentence: the node has gone, or is silent.
    pub fn next(&mut self) -> Result<Sample, String> {
        loop {
            let Some((name, told)) = self.event()? else { continue };
            match name.as_str() {
                "hello" => {
                    let field = |name: &str| told.get(name).cloned().unwrap_or_default();
                    self.last = Sample { node: field("node"), ring: field("ring"), ..Sample::default() };
                }
                "nodes" => self.last.nodes = told,
                "figures" => {
                    let then = std::mem::replace(&mut self.last.now, told);
                    self.last.then = (!then.is_null()).then_some(then);
                    return Ok(self.last.clone());
                }
                _ => {}
            }
        }
    }

    /// The next event; `None` for a line that is none.
    fn event(&mut self) -> Result<Option<(String, Value)>, String> {
        let line = self.line()?;
        let Some(name) = line.strip_prefix("event: ") else { return Ok(None) };
        let data = self.line()?;
        let told = data.strip_prefix("data: ").and_then(|text| serde_json::from_str(text).ok());
        told.map(|told| Some((name.into(), told))).ok_or_else(|| format!("what {} tells cannot be read", self.address))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) => Err(format!("{} has ended", self.address)),
            Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).into()),
            Err(error) => Err(format!("{} does not answer: {error}", self.address)),
        }
    }
}

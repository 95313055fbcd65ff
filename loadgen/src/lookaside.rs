//! One client that uses a cache look-aside: it reads, and stores what it missed, in the order of a trace.
//!
//! ```text
//!   batch n:      mg a, mg b, mg c -->   <-- HD, EN, EN            b and c missed
//!   batch n + 1:  set b, set c, mg d, mg a ... -->   <-- STORED, STORED, HD, HD ...
//! ```
//!
//! A batch names each object once: a second read of what missed would find it stored. So every read comes behind the stores of all
//! misses before it, but those of its own batch. Reads do not ask for the value unless told to: whether it is there is all that counts
//! here, and values of hundreds of kilobytes would be copied for nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::interrupt;
use crate::work::mix::Kind;
use crate::work::trace::Trace;

/// A connection that plays traces.
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    /// Whether reads fetch values.
    values: bool,
    /// Requests to be sent.
    out: Vec<u8>,
    /// Stores and deletes among them.
    changes: usize,
    filler: Vec<u8>,
    line: Vec<u8>,
    counts: Counts,
}

/// What came of a trace.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// Stores that were refused.
    pub refused: u64,
    /// The first answer that refused one.
    pub refusal: Option<String>,
}

impl Client {
    /// Connects to a server that is up.
    pub fn connect(address: SocketAddr, values: bool) -> Result<Self, String> {
        let open = || {
            let writer = TcpStream::connect(address)?;
            writer.set_nodelay(true)?;
            writer.set_read_timeout(Some(PATIENCE))?;
            writer.set_write_timeout(Some(PATIENCE))?;
            Ok((BufReader::with_capacity(1 << 18, writer.try_clone()?), writer))
        };
        let (reader, writer) = open().map_err(|error: io::Error| format!("cannot connect to {address}: {error}"))?;
        Ok(Self {
            reader,
            writer,
            values,
            out: Vec::new(),
            changes: 0,
            filler: Vec::new(),
            line: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Stores the first objects of a trace, as many as have `bytes` together.
    pub fn fill(&mut self, trace: &Trace, sizes: &[u32], bytes: u64) -> Result<(), String> {
        let mut left = bytes as i64;
        for (index, size) in sizes.iter().enumerate() {
            self.store(trace, index as u32, *size).map_err(told)?;
            left -= *size as i64;
            if left <= 0 {
                break;
            }
        }
        self.settle().map_err(told)
    }

    /// Asks a trace from its first request to its last; each object has the size that `sizes` gives it.
    pub fn play(&mut self, trace: &Trace, sizes: &[u32]) -> Result<Counts, String> {
        self.counts = Counts::default();
        let mut batch: Vec<u32> = Vec::with_capacity(BATCH);
        // The batch in which an object was last named, from 1.
        let (mut named, mut number) = (vec![0u32; sizes.len()], 1);
        for operation in &trace.operations {
            let read = operation.kind == Kind::Get;
            if batch.len() == BATCH || named[operation.index as usize] == number || !read {
                self.ask(trace, sizes, &mut batch).map_err(told)?;
                number += 1;
            }
            named[operation.index as usize] = number;
            match operation.kind {
                Kind::Get => batch.push(operation.index),
                Kind::Delete => self.delete(trace, operation.index).map_err(told)?,
                _ => self.store(trace, operation.index, sizes[operation.index as usize]).map_err(told)?,
            }
            if interrupt::CAUGHT.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
        }
        self.ask(trace, sizes, &mut batch).map_err(told)?;
        self.settle().map_err(told)?;
        Ok(std::mem::take(&mut self.counts))
    }

    /// Reads the objects of a batch, and leaves it empty; what is missed will be stored with the next batch.
    fn ask(&mut self, trace: &Trace, sizes: &[u32], batch: &mut Vec<u32>) -> io::Result<()> {
        let verb: &[u8] = if self.values { b"get " } else { b"mg " };
        for index in batch.iter() {
            self.out.extend_from_slice(verb);
            self.out.extend_from_slice(trace.key(*index));
            self.out.extend_from_slice(b"\r\n");
        }
        self.send()?;
        let mut missed = 0;
        for at in 0..batch.len() {
            if !self.found()? {
                batch[missed] = batch[at];
                missed += 1;
            }
        }
        self.counts.reads += batch.len() as u64;
        self.counts.misses += missed as u64;
        for index in batch.drain(..).take(missed) {
            self.store(trace, index, sizes[index as usize])?;
        }
        Ok(())
    }

    fn store(&mut self, trace: &Trace, index: u32, size: u32) -> io::Result<()> {
        if self.filler.len() < size as usize {
            self.filler.resize(size as usize, b'v');
        }
        self.out.extend_from_slice(b"set ");
        self.out.extend_from_slice(trace.key(index));
        write!(self.out, " 0 0 {size}\r\n")?;
        self.out.extend_from_slice(&self.filler[..size as usize]);
        self.out.extend_from_slice(b"\r\n");
        self.change()
    }

    fn delete(&mut self, trace: &Trace, index: u32) -> io::Result<()> {
        self.out.extend_from_slice(b"delete ");
        self.out.extend_from_slice(trace.key(index));
        self.out.extend_from_slice(b"\r\n");
        self.change()
    }

    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        if self.out.len() > OUT_BYTES || self.changes == CHANGES_MAX { self.send() } else { Ok(()) }
    }

    fn settle(&mut self) -> Result<(), io::Error> {
        self.send()
    }

    /// Sends what is to be sent, and reads the answers of the stores and deletes in it.
    fn send(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.out)?;
        self.out.clear();
        for _ in 0..std::mem::take(&mut self.changes) {
            self.read_line()?;
            if !matches!(&self.line[..], b"STORED" | b"DELETED" | b"NOT_FOUND") {
                self.counts.refused += 1;
                let said = String::from_utf8_lossy(&self.line).into_owned();
                self.counts.refusal.get_or_insert(said);
            }
        }
        Ok(())
    }

    /// Whether the next answer is a hit.
    fn found(&mut self) -> io::Result<bool> {
        self.read_line()?;
        match &self.line[..] {
            b"HD" => return Ok(true),
            b"EN" | b"END" => return Ok(false),
            _ => {}
        }
        let text = String::from_utf8_lossy(&self.line).into_owned();
        let bytes = text.strip_prefix("VALUE ").and_then(|rest| rest.split(' ').nth(2)?.parse::<u64>().ok());
        let Some(bytes) = bytes else { return Err(io::Error::other(format!("`{text}` is no answer to a read"))) };
        io::copy(&mut (&mut self.reader).take(bytes + 2), &mut io::sink())?;
        self.read_line()?;
        if self.line == b"END" { Ok(true) } else { Err(io::Error::other("END is missing behind a value")) }
    }

    fn read_line(&mut self) -> io::Result<()> {
        self.line.clear();
        self.reader.read_until(b'\n', &mut self.line)?;
        match self.line.strip_suffix(b"\r\n") {
            Some(line) => self.line.truncate(line.len()),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

fn told(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock => format!("no answer came in {} s", PATIENCE.as_secs()),
        io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
        _ => error.to_string(),
    }
}

/// Reads in a batch at most.
const BATCH: usize = 32;
/// Stores are sent when they are so many, or so many bytes: their answers must fit what a socket holds.
const CHANGES_MAX: usize = 64;
const OUT_BYTES: usize = 1 << 20;
/// A server that is silent for so long has stalled.
const PATIENCE: Duration = Duration::from_secs(30);

//! A server behind TCP on 127.0.0.1: the original memcached, or a node of ours.
//!
//! Lives here: starting it on a free port, ending it by its process id, waiting for answers.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::format::Options;
use crate::original::Original;
use crate::run::{Arrival, Peer};

/// A process that serves; ended when dropped.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts memcached.
    pub fn memcached(original: &Original, options: &Options) -> Self {
        let mut arguments = vec!["-u", "nobody", "-l", "127.0.0.1", "-U", "0", "-m", "64"];
        let max_item_size = options.max_item_size.map(|bytes| bytes.to_string());
        if let Some(bytes) = &max_item_size {
            // The largest chunk must be smaller than the largest item.
            arguments.extend(["-I", bytes, "-o", "slab_chunk_max=8192"]);
        }
        arguments.extend(options.flush_disabled.then_some("-F"));
        arguments.extend(options.dump_disabled.then_some("-X"));
        arguments.extend(options.cas_disabled.then_some("-C"));
        Self::start(&original.program, &arguments, "-p").unwrap_or_else(|| panic!("{} cannot be started", original.program))
    }

    /// Starts a Redis that writes nothing to disk.
    pub fn redis() -> Self {
        let arguments = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--loglevel", "warning"];
        Self::start("redis-server", &arguments, "--port").unwrap_or_else(|| panic!("redis-server cannot be started"))
    }

    /// Starts a node of ours.
    pub fn node(options: &Options, more: &[&str]) -> Self {
        let binary = std::env::var("PBCACHE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pbcache").into());
        let mut arguments = vec!["--memory_size", "64", "--ip", "127.0.0.1"];
        arguments.extend(more);
        let max_item_size = options.max_item_size.map(|bytes| bytes.to_string());
        if let Some(bytes) = &max_item_size {
            arguments.extend(["--max_item_size", bytes]);
        }
        arguments.extend(options.flush_disabled.then_some("-F"));
        arguments.extend(options.dump_disabled.then_some("-X"));
        arguments.extend(options.cas_disabled.then_some("-C"));
        arguments.extend(options.http.iter().flat_map(|(name, value)| [*name, value]));
        Self::start(&binary, &arguments, "--port").unwrap_or_else(|| panic!("{binary} cannot be started"))
    }

    fn start(binary: &str, arguments: &[&str], port_option: &str) -> Option<Self> {
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
            let child = Command::new(binary)
                .args(arguments)
                .args([port_option, &port.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .ok()?;
            let mut server = Self { child, port };
            if server.wait_until_it_serves() {
                return Some(server);
            }
        }
        panic!("{binary} {arguments:?} does not listen");
    }

    /// Waits for the port; false when the process ended, as it does when another took the port meanwhile.
    fn wait_until_it_serves(&mut self) -> bool {
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connections of one transcript to a server that earlier transcripts have used.
pub struct Tcp<'s> {
    server: &'s Server,
    connections: HashMap<String, TcpStream>,
    current: String,
}

impl<'s> Tcp<'s> {
    pub fn new(server: &'s Server) -> Self {
        Self { server, connections: HashMap::new(), current: String::new() }
    }
}

impl Peer for Tcp<'_> {
    fn connect(&mut self, name: &str) -> Result<(), String> {
        if !self.connections.contains_key(name) {
            let stream = TcpStream::connect(("127.0.0.1", self.server.port)).map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            self.connections.insert(name.into(), stream);
        }
        self.current = name.into();
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let stream = self.connections.get_mut(&self.current).ok_or("no connection")?;
        match stream.write_all(bytes) {
            // Closed by the server in the middle of a send: what it means is for the next line to say.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
            result => result.map_err(|error| error.to_string()),
        }
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> Arrival {
        self.receive_within(into, ANSWER_MAX)
    }

    fn settle(&mut self, into: &mut Vec<u8>) -> Arrival {
        self.receive_within(into, SETTLE)
    }

    fn advance(&mut self, seconds: u32) {
        self.server.debug_time(&seconds.to_string());
    }
}

impl Server {
    /// Moves, pauses or resumes the clock of a node that was built with `debugtime`.
    pub fn debug_time(&self, words: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the node listens");
        stream.write_all(format!("debugtime {words}\r\n").as_bytes()).expect("the node reads");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("the node answers");
        assert_eq!(&answer, b"OK\r\n");
    }
}

impl Tcp<'_> {
    fn receive_within(&mut self, into: &mut Vec<u8>, time: Duration) -> Arrival {
        let Some(stream) = self.connections.get_mut(&self.current) else { return Arrival::Closed };
        stream.set_read_timeout(Some(time)).expect("a time above 0");
        let mut bytes = [0; 65536];
        match stream.read(&mut bytes) {
            Ok(0) => Arrival::Closed,
            Ok(count) => {
                into.extend_from_slice(&bytes[..count]);
                Arrival::Bytes
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Arrival::Quiet,
            Err(_) => Arrival::Closed,
        }
    }
}

/// Longest time until a server listens.
const START_MAX: Duration = Duration::from_secs(10);

/// Longest time until an expected answer comes, on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Time in which an answer that should not come would have come.
const SETTLE: Duration = Duration::from_millis(15);

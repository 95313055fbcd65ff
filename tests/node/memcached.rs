//! memcached beside the node under test, where there is one.
//!
//! Lives here: the process. Not here: which memcached that is (`original`).

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::original::original;
use crate::server::{Client, free_port};

/// A running memcached; ended when dropped.
pub struct Memcached {
    child: Child,
    pub port: u16,
}

impl Memcached {
    pub fn start(options: &[&str]) -> Option<Self> {
        let port = free_port();
        let mut command = Command::new(&original()?.program);
        command.args(["-u", "nobody", "-l", "127.0.0.1", "-U", "0", "-m", "100", "-p", &port.to_string()]).args(options);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        Some(Self { child, port })
    }

    pub fn connect(&self) -> Client {
        let start = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(stream) => return Client::new(stream),
                Err(error) => assert!(start.elapsed() < Duration::from_secs(5), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Where a server listens, and how to get there.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Target {
    /// Host and port; a name is looked up once.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Target {
    /// Connects, waiting at most `timeout`. The socket is in blocking mode, without delay for small messages.
    pub fn connect(&self, timeout: Duration) -> io::Result<OwnedFd> {
        match self {
            Target::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, timeout)?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Target::Unix(path) => Ok(UnixStream::connect(path)?.into()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Target::Unix(path.into()));
        }
        let with_port = if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            text.to_owned()
        } else {
            format!("{text}:11211")
        };
        let mut addresses = with_port.to_socket_addrs().map_err(|error| format!("`{text}` is not HOST:PORT: {error}"))?;
        addresses.next().map(Target::Tcp).ok_or_else(|| format!("`{text}` has no address"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(output, "{address}"),
            Target::Unix(path) => write!(output, "unix:{}", path.display()),
        }
    }
}

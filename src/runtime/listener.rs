//! Listening sockets, and who may come in.
//!
//! One SO_REUSEPORT listener per core and address, so that each core accepts by itself; options set here are inherited by the
//! accepted sockets. A stranger is refused before a byte is read.
//!
//! Lives here: binding, admission. Not here: accepting (`pump`, `streams`), which core a connection goes to (`core`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;

use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::context::Shared;

/// A listening socket of one core.
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// Where it listens, for messages.
    pub name: String,
    /// Whether connections may be given to a less loaded core (not on shard ports).
    pub balanced: bool,
    /// Addresses that may connect; empty for unix sockets.
    pub admitted: Arc<[IpNet]>,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Counted in `Shared::connections`.
    Welcome,
    /// Its address is not in `--incoming_ip`.
    Stranger,
    /// `--conn_limit` is reached; it was told so.
    Full,
}

/// What memcached says to a connection past its limit.
const FULL: &[u8] = b"ERROR Too many open connections\r\n";

impl Listener {
    /// Listens on a TCP address, together with the other cores.
    ///
    /// # Errors
    /// The operating system's, most often that the address is in use.
    pub fn tcp(address: SocketAddr, backlog: i32, admitted: Arc<[IpNet]>, balanced: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_keepalive(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(backlog)?;
        Ok(Self { fd: socket.into(), name: address.to_string(), balanced, admitted })
    }

    /// Whether another process listens on the address. SO_REUSEPORT would silently share it with a process of the same user.
    /// Does not listen: a client that came at this moment would be let in and thrown out.
    ///
    /// # Errors
    /// When the address cannot be bound alone.
    pub fn probe_tcp(address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP address"))
    }

    /// Listens on a unix socket; a stale file of that name is removed first.
    ///
    /// # Errors
    /// The operating system's.
    pub fn unix(path: &Path, mask: u32, backlog: i32) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mask))?;
        socket.listen(backlog)?;
        Ok(Self { fd: socket.into(), name: path.display().to_string(), balanced: true, admitted: Arc::new([]) })
    }
}

/// Decides about a new connection. One system call.
pub fn admit(fd: &OwnedFd, listener: &Listener, shared: &Shared) -> Admission {
    if !listener.admitted.is_empty() {
        let peer = SockRef::from(fd).peer_addr().ok().and_then(|address| address.as_socket());
        if !peer.is_some_and(|peer| is_admitted(peer.ip(), &listener.admitted)) {
            return Admission::Stranger;
        }
    }
    let before = shared.connections.fetch_add(1, AcqRel);
    if before >= shared.connections_max {
        shared.connections.fetch_sub(1, AcqRel);
        let socket = SockRef::from(fd);
        let _ = socket.send_with_flags(FULL, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        return Admission::Full;
    }
    Admission::Welcome
}

fn is_admitted(address: IpAddr, ranges: &[IpNet]) -> bool {
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_ranges_are_admitted() {
        let ranges: Vec<IpNet> = ["127.0.0.0/8", "10.1.0.0/16", "::1/128"].iter().map(|r| r.parse().unwrap()).collect();
        for (address, expected) in [
            ("127.0.0.1", true),
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("::2", false),
            ("::ffff:127.0.0.1", true),
        ] {
            assert_eq!(is_admitted(address.parse().unwrap(), &ranges), expected, "{address}");
        }
    }
}

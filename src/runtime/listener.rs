//! Listening sockets, and who may come in.
//!
//! One SO_REUSEPORT listener per core and address, so that each core accepts by itself; options set here are inherited by the
//! accepted sockets. A stranger is refused before a byte is read.
//!
//! ```text
//!   a core ends:  ignore_newcomers --> accept what had come --> shut_down --> reap the accept --> close
//!                 a first packet is       every handshake that       nobody can come any more, whoever
//!                 dropped, and comes      has begun can end          still holds the descriptor
//!                 again in a second
//! ```
//!
//! A connection that waits in a listener when it is shut down is reset, and its client has been told that it is connected. A listener that
//! is only closed lives on in the accept that the kernel has not taken back yet, beyond the end of the process.
//!
//! Lives here: binding, admission, the end of a listener. Not here: who is admitted (`service`), accepting (`pump`, `streams`), which core a connection goes to (`core`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};

use super::service::{ServiceId, Services};
use super::sys;

/// A listening socket of one core.
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// Where it listens, for messages.
    pub name: String,
    /// Whether connections may be given to a less loaded core (not on shard ports).
    pub balanced: bool,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Counted as what it is served as. It comes from this address, or over a unix socket.
    Admitted(Option<SocketAddr>, ServiceId),
    /// Its address is not in `--incoming_ip`.
    Denied,
    /// `--conn_limit` is reached; it was told so.
    Full,
}

/// What memcached says to a connection past its limit.
pub const FULL: &[u8] = b"ERROR Too many open connections\r\n";

impl Listener {
    /// Listens on a TCP address, together with the other cores.
    ///
    /// # Errors
    /// The operating system's, most often that the address is in use.
    pub fn tcp(address: SocketAddr, backlog: i32, balanced: bool) -> io::Result<Self> {
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
        Ok(Self { fd: socket.into(), name: address.to_string(), balanced })
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
        Ok(Self { fd: socket.into(), name: path.display().to_string(), balanced: true })
    }

    /// Lets no new handshake begin, and those that have begun end. On a unix socket, where a connection is made in one step,
    /// nothing changes; nor where the kernel takes no filter.
    pub fn ignore_newcomers(&self) {
        let _ = SockRef::from(&self.fd).attach_filter(NO_FIRST_PACKETS);
    }

    /// Ends the listener for good, whoever still holds the descriptor: nobody connects any more, and another process may listen. Connections
    /// that wait in a unix socket can still be accepted; those of a TCP socket are reset.
    pub fn shut_down(&self) {
        sys::shutdown(self.fd.as_raw_fd());
    }
}

/// Drops the packets that begin a handshake: SYN without ACK in the flags, byte 13 of a TCP header. Accepted sockets inherit it, and never
/// get such packets.
const NO_FIRST_PACKETS: &[SockFilter] = &[
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 13),
    SockFilter::new((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, 0, 0, (TCP_SYN | TCP_ACK) as u32),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, TCP_SYN as u32),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
];
/// RFC 9293, *Header Format*.
const TCP_SYN: u8 = 0x02;
/// See [`TCP_SYN`].
const TCP_ACK: u8 = 0x10;

/// Decides about a new connection. One system call.
pub fn check(fd: &OwnedFd, services: &Services) -> Admission {
    let socket = SockRef::from(fd);
    let peer = match socket.peer_addr() {
        Ok(address) => address.as_socket(),
        // It has gone already: nobody is there to be served.
        Err(_) => return Admission::Denied,
    };
    if peer.is_some_and(|peer| !services.clients.admits(peer.ip())) {
        return Admission::Denied;
    }
    if let Some(service) = services.enter() {
        return Admission::Admitted(peer, service);
    }
    let _ = socket.send_with_flags(FULL, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    Admission::Full
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_listener_that_ends_keeps_who_has_come_and_lets_nobody_in() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address = Listener::probe_tcp(address.parse().unwrap()).unwrap();
            let listener = Listener::tcp(address, 8, true).unwrap();
            // What a kernel does that has not taken back an accept yet.
            let held = Socket::from(listener.fd.try_clone().unwrap());
            let early = TcpStream::connect(address).unwrap();

            listener.ignore_newcomers();
            let late = TcpStream::connect_timeout(&address, Duration::from_millis(100));
            assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut, "a first packet is not answered");
            let (accepted, peer) = held.accept().unwrap();
            assert_eq!(peer.as_socket(), Some(early.local_addr().unwrap()));
            accepted.send(b"hello").unwrap();

            listener.shut_down();
            drop(listener);
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            assert!(Listener::probe_tcp(address).is_ok(), "the next process may listen");
            let successor = Listener::tcp(address, 8, true).unwrap();
            drop(TcpStream::connect(address).unwrap());
            drop((successor, held));

            early.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut bytes = [0; 5];
            std::io::Read::read_exact(&mut &early, &mut bytes).unwrap();
            assert_eq!(&bytes, b"hello");
        }
    }
}

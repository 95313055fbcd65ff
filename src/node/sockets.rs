//! The sockets of the process, for `stats conns`.
//!
//! The kernel knows every socket, so the cores keep no list of addresses for a question that is asked once in a while.
//!
//! Lives here: from descriptors to addresses. Not here: what is printed of them (`stats`).
//! Unsafe lives here: borrowing descriptors by their number.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use socket2::{SockAddr, SockRef};

use super::stats::SocketFigures;
use crate::limits;

/// The listeners and connections of this process, at most `limits::CONNECTIONS_LISTED_MAX`, in the order of their descriptors.
pub fn list() -> Vec<SocketFigures> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut descriptors: Vec<i32> = numbers.collect();
    descriptors.sort_unstable();
    descriptors.into_iter().filter_map(figures).take(limits::CONNECTIONS_LISTED_MAX).collect()
}

/// What is known of one descriptor; `None` if it is no socket that listens or is connected.
fn figures(descriptor: i32) -> Option<SocketFigures> {
    // SAFETY: not -1; only asked for its addresses below. If it was closed meanwhile, the questions fail or are answered for the
    // connection that has its number now.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let socket = SockRef::from(&borrowed);
    let local = socket.local_addr().ok()?;
    if socket.is_listener().ok()? {
        return Some(SocketFigures { descriptor, address: text(&local)?, ..SocketFigures::default() });
    }
    let remote = socket.peer_addr().ok()?;
    Some(SocketFigures { descriptor, address: text(&remote)?, listener: text(&local)? })
}

/// An address as memcached writes it.
fn text(address: &SockAddr) -> Option<String> {
    match address.as_socket() {
        Some(address @ SocketAddr::V4(_)) => Some(format!("tcp:{address}")),
        Some(address @ SocketAddr::V6(_)) => Some(format!("tcp6:{address}")),
        None if address.is_unix() => {
            Some(format!("unix:{}", address.as_pathname().map_or(String::new(), |path| path.display().to_string())))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_listener_and_both_ends_of_a_connection_are_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, remote) = listener.accept().unwrap();
        let sockets = list();
        let find = |descriptor: i32| sockets.iter().find(|socket| socket.descriptor == descriptor).unwrap();
        assert_eq!(find(listener.as_raw_fd()).address, format!("tcp:{address}"));
        assert_eq!(find(listener.as_raw_fd()).listener, "");
        assert_eq!(find(server.as_raw_fd()).address, format!("tcp:{remote}"));
        assert_eq!(find(server.as_raw_fd()).listener, format!("tcp:{address}"));
        assert_eq!(find(client.as_raw_fd()).address, format!("tcp:{address}"));
    }
}

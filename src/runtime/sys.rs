//! The few system calls that no crate in use offers.
//!
//! Lives here: eventfd, pipe, descriptor helpers. Not here: io_uring (`uring`), sockets with options (`listener`).
//! Unsafe lives here: foreign calls with plain integers and owned descriptors.

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use socket2::SockRef;

/// A new eventfd in blocking mode: glommio and the ring wait on it by reading.
pub fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is ours alone.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// A new pipe: the end to read and the end to write, the latter without blocking.
pub fn new_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for both descriptors, which are ours alone.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        let (read, write) = (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]));
        if libc::fcntl(ends[1], libc::F_SETFL, libc::O_NONBLOCK) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((read, write))
    }
}

/// Writes eight bytes: adds one to an eventfd, or rings a doorbell that is a pipe. A full pipe has been rung already.
pub fn ring_doorbell(fd: RawFd) {
    let one = 1u64;
    // SAFETY: reads eight bytes of a live local. A closed descriptor is an error that does not matter here.
    let _ = unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

/// The address of the other end of a TCP connection.
pub fn peer_ip(fd: RawFd) -> Option<IpAddr> {
    // SAFETY: the descriptor is of a live connection of the caller's, which is not closed meanwhile.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    SockRef::from(&socket).peer_addr().ok()?.as_socket().map(|address| address.ip().to_canonical())
}

/// Has a socket that is bound to an address get its port when it connects. Refused, it gets one at once.
pub fn choose_port_late(fd: RawFd) {
    let one: libc::c_int = 1;
    // SAFETY: reads four bytes of a live local.
    unsafe {
        libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, (&raw const one).cast(), 4);
    }
}

/// Shuts a socket down in both directions: what waits on it ends.
pub fn shutdown(fd: RawFd) {
    // SAFETY: no pointers.
    let _ = unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Ends the output of a socket: the other side sees an end behind what was sent, and may still send.
pub fn end_output(fd: RawFd) {
    // SAFETY: no pointers.
    let _ = unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Ends the input of a socket: what has come is read, then the end, also by a reader that waits.
pub fn end_input(fd: RawFd) {
    // SAFETY: no pointers.
    let _ = unsafe { libc::shutdown(fd, libc::SHUT_RD) };
}

/// Shuts a socket down in both directions and discards what has come, so that the other side sees an end: closed with bytes that
/// nobody read, a connection is reset.
pub fn hang_up(fd: RawFd) {
    shutdown(fd);
    let mut bytes = [0u8; 4096];
    for _ in 0..HANG_UP_READS_MAX {
        // SAFETY: writes at most as many bytes as the live local has.
        if unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) } <= 0 {
            return;
        }
    }
}

/// Reads that discard at most as much as a socket holds by default.
const HANG_UP_READS_MAX: u32 = 64;

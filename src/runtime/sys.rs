//! The few system calls that no crate in use offers.
//!
//! Lives here: eventfd, descriptor helpers. Not here: io_uring (`ring`), sockets with options (`listener`).
//! Unsafe lives here: foreign calls with plain integers and owned descriptors.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

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

/// Adds one to an eventfd.
pub fn write_eventfd(fd: RawFd) {
    let one = 1u64;
    // SAFETY: reads eight bytes of a live local. A closed descriptor is an error that does not matter here.
    let _ = unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

/// Shuts a socket down in both directions: what waits on it ends.
pub fn shutdown(fd: RawFd) {
    // SAFETY: no pointers.
    let _ = unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

//! Ctrl-C ends a measurement early, with its report; a second one ends the process. Also raises the limit of open files.
//!
//! This file contains `unsafe`: a signal handler, and limits of the process.

use std::sync::atomic::{AtomicBool, Ordering};

/// The signal has come.
pub static CAUGHT: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    CAUGHT.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM set `CAUGHT`, once.
pub fn catch() {
    // SAFETY: the handler only stores to an atomic; the structure is plain data, filled before it is read.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGTERM, &action, std::ptr::null_mut());
    }
}

/// Raises the limit of open files to the highest that this user may have: each connection needs one.
pub fn raise_files_limit() {
    // SAFETY: the structure is plain data that the first call fills.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Lets the calling thread wake on time: by default the kernel may add 50 us to every wait.
pub fn wake_on_time() {
    // SAFETY: a plain system call without pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

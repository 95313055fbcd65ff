//! Signals: blocked in every thread, waited for by one.
//!
//! Lives here: which signals end the node. Not here: how it ends (`node`).
//! Unsafe lives here: foreign calls on a signal set on the stack.

use std::mem::MaybeUninit;

/// Blocks the signals that `wait` takes, in this thread and in those it starts later. Call before any thread is started.
pub fn block() {
    let set = set();
    // SAFETY: the set is initialised; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for a signal that ends the node: SIGTERM, SIGINT, or SIGUSR1 (memcached's graceful stop). SIGHUP is taken and has no
/// effect yet, so that a closed terminal does not end a node.
pub fn wait() {
    let set = set();
    loop {
        let mut signal = 0;
        // SAFETY: both live across the call.
        if unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 && signal != libc::SIGHUP {
            return;
        }
    }
}

/// Waits for another such signal, but no longer than this. An operator who sends a second one wants no delay.
pub fn wait_at_most(seconds: u32) {
    let set = set();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds.into());
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        let time = libc::timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // SAFETY: both live across the call; who sent it is not asked for.
        let signal = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time) };
        if signal > 0 && signal != libc::SIGHUP {
            return;
        }
    }
}

/// Ends the wait as a signal from outside would.
pub fn raise() {
    // SAFETY: a signal to this process, which blocks it in every thread but the one that waits.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}

fn set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, the others change it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

//! The doorbell of a core: how it is woken while it waits in its own io_uring, and while it is parked in glommio.
//!
//! ```text
//!   other thread --write--> bell (pipe) --read by the own io_uring--> completion --signals--> signal (eventfd) --glommio--> task
//! ```
//!
//! A ring with DEFER_TASKRUN cannot be polled, but it signals a registered eventfd, which glommio can read as a file (the
//! eventfd must be in blocking mode, or the read returns at once). The bell must not be an eventfd: a completion that is caused by
//! the write to one eventfd does not signal another from there, the kernel guards against such recursion, and the core slept on
//! until its tick.
//!
//! Lives here: the bell, the signal and the task that waits. Not here: who rings (`context`), when to park (`pump`).
//! Unsafe lives here: a descriptor is given to glommio's file for good.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::sleep;

use super::sys;

/// How long a parked core sleeps at most: expiry and time-outs are looked at once a second.
const TICK: Duration = Duration::from_secs(1);

/// The bell and the signal of one core, and the task that waits for them.
pub struct Doorbell {
    /// The two ends of the bell: to read, to write.
    bell: (OwnedFd, OwnedFd),
    signal: OwnedFd,
    rung: Cell<bool>,
    /// The tasks are to end.
    ended: Cell<bool>,
    sleeper: Cell<Option<Waker>>,
}

impl Doorbell {
    /// A fresh bell and signal.
    pub fn new() -> io::Result<Rc<Self>> {
        let (bell, signal) = (sys::new_pipe()?, sys::new_eventfd()?);
        Ok(Rc::new(Self { bell, signal, rung: Cell::new(false), ended: Cell::new(false), sleeper: Cell::new(None) }))
    }

    /// What other threads write to.
    pub fn bell_fd(&self) -> RawFd {
        self.bell.1.as_raw_fd()
    }

    /// What the io_uring of the core reads.
    pub fn heard_fd(&self) -> RawFd {
        self.bell.0.as_raw_fd()
    }

    /// What the io_uring signals completions on.
    pub fn signal_fd(&self) -> RawFd {
        self.signal.as_raw_fd()
    }

    /// Starts the tasks that wake a parked core: one reads the signal, one ticks. End them before the executor ends.
    pub fn start(self: Rc<Self>) -> Helpers {
        let (reader, ticker) = (self.clone(), self.clone());
        Helpers {
            doorbell: self,
            reader: glommio::spawn_local(async move { reader.read_signals().await }),
            ticker: glommio::spawn_local(async move {
                loop {
                    sleep(TICK).await;
                    ticker.wake();
                }
            }),
        }
    }

    async fn read_signals(&self) {
        let Ok(signal) = self.signal.try_clone() else { return };
        // SAFETY: a descriptor of our own, given to the file for good.
        let file = unsafe { BufferedFile::from_raw_fd(signal.into_raw_fd()) };
        while file.read_at(0, 8).await.is_ok() && !self.ended.get() {
            self.wake();
        }
        // A file that is only dropped is glommio's to complain about.
        let _ = file.close().await;
    }

    fn wake(&self) {
        self.rung.set(true);
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }

    /// Sleeps until the signal or the tick.
    pub async fn wait(&self) {
        poll_fn(|task| {
            if self.rung.take() {
                return Poll::Ready(());
            }
            self.sleeper.set(Some(task.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// The tasks that wake a parked core.
pub struct Helpers {
    doorbell: Rc<Doorbell>,
    reader: glommio::Task<()>,
    ticker: glommio::Task<()>,
}

impl Helpers {
    /// Ends them. The reader is woken by the signal that it waits for: cancelled, it would leave its file to glommio.
    pub async fn end(self) {
        self.doorbell.ended.set(true);
        sys::ring_doorbell(self.doorbell.signal_fd());
        self.reader.await;
        self.ticker.cancel().await;
    }
}

//! Log lines on their way to standard error, which may not take them.
//!
//! ```text
//!   a core: warn!(..) --> queue, or counted as lost --> thread `pbcache-log` --> standard error: a terminal, a pipe, a disk that is busy
//! ```
//!
//! Whoever writes a line never waits for who reads it: a pager that stands still, or a disk in the middle of a sync, would stop a core.
//!
//! Lives here: the queue and its thread. Not here: what is worth a line (`log::warn!` where it happens), which levels are shown (`main`).

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Lines that wait at most; those beyond are counted and not shown.
const LINES_MAX: usize = 1024;
/// How long the end of the process waits for lines that are not out yet.
const FLUSH_WAIT: Duration = Duration::from_millis(300);
/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 64 << 10;

enum Entry {
    Line(Vec<u8>),
    /// Everything in front of it is out.
    Flushed(Sender<()>),
}

static QUEUE: OnceLock<Sender<Entry>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where the logger writes to. Until `start` it is standard error itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(queue) = QUEUE.get() else { return io::stderr().write(line) };
        if queue.try_send(Entry::Line(line.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the thread: after the process has gone to the background, which would leave it behind. Without a thread, lines are written where
/// they arise.
pub fn start() {
    let (sender, receiver) = bounded(LINES_MAX);
    let thread = thread::Builder::new().name("pbcache-log".into()).stack_size(STACK_BYTES);
    if thread.spawn(move || write_all(&receiver)).is_ok() {
        let _ = QUEUE.set(sender);
    }
}

/// Waits, but not for long, until the lines so far are out.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (sender, flushed) = bounded(1);
    if queue.send_timeout(Entry::Flushed(sender), FLUSH_WAIT).is_ok() {
        let _ = flushed.recv_timeout(FLUSH_WAIT);
    }
}

fn write_all(receiver: &Receiver<Entry>) {
    let mut error = io::stderr();
    for entry in receiver {
        let _ = match entry {
            Entry::Line(line) => error.write_all(&line),
            Entry::Flushed(sender) => sender.send(()).map_err(io::Error::other),
        };
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(error, "pbcache: {lost} log lines were lost, because standard error did not take them in time.");
        }
    }
}

//! One io_uring of our own, with a ring of provided receive buffers.
//!
//! ```text
//!   turn n:    push push push ... -> enter (submits all, runs deferred work, waits) -> completions
//!
//!   receive buffers:  | 0 | 1 | 2 | ... | 255 |   8 KiB each; the kernel picks one per receive, `recycle` gives it back,
//!                                                `publish_buffers` tells the kernel once a turn
//! ```
//!
//! Flags: SINGLE_ISSUER and DEFER_TASKRUN (completions are produced when this thread enters, never by interrupting it),
//! COOP_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL. Needs Linux 6.1.
//!
//! Lives here: the io_uring, its buffers, the marks of completions. Not here: what a completion means (`pump`).
//! Unsafe lives here: submission entries carry raw pointers, and the kernel writes into the buffers.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};

use crate::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS_BYTES, RECEIVE_BUFFERS_COUNT};

/// The only buffer group.
pub const BUFFER_GROUP: u16 = 0;
/// Submission entries: one turn's sends and re-arms; a full queue is submitted at once.
const SUBMISSIONS_COUNT: u32 = 1024;
/// Times that what the kernel has not taken is submitted again before the io_uring counts as broken.
const SUBMIT_TRIES_MAX: u32 = 10_000;
/// Time that an io_uring which is dropped waits for what it cancels.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(1);
/// Completion entries: above the number of events of one turn; beyond it the kernel keeps a list.
const COMPLETIONS_COUNT: u32 = 8192;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A connection on a listener.
    Accept,
    /// Received bytes.
    Receive,
    /// A send of this turn's output that did not go out whole.
    Send,
    /// A send of the backlog.
    Backlog,
    /// The doorbell was rung.
    Doorbell,
    /// Another core woke this one.
    Wake,
    /// Time has passed.
    Tick,
    /// A link to another node is connected, or not.
    Connect,
    /// A cancellation; tells nothing.
    Cancel,
}

/// The mark of a request, returned with its completion: kind, generation (24 bits), index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

impl Mark {
    /// The mark of a request about connection or listener `index`.
    pub const fn new(kind: Kind, generation: u32, index: u32) -> Self {
        Self((kind as u64) << 56 | ((generation & 0xff_ffff) as u64) << 32 | index as u64)
    }

    /// Which kind of request.
    pub const fn kind(self) -> Kind {
        match self.0 >> 56 {
            0 => Kind::Accept,
            1 => Kind::Receive,
            2 => Kind::Send,
            3 => Kind::Backlog,
            4 => Kind::Doorbell,
            5 => Kind::Wake,
            6 => Kind::Tick,
            7 => Kind::Connect,
            _ => Kind::Cancel,
        }
    }

    /// Which connection or listener.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// Whether it was made for this generation of the index.
    pub const fn is_of(self, generation: u32) -> bool {
        (self.0 >> 32) as u32 & 0xff_ffff == generation & 0xff_ffff
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What it belongs to.
    pub mark: Mark,
    /// Result of the call, or a negated error number.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the multishot request goes on.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The receive buffer that was filled.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// An io_uring and its receive buffers. Belongs to the thread that made it.
pub struct Uring {
    io_uring: IoUring,
    buffers: Buffers,
    /// Why nothing is submitted any more.
    broken: Option<String>,
}

impl Uring {
    /// Sets the io_uring up.
    ///
    /// # Errors
    /// The kernel's: not allowed, too old, or out of memory. `node::preflight` has words for them.
    pub fn new() -> io::Result<Self> {
        let mut builder = Self::builder();
        builder.setup_submit_all();
        Self::build(&builder)
    }

    fn builder() -> io_uring::Builder<squeue::Entry, cqueue::Entry> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_taskrun_flag();
        builder.setup_cqsize(COMPLETIONS_COUNT).setup_clamp();
        builder
    }

    fn build(builder: &io_uring::Builder<squeue::Entry, cqueue::Entry>) -> io::Result<Self> {
        let uring = builder.build(SUBMISSIONS_COUNT)?;
        // A registered descriptor saves a lookup per enter; kernels that refuse work without.
        let _ = uring.submitter().register_ring_fd();
        let buffers = Buffers::new();
        // SAFETY: the ring of entries is page aligned, as long as announced, and lives until the uring is dropped (field order).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(buffers.entries as u64, RECEIVE_BUFFERS_COUNT, BUFFER_GROUP, 0)?
        };
        let mut uring = Self { io_uring: uring, buffers, broken: None };
        (0..RECEIVE_BUFFERS_COUNT).for_each(|id| uring.recycle(id));
        uring.publish_buffers();
        Ok(uring)
    }

    /// The descriptor of the io_uring, for wake-up messages from other cores.
    pub fn fd(&self) -> RawFd {
        self.io_uring.as_raw_fd()
    }

    /// Signals completions on an eventfd, while enabled by `signal_completions`.
    pub fn register_eventfd(&mut self, fd: RawFd) -> io::Result<()> {
        self.io_uring.submitter().register_eventfd(fd)?;
        self.signal_completions(false);
        Ok(())
    }

    /// Turns the eventfd signal on (before parking) or off.
    pub fn signal_completions(&mut self, on: bool) {
        let completions = self.io_uring.completion();
        if on { completions.enable_eventfd() } else { completions.disable_eventfd() }
    }

    /// Queues a request; submits what is queued first if the queue is full. On a broken io_uring nothing happens, and the next `enter`
    /// says so.
    ///
    /// # Safety
    /// - whatever the entry points to stays valid until its completion (or, for sends marked DONTWAIT, until the next `enter`
    ///   returned), or until the io_uring is dropped.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller's promise.
        while unsafe { self.io_uring.submission().push(entry) }.is_err() {
            if self.enter(0, None).is_err() {
                return;
            }
        }
    }

    /// Submits all that is queued, runs deferred work and waits for `want` completions, at most `timeout`. Nothing is queued any more when it
    /// has returned without an error: what the entries pointed to may be used for something else then, as far as they said so.
    ///
    /// # Errors
    /// Never for time-outs and interruptions; others mean a broken io_uring, whose entries may still be queued: it submits nothing any more,
    /// for what they point to may have gone.
    pub fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        if let Some(reason) = &self.broken {
            return Err(io::Error::other(reason.clone()));
        }
        let result = self.enter_until_taken(want, timeout);
        self.broken = result.as_ref().err().map(io::Error::to_string);
        result
    }

    fn enter_until_taken(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let mut queued = self.queued();
        self.enter_once(queued, want, timeout)?;
        // The kernel takes fewer than there are where it is short of memory, or was interrupted.
        for _ in 0..SUBMIT_TRIES_MAX {
            queued = self.queued();
            if queued == 0 {
                return Ok(());
            }
            std::thread::yield_now();
            self.enter_once(queued, 0, None)?;
        }
        Err(io::Error::other("the kernel takes no submissions"))
    }

    /// Entries that the kernel has not taken.
    fn queued(&mut self) -> u32 {
        let mut submission = self.io_uring.submission();
        submission.sync();
        submission.len() as u32
    }

    fn enter_once(&mut self, queued: u32, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        const GETEVENTS: u32 = 1;
        const EXT_ARG: u32 = 8;
        let timespec = timeout.map(Timespec::from);
        let submitter = self.io_uring.submitter();
        let result = match &timespec {
            Some(timespec) if want > 0 => {
                let args = SubmitArgs::new().timespec(timespec);
                // SAFETY: the arguments live across the call; EXT_ARG announces their form.
                unsafe { submitter.enter(queued, want, GETEVENTS | EXT_ARG, Some(&args)) }
            }
            _ => {
                // SAFETY: no argument.
                unsafe { submitter.enter::<libc::sigset_t>(queued, want, GETEVENTS, None) }
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes all completions that are there.
    pub fn completions(&mut self, mut each: impl FnMut(&mut Buffers, Completion)) -> usize {
        let mut count = 0;
        for entry in self.io_uring.completion() {
            count += 1;
            let completion = Completion { mark: Mark(entry.user_data()), result: entry.result(), flags: entry.flags() };
            each(&mut self.buffers, completion);
        }
        count
    }

    /// Whether completions wait to be taken.
    pub fn has_completions(&mut self) -> bool {
        !self.io_uring.completion().is_empty()
    }

    /// The bytes that a receive put into a buffer.
    pub fn received(&self, buffer: u16, length: usize) -> &[u8] {
        self.buffers.slice(buffer, length)
    }

    /// Gives a receive buffer back; the kernel sees it after `publish_buffers`.
    pub fn recycle(&mut self, buffer: u16) {
        self.buffers.recycle(buffer);
    }

    /// Tells the kernel which buffers are free again.
    pub fn publish_buffers(&mut self) {
        self.buffers.publish();
    }
}

impl Drop for Uring {
    /// Ends what is under way, so that the memory that it points to may be used for something else. The kernel alone would end it too, but
    /// some time after the io_uring was closed.
    fn drop(&mut self) {
        let _ = self.io_uring.submitter().register_sync_cancel(Some(Timespec::from(CANCEL_TIME_MAX)), CancelBuilder::any());
        // What was cancelled ends in deferred work. Nothing that is still queued is submitted.
        let _ = self.enter_once(0, 0, None);
    }
}

const PAGE_BYTES: usize = 4096;

/// The ring of provided buffers and their memory.
pub struct Buffers {
    entries: *mut BufRingEntry,
    block: *mut u8,
    /// The first buffer: the first page of the block.
    memory: *mut u8,
    tail: u16,
}

impl Buffers {
    const ENTRIES: Layout = match Layout::from_size_align(RECEIVE_BUFFERS_COUNT as usize * size_of::<BufRingEntry>(), 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("a constant layout"),
    };
    /// No more alignment than the allocator gives anyway: for more, it would write the zeroes itself, and all would be resident at start. A page
    /// more, so that the buffers begin with one all the same.
    const MEMORY: Layout = match Layout::from_size_align(RECEIVE_BUFFERS_BYTES + PAGE_BYTES, 16) {
        Ok(layout) => layout,
        Err(_) => panic!("a constant layout"),
    };

    fn new() -> Self {
        // SAFETY: both layouts have a size above 0.
        let (entries, block) = unsafe { (alloc_zeroed(Self::ENTRIES), alloc_zeroed(Self::MEMORY)) };
        assert!(!entries.is_null() && !block.is_null(), "no memory for receive buffers");
        let memory = block.wrapping_add(block.align_offset(PAGE_BYTES));
        Self { entries: entries.cast(), block, memory, tail: 0 }
    }

    fn slice(&self, id: u16, length: usize) -> &[u8] {
        assert!(id < RECEIVE_BUFFERS_COUNT && length <= RECEIVE_BUFFER_BYTES);
        // SAFETY: the buffer lies inside the block (asserted); the kernel writes it only while it is published as free, and it is
        // recycled only after the caller is done (`&self` here, `&mut self` there).
        unsafe { std::slice::from_raw_parts(self.memory.add(id as usize * RECEIVE_BUFFER_BYTES), length) }
    }

    fn recycle(&mut self, id: u16) {
        assert!(id < RECEIVE_BUFFERS_COUNT);
        let place = (self.tail & (RECEIVE_BUFFERS_COUNT - 1)) as usize;
        // SAFETY: `place` is inside the ring of entries; the kernel reads entries only up to the published tail.
        let entry = unsafe { &mut *self.entries.add(place) };
        // SAFETY: `id` is inside the block.
        entry.set_addr(unsafe { self.memory.add(id as usize * RECEIVE_BUFFER_BYTES) } as u64);
        entry.set_len(RECEIVE_BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the tail is a u16 inside the first entry, aligned, shared with the kernel, written only here.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) }.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layouts; the uring, which is dropped before, no longer writes to them.
        unsafe {
            dealloc(self.entries.cast(), Self::ENTRIES);
            dealloc(self.block, Self::MEMORY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use io_uring::{opcode, types};

    /// Symptom: bytes of one client's answer sent to another. Cause: where the kernel took fewer entries than were queued, the rest stayed
    /// queued, while the output that they pointed to was filled again. Cure: `enter` goes on until nothing is queued.
    #[test]
    fn nothing_is_queued_when_the_kernel_has_taken_only_a_part() {
        // Without SUBMIT_ALL, the kernel stops behind an entry that it refuses.
        let Ok(mut uring) = Uring::build(&Uring::builder()) else { return };
        for round in 0..3 {
            for index in 0..4 {
                let nop = opcode::Nop::new().build().user_data(Mark::new(Kind::Tick, round, index).0);
                let refused = opcode::Close::new(types::Fd(-1)).build().flags(squeue::Flags::BUFFER_SELECT);
                // SAFETY: neither entry points anywhere; the close is refused for its flags.
                unsafe { uring.push(if index == 1 { &refused } else { &nop }) };
            }
            uring.enter(0, None).unwrap();
            assert_eq!(uring.queued(), 0);
            assert_eq!(uring.completions(|_, _| {}), 4, "round {round}");
        }
    }

    /// An io_uring that was set up disabled refuses every `enter`.
    #[test]
    fn a_broken_ring_says_so_and_never_hangs_or_submits() {
        let Ok(mut uring) = Uring::build(Uring::builder().setup_r_disabled()) else { return };
        let nop = opcode::Nop::new().build();
        for _ in 0..2 * SUBMISSIONS_COUNT {
            // SAFETY: the entry points nowhere.
            unsafe { uring.push(&nop) };
        }
        let first = uring.enter(0, None).unwrap_err().to_string();
        uring.io_uring.submitter().register_enable_rings().unwrap();
        assert_eq!(uring.enter(0, None).unwrap_err().to_string(), first, "its entries may point to what has gone");
        assert_eq!(uring.completions(|_, _| {}), 0);
    }

    /// Symptom: the kernel may write to receive buffers that were given to something else. Cause: an io_uring that is closed ends its
    /// requests some time later. Cure: they are cancelled, and waited for, before the buffers go.
    #[test]
    fn nothing_is_under_way_when_a_ring_is_dropped() {
        let Ok(mut uring) = Uring::new() else { return };
        let (mut near, far) = UnixStream::pair().unwrap();
        let receive = opcode::RecvMulti::new(types::Fd(far.as_raw_fd()), BUFFER_GROUP).build();
        // SAFETY: the entry points nowhere; the buffers are the io_uring's.
        unsafe { uring.push(&receive) };
        uring.enter(0, None).unwrap();
        drop(far);
        near.set_nonblocking(true).unwrap();
        let held = near.read(&mut [0]).unwrap_err();
        assert_eq!(held.kind(), io::ErrorKind::WouldBlock, "the receive holds the socket open");
        drop(uring);
        assert_eq!(near.read(&mut [0]).unwrap(), 0, "the receive has ended");
    }
}

//! The client's own io_uring: bytes in by multishot receive, bytes out by one send per connection and turn.
//!
//! ```text
//!   turn:  submit all queued sends + wait (one io_uring_enter) -> completions -> events -> the caller handles them
//!   in:    kernel -> provided buffer (256 x 16 KiB, shared by all connections) -> Event::Received -> release()
//!   out:   Vec<u8> given to send(), owned here until the kernel is done, handed back in Event::Sent
//! ```
//!
//! Buffers change owners instead of being borrowed, so that no caller can free what the kernel still reads.
//!
//! Lives here: the ring, its buffers, socket slots. Not here: what the bytes mean (`doors`), when to send (`worker`).
//!
//! This file contains `unsafe`: ring memory is shared with the kernel.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{BufRingEntry, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

/// A connection of the pump. Stays valid until `Event::Closed`.
pub type Token = u32;

/// What happened in a turn.
#[derive(Debug)]
pub enum Event {
    /// Bytes lie in a provided buffer: read them with [`Pump::bytes`], then give it back with [`Pump::release`].
    Received {
        /// Whose bytes.
        token: Token,
        /// Where they lie.
        buffer: u16,
        /// How many.
        length: u32,
    },
    /// The kernel has taken the whole message; its buffer comes back, for reuse.
    Sent {
        /// Who sent.
        token: Token,
        /// The buffer that was given to `send`.
        buffer: Vec<u8>,
    },
    /// The connection is gone: closed by the peer (no error) or broken. Its token is free from the next turn on.
    Closed {
        /// Who is gone.
        token: Token,
        /// Why, if not an orderly end.
        error: Option<io::Error>,
    },
    /// A listener accepted a connection.
    Accepted {
        /// The new socket.
        socket: OwnedFd,
    },
}

/// One io_uring with its sockets.
pub struct Pump {
    ring: IoUring,
    buffers: BufferRing,
    slots: Vec<Slot>,
    free: Vec<Token>,
    /// Tokens whose `Event::Closed` the caller has not seen yet: free from the next turn on, so that no event of an old
    /// connection can be taken for one of a new connection.
    retired: Vec<Token>,
    listener: Option<OwnedFd>,
    /// Receives that stopped for want of buffers, to be armed again.
    starved: Vec<Token>,
}

#[derive(Default)]
struct Slot {
    socket: Option<OwnedFd>,
    message: Vec<u8>,
    sent: usize,
    sending: bool,
    receiving: bool,
    closed: bool,
    error: Option<io::Error>,
}

impl Pump {
    /// A pump for at most `connections` sockets. Must be made on the thread that turns it.
    ///
    /// Fails where the kernel refuses io_uring or is older than Linux 6.1.
    pub fn new(connections: usize) -> io::Result<Self> {
        let completions = (connections * 4).next_power_of_two().clamp(1024, 32768) as u32;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(completions)
            .build(1024)?;
        ring.submitter().register_files_sparse(connections as u32)?;
        let buffers = BufferRing::new(&ring)?;
        let mut slots = Vec::new();
        slots.resize_with(connections, Slot::default);
        let free = (0..connections as Token).rev().collect();
        Ok(Self { ring, buffers, slots, free, retired: Vec::new(), listener: None, starved: Vec::new() })
    }

    /// Takes a connected, blocking-mode socket and starts to receive from it.
    pub fn add(&mut self, socket: OwnedFd) -> io::Result<Token> {
        let token = self.free.pop().ok_or_else(|| io::Error::other("more connections than the pump was made for"))?;
        self.ring.submitter().register_files_update(token, &[socket.as_raw_fd()])?;
        self.slots[token as usize] = Slot { socket: Some(socket), ..Slot::default() };
        self.arm(token);
        Ok(token)
    }

    /// Starts to accept connections: each becomes an `Event::Accepted`.
    pub fn listen(&mut self, listener: OwnedFd) {
        self.push(accept_entry(listener.as_raw_fd()));
        self.listener = Some(listener);
    }

    /// Queues a message. One at a time per connection: wait for `Event::Sent` before the next.
    pub fn send(&mut self, token: Token, message: Vec<u8>) {
        let slot = &mut self.slots[token as usize];
        assert!(!slot.sending, "one message at a time");
        slot.sending = true;
        slot.sent = 0;
        slot.message = message;
        self.push_send(token);
    }

    /// Ends a connection; `Event::Closed` follows when the kernel has let go of it.
    pub fn close(&mut self, token: Token) {
        let slot = &mut self.slots[token as usize];
        if let Some(socket) = &slot.socket {
            // SAFETY: a plain system call on a descriptor that this slot owns.
            unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
        }
    }

    /// The received bytes of an event.
    #[inline]
    pub fn bytes(&self, buffer: u16, length: u32) -> &[u8] {
        self.buffers.bytes(buffer, length)
    }

    /// Gives the buffer of `Event::Received` back to the kernel.
    #[inline]
    pub fn release(&mut self, buffer: u16) {
        self.buffers.give(buffer);
    }

    /// Submits what is queued, waits for at least one completion or for `timeout` (`Duration::ZERO`: does not wait), and
    /// appends what happened to `events`. One system call.
    pub fn turn(&mut self, timeout: Duration, events: &mut Vec<Event>) -> io::Result<()> {
        self.free.append(&mut self.retired);
        while let Some(token) = self.starved.pop() {
            if self.slots[token as usize].socket.is_some() {
                self.arm(token);
            }
        }
        let result = if timeout.is_zero() {
            self.submit_and_poll()
        } else {
            let time = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
            self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
        };
        match result {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(error) => return Err(error),
        }
        self.reap(events);
        Ok(())
    }

    fn submit_and_poll(&self) -> io::Result<usize> {
        const GETEVENTS: u32 = 1;
        let pending = self.ring.params().sq_entries(); // the kernel takes at most what is queued
        // SAFETY: no argument struct is passed, and the ring is used by this thread only.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(pending, 0, GETEVENTS, None) }
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        let count = self.ring.completion().len();
        for _ in 0..count {
            let Some(entry) = self.ring.completion().next() else { break };
            let (kind, token) = (entry.user_data() as u8, (entry.user_data() >> 8) as Token);
            match kind {
                RECEIVE => self.handle_receive(token, &entry, events),
                SEND => self.handle_send(token, entry.result(), events),
                _ => self.handle_accept(&entry, events),
            }
        }
    }

    fn handle_receive(&mut self, token: Token, entry: &cqueue::Entry, events: &mut Vec<Event>) {
        let more = cqueue::more(entry.flags());
        let result = entry.result();
        if result > 0
            && let Some(buffer) = cqueue::buffer_select(entry.flags())
        {
            events.push(Event::Received { token, buffer, length: result as u32 });
            if !more {
                self.arm(token);
            }
            return;
        }
        if result == -libc::ENOBUFS {
            self.starved.push(token);
            return;
        }
        if more {
            return;
        }
        let slot = &mut self.slots[token as usize];
        slot.receiving = false;
        slot.closed = true;
        if result < 0 {
            slot.error = Some(io::Error::from_raw_os_error(-result));
        }
        self.retire(token, events);
    }

    fn handle_send(&mut self, token: Token, result: i32, events: &mut Vec<Event>) {
        let slot = &mut self.slots[token as usize];
        if result > 0 {
            slot.sent += result as usize;
            if slot.sent < slot.message.len() {
                self.push_send(token);
                return;
            }
        } else if result == -libc::EAGAIN || result == -libc::EINTR {
            self.push_send(token);
            return;
        }
        slot.sending = false;
        let mut buffer = std::mem::take(&mut slot.message);
        buffer.clear();
        if result > 0 && !slot.closed {
            events.push(Event::Sent { token, buffer });
            return;
        }
        if result <= 0 {
            slot.error.get_or_insert_with(|| io::Error::from_raw_os_error(-result));
            self.close(token);
        }
        self.retire(token, events);
    }

    fn handle_accept(&mut self, entry: &cqueue::Entry, events: &mut Vec<Event>) {
        if entry.result() >= 0 {
            // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
            let socket = unsafe { OwnedFd::from_raw_fd(entry.result()) };
            events.push(Event::Accepted { socket });
        }
        if !cqueue::more(entry.flags())
            && let Some(listener) = &self.listener
        {
            let again = accept_entry(listener.as_raw_fd());
            self.push(again);
        }
    }

    /// Frees a slot once neither a receive nor a send refers to it.
    fn retire(&mut self, token: Token, events: &mut Vec<Event>) {
        let slot = &mut self.slots[token as usize];
        if slot.receiving || slot.sending || slot.socket.is_none() {
            return;
        }
        slot.socket = None;
        let error = slot.error.take();
        let _ = self.ring.submitter().register_files_update(token, &[-1]);
        self.retired.push(token);
        events.push(Event::Closed { token, error });
    }

    fn arm(&mut self, token: Token) {
        self.slots[token as usize].receiving = true;
        let entry = opcode::RecvMulti::new(Fixed(token), BUFFER_GROUP).build();
        self.push(entry.user_data(user_data(RECEIVE, token)));
    }

    fn push_send(&mut self, token: Token) {
        let slot = &self.slots[token as usize];
        let rest = &slot.message[slot.sent..];
        let entry = opcode::Send::new(Fixed(token), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(user_data(SEND, token));
        self.push(entry);
    }

    fn push(&mut self, entry: Entry) {
        loop {
            // SAFETY: what an entry points to is either owned by its slot until the completion arrives (messages) or
            // lives as long as the ring (provided buffers).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it to the kernel without waiting.
            let _ = self.submit_and_poll();
        }
    }
}

impl Drop for Pump {
    /// Ends all connections and waits (at most a second) until the kernel has let go of the messages.
    fn drop(&mut self) {
        for token in 0..self.slots.len() as Token {
            self.close(token);
        }
        let mut events = Vec::new();
        for _ in 0..100 {
            if self.slots.iter().all(|slot| !slot.sending) {
                return;
            }
            let _ = self.turn(Duration::from_millis(10), &mut events);
            events.clear();
        }
        // The kernel may still read these: rather lose the memory than reuse it.
        for slot in &mut self.slots {
            std::mem::forget(std::mem::take(&mut slot.message));
        }
    }
}

fn accept_entry(listener: RawFd) -> Entry {
    opcode::AcceptMulti::new(io_uring::types::Fd(listener)).build().user_data(user_data(ACCEPT, 0))
}

fn user_data(kind: u8, token: Token) -> u64 {
    (token as u64) << 8 | kind as u64
}

/// The provided buffers: one allocation, handed to the kernel piece by piece through a ring of entries.
struct BufferRing {
    entries: Mapping,
    data: Mapping,
    tail: u16,
}

impl BufferRing {
    fn new(ring: &IoUring) -> io::Result<Self> {
        let entries = Mapping::new(BUFFERS_COUNT as usize * size_of::<BufRingEntry>())?;
        let data = Mapping::new(BUFFERS_COUNT as usize * BUFFER_BYTES)?;
        // SAFETY: the mapping is page-aligned, large enough, and lives as long as the ring (fields of one struct).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.start as u64, BUFFERS_COUNT, BUFFER_GROUP, 0)?;
        }
        let mut buffers = Self { entries, data, tail: 0 };
        for buffer in 0..BUFFERS_COUNT {
            buffers.give(buffer);
        }
        Ok(buffers)
    }

    fn bytes(&self, buffer: u16, length: u32) -> &[u8] {
        assert!(buffer < BUFFERS_COUNT && length as usize <= BUFFER_BYTES);
        // SAFETY: in bounds by the assertion; the kernel does not write to a buffer that it has handed out.
        unsafe { std::slice::from_raw_parts(self.data.start.add(buffer as usize * BUFFER_BYTES), length as usize) }
    }

    fn give(&mut self, buffer: u16) {
        let base = self.entries.start.cast::<BufRingEntry>();
        let address = self.data.start as u64 + buffer as u64 * BUFFER_BYTES as u64;
        // SAFETY: the index is masked to the ring, whose entries only this thread writes; the release store of the tail
        // publishes the entry. The tail overlays the reserved part of entry 0, which `set_*` leaves alone.
        unsafe {
            let entry = &mut *base.add((self.tail & (BUFFERS_COUNT - 1)) as usize);
            entry.set_addr(address);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            (*BufRingEntry::tail(base).cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}

/// Anonymous zeroed pages.
struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a fresh anonymous mapping touches nothing of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once; the ring, a field before this one, is closed already.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

const RECEIVE: u8 = 1;
const SEND: u8 = 2;
const ACCEPT: u8 = 3;

const BUFFER_GROUP: u16 = 0;
/// Provided buffers: a power of two. 256 x 16 KiB = 4 MiB.
const BUFFERS_COUNT: u16 = 256;
const BUFFER_BYTES: usize = 16 << 10;

const _: () = assert!(BUFFERS_COUNT.is_power_of_two());

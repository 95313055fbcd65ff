//! The end of an HTTP conversation: answers that must arrive, and clients that are too slow.
//!
//! ```text
//!   refused:   answer sent -> output ended -> what still comes is dropped -> the client closes, or enough was dropped -> closed
//!   too slow:  once a second -> 408 -> as refused          silent between two requests, or takes no answers -> closed
//! ```
//!
//! Closed with bytes that nobody has read, a connection is reset, and the client may lose the answer that it was about to read.
//!
//! Lives here: these two ways to end. Not here: when a client is too slow (`connection`).
//! RFC 9112 section 9.6.

use std::os::fd::AsRawFd;

use super::{Pump, close_later};
use crate::limits;
use crate::observe::events::CloseReason;
use crate::runtime::sys;
use crate::runtime::uring::Completion;

/// What may still come of a client that was refused.
pub(super) struct Lingering {
    /// Until then, in seconds of `Context::second`.
    until_s: u32,
    /// So many bytes.
    bytes: usize,
}

impl Pump {
    /// Ends the output of a connection that is to linger, and goes on reading. False for one that is to be closed at once.
    pub(super) fn linger(&mut self, id: u32) -> bool {
        let lingers = self.core.connections.get(id as usize).is_some_and(|connection| connection.lingers());
        let second = self.core.context.second();
        let Some(socket) = self.sockets[id as usize].as_mut().filter(|_| lingers && !self.core.draining) else { return false };
        if socket.lingering.is_none() {
            sys::end_output(socket.fd.as_raw_fd());
            socket.lingering =
                Some(Lingering { until_s: second + limits::HTTP_LINGER_S_MAX, bytes: limits::HTTP_LINGER_BYTES_MAX });
            self.core.context.serves_http = true;
            if !socket.receiving {
                self.arm_receive(id);
            }
        }
        true
    }

    /// Drops what a lingering client has sent.
    pub(super) fn receive_lingering(&mut self, id: u32, completion: Completion) {
        if let Some(buffer) = completion.buffer() {
            self.uring.recycle(buffer);
        }
        let Some(socket) = self.sockets[id as usize].as_mut() else { return };
        let Some(lingering) = &mut socket.lingering else { return };
        let (goes_on, receiving) = match completion.result {
            count if count > 0 => {
                self.core.context.shard.counters.bytes_read += count as u64;
                lingering.bytes = lingering.bytes.saturating_sub(count as usize);
                (lingering.bytes > 0, socket.receiving)
            }
            error => (matches!(-error, libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN), socket.receiving),
        };
        match goes_on {
            false => self.close_now(id, CloseReason::Normal),
            true if !receiving => self.arm_receive(id),
            true => {}
        }
    }

    /// Closes an HTTP connection whose time is up, with an answer where the client is in the middle of a request.
    pub(super) fn enforce_deadlines(&mut self, id: u32) {
        let second = self.core.context.second();
        let Some(socket) = self.sockets[id as usize].as_mut() else { return };
        if let Some(lingering) = &socket.lingering {
            if lingering.until_s < second {
                self.close_now(id, CloseReason::Normal);
            }
            return;
        }
        let connection = &mut self.core.connections[id as usize];
        if connection.unsent && socket.active_s.saturating_add(limits::HTTP_IDLE_S_MAX) <= second {
            self.core.context.shard.counters.idle_kicks += 1;
            return self.close_now(id, CloseReason::IdleTimeout);
        }
        if !connection.is_overdue(second) {
            return;
        }
        let (start, bodies_start) = (self.output.bytes.len(), self.output.bodies.len());
        connection.time_out(&mut self.core.context.shard.counters, &mut self.output);
        close_later(socket, id, &mut self.closers);
        self.emit(id, start, bodies_start);
    }
}

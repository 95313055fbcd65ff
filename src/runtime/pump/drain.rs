//! The end of a core: nobody comes any more, what has come is answered, then everything is closed.
//!
//! ```text
//!   time        0                                DRAIN_LISTEN_MS                                                        DRAIN_MS_MAX
//!   listeners   newcomers are ignored ---------> shut down, accepts reaped: this core listens no more
//!   clients     requests are taken, until DRAIN_LISTEN_MS behind the last arrival ---> closed once answered ---------> closed
//!   the core    goes on, for the other cores need its answers ---> ends when no core listens and no connection is left
//! ```
//!
//! Lives here: this order, and its bound in time. Not here: how a listener ends (`listener`), the same for streams (`streams`).

use std::sync::atomic::Ordering::{AcqRel, Acquire};

use super::Pump;
use crate::limits;
use crate::observe::events::CloseReason;
use crate::runtime::uring::{Kind, Mark};
use crate::time::Monotonic;

/// Milliseconds that a draining core gives its clients to take their answers.
const DRAIN_MS_MAX: u64 = 5000;
/// Milliseconds behind them in which sends and accepts that were broken off are reaped.
const REAP_MS_MAX: u64 = 100;

/// How far a draining core is.
pub(super) struct Drain {
    stage: Stage,
    /// When the listeners are shut down. By `Context::ms`, as below.
    listeners_end: Monotonic,
    /// Until then a client's next request is awaited; later, where a connection has come.
    pub(super) requests_end: Monotonic,
    deadline: Monotonic,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Accepts go on, for handshakes that have begun.
    Listening,
    /// The listeners are shut down; the kernel still holds accepts.
    ShutDown,
    /// No connection comes from this core's listeners any more, and the other cores know.
    Deaf,
}

impl Drain {
    fn new(at: Monotonic) -> Self {
        let end = at + limits::DRAIN_LISTEN_MS;
        Self { stage: Stage::Listening, listeners_end: end, requests_end: end, deadline: at + DRAIN_MS_MAX }
    }

    /// Whether an accept that ended must be armed again.
    pub(super) fn accepts(&self) -> bool {
        self.stage == Stage::Listening
    }
}

impl Pump {
    /// Takes a drain further; whether it has ended.
    pub(super) fn finished(&mut self) -> bool {
        if !self.core.draining {
            return false;
        }
        let at = self.core.context.at;
        let drain = self.drain.get_or_insert_with(|| {
            self.listeners.iter().for_each(|listener| listener.ignore_newcomers());
            Drain::new(at)
        });
        let (takes_requests, out_of_time) = (at < drain.requests_end, at >= drain.deadline);
        let lost_patience = at >= drain.deadline + REAP_MS_MAX;
        match drain.stage {
            Stage::Listening if at >= drain.listeners_end => {
                drain.stage = Stage::ShutDown;
                self.listeners.iter().for_each(|listener| listener.shut_down());
            }
            // A turn later, in which the accept of a unix socket took what was left; it does not fail by itself.
            Stage::ShutDown if self.accepting > 0 => self.cancel_accepts(),
            Stage::ShutDown => {
                drain.stage = Stage::Deaf;
                self.listeners.clear();
                self.core.shared().listening.fetch_sub(1, AcqRel);
            }
            Stage::Listening | Stage::Deaf => {}
        }
        self.close_idle(takes_requests, out_of_time);
        let shared = self.core.shared();
        let gone = self.sockets.iter().all(Option::is_none) && self.dying_sends.is_empty();
        // In this order: a core counts a connection before it stops to listen.
        let gone = gone && shared.listening.load(Acquire) == 0 && shared.services.open() == 0;
        gone || lost_patience
    }

    fn cancel_accepts(&mut self) {
        for index in 0..self.listeners.len() {
            self.cancel(Mark::new(Kind::Accept, 0, index as u32));
        }
    }

    /// Closes the connections that wait for nothing, unless they may still ask; all of them when time is up.
    fn close_idle(&mut self, takes_requests: bool, out_of_time: bool) {
        for id in 0..self.sockets.len() as u32 {
            let Some(socket) = &self.sockets[id as usize] else { continue };
            let connection = &self.core.connections[id as usize];
            let idle =
                connection.is_watching() || (connection.is_drained() && !connection.is_blocked() && socket.backlog.is_none());
            if (idle && socket.output.is_none() && !takes_requests) || out_of_time {
                self.close_now(id, CloseReason::Shutdown);
            }
        }
    }
}

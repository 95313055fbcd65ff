//! Clients that wait until this node's hints have gone where they belong: `stats handoff wait`.
//!
//! ```text
//!   control thread --add--> | client, until when | client, until when | ..        at most WAITS_MAX
//!   one thread, while somebody waits:  are all cores settled?  whose time is over?  who has gone?  --> answers, and ends with the last
//! ```
//!
//! Lives here: who waits. Not here: what settled means (`ring`), the answer's words (`ring`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::control::{Cores, reply_to};
use super::ring;
use crate::cluster::view::View;
use crate::command::Reply;
use crate::protocol::Head;
use crate::routing::ShardId;
use crate::routing::Ticket;
use crate::time::Monotonic;

/// Clients that may wait at once: each core is asked as often for one as for all of them, but each keeps a ring awake.
const WAITS_MAX: usize = 64;
/// How often the cores are asked.
const LOOK: Duration = Duration::from_millis(20);
/// Every how many looks it is asked whether the clients are still there.
const LOOKS_A_CHECK: u32 = 25;

/// A client that waits.
struct Waiting {
    core: ShardId,
    ticket: Ticket,
    framing: Head,
    until: Monotonic,
}

/// All that wait. A thread serves them while there are any.
#[derive(Clone, Default)]
pub struct Waits {
    list: Arc<Mutex<Vec<Waiting>>>,
}

impl Waits {
    /// Has a client wait for at most `seconds`; it is answered from here on. False if too many wait, or there is no thread.
    pub fn add(&self, cores: &Cores, view: &Arc<View>, (core, ticket, framing): (ShardId, Ticket, Head), seconds: u32) -> bool {
        let until = cores.shared.clock.at() + u64::from(seconds) * 1000;
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= WAITS_MAX {
            return false;
        }
        if list.is_empty() {
            let (waits, cores, view) = (self.clone(), cores.clone(), view.clone());
            let thread = std::thread::Builder::new().name("pbcache-wait".into()).spawn(move || waits.run(&cores, &view));
            if thread.is_err() {
                return false;
            }
        }
        list.push(Waiting { core, ticket, framing, until });
        true
    }

    /// Serves those that wait until there are none.
    fn run(&self, cores: &Cores, view: &View) {
        for look in 1u32.. {
            let settled = ring::is_settled(cores);
            let at = cores.shared.clock.at();
            if look.is_multiple_of(LOOKS_A_CHECK) {
                self.forget_gone(cores);
            }
            let over = {
                let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
                let over: Vec<Waiting> = list.extract_if(.., |waiting| settled || at >= waiting.until).collect();
                if list.is_empty() && over.is_empty() {
                    return;
                }
                over
            };
            if !over.is_empty() {
                let mut lines = ring::stats_handoff(view, cores);
                lines.push(("settled".into(), if settled { "yes" } else { "no" }.into()));
                for Waiting { core, ticket, framing, .. } in over {
                    reply_to(cores, core, ticket, framing, &Reply::Stats(&lines), false);
                }
                // The next look ends the thread, under the lock, if nobody has come.
                continue;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Forgets those whose connections have gone. They are asked for without the lock: the control thread must not wait for it.
    fn forget_gone(&self, cores: &Cores) {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let tickets: Vec<(ShardId, Ticket)> = list.iter().map(|waiting| (waiting.core, waiting.ticket)).collect();
        drop(list);
        let is_gone = |&(core, ticket): &(ShardId, Ticket)| {
            cores.ask_one(usize::from(core.0), move |core| !core.waits_for_control(ticket)).unwrap_or(true)
        };
        let gone: Vec<(ShardId, Ticket)> = tickets.into_iter().filter(is_gone).collect();
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|waiting| !gone.contains(&(waiting.core, waiting.ticket)));
    }
}

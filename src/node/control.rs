//! The control plane's own thread: answers what clients ask of the node rather than of a key.
//!
//! ```text
//!   core --ControlRequest--> control thread --Run(closure)--> every core --answer--> control thread --Answer--> core
//! ```
//!
//! One actor, one request at a time; it may allocate and be slow. Cores never wait for it, only the asking client does.
//!
//! Lives here: the questions to the cores and the answers to clients. Not here: the words of `stats` (`stats`), data commands.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::buffer::Buffer;
use crate::command::Reply;
use crate::protocol::{self, Framing};
use crate::runtime::context::{ControlRequest, OwnedControl, Shared};
use crate::runtime::core::{Core, ToCore};
use crate::time::Instant;

/// The control plane's ways to the cores.
#[derive(Clone)]
pub struct Cores {
    /// One inbox per core.
    pub inboxes: Vec<Sender<ToCore>>,
    /// Doorbells and gauges.
    pub shared: Arc<Shared>,
}

/// Longest wait for a core's answer: a core that is silent for so long has ended.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

impl Cores {
    /// Sends a message to one core and wakes it.
    pub fn send(&self, core: usize, message: ToCore) {
        // A closed inbox means that the core has ended; then nobody waits for the message either.
        let _ = self.inboxes[core].send(message);
        self.shared.cores[core].ring_doorbell();
    }

    /// Runs `question` on every core and returns the answers in the order of the cores.
    pub fn ask<T: Send + 'static>(&self, question: impl Fn(&mut Core) -> T + Send + Clone + 'static) -> Vec<T> {
        let answers = (0..self.inboxes.len()).map(|core| {
            let (sender, receiver) = bounded(1);
            let question = question.clone();
            self.send(core, ToCore::Run(Box::new(move |core| drop(sender.send(question(core))))));
            receiver
        });
        let answers: Vec<_> = answers.collect();
        answers.iter().filter_map(|answer| answer.recv_timeout(ANSWER_WAIT).ok()).collect()
    }
}

/// Answers requests until every core has ended.
pub fn run(requests: &Receiver<ControlRequest>, cores: &Cores) {
    for request in requests {
        let mut buffer = Buffer::default();
        let close = answer(&request, cores, &mut buffer);
        let message = ToCore::Answer { ticket: request.ticket, bytes: buffer.flatten(), close };
        cores.send(request.core.0 as usize, message);
    }
}

fn answer(request: &ControlRequest, cores: &Cores, output: &mut Buffer) -> bool {
    let framing = Framing { head: request.framing, words: b"" };
    let reply = match &request.control {
        OwnedControl::FlushAll { delay } => {
            let now = cores.shared.clock.now();
            let at = match delay.expiry(now.seconds()).0 {
                0 | 1 => now,
                second => Instant::from_seconds(second),
            };
            cores.ask(move |core| core.context.shard.engine.flush(at));
            Reply::Ok
        }
        _ => Reply::Ok,
    };
    protocol::encode(&framing, b"", &reply, output);
    false
}

//! What this node tells other nodes of itself, when somebody looks at the ring there.
//!
//! ```text
//!   MEMBERS(facts | copy) of another node --> core --> this thread: boards, or one core's item --> TOLD: JSON
//! ```
//!
//! Sleeps until it is asked. Tells figures, and of a key its version, size and times, never a value.
//!
//! Lives here: the answering side. Not here: who asks (`admin::others`), what is told (`admin::overview`, `admin::items`).

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::StartError;
use super::admin::facts::Facts;
use super::admin::{items, overview};
use super::control::Cores;
use crate::limits::KEY_BYTES_MAX;
use crate::peer::frame::{MemberVerb, ToldCode};
use crate::runtime::context::MembersRequest;
use crate::runtime::core::{Core, ToCore};

/// Starts the thread. It ends with the cores that pass questions on to it.
///
/// # Errors
/// No thread.
pub fn start(requests: Receiver<MembersRequest>, facts: Arc<Facts>, cores: Cores) -> Result<(), StartError> {
    let run = move || requests.iter().for_each(|request| answer(&facts, &cores, &request));
    let started = std::thread::Builder::new().name("pbcache-tell".into()).spawn(run);
    started.map(drop).map_err(|error| StartError(format!("a thread cannot be started: {error}.")))
}

fn answer(facts: &Facts, cores: &Cores, request: &MembersRequest) {
    let told = match MemberVerb::of(request.verb) {
        Some(MemberVerb::Facts) => serde_json::to_vec(&overview::report(facts)).map_err(|error| error.to_string()),
        Some(MemberVerb::Copy) if (1..=KEY_BYTES_MAX).contains(&request.value.len()) => {
            let copy = items::copy_here(&facts.options, cores, &request.value);
            copy.map(|copy| copy.to_string().into_bytes()).ok_or_else(|| "a core does not answer".into())
        }
        _ => Err("it does not know this question".into()),
    };
    let (code, bytes) = told.map_or_else(|why: String| (ToldCode::Refused, why.into_bytes()), |bytes| (ToldCode::Text, bytes));
    let (connection, generation, id) = (request.connection, request.generation, request.id);
    let tell = move |core: &mut Core| core.answer_members(connection, generation, id, code, &bytes);
    cores.send(usize::from(request.core.0), ToCore::Run(Box::new(tell)));
}

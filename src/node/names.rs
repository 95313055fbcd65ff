//! The thread that resolves the names of other nodes.
//!
//! ```text
//!   core --Resolve--> thread pbcache-names --Run--> core         (names resolve anew each time that a link is made)
//!                                         --> addresses that a caller without a secret may have
//! ```
//!
//! Lives here: that thread. Not here: when a core asks (`runtime::bridge`).

use std::net::ToSocketAddrs;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::StartError;
use super::control::Cores;
use crate::runtime::bridge::Resolve;
use crate::runtime::core::{Core, ToCore};
use crate::runtime::peer_socket::PeerSetup;

/// Starts the thread; it waits for the cores, which come once they run.
///
/// # Errors
/// No thread.
pub fn start(setup: Arc<PeerSetup>) -> Result<(Sender<Resolve>, Sender<Cores>), StartError> {
    let (questions, asked): (Sender<Resolve>, Receiver<Resolve>) = unbounded();
    let (cores_sender, cores): (Sender<Cores>, Receiver<Cores>) = bounded(1);
    let run = move || {
        let Ok(cores) = cores.recv() else { return };
        // The cores hold the other end: when they are gone, so is this.
        let Cores { inboxes, shared } = cores;
        for Resolve { core, link, name } in asked {
            let addresses: Vec<_> = name.to_socket_addrs().into_iter().flatten().collect();
            addresses.iter().for_each(|address| setup.known.add(address.ip()));
            let (Some(link), address) = (link, addresses.first().copied()) else { continue };
            let answer = ToCore::Run(Box::new(move |core: &mut Core| core.resolved(link, address)));
            if inboxes[usize::from(core.0)].send(answer).is_ok() {
                shared.cores[usize::from(core.0)].ring_doorbell();
            }
        }
    };
    std::thread::Builder::new()
        .name("pbcache-names".into())
        .spawn(run)
        .map_err(|error| StartError(format!("a thread cannot be started: {error}.")))?;
    Ok((questions, cores_sender))
}

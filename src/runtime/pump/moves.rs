//! From the accept to the core that a connection belongs to, and from core to core.
//!
//! ```text
//!   accepted --> settle --+-- this core            --> adopt_one --> receive
//!                         +-- a less loaded core   --> link ......--> adopt there
//!   requests keep going to one other core --> cancel the receive --> move_to --> link ......--> adopt there
//! ```
//!
//! Lives here: sockets that change their core. Not here: which core they belong to (`connection`, `core`), accepting (`pump`).

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use super::{Pump, Socket};
use crate::limits;
use crate::observe::events::What;
use crate::protocol::Session;
use crate::routing::ShardId;
use crate::runtime::mesh::record::Handover;
use crate::runtime::service::ServiceId;
use crate::runtime::uring::{Kind, Mark};

impl Pump {
    /// Gives an accepted connection to its core.
    pub(super) fn settle(&mut self, fd: OwnedFd, (address, service): (Option<SocketAddr>, ServiceId), home: Option<ShardId>) {
        self.core.note_connection(What::Opened(address), fd.as_raw_fd());
        let target = home.unwrap_or(self.core.id());
        self.core.shared().cores[target.0 as usize].connections.fetch_add(1, Relaxed);
        let session = Session::new(self.core.context.protocol);
        let handover = Handover { fd, session, input: Vec::new(), peer: None, address, service };
        match home {
            Some(core) => self.send_handover(core, handover),
            None => self.adopt_one(handover),
        }
    }

    /// Sends a connection to another core, or keeps it if that link is full.
    fn send_handover(&mut self, core: ShardId, handover: Handover) {
        if let Err(handover) = self.core.context.mesh.hand_over(core, Box::new(handover)) {
            let cores = &self.core.shared().cores;
            cores[core.0 as usize].connections.fetch_sub(1, Relaxed);
            cores[self.core.id().0 as usize].connections.fetch_add(1, Relaxed);
            self.adopt_one(*handover);
        }
    }

    pub(super) fn adopt(&mut self) {
        for handover in std::mem::take(&mut self.core.adopted) {
            self.adopt_one(handover);
        }
    }

    fn adopt_one(&mut self, handover: Handover) {
        if let Some(drain) = &mut self.drain {
            drain.requests_end = self.core.context.at + limits::DRAIN_LISTEN_MS;
        }
        let Handover { fd, session, input, peer, address, service } = handover;
        let has_input = !input.is_empty() || peer.as_ref().is_some_and(|peer| peer.has_pending());
        let id = self.core.open(Some(session), input, peer);
        let connection = &mut self.core.connections[id as usize];
        connection.descriptor = fd.as_raw_fd();
        connection.only_peers = service == ServiceId::Unproven;
        // It would not go to its core just now, and is of no use here.
        let goes_on = connection.is_peer() && connection.belongs_to().is_some();
        let generation = connection.generation;
        let active_s = self.core.context.second();
        self.seat(id, Socket { address, service, ..Socket::new(fd, generation, active_s) });
        if has_input {
            self.resume(id);
        } else {
            self.arm_receive(id);
        }
        if goes_on {
            self.core.to_flush.push(id);
        }
    }

    /// Starts to move a connection whose requests keep going to one other core: first its receive must end.
    pub(super) fn consider_moving(&mut self, id: u32) {
        let Some(core) = self.core.connections[id as usize].belongs_to() else { return };
        let Some(socket) = self.sockets[id as usize].as_mut() else { return };
        if socket.cancelling || socket.backlog.is_some() || self.core.draining {
            return;
        }
        socket.moving_to = Some(core);
        socket.cancelling = true;
        let mark = Mark::new(Kind::Receive, socket.generation, id);
        self.cancel(mark);
    }

    pub(super) fn move_to(&mut self, id: u32, core: ShardId) {
        let Some(socket) = self.sockets[id as usize].take() else { return };
        let Some(connection) = self.core.close(id) else { return };
        let (session, input, peer) = connection.into_parts();
        let cores = &self.core.shared().cores;
        cores[self.core.id().0 as usize].connections.fetch_sub(1, Relaxed);
        cores[core.0 as usize].connections.fetch_add(1, Relaxed);
        self.core.context.shard.counters.connections_moved += 1;
        let Socket { fd, address, service, .. } = socket;
        self.send_handover(core, Handover { fd, session, input, peer, address, service });
    }
}

//! Between a core's part of the ring and its sockets: which connection is which link, where nodes are, answers on their way.
//!
//! ```text
//!   turn.tick --> links wanted   --> address known?  yes: pump connects          no: resolver --Run--> the core
//!             --> answers        --> slot of a connection | link to another core | output of a peer
//!             --> links with output --> their connections are flushed
//! ```
//!
//! Lives here: the traffic between `Core` and `cluster::Turn`, once a turn. Not here: sockets (`pump`), frames (`peer_socket`), decisions (`cluster`).

use std::collections::VecDeque;
use std::net::SocketAddr;

use crossbeam_channel::Sender;

use super::connection::Connection;
use super::core::Core;
use super::mesh::record::ReplyBytes;
use super::peer_socket::{Peer, lose_link};
use crate::buffer::Buffer;
use crate::cluster::links::LinkId;
use crate::cluster::{Answer, Moved, OperationId, Origin, Output, Outputs};
use crate::command::Value;
use crate::peer::frame::{self, Kind, Stamp, ToldCode};
use crate::protocol::{Framing, Head};
use crate::routing::{ShardId, Ticket};
use crate::time::Monotonic;

/// A name to be resolved for a core.
pub struct Resolve {
    /// Who asks.
    pub core: ShardId,
    /// For which link, if it waits for the address.
    pub link: Option<LinkId>,
    /// `HOST:PORT`.
    pub name: String,
}

/// A core's knowledge of sockets to other nodes.
pub struct Bridge {
    /// Connection of each link, with its generation.
    sockets: Vec<Option<(u32, u32)>>,
    /// Links whose address is known and that are to be connected.
    pub dial: Vec<(LinkId, SocketAddr)>,
    /// Connections to be closed.
    pub hang_up: Vec<u32>,
    /// An emptied buffer for answers on their way to other cores.
    scratch: Buffer,
    /// Answers for clients of other cores whose link was full.
    late: VecDeque<(ShardId, Ticket, Buffer)>,
    resolver: Option<Sender<Resolve>>,
    /// When names were last resolved because a stranger called.
    learned_at: Monotonic,
    outputs: Outputs,
    /// Questions of the control plane that wait for their answer.
    waiters: Vec<(u64, Sender<Vec<u8>>)>,
    waiter: u64,
}

impl Bridge {
    /// Of a core that has no link yet.
    pub fn new(resolver: Option<Sender<Resolve>>) -> Self {
        Self {
            sockets: Vec::new(),
            dial: Vec::new(),
            hang_up: Vec::new(),
            scratch: Buffer::default(),
            late: VecDeque::new(),
            resolver,
            learned_at: Monotonic::LONG_AGO,
            outputs: Outputs::default(),
            waiters: Vec::new(),
            waiter: 0,
        }
    }

    /// The origin of a question of the control plane; `sender` gets the answer.
    pub fn expect(&mut self, sender: Sender<Vec<u8>>) -> Origin {
        self.waiter += 1;
        self.waiters.push((self.waiter, sender));
        Origin::Control(self.waiter)
    }

    fn socket_of(&mut self, link: LinkId) -> &mut Option<(u32, u32)> {
        let index = link.0 as usize;
        if self.sockets.len() <= index {
            self.sockets.resize(index + 1, None);
        }
        &mut self.sockets[index]
    }
}

impl Core {
    /// What other nodes have to do with this turn. Once a turn, before connections are flushed.
    pub fn attend_nodes(&mut self) {
        // What waits is executed only if this process has not stood still since its sender was last heard.
        self.context.read_at();
        let mut outputs = std::mem::take(&mut self.bridge.outputs);
        let Some(mut turn) = self.context.turn() else { return };
        turn.tick();
        turn.poll_output(&mut outputs);
        self.retry_late();
        while let Some(output) = outputs.next() {
            match output {
                Output::HangUp(link) => {
                    if let Some((id, _)) = self.bridge.socket_of(link).take() {
                        self.bridge.hang_up.push(id);
                    }
                }
                Output::Dial(link) => self.find(link),
                Output::Ready(link) => {
                    if let Some((id, _)) = *self.bridge.socket_of(link) {
                        self.to_flush.push(id);
                    }
                }
                Output::Answer(origin, answer) => self.deliver(origin, answer),
                Output::ToCore(core, id) => {
                    if let Some(moved) = self.pass_on(core, id)
                        && let Some(mut turn) = self.context.turn()
                    {
                        turn.put_back(core, id, moved, &mut outputs);
                    }
                }
            }
        }
        self.bridge.outputs = outputs;
    }

    /// Whether something for another node waits for this turn's end.
    pub fn has_news_for_nodes(&self) -> bool {
        let Some(cluster) = &self.context.shard.cluster else { return false };
        !self.bridge.dial.is_empty() || !self.bridge.hang_up.is_empty() || cluster.has_output()
    }

    /// Whether the clock matters: the core may wait, but not sleep.
    pub fn has_deadlines(&self) -> bool {
        !self.bridge.late.is_empty()
            || self.context.shard.cluster.as_ref().is_some_and(|cluster| cluster.is_busy(self.context.at))
    }

    /// Whether items wait for the next millisecond to go to another node.
    pub fn is_paced(&self) -> bool {
        self.context.shard.cluster.as_ref().is_some_and(|cluster| cluster.is_paced())
    }

    /// Finds out where a link goes.
    fn find(&mut self, link: LinkId) {
        let Some(cluster) = &self.context.shard.cluster else { return };
        let Some(node) = cluster.view.node(cluster.links.link(link).node) else { return };
        let name = &node.entry.address;
        match (name.parse::<SocketAddr>(), &self.bridge.resolver) {
            (Ok(address), _) => self.bridge.dial.push((link, address)),
            (Err(_), Some(resolver)) => {
                let resolve = Resolve { core: self.id(), link: Some(link), name: name.clone() };
                let _ = resolver.send(resolve);
            }
            (Err(_), None) => self.link_failed(link, "its name does not resolve"),
        }
    }

    /// Somebody has called from an address that no node has, as far as is known: names may resolve to others by now.
    pub(super) fn learn_addresses(&mut self) {
        let (Some(cluster), Some(resolver)) = (&self.context.shard.cluster, &self.bridge.resolver) else { return };
        if self.context.at < self.bridge.learned_at + LEARN_PAUSE_MS {
            return;
        }
        self.bridge.learned_at = self.context.at;
        let names = cluster.view.nodes.iter().map(|node| &node.entry.address);
        for name in names.filter(|name| name.parse::<SocketAddr>().is_err()) {
            let _ = resolver.send(Resolve { core: self.id(), link: None, name: name.clone() });
        }
    }

    /// A name was resolved, or not.
    pub fn resolved(&mut self, link: LinkId, address: Option<SocketAddr>) {
        match address {
            Some(address) => self.bridge.dial.push((link, address)),
            None => self.link_failed(link, "its name does not resolve"),
        }
    }

    /// A link could not be made.
    pub fn link_failed(&mut self, link: LinkId, why: &str) {
        let quiet = self.draining;
        if let Some(mut turn) = self.context.turn() {
            lose_link(&mut turn, link, why, quiet);
        }
    }

    /// A conversation for a link that is about to be connected.
    pub fn open_link(&mut self, link: LinkId) -> Option<u32> {
        let setup = self.context.peer_setup.clone()?;
        let id = self.open(None, Vec::new(), Some(Box::new(Peer::connecting(link, &setup))));
        let generation = self.connections[id as usize].generation;
        *self.bridge.socket_of(link) = Some((id, generation));
        Some(id)
    }

    /// The socket of a link is connected.
    pub fn link_connected(&mut self, id: u32) {
        let Some(setup) = self.context.peer_setup.clone() else { return };
        if let Some(peer) = self.connections.get_mut(id as usize).and_then(Connection::peer) {
            let _ = peer.connected(&setup, &self.context);
            self.to_flush.push(id);
        }
    }

    /// The connection of a link is gone.
    pub(super) fn forget_link(&mut self, connection: &mut Connection) {
        let generation = connection.generation;
        let Some(link) = connection.peer().and_then(|peer| peer.link()) else { return };
        let socket = self.bridge.socket_of(link);
        if socket.is_some_and(|(_, held)| held == generation) {
            *socket = None;
            self.link_failed(link, "the connection is closed");
        }
    }

    /// The connection of a peer is gone.
    pub(super) fn forget_peer(&mut self, id: u32, connection: &mut Connection) {
        let generation = connection.generation;
        if connection.peer().is_some_and(|peer| peer.is_inbound())
            && let Some(mut turn) = self.context.turn()
        {
            turn.handle_inbound_end(id, generation);
        }
    }

    /// Puts an answer where it belongs.
    fn deliver(&mut self, origin: Origin, answer: Answer<'_>) {
        match origin {
            Origin::Connection(ticket) => match answer.into_parts() {
                (_, Some(buffer)) => self.place(ticket, ReplyBytes::Carried(buffer)),
                (bytes, None) => self.place(ticket, ReplyBytes::Inline(bytes)),
            },
            Origin::Core(core, ticket) => {
                let (bytes, carried) = answer.into_parts();
                let mut reply = carried.map_or_else(|| std::mem::take(&mut self.bridge.scratch), |buffer| *buffer);
                reply.put(bytes);
                if !self.bridge.late.is_empty() || !self.context.mesh.reply(core, ticket, &mut reply) {
                    self.bridge.late.push_back((core, ticket, reply));
                } else {
                    reply.clear();
                    self.bridge.scratch = reply;
                }
            }
            Origin::Peer(request) => {
                let Some(connection) = self.connections.get_mut(request.connection as usize) else { return };
                if connection.generation != request.generation {
                    return;
                }
                let Some(peer) = connection.peer() else { return };
                peer.answer(|output| answer.write_response(request, output));
                self.to_flush.push(request.connection);
            }
            Origin::Control(number) => {
                if let Some(index) = self.bridge.waiters.iter().position(|(waiter, _)| *waiter == number) {
                    let _ = self.bridge.waiters.swap_remove(index).1.send(answer.into_parts().0.to_vec());
                }
            }
        }
    }

    /// The answer to a question about the ring.
    pub fn answer_members(&mut self, connection: u32, generation: u32, id: u32, code: ToldCode, bytes: &[u8]) {
        let stamp = self.context.turn().map_or_else(Stamp::default, |turn| turn.stamp());
        let Some(asking) = self.connections.get_mut(connection as usize) else { return };
        if asking.generation != generation {
            return;
        }
        let Some(peer) = asking.peer() else { return };
        peer.answer(|output| {
            frame::write(output, (Kind::Told, 0, 0, id), stamp, Value::Bytes(bytes), |meta| meta.push(code as u8));
        });
        self.to_flush.push(connection);
    }

    /// Answers for other cores whose queue was full, in order.
    fn retry_late(&mut self) {
        while let Some((core, ticket, mut reply)) = self.bridge.late.pop_front() {
            if !self.context.mesh.reply(core, ticket, &mut reply) {
                self.bridge.late.push_front((core, ticket, reply));
                break;
            }
        }
    }

    /// Sends a request to the core of this node that must go on with it; gives it back if that core takes none now.
    fn pass_on(&mut self, core: ShardId, id: OperationId) -> Option<Moved> {
        let moved = self.context.turn()?.take_moved(id)?;
        let execute = moved.stored.execute().ok()?;
        let framing = Framing { head: Head::from_bytes(&execute.framing)?, words: execute.words };
        let taken = self.context.mesh.request(core, moved.ticket, moved.repeated_since, &execute.command, &framing);
        (!taken).then_some(moved)
    }

    /// Another core has answered a request that it was given.
    pub(super) fn moved_answered(&mut self, id: OperationId, bytes: ReplyBytes<'_>) {
        let mut reply = match bytes {
            ReplyBytes::Inline(bytes) => Buffer { bytes: bytes.to_vec(), bodies: Vec::new() },
            ReplyBytes::Carried(buffer) => *buffer,
        };
        if let Some(mut turn) = self.context.turn() {
            turn.handle_moved(id, &mut reply);
        }
    }
}

/// Names are resolved for strangers no more often than this, in milliseconds.
const LEARN_PAUSE_MS: u64 = 1000;

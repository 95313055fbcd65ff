//! A conversation with a core of another node: handshake, then frames in both directions.
//!
//! ```text
//!   accepted:  first byte 0xb5 --> Called  --handshake--> Inbound:  frames are requests  --> Turn::handle_request  --> responses, in any order
//!   made:      connected       --> Calling --handshake--> Outbound: frames are responses --> Turn::handle_response
//! ```
//!
//! Output of both is collected and sent once a turn. A value above `limits::INLINE_VALUE_BYTES_MAX` is received into memory of its
//! own; while there is none, the conversation is blocked.
//!
//! Lives here: conversations, handshakes with the machine's randomness. Not here: frames (`crate::peer`), what they mean (`cluster`), sockets (`pump`).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use crossbeam_channel::Sender;

use super::connection::Flow;
use super::context::{Context, MembersRequest};
use crate::buffer::Buffer;
use crate::cluster::links::LinkId;
use crate::cluster::view::PeerId;
use crate::cluster::{PeerRequest, Turn};
use crate::command::Value;
use crate::limits;
use crate::peer::frame::{self, Frame, FrameError, Horizon, Kind, MemberVerb, Stamp, ToldCode};
use crate::peer::handshake::{Identity, Local, NONCE_BYTES};
use crate::peer::stream::Stream;
use crate::routing::ShardId;

/// What a core must know to speak with other nodes.
#[derive(Clone, Debug)]
pub struct PeerSetup {
    /// Who this node is; clock and target core are filled in when it says so.
    pub identity: Identity,
    /// Of the secret.
    pub key: Option<[u8; 32]>,
    /// The addresses of the nodes of the view, as their names resolve.
    pub known: Arc<KnownAddresses>,
    /// The address that this node calls others from, if it is not the system's choice.
    pub source: Option<IpAddr>,
    /// Largest value that a frame may carry, in bytes.
    pub value_bytes_max: usize,
    /// Whoever calls from this machine may join where there is no secret.
    pub trusts_loopback: bool,
}

/// Addresses of nodes, as their names resolve: who calls from elsewhere is not believed where there is no secret. Read once for each call.
#[derive(Debug, Default)]
pub struct KnownAddresses(RwLock<Vec<IpAddr>>);

impl KnownAddresses {
    /// The addresses among these names; for the others, `add` comes.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let known = Self::default();
        names.filter_map(|name| name.parse::<SocketAddr>().ok()).for_each(|address| known.add(address.ip()));
        known
    }

    /// Whether a node has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&address.to_canonical())
    }

    /// A name has resolved to it.
    pub fn add(&self, address: IpAddr) {
        let address = address.to_canonical();
        if !self.has(address) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).push(address);
        }
    }
}

impl PeerSetup {
    fn local(&self, context: &Context, target_core: u16, is_known: bool) -> Result<Local, String> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| format!("the system gives no random numbers: {error}."))?;
        let view = view_of(context).unwrap_or(self.identity.view);
        let identity = Identity { unix_ms: context.now.unix_ms, target_core, view, ..self.identity.clone() };
        Ok(Local { identity, key: self.key, nonce, is_known })
    }
}

/// A conversation with another node.
pub struct Peer {
    side: Side,
    stream: Stream,
}

enum Side {
    /// Accepted; who it is is not known yet.
    Called,
    /// Accepted, and known.
    Inbound {
        identity: Box<Identity>,
        node: Option<PeerId>,
        /// The core that it is for, if that is not this one: until it is there, nothing of it is handled.
        elsewhere: Option<ShardId>,
    },
    /// Being made by this core, up to the end of the handshake.
    Calling(LinkId),
    /// One of our links.
    Outbound(LinkId),
    /// Over.
    Ended,
}

impl Peer {
    /// The conversation of a connection whose first byte was a peer's.
    ///
    /// # Errors
    /// No random numbers.
    pub fn accepted(setup: &PeerSetup, context: &Context, caller: Option<IpAddr>) -> Result<Self, String> {
        let is_here = |caller: IpAddr| setup.trusts_loopback && caller.to_canonical().is_loopback();
        let is_known = caller.is_some_and(|caller| setup.known.has(caller) || is_here(caller));
        let local = setup.local(context, context.shard.id.0, is_known)?;
        Ok(Self { side: Side::Called, stream: Stream::called(local, setup.value_bytes_max) })
    }

    /// The conversation of a link that is being made.
    pub fn connecting(link: LinkId, setup: &PeerSetup) -> Self {
        Self { side: Side::Calling(link), stream: Stream::silent(setup.value_bytes_max) }
    }

    /// The socket is connected: says hello.
    ///
    /// # Errors
    /// No random numbers.
    pub fn connected(&mut self, setup: &PeerSetup, context: &Context) -> Result<(), String> {
        let Side::Calling(link) = self.side else { return Ok(()) };
        let target = context.shard.cluster.as_ref().map_or(0, |cluster| cluster.links.link(link).core);
        self.stream.call(setup.local(context, target, true)?);
        Ok(())
    }

    /// The link that this conversation is, or is to become.
    pub fn link(&self) -> Option<LinkId> {
        match self.side {
            Side::Calling(link) | Side::Outbound(link) => Some(link),
            Side::Called | Side::Inbound { .. } | Side::Ended => None,
        }
    }

    /// Whether a node has made this connection, or is about to.
    pub fn is_inbound(&self) -> bool {
        matches!(self.side, Side::Called | Side::Inbound { .. })
    }

    /// The core that an accepted conversation is for, once it is known.
    pub fn belongs_to(&self) -> Option<ShardId> {
        match self.side {
            Side::Inbound { elsewhere, .. } if self.is_drained() => elsewhere,
            _ => None,
        }
    }

    /// The conversation has come to another core. If it is for that one, the core hears of the node before anything that it says: how
    /// many cores it has decides which of them a key belongs to.
    pub fn arrive(&mut self, context: &mut Context) {
        if let Side::Inbound { identity, node, elsewhere } = &mut self.side
            && *elsewhere == Some(context.shard.id)
        {
            *elsewhere = None;
            *node = context.turn().and_then(|mut turn| turn.handle_inbound(identity));
        }
    }

    /// Whether something has come that is not handled yet.
    pub fn has_pending(&self) -> bool {
        self.stream.has_pending()
    }

    /// Whether everything was flushed.
    pub fn is_drained(&self) -> bool {
        self.stream.output.total_bytes() == 0
    }

    /// Whether the other side owes the rest of what it has begun: a handshake, or a frame.
    pub fn is_midway(&self) -> bool {
        self.stream.is_midway()
    }

    /// Handles received bytes. What is to be sent waits for `flush`.
    pub fn receive(&mut self, at: (u32, u32), fresh: &[u8], setup: &PeerSetup, context: &mut Context) -> Flow {
        match self.handle(at, fresh, setup, context) {
            Ok(false) => Flow::Read,
            Ok(true) => Flow::Blocked,
            Err(why) => {
                self.end(&why, context);
                Flow::Closing
            }
        }
    }

    fn handle(&mut self, at: (u32, u32), mut fresh: &[u8], setup: &PeerSetup, context: &mut Context) -> Result<bool, String> {
        if matches!(self.side, Side::Called | Side::Calling(_)) {
            let Some(identity) = self.stream.handshake(fresh)? else { return Ok(false) };
            self.opened(identity, setup, context)?;
            fresh = &[];
        }
        match self.side {
            // Each core gives its own lease, and only for its own keys.
            Side::Inbound { elsewhere: Some(_), .. } => {
                self.stream.keep(fresh);
                Ok(false)
            }
            Side::Inbound { .. } | Side::Outbound(_) => self.frames(at, fresh, context),
            Side::Called | Side::Calling(_) | Side::Ended => Ok(false),
        }
    }

    /// The handshake has succeeded.
    fn opened(&mut self, identity: Identity, setup: &PeerSetup, context: &mut Context) -> Result<(), String> {
        if let Side::Calling(link) = self.side {
            self.check_callee(link, &identity, context)?;
            self.side = Side::Outbound(link);
            if let Some(mut turn) = context.turn() {
                tell_of_return(&turn, link);
                turn.handle_link_up(link, &identity);
            }
            return Ok(());
        }
        let node = context.turn().and_then(|mut turn| turn.handle_inbound(&identity));
        warn_of_view(&identity, context);
        let core = ShardId(identity.target_core);
        let elsewhere = (core.0 < setup.identity.cores && core != context.shard.id).then_some(core);
        self.side = Side::Inbound { identity: Box::new(identity), node, elsewhere };
        Ok(())
    }

    fn frames(&mut self, connection: (u32, u32), fresh: &[u8], context: &mut Context) -> Result<bool, String> {
        let Self { side, stream } = self;
        let Context { shard, arena, now, at, mesh, members, facts, .. } = context;
        let core = shard.id;
        let Some(mut turn) = shard.turn(*now, *at) else {
            // A lone node may be asked to let others in. What they ask its cores waits until it has: a matter of milliseconds.
            let result = stream.frames(fresh, (arena, Horizon::at(*now)), &mut |frame, output| match side {
                Side::Inbound { identity, .. } if frame.head.kind == Kind::Members => {
                    ask_members(frame, (core, connection), identity, (members.as_ref(), facts.as_ref()), output).map(|()| true)
                }
                _ => Ok(false),
            });
            return result.map_err(|garbled| format!("what came cannot be read: {}", garbled.0));
        };
        let result = stream.frames(fresh, (arena, Horizon::at(*now)), &mut |frame, output| {
            // Read anew for each: this process may have stood still since the last one, and what was sent before that may be given up.
            turn.at = mesh.shared.clock.at();
            match side {
                // A reader that does not take its answers gets no more of them.
                Side::Inbound { .. } if output.total_bytes() >= limits::PEER_OUTPUT_BYTES_MAX && !is_large(frame) => Ok(false),
                Side::Inbound { identity, .. } if frame.head.kind == Kind::Members => {
                    ask_members(frame, (core, connection), identity, (members.as_ref(), facts.as_ref()), output).map(|()| true)
                }
                Side::Inbound { identity, node, .. } => {
                    if node.is_none() {
                        // A later view may have it.
                        *node = turn.handle_inbound(identity);
                    }
                    let deadline = frame.head.deadline(turn.at);
                    let from = PeerRequest {
                        connection: connection.0,
                        generation: connection.1,
                        id: frame.head.id,
                        node: *node,
                        deadline,
                    };
                    turn.handle_request(from, frame, output).map(|()| true)
                }
                Side::Outbound(link) => turn.handle_response(*link, frame).map(|()| true),
                _ => Err(FrameError("a frame before the handshake")),
            }
        });
        *at = turn.at;
        result.map_err(|garbled| format!("what came cannot be read: {}", garbled.0))
    }

    /// Whether the node that answered is the one that was called.
    fn check_callee(&self, link: LinkId, identity: &Identity, context: &Context) -> Result<(), String> {
        let Some(cluster) = &context.shard.cluster else { return Ok(()) };
        let Some(node) = cluster.view.node(cluster.links.link(link).node) else {
            return Err(format!("{} is not in the ring any more.", identity.id));
        };
        let expected = &node.entry;
        if expected.id.as_str() == identity.id {
            return Ok(());
        }
        Err(format!(
            "{} answers as {}, not as {}; name it so in --ringnode (`/id=`), or check the address.",
            expected.address, identity.id, expected.id
        ))
    }

    fn end(&mut self, why: &str, context: &mut Context) {
        let link = self.link();
        self.side = Side::Ended;
        match (link, context.turn()) {
            (Some(link), Some(mut turn)) => lose_link(&mut turn, link, why, false),
            _ => log::warn!("a node was refused: {why}"),
        }
    }

    /// Moves what is to be sent to `output`.
    pub fn flush(&mut self, context: &mut Context, output: &mut Buffer) {
        output.append(&mut self.stream.output);
        if let (Side::Outbound(link), Some(mut turn)) = (&self.side, context.turn()) {
            turn.take_frames(*link, output);
        }
    }

    /// Adds an answer that has become ready, to be flushed.
    pub fn answer(&mut self, write: impl FnOnce(&mut Buffer)) {
        write(&mut self.stream.output);
    }
}

/// Gives a question about the ring to the control plane, which answers later.
fn ask_members(
    frame: &Frame<'_>,
    (core, (connection, generation)): (ShardId, (u32, u32)),
    identity: &Identity,
    (members, facts): (Option<&Sender<MembersRequest>>, Option<&Sender<MembersRequest>>),
    output: &mut Buffer,
) -> Result<(), FrameError> {
    let (Kind::Members, Some(&verb)) = (frame.head.kind, frame.meta.first()) else {
        return Err(FrameError("a frame to a node that has no ring"));
    };
    let id = frame.head.id;
    let request =
        MembersRequest { core, connection, generation, id, caller: identity.id.clone(), verb, value: frame.value.to_vec() };
    let is_of_node = matches!(MemberVerb::of(verb), Some(MemberVerb::Facts | MemberVerb::Copy));
    let asked = if is_of_node { facts } else { members };
    if asked.is_none_or(|asked| asked.try_send(request).is_err()) {
        frame::write(output, (Kind::Told, 0, 0, id), Stamp::default(), Value::Bytes(EXPLICIT), |meta| {
            meta.push(ToldCode::Refused as u8);
        });
    }
    Ok(())
}

/// What a node says that has no member table.
const EXPLICIT: &[u8] =
    b"its ring is an explicit list of nodes (--ringnode), or none: start it without, or with --join, to change the ring \
                          while it runs";

/// A link could not be made, or is lost: says so once for each reason, unless `quiet`.
pub(super) fn lose_link(turn: &mut Turn<'_>, link: LinkId, why: &str, quiet: bool) {
    let node = turn.cluster.links.link(link).node;
    if turn.cluster.links.node(node).trouble != why && !quiet {
        log::warn!("no link to {}: {why}", turn.cluster.view.id_of(node));
    }
    turn.handle_link_down(link, why);
}

/// The id of the view that this core has.
fn view_of(context: &Context) -> Option<u64> {
    context.shard.cluster.as_ref().map(|cluster| cluster.view.id().0)
}

/// Two views are no error: nodes hear of a change one after the other.
fn warn_of_view(identity: &Identity, context: &Context) {
    let here = view_of(context).unwrap_or_default();
    if identity.view != here {
        log::debug!("{} has another list of nodes than this one (view {:x}, here {here:x})", identity.id, identity.view);
    }
}

/// Says that a node can be reached of which it was said that it cannot. Before `handle_link_up`, which forgets the trouble.
fn tell_of_return(turn: &Turn<'_>, link: LinkId) {
    let node = turn.cluster.links.link(link).node;
    if !turn.cluster.links.node(node).trouble.is_empty() {
        log::warn!("the link to {} is there", turn.cluster.view.id_of(node));
    }
}

/// Whether a value came in memory of its own: such a frame cannot be put back.
fn is_large(frame: &Frame<'_>) -> bool {
    matches!(frame.value, Value::Body(_))
}

/// Largest value of a frame on a node with this `--max_item_size`.
pub fn value_bytes_max(item_bytes_max: u32) -> usize {
    item_bytes_max as usize + frame::VALUE_BYTES_SLACK
}

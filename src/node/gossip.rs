//! Gossip on a real socket: UDP on the port's number, on a thread of the control side.
//!
//! ```text
//!   socket --all that wait--> Swim <-- records, tables (members)          Swim --> datagrams; notices --> members; who is there --> Seen
//! ```
//!
//! A datagram counts only if it comes from where clients may come from (`--incoming_ip`), and where there is no secret, from the address of
//! a node of the table. What is refused is counted, and said now and then.
//!
//! Lives here: the socket, the thread, who may send. Not here: what datagrams mean (`membership::gossip`), what follows (`members`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::limits::GOSSIP_PACKET_BYTES_MAX;
use crate::membership::gossip::{Contact, Gossip, Life, Now, Output, Reach, Swim, tag_of};
use crate::membership::seal::Seal;
use crate::membership::table::Record;
use crate::placement::NodeId;
use crate::runtime::mesh::Shared;
use crate::runtime::peer_socket::PeerSetup;
use crate::time::Monotonic;

/// Datagrams that are read in a row before the timers have their turn.
const BATCH_MAX: usize = 4096;
/// Longest sleep.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is said that datagrams of an address are refused, in milliseconds, and of how many addresses that is remembered.
const SAY_MS: u64 = 60_000;
const SAID_MAX: usize = 64;
/// How long a node that ends waits until that is said.
const LEAVE_WAIT: Duration = Duration::from_millis(500);
/// What is older says nothing of now, in milliseconds.
const SEEN_MS_MAX: u64 = 5000;

/// What a thread of gossip is started with.
pub struct Begin {
    /// This node, as others will know it.
    pub own: Life,
    /// Where it listens: TCP there, UDP too.
    pub bind: SocketAddr,
    /// Of its ring.
    pub ring_id: u64,
    /// Of its cluster: name, secret, known addresses.
    pub setup: Arc<PeerSetup>,
    /// Clocks, and who may come.
    pub shared: Arc<Shared>,
}

/// What gossip is told.
enum Told {
    Record(Box<Record>),
    Table { contacts: Vec<Contact>, digest: u64 },
    Leave(Sender<()>),
}

/// What gossip has found out that the table or the log must hear of.
pub enum Notice {
    /// A record that is newer than what it knew.
    Record(Box<Record>),
    /// The node with this tag has another table.
    Differs(u64),
    /// A node is there, or is there no more.
    Turned { tag: u64, is_up: bool },
    /// A node with the id of this one is at another address.
    Double(SocketAddr),
}

/// What gossip knows of the nodes.
#[derive(Default)]
pub struct Seen {
    at: Monotonic,
    nodes: BTreeMap<u64, (Reach, Option<u64>)>,
}

/// The ways to the thread of gossip.
pub struct Handle {
    told: UnboundedSender<Told>,
    /// What it has found out.
    pub notices: Receiver<Notice>,
    seen: Arc<Mutex<Seen>>,
    shared: Arc<Shared>,
}

impl Handle {
    /// Starts gossip.
    ///
    /// # Errors
    /// The port is taken, or the system refuses a socket or a thread.
    pub fn start(begin: Begin) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(begin.bind)?;
        socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let ((told, tellings), (notices, noticed)) = (unbounded_channel(), unbounded());
        let (seen, shared) = (Arc::<Mutex<Seen>>::default(), begin.shared.clone());
        let (theirs, mut seed) = (seen.clone(), [0; 8]);
        getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
        let run = move || {
            let served = runtime.block_on(async move {
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                let now = clock(&begin.shared);
                let seal = Seal::new(begin.setup.key, &begin.setup.identity.cluster, begin.ring_id);
                let swim = Swim::new(begin.own, seal, u64::from_le_bytes(seed), now);
                let mut talk = Talk { begin, swim, socket, notices, seen: theirs, contacts: Vec::new(), said: BTreeMap::new() };
                talk.serve(tellings).await
            });
            if let Err(error) = served {
                log::error!("gossip has ended: {error}; links go on");
            }
        };
        std::thread::Builder::new().name("pbcache-gossip".into()).spawn(run)?;
        Ok(Self { told, notices: noticed, seen, shared })
    }

    /// A record of the table has changed.
    pub fn tell(&self, record: &Record) {
        let _ = self.told.send(Told::Record(Box::new(record.clone())));
    }

    /// The table is another one: these are the other nodes, this stands for it.
    pub fn table(&self, contacts: Vec<Contact>, digest: u64) {
        let _ = self.told.send(Told::Table { contacts, digest });
    }

    /// Says that this node goes.
    pub fn leave(&self) {
        let (done, is_done) = bounded(1);
        if self.told.send(Told::Leave(done)).is_ok() {
            let _ = is_done.recv_timeout(LEAVE_WAIT);
        }
    }

    /// What is known of a node; nothing, if the thread stands still.
    pub fn reach(&self, id: &NodeId) -> Reach {
        self.look(id).map_or(Reach::Unknown, |(reach, _)| reach)
    }

    /// For how long a node is down or was never heard, in milliseconds; `None` for one that is there, and where nobody knows.
    pub fn gone_ms(&self, id: &NodeId) -> Option<u64> {
        self.look(id)?.1
    }

    /// Whether anybody is there.
    pub fn has_company(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.nodes.values().any(|(reach, _)| *reach == Reach::Up)
    }

    fn look(&self, id: &NodeId) -> Option<(Reach, Option<u64>)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = self.shared.clock.at() - seen.at <= SEEN_MS_MAX;
        is_fresh.then(|| seen.nodes.get(&tag_of(id)).copied()).flatten()
    }
}

fn clock(shared: &Shared) -> Now {
    let (now, at) = shared.clock.read();
    Now { at, unix_ms: now.unix_ms }
}

/// The thread's state.
struct Talk {
    begin: Begin,
    swim: Swim,
    socket: tokio::net::UdpSocket,
    notices: Sender<Notice>,
    seen: Arc<Mutex<Seen>>,
    contacts: Vec<Contact>,
    /// When it was last said of an address that its datagrams are refused.
    said: BTreeMap<IpAddr, Monotonic>,
}

impl Talk {
    async fn serve(&mut self, mut tellings: UnboundedReceiver<Told>) -> io::Result<()> {
        loop {
            let wait = Duration::from_millis(self.swim.poll_timeout() - clock(&self.begin.shared).at).min(LOOK);
            tokio::select! {
                ready = self.socket.readable() => ready?,
                told = tellings.recv() => match told {
                    Some(told) => self.handle(told),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(wait) => {}
            }
            self.receive();
            while let Ok(told) = tellings.try_recv() {
                self.handle(told);
            }
            self.swim.handle_time(clock(&self.begin.shared));
            self.act();
            self.publish();
        }
    }

    /// All that waits in the socket, before any timer: a process that stood still must hear the others before it judges them.
    fn receive(&mut self) {
        let mut bytes = [0; GOSSIP_PACKET_BYTES_MAX + 1];
        for _ in 0..BATCH_MAX {
            let (count, from) = match self.socket.try_recv_from(&mut bytes) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The system tells by it that somebody has refused what was sent before.
                Err(_) => continue,
            };
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            if self.may_send(from.ip()) {
                self.swim.handle_packet(from, &bytes[..count], clock(&self.begin.shared));
            } else {
                self.say(from, "it is not from an address that may send it");
            }
        }
    }

    fn may_send(&self, ip: IpAddr) -> bool {
        let setup = &self.begin.setup;
        let is_known = || setup.key.is_some() || setup.known.has(ip) || (setup.trusts_loopback && ip.is_loopback());
        self.begin.shared.services.nodes.admits(ip) && is_known()
    }

    fn handle(&mut self, told: Told) {
        let now = clock(&self.begin.shared);
        match told {
            Told::Record(record) => {
                if let Err(why) = self.swim.tell(&record, now) {
                    log::warn!("gossip does not carry the record of {}: {why}", record.id);
                }
            }
            Told::Table { contacts, digest } => {
                self.contacts.clone_from(&contacts);
                self.swim.set_digest(digest);
                self.swim.know(contacts, now);
            }
            Told::Leave(done) => {
                self.swim.leave(now);
                self.act();
                let _ = done.send(());
            }
        }
    }

    fn act(&mut self) {
        while let Some(output) = self.swim.poll_output() {
            let notice = match output {
                Output::Send { to, packet } => {
                    // A full socket loses it, as the network may.
                    let _ = self.socket.try_send_to(&packet, to);
                    continue;
                }
                Output::Refused { from, why } => {
                    self.say(from, &why.to_string());
                    continue;
                }
                Output::Record(record) => Notice::Record(record),
                Output::Differs(tag) => Notice::Differs(tag),
                Output::Turned { tag, is_up } => Notice::Turned { tag, is_up },
                Output::Double(place) => Notice::Double(place),
            };
            let _ = self.notices.send(notice);
        }
    }

    fn publish(&mut self) {
        let at = self.begin.shared.clock.at();
        let look = |contact: &Contact| (contact.tag, (self.swim.reach(contact.tag), self.swim.gone_ms(contact.tag, at)));
        let nodes = self.contacts.iter().map(look).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { at, nodes };
    }

    fn say(&mut self, from: SocketAddr, why: &str) {
        let at = self.begin.shared.clock.at();
        if self.said.get(&from.ip()).is_some_and(|&said| at - said < SAY_MS) {
            return;
        }
        if self.said.len() >= SAID_MAX {
            self.said.retain(|_, said| at - *said < SAY_MS);
        }
        if self.said.len() < SAID_MAX {
            self.said.insert(from.ip(), at);
            log::warn!("gossip from {from} is refused: {why}");
        }
    }
}

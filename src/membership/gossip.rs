//! Gossip: who can be reached by anybody, and records of the member table on their way. The one file that knows foca.
//!
//! ```text
//!   handle_packet, handle_time, tell, know --> Swim { foca, its timers, courting, digests } --> poll_output: datagrams, notices
//!
//!   each second   one member is asked directly, else through three others; in vain: suspected, and down after `SUSPICION_MS`
//!   each 200 ms   news go to three members, each piece `TRANSMISSIONS` times
//!   each 5 s      the digest of the table goes to a member; where theirs differs, the tables are compared over a link
//!   each 10 s     members that are down or were never heard are asked to come; each 5 s all of them, and the seeds, while nobody is there
//! ```
//!
//! It decides nothing of requests: links do. It spreads records, shows who can be reached, and tells how long a node has been gone. Anybody
//! who knows the secret can say that a node is down: nothing that destroys hangs on it alone.
//!
//! Inputs have an order: datagrams that wait first, then `handle_time`. A process that stood still else accuses those that it did not hear.
//!
//! Lives here: foca with its codec, its timers, its random numbers; courting; digests. Not here: envelopes (`seal`), sockets (`node::gossip`),
//! what records mean (`table`). SWIM (DSN 2002) by [foca](https://github.com/caio/foca); the stretching of suspicion by own lag after Lifeguard
//! (arXiv 1707.00788).

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{
    BroadcastHandler, Codec, Config, Foca, Header, Identity, Invalidates, Member, Message, OwnedNotification, PeriodicParams,
    Runtime, State, Timer,
};
use xxhash_rust::xxh3::xxh3_64;

use super::codec;
use super::seal::{Kind, SEAL_BYTES, Seal, Unopened};
use super::table::{Record, Refusal};
use crate::limits::{GOSSIP_PACKET_BYTES_MAX, GOSSIP_RECORD_BYTES_MAX, MEMBER_RECORDS_MAX, PEER_CLOCK_SKEW_MS_MAX};
use crate::placement::NodeId;
use crate::time::Monotonic;

/// How often a member is asked whether it is there, and how long for before others are asked to ask it.
const PROBE_MS: u64 = 1000;
const PROBE_RTT_MS: u64 = 300;
/// How long a member that nobody could reach has to say that it is there.
pub const SUSPICION_MS: u64 = 5000;
/// How often a piece of news is sent.
const TRANSMISSIONS: u8 = 8;
/// How often members are courted: all contacts while nobody is there, and some of those that are missing.
const COURT_ALONE_MS: u64 = 5000;
const COURT_MS: u64 = 10_000;
/// How many are courted at a time.
const COURTED_MAX: usize = 64;
const COURTED_MISSING_MAX: usize = 2;
/// How long who is down is remembered that is not in the table, for what others still tell of it.
const FORGET_MS: u64 = 60_000;
/// How often tables are compared by their digests.
const DIGEST_MS: u64 = 5000;
/// A timer that is so late shows that this process stood still: what it was to wait for, it waits for from now on.
const STOOD_STILL_MS: u64 = 700;
/// A timer that is so late shows that this process is slow.
const LATE_MS: u64 = 150;
/// How far suspicion is stretched while this process is slow; it becomes less by one in so many milliseconds.
const SLOWNESS_MAX: u64 = 8;
const SLOWNESS_MS: u64 = 10_000;
/// A node that the others take to be down comes back at once; again and again, it waits longer each time.
const RETURN_MS_MIN: u64 = 500;
const RETURN_MS_MAX: u64 = 60_000;

/// Both clocks, as one input is handled.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Of deadlines.
    pub at: Monotonic,
    /// Of the wall, in Unix milliseconds.
    pub unix_ms: u64,
}

/// What gossip wants done, or has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A datagram for this address.
    Send { to: SocketAddr, packet: Vec<u8> },
    /// A record that beats what was known here, from another node.
    Record(Box<Record>),
    /// The node with this tag has another table.
    Differs(u64),
    /// A node is there, or is there no more.
    Turned { tag: u64, is_up: bool },
    /// A node with the id of this one is at another address.
    Double(SocketAddr),
    /// A datagram of this address was not taken.
    Refused { from: SocketAddr, why: Why },
}

/// Why a datagram, or a record in it, was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its envelope.
    Envelope(Unopened),
    /// A record that no node can have written, or that is none.
    Record(Refusal),
    /// Bytes that are no message.
    Message,
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Envelope(why) => why.fmt(formatter),
            Self::Record(why) => why.fmt(formatter),
            Self::Message => write!(formatter, "it is no message of gossip"),
        }
    }
}

/// What gossip knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It was heard, or somebody has heard it.
    Up,
    /// Somebody could not reach it; it may still say that it is there.
    Suspect,
    /// Nobody could reach it, or it has said that it goes.
    Down,
    /// Never heard of.
    Unknown,
}

/// A node of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// See `tag_of`.
    pub tag: u64,
    /// Where it listens.
    pub place: SocketAddr,
}

/// What stands for the id of a node in datagrams.
pub fn tag_of(id: &NodeId) -> u64 {
    xxh3_64(id.as_str().as_bytes())
}

/// A failure detector that spreads records: all inputs, and all outputs.
pub trait Gossip {
    /// A datagram has come. All that wait come before `handle_time`.
    fn handle_packet(&mut self, from: SocketAddr, packet: &[u8], now: Now);
    /// Time has passed.
    fn handle_time(&mut self, now: Now);
    /// When `handle_time` is wanted.
    fn poll_timeout(&self) -> Monotonic;
    /// What is to be done next.
    fn poll_output(&mut self) -> Option<Output>;
    /// The table has these other nodes.
    fn know(&mut self, contacts: Vec<Contact>, now: Now);
    /// The table has this record, and is this one.
    ///
    /// # Errors
    /// It is too large, or impossible: it does not spread this way.
    fn tell(&mut self, record: &Record, now: Now) -> Result<(), Refusal>;
    /// What stands for the table.
    fn set_digest(&mut self, digest: u64);
    /// This node goes: the others need not find out.
    fn leave(&mut self, now: Now);
    /// What is known of a node.
    fn reach(&self, tag: u64) -> Reach;
    /// For how long a node is down, or was not heard at all, in milliseconds; `None` for one that is there.
    fn gone_ms(&self, tag: u64, at: Monotonic) -> Option<u64>;
}

/// One life of a node: what foca takes for a member. Nothing that changes stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// Which node.
    pub tag: u64,
    /// Greater than that of each life before.
    pub incarnation: u64,
    /// Where it listens.
    pub place: SocketAddr,
}

impl Identity for Life {
    type Addr = u64;

    /// Another life is begun by `Swim`, which knows how often it was.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> u64 {
        self.tag
    }

    /// A total order: of two lives, all nodes keep the same.
    fn win_addr_conflict(&self, other: &Self) -> bool {
        (self.incarnation, self.place) > (other.incarnation, other.place)
    }
}

/// Gossip by foca.
pub struct Swim {
    foca: Foca<Life, Bytes, Numbers, Records>,
    pending: Pending,
    heard: Shared,
    timers: Vec<(Monotonic, Timer<Life>)>,
    seal: Seal,
    numbers: Numbers,
    contacts: Vec<Contact>,
    outputs: VecDeque<Output>,
    /// Since when members that were there are not.
    down_since: BTreeMap<u64, Monotonic>,
    /// Doubles that were told.
    doubles: BTreeSet<SocketAddr>,
    began: Monotonic,
    /// Nobody is there, or nobody has answered this life.
    is_alone: bool,
    court_at: Monotonic,
    courted: usize,
    digest: u64,
    digest_at: Monotonic,
    /// How far suspicion is stretched, and when that changes next.
    slowness: u64,
    slowness_at: Monotonic,
    /// The others take this life to be down: when the next one begins.
    return_at: Monotonic,
    /// When one last began, and the least time from then to the next.
    returned_at: Monotonic,
    return_ms: u64,
    has_left: bool,
}

impl Swim {
    /// Gossip of one life. `seed` makes its choices.
    pub fn new(own: Life, seal: Seal, seed: u64, now: Now) -> Self {
        let heard = Shared::default();
        let bytes = Bytes { tag: own.tag, place: own.place, heard: heard.clone() };
        let records = Records { known: BTreeMap::new(), heard: heard.clone() };
        Self {
            foca: Foca::with_custom_broadcast(own, config(), Numbers::new(seed), bytes, records),
            pending: Pending::default(),
            heard,
            timers: Vec::new(),
            seal,
            numbers: Numbers::new(!seed),
            contacts: Vec::new(),
            outputs: VecDeque::new(),
            down_since: BTreeMap::new(),
            doubles: BTreeSet::new(),
            began: now.at,
            is_alone: true,
            court_at: now.at,
            courted: 0,
            digest: 0,
            digest_at: now.at + DIGEST_MS,
            slowness: 0,
            slowness_at: now.at,
            return_at: Monotonic::NEVER,
            returned_at: Monotonic::LONG_AGO,
            return_ms: RETURN_MS_MIN,
            has_left: false,
        }
    }

    /// This life.
    pub fn own(&self) -> Life {
        *self.foca.identity()
    }

    /// News and records that wait to be sent, each a bounded number of times.
    pub fn backlog(&self) -> usize {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog()
    }

    /// Nodes that are known, whatever became of them; a few more than the table has.
    pub fn members(&self) -> usize {
        self.foca.iter_membership_state().len()
    }

    /// Looks whether time has passed in which this process did not live: nothing that it waited for meanwhile counts as missing.
    fn wake(&mut self, at: Monotonic) {
        let first = self.timers.iter().map(|(due, _)| *due).min().unwrap_or(at);
        let late_ms = at - first;
        if late_ms >= LATE_MS {
            self.slowness = (self.slowness + 1).min(SLOWNESS_MAX);
            self.slowness_at = at + SLOWNESS_MS;
        } else if at >= self.slowness_at {
            self.slowness = self.slowness.saturating_sub(1);
            self.slowness_at = at + SLOWNESS_MS;
        }
        if late_ms < STOOD_STILL_MS {
            return;
        }
        let suspicion_ms = SUSPICION_MS * (1 + self.slowness);
        for (due, timer) in &mut self.timers {
            *due = if matches!(timer, Timer::ChangeSuspectToDown { .. }) { at + suspicion_ms } else { *due + late_ms };
        }
    }

    /// Takes over what foca has left behind.
    fn absorb(&mut self, now: Now) {
        let Pending { sends, timers, notices } = std::mem::take(&mut self.pending);
        for (to, body) in sends {
            self.outputs.push_back(Output::Send { to, packet: self.seal.close(Kind::Swim, &body, now.unix_ms) });
        }
        for (timer, after_ms) in timers {
            let stretch = if matches!(timer, Timer::ChangeSuspectToDown { .. }) { 1 + self.slowness } else { 1 };
            self.timers.push((now.at + after_ms * stretch, timer));
        }
        notices.into_iter().for_each(|notice| self.note(notice, now.at));
        let (fresh, double) = {
            let mut heard = lock(&self.heard);
            (std::mem::take(&mut heard.fresh), heard.double.take())
        };
        self.outputs.extend(fresh.into_iter().map(|record| Output::Record(Box::new(record))));
        if let Some(place) = double.filter(|place| self.doubles.len() < COURTED_MAX && self.doubles.insert(*place)) {
            self.outputs.push_back(Output::Double(place));
        }
    }

    fn note(&mut self, notice: OwnedNotification<Life>, at: Monotonic) {
        match notice {
            OwnedNotification::MemberUp(Life { tag, .. }) => {
                self.down_since.remove(&tag);
                self.outputs.push_back(Output::Turned { tag, is_up: true });
            }
            OwnedNotification::MemberDown(Life { tag, .. }) => {
                self.down_since.entry(tag).or_insert(at);
                self.outputs.push_back(Output::Turned { tag, is_up: false });
            }
            OwnedNotification::Active => self.is_alone = false,
            OwnedNotification::Idle => (self.is_alone, self.court_at) = (true, at),
            // Once at once; who is called down again and again has a double, or a way that loses most of what it sends.
            OwnedNotification::Defunct if !self.has_left => self.return_at = at.max(self.returned_at + self.return_ms),
            OwnedNotification::Defunct | OwnedNotification::Rename(..) | OwnedNotification::Rejoin(_) => {}
        }
    }

    /// Begins another life, if the others take this one to be down and it is time.
    fn come_back(&mut self, now: Now) {
        if now.at < self.return_at {
            return;
        }
        let is_calm = now.at - self.returned_at > RETURN_MS_MAX;
        self.return_ms = if is_calm { RETURN_MS_MIN } else { (2 * self.return_ms).min(RETURN_MS_MAX) };
        (self.return_at, self.returned_at) = (Monotonic::NEVER, now.at);
        let own = self.own();
        let of_mine = self.foca.iter_membership_state().filter(|member| member.id().tag == own.tag);
        let greatest = of_mine.map(|member| member.id().incarnation).max().unwrap_or(0).max(own.incarnation);
        let next = Life { incarnation: greatest.saturating_add(1).max(now.unix_ms), ..own };
        (self.is_alone, self.court_at) = (true, now.at);
        // It fails for a life that is the same; this one is greater.
        let _ = self.foca.change_identity(next, &mut self.pending);
        self.absorb(now);
    }

    /// Asks members to come that are missing.
    fn court(&mut self, now: Now) {
        if now.at < self.court_at || self.has_left {
            return;
        }
        self.forget(now);
        let most = if self.is_alone { COURTED_MAX } else { COURTED_MISSING_MAX };
        self.court_at = now.at + if self.is_alone { COURT_ALONE_MS } else { COURT_MS };
        let own = self.own().tag;
        let missing = |contact: &&Contact| contact.tag != own && (self.is_alone || !self.is_active(contact.tag));
        let missing: Vec<Contact> = self.contacts.iter().filter(missing).copied().collect();
        for index in 0..missing.len().min(most) {
            let Contact { tag, place } = missing[(self.courted + index) % missing.len()];
            // Which life it is need not be known to be asked.
            let _ = self.foca.announce(Life { tag, incarnation: 0, place }, &mut self.pending);
        }
        self.courted = self.courted.wrapping_add(most);
        self.absorb(now);
    }

    /// Forgets who is down and not in the table (any more).
    fn forget(&mut self, now: Now) {
        let is_known = |tag: u64| self.contacts.iter().any(|contact| contact.tag == tag);
        let is_old = |tag: u64| self.down_since.get(&tag).is_none_or(|&since| now.at - since > FORGET_MS);
        let members =
            self.foca.iter_membership_state().filter(|member| member.state() == State::Down).map(|member| *member.id());
        let strangers: Vec<Life> = members.filter(|life| !is_known(life.tag) && is_old(life.tag)).collect();
        for life in strangers {
            self.down_since.remove(&life.tag);
            let _ = self.foca.handle_timer(Timer::RemoveDown(life), &mut self.pending);
        }
    }

    /// Tells one that is there what stands for the table.
    fn compare(&mut self, now: Now) {
        if now.at < self.digest_at || self.has_left {
            return;
        }
        self.digest_at = now.at + DIGEST_MS;
        let active: Vec<SocketAddr> = self.foca.iter_members().map(|member| member.id().place).collect();
        let Some(&to) = active.get(self.numbers.below(active.len())) else { return };
        let body = [self.own().tag.to_le_bytes(), self.digest.to_le_bytes()].concat();
        self.outputs.push_back(Output::Send { to, packet: self.seal.close(Kind::Digest, &body, now.unix_ms) });
    }

    fn is_active(&self, tag: u64) -> bool {
        self.foca.iter_members().any(|member| member.id().tag == tag)
    }

    fn handle_digest(&mut self, body: &[u8]) -> Result<(), Why> {
        let (tag, digest) = body.split_first_chunk::<8>().ok_or(Why::Message)?;
        let digest = <[u8; 8]>::try_from(digest).map_err(|_| Why::Message)?;
        if u64::from_le_bytes(digest) != self.digest {
            self.outputs.push_back(Output::Differs(u64::from_le_bytes(*tag)));
        }
        Ok(())
    }

    fn handle_message(&mut self, body: &[u8], now: Now) -> Result<(), Why> {
        {
            let mut heard = lock(&self.heard);
            (heard.unix_ms, heard.refusal) = (now.unix_ms, None);
        }
        let result = self.foca.handle_data(body, &mut self.pending);
        let refusal = lock(&self.heard).refusal.take();
        self.absorb(now);
        match (refusal, result) {
            (Some(refusal), _) => Err(Why::Record(refusal)),
            (None, Ok(()) | Err(foca::Error::DataFromOurselves)) => Ok(()),
            (None, Err(_)) => Err(Why::Message),
        }
    }
}

impl Gossip for Swim {
    fn handle_packet(&mut self, from: SocketAddr, packet: &[u8], now: Now) {
        self.wake(now.at);
        let opened =
            if packet.len() > GOSSIP_PACKET_BYTES_MAX { Err(Unopened::Garbled) } else { self.seal.open(packet, now.unix_ms) };
        let handled = match opened {
            Ok((Kind::Swim, body)) => self.handle_message(body, now),
            Ok((Kind::Digest, body)) => self.handle_digest(body),
            Err(why) => Err(Why::Envelope(why)),
        };
        if let Err(why) = handled {
            self.outputs.push_back(Output::Refused { from, why });
        }
    }

    fn handle_time(&mut self, now: Now) {
        self.wake(now.at);
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.timers).into_iter().partition(|(due, _)| *due <= now.at);
        self.timers = later;
        due.sort_by(|(_, a), (_, b)| a.cmp(b));
        for (_, timer) in due {
            // It fails where a timer was lost, and goes on by itself.
            let _ = self.foca.handle_timer(timer, &mut self.pending);
            self.absorb(now);
        }
        self.come_back(now);
        self.court(now);
        self.compare(now);
    }

    fn poll_timeout(&self) -> Monotonic {
        let first = self.timers.iter().map(|(due, _)| *due).min().unwrap_or(Monotonic::NEVER);
        first.min(self.court_at).min(self.digest_at).min(self.return_at)
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn know(&mut self, contacts: Vec<Contact>, now: Now) {
        let is_new = contacts.iter().any(|contact| !self.contacts.contains(contact));
        self.contacts = contacts;
        if is_new {
            self.court_at = self.court_at.min(now.at);
        }
    }

    fn tell(&mut self, record: &Record, now: Now) -> Result<(), Refusal> {
        let bytes = codec::record_bytes(record);
        if bytes.len() > GOSSIP_RECORD_BYTES_MAX {
            // It would wait for ever for a datagram with room for it.
            return Err(Refusal::Garbled("a record too large for a datagram"));
        }
        {
            let mut heard = lock(&self.heard);
            (heard.unix_ms, heard.refusal) = (now.unix_ms, None);
        }
        let is_news = self.foca.add_broadcast(&bytes);
        if let Some(refusal) = lock(&self.heard).refusal.take() {
            return Err(refusal);
        }
        if is_news.unwrap_or(false) {
            let _ = self.foca.gossip(&mut self.pending);
            self.absorb(now);
        }
        Ok(())
    }

    fn set_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn leave(&mut self, now: Now) {
        self.has_left = true;
        let _ = self.foca.leave_cluster(&mut self.pending);
        self.absorb(now);
    }

    fn reach(&self, tag: u64) -> Reach {
        let member = self.foca.iter_membership_state().find(|member| member.id().tag == tag);
        member.map_or(Reach::Unknown, |member| match member.state() {
            State::Alive => Reach::Up,
            State::Suspect => Reach::Suspect,
            State::Down => Reach::Down,
        })
    }

    fn gone_ms(&self, tag: u64, at: Monotonic) -> Option<u64> {
        match self.reach(tag) {
            Reach::Up | Reach::Suspect => None,
            Reach::Down | Reach::Unknown => Some(at - *self.down_since.get(&tag).unwrap_or(&self.began)),
        }
    }
}

/// What foca is told at its start; most of it cannot change later.
fn config() -> Config {
    const MANY: NonZeroUsize = NonZeroUsize::new(3).unwrap();
    let every = |ms, num_members| Some(PeriodicParams { frequency: Duration::from_millis(ms), num_members });
    Config {
        probe_period: Duration::from_millis(PROBE_MS),
        probe_rtt: Duration::from_millis(PROBE_RTT_MS),
        num_indirect_probes: MANY,
        max_transmissions: const { NonZeroU8::new(TRANSMISSIONS).unwrap() },
        suspect_to_down_after: Duration::from_millis(SUSPICION_MS),
        // One record a node: whoever was ever there.
        remove_down_after: None,
        max_packet_size: const { NonZeroUsize::new(GOSSIP_PACKET_BYTES_MAX - SEAL_BYTES).unwrap() },
        notify_down_members: true,
        periodic_announce: every(60_000, NonZeroUsize::MIN),
        // See `Swim::court`, which also courts those that were never heard.
        periodic_announce_to_down_members: None,
        periodic_gossip: every(200, MANY),
    }
}

/// What foca wants done.
#[derive(Default)]
struct Pending {
    sends: Vec<(SocketAddr, Vec<u8>)>,
    timers: Vec<(Timer<Life>, u64)>,
    notices: Vec<OwnedNotification<Life>>,
}

impl Runtime<Life> for Pending {
    fn notify(&mut self, notification: foca::Notification<'_, Life>) {
        self.notices.push(notification.to_owned());
    }

    fn send_to(&mut self, to: Life, data: &[u8]) {
        self.sends.push((to.place, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Life>, after: Duration) {
        self.timers.push((event, after.as_millis() as u64));
    }
}

/// What the parts that foca owns have met while it handled one datagram.
#[derive(Default)]
struct Heard {
    fresh: Vec<Record>,
    refusal: Option<Refusal>,
    double: Option<SocketAddr>,
    unix_ms: u64,
}

type Shared = Arc<Mutex<Heard>>;

fn lock(heard: &Shared) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that spread: the latest known one of each node.
struct Records {
    known: BTreeMap<NodeId, Record>,
    heard: Shared,
}

/// A record of a node takes the place of one before it.
struct Key(NodeId);

impl Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl BroadcastHandler<Life> for Records {
    type Key = Key;
    type Error = Garbled;

    fn receive_item(&mut self, data: &[u8], sender: Option<&Life>) -> Result<Option<Key>, Garbled> {
        let mut heard = lock(&self.heard);
        let is_full = self.known.len() >= MEMBER_RECORDS_MAX;
        let checked = codec::decode_record(data, heard.unix_ms).and_then(|record| match self.known.contains_key(&record.id) {
            false if is_full => Err(Refusal::TooMany),
            _ => Ok(record),
        });
        let record = match checked {
            Ok(record) => record,
            Err(refusal) => {
                heard.refusal = Some(refusal);
                return Err(Garbled("a record"));
            }
        };
        if self.known.get(&record.id).is_some_and(|known| !record.beats(known)) {
            return Ok(None);
        }
        let key = Key(record.id.clone());
        self.known.insert(record.id.clone(), record.clone());
        if sender.is_some() {
            heard.fresh.push(record);
        }
        Ok(Some(key))
    }
}

/// Random numbers that a seed determines (xorshift64*): a run can be repeated.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(xxh3_64(&seed.to_le_bytes()) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

impl rand_core::TryRng for Numbers {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Infallible> {
        output.iter_mut().for_each(|byte| *byte = (self.next() >> 56) as u8);
        Ok(())
    }
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled(&'static str);

impl fmt::Display for Garbled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} that cannot be read", self.0)
    }
}

impl std::error::Error for Garbled {}

/// The bytes of messages.
///
/// ```text
///   life:     tag u64 | incarnation u64 | 4 or 6 u8 | address 4 or 16 B | port u16
///   header:   src life | its incarnation there u16 | dst life | message u8 | probe u8, and a life, where the message has them
///   member:   life | incarnation u16 | state u8                                                                        all little-endian
/// ```
struct Bytes {
    tag: u64,
    place: SocketAddr,
    heard: Shared,
}

impl Bytes {
    /// A life that may have begun. One of the far future would beat all that its node can begin.
    fn take_life(&self, input: &mut impl Buf) -> Result<Life, Garbled> {
        let life = take_life(input)?;
        let latest = lock(&self.heard).unix_ms.saturating_add(2 * PEER_CLOCK_SKEW_MS_MAX);
        if life.incarnation > latest { Err(Garbled("a life of the future")) } else { Ok(life) }
    }
}

const LIFE_BYTES_MAX: usize = 8 + 8 + 1 + 16 + 2;
const HEADER_BYTES_MAX: usize = 3 * LIFE_BYTES_MAX + 2 + 2;

// A record always finds a datagram with room for it.
const _: () = assert!(SEAL_BYTES + HEADER_BYTES_MAX + 2 + 2 + GOSSIP_RECORD_BYTES_MAX <= GOSSIP_PACKET_BYTES_MAX);

impl Codec<Life> for Bytes {
    type Error = Garbled;

    fn encode_header(&mut self, header: &Header<Life>, mut output: impl BufMut) -> Result<(), Garbled> {
        room(&output, HEADER_BYTES_MAX)?;
        put_life(&header.src, &mut output);
        output.put_u16_le(header.src_incarnation);
        put_life(&header.dst, &mut output);
        let (code, probe, life) = match &header.message {
            Message::Ping(probe) => (0, Some(*probe), None),
            Message::Ack(probe) => (1, Some(*probe), None),
            Message::PingReq { target, probe_number } => (2, Some(*probe_number), Some(target)),
            Message::IndirectPing { origin, probe_number } => (3, Some(*probe_number), Some(origin)),
            Message::IndirectAck { target, probe_number } => (4, Some(*probe_number), Some(target)),
            Message::ForwardedAck { origin, probe_number } => (5, Some(*probe_number), Some(origin)),
            Message::Announce => (6, None, None),
            Message::Feed => (7, None, None),
            Message::Gossip => (8, None, None),
            Message::Broadcast => (9, None, None),
            Message::TurnUndead => (10, None, None),
        };
        output.put_u8(code);
        probe.iter().for_each(|probe| output.put_u8(*probe));
        life.iter().for_each(|life| put_life(life, &mut output));
        Ok(())
    }

    fn decode_header(&mut self, mut input: impl Buf) -> Result<Header<Life>, Garbled> {
        let src = self.take_life(&mut input)?;
        let src_incarnation = take(&mut input, 2, Buf::get_u16_le)?;
        let dst = take_life(&mut input)?;
        let code = take(&mut input, 1, Buf::get_u8)?;
        let mut probe = || take(&mut input, 1, Buf::get_u8);
        let message = match code {
            0 => Message::Ping(probe()?),
            1 => Message::Ack(probe()?),
            2..=5 => {
                let (probe_number, life) = (probe()?, take_life(&mut input)?);
                match code {
                    2 => Message::PingReq { target: life, probe_number },
                    3 => Message::IndirectPing { origin: life, probe_number },
                    4 => Message::IndirectAck { target: life, probe_number },
                    _ => Message::ForwardedAck { origin: life, probe_number },
                }
            }
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(Garbled("a message")),
        };
        if src.tag == self.tag && src.place != self.place {
            lock(&self.heard).double = Some(src.place);
        }
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Life>, mut output: impl BufMut) -> Result<(), Garbled> {
        room(&output, LIFE_BYTES_MAX + 3)?;
        put_life(member.id(), &mut output);
        output.put_u16_le(member.incarnation());
        output.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut input: impl Buf) -> Result<Member<Life>, Garbled> {
        let life = self.take_life(&mut input)?;
        let incarnation = take(&mut input, 2, Buf::get_u16_le)?;
        let state = match take(&mut input, 1, Buf::get_u8)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Garbled("a state")),
        };
        Ok(Member::new(life, incarnation, state))
    }
}

fn room(output: &impl BufMut, bytes: usize) -> Result<(), Garbled> {
    if output.remaining_mut() < bytes { Err(Garbled("no room for a message")) } else { Ok(()) }
}

fn put_life(life: &Life, output: &mut impl BufMut) {
    output.put_u64_le(life.tag);
    output.put_u64_le(life.incarnation);
    match life.place.ip().to_canonical() {
        IpAddr::V4(ip) => {
            output.put_u8(4);
            output.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            output.put_u8(6);
            output.put_slice(&ip.octets());
        }
    }
    output.put_u16_le(life.place.port());
}

/// Takes a number of so many bytes.
fn take<B: Buf, T>(input: &mut B, bytes: usize, get: impl Fn(&mut B) -> T) -> Result<T, Garbled> {
    if input.remaining() < bytes { Err(Garbled("less than a message")) } else { Ok(get(input)) }
}

fn take_life(input: &mut impl Buf) -> Result<Life, Garbled> {
    let (tag, incarnation) = (take(input, 8, Buf::get_u64_le)?, take(input, 8, Buf::get_u64_le)?);
    let ip = match take(input, 1, Buf::get_u8)? {
        4 => IpAddr::from(take(input, 4, Buf::get_u32)?.to_be_bytes()),
        6 => IpAddr::from(take(input, 16, Buf::get_u128)?.to_be_bytes()),
        _ => return Err(Garbled("an address")),
    };
    let port = take(input, 2, Buf::get_u16_le)?;
    if port == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(Garbled("an address"));
    }
    Ok(Life { tag, incarnation, place: SocketAddr::new(ip, port) })
}

//! A node that is let in and then says anything: garbage, halves, numbers that cannot be, answers never asked for, floods.
//!
//! ```text
//!   honest --request--> evil:     no answer ever | refused | two answers | an answer of another kind, key, id | a version of no clock
//!   evil --request--> honest:     bytes of no frame | half a frame | lengths beyond bounds | keys of other cores | thousands of each kind
//! ```
//!
//! It says nothing that a member could say rightly and that would harm keys it does not own: a node that stores a key may send copies of
//! it, and a node that flushes may flush. What is left must harm nobody: no panic, no hang, memory within its bounds, and all laws hold for
//! the keys that it does not own.
//!
//! Lives here: what it says, and how an honest node takes that in. Not here: links (`world`).

use pbcache::buffer::Buffer;
use pbcache::cluster::links::LinkId;
use pbcache::command::{Replica, Value};
use pbcache::key::{Key, PARTITIONS_COUNT};
use pbcache::limits;
use pbcache::peer::frame::{self, Along, FLAG_CLEAN, FLAG_SYNCED, Frame, Kind, OpenReplies, Partition, Stamp};
use pbcache::time::{Expiry, Timestamp};
use pbcache::version::Version;

use super::world::{Connection, VALUE_BYTES_MAX, World};

/// Links of its own have no table: the first of them.
const LINKS_BEGIN: u32 = 1 << 20;
/// Frames of one flood.
const FLOOD: u64 = 8000;

/// What it is up to for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    /// Answers as it should, and holds nothing.
    #[default]
    Tame,
    /// Says nothing at all.
    Silent,
    /// Answers wrongly.
    Wild,
}

/// The evil node.
#[derive(Debug)]
pub struct Evil {
    pub node: usize,
    /// An honest one has taken its place.
    pub is_over: bool,
    mood: Mood,
    mood_until: u64,
    links_made: u32,
}

impl Evil {
    pub fn new(node: usize) -> Self {
        Self { node, is_over: false, mood: Mood::Tame, mood_until: 0, links_made: 0 }
    }
}

impl World {
    pub fn is_evil(&self, node: usize) -> bool {
        self.evil.as_ref().is_some_and(|evil| evil.node == node && !evil.is_over)
    }

    /// It dies, with all that it has said last.
    pub fn end_evil(&mut self) {
        let Some(Evil { node, .. }) = self.evil else { return };
        self.crash(node);
        let is_its = |connection: &&mut Connection| connection.from.0 == node || connection.to.0 == node;
        self.connections.iter_mut().filter(is_its).for_each(|connection| connection.lost = true);
        self.evil = Some(Evil { is_over: true, ..Evil::new(node) });
    }

    /// Its turn: calls honest nodes, and says something over its links.
    pub(super) fn evil_acts(&mut self) {
        let (now, mood, pause) = (self.now, self.random.below(6), self.random.below(700));
        let Some(evil) = &mut self.evil else { return };
        if now >= evil.mood_until {
            evil.mood = [Mood::Tame, Mood::Tame, Mood::Tame, Mood::Wild, Mood::Wild, Mood::Silent][mood as usize];
            evil.mood_until = now + 50 + pause;
        }
        let me = evil.node;
        let target = self.random.below(self.nodes.len() as u64) as usize;
        if self.random.below(10) == 0 && target != me && self.nodes[target].alive {
            let core = self.random.below(self.nodes[target].cores.len() as u64) as u16;
            let link = self.evil.as_mut().map_or(0, |evil| {
                evil.links_made += 1;
                LINKS_BEGIN + evil.links_made
            });
            self.call((me, 0), LinkId(link), (target, core));
        }
        let is_mine = |connection: &Connection| connection.open && connection.is_made && connection.from.0 == me;
        let mine: Vec<usize> = (0..self.connections.len()).filter(|&index| is_mine(&self.connections[index])).collect();
        if !mine.is_empty() && self.random.below(3) == 0 {
            let connection = mine[self.random.below(mine.len() as u64) as usize];
            let (bytes, is_half) = self.evil_request();
            self.send(connection, false, bytes);
            // The other half never comes: what came behind it would be a number of any size.
            self.connections[connection].is_made &= !is_half;
        }
    }

    /// A clock that is near, or none that can be.
    fn evil_stamp(&mut self, is_possible: bool) -> Stamp {
        let now = Timestamp { unix_ms: super::world::EPOCH_MS + self.now };
        let (near, ahead) = (Version::first_at(now), |ms| Version::first_at(now.plus_ms(ms)));
        let far =
            [Version::MAX, Version::from_bits(1 << 63), ahead(3_600_000), ahead(2 * limits::PEER_CLOCK_SKEW_MS_MAX + 20_000)];
        let far = far[self.random.below(4) as usize];
        let (clock, fence) = match (is_possible, self.random.below(2)) {
            (true, _) => (near, Version::NONE),
            (false, 0) => (far, Version::NONE),
            (false, _) => (near, far),
        };
        let view = self.evil.as_ref().map_or(0, |evil| self.nodes[evil.node].view.stamp());
        Stamp { clock, fence, sent_ms: self.random.draw() as u32, heard_ms: self.random.draw() as u32, life: 0, view }
    }

    /// A version that no clock can have given.
    fn evil_version(&mut self) -> Version {
        let Stamp { clock, fence, .. } = self.evil_stamp(false);
        clock.max(fence)
    }

    fn evil_bytes(&mut self, count: u64) -> Vec<u8> {
        (0..self.random.below(count)).map(|_| self.random.draw() as u8).collect()
    }

    /// What it sends to an honest node of its own accord, and whether nothing follows it.
    fn evil_request(&mut self) -> (Vec<u8>, bool) {
        let (mut output, stamp, id) = (Buffer::default(), self.evil_stamp(true), self.random.draw() as u32);
        let kind = self.random.below(8);
        let whole = self.evil_frame(kind, id);
        match self.random.below(10) {
            0 => return (self.evil_bytes(200), true),
            1 => {
                let length = self.random.below(whole.len() as u64) as usize;
                return (whole[..length].to_vec(), true);
            }
            2 => {
                // Lengths beyond all bounds.
                let mut bytes = whole;
                let at = 4 * self.random.below(2) as usize;
                let length = [u32::MAX, 1 << 31, (VALUE_BYTES_MAX + 1) as u32][self.random.below(3) as usize];
                bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
                return (bytes, true);
            }
            3 => {
                let (stamp, kind) = (self.evil_stamp(false), [Kind::Sync, Kind::Fence][self.random.below(2) as usize]);
                frame::write(&mut output, (kind, 0, 0, id), stamp, Value::EMPTY, |meta| {
                    frame::write_version(Version::NONE, meta)
                });
            }
            4 => {
                let (version, kind) = (self.evil_version(), [Kind::Sync, Kind::Fence][self.random.below(2) as usize]);
                frame::write(&mut output, (kind, 0, 0, id), stamp, Value::EMPTY, |meta| frame::write_version(version, meta));
            }
            5 => {
                let kind = [Kind::Done, Kind::Found, Kind::Reply, Kind::PutDone, Kind::Refused][self.random.below(5) as usize];
                frame::write(&mut output, (kind, 0, 0, id), stamp, Value::EMPTY, |_| {});
            }
            6 => {
                // Any kind, with a meta of any bytes. No `Fence`: eight bytes of these would be one, and rightly so.
                let bytes = self.evil_bytes(60);
                let kinds = [Kind::Execute, Kind::Put, Kind::Fetch, Kind::Begin, Kind::Purged, Kind::Batch, Kind::Missing];
                let kind = kinds[self.random.below(7) as usize];
                let (flags, hops) = (self.random.draw() as u8, self.random.draw() as u8);
                let value = self.evil_bytes(60);
                // A partition announced by chance may well be a real one.
                let value = if kind == Kind::Begin { &value[..value.len().min(19)] } else { &value };
                frame::write(&mut output, (kind, flags, hops, id), stamp, Value::Bytes(value), |meta| meta.extend(&bytes));
            }
            7 => {
                let kind = self.random.below(8);
                for number in 0..self.random.below(FLOOD) {
                    let frame = self.evil_frame(kind, id.wrapping_add(number as u32));
                    output.put(&frame);
                }
            }
            _ => output.put(&whole),
        }
        (output.flatten(), false)
    }

    /// A key that no client has.
    fn evil_key(&mut self) -> Vec<u8> {
        let mut key = format!("evil{}", self.random.below(100_000)).into_bytes();
        if self.random.below(20) == 0 {
            key.resize(250, b'x');
        }
        key
    }

    /// A frame that can be read, of a kind that an honest node may send too.
    fn evil_frame(&mut self, kind: u64, id: u32) -> Vec<u8> {
        let (mut output, stamp, bytes) = (Buffer::default(), self.evil_stamp(true), self.evil_key());
        let (version, key, number) = (
            Version::from_bits(stamp.clock.bits() - self.random.below(1 << 30)),
            Key::new(&bytes),
            self.random.below(4096) as u32,
        );
        let (some, old) = (self.evil_bytes(400), Version::from_bits(7));
        match kind {
            0 => frame::write(&mut output, (Kind::Fetch, 0, 0, id), stamp, Value::EMPTY, |meta| frame::write_key(&key, meta)),
            1 => frame::write(&mut output, (Kind::Sync, 0, 0, id), stamp, Value::EMPTY, |meta| {
                frame::write_version(version, meta)
            }),
            2 => {
                let missing: Vec<u64> = (0..self.random.below(17)).map(|_| self.random.draw()).collect();
                let missing = if self.random.below(4) == 0 { &missing[..] } else { &[] };
                let is_tombstone = self.random.below(3) == 0;
                let value = if self.random.below(30) == 0 { vec![b'v'; 60_000] } else { some };
                let value = if is_tombstone && self.random.below(3) > 0 { Vec::new() } else { value };
                let replica = evil_replica(key, &value, version, is_tombstone);
                let committed_through = (self.random.below(2) == 0).then_some(version);
                let along = Along { exempt: self.random.below(2) == 0, missing, committed_through };
                frame::write(&mut output, (Kind::Put, 0, 0, id), stamp, replica.value, |meta| {
                    frame::write_replica(&replica, along, meta);
                });
            }
            // Nothing that anybody has is as old as this.
            3 => self.evil_partitions(
                &mut output,
                (Kind::Begin, id),
                stamp,
                Partition { number, stale_through: old, fence: old },
            ),
            4 => self.evil_partitions(
                &mut output,
                (Kind::Purged, id),
                stamp,
                Partition { number, stale_through: Version::NONE, fence: Version::NONE },
            ),
            5 => {
                let mut list = Vec::new();
                for _ in 0..self.random.below(300) {
                    frame::write_lacking((self.random.draw(), Version::from_bits(1 + self.random.below(9))), &mut list);
                }
                frame::write(&mut output, (Kind::Missing, 0, 0, id), stamp, Value::Bytes(&list), |_| {});
            }
            _ => {
                let text = [format!("ms {} 3 T9 c\r\nxyz\r\n", text_of(&bytes)), format!("mg {} v c\r\n", text_of(&bytes))];
                let text = &text[self.random.below(2) as usize];
                let hops = [0, 1, 2, 255][self.random.below(4) as usize];
                let flags = (self.random.draw() as u8) & !frame::FLAG_REPEATED & !frame::FLAG_PASSED_ON;
                let their_ms = (self.now + 1000) as u32;
                let stamp = Stamp { life: self.random.draw() as u8, heard_ms: their_ms, ..stamp };
                self.evil_execute(&mut output, (flags, hops, id), stamp, text.as_bytes());
            }
        }
        output.flatten()
    }

    fn evil_partitions(&mut self, output: &mut Buffer, (kind, id): (Kind, u32), stamp: Stamp, first: Partition) {
        let mut list = Vec::new();
        for step in 0..1 + self.random.below(frame::PARTITIONS_TOLD_MAX as u64) as u32 {
            frame::write_partition(Partition { number: (first.number + step) % PARTITIONS_COUNT, ..first }, &mut list);
        }
        frame::write(output, (kind, 0, 0, id), stamp, Value::Bytes(&list), |_| {});
    }

    fn evil_execute(&mut self, output: &mut Buffer, (flags, hops, id): (u8, u8, u32), stamp: Stamp, text: &[u8]) {
        let mut session = pbcache::protocol::Session::new(pbcache::protocol::Options::default());
        let pbcache::protocol::Step::Command { command, framing, .. } = session.step(text) else { panic!("a command") };
        frame::write(output, (Kind::Execute, flags, hops, id), stamp, command.value, |meta| {
            frame::write_execute(&command, framing.head.to_bytes(), framing.words, meta);
        });
    }

    /// What has come to it.
    pub(super) fn evil_hears(&mut self, connection: usize, back: bool, frame: &Frame<'_>) {
        let mood = self.evil.as_ref().map_or(Mood::Silent, |evil| evil.mood);
        if back || mood == Mood::Silent || !self.connections[connection].is_made {
            return;
        }
        let mut ids = vec![frame.head.id];
        if let (Kind::Batch, Value::Bytes(mut batch)) = (frame.head.kind, frame.value) {
            ids = std::iter::from_fn(|| Some(frame::read_element(&mut batch).expect("a node made it")?.id)).collect();
        }
        for id in ids {
            let (answer, is_half) = self.evil_answer(frame.head.kind, id, mood);
            self.send(connection, true, answer);
            self.connections[connection].is_made &= !is_half;
        }
    }

    /// Its answer to a request, and whether nothing follows it.
    fn evil_answer(&mut self, kind: Kind, id: u32, mood: Mood) -> (Vec<u8>, bool) {
        let (mut output, stamp) = (Buffer::default(), self.evil_stamp(true));
        let wildness = if mood == Mood::Wild { self.random.below(60) } else { u64::MAX };
        let (far, key) = (self.evil_version(), self.evil_key());
        let head = |kind: Kind| (kind, 0, 0, id);
        match wildness {
            0 => return (self.evil_bytes(100), true),
            1 => frame::write(&mut output, (Kind::Done, 0, 0, id ^ 1), stamp, Value::EMPTY, |meta| {
                frame::write_version(Version::NONE, meta)
            }),
            2 => {
                let stamp = self.evil_stamp(false);
                frame::write(&mut output, head(Kind::Done), stamp, Value::EMPTY, |meta| {
                    frame::write_version(Version::NONE, meta)
                });
            }
            3 => frame::write(&mut output, head(Kind::Done), stamp, Value::EMPTY, |meta| frame::write_version(far, meta)),
            4 => frame::write(&mut output, head(Kind::PutDone), stamp, Value::EMPTY, |meta| {
                frame::PutDone::Kept(far).write(meta)
            }),
            5 => frame::write(&mut output, head(Kind::PutDone), stamp, Value::EMPTY, |meta| meta.push(9)),
            6 => {
                let replica = evil_replica(Key::new(&key), b"of another key", stamp.clock, false);
                frame::write(&mut output, head(Kind::Found), stamp, replica.value, |meta| {
                    frame::write_replica(&replica, Along::default(), meta);
                });
            }
            7 => {
                let replica = evil_replica(Key::new(&key), b"too late", far, false);
                frame::write(&mut output, head(Kind::Found), stamp, replica.value, |meta| {
                    frame::write_replica(&replica, Along::default(), meta);
                });
            }
            8 => frame::write(&mut output, (Kind::Found, FLAG_SYNCED, 0, id), stamp, Value::Bytes(b"no meta"), |_| {}),
            9 => {
                let kinds = [Kind::Reply, Kind::PutDone, Kind::Found, Kind::Done, Kind::Refused, Kind::Sync];
                let kind = kinds[self.random.below(6) as usize];
                frame::write(&mut output, head(kind), stamp, Value::EMPTY, |_| {});
            }
            10 => {
                let (once, _) = self.evil_answer(kind, id, Mood::Tame);
                return ([once.clone(), once].concat(), false);
            }
            11 => frame::write(&mut output, head(Kind::Refused), stamp, Value::EMPTY, |_| {}),
            12 => {
                let (mut half, _) = self.evil_answer(kind, id, Mood::Tame);
                half.truncate(self.random.below(half.len() as u64) as usize);
                return (half, true);
            }
            // Replies to what was asked, to what was not, and none where one was begun.
            13 | 14 => {
                let reply = |text: &[u8]| Buffer { bytes: text.to_vec(), bodies: Vec::new() };
                let mut replies = OpenReplies::default();
                replies.push(&mut output, id, stamp, &reply(b"END\r\n"));
                replies.push(&mut output, if wildness == 13 { id } else { id ^ 1 }, stamp, &reply(b"END\r\n"));
            }
            15 => {
                let half = &[&id.to_le_bytes()[..], &[200, 0], &key].concat();
                frame::write(&mut output, (Kind::Replies, 0, 0, 0), stamp, Value::Bytes(half), |_| {});
            }
            _ => tame_answer(&mut output, kind, id, stamp),
        }
        (output.flatten(), false)
    }

    /// An honest node ends a link.
    pub(super) fn cut_off(&mut self, connection: usize, back: bool, why: &str) {
        let Connection { to, generation, .. } = self.connections[connection];
        if back {
            return self.end(connection, why);
        }
        self.connections[connection].open = false;
        self.with_turn(to.0, usize::from(to.1), |turn| turn.handle_inbound_end(connection as u32, generation));
    }

    /// `bounded`: nobody's memory grows by what a peer says.
    pub(super) fn check_bounds(&mut self, (node, core): (usize, u16)) {
        let shard = &self.nodes[node].cores[usize::from(core)];
        let Some(cluster) = &shard.cluster else { return };
        let bytes_max = cluster.options.handoff_bytes_max;
        let links = cluster.links.ids().count();
        let under_way = cluster.links.ids().map(|link| cluster.links.link(link).outstanding as usize).sum();
        let checks = [
            ("requests", cluster.operations(), limits::PEER_OPERATIONS_MAX + 10),
            ("bytes of hints", cluster.hints.bytes(), bytes_max / 2),
            ("missing keys", cluster.leases.missing_count(), bytes_max / 4 / limits::PEER_MISSING_BYTES),
            ("refused commands", cluster.refused_count(), links * limits::PEER_WINDOW as usize),
            ("requests under way", under_way, 2 * links * limits::PEER_WINDOW as usize),
        ];
        for (what, count, count_max) in checks {
            if count > count_max {
                self.broken.push(format!("bounded: node {node} has {count} {what}, more than {count_max}"));
            }
        }
    }

    /// The keys that it owns: what is said of them is nobody's fault.
    pub fn is_owned_by_evil(&self, key: &str) -> bool {
        self.evil.as_ref().is_some_and(|evil| self.owners_of(key).contains(&evil.node))
    }
}

fn evil_replica<'a>(key: Key<'a>, value: &'a [u8], version: Version, tombstone: bool) -> Replica<'a> {
    Replica {
        key,
        value: Value::Bytes(value),
        client_flags: 5,
        version,
        cas_override: None,
        expiry: Expiry(u32::MAX),
        stale: false,
        token_sent: false,
        tombstone,
    }
}

fn text_of(key: &[u8]) -> &str {
    std::str::from_utf8(key).unwrap_or("evil")
}

/// An answer that a node may give that holds nothing.
fn tame_answer(output: &mut Buffer, kind: Kind, id: u32, stamp: Stamp) {
    let clean = FLAG_SYNCED | FLAG_CLEAN;
    match kind {
        Kind::Batch if id.is_multiple_of(2) => {
            let reply = Buffer { bytes: b"SERVER_ERROR none\r\n".to_vec(), bodies: Vec::new() };
            OpenReplies::default().push(output, id, stamp, &reply);
        }
        Kind::Execute | Kind::Batch => {
            frame::write(output, (Kind::Reply, 0, 0, id), stamp, Value::Bytes(b"SERVER_ERROR none\r\n"), |_| {});
        }
        Kind::Put => {
            let taken = |meta: &mut Vec<u8>| frame::PutDone::Taken.write(meta);
            frame::write(output, (Kind::PutDone, 0, 0, id), stamp, Value::EMPTY, taken);
        }
        Kind::Fetch => frame::write(output, (Kind::Found, clean, 0, id), stamp, Value::EMPTY, |_| {}),
        _ => frame::write(output, (Kind::Done, clean, 0, id), stamp, Value::EMPTY, |meta| {
            frame::write_version(Version::NONE, meta)
        }),
    }
}

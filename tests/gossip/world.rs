//! Nodes that gossip over a network of the imagination: seeded, without sockets, in virtual time.
//!
//! ```text
//!   datagram --1 to 5 ms, lost now and then, cut--> inbox of a node --all that wait, then its timers--> outputs
//! ```
//!
//! A node is a detector and a table; where two tables differ, they are compared as over a link: both have both afterwards.
//!
//! Lives here: the machinery. Not here: what is tried (`main`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use pbcache::membership::gossip::{Contact, Gossip, Life, Now, Output, Reach, Swim, tag_of};
use pbcache::membership::seal::Seal;
use pbcache::membership::table::{Record, RingRecord, State, Table, Written};
use pbcache::placement::NodeId;
use pbcache::time::Monotonic;

use super::random::Random;

pub const EPOCH_MS: u64 = 1_800_000_000_000;
/// Of IPv4 and UDP, beside the bytes of a datagram.
pub const HEADERS_BYTES: u64 = 28;

pub struct Node {
    pub swim: Swim,
    pub table: Table,
    pub runs: bool,
    pub paused_until: u64,
    pub skew_ms: i64,
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    /// When it has turned somebody, whom, and how.
    pub turns: Vec<(u64, u64, bool)>,
    pub doubles: Vec<SocketAddr>,
    pub refused: Vec<String>,
    pub sent_bytes: u64,
    pub sent_count: u64,
    pub backlog_max: usize,
    pub packet_max: usize,
}

/// A datagram on its way: when it arrives, in which order, from whom, to whom.
type Flight = (u64, u64, usize, usize, Vec<u8>);

/// What may be wrong with tables and their writers; a law catches each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Who sees few others takes those that it does not see for a minority.
    MinorityRemoves,
    /// The later stamp wins, whatever it says.
    StampOnly,
    /// Records of nodes that are out are forgotten.
    TerminalForgotten,
}

/// Both tables in one, by the rule of the product or by a wrong one.
fn merged(mistake: Option<Mistake>, ours: &Table, theirs: &Table, now_ms: u64) -> Table {
    let mut both = ours.clone();
    both.merge(theirs, now_ms).unwrap();
    let of = |keep: &dyn Fn(&Record) -> Option<Record>| {
        let mut table = Table::new(both.ring().clone());
        both.records().filter_map(keep).for_each(|record| assert!(table.put(record, now_ms).unwrap()));
        table
    };
    match mistake {
        Some(Mistake::StampOnly) => of(&|record: &Record| {
            let id = record.id.as_str();
            [ours.get(id), theirs.get(id)].into_iter().flatten().max_by_key(|record| record.written).cloned()
        }),
        Some(Mistake::TerminalForgotten) => of(&|record: &Record| (!record.state.is_terminal()).then(|| record.clone())),
        _ => both,
    }
}

pub struct World {
    pub now: u64,
    pub nodes: Vec<Node>,
    pub random: Random,
    /// By sender and receiver.
    pub cut: Vec<Vec<bool>>,
    /// One datagram in so many is lost; 0 for none.
    pub loss: u64,
    /// Digests that differ lead to nothing: what spreads, spreads by datagrams.
    pub links_closed: bool,
    /// A planted one.
    pub mistake: Option<Mistake>,
    queue: BinaryHeap<Reverse<Flight>>,
    sequence: u64,
}

pub fn id(node: usize) -> NodeId {
    NodeId::new(&format!("node-{node}")).unwrap()
}

pub fn tag(node: usize) -> u64 {
    tag_of(&id(node))
}

pub fn place(node: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1 + node as u8).into(), 11211)
}

pub fn record(node: usize, written_ms: u64) -> Record {
    Record {
        id: id(node),
        epoch: 1,
        state: State::Normal,
        is_moving: false,
        is_front: false,
        written: Written::at(written_ms),
        asked: Written::at(written_ms),
        weight: 1,
        weight_next: 1,
        zone: String::new(),
        address: place(node).to_string(),
        incarnation: 1,
    }
}

pub fn seal() -> Seal {
    Seal::new(Some([5; 32]), "sim", 1)
}

impl World {
    /// So many nodes that know each other's addresses, and start in the same second.
    pub fn new(count: usize, seed: u64) -> Self {
        let mut world = Self {
            now: 1000,
            nodes: Vec::new(),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            cut: vec![vec![false; count]; count],
            loss: 0,
            links_closed: false,
            mistake: None,
            queue: BinaryHeap::new(),
            sequence: 0,
        };
        let ring = RingRecord { ring_id: 1, name: "sim".into(), buckets: 9, redundancy: 2, written: Written::at(EPOCH_MS - 9) };
        let mut table = Table::new(ring);
        (0..count).for_each(|node| assert!(table.put(record(node, EPOCH_MS), EPOCH_MS).unwrap()));
        for node in 0..count {
            let swim = world.begin(node);
            world.nodes.push(Node {
                swim,
                table: table.clone(),
                runs: true,
                paused_until: 0,
                skew_ms: 0,
                inbox: VecDeque::new(),
                turns: Vec::new(),
                doubles: Vec::new(),
                refused: Vec::new(),
                sent_bytes: 0,
                sent_count: 0,
                backlog_max: 0,
                packet_max: 0,
            });
        }
        (0..count).for_each(|node| world.know(node));
        world
    }

    fn begin(&mut self, node: usize) -> Swim {
        let own = Life { tag: tag(node), incarnation: EPOCH_MS + self.now, place: place(node) };
        Swim::new(own, seal(), self.random.next(), Now { at: Monotonic::from_ms(self.now), unix_ms: EPOCH_MS + self.now })
    }

    fn know(&mut self, node: usize) {
        let contacts =
            (0..self.cut.len()).filter(|&other| other != node).map(|other| Contact { tag: tag(other), place: place(other) });
        let (contacts, now) = (contacts.collect(), self.clock(node));
        let digest = self.nodes[node].table.digest();
        self.nodes[node].swim.know(contacts, now);
        self.nodes[node].swim.set_digest(digest);
    }

    pub fn clock(&self, node: usize) -> Now {
        let unix_ms = (EPOCH_MS + self.now).saturating_add_signed(self.nodes.get(node).map_or(0, |node| node.skew_ms));
        Now { at: Monotonic::from_ms(self.now), unix_ms }
    }

    /// A node dies.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node].runs = false;
        self.nodes[node].inbox.clear();
    }

    /// It starts again: another life, that knows its table.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].swim = self.begin(node);
        (self.nodes[node].runs, self.nodes[node].paused_until) = (true, 0);
        self.know(node);
    }

    /// A node writes something new of itself.
    pub fn write(&mut self, node: usize) {
        let now = self.clock(node);
        let table = &mut self.nodes[node].table;
        let next = Record { written: table.next_written(now.unix_ms), ..table.get(id(node).as_str()).unwrap().clone() };
        assert!(table.put(next.clone(), now.unix_ms).unwrap());
        let digest = table.digest();
        self.nodes[node].swim.set_digest(digest);
        self.nodes[node].swim.tell(&next, now).unwrap();
        self.outputs(node);
    }

    pub fn cut_between(&mut self, some: &[usize], others: &[usize], is_cut: bool) {
        for &a in some {
            for &b in others {
                (self.cut[a][b], self.cut[b][a]) = (is_cut, is_cut);
            }
        }
    }

    /// Time goes on.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let moment = self.next_moment().clamp(self.now, end);
            self.now = moment;
            while self.queue.peek().is_some_and(|Reverse(event)| event.0 <= moment) {
                let Some(Reverse((_, _, from, to, packet))) = self.queue.pop() else { break };
                if self.nodes[to].runs && !self.cut[from][to] {
                    self.nodes[to].inbox.push_back((place(from), packet));
                }
            }
            (0..self.nodes.len()).for_each(|node| self.turn(node));
            if moment == end {
                break;
            }
        }
    }

    fn next_moment(&self) -> u64 {
        let queue = self.queue.peek().map_or(u64::MAX, |Reverse(event)| event.0);
        let wanted =
            self.nodes.iter().filter(|node| node.runs).map(|node| node.swim.poll_timeout().ms().max(node.paused_until));
        queue.min(wanted.min().unwrap_or(u64::MAX)).max(self.now + 1)
    }

    fn turn(&mut self, node: usize) {
        if !self.nodes[node].runs || self.nodes[node].paused_until > self.now {
            return;
        }
        let now = self.clock(node);
        let had_input = !self.nodes[node].inbox.is_empty();
        while let Some((from, packet)) = self.nodes[node].inbox.pop_front() {
            self.nodes[node].swim.handle_packet(from, &packet, now);
        }
        if had_input || self.nodes[node].swim.poll_timeout().ms() <= self.now {
            self.nodes[node].swim.handle_time(now);
            self.outputs(node);
        }
    }

    pub fn outputs(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].swim.poll_output() {
            match output {
                Output::Send { to, packet } => self.send(node, to, packet),
                Output::Record(record) => {
                    let mut theirs = Table::new(self.nodes[node].table.ring().clone());
                    theirs.put(*record, self.clock(node).unix_ms).unwrap();
                    self.merge(node, &theirs);
                }
                Output::Differs(tag_there) => {
                    let there = (0..self.cut.len()).find(|&other| tag(other) == tag_there).unwrap();
                    if !self.links_closed && self.nodes[there].runs && !self.cut[node][there] {
                        self.compare(node, there);
                    }
                }
                Output::Turned { tag, is_up } => self.nodes[node].turns.push((self.now, tag, is_up)),
                Output::Double(place) => self.nodes[node].doubles.push(place),
                Output::Refused { why, .. } => self.nodes[node].refused.push(why.to_string()),
            }
        }
        let backlog = self.nodes[node].swim.backlog();
        self.nodes[node].backlog_max = self.nodes[node].backlog_max.max(backlog);
    }

    /// Both tables over a link.
    fn compare(&mut self, a: usize, b: usize) {
        let first = self.nodes[a].table.clone();
        self.merge(b, &first);
        let both = self.nodes[b].table.clone();
        self.merge(a, &both);
    }

    /// A node takes over what it does not know.
    pub fn merge(&mut self, node: usize, theirs: &Table) {
        let now = self.clock(node);
        let before = self.nodes[node].table.clone();
        let next = merged(self.mistake, &before, theirs, now.unix_ms);
        for record in next.records().filter(|record| before.get(record.id.as_str()) != Some(record)) {
            self.nodes[node].swim.tell(record, now).unwrap();
        }
        self.nodes[node].swim.set_digest(next.digest());
        self.nodes[node].table = next;
    }

    /// A node writes a record.
    pub fn put(&mut self, node: usize, record: Record) {
        let now = self.clock(node);
        self.nodes[node].table.put(record.clone(), now.unix_ms).unwrap();
        self.nodes[node].swim.tell(&record, now).unwrap();
        let digest = self.nodes[node].table.digest();
        self.nodes[node].swim.set_digest(digest);
        self.outputs(node);
    }

    /// Whether both run, and what one sends arrives at the other, both ways.
    pub fn are_linked(&self, a: usize, b: usize) -> bool {
        let lives = |node: usize| self.nodes[node].runs && self.nodes[node].paused_until <= self.now;
        lives(a) && lives(b) && !self.cut[a][b] && !self.cut[b][a]
    }

    pub fn send(&mut self, from: usize, to: SocketAddr, packet: Vec<u8>) {
        self.nodes[from].sent_bytes += packet.len() as u64 + HEADERS_BYTES;
        self.nodes[from].sent_count += 1;
        self.nodes[from].packet_max = self.nodes[from].packet_max.max(packet.len());
        let Some(to) = (0..self.nodes.len()).find(|&other| place(other) == to) else { return };
        if self.cut[from][to] || (self.loss > 0 && self.random.below(self.loss) == 0) {
            return;
        }
        self.sequence += 1;
        let moment = self.now + 1 + self.random.below(5);
        self.queue.push(Reverse((moment, self.sequence, from, to, packet)));
    }

    /// What one node knows of another.
    pub fn reach(&self, node: usize, other: usize) -> Reach {
        self.nodes[node].swim.reach(tag(other))
    }

    /// Whether all that run take all that run to be there.
    pub fn all_up(&self) -> bool {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|&node| self.nodes[node].runs).collect();
        running.iter().all(|&a| running.iter().all(|&b| a == b || self.reach(a, b) == Reach::Up))
    }

    /// Runs until something is so. How long it took, in milliseconds; `None` if it is not so after `most_ms`.
    pub fn until(&mut self, most_ms: u64, is_so: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now;
        while !is_so(self) {
            if self.now >= start + most_ms {
                return None;
            }
            self.run(10);
        }
        Some(self.now - start)
    }

    /// Turns to down since a moment.
    pub fn downs(&self, since: u64) -> Vec<(u64, u64)> {
        let of = |node: &Node| {
            node.turns.iter().filter(|turn| turn.0 >= since && !turn.2).map(|turn| (turn.0, turn.1)).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(of).collect()
    }
}

//! What do several nodes cost that one does not: sending a command on, a second copy, the replay of hints? Without sockets.
//!
//! Unit: nanoseconds of CPU time per command or item, all nodes together, and items per second of one core. Workload: nodes of one core
//! whose frames are handed over in memory, 16 frames at a time; 100-byte values, 16-byte keys, `ITEMS` (200,000) of them.
//!
//! Would change our mind: sending on beyond 400 ns (with two system calls shared by 16 commands, what is left is copying), or a replay below
//! 200,000 items a second and core.
#![allow(clippy::disallowed_methods)] // a bench looks at the clock

mod bare;
#[path = "../tests/bare_ring/mod.rs"]
mod bare_ring;

use bare::{cpu_ns, key, setting};
use bare_ring::{NOW, each, identity, node};
use pbcache::buffer::Buffer;
use pbcache::cluster::links::LinkId;
use pbcache::cluster::{Origin, Output, Outputs, PeerRequest, Turn};
use pbcache::command::{Command, Get, Store, Value, Verb};
use pbcache::key::Key;
use pbcache::observe::Client;

use pbcache::cluster::view::PeerId;
use pbcache::protocol::{Options as ProtocolOptions, Session, Step};
use pbcache::routing::{Place, Ticket};
use pbcache::shard::Shard;
use pbcache::time::Monotonic;

fn main() {
    let items = setting("ITEMS", 200_000, 500);
    println!("{:<60} {:>8}", "", "ns each");
    let mut ring = Bench::new(3, 1);
    ring.all(items, true);
    report("3 nodes, 1 copy: set at one of them", items, || ring.all(items, true));
    report("3 nodes, 1 copy: get at one of them", items, || ring.all(items, false));
    let mut ring = Bench::new(3, 2);
    ring.all(items, true);
    report("3 nodes, 2 copies: set at one of them", items, || ring.all(items, true));
    report("3 nodes, 2 copies: get at one of them", items, || ring.all(items, false));
    ring.away(2);
    ring.all(items, true);
    let pending = ring.pending(2);
    let start = cpu_ns();
    ring.back(2);
    let ns = (cpu_ns() - start) as f64;
    assert_eq!(ring.pending(2), 0);
    println!("{:<60} {:>8.1}", "replay of a hint, both nodes", ns / pending as f64);
    println!("{:<60} {:>8.0}", "hints replayed by two busy cores in a second", pending as f64 / ns * 1e9);
}

fn report(name: &str, items: u64, mut run: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = cpu_ns();
        run();
        best = best.min((cpu_ns() - start) as f64 / items as f64);
    }
    println!("{name:<60} {best:>8.1}");
}

/// Nodes of one core each, and links without sockets.
struct Bench {
    nodes: Vec<Shard>,
    away: Option<usize>,
    at: Monotonic,
    answers: u64,
    /// Used again and again; `settle` comes in the middle of `exchange`.
    outputs: Outputs,
    settled: Outputs,
}

impl Bench {
    fn new(count: usize, redundancy: usize) -> Self {
        let nodes = (0..count).map(|index| node(index, count, redundancy, 256 << 20)).collect();
        Self {
            nodes,
            away: None,
            at: Monotonic::from_ms(1000),
            answers: 0,
            outputs: Outputs::default(),
            settled: Outputs::default(),
        }
    }

    fn turn(&mut self, node: usize) -> Turn<'_> {
        self.nodes[node].turn(NOW, self.at).unwrap()
    }

    /// Sets or gets every key at node 0, 16 at a time.
    fn all(&mut self, items: u64, sets: bool) {
        let mut session = Session::new(ProtocolOptions::default());
        let Step::Command { framing, .. } = session.step(b"get k\r\n") else { unreachable!() };
        let value = [7; 100];
        for first in (0..items).step_by(16) {
            let count = 16.min(items - first);
            let done = self.answers + count;
            for number in first..first + count {
                let name = key(number);
                let verb = if sets { Verb::Store(Store::default()) } else { Verb::Get(Get::default()) };
                let value = if sets { Value::Bytes(&value) } else { Value::EMPTY };
                let command = Command { key: Key::new(name.as_bytes()), verb, value };
                if self.turn(0).place(&command) == Some(Place::Here) {
                    self.nodes[0].execute(&command, Client::default(), NOW);
                    self.answers += 1;
                    continue;
                }
                let ticket = Ticket { connection: 0, generation: 0, slot: number as u32, descriptor: 7 };
                assert!(self.turn(0).submit(Origin::Connection(ticket), &command, framing.head, b""));
            }
            while self.answers < done {
                self.exchange();
            }
        }
    }

    /// Moves everything that the nodes have for each other, once.
    fn exchange(&mut self) {
        self.at = self.at + 1;
        for node in 0..self.nodes.len() {
            if self.away == Some(node) {
                continue;
            }
            self.turn(node).tick();
            let mut outputs = std::mem::take(&mut self.outputs);
            self.turn(node).poll_output(&mut outputs);
            while let Some(output) = outputs.next() {
                match output {
                    Output::Answer(..) => self.answers += 1,
                    Output::Dial(link) => self.connect(node, link),
                    Output::Ready(link) => self.pass(node, link),
                    Output::HangUp(_) | Output::ToCore(..) => {}
                }
            }
            self.outputs = outputs;
        }
    }

    fn connect(&mut self, node: usize, link: LinkId) {
        let to = usize::from(self.nodes[node].cluster.as_ref().unwrap().links.link(link).node.0);
        if self.away == Some(to) {
            return self.turn(node).handle_link_down(link, "away");
        }
        self.turn(to).handle_inbound(&identity(node));
        self.turn(node).handle_link_up(link, &identity(to));
    }

    /// Requests there, and what can be answered at once back.
    fn pass(&mut self, node: usize, link: LinkId) {
        let to = usize::from(self.nodes[node].cluster.as_ref().unwrap().links.link(link).node.0);
        let (mut requests, mut responses) = (Buffer::default(), Buffer::default());
        self.turn(node).take_frames(link, &mut requests);
        if self.away == Some(to) {
            return self.turn(node).handle_link_down(link, "away");
        }
        let me = PeerId(node as u16);
        let mut served = Vec::new();
        each(&requests.bytes, |frame| {
            let from =
                PeerRequest { connection: 0, generation: 0, id: frame.head.id, node: Some(me), deadline: Monotonic::NEVER };
            self.turn(to).handle_request(from, frame, &mut responses).unwrap();
            served.push(frame.head.id);
        });
        // What waits for copies is answered when they are there: they are, after the next exchange between those two.
        while responses_count(&responses.bytes) < served.len() {
            self.settle(to, &mut responses);
        }
        each(&responses.bytes, |frame| self.turn(node).handle_response(link, frame).unwrap());
    }

    /// Lets a node's own requests go through, and collects what became ready for its peers.
    fn settle(&mut self, node: usize, responses: &mut Buffer) {
        // A lease may have to end first.
        self.at = self.at + 1;
        self.turn(node).tick();
        let mut outputs = std::mem::take(&mut self.settled);
        self.turn(node).poll_output(&mut outputs);
        while let Some(output) = outputs.next() {
            match output {
                Output::Answer(Origin::Peer(request), answer) => answer.write_response(request, responses),
                Output::Dial(link) => self.connect(node, link),
                Output::Ready(link) => self.pass(node, link),
                Output::Answer(..) | Output::HangUp(_) | Output::ToCore(..) => {}
            }
        }
        self.settled = outputs;
    }

    fn away(&mut self, node: usize) {
        self.away = Some(node);
    }

    fn pending(&self, node: usize) -> usize {
        let others = self.nodes.iter().enumerate().filter(|(index, _)| *index != node);
        others.map(|(_, shard)| shard.cluster.as_ref().unwrap().hints.target(PeerId(node as u16)).pending()).sum()
    }

    /// The node is there again; until nobody has anything for it.
    fn back(&mut self, node: usize) {
        self.away = None;
        self.at = self.at + 2000;
        for _ in 0..1_000_000 {
            if self.pending(node) == 0 {
                return;
            }
            self.exchange();
        }
        panic!("{} hints are never replayed", self.pending(node));
    }
}

fn responses_count(bytes: &[u8]) -> usize {
    let mut count = 0;
    each(bytes, |_| count += 1);
    count
}

//! No allocation per command that is sent on to another node, counted by the allocator itself.
//!
//! ```text
//!   node 0: place, submit (rank, stamp, frame) --> node 1: serve --> node 0: response --> outputs     0 allocations
//! ```
//!
//! Lives here: two nodes whose frames are handed over in memory. Not here: sockets, copies (one entry each, from the heap).

mod bare_ring;
mod counting;

use bare_ring::{NOW, each, identity, node};
use pbcache::buffer::Buffer;
use pbcache::cluster::links::LinkId;
use pbcache::cluster::view::PeerId;
use pbcache::cluster::{Origin, Output, Outputs, PeerRequest};
use pbcache::command::{Command, Get, Store, Value, Verb};
use pbcache::key::Key;
use pbcache::protocol::{Options as ProtocolOptions, Session, Step};
use pbcache::routing::Ticket;
use pbcache::shard::Shard;
use pbcache::time::Monotonic;

/// Links the first node to the second, and the second to the first.
fn join(nodes: &mut [Shard; 2], at: Monotonic) {
    for node in 0..2 {
        let mut outputs = Outputs::default();
        nodes[node].cluster.as_mut().unwrap().links.connect_overlapping(at);
        nodes[node].turn(NOW, at).unwrap().poll_output(&mut outputs);
        while let Some(output) = outputs.next() {
            let Output::Dial(link) = output else { continue };
            nodes[1 - node].turn(NOW, at).unwrap().handle_inbound(&identity(node));
            nodes[node].turn(NOW, at).unwrap().handle_link_up(link, &identity(1 - node));
        }
    }
}

/// Passes what the first node has for the second, and the answers back.
fn pass(nodes: &mut [Shard; 2], requests: &mut Buffer, responses: &mut Buffer, at: Monotonic) {
    let link = LinkId(0);
    for node in 0..2 {
        requests.clear();
        responses.clear();
        nodes[node].turn(NOW, at).unwrap().take_frames(link, requests);
        let me = Some(PeerId(node as u16));
        each(&requests.bytes, |frame| {
            let from = PeerRequest { connection: 0, generation: 0, id: frame.head.id, node: me, deadline: Monotonic::NEVER };
            nodes[1 - node].turn(NOW, at).unwrap().handle_request(from, frame, responses).unwrap();
        });
        each(&responses.bytes, |frame| nodes[node].turn(NOW, at).unwrap().handle_response(link, frame).unwrap());
    }
}

#[test]
fn sending_a_command_on_allocates_nothing() {
    let mut nodes = [0, 1].map(|index| node(index, 2, 1, 16 << 20));
    join(&mut nodes, Monotonic::from_ms(1000));
    let (mut requests, mut responses) = (Buffer::with_capacity(1 << 16), Buffer::with_capacity(1 << 16));
    let mut session = Session::new(ProtocolOptions::default());
    let Step::Command { framing, .. } = session.step(b"get k\r\n") else { unreachable!() };
    let (mut sent, mut outputs) = (0u64, Outputs::default());
    let at = Monotonic::from_ms(1010);
    let mut run = |rounds: u64| {
        for round in 0..rounds {
            // Time stands still but for what keeps the nodes' word to each other.
            nodes.iter_mut().for_each(|node| node.turn(NOW, at).unwrap().tick());
            pass(&mut nodes, &mut requests, &mut responses, at);
            let mut key = *b"key00000000";
            key[3..].copy_from_slice(&(round % 64 * 0x0101_0101).to_be_bytes().map(|byte| b'a' + byte % 26));
            let verb = if round % 3 == 0 { Verb::Store(Store::default()) } else { Verb::Get(Get::default()) };
            let value = if round % 3 == 0 { Value::Bytes(&[7; 200]) } else { Value::EMPTY };
            let command = Command { key: Key::new(&key), verb, value };
            let mut turn = nodes[0].turn(NOW, at).unwrap();
            if turn.place(&command).is_some() {
                continue;
            }
            let ticket = Ticket { connection: 0, generation: 0, slot: 0, descriptor: 7 };
            assert!(turn.submit(Origin::Connection(ticket), &command, framing.head, b""));
            pass(&mut nodes, &mut requests, &mut responses, at);
            nodes[0].turn(NOW, at).unwrap().poll_output(&mut outputs);
            while let Some(output) = outputs.next() {
                sent += u64::from(matches!(output, Output::Answer(..)));
            }
        }
        sent
    };
    run(2000);
    let before = (counting::allocations(), run(0));
    let after = run(2000);
    assert!(after - before.1 > 500, "{} commands were sent on", after - before.1);
    assert_eq!(counting::allocations() - before.0, 0, "for {} commands", after - before.1);
}

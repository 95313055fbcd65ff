//! From connection to core: balance, moving, shard ports.
//!
//! Lives here: where connections go. Not here: the routing arithmetic (unit tests of `routing`).

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::server::{Client, Server};

#[test]
fn connections_are_spread_evenly() {
    for engine in ["pump", "streams"] {
        let server = Server::start(&["--cores", "4", "--io", engine]);
        let mut clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.ask("get a\r\n", "END\r\n"));
        let counts: Vec<u32> =
            (0..4).map(|i| clients[0].stat("shards", &format!("{i}:connections")).parse().unwrap()).collect();
        assert!(counts.iter().all(|&count| (9..=11).contains(&count)), "{engine}: {counts:?}");
    }
}

#[test]
fn a_connection_moves_to_the_core_of_its_keys_and_loses_nothing() {
    let server = Server::start(&["--cores", "4"]);
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        for i in 0..300 {
            client.ask(format!("set {{t{index}}}{i} 0 0 3\r\nabc\r\n"), "STORED\r\n");
            client.ask(format!("get {{t{index}}}{i}\r\n"), format!("VALUE {{t{index}}}{i} 0 3\r\nabc\r\nEND\r\n"));
        }
    }
    let moved: u32 = (0..4).map(|i| clients[0].stat("shards", &format!("{i}:moved")).parse::<u32>().unwrap()).sum();
    assert!(moved > 0);
}

#[test]
fn a_pipeline_that_moves_in_the_middle_keeps_its_order() {
    let server = Server::start(&["--cores", "4"]);
    let mut client = server.connect();
    for round in 0..20 {
        let requests = (0..500).map(|i| format!("set {{r{round}}}{i} 0 0 4\r\n{i:04}\r\nget {{r{round}}}{i}\r\n"));
        let expected = (0..500).map(|i| format!("STORED\r\nVALUE {{r{round}}}{i} 0 4\r\n{i:04}\r\nEND\r\n"));
        client.ask(requests.collect::<String>(), expected.collect::<String>());
    }
}

#[test]
fn shard_ports_reach_their_core_directly() {
    // Below the range from which other tests get their free ports.
    let first = 10_000 + (std::process::id() % 2000) as u16 * 8;
    let base = (0..50)
        .map(|i| first + i * 4)
        .find(|&port| (0..3).all(|i| TcpListener::bind(("127.0.0.1", port + i)).is_ok()))
        .unwrap();
    let server = Server::start(&["--cores", "3", "--shard_ports", &base.to_string()]);
    for core in 0..3u16 {
        let stream = TcpStream::connect(("127.0.0.1", base + core)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut client = Client::new(stream);
        client.ask("get a\r\n", "END\r\n");
        assert_eq!(client.stat("shards", &format!("{core}:port")), (base + core).to_string());
        assert_eq!(client.stat("shards", &format!("{core}:connections")), "1");
    }
    drop(server);
}

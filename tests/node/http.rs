//! HTTP clients that are slow, rude or many: they are answered, they end, and nobody else waits for them.
//!
//! Lives here: what needs sockets and time. Not here: what is answered to whom (`transcripts`), deadlines to the second (`deadlines`).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::server::{Client, Server};

const GET: &str = "GET /k HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// What comes until the end, and whether the end is one: not a reset.
fn read_to_the_end(client: &mut Client) -> (String, bool) {
    let mut bytes = Vec::new();
    let clean = client.stream.read_to_end(&mut bytes).is_ok();
    (String::from_utf8_lossy(&bytes).into_owned(), clean)
}

/// A refused client that goes on sending gets its answer, and then an end.
fn a_refused_client_reads_its_answer(engine: &str) {
    let server = Server::start(&["--cores", "1", "--io", engine]);
    for sent in [0, 1000, 40_000] {
        let mut client = server.connect();
        client.send("PUT /k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n");
        client.send(vec![b'x'; sent]);
        std::thread::sleep(Duration::from_millis(50));
        client.send(vec![b'x'; sent]);
        client.stream.shutdown(Shutdown::Write).unwrap();
        let (answer, clean) = read_to_the_end(&mut client);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{engine} {sent}: {answer}");
        assert!(clean, "{engine} {sent}: reset");
    }
    // Not refused, but answered before all of it was there, in one piece and in two.
    for body in ["xxxxx", ""] {
        let mut client = server.connect();
        client.send(format!("GET /k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\n{body}"));
        std::thread::sleep(Duration::from_millis(50));
        client.send("xxxxxGET /other HTTP/1.1\r\n");
        client.stream.shutdown(Shutdown::Write).unwrap();
        let (answer, clean) = read_to_the_end(&mut client);
        assert!(answer.starts_with("HTTP/1.1 204 ") && clean, "{engine} {body:?}: {answer}, or reset");
    }
    // One that never ends is cut off.
    let mut client = server.connect();
    client.send("PUT /k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n");
    let start = Instant::now();
    while client.stream.write_all(&[b'x'; 4096]).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(20), "{engine}: still read");
    }
    // One that is silent, too.
    let mut client = server.connect();
    client.send("FOO /k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (answer, clean) = read_to_the_end(&mut client);
    assert!(answer.starts_with("HTTP/1.1 501 ") && clean, "{engine}: {answer}");
    let start = Instant::now();
    while client.stream.write_all(b"x").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10), "{engine}: still open");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_refused_client_reads_its_answer_before_the_end() {
    a_refused_client_reads_its_answer("pump");
    a_refused_client_reads_its_answer("streams");
}

/// Slow clients of all kinds at once, beside one that is not.
fn slow_clients_are_told_so(engine: &str) {
    let server = Server::start(&["--cores", "1", "--io", engine]);
    let mut slow: Vec<(Client, &[u8])> = [
        &b"G"[..],
        b"GET /k HTTP/1.1\r\nHost: a\r\nX: ",
        b"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n",
        b"PUT /k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    ]
    .into_iter()
    .map(|beginning| (server.connect(), beginning))
    .collect();
    slow.iter_mut().for_each(|(client, beginning)| client.send(*beginning));
    // Not of HTTP: it may be silent for ever.
    let mut text = server.connect();
    text.send("get k");
    let mut brisk = server.connect();
    let start = Instant::now();
    // A byte a second does not help; another byte of a request is asked for in vain.
    while start.elapsed() < Duration::from_secs(9) {
        // On a machine that stands still meanwhile, some of them are closed already.
        slow.iter_mut().for_each(|(client, _)| drop(client.stream.write_all(b"x")));
        brisk.ask(GET, "HTTP/1.1 204 No Content\r\n");
        brisk.lines_until("");
        std::thread::sleep(Duration::from_secs(1));
    }
    for (client, beginning) in &mut slow {
        let (answer, clean) = read_to_the_end(client);
        let stood_still = start.elapsed() > Duration::from_secs(20);
        let expected = answer.starts_with("HTTP/1.1 408 ") && answer.contains("Connection: close\r\n") && clean;
        assert!(expected || stood_still, "{engine} {:?}: {answer:?}", beginning.escape_ascii().to_string());
    }
    brisk.ask(GET, "HTTP/1.1 204 No Content\r\n");
    text.ask("\r\n", "END\r\n");
}

#[test]
fn slow_clients_are_told_so_and_closed() {
    std::thread::scope(|scope| {
        for engine in ["pump", "streams"] {
            scope.spawn(move || slow_clients_are_told_so(engine));
        }
    });
}

#[test]
fn half_open_requests_by_the_thousand_take_bounded_memory() {
    const COUNT: usize = 8000;
    let server = Server::start(&["--cores", "1", "--memory_size", "64", "--conn_limit", "9000"]);
    let before = server.resident_bytes();
    // Short heads are all waited for; of long ones as many as the core may hold, and the others are told.
    for (head_bytes, refused) in [(300, 0..1), (16_000, 1000..COUNT)] {
        let head = format!("PUT /k HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(head_bytes));
        let mut open: Vec<TcpStream> = (0..COUNT)
            .map(|_| {
                let mut stream = TcpStream::connect(server.address()).unwrap();
                let _ = stream.write_all(head.as_bytes());
                stream
            })
            .collect();
        let mut client = server.connect();
        client.ask(GET, "HTTP/1.1 204 No Content\r\n");
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes for {COUNT} connections with {head_bytes} bytes");
        let is_refused = |stream: &mut TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let mut bytes = [0; 12];
            stream.read_exact(&mut bytes).is_ok() && &bytes == b"HTTP/1.1 503"
        };
        let count = open.iter_mut().filter_map(|stream| is_refused(stream).then_some(())).count();
        assert!(refused.contains(&count), "{count} of {COUNT} with {head_bytes} bytes");
    }
}

/// Chunks do not tell how long a body becomes: what all of them hold is bounded, and who goes on is told.
#[test]
fn bodies_in_chunks_share_a_bound() {
    let server = Server::start(&["--cores", "1", "--memory_size", "256", "--max_item_size", "64m"]);
    let mut refused = 0;
    let mut open = Vec::new();
    for _ in 0..24 {
        let mut client = server.connect();
        client.send("PUT /k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n");
        client.send(vec![b'x'; 1 << 19]);
        open.push(client);
    }
    for client in &mut open {
        client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut bytes = [0; 12];
        refused += usize::from(client.stream.read_exact(&mut bytes).is_ok() && &bytes == b"HTTP/1.1 503");
    }
    assert!((1..24).contains(&refused), "{refused}");
}

#[test]
fn a_connection_moves_to_the_core_of_its_keys_and_speaks_http_there() {
    let server = Server::start(&["--cores", "4"]);
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(format!("PUT /{{t{index}}} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"));
        client.lines_until("");
        for _ in 0..200 {
            client.ask(format!("GET /{{t{index}}} HTTP/1.1\r\nHost: localhost\r\n\r\n"), "HTTP/1.1 200 OK\r\n");
            client.lines_until("");
            client.expect("hello");
        }
        client.ask("FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 501 ");
    }
    let mut asking = server.connect();
    let moved: u32 = (0..4).map(|core| asking.stat("shards", &format!("{core}:moved")).parse::<u32>().unwrap()).sum();
    assert!(moved > 0);
}

/// A request over a connection that stays, and the answer's head and body.
fn answered(client: &mut Client, request: &str) -> String {
    client.stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains("\r\n\r\n") {
        let count = client.stream.read(&mut bytes).unwrap();
        assert!(count > 0, "closed behind {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    text
}

#[test]
fn while_a_node_is_about_to_end_connections_end_behind_their_next_answer() {
    for engine in ["auto", "streams"] {
        let mut server = Server::start(&["--cores", "2", "--drain_delay", "600", "--io", engine]);
        let mut text = server.connect();
        text.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (mut plain, mut other) = (server.connect(), server.connect());
        for client in [&mut plain, &mut other] {
            let answer = answered(client, &get("/k"));
            assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("Connection:"), "{engine}: {answer}");
        }
        assert!(answered(&mut server.connect(), &get("/_/readyz")).starts_with("HTTP/1.1 200"));
        server.signal(libc::SIGTERM);
        let is_told = |server: &Server| answered(&mut server.connect(), &get("/_/readyz")).starts_with("HTTP/1.1 503");
        let end = Instant::now() + Duration::from_secs(20);
        while !is_told(&server) {
            assert!(Instant::now() < end, "{engine}: never not ready");
        }
        let answer = answered(&mut server.connect(), &get("/_/readyz"));
        assert!(answer.contains("the node is about to end") && answer.contains("Connection: close"), "{engine}: {answer}");
        assert!(answered(&mut server.connect(), &get("/_/healthz")).starts_with("HTTP/1.1 200"), "{engine}");
        // By the short way and by the long one; a value that is stored is stored.
        let put = "PUT /n HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\ny";
        for (client, request) in [(&mut plain, get("/k")), (&mut other, put.to_string())] {
            let answer = answered(client, &request);
            assert!(answer.starts_with("HTTP/1.1 20") && answer.contains("Connection: close"), "{engine}: {answer}");
            assert_eq!(client.stream.read(&mut [0; 16]).unwrap(), 0, "{engine}: it is closed");
        }
        text.ask("get n\r\n", "VALUE n 0 1\r\ny\r\nEND\r\n");
        // A second signal ends the delay.
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait(Duration::from_secs(15)), Some(0));
    }
}

//! Clients that misbehave: nothing is lost, nobody else is hurt.
//!
//! Lives here: bad input and load over real sockets. Not here: the same bytes in memory (`transcripts`, fuzz).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::server::{Client, Server, command, free_port};

/// A value of this length whose bytes tell where they belong.
fn value(length: usize) -> Vec<u8> {
    (0..length).map(|i| b'a' + (i % 23) as u8).collect()
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    let mut request = format!("set {key} 7 0 {}\r\n", value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}

fn hit(key: &str, value: &[u8]) -> Vec<u8> {
    let mut reply = format!("VALUE {key} 7 {}\r\n", value.len()).into_bytes();
    reply.extend_from_slice(value);
    reply.extend_from_slice(b"\r\nEND\r\n");
    reply
}

#[test]
fn requests_cut_at_every_byte_are_answered_as_whole_ones() {
    let server = Server::start(&["--cores", "2"]);
    let request = b"set cut 7 0 5\r\nhello\r\nget cut\r\ngets nope other\r\nincr cut 1\r\nmg cut v\r\ndelete cut\r\n";
    let reply = b"STORED\r\nVALUE cut 7 5\r\nhello\r\nEND\r\nEND\r\n\
        CLIENT_ERROR cannot increment or decrement non-numeric value\r\nVA 5\r\nhello\r\nDELETED\r\n";
    for cut in 1..request.len() {
        let mut client = server.connect();
        client.send(&request[..cut]);
        std::thread::sleep(Duration::from_millis(1));
        client.send(&request[cut..]);
        client.expect(reply);
    }
}

/// Symptom: a node whose standard error nobody read stopped answering. Cause: cores wrote log lines themselves. Cure: a thread does, and
/// what it cannot write is lost.
#[test]
fn log_lines_that_nobody_reads_stop_no_core() {
    let port = free_port();
    let list = format!("127.0.0.1:{port}");
    let mut command = command(port, &["--cores", "1", "--ringnode", &list, "--ringnode", "127.0.0.1:1/id=away"]);
    let mut child = command.spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let errors = child.stderr.take().unwrap();
    let mut server = Server { child, port };
    // Each is a line, and more than a pipe takes.
    for _ in 0..1500 {
        let mut stranger = TcpStream::connect(server.address()).unwrap();
        stranger
            .write_all(b"\xb5 is how nodes begin, but they do not go on like this. Anybody can send it, and each is a line")
            .unwrap();
        stranger.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ended = stranger.read_to_end(&mut Vec::new());
        assert!(!ended.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "the core stands still");
    }
    let mut client = server.connect();
    client.send(set("k", b"hello"));
    client.expect("STORED\r\n");
    client.send("version\r\n");
    assert!(client.line().starts_with("VERSION"));
    assert!(server.is_running());
    // Read at last, they are there, and how many are not.
    let lines = thread::spawn(move || BufReader::new(errors).lines().map_while(Result::ok).collect::<Vec<String>>());
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
    let lines = lines.join().unwrap();
    assert!(lines.iter().filter(|line| line.contains("a node was refused")).count() > 200, "{} lines", lines.len());
}

#[test]
fn one_byte_at_a_time_is_a_request_all_the_same() {
    let server = Server::start(&["--cores", "1"]);
    let mut client = server.connect();
    for byte in set("slow", b"hello") {
        client.send([byte]);
    }
    client.expect("STORED\r\n");
}

#[test]
fn a_line_without_end_is_refused_and_closed() {
    let mut server = Server::start(&["--cores", "1"]);
    let mut client = server.connect();
    let line = vec![b'x'; 1 << 20];
    // The node may close before it has taken everything.
    let _ = client.stream.write_all(&line);
    let reply = client.read_to_end();
    assert!(reply.len() < 200, "{} bytes", reply.len());
    assert!(server.is_running());
    server.connect().ask("version\r\n", "VERSION ");
}

#[test]
fn an_endless_multi_get_is_refused_and_closed() {
    let mut server = Server::start(&["--cores", "1"]);
    let before = server.resident_bytes();
    let mut client = server.connect();
    let line = b"get ".iter().copied().chain(b"key ".iter().copied().cycle().take(64 << 20)).collect::<Vec<_>>();
    let _ = client.stream.write_all(&line);
    drop(client.read_to_end());
    assert!(server.resident_bytes() < before + (8 << 20));
    assert!(server.is_running());
}

#[test]
fn many_long_lines_at_once_are_refused_before_they_fill_the_memory() {
    let server = Server::start(&["--cores", "1", "--memory_size", "64"]);
    let before = server.resident_bytes();
    let line = format!("get {}", "key ".repeat(200_000));
    let mut clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for client in &mut clients {
        // A connection that is refused may be closed before it has taken everything.
        let _ = client.stream.write_all(line.as_bytes());
    }
    // What those that are not refused have sent may be held; the others hear of it, at the latest when no more can come.
    let refusal = b"SERVER_ERROR out of memory reading request\r\n";
    let (mut refused, start) = (0, Instant::now());
    while refused <= 20 {
        assert!(start.elapsed() < Duration::from_secs(20), "{refused} are refused");
        clients.retain_mut(|client| {
            client.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            let hears = client.read_to_end().starts_with(refusal);
            refused += usize::from(hears);
            !hears
        });
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 20 << 20, "grew by {grown} bytes");
    }
    server.connect().ask("version\r\n", "VERSION ");
}

#[test]
fn values_over_the_limit_are_swallowed_and_the_connection_goes_on() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.connect();
    client.ask(set("big", b"old"), "STORED\r\n");
    client.ask(set("big", &value((1 << 20) + 1)), "SERVER_ERROR object too large for cache\r\n");
    client.ask("get big\r\n", "END\r\n");
    client.ask(set("big", b"new"), "STORED\r\n");
    client.ask("get big\r\n", hit("big", b"new"));
}

#[test]
fn large_values_travel_whole_in_both_directions() {
    let server = Server::start(&["--cores", "2", "--memory_size", "256", "--max_item_size", "32m"]);
    let mut client = server.connect();
    for length in [1, 16_383, 16_384, 16_385, 65_536, 100_000, 1 << 20, 20 << 20] {
        for key in ["one", "two", "three", "four"] {
            client.ask(set(key, &value(length)), "STORED\r\n");
            client.ask(format!("get {key}\r\n"), hit(key, &value(length)));
        }
    }
    // Several large ones in one pipeline, in order.
    client.send("get one two\r\nget three\r\nversion\r\n");
    let large = value(20 << 20);
    for (key, end) in [("one", false), ("two", true), ("three", true)] {
        let mut expected = hit(key, &large);
        if !end {
            expected.truncate(expected.len() - 5);
        }
        client.expect(expected);
    }
    client.expect("VERSION ");
}

#[test]
fn a_reader_that_never_reads_costs_bounded_memory_and_hurts_nobody() {
    // Streams keep 16 KiB to read into and their output for every connection.
    for (engine, allowance) in [("pump", 16 << 20), ("streams", 24 << 20)] {
        let server = Server::start(&["--cores", "2", "--memory_size", "64", "--io", engine]);
        let mut client = server.connect();
        client.ask(set("k", &value(10_000)), "STORED\r\n");
        client.ask(set("large", &value(500_000)), "STORED\r\n");
        let before = server.resident_bytes();
        let mut greedy: Vec<_> = (0..20).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
        for (index, stream) in greedy.iter_mut().enumerate() {
            stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let request = if index % 2 == 0 { "get k\r\n" } else { "get large\r\n" };
            let requests = request.repeat(1000);
            for _ in 0..20 {
                if stream.write_all(requests.as_bytes()).is_err() {
                    break;
                }
            }
        }
        for _ in 0..100 {
            client.ask("get k\r\n", hit("k", &value(10_000)));
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < allowance, "{engine}: grew by {grown} bytes");
        // A slow reader that wakes up gets everything, unharmed.
        let mut late = Client::new(greedy.swap_remove(0));
        (0..200).for_each(|_| late.expect(hit("k", &value(10_000))));
        let mut late = Client::new(greedy.swap_remove(2));
        (0..20).for_each(|_| late.expect(hit("k", &value(10_000))));
    }
}

#[test]
fn half_closed_sockets_get_their_answers() {
    for engine in ["pump", "streams"] {
        let server = Server::start(&["--cores", "2", "--io", engine]);
        let mut client = server.connect();
        let requests = (0..100).map(|i| format!("get key{i}\r\n")).collect::<String>();
        client.send(set("key7", b"seven"));
        client.send(requests);
        client.stream.shutdown(Shutdown::Write).unwrap();
        let reply = client.read_to_end();
        let text = String::from_utf8(reply).unwrap();
        assert_eq!(text.matches("END\r\n").count(), 100, "{engine}");
        assert!(text.contains("VALUE key7 7 5\r\nseven\r\n"), "{engine}");
    }
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_set_leaves_the_old_value() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.connect();
    for length in [100, 500_000] {
        client.ask(set("torn", b"old"), "STORED\r\n");
        let request = set("torn", &value(length));
        let mut victim = server.connect();
        victim.send(&request[..request.len() / 2]);
        drop(victim);
        client.await_stat("curr_connections", "1");
        client.ask("get torn\r\n", hit("torn", b"old"));
    }
}

#[test]
fn binary_garbage_behind_valid_requests_ends_in_an_error_not_in_the_process() {
    let mut server = Server::start(&["--cores", "2"]);
    let mut random = Random(0x1234_5678_9abc_def0);
    for round in 0..200 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut bytes = match round % 3 {
            0 => b"\x80\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
            1 => b"version\r\n".to_vec(),
            _ => b"mn\r\n".to_vec(),
        };
        bytes.extend((0..200).map(|_| random.next() as u8));
        let _ = stream.write_all(&bytes);
        let mut reply = [0; 4096];
        let _ = stream.read(&mut reply);
    }
    assert!(server.is_running());
    server.connect().ask("version\r\n", "VERSION ");
}

#[test]
fn connections_past_the_limit_are_told_so_and_counted() {
    let server = Server::start(&["--cores", "2", "--conn_limit", "10"]);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.ask("version\r\n", "VERSION "));
    for _ in 0..5 {
        let reply = server.connect().read_to_end();
        assert_eq!(String::from_utf8_lossy(&reply), "ERROR Too many open connections\r\n");
    }
    let mut first = clients.remove(0);
    first.lines_until_version();
    assert_eq!(first.stat("", "rejected_connections"), "5");
    drop(clients);
    first.await_stat("curr_connections", "1");
    server.connect().ask("version\r\n", "VERSION ");
}

impl Client<TcpStream> {
    /// Waits until a statistic has this value.
    fn await_stat(&mut self, name: &str, value: &str) {
        let start = Instant::now();
        while self.stat("", name) != value {
            assert!(start.elapsed() < Duration::from_secs(20), "{name} is {}, not {value}", self.stat("", name));
            std::thread::yield_now();
        }
    }

    /// Reads the rest of a version line.
    fn lines_until_version(&mut self) {
        let mut byte = [0];
        while self.stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {}
    }
}

#[test]
fn ten_thousand_connections_are_served() {
    let server = Server::start(&["--cores", "2", "--conn_limit", "11000"]);
    let mut clients = Vec::new();
    for index in 0..10_000 {
        match TcpStream::connect(server.address()) {
            Ok(stream) => clients.push(Client::new(stream)),
            Err(error) => {
                assert!(index > 5000, "{error} after {index} connections");
                eprintln!("this machine allows {index} connections: {error}");
                break;
            }
        }
    }
    for (index, client) in clients.iter_mut().enumerate() {
        client.ask(set(&format!("key{index}"), b"value"), "STORED\r\n");
    }
    for (index, client) in clients.iter_mut().enumerate() {
        client.ask(format!("get key{index}\r\n"), hit(&format!("key{index}"), b"value"));
    }
}

#[test]
fn strangers_are_closed_before_a_byte_is_read() {
    let server = Server::start(&["--cores", "1", "--incoming_ip", "10.0.0.0/8"]);
    let mut client = server.connect();
    let _ = client.stream.write_all(b"version\r\n");
    assert_eq!(client.read_to_end(), b"");
}

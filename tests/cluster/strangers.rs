//! Who does not belong to a ring, and what comes of bytes that are no frames. Nobody else is hurt.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pbcache::peer::handshake::{Connecting, Identity, Local, MAGIC, NONCE_BYTES, Progress};
use socket2::{Domain, Socket, Type};

use super::random::Random;
use super::ring::{self, Client, PORT, Ring, value_of};

/// Two nodes with options of their own; what the first says of the second after it needed it.
fn trouble(first: &[&str], second: &[&str]) -> String {
    let addresses = ring::addresses(2);
    let options = |own: &[&str]| -> Vec<String> {
        let mut all: Vec<String> = own.iter().map(|word| word.to_string()).collect();
        addresses.iter().for_each(|address| all.extend(["--ringnode".into(), format!("{address}:{PORT}")]));
        all
    };
    let mut children =
        [ring::start(&addresses[0], &options(first)).unwrap(), ring::start(&addresses[1], &options(second)).unwrap()];
    let mut client = Client::new(TcpStream::connect(format!("{}:{PORT}", addresses[0])).unwrap());
    // Whoever owns it: this node must ask the other one, and goes on alone.
    let answer = client.set("key");
    let index = client.stats("peers").iter().find(|(name, _)| name.ends_with(":trouble")).map(|(_, value)| value.clone());
    let read = client.get("key");
    children.iter_mut().for_each(|child| {
        let _ = child.kill();
        let _ = child.wait();
    });
    assert_eq!((answer.as_str(), read), ("STORED", Some(value_of("key"))), "a node alone still serves");
    index.unwrap()
}

#[test]
fn nodes_that_differ_refuse_each_other_and_name_it() {
    let cases: [(&[&str], &[&str], &str); 6] = [
        (&["--buckets", "100"], &["--buckets", "200"], "--buckets"),
        (&["--redundancy", "2"], &["--redundancy", "1"], "--redundancy"),
        (&["--cluster_name", "one"], &["--cluster_name", "two"], "belongs to the cluster"),
        (&["--node_id", "same"], &["--node_id", "same"], "two nodes have the id same"),
        (&[], &["--node_id", "other"], "answers as other"),
        (&[], &[], "none"),
    ];
    for (first, second, part) in cases {
        let said = trouble(first, second);
        assert!(said.contains(part), "{first:?} {second:?}: {said}");
    }
}

#[test]
fn a_wrong_secret_is_refused_and_the_right_one_is_not() {
    let folder = std::env::temp_dir().join(format!("pbcache-secret-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, secret: &str| {
        let path = folder.join(name);
        std::fs::write(&path, secret).unwrap();
        path.display().to_string()
    };
    let (right, wrong) =
        (file("right", "swordfish under the bridge of sighs\n"), file("wrong", "shark in the harbour of marseille at noon\n"));
    let option = "--cluster_secret_file";
    assert!(trouble(&[option, &right], &[option, &wrong]).contains("secret"));
    assert!(trouble(&[option, &right], &[]).contains("secret"));
    assert_eq!(trouble(&[option, &right], &[option, &right]), "none");
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_name_that_does_not_resolve_is_told_and_tried_again() {
    let address = ring::addresses(1).remove(0);
    let options = ["--ringnode", "no-such-node.invalid", "--ringnode", &format!("{address}:{PORT}")].map(String::from);
    let mut child = ring::start(&address, &options).unwrap();
    let mut client = Client::new(TcpStream::connect(format!("{address}:{PORT}")).unwrap());
    for number in 0..50 {
        assert_eq!(client.set(&format!("k{number}")), "STORED");
    }
    assert!(client.stats("peers").iter().any(|(_, value)| value.contains("does not resolve")));
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn it_must_be_clear_which_node_this_is() {
    let options = ["--port", "21499", "--ringnode", "192.0.2.1", "--ringnode", "192.0.2.2"].map(String::from);
    let said = ring::start("0.0.0.0", &options).map(|mut child| child.kill()).unwrap_err();
    assert!(said.contains("--advertise HOST:PORT"), "{said}");
}

#[test]
fn garbage_on_a_peer_link_hurts_nobody() {
    let ring = Ring::start(3, &["--cores", "2"]);
    let mut good = ring.connect(0);
    assert_eq!(good.set("before"), "STORED");
    let magic = [0xb5, b'p', b'b', b'c', b'a', b'c', b'h', b'e'];
    let mut random = Random(7);
    let mut noise = |length: usize| -> Vec<u8> { (0..length).map(|_| random.next() as u8).collect() };
    for round in 0..40 {
        let stream = TcpStream::connect(ring.id(round % 3)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = match round % 4 {
            0 => vec![0xb5],
            1 => magic.to_vec(),
            2 => [&magic[..], &u32::MAX.to_le_bytes()].concat(),
            _ => [&magic[..], &60u32.to_le_bytes(), &[1]].concat(),
        };
        bytes.extend(noise(round * 37));
        let mut client = Client::new(stream);
        client.send(&bytes);
        if round % 4 == 2 {
            let answer = String::from_utf8_lossy(&client.read_to_end()).into_owned();
            assert!(answer.contains("no handshake"), "{answer}");
        }
    }
    // One that stalls in the middle of a message hurts nobody either.
    let mut stalled = Client::new(TcpStream::connect(ring.id(0)).unwrap());
    stalled.send(&magic[..5]);
    let start = Instant::now();
    for number in 0..200 {
        assert_eq!(good.set(&format!("after{number}")), "STORED");
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    is_shown_out(stalled, &mut good);
    assert_eq!(ring.connect(2).get("before"), Some(value_of("before")));
}

/// Waits until a node closes the connection of a peer that says nothing more, while a client of its keeps all cores awake: an idle one
/// may sleep on.
fn is_shown_out(mut stalled: Client, good: &mut Client) {
    let start = Instant::now();
    let ended = std::thread::spawn(move || stalled.read_to_end());
    while !ended.is_finished() {
        assert!(start.elapsed() < Duration::from_secs(20), "a peer that stalls keeps its connection for ever");
        (0..20).for_each(|number| assert_eq!(good.set(&format!("meanwhile{number}")), "STORED"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn strangers_by_address_are_not_even_heard() {
    let addresses = ring::addresses(2);
    let node = |index: usize, incoming: &str| {
        let mut options = vec!["--incoming_ip".to_string(), incoming.into()];
        addresses.iter().for_each(|address| options.extend(["--ringnode".into(), format!("{address}:{PORT}")]));
        ring::start(&addresses[index], &options).unwrap()
    };
    // The second admits only what nobody here has as source address; clients of the first are served all the same.
    let mut children = [node(0, "127.0.0.0/8"), node(1, "10.1.2.3")];
    let mut client = Client::new(TcpStream::connect(format!("{}:{PORT}", addresses[0])).unwrap());
    for number in 0..20 {
        assert_eq!(client.set(&format!("k{number}")), "STORED");
    }
    // Whoever calls the second, as a client or as a node, is shown out without a word; the first answers both.
    let answer = |node: usize, bytes: &[u8]| {
        let mut caller = Client::new(TcpStream::connect(format!("{}:{PORT}", addresses[node])).unwrap());
        caller.send(bytes);
        caller.read_to_end()
    };
    for bytes in [&b"version\r\nquit\r\n"[..], &[&MAGIC[..], &u32::MAX.to_le_bytes()].concat()] {
        assert!(!answer(0, bytes).is_empty());
        assert_eq!(answer(1, bytes), b"");
    }
    // So the first has never shaken hands with it.
    let known: Vec<_> = client.stats("peers").into_iter().filter(|(name, _)| name.ends_with(":cores")).collect();
    assert!(known.len() == 1 && known[0].1 == "unknown", "{known:?}");
    children.iter_mut().for_each(|child| {
        let _ = child.kill();
        let _ = child.wait();
    });
}

/// Shakes hands with a node as another node would: from an address of the ring.
fn call(address: &str, change: impl FnOnce(&mut Identity)) -> Result<TcpStream, String> {
    let target: SocketAddr = address.parse().unwrap();
    call_from(target.ip(), target, change)
}

fn call_from(source: IpAddr, target: SocketAddr, change: impl FnOnce(&mut Identity)) -> Result<TcpStream, String> {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut identity = Identity {
        cluster: "pbcache".into(),
        id: "stranger".into(),
        incarnation: 7,
        view: 1,
        buckets: 10_000_000,
        redundancy: 1,
        cores: 1,
        unix_ms,
        target_core: 0,
    };
    change(&mut identity);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&target.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let local = Local { identity, key: None, nonce: [3; NONCE_BYTES], is_known: true };
    let mut connecting = Connecting::new(local, &mut output);
    loop {
        stream.write_all(&output).unwrap();
        output.clear();
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "closed without a word");
        input.extend_from_slice(&bytes[..count]);
        if let Progress::Done(_) = connecting.feed(&mut input, &mut output)? {
            return Ok(stream);
        }
    }
}

/// Symptom: without a secret any host that could connect was heard as a peer, and could put everything that a node stores out of the others'
/// sight. Cause: a handshake names any id. Cure: without a secret only addresses of the table are believed.
#[test]
fn without_a_secret_only_addresses_of_the_table_are_heard() {
    let ring = Ring::start(2, &["--cores", "1"]);
    let target: SocketAddr = ring.id(0).parse().unwrap();
    assert!(call_from(target.ip(), target, |_| {}).is_ok());
    let why = call_from([127, 0, 0, 1].into(), target, |_| {}).unwrap_err();
    assert!(why.contains("--cluster_secret_file"), "{why}");
}

#[test]
fn clocks_that_are_far_apart_are_refused_and_named() {
    let ring = Ring::start(2, &["--cores", "1"]);
    assert!(call(&ring.id(0), |identity| identity.unix_ms += 50_000).is_ok());
    let why = call(&ring.id(0), |identity| identity.unix_ms += 65_000).unwrap_err();
    assert!(why.contains("the clocks of") && why.contains("differ by 6"), "{why}");
    let why = call(&ring.id(0), |identity| identity.id = ring.id(0)).unwrap_err();
    assert!(why.contains("two nodes have the id"), "{why}");
}

#[test]
fn a_peer_that_sends_garbage_frames_or_half_a_frame_hurts_nobody() {
    let ring = Ring::start(2, &["--cores", "2"]);
    let mut good = ring.connect(0);
    let mut half = call(&ring.id(0), |_| {}).unwrap();
    half.write_all(&[0; 20]).unwrap();
    for round in 0..60u8 {
        let mut stream =
            call(&ring.id(usize::from(round % 2)), |identity| identity.target_core = u16::from(round % 3)).unwrap();
        // Heads of all kinds with lengths that lie, and metas that are none.
        let mut frame = vec![0u8; 36 + usize::from(round)];
        frame[0] = round;
        frame[4] = if round % 4 == 0 { 255 } else { 0 };
        frame[7] = if round % 5 == 0 { 127 } else { 0 };
        frame[8] = round % 11;
        frame[36..].iter_mut().for_each(|byte| *byte = round.wrapping_mul(37));
        stream.write_all(&frame).unwrap();
        if round % 3 == 0 {
            drop(stream);
        }
        assert_eq!(good.set(&format!("k{round}")), "STORED");
    }
    for round in 0..60 {
        let key = format!("k{round}");
        assert_eq!(ring.connect(1).get(&key), Some(value_of(&key)));
    }
    // A version from the far future would put every later write in the past: the link ends instead.
    let mut liar = call(&ring.id(0), |_| {}).unwrap();
    let mut frame = [0u8; 36];
    frame[8] = 5;
    frame[20..28].copy_from_slice(&(u64::MAX >> 1).to_le_bytes());
    liar.write_all(&frame).unwrap();
    assert_eq!(liar.read(&mut [0; 10]).unwrap_or(0), 0, "closed");
    assert_eq!(good.set("last"), "STORED");
    is_shown_out(Client::new(half), &mut good);
}

/// A process that ends with the test, whatever its outcome.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a stream, each of them awaited for a bounded time.
fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(stream).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok());
    });
    lines
}

const LINE_WAIT: Duration = Duration::from_secs(20);

#[test]
fn a_node_that_is_away_and_one_that_is_back_are_logged() {
    let addresses = ring::addresses(2);
    let options: Vec<String> =
        addresses.iter().flat_map(|address| ["--ringnode".into(), format!("{address}:{PORT}")]).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pbcache"));
    command
        .args([
            "--ip",
            &addresses[0],
            "--port",
            &PORT.to_string(),
            "--cores",
            "1",
            "--disable_tuning_hint",
            "--admin_port",
            "0",
        ])
        .args(&options);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut node = Process(child);
    let (said, log) = (lines_of(node.0.stdout.take().unwrap()), lines_of(node.0.stderr.take().unwrap()));
    assert!(said.recv_timeout(LINE_WAIT).unwrap().contains("listens"));
    let mut client = Client::new(TcpStream::connect(format!("{}:{PORT}", addresses[0])).unwrap());
    // Some of the keys are the other node's: it is needed, and is not there.
    (0..8).for_each(|number| _ = client.set(&format!("key{number}")));
    let line = log.recv_timeout(LINE_WAIT).unwrap();
    assert!(line.contains("--cluster_secret_file keeps"), "{line}");
    let line = log.recv_timeout(LINE_WAIT).unwrap();
    assert!(line.contains(&format!("no link to {}:{PORT}: ", addresses[1])), "{line}");

    let _other = Process(ring::start(&addresses[1], &options).unwrap());
    let start = Instant::now();
    let line = loop {
        (0..8).for_each(|number| _ = client.set(&format!("key{number}")));
        match log.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => break line,
            Err(_) => assert!(start.elapsed() < LINE_WAIT, "nothing is logged of a node that is back"),
        }
    };
    assert!(line.ends_with(&format!("the link to {}:{PORT} is there", addresses[1])), "{line}");
    assert_eq!(log.try_recv().ok(), None, "once");
}

#[test]
fn a_ring_on_this_machine_says_which_node_speaks() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/local-ring.sh");
    let port = 10_000 + std::process::id() % 20_000;
    let mut command = Command::new("bash");
    command.args([script, "2", "--redundancy", "2"]).env("PBCACHE", env!("CARGO_BIN_EXE_pbcache"));
    command.env("RING_PORT", port.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    // Its end is the end of the ring, also where this test fails.
    let input = child.stdin.take();
    let mut said = Vec::new();
    for node in 1..=2 {
        let listens = format!("node {node}: pbcache listens on 127.0.0.{node}:{port} with 1 core and 64 MB");
        while !said.contains(&listens) {
            said.push(lines.recv_timeout(LINE_WAIT).unwrap_or_else(|_| panic!("no '{listens}' in {said:?}")));
        }
    }
    drop(input);
    said.extend(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let nameless: Vec<_> = said.iter().filter(|line| !line.starts_with("node ") && !line.starts_with("Ctrl-C ends")).collect();
    assert!(nameless.is_empty(), "{nameless:?}");
}

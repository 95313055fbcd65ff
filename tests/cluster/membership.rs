//! Who is in the ring, with real nodes: gone for good and removed, front nodes, lists that begin a ring, seeds that are none, a stop that is no
//! leave, and when a node calls itself ready.
//!
//! Lives here: stories of membership. Not here: joins and leaves under load (`changing`), gossip by the thousand (`tests/gossip`).

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use super::ring::{PORT, Ring, addresses, start, value_of};

/// Long enough for what is awaited here on a loaded machine.
const WAIT: Duration = Duration::from_secs(60);

fn words(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| option.to_string()).collect()
}

/// The line of a node in the status that another one tells.
fn line(ring: &Ring, asked: usize, node: usize) -> String {
    let (text, _) = ring.operate(asked, &["status"]);
    let start = format!("node {} ", ring.id(node));
    text.lines().find(|line| line.starts_with(&start)).unwrap_or_default().to_string()
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < WAIT, "it takes too long: {what}");
        sleep(Duration::from_millis(50));
    }
    begun.elapsed()
}

#[track_caller]
fn settled(ring: &Ring, nodes: &[usize]) {
    for &node in nodes {
        let (text, code) = ring.operate(node, &["wait", "settled", "60"]);
        assert_eq!(code, 0, "node {node}: {text}");
    }
}

/// One founds, the others join.
fn ring_of(nodes: usize, options: &[&str]) -> Ring {
    let mut ring = Ring::found(options);
    for node in 1..nodes {
        ring.join(0, &[]);
        settled(&ring, &[0, node]);
    }
    ring
}

/// A node that is gone for good is removed by the others, its share has two copies again, and it comes back empty, as a new one.
#[test]
fn who_is_gone_for_good_is_removed_and_joins_anew() {
    let options = ["--cores", "1", "--redundancy", "2", "--removal_after", "4"];
    let mut ring = ring_of(4, &options);
    let mut client = ring.connect(0);
    let keys: Vec<String> = (0..1000).map(|number| format!("key{number}")).collect();
    keys.iter().for_each(|key| assert_eq!(client.set(key), "STORED"));
    ring.kill(3);
    let down = until("down by gossip", || ["down", "away"].iter().any(|reach| line(&ring, 1, 3).contains(reach)));
    let removed = until("removed", || (0..3).all(|node| line(&ring, node, 3).contains(" removed ")));
    println!("removed {removed:?} after it was down for the first one that was asked, which took {down:?}");
    settled(&ring, &[0, 1, 2]);
    // Two copies of everything, without it: the next one may go.
    ring.expect_all(&[0, 1, 2], &keys);
    let items: usize = (0..3).map(|node| ring.connect(node).stat("", "curr_items").parse::<usize>().unwrap()).sum();
    assert!(items >= 2 * keys.len(), "{items} copies of {} items", keys.len());
    ring.options_of_all(&[&options[..], &["--join", &ring.id(1)]].concat());
    ring.restart(3);
    settled(&ring, &[0, 1, 2, 3]);
    assert!((0..4).all(|node| line(&ring, node, 3).contains(" normal ")), "{}", line(&ring, 0, 3));
    ring.expect_all(&[0, 1, 2, 3], &keys);
    let (log, _) = ring.operate(0, &["log"]);
    let of_it: Vec<&str> = log.lines().filter(|line| line.starts_with(&ring.id(3))).collect();
    let steps = ["unknown -> joining", "normal -> removed", "removed -> joining", "syncing -> normal"];
    assert!(steps.iter().all(|step| of_it.iter().any(|line| line.contains(step))), "{log}");
}

/// Two of four that were cut off, or died, are not removed: it may be the others that are cut off.
#[test]
fn half_of_a_ring_removes_nobody() {
    let ring = ring_of(4, &["--cores", "1", "--redundancy", "2", "--removal_after", "3"]);
    ring.signal(2, libc::SIGSTOP);
    ring.signal(3, libc::SIGSTOP);
    until("down", || [2, 3].iter().all(|&node| ["down", "away"].iter().any(|reach| line(&ring, 1, node).contains(reach))));
    sleep(Duration::from_secs(16));
    assert!([2, 3].iter().all(|&node| line(&ring, 0, node).contains(" normal ")), "{}", ring.operate(0, &["status"]).0);
    ring.signal(2, libc::SIGCONT);
    ring.signal(3, libc::SIGCONT);
    settled(&ring, &[0, 1, 2, 3]);
    assert!((0..4).all(|node| line(&ring, 0, node).contains(" normal ")));
}

/// A front node has no items and no share, answers for every key, and comes and goes without anybody's view changing.
#[test]
fn a_front_node_answers_for_every_key_and_owns_nothing() {
    let mut ring = ring_of(2, &["--cores", "2", "--redundancy", "2"]);
    let view = |node: usize, ring: &Ring| ring.connect(node).stat("ring", "view");
    let before = view(0, &ring);
    let front = ring.join(0, &["--front"]);
    until("front", || line(&ring, 0, front).contains(" front "));
    let mut client = ring.connect(front);
    let keys: Vec<String> = (0..500).map(|number| format!("key{number}")).collect();
    keys.iter().for_each(|key| assert_eq!(client.set(key), "STORED"));
    assert_eq!(client.line("set count 0 0 1\r\n0\r\n"), "STORED");
    for number in 1..50 {
        assert_eq!(client.line("incr count 1\r\n"), number.to_string());
    }
    ring.expect_all(&[0, 1, front], &keys);
    assert_eq!(client.line("delete key7\r\n"), "DELETED");
    assert!(ring.connect(1).get("key7").is_none() && client.get("key7").is_none());
    assert_eq!(client.stat("", "curr_items"), "0");
    assert_eq!((view(0, &ring), view(1, &ring)), (before.clone(), before.clone()));
    // With one owner away, the other one answers it; no hint is kept by it.
    ring.signal(1, libc::SIGSTOP);
    let answered = until("an answer", || client_at(&ring, front).set("late") == "STORED");
    assert!(answered < Duration::from_secs(10), "{answered:?}");
    assert_eq!(client_at(&ring, front).get("late"), Some(value_of("late")));
    assert_eq!(ring.connect(front).stat("handoff", "hint_bytes"), "0");
    ring.signal(1, libc::SIGCONT);
    settled(&ring, &[0, 1]);
    ring.kill(front);
    keys[10..20].iter().for_each(|key| assert_eq!(ring.connect(0).set(key), "STORED"));
    assert_eq!((view(0, &ring), view(1, &ring)), (before.clone(), before));
    ring.options_of_all(&["--cores", "2", "--front", "--join", &ring.id(1)]);
    ring.restart(front);
    ring.expect_all(&[front], &keys[10..20]);
}

fn client_at(ring: &Ring, node: usize) -> super::ring::Client {
    ring.connect(node)
}

/// Nodes that are all given one list and each other as seeds are one ring from the start, whoever comes first; and others may join it.
#[test]
fn a_list_with_seeds_begins_a_ring_that_others_join() {
    let places = addresses(3);
    let id = |place: &String| format!("{place}:{PORT}");
    let mut options = words(&["--cores", "1", "--redundancy", "2"]);
    for place in &places {
        options.extend([words(&["--ringnode", &id(place)]), words(&["--join", &id(place)])].concat());
    }
    let mut children: Vec<_> = places.iter().map(|place| start(place, &options).unwrap()).collect();
    let operate = |place: &String, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pbcache"));
        let output = command.arg("ring").args(words).args(["--node", &id(place)]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    for place in &places {
        let (text, code) = operate(place, &["wait", "settled", "60"]);
        assert_eq!(code, 0, "{text}");
        let (status, _) = operate(place, &["status"]);
        assert_eq!(status.matches(" normal ").count(), 3, "{status}");
    }
    let ring_line = |place: &String| operate(place, &["status"]).0.lines().next().unwrap_or_default().to_string();
    assert!(places.iter().all(|place| ring_line(place) == ring_line(&places[0])));
    let more = addresses(1);
    children.push(start(&more[0], &words(&["--cores", "1", "--join", &id(&places[1])])).unwrap());
    let (text, code) = operate(&more[0], &["wait", "settled", "60"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(operate(&places[0], &["status"]).0.matches(" normal ").count(), 4);
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// What strangers send to the port of gossip changes nothing: garbage, seals of others, from inside and outside of `--incoming_ip`.
#[test]
fn strangers_that_gossip_are_not_heard() {
    let ring = ring_of(2, &["--cores", "1", "--redundancy", "2"]);
    until("up", || line(&ring, 0, 1).contains(" up "));
    let status = ring.operate(0, &["status"]).0;
    let mut random = super::random::Random(5);
    for source in ["127.0.0.1:0", "127.200.9.9:0"] {
        let socket = std::net::UdpSocket::bind(source).unwrap();
        for round in 0..3000 {
            let mut bytes: Vec<u8> = (0..random.below(1500)).map(|_| random.next() as u8).collect();
            if let Some(first) = bytes.first_mut().filter(|_| round % 2 == 0) {
                *first = 1;
            }
            let _ = socket.send_to(&bytes, ring.id(round % 2));
        }
    }
    let other = pbcache::membership::seal::Seal::new(Some([9; 32]), "pbcache", 1);
    let packet = other.close(pbcache::membership::seal::Kind::Digest, &[0; 16], 1);
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&packet, ring.id(0)).unwrap();
    sleep(Duration::from_millis(500));
    assert_eq!(ring.operate(0, &["status"]).0, status);
    assert_eq!(ring.connect(0).set("k"), "STORED");
    assert_eq!(ring.connect(1).get("k"), Some(value_of("k")));
}

/// What a refused start says: one sentence, the last line.
fn refused(address: &str, options: &[&str]) -> String {
    let said = start(address, &words(options)).expect_err("it starts");
    let last = said.trim_end().lines().last().unwrap().to_string();
    assert!(last.starts_with("pbcache: ") && last.ends_with('.'), "{said}");
    last
}

#[test]
fn a_seed_that_is_no_node_is_named_and_not_waited_for() {
    type Serve = fn(std::net::TcpStream);
    let cases: [(&str, Serve); 3] = [
        ("it closes", drop),
        ("it greets", |mut stream| {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n");
            let _ = stream.read(&mut [0; 512]);
        }),
        // As memcached: silent until there is a line, and then a short word.
        ("it waits for a line", |mut stream| {
            let mut bytes = [0; 512];
            let mut all = Vec::new();
            while !all.ends_with(b"\r\n") {
                match stream.read(&mut bytes) {
                    Ok(count) if count > 0 => all.extend_from_slice(&bytes[..count]),
                    _ => return,
                }
            }
            let _ = stream.write_all(b"ERROR\r\n");
            let _ = stream.read(&mut bytes);
        }),
    ];
    for (what, serve) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        spawn(move || listener.incoming().flatten().for_each(|stream| _ = spawn(move || serve(stream))));
        let begun = Instant::now();
        let said = refused(&addresses(1)[0], &["--cores", "1", "--join", &place]);
        assert!(said.contains("pbcache"), "{what}: {said}");
        println!("{what}, after {:?}: {said}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn folders_that_are_not_this_nodes_are_named() {
    let folder = std::env::temp_dir().join(format!("pbcache-folders-{}", std::process::id()));
    let of = |name: &str| folder.join(name).display().to_string();
    let places = addresses(2);
    let mut child = start(&places[0], &words(&["--cores", "1", "--data_dir", &of("a")])).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let said = refused(&places[0], &["--cores", "1", "--data_dir", &of("a"), "--cluster_name", "other"]);
    assert!(said.contains("is of the cluster pbcache"), "{said}");
    let said = refused(&places[1], &["--cores", "1", "--data_dir", &of("a")]);
    assert!(said.contains("is that of the node"), "{said}");
    let said = refused(&places[0], &["--cores", "1", "--data_dir", &of("a"), "--buckets", "77"]);
    assert!(said.contains("--buckets"), "{said}");
    let bytes = std::fs::read(folder.join("a/members")).unwrap();
    for (name, bytes) in [("empty", &[][..]), ("short", &bytes[..bytes.len() - 1]), ("other", b"not a table at all")] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("members"), bytes).unwrap();
        let said = refused(&places[0], &["--cores", "1", "--data_dir", &of(name)]);
        assert!(said.contains("is no member table"), "{name}: {said}");
    }
    // Below a file there is no folder, not even for root.
    let said = refused(&places[0], &["--cores", "1", "--data_dir", &of("a/members/below")]);
    assert!(said.contains("cannot be made"), "{said}");
    std::fs::create_dir_all(folder.join("b/members.new")).unwrap();
    let said = refused(&places[0], &["--cores", "1", "--data_dir", &of("b")]);
    assert!(said.contains("cannot be written to"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Two rings that have members each do not become one; a ring of one does not lose its items by being asked.
#[test]
fn two_rings_that_meet_refuse_each_other() {
    let folder = std::env::temp_dir().join(format!("pbcache-meet-{}", std::process::id()));
    let data = folder.display().to_string();
    let first = ring_of(2, &["--cores", "1"]);
    let mut second = Ring::found(&["--cores", "1", "--data_dir", &data]);
    second.options_of_all(&["--cores", "1"]);
    second.join(0, &[]);
    settled(&second, &[0, 1]);
    // A member of the one is started again, with a seed of the other.
    second.kill(0);
    second.options_of_all(&["--cores", "1", "--data_dir", &data, "--join", &first.id(0)]);
    second.restart(0);
    settled(&second, &[0, 1]);
    let names = |ring: &Ring, node: usize| ring.operate(node, &["status"]).0;
    assert_eq!(names(&second, 0).lines().next(), names(&second, 1).lines().next(), "it is in its ring");
    assert_ne!(names(&second, 0).lines().next(), names(&first, 0).lines().next());
    assert_eq!(names(&first, 0).matches("\nnode ").count(), 2, "{}", names(&first, 0));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A node is stopped as a service manager does it, and started again, while clients work at the others: no request fails, and the table has
/// it all the time.
#[test]
fn a_stop_is_no_leave_and_fails_no_request() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut ring = ring_of(3, &["--cores", "1", "--redundancy", "2"]);
    let clients = ring.clients_only();
    let worker = spawn(move || {
        let mut clients = [clients.connect(0), clients.connect(1)];
        let (mut stored, mut wrong) = (Vec::new(), Vec::new());
        for number in 0.. {
            if STOP.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("s{number}");
            match clients[number % 2].set(&key).as_str() {
                "STORED" => stored.push(key),
                answer => wrong.push(format!("set {key}: {answer}")),
            }
            let back = stored.len() / 2;
            let found = stored.get(back).map(|key| clients[(number + 1) % 2].get(key) == Some(value_of(key)));
            if found == Some(false) {
                wrong.push(format!("get {}", stored[back]));
            }
        }
        (stored, wrong)
    });
    sleep(Duration::from_millis(500));
    ring.signal(2, libc::SIGTERM);
    assert!(ring.has_ended(2, Duration::from_secs(20)));
    assert!(line(&ring, 0, 2).contains(" normal "), "{}", line(&ring, 0, 2));
    sleep(Duration::from_millis(500));
    ring.options_of_all(&["--cores", "1", "--redundancy", "2", "--join", &ring.id(0)]);
    ring.restart(2);
    settled(&ring, &[0, 1, 2]);
    STOP.store(true, Ordering::Relaxed);
    let (stored, wrong) = worker.join().unwrap();
    println!("{} writes, {} wrong", stored.len(), wrong.len());
    assert!(wrong.is_empty(), "{:?}", &wrong[..wrong.len().min(5)]);
    assert!(stored.len() > 200);
    ring.kill(0);
    ring.expect_all(&[1, 2], &stored);
}

/// A node that is stopped hands out what it keeps for another one that is there.
#[test]
fn a_stop_hands_out_what_is_kept_for_others() {
    let ring = ring_of(3, &["--cores", "1", "--redundancy", "1"]);
    let mut client = ring.connect(0);
    ring.signal(2, libc::SIGSTOP);
    // The first requests find out; then others stand in for it.
    let keys: Vec<String> = (0..300).map(|number| format!("h{number}")).collect();
    until("stored by who stands in", || keys.iter().all(|key| ring.connect(0).set(key) == "STORED"));
    keys.iter().for_each(|key| assert_eq!(client.set(key), "STORED"));
    let kept: usize = client.stat("handoff", "2:pending").parse().unwrap();
    ring.signal(2, libc::SIGCONT);
    ring.signal(0, libc::SIGTERM);
    assert!(ring.has_ended(0, Duration::from_secs(20)));
    println!("{kept} hints were kept");
    let mut back = ring.connect(2);
    let own: Vec<&String> =
        keys.iter().filter(|key| back.stat(&format!("where {key}"), "owner_0").starts_with(&ring.id(2))).collect();
    assert!(!own.is_empty() && own.iter().all(|key| back.get(key) == Some(value_of(key))), "what was kept for it is there");
}

/// A service manager hears that a node is ready when it has its share, and before that to wait longer.
#[test]
fn who_joins_is_ready_when_it_is_whole() {
    let ring = Ring::found(&["--cores", "1"]);
    let mut client = ring.connect(0);
    (0..2000).for_each(|number| assert_eq!(client.set(&format!("r{number}")), "STORED"));
    let folder = std::env::temp_dir().join(format!("pbcache-ready-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(WAIT)).unwrap();
    let place = &addresses(1)[0];
    let mut command = Command::new(env!("CARGO_BIN_EXE_pbcache"));
    command.args(["--ip", place, "--port", &PORT.to_string(), "--cores", "1", "--memory_size", "64", "--join", &ring.id(0)]);
    let mut child = command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last: &String| last != "READY=1") {
        let mut bytes = [0; 200];
        let count = told.recv(&mut bytes).expect("it is never ready");
        heard.push(String::from_utf8_lossy(&bytes[..count]).trim_end().to_string());
    }
    let (status, _) = ring.operate(0, &["status"]);
    let own = format!("node {place}:{PORT} normal ");
    assert!(status.contains(&own), "{heard:?}\n{status}");
    assert!(heard.iter().any(|word| word.starts_with("EXTEND_TIMEOUT_USEC=")), "{heard:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}

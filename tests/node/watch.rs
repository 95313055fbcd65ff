//! What `watch` shows: memcached's lines, from all cores, to as many as may watch, at nobody's expense.
//!
//! Expectations about single commands are checked against memcached as well where one is installed.
//!
//! Lives here: lines over the wire. Not here: buffers (`observe`), the words of a line (`node::watch`).

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::memcached::Memcached;
use crate::server::{Client, Server};

/// A connection that watches.
fn watch(mut client: Client, kinds: &str) -> Client {
    client.ask(format!("watch {kinds}\r\n"), "OK\r\n");
    client
}

/// The next line, which ends with a bare newline.
fn line(watcher: &mut Client) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while text.last() != Some(&b'\n') {
        assert_eq!(watcher.stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    text.pop();
    String::from_utf8(text).unwrap()
}

/// The value of a field of a line.
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// A line from its type on, once time and number in front of it were looked at.
fn body(line: &str) -> &str {
    let seconds: f64 = field(line, "ts").parse().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - seconds).abs() < 60.0, "{line}");
    assert!(field(line, "gid").parse::<u64>().unwrap() > 0, "{line}");
    &line[line.find("type=").unwrap()..]
}

/// The descriptor by which `stats conns` knows a client.
fn descriptor(client: &mut Client) -> String {
    let own = format!("tcp:{}", client.stream.local_addr().unwrap());
    client.send("stats conns\r\n");
    let lines = client.lines_until("END");
    let name =
        lines.iter().find_map(|line| line.strip_prefix("STAT ")?.strip_suffix(&format!(":addr {own}")).map(String::from));
    name.unwrap_or_else(|| panic!("{own} in {lines:?}"))
}

/// What is sent, what it is answered, and the lines that it makes; # is the descriptor.
const SCRIPT: &[(&str, &str, &[&str])] = &[
    ("get a\n", "END\n", &["item_get key=a status=not_found clsid=0 cfd=# size=0"]),
    (
        "set a 5 100 3\nabc\n",
        "STORED\n",
        &[
            "item_get key=a status=not_found clsid=0 cfd=# size=0",
            "item_store key=a status=stored cmd=set ttl=100 clsid=1 cfd=# size=3",
        ],
    ),
    ("mg a c\n", "HD c*", &["item_get key=a status=found clsid=1 cfd=# size=3"]),
    ("get a\n", "VALUE a 5 3\nabc\nEND\n", &["item_get key=a status=found clsid=1 cfd=# size=3"]),
    ("get b\n", "END\n", &["item_get key=b status=not_found clsid=0 cfd=# size=0"]),
    ("gat 0 a\n", "VALUE a 5 3\nabc\nEND\n", &["item_get key=a status=found clsid=1 cfd=# size=3"]),
    ("touch a 0\n", "TOUCHED\n", &["item_get key=a status=found clsid=1 cfd=# size=3"]),
    (
        "add a 0 0 1\nx\n",
        "NOT_STORED\n",
        &[
            "item_get key=a status=found clsid=1 cfd=# size=3",
            "item_store key=a status=not_stored cmd=add ttl=0 clsid=1 cfd=# size=1",
        ],
    ),
    (
        "replace b 0 9 1\nx\n",
        "NOT_STORED\n",
        &[
            "item_get key=b status=not_found clsid=0 cfd=# size=0",
            "item_store key=b status=not_stored cmd=replace ttl=9 clsid=1 cfd=# size=1",
        ],
    ),
    (
        "append a 0 0 2\nyy\n",
        "STORED\n",
        &[
            "item_get key=a status=found clsid=1 cfd=# size=3",
            "item_store key=a status=stored cmd=append ttl=0 clsid=1 cfd=# size=5",
        ],
    ),
    (
        "ms a 2 MP\nyy\n",
        "HD\n",
        &[
            "item_get key=a status=found clsid=1 cfd=# size=5",
            "item_store key=a status=stored cmd=prepend ttl=0 clsid=1 cfd=# size=7",
        ],
    ),
    (
        "cas a 0 0 1 99\nx\n",
        "EXISTS\n",
        &[
            "item_get key=a status=found clsid=1 cfd=# size=7",
            "item_store key=a status=exists cmd=cas ttl=0 clsid=1 cfd=# size=1",
        ],
    ),
    (
        "cas b 0 0 1 99\nx\n",
        "NOT_FOUND\n",
        &[
            "item_get key=b status=not_found clsid=0 cfd=# size=0",
            "item_store key=b status=not_found cmd=cas ttl=0 clsid=1 cfd=# size=1",
        ],
    ),
    (
        "incr a 1\n",
        "CLIENT_ERROR cannot increment or decrement non-numeric value\n",
        &["item_get key=a status=found clsid=1 cfd=# size=7"],
    ),
    ("mg a s\n", "HD s7\n", &["item_get key=a status=found clsid=1 cfd=# size=7"]),
    ("md a q\nmn\n", "MN\n", &["item_get key=a status=found clsid=1 cfd=# size=7"]),
    ("delete a\n", "NOT_FOUND\n", &["item_get key=a status=not_found clsid=0 cfd=# size=0"]),
    (
        "set e 0 -1 1\nx\n",
        "STORED\n",
        &["item_get key=e status=not_found clsid=0 cfd=# size=0", "item_store key=e status=stored cmd=set *"],
    ),
    (
        "set f 0 0 1\nx\nflush_all\nget f\n",
        "STORED\nOK\nEND\n",
        &[
            "item_get key=f status=not_found clsid=0 cfd=# size=0",
            "item_store key=f status=stored cmd=set ttl=0 clsid=1 cfd=# size=1",
            "item_get key=f status=flushed clsid=0 cfd=# size=0",
        ],
    ),
    (
        "set b%c,d 0 0 1\nx\n",
        "STORED\n",
        &[
            "item_get key=b%25c%2Cd status=not_found clsid=0 cfd=# size=0",
            "item_store key=b%25c%2Cd status=stored cmd=set ttl=0 clsid=1 cfd=# size=1",
        ],
    ),
    (
        "ms Zm9vIGJhcg== 1 b\nx\n",
        "HD\n",
        &[
            "item_get key=foo%20bar status=not_found clsid=0 cfd=# size=0",
            "item_store key=foo%20bar status=stored cmd=set ttl=0 clsid=1 cfd=# size=1",
        ],
    ),
    ("get\n", "*", &[]),
    ("mn\n", "MN\n", &[]),
];

fn run_script(who: &str, connect: &dyn Fn() -> Client) {
    let (mut client, mut watcher) = (connect(), watch(connect(), "fetchers mutations"));
    let cfd = descriptor(&mut client);
    let mut gid = 0;
    for (sent, answer, expected) in SCRIPT {
        client.send(sent.replace('\n', "\r\n"));
        match answer.strip_suffix('*') {
            Some(start) => assert!(client.line().starts_with(start), "{who}: {sent:?}"),
            None => client.expect(answer.replace('\n', "\r\n")),
        }
        for wanted in *expected {
            let got = line(&mut watcher);
            let number: u64 = field(&got, "gid").parse().unwrap();
            assert!(number > gid, "{who}: {got}");
            gid = number;
            let wanted = format!("type={}", wanted.replace('#', &cfd));
            match wanted.strip_suffix('*') {
                Some(start) => assert!(body(&got).starts_with(start), "{who}: {sent:?}: {got}"),
                None => assert_eq!(body(&got), wanted, "{who}: {sent:?}"),
            }
        }
    }
    // Nothing else has come.
    client.ask("get last\r\n", "END\r\n");
    assert_eq!(field(&line(&mut watcher), "key"), "last", "{who}");
}

#[test]
fn lines_about_items_are_those_of_memcached() {
    for options in [&["--cores", "1"][..], &["--cores", "3"], &["--cores", "2", "--io", "streams"]] {
        let server = Server::start(options);
        run_script(&format!("pbcache {options:?}"), &|| server.connect());
    }
    if let Some(memcached) = Memcached::start(&[]) {
        run_script("memcached", &|| memcached.connect());
    }
}

#[test]
fn what_was_deleted_or_created_is_told() {
    let server = Server::start(&["--cores", "2"]);
    let (mut client, mut watcher) = (server.connect(), watch(server.connect(), "deletions"));
    let mut counted = watch(server.connect(), "mutations");
    client.ask("set k 0 0 4\r\nabcd\r\ndelete k\r\ndelete k\r\n", "STORED\r\nDELETED\r\nNOT_FOUND\r\n");
    assert_eq!(body(&line(&mut watcher)), "type=deleted key=k cmd=delete clsid=1 size=4");
    client.ask("set k 0 0 2\r\nab\r\nmd k I\r\nmd k\r\n", "STORED\r\nHD\r\nHD\r\n");
    assert_eq!(body(&line(&mut watcher)), "type=deleted key=k cmd=md clsid=1 size=2");
    let cfd = descriptor(&mut client);
    client.ask("ma n N60 J12345\r\nset big 0 0 2000000\r\n", "HD\r\n");
    client.send("x".repeat(2_000_000) + "\r\n");
    client.expect("SERVER_ERROR object too large for cache\r\n");
    let lines: Vec<String> = (0..4).map(|_| body(&line(&mut counted)).to_string()).collect();
    assert_eq!(lines[2], format!("type=item_store key=n status=stored cmd=add ttl=60 clsid=1 cfd={cfd} size=5"));
    assert_eq!(lines[3], format!("type=item_store key=big status=too_large cmd=set ttl=0 clsid=0 cfd={cfd} size=0"));
}

#[test]
fn a_watcher_of_one_core_sees_all_cores_in_order() {
    let server = Server::start(&["--cores", "4"]);
    let mut watchers = [watch(server.connect(), ""), watch(server.connect(), "fetchers")];
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    let wanted: BTreeSet<String> = (0..400).map(|number| format!("key{number}")).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let keys: Vec<String> = (0..100).map(|index| format!("key{}", 100 * number + index)).collect();
        client.ask(format!("get {}\r\n", keys.join(" ")), "END\r\n");
    }
    for watcher in &mut watchers {
        let lines: Vec<String> = (0..wanted.len()).map(|_| line(watcher)).collect();
        let keys: BTreeSet<String> = lines.iter().map(|line| field(line, "key").into()).collect();
        assert_eq!(keys, wanted);
        let gids: BTreeSet<u64> = lines.iter().map(|line| field(line, "gid").parse().unwrap()).collect();
        assert_eq!(gids.len(), lines.len(), "each event has a number of its own");
    }
}

#[test]
fn evictions_are_told_each_once() {
    let server = Server::start(&["--cores", "2", "--memory_size", "16"]);
    let (mut client, mut watcher) = (server.connect(), watch(server.connect(), "evictions"));
    let value = "v".repeat(3000);
    let mut stored = 0;
    while client.stat("", "evictions") == "0" {
        for _ in 0..100 {
            client.ask(format!("set key{stored} 0 {} 3000\r\n{value}\r\n", stored % 2 * 1000), "STORED\r\n");
            stored += 1;
        }
        assert!(stored < 20_000);
    }
    // What goes on in the background may still evict: until the count stands still.
    let mut evicted: usize = client.stat("", "evictions").parse().unwrap();
    let mut keys = BTreeSet::new();
    while keys.len() < evicted {
        let line = line(&mut watcher);
        let key = field(&line, "key").to_string();
        let number: u64 = key.strip_prefix("key").unwrap().parse().unwrap();
        let rest = body(&line).split_once(&key).unwrap().1;
        let ttl: i64 = field(&line, "ttl").parse().unwrap();
        assert!(if number.is_multiple_of(2) { ttl == -1 } else { (1..=1000).contains(&ttl) }, "{line}");
        let la = field(&line, "la");
        assert!(la.parse::<u32>().unwrap() < 60, "{line}");
        assert_eq!(rest, format!(" fetch=no ttl={ttl} la={la} clsid=1 size=3000"));
        assert!(number < stored && keys.insert(number), "twice: {line}");
        evicted = client.stat("", "evictions").parse().unwrap();
    }
    let first = *keys.iter().next().unwrap();
    client.ask(format!("get key{first}\r\n"), "END\r\n");
}

/// The lines of a connection's life: how it ends, and why that is.
fn check_connections(who: &str, address: SocketAddr, connect: &dyn Fn() -> Client) {
    let mut watcher = watch(connect(), "connevents");
    type End = fn(Client);
    let ends: [(&str, End); 3] = [
        ("normal", |client| drop(client)),
        ("normal", |mut client| {
            client.send("quit\r\n");
            client.read_to_end();
        }),
        ("error", |client| {
            // Closed with a reset.
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }),
    ];
    for (reason, end) in ends {
        let mut client = Client::new(TcpStream::connect(address).unwrap());
        client.ask("mn\r\n", "MN\r\n");
        let port = client.stream.local_addr().unwrap().port();
        let cfd = descriptor(&mut client);
        let place = format!("rip=127.0.0.1 rport={port} transport=tcp");
        assert_eq!(body(&line(&mut watcher)), format!("type=conn_new {place} cfd={cfd}"), "{who}");
        end(client);
        assert_eq!(body(&line(&mut watcher)), format!("type=conn_close {place} reason={reason} cfd={cfd}"), "{who}");
    }
}

#[test]
fn connections_are_told_when_they_come_and_why_they_go() {
    for options in [&["--cores", "1"][..], &["--cores", "3"], &["--cores", "2", "--io", "streams"]] {
        let server = Server::start(options);
        check_connections(&format!("pbcache {options:?}"), server.address(), &|| server.connect());
    }
    if let Some(memcached) = Memcached::start(&[]) {
        let address = SocketAddr::from(([127, 0, 0, 1], memcached.port));
        check_connections("memcached", address, &|| memcached.connect());
    }
}

#[test]
fn silent_clients_and_unix_sockets_are_told_as_such() {
    let path = std::env::temp_dir().join(format!("pbcache-watch-{}", std::process::id()));
    let server = Server::start(&["--cores", "1", "--unix_socket", path.to_str().unwrap(), "--idle_timeout", "1"]);
    let mut watcher = watch(server.connect(), "connevents");
    let local = UnixStream::connect(&path).unwrap();
    let opened = line(&mut watcher);
    assert!(body(&opened).starts_with("type=conn_new rip=unix rport=0 transport=local cfd="), "{opened}");
    // It says nothing for a second; the watcher says nothing either, and stays.
    let closed = line(&mut watcher);
    assert!(body(&closed).starts_with("type=conn_close rip=unix rport=0 transport=local reason=idle_timeout cfd="), "{closed}");
    assert_eq!(field(&opened, "cfd"), field(&closed, "cfd"));
    drop(local);
    let _ = std::fs::remove_file(path);
}

#[test]
fn who_does_not_read_loses_lines_and_is_told_how_many() {
    const GETS: usize = 200_000;
    let server = Server::start(&["--cores", "2"]);
    let (mut client, mut slow) = (server.connect(), watch(server.connect(), "fetchers"));
    let request = (0..100).fold("get".to_string(), |request, _| request + " some_key_of_a_common_length") + "\r\n";
    for _ in 0..GETS / 100 {
        client.ask(&request, "END\r\n");
    }
    let resident_bytes = server.resident_bytes();
    // There is room once lines are read; the next line then has the number of lost ones before it.
    let (mut sent, mut lines, mut skipped, mut words) = (GETS, 0, 0, 0);
    let (mut text, mut piece) = (Vec::new(), [0; 65536]);
    let start = Instant::now();
    while lines + skipped < sent {
        client.ask("get behind\r\n", "END\r\n");
        sent += 1;
        let count = slow.stream.read(&mut piece).unwrap();
        text.extend_from_slice(&piece[..count]);
        let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        for line in text.drain(..end).collect::<Vec<u8>>().split_inclusive(|&byte| byte == b'\n') {
            let line = std::str::from_utf8(line).unwrap();
            match line.strip_prefix("skipped=") {
                Some(number) => (skipped, words) = (skipped + number.trim_end().parse::<usize>().unwrap(), words + 1),
                None => lines += usize::from(line.starts_with("ts=") && line.contains(" type=item_get key=")),
            }
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{lines} lines and {skipped} skipped of {sent}");
    }
    assert_eq!(lines + skipped, sent, "no line is lost in silence, none is told twice");
    assert!(words > 0 && lines > 0, "{lines} lines, {skipped} skipped in {words} words");
    assert!(resident_bytes < 64 << 20, "{resident_bytes} bytes");
    let figure = |client: &mut Client, name: &str| -> usize { client.stat("", name).parse().unwrap() };
    assert_eq!(figure(&mut client, "log_watchers"), 1);
    let told = figure(&mut client, "log_watcher_skipped") + figure(&mut client, "log_worker_dropped");
    assert_eq!(told, skipped);
}

#[test]
fn twenty_may_watch_and_one_that_goes_makes_room() {
    let server = Server::start(&["--cores", "2"]);
    let mut watchers: Vec<Client> = (0..20).map(|_| watch(server.connect(), "fetchers")).collect();
    let mut client = server.connect();
    client.ask("watch\r\nmn\r\n", "WATCHER_TOO_MANY log watcher limit reached\r\nMN\r\n");
    assert_eq!(client.stat("", "log_watchers"), "20");
    // What a watcher sends means nothing, and that it goes is seen without a line to send it.
    watchers[0].send("get a\r\nset b 0 0 1\r\n".repeat(10_000));
    drop(watchers.pop());
    let start = Instant::now();
    while client.stat("", "log_watchers") == "20" {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    let watcher = watch(server.connect(), "mutations");
    drop((watchers, watcher));
    while client.stat("", "log_watchers") != "0" {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.stat("", "cmd_get"), "0");
}

#[test]
fn a_node_ends_though_somebody_watches() {
    for engine in ["pump", "streams"] {
        let mut server = Server::start(&["--cores", "2", "--io", engine]);
        let mut watcher = watch(server.connect(), "fetchers connevents");
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait(Duration::from_secs(4)), Some(0), "{engine}");
        watcher.read_to_end();
    }
}

#[test]
fn watching_may_be_forbidden() {
    let server = Server::start(&["--cores", "1", "-W"]);
    server.connect().ask("watch\r\nwatch fetchers\r\n", "CLIENT_ERROR watch commands not allowed\r\n".repeat(2));
}

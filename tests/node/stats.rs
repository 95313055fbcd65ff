//! What `stats` says: memcached's names, and counters that move as memcached's do.
//!
//! Every expectation is checked against memcached as well where one is installed.
//!
//! Lives here: names and counters over the wire. Not here: arithmetic on figures (`node::stats`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::memcached::Memcached;
use crate::original;
use crate::server::{Client, Server};
use crate::skip;

fn stats(client: &mut Client, group: &str) -> Vec<(String, String)> {
    client.send(format!("stats {group}").trim_end().to_string() + "\r\n");
    let lines = client.lines_until("END");
    let pair = |line: &String| line.strip_prefix("STAT ")?.split_once(' ').map(|(name, value)| (name.into(), value.into()));
    lines.iter().filter_map(pair).collect()
}

fn names(client: &mut Client, group: &str) -> Vec<String> {
    stats(client, group).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn names_are_those_of_memcached_in_its_order() {
    let server = Server::start(&["--cores", "2"]);
    let (general, settings) = (names(&mut server.connect(), ""), names(&mut server.connect(), "settings"));
    assert_eq!(general.len(), 92);
    let ours = settings.iter().position(|name| name.starts_with("pbcache_")).unwrap();
    assert!(settings[ours..].iter().all(|name| name.starts_with("pbcache_")), "{settings:?}");
    let Some(original) = original::original() else { return };
    if original.version != [1, 6, 18] {
        return original::say("The names of stats are those of memcached 1.6.18: not compared with those of another release.");
    }
    let Some(memcached) = Memcached::start(&[]) else { return };
    assert_eq!(general, names(&mut memcached.connect(), ""));
    assert_eq!(settings[..ours], names(&mut memcached.connect(), "settings"));
    let mut clients = [server.connect(), memcached.connect()];
    for state in ["empty", "with an item"] {
        for group in ["items", "slabs", "sizes", "extstore"] {
            let [own, wanted] = clients.each_mut().map(|client| names(client, group));
            assert_eq!(own, wanted, "{group}, {state}");
        }
        for client in &mut clients {
            client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
        }
    }
}

#[test]
fn the_comparison_is_not_left_out_in_silence() {
    skip::fails_without("stats::names_are_those_of_memcached_in_its_order", "memcached is not installed");
}

/// A script and the counters that it moves, in the order of `COUNTERS`.
const SCRIPTS: &[(&str, &str)] = &[
    ("set a 0 0 1\nx\n", "cmd_set 1"),
    ("get a\nget b\ngets a b\n", "cmd_get 4 get_hits 2 get_misses 2"),
    ("add a 0 0 1\nx\nadd b 0 0 1\nx\n", "cmd_set 2"),
    ("replace b 0 0 1\ny\nreplace no 0 0 1\ny\n", "cmd_set 2"),
    ("append a 0 0 1\ny\nappend no 0 0 1\ny\nprepend a 0 0 1\nz\n", "cmd_set 3"),
    ("cas a 0 0 1 999\nx\ncas no 0 0 1 5\nx\n", "cmd_set 2 cas_misses 1 cas_badval 1"),
    ("set n 0 0 1\n5\nincr n 1\ndecr n 2\n", "cmd_set 1 incr_hits 1 decr_hits 1"),
    ("incr no 1\ndecr no 1\nincr a 1\n", "incr_misses 1 decr_misses 1"),
    ("delete b\ndelete b\n", "delete_misses 1 delete_hits 1"),
    ("touch a 0\ntouch no 0\n", "cmd_touch 2 touch_hits 1 touch_misses 1"),
    ("gat 0 a\ngat 0 no\ngats 0 a no\n", "cmd_touch 4 touch_hits 2 touch_misses 2"),
    ("mg a v\nmg no v\nmg no q\n", "cmd_get 3 get_hits 1 get_misses 2"),
    ("mg a T0\n", "cmd_touch 1 touch_hits 1"),
    ("mg no T0\n", "cmd_get 1 get_misses 1"),
    ("ms a 1\nx\nms a 1 ME\nx\nms a 1 C99999\nx\nms no 1 C99999\nx\n", "cmd_set 4 cas_misses 1 cas_badval 1"),
    ("ms b 1\nx\nmd b I\nmd b\nmd b\n", "cmd_set 1 delete_misses 1 delete_hits 1"),
    ("ma n\nma n MD\nma no\nma a\n", "incr_misses 1 incr_hits 1 decr_hits 1"),
    ("ma new N0\nma new\n", "incr_hits 1"),
    ("me n\nme no\nmn\n", "cmd_meta 2"),
    ("set e 0 -1 1\nx\nget e\nget e\n", "cmd_get 2 cmd_set 1 get_misses 2 get_expired 1"),
    ("set big 0 0 1048577\n{1048577}\n", "store_too_large 1"),
    ("set f 0 0 1\nx\nflush_all\nget f\n", "cmd_get 1 cmd_set 1 cmd_flush 1 get_misses 1 get_flushed 1"),
    ("get\nfoo\nset a 0 0 x\n", ""),
];

const COUNTERS: &[&str] = &[
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "cmd_meta",
    "get_hits",
    "get_misses",
    "get_expired",
    "get_flushed",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "store_no_memory",
];

fn counters(client: &mut Client) -> BTreeMap<String, u64> {
    let figures = stats(client, "").into_iter().filter(|(name, _)| COUNTERS.contains(&name.as_str()));
    figures.map(|(name, value)| (name, value.parse().unwrap())).collect()
}

fn run_scripts(who: &str, mut client: Client) {
    for &(script, expected) in SCRIPTS {
        let mut moved = run_script(&mut client, script);
        if moved != expected && (expected.contains("get_expired") || expected.contains("get_flushed")) {
            // Once more: work in the background may remove what is out of its time before the get comes upon it.
            moved = run_script(&mut client, script);
        }
        assert_eq!(moved, expected, "{who}: {script:?}");
    }
}

/// Which counters a script moves, and by how much.
fn run_script(client: &mut Client, script: &str) -> String {
    let before = counters(client);
    let value = "v".repeat(1_048_577);
    client.send(script.replace("{1048577}", &value).replace('\n', "\r\n") + "mn\r\n");
    for _ in 0..1 + script.matches("mn\n").count() {
        client.lines_until("MN");
    }
    let after = counters(client);
    let moved = COUNTERS.iter().map(|&name| (name, after[name] - before[name])).filter(|&(_, by)| by > 0);
    moved.map(|(name, by)| format!("{name} {by}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn counters_move_as_those_of_memcached() {
    run_scripts("1 core", Server::start(&["--cores", "1"]).connect());
    run_scripts("3 cores", Server::start(&["--cores", "3"]).connect());
    if let Some(memcached) = Memcached::start(&[]) {
        run_scripts("memcached", memcached.connect());
    }
}

#[test]
fn reset_starts_every_total_again_and_keeps_what_is_now() {
    let check = |who: &str, client: &mut Client| {
        client.ask("set a 0 0 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
        client.ask("stats reset\r\n", "RESET\r\n");
        let figures: BTreeMap<_, _> = stats(client, "").into_iter().collect();
        for name in ["total_items", "cmd_get", "cmd_set", "get_hits", "evictions", "total_connections"] {
            assert_eq!(figures[name], "0", "{who}: {name}");
        }
        assert_eq!(figures["curr_items"], "1", "{who}");
        client.ask("set b 0 0 1\r\nx\r\n", "STORED\r\n");
        assert_eq!(client.stat("", "total_items"), "1", "{who}");
        assert_eq!(client.stat("", "curr_items"), "2", "{who}");
    };
    let server = Server::start(&["--cores", "2"]);
    check("pbcache", &mut server.connect());
    if let Some(memcached) = Memcached::start(&[]) {
        check("memcached", &mut memcached.connect());
    }
}

/// The connections of `stats conns`: field by name, for each address.
fn conns(client: &mut Client) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sockets: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (name, value) in stats(client, "conns") {
        let (descriptor, field) = name.split_once(':').unwrap();
        assert!(descriptor.parse::<u32>().is_ok(), "{name}");
        sockets.entry(descriptor.into()).or_default().insert(field.into(), value);
    }
    sockets.into_values().map(|fields| (fields["addr"].clone(), fields)).collect()
}

/// The state in which `client` is listed, once it is `state` or the wait is over.
fn state_of(asking: &mut Client, client: &Client, state: &str) -> String {
    let own = format!("tcp:{}", client.stream.local_addr().unwrap());
    let start = Instant::now();
    loop {
        // It may not have been accepted yet.
        let shown = conns(asking).get(&own).map_or("none".into(), |fields| fields["state"].clone());
        if shown == state || start.elapsed() > Duration::from_secs(5) {
            return shown;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a client sends, and the state that it is in then.
const STATES: &[(&str, &str)] = &[
    ("", "conn_new_cmd"),
    ("get a\r\n", "conn_read"),
    ("get long_li", "conn_read"),
    ("set k 0 0 10\r\nabc", "conn_nread"),
    ("set k 0 0 500000\r\nabc", "conn_nread"),
    ("ms k 10 T0\r\nabc", "conn_nread"),
    ("set k 0 0 2000000\r\nabc", "conn_swallow"),
    ("foo\r\nabc", "conn_read"),
];

fn check_states(who: &str, connect: &dyn Fn() -> Client) {
    let mut asking = connect();
    let clients: Vec<Client> = STATES.iter().map(|_| connect()).collect();
    for (mut client, (sent, state)) in clients.into_iter().zip(STATES) {
        client.send(sent);
        assert_eq!(state_of(&mut asking, &client, state), *state, "{who}: {sent:?}");
    }
    let own = format!("tcp:{}", asking.stream.local_addr().unwrap());
    let listener = format!("tcp:{}", asking.stream.peer_addr().unwrap());
    let listed = conns(&mut asking);
    assert_eq!(listed[&own]["state"], "conn_parse_cmd", "{who}");
    assert_eq!(listed[&own]["secs_since_last_cmd"], "0", "{who}");
    assert_eq!(listed[&own]["listen_addr"], listener, "{who}");
    assert_eq!(listed[&listener]["state"], "conn_listening", "{who}");
    assert_eq!(listed[&listener].get("listen_addr"), None, "{who}");
    assert!(listed[&listener]["secs_since_last_cmd"].parse::<u32>().unwrap() < 100, "{who}");
    let mut watcher = connect();
    watcher.ask("watch fetchers\r\n", "OK\r\n");
    assert_eq!(state_of(&mut asking, &watcher, "conn_watch"), "conn_watch", "{who}");
    // Whoever does not read: 20 MB are more than the sockets take.
    let mut slow = connect();
    let value = "v".repeat(200_000);
    slow.ask(format!("set large 0 0 200000\r\n{value}\r\n"), "STORED\r\n");
    slow.send("get large\r\n".repeat(100));
    assert_eq!(state_of(&mut asking, &slow, "conn_mwrite"), "conn_mwrite", "{who}");
}

#[test]
fn connections_are_listed_with_what_they_are_at() {
    for options in [&["--cores", "2"][..], &["--cores", "1", "--io", "streams"]] {
        let server = Server::start(options);
        check_states("pbcache", &|| server.connect());
    }
    if let Some(memcached) = Memcached::start(&[]) {
        check_states("memcached", &|| memcached.connect());
    }
}

#[test]
fn seconds_since_the_last_command_are_those_of_commands() {
    let check = |who: &str, connect: &dyn Fn() -> Client| {
        let (mut asking, mut quiet, mut half) = (connect(), connect(), connect());
        quiet.ask("mn\r\n", "MN\r\n");
        half.ask("mn\r\n", "MN\r\n");
        let start = Instant::now();
        let idle_s = |asking: &mut Client, client: &Client| -> u32 {
            let own = format!("tcp:{}", client.stream.local_addr().unwrap());
            conns(asking)[&own]["secs_since_last_cmd"].parse().unwrap()
        };
        while idle_s(&mut asking, &quiet) < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "{who}");
            // Bytes that are no command yet do not count.
            half.send("x");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(idle_s(&mut asking, &half) >= 1, "{who}");
        quiet.ask("mn\r\n", "MN\r\n");
        assert!(idle_s(&mut asking, &quiet) <= 1, "{who}");
    };
    let server = Server::start(&["--cores", "2"]);
    check("pbcache", &|| server.connect());
    if let Some(memcached) = Memcached::start(&[]) {
        check("memcached", &|| memcached.connect());
    }
}

/// A figure of `stats` and, with the group it is in, the one of all classes together that it must equal.
const SUMS: &[(&str, &str, &str)] = &[
    ("curr_items", "items", "number"),
    ("bytes", "items", "mem_requested"),
    ("evictions", "items", "evicted"),
    ("evicted_unfetched", "items", "evicted_unfetched"),
    ("expired_unfetched", "items", "expired_unfetched"),
    ("reclaimed", "items", "reclaimed"),
    ("crawler_reclaimed", "items", "crawler_reclaimed"),
    ("curr_items", "slabs", "used_chunks"),
    ("get_hits", "slabs", "get_hits"),
    ("cmd_set", "slabs", "cmd_set"),
    ("delete_hits", "slabs", "delete_hits"),
    ("incr_hits", "slabs", "incr_hits"),
    ("cas_hits", "slabs", "cas_hits"),
    ("cas_badval", "slabs", "cas_badval"),
    ("touch_hits", "slabs", "touch_hits"),
];

/// All figures at a moment when nothing moves: `stats` before and after, and the groups between.
fn at_rest(client: &mut Client) -> (BTreeMap<String, String>, BTreeMap<String, u64>) {
    let start = Instant::now();
    loop {
        let before: BTreeMap<_, _> = stats(client, "").into_iter().collect();
        let mut sums = BTreeMap::new();
        for group in ["items", "slabs"] {
            for (name, value) in stats(client, group) {
                let parts: Vec<&str> = name.split(':').collect();
                let field = parts[parts.len() - 1];
                *sums.entry(format!("{group}:{field}")).or_insert(0) += value.parse::<u64>().unwrap_or(0);
            }
        }
        let after: BTreeMap<_, _> = stats(client, "").into_iter().collect();
        if SUMS.iter().all(|(name, ..)| before[*name] == after[*name]) {
            return (after, sums);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "figures never stand still");
    }
}

fn check_sums(who: &str, client: &mut Client) {
    let value = "v".repeat(5000);
    let mut number = 0;
    while client.stat("", "evictions") == "0" {
        for _ in 0..200 {
            client.ask(format!("set key{number} 0 {} 5000\r\n{value}\r\n", number % 3), "STORED\r\n");
            number += 1;
        }
        assert!(number < 100_000, "{who}: nothing is evicted");
    }
    client.ask("set n 0 0 1\r\n5\r\nincr n 1\r\ntouch n 0\r\n", "STORED\r\n6\r\nTOUCHED\r\n");
    client.ask(
        "replace absent 0 0 1\r\nx\r\ncas n 0 0 1 1\r\nx\r\nget n\r\n",
        "NOT_STORED\r\nEXISTS\r\nVALUE n 0 1\r\n6\r\nEND\r\n",
    );
    client.ask("delete n\r\n", "DELETED\r\n");
    let (general, sums) = at_rest(client);
    for (name, group, field) in SUMS {
        let sum = sums[&format!("{group}:{field}")];
        assert_eq!(general[*name], sum.to_string(), "{who}: {name}, and {field} of {group}");
        assert!(sum > 0 || ["reclaimed", "crawler_reclaimed", "expired_unfetched", "cas_hits"].contains(name), "{who}: {name}");
    }
    assert_eq!(sums["slabs:total_chunks"], sums["slabs:used_chunks"] + sums["slabs:free_chunks"], "{who}");
    assert!(sums["slabs:total_pages"] > 0, "{who}");
}

#[test]
fn classes_add_up_to_the_figures_of_the_node() {
    let server = Server::start(&["--cores", "3", "--memory_size", "32"]);
    let mut client = server.connect();
    check_sums("pbcache", &mut client);
    let (_, sums) = at_rest(&mut client);
    // What the chunks take is what the items take, but for the fraction that a mean loses.
    let taken = sums["slabs:chunk_size"] * sums["slabs:used_chunks"];
    assert!(taken <= sums["items:mem_requested"], "{sums:?}");
    assert!(taken + sums["slabs:used_chunks"] > sums["items:mem_requested"], "{sums:?}");
    assert!(sums["slabs:total_malloced"] >= sums["items:mem_requested"], "{sums:?}");
    client.ask("stats reset\r\n", "RESET\r\n");
    let (general, sums) = at_rest(&mut client);
    for (name, group, field) in SUMS {
        assert_eq!(general[*name], sums[&format!("{group}:{field}")].to_string(), "after a reset: {name}, {field} of {group}");
    }
    if let Some(memcached) = Memcached::start(&["-o", "no_lru_crawler,no_lru_maintainer"]) {
        check_sums("memcached", &mut memcached.connect());
    }
}

#[test]
fn memcached_tool_shows_a_row_of_what_is_here() {
    let tool = "/usr/share/memcached/scripts/memcached-tool";
    if !std::path::Path::new(tool).exists() {
        return skip::because("memcached-tool, which comes with memcached, is not installed");
    }
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.connect();
    for number in 0..100 {
        client.ask(format!("set key{number} 0 0 1000\r\n{}\r\n", "v".repeat(1000)), "STORED\r\n");
    }
    let shown = |command: &str| {
        let output = std::process::Command::new(tool).args([&server.address().to_string(), command]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let display = shown("display");
    let row: Vec<&str> = display.lines().nth(1).unwrap().split_whitespace().collect();
    let (class, pages, count) = (row[0], row[3], row[4]);
    assert_eq!((class, count), ("1", "100"), "{display}");
    assert!(pages.parse::<u64>().unwrap() > 0, "{display}");
    assert!(shown("stats").contains("curr_items"));
    assert!(shown("settings").contains("maxbytes"));
}

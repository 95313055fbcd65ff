//! loadgen against a real node: what both sides counted agrees, a client that knows the cores never crosses them, and miss ratios lie
//! where they must.
//!
//! Lives here: what needs a node that is right. Not here: servers that are wrong (`broken`).

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use serde_json::Value;

/// A running node with two cores, each with a port of its own.
struct Node {
    child: Child,
    port: u16,
}

impl Node {
    fn start() -> Self {
        let program = program();
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let line =
                format!("--ip 127.0.0.1 --cores 2 --memory_size 64 --port {port} --shard_ports {}", port.saturating_add(1));
            let mut node = Command::new(&program);
            node.args(line.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = node.spawn().expect("the node starts");
            let mut said = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
            if !said.is_empty() {
                return Self { child, port };
            }
            // A neighbouring port was taken.
            child.wait().unwrap();
        }
        panic!("no three free ports in a row");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The node of the same build. Asked for, because a test of this package alone would take what an older build left.
fn program() -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let release: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--workspace", "--bins"]).args(release).status();
        assert!(built.is_ok_and(|status| status.success()), "the node cannot be built");
    });
    Path::new(env!("CARGO_BIN_EXE_loadgen")).with_file_name("pbcache")
}

/// Runs loadgen and gives its report.
fn run(port: u16, more: &str) -> Value {
    let report = std::env::temp_dir().join(format!("loadgen-node-{}-{port}.json", std::process::id()));
    let line = format!(
        "run --target 127.0.0.1:{port} --connections 6 --keys 2000 --duration 0.6 --warm_up 0.1 --json {} {more}",
        report.display()
    );
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split_whitespace()).output().expect("loadgen runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // 2: the client could not keep up. On a busy machine that says nothing of what is asked here.
    assert!(matches!(output.status.code(), Some(0 | 2)), "{text}");
    let value = serde_json::from_str(&std::fs::read_to_string(&report).expect("a report")).expect("JSON");
    let _ = std::fs::remove_file(report);
    value
}

/// Sum over the cores of a figure of `stats shards`.
fn over_cores(port: u16, name: &str) -> u64 {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"stats shards\r\nquit\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let values = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(&format!(":{name} ")));
    values.map(|(_, value)| value.trim().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_client_that_knows_the_cores_never_crosses_them() {
    let node = Node::start();
    // A client that does not know them crosses, and so does the storing of the keys.
    run(node.port, "--depth 4");
    assert!(over_cores(node.port, "crossed") > 100);
    for protocol in ["text", "meta", "binary", "http"] {
        let before = over_cores(node.port, "crossed");
        let report = run(node.port, &format!("--shard_aware --no_load --depth 4 --protocol {protocol}"));
        assert!(report["totals"]["requests"].as_u64().unwrap() > 100);
        assert_eq!(over_cores(node.port, "crossed") - before, 0, "{protocol}");
    }
}

#[test]
fn values_over_http_are_those_that_were_stored() {
    let node = Node::start();
    // What is wrong ends the run with an error.
    for options in ["--depth 4 --multi_get 5 --ratio get:6,set:2,delete:1,cas:1", "--no_load --value_size 20k --keys 200"] {
        let report = run(node.port, &format!("--protocol http {options}"));
        assert!(report["totals"]["requests"].as_u64().unwrap() > 100, "{options}");
    }
}

#[test]
fn both_sides_count_the_same() {
    let node = Node::start();
    // The first run stores the keys, which the second one's client does not count.
    run(node.port, "");
    let report = run(node.port, "--no_load --warm_up 0.000001 --depth 4 --ratio get:8,set:2");
    for (command, name) in [("get", "cmd_get"), ("set", "cmd_set")] {
        let counted = report["commands"].as_array().unwrap().iter().find(|found| found["name"] == command).unwrap();
        let client = counted["quantiles"]["count"].as_f64().unwrap();
        let server = report["server_growth"][0][name].as_f64().unwrap();
        // What was in flight at the end of the time counts for the server alone: 4 on each of 6 connections.
        assert!(client <= server && server <= client + 100.0, "{command}: client {client}, server {server}");
    }
}

/// Reads of 400 objects once each, and between them of 20 others again and again, as `NAME.trace` holds them.
fn trace(folder: &Path) -> PathBuf {
    let path = folder.join("hot.trace");
    let numbers = (0..400u32).flat_map(|cold| [1000 + cold % 20, 5000 + cold]);
    std::fs::write(&path, numbers.flat_map(u32::to_be_bytes).collect::<Vec<u8>>()).unwrap();
    path
}

/// Runs `loadgen misses` with one node of ours; gives its exit code and what it said and wrote.
fn misses(name: &str, more: &str, node_options: &str) -> (Option<i32>, String, Value) {
    let folder = std::env::temp_dir().join(format!("loadgen-misses-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (trace, node) = (trace(&folder), program());
    let server = format!("{} --ip 127.0.0.1 --cores 1 --port {{port}} --memory_size {{mib}} {node_options}", node.display());
    let at = folder.display();
    let line = format!(
        "misses --trace {} --memory 32 --shares 10,40 {more} --json {at}/json --csv {at}/csv --svg {at}",
        trace.display()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = command.args(line.split_whitespace()).args(["--", &server]).output().expect("loadgen runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let read =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}\n{said}"));
    assert_eq!(read("csv").lines().count(), 1 + 2, "{said}");
    assert!(read("hot.svg").contains("misses per read</text>"), "{said}");
    let value = serde_json::from_str(&read("json")).expect("JSON");
    std::fs::remove_dir_all(&folder).unwrap();
    (output.status.code(), said, value)
}

#[test]
fn miss_ratios_lie_between_what_every_cache_misses_and_what_must_not_be_missed() {
    for more in ["", "--values --spread 20"] {
        let (code, said, value) = misses(if more.is_empty() { "plain" } else { "values" }, more, "");
        assert_eq!(code, Some(0), "{said}");
        let curve = &value["traces"][0];
        let first = curve["first_reads"].as_f64().unwrap();
        assert_eq!((&curve["reads"], &curve["objects"], first), (&800.into(), &420.into(), 420.0 / 800.0));
        for (point, share) in curve["points"].as_array().unwrap().iter().zip([10.0, 40.0]) {
            assert_eq!(point["share"], share);
            // The 20 objects are a twentieth of all.
            assert_eq!(point["lru"].as_f64().unwrap(), first, "{said}");
            let server = &point["servers"][0];
            let (misses, resident) = (server["misses"].as_f64().unwrap(), server["resident_mib"].as_f64().unwrap());
            assert!(misses >= first && (share < 40.0 || misses <= first + 0.01), "{misses} of {first}: {said}");
            assert!((resident - 32.0).abs() <= 2.5 && server["refused"] == 0, "{said}");
        }
    }
}

#[test]
fn a_store_that_is_refused_is_told() {
    let (code, said, value) = misses("refused", "", "--max_item_size 100k");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("pbcache refused ") && said.contains(" stores: SERVER_ERROR object too large"), "{said}");
    let server = &value["traces"][0]["points"][0]["servers"][0];
    assert!(server["refused"] == 800 && server["misses"] == 1.0, "{server}");
}

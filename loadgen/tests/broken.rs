//! Servers that are wrong in one way each must be caught, with exit code 1 and the fault by its name; servers that go away
//! must end the client with clear words, in bounded time. An honest server must not be accused.

mod server;

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use server::{Server, Vice};

fn loadgen(port: u16, more: &str) -> Output {
    let line =
        format!("run --target 127.0.0.1:{port} --connections 4 --depth 4 --keys 500 --duration 0.6 --warm_up 0.1 {more}");
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split_whitespace()).output().expect("loadgen runs")
}

fn check(vice: Vice, more: &str, code: i32, words: &str) {
    let server = Server::start(vice);
    let output = loadgen(server.port, more);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{vice:?}: {text}");
    assert!(text.contains(words), "{vice:?}: `{words}` is not in {text}");
}

const MIX: &str = "--ratio get:50,set:20,delete:10,incr:10,cas:5,touch:5";

#[test]
fn an_honest_server_is_not_accused() {
    check(Vice::None, MIX, 0, "requests in");
    check(Vice::None, "--multi_get 10 --ttl 1:1,0:1", 0, "requests in");
    check(Vice::None, "--value_size 0-40 --ratio get:1,set:1", 0, "requests in");
}

#[test]
fn the_value_of_another_key_is_caught() {
    check(Vice::WrongKey, "", 1, "FAULT wrong key");
    check(Vice::WrongName, "", 1, "FAULT wrong key");
}

#[test]
fn a_torn_value_is_caught_in_every_size() {
    for size in ["100", "30", "12", "4"] {
        check(Vice::Torn, &format!("--value_size {size}"), 1, "FAULT torn");
    }
}

#[test]
fn an_older_value_than_acknowledged_is_caught() {
    check(Vice::Stale, "--ratio get:1,set:1", 1, "FAULT stale");
}

#[test]
fn a_deleted_item_that_comes_back_is_caught() {
    check(Vice::KeepsDeleted, "--ratio get:8,set:1,delete:1", 1, "FAULT stale");
}

#[test]
fn a_lost_acknowledged_write_is_caught() {
    check(Vice::LosesWrites, "", 1, "FAULT lost");
    check(Vice::Evicts, "", 0, "evicted?");
    check(Vice::Evicts, "--misses fault", 1, "FAULT lost");
}

#[test]
fn an_item_served_after_its_time_is_caught() {
    check(Vice::IgnoresExpiry, "--ttl 1 --ratio get:100,set:0.01 --duration 5", 1, "FAULT expired");
}

#[test]
fn a_counter_that_skips_is_caught() {
    check(Vice::Miscounts, "--ratio incr:1", 1, "FAULT miscounted");
}

#[test]
fn answers_outside_the_protocol_are_caught() {
    check(Vice::Garbles, "", 1, "FAULT garbled");
}

#[test]
fn a_server_that_dies_midway_ends_the_run_with_what_was_measured() {
    let begin = Instant::now();
    check(Vice::Dies, "--duration 30", 3, "is gone");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}

#[test]
fn a_server_that_falls_silent_does_not_hold_the_client() {
    let begin = Instant::now();
    check(Vice::FallsSilent, "--duration 2 --timeout 0.5", 0, "requests without an answer");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}

#[test]
fn a_refused_connection_is_told() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let output = loadgen(port, "");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot connect") && text.contains("refused"), "{text}");
}

#[test]
fn wrong_arguments_are_told() {
    for line in [
        "run --ratio put:1",
        "run --value_size x",
        "run --keys 0",
        "run --rate -1",
        "run --target nowhere:x",
        "compare -- true",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split_whitespace()).output().expect("loadgen runs");
        assert_eq!(output.status.code(), Some(2), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn a_run_writes_its_figures_in_every_form() {
    let server = Server::start(Vice::None);
    let folder = std::env::temp_dir().join(format!("loadgen-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = |name: &str| folder.join(name).display().to_string();
    let (json, csv, html, hgrm) = (path("o.json"), path("o.csv"), path("o.html"), path("o.hgrm"));
    let files = format!("--json {json} --csv {csv} --html {html} --hgrm {hgrm} --rate 500 --duration 1.5");
    let output = loadgen(server.port, &files);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path: &str| std::fs::read_to_string(path).expect(path);
    let figures: serde_json::Value = serde_json::from_str(&read(&json)).expect("JSON");
    let requests = figures["totals"]["requests"].as_u64().expect("a count");
    assert!(requests > 300, "{requests}");
    let served: u64 =
        figures["commands"].as_array().expect("commands").iter().map(|it| it["quantiles"]["count"].as_u64().unwrap_or(0)).sum();
    assert_eq!(served, requests);
    assert!(read(&csv).lines().count() >= 2);
    // The name of the picture's namespace is not an address that anyone asks.
    let page = read(&html).replace("http://www.w3.org/2000/svg", "");
    assert!(page.matches("<svg").count() == 3 && !page.contains("<script") && !page.contains("http"), "{page}");
    assert!(read(&hgrm).contains(&format!("Total count    = {requests:>12}")));
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

#[test]
fn a_search_finds_a_rate_and_a_sweep_measures_each_value() {
    let server = Server::start(Vice::None);
    let run = |line: &str| {
        let line =
            format!("{line} --target 127.0.0.1:{} --connections 4 --keys 500 --duration 0.2 --warm_up 0.05", server.port);
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split_whitespace()).output().expect("loadgen runs");
        assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run("search --p99_below 1000000 --rate_first 500 --precision 0.5").contains("highest rate"));
    assert_eq!(run("sweep --over value_size=32,1k,8k").lines().count(), 4);
}

/// A closed connection's name was given to a new one before its end was noticed: the new one was then taken for lost.
#[test]
fn connections_that_are_opened_anew_are_not_lost() {
    let server = Server::start(Vice::None);
    let output = loadgen(server.port, "--churn 7");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains("lost") && !text.contains("without an answer"), "{text}");
}

#[test]
fn a_trace_is_asked_once_and_in_its_order() {
    let server = Server::start(Vice::None);
    let path = std::env::temp_dir().join(format!("loadgen-trace-{}.csv", std::process::id()));
    std::fs::write(&path, "1,a,5,get\n2,a,5,get\n3,b,7,set\n4,b,7,get\n5,b,7,delete\n6,b,7,get\n").expect("a file");
    let line = format!("replay --trace {} --target 127.0.0.1:{} --connections 1 --fill_misses", path.display(), server.port);
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split_whitespace()).output().expect("loadgen runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("(2 hits, 2 misses)"), "{text}");
    std::fs::remove_file(&path).expect("the file goes");
}

#[test]
fn an_interrupt_ends_the_run_with_its_report() {
    let server = Server::start(Vice::None);
    let line = format!("run --target 127.0.0.1:{} --connections 4 --keys 500 --duration 60 --warm_up 0.1", server.port);
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let child = command.args(line.split_whitespace()).stdout(std::process::Stdio::piped()).spawn().expect("loadgen runs");
    std::thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("requests in") && begin.elapsed() < Duration::from_secs(10), "{text}");
}

#[test]
fn compare_measures_each_server_in_each_round_and_ends_them() {
    let csv = std::env::temp_dir().join(format!("loadgen-compare-{}.csv", std::process::id()));
    let line = format!(
        "compare --keys 1000 --connections 4 --duration 0.2 --warm_up 0.05 --rounds 3 --over depth=1,8 --csv {} -- echo echo",
        csv.display()
    );
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split_whitespace()).output().expect("loadgen runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("depth = 8") && text.contains("A/echo"), "{text}");
    let samples = std::fs::read_to_string(&csv).expect("the table");
    assert_eq!(samples.lines().count(), 1 + 2 * 2 * 3, "{samples}");
    std::fs::remove_file(&csv).expect("the table goes");
}

/// Where nothing listens, whatever looked at the server first would complain of that.
#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_measurement() {
    let target = "--target 127.0.0.1:9 --duration 600";
    for (action, file) in [
        (format!("run {target}"), "--html"),
        (format!("run {target}"), "--hgrm"),
        (format!("sweep --over depth=1,2 {target}"), "--csv"),
        (format!("search --p99_below 9 {target}"), "--json"),
        (format!("replay --trace /dev/null {target}"), "--html"),
        ("compare --over depth=1,2".into(), "--svg"),
    ] {
        let servers = if action.starts_with("compare") { "-- /no/such/server{port}" } else { "" };
        let line = format!("{action} {file} /no/such/folder/file {servers}");
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split_whitespace()).output().expect("loadgen runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {text}");
        assert!(text.starts_with(&format!("loadgen: {file} /no/such/folder/file cannot be written: ")), "{line}: {text}");
    }
    let output = loadgen(9, "--html /dev/null");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot connect"), "what can be written is not in the way");
}

#[test]
fn an_audit_reads_every_key_once() {
    check(Vice::None, "--ratio set:1 --audit", 0, "audit: 500 keys found, 0 not found");
    check(Vice::LosesWrites, "--ratio set:1 --audit", 1, "FAULT lost");
}

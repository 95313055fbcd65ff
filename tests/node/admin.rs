//! The admin listener of a running node: metrics, health, and who is turned away.
//!
//! Lives here: what a scraper, an orchestrator and an attacker see. Not here: names of memcached_exporter (`exporter`).

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::asking::{self, ask, get};
use crate::server::{Server, command, free_port};
use crate::skip;

/// A node with an admin listener.
pub fn start(options: &[&str]) -> (Server, u16) {
    let port = free_port();
    let mut all = vec!["--admin_port".to_string(), port.to_string()];
    all.extend(options.iter().map(|option| option.to_string()));
    (Server::start(&all.iter().map(String::as_str).collect::<Vec<_>>()), port)
}

/// The sum of the samples of this name with these labels.
pub fn sample(text: &str, name: &str, labels: &str) -> f64 {
    let samples = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let of_labels =
        samples.filter(|line| line.contains(labels)).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    of_labels.sum()
}

/// Asks until an answer is as wanted: boards are written four times a second.
pub fn until(port: u16, path: &str, mut is_wanted: impl FnMut(&asking::Answer) -> bool) -> asking::Answer {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = get(port, path);
        if is_wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{path} never was as wanted, last:\n{} {}", answer.status, answer.body);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_clients_did_is_in_the_metrics() {
    for io in ["auto", "streams"] {
        let (server, port) = start(&["--cores", "2", "--io", io]);
        let mut client = server.connect();
        for key in 0..20 {
            client.ask(format!("set k{key} 0 0 1\r\nx\r\n"), "STORED\r\n");
            client.ask(format!("get k{key}\r\n"), format!("VALUE k{key} 0 1\r\nx\r\nEND\r\n"));
        }
        client.ask("mg no v\r\n", "EN\r\n");
        assert_eq!(get(server.port, "/k1").body, "x");
        let answer = until(port, "/metrics", |answer| sample(&answer.body, "pbcache_gets_total", "") == 22.0);
        assert_eq!(answer.field("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let text = &answer.body;
        assert_eq!(sample(text, "pbcache_gets_total", "result=\"hit\""), 21.0, "{io}");
        assert_eq!(sample(text, "pbcache_stores_total", "result=\"taken\""), 20.0);
        assert_eq!(sample(text, "pbcache_requests_total", "door=\"text\""), 40.0);
        assert_eq!(sample(text, "pbcache_requests_total", "door=\"meta\""), 1.0);
        assert_eq!(sample(text, "pbcache_requests_total", "door=\"http\""), 1.0);
        assert_eq!(sample(text, "pbcache_request_seconds_count", "door=\"text\",op=\"get\""), 20.0);
        assert_eq!(sample(text, "pbcache_request_seconds_bucket", "op=\"store\",le=\"+Inf\""), 20.0);
        let sum_s = sample(text, "pbcache_request_seconds_sum", "op=\"get\"");
        assert!(sum_s > 0.0 && sum_s < 20.0, "{sum_s}");
        assert_eq!(sample(text, "pbcache_items", ""), 20.0);
        assert_eq!(sample(text, "pbcache_connections", ""), 1.0);
        assert_eq!((sample(text, "pbcache_ready", ""), sample(text, "pbcache_cores_listening", "")), (1.0, 2.0));
        assert_eq!(sample(text, "memcached_commands_total", "command=\"get\",status=\"hit\""), 21.0);
        assert!(sample(text, "process_resident_memory_bytes", "") > 1e6 && sample(text, "process_open_fds", "") > 5.0);
    }
}

/// Symptom: `stats reset` made counters of `/metrics` start again, and of a rate over that time half was lost. Cause: it set the counters of
/// the cores to zero. Cure: the control plane remembers what they were.
#[test]
fn a_reset_of_stats_takes_nothing_from_the_metrics() {
    let (server, port) = start(&["--cores", "2"]);
    let mut client = server.connect();
    for key in 0..20 {
        client.ask(format!("set k{key} 0 0 1\r\nx\r\n"), "STORED\r\n");
    }
    until(port, "/metrics", |answer| sample(&answer.body, "pbcache_stores_total", "result=\"taken\"") == 20.0);
    client.ask("stats reset\r\n", "RESET\r\n");
    assert_eq!((client.stat("", "cmd_set"), client.stat("", "total_items")), ("0".into(), "0".into()));
    client.ask("set k0 0 0 1\r\nx\r\n", "STORED\r\n");
    assert_eq!((client.stat("", "cmd_set"), client.stat("", "total_items")), ("1".into(), "1".into()));
    let answer = until(port, "/metrics", |answer| sample(&answer.body, "pbcache_stores_total", "result=\"taken\"") == 21.0);
    assert_eq!(sample(&answer.body, "memcached_items_total", ""), 21.0);
}

#[test]
fn metrics_come_as_open_metrics_where_that_is_asked_for() {
    let (_server, port) = start(&["--cores", "1", "--metrics_compat", "off"]);
    let answer = ask(port, "GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n", "");
    assert_eq!(answer.field("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.body.contains("# TYPE pbcache_gets counter\n") && answer.body.ends_with("# EOF\n"));
    assert!(!answer.body.contains("memcached_"), "--metrics_compat off");
}

/// Prometheus' own judge of metrics.
#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let Ok(_) = Command::new("promtool").arg("--version").output() else {
        return skip::because("promtool is not installed: the metrics are not judged by it");
    };
    let (server, port) = start(&["--cores", "2"]);
    server.connect().ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let text = until(port, "/metrics", |answer| sample(&answer.body, "pbcache_items", "") == 1.0).body;
    let judge = |text: &str| {
        let mut child = Command::new("promtool");
        let mut child = child.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // memcached_exporter's names break rules of style, which are not ours to mend: `uptime_seconds` is a counter without `_total`.
    let own: String = text.lines().filter(|line| !line.contains("memcached_")).map(|line| format!("{line}\n")).collect();
    assert_eq!(judge(&own), (Some(0), String::new()));
    let (code, complaints) = judge(&text);
    assert_ne!(code, Some(1), "cannot be read: {complaints}");
    assert!(complaints.lines().all(|line| line.starts_with("memcached_")), "{complaints}");
    assert_eq!(judge("pbcache_x{ 1\n").0, Some(1), "a mistake is found");
}

#[test]
fn promtool_is_not_left_out_in_silence() {
    skip::fails_without("admin::promtool_finds_nothing_wrong_with_the_metrics", "promtool is not installed");
}

/// Wake-ups of a thread so far, by the kernel's count of the times that it slept.
fn sleeps(server: &Server, thread: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let count = |folder: std::path::PathBuf| {
        let name = std::fs::read_to_string(folder.join("comm")).ok()?;
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        (name.trim() == thread).then(|| line.trim().parse::<u64>().unwrap())
    };
    tasks.filter_map(|task| count(task.ok()?.path())).sum()
}

#[test]
fn a_scrape_wakes_no_core_and_an_idle_listener_never_wakes() {
    let (server, port) = start(&["--cores", "1"]);
    server.connect().ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    // Until it is parked.
    std::thread::sleep(Duration::from_secs(1));
    let (started, before) = (Instant::now(), sleeps(&server, "pbcache-0"));
    let scrapes = 200;
    for _ in 0..scrapes {
        assert_eq!(get(port, "/metrics").status, 200);
    }
    let (seconds, woken) = (started.elapsed().as_secs_f64(), sleeps(&server, "pbcache-0") - before);
    // It looks around once a second by itself, with a few sleeps each time.
    assert!(
        (woken as f64) < 20.0 + 10.0 * seconds && woken < scrapes / 2,
        "{woken} wake-ups in {seconds} s of {scrapes} scrapes"
    );
    std::thread::sleep(Duration::from_millis(300));
    let before = sleeps(&server, "pbcache-admin");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sleeps(&server, "pbcache-admin"), before, "the admin thread wakes while nobody is connected");
}

#[test]
fn a_node_that_is_about_to_end_says_so_and_serves_on() {
    let (mut server, port) = start(&["--cores", "1", "--drain_delay", "2"]);
    assert_eq!((get(port, "/healthz").body.as_str(), get(port, "/readyz").body.as_str()), ("ok\n", "ok\n"));
    server.signal(libc::SIGTERM);
    let answer = until(port, "/readyz", |answer| answer.status == 503);
    assert_eq!(answer.body, "the node is about to end\n");
    assert_eq!(get(port, "/healthz").status, 200, "it is healthy still");
    assert_eq!(sample(&get(port, "/metrics").body, "pbcache_ready", ""), 0.0);
    let mut client = server.connect();
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
}

#[test]
fn a_second_signal_ends_the_delay() {
    let (mut server, port) = start(&["--cores", "1", "--drain_delay", "3600"]);
    server.signal(libc::SIGTERM);
    until(port, "/readyz", |answer| answer.status == 503);
    assert!(server.is_running());
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
}

#[test]
fn strangers_are_turned_away() {
    let (_server, port) = start(&["--cores", "1"]);
    let with = |fields: &str| ask(port, "GET", "/metrics", fields, "").status;
    assert_eq!(with("Host: evil.example.com\r\n"), 421);
    assert_eq!(with("Host: localhost\r\n"), 200);
    assert_eq!(with("Origin: http://evil.example.com\r\n"), 403);
    assert_eq!(with("Sec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(with("Host: localhost\r\nHost: localhost\r\n"), 400);
    assert_eq!(get(port, "/nothing").status, 404);
    let answer = ask(port, "POST", "/metrics", "", "x");
    assert_eq!((answer.status, answer.field("allow")), (405, "GET,HEAD"));
    for answer in [get(port, "/nothing"), get(port, "/metrics")] {
        assert!(answer.field("content-security-policy").starts_with("default-src 'none'"));
        assert_eq!(answer.field("x-content-type-options"), "nosniff");
        assert_eq!(answer.field("access-control-allow-origin"), "");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    assert!(asking::exchange(port, long.as_bytes()).is_none_or(|answer| (400..500).contains(&answer.status)));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(100));
    assert_eq!(asking::exchange(port, many.as_bytes()).map(|answer| answer.status), Some(431));
    assert_eq!(asking::exchange(port, b"get k\r\n\r\n").map(|answer| answer.status), Some(400));
    assert_eq!(get(port, "/healthz").status, 200);
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let (_server, port) = start(&["--cores", "1"]);
    let mut held: Vec<_> = (0..32).map(|_| asking::connect(port)).collect();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        // Those before it may not have been accepted yet.
        match asking::exchange(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") {
            Some(answer) if answer.status == 503 => break,
            _ => assert!(Instant::now() < end, "33 connections are served"),
        }
    }
    held.pop();
    until_served(port);
    // The others say nothing, and are closed for it.
    let mut byte = [0];
    let started = Instant::now();
    assert_eq!(held[0].read(&mut byte).unwrap_or(0), 0);
    assert!(started.elapsed() < Duration::from_secs(15));
}

fn until_served(port: u16) {
    let end = Instant::now() + Duration::from_secs(10);
    while get(port, "/healthz").status != 200 {
        assert!(Instant::now() < end, "no place becomes free");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a node says that does not start, or logs when it does.
fn said(options: &[&str]) -> (Option<i32>, String) {
    let port = free_port();
    let mut child = command(port, options).spawn().unwrap();
    let mut line = [0; 7];
    // Its first line, or the end.
    let listens = child.stdout.take().unwrap().read(&mut line).unwrap() > 0;
    if listens {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    (if listens { None } else { output.status.code() }, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_port_or_address_that_cannot_be_had_is_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text) = said(&["--admin_port", &port]);
    let sentence = format!(
        "pbcache: the admin listener cannot have 127.0.0.1:{port}: the port is in use; choose another --admin_port, or 0 for none.\n"
    );
    assert_eq!((code, text), (Some(2), sentence));
    let token = std::env::temp_dir().join(format!("pbcache-admin-token-{}", std::process::id()));
    std::fs::write(&token, "0123456789abcdef0123\n").unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let token = token.to_str().unwrap();
    let (code, text) = said(&["--admin_port", "24999", "--admin_ip", "192.0.2.1", "--admin_token_file", token]);
    assert_eq!(code, Some(2));
    assert!(
        text.ends_with("this machine has no such address; choose another --admin_ip.\n") && text.lines().count() == 1,
        "{text}"
    );
    let (code, text) = said(&["--admin_port", "24999", "--admin_ip", "0.0.0.0"]);
    let sentence = "pbcache: option --admin_ip 0.0.0.0 is not loopback, and there is no --admin_token_file; give one, or listen on 127.0.0.1.\n";
    assert_eq!((code, text.as_str()), (Some(2), sentence));
    std::fs::set_permissions(token, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (code, text) = said(&["--admin_port", "24999", "--admin_token_file", token]);
    assert_eq!(code, Some(2));
    assert!(text.contains("is open to every user of this machine") && text.lines().count() == 1, "{text}");
    std::fs::remove_file(token).unwrap();
}

#[test]
fn where_the_default_port_is_taken_the_node_goes_on_with_a_line() {
    // Either this test has the port, or somebody else has.
    let _taken = TcpListener::bind("127.0.0.1:11280");
    let port = free_port();
    let mut line = std::process::Command::new(env!("CARGO_BIN_EXE_pbcache"));
    line.args(["--ip", "127.0.0.1", "--port", &port.to_string(), "--cores", "1", "--disable_tuning_hint"]);
    line.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = line.spawn().unwrap();
    let mut first = [0; 7];
    assert_eq!(child.stdout.take().unwrap().read(&mut first).unwrap(), 7);
    // SAFETY: a signal to a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let sentence = "127.0.0.1:11280 is taken: this node has no admin page and no metrics; --admin_port gives it another port";
    assert!(text.lines().count() == 1 && text.contains(sentence), "{text}");
}

/// Names of metrics of ours in a text.
fn names(text: &str) -> std::collections::BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = words.filter(|word| word.starts_with("pbcache_") || word.starts_with("process_"));
    ours.map(String::from).collect()
}

/// The files in `tuning/` ask for metrics that are there, and Prometheus reads the rules.
#[test]
fn the_alert_rules_and_the_dashboard_ask_for_metrics_that_are_there() {
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/alerts.yml");
    let dashboard = include_str!("../../tuning/dashboard.json");
    let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = parsed["panels"].as_array().unwrap();
    let asked: String =
        panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).map(|target| target["expr"].to_string()).collect();
    // Of a ring, so that there are metrics of other nodes too.
    let ring = ["--advertise", "127.0.0.9:5", "--ringnode", "127.0.0.9:5", "--ringnode", "127.0.0.8:5"];
    let (server, port) = start(&[&["--cores", "1"], &ring[..]].concat());
    server.connect().ask("mn\r\n", "MN\r\n");
    server.connect().send("get k\r\n");
    let there = until(port, "/metrics", |answer| answer.body.contains("pbcache_request_seconds_bucket"));
    let there = names(&there.body);
    for (file, text) in [("alerts.yml", std::fs::read_to_string(alerts).unwrap()), ("dashboard.json", asked)] {
        let wanted = names(&text);
        let missing: Vec<_> = wanted.difference(&there).collect();
        assert!(wanted.len() > 8 && missing.is_empty(), "{file} asks for {missing:?}");
    }
    match Command::new("promtool").args(["check", "rules", alerts]).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => skip::because("promtool is not installed: the rules are not judged by it"),
    }
}

#[test]
fn the_page_is_three_small_files_that_load_nothing_else() {
    let (_server, port) = start(&["--cores", "1"]);
    let files = [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")];
    let mut bytes = 0;
    for (path, kind) in files {
        let answer = get(port, path);
        assert_eq!((answer.status, answer.field("content-type")), (200, format!("{kind}; charset=utf-8").as_str()));
        assert!(!answer.body.contains("https://") && !answer.body.contains("style="), "{path}");
        bytes += answer.body.len();
    }
    assert!(bytes <= 64 << 10, "{bytes}");
}

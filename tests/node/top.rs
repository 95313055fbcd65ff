//! `pbcache top` before a running node: once, as JSON, and in a terminal.
//!
//! Lives here: what its user sees. Not here: its lines (`node::top::screen`).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::admin::start;
use crate::server::free_port;

fn top(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pbcache")).arg("top").args(words).stdin(Stdio::null()).output().unwrap()
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[test]
fn without_a_terminal_it_prints_once() {
    let (server, port) = start(&["--cores", "2"]);
    server.connect().ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let output = top(&[&address(port)]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let begins = format!("pbcache 127.0.0.1:{}  version", server.port);
    assert!(text.starts_with(&begins) && text.contains("2 cores") && text.contains("All is well"), "{text}");
    assert!(text.contains("1 items") && text.contains("Commands  ") && text.contains("\nCORE  "), "{text}");
    assert!(!text.contains('\x1b'), "no escape sequences: {text}");
    let output = top(&["--json", "--once", &address(port)]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["node"]["cores"], &told["figures"]["items"]), (&2.into(), &1.into()));
    assert!(told["ring"]["nodes"].is_array());
}

#[test]
fn where_nobody_answers_it_says_so() {
    let output = top(&["--once", &address(free_port())]);
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{sentence}");
    assert!(sentence.starts_with("pbcache: no admin listener answers at 127.0.0.1:"), "{sentence}");
    assert_eq!(top(&["--often"]).status.code(), Some(2));
    let help = top(&["--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"usage: pbcache top"));
}

/// A terminal of 100 columns and 30 rows: the side of whoever looks at it, and the side of the program.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the numbers and the size live across the call; no name and no modes are asked for.
    let result =
        unsafe { libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null(), &raw const size) };
    assert_eq!(result, 0);
    // SAFETY: both were just opened, and belong to nobody else.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

#[test]
fn in_a_terminal_it_goes_on_until_q_and_leaves_the_terminal_as_it_was() {
    let (mut server, port) = start(&["--cores", "1"]);
    let (mut screen, theirs) = terminal();
    let side = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_pbcache"))
        .args(["top", &address(port)])
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    let mut wait_for = |text: &str, seen: &mut String| {
        let end = Instant::now() + Duration::from_secs(20);
        let mut bytes = [0; 4096];
        while !seen.contains(text) {
            assert!(Instant::now() < end, "never shown: {text} in {seen:?}");
            let count = screen.read(&mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    wait_for("\x1b[?1049h", &mut seen);
    wait_for("All is well", &mut seen);
    let rows = seen.rsplit("\x1b[H").find(|frame| frame.contains("All is well")).unwrap();
    assert!(rows.lines().count() <= 30, "{rows:?}");
    // A node that ends is told of; what is on the screen stays.
    server.signal(libc::SIGKILL);
    server.wait(Duration::from_secs(10));
    wait_for("the figures below are old", &mut seen);
    let mut keys = screen.try_clone().unwrap();
    keys.write_all(b"xq").unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "q did not end it");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success());
    let mut bytes = vec![0; 65536];
    let count = screen.read(&mut bytes).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..count]).contains("\x1b[?1049l"), "the first screen is back");
}

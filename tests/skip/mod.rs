//! Tests that cannot run on every machine: skipped with a reason where people work, failed where `CI` is set.
//!
//! A comparison with memcached that silently compares nothing is green on the machine that was meant to make it. So a test that lacks a
//! tool or a permission calls `because`, and a second test proves with `fails_without` that the first one really ends there.
#![allow(dead_code)] // each test uses a part

use std::fmt::Display;
use std::io::Write;
use std::process::{Command, Output};

/// Says why a test is skipped, also where the output of passed tests is not shown.
///
/// # Panics
/// Where `CI` is set.
pub fn because(why: impl Display) {
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(!ci, "nothing may be skipped where CI is set, but {why}");
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by the macro, whose output the test runner keeps for itself.
    let _ = writeln!(std::io::stderr(), "skipped {name}: {why}");
}

/// Runs a test of this program again where no command can be found: with `CI` it must fail, and say `sentence`; without, it must pass
/// and say the same.
pub fn fails_without(test: &str, sentence: &str) {
    for (ci, passes) in [("true", false), ("", true)] {
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.args([test, "--exact", "--test-threads", "1"]).env("CI", ci);
        again.env("PATH", "/nonexistent").env_remove("MEMCACHED");
        let Output { status, stdout, stderr } = again.output().expect("this program starts");
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(said.contains("running 1 test"), "{test}: {said}");
        assert_eq!(status.success(), passes, "{test} with CI={ci}: {said}");
        assert!(said.contains(sentence), "{test} with CI={ci} does not say `{sentence}`: {said}");
    }
}

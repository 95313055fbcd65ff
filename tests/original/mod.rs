//! The original: the memcached against which expectations are checked.
//!
//! ```text
//!   MEMCACHED=/path/to/memcached      one of your own building; otherwise the one that is installed
//! ```
//!
//! Where there is none, what would be checked against it is skipped aloud, and in CI it is an error (`skip`).
#![allow(dead_code)] // each test uses a part

use std::io::Write;
use std::process::Command;
use std::sync::OnceLock;

use crate::skip;

/// A release, such as 1.6.45.
pub type Version = [u32; 3];

/// A memcached that can be started.
pub struct Original {
    pub program: String,
    pub version: Version,
}

/// The memcached of this run, if there is one.
pub fn original() -> Option<&'static Original> {
    static FOUND: OnceLock<Option<Original>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref()
}

fn find() -> Option<Original> {
    let named = std::env::var("MEMCACHED").ok();
    let program = named.clone().unwrap_or_else(|| "memcached".into());
    let answer = Command::new(&program).arg("-V").output();
    if let Ok(answer) = answer
        && let Some(version) = String::from_utf8_lossy(&answer.stdout).split_whitespace().nth(1).and_then(parse)
    {
        return Some(Original { program, version });
    }
    if let Some(program) = named {
        panic!("MEMCACHED names {program}, which does not tell its version when asked with -V");
    }
    skip::because("memcached is not installed (nor named in MEMCACHED): expectations are not checked against the original");
    None
}

/// A release in words, as `1.6.45` or `1.6.45-dirty`.
pub fn parse(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-', '_']).map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Says a sentence even where the test passes, when what is printed is kept back.
pub fn say(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "{sentence}");
}

pub fn show([major, minor, patch]: Version) -> String {
    format!("{major}.{minor}.{patch}")
}

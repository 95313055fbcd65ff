//! Whole nodes as processes on loopback: abuse, limits, life and death.
//!
//! Each test starts its own node on a free port and ends it by its process id. Every wait is bounded.
//!
//! Lives here: what only a running process can show. Not here: protocol behaviour (`transcripts`), options (`options`).
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

mod abuse;
mod admin;
mod admin_abuse;
mod api;
mod asking;
mod exporter;
mod http;
mod items;
mod life;
mod memcached;
mod memory;
#[path = "../original/mod.rs"]
mod original;
mod others;
mod process;
#[path = "../random/mod.rs"]
mod random;
mod restart;
mod sandbox;
mod server;
#[path = "../skip/mod.rs"]
mod skip;
mod stats;
mod steering;
mod top;
mod watch;

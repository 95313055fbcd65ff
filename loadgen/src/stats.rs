//! What the server says of itself: its `stats`, asked over a connection of our own in the text protocol.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::target::Target;

/// Names and values of a `stats` answer.
pub type Stats = BTreeMap<String, String>;

/// Asks for `stats` or one of its sub-commands; `None` if the server does not answer so in a second.
pub fn read(target: &Target, sub_command: &str) -> Option<Stats> {
    let socket = target.connect(PATIENCE).ok()?;
    let command = if sub_command.is_empty() { "stats\r\n".to_owned() } else { format!("stats {sub_command}\r\n") };
    let (done, answer) = channel();
    // A thread of its own, because the socket is in blocking mode and the server may never answer.
    std::thread::spawn(move || done.send(exchange(socket, &command)));
    answer.recv_timeout(PATIENCE).ok().flatten()
}

fn exchange(socket: OwnedFd, command: &str) -> Option<Stats> {
    let mut socket = File::from(socket);
    socket.write_all(command.as_bytes()).ok()?;
    let mut stats = Stats::new();
    for line in BufReader::new(socket).lines().take(LINES_MAX) {
        let line = line.ok()?;
        if line.trim_end() == "END" {
            return Some(stats);
        }
        let (name, value) = line.strip_prefix("STAT ")?.trim_end().split_once(' ')?;
        stats.insert(name.to_owned(), value.to_owned());
    }
    None
}

/// How much each number has grown, where it has.
pub fn growth(before: &Stats, after: &Stats) -> BTreeMap<String, f64> {
    let number = |text: &String| text.parse::<f64>().ok();
    let grown = after.iter().filter_map(|(name, value)| {
        let growth = number(value)? - number(before.get(name)?)?;
        (growth != 0.0).then(|| (name.clone(), growth))
    });
    grown.collect()
}

/// Whether nothing but the client's own commands can have taken items away: one process all along, that neither evicted nor
/// was flushed.
pub fn kept_everything(before: &Stats, after: &Stats) -> bool {
    let same = |name: &str| before.get(name).is_some() && before.get(name) == after.get(name);
    same("pid") && same("evictions") && same("cmd_flush")
}

const PATIENCE: Duration = Duration::from_secs(1);
const LINES_MAX: usize = 10_000;

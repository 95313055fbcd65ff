//! How many instructions do the hot functions take?
//!
//! Unit: instructions per call, counted by valgrind's callgrind, so the same on every run and every busy machine; seconds are in
//! the other benches. Workload: a core without sockets, 1,000 items of 100 bytes, everything in the first-level cache; each line is
//! a child process of this program under callgrind with two numbers of calls, and the figure is the difference over the calls.
//!
//! Would change our mind: a line that grows by a tenth without a reason in the commit.
//!
//! Environment: CALLS (20,000). Without valgrind it says so and measures nothing.
#![allow(clippy::disallowed_methods)] // a bench starts processes

mod bare;
#[path = "../tests/skip/mod.rs"]
mod skip;

use std::hint::black_box;
use std::process::Command;

use bare::{cores, fill, key, setting};
use pbcache::buffer::Buffer;
use pbcache::command::{Command as Request, Get, Reply, Value, Verb};
use pbcache::key::Key;
use pbcache::protocol::{Options, Session, Step};

/// Name, calls per repetition, what is repeated.
type Line = (&'static str, fn(u64) -> u64);

const LINES: [Line; 12] = [
    ("hash of a 16-byte key", |calls| {
        (0..calls).map(|_| Key::new(black_box(b"key:000000000007")).hash).fold(0, u64::wrapping_add)
    }),
    ("parse get", |calls| parse(calls, b"get key:000000000007\r\n")),
    ("parse mg v", |calls| parse(calls, b"mg key:000000000007 v\r\n")),
    ("parse HTTP get of curl", |calls| parse(calls, HTTP_GET.replace("{}", "key:000000000007").as_bytes())),
    ("engine get, a hit", |calls| engine(calls, b"key:000000000007")),
    ("engine get, a miss", |calls| engine(calls, b"absent:000000007")),
    ("core: get, alone", |calls| core(1, calls, 1, "get {}\r\n")),
    ("core: get, 16 at once", |calls| core(1, calls, 16, "get {}\r\n")),
    ("core: set of 100 bytes, 16 at once", |calls| core(1, calls, 16, "set {} 0 0 100\r\nV\r\n")),
    ("core: HTTP get, alone", |calls| core(1, calls, 1, HTTP_GET)),
    ("core: HTTP get, 16 at once", |calls| core(1, calls, 16, HTTP_GET)),
    ("two cores: get, 16 at once", |calls| core(2, calls, 16, "get {}\r\n")),
];

const HTTP_GET: &str = "GET /{} HTTP/1.1\r\nHost: localhost:11211\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    if let (Some(line), Some(calls)) = (words.next(), words.next()) {
        let (_, run) = LINES[line.parse::<usize>().expect("a line")];
        black_box(run(calls.parse().expect("calls")));
        return;
    }
    let calls = setting("CALLS", 20_000, 160);
    if Command::new("valgrind").arg("--version").output().is_err() {
        return skip::because("valgrind is not installed: nothing is counted");
    }
    println!("{:<44} {:>14}", "", "instructions");
    for (number, (name, _)) in LINES.iter().enumerate() {
        let (few, many) = (count(number, calls), count(number, 3 * calls));
        println!("{name:<44} {:>14.1}", (many - few) as f64 / (2 * calls) as f64);
    }
}

/// Instructions of a child process that makes so many calls.
fn count(line: usize, calls: u64) -> u64 {
    let own = std::env::current_exe().expect("this program");
    let mut child = Command::new("valgrind");
    child.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(own).args([line.to_string(), calls.to_string()]);
    let output = child.output().expect("valgrind starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = text.lines().find_map(|line| line.split_once("Collected :")).unwrap_or_else(|| panic!("{text}"));
    collected.1.trim().parse().expect("a number of instructions")
}

fn parse(calls: u64, request: &[u8]) -> u64 {
    let mut session = Session::new(Options::default());
    (0..calls)
        .map(|_| match session.step(black_box(request)) {
            Step::Command { command, .. } => command.key.hash,
            other => panic!("a command, not {other:?}"),
        })
        .fold(0, u64::wrapping_add)
}

fn engine(calls: u64, key: &[u8]) -> u64 {
    let mut cores = cores(1, 16 << 20);
    fill(&mut cores, 1_000);
    let core = &mut cores[0];
    let command = Request { key: Key::new(key), verb: Verb::Get(Get::default()), value: Value::EMPTY };
    (0..calls)
        .filter(|_| matches!(core.context.shard.engine.execute(black_box(&command), core.context.now), Reply::Item(_)))
        .count() as u64
}

fn core(count: u16, calls: u64, depth: u64, form: &str) -> u64 {
    let mut cores = cores(count, 16 << 20);
    fill(&mut cores, 1_000);
    let id = cores[0].open(None, Vec::new(), None);
    let mut output = Buffer::with_capacity(1 << 16);
    let request = |number: u64| form.replace("{}", &key(number * 37 % 1_000)).replace('V', &"v".repeat(100));
    let piece: String = (0..depth).map(request).collect();
    let mut sum = 0;
    for _ in 0..calls / depth {
        output.clear();
        cores[0].receive(id, piece.as_bytes(), &mut output);
        bare::turn(&mut cores, id, &mut output);
        sum += output.bytes.len() as u64;
    }
    sum
}

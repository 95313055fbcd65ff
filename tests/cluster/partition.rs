//! A network that is silently cut in two, by network namespaces. Skipped, with the reason, where they may not be made; not in CI.
//!
//! ```text
//!   namespace of the hub:   bridge ---- veth ---- namespace of node 0   10.99.0.1
//!                             |-------- veth ---- namespace of node 1   10.99.0.2       cut: the hub's end is set down
//!                             +-------- veth ---- namespace of node 2   10.99.0.3
//! ```

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::ring::PORT;
use super::skip;

/// Namespaces that are taken down again whatever happens.
struct Net {
    prefix: String,
    nodes: usize,
    children: Vec<Child>,
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Net {
    fn new(nodes: usize) -> Result<Self, String> {
        let net = Self { prefix: format!("pb{}", std::process::id() % 100_000), nodes, children: Vec::new() };
        let hub = net.name(nodes);
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add hub type bridge"))?;
        ip(&format!("-n {hub} link set hub up"))?;
        for node in 0..nodes {
            let space = net.name(node);
            ip(&format!("netns add {space}"))?;
            ip(&format!("-n {hub} link add v{node} type veth peer name eth0 netns {space}"))?;
            ip(&format!("-n {hub} link set v{node} master hub up"))?;
            ip(&format!("-n {space} addr add {}/24 dev eth0", address(node)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(net)
    }

    fn name(&self, node: usize) -> String {
        format!("{}n{node}", self.prefix)
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(node), env!("CARGO_BIN_EXE_pbcache")]);
        command.args([
            "--cores",
            "1",
            "--memory_size",
            "32",
            "--redundancy",
            "2",
            "--ip",
            &address(node),
            "--port",
            &PORT.to_string(),
        ]);
        for other in 0..self.nodes {
            command.args(["--ringnode", &format!("{}:{PORT}", address(other))]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).map_err(|error| error.to_string())?;
        self.children.push(child);
        if line.is_empty() { Err("the node does not start in a namespace".into()) } else { Ok(()) }
    }

    /// Cuts a node off, or lets it in again. Nobody is told.
    fn set(&self, node: usize, state: &str) {
        ip(&format!("-n {} link set v{node} {state}", self.name(self.nodes))).unwrap();
    }

    /// Says something to a node, from within its own namespace, and returns what it says within a time.
    fn say(&self, node: usize, text: &str, seconds: u32) -> String {
        let script = "exec 3<>/dev/tcp/$0/$1; cat >&3; cat <&3";
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.name(node),
            "timeout",
            &seconds.to_string(),
            "bash",
            "-c",
            script,
            &address(node),
            &PORT.to_string(),
        ]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{text}quit\r\n").as_bytes()).unwrap();
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    }
}

fn address(node: usize) -> String {
    format!("10.99.0.{}", 1 + node)
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        (0..=self.nodes).for_each(|node| _ = ip(&format!("netns del {}", self.name(node))));
    }
}

#[test]
fn both_sides_of_a_silent_partition_go_on_and_agree_afterwards() {
    let mut net = match Net::new(3) {
        Ok(net) => net,
        Err(why) => return skip::because(format!("no network namespaces can be made: {why}")),
    };
    for node in 0..3 {
        net.start(node).unwrap();
    }
    let sets = |tag: &str| {
        (0..30)
            .map(|number| format!("set k{number} 0 0 {}\r\n{tag}{number}\r\n", format!("{tag}{number}").len()))
            .collect::<String>()
    };
    let gets: String = (0..30).map(|number| format!("get k{number}\r\n")).collect();
    let count = |answer: &str, part: &str| answer.matches(part).count();
    assert_eq!(count(&net.say(0, &sets("a"), 10), "STORED"), 30);
    assert_eq!(count(&net.say(2, &gets, 10), "VALUE"), 30);
    net.set(2, "down");
    // Both sides find out, each for itself, and go on.
    let (left, right) = (net.say(0, &sets("left"), 20), net.say(2, &sets("right"), 20));
    assert!(count(&left, "STORED") >= 25, "{left}");
    assert!(count(&right, "STORED") >= 25, "{right}");
    assert_eq!(count(&net.say(0, &sets("left"), 20), "STORED"), 30);
    assert_eq!(count(&net.say(2, &sets("right"), 20), "STORED"), 30);
    net.set(2, "up");
    std::thread::sleep(Duration::from_secs(2));
    for node in 0..3 {
        let told = net.say(node, "stats handoff wait 30\r\n", 40);
        assert!(told.contains("STAT settled yes"), "node {node}: {told}");
    }
    let seen: Vec<String> = (0..3).map(|node| net.say(node, &gets, 10)).collect();
    assert_eq!(count(&seen[0], "VALUE"), 30);
    assert!(seen[0] == seen[1] && seen[1] == seen[2], "{seen:?}");
    assert_eq!(count(&seen[0], "right"), 30, "the later of two conflicting writes stays");
}

#[test]
fn the_silent_partition_is_not_left_out_in_silence() {
    let test = "partition::both_sides_of_a_silent_partition_go_on_and_agree_afterwards";
    skip::fails_without(test, "no network namespaces can be made: ip");
}

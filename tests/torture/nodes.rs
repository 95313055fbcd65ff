//! Node processes of one ring: started, killed, stopped and asked for their statistics. They end with this process, whatever ends it.
//!
//! Lives here: processes, and one connection at a time for questions. Not here: clients (`clients`), when what is done (`plan`).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::plan::Shape;
use super::ways::Ways;

/// Every node listens here, each on an address of its own.
const PORT: u16 = 21411;
/// Rings so far: each has addresses of its own, so that what one leaves behind does not meet the next.
static RINGS: AtomicU32 = AtomicU32::new(0);
/// Answers of a node that is asked for statistics come within this, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections at once after which no core of a node has none of them: more than a core's links and those to it.
const CONNECTIONS_TO_ALL: usize = 32;

/// Nodes that form a ring.
pub struct Nodes {
    pub addresses: Vec<SocketAddr>,
    arguments: Vec<Vec<String>>,
    children: Vec<Option<Child>>,
    logs: PathBuf,
    starts: u32,
}

/// Addresses that nobody uses.
pub fn addresses(count: usize) -> Vec<SocketAddr> {
    let process = std::process::id();
    for _ in 0..250 {
        let ring = RINGS.fetch_add(1, Ordering::Relaxed);
        let third = ((process / 60).wrapping_add(ring)) % 250;
        let address = |node| Ipv4Addr::new(127, 192 + (process % 60) as u8, third as u8, 1 + node as u8);
        let addresses: Vec<SocketAddr> = (0..count).map(|node| SocketAddr::new(IpAddr::V4(address(node)), PORT)).collect();
        if addresses.iter().all(|address| TcpListener::bind(address).is_ok()) {
            return addresses;
        }
    }
    panic!("no free addresses for {count} nodes");
}

impl Nodes {
    /// Starts all nodes; each reaches the others by the ways. `folder` takes their logs.
    pub fn start(shape: &Shape, addresses: Vec<SocketAddr>, ways: &Ways, folder: &Path) -> Self {
        let count = addresses.len();
        let secret = shape.secret.then(|| folder.join("secret"));
        secret
            .iter()
            .for_each(|path| std::fs::write(path, "what only the nodes of this ring know").expect("a file for the secret"));
        let arguments = |node| {
            let secret = secret.iter().map(|path| format!("--cluster_secret_file={}", path.display()));
            arguments(shape, &addresses, ways, node).into_iter().chain(secret).collect()
        };
        let arguments = (0..count).map(arguments).collect();
        let children = (0..count).map(|_| None).collect();
        let mut nodes = Self { addresses, arguments, children, logs: folder.into(), starts: 0 };
        (0..count).for_each(|node| nodes.start_one(node));
        nodes
    }

    /// Starts a node that is not running: empty. Waits until it listens.
    pub fn start_one(&mut self, node: usize) {
        assert!(self.children[node].is_none(), "node {node} runs");
        self.starts += 1;
        let log = self.logs.join(format!("node{node}-{}.log", self.starts));
        let mut command = Command::new(program());
        command.args(&self.arguments[node]).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(&log).expect("a file for the log"));
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("the node's program");
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        self.children[node] = Some(child);
        assert!(read.is_ok() && !line.is_empty(), "node {node} does not start, see {}", log.display());
    }

    fn signal(&self, node: usize, signal: i32) {
        let Some(child) = &self.children[node] else { return };
        // SAFETY: a signal to a process that this one started and has not waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
    }

    pub fn stop(&self, node: usize) {
        self.signal(node, libc::SIGSTOP);
    }

    pub fn resume(&self, node: usize) {
        self.signal(node, libc::SIGCONT);
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.children[node].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Nodes that have ended by themselves: which, and how.
    pub fn ended(&mut self) -> Vec<(usize, String)> {
        let status = |child: &mut Child| child.try_wait().ok().flatten().map(|status| status.to_string());
        let ended = |(node, child): (usize, &mut Option<Child>)| Some((node, status(child.as_mut()?)?));
        self.children.iter_mut().enumerate().filter_map(ended).collect()
    }

    /// What `stats` and this group tell, in order.
    ///
    /// # Errors
    /// The node does not answer, or not with statistics.
    pub fn stats(&self, node: usize, group: &str) -> Result<Vec<(String, String)>, String> {
        let text = self.say(node, &format!("stats {group}\r\n"), "END\r\n")?;
        let line = |line: &str| {
            let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
            Some((name.to_string(), value.to_string()))
        };
        let stats: Vec<(String, String)> = text.lines().filter_map(line).collect();
        if stats.is_empty() { Err(format!("node {node}: stats {group}: {text}")) } else { Ok(stats) }
    }

    /// Keys that a node holds itself, each with its version and the second at which its time is over (-1: never).
    ///
    /// # Errors
    /// The node does not answer, or not with a dump.
    pub fn held(&self, node: usize) -> Result<Vec<(String, u64, i64)>, String> {
        let text = self.say(node, "lru_crawler metadump all\r\n", "END\r\n")?;
        let item = |line: &str| {
            let part = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
            Some((part("key=")?.replace("%3A", ":"), part("cas=")?.parse().ok()?, part("exp=")?.parse().ok()?))
        };
        let lines = text.lines().filter(|line| *line != "END");
        lines.map(|line| item(line).ok_or_else(|| format!("node {node}: metadump: {line}"))).collect()
    }

    /// Has every core of a node read these keys. A new connection goes to the core that has fewest, so many are open at once.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn read_on_all_cores(&self, node: usize, keys: &[String]) -> Result<(), String> {
        let text = format!("get {}\r\n", keys.join(" "));
        let streams: Result<Vec<TcpStream>, String> = (0..CONNECTIONS_TO_ALL).map(|_| self.connect(node)).collect();
        let mut streams = streams?;
        let failed = |why: String| format!("node {node}: {why}");
        streams
            .iter_mut()
            .try_for_each(|stream| stream.write_all(text.as_bytes()))
            .map_err(|error| failed(error.to_string()))?;
        streams.iter_mut().try_for_each(|stream| answer(stream, "END\r\n").map(|_| ())).map_err(failed)
    }

    fn connect(&self, node: usize) -> Result<TcpStream, String> {
        let stream =
            TcpStream::connect(self.addresses[node]).map_err(|error| format!("node {node} does not listen: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(stream)
    }

    /// Says something on a connection of its own and returns what is answered up to `end`.
    fn say(&self, node: usize, text: &str, end: &str) -> Result<String, String> {
        let mut stream = self.connect(node)?;
        let said = stream.write_all(text.as_bytes()).map_err(|error| error.to_string());
        said.and_then(|()| answer(&mut stream, end)).map_err(|why| format!("node {node}, asked {:?}: {why}", text.trim_end()))
    }
}

/// What comes up to `end`.
fn answer(stream: &mut TcpStream, end: &str) -> Result<String, String> {
    let (mut answer, mut piece) = (Vec::new(), [0; 16 << 10]);
    while !answer.ends_with(end.as_bytes()) {
        match stream.read(&mut piece).map_err(|error| error.to_string())? {
            0 => return Err("closed instead of answering".into()),
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

impl Drop for Nodes {
    fn drop(&mut self) {
        (0..self.children.len()).for_each(|node| self.kill(node));
    }
}

/// The program under test: this build's, unless the environment names another one.
fn program() -> PathBuf {
    std::env::var_os("TORTURE_NODE").map_or_else(|| env!("CARGO_BIN_EXE_pbcache").into(), PathBuf::from)
}

fn arguments(shape: &Shape, addresses: &[SocketAddr], ways: &Ways, node: usize) -> Vec<String> {
    let own = addresses[node];
    let mut arguments: Vec<String> = vec![
        format!("--ip={}", own.ip()),
        format!("--port={}", own.port()),
        format!("--node_id=n{node}"),
        format!("--cores={}", shape.cores[node]),
        format!("--redundancy={}", shape.redundancy),
        "--memory_size=64".into(),
        "--handoff_rate=0".into(),
        "--verbose".into(),
    ];
    for other in 0..addresses.len() {
        let address = if other == node { own } else { ways.address(node, other) };
        arguments.push(format!("--ringnode={address}/id=n{other}"));
    }
    arguments
}

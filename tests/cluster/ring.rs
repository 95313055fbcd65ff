//! A ring of node processes, and a client for one of them.
//!
//! Lives here: start, stop, ask. Not here: what is expected (`main`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Every node listens here, each on an address of its own.
pub const PORT: u16 = 21411;

/// Makes the addresses of a ring different from those of the others of this process, and of most other processes.
static RINGS: AtomicU32 = AtomicU32::new(0);

/// Nodes that form a ring.
pub struct Ring {
    options: Vec<String>,
    addresses: Vec<String>,
    children: Vec<Mutex<Child>>,
}

/// The value that a key is given: it names the key.
pub fn value_of(key: &str) -> String {
    format!("{key}={}", "v".repeat(key.len() % 7))
}

/// Addresses for the nodes of a ring that nobody else uses.
pub fn addresses(nodes: usize) -> Vec<String> {
    let ring = RINGS.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    (0..nodes)
        .map(|node| {
            format!("127.{}.{}.{}", 64 + process % 128, process / 128 % 200 + ring % 50, 1 + node + 10 * (ring as usize % 20))
        })
        .collect()
}

/// Starts the program and waits for the line that says that it listens; without one, what it says instead.
pub fn start(address: &str, options: &[String]) -> Result<Child, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pbcache"));
    command.args(["--ip", address, "--port", &PORT.to_string(), "--memory_size", "64", "--handoff_rate", "0"]).args(options);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut errors = child.stderr.take().unwrap();
    if line.is_empty() {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        return Err(text);
    }
    // What is logged must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    Ok(child)
}

impl Ring {
    pub fn start(nodes: usize, options: &[&str]) -> Self {
        let addresses = addresses(nodes);
        let mut all: Vec<String> = options.iter().map(|option| option.to_string()).collect();
        for address in &addresses {
            all.extend(["--ringnode".to_string(), format!("{address}:{PORT}")]);
        }
        let children = addresses.iter().map(|address| Mutex::new(start(address, &all).unwrap())).collect();
        Self { options: all, addresses, children }
    }

    /// A node that founds a ring; others join it by `join`.
    pub fn found(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
        let addresses = addresses(1);
        let children = vec![Mutex::new(start(&addresses[0], &options).unwrap())];
        Self { options, addresses, children }
    }

    /// One node more, which knows another one. Returns when it listens.
    pub fn join(&mut self, seed: usize, options: &[&str]) -> usize {
        let (prefix, first) = self.addresses[0].rsplit_once('.').unwrap();
        let address = format!("{prefix}.{}", first.parse::<usize>().unwrap() + self.addresses.len());
        let mut all = self.options.clone();
        all.extend(options.iter().map(|option| option.to_string()));
        all.extend(["--join".to_string(), self.id(seed)]);
        self.children.push(Mutex::new(start(&address, &all).unwrap()));
        self.addresses.push(address);
        self.addresses.len() - 1
    }

    /// What all nodes are started with from here on.
    pub fn options_of_all(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| option.to_string()).collect();
    }

    /// The same ring for clients alone: it ends no process.
    pub fn clients_only(&self) -> Self {
        Self { options: Vec::new(), addresses: self.addresses.clone(), children: Vec::new() }
    }

    /// What `pbcache ring` says at a node, and its exit code.
    pub fn operate(&self, node: usize, words: &[&str]) -> (String, i32) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pbcache"));
        let output = command.arg("ring").args(words).args(["--node", &self.id(node)]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    }

    /// Whether a process has ended by itself, within a time.
    pub fn has_ended(&self, node: usize, wait: Duration) -> bool {
        let deadline = std::time::Instant::now() + wait;
        while std::time::Instant::now() < deadline {
            if self.children[node].lock().unwrap().try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub fn id(&self, node: usize) -> String {
        format!("{}:{PORT}", self.addresses[node])
    }

    pub fn connect(&self, node: usize) -> Client {
        Client::new(TcpStream::connect(self.id(node)).unwrap())
    }

    pub fn signal(&self, node: usize, signal: i32) {
        let pid = self.children[node].lock().unwrap().id() as i32;
        // SAFETY: a signal to a process that this test started and has not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// kill -9.
    pub fn kill(&self, node: usize) {
        let mut child = self.children[node].lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a node again that was killed: empty.
    pub fn restart(&mut self, node: usize) {
        // The sockets of a process that was killed may outlive it for a moment.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let child = loop {
            match start(&self.addresses[node], &self.options) {
                Err(text) if text.contains("the port is in use") && std::time::Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                started => break started.unwrap(),
            }
        };
        self.children[node] = Mutex::new(child);
    }

    /// Every one of these nodes has every one of these keys.
    #[track_caller]
    pub fn expect_all(&self, nodes: &[usize], keys: &[String]) {
        for &node in nodes {
            let mut client = self.connect(node);
            let missing: Vec<&String> = keys.iter().filter(|key| client.get(key) != Some(value_of(key))).collect();
            assert!(
                missing.is_empty(),
                "node {node} lacks {} of {} keys: {:?}",
                missing.len(),
                keys.len(),
                &missing[..missing.len().min(5)]
            );
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for child in &mut self.children {
            let child = child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client with bounded waits.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(70))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// A request, and the one line that answers it.
    pub fn line(&mut self, request: &str) -> String {
        self.send(request.as_bytes());
        self.read_line()
    }

    pub fn set(&mut self, key: &str) -> String {
        let value = value_of(key);
        self.line(&format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()))
    }

    pub fn get(&mut self, key: &str) -> Option<String> {
        self.get_many(&[key.to_string()]).pop().map(|(_, value)| value)
    }

    /// The keys that are there, with their values.
    pub fn get_many(&mut self, keys: &[String]) -> Vec<(String, String)> {
        self.send(format!("get {}\r\n", keys.join(" ")).as_bytes());
        let mut found = Vec::new();
        loop {
            let line = self.read_line();
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["END"] => return found,
                ["VALUE", key, _, bytes] => {
                    let bytes: usize = bytes.parse().unwrap();
                    let mut value = self.read_bytes(bytes + 2);
                    value.truncate(bytes);
                    found.push((key.to_string(), String::from_utf8(value).unwrap()));
                }
                _ => panic!("{line}"),
            }
        }
    }

    pub fn meta_get(&mut self, key: &str) -> Option<String> {
        let line = self.line(&format!("mg {key} v\r\n"));
        let bytes: usize = line.strip_prefix("VA ")?.parse().unwrap();
        let mut value = self.read_bytes(bytes + 2);
        value.truncate(bytes);
        String::from_utf8(value).ok()
    }

    pub fn binary_get(&mut self, key: &str) -> Option<String> {
        let mut request = vec![0x80, 0];
        request.extend_from_slice(&(key.len() as u16).to_be_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(&(key.len() as u32).to_be_bytes());
        request.extend_from_slice(&[0; 12]);
        request.extend_from_slice(key.as_bytes());
        self.send(&request);
        let head = self.read_bytes(24);
        let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let body = self.read_bytes(length);
        (head[6..8] == [0, 0]).then(|| String::from_utf8(body[4..].to_vec()).unwrap())
    }

    /// The CAS token of a key.
    pub fn gets(&mut self, key: &str) -> Option<u64> {
        let line = self.line(&format!("gets {key}\r\n"));
        let words: Vec<&str> = line.split(' ').collect();
        let ["VALUE", _, _, bytes, token] = words[..] else { return None };
        self.read_bytes(bytes.parse::<usize>().unwrap() + 2);
        assert_eq!(self.read_line(), "END");
        token.parse().ok()
    }

    pub fn stats(&mut self, group: &str) -> Vec<(String, String)> {
        self.send(format!("{}\r\n", format!("stats {group}").trim_end()).as_bytes());
        let mut stats = Vec::new();
        loop {
            let line = self.read_line();
            if line == "END" {
                return stats;
            }
            let rest = line.strip_prefix("STAT ").unwrap_or_else(|| panic!("{line}"));
            let (name, value) = rest.split_once(' ').unwrap();
            stats.push((name.into(), value.into()));
        }
    }

    pub fn stat(&mut self, group: &str, name: &str) -> String {
        let stats = self.stats(group);
        stats.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name} in {stats:?}")).1.clone()
    }

    /// Waits until nothing is on its way to or from this node.
    pub fn settled(&mut self, seconds: u32) -> String {
        self.stat(&format!("handoff wait {seconds}"), "settled")
    }

    /// What comes until the other side closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }
}

//! Misses of pbcache and of memcached under the same look-aside load, both running, with equal resident memory.
//!
//! ```text
//!   thread 1: 32 keys, the misses stored --> pbcache   --cores 1 --memory_size M
//!   thread 2: the same keys in turn      --> memcached -t 1 -m M'      M' so that both are as large when full
//! ```
//!
//! Unit: misses per read in the second half of the requests (`PBCACHE_REQUESTS`, 6,000,000). The workloads are those of
//! `hit_ratio`, with real clocks: rows with times to live run at 40,000 requests a second, four times as fast as there, with times
//! a quarter as long, for 150 s. memcached's crawler looks for expired items at its own pace, up to an hour apart: a short run
//! flatters whoever is quicker. `PBCACHE_SCALE` (1) multiplies memory, keys, requests and rate: with 4, the 7 MiB that a process of
//! ours takes beside its items weigh less. `PBCACHE_DATA` as in `hit_ratio`. Needs `memcached`; without it, and without `--bench`,
//! nothing is measured.
//!
//! Would change our mind: a ratio above those that the engine's record names as to be reached.

#![allow(clippy::disallowed_methods)] // a bench looks at the clock

mod lookaside;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lookaside::{Random, VALUE_BYTES_MAX, Workload, Zipf};

const BATCH: usize = 32;
/// By how much rows with times to live are sped up.
const HASTE: i64 = 4;

/// A server that ends with this value.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(name: &str, mib: usize, port: u16) -> Self {
        let (port_text, mib) = (port.to_string(), mib.to_string());
        let mut command = match name {
            "pbcache" => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_pbcache"));
                command.args(["--cores", "1", "--memory_size", &mib, "--ip", "127.0.0.1", "--port", &port_text]);
                command
            }
            _ => {
                let mut command = Command::new("memcached");
                command.args(["-t", "1", "-m", &mib, "-l", "127.0.0.1", "-p", &port_text, "-U", "0", "-u", "nobody"]);
                command
            }
        };
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let server = Self { child, port };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{name} does not listen");
    }

    fn resident_mib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("resident memory");
        line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("KiB") / 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that asks for batches of keys and stores what it missed.
struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    /// Stores of the batch before, then the next get.
    out: Vec<u8>,
    value: Vec<u8>,
}

impl Client {
    fn new(port: u16) -> Self {
        let writer = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        writer.set_nodelay(true).expect("a socket");
        let reader = BufReader::with_capacity(1 << 20, writer.try_clone().expect("a socket"));
        Self { reader, writer, out: Vec::new(), value: vec![b'v'; VALUE_BYTES_MAX] }
    }

    /// Asks for keys, calls `missed` for each that is absent, and gets the length and time to live of what is to be stored then.
    fn ask(&mut self, keys: &[u64], mut missed: impl FnMut(u64) -> (usize, i64)) {
        self.out.extend_from_slice(b"get");
        for key in keys {
            write!(self.out, " key:{key:012}").expect("memory");
        }
        self.out.extend_from_slice(b"\r\n");
        self.writer.write_all(&self.out).expect("the server reads");
        self.out.clear();
        let mut found = Vec::with_capacity(keys.len());
        let mut line = String::new();
        loop {
            line.clear();
            self.reader.read_line(&mut line).expect("an answer");
            let Some(rest) = line.strip_prefix("VALUE key:") else {
                assert_eq!(line, "END\r\n");
                break;
            };
            let mut words = rest.split_ascii_whitespace();
            let key: u64 = words.next().and_then(|word| word.parse().ok()).expect("a key");
            let bytes: u64 = words.nth(1).and_then(|word| word.parse().ok()).expect("a length");
            std::io::copy(&mut (&mut self.reader).take(bytes + 2), &mut std::io::sink()).expect("a value");
            found.push(key);
        }
        let mut found = found.into_iter().peekable();
        for &key in keys {
            if found.next_if_eq(&key).is_some() {
                continue;
            }
            let (bytes, ttl) = missed(key);
            write!(self.out, "set key:{key:012} 0 {ttl} {bytes} noreply\r\n").expect("memory");
            self.out.extend_from_slice(&self.value[..bytes]);
            self.out.extend_from_slice(b"\r\n");
        }
        assert!(found.peek().is_none(), "an answer that was not asked for");
    }
}

/// Misses per read in the second half.
fn look_aside(port: u16, workload: &Workload, zipf: &Zipf, requests: u64) -> f64 {
    let mut client = Client::new(port);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut misses, mut counted) = (0u64, 0u64);
    let started = Instant::now();
    for batch in 0..requests / BATCH as u64 {
        let keys: [u64; BATCH] = std::array::from_fn(|_| zipf.rank(&mut random));
        let counts = batch >= requests / BATCH as u64 / 2;
        if workload.rate > 0 {
            let due = Duration::from_secs_f64((batch * BATCH as u64) as f64 / (workload.rate * HASTE as u64) as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        client.ask(&keys, |key| {
            misses += u64::from(counts);
            (workload.value_len(key), if workload.ttls.is_empty() { 0 } else { workload.ttl(key) / HASTE })
        });
        counted += if counts { BATCH as u64 } else { 0 };
    }
    misses as f64 / counted.max(1) as f64
}

/// Misses after one cache-full of 400-byte values with new keys: in a cache that held 100-byte values before, and in a fresh one.
fn size_shift(port: u16, shifted_from: Option<u64>, requests: u64, scale: usize) -> f64 {
    let zipf = Zipf::new(1_000_000 * scale, 0.99);
    let mut client = Client::new(port);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..shifted_from.unwrap_or(0) / BATCH as u64 {
        let keys: [u64; BATCH] = std::array::from_fn(|_| zipf.rank(&mut random));
        client.ask(&keys, |_| (100, 0));
    }
    let (mut misses, mut counted, mut written) = (0u64, 0u64, 0usize);
    while counted < requests / 2 {
        let keys: [u64; BATCH] = std::array::from_fn(|_| zipf.rank(&mut random) + 10_000_000 * scale as u64);
        let full = written > (64 << 20) * scale;
        client.ask(&keys, |_| {
            written += 450;
            misses += u64::from(full);
            (400, 0)
        });
        counted += if full { BATCH as u64 } else { 0 };
    }
    misses as f64 / counted as f64
}

/// Runs both servers at once. Figures and resident memory, pbcache first.
fn both(mib: [usize; 2], drive: impl Fn(u16) -> f64 + Sync) -> [(f64, usize); 2] {
    // Both held until both are known, or they might be the same.
    let listeners = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let ports = [0, 1].map(|at: usize| listeners[at].local_addr().expect("an address").port());
    drop(listeners);
    std::thread::scope(|scope| {
        let run = |name: &'static str, mib: usize, port: u16| {
            let drive = &drive;
            scope.spawn(move || {
                let server = Server::start(name, mib, port);
                (drive(server.port), server.resident_mib())
            })
        };
        let (ours, theirs) = (run("pbcache", mib[0], ports[0]), run("memcached", mib[1], ports[1]));
        [ours.join().expect("pbcache was driven"), theirs.join().expect("memcached was driven")]
    })
}

fn print(name: &str, [(ours, our_mib), (theirs, their_mib)]: [(f64, usize); 2]) {
    let ratio = ours / theirs;
    println!(
        "{name:28} pbcache {ours:.4} ({our_mib} MiB resident)   memcached {theirs:.4} ({their_mib} MiB)   ratio {ratio:.3}"
    );
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") || Command::new("memcached").arg("-h").output().is_err() {
        println!("nothing measured: needs memcached, and cargo bench");
        return;
    }
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let scale = number("PBCACHE_SCALE", 1) as usize;
    let requests = number("PBCACHE_REQUESTS", 6_000_000) * scale as u64;
    let mut workloads = lookaside::workloads(false);
    for workload in &mut workloads {
        workload.memory_bytes *= scale;
        workload.keys *= scale;
        workload.rate *= scale as u64;
    }
    let mut mib = [0, 0];
    for workload in &workloads {
        let zipf = workload.zipf();
        let limit_mib = workload.memory_bytes >> 20;
        if mib[0] != limit_mib {
            // How much more does one of them take than it was told to?
            let [(_, ours), (_, theirs)] =
                both([limit_mib, limit_mib], |port| look_aside(port, &Workload { rate: 0, ..*workload }, &zipf, requests));
            mib = [limit_mib, limit_mib + ours - theirs.min(ours)];
            println!(
                "told {limit_mib} MiB, pbcache takes {ours} and memcached {theirs}: memcached is told {} from here on",
                mib[1]
            );
        }
        print(workload.name, both(mib, |port| look_aside(port, workload, &zipf, requests)));
        println!("{:28} memcached in earlier runs, at {limit_mib} MiB as it counts them: {:.4}", "", workload.anchor);
    }
    let fresh = both(mib_for_shift(&workloads, mib), |port| size_shift(port, None, requests, scale));
    let shifted = both(mib_for_shift(&workloads, mib), |port| size_shift(port, Some(requests / 2), requests, scale));
    print("100 -> 400 B, fresh", fresh);
    print("100 -> 400 B, shifted", shifted);
    println!("shifted over fresh: pbcache {:.3}, memcached {:.3}", shifted[0].0 / fresh[0].0, shifted[1].0 / fresh[1].0);
}

/// The shift runs with the memory of the first row.
fn mib_for_shift(workloads: &[Workload], mib: [usize; 2]) -> [usize; 2] {
    let limit_mib = workloads[0].memory_bytes >> 20;
    [limit_mib, limit_mib + mib[1] - mib[0]]
}

//! A small memcached in threads and a mutex, honest or with one vice.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// In what way the server is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vice {
    /// In no way.
    None,
    /// Sometimes answers with the value of another key, under the right name.
    WrongKey,
    /// Sometimes answers with another key's name.
    WrongName,
    /// Sometimes changes a byte in the middle.
    Torn,
    /// Sometimes answers with the value before the last one.
    Stale,
    /// Acknowledges deletes and does nothing.
    KeepsDeleted,
    /// Acknowledges some sets and forgets the item.
    LosesWrites,
    /// Forgets items too, but counts them as evicted.
    Evicts,
    /// Serves items after their time.
    IgnoresExpiry,
    /// Counts up by two now and then.
    Miscounts,
    /// Answers outside the protocol now and then.
    Garbles,
    /// Closes everything after a while.
    Dies,
    /// Answers nothing any more after a while.
    FallsSilent,
}

/// A running server; it ends with the test's process.
pub struct Server {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

struct Item {
    value: Vec<u8>,
    before: Option<Vec<u8>>,
    unique: u64,
    ends: Option<Instant>,
}

struct Shared {
    vice: Vice,
    items: Mutex<HashMap<String, Item>>,
    requests: AtomicU64,
    uniques: AtomicU64,
    evictions: AtomicU64,
    dead: AtomicBool,
}

impl Server {
    /// Starts a server with this vice.
    pub fn start(vice: Vice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            vice,
            items: Mutex::default(),
            requests: AtomicU64::new(0),
            uniques: AtomicU64::new(1),
            evictions: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.dead.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
        let mut output = stream.try_clone().expect("a second handle");
        let mut input = BufReader::new(stream);
        let mut line = String::new();
        while !self.dead.load(Ordering::Relaxed) {
            match input.read_line(&mut line) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
                Err(_) => return,
            }
            let answer = self.answer(line.trim_end(), &mut input);
            line.clear();
            if self.vice == Vice::Dies && self.requests.load(Ordering::Relaxed) > 5000 {
                self.dead.store(true, Ordering::Relaxed);
                let own = output.local_addr().expect("an address");
                // The listener is waiting: one more connection lets it see that all is over.
                let _ = TcpStream::connect(own);
                return;
            }
            if self.vice == Vice::FallsSilent && self.requests.load(Ordering::Relaxed) > 5000 {
                continue;
            }
            if output.write_all(&answer).is_err() {
                return;
            }
        }
    }

    fn answer(&self, line: &str, input: &mut impl Read) -> Vec<u8> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // The vices spare the first requests, with which the client stores its keys.
        let now_and_then = number > 700 && number.is_multiple_of(10);
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["get" | "gets", ..] => self.get(&words, now_and_then),
            ["set" | "cas", key, _, exptime, bytes, ..] => {
                let mut value = vec![0; bytes.parse::<usize>().expect("a length") + 2];
                std::io::Read::read_exact(&mut Patient(input), &mut value).expect("a value");
                value.truncate(value.len() - 2);
                let unique = words.get(5).and_then(|word| word.parse().ok());
                self.store(key, exptime.parse().expect("a time"), value, unique, now_and_then)
            }
            ["delete", key] if self.vice == Vice::KeepsDeleted => {
                let known = self.items.lock().expect("no panic").contains_key(key);
                if known { b"DELETED\r\n".to_vec() } else { b"NOT_FOUND\r\n".to_vec() }
            }
            ["delete", key] => match self.items.lock().expect("no panic").remove(key) {
                Some(_) => b"DELETED\r\n".to_vec(),
                None => b"NOT_FOUND\r\n".to_vec(),
            },
            ["touch", key, _] => match self.items.lock().expect("no panic").contains_key(key) {
                true => b"TOUCHED\r\n".to_vec(),
                false => b"NOT_FOUND\r\n".to_vec(),
            },
            ["incr", key, _] => self.incr(key, now_and_then),
            ["stats"] => {
                let evictions = self.evictions.load(Ordering::Relaxed);
                format!("STAT pid 1\r\nSTAT evictions {evictions}\r\nSTAT cmd_flush 0\r\nEND\r\n").into_bytes()
            }
            _ => b"ERROR\r\n".to_vec(),
        }
    }

    fn get(&self, words: &[&str], now_and_then: bool) -> Vec<u8> {
        if now_and_then && self.vice == Vice::Garbles {
            return b"HELLO there\r\n".to_vec();
        }
        let items = self.items.lock().expect("no panic");
        let mut output = Vec::new();
        for name in &words[1..] {
            let Some(item) = items.get(*name) else { continue };
            if self.vice != Vice::IgnoresExpiry && item.ends.is_some_and(|ends| ends <= Instant::now()) {
                continue;
            }
            let (mut shown, mut value) = (*name, item.value.clone());
            match self.vice {
                Vice::WrongKey if now_and_then => {
                    let other = items.iter().find(|(key, other)| key != name && other.value.len() == value.len());
                    value = other.map_or(value, |(_, other)| other.value.clone());
                }
                Vice::WrongName if now_and_then => shown = items.keys().find(|key| key != name).map_or(shown, |key| key),
                Vice::Torn if now_and_then => *value.last_mut().expect("a byte") ^= 0x10,
                Vice::Stale if now_and_then => value = item.before.clone().unwrap_or(value),
                _ => {}
            }
            let unique = if words[0] == "gets" { format!(" {}", item.unique) } else { String::new() };
            output.extend_from_slice(format!("VALUE {shown} 0 {}{unique}\r\n", value.len()).as_bytes());
            output.extend_from_slice(&value);
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(b"END\r\n");
        output
    }

    fn store(&self, key: &str, exptime: u64, value: Vec<u8>, unique: Option<u64>, now_and_then: bool) -> Vec<u8> {
        let mut items = self.items.lock().expect("no panic");
        match (unique, items.get(key)) {
            (Some(_), None) => return b"NOT_FOUND\r\n".to_vec(),
            (Some(unique), Some(item)) if item.unique != unique => return b"EXISTS\r\n".to_vec(),
            _ => {}
        }
        if now_and_then && matches!(self.vice, Vice::LosesWrites | Vice::Evicts) {
            let evicted = items.remove(key).is_some() && self.vice == Vice::Evicts;
            self.evictions.fetch_add(evicted as u64, Ordering::Relaxed);
            return b"STORED\r\n".to_vec();
        }
        let before = items.remove(key).map(|item| item.value);
        let ends = (exptime > 0).then(|| Instant::now() + Duration::from_secs(exptime));
        let unique = self.uniques.fetch_add(1, Ordering::Relaxed);
        items.insert(key.to_owned(), Item { value, before, unique, ends });
        b"STORED\r\n".to_vec()
    }

    fn incr(&self, key: &str, now_and_then: bool) -> Vec<u8> {
        let mut items = self.items.lock().expect("no panic");
        let Some(item) = items.get_mut(key) else { return b"NOT_FOUND\r\n".to_vec() };
        let step = if now_and_then && self.vice == Vice::Miscounts { 2 } else { 1 };
        let value: u64 = String::from_utf8_lossy(&item.value).parse().expect("a number");
        item.value = (value + step).to_string().into_bytes();
        format!("{}\r\n", value + step).into_bytes()
    }
}

/// Reads on after a time-out: the rest of a value always comes.
struct Patient<'a, R>(&'a mut R);

impl<R: Read> Read for Patient<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                result => return result,
            }
        }
    }
}

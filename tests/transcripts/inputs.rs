//! Inputs for the laws of the protocols: requests of all doors, joined and mutated, from a seed.
//!
//! Most are right, many are nearly right, some are noise: what is refused at its first byte finds nothing.
//!
//! Environment: PROTOCOL_SEED (else of the moment), PROTOCOL_ROUNDS for long runs.

use super::random::Random;

/// Requests of all doors, to be joined and mutated.
fn request(random: &mut Random) -> Vec<u8> {
    let key = key(random);
    let number = |random: &mut Random| random.pick(&NUMBERS).as_bytes().to_vec();
    let noreply: &[u8] = random.pick(&[&b""[..], b"", b"", b" noreply", b" x", b" noreply x"]);
    let end: &[u8] = random.pick(&[&b"\r\n"[..], b"\r\n", b"\r\n", b"\n"]);
    match random.below(12) {
        0..=2 => {
            let word: &[u8] = random.pick(&[&b"get"[..], b"gets", b"gat 10", b"gats -1", b"gat x", b" get"]);
            let mut line = word.to_vec();
            for _ in 0..random.below(5) {
                line.extend(random.pick(&[&b" "[..], b" ", b"  "]));
                line.extend(self::key(random));
            }
            [&line, end].concat()
        }
        3..=5 => {
            let word: &[u8] = random.pick(&[&b"set"[..], b"add", b"replace", b"append", b"prepend", b"cas"]);
            let value_bytes = random.pick(&[0, 1, 5, 40, 300, 16_384, 16_385, 20_000, 65_536]);
            let length = if random.below(8) == 0 { number(random) } else { value_bytes.to_string().into_bytes() };
            let mut line = [word, b" ", &key, b" ", &number(random), b" ", &number(random), b" ", &length].concat();
            if word == b"cas" {
                line.extend([b" ".to_vec(), number(random)].concat());
            }
            let tail: &[u8] = random.pick(&[&b"\r\n"[..], b"\r\n", b"\r\n", b"\n", b"xy"]);
            [&line, noreply, end, &vec![b'v'; value_bytes], tail].concat()
        }
        6 => {
            let word: &[u8] = random.pick(&[&b"incr"[..], b"decr", b"touch", b"delete"]);
            [word, b" ", &key, b" ", &number(random), noreply, end].concat()
        }
        7 => {
            let line: &[u8] = random.pick(&LINES);
            [line, noreply, end].concat()
        }
        8 => {
            let word: &[u8] = random.pick(&[&b"mg"[..], b"md", b"ma", b"me", b"mn"]);
            [word, b" ", &key, &flags(random), end].concat()
        }
        9 => {
            let value_bytes = random.pick(&[0, 1, 40, 16_384, 16_385, 20_000]);
            let length = value_bytes.to_string().into_bytes();
            [b"ms ", &key[..], b" ", &length, &flags(random), end, &vec![b'v'; value_bytes], b"\r\n"].concat()
        }
        10 => packet(random, &key),
        _ => (0..random.below(60)).map(|_| random.next() as u8).collect(),
    }
}

/// A request of HTTP: a method and a target, fields that agree or do not, and a body that is as long as they say in most cases.
fn http(random: &mut Random) -> Vec<u8> {
    let method: &str =
        random.pick(&["GET", "GET", "GET", "HEAD", "PUT", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "get", "FOO"]);
    let name = random.pick(&[
        "a",
        "b",
        "%61",
        "a%20b",
        "{a}b",
        "_/key/a",
        "get/?key=a",
        "get/",
        "_/healthz",
        "%zz",
        "",
        "a?ttl=60&flags=7",
    ]);
    let slash = random.pick(&["/", "/", "/", "/", "/", "http://a/", "*", ""]);
    let version =
        random.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", "http/1.1"]);
    let mut lines = vec![format!("{method} {slash}{name} {version}")];
    if random.below(16) > 0 {
        lines.push("Host: a:11211".into());
    }
    for _ in 0..random.pick(&[0, 0, 1, 3]) {
        lines.push(random.pick(&HTTP_FIELDS).into());
    }
    let mut body = Vec::new();
    if matches!(method, "PUT" | "POST") || random.below(8) == 0 {
        let value = vec![b'v'; random.pick(&[0, 1, 40, 16_384, 16_385, 20_000, 65_536])];
        if random.below(4) == 0 {
            lines.push("Transfer-Encoding: chunked".into());
            let size = random.pick(&[1, 7, 1000, 16_384]);
            for chunk in value.chunks(size.max(value.len() / 50)) {
                body.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
            }
            body.extend(random.pick(&[&b"0\r\n\r\n"[..], b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\n\n", b"0;x\r\n\r\n"]));
        } else {
            lines.push(format!("Content-Length: {}", value.len()));
            body = value;
        }
    }
    [lines.join("\r\n").as_bytes(), b"\r\n\r\n", &body[..]].concat()
}

/// A request of RESP: framed, with counts and lengths that agree in most cases, or a line.
fn resp(random: &mut Random) -> Vec<u8> {
    let mut words: Vec<Vec<u8>> = random.pick(&RESP_COMMANDS).split(' ').map(|word| word.as_bytes().to_vec()).collect();
    for word in &mut words {
        match &word[..] {
            b"K" => *word = key(random),
            b"V" => *word = vec![b'v'; random.pick(&[0, 1, 5, 300, 16_384, 16_385, 16_386, 16_388, 20_000, 60_000, 65_536])],
            b"N" => *word = random.pick(&NUMBERS).as_bytes().to_vec(),
            _ => {}
        }
    }
    match random.below(10) {
        0 => words.push(key(random)),
        1 => drop(words.pop()),
        _ => {}
    }
    if random.below(6) == 0 && words.iter().all(|word| word.len() < 300) {
        let end: &[u8] = random.pick(&[&b"\r\n"[..], b"\n"]);
        return [&words.join(&b' '), end].concat();
    }
    let count = if random.below(20) == 0 { random.pick(&NUMBERS).to_string() } else { words.len().to_string() };
    let mut bytes = format!("*{count}\r\n").into_bytes();
    for word in &words {
        let length = if random.below(60) == 0 { random.pick(&NUMBERS).to_string() } else { word.len().to_string() };
        bytes.extend([format!("${length}\r\n").as_bytes(), word, b"\r\n"].concat());
    }
    bytes
}

fn key(random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => vec![b'k'; 250],
        1 => vec![b'k'; 251],
        2 => b"{tag}k\x01".to_vec(),
        3 => b"aGVsbG8=".to_vec(),
        _ => vec![b'a' + random.below(26) as u8; 1 + random.below(20) as usize],
    }
}

/// Flags of a meta command: some that go together, or any letters with any tokens.
fn flags(random: &mut Random) -> Vec<u8> {
    if random.below(2) == 0 {
        return random.pick(&META_FLAGS).as_bytes().to_vec();
    }
    let mut flags = Vec::new();
    for _ in 0..random.pick(&[1, 3, 6, 19]) {
        let letter = random.pick(b"bcfhklqstuvxCDEFIJLMNOPRTTaA!");
        let token = if letter.is_ascii_uppercase() { random.pick(&NUMBERS) } else { "" };
        flags.extend([b" ", &[letter][..], token.as_bytes()].concat());
    }
    flags
}

/// A binary packet whose lengths mostly agree.
fn packet(random: &mut Random, key: &[u8]) -> Vec<u8> {
    let opcode = random.below(0x26) as u8;
    let extras_bytes = match opcode {
        _ if random.below(8) == 0 => random.pick(&[0usize, 4, 8, 20]),
        0x01..=0x03 | 0x11..=0x13 => 8,
        0x05 | 0x06 | 0x15 | 0x16 => 20,
        0x1c..=0x1e | 0x23 | 0x24 => 4,
        _ => 0,
    };
    let takes_value = matches!(opcode, 0x01..=0x03 | 0x0e | 0x0f | 0x11..=0x13 | 0x19 | 0x1a) || random.below(8) == 0;
    let value_bytes = if takes_value { random.pick(&[0usize, 1, 40, 16_384, 16_385, 20_000]) } else { 0 };
    let mut total = (extras_bytes + key.len() + value_bytes) as u32;
    if random.below(8) == 0 {
        total = random.next() as u32;
    }
    let mut bytes = vec![0x80, opcode];
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend([extras_bytes as u8, 0, 0, 0]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0; 12]);
    bytes.extend(vec![0; extras_bytes]);
    bytes.extend(key);
    bytes.extend(vec![b'v'; value_bytes]);
    bytes
}

/// Some requests in a row, perhaps with a few bytes changed. Half of them stay in one protocol, or they would rarely get far.
pub fn input(random: &mut Random) -> Vec<u8> {
    let count = 1 + random.below(5);
    let mut bytes = match random.below(6) {
        5 => (0..count).flat_map(|_| resp(random)).collect(),
        4 => (0..count).flat_map(|_| http(random)).collect(),
        0 => (0..count)
            .flat_map(|_| {
                let key = key(random);
                packet(random, &key)
            })
            .collect(),
        _ => (0..count).flat_map(|_| request(random)).collect::<Vec<u8>>(),
    };
    for _ in 0..random.pick(&[0, 0, 1, 4]) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, random.pick(b" \r\n\0\x80mgs09-+:;%GET")),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Seed of a run: from the environment, or of the moment.
pub fn seed() -> u64 {
    match std::env::var("PROTOCOL_SEED") {
        Ok(seed) => seed.parse().expect("PROTOCOL_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64) | 1,
    }
}

/// Inputs of a run: from the environment, or `usual`.
pub fn rounds(usual: u64) -> u64 {
    std::env::var("PROTOCOL_ROUNDS").map_or(usual, |rounds| rounds.parse().expect("PROTOCOL_ROUNDS is a number"))
}

/// The input for a message: runs of one byte are told by their length.
pub fn shorten(input: &[u8]) -> String {
    let runs = input.chunk_by(|left, right| left == right);
    runs.map(|run| match run.len() {
        1..=9 => run.escape_ascii().to_string(),
        length => format!("\\{{{}*{length}}}", run[..1].escape_ascii()),
    })
    .collect()
}

const NUMBERS: [&str; 20] = [
    "0",
    "0",
    "0",
    "1",
    "1",
    "5",
    "60",
    "-1",
    "2592000",
    "2592001",
    "2147483645",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "+1",
    "x",
    "1x",
];

/// Commands of RESP; K stands for a key, V for a value, N for a number.
const RESP_COMMANDS: [&str; 30] = [
    "GET K",
    "get K",
    "Get K",
    "SET K V",
    "SET K V NX",
    "set K V xx",
    "SET K V EX N",
    "SET K V NX EX N GET",
    "SETNX K V",
    "APPEND K V",
    "STRLEN K",
    "MGET K",
    "MGET K K K",
    "MSET K V",
    "MSET K V K V K V",
    "DEL K",
    "DEL K K K",
    "UNLINK K K",
    "EXISTS K K",
    "TOUCH K K",
    "TYPE K",
    "PING",
    "PING V",
    "ECHO V",
    "SELECT N",
    "AUTH K K",
    "RESET",
    "FOO K V V",
    "V K",
    "FLUSHALL",
];

const HTTP_FIELDS: [&str; 26] = [
    "If-None-Match: \"1\"",
    "If-None-Match: *",
    "If-Match: *",
    "If-Match: \"1\", W/\"2\"",
    "If-Match: \"18446744073709551615\"",
    "Range: bytes=0-0",
    "Range: bytes=-5",
    "Range: bytes=9999-",
    "If-Range: \"1\"",
    "Expect: 100-continue",
    "Expect: 100-continue",
    "Expect: x",
    "Connection: close",
    "Connection: keep-alive, x",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: 99999999",
    "Content-Length: +5",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked",
    "Host: b",
    "Host: evil.example",
    "Origin: http://a:11211",
    "Sec-Fetch-Site: cross-site",
    " folded: x",
    "Cache-Control: no-cache, max-age=60",
];

const LINES: [&[u8]; 22] = [
    b"version",
    b"quit",
    b"verbosity 1",
    b"flush_all",
    b"flush_all 10",
    b"flush_all x",
    b"stats",
    b"stats items",
    b"stats cachedump 1 0",
    b"cache_memlimit 64",
    b"cache_memlimit 1",
    b"lru_crawler metadump all",
    b"lru_crawler",
    b"slabs automove 1",
    b"lru tune 1",
    b"watch",
    b"shutdown",
    b"shutdown graceful",
    b"foo",
    b"GET / HTTP/1.1",
    b"",
    b"mn",
];

const META_FLAGS: [&str; 16] = [
    "",
    "",
    " v",
    " s v t",
    " k O1 q v",
    " b v",
    " N30 t",
    " T0",
    " MA",
    " C1",
    " I T30",
    " q",
    " v v",
    " Oxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    " D5",
    " N0 J13 D2 v",
];

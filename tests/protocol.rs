//! Laws of the protocols, for any bytes at all.
//!
//! ```text
//!   1. The same steps come out however the bytes are cut.
//!   2. consumed + what is left = the input.
//!   3. Incomplete asks for more than there is, and never for more than the limits allow.
//!   4. Nothing panics, and every framing encodes every reply that it may get.
//! ```
//!
//! Inputs are requests of all doors, whole and mutated, from a seed: PROTOCOL_SEED, or the moment; PROTOCOL_ROUNDS for long runs.
//! A failure prints seed, round and input.
//!
//! Lives here: sessions alone. Not here: what is answered (`transcripts`).

use std::sync::Arc;

use pbcache::arena::{Arena, Body};
use pbcache::buffer::Buffer;
use pbcache::command::{Command, Error, Item, Reply, Verb};
use pbcache::limits;
use pbcache::protocol::{Framing, Options, Session, Step, encode};

/// Pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// What came out of an input.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    /// Steps in words, each with the place in the input behind it. Neighbouring skips are one.
    steps: Vec<(String, usize)>,
    /// Bytes left over.
    left: usize,
}

/// A large store on its way in: what `Step::Body` said.
#[derive(Clone, Copy)]
struct Pending {
    head: usize,
    body: usize,
    tail: usize,
}

/// Feeds `input` to a new session, so that it sees only the bytes up to one cut after the other.
fn trace(input: &[u8], cuts: &[usize], arena: &Arc<Arena>) -> Trace {
    let mut session = Session::new(Options { item_bytes_max: ITEM_BYTES_MAX, ..Options::default() });
    let mut steps: Vec<(String, usize)> = Vec::new();
    let mut front = 0;
    let mut pending: Option<Pending> = None;
    for end in cuts.iter().copied().chain([input.len()]) {
        loop {
            let seen = &input[front..end];
            if let Some(Pending { head, body, tail }) = pending {
                let total = head + body + tail;
                if seen.len() < total {
                    break;
                }
                pending = None;
                steps.push((resume(&mut session, &seen[..total], head, body, arena), front + total));
                front += total;
                continue;
            }
            match session.step(seen) {
                Step::Incomplete { needed } => {
                    assert!(needed > seen.len(), "{needed} needed after {}", seen.len());
                    assert!(needed <= NEEDED_MAX, "{needed} needed");
                    break;
                }
                Step::Body { head, body, tail } => {
                    assert!(head <= seen.len() && body > limits::INLINE_VALUE_BYTES_MAX && body <= ITEM_BYTES_MAX as usize);
                    pending = Some(Pending { head, body, tail });
                }
                Step::Skip { consumed } => {
                    assert!(consumed > 0 && consumed <= seen.len());
                    front += consumed;
                    match steps.last_mut() {
                        Some((words, behind)) if words == SKIP => *behind = front,
                        _ => steps.push((SKIP.into(), front)),
                    }
                }
                Step::Reply { reply, framing, consumed, close } => {
                    assert!(consumed > 0 && consumed <= seen.len(), "{consumed} of {}", seen.len());
                    encode_one(&framing, b"", &reply);
                    front += consumed;
                    steps.push((format!("{reply:?} {framing:?} {close}"), front));
                    if close {
                        return Trace { steps, left: 0 };
                    }
                }
                Step::Control { control, framing, consumed } => {
                    assert!(consumed > 0 && consumed <= seen.len());
                    encode_one(&framing, b"", &Reply::Ok);
                    encode_one(&framing, b"", &Reply::Stats(&[("name".into(), "value".into())]));
                    encode_one(&framing, b"", &Reply::Text(b"OK\r\n"));
                    front += consumed;
                    steps.push((format!("{control:?} {framing:?}"), front));
                }
                Step::Command { command, framing, consumed } => {
                    assert!(consumed > 0 && consumed <= seen.len());
                    assert!(!command.key.bytes.is_empty(), "a command has a key");
                    encode_all(&framing, &command);
                    front += consumed;
                    let value = command.value.to_vec();
                    steps.push((format!("{command:?} {value:?} {framing:?}"), front));
                }
            }
        }
    }
    Trace { steps, left: input.len() - front }
}

/// The step of a large store, in words. A third of them finds no memory.
fn resume(session: &mut Session, bytes: &[u8], head: usize, body: usize, arena: &Arc<Arena>) -> String {
    let (value, tail) = bytes[head..].split_at(body);
    if body.is_multiple_of(3) {
        let step = session.refuse(&bytes[..head], body + tail.len());
        let words = format!("{step:?}");
        let mut rest = &bytes[head..];
        while !rest.is_empty() {
            match session.step(rest) {
                Step::Skip { consumed } => rest = &rest[consumed..],
                other => panic!("a refused value is skipped, not {other:?}"),
            }
        }
        return words;
    }
    let mut leased = Body::lease(arena, body).expect("room for one value");
    leased.write(0, value);
    let body = Arc::new(leased);
    let step = session.resume(&bytes[..head], &body, tail);
    if let Step::Command { consumed, .. } | Step::Reply { consumed, .. } = step {
        assert_eq!(consumed, head);
    }
    format!("{step:?}")
}

fn encode_one(framing: &Framing<'_>, key: &[u8], reply: &Reply<'_>) -> usize {
    let mut output = Buffer::default();
    encode(framing, key, reply, &mut output);
    output.total_bytes()
}

/// Encodes every reply that a command may get from a shard, or from another node that fails.
fn encode_all(framing: &Framing<'_>, command: &Command<'_>) {
    let item = Item::with_cas(u64::MAX);
    let own: &[Reply<'_>] = match command.verb {
        Verb::Get(_) | Verb::Inspect => &[Reply::Item(item)],
        Verb::Store(_) => &[Reply::Stored(item), Reply::NotStored, Reply::Exists],
        Verb::Delete(_) => &[Reply::Deleted, Reply::Exists],
        Verb::Arithmetic(_) => &[Reply::Number { number: u64::MAX, item }, Reply::Exists, Reply::Error(Error::NonNumeric)],
        Verb::Touch(_) => &[Reply::Touched(item)],
    };
    let failures = [
        Reply::NotFound,
        Reply::Error(Error::TooLarge),
        Reply::Error(Error::OutOfMemory),
        Reply::Error(Error::Line("SERVER_ERROR x")),
    ];
    for reply in own.iter().chain(&failures) {
        assert!(encode_one(framing, command.key.bytes, reply) < 4096, "{reply:?}");
    }
}

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

fn key(random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => vec![b'k'; 250],
        1 => vec![b'k'; 251],
        2 => b"{tag}k\x01".to_vec(),
        3 => b"aGVsbG8=".to_vec(),
        _ => vec![b'a' + random.below(26) as u8; 1 + random.below(20)],
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
fn input(random: &mut Random) -> Vec<u8> {
    let count = 1 + random.below(5);
    let mut bytes = match random.below(4) {
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
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, random.pick(b" \r\n\0\x80mgs09-+")),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn seed() -> u64 {
    match std::env::var("PROTOCOL_SEED") {
        Ok(seed) => seed.parse().expect("PROTOCOL_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64) | 1,
    }
}

#[test]
fn the_same_steps_come_out_however_the_bytes_are_cut() {
    let seed = seed();
    let rounds: u64 = std::env::var("PROTOCOL_ROUNDS").map_or(3_000, |rounds| rounds.parse().expect("a number of rounds"));
    let arena = Arena::new(64 << 20, 64 << 20, 1).expect("an arena");
    let mut random = Random(seed);
    for round in 0..rounds {
        let input = input(&mut random);
        let cuts: Vec<Vec<usize>> = vec![
            if input.len() < 3_000 { (0..input.len()).collect() } else { (0..input.len()).step_by(501).collect() },
            vec![random.below(input.len() + 1)],
            sorted((0..4).map(|_| random.below(input.len() + 1)).collect()),
        ];
        let result = std::panic::catch_unwind(|| {
            let whole = trace(&input, &[], &arena);
            assert_eq!(whole.left + whole.steps.last().map_or(0, |(_, behind)| *behind), whole.left + front(&whole));
            for cuts in &cuts {
                let cut = trace(&input, cuts, &arena);
                assert_eq!(cut, whole, "cut at {cuts:?}");
            }
        });
        if let Err(panic) = result {
            eprintln!("PROTOCOL_SEED={seed}, round {round}, input {}", shorten(&input));
            std::panic::resume_unwind(panic);
        }
    }
}

/// The input for a message: runs of one byte are told by their length.
fn shorten(input: &[u8]) -> String {
    let runs = input.chunk_by(|left, right| left == right);
    runs.map(|run| match run.len() {
        1..=9 => run.escape_ascii().to_string(),
        length => format!("\\{{{}*{length}}}", run[..1].escape_ascii()),
    })
    .collect()
}

fn front(trace: &Trace) -> usize {
    trace.steps.last().map_or(0, |(_, behind)| *behind)
}

fn sorted(mut cuts: Vec<usize>) -> Vec<usize> {
    cuts.sort_unstable();
    cuts
}

#[test]
fn a_short_conversation_gives_the_same_steps_at_every_cut() {
    let arena = Arena::new(64 << 20, 64 << 20, 1).expect("an arena");
    let conversation = b"set a 1 0 5\r\nhello\r\nget a  bb ccc \r\nset \r\nincr a 1 noreply\r\n\ngets a\nset b 0 0 3 noreply\r\nab\r\nc\r\nmn\r\n\
        set c 0 0 99999999\r\nxyz";
    let whole = trace(conversation, &[], &arena);
    assert_eq!(whole.steps.len(), 13, "{:#?}", whole.steps);
    for first in 0..=conversation.len() {
        for second in first..=conversation.len() {
            assert_eq!(trace(conversation, &[first, second], &arena), whole, "cut at {first} and {second}");
        }
    }
}

#[test]
fn short_conversations_of_the_other_doors_too() {
    let arena = Arena::new(64 << 20, 64 << 20, 1).expect("an arena");
    let meta = b"ms a 5 T0 c\r\nhello\r\nmg a v k\r\nms a 3 q q\r\nabc\r\nma Zm9v b N0\r\nms a 99999999 k\r\nxyz";
    let mut random = Random(7);
    let sizes = [(0x01, 8, 3, 5), (0x0d, 0, 3, 0), (0x77, 4, 3, 9), (0x1d, 4, 3, 2), (0x0a, 0, 0, 0), (0x11, 8, 3, 0)];
    let mut binary = Vec::new();
    for (opcode, extras, key, value) in sizes {
        binary.extend([0x80, opcode, 0, key, extras, 0, 0, 0, 0, 0, 0, extras + key + value]);
        binary.extend([0; 12]);
        binary.extend((0..extras + key + value).map(|_| random.next() as u8));
    }
    for (conversation, steps) in [(&meta[..], 7), (&binary, 8)] {
        let whole = trace(conversation, &[], &arena);
        assert_eq!(whole.steps.len(), steps, "{:#?}", whole.steps);
        for first in 0..=conversation.len() {
            for second in first..=conversation.len() {
                assert_eq!(trace(conversation, &[first, second], &arena), whole, "cut at {first} and {second}");
            }
        }
    }
}

#[test]
fn a_long_line_in_small_pieces_is_scanned_once() {
    let mut session = Session::new(Options::default());
    let mut line = b"get".to_vec();
    line.extend(b" key".repeat(250_000));
    let started = std::time::Instant::now();
    // A million bytes, ten at a time: scanning from the front each time would be 50 GB.
    for end in (10..line.len()).step_by(10) {
        assert!(matches!(session.step(&line[..end]), Step::Incomplete { needed } if needed == end + 1));
    }
    assert!(started.elapsed().as_secs() < 5);
    line.extend(b"\r\n");
    let mut rest = &line[..];
    let mut count = 0;
    while !rest.is_empty() {
        let Step::Command { consumed, .. } = session.step(rest) else { panic!("a key") };
        rest = &rest[consumed..];
        count += 1;
    }
    assert_eq!(count, 250_000);
}

#[test]
fn no_reply_is_written_where_none_is_wanted() {
    for line in [
        &b"set k 0 0 1 noreply\r\n1\r\n"[..],
        b"cas k 0 0 1 1 noreply\r\n1\r\n",
        b"delete k noreply\r\n",
        b"delete k 0 noreply\r\n",
        b"incr k 1 noreply\r\n",
        b"touch k 1 noreply\r\n",
    ] {
        let mut session = Session::new(Options::default());
        let Step::Command { framing, command, consumed } = session.step(line) else { panic!("a command") };
        assert_eq!(consumed, line.len());
        for reply in [Reply::NotFound, Reply::Stored(Item::with_cas(1)), Reply::Error(Error::OutOfMemory), Reply::Deleted] {
            assert_eq!(encode_one(&framing, command.key.bytes, &reply), 0);
        }
    }
}

/// Items in these tests may be this large, so that lengths above are met, too.
const ITEM_BYTES_MAX: u32 = 60_000;

/// The longest line, or the longest short line with an inline value and its end.
const NEEDED_MAX: usize = limits::MULTI_GET_LINE_BYTES_MAX + 2;
const _: () = assert!(limits::LINE_BYTES_MAX + limits::INLINE_VALUE_BYTES_MAX + 4 < NEEDED_MAX);

const SKIP: &str = "skip";

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

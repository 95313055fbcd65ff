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
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

use std::sync::Arc;

use pbcache::arena::{Arena, Body};
use pbcache::buffer::Buffer;
use pbcache::command::{Command, Error, Item, Reply, Verb};
use pbcache::limits;
use pbcache::protocol::http::Chunks;
use pbcache::protocol::{Framing, Head, Options, Session, Step, encode};

#[path = "transcripts/inputs.rs"]
mod inputs;
mod random;

use inputs::{input, rounds, seed, shorten};
use random::Random;

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

/// An HTTP request whose body is on its way in, in chunks.
struct Chunked {
    /// Where it begins.
    start: usize,
    head: Vec<u8>,
    chunks: Chunks,
}

/// Feeds `input` to a new session, so that it sees only the bytes up to one cut after the other.
fn trace(input: &[u8], cuts: &[usize], arena: &Arc<Arena>) -> Trace {
    let mut session = Session::new(Options { item_bytes_max: ITEM_BYTES_MAX, ..Options::default() });
    let mut steps: Vec<(String, usize)> = Vec::new();
    let mut front = 0;
    let (mut pending, mut chunked): (Option<Pending>, Option<Chunked>) = (None, None);
    for end in cuts.iter().copied().chain([input.len()]) {
        loop {
            let seen = &input[front..end];
            if let Some(mut large) = pending.take() {
                let Some((words, total)) = large.go_on(&mut session, seen, arena) else {
                    pending = Some(large);
                    break;
                };
                front += total;
                steps.push((words, front));
                continue;
            }
            if let Some(mut body) = chunked.take() {
                let (taken, words) = body.go_on(&mut session, seen);
                front += taken;
                let Some((words, wrong)) = words else {
                    chunked = Some(body);
                    break;
                };
                // Where it is wrong, nobody goes on.
                steps.push((words, if wrong { input.len() } else { front }));
                if wrong {
                    return Trace { steps, left: 0 };
                }
                continue;
            }
            match session.step(seen) {
                Step::Chunked { head } => {
                    assert!(head <= seen.len());
                    chunked = Some(Chunked::new(front, &seen[..head]));
                    front += head;
                }
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
                step => {
                    let (words, consumed, close) = whole(&step, seen.len());
                    front += consumed;
                    steps.push((words, front));
                    if close {
                        return Trace { steps, left: input.len() - front };
                    }
                }
            }
        }
    }
    // What has come of a body in chunks belongs to no step so far.
    let front = chunked.map_or(front, |body| body.start);
    Trace { steps, left: input.len() - front }
}

impl Pending {
    /// Goes on with what has come: the step in words and the bytes that it took, once all of it is there.
    fn go_on(&mut self, session: &mut Session, seen: &[u8], arena: &Arc<Arena>) -> Option<(String, usize)> {
        loop {
            let total = self.head + self.body + self.tail;
            match resume(session, seen.get(..total)?, self.head, self.body, arena) {
                Ok(words) => return Some((words, total)),
                Err(tail) => self.tail = tail,
            }
        }
    }
}

impl Chunked {
    fn new(start: usize, head: &[u8]) -> Self {
        Self { start, head: head.to_vec(), chunks: Chunks::new(ITEM_BYTES_MAX as usize) }
    }

    /// Takes more of the body: how much, and once there is one the step in words, and whether the body is wrong.
    fn go_on(&mut self, session: &mut Session, seen: &[u8]) -> (usize, Option<(String, bool)>) {
        match self.chunks.take(seen) {
            Ok(taken) if !self.chunks.is_whole() => (taken, None),
            Ok(taken) => (taken, Some((format!("{:?}", session.resume_chunked(&self.head, self.chunks.value())), false))),
            Err(fault) => (0, Some((format!("{:?}", session.refuse_chunked(fault)), true))),
        }
    }
}

/// A step over a whole request, in words; what it consumed, and whether it is the last. Encodes what may be answered.
fn whole(step: &Step<'_>, seen_bytes: usize) -> (String, usize, bool) {
    let (words, consumed, close) = match step {
        Step::Reply { reply, framing, consumed, close } => {
            encode_one(framing, b"", reply);
            assert!(*consumed > 0 || matches!(framing.head, Head::Http(_)));
            (format!("{reply:?} {framing:?} {close}"), *consumed, *close)
        }
        Step::Control { control, framing, consumed } => {
            for reply in [Reply::Ok, Reply::Stats(&[("name".into(), "value".into())]), Reply::Text(b"OK\r\n")] {
                encode_one(framing, b"", &reply);
            }
            assert!(*consumed > 0);
            (format!("{control:?} {framing:?}"), *consumed, false)
        }
        Step::Command { command, framing, consumed } => {
            assert!(*consumed > 0 && !command.key.bytes.is_empty(), "a command has a key");
            encode_all(framing, command);
            (format!("{command:?} {:?} {framing:?}", command.value.to_vec()), *consumed, false)
        }
        other => panic!("no whole request: {other:?}"),
    };
    assert!(consumed <= seen_bytes, "{consumed} of {seen_bytes}");
    (words, consumed, close)
}

/// The step of a large store, in words, or a longer tail that it wants. A third of them finds no memory.
fn resume(session: &mut Session, bytes: &[u8], head: usize, body: usize, arena: &Arc<Arena>) -> Result<String, usize> {
    let (value, tail) = bytes[head..].split_at(body);
    if body.is_multiple_of(3) {
        let step = session.refuse(&bytes[..head], body + tail.len());
        let words = format!("{step:?}");
        let mut rest = &bytes[head..];
        while !rest.is_empty() {
            match session.step(rest) {
                Step::Skip { consumed } => rest = &rest[consumed..],
                // The last request of an HTTP conversation.
                Step::Reply { reply: Reply::Bye, close: true, consumed: 0, .. } => break,
                other => panic!("a refused value is skipped, not {other:?}"),
            }
        }
        return Ok(words);
    }
    let mut leased = Body::lease(arena, body).expect("room for one value");
    leased.write(0, value);
    let body = Arc::new(leased);
    let session_before = *session;
    let step = session.resume(&bytes[..head], &body, tail);
    if let Step::Incomplete { needed } = step {
        assert!(needed > tail.len() && needed <= limits::RESP_TAIL_BYTES_MAX, "{needed} needed of a tail of {}", tail.len());
        *session = session_before;
        return Err(needed);
    }
    if let Step::Command { consumed, .. } | Step::Reply { consumed, .. } = step {
        assert_eq!(consumed, head);
    }
    Ok(format!("{step:?}"))
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
        Verb::Arithmetic(_) => {
            &[Reply::Number { number: u64::MAX, item, created: false }, Reply::Exists, Reply::Error(Error::NonNumeric)]
        }
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

#[test]
fn the_same_steps_come_out_however_the_bytes_are_cut() {
    let seed = seed();
    let rounds = rounds(3_000);
    let arena = Arena::new(64 << 20, 64 << 20, 1).expect("an arena");
    let mut random = Random(seed);
    for round in 0..rounds {
        let input = input(&mut random);
        let cuts: Vec<Vec<usize>> = vec![
            if input.len() < 3_000 { (0..input.len()).collect() } else { (0..input.len()).step_by(501).collect() },
            vec![random.below(input.len() as u64 + 1) as usize],
            sorted((0..4).map(|_| random.below(input.len() as u64 + 1) as usize).collect()),
        ];
        let result = std::panic::catch_unwind(|| {
            let whole = trace(&input, &[], &arena);
            assert_eq!(front(&whole) + whole.left, input.len(), "bytes went without a step");
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
    let http = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\r\nPUT /b?ttl=9 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi\
        POST /%63 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhi\r\n0\r\n\r\n\
        GET /d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcDELETE /e HTTP/1.0\r\n\r\nGET /f";
    let resp =
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$4\r\nmset\r\n$1\r\na\r\n$2\r\nhi\r\n*3\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\nb\r\n\
        PING\r\n*3\r\n$3\r\nFOO\r\n$1\r\na\r\n$2\r\nbc\r\nDEL a \"b\"\r\n*0\r\n*2\r\n$4\r\nECHO\r\n$x\r\n";
    for (conversation, steps) in [(&meta[..], 7), (&binary, 8), (http, 9), (resp, 11)] {
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

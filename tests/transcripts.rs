//! Transcripts: what a client sends and what it must be answered, one behaviour per file.
//!
//! ```text
//!   # add stores only when the key is absent            comment; the first one says the behaviour
//!   > add k 0 0 1\r\n1\r\n                              sent: neighbouring `>` lines are one send
//!   < STORED\r\n                                        expected, exactly and in order
//!   > add k 0 0 1\r\n2\r\n
//!   < NOT_STORED\r\n
//! ```
//!
//! ```text
//!   bytes     \r \n \t \0 \s (space) \\ \xHH       line ends are written out: the end of a line in the file means nothing
//!             \{a*1048576}                         the text 1,048,576 times
//!             \{=name}                             expected: a number, which is remembered; `\{name}` then stands for it
//!             \{*}                                 expected: any bytes but a newline, up to what is written behind
//!             \{**}                                expected: any bytes, up to what is written behind
//!   = closed                                       the server closes the connection
//!   = quiet                                        nothing arrives and the connection stays (the end of a file says so too)
//!   @other NAME                                    from here on another connection to the same server; `@other main` is back
//!   @clock +N                                      the clock moves by N seconds: in memory, and against nodes built with `debugtime`
//!   @max_item_size N                               an option of the server (in memory, and `-I` of the original); also
//!                                                  @flush_disabled (-F), @dump_disabled (-X), @cas_disabled (-C),
//!                                                  @http WHAT, @http_miss STATUS, @http_max_age on, @http_host NAME
//!   @node                                          needs the control plane (stats, ...): not run in memory
//!   @memory REASON                                 runs in memory only
//!   @since 1.6.45                                  this is how that release of the original behaves: not run against older ones
//!   @since next 1.6.45                             the same for the next exchange only: what is sent next, and its answers
//!   @before 1.6.45, @before next 1.6.45            that release and later ones behave otherwise, and we do not follow
//!   @differs REASON                                we differ from the original on purpose: not run against it
//! ```
//!
//! Requests of RESP are written as words, whose lengths are computed:
//!
//! ```text
//!   >* SET k a\svalue EX 60                        the escapes above; an empty word between two spaces
//! ```
//!
//! Binary packets have readable lines. Words are `field=value`; what is not named is 0 or empty; lengths are computed:
//!
//! ```text
//!   >! set key=hello extras=00000000_00000e10 value=world opaque=0x07 cas=\{c}      also vbucket=, datatype=
//!   <! set opaque=7 cas=\{=c}                     also status=, key=, value=, extras=, vbucket= ; `*` stands for anything
//!   >! 0x77 magic=0x81 key_bytes=9 extras_bytes=1 total_bytes=99     opcodes by name or number; header fields overridden
//!   <! stat key=* value=* many                    any number of such packets (also none), while they match
//! ```
//! Numbers are decimal or 0x; `extras=` is hex, where `_` means nothing; `key=` and `value=` take the escapes above.
//!
//! Every transcript runs in memory (whole, byte by byte, cut at seeded places), over TCP against a node, and against the
//! original memcached, or redis-server, so that every expectation is checked against it (skipped where none is installed; not in CI).
//! Beside them, any bytes from a seed go through sessions and engine (`inputs.rs`; PROTOCOL_SEED, PROTOCOL_ROUNDS).
//! Environment: TRANSCRIPT_SEED for the cuts, TRANSCRIPT for a part of the file names to run, MEMCACHED (see
//! `tests/original`), PBCACHE_BIN.
//!
//! Lives here: the tests. In `transcripts/`: the format (`format.rs`, `packet.rs`), who answers (`memory.rs`, `tcp.rs`), the data.
#![allow(clippy::disallowed_methods)] // a test may wait, read and connect

#[path = "transcripts/format.rs"]
mod format;
#[path = "transcripts/inputs.rs"]
mod inputs;
#[path = "transcripts/memory.rs"]
mod memory;
mod original;
#[path = "transcripts/packet.rs"]
mod packet;
mod random;
#[path = "transcripts/run.rs"]
mod run;
mod skip;
#[path = "transcripts/tcp.rs"]
mod tcp;

use std::panic::AssertUnwindSafe;

use format::Options;
use memory::{Cut, Memory};
use run::{Arrival, Peer};

/// The tests of one folder.
macro_rules! folder {
    ($folder:ident) => {
        mod $folder {
            use crate::memory::Cut;
            use crate::run;

            #[test]
            fn in_memory() {
                run::in_memory(stringify!($folder), Cut::Whole);
            }

            #[test]
            fn in_memory_byte_by_byte() {
                run::in_memory(stringify!($folder), Cut::Bytes);
            }

            #[test]
            fn in_memory_cut_at_random() {
                run::in_memory(stringify!($folder), Cut::Random { seed: run::seed() });
            }

            #[test]
            fn against_a_node() {
                run::against_node(stringify!($folder), true, &["--cores", "2"]);
            }

            #[test]
            fn against_a_node_with_stock_streams() {
                run::against_node(stringify!($folder), true, &["--cores", "3", "--io", "streams"]);
            }

            #[test]
            fn against_a_node_with_options() {
                run::against_node(stringify!($folder), false, &["--cores", "2"]);
            }
        }
    };
}

folder!(text);
folder!(meta);
folder!(binary);
folder!(http);
folder!(resp);

/// What memcached speaks is asked of it, too.
mod against_memcached {
    use crate::run;

    #[test]
    fn text() {
        run::against_memcached("text");
    }

    #[test]
    fn meta() {
        run::against_memcached("meta");
    }

    #[test]
    fn binary() {
        run::against_memcached("binary");
    }
}

/// What Redis speaks is asked of it.
mod against_redis {
    use crate::run;

    #[test]
    fn resp() {
        run::against_redis("resp");
    }
}

#[test]
fn the_comparison_with_redis_is_not_left_out_in_silence() {
    skip::fails_without("against_redis::resp", "redis-server is not installed");
}

#[test]
fn the_comparison_with_memcached_is_not_left_out_in_silence() {
    for folder in ["text", "meta", "binary"] {
        skip::fails_without(&format!("against_memcached::{folder}"), "memcached is not installed");
    }
}

/// Whatever arrives, however it is cut, three servers that hold the same items answer the same and stay whole.
#[test]
fn any_bytes_are_answered_the_same_however_they_are_cut() {
    let seed = inputs::seed();
    let mut random = random::Random(seed);
    let mut servers = [Cut::Whole, Cut::Bytes, Cut::Random { seed }].map(|cut| Memory::new(&Options::default(), cut));
    for round in 0..inputs::rounds(600) {
        let input = inputs::input(&mut random);
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let answers = servers.each_mut().map(|server| answer(server, &input));
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
            if round % 64 == 0 {
                servers.iter().for_each(Memory::verify);
            }
        }));
        if let Err(panic) = result {
            eprintln!("PROTOCOL_SEED={seed}, round {round}, input {}", inputs::shorten(&input));
            std::panic::resume_unwind(panic);
        }
    }
}

/// What one input on a connection of its own is answered, and how the connection ends.
fn answer(server: &mut Memory, input: &[u8]) -> (String, Arrival) {
    let mut output = Vec::new();
    server.connect("client").expect("a connection");
    server.send(input).expect("a server that goes on");
    let end = loop {
        match server.receive(&mut output) {
            Arrival::Bytes => {}
            end => break end,
        }
    };
    server.disconnect();
    server.advance(1);
    (inputs::shorten(&output), end)
}

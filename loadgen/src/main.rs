//! loadgen: finds out how fast and how right a cache server is.
//!
//! ```text
//!   options -> work (which key, value, command)            what is asked, pure
//!           -> session -> worker (thread) -> lane          who asks, when, and what answers mean
//!                           worker -> pump                 bytes in and out by io_uring
//!                           lane   -> doors, verify, tally protocols, truth, counts
//!           -> report                                      what is read
//!   compare: starts servers itself (server), several sessions in alternating rounds
//!   misses: the same with one plain client (lookaside), for miss ratios of recorded traces
//! ```
//!
//! It shares no code with the server that lives beside it: an opponent must not inherit the mistakes that it looks for.

mod arrivals;
mod compare;
mod doors;
mod echo;
mod interrupt;
mod lane;
mod lookaside;
mod machine;
mod misses;
mod options;
mod presets;
mod pump;
mod report;
mod request;
mod run;
mod server;
mod session;
mod shards;
mod stats;
mod sweep;
mod tally;
mod target;
mod topics;
mod verify;
mod work;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use options::{Action, Options};

fn main() -> ExitCode {
    let arguments = match presets::expanded(options::normalised(std::env::args())) {
        Ok(arguments) => arguments,
        Err(words) => {
            eprintln!("loadgen: {words}");
            return ExitCode::from(2);
        }
    };
    let options = Options::parse_from(arguments);
    interrupt::raise_files_limit();
    match options.action.files().and_then(|files| report::files::check(&files)).and_then(|()| act(&options.action)) {
        Ok(code) => ExitCode::from(code),
        Err(words) => {
            eprintln!("loadgen: {words}");
            ExitCode::from(2)
        }
    }
}

/// Does what is asked for; gives the exit code.
fn act(action: &Action) -> Result<u8, String> {
    match action {
        Action::Run(options) => run::run(options),
        Action::Replay(options) => run::replay(options),
        Action::Sweep(options) => sweep::sweep(options),
        Action::Search(options) => sweep::search(options),
        Action::Compare(options) => compare::compare(options),
        Action::Misses(options) => misses::misses(options),
        Action::Echo(options) => {
            let exchange =
                doors::raw::Raw { request_bytes: options.request_bytes.max(1), reply_bytes: options.reply_bytes.max(1) };
            echo::serve(&format!("127.0.0.1:{}", options.port), exchange).map(|()| 0)
        }
        Action::Explain(options) => {
            print!("{}", topics::text(options.topic.as_deref()));
            Ok(0)
        }
    }
}

/// A number that tells this process's values from those of earlier ones.
fn writer_name() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u32 ^ std::process::id().rotate_left(16)).max(1)
}

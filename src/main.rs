//! The program: options, a node, a signal, an exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use pbcache::node::log_lines::{self, LogLines};
use pbcache::node::options::{Options, Refusal};
use pbcache::node::{self, Node, StartError, log_level, operator, preflight, process, signals, top};
use sd_notify::NotifyState;

fn main() -> ExitCode {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let mut words = words.peekable();
    let program = words.next();
    if words.peek().is_some_and(|word| word == "ring") {
        let (text, code) = operator::run(words.skip(1));
        say(text.trim_end());
        say("\n");
        return ExitCode::from(code);
    }
    if words.peek().is_some_and(|word| word == "top") {
        return ExitCode::from(top::run(words.skip(1)));
    }
    let words = program.into_iter().chain(words);
    let options = match Options::parse(words, preflight::cpus_count()) {
        Ok(options) => options,
        Err(Refusal::Print(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Wrong(sentence)) => {
            eprintln!("pbcache: {sentence}");
            return ExitCode::from(node::NOT_STARTED);
        }
    };
    let served = serve(options);
    log_lines::flush();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError(sentence)) => {
            eprintln!("pbcache: {sentence}");
            ExitCode::from(node::NOT_STARTED)
        }
    }
}

fn serve(options: Options) -> Result<(), StartError> {
    let mut logger = env_logger::Builder::new();
    logger.filter_level(log_level(options.verbosity.into()));
    if options.verbosity == 0 {
        // Its warnings are about what this program checks and says itself.
        logger.filter_module("glommio", log::LevelFilter::Error);
    }
    let style = if std::io::stderr().is_terminal() { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never };
    logger.write_style(style).parse_default_env().target(env_logger::Target::Pipe(Box::new(LogLines))).init();
    let parent = process::prepare(&options)?;
    signals::block();
    log_lines::start();
    if !options.notices.is_empty() {
        log::warn!("accepted without effect: {}", options.notices.join(", "));
    }
    options.remarks.iter().for_each(|remark| log::warn!("{remark}"));
    let kept = options.clone();
    let node = Node::start(options).inspect_err(|_| process::clean_up_unstarted(&kept))?;
    say(&format!("{}\n", node.listening));
    node.tuning_hint.iter().for_each(|hint| log::warn!("{hint}"));
    parent.release(&kept);
    node.when_ready(|| tell_supervisor(NotifyState::ExtendTimeoutUsec(STILL_USEC)), || tell_supervisor(NotifyState::Ready));
    signals::wait();
    log::info!("draining");
    tell_supervisor(NotifyState::Stopping);
    if kept.drain_delay_s > 0 {
        node.leave();
        signals::wait_at_most(kept.drain_delay_s);
    }
    node.stop();
    process::clean_up(&kept);
    Ok(())
}

/// How much longer than before a supervisor is to wait for a node that gets what it is to own, in microseconds: it is told so every 10 s.
const STILL_USEC: u32 = 60_000_000;

/// Tells systemd, where it started this process and waits for it. Where it did not, nothing happens.
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("NOTIFY_SOCKET: systemd cannot be told: {error}");
    }
}

/// Prints to standard output. A reader that has gone is no reason to end.
fn say(text: &str) {
    let mut output = std::io::stdout();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

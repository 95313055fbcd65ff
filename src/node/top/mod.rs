//! `pbcache top`: what the admin page shows, in a terminal.
//!
//! ```text
//!   pbcache top [HOST[:PORT]] [--once] [--json]
//!
//!   events of the admin listener --feed--> Sample, one a second --screen--> lines --terminal--> until q, Ctrl-C or a signal
//! ```
//!
//! Reads what everybody may read, at the admin listener of any node. Without a terminal it prints once. Plain ANSI: the smallest crate for
//! terminals brings 31 others with it, a whole user interface 83; what is drawn here is lines of text.
//!
//! Lives here: words of the command line, the loop. Not here: how the node is asked (`feed`), lines (`screen`), the terminal (`terminal`).

mod feed;
mod screen;
mod terminal;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use serde_json::Value;

use self::feed::{Feed, Sample};
use self::screen::Screen;
use self::terminal::Terminal;
use super::{options, signals};

const USAGE: &str = "usage: pbcache top [HOST[:PORT]] [--once] [--json]\n\n\
    Shows the figures of a node and of its ring, once a second, from the admin listener of any node (127.0.0.1:11280 where no other\n\
    is named). q ends it.\n\n  --once    Print once and end; so it does where there is no terminal.\n  \
    --json    Print what the node tells as JSON, an object a second.\n";
/// The admin listener's port.
const PORT_DEFAULT: u16 = 11280;
/// Exit codes.
const NOBODY_ANSWERS: u8 = 1;
const WRONG_WORDS: u8 = 2;
/// Pause before a node that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the next figures: the screen then says that the node is silent.
const SILENCE: Duration = Duration::from_secs(3);

struct Words {
    address: String,
    once: bool,
    json: bool,
}

/// What happens to a running screen.
enum News {
    Sample(Box<Sample>),
    /// The node does not answer: a sentence.
    Trouble(String),
    End,
}

/// Does what the words behind `pbcache top` say; returns the exit code.
pub fn run(words: impl Iterator<Item = String>) -> u8 {
    let words = match parse(words) {
        Ok(Some(words)) => words,
        Ok(None) => {
            print(USAGE);
            return 0;
        }
        Err(sentence) => {
            eprintln!("pbcache: {sentence}\n\n{USAGE}");
            return WRONG_WORDS;
        }
    };
    let result = match words.once || words.json || !std::io::stdout().is_terminal() {
        true => print_samples(&words),
        false => watch(&words),
    };
    match result {
        Ok(()) => 0,
        Err(sentence) => {
            eprintln!("pbcache: {sentence}");
            NOBODY_ANSWERS
        }
    }
}

fn parse(words: impl Iterator<Item = String>) -> Result<Option<Words>, String> {
    let (mut address, mut once, mut json) = (None, false, false);
    for word in words {
        match word.as_str() {
            "--once" => once = true,
            "--json" => json = true,
            "--help" | "-h" => return Ok(None),
            _ if word.starts_with('-') => return Err(format!("top has no option {word}")),
            _ if address.is_some() => return Err("top looks at one node".into()),
            _ => address = Some(options::with_port(&word, PORT_DEFAULT)),
        }
    }
    let address = address.unwrap_or_else(|| format!("127.0.0.1:{PORT_DEFAULT}"));
    Ok(Some(Words { address, once, json }))
}

/// Prints to standard output. False where its reader has gone.
fn print(text: &str) -> bool {
    let mut output = std::io::stdout();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_ok()
}

/// The first figures of which rates can be made as text, or all of them as JSON; the first ones only where that is asked for.
fn print_samples(words: &Words) -> Result<(), String> {
    let mut feed = Feed::connect(&words.address)?;
    let mut screen = Screen::default();
    loop {
        let sample = feed.next()?;
        let is_rated = sample.then.is_some();
        let text = match words.json {
            true => Some(format!("{}\n", json_of(&sample))),
            false if is_rated => {
                screen.take(sample);
                Some(screen.lines(usize::MAX, usize::MAX).iter().map(|line| format!("{}\n", line.text)).collect())
            }
            false => None,
        };
        let ends = text.is_some_and(|text| !print(&text) || !words.json || words.once);
        if ends {
            return Ok(());
        }
    }
}

fn json_of(sample: &Sample) -> Value {
    serde_json::json!({ "node": sample.node, "ring": sample.ring, "figures": sample.now, "nodes": sample.nodes })
}

/// Draws the figures until somebody has had enough.
fn watch(words: &Words) -> Result<(), String> {
    // Before any thread is started; the screen is put back where a signal ends this.
    signals::block();
    let feed = Feed::connect(&words.address)?;
    let terminal = Terminal::enter().map_err(|error| format!("the terminal cannot be used: {error}"))?;
    let (sender, news) = unbounded();
    let (of_feed, of_signals, address) = (sender.clone(), sender.clone(), words.address.clone());
    std::thread::spawn(move || follow(feed, &address, &of_feed));
    std::thread::spawn(move || {
        signals::wait();
        let _ = of_signals.send(News::End);
    });
    std::thread::spawn(move || {
        terminal::wait_for_end();
        let _ = sender.send(News::End);
    });
    draw(&terminal, &words.address, &news);
    Ok(())
}

fn draw(terminal: &Terminal, address: &str, news: &Receiver<News>) {
    let mut screen = Screen::default();
    loop {
        match news.recv_timeout(SILENCE) {
            Ok(News::Sample(sample)) => screen.take(*sample),
            Ok(News::Trouble(sentence)) => screen.trouble = Some(sentence),
            Ok(News::End) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => screen.trouble = Some(format!("{address} says nothing")),
        }
        let (columns, rows) = terminal.size();
        terminal.show(&screen.lines(columns, rows));
    }
}

/// Reads samples, and connects anew where the node does not answer.
fn follow(feed: Feed, address: &str, news: &Sender<News>) {
    let mut feed = Ok(feed);
    loop {
        let sample = feed.as_mut().map_err(|sentence: &mut String| sentence.clone()).and_then(Feed::next);
        let told = match sample {
            Ok(sample) => news.send(News::Sample(Box::new(sample))),
            Err(sentence) => {
                let told = news.send(News::Trouble(sentence));
                std::thread::sleep(RETRY);
                feed = Feed::connect(address);
                told
            }
        };
        if told.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<(String, bool, bool)>, String> {
        let words = parse(line.split_whitespace().map(String::from))?;
        Ok(words.map(|words| (words.address, words.once, words.json)))
    }

    #[test]
    fn a_node_is_named_by_its_host_or_not_at_all() {
        assert_eq!(parsed(""), Ok(Some(("127.0.0.1:11280".into(), false, false))));
        assert_eq!(parsed("10.0.0.5 --once"), Ok(Some(("10.0.0.5:11280".into(), true, false))));
        assert_eq!(parsed("--json cache-1:80"), Ok(Some(("cache-1:80".into(), false, true))));
        assert_eq!(parsed("--help"), Ok(None));
        assert!(parsed("--often").is_err() && parsed("a b").is_err());
    }
}

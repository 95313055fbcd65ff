//! `pbtune`: checks what of a machine is in the way of a fast cache, changes it, and changes it back.
//!
//! ```text
//!   check   -> findings -> table or JSON, exit code          no privilege, changes nothing
//!   plan    -> the writes that apply would do
//!   apply   -> old value into the record, to the disk; then the write           one knob after the other
//!   revert  -> the record, last entry first: write the old value; then remove the record
//! ```
//!
//! Lives here: the command line and words for people. Not here: the check list (`pbcache::node::host`), the record (`record`).

mod record;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pbcache::node::host::{self, Finding, Machine, Needs, State};
use record::Record;

/// Checks what of this machine is in the way of a fast cache, changes it, and changes it back.
#[derive(Parser)]
#[command(version, after_help = "Exit codes: 0 all is well, 1 something is wanting, 2 it could not be done.")]
struct Arguments {
    /// Data cores of the node; all CPUs by default
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    cores: Option<u16>,
    /// Client connections of the node
    #[arg(long, global = true, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Where old values are kept
    #[arg(long, global = true, default_value = "/var/lib/pbtune/record")]
    record: PathBuf,
    /// Where proc and sys lie
    #[arg(long, global = true, default_value = "/", hide = true)]
    root: PathBuf,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Clone, Subcommand)]
enum Verb {
    /// Look at every knob (the default): changes nothing, needs no privilege
    Check,
    /// Show the writes that apply would do
    Plan {
        /// Knobs to change, also optional ones; by default all that are wanting
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Change what is wanting, and remember what was there
    Apply {
        /// Knobs to change, also optional ones; by default all that are wanting
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Write back what was there before the first apply
    Revert,
}

const WANTING: u8 = 1;
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(sentence) => {
            eprintln!("pbtune: {sentence}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8, String> {
    let machine = Machine::at(&arguments.root);
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get().min(256) as u16);
    let needs = Needs { cores: arguments.cores.unwrap_or(cpus), connections: arguments.connections };
    let findings = host::check(&machine, needs);
    match arguments.verb.clone().unwrap_or(Verb::Check) {
        Verb::Check => {
            print!("{}", if arguments.json { json(&findings) } else { table(&findings) });
            Ok(if findings.iter().any(|finding| finding.state == State::Wanting) { WANTING } else { 0 })
        }
        Verb::Plan { only } => {
            let chosen = choose(&findings, &only)?;
            print!("{}", if arguments.json { plan_json(&chosen) } else { plan(&chosen) });
            Ok(if chosen.iter().any(|finding| !finding.writes.is_empty()) { WANTING } else { 0 })
        }
        Verb::Apply { only } => apply(&machine, &choose(&findings, &only)?, &mut Record::open(&arguments.record)?),
        Verb::Revert => revert(&machine, Record::open(&arguments.record)?),
    }
}

/// The findings to act on: those named, or those that are wanting.
fn choose<'f>(findings: &'f [Finding], only: &[String]) -> Result<Vec<&'f Finding>, String> {
    if let Some(unknown) = only.iter().find(|name| findings.iter().all(|finding| finding.name != **name)) {
        let names: Vec<_> = findings.iter().map(|finding| finding.name).collect();
        return Err(format!("--only {unknown}: there is no such knob; there are {}.", names.join(", ")));
    }
    let named = |finding: &&Finding| only.iter().any(|name| name == finding.name);
    let wanting = |finding: &&Finding| only.is_empty() && finding.state == State::Wanting;
    Ok(findings.iter().filter(|finding| named(finding) || wanting(finding)).collect())
}

fn apply(machine: &Machine, chosen: &[&Finding], record: &mut Record) -> Result<u8, String> {
    let (mut done, mut failed, mut by_hand) = (0, 0, 0);
    for finding in chosen {
        if finding.writes.is_empty() && finding.state == State::Wanting {
            println!("{:<15} by hand: {}", finding.name, finding.remedy);
            by_hand += 1;
        }
        for write in &finding.writes {
            let place = write.path.display().to_string();
            let old = machine.read(&place).unwrap_or_default();
            record.keep(&place, &old)?;
            match std::fs::write(machine.place(&write.path), &write.value) {
                Ok(()) => {
                    println!("{:<15} {place}: {} -> {}", finding.name, record::chosen_word(&old), write.value);
                    done += 1;
                }
                Err(error) => {
                    println!("{:<15} {place}: cannot be written: {error}", finding.name);
                    failed += 1;
                }
            }
        }
    }
    println!("{done} written, {failed} refused, {by_hand} to be done by hand; `pbtune revert` undoes what was written");
    Ok(if failed > 0 { FAILED } else { u8::from(by_hand > 0) * WANTING })
}

fn revert(machine: &Machine, record: Record) -> Result<u8, String> {
    let mut failed = 0;
    for entry in record.entries().iter().rev() {
        let value = record::chosen_word(&entry.old);
        match std::fs::write(machine.place(entry.path.as_ref()), value) {
            Ok(()) => println!("{}: {value}", entry.path),
            Err(error) => {
                println!("{}: cannot be written: {error}", entry.path);
                failed += 1;
            }
        }
    }
    if failed > 0 {
        return Err(format!("{failed} values could not be written back; the record is kept. Run it again as root."));
    }
    println!("{} written back", record.entries().len());
    record.remove()?;
    Ok(0)
}

fn word(state: State) -> &'static str {
    match state {
        State::Good => "good",
        State::Wanting => "WANTING",
        State::Optional => "optional",
        State::NotApplicable => "not applicable",
    }
}

/// Columns of the table for people: what it holds is broken to fit, because a card with many queues has much to tell.
const COLUMNS: [usize; 4] = [15, 15, 30, 37];
const COLUMNS_SUM: usize = 100;
const _: () = assert!(COLUMNS[0] + COLUMNS[1] + COLUMNS[2] + COLUMNS[3] + 3 == COLUMNS_SUM);

/// One line per knob that is as it should be; the reason behind each that is not.
fn table(findings: &[Finding]) -> String {
    let mut text = row(["knob", "state", "found", "wanted"]);
    for Finding { name, found, wanted, why, state, .. } in findings {
        text += &row([name, word(*state), found, wanted]);
        if matches!(state, State::Wanting | State::Optional) {
            let indent = COLUMNS[0] + 1;
            broken(why, COLUMNS_SUM - indent).iter().for_each(|line| text += &format!("{:indent$}{line}\n", ""));
        }
    }
    let wanting = findings.iter().filter(|finding| finding.state == State::Wanting).count();
    text + &format!("{wanting} wanting; `pbtune plan` shows what would be written\n")
}

/// The cells of a row side by side, in as many lines as the longest needs.
fn row(cells: [&str; 4]) -> String {
    let columns: Vec<Vec<String>> = cells.iter().zip(COLUMNS).map(|(cell, width)| broken(cell, width)).collect();
    let lines = columns.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |column: usize, line: usize| columns[column].get(line).map_or("", String::as_str);
    let line = |line: usize| {
        let parts: Vec<String> = COLUMNS.iter().enumerate().map(|(at, width)| format!("{:<width$}", cell(at, line))).collect();
        parts.join(" ").trim_end().to_owned() + "\n"
    };
    (0..lines).map(line).collect()
}

/// A text in lines of at most `width` characters, broken between words, or within one that is longer than that.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let last = lines.last_mut().expect("never empty");
            let used = last.chars().count() + usize::from(!last.is_empty());
            if used > 0 && used + rest.len() > width {
                lines.push(String::new());
                continue;
            }
            let piece: String = rest.drain(..rest.len().min(width - used)).collect();
            *last += &format!("{}{piece}", if used > 0 { " " } else { "" });
        }
    }
    lines
}

fn json(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let Finding { name, found, wanted, why, state, remedy, .. } = finding;
        serde_json::json!({ "knob": name, "state": word(*state), "found": found, "wanted": wanted, "why": why, "remedy": remedy })
    };
    format!("{:#}\n", serde_json::Value::Array(findings.iter().map(line).collect()))
}

fn plan(chosen: &[&Finding]) -> String {
    let mut text = String::new();
    for finding in chosen {
        if finding.writes.is_empty() && finding.state == State::Wanting {
            text += &format!("# {}: by hand: {}\n", finding.name, finding.remedy);
        }
        for write in &finding.writes {
            text += &format!("echo '{}' > {}  # {}\n", write.value, write.path.display(), finding.name);
        }
    }
    if text.is_empty() { "nothing to write\n".into() } else { text }
}

fn plan_json(chosen: &[&Finding]) -> String {
    let writes = chosen.iter().flat_map(|finding| finding.writes.iter().map(|write| (finding.name, write)));
    let line = |(knob, write): (&str, &host::Write)| serde_json::json!({ "knob": knob, "path": write.path.display().to_string(), "value": write.value });
    format!("{:#}\n", serde_json::Value::Array(writes.map(line).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_broken_between_words_and_keeps_every_character() {
        assert_eq!(broken("one two three", 7), ["one two", "three"]);
        assert_eq!(broken("one two three", 6), ["one", "two", "three"]);
        assert_eq!(broken("", 5), [""]);
        assert_eq!(broken("a 0123456789ab c", 5), ["a", "01234", "56789", "ab c"]);
    }
}

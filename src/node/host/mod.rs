//! What of the machine is in the way of a fast cache: a check list, shared by the node at its start and by `pbtune`.
//!
//! ```text
//!   Machine (files below a root) --> check, one per knob --> Finding { found, wanted, why, state, writes } --> log lines, table, plan
//! ```
//!
//! A knob that does not exist here (a virtual machine has no governor, most have one queue) is not applicable, never wrong. Checks
//! only read; `writes` says what would put it right, for others to do.
//!
//! Lives here: the list (`knobs`), findings, the machine. Not here: writing, the record of old values, words for people (`pbtune`).

mod knobs;

use std::path::{Path, PathBuf};

/// What a node needs of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Data cores.
    pub cores: u16,
    /// Client connections.
    pub connections: u32,
}

/// How a knob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As wanted.
    Good,
    /// Not as wanted.
    Wanting,
    /// A matter of taste: costs power or memory, and is only changed when named.
    Optional,
    /// Does not exist on this machine, or is not ours to see.
    NotApplicable,
}

/// One value to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// File below `/proc` or `/sys`.
    pub path: PathBuf,
    /// What to write.
    pub value: String,
}

/// One knob as it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name for `--only`.
    pub name: &'static str,
    /// What the knob holds now.
    pub found: String,
    /// What it should hold.
    pub wanted: String,
    /// Why.
    pub why: &'static str,
    /// How it stands.
    pub state: State,
    /// What to do by hand, where nothing can be written.
    pub remedy: &'static str,
    /// What would put it right.
    pub writes: Vec<Write>,
}

/// The machine as its kernel shows it, below a root that tests replace.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

impl Machine {
    /// A machine whose `proc` and `sys` lie below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a path like `/proc/sys/vm/swappiness` really lies.
    pub fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file without the white space around it; `None` where it is not there or not readable.
    pub fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read(self.place(Path::new(path))).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// A file that holds one number.
    fn number(&self, path: &str) -> Option<i64> {
        self.read(path)?.parse().ok()
    }

    /// Names in a folder, sorted; numbers in them by their value.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.place(Path::new(folder))).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let number = |name: &str| name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0);
        names.sort_by(|left, right| number(left).cmp(&number(right)).then_with(|| left.cmp(right)));
        names
    }
}

/// Looks at every knob. Reads about a hundred small files: under a millisecond.
pub fn check(machine: &Machine, needs: Needs) -> Vec<Finding> {
    knobs::KNOBS.iter().map(|knob| knob.look(machine, needs)).collect()
}

/// What a node says of its machine when it starts: one line with the command that tells more; `None` if all is as wanted.
pub fn hint(findings: &[Finding], needs: Needs) -> Option<String> {
    let names_of = |state: State| findings.iter().filter(move |finding| finding.state == state).map(|finding| finding.name);
    let wanting: Vec<_> = names_of(State::Wanting).collect();
    let known = wanting.len() + names_of(State::Good).count();
    let command = format!("pbtune --cores {} --connections {}", needs.cores, needs.connections);
    (!wanting.is_empty()).then(|| {
        let names = wanting.join(", ");
        format!("{} of {known} knobs of this machine are not as wanted ({names}): `{command}` tells why", wanting.len())
    })
}

impl Finding {
    /// One line for a log.
    pub fn sentence(&self) -> String {
        format!("{} is {}, and should be {}: {}", self.name, self.found, self.wanted, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_names_what_is_wanting_and_the_command() {
        let finding = |name, state| Finding {
            name,
            found: "1".into(),
            wanted: "2".into(),
            why: "reasons",
            state,
            remedy: "",
            writes: Vec::new(),
        };
        let mut findings = vec![finding("a", State::Good), finding("b", State::NotApplicable), finding("c", State::Optional)];
        let needs = Needs { cores: 3, connections: 4 };
        assert_eq!(hint(&findings, needs), None);
        findings.extend([finding("d", State::Wanting), finding("e", State::Wanting)]);
        let line = "2 of 3 knobs of this machine are not as wanted (d, e): `pbtune --cores 3 --connections 4` tells why";
        assert_eq!(hint(&findings, needs).as_deref(), Some(line));
    }
}

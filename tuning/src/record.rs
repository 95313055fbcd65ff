//! The record of old values: what a file held before the first write to it.
//!
//! ```text
//!   {"path":"/proc/sys/vm/swappiness","old":"60"}\n      one line per file, on the disk before the file is written
//! ```
//!
//! A crash leaves at most one line whose write never happened: writing its old value back changes nothing. A line cut by the crash is
//! the last one, and its write never happened either.
//!
//! Lives here: the file. Not here: what is written where (`main`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a file held.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The file, below the root.
    pub path: String,
    /// Its text.
    pub old: String,
}

/// The record on disk and in memory.
pub struct Record {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Record {
    /// Reads the record, which need not be there.
    ///
    /// # Errors
    /// One sentence, when it is there and cannot be read.
    pub fn open(path: &Path) -> Result<Self, String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("the record {} cannot be read: {error}.", path.display())),
        };
        let mut entries = Vec::new();
        for line in text.split_inclusive('\n') {
            match serde_json::from_str(line) {
                Ok(entry) => entries.push(entry),
                // Cut by a crash, before its file was written.
                Err(_) if !line.ends_with('\n') => {}
                Err(error) => {
                    return Err(format!("the record {} is damaged: {error}; see it before you go on.", path.display()));
                }
            }
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// What is remembered, in the order of the writes.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Remembers what a file holds, unless an earlier value is remembered. On the disk when it returns.
    ///
    /// # Errors
    /// One sentence; the file must then not be written.
    pub fn keep(&mut self, path: &str, old: &str) -> Result<(), String> {
        if self.entries.iter().any(|entry| entry.path == path) {
            return Ok(());
        }
        self.entries.push(Entry { path: path.into(), old: old.into() });
        self.store().map_err(|error| {
            format!("the record {} cannot be written: {error}; run as root or choose another --record.", self.path.display())
        })
    }

    /// Writes the whole record beside the old one and puts it in its place: a cut line of an earlier crash goes with it.
    fn store(&self) -> std::io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let draft = self.path.with_extension("draft");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&draft)?;
        for entry in &self.entries {
            writeln!(file, "{}", serde_json::to_string(entry)?)?;
        }
        file.sync_all()?;
        std::fs::rename(&draft, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// One sentence.
    pub fn remove(self) -> Result<(), String> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("the record {} cannot be removed: {error}.", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// What is to be written to have a text again: of a choice, such as `always [madvise] never`, the chosen word.
pub fn chosen_word(text: &str) -> &str {
    let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    chosen.unwrap_or(text)
}

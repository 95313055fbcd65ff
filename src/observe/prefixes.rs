//! Counters by prefix of the key: what stands in front of the first delimiter.
//!
//! ```text
//!   user:7:name     prefix `user`          :x   empty prefix          plain   no delimiter: not counted
//! ```
//!
//! Bounded twice, in prefixes and in their bytes; keys with a prefix that found no place any more are counted together.
//!
//! Lives here: one table. Not here: what counts as what (`observe`), lines of `stats detail dump` (`node::stats`).
//! Names and meaning follow memcached's doc/protocol.txt and `stats detail`.

use std::collections::HashMap;

use crate::limits;

/// What was done to the keys with one prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys asked for.
    pub gets: u64,
    /// Of those, found.
    pub hits: u64,
    /// Values sent to be stored.
    pub sets: u64,
    /// Deletes.
    pub deletes: u64,
}

impl Counts {
    /// Adds the counts of another table.
    pub fn add(&mut self, other: &Counts) {
        self.gets += other.gets;
        self.hits += other.hits;
        self.sets += other.sets;
        self.deletes += other.deletes;
    }
}

/// The prefixes that one core has met.
#[derive(Debug)]
pub struct Prefixes {
    /// UTF-8 of the delimiter, which is one character.
    delimiter: Box<[u8]>,
    table: HashMap<Box<[u8]>, Counts, ahash::RandomState>,
    /// Bytes of all prefixes.
    bytes: usize,
    /// Keys whose prefix found no place.
    others: Counts,
    prefixes_max: usize,
    bytes_max: usize,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self::new(':')
    }
}

impl Prefixes {
    /// The table of a core, empty.
    pub fn new(delimiter: char) -> Self {
        Self::with_bounds(delimiter, limits::PREFIXES_PER_CORE_MAX, limits::PREFIX_BYTES_PER_CORE_MAX)
    }

    /// A table to put those of all cores together in, empty.
    pub fn of_node() -> Self {
        Self::with_bounds(':', limits::PREFIXES_MAX, limits::PREFIX_BYTES_MAX)
    }

    fn with_bounds(delimiter: char, prefixes_max: usize, bytes_max: usize) -> Self {
        let mut utf8 = [0; 4];
        Self {
            delimiter: delimiter.encode_utf8(&mut utf8).as_bytes().into(),
            table: HashMap::default(),
            bytes: 0,
            others: Counts::default(),
            prefixes_max,
            bytes_max,
        }
    }

    /// Where the commands on a key are counted; `None` for a key without a delimiter. Allocates for a prefix that is new.
    pub fn of(&mut self, key: &[u8]) -> Option<&mut Counts> {
        let end = memchr::memmem::find(key, &self.delimiter)?;
        Some(self.counts_of(&key[..end]))
    }

    fn counts_of(&mut self, prefix: &[u8]) -> &mut Counts {
        // Looked for twice, because a borrow that is returned lasts to the end of the function.
        if !self.table.contains_key(prefix) {
            if self.table.len() >= self.prefixes_max || self.bytes + prefix.len() > self.bytes_max {
                return &mut self.others;
            }
            self.bytes += prefix.len();
            return self.table.entry(prefix.into()).or_default();
        }
        self.table.get_mut(prefix).unwrap_or(&mut self.others)
    }

    /// Prefixes met.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// What was done to keys whose prefix found no place, if anything.
    pub fn others(&self) -> Option<Counts> {
        (self.others != Counts::default()).then_some(self.others)
    }

    /// The prefixes in the order of their bytes.
    pub fn sorted(&self) -> Vec<(&[u8], &Counts)> {
        let mut rows: Vec<_> = self.table.iter().map(|(prefix, counts)| (&**prefix, counts)).collect();
        rows.sort_unstable_by_key(|row| row.0);
        rows
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.table = HashMap::default();
        (self.bytes, self.others) = (0, Counts::default());
    }

    /// The table packed, for the way to another thread: a core has no time for an allocation a prefix.
    pub fn pack(&self) -> Packed {
        let mut bytes = Vec::with_capacity(self.bytes + self.table.len());
        let mut counts = Vec::with_capacity(self.table.len());
        for (prefix, row) in &self.table {
            // A prefix is shorter than a key, whose length fits.
            bytes.push(prefix.len() as u8);
            bytes.extend_from_slice(prefix);
            counts.push(*row);
        }
        Packed { bytes, counts, others: self.others }
    }

    /// Adds what another table has counted.
    pub fn add(&mut self, packed: &Packed) {
        let mut rest = &packed.bytes[..];
        for counts in &packed.counts {
            let Some((&length, behind)) = rest.split_first() else { break };
            let (prefix, behind) = behind.split_at(length.into());
            self.counts_of(prefix).add(counts);
            rest = behind;
        }
        self.others.add(&packed.others);
    }
}

/// A table on its way.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// Length, in a byte, and bytes of each prefix.
    bytes: Vec<u8>,
    counts: Vec<Counts>,
    others: Counts,
}

const _: () = assert!(limits::KEY_BYTES_MAX <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn get(prefixes: &mut Prefixes, key: &str) {
        if let Some(counts) = prefixes.of(key.as_bytes()) {
            counts.gets += 1;
        }
    }

    fn names(prefixes: &Prefixes) -> Vec<String> {
        prefixes.sorted().iter().map(|(name, counts)| format!("{}={}", name.escape_ascii(), counts.gets)).collect()
    }

    #[test]
    fn a_prefix_ends_at_the_first_delimiter() {
        let mut prefixes = Prefixes::new(':');
        ["a:1", "a:2:3", "plain", ":x", "ab:1", ""].iter().for_each(|key| get(&mut prefixes, key));
        assert_eq!(names(&prefixes), ["=1", "a=2", "ab=1"]);
        let mut prefixes = Prefixes::new('é');
        ["aé1", "a:1", "é"].iter().for_each(|key| get(&mut prefixes, key));
        assert_eq!(names(&prefixes), ["=1", "a=1"]);
    }

    #[test]
    fn beyond_either_bound_keys_are_counted_together() {
        let mut prefixes = Prefixes::with_bounds(':', 2, 100);
        ["a:", "b:", "c:", "a:", "d:"].iter().for_each(|key| get(&mut prefixes, key));
        assert_eq!(names(&prefixes), ["a=2", "b=1"]);
        assert_eq!(prefixes.others(), Some(Counts { gets: 2, ..Counts::default() }));
        let mut prefixes = Prefixes::with_bounds(':', 10, 5);
        ["abc:", "de:", "f:", "g:"].iter().for_each(|key| get(&mut prefixes, key));
        assert_eq!(names(&prefixes), ["abc=1", "de=1"]);
        assert_eq!(prefixes.others(), Some(Counts { gets: 2, ..Counts::default() }));
        prefixes.clear();
        get(&mut prefixes, "f:");
        assert_eq!((names(&prefixes), prefixes.others()), (vec!["f=1".to_string()], None));
    }

    #[test]
    fn the_tables_of_all_cores_add_up() {
        let mut node = Prefixes::with_bounds(':', 3, 100);
        for keys in [&["a:1", "b:1"][..], &["b:2", "c:1", ":"], &["a:2", "d:1"]] {
            let mut core = Prefixes::with_bounds(':', 2, 100);
            keys.iter().for_each(|key| get(&mut core, key));
            node.add(&core.pack());
        }
        // The empty prefix found no place on its core, `d` none on the node.
        assert_eq!(names(&node), ["a=2", "b=2", "c=1"]);
        assert_eq!(node.others().map(|counts| counts.gets), Some(2));
    }
}

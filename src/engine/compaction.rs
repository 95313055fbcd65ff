//! Which segments are worth compacting.
//!
//! ```text
//!   live eighths:   0 1 2 3 | 4 5 6 | 7 8
//!                   always  |   |   | never
//!                               where an eighth of all segments' bytes is dead
//! ```
//!
//! A sealed segment is in the list of as many eighths as are alive of it. The list with the least alive comes first: what is copied
//! for a byte that is freed is live / dead, at most 7, mostly 2 to 3.
//!
//! Half alone is not enough: when three of ten requests store a value of another length over an old one, 65 % of the memory is alive
//! with it, 87 % so (`benches/hit_ratio.rs`).
//!
//! Lives here: the lists. Not here: what a segment holds (`segment`), when it is drained (`eviction`).

use super::segment::NONE;

/// Lists of extents, by eighths of a segment that are alive.
pub(super) struct CompactionCandidates {
    heads: [u32; EIGHTHS_MAX],
    /// By number of the extent.
    links: Vec<Link>,
}

/// Below which part alive a segment is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threshold {
    /// A half: always worth it.
    Half,
    /// Seven eighths: where much of all segments is dead.
    SevenEighths,
}

/// Where an extent is listed.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    /// `EIGHTHS_MAX`: nowhere.
    eighths: u8,
}

impl Default for CompactionCandidates {
    fn default() -> Self {
        Self { heads: [NONE; EIGHTHS_MAX], links: Vec::new() }
    }
}

impl CompactionCandidates {
    /// An extent of this number may come.
    pub fn expect(&mut self, id: u32) {
        if self.links.len() <= id as usize {
            self.links.resize(id as usize + 1, NOWHERE);
        }
    }

    /// So many eighths of a segment are alive: it comes first of those.
    pub fn put(&mut self, id: u32, eighths: usize) {
        self.take(id);
        if eighths >= EIGHTHS_MAX {
            return;
        }
        let next = std::mem::replace(&mut self.heads[eighths], id);
        if next != NONE {
            self.links[next as usize].previous = id;
        }
        self.links[id as usize] = Link { previous: NONE, next, eighths: eighths as u8 };
    }

    /// The segment is not to be compacted any more.
    pub fn take(&mut self, id: u32) {
        let link = std::mem::replace(&mut self.links[id as usize], NOWHERE);
        if link.eighths as usize == EIGHTHS_MAX {
            return;
        }
        match link.previous {
            NONE => self.heads[link.eighths as usize] = link.next,
            previous => self.links[previous as usize].next = link.next,
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
    }

    /// The segment with the least alive, if that is below the threshold.
    pub fn first(&self, threshold: Threshold) -> Option<u32> {
        let end = match threshold {
            Threshold::Half => EIGHTHS_HALF,
            Threshold::SevenEighths => EIGHTHS_MAX,
        };
        self.heads[..end].iter().copied().find(|&id| id != NONE)
    }

    /// The eighths that a segment is listed under.
    pub fn eighths(&self, id: u32) -> Option<usize> {
        let eighths = self.links[id as usize].eighths as usize;
        (eighths < EIGHTHS_MAX).then_some(eighths)
    }
}

const NOWHERE: Link = Link { previous: NONE, next: NONE, eighths: EIGHTHS_MAX as u8 };
/// Segments with as many live eighths, or more, are not compacted.
pub(super) const EIGHTHS_MAX: usize = 7;
const EIGHTHS_HALF: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_alive_comes_first_and_each_is_listed_once() {
        let mut candidates = CompactionCandidates::default();
        candidates.expect(9);
        for (id, eighths) in [(1, 6), (2, 3), (3, 8), (4, 3), (2, 2), (5, 5), (2, 6)] {
            candidates.put(id, eighths);
        }
        let mut order = Vec::new();
        while let Some(id) = candidates.first(Threshold::SevenEighths) {
            candidates.take(id);
            order.push(id);
        }
        assert_eq!(order, [4, 5, 2, 1]);
        candidates.put(7, 4);
        assert_eq!((candidates.first(Threshold::Half), candidates.first(Threshold::SevenEighths)), (None, Some(7)));
        assert_eq!((candidates.eighths(7), candidates.eighths(4)), (Some(4), None));
    }
}

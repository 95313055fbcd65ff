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
pub(super) struct Sparse {
    heads: [u32; EIGHTHS_MAX],
    /// By number of the extent.
    links: Vec<Link>,
}

/// Where an extent is listed.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    /// `EIGHTHS_MAX`: nowhere.
    eighths: u8,
}

impl Default for Sparse {
    fn default() -> Self {
        Self { heads: [NONE; EIGHTHS_MAX], links: Vec::new() }
    }
}

impl Sparse {
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

    /// The segment with the least alive. `hungry`: also one that is alive by half and more.
    pub fn first(&self, hungry: bool) -> Option<u32> {
        let end = if hungry { EIGHTHS_MAX } else { EIGHTHS_HALF };
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
        let mut sparse = Sparse::default();
        sparse.expect(9);
        for (id, eighths) in [(1, 6), (2, 3), (3, 8), (4, 3), (2, 2), (5, 5), (2, 6)] {
            sparse.put(id, eighths);
        }
        let mut order = Vec::new();
        while let Some(id) = sparse.first(true) {
            sparse.take(id);
            order.push(id);
        }
        assert_eq!(order, [4, 5, 2, 1]);
        sparse.put(7, 4);
        assert_eq!((sparse.first(false), sparse.first(true)), (None, Some(7)));
        assert_eq!((sparse.eighths(7), sparse.eighths(4)), (Some(4), None));
    }
}

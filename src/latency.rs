//! How long requests take, by door and kind of operation, from the clock of a core's turns.
//!
//! ```text
//!   turn:  clock -> requests are executed: counted by kind -> clock: the turn's length is the time of each of them
//!   a request that another core or node executes: the time between the turn that sent it and the turn that its answer came in
//! ```
//!
//! No request reads a clock: a request costs one addition, a turn with requests one reading more. What the kernel does with the answer
//! afterwards is not in it, nor is what a request waited for in a socket.
//!
//! Lives here: doors, kinds of operations, histograms. Not here: who reads the clock (`runtime`), how they are shown (`node::admin`).

use crate::command::Verb;

/// Which protocol a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Classic text.
    Text,
    /// Meta commands.
    Meta,
    /// Binary.
    Binary,
    /// HTTP.
    Http,
    /// RESP.
    Resp,
}

impl Door {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Text, Self::Meta, Self::Binary, Self::Http, Self::Resp];

    /// The word for it in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Meta => "meta",
            Self::Binary => "binary",
            Self::Http => "http",
            Self::Resp => "resp",
        }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads of a value, those that touch included.
    Get,
    /// Stores of any kind.
    Store,
    /// Deletes and invalidations.
    Delete,
    /// Increments and decrements.
    Arithmetic,
    /// Touches that want no value.
    Touch,
    /// Questions about an item.
    Inspect,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Get, Self::Store, Self::Delete, Self::Arithmetic, Self::Touch, Self::Inspect];

    /// The word for it in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Store => "store",
            Self::Delete => "delete",
            Self::Arithmetic => "arithmetic",
            Self::Touch => "touch",
            Self::Inspect => "inspect",
        }
    }

    /// The kind of a command.
    #[inline]
    pub fn of(verb: &Verb) -> Self {
        match verb {
            Verb::Get(_) => Self::Get,
            Verb::Store(_) => Self::Store,
            Verb::Delete(_) => Self::Delete,
            Verb::Arithmetic(_) => Self::Arithmetic,
            Verb::Touch(_) => Self::Touch,
            Verb::Inspect => Self::Inspect,
        }
    }
}

/// Doors times operations.
pub const KINDS: usize = Door::ALL.len() * Operation::ALL.len();

/// A door and an operation, as a number below `KINDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// The kind of a request.
    #[inline]
    pub fn of(door: Door, verb: &Verb) -> Self {
        Self((door as usize * Operation::ALL.len() + Operation::of(verb) as usize) as u8)
    }

    /// The door and the operation.
    pub fn parts(self) -> (Door, Operation) {
        let (door, operation) = (usize::from(self.0) / Operation::ALL.len(), usize::from(self.0) % Operation::ALL.len());
        (Door::ALL[door % Door::ALL.len()], Operation::ALL[operation])
    }

    /// All kinds, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = (Door, Operation)> {
        Door::ALL.into_iter().flat_map(|door| Operation::ALL.into_iter().map(move |operation| (door, operation)))
    }
}

/// Buckets of a histogram: up to 16 us, 32 us, .. 1.05 s, and beyond.
pub const BUCKETS: usize = 18;
/// Upper bound of the first bucket, in nanoseconds: "16 us".
const FIRST_NS: u64 = 16_000;

/// Upper bound of a bucket in seconds; infinite for the last.
pub fn bound_s(bucket: usize) -> f64 {
    if bucket + 1 >= BUCKETS { f64::INFINITY } else { (FIRST_NS << bucket) as f64 / 1e9 }
}

/// How many took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// All together, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts `count` that took so long each.
    #[inline]
    pub fn add(&mut self, ns: u64, count: u64) {
        self.buckets[bucket(ns)] += count;
        self.sum_ns += ns * count;
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, more)| *own += more);
        self.sum_ns += other.sum_ns;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Upper bound, in seconds, of the bucket in which this share of all lies (0.99 for the 99th percentile); `None` for none at all.
    pub fn quantile_s(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let found = self.buckets.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        // Beyond the last bound, nothing better is known than that bound.
        Some(bound_s(found.min(BUCKETS - 2)))
    }
}

#[inline]
fn bucket(ns: u64) -> usize {
    // The bits of how many times the first bound it is, rounded up.
    let times = ns.saturating_sub(1) / FIRST_NS;
    ((u64::BITS - times.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// What one core knows of the time that requests take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Requests executed in this turn.
    turn: [u32; KINDS],
    /// Requests by kind.
    pub kinds: [Histogram; KINDS],
    /// Turns in which there was something to do.
    pub turns: Histogram,
}

impl Latency {
    /// Counts a request that this turn has answered.
    #[inline]
    pub fn count(&mut self, kind: Kind) {
        self.turn[usize::from(kind.0) % KINDS] += 1;
    }

    /// Counts a request whose answer came from elsewhere.
    #[inline]
    pub fn waited(&mut self, kind: Kind, ns: u64) {
        self.kinds[usize::from(kind.0) % KINDS].add(ns, 1);
    }

    /// A turn with something to do has ended, which took so long. Returns the requests that it has answered.
    pub fn end_turn(&mut self, ns: u64) -> u32 {
        self.turns.add(ns, 1);
        let mut all = 0;
        for (histogram, count) in self.kinds.iter_mut().zip(&mut self.turn) {
            if *count > 0 {
                all += *count;
                histogram.add(ns, u64::from(std::mem::take(count)));
            }
        }
        all
    }

    /// What most requests of this turn were, if there were any, and how many there were in all.
    pub fn turn_so_far(&self) -> (Option<Kind>, u32) {
        let most = (0..KINDS).max_by_key(|&kind| self.turn[kind]).filter(|&kind| self.turn[kind] > 0);
        (most.map(|kind| Kind(kind as u8)), self.turn.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Get;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_one_more_to_the_next() {
        for index in 0..BUCKETS - 1 {
            let bound_ns = FIRST_NS << index;
            assert_eq!((bucket(bound_ns), bucket(bound_ns + 1)), (index, index + 1));
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
        assert_eq!((bound_s(0), bound_s(16), bound_s(17)), (0.000016, 1.048576, f64::INFINITY));
    }

    #[test]
    fn all_requests_of_a_turn_take_as_long_as_the_turn() {
        let mut latency = Latency::default();
        let kind = Kind::of(Door::Meta, &Verb::Get(Get::default()));
        latency.count(kind);
        latency.count(kind);
        assert_eq!(latency.turn_so_far(), (Some(kind), 2));
        assert_eq!((latency.end_turn(20_000), latency.turn_so_far()), (2, (None, 0)));
        latency.end_turn(5_000);
        latency.waited(kind, 40_000);
        let histogram = latency.kinds[Operation::ALL.len()];
        assert_eq!((histogram.buckets[1], histogram.buckets[2], histogram.sum_ns), (2, 1, 80_000));
        assert_eq!((latency.turns.count(), latency.turns.sum_ns), (2, 25_000));
        assert_eq!((histogram.quantile_s(0.5), histogram.quantile_s(0.99)), (Some(0.000032), Some(0.000064)));
        assert_eq!(Histogram::default().quantile_s(0.99), None);
    }

    #[test]
    fn numbers_follow_the_order_of_the_lists() {
        let (doors, operations) = (Door::ALL.map(|door| door as usize), Operation::ALL.map(|operation| operation as usize));
        assert!(doors.iter().enumerate().all(|(index, &door)| index == door));
        assert!(operations.iter().enumerate().all(|(index, &operation)| index == operation));
        assert_eq!(Kind::all().count(), KINDS);
        assert!(Kind::all().enumerate().all(|(number, parts)| Kind(number as u8).parts() == parts));
    }
}

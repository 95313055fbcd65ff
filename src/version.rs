//! Versions of items: which of two writes of a key came later, on whatever node.
//!
//! ```text
//!    63                                    16 15                 0
//!   | milliseconds since the Unix epoch      | counter            |     a hybrid logical clock
//!                                              ...... node . core       its lowest bits say who gave it: no two are the same
//! ```
//!
//! A version is also the CAS unique of an item, unless a client has set another one. What another node calls a version becomes one in
//! `peer::frame` only, where it is checked.
//!
//! Source: Kulkarni and others, *Logical Physical Clocks and Consistent Snapshots in Globally Distributed Databases*, 2014.
//!
//! Lives here: the number and its parts. Not here: who gives them (`engine`), which of two items wins (`engine::copies`).

use crate::time::Timestamp;

/// When an item was written, in the order of all writes of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Version(u64);

/// Bits of the counter.
const COUNTER_BITS: u32 = 16;

impl Version {
    /// Before every version: none.
    pub const NONE: Self = Self(0);
    /// After every version.
    pub const MAX: Self = Self(u64::MAX);

    /// The version that is written as this number: in a record, a frame, a CAS unique.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The number that is written for it.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The least that a clock can give at this moment.
    #[inline]
    pub const fn first_at(now: Timestamp) -> Self {
        Self(now.unix_ms << COUNTER_BITS)
    }

    /// The greatest that a clock can give at this moment.
    #[inline]
    pub const fn last_at(now: Timestamp) -> Self {
        Self(now.unix_ms << COUNTER_BITS | ((1 << COUNTER_BITS) - 1))
    }

    /// When it was given, as the clock of its node saw it.
    #[inline]
    pub const fn given_at(self) -> Timestamp {
        Timestamp { unix_ms: self.0 >> COUNTER_BITS }
    }

    /// The least version above this one.
    #[inline]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The greatest version below this one.
    #[inline]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Whether there is one.
    #[inline]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

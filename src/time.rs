//! Time as the product sees it, handed in by the caller, never read here.
//!
//! ```text
//!   Timestamp    the wall clock: expiry, versions        may jump, means the same on every node
//!   Monotonic    since this process started: deadlines,  never goes back, means nothing anywhere else
//!                patience, leases
//!
//!   exptime of a client          Expiry of an item (absolute, seconds)
//!   0                         -> never
//!   1 ..= 2,592,000           -> now + exptime
//!   above 2,592,000           -> exptime itself, a Unix time; in the past means expired
//!   negative                  -> expired at once
//!
//!   words of a line: the low 32 bits of a signed number of 64, as a signed number     4294967295 -> -1, 4294967296 -> 0
//!   binary packets:  32 bits without a sign
//! ```
//!
//! Lives here: `Timestamp`, `Monotonic`, `Seconds`, `Expiry`, the exptime rule. Not here: any clock (`runtime/`), timers.
//! The rule is that of memcached's doc/protocol.txt, *Expiration times*.

use std::ops::{Add, Sub};

/// A moment of the wall clock: milliseconds since the Unix epoch. Read once per turn of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

impl Timestamp {
    /// The moment `unix` whole seconds after the epoch.
    pub const fn from_seconds(unix: u32) -> Self {
        Self { unix_ms: unix as u64 * 1000 }
    }

    /// The second that this moment lies in.
    pub const fn seconds(self) -> Seconds {
        Seconds((self.unix_ms / 1000) as u32)
    }

    /// This moment moved later by `ms` milliseconds.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self { unix_ms: self.unix_ms.saturating_add(ms) }
    }
}

/// A moment of the clock that never goes back and never jumps. Only moments of one process can be compared; a moment plus milliseconds is
/// a moment, and of two moments the difference is in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(u64);

impl Monotonic {
    /// Before everything that has happened: the clock starts later than any duration that is waited for.
    pub const LONG_AGO: Self = Self(0);
    /// After everything that will happen.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment at which the clock says `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// What the clock says, in milliseconds.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// This moment moved earlier by `ms` milliseconds, not before `LONG_AGO`.
    pub const fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }
}

impl Add<u64> for Monotonic {
    type Output = Self;

    /// The moment `ms` milliseconds later.
    #[inline]
    fn add(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl Sub for Monotonic {
    type Output = u64;

    /// Milliseconds since an earlier moment; 0 if it is a later one.
    #[inline]
    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Whole seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(pub u32);

/// When an item stops being readable, in Unix seconds; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry(pub u32);

impl Expiry {
    /// The item stays until it is evicted or deleted.
    pub const NEVER: Self = Self(0);
    /// The item is stored and already unreadable (negative exptime, or an absolute one in the past).
    pub const PAST: Self = Self(1);

    /// Whether an item with this expiry is unreadable at `now`. Exact to the second: readable while `now < expiry`.
    pub const fn expired(self, now: Seconds) -> bool {
        self.0 != 0 && self.0 <= now.0
    }

    /// Seconds left, `None` for never. 0 when expired.
    pub const fn remaining(self, now: Seconds) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0.saturating_sub(now.0)) }
    }
}

/// An expiration time as the client meant it, before the rule above: negative ones come from lines, those of 32 bits from packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exptime(pub i64);

impl Exptime {
    /// Never.
    pub const NEVER: Self = Self(0);
    /// The exptime that a number in a line means: its low 32 bits, signed, which is what memcached makes of a `long`. Clients rely on
    /// it: libmemcached writes -1 as 4294967295.
    pub const fn of_line(number: i64) -> Self {
        Self(number as i32 as i64)
    }

    /// Largest relative exptime: 30 days, in seconds. protocol.txt, *Expiration times*.
    pub const RELATIVE_MAX: i64 = 60 * 60 * 24 * 30;

    /// The absolute expiry that this exptime means at `now`.
    pub const fn expiry(self, now: Seconds) -> Expiry {
        if self.0 == 0 {
            Expiry::NEVER
        } else if self.0 < 0 {
            Expiry::PAST
        } else if self.0 <= Self::RELATIVE_MAX {
            Expiry(now.0.saturating_add(self.0 as u32))
        } else if self.0 <= now.0 as i64 {
            Expiry::PAST
        } else if self.0 > u32::MAX as i64 {
            Expiry(u32::MAX)
        } else {
            Expiry(self.0 as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = Seconds(1_700_000_000);

    #[test]
    fn the_thirty_day_border_switches_from_relative_to_absolute() {
        assert_eq!(Exptime(2_592_000).expiry(NOW), Expiry(NOW.0 + 2_592_000));
        assert_eq!(Exptime(2_592_001).expiry(NOW), Expiry::PAST);
    }

    #[test]
    fn zero_is_never_and_negative_is_at_once() {
        assert_eq!(Exptime(0).expiry(NOW), Expiry::NEVER);
        assert!(Exptime(-1).expiry(NOW).expired(NOW));
        assert!(!Expiry::NEVER.expired(Seconds(u32::MAX)));
    }

    #[test]
    fn an_absolute_time_is_kept_if_it_is_ahead_and_past_otherwise() {
        assert_eq!(Exptime(NOW.0 as i64).expiry(NOW), Expiry::PAST);
        assert_eq!(Exptime(NOW.0 as i64 + 1).expiry(NOW), Expiry(NOW.0 + 1));
        assert_eq!(Exptime(i64::MAX).expiry(NOW), Expiry(u32::MAX));
    }

    #[test]
    fn a_number_in_a_line_counts_by_its_low_32_bits_as_a_signed_number() {
        let expiry = |number| Exptime::of_line(number).expiry(NOW);
        for at_once in [2_147_483_648, 4_294_967_295, 99_999_999_999, i64::MAX, -1, -2_147_483_648] {
            assert_eq!(expiry(at_once), Expiry::PAST, "{at_once}");
        }
        for never in [0, 4_294_967_296, -4_294_967_296, i64::MIN] {
            assert_eq!(expiry(never), Expiry::NEVER, "{never}");
        }
        for ahead in [2_147_483_647, -2_147_483_649] {
            assert_eq!(expiry(ahead), Expiry(2_147_483_647), "{ahead}");
        }
        assert_eq!(expiry(4_294_967_306), Expiry(NOW.0 + 10));
    }

    #[test]
    fn an_item_is_readable_up_to_the_second_before_its_expiry() {
        let expiry = Exptime(1).expiry(NOW);
        assert!(!expiry.expired(NOW));
        assert!(expiry.expired(Seconds(NOW.0 + 1)));
    }
}

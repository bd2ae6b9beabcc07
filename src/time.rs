//! Event times, watermarks and lags, in microseconds, and the arithmetic of "complete" and "late". The one place that spells it.
//!
//! A watermark W promises that every row yet to come has an event time of at least W. So a time below W is complete, and a row
//! with such a time, if it arrives nevertheless, is late. A column with lag L trails the event time by at most L: its values in
//! rows yet to come are at least W - L, which is a watermark of that column.
//!
//! ```text
//! W = 100, a column with lag 30    W - 30 = 70: values up to 69 are complete
//! a value of 70 is complete        from the watermark 101 on
//! ```
//!
//! All arithmetic saturates. The types print as the number that they hold, and are written as it: descriptions of operators
//! contain them, and state is addressed by these.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! prints_as_its_number {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

prints_as_its_number!(EventTime Watermark Lag);

/// The time of a row, microseconds since 1970 UTC. For rows without event time it is the processing time of their epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[repr(transparent)]
pub struct EventTime(pub i64);

/// A lower bound of times, microseconds since 1970 UTC: of the rows yet to come, or (a cutoff) of the rows that state keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Watermark(pub i64);

/// A length of time, microseconds: how far a column trails the event time, how long state is kept. May be negative: the end of a
/// window is ahead of its rows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Lag(pub i64);

impl EventTime {
    /// The earliest time.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest time.
    pub const MAX: Self = Self(i64::MAX);

    /// The instant this many milliseconds after 1970 UTC.
    #[must_use]
    pub fn of_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// `true` if no row yet to come has this time or an earlier one. At [`Watermark::END`] every time is complete, even the latest.
    #[inline]
    #[must_use]
    pub fn is_complete(self, watermark: Watermark) -> bool {
        self.is_below(watermark) || watermark == Watermark::END
    }

    /// `true` if a row of this time comes too late after the watermark `before`. No row is late before the first watermark.
    #[inline]
    #[must_use]
    pub fn is_late(self, before: Watermark) -> bool {
        self.is_below(before)
    }

    /// `true` if this time is before a bound: of a cutoff, if state of this time has expired.
    #[inline]
    #[must_use]
    pub fn is_below(self, bound: Watermark) -> bool {
        self.0 < bound.0
    }

    /// The first watermark at which this time is complete, as a value of a column with this lag.
    #[must_use]
    pub fn due(self, lag: Lag) -> Watermark {
        Watermark(self.0.saturating_add(lag.0).saturating_add(1))
    }

    /// This much later.
    #[inline]
    #[must_use]
    pub fn saturating_add(self, by: Lag) -> Self {
        Self(self.0.saturating_add(by.0))
    }

    /// This much earlier.
    #[inline]
    #[must_use]
    pub fn saturating_sub(self, by: Lag) -> Self {
        Self(self.0.saturating_sub(by.0))
    }

    /// The time that has passed since `earlier`; negative if that is later.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Self) -> Lag {
        Lag(self.0.saturating_sub(earlier.0))
    }
}

impl Watermark {
    /// No row has been seen: nothing is complete, late or expired.
    pub const NONE: Self = Self(i64::MIN);
    /// The input has ended: every time is complete.
    pub const END: Self = Self(i64::MAX);

    /// No time before this one is expected. Processing time is such a bound of itself.
    #[inline]
    #[must_use]
    pub fn at(time: EventTime) -> Self {
        Self(time.0)
    }

    /// The first time that this bound leaves.
    #[inline]
    #[must_use]
    pub fn time(self) -> EventTime {
        EventTime(self.0)
    }

    /// `true` if rows have been seen and more may come: the number is a time.
    #[must_use]
    pub fn is_known(self) -> bool {
        self != Self::NONE && self != Self::END
    }

    /// The time by which this watermark is ahead of `other`; negative if it is behind.
    #[must_use]
    pub fn ahead_of(self, other: Self) -> Lag {
        self.time().since(other.time())
    }

    /// `true` if no row yet to come is before `end`: a span of time that ends before it is complete.
    #[inline]
    #[must_use]
    pub fn has_reached(self, end: EventTime) -> bool {
        self.0 >= end.0
    }

    /// The watermark of a column with this lag: a lower bound of its values in rows yet to come. [`Watermark::NONE`] and
    /// [`Watermark::END`] stay what they are, and however large the lag, no other watermark becomes one of them.
    #[inline]
    #[must_use]
    pub fn behind(self, lag: Lag) -> Self {
        match self {
            Self::NONE | Self::END => self,
            Self(known) => Self(known.saturating_sub(lag.0).clamp(i64::MIN + 1, i64::MAX - 1)),
        }
    }
}

impl Default for Watermark {
    fn default() -> Self {
        Self::NONE
    }
}

impl Lag {
    /// No lag.
    pub const ZERO: Self = Self(0);
    /// The least difference of two times.
    pub const MICROSECOND: Self = Self(1);
    /// The longest.
    pub const MAX: Self = Self(i64::MAX);

    /// As long as `duration`, without parts of a microsecond.
    #[must_use]
    pub fn of(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
    }

    /// The sum.
    #[inline]
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference.
    #[inline]
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The same length in the other direction.
    #[inline]
    #[must_use]
    pub fn saturating_neg(self) -> Self {
        Self(self.0.saturating_neg())
    }

    /// The sum; `None` if it is out of range.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference; `None` if it is out of range.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTREMES: [i64; 7] = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];

    #[test]
    fn times_below_the_watermark_are_complete_and_late() {
        let watermark = Watermark(100);
        assert!(EventTime(99).is_complete(watermark) && EventTime(99).is_late(watermark));
        assert!(!EventTime(100).is_complete(watermark) && !EventTime(100).is_late(watermark));
        assert!(watermark.has_reached(EventTime(100)) && !watermark.has_reached(EventTime(101)));
    }

    #[test]
    fn before_the_first_watermark_nothing_is_complete_or_late() {
        for time in EXTREMES.map(EventTime) {
            assert!(!time.is_complete(Watermark::NONE), "{time}");
            assert!(!time.is_late(Watermark::NONE), "{time}");
        }
    }

    #[test]
    fn at_the_end_everything_is_complete() {
        for time in EXTREMES.map(EventTime) {
            assert!(time.is_complete(Watermark::END), "{time}");
            assert!(Watermark::END.has_reached(time), "{time}");
        }
    }

    #[test]
    fn a_lag_moves_a_watermark_but_never_to_the_beginning_or_the_end() {
        assert_eq!(Watermark(100).behind(Lag(30)), Watermark(70));
        assert_eq!(Watermark(100).behind(Lag(-1)), Watermark(101));
        for lag in EXTREMES.map(Lag) {
            assert_eq!(Watermark::NONE.behind(lag), Watermark::NONE);
            assert_eq!(Watermark::END.behind(lag), Watermark::END);
            for known in [i64::MIN + 1, -1, 0, 1, i64::MAX - 1].map(Watermark) {
                assert!(known.behind(lag).is_known(), "{known} - {lag}");
            }
        }
        assert_eq!(Watermark(-2).behind(Lag::MAX), Watermark(i64::MIN + 1));
        assert_eq!(Watermark(1).behind(Lag(i64::MIN)), Watermark(i64::MAX - 1));
    }

    #[test]
    fn a_time_is_due_at_the_first_watermark_that_completes_it() {
        for (time, lag) in [(0, 0), (70, 30), (70, -30), (-5, 3), (i64::MIN, 0), (i64::MAX - 2, 0)] {
            let due = EventTime(time).due(Lag(lag));
            assert!(EventTime(time).is_complete(due.behind(Lag(lag))), "{time} {lag}");
            let before = Watermark(due.0 - 1);
            assert!(!EventTime(time).is_complete(before.behind(Lag(lag))), "{time} {lag}");
        }
        assert_eq!(EventTime::MAX.due(Lag::ZERO), Watermark::END);
        assert_eq!(EventTime(5).due(Lag::MAX), Watermark::END);
        assert_eq!(EventTime::MIN.due(Lag(i64::MIN)), Watermark(i64::MIN + 1));
    }

    #[test]
    fn sums_and_differences_stop_at_the_ends_of_the_range() {
        assert_eq!(EventTime::MAX.saturating_add(Lag(1)), EventTime::MAX);
        assert_eq!(EventTime::MIN.saturating_sub(Lag(1)), EventTime::MIN);
        assert_eq!(EventTime::MIN.saturating_add(Lag(-1)), EventTime::MIN);
        assert_eq!(EventTime::MAX.since(EventTime::MIN), Lag::MAX);
        assert_eq!(EventTime::MIN.since(EventTime::MAX), Lag(i64::MIN));
        assert_eq!(Lag::MAX.saturating_add(Lag(1)), Lag::MAX);
        assert_eq!(Lag(i64::MIN).saturating_sub(Lag(1)), Lag(i64::MIN));
        assert_eq!(Lag(i64::MIN).saturating_neg(), Lag::MAX);
        assert_eq!((Lag::MAX.checked_add(Lag(1)), Lag(i64::MIN).checked_sub(Lag(1))), (None, None));
        assert_eq!(Lag::of(Duration::MAX), Lag::MAX);
        assert_eq!(Lag::of(Duration::from_nanos(1_999)), Lag::MICROSECOND);
    }

    #[test]
    fn they_print_and_are_written_as_numbers() {
        for number in EXTREMES {
            let bare =
                (format!("{number:?} {number:#?} {number} {number:>8}"), serde_json::to_string(&number).unwrap());
            let (time, mark, lag) = (EventTime(number), Watermark(number), Lag(number));
            assert_eq!((format!("{time:?} {time:#?} {time} {time:>8}"), serde_json::to_string(&time).unwrap()), bare);
            assert_eq!((format!("{mark:?} {mark:#?} {mark} {mark:>8}"), serde_json::to_string(&mark).unwrap()), bare);
            assert_eq!((format!("{lag:?} {lag:#?} {lag} {lag:>8}"), serde_json::to_string(&lag).unwrap()), bare);
            assert_eq!(serde_json::from_str::<Watermark>(&bare.1).unwrap(), mark);
        }
    }
}

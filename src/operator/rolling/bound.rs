//! The bounds of frames, as positions among a key's rows.
//!
//! RANGE bounds become "the first row at or after a time"; "after a time" is one microsecond later, so there is one kind of
//! search. Shifts of days and less are plain microseconds; months follow the calendar, as DataFusion adds them to
//! timestamps.

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{DateTime, Datelike, Days, Months, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};

use crate::error::{Error, Result};
use crate::time::{EventTime, Lag};

const DAY: i64 = 86_400_000_000;

/// A calendar shift depends on no rows further back than this.
pub(super) const CUT: Lag = Lag(4 * DAY);

/// A distance in time from the current row.
///
/// Calendar shifts are not monotone: 29 March 10:00 and 30 March 08:00 minus a month are 28 February 10:00 and 08:00.
/// DataFusion never moves a frame's bounds back, so the bound of the later row is 10:00, too; see [`Shift::target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shift {
    Micros(Lag),
    /// Backwards by the calendar.
    Before(IntervalMonthDayNano),
    /// Forwards by the calendar.
    After(IntervalMonthDayNano),
}

impl Shift {
    pub(super) const ZERO: Self = Self::Micros(Lag::ZERO);

    /// The shifted time; times out of range become the end of the range.
    #[inline]
    pub(super) fn from(self, time: EventTime) -> EventTime {
        match self {
            Self::Micros(by) => time.saturating_add(by),
            Self::Before(by) => calendar(time, -by.months, -by.days, -by.nanoseconds).unwrap_or(EventTime::MIN),
            Self::After(by) => calendar(time, by.months, by.days, by.nanoseconds).unwrap_or(EventTime::MAX),
        }
    }

    /// Upper bound of the shifted times of all rows up to `time`; monotone.
    pub(super) fn upper(self, time: EventTime) -> EventTime {
        match self {
            Self::Micros(_) => self.from(time),
            _ => self.from(midnight(time).saturating_add(Lag(DAY - 1))),
        }
    }

    /// Lower bound of the shifted times of all rows from `time` on; monotone.
    pub(super) fn lower(self, time: EventTime) -> EventTime {
        match self {
            Self::Micros(_) => self.from(time),
            _ => self.from(midnight(time)),
        }
    }

    /// The shifted time of a row, or that of an earlier row of its key, if that is later. `times` are the key's times up to
    /// the row's.
    pub(super) fn target(self, times: &[i64], time: EventTime) -> EventTime {
        let own = self.from(time);
        // Only days that a month may lack are cut to its length, and they are overtaken only by each other.
        let is_cut = |time: EventTime| DateTime::from_timestamp_micros(time.0).is_some_and(|at| at.day() > 28);
        match self {
            Self::Micros(_) => own,
            _ if !is_cut(time) => own,
            _ => {
                let near = times.iter().rev().take_while(|other| EventTime(**other) > time.saturating_sub(CUT));
                near.map(|other| self.from(EventTime(*other))).fold(own, EventTime::max)
            }
        }
    }

    fn backwards(value: &ScalarValue) -> Result<Self> {
        Ok(match value {
            ScalarValue::IntervalMonthDayNano(Some(by)) if by.months != 0 => Self::Before(*by),
            // The target of the search is a whole microsecond; a fraction of one moves it down.
            ScalarValue::IntervalMonthDayNano(Some(by)) => {
                Self::Micros(Lag(-(i64::from(by.days) * DAY) + (-by.nanoseconds).div_euclid(1000)))
            }
            other => Self::Micros(Lag(-micros(other)?)),
        })
    }

    fn forwards(value: &ScalarValue) -> Result<Self> {
        Ok(match value {
            ScalarValue::IntervalMonthDayNano(Some(by)) if by.months != 0 => Self::After(*by),
            ScalarValue::IntervalMonthDayNano(Some(by)) => {
                Self::Micros(Lag(i64::from(by.days) * DAY + by.nanoseconds.div_euclid(1000)))
            }
            other => Self::Micros(Lag(micros(other)?)),
        })
    }
}

/// The beginning of the day.
fn midnight(time: EventTime) -> EventTime {
    time.saturating_sub(Lag(time.0.rem_euclid(DAY)))
}

/// Months first (cut to the length of the month), then days, then the rest: arrow's arithmetic.
fn calendar(time: EventTime, months: i32, days: i32, nanoseconds: i64) -> Option<EventTime> {
    let at: DateTime<Utc> = DateTime::from_timestamp_micros(time.0)?;
    let at = match months {
        0.. => at.checked_add_months(Months::new(months.unsigned_abs())),
        _ => at.checked_sub_months(Months::new(months.unsigned_abs())),
    }?;
    let at = match days {
        0.. => at.checked_add_days(Days::new(u64::from(days.unsigned_abs()))),
        _ => at.checked_sub_days(Days::new(u64::from(days.unsigned_abs()))),
    }?;
    Some(EventTime(at.checked_add_signed(TimeDelta::nanoseconds(nanoseconds))?.timestamp_micros()))
}

fn micros(value: &ScalarValue) -> Result<i64> {
    Ok(match value {
        ScalarValue::DurationSecond(Some(by)) => by.saturating_mul(1_000_000),
        ScalarValue::DurationMillisecond(Some(by)) => by.saturating_mul(1_000),
        ScalarValue::DurationMicrosecond(Some(by)) | ScalarValue::Int64(Some(by)) => *by,
        ScalarValue::DurationNanosecond(Some(by)) => by.div_euclid(1_000),
        ScalarValue::IntervalDayTime(Some(by)) => i64::from(by.days) * DAY + i64::from(by.milliseconds) * 1_000,
        other => return Err(Error::internal(format!("frame bound `{other}` is no interval"))),
    })
}

/// A position among a key's rows: as a start the first row in the frame, as an end the first row after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// The first row in state.
    First,
    /// After the last row in state.
    Last,
    /// The first row whose time is at or (`past`) after the shifted time.
    Time { shift: Shift, past: bool },
    /// This many rows after the current one; negative: before.
    Row(i64),
}

/// A frame as two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: Bound,
    pub(super) end: Bound,
}

impl Extent {
    pub(super) fn of(frame: &WindowFrame) -> Result<Self> {
        match frame.units {
            WindowFrameUnits::Range => {
                Ok(Self { start: range_bound(&frame.start_bound, false)?, end: range_bound(&frame.end_bound, true)? })
            }
            WindowFrameUnits::Rows => {
                Ok(Self { start: rows_bound(&frame.start_bound, 0)?, end: rows_bound(&frame.end_bound, 1)? })
            }
            WindowFrameUnits::Groups => Err(Error::sql("GROUPS frames are not kept over streams")
                .with_hint("Write the frame as RANGE with intervals, or as ROWS.")),
        }
    }
}

fn range_bound(bound: &WindowFrameBound, end: bool) -> Result<Bound> {
    Ok(match bound {
        _ if bound.is_unbounded() => unbounded(bound),
        WindowFrameBound::Preceding(by) => Bound::Time { shift: Shift::backwards(by)?, past: end },
        WindowFrameBound::CurrentRow => Bound::Time { shift: Shift::ZERO, past: end },
        WindowFrameBound::Following(by) => Bound::Time { shift: Shift::forwards(by)?, past: end },
    })
}

fn rows_bound(bound: &WindowFrameBound, past: i64) -> Result<Bound> {
    Ok(match bound {
        _ if bound.is_unbounded() => unbounded(bound),
        WindowFrameBound::Preceding(by) => Bound::Row(past - count(by)?),
        WindowFrameBound::CurrentRow => Bound::Row(past),
        WindowFrameBound::Following(by) => Bound::Row(past + count(by)?),
    })
}

fn unbounded(bound: &WindowFrameBound) -> Bound {
    match bound {
        WindowFrameBound::Following(_) => Bound::Last,
        _ => Bound::First,
    }
}

fn count(value: &ScalarValue) -> Result<i64> {
    let count = match value {
        ScalarValue::UInt64(Some(count)) => i64::try_from(*count).ok(),
        ScalarValue::Int64(Some(count)) => Some(*count),
        _ => None,
    };
    // A quarter of the range is more rows than can exist, and keeps sums from overflowing.
    count
        .map(|count| count.min(i64::MAX / 4))
        .ok_or_else(|| Error::internal(format!("frame bound `{value}` is no count")))
}

/// The first position whose time is at least `target`. Searches from `hint`, so a search near the last one is short.
#[inline]
pub(super) fn seek(times: &[i64], hint: usize, EventTime(target): EventTime) -> usize {
    const NEAR: usize = 8;
    let mut at = hint.min(times.len());
    if at < times.len() && times[at] < target {
        let near = (at + NEAR).min(times.len());
        while at < near && times[at] < target {
            at += 1;
        }
        if at == near && at < times.len() {
            at += gallop(times.len() - at, |ahead| times[at + ahead] < target);
        }
        return at;
    }
    let near = at.saturating_sub(NEAR);
    while at > near && times[at - 1] >= target {
        at -= 1;
    }
    if at == near && at > 0 {
        at -= gallop(at, |behind| times[at - 1 - behind] >= target);
    }
    at
}

/// Number of leading values of `0..limit` for which `holds` is true; it must be false for all others.
fn gallop(limit: usize, holds: impl Fn(usize) -> bool) -> usize {
    let mut step = 1;
    while step < limit && holds(step) {
        step *= 2;
    }
    let (mut low, mut high) = (if step == 1 { 0 } else { step / 2 }, step.min(limit));
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeking_finds_the_first_time_from_any_hint() {
        let times: Vec<i64> = (0..200).map(|at| at / 3 * 10).collect();
        for target in -5..700 {
            let expected = times.partition_point(|time| *time < target);
            let target = EventTime(target);
            for hint in 0..=times.len() + 1 {
                assert_eq!(seek(&times, hint, target), expected, "target {target}, hint {hint}");
            }
        }
        assert_eq!(seek(&[], 3, EventTime(0)), 0);
    }

    #[test]
    fn months_shift_by_the_calendar() {
        let day = |text: &str| EventTime(text.parse::<DateTime<Utc>>().unwrap().timestamp_micros());
        let month = IntervalMonthDayNano::new(1, 0, 0);
        assert_eq!(Shift::Before(month).from(day("2024-03-31T00:00:00Z")), day("2024-02-29T00:00:00Z"));
        assert_eq!(Shift::After(month).from(day("2024-01-31T00:00:00Z")), day("2024-02-29T00:00:00Z"));
        assert_eq!(Shift::After(month).from(EventTime::MAX), EventTime::MAX);
    }
}

//! Zones in which local times are instants even where clocks show a time twice or never.

use arrow::array::timezone::{Tz, TzOffset};
use chrono::offset::LocalResult;
use chrono::{Days, NaiveDate, NaiveDateTime, NaiveTime, TimeZone};

/// A zone in which every local time is one instant.
#[derive(Debug, Clone, Copy)]
pub struct OneInstant(pub Tz);

impl TimeZone for OneInstant {
    type Offset = TzOffset;

    fn from_offset(offset: &TzOffset) -> Self {
        Self(Tz::from_offset(offset))
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> LocalResult<TzOffset> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> LocalResult<TzOffset> {
        match self.0.offset_from_local_datetime(local) {
            LocalResult::Ambiguous(_, later) => LocalResult::Single(later),
            // No clock is put forward twice within a day, or by more than a day.
            LocalResult::None => match local.checked_sub_days(Days::new(1)) {
                Some(before) => LocalResult::Single(self.0.offset_from_utc_datetime(&before)),
                None => LocalResult::None,
            },
            single => single,
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> TzOffset {
        self.0.offset_from_utc_date(utc)
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> TzOffset {
        self.0.offset_from_utc_datetime(utc)
    }
}

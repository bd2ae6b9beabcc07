//! Time zones: whether those of a query are known, and their offsets from UTC, which bound the shift between UTC and local time.

use std::str::FromStr;

use arrow::array::timezone::Tz;
use arrow::datatypes::DataType;
use chrono::{DateTime, Offset, TimeZone};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::Error;

const SECOND: i64 = 1_000_000;
/// Offsets are looked at this often: no zone changes its clocks there and back in less.
const STEP: i64 = 3 * 86_400;
/// 1900 and 2100, in seconds since 1970.
const YEARS: std::ops::Range<i64> = -2_208_988_800..4_102_444_800;

/// Errors: a time zone that nobody knows in a plan (`AT TIME ZONE`, a CAST, `from_unixtime`): each row would fail.
pub fn check_zones(plan: &LogicalPlan) -> datafusion::error::Result<()> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| match zone_of(part).filter(|zone| Tz::from_str(zone).is_err()) {
                Some(zone) => Err(Error::sql(format!("`{zone}` is no time zone"))
                    .with_hint("Write a name as `Europe/Berlin`, or an offset as `+02:00`.")
                    .into()),
                None => Ok(TreeNodeRecursion::Continue),
            })
        })
    })?;
    Ok(())
}

/// The time zone that an expression names.
fn zone_of(expr: &Expr) -> Option<&str> {
    let kind = match expr {
        Expr::Cast(cast) => cast.field.data_type(),
        Expr::TryCast(cast) => cast.field.data_type(),
        Expr::ScalarFunction(call) if call.name() == "from_unixtime" => match call.args.get(1)? {
            Expr::Literal(zone, _) => return zone.try_as_str().flatten(),
            _ => return None,
        },
        _ => return None,
    };
    match kind {
        DataType::Timestamp(_, zone) => zone.as_deref(),
        _ => None,
    }
}

/// Offsets from UTC since 1900, microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// When an offset began, at most [`STEP`] later than it did, and the offset.
    changes: Vec<(i64, i64)>,
}

impl Zone {
    /// Of a zone's name or fixed offset; `None` for what is neither.
    pub fn named(name: &str) -> Option<Self> {
        let zone = Tz::from_str(name).ok()?;
        let mut changes: Vec<(i64, i64)> = Vec::new();
        let mut at = YEARS.start;
        while at < YEARS.end {
            let local = DateTime::from_timestamp(at, 0)?.naive_utc();
            let offset = i64::from(zone.offset_from_utc_datetime(&local).fix().local_minus_utc()) * SECOND;
            if changes.last().is_none_or(|(_, last)| *last != offset) {
                changes.push((at * SECOND, offset));
            }
            at += STEP;
        }
        Some(Self { changes })
    }

    /// The least offset.
    pub fn least(&self) -> i64 {
        self.changes.iter().map(|(_, offset)| *offset).min().unwrap_or(0)
    }

    /// The greatest offset.
    pub fn greatest(&self) -> i64 {
        self.changes.iter().map(|(_, offset)| *offset).max().unwrap_or(0)
    }

    /// The most that clocks are turned back within a period of this length.
    pub fn turned_back(&self, within: i64) -> i64 {
        let within = within + STEP * SECOND;
        let mut most = 0;
        for (index, (since, offset)) in self.changes.iter().enumerate() {
            // The offset before holds until this one begins, however long ago it began itself.
            let until_then = self.changes[..index].iter().enumerate();
            let before = until_then.filter(|(before, _)| self.changes[before + 1].0 >= since - within);
            most = before.map(|(_, (_, before))| before - offset).fold(most, i64::max);
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_turned_back_by_what_the_zone_says() {
        const HOUR: i64 = 3_600 * SECOND;
        const DAY: i64 = 24 * HOUR;
        for (name, least, turned_back) in [
            ("UTC", 0, 0),
            ("+05:30", 5 * HOUR + HOUR / 2, 0),
            ("Asia/Tokyo", 9 * HOUR, HOUR),
            ("America/New_York", -5 * HOUR, HOUR),
            ("Australia/Lord_Howe", 10 * HOUR, HOUR),
            ("Antarctica/Troll", 0, 2 * HOUR),
        ] {
            let zone = Zone::named(name).unwrap();
            assert_eq!((zone.least(), zone.turned_back(DAY)), (least, turned_back), "{name}");
        }
        assert_eq!(Zone::named("Mars/Olympus"), None);
    }
}

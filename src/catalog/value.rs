//! Parses option values: durations, triggers, times, offsets. The error of each function is a sentence with the right form.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::definition::{DeltaStart, StartingOffsets, StateTtl, Trigger};

/// A value, or a sentence with the right form.
pub type Value<T> = Result<T, String>;

/// The right form of a duration.
const DURATION: &str = "Write a duration such as `'500 ms'`, `'1 second'`, `'5 minutes'` or `'1 hour 30 minutes'`.";

/// `'1 second'`, `'500 ms'`, `'1h 30m'`; never zero.
pub fn duration(text: &str) -> Value<Duration> {
    let mut rest = text.trim();
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| DURATION.to_owned())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit = match rest[..letters].to_lowercase().as_str() {
            "ms" | "msec" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            _ => return Err(DURATION.to_owned()),
        };
        rest = rest[letters..].trim_start();
        total = number.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or_else(|| DURATION.to_owned())?;
    }
    if total == 0 { Err(DURATION.to_owned()) } else { Ok(Duration::from_millis(total)) }
}

/// A duration, or zero as `'0'` or `'0 ms'`.
pub fn delay(text: &str) -> Value<Duration> {
    match text.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["0"] | ["0", _] | ["0ms" | "0s"] => Ok(Duration::ZERO),
        _ => duration(text),
    }
}

/// `'1 second'`, `'available now'` or `'continuous'`.
pub fn trigger(text: &str) -> Value<Trigger> {
    match text.trim().to_lowercase().replace(['_', '-'], " ").as_str() {
        "available now" => Ok(Trigger::AvailableNow),
        "continuous" => Ok(Trigger::Continuous),
        _ => duration(text)
            .map(Trigger::Interval)
            .map_err(|_| "Write an interval such as `'1 second'`, or `'available now'`, or `'continuous'`.".to_owned()),
    }
}

/// A duration, or `'none'` as [`Duration::MAX`].
pub fn idle(text: &str) -> Value<Duration> {
    match text.trim().to_lowercase().as_str() {
        "none" => Ok(Duration::MAX),
        _ => duration(text).map_err(|_| "Write a duration such as `'30 seconds'`, or `'none'`.".to_owned()),
    }
}

/// `'7 days'`, or `'none'`.
pub fn state_ttl(text: &str) -> Value<StateTtl> {
    match text.trim().to_lowercase().as_str() {
        "none" => Ok(StateTtl::Never),
        _ => duration(text)
            .map(StateTtl::After)
            .map_err(|_| "Write a duration such as `'7 days'`, or `'none'` to remember for ever.".to_owned()),
    }
}

/// A whole number from 1.
pub fn count(text: &str) -> Value<usize> {
    let digits: String = text.trim().chars().filter(|c| *c != '_').collect();
    digits.parse().ok().filter(|count| *count > 0).ok_or_else(|| "Write a whole number from 1.".to_owned())
}

/// A whole number from 1 that fits 32 bits.
pub fn small_count(text: &str) -> Value<u32> {
    count(text).and_then(|count| u32::try_from(count).map_err(|_| "The number is too large.".to_owned()))
}

/// A whole number from 0.
pub fn number(text: &str) -> Value<u64> {
    text.trim().parse().map_err(|_| "Write a whole number from 0.".to_owned())
}

/// A number of rows a second, or `'unlimited'` (also `'max'`).
pub fn rate(text: &str) -> Value<Option<f64>> {
    match text.trim().to_lowercase().as_str() {
        "unlimited" | "max" => Ok(None),
        text => match text.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Some(rate)),
            _ => Err("Write rows a second, such as `'20000'`, or `'unlimited'`.".to_owned()),
        },
    }
}

/// A time in milliseconds since 1970 UTC: RFC 3339, `YYYY-MM-DD[ HH:MM:SS]` in UTC, or the milliseconds themselves.
pub fn instant(text: &str) -> Value<i64> {
    let text = text.trim();
    if let Ok(ms) = text.parse::<i64>() {
        return if ms >= 0 { Ok(ms) } else { Err("The time must not be before 1970.".to_owned()) };
    }
    let zoned = DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_millis());
    let plain = |format| NaiveDateTime::parse_from_str(text, format).map(|time| time.and_utc().timestamp_millis());
    let date = || {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        date.and_hms_opt(0, 0, 0).map(|time| time.and_utc().timestamp_millis())
    };
    zoned
        .or_else(|_| plain("%Y-%m-%d %H:%M:%S%.f"))
        .or_else(|_| plain("%Y-%m-%dT%H:%M:%S%.f"))
        .ok()
        .or_else(date)
        .filter(|ms| *ms >= 0)
        .ok_or_else(|| "Write a time such as `'2026-01-31T12:00:00Z'`, or milliseconds since 1970.".to_owned())
}

/// `'earliest'`, `'latest'`, `'timestamp:<time>'`, or `'{"0": 17, "1": 4}'` (also Spark's form with the topic around it).
pub fn starting_offsets(text: &str, topic: &str) -> Value<StartingOffsets> {
    let trimmed = text.trim();
    match trimmed.to_lowercase().as_str() {
        "earliest" | "earliest-offset" => return Ok(StartingOffsets::Earliest),
        "latest" | "latest-offset" => return Ok(StartingOffsets::Latest),
        _ => {}
    }
    if let Some(at) = trimmed.get(..10).filter(|start| start.eq_ignore_ascii_case("timestamp:")) {
        return instant(&trimmed[at.len()..]).map(StartingOffsets::Timestamp);
    }
    explicit(trimmed, topic).map(StartingOffsets::Explicit).ok_or_else(|| {
        "Write `'earliest'`, `'latest'`, `'timestamp:2026-01-31T12:00:00Z'`, or offsets by partition: `'{\"0\": 17, \"1\": 4}'`."
            .to_owned()
    })
}

/// A version of a Delta table, `'latest'`, or `'snapshot'` (also `'earliest'`).
pub fn starting_version(text: &str) -> Value<DeltaStart> {
    match text.trim().to_lowercase().as_str() {
        "snapshot" | "earliest" => Ok(DeltaStart::Snapshot),
        "latest" => Ok(DeltaStart::Latest),
        text => text.parse().map(DeltaStart::Version).map_err(|_| {
            "Write a version such as `'812'`, or `'snapshot'` (what is there, then what comes), or `'latest'`."
                .to_owned()
        }),
    }
}

fn explicit(text: &str, topic: &str) -> Option<BTreeMap<i32, i64>> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let mut object = json.as_object()?;
    if let (1, Some(inner)) = (object.len(), object.get(topic)) {
        object = inner.as_object()?;
    }
    let offset = |(partition, offset): (&String, &serde_json::Value)| {
        let partition = partition.parse::<i32>().ok().filter(|partition| *partition >= 0)?;
        Some((partition, offset.as_i64().filter(|offset| *offset >= 0)?))
    };
    object.iter().map(offset).collect::<Option<BTreeMap<_, _>>>().filter(|offsets| !offsets.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_usual_spelling() {
        for (text, ms) in
            [("1 second", 1_000), ("500 ms", 500), ("5 minutes", 300_000), ("1h30m", 5_400_000), ("2s", 2_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "0 s", "1", "second", "1 fortnight", "-1 s", "99999999999999999999 s", "9999999999999999 days"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(delay("0 ms"), Ok(Duration::ZERO));
        assert_eq!(trigger("Available Now"), Ok(Trigger::AvailableNow));
        assert!(trigger("sometimes").is_err());
        assert_eq!(state_ttl("None"), Ok(StateTtl::Never));
        assert_eq!(state_ttl("7 days"), Ok(StateTtl::After(Duration::from_secs(7 * 86_400))));
        assert!(state_ttl("0 days").is_err());
    }

    #[test]
    fn starting_offsets_are_read_in_every_form() {
        let ms = 1_769_860_800_000;
        for (text, expected) in [
            ("EARLIEST", StartingOffsets::Earliest),
            ("latest", StartingOffsets::Latest),
            ("timestamp:2026-01-31T12:00:00Z", StartingOffsets::Timestamp(ms)),
            ("timestamp:2026-01-31 12:00:00", StartingOffsets::Timestamp(ms)),
            ("timestamp:1769860800000", StartingOffsets::Timestamp(ms)),
            ("{\"0\": 17, \"1\": 4}", StartingOffsets::Explicit(BTreeMap::from([(0, 17), (1, 4)]))),
            ("{\"t\": {\"0\": 17}}", StartingOffsets::Explicit(BTreeMap::from([(0, 17)]))),
        ] {
            assert_eq!(starting_offsets(text, "t"), Ok(expected), "{text}");
        }
        for text in
            ["", "newest", "{}", "{\"a\": 1}", "{\"0\": -1}", "{\"u\": {\"0\": 1}}", "timestamp:x", "timestampé"]
        {
            assert!(starting_offsets(text, "t").is_err(), "{text}");
        }
    }
}

//! Dates and timestamps from text: `YYYY-MM-DD`, RFC 3339 with any offset, `YYYY-MM-DD HH:MM:SS[.f]` in UTC.

use super::fault::{Fault, Outcome};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(super) fn parse_date(text: &[u8]) -> Outcome<i32> {
    if text.len() != 10 {
        return Err(Fault::BadText);
    }
    date(text)
}

/// Microseconds since 1970 UTC. Date and time are separated by `T` or a space; without an offset the time is UTC; digits
/// beyond microseconds are truncated; second 60 (a leap second) is the first second of the next minute.
pub(super) fn parse_timestamp(text: &[u8]) -> Outcome<i64> {
    if text.len() < 19 || !matches!(text[10], b'T' | b't' | b' ') || text[13] != b':' || text[16] != b':' {
        return Err(Fault::BadText);
    }
    let days = i64::from(date(text)?);
    let (hour, minute, second) = (pair(text, 11)?, pair(text, 14)?, pair(text, 17)?);
    if hour > 23 || minute > 59 || second > 60 {
        return Err(Fault::BadText);
    }
    let seconds = days * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    let (micros, rest) = fraction(&text[19..])?;
    Ok((seconds - offset(rest)?) * MICROS_PER_SECOND + micros)
}

/// `.f` in microseconds, and the rest.
#[inline]
fn fraction(text: &[u8]) -> Outcome<(i64, &[u8])> {
    let [b'.', digits @ ..] = text else {
        return Ok((0, text));
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return Err(Fault::BadText);
    }
    let kept = digits[..count].iter().copied().chain(std::iter::repeat(b'0')).take(6);
    let micros = kept.fold(0, |micros, digit| micros * 10 + i64::from(digit - b'0'));
    Ok((micros, &digits[count..]))
}

/// The seconds by which `Z`, `+02:00`, `-0530` or nothing is ahead of UTC.
#[inline]
fn offset(text: &[u8]) -> Outcome<i64> {
    let sign = match text {
        [] | [b'Z' | b'z'] => return Ok(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return Err(Fault::BadText),
    };
    let minutes_at = match text.len() {
        6 if text[3] == b':' => 4,
        5 => 3,
        _ => return Err(Fault::BadText),
    };
    let (hours, minutes) = (pair(text, 1)?, pair(text, minutes_at)?);
    if hours > 23 || minutes > 59 {
        return Err(Fault::BadText);
    }
    Ok(sign * i64::from(hours * 3_600 + minutes * 60))
}

/// The date at the start of `text`, which has at least 10 bytes.
#[inline]
fn date(text: &[u8]) -> Outcome<i32> {
    let year = pair(text, 0)? * 100 + pair(text, 2)?;
    let (month, day) = (pair(text, 5)?, pair(text, 8)?);
    if text[4] != b'-' || text[7] != b'-' || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return Err(Fault::BadText);
    }
    Ok(days_from_civil(year, month, day))
}

#[inline(always)]
fn pair(text: &[u8], at: usize) -> Outcome<u32> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(Fault::BadText);
    }
    Ok(u32::from(tens) * 10 + u32::from(ones))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: u32, month: u32, day: u32) -> i32 {
    let year = year as i32 - i32::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month as i32 + if month > 2 { -3 } else { 9 }) + 2) / 5 + day as i32 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

//! Transactions as JSON lines, fast enough to feed a broker.

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};

/// Inclusion of the label in transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Labels {
    /// With the field `is_fraud`.
    Keep,
    /// Without the label, as from a terminal.
    #[default]
    LeaveOut,
}

/// The event time of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StampedTime {
    /// The simulated time, from 2018-04-01 on.
    #[default]
    Simulated,
    /// The same time for all, in milliseconds since 1970 UTC.
    At(i64),
}

/// Options of rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rendering {
    pub labels: Labels,
    pub event_time: StampedTime,
}

/// The lines of the simulator's `rows`, each with its line end, and their `len + 1` boundaries. A line has about 150 bytes.
///
/// Errors: the schema of `rows` is not the simulator's.
pub fn to_json_lines(rows: &RecordBatch, rendering: Rendering) -> Result<(Vec<u8>, Vec<u32>)> {
    let columns = Columns::of(rows)?;
    let mut data = Vec::with_capacity(rows.num_rows() * 176);
    let mut bounds = Vec::with_capacity(rows.num_rows() + 1);
    let mut clock = Clock::default();
    bounds.push(0);
    for row in 0..rows.num_rows() {
        let micros = match rendering.event_time {
            StampedTime::Simulated => columns.ts.value(row),
            StampedTime::At(millis) => millis * 1_000,
        };
        data.extend_from_slice(b"{\"transaction_id\":\"");
        data.extend_from_slice(columns.id.value(row).as_bytes());
        data.extend_from_slice(b"\",\"user_id\":\"");
        data.extend_from_slice(columns.user.value(row).as_bytes());
        data.extend_from_slice(b"\",\"amount\":");
        push_amount(&mut data, columns.amount.value(row));
        data.extend_from_slice(b",\"ts\":\"");
        data.extend_from_slice(clock.text(micros));
        data.extend_from_slice(b"\",\"terminal_id\":\"");
        data.extend_from_slice(columns.terminal.value(row).as_bytes());
        data.extend_from_slice(b"\",\"location\":\"");
        data.extend_from_slice(columns.location.value(row).as_bytes());
        data.push(b'"');
        if rendering.labels == Labels::Keep {
            data.extend_from_slice(if columns.fraud.value(row) {
                b",\"is_fraud\":true"
            } else {
                b",\"is_fraud\":false"
            });
        }
        data.extend_from_slice(b"}\n");
        bounds.push(data.len() as u32);
    }
    Ok((data, bounds))
}

struct Columns<'a> {
    id: &'a StringArray,
    user: &'a StringArray,
    amount: &'a Float64Array,
    ts: &'a TimestampMicrosecondArray,
    terminal: &'a StringArray,
    location: &'a StringArray,
    fraud: &'a BooleanArray,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a RecordBatch) -> Result<Self> {
        if *rows.schema() != *super::schema() || rows.columns().iter().any(|column| column.null_count() > 0) {
            return Err(Error::internal("only rows of the simulator can be rendered as transactions"));
        }
        Ok(Self {
            id: rows.column(0).as_string(),
            user: rows.column(1).as_string(),
            amount: rows.column(2).as_primitive::<Float64Type>(),
            ts: rows.column(3).as_primitive::<TimestampMicrosecondType>(),
            terminal: rows.column(4).as_string(),
            location: rows.column(5).as_string(),
            fraud: rows.column(6).as_boolean(),
        })
    }
}

/// Appends an amount with two decimal digits.
fn push_amount(out: &mut Vec<u8>, amount: f64) {
    let cents = (amount * 100.0).round() as u64;
    push_number(out, cents / 100);
    out.push(b'.');
    push_two(out, (cents % 100) as u32);
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    if number >= 10 {
        push_number(out, number / 10);
    }
    out.push(b'0' + (number % 10) as u8);
}

fn push_two(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&two(number));
}

fn two(number: u32) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

/// Writes timestamps; the date is computed once per day.
#[derive(Debug, Default)]
struct Clock {
    day: Option<i64>,
    text: [u8; 24],
}

impl Clock {
    /// `2018-04-01T10:17:43.123Z`.
    fn text(&mut self, micros: i64) -> &[u8] {
        let day = micros.div_euclid(86_400_000_000);
        if self.day != Some(day) {
            self.day = Some(day);
            self.text = *b"0000-00-00T00:00:00.000Z";
            let (year, month, of_month) = civil_from_days(day);
            self.put(0, year / 100);
            self.put(2, year % 100);
            self.put(5, month);
            self.put(8, of_month);
        }
        let millis = (micros.rem_euclid(86_400_000_000) / 1_000) as u32;
        self.put(11, millis / 3_600_000);
        self.put(14, millis / 60_000 % 60);
        self.put(17, millis / 1_000 % 60);
        self.text[20] = b'0' + (millis % 1_000 / 100) as u8;
        self.put(21, millis % 100);
        &self.text
    }

    fn put(&mut self, at: usize, number: u32) {
        self.text[at..at + 2].copy_from_slice(&two(number));
    }
}

/// Year, month and day of a day since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, (day_of_year - (153 * shifted + 2) / 5 + 1) as u32)
}

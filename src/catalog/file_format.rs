//! Options of a record's encoding: the dialect of CSV, and the unit of numbers in TIMESTAMP columns.

/// The dialect of CSV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvDialect {
    pub delimiter: u8,
    /// Encloses fields that contain delimiters or line ends; `None`: fields are never quoted.
    pub quote: Option<u8>,
    /// Escapes a quote inside a quoted field; `None`: quotes are doubled.
    pub escape: Option<u8>,
    /// True if the first line names the fields; otherwise they are in the order of the columns.
    pub header: bool,
    /// An unquoted field with this text is null.
    pub null: String,
}

impl Default for CsvDialect {
    fn default() -> Self {
        Self { delimiter: b',', quote: Some(b'"'), escape: None, header: true, null: String::new() }
    }
}

/// The unit of a number in a TIMESTAMP column, counted from 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
    /// The largest unit in which the number is a time before the year 5138: 1700000000 is seconds, 1700000000000
    /// milliseconds.
    Auto,
}

impl TimestampUnit {
    /// This unit; for `Auto`, the unit guessed for a number whose whole part is `whole`.
    pub fn of(self, whole: i128) -> Self {
        match whole.unsigned_abs() {
            _ if self != Self::Auto => self,
            0..100_000_000_000 => Self::Seconds,
            100_000_000_000..100_000_000_000_000 => Self::Millis,
            100_000_000_000_000..100_000_000_000_000_000 => Self::Micros,
            _ => Self::Nanos,
        }
    }

    /// The power of ten by which a number of this unit is multiplied to give microseconds.
    pub fn scale(self) -> i8 {
        match self {
            Self::Seconds => 6,
            Self::Millis => 3,
            Self::Micros | Self::Auto => 0,
            Self::Nanos => -3,
        }
    }
}

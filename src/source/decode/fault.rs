//! Errors of a record, as a small copyable value: the hot path returns it; text is made only for dead letters.

use arrow::datatypes::{DataType, TimeUnit};

/// The reason why a record or a value was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes are not valid in the format; the text completes "not valid: …".
    Syntax(&'static str),
    /// The value's type is not the column's.
    WrongType,
    /// A number that does not fit its column.
    OutOfRange,
    /// A number with fractional digits that its column would lose.
    LosesDigits,
    /// A string that is not a valid timestamp, date, number or base64.
    BadText,
    /// A null in a column that is NOT NULL.
    Null,
    /// The record lacks a field whose column is NOT NULL.
    Missing,
    /// More values inside arrays, maps and structs than a record may have.
    TooMany,
}

/// The maximum number of values inside arrays, maps and structs of a record. Each takes up to 16 bytes in memory, and may be
/// written in 2 bytes: the limit keeps a decoded record near the size of the longest line.
pub(super) const MAX_VALUES: u32 = 4_000_000;

/// The result of reading one value.
pub(super) type Outcome<T = ()> = Result<T, Fault>;

impl Fault {
    /// The reason in one line, for a column of type `wanted` whose text in the record is `found`.
    pub(super) fn describe(self, wanted: &DataType, found: &[u8]) -> String {
        let wanted = sql_name(wanted);
        match self {
            Self::Syntax(what) => format!("not valid: {what}"),
            Self::WrongType => format!("expected {wanted}, found {}", excerpt(found)),
            Self::OutOfRange => format!("out of range for {wanted}: {}", excerpt(found)),
            Self::LosesDigits => format!("{wanted} would lose digits of {}", excerpt(found)),
            Self::BadText => format!("not a {wanted}: {}", excerpt(found)),
            Self::Null => "null in a NOT NULL column".to_owned(),
            Self::Missing => "field of a NOT NULL column is missing".to_owned(),
            Self::TooMany => format!("more than {MAX_VALUES} values in the arrays, maps and structs of a record"),
        }
    }
}

/// The first characters of a value, on one line.
fn excerpt(found: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(&found[..found.len().min(4 * SHOWN)]);
    let mut short: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > SHOWN || found.len() > 4 * SHOWN {
        short.push('…');
    }
    short
}

/// The name of a type in SQL.
pub(super) fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 => "STRING".to_owned(),
        DataType::Binary => "BINARY".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP_NTZ".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::List(item) => format!("ARRAY<{}>", sql_name(item.data_type())),
        DataType::Struct(fields) => {
            let inner: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name(), sql_name(field.data_type()))).collect();
            format!("STRUCT<{}>", inner.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("MAP<{}, {}>", sql_name(pair[0].data_type()), sql_name(pair[1].data_type()))
            }
            other => format!("MAP<{other}>"),
        },
        other => other.to_string(),
    }
}

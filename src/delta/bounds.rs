//! Statistics of a file in the log, and when to believe them.
//!
//! Statistics let readers leave out files, so a bound that excludes a row of its file hides that row from every reader. Two promises:
//! those that weir writes are bounds for every row ([`FileStats::sound`]), and those of other writers are consulted only for types
//! whose bounds are exact as they are commonly written ([`skips_soundly`]). Numbers are carried as text: parsing one and writing it
//! again may change its last digit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, Decimal128Array, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, Field, Fields, Float32Type, Float64Type, Schema,
    TimeUnit,
};
use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta};
use datafusion::logical_expr::{Expr, Operator};
use serde_json::value::{RawValue, to_raw_value};

/// Digits that a double holds of every decimal: delta-rs computes the bounds of decimals as doubles.
const DOUBLE_DIGITS: u8 = 15;

type Node = BTreeMap<String, Box<RawValue>>;

/// True when files and row groups may be left out by `filter`: comparisons of columns with literals, whose columns have bounds
/// that are written exactly. Floats have none: a NaN is greater than all numbers and is not in the bounds.
pub(super) fn skips_soundly(filter: &Expr, schema: &Schema) -> bool {
    let column = |expr: &Expr| match expr {
        Expr::Column(column) => {
            schema.field_with_name(&column.name).is_ok_and(|field| has_exact_bounds(field.data_type()))
        }
        _ => false,
    };
    let literal = |expr: &Expr| matches!(expr, Expr::Literal(value, _) if !value.is_null());
    match filter {
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::And | Operator::Or => skips_soundly(&binary.left, schema) && skips_soundly(&binary.right, schema),
            Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                column(&binary.left) && literal(&binary.right) || literal(&binary.left) && column(&binary.right)
            }
            _ => false,
        },
        Expr::Between(between) => column(&between.expr) && literal(&between.low) && literal(&between.high),
        Expr::InList(list) => column(&list.expr) && list.list.iter().all(literal),
        // An empty text is null as a partition value, and the kernel does not take it so.
        Expr::IsNull(expr) | Expr::IsNotNull(expr) => column(expr) && !is_text(expr, schema),
        _ => false,
    }
}

fn is_text(expr: &Expr, schema: &Schema) -> bool {
    let Expr::Column(column) = expr else { return false };
    schema.field_with_name(&column.name).is_ok_and(|field| *field.data_type() == DataType::Utf8)
}

fn has_exact_bounds(data_type: &DataType) -> bool {
    match data_type {
        DataType::Decimal128(precision, _) => *precision <= DOUBLE_DIGITS,
        DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Boolean | DataType::Date32 | DataType::Utf8 => true,
        other => other.is_integer(),
    }
}

/// Statistics that delta-rs does not compute for the rows written, by the path of the column.
#[derive(Debug, Default)]
pub(super) struct SeenValues {
    /// Float columns of which a NaN was written.
    nan: HashSet<String>,
    /// The least and the greatest value of decimal columns, without their scale.
    decimals: HashMap<String, (i128, i128)>,
}

impl SeenValues {
    /// Looks at rows that are written.
    pub(super) fn observe(&mut self, rows: &RecordBatch) {
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            self.observe_column(field.name(), column);
        }
    }

    fn observe_column(&mut self, path: &str, column: &ArrayRef) {
        // Without an early end, which would keep the compiler from looking at several values at once.
        let is_nan = match column.data_type() {
            DataType::Float64 => {
                column.as_primitive::<Float64Type>().values().iter().fold(false, |nan, value| nan | value.is_nan())
            }
            DataType::Float32 => {
                column.as_primitive::<Float32Type>().values().iter().fold(false, |nan, value| nan | value.is_nan())
            }
            DataType::Decimal128(..) => {
                self.observe_decimals(path, column.as_primitive());
                false
            }
            DataType::Struct(fields) => {
                for (field, child) in fields.iter().zip(column.as_struct().columns()) {
                    self.observe_column(&below(path, field), child);
                }
                false
            }
            _ => false,
        };
        if is_nan && !self.nan.contains(path) {
            self.nan.insert(path.to_owned());
        }
    }

    fn observe_decimals(&mut self, path: &str, column: &Decimal128Array) {
        let (Some(least), Some(greatest)) = (min(column), max(column)) else { return };
        match self.decimals.get_mut(path) {
            Some(seen) => *seen = (seen.0.min(least), seen.1.max(greatest)),
            None => {
                self.decimals.insert(path.to_owned(), (least, greatest));
            }
        }
    }
}

fn below(path: &str, field: &Field) -> String {
    // No column name holds NUL.
    format!("{path}\0{}", field.name())
}

/// The statistics of a file, as in the log.
#[derive(Debug, Default)]
pub(super) struct FileStats(Node);

impl FileStats {
    /// `None` if `text` is no JSON object.
    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// Those that delta-rs computed for a file with these columns, with decimals as exact text, where delta-rs writes a double, and
    /// the greatest time rounded up to the millisecond that the protocol writes, where delta-rs rounds down.
    ///
    /// Without any bounds if one of them may exclude a row: a NaN was written, an infinity, a time that ISO 8601 does not write with
    /// four digits of the year. The others cannot stay: delta-rs's own reader in Python takes a bound that is missing beside others
    /// for one that no value meets.
    pub(super) fn sound(mut self, columns: &Fields, seen: &SeenValues) -> Self {
        let sound = |side: &str, end| sound_bounds(self.0.get(side)?, columns, "", seen, end);
        match (sound("minValues", End::Least), sound("maxValues", End::Greatest)) {
            (Some(least), Some(greatest)) => {
                self.0.insert("minValues".to_owned(), least);
                self.0.insert("maxValues".to_owned(), greatest);
            }
            _ => self.0.retain(|key, _| key != "minValues" && key != "maxValues"),
        }
        self
    }

    /// The same of a file of `rows` rows, of which some are marked as deleted.
    pub(super) fn of_marked_rows(mut self, rows: u32) -> Self {
        for (key, value) in [("numRecords", to_raw_value(&rows)), ("tightBounds", to_raw_value(&false))] {
            if let Ok(value) = value {
                self.0.insert(key.to_owned(), value);
            }
        }
        self
    }
}

impl fmt::Display for FileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Least,
    Greatest,
}

/// `None` if one of them is no bound.
fn sound_bounds(bounds: &RawValue, columns: &Fields, path: &str, seen: &SeenValues, end: End) -> Option<Box<RawValue>> {
    let bounds: Node = serde_json::from_str(bounds.get()).ok()?;
    let mut sound = Node::new();
    for field in columns {
        let Some(bound) = bounds.get(field.name()) else { continue };
        let path = if path.is_empty() { field.name().clone() } else { below(path, field) };
        let bound = match field.data_type() {
            _ if bound.get() == "null" => None,
            DataType::Struct(children) => sound_bounds(bound, children, &path, seen, end),
            DataType::Float32 | DataType::Float64 => (!seen.nan.contains(&path)).then(|| bound.clone()),
            DataType::Decimal128(_, scale) => decimal_bound(*seen.decimals.get(&path)?, *scale, end),
            DataType::Date32 => is_plain_date(bound).then(|| bound.clone()),
            DataType::Timestamp(..) => time_bound(bound, end),
            _ => Some(bound.clone()),
        };
        sound.insert(field.name().clone(), bound?);
    }
    to_raw_value(&sound).ok()
}

fn decimal_bound((least, greatest): (i128, i128), scale: i8, end: End) -> Option<Box<RawValue>> {
    let unscaled = if end == End::Least { least } else { greatest };
    RawValue::from_string(Decimal128Type::format_decimal(unscaled, DECIMAL128_MAX_PRECISION, scale)).ok()
}

fn is_plain_date(bound: &RawValue) -> bool {
    matches!(serde_json::from_str::<String>(bound.get()), Ok(date) if date.len() == "2000-01-01".len())
}

fn time_bound(bound: &RawValue, end: End) -> Option<Box<RawValue>> {
    let text: String = serde_json::from_str(bound.get()).ok()?;
    let zoned = text.ends_with('Z');
    let time = match zoned {
        true => DateTime::parse_from_rfc3339(&text).ok()?.naive_utc(),
        false => NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f").ok()?,
    };
    // Whole seconds are written without a fraction; any other time lost what is below its millisecond.
    let cut = end == End::Greatest && text.contains('.');
    let time = if cut { time.checked_add_signed(TimeDelta::milliseconds(1))? } else { time };
    if !(1..=9999).contains(&time.year()) || text.starts_with(['+', '-']) {
        return None;
    }
    let format = match (zoned, text.contains('.')) {
        (true, true) => "%Y-%m-%dT%H:%M:%S%.3fZ",
        (true, false) => "%Y-%m-%dT%H:%M:%SZ",
        (false, true) => "%Y-%m-%d %H:%M:%S%.3f",
        (false, false) => "%Y-%m-%d %H:%M:%S",
    };
    to_raw_value(&time.format(format).to_string()).ok()
}

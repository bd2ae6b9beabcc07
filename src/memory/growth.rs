//! Upper bounds for the size of a function's result, known from its arguments before it is computed.
//!
//! Listed are the functions whose result can be larger than their arguments: by a number (`repeat`, `range`), by a product
//! of two arguments (`replace`), or by concatenation, which doubles with each nested call (`concat(a, a)`).

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

use super::shown::shown_bytes;
use super::size::size_of;

/// Growth of a result with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Growth {
    /// The first argument, repeated as often as the second says.
    Repeated,
    /// A string padded to the number of characters that the second argument gives.
    Padded,
    /// Each match of the second argument in the first is replaced by the third.
    Replaced,
    /// Like [`Self::Replaced`], where the third argument may refer to the match.
    ReplacedByPattern,
    /// All arguments together, this many times over.
    Together(usize),
    /// Numbers from the first argument to the second, in steps of the third.
    Counted,
    /// Elements of an array with the second argument between them.
    Joined,
    /// A result that is no larger, but takes time proportional to the product of the arguments' lengths.
    Compared,
    /// A cast to a type whose width is an argument.
    Typed,
    /// A nested value as a string.
    Shown,
}

/// Growth of the function `name`; `None`: at most by a constant.
pub fn of(name: &str) -> Option<Growth> {
    Some(match name {
        "repeat" | "array_repeat" | "array_resize" => Growth::Repeated,
        "lpad" | "rpad" => Growth::Padded,
        "replace" => Growth::Replaced,
        "regexp_replace" => Growth::ReplacedByPattern,
        "range" | "generate_series" | "gen_series" => Growth::Counted,
        "array_to_string" | "list_to_string" => Growth::Joined,
        "levenshtein" => Growth::Compared,
        "arrow_cast" | "arrow_try_cast" => Growth::Typed,
        "concat" | "||" | "overlay" | "make_array" | "array_concat" | "array_append" | "array_prepend" | "struct"
        | "named_struct" | "map" | "array_replace" | "array_replace_all" | "array_replace_n" | "array_union"
        | "arrays_zip" => Growth::Together(1),
        "encode" | "array_positions" | "map_entries" => Growth::Together(2),
        "concat_ws" => Growth::Together(3),
        "translate" | "upper" | "lower" | "initcap" => Growth::Together(4),
        "string_to_array" | "regexp_match" => Growth::Together(16),
        "to_char" | "date_format" => Growth::Together(32),
        _ => return None,
    })
}

/// Upper bounds for the cost of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the result.
    pub bytes: usize,
    /// Steps of a computation that cannot be interrupted.
    pub steps: usize,
}

impl Growth {
    /// `true` where a few bytes can become any number of bytes.
    pub fn is_by_number(self) -> bool {
        matches!(
            self,
            Self::Repeated | Self::Padded | Self::Replaced | Self::ReplacedByPattern | Self::Counted | Self::Joined
        )
    }

    /// Cost of a call of a function of this growth.
    pub fn cost(self, call: &ScalarFunctionArgs) -> Result<Cost> {
        let rows = call.number_rows;
        let bytes = match self {
            Self::Repeated => repeated(call)?,
            Self::Padded => sum(numbers(call, 1)?.into_iter().map(|count| count.saturating_mul(4))),
            Self::Replaced | Self::ReplacedByPattern => replaced(call, self)?,
            Self::Together(times) => {
                sum(call.args.iter().map(|argument| bytes_of(argument, rows))).saturating_mul(times)
            }
            Self::Counted => counted(call)?,
            Self::Joined => {
                let delimiter = longest(call.args.get(1));
                let elements = bytes_of_argument(call, 0);
                elements.saturating_mul(4).saturating_add(elements.saturating_mul(delimiter))
            }
            Self::Compared => {
                let steps = pairs(lengths(call, 0)?, lengths(call, 1)?);
                return Ok(Cost { bytes: 0, steps });
            }
            Self::Typed => 0,
            Self::Shown => match call.args.first() {
                Some(ColumnarValue::Scalar(scalar)) => shown_bytes(scalar.to_array()?.as_ref()).saturating_mul(rows),
                Some(ColumnarValue::Array(array)) => shown_bytes(array.as_ref()),
                None => 0,
            },
        };
        Ok(Cost { bytes, steps: 0 })
    }
}

fn sum(all: impl Iterator<Item = usize>) -> usize {
    all.fold(0, usize::saturating_add)
}

fn pairs(left: Vec<usize>, right: Vec<usize>) -> usize {
    sum(left.into_iter().zip(right).map(|(left, right)| left.saturating_mul(right)))
}

fn repeated(call: &ScalarFunctionArgs) -> Result<usize> {
    let counts = numbers(call, 1)?;
    let is_text = call.args.first().is_some_and(|first| is_string(&first.data_type()));
    if is_text {
        return Ok(pairs(lengths(call, 0)?, counts));
    }
    // `array_resize` has its fill value after the number.
    let element = longest_of_rows(call.args.get(2).or(call.args.first()), call.number_rows).max(16);
    Ok(sum(counts.into_iter().map(|count| count.saturating_mul(element))).saturating_add(bytes_of_argument(call, 0)))
}

fn replaced(call: &ScalarFunctionArgs, growth: Growth) -> Result<usize> {
    let (texts, new) = (lengths(call, 0)?, lengths(call, 2)?);
    let is_pattern = growth == Growth::ReplacedByPattern;
    // A pattern can match the empty string, between any two characters.
    let old = if is_pattern { vec![1; texts.len()] } else { lengths(call, 1)? };
    let each = texts.into_iter().zip(old).zip(new).map(|((text, old), new)| {
        let matches = text / old.max(1) + 1;
        let quoted = if is_pattern { text.saturating_mul(new / 2) } else { 0 };
        text.saturating_add(matches.saturating_mul(new)).saturating_add(quoted)
    });
    Ok(sum(each))
}

/// For dates and times the count is of days: a step is a day at least, and shorter steps are refused as too long for one
/// value.
fn counted(call: &ScalarFunctionArgs) -> Result<usize> {
    const ELEMENT: usize = 16;
    let is_integer =
        call.args.iter().all(|argument| argument.data_type().is_integer() || argument.data_type().is_null());
    if !is_integer {
        return counted_times(call);
    }
    let (from, to) = match call.args.len() {
        1 => (vec![0; call.number_rows], integers(call, 0)?),
        _ => (integers(call, 0)?, integers(call, 1)?),
    };
    let steps = if call.args.len() > 2 { integers(call, 2)? } else { vec![1; call.number_rows] };
    let each = from.into_iter().zip(to).zip(steps).map(|((from, to), step)| {
        let count = from.abs_diff(to) / step.unsigned_abs().max(1);
        usize::try_from(count).unwrap_or(usize::MAX).saturating_add(1).saturating_mul(ELEMENT)
    });
    Ok(sum(each))
}

fn counted_times(call: &ScalarFunctionArgs) -> Result<usize> {
    let ends = |index: usize| -> Result<Vec<i64>> {
        let array = array(call, index)?;
        let seconds = cast(&array, &DataType::Timestamp(arrow::datatypes::TimeUnit::Second, None))?;
        let seconds = cast(&seconds, &DataType::Int64)?;
        Ok(seconds.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect())
    };
    let step_seconds = match call.args.get(2) {
        Some(ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(step)))) => {
            let days = step.months.unsigned_abs() as u64 * 28 + u64::from(step.days.unsigned_abs());
            (days as f64) * 86_400.0 + step.nanoseconds.unsigned_abs() as f64 / 1e9
        }
        // Steps that differ by row are not examined one by one.
        _ => 1e-9,
    };
    let each = ends(0)?.into_iter().zip(ends(1)?).map(|(from, to)| {
        // The conversion from a float saturates.
        let count = (from.abs_diff(to) as f64 / step_seconds.max(1e-9)) as usize;
        count.saturating_add(1).saturating_mul(16)
    });
    Ok(sum(each))
}

fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn array(call: &ScalarFunctionArgs, index: usize) -> Result<ArrayRef> {
    match call.args.get(index) {
        Some(argument) => argument.to_array(call.number_rows),
        None => ScalarValue::Null.to_array_of_size(call.number_rows),
    }
}

/// Length of each row's string, bytes.
fn lengths(call: &ScalarFunctionArgs, index: usize) -> Result<Vec<usize>> {
    if let Some(ColumnarValue::Scalar(scalar)) = call.args.get(index) {
        return Ok(vec![scalar.try_as_str().flatten().map_or(0, str::len); call.number_rows]);
    }
    let array = array(call, index)?;
    let lengths = arrow::compute::kernels::length::length(&cast(&array, &DataType::LargeBinary)?)?;
    Ok(lengths
        .as_primitive::<Int64Type>()
        .iter()
        .map(|length| usize::try_from(length.unwrap_or_default()).unwrap_or_default())
        .collect())
}

/// Each row's number; 0 for null.
fn integers(call: &ScalarFunctionArgs, index: usize) -> Result<Vec<i64>> {
    if let Some(ColumnarValue::Scalar(scalar)) = call.args.get(index) {
        let number = match scalar.cast_to(&DataType::Int64)? {
            ScalarValue::Int64(Some(number)) => number,
            _ => 0,
        };
        return Ok(vec![number; call.number_rows]);
    }
    let numbers = cast(&array(call, index)?, &DataType::Int64)?;
    Ok(numbers.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect())
}

/// Each row's count; 0 for null and negative numbers.
fn numbers(call: &ScalarFunctionArgs, index: usize) -> Result<Vec<usize>> {
    Ok(integers(call, index)?.into_iter().map(|number| usize::try_from(number).unwrap_or_default()).collect())
}

fn bytes_of_argument(call: &ScalarFunctionArgs, index: usize) -> usize {
    call.args.get(index).map_or(0, |argument| bytes_of(argument, call.number_rows))
}

fn bytes_of(argument: &ColumnarValue, rows: usize) -> usize {
    match argument {
        ColumnarValue::Scalar(scalar) => scalar.size().saturating_mul(rows),
        ColumnarValue::Array(array) => usize::try_from(size_of(array)).unwrap_or(usize::MAX),
    }
}

/// Bytes of the string that all rows share, or of all rows together where they differ.
fn longest(argument: Option<&ColumnarValue>) -> usize {
    match argument {
        Some(ColumnarValue::Scalar(scalar)) => scalar.try_as_str().flatten().map_or(0, str::len),
        Some(ColumnarValue::Array(array)) => array.get_array_memory_size(),
        None => 0,
    }
}

/// Upper bound for the bytes of one row's value.
fn longest_of_rows(argument: Option<&ColumnarValue>, rows: usize) -> usize {
    match argument {
        Some(ColumnarValue::Scalar(scalar)) => scalar.size(),
        Some(array @ ColumnarValue::Array(values)) => match values.data_type().primitive_width() {
            Some(width) => width,
            None => bytes_of(array, rows),
        },
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::execution::SessionStateBuilder;

    use super::*;

    /// Functions whose results exceed their arguments by at most a constant: numbers, times, parts of the arguments.
    const BOUNDED: &str = "abs acos acosh array_add array_any_value array_avg array_compact array_dims array_distance \
        array_distinct array_element array_except array_has array_has_all array_has_any array_intersect \
        array_length array_max array_min array_ndims array_normalize array_pop_back array_pop_front \
        array_position array_product array_remove array_remove_all array_remove_n array_reverse array_scale \
        array_slice array_sort array_subtract array_sum arrow_field arrow_metadata arrow_typeof ascii asin \
        asinh atan atan2 atanh bit_length btrim cardinality cast_to_type cbrt ceil character_length chr \
        coalesce contains cos cosh cosine_distance cot current_date current_time date_bin date_part \
        date_trunc decode degrees digest empty ends_with exp factorial file_row_index find_in_set flatten \
        floor from_unixtime gcd get_field greatest inner_product input_file_name isnan iszero lcm least left \
        ln log log10 log2 ltrim make_date make_time map_extract map_keys map_values md5 nanvl now nullif nvl \
        nvl2 octet_length pi power radians random regexp_count regexp_instr regexp_like reverse right round \
        rtrim sha224 sha256 sha384 sha512 signum sin sinh split_part sqrt starts_with strpos substr \
        substr_index tan tanh to_date to_hex to_local_time to_time to_timestamp to_timestamp_micros \
        to_timestamp_millis to_timestamp_nanos to_timestamp_seconds to_unixtime trunc try_cast_to_type \
        union_extract union_tag uuid version with_metadata";

    #[test]
    fn of_every_function_it_is_known_whether_its_result_has_a_bound() {
        let state = SessionStateBuilder::new().with_default_features().build();
        let bounded: BTreeSet<&str> = BOUNDED.split_whitespace().collect();
        let functions = state.scalar_functions().values().map(|function| function.name().to_owned());
        let unknown: BTreeSet<String> =
            functions.filter(|name| of(name).is_none() && !bounded.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "say of these in `of` how they grow, or here that they do not: {unknown:?}");
    }
}

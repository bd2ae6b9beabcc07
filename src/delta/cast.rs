//! Columns of a file as the table's types. Older files may have narrower types, and structs that lack the fields that came later.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, ListArray, MapArray, StringArray, StructArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;

/// The same values as `to`: fields of structs by name, null where the file lacks them. Errors: a value does not fit.
pub(super) fn as_type(found: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match (found.data_type(), to) {
        (from, to) if from == to => Ok(Arc::clone(found)),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let found = found.as_struct();
            let field = |field: &Arc<Field>| match found.column_by_name(field.name()) {
                Some(column) => as_type(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), found.len())),
            };
            let columns = fields.iter().map(field).collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                columns,
                found.nulls().cloned(),
                found.len(),
            )?))
        }
        (DataType::List(_), DataType::List(field)) => {
            let list: &ListArray = found.as_list();
            let items = as_type(list.values(), field.data_type())?;
            Ok(Arc::new(ListArray::try_new(Arc::clone(field), list.offsets().clone(), items, list.nulls().cloned())?))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = found.as_map();
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(ArrowError::CastError("the entries of a map are no struct".to_owned()));
            };
            let columns = vec![as_type(map.keys(), pair[0].data_type())?, as_type(map.values(), pair[1].data_type())?];
            let pairs = StructArray::try_new(pair.clone(), columns, None)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, *sorted)?))
        }
        _ => cast_with_options(found, to, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

/// The bytes that a partition value of type BINARY stands for. The protocol writes them as `\u0068\u0069`; texts that are not of
/// that form stand for themselves.
pub(super) fn unescaped(text: &str) -> Vec<u8> {
    let escape = |escape: &[u8]| match escape {
        [b'\\', b'u', b'0', b'0', digits @ ..] => u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(6).map(escape).collect();
    bytes.filter(|_| text.len().is_multiple_of(6)).unwrap_or_else(|| text.as_bytes().to_vec())
}

/// One partition value as the log has it, typed: an empty text is null.
pub(super) fn partition_value(text: Option<&str>, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let text = text.filter(|text| !text.is_empty());
    if *to == DataType::Binary {
        let bytes = text.map(unescaped);
        return Ok(Arc::new(BinaryArray::from(vec![bytes.as_deref()])));
    }
    let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
    as_type(&text, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_partition_values_are_escaped_or_plain() {
        assert_eq!(unescaped("\\u0068\\u00fF"), [0x68, 0xff]);
        assert_eq!(unescaped("hi"), b"hi");
        assert_eq!(unescaped("\\u0168"), b"\\u0168");
        assert_eq!(unescaped(""), b"");
    }
}

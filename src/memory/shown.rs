//! Nested values as strings: every row repeats the names of its fields, so the string can be any number of times longer than
//! the value.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{ArrowNativeType, DataType};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// `CAST(nested AS VARCHAR)`, as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ShownAsText {
    signature: Signature,
    text: DataType,
}

impl ShownAsText {
    /// Produces strings of this type.
    pub fn new(text: DataType) -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable), text }
    }
}

impl ScalarUDFImpl for ShownAsText {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(self.text.clone())
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match call.args.as_slice() {
            [value] => value.cast_to(&self.text, None),
            _ => Err(DataFusionError::Internal("a cast has one argument".to_owned())),
        }
    }
}

/// Upper bound for the bytes of the strings that `array` becomes.
pub fn shown_bytes(array: &dyn Array) -> usize {
    /// The longest number or time, and the separator between values.
    const VALUE: usize = 48;
    let rows = array.len();
    let of_entries = |values: &dyn Array, first: usize, last: usize| {
        shown_bytes(values.slice(first, last.saturating_sub(first)).as_ref()).saturating_add(rows.saturating_mul(2))
    };
    let ends =
        |offsets: &[i32]| (offsets.first().map_or(0, |at| at.as_usize()), offsets.last().map_or(0, |at| at.as_usize()));
    match array.data_type() {
        DataType::Struct(fields) => {
            let names = fields.iter().map(|field| field.name().len() + 4).fold(2, usize::saturating_add);
            let values = array.as_struct().columns().iter().map(|column| shown_bytes(column.as_ref()));
            values.fold(rows.saturating_mul(names), usize::saturating_add)
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, last) = ends(list.value_offsets());
            of_entries(list.values().as_ref(), first, last)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (first, last) = ends(map.value_offsets());
            of_entries(map.entries(), first, last)
        }
        DataType::LargeList(_) => {
            of_entries(array.as_list::<i64>().values().as_ref(), 0, array.as_list::<i64>().values().len())
        }
        DataType::FixedSizeList(..) => {
            let values = array.as_fixed_size_list().values();
            of_entries(values.as_ref(), 0, values.len())
        }
        DataType::Dictionary(..) => {
            let values = array.as_any_dictionary().values();
            shown_bytes(values.as_ref()).saturating_mul(rows)
        }
        kind if kind.is_primitive() || matches!(kind, DataType::Boolean | DataType::Null) => rows.saturating_mul(VALUE),
        // Binary values are printed in hexadecimal.
        _ => {
            let data = array.to_data();
            let bytes = data.get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size());
            bytes.saturating_mul(2).saturating_add(rows.saturating_mul(4))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, ListArray};
    use arrow::compute::cast;
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn texts_are_no_longer_than_was_said() {
        let list: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(i64::MIN); 100]); 10]));
        for array in [list.slice(3, 2), list] {
            let shown = cast(&array, &DataType::Utf8).unwrap();
            let bytes = shown.to_data().buffers()[1].len();
            assert!(shown_bytes(array.as_ref()) >= bytes, "{}: {bytes}", array.data_type());
        }
    }
}

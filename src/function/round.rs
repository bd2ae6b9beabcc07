//! `round` and `trunc` of floats to a number of places that no float has: the number itself, or 0 where the places are before the point.
//!
//! DataFusion multiplies by a power of ten and divides by it again, which gives NaN or infinity once the power or the product is infinite.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::math;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// The functions.
pub fn rounding_to_places() -> [ScalarUDF; 2] {
    [math::round(), math::trunc()].map(|inner| ScalarUDF::from(Places { inner }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Places {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Places {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.inner().output_ordering(inputs)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (values, rows) = (args.args.clone(), args.number_rows);
        let rounded = self.inner.invoke_with_args(args)?;
        let [numbers, places] = values.as_slice() else { return Ok(rounded) };
        if !rounded.data_type().is_floating() {
            return Ok(rounded);
        }
        let is_scalar = matches!(rounded, ColumnarValue::Scalar(_));
        let rounded = rounded.into_array(if is_scalar { 1 } else { rows })?;
        let mended = match is_lost(&rounded) {
            false => rounded,
            true => {
                let rows = rounded.len();
                let places = cast(&places.to_array(rows)?, &DataType::Int64)?;
                mended(&rounded, &numbers.to_array(rows)?, places.as_primitive())?
            }
        };
        match is_scalar {
            true => ScalarValue::try_from_array(&mended, 0).map(ColumnarValue::Scalar),
            false => Ok(ColumnarValue::Array(mended)),
        }
    }
}

/// True when some value is no number.
fn is_lost(rounded: &ArrayRef) -> bool {
    match rounded.data_type() {
        DataType::Float32 => rounded.as_primitive::<Float32Type>().values().iter().any(|value| !value.is_finite()),
        DataType::Float64 => rounded.as_primitive::<Float64Type>().values().iter().any(|value| !value.is_finite()),
        _ => false,
    }
}

fn mended(rounded: &ArrayRef, numbers: &ArrayRef, places: &Int64Array) -> Result<ArrayRef> {
    let numbers = cast(numbers, rounded.data_type())?;
    Ok(match rounded.data_type() {
        DataType::Float32 => Arc::new(mended_as::<Float32Type>(rounded, &numbers, places, f32::is_finite)),
        _ => Arc::new(mended_as::<Float64Type>(rounded, &numbers, places, f64::is_finite)),
    })
}

fn mended_as<T: ArrowPrimitiveType>(
    rounded: &ArrayRef,
    numbers: &ArrayRef,
    places: &Int64Array,
    is_finite: fn(T::Native) -> bool,
) -> PrimitiveArray<T> {
    let (rounded, numbers) = (rounded.as_primitive::<T>(), numbers.as_primitive::<T>());
    let mend = |row: usize, value: T::Native| match numbers.value(row) {
        number if is_finite(value) || !is_finite(number) => value,
        number if behind_the_point(places, row) => number,
        _ => T::Native::default(),
    };
    rounded.iter().enumerate().map(|(row, value)| Some(mend(row, value?))).collect()
}

fn behind_the_point(places: &arrow::array::PrimitiveArray<Int64Type>, row: usize) -> bool {
    places.value(row) > 0
}

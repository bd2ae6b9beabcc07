//! `to_char` and `date_format` in microseconds.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::functions::datetime::to_char;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::{instant, micros_in};

/// The function.
pub fn to_char_in_micros() -> ScalarUDF {
    ScalarUDF::from(ToChar { inner: to_char(), signature: Signature::user_defined(Volatility::Immutable) })
}

/// DataFusion's function, which formats what it is given, with a signature that leaves times as they are.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ToChar {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [value, format] = arguments else { return plan_err!("`to_char` wants a time and a pattern") };
        if !format.is_string() && !format.is_null() {
            return plan_err!("the pattern of `to_char` is text, not {format}");
        }
        let value = match value {
            DataType::Timestamp(_, zone) => micros_in(zone.clone()),
            kind if kind.is_string() => instant(),
            DataType::Null => instant(),
            DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => {
                value.clone()
            }
            other => {
                return plan_err!("`to_char` shows a TIMESTAMP, a DATE, a TIME or a difference of times, not {other}");
            }
        };
        Ok(vec![value, DataType::Utf8])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }
}

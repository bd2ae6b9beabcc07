//! `date_bin` over TIMESTAMP gives TIMESTAMP.
//!
//! DataFusion's own prefers nanoseconds where a zone has to be matched, and event time is in microseconds. This is DataFusion's function with the
//! order of its signatures changed.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::error::Result;
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature};

/// The function.
pub fn date_bin_in_micros() -> ScalarUDF {
    let inner = date_bin();
    let mut signature = inner.signature().clone();
    if let TypeSignature::OneOf(forms) = &mut signature.type_signature {
        forms.sort_by_key(|form| !is_micros(form));
    }
    ScalarUDF::from(DateBin { inner, signature })
}

fn is_micros(form: &TypeSignature) -> bool {
    let TypeSignature::Exact(types) = form else { return false };
    matches!(types.get(1), Some(DataType::Timestamp(TimeUnit::Microsecond, _)))
}

#[derive(Debug)]
struct DateBin {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl PartialEq for DateBin {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for DateBin {}

impl Hash for DateBin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }
}

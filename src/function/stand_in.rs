//! A function that takes the place of one that could not be made, so that the statements that call it are still checked.

use arrow::datatypes::DataType;
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `name(anything …)` that gives `returns`; it can be planned and never run.
pub fn stand_in(name: &str, returns: DataType) -> ScalarUDF {
    // Volatile, so that no optimiser asks it for a value.
    ScalarUDF::from(StandIn {
        name: name.to_owned(),
        returns,
        signature: Signature::variadic_any(Volatility::Volatile),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct StandIn {
    name: String,
    returns: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for StandIn {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("`{}` is not there", self.name)
    }
}

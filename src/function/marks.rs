//! The marks that joins in time carry in their condition (see [`crate::sql::temporal`]): the planner takes them out; where a
//! plan is run as an ordinary one they do nothing.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::sql::temporal::{ASOF, SYSTEM_TIME, SYSTEM_TIME_OR_FIRST};

/// The functions of this module.
pub fn mark_functions() -> Vec<ScalarUDF> {
    // Volatile, so that no optimiser folds, copies or shares them.
    let system_time = |name| ScalarUDF::from(Mark { name, signature: Signature::any(2, Volatility::Volatile) });
    let asof = Mark { name: ASOF, signature: Signature::exact(vec![DataType::Boolean], Volatility::Volatile) };
    vec![system_time(SYSTEM_TIME), system_time(SYSTEM_TIME_OR_FIRST), ScalarUDF::from(asof)]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mark {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(if self.name == ASOF {
            args.args.swap_remove(0)
        } else {
            ColumnarValue::Scalar(ScalarValue::Boolean(Some(true)))
        })
    }
}

//! `nvl(a, b)`, also called `ifnull`, and `nvl2(a, b, c)` for values of every type.
//!
//! DataFusion's `nvl` makes a text of dates and times, and its `nvl2` wants what is tested to be of the results' type. These are planned as
//! `coalesce` and CASE are, and become them when a plan is optimised.

use std::sync::Arc;

use arrow::compute::is_not_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::utils::take_function_args;
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result;
use datafusion::functions::core::coalesce;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, when,
};

/// Both functions.
pub fn null_functions() -> [ScalarUDF; 2] {
    let of = |tested, aliases| {
        ScalarUDF::from(Nvl { tested, aliases, signature: Signature::user_defined(Volatility::Immutable) })
    };
    [of(Tested::Result, vec!["ifnull".to_owned()]), of(Tested::Other, Vec::new())]
}

/// The argument that must not be null for the first result to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Tested {
    /// The result itself.
    Result,
    /// Another argument, before the results.
    Other,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Nvl {
    tested: Tested,
    aliases: Vec<String>,
    signature: Signature,
}

impl Nvl {
    fn results(&self) -> usize {
        usize::from(self.tested == Tested::Other)
    }
}

impl ScalarUDFImpl for Nvl {
    fn name(&self) -> &'static str {
        match self.tested {
            Tested::Result => "nvl",
            Tested::Other => "nvl2",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = self.results() + 2;
        if arg_types.len() != wanted {
            return plan_err!("`{}` takes {wanted} arguments, not {}", self.name(), arg_types.len());
        }
        let (tested, results) = arg_types.split_at(self.results());
        Ok(tested.iter().cloned().chain(coalesce().inner().coerce_types(results)?).collect())
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        internal_err!("the type of `{}` depends on its arguments", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let results = &args.arg_fields[self.results()..];
        let nullable = match self.tested {
            Tested::Result => results.iter().all(|field| field.is_nullable()),
            Tested::Other => results.iter().any(|field| field.is_nullable()),
        };
        let kind = results.iter().map(|field| field.data_type()).find(|kind| !kind.is_null());
        Ok(Arc::new(Field::new(self.name(), kind.cloned().unwrap_or(DataType::Null), nullable)))
    }

    fn simplify(&self, mut args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let tested = match self.tested {
            Tested::Result => args[0].clone(),
            Tested::Other => args.remove(0),
        };
        let [result, other] = take_function_args(self.name(), args)?;
        Ok(ExprSimplifyResult::Simplified(when(tested.is_not_null(), result).otherwise(other)?))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (tested, result, other) = match arrays.as_slice() {
            [result, other] => (result, result, other),
            [tested, result, other] => (tested, result, other),
            _ => return internal_err!("`{}` has {} arguments", self.name(), arrays.len()),
        };
        Ok(ColumnarValue::Array(zip(&is_not_null(tested)?, result, other)?))
    }

    fn short_circuits(&self) -> bool {
        true
    }
}

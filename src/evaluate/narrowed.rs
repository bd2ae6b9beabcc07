//! The function that stands around a cast of a DECIMAL which takes digits from it, where the result is compared.
//!
//! DataFusion takes such a cast off and casts what it is compared with instead: `CAST(1.25 AS DECIMAL(2, 1)) = 1.3` would be false. The
//! function gives its argument, and is shown as it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::DFSchema;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// The function's name.
pub const NARROWED: &str = "weir_narrowed";

/// Puts the function around the casts among expressions that are compared; true when it did.
pub fn keep_narrowing(compared: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let mut changed = false;
    for expr in compared {
        let Expr::Cast(cast) = &**expr else { continue };
        let narrows = match (cast.expr.get_type(schema), cast.field.data_type()) {
            (Ok(DataType::Decimal128(_, from)), DataType::Decimal128(_, to)) => *to < from,
            (Ok(DataType::Decimal128(_, from)), to) => to.is_integer() && from > 0,
            _ => false,
        };
        if narrows {
            let function = ScalarUDF::from(Narrowed { signature: Signature::any(1, Volatility::Immutable) });
            let inner = std::mem::take(&mut **expr);
            **expr = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![inner]));
            changed = true;
        }
    }
    changed
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Narrowed {
    signature: Signature,
}

impl ScalarUDFImpl for Narrowed {
    fn name(&self) -> &str {
        NARROWED
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map_or_else(String::new, |expr| expr.to_string()))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map_or_else(String::new, |expr| expr.schema_name().to_string()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [kind] => Ok(kind.clone()),
            _ => internal_err!("`{NARROWED}` has {} arguments", arguments.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [field] => Ok(Arc::new(Field::new(NARROWED, field.data_type().clone(), field.is_nullable()))),
            fields => internal_err!("`{NARROWED}` has {} arguments", fields.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(value) => Ok(value),
            None => internal_err!("`{NARROWED}` has no argument"),
        }
    }
}

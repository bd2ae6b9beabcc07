//! Partition values in queries as the protocol means them: an empty text is null, BINARY is escaped text.
//!
//! delta-rs's scan hands them out as the log spells them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::expressions::Column;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

use super::cast::unescaped;

/// `scan` with these partition columns as they are meant; others pass through.
pub(super) fn as_meant(scan: Arc<dyn ExecutionPlan>, partition_columns: &[String]) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = scan.schema();
    let spelled = |field: &Field| match field.data_type() {
        // In a column without nulls an empty text stays as it is.
        DataType::Utf8 => field.is_nullable() && partition_columns.contains(field.name()),
        DataType::Binary => partition_columns.contains(field.name()),
        _ => false,
    };
    if !schema.fields().iter().any(|field| spelled(field)) {
        return Ok(scan);
    }
    let meant = |(index, field): (usize, &Arc<Field>)| -> Result<ProjectionExpr> {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        let expr = match spelled(field) {
            false => column,
            true => {
                let function = Arc::new(ScalarUDF::from(Meant::new(field.is_nullable())));
                let options = Arc::new(ConfigOptions::default());
                Arc::new(ScalarFunctionExpr::try_new(function, vec![column], &schema, options)?)
            }
        };
        Ok(ProjectionExpr { expr, alias: field.name().clone() })
    };
    let columns = schema.fields().iter().enumerate().map(meant).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Meant {
    nullable: bool,
    signature: Signature,
}

impl Meant {
    fn new(nullable: bool) -> Self {
        Self { nullable, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Meant {
    fn name(&self) -> &str {
        "partition_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::clone(&arguments.arg_fields[0]))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        let meant: ArrayRef = match values.data_type() {
            DataType::Binary => {
                let spelled = values.as_binary::<i32>().iter();
                let meant =
                    spelled.map(|bytes| bytes.filter(|bytes| !self.nullable || !bytes.is_empty()).map(unescaped_bytes));
                Arc::new(meant.collect::<BinaryArray>())
            }
            DataType::Utf8 if values.as_string::<i32>().iter().flatten().any(str::is_empty) => {
                let spelled = values.as_string::<i32>().iter();
                Arc::new(spelled.map(|text| text.filter(|text| !text.is_empty())).collect::<StringArray>())
            }
            _ => values,
        };
        Ok(ColumnarValue::Array(meant))
    }
}

fn unescaped_bytes(bytes: &[u8]) -> Vec<u8> {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.to_vec(), unescaped)
}

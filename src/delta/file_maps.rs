//! Maps in the files of a scan whose structs lack fields that came later.
//!
//! DataFusion's scans fill such fields in structs and lists and refuse maps, at any depth. Columns that hold maps are therefore brought to
//! the table's type here, by the rules of [`as_type`].

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::ExecutionPlan;

use super::cast::as_type;

/// `scan` whose files may have such maps.
pub(super) fn with_filled_maps(scan: Arc<dyn ExecutionPlan>, schema: &Schema) -> Result<Arc<dyn ExecutionPlan>> {
    if !schema.fields().iter().any(|field| holds_map(field.data_type())) {
        return Ok(scan);
    }
    let filled = scan.transform_down(|plan| {
        let source = plan.downcast_ref::<DataSourceExec>();
        let Some(config) = source.and_then(|source| source.data_source().downcast_ref::<FileScanConfig>()) else {
            return Ok(Transformed::no(plan));
        };
        let Some(inner) = config.expr_adapter_factory.clone() else { return Ok(Transformed::no(plan)) };
        let config = FileScanConfigBuilder::from(config.clone()).with_expr_adapter(Some(Arc::new(MapFilling(inner))));
        Ok(Transformed::yes(DataSourceExec::from_data_source(config.build()) as Arc<dyn ExecutionPlan>))
    });
    Ok(filled?.data)
}

fn holds_map(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) => true,
        DataType::List(field) | DataType::LargeList(field) => holds_map(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_map(field.data_type())),
        _ => false,
    }
}

/// Adapts what a scan evaluates to the columns that a file has.
#[derive(Debug)]
struct MapFilling(Arc<dyn PhysicalExprAdapterFactory>);

impl PhysicalExprAdapterFactory for MapFilling {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let mut filled = BTreeSet::new();
        // The inner adapter sees these columns as if the file had them in the table's type.
        let fields = file.fields().iter().map(|field| match table.field_with_name(field.name()) {
            Ok(wanted) if wanted.data_type() != field.data_type() && holds_map(wanted.data_type()) => {
                filled.insert(field.name().clone());
                Arc::new(wanted.clone())
            }
            _ => Arc::clone(field),
        });
        let fields: Vec<FieldRef> = fields.collect();
        let seen: SchemaRef = Arc::new(Schema::new_with_metadata(fields, file.metadata().clone()));
        let inner = self.0.create(table, Arc::clone(&seen))?;
        Ok(Arc::new(MapAdapter { inner, file, seen, filled }))
    }
}

#[derive(Debug)]
struct MapAdapter {
    inner: Arc<dyn PhysicalExprAdapter>,
    file: SchemaRef,
    seen: SchemaRef,
    filled: BTreeSet<String>,
}

impl PhysicalExprAdapter for MapAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.inner.rewrite(expr)?;
        if self.filled.is_empty() {
            return Ok(expr);
        }
        let rewritten = expr.transform_up(|expr| {
            let column = expr.downcast_ref::<Column>().filter(|column| self.filled.contains(column.name()));
            let Some(column) = column else { return Ok(Transformed::no(expr)) };
            let field = Arc::new(self.seen.field(column.index()).clone());
            let filled =
                Arc::new(ScalarUDF::from(Filled { field, signature: Signature::any(1, Volatility::Immutable) }));
            let options = Arc::new(ConfigOptions::default());
            let call = ScalarFunctionExpr::try_new(filled, vec![Arc::clone(&expr)], &self.file, options)?;
            Ok(Transformed::yes(Arc::new(call) as Arc<dyn PhysicalExpr>))
        });
        Ok(rewritten?.data)
    }
}

/// A column of a file in the table's type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Filled {
    field: FieldRef,
    signature: Signature,
}

impl ScalarUDFImpl for Filled {
    fn name(&self) -> &'static str {
        "filled"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn return_field_from_args(&self, _arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let found = args.args[0].to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(as_type(&found, self.field.data_type())?))
    }
}

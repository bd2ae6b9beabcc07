//! Columns of types that queries have no name for, as Spark shows them: VARIANT as JSON, CHAR(n) with its blanks, `void` not at all.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::Column;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::functions::unicode::rpad;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use serde_json::Value;

use super::variant::variant_to_json;

/// The table as queries see it; `schema` is that of the log.
pub fn shown(table: Arc<dyn TableProvider>, schema: &Value) -> Result<Arc<dyn TableProvider>> {
    let declared = schema["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    if declared.iter().all(|field| matches!(Shown::of(field), Shown::Plain)) {
        return Ok(table);
    }
    let mut columns = Vec::new();
    for field in table.schema().fields() {
        let column = Expr::Column(Column::new_unqualified(field.name()));
        let declared = declared.iter().find(|declared| declared["name"] == field.name().as_str());
        columns.push(match declared.map_or(Shown::Plain, Shown::of) {
            Shown::Plain => column,
            Shown::Not => continue,
            Shown::Padded(width) => rpad().call(vec![column, lit(width)]).alias(field.name()),
            Shown::Json => variant_to_json().call(vec![column]).alias(field.name()),
        });
    }
    let plan = LogicalPlanBuilder::scan("table", provider_as_source(table), None)?.project(columns)?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// The form in which a column is shown.
enum Shown {
    Plain,
    Not,
    Padded(i64),
    Json,
}

impl Shown {
    fn of(field: &Value) -> Self {
        match field["type"].as_str() {
            Some("void") => Self::Not,
            Some("variant") => Self::Json,
            Some("string") => {
                let declared = field["metadata"]["__CHAR_VARCHAR_TYPE_STRING"].as_str();
                let width = declared.and_then(|kind| kind.strip_prefix("char(")?.strip_suffix(')')?.parse().ok());
                width.map_or(Self::Plain, Self::Padded)
            }
            _ => Self::Plain,
        }
    }
}

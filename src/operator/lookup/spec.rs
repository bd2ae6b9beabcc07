//! The specification of a join to a table.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalExpr;

use crate::delta::BeforeFirst;
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::operator::planning::{Facts, Spec};
use crate::operator::refused::{Guarded, Pending};
use crate::operator::words::equalities;

/// A stream joined on equal keys to a Delta table that the pipeline does not write. Rows are emitted at once, joined to the
/// loaded version. Output: the left columns (without their weight), the table's columns, then the weight if the left side
/// retracts. Null keys match nothing, unless `null_equals_null`. A row that is retracted under another version than it was
/// emitted under may join to other values: a retracting left side needs `as_of`, or a table whose read columns never change.
#[derive(Debug, Clone)]
pub struct LookupSpec {
    pub left: SchemaRef,
    /// `true` if the left side's last column is the weight.
    pub left_retract: bool,
    pub left_keys: Vec<usize>,
    /// The table's name in the SQL.
    pub table: String,
    /// The columns of the table that are read, by name and with the table's types.
    pub right: SchemaRef,
    /// Of the same types as `left_keys`.
    pub right_keys: Vec<usize>,
    /// `true`: null keys match each other, as in IS NOT DISTINCT FROM.
    pub null_equals_null: bool,
    /// Inner or Left.
    pub join_type: JoinType,
    /// Further condition, over the left columns (without weight) followed by the table's columns.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// `FOR SYSTEM_TIME AS OF`: a left TIMESTAMP(µs) column. Each row is joined to the newest version that was committed at
    /// or before this time; rows without a time match nothing.
    pub as_of: Option<usize>,
    /// Treatment of rows whose time is before the oldest readable version.
    pub before_first: BeforeFirst,
    pub output: SchemaRef,
}

impl LookupSpec {
    /// The version of the table that a row is joined to, for EXPLAIN.
    fn version(&self) -> String {
        let Some(column) = self.as_of else { return "the newest when the row comes".to_owned() };
        let before = match self.before_first {
            BeforeFirst::Nothing => "no row",
            BeforeFirst::First => "the first version",
        };
        format!("the newest at {}; before the first version {before}", self.left.field(column).name())
    }
}

impl Spec for LookupSpec {
    fn kind(&self) -> &'static str {
        "lookup_join"
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![Vec::new()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        Err(Error::internal(format!("table `{}` is looked up and has no state", self.table)))
    }

    fn essence(&self) -> String {
        let nulls = if self.null_equals_null { " nulls match" } else { "" };
        format!("{} by {:?}={:?}{nulls}", self.table, self.left_keys, self.right_keys)
    }

    fn explain(&self) -> Facts {
        let kind = self.join_type.to_string().to_lowercase();
        let keys = equalities(&self.left, &self.left_keys, &self.right, &self.right_keys);
        vec![
            ("joins", format!("{kind} to table {} on {keys}", self.table)),
            ("version", self.version()),
            ("state", "the table's rows, followed version by version".to_owned()),
            ("emits", "at once".to_owned()),
        ]
    }

    fn begins_empty(&self) -> &'static str {
        "nothing is remembered"
    }

    fn follows_time(&self) -> bool {
        false
    }

    fn passes_on(&self) -> Option<usize> {
        (!self.left_retract).then(|| self.left.fields().len())
    }

    fn pending(&self) -> Option<Pending> {
        self.filter.as_ref()?.downcast_ref::<Guarded>()?.pending().cloned()
    }
}

//! An expression within an operator, wrapped so that it has a value for every row.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

use super::{Describe, RefusedRow, holding};
use crate::evaluate::{evaluate_each, evaluate_with_nulls, is_of_row};

/// Rows that were refused within an operator and are not dead letters yet.
#[derive(Debug, Clone, Default)]
pub struct Pending(Arc<Mutex<Vec<RefusedRow>>>);

impl Pending {
    /// Removes and returns them.
    pub fn take(&self) -> Vec<RefusedRow> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, row: RefusedRow) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }
}

/// The placeholder for the value of a row that failed.
#[derive(Debug, Clone)]
enum Instead {
    /// Null: as an argument it does not count, as a condition it does not hold.
    Null,
    /// Null for the whole expression, also where only a part of it fails.
    Unknown,
    /// Null, and the row is refused.
    Refuse(Pending),
    /// True: for a condition that is checked again later.
    True,
}

/// An expression, with a substitute value where it fails. It displays like the expression, so the operator's name and the
/// address of its state do not change.
#[derive(Debug, Clone)]
pub struct Guarded {
    expr: Arc<dyn PhysicalExpr>,
    instead: Instead,
}

impl Guarded {
    /// Null where it fails.
    pub fn null(expr: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { expr, instead: Instead::Null })
    }

    /// A condition that does not hold where it fails.
    pub fn fails(expr: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { expr, instead: Instead::Unknown })
    }

    /// A condition that holds where it fails.
    pub fn holds(expr: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { expr, instead: Instead::True })
    }

    /// Null where it fails; failed rows are collected in [`Guarded::pending`].
    pub fn refusing(expr: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { expr, instead: Instead::Refuse(Pending::default()) })
    }

    /// The wrapped expression.
    pub fn inner(&self) -> &Arc<dyn PhysicalExpr> {
        &self.expr
    }

    /// The collection of rows that failed.
    pub fn pending(&self) -> Option<&Pending> {
        match &self.instead {
            Instead::Refuse(pending) => Some(pending),
            Instead::Null | Instead::Unknown | Instead::True => None,
        }
    }

    fn each(&self, rows: &RecordBatch) -> Result<ColumnarValue> {
        let evaluated = match &self.instead {
            Instead::Null => evaluate_with_nulls(&self.expr, rows)?,
            _ => evaluate_each(&self.expr, rows)?,
        };
        match &self.instead {
            Instead::Null | Instead::Unknown => {}
            Instead::Refuse(pending) => {
                let describe = Describe { within: &[], expr: &self.expr, column: None, rows };
                let refused = evaluated.failed.iter().filter_map(|(row, error)| describe.row(*row, None, error));
                refused.for_each(|row| pending.put(row));
            }
            Instead::True => {
                let holds = holding(&evaluated.values)?;
                let failed = |row: usize| evaluated.failed.iter().any(|(failed, _)| *failed == row);
                let shown: BooleanArray =
                    (0..rows.num_rows()).map(|row| Some(holds.value(row) || failed(row))).collect();
                return Ok(ColumnarValue::Array(Arc::new(shown)));
            }
        }
        Ok(ColumnarValue::Array(evaluated.values))
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.expr.data_type(schema)
    }

    fn nullable(&self, _schema: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        let field = self.expr.return_field(schema)?;
        Ok(Arc::new(field.as_ref().clone().with_nullable(true)))
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ColumnarValue> {
        match self.expr.evaluate(rows) {
            Err(error) if is_of_row(&error) => self.each(rows),
            evaluated => evaluated,
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expr]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.pop() {
            Some(expr) => Ok(Arc::new(Self { expr, instead: self.instead.clone() })),
            None => Ok(self),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt_sql(f)
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.expr.eq(&other.expr)
    }
}

impl Eq for Guarded {}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
    }
}

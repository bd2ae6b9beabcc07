//! Joins of a stream to a Delta table: every row is answered at once, from the table's newest version or that of the row's time.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, NullEquality};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, TableScan, TryCast};

use super::aggregate::with_columns;
use super::changing::asks_alike;
use super::piece::{Piece, unique_schema};
use super::{Cutter, refused};
use crate::delta::BeforeFirst;
use crate::error::{Error, Result};
use crate::operator::spec::LookupSpec;
use crate::plan::lookup::LookupTable;
use crate::plan::operators::OperatorSpec;
use crate::plan::system_time::{TableTime, in_micros};
use crate::sql::types::sql_name;

/// The table side of a join.
struct TableSide {
    table: String,
    /// The columns that are read, as the join names them.
    schema: DFSchemaRef,
    /// Conditions on the table alone.
    conditions: Vec<Expr>,
}

impl Cutter<'_> {
    /// The join, if one of its sides is a Delta table.
    pub(super) fn lookup_join(&mut self, node: &Join) -> Result<Option<Piece>> {
        let (stream, side, kind, swapped) = match (table_side(&node.left), table_side(&node.right), node.join_type) {
            (None, Some(table), JoinType::Inner | JoinType::Left) => (&node.left, table, node.join_type, false),
            (Some(table), None, JoinType::Inner) => (&node.right, table, JoinType::Inner, true),
            (Some(table), None, JoinType::Right) => (&node.right, table, JoinType::Left, true),
            (None, None, _) => return Ok(None),
            (Some(_), Some(_), _) => {
                return Err(refused("a join of two tables").with_hint("Join a stream to each of them."));
            }
            (left, right, kind) => {
                let table = left.or(right).map(|side| side.table).unwrap_or_default();
                return Err(unlike_lookup(kind, &table));
            }
        };
        let piece = self.cut(stream)?;
        let width = piece.columns().len();
        let pairs = node.on.iter().cloned().map(|(left, right)| if swapped { (right, left) } else { (left, right) });
        let pairs = pairs.map(|(left, right)| match node.null_equality {
            NullEquality::NullEqualsNothing => as_narrow(left, right, &side),
            NullEquality::NullEqualsNull => (left, right),
        });
        let (left_on, right_on): (Vec<Expr>, Vec<Expr>) = pairs.unzip();
        let (mut piece, left_keys) = with_columns(piece, &left_on)?;
        let right_keys = right_on.iter().map(|key| table_key(key, &side)).collect::<Result<Vec<_>>>()?;
        if left_keys.is_empty() {
            return Err(refused(&format!("a join to table `{}` without equal keys", side.table))
                .with_hint("Write `ON c.key = t.key`."));
        }
        let mut conditions = node.filter.clone().map(split_conjunction_owned).unwrap_or_default();
        let table_time = conditions.iter().find_map(TableTime::of).unwrap_or(TableTime::Newest);
        conditions.retain(|condition| TableTime::of(condition).is_none());
        conditions.extend(side.conditions.iter().cloned());
        let (time, before_first) = match table_time {
            TableTime::Newest => (None, BeforeFirst::Nothing),
            TableTime::At { time, before_first } => (Some(in_micros(time, piece.plan.schema())?), before_first),
        };
        let (next, places) = with_columns(piece, time.as_slice())?;
        let as_of = places.first().copied();
        piece = next;
        if piece.rows.retract {
            if as_of.is_none() {
                return Err(retracts_under_another_version(&side.table));
            }
            asks_alike(&conditions)?;
        }
        let left = fields(piece.plan.schema(), piece.columns().len(), false);
        let right = |nullable| fields(&side.schema, side.schema.fields().len(), nullable);
        let joint = schema(left.iter().cloned().chain(right(false)).collect())?;
        let filter = conjunction(conditions).map(|filter| self.guarded_condition(&filter, &joint)).transpose()?;
        let full = schema(left.into_iter().chain(right(kind == JoinType::Left)).collect())?;
        let (retract, inner) = (piece.rows.retract, piece.columns().len());
        let spec = LookupSpec {
            left: Arc::new(piece.plan.schema().as_arrow().clone()),
            left_retract: retract,
            left_keys,
            table: side.table,
            right: Arc::new(side.schema.as_arrow().clone()),
            right_keys,
            null_equals_null: matches!(node.null_equality, NullEquality::NullEqualsNull),
            join_type: kind,
            filter,
            as_of,
            before_first,
            output: unique_schema(&full, retract),
        };
        let mut times = piece.rows.times.clone();
        times.resize(full.fields().len(), None);
        let input = self.input(piece, "lookup_input")?;
        let out = self.operator(OperatorSpec::Lookup(spec), &[input], &full, retract, times)?;
        let exprs = ordered(&out.columns(), width, inner, swapped, node);
        out.project(exprs).map(Some)
    }
}

/// The join's columns in its own order: of the operator's output the stream's first `width` columns and, from `inner` on, the table's.
fn ordered(columns: &[Column], width: usize, inner: usize, swapped: bool, node: &Join) -> Vec<Expr> {
    let (mine, theirs) = (&columns[..width], &columns[inner..]);
    let ordered = if swapped { [theirs, mine] } else { [mine, theirs] };
    let wanted = node.schema.columns();
    ordered.concat().into_iter().filter(|column| wanted.contains(column)).map(Expr::Column).collect()
}

/// The table, when a side of a join is nothing but a table: filtered, renamed, with some of its columns.
fn table_side(plan: &LogicalPlan) -> Option<TableSide> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = lookup_table(scan)?;
            Some(TableSide { table, schema: Arc::clone(&scan.projected_schema), conditions: scan.filters.clone() })
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let side = table_side(&alias.input)?;
            let schema = side.schema.as_ref().clone().replace_qualifier(alias.alias.clone());
            // Conditions below the alias name columns by the old name.
            let renamed = |expr: Expr| {
                expr.transform(|expr| {
                    Ok(match expr {
                        Expr::Column(column) => {
                            let name = Column::new(Some(alias.alias.clone()), column.name);
                            Transformed::yes(Expr::Column(name))
                        }
                        other => Transformed::no(other),
                    })
                })
            };
            let conditions = side.conditions.into_iter().map(|expr| renamed(expr).map(|renamed| renamed.data));
            let conditions = conditions.collect::<datafusion::error::Result<_>>().ok()?;
            Some(TableSide { table: side.table, schema: Arc::new(schema), conditions })
        }
        LogicalPlan::Filter(filter) => {
            let mut side = table_side(&filter.input)?;
            side.conditions.extend(split_conjunction_owned(filter.predicate.clone()));
            Some(side)
        }
        LogicalPlan::Projection(projection) => {
            let plain = projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_)));
            plain.then(|| table_side(&projection.input)).flatten()
        }
        _ => None,
    }
}

fn lookup_table(scan: &TableScan) -> Option<String> {
    let provider = source_as_provider(&scan.source).ok()?;
    provider.downcast_ref::<LookupTable>().map(|table| table.name.clone())
}

/// A join to a table that is none of a row to the table's.
fn unlike_lookup(kind: JoinType, table: &str) -> Error {
    let join = match kind {
        JoinType::LeftSemi | JoinType::RightSemi => "IN or EXISTS against".to_owned(),
        JoinType::LeftAnti | JoinType::RightAnti => "NOT IN or NOT EXISTS against".to_owned(),
        kind => format!("a {} join to", kind.to_string().to_uppercase()),
    };
    refused(&format!("{join} table `{table}`")).with_hint(
        "A stream can be joined to a table by an inner join, or by an outer join that keeps the stream's rows.",
    )
}

/// Rows that may be taken back, joined to what the table is at that moment.
fn retracts_under_another_version(table: &str) -> Error {
    refused(&format!("rows that may be taken back, joined to table `{table}` as it is now,"))
        .with_detail("A row could be taken back under another version of the table than it was given under.")
        .with_hint("Join before the aggregate, or `FOR SYSTEM_TIME AS OF` a time of the row.")
}

/// A pair of keys without the cast that makes the table's whole number as wide as the stream's: the stream's is made as narrow. One that
/// does not fit becomes null and finds nothing, as before.
fn as_narrow(stream: Expr, table: Expr, side: &TableSide) -> (Expr, Expr) {
    if let Expr::Cast(cast) = &table
        && let Expr::Column(column) = cast.expr.as_ref()
        && let Some(index) = side.schema.maybe_index_of_column(column)
        && let narrow = side.schema.field(index).data_type()
        && narrow.is_integer()
        && cast.field.data_type().is_integer()
    {
        return (Expr::TryCast(TryCast::new(Box::new(stream), narrow.clone())), cast.expr.as_ref().clone());
    }
    (stream, table)
}

/// The table's column that a key is.
fn table_key(key: &Expr, side: &TableSide) -> Result<usize> {
    let column = match key {
        Expr::Column(column) => side.schema.maybe_index_of_column(column),
        _ => None,
    };
    if let Expr::Cast(cast) = key
        && let Expr::Column(column) = cast.expr.as_ref()
        && let Some(index) = side.schema.maybe_index_of_column(column)
    {
        let (is, wanted) = (sql_name(side.schema.field(index).data_type()), sql_name(cast.field.data_type()));
        return Err(Error::sql(format!(
            "column `{}` of table `{}` is {is}, the stream's key {wanted}",
            column.name, side.table
        ))
        .with_detail("A row is found by the table's own columns; their types must be those of the stream's.")
        .with_hint(format!("Convert the stream's side: `CAST(… AS {is})`.")));
    }
    column.ok_or_else(|| {
        Error::sql(format!("`{key}` is not a column of table `{}`", side.table))
            .with_detail("A row is found by the table's own columns; their types must be those of the stream's.")
            .with_hint("Compute or CAST on the stream's side of the `=`.")
    })
}

type Fields = Vec<(Option<datafusion::common::TableReference>, Arc<arrow::datatypes::Field>)>;

fn fields(schema: &DFSchemaRef, count: usize, nullable: bool) -> Fields {
    let field = |field: &Arc<arrow::datatypes::Field>| match nullable {
        true => Arc::new(field.as_ref().clone().with_nullable(true)),
        false => Arc::clone(field),
    };
    schema.iter().take(count).map(|(qualifier, column)| (qualifier.cloned(), field(column))).collect()
}

fn schema(fields: Fields) -> Result<DFSchemaRef> {
    Ok(Arc::new(DFSchema::new_with_metadata(fields, std::collections::HashMap::new())?))
}

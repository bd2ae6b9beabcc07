//! A stateless part of a plan, with what the planner knows of the rows that come out of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, TableScan};

use crate::error::Result;
use crate::operator::spec::TimeColumn;
use crate::operator::{HeldTable, StreamId, WEIGHT};
use crate::plan::time::{is_bounded, time_lag};
use crate::time::Lag;

/// A stream of rows and its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// True when the last column is the weight.
    pub retract: bool,
    /// Per column (the weight left out): values in rows yet to come are >= W - lag.
    pub times: Vec<Option<Lag>>,
    /// Indices of the sources that the rows come from; their watermarks' minimum is W.
    pub sources: BTreeSet<usize>,
    /// The first stage of the dataflow in which all of it is there.
    pub stage: usize,
}

/// A stream that fragments and operators read.
#[derive(Debug, Clone)]
pub struct Stream {
    pub id: StreamId,
    pub name: String,
    /// With the weight, if any.
    pub schema: SchemaRef,
    pub rows: Rows,
    /// A description of the plan behind it that stays the same as long as its rows do; addresses of state are made from it.
    pub identity: String,
    /// The column that is null in rows without event time: these are here for operators to count, other readers skip them.
    pub untimed: Option<usize>,
}

/// A plan without memory over held streams. Its schema is that of the node it stands for, with the weight last if it retracts.
#[derive(Debug, Clone)]
pub struct Piece {
    pub plan: LogicalPlan,
    pub rows: Rows,
}

impl Piece {
    /// The columns without the weight.
    pub fn columns(&self) -> Vec<Column> {
        let mut columns = self.plan.schema().columns();
        if self.rows.retract {
            columns.pop();
        }
        columns
    }

    /// The weight column as this plan names it.
    pub fn weight(&self) -> Option<Expr> {
        self.rows.retract.then(|| self.plan.schema().columns().pop().map(Expr::Column)).flatten()
    }

    /// The lag of an expression over this piece's columns.
    pub fn lag(&self, expr: &Expr) -> Option<Lag> {
        let lag = time_lag(expr, self.plan.schema(), &|column| {
            let index = self.plan.schema().maybe_index_of_column(column)?;
            self.rows.times.get(index).copied().flatten()
        });
        lag.filter(|lag| is_bounded(*lag))
    }

    /// The column of event time that lags least, if there is one.
    pub fn time(&self) -> Option<TimeColumn> {
        let times = self.rows.times.iter().enumerate();
        let times = times.filter_map(|(column, lag)| lag.map(|lag| TimeColumn { column, lag }));
        times.min_by_key(|time| time.lag.max(Lag::ZERO))
    }

    /// Projects: `exprs`, then the weight.
    pub fn project(self, mut exprs: Vec<Expr>) -> Result<Self> {
        let times = exprs.iter().map(|expr| self.lag(expr)).collect();
        exprs.extend(self.weight());
        let rows = Rows { times, ..self.rows };
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(self.plan))?);
        Ok(Self { plan, rows })
    }

    /// The same rows with a weight of 1 each, if they have none.
    pub fn weighted(self) -> Result<Self> {
        if self.rows.retract {
            return Ok(self);
        }
        let mut exprs: Vec<Expr> = self.columns().into_iter().map(Expr::Column).collect();
        exprs.push(datafusion::logical_expr::lit(1_i64).alias(WEIGHT));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(self.plan))?);
        Ok(Self { plan, rows: Rows { retract: true, ..self.rows } })
    }
}

/// Reads a stream under the names of `schema` (without the weight).
pub fn read(stream: &Stream, schema: &DFSchema) -> Result<LogicalPlan> {
    let scan = scan(stream, None)?;
    let held = scan.schema().columns();
    let mut exprs: Vec<Expr> = Vec::with_capacity(held.len());
    for ((qualifier, field), column) in schema.iter().zip(&held) {
        exprs.push(Expr::Column(column.clone()).alias_qualified(qualifier.cloned(), field.name()));
    }
    if stream.rows.retract
        && let Some(weight) = held.last()
    {
        exprs.push(Expr::Column(weight.clone()).alias(WEIGHT));
    }
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(scan))?))
}

/// A scan of some columns of a stream, or of all.
pub fn scan(stream: &Stream, projection: Option<Vec<usize>>) -> Result<LogicalPlan> {
    let table = HeldTable::new(&stream.name, stream.id, Arc::clone(&stream.schema));
    let source = provider_as_source(Arc::new(table));
    let name = TableReference::bare(stream.name.clone());
    Ok(LogicalPlanBuilder::scan(name, source, projection)?.build()?)
}

/// The stream that a scan reads, when the scan is nothing but the stream: every column in its order.
pub fn whole_scan(plan: &LogicalPlan) -> Option<StreamId> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let all = scan.source.schema().fields().len();
            let whole = scan.projection.as_ref().is_none_or(|columns| columns.iter().copied().eq(0..all));
            (whole && scan.filters.is_empty() && scan.fetch.is_none()).then(|| held(scan)).flatten()
        }
        LogicalPlan::SubqueryAlias(alias) => whole_scan(&alias.input),
        LogicalPlan::Projection(projection) => {
            let columns = projection.input.schema().columns();
            let same = projection.expr.len() == columns.len()
                && projection.expr.iter().zip(&columns).all(|(expr, column)| match expr.clone().unalias() {
                    Expr::Column(named) => named == *column,
                    _ => false,
                });
            same.then(|| whole_scan(&projection.input)).flatten()
        }
        _ => None,
    }
}

/// The held stream behind a scan.
pub fn held(scan: &TableScan) -> Option<StreamId> {
    HeldTable::scanned_by(scan)
}

/// Column names made unique, types kept: an operator's output can then be scanned as a table.
pub fn unique_schema(schema: &DFSchemaRef, retract: bool) -> SchemaRef {
    let mut seen = BTreeSet::new();
    let mut fields: Vec<Field> = Vec::with_capacity(schema.fields().len() + 1);
    for field in schema.fields() {
        let mut name = field.name().clone();
        let mut count = 1;
        while !seen.insert(name.clone()) {
            count += 1;
            name = format!("{}_{count}", field.name());
        }
        fields.push(Field::new(name, field.data_type().clone(), field.is_nullable()));
    }
    if retract {
        fields.push(weight_field());
    }
    Arc::new(Schema::new(fields))
}

/// The weight column of a schema.
pub fn weight_field() -> Field {
    Field::new(WEIGHT, DataType::Int64, false)
}

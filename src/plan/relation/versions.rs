//! The batch form of joins `FOR SYSTEM_TIME AS OF`: joins to all versions of a table, of which the time of the row chooses one.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Cast, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, SubqueryAlias, TableScan};
use datafusion::optimizer::AnalyzerRule;

use super::building::columns;
use crate::delta::{BeforeFirst, ROW_FROM, ROW_UNTIL, all_versions};
use crate::error::Error;
use crate::plan::system_time::{TableTime, in_micros};

/// Joins each row to the version of its time.
#[derive(Debug)]
pub struct VersionsByTime;

impl AnalyzerRule for VersionsByTime {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) => by_time(join),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "versions_by_time"
    }
}

fn by_time(join: Join) -> Result<Transformed<LogicalPlan>> {
    let parts = join.filter.clone().map(split_conjunction_owned).unwrap_or_default();
    let Some(table_time) = parts.iter().find_map(TableTime::of) else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    let mut parts: Vec<Expr> = parts.into_iter().filter(|part| TableTime::of(part).is_none()).collect();
    let TableTime::At { time, before_first } = table_time else {
        return Ok(Transformed::yes(LogicalPlan::Join(Join { filter: conjunction(parts), ..join })));
    };
    let given = columns(&LogicalPlan::Join(join.clone()));
    let Some(right) = with_versions(&join.right, before_first)? else { return Err(no_versions().into()) };
    let time = in_micros(time, join.left.schema().as_ref())?;
    let time = Expr::Cast(Cast::new(Box::new(time), DataType::Int64));
    let bound = |name: &str| {
        let mut all = right.schema().columns().into_iter();
        let found = all.find(|column| column.name == name);
        found.map(Expr::Column).ok_or_else(|| Error::internal(format!("versions have no column `{name}`")))
    };
    parts.push(bound(ROW_FROM)?.lt_eq(time.clone()));
    parts.push(time.lt(bound(ROW_UNTIL)?));
    let on = join.on.into_iter().map(|(left, right)| left.eq(right));
    let plan = LogicalPlanBuilder::from(Arc::unwrap_or_clone(join.left));
    let plan = plan.join_on(right, join.join_type, on.chain(parts))?.project(given)?.build()?;
    Ok(Transformed::yes(plan))
}

/// The table that `plan` reads in all its versions, with the two columns that say when a row was there; `None` when it is not one table.
fn with_versions(plan: &LogicalPlan, before_first: BeforeFirst) -> Result<Option<LogicalPlan>> {
    let inner = |input: &LogicalPlan| with_versions(input, before_first);
    Ok(match plan {
        LogicalPlan::TableScan(scan) => scanned(scan, before_first)?,
        LogicalPlan::SubqueryAlias(alias) => match inner(&alias.input)? {
            Some(input) => {
                Some(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?))
            }
            None => None,
        },
        LogicalPlan::Filter(filter) => match inner(&filter.input)? {
            Some(input) => Some(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?)),
            None => None,
        },
        LogicalPlan::Projection(projection) => match inner(&projection.input)? {
            Some(input) => {
                let all = input.schema().columns();
                let times = all.into_iter().filter(|column| column.name == ROW_FROM || column.name == ROW_UNTIL);
                let exprs = projection.expr.iter().cloned().chain(times.map(Expr::Column)).collect::<Vec<_>>();
                Some(LogicalPlanBuilder::from(input).project(exprs)?.build()?)
            }
            None => None,
        },
        _ => None,
    })
}

fn scanned(scan: &TableScan, before_first: BeforeFirst) -> Result<Option<LogicalPlan>> {
    let Some(versions) = all_versions(&source_as_provider(&scan.source)?, before_first) else { return Ok(None) };
    let width = scan.source.schema().fields().len();
    let projection = scan.projection.clone().map(|columns| [columns, vec![width, width + 1]].concat());
    let source = provider_as_source(versions?);
    let builder =
        LogicalPlanBuilder::scan_with_filters(scan.table_name.clone(), source, projection, scan.filters.clone())?;
    Ok(Some(builder.build()?))
}

fn no_versions() -> Error {
    Error::sql("a join `FOR SYSTEM_TIME AS OF` is to a Delta table, which has versions")
        .with_hint("Join a table, or a view that only selects rows and columns of one.")
}

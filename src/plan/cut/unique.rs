//! Unique keys of plans: at any time no two live rows are equal in all columns of a key.
//!
//! Only keys that are proved are listed; a plan may have more. Rows that an operator has forgotten by `state_ttl` do not count.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr::WindowFunctionDefinition;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, Join, LogicalPlan, Operator, Projection, TableScan, Union, Window,
};

use super::piece::held;
use super::ranking::{ranking_window, upper_bound, window_function};
use crate::operator::StreamId;
use crate::plan::fit::keeps_data;
use crate::plan::lookup::LookupTable;
use crate::plan::nodes::{AsofNode, DeduplicateNode};

/// Columns by index.
pub type UniqueKey = BTreeSet<usize>;

/// More keys than that are not followed.
const MOST: usize = 32;

/// The known unique keys of the relations that a plan reads.
#[derive(Debug, Clone, Default)]
pub struct KnownKeys {
    /// Of streams.
    pub streams: BTreeMap<usize, Vec<UniqueKey>>,
    /// The PRIMARY KEYs of tables that are looked up.
    pub tables: BTreeMap<String, Vec<String>>,
}

impl KnownKeys {
    /// The keys of an optimised plan's rows.
    pub fn of(&self, plan: &LogicalPlan) -> Vec<UniqueKey> {
        let keys = match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => projected(projection, &self.of(&projection.input)),
            LogicalPlan::Filter(filter) => {
                let conditions = split_conjunction(&filter.predicate);
                filtered(&filter.input, &conditions, self.of(&filter.input))
            }
            LogicalPlan::SubqueryAlias(alias) => self.of(&alias.input),
            LogicalPlan::Sort(sort) => self.of(&sort.input),
            LogicalPlan::Limit(limit) => self.of(&limit.input),
            LogicalPlan::Aggregate(aggregate) => grouped(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                let asof = node.downcast_ref::<AsofNode>().map(|asof| self.of(&asof.input));
                asof.or_else(|| node.downcast_ref().map(deduplicated)).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        smallest(keys)
    }

    fn scan(&self, scan: &TableScan) -> Vec<UniqueKey> {
        let all: Vec<UniqueKey> = match held(scan) {
            Some(StreamId(stream)) => self.streams.get(&stream).cloned().unwrap_or_default(),
            None => self.table(scan).into_iter().collect(),
        };
        let width = scan.source.schema().fields().len();
        let read = scan.projection.clone().unwrap_or_else(|| (0..width).collect());
        let place = |column: &usize| read.iter().position(|other| other == column);
        all.iter().filter_map(|key| key.iter().map(place).collect()).collect()
    }

    fn table(&self, scan: &TableScan) -> Option<UniqueKey> {
        let provider = source_as_provider(&scan.source).ok()?;
        let table = provider.downcast_ref::<LookupTable>()?;
        let names = self.tables.get(&table.name).filter(|names| !names.is_empty())?;
        let schema = scan.source.schema();
        names.iter().map(|name| schema.index_of(name).ok()).collect()
    }

    fn window(&self, node: &Window) -> Vec<UniqueKey> {
        let mut keys = self.of(&node.input);
        let schema = node.input.schema();
        let width = schema.fields().len();
        for (at, expr) in node.window_expr.iter().enumerate() {
            let Some(function) = window_function(expr) else { continue };
            let numbers =
                matches!(&function.fun, WindowFunctionDefinition::WindowUDF(udf) if udf.name() == "row_number");
            let partition: Option<UniqueKey> =
                function.params.partition_by.iter().map(|expr| plain(expr, schema)).collect();
            if let Some(mut key) = partition.filter(|_| numbers) {
                key.insert(width + at);
                keys.push(key);
            }
        }
        keys
    }

    fn join(&self, node: &Join) -> Vec<UniqueKey> {
        let (left, right) = (self.of(&node.left), self.of(&node.right));
        let width = node.left.schema().fields().len();
        let pairs: Vec<(Option<usize>, Option<usize>)> =
            node.on.iter().map(|(l, r)| (plain(l, node.left.schema()), plain(r, node.right.schema()))).collect();
        match node.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => return left,
            JoinType::RightSemi | JoinType::RightAnti => return right,
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {}
            _ => return Vec::new(),
        }
        let right: Vec<UniqueKey> =
            right.into_iter().map(|key| key.into_iter().map(|column| column + width).collect()).collect();
        let on_left: UniqueKey = pairs.iter().filter_map(|(l, _)| *l).collect();
        let on_right: UniqueKey = pairs.iter().filter_map(|(_, r)| r.map(|r| r + width)).collect();
        let one_left = left.iter().any(|key| key.is_subset(&on_left));
        let one_right = right.iter().any(|key| key.is_subset(&on_right));
        let mut keys: Vec<UniqueKey> =
            left.iter().flat_map(|l| right.iter().map(move |r| l.union(r).copied().collect())).take(MOST).collect();
        if one_right && matches!(node.join_type, JoinType::Inner | JoinType::Left) {
            keys.extend(left);
        }
        if one_left && matches!(node.join_type, JoinType::Inner | JoinType::Right) {
            keys.extend(right);
        }
        if node.join_type == JoinType::Inner {
            // Columns that are equal stand for each other.
            for (l, r) in pairs.iter().filter_map(|(l, r)| Some(((*l)?, (*r)? + width))) {
                let swapped = |from: usize, to: usize, key: &UniqueKey| {
                    let mut other = key.clone();
                    (other.remove(&from) && other.insert(to)).then_some(other)
                };
                let more: Vec<UniqueKey> =
                    keys.iter().flat_map(|key| [swapped(l, r, key), swapped(r, l, key)]).flatten().collect();
                keys.extend(more);
                keys = smallest(keys);
            }
        }
        keys
    }

    /// Rows of different inputs are told apart by a column that is another constant in each.
    fn union(&self, node: &Union) -> Vec<UniqueKey> {
        let Some((first, rest)) = node.inputs.split_first() else { return Vec::new() };
        let width = node.schema.fields().len();
        let tells = |column: &usize| {
            let constants: Option<Vec<_>> = node.inputs.iter().map(|input| constant(input, *column)).collect();
            constants.is_some_and(|constants| {
                constants.iter().enumerate().all(|(at, value)| !value.is_null() && !constants[..at].contains(value))
            })
        };
        let tags: Vec<usize> = (0..width).filter(tells).collect();
        let Some(tag) = tags.first() else { return Vec::new() };
        let mut keys = self.of(first);
        for input in rest {
            let of_input = self.of(input);
            keys = keys
                .iter()
                .flat_map(|key| of_input.iter().map(move |other| key.union(other).copied().collect::<UniqueKey>()))
                .take(MOST)
                .collect();
        }
        for key in &mut keys {
            key.insert(*tag);
        }
        keys
    }
}

/// Without WITHIN no key comes twice.
fn deduplicated(node: &DeduplicateNode) -> Vec<UniqueKey> {
    let key = node.keys.iter().map(|key| plain(key, node.input.schema())).collect();
    Option::into_iter(key).filter(|_| node.within.is_none()).collect()
}

fn grouped(node: &Aggregate) -> Vec<UniqueKey> {
    if node.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return Vec::new();
    }
    vec![(0..node.group_expr.len()).collect()]
}

fn projected(node: &Projection, keys: &[UniqueKey]) -> Vec<UniqueKey> {
    let schema = node.input.schema();
    let places: Vec<Option<usize>> = node.expr.iter().map(|expr| plain(expr, schema)).collect();
    let place = |column: &usize| places.iter().position(|given| *given == Some(*column));
    keys.iter().filter_map(|key| key.iter().map(place).collect()).collect()
}

/// A column with one value tells no rows apart.
fn filtered(input: &LogicalPlan, conditions: &[&Expr], mut keys: Vec<UniqueKey>) -> Vec<UniqueKey> {
    for condition in conditions {
        let Some(fixed) = fixed(input, condition).and_then(|column| input.schema().maybe_index_of_column(&column))
        else {
            continue;
        };
        for key in &mut keys {
            key.remove(&fixed);
        }
    }
    keys
}

/// The column for which a condition lets one value through.
fn fixed(input: &LogicalPlan, condition: &Expr) -> Option<Column> {
    if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition
        && let (Expr::Column(column), Expr::Literal(..)) | (Expr::Literal(..), Expr::Column(column)) =
            (left.as_ref(), right.as_ref())
    {
        return Some(column.clone());
    }
    let (column, limit) = upper_bound(condition)?;
    (limit == 1 && ranking_window(input, &column).is_some()).then_some(column)
}

/// The value of a column that is a constant.
fn constant(plan: &LogicalPlan, column: usize) -> Option<datafusion::common::ScalarValue> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => constant(&alias.input, column),
        LogicalPlan::Projection(projection) => match unaliased(projection.expr.get(column)?) {
            Expr::Literal(value, _) => Some(value.clone()),
            Expr::Column(inner) => constant(&projection.input, projection.input.schema().maybe_index_of_column(inner)?),
            _ => None,
        },
        _ => None,
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// The column that an expression is, perhaps in a type in which different values stay different.
fn plain(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Alias(alias) => plain(&alias.expr, schema),
        Expr::Column(column) => schema.maybe_index_of_column(column),
        Expr::Cast(cast) => {
            let column = plain(&cast.expr, schema)?;
            let from = schema.field(column).data_type();
            stays_different(from, cast.field.data_type()).then_some(column)
        }
        _ => None,
    }
}

fn stays_different(from: &DataType, to: &DataType) -> bool {
    let rounds = match (from, to) {
        (from, DataType::Float16 | DataType::Float32 | DataType::Float64) => from.is_integer(),
        (DataType::Timestamp(TimeUnit::Nanosecond, _), DataType::Timestamp(unit, _)) => *unit != TimeUnit::Nanosecond,
        _ => false,
    };
    let numbers = (from, to) == (&DataType::UInt64, &DataType::Int64);
    numbers || (keeps_data(from, to) && !rounds)
}

/// Without keys that hold another one; few.
fn smallest(mut keys: Vec<UniqueKey>) -> Vec<UniqueKey> {
    keys.sort_by_key(BTreeSet::len);
    let mut kept: Vec<UniqueKey> = Vec::new();
    for key in keys {
        if kept.len() < MOST && !kept.iter().any(|other| other.is_subset(&key)) {
            kept.push(key);
        }
    }
    kept
}

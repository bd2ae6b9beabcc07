//! Joins of two streams: interval joins where the condition bounds the times, updating joins otherwise.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, JoinType, NullEquality};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, Join, Operator};

use super::aggregate::{with_columns, with_named_columns};
use super::changing::asks_alike;
use super::piece::{Piece, unique_schema};
use super::{Cutter, needs_append, position, refused};
use crate::error::{Error, Result};
use crate::operator::spec::{AsofSpec, JoinSpec, TimeBounds, TimeColumn};
use crate::plan::operators::OperatorSpec;
use crate::plan::system_time::TableTime;
use crate::plan::time::interval_micros;
use crate::sql::temporal::ASOF;
use crate::time::Lag;

/// Streams of both sides of a join.
struct Sides {
    left: Piece,
    right: Piece,
    left_keys: Vec<usize>,
    right_keys: Vec<usize>,
    /// Columns before keys were added.
    left_width: usize,
    right_width: usize,
}

impl Cutter<'_> {
    pub(super) fn join(&mut self, node: &Join) -> Result<Piece> {
        check_type(node.join_type)?;
        if node.null_aware {
            return Err(refused("NOT IN over columns that may be null")
                .with_detail("One null among the values would take every row back.")
                .with_hint("Write `NOT EXISTS (SELECT 1 FROM … WHERE a = b)`, which nulls do not match."));
        }
        if let Some(looked_up) = self.lookup_join(node)? {
            return Ok(looked_up);
        }
        let left = self.cut(&node.left)?;
        let right = self.cut(&node.right)?;
        let (left_width, right_width) = (left.columns().len(), right.columns().len());
        let (left_on, right_on): (Vec<Expr>, Vec<Expr>) = node.on.iter().cloned().unzip();
        let (left, left_keys) = with_columns(left, &left_on)?;
        // Columns of one name on both sides cannot be told apart.
        let computed = left_keys.iter().any(|key| *key >= left_width);
        let (right, right_keys) = with_named_columns(right, &right_on, if computed { "__right_key" } else { "__key" })?;
        let sides = Sides { left, right, left_keys, right_keys, left_width, right_width };
        let conditions = node.filter.clone().map(split_conjunction_owned).unwrap_or_default();
        if conditions.iter().any(|condition| TableTime::of(condition).is_some()) {
            return Err(refused("a join `FOR SYSTEM_TIME AS OF` to what is no Delta table")
                .with_detail("A stream has no versions.")
                .with_hint("Write `t ASOF JOIN r MATCH_CONDITION (t.ts >= r.ts) ON …` to join the newest row of another stream."));
        }
        if let Some(asof) = self.asof_join(node, &sides, &conditions)? {
            return Ok(asof);
        }
        self.stream_join(node, sides, conditions)
    }

    fn stream_join(&mut self, node: &Join, sides: Sides, conditions: Vec<Expr>) -> Result<Piece> {
        let Sides { left, right, left_keys, right_keys, left_width, right_width } = sides;
        let retracting = left.rows.retract || right.rows.retract;
        let bounds = bounds(&left, &right, &left_keys, &right_keys, &conditions);
        let bounds = bounds.filter(|_| !retracting);
        let ttl = match bounds {
            Some(_) => None,
            None => self.ttl(
                "a join without time bounds",
                "Bound the times: `ON a.id = b.id AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '4 hours'`.",
            )?,
        };
        let keeps_all = matches!(node.join_type, JoinType::Inner);
        let output_retract = retracting || (bounds.is_none() && !keeps_all);
        if output_retract {
            asks_alike(&conditions)?;
        }
        let joint = joint_schema(&left, &right)?;
        let filter = conjunction(conditions).map(|filter| self.guarded_condition(&filter, &joint)).transpose()?;
        let schema = output_schema(&left, &right, node.join_type)?;
        let spec = JoinSpec {
            left: arrow_schema(&left),
            right: arrow_schema(&right),
            left_retract: left.rows.retract,
            right_retract: right.rows.retract,
            left_time: bounds.map(|bounds| bounds.left).or_else(|| left.time()),
            right_time: bounds.map(|bounds| bounds.right).or_else(|| right.time()),
            null_equals_null: matches!(node.null_equality, NullEquality::NullEqualsNull),
            join_type: node.join_type,
            filter,
            bounds,
            ttl,
            output_retract,
            output: unique_schema(&schema, output_retract),
            left_keys,
            right_keys,
        };
        let times = times(&left, &right, &spec);
        let (left_all, right_all) = (left.columns().len(), right.columns().len());
        let left = self.input(left, "join_left")?;
        let right = self.input(right, "join_right")?;
        let kind = node.join_type;
        let out = self.operator(OperatorSpec::Join(spec), &[left, right], &schema, output_retract, times)?;
        // Without the columns that were added for keys.
        let columns = out.columns();
        let kept: Vec<Expr> = match kind {
            JoinType::LeftSemi | JoinType::LeftAnti => columns.into_iter().take(left_width).map(Expr::Column).collect(),
            JoinType::RightSemi | JoinType::RightAnti => {
                columns.into_iter().take(right_width).map(Expr::Column).collect()
            }
            _ => {
                let left = columns.iter().take(left_width);
                let right = columns.iter().skip(left_all).take(right_width.min(right_all));
                left.chain(right).cloned().map(Expr::Column).collect()
            }
        };
        out.project(kept)
    }

    /// `ASOF JOIN … MATCH_CONDITION`.
    fn asof_join(&mut self, node: &Join, sides: &Sides, conditions: &[Expr]) -> Result<Option<Piece>> {
        let Some(matched) = conditions.iter().find_map(|condition| mark(condition, ASOF)) else { return Ok(None) };
        let Sides { left, right, left_keys, right_keys, left_width, right_width } = sides;
        if left.rows.retract || right.rows.retract {
            return Err(needs_append("an ASOF join"));
        }
        if conditions.len() > 1 {
            return Err(
                refused("an ASOF join whose ON has more than equalities").with_hint("Filter before or after the join.")
            );
        }
        if matches!(node.null_equality, NullEquality::NullEqualsNull) && !node.on.is_empty() {
            return Err(refused("an ASOF join ON … IS NOT DISTINCT FROM")
                .with_hint("Compare with `=`; null finds nothing then."));
        }
        let comparison = matched.first().map(comparisons).unwrap_or_default();
        let Some((l, r, lower, upper)) = comparison.first().and_then(|binary| difference(left, right, binary)) else {
            return Err(Error::sql("the MATCH_CONDITION must compare the times of both sides")
                .with_hint("Write `MATCH_CONDITION (t.ts >= r.ts)`."));
        };
        let or_equal = comparison.iter().any(|binary| matches!(binary.op, Operator::GtEq | Operator::LtEq));
        let (Some(left_lag), Some(right_lag), None, Some(Lag::ZERO)) =
            (left.rows.times[l], right.rows.times[r], lower, upper)
        else {
            return Err(Error::sql(
                "the MATCH_CONDITION of an ASOF join must be `left time >= right time`, both event time",
            )
            .with_hint("Declare a WATERMARK on both sources and write `MATCH_CONDITION (t.ts >= r.ts)`."));
        };
        let schema = output_schema(left, right, node.join_type)?;
        let spec = AsofSpec {
            left: arrow_schema(left),
            right: arrow_schema(right),
            left_keys: left_keys.clone(),
            right_keys: right_keys.clone(),
            left_time: TimeColumn { column: l, lag: left_lag },
            right_time: TimeColumn { column: r, lag: right_lag },
            or_equal,
            outer: node.join_type != JoinType::Inner,
            output: unique_schema(&schema, false),
        };
        let mut times = vec![None; schema.fields().len()];
        times[l] = Some(left_lag.max(right_lag));
        let left_all = left.columns().len();
        let left = self.input(left.clone(), "asof_left")?;
        let right = self.input(right.clone(), "asof_right")?;
        let out = self.operator(OperatorSpec::Asof(spec), &[left, right], &schema, false, times)?;
        let columns = out.columns();
        let kept = columns.iter().take(*left_width).chain(columns.iter().skip(left_all).take(*right_width));
        let kept = kept.cloned().map(Expr::Column).collect();
        out.project(kept).map(Some)
    }
}

/// The arguments of a mark.
pub(super) fn mark<'e>(condition: &'e Expr, name: &str) -> Option<&'e [Expr]> {
    match condition {
        Expr::ScalarFunction(call) if call.name() == name => Some(call.args.as_slice()),
        _ => None,
    }
}

/// `column`, `column + interval` or `column - interval`: the column, and what is added.
fn shifted_column(expr: &Expr) -> Option<(Column, Lag)> {
    match expr {
        Expr::Column(column) => Some((column.clone(), Lag::ZERO)),
        Expr::Alias(alias) => shifted_column(&alias.expr),
        Expr::Cast(cast) if is_micros(cast.field.data_type()) => shifted_column(&cast.expr),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => match interval_micros(right) {
            Some(by) => shifted_column(left).map(|(column, shift)| (column, shift.saturating_add(by))),
            None => shifted_column(right)
                .zip(interval_micros(left))
                .map(|((column, shift), by)| (column, shift.saturating_add(by))),
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => shifted_column(left)
            .zip(interval_micros(right))
            .map(|((column, shift), by)| (column, shift.saturating_sub(by))),
        _ => None,
    }
}

fn is_micros(kind: &arrow::datatypes::DataType) -> bool {
    use arrow::datatypes::{DataType, TimeUnit};
    matches!(kind, DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _))
}

fn check_type(kind: JoinType) -> Result<()> {
    match kind {
        JoinType::LeftMark | JoinType::RightMark => {
            Err(refused("EXISTS or IN inside an OR")
                .with_hint("Write it as a join, or as the only condition of WHERE."))
        }
        _ => Ok(()),
    }
}

fn arrow_schema(piece: &Piece) -> arrow::datatypes::SchemaRef {
    Arc::new(piece.plan.schema().as_arrow().clone())
}

type Fields = Vec<(Option<datafusion::common::TableReference>, Arc<arrow::datatypes::Field>)>;

fn fields(piece: &Piece, nullable: bool) -> Fields {
    let count = piece.columns().len();
    let field = |field: &Arc<arrow::datatypes::Field>| match nullable {
        true => Arc::new(field.as_ref().clone().with_nullable(true)),
        false => Arc::clone(field),
    };
    piece.plan.schema().iter().take(count).map(|(qualifier, column)| (qualifier.cloned(), field(column))).collect()
}

/// The left columns followed by the right columns, weights left out.
fn joint_schema(left: &Piece, right: &Piece) -> Result<DFSchema> {
    let all = fields(left, false).into_iter().chain(fields(right, false)).collect();
    Ok(DFSchema::new_with_metadata(all, std::collections::HashMap::new())?)
}

fn output_schema(left: &Piece, right: &Piece, kind: JoinType) -> Result<Arc<DFSchema>> {
    let all: Fields = match kind {
        JoinType::LeftSemi | JoinType::LeftAnti => fields(left, false),
        JoinType::RightSemi | JoinType::RightAnti => fields(right, false),
        _ => {
            let left = fields(left, matches!(kind, JoinType::Right | JoinType::Full));
            let right = fields(right, matches!(kind, JoinType::Left | JoinType::Full));
            left.into_iter().chain(right).collect()
        }
    };
    let schema = DFSchema::new_with_metadata(all, std::collections::HashMap::new());
    schema.map(Arc::new).map_err(|error| {
        Error::from(error)
            .with_hint("Give the two inputs different aliases, and columns that are computed different names.")
    })
}

/// Output columns that are event time. A row of one side is emitted at the latest when the other side is complete.
fn times(left: &Piece, right: &Piece, spec: &JoinSpec) -> Vec<Option<Lag>> {
    let width = spec.output.fields().len() - usize::from(spec.output_retract);
    let Some(bounds) = spec.bounds else { return vec![None; width] };
    let (left_lag, right_lag) = (bounds.left.lag, bounds.right.lag);
    let wait_left = right_lag.saturating_add(bounds.upper).max(left_lag).saturating_sub(left_lag);
    let wait_right = left_lag.saturating_sub(bounds.lower).max(right_lag).saturating_sub(right_lag);
    // Times on both sides of an equality stand still together; of the others only the bounded one is known to.
    let side = |piece: &Piece, keys: &[usize], time: TimeColumn, wait: Lag| -> Vec<Option<Lag>> {
        let known = |column: usize| column == time.column || (keys.contains(&column) && wait == Lag::ZERO);
        let lags = piece.rows.times.iter().enumerate();
        lags.map(|(column, lag)| lag.filter(|_| known(column)).map(|lag| lag.saturating_add(wait))).collect()
    };
    let left = side(left, &spec.left_keys, bounds.left, wait_left);
    let right = side(right, &spec.right_keys, bounds.right, wait_right);
    // Outer rows have nulls in place of the other side's times, which is no time at all.
    let none = |side: Vec<Option<Lag>>| vec![None; side.len()];
    match spec.join_type {
        JoinType::Inner => left.into_iter().chain(right).collect(),
        JoinType::Left => left.into_iter().chain(none(right)).collect(),
        JoinType::Right => none(left).into_iter().chain(right).collect(),
        JoinType::LeftSemi | JoinType::LeftAnti => left,
        JoinType::RightSemi | JoinType::RightAnti => right,
        _ => none(left).into_iter().chain(none(right)).collect(),
    }
}

/// The time bounds that the condition implies: from equal times among the keys, or from comparisons.
fn bounds(
    left: &Piece,
    right: &Piece,
    left_keys: &[usize],
    right_keys: &[usize],
    conditions: &[Expr],
) -> Option<TimeBounds> {
    let time = |piece: &Piece, column: usize| piece.rows.times[column].map(|lag| TimeColumn { column, lag });
    for (l, r) in left_keys.iter().zip(right_keys) {
        if let (Some(left), Some(right)) = (time(left, *l), time(right, *r)) {
            return Some(TimeBounds { left, right, lower: Lag::ZERO, upper: Lag::ZERO });
        }
    }
    let mut found: Vec<(TimeColumn, TimeColumn, Option<Lag>, Option<Lag>)> = Vec::new();
    for condition in conditions.iter().flat_map(comparisons) {
        let Some((l, r, lower, upper)) = difference(left, right, &condition) else { continue };
        let (Some(lt), Some(rt)) = (time(left, l), time(right, r)) else { continue };
        match found.iter_mut().find(|(a, b, ..)| *a == lt && *b == rt) {
            Some((_, _, low, high)) => {
                *low = lower.map_or(*low, |new| Some(low.map_or(new, |old| old.max(new))));
                *high = upper.map_or(*high, |new| Some(high.map_or(new, |old| old.min(new))));
            }
            None => found.push((lt, rt, lower, upper)),
        }
    }
    found
        .into_iter()
        .find_map(|(left, right, lower, upper)| Some(TimeBounds { left, right, lower: lower?, upper: upper? }))
}

/// BETWEEN as two comparisons.
fn comparisons(condition: &Expr) -> Vec<BinaryExpr> {
    match condition {
        Expr::BinaryExpr(binary) => vec![binary.clone()],
        Expr::Between(between) if !between.negated => vec![
            BinaryExpr::new(between.expr.clone(), Operator::GtEq, between.low.clone()),
            BinaryExpr::new(between.expr.clone(), Operator::LtEq, between.high.clone()),
        ],
        _ => Vec::new(),
    }
}

/// Meaning of a comparison for `right - left`: the columns, and a lower or upper bound.
fn difference(left: &Piece, right: &Piece, binary: &BinaryExpr) -> Option<(usize, usize, Option<Lag>, Option<Lag>)> {
    let (a, a_shift) = shifted_column(&binary.left)?;
    let (b, b_shift) = shifted_column(&binary.right)?;
    // a + a_shift <op> b + b_shift
    let (l, r, op, shift) = match (position(left, &a), position(right, &b)) {
        (Some(l), Some(r)) => (l, r, binary.op, a_shift.saturating_sub(b_shift)),
        _ => (position(left, &b)?, position(right, &a)?, binary.op.swap()?, b_shift.saturating_sub(a_shift)),
    };
    // left <op> right - shift  =>  right - left <swapped op> shift
    match op {
        Operator::LtEq | Operator::Lt => Some((l, r, Some(shift), None)),
        Operator::GtEq | Operator::Gt => Some((l, r, None, Some(shift))),
        Operator::Eq => Some((l, r, Some(shift), Some(shift))),
        _ => None,
    }
}

//! From candidates to matches: compares keys, evaluates the filter, builds the output, in whole batches of pairs.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::compute::{prep_null_mask_filter, take, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use super::chains::{Cursor, Want};
use super::consolidate::equal;
use super::intake::{only, pick};
use super::segments::refused;
use super::side::Side;
use crate::error::{Context, Error, Result};
use crate::operator::PART_BYTES;
use crate::operator::spec::JoinSpec;

/// Number of pairs that are checked at a time; few in tests, so that searches resume often.
pub(super) const PAIRS: usize = if cfg!(test) { 12 } else { 16_384 };

/// The pairs that a step returns at once.
pub(super) struct Part {
    /// By the port of the arriving rows.
    pub(super) pairs: [Vec<RecordBatch>; 2],
    bytes: usize,
    bounded: bool,
}

impl Part {
    /// No pairs; a `bounded` part becomes full.
    pub(super) fn new(bounded: bool) -> Self {
        Self { pairs: Default::default(), bytes: 0, bounded }
    }

    pub(super) fn push(&mut self, port: usize, rows: RecordBatch) {
        self.bytes += rows.get_array_memory_size();
        self.pairs[port].push(rows);
    }

    pub(super) fn is_full(&self) -> bool {
        self.bounded && self.bytes >= PART_BYTES
    }

    pub(super) fn rows(self) -> Vec<RecordBatch> {
        self.pairs.into_iter().flatten().collect()
    }
}

/// Treatment of one side's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// They are emitted in pairs only.
    Plain,
    /// Unmatched rows are emitted too, with nulls.
    Outer,
    /// Matched rows are emitted, by themselves.
    Semi,
    /// Unmatched rows are emitted, by themselves.
    Anti,
}

impl Role {
    /// Number of times that a row with this weight and these matches is emitted by itself.
    pub(super) fn alone(self, weight: i64, matches: i64) -> i64 {
        let comes = match self {
            Self::Plain => false,
            Self::Outer | Self::Anti => matches <= 0,
            Self::Semi => matches > 0,
        };
        if comes { weight } else { 0 }
    }

    /// `true` if it matters whether a row has matches.
    pub(super) fn counts(self) -> bool {
        self != Self::Plain
    }

    /// `true` if rows that can never match are emitted.
    pub(super) fn keeps_lonely(self) -> bool {
        matches!(self, Self::Outer | Self::Anti)
    }
}

/// The roles of left and right.
pub(super) fn roles(join_type: JoinType) -> Result<[Role; 2]> {
    use Role::{Anti, Outer, Plain, Semi};
    match join_type {
        JoinType::Inner => Ok([Plain, Plain]),
        JoinType::Left => Ok([Outer, Plain]),
        JoinType::Right => Ok([Plain, Outer]),
        JoinType::Full => Ok([Outer, Outer]),
        JoinType::LeftSemi => Ok([Semi, Plain]),
        JoinType::RightSemi => Ok([Plain, Semi]),
        JoinType::LeftAnti => Ok([Anti, Plain]),
        JoinType::RightAnti => Ok([Plain, Anti]),
        other => Err(Error::internal(format!("{other} joins cannot be run on streams"))),
    }
}

struct Filter {
    expression: Arc<dyn PhysicalExpr>,
    /// The columns of left and right that it reads, in this order.
    reads: [Vec<usize>; 2],
    schema: SchemaRef,
}

/// Checks pairs and builds output rows.
pub(super) struct Matcher {
    keys: [Vec<usize>; 2],
    null_equals_null: bool,
    filter: Option<Filter>,
    /// The columns of left and right that decide if a pair matches, and the other columns that the output needs.
    deciding: [Vec<usize>; 2],
    others: [Vec<usize>; 2],
    widths: [usize; 2],
    pairs_come_out: bool,
    weighted: bool,
    output: SchemaRef,
}

/// Rows of a probing batch and slots of the other side that match, with their columns.
pub(super) struct Pairs {
    pub(super) rows: Vec<u32>,
    pub(super) slots: Vec<u32>,
    /// Columns of left and right; those that are not needed are `None`.
    columns: [Vec<Option<ArrayRef>>; 2],
}

impl Matcher {
    /// `rows` are the inputs' columns without weights. Errors: keys whose types differ.
    pub(super) fn new(spec: JoinSpec, rows: [&SchemaRef; 2]) -> Result<Self> {
        let keys = [spec.left_keys, spec.right_keys];
        let kind = |side: usize, key: usize| rows[side].field(key).data_type();
        if keys[0].len() != keys[1].len() || keys[0].iter().zip(&keys[1]).any(|(&l, &r)| kind(0, l) != kind(1, r)) {
            return Err(Error::internal("keys of a join differ in number or type"));
        }
        let filter = spec.filter.as_ref().map(|filter| Filter::new(filter, rows)).transpose()?;
        let pairs_come_out = roles(spec.join_type)?.iter().all(|role| !matches!(role, Role::Semi | Role::Anti));
        let columns = |side: usize, decide: bool| -> Vec<usize> {
            let filtered = filter.as_ref().map_or(&[][..], |filter| &filter.reads[side]);
            let all = 0..rows[side].fields().len();
            all.filter(|c| decide == (keys[side].contains(c) || filtered.contains(c))).collect()
        };
        let deciding = [columns(0, true), columns(1, true)];
        let others = if pairs_come_out { [columns(0, false), columns(1, false)] } else { Default::default() };
        Ok(Self {
            keys,
            null_equals_null: spec.null_equals_null,
            filter,
            deciding,
            others,
            widths: [rows[0].fields().len(), rows[1].fields().len()],
            pairs_come_out,
            weighted: spec.output_retract,
            output: spec.output,
        })
    }

    /// `true` if pairs are emitted, `false` for semi and anti joins.
    pub(super) fn pairs_come_out(&self) -> bool {
        self.pairs_come_out
    }

    /// The candidates that match. `probing` is the side that `probe` belongs to, `stored` the other one.
    pub(super) fn check(
        &self,
        probing: usize,
        probe: &RecordBatch,
        stored: &Side,
        (rows, slots): (Vec<u32>, Vec<u32>),
    ) -> Result<Pairs> {
        let columns = [vec![None; self.widths[0]], vec![None; self.widths[1]]];
        let mut pairs = Pairs { rows, slots, columns };
        pairs.fetch(&self.deciding, probing, probe, stored)?;
        for (&left, &right) in self.keys[0].iter().zip(&self.keys[1]) {
            let equal = equal(pairs.column(0, left)?, pairs.column(1, right)?, self.null_equals_null)?;
            pairs.keep(&equal)?;
        }
        if let Some(filter) = self.filter.as_ref().filter(|_| !pairs.rows.is_empty()) {
            let passed = filter.evaluate(&pairs)?;
            pairs.keep(&passed)?;
        }
        pairs.fetch(&self.others, probing, probe, stored)?;
        Ok(pairs)
    }

    /// `true` if any match suffices, and equal keys are a match.
    pub(super) fn keys_decide(&self) -> bool {
        self.filter.is_none() && !self.pairs_come_out
    }

    /// A flag per row: `true` if it has a match. Only if [`Matcher::keys_decide`]; a key that many rows share costs no more
    /// than another.
    pub(super) fn any(
        &self,
        probing: usize,
        probe: &RecordBatch,
        hashes: &[u64],
        range: impl Fn(usize) -> (i64, i64),
        stored: &Side,
    ) -> Result<Vec<bool>> {
        let mut met = vec![false; hashes.len()];
        let mut unsure = Vec::new();
        let mut cursor = Cursor::default();
        loop {
            let (mut rows, mut slots) = (Vec::new(), Vec::new());
            let more = stored.search(Want::One, hashes, &range, &mut cursor, PAIRS, (&mut rows, &mut slots));
            let pairs = self.check(probing, probe, stored, (rows.clone(), slots))?;
            pairs.rows.iter().for_each(|&row| met[row as usize] = true);
            unsure.extend(rows.into_iter().filter(|&row| !met[row as usize]));
            if !more {
                break;
            }
        }
        if unsure.is_empty() {
            return Ok(met);
        }
        // Their one candidate had another key.
        let probe = take_record_batch(probe, &UInt32Array::from(unsure.clone())).internal(refused)?;
        let hashes: Vec<u64> = unsure.iter().map(|&row| hashes[row as usize]).collect();
        let mut cursor = Cursor::default();
        loop {
            let (mut rows, mut slots) = (Vec::new(), Vec::new());
            let range = |row: usize| range(unsure[row] as usize);
            let more = stored.search(Want::All, &hashes, range, &mut cursor, PAIRS, (&mut rows, &mut slots));
            let pairs = self.check(probing, &probe, stored, (rows, slots))?;
            pairs.rows.iter().for_each(|&row| met[unsure[row as usize] as usize] = true);
            if !more {
                return Ok(met);
            }
        }
    }

    /// The pairs as output rows.
    pub(super) fn output(&self, pairs: Pairs, weights: Option<Vec<i64>>) -> Result<RecordBatch> {
        let count = pairs.rows.len();
        let columns = pairs.columns.into_iter().flatten();
        let columns = columns.map(|column| column.ok_or_else(missing)).collect::<Result<_>>()?;
        self.batch(columns, count, weights)
    }

    /// Unmatched or semi rows of one side as output rows, with nulls for the other side where pairs are emitted.
    pub(super) fn alone(
        &self,
        side: usize,
        own: Vec<ArrayRef>,
        count: usize,
        weights: Option<Vec<i64>>,
    ) -> Result<RecordBatch> {
        let mut columns = own;
        if self.pairs_come_out {
            let others = if side == 0 { self.widths[0]..self.widths[0] + self.widths[1] } else { 0..self.widths[0] };
            let nulls = others.map(|column| new_null_array(self.output.field(column).data_type(), count));
            if side == 0 {
                columns.extend(nulls);
            } else {
                columns.splice(0..0, nulls);
            }
        }
        self.batch(columns, count, weights)
    }

    fn batch(&self, mut columns: Vec<ArrayRef>, count: usize, weights: Option<Vec<i64>>) -> Result<RecordBatch> {
        if self.weighted {
            columns.push(Arc::new(Int64Array::from(weights.unwrap_or_else(|| vec![1; count]))));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options).internal(refused)
    }
}

impl Pairs {
    /// Copies columns of left and right.
    fn fetch(&mut self, columns: &[Vec<usize>; 2], probing: usize, probe: &RecordBatch, stored: &Side) -> Result<()> {
        let numbers = UInt32Array::from(self.rows.clone());
        for &column in &columns[probing] {
            self.columns[probing][column] = Some(take(probe.column(column), &numbers, None).internal(refused)?);
        }
        let asked = &columns[1 - probing];
        for (&column, array) in asked.iter().zip(stored.gather(asked, &self.slots)?) {
            self.columns[1 - probing][column] = Some(array);
        }
        Ok(())
    }

    fn column(&self, side: usize, column: usize) -> Result<&ArrayRef> {
        self.columns[side][column].as_ref().ok_or_else(missing)
    }

    /// Keeps the selected pairs; `wanted` has no nulls.
    pub(super) fn keep(&mut self, wanted: &BooleanArray) -> Result<()> {
        if wanted.true_count() == wanted.len() {
            return Ok(());
        }
        self.rows = pick(&self.rows, wanted.values());
        self.slots = pick(&self.slots, wanted.values());
        for column in self.columns.iter_mut().flatten().flatten() {
            *column = only(std::slice::from_ref(column), wanted)?.swap_remove(0);
        }
        Ok(())
    }
}

impl Filter {
    fn new(expression: &Arc<dyn PhysicalExpr>, rows: [&SchemaRef; 2]) -> Result<Self> {
        let left = rows[0].fields().len();
        let mut columns: Vec<usize> = collect_columns(expression).iter().map(Column::index).collect();
        columns.sort_unstable();
        columns.dedup();
        let all: Vec<_> = rows[0].fields().iter().chain(rows[1].fields()).cloned().collect();
        if columns.last().is_some_and(|&column| column >= all.len()) {
            return Err(Error::internal("filter of a join reads a column that its inputs do not have"));
        }
        let moved = Arc::clone(expression).transform(|node| {
            let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
            let place = columns.iter().position(|&c| c == column.index()).unwrap_or_default();
            let moved: Arc<dyn PhysicalExpr> = Arc::new(Column::new(column.name(), place));
            Ok(Transformed::yes(moved))
        })?;
        let fields: Vec<_> = columns.iter().map(|&column| Arc::clone(&all[column])).collect();
        let reads_left = columns.iter().copied().filter(|&column| column < left).collect();
        let reads_right = columns.iter().filter(|&&column| column >= left).map(|&column| column - left).collect();
        Ok(Self { expression: moved.data, reads: [reads_left, reads_right], schema: Arc::new(Schema::new(fields)) })
    }

    fn evaluate(&self, pairs: &Pairs) -> Result<BooleanArray> {
        let read = |side: usize| self.reads[side].iter().map(move |&column| pairs.column(side, column).cloned());
        let columns = read(0).chain(read(1)).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(pairs.rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).internal(refused)?;
        let passed = self.expression.evaluate(&batch)?.into_array(pairs.rows.len())?;
        let passed = passed.as_boolean_opt().ok_or_else(|| Error::internal("filter of a join is not BOOLEAN"))?;
        Ok(if passed.null_count() > 0 { prep_null_mask_filter(passed) } else { passed.clone() })
    }
}

fn missing() -> Error {
    Error::internal("a column of a join's pairs was not read")
}

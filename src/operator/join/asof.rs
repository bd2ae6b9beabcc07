//! ASOF joins: each left row gets the newest right row of its key that is not later than it.
//!
//! Left rows wait until the right side is complete up to their time. Of the right side the rows are kept, per key, that a
//! left row may still need: those from the oldest unanswered time on, and the newest one before it.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::chains::NONE;
use super::intake::{Intake, IntakeOptions, Taken, only, pick};
use super::layout::Facts;
use super::segments::refused;
use super::side::{Arriving, Side, SideOptions, usage};
use super::versions::{Version, Versions};
use crate::error::{Context, Error, Result};
use crate::operator::spec::{AsofSpec, TimeColumn};
use crate::operator::{Operator, StateUsage, Stepped, Tick};
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Watermark};

/// Number of left rows that are answered at a time.
const ANSWERS: usize = 16_384;

/// The ASOF join of one shard.
pub(super) struct AsofJoin {
    left_time: TimeColumn,
    right_time: TimeColumn,
    left_keys: Vec<usize>,
    right_keys: Vec<usize>,
    or_equal: bool,
    outer: bool,
    output: SchemaRef,
    intakes: [Intake; 2],
    sides: [Side; 2],
    versions: Versions,
}

impl AsofJoin {
    pub(super) fn new(spec: AsofSpec) -> Result<Self> {
        let intake = |schema, keys, time| {
            let time = Some(time);
            Intake::new(&IntakeOptions { schema, keys, null_equals_null: false, retract: false, time, timed: true })
        };
        let intakes = [
            intake(&spec.left, &spec.left_keys, spec.left_time)?,
            intake(&spec.right, &spec.right_keys, spec.right_time)?,
        ];
        let kinds = |schema: &SchemaRef, keys: &[usize]| -> Vec<_> {
            keys.iter().map(|&key| schema.field(key).data_type().clone()).collect()
        };
        if kinds(&spec.left, &spec.left_keys) != kinds(&spec.right, &spec.right_keys) {
            return Err(Error::internal("keys of an ASOF join differ in number or type"));
        }
        let side = |number: usize, keys: &[usize], time: Option<usize>, name| {
            Side::new(SideOptions {
                row: Arc::clone(intakes[number].row()),
                keys: keys.to_vec(),
                time,
                facts: Facts::default(),
                span: Some(spec.left_time.lag.max(spec.right_time.lag)),
                // A right row is deleted when a newer one replaces it.
                append_only: number == 0,
                by_row: false,
                name,
            })
        };
        let sides =
            [side(0, &spec.left_keys, Some(spec.left_time.column), "left"), side(1, &spec.right_keys, None, "right")];
        Ok(Self {
            left_time: spec.left_time,
            right_time: spec.right_time,
            left_keys: spec.left_keys,
            right_keys: spec.right_keys,
            or_equal: spec.or_equal,
            outer: spec.outer,
            output: spec.output,
            intakes,
            sides,
            versions: Versions::default(),
        })
    }

    fn remember(&mut self, port: usize, taken: Taken) -> Result<()> {
        let (rows, times) = (taken.rows.rows, taken.rows.times);
        let keys: Vec<ArrayRef> =
            self.right_keys.iter().filter(|_| port == 1).map(|&k| rows.column(k).clone()).collect();
        let (weights, matches) = (Vec::new(), Vec::new());
        let arriving = Arriving { rows, hashes: &taken.hashes, times: &times, weights, matches };
        let first = self.sides[port].insert(arriving)?;
        if port == 1 {
            self.index(&keys, first, &times)?;
        }
        Ok(())
    }

    fn index(&mut self, keys: &[ArrayRef], first: u32, times: &[i64]) -> Result<()> {
        let versions: Vec<Version> =
            times.iter().zip(first..).map(|(&time, slot)| Version { time: EventTime(time), slot }).collect();
        for replaced in self.versions.add(keys, &versions)? {
            self.sides[1].kill(replaced);
        }
        Ok(())
    }

    /// Emits the left rows whose time is complete on the right.
    fn answer(&self, due: &[u32], out: &mut Vec<RecordBatch>) -> Result<()> {
        let [left, right] = &self.sides;
        for slots in due.chunks(ANSWERS) {
            let rows = left.rows(slots)?;
            let keys: Vec<ArrayRef> = self.left_keys.iter().map(|&key| Arc::clone(&rows[key])).collect();
            let times: Vec<i64> = slots.iter().map(|&slot| left.time(slot).0).collect();
            let found = self.versions.newest(&keys, &times, self.or_equal)?;
            let matched = BooleanArray::from_iter(found.iter().map(|&slot| Some(slot != NONE)));
            if matched.true_count() > 0 {
                let mut columns = only(&rows, &matched)?;
                columns.extend(right.rows(&pick(&found, matched.values()))?);
                out.push(RecordBatch::try_new(Arc::clone(&self.output), columns).internal(refused)?);
            }
            if self.outer && matched.true_count() < slots.len() {
                let unmatched = BooleanArray::new(!matched.values(), None);
                out.push(self.unmatched(only(&rows, &unmatched)?, unmatched.true_count())?);
            }
        }
        Ok(())
    }

    fn unmatched(&self, mut columns: Vec<ArrayRef>, count: usize) -> Result<RecordBatch> {
        let others = columns.len()..self.output.fields().len();
        columns.extend(others.map(|column| new_null_array(self.output.field(column).data_type(), count)));
        RecordBatch::try_new(Arc::clone(&self.output), columns).internal(refused)
    }

    /// Left rows with a time below this have been answered.
    fn left_cutoff(&self, watermark: Watermark) -> Watermark {
        self.right_time.bound(watermark)
    }
}

impl Operator for AsofJoin {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        let mut stepped = Stepped::default();
        for (port, batches) in inputs.into_iter().enumerate().take(2) {
            let Some(mut taken) = self.intakes[port].take(&batches, tick.before, tick.now)? else { continue };
            stepped.late.extend(taken.late.take().map(|late| (port, late)));
            if let Some(lonely) = taken.lonely.take().filter(|_| port == 0 && self.outer) {
                let (columns, count) = (lonely.rows.columns().to_vec(), lonely.rows.num_rows());
                stepped.rows.push(self.unmatched(columns, count)?);
            }
            self.remember(port, taken)?;
        }
        let cutoff = self.left_cutoff(tick.watermark);
        let due = self.sides[0].take_below(cutoff);
        self.answer(&due, &mut stepped.rows)?;
        self.sides[0].expire(&due, cutoff);
        self.sides[0].tidy()?;
        // The oldest time that a left row, waiting or future, may look up.
        let asked = cutoff.min(self.left_time.bound(tick.watermark));
        let old = self.sides[1].take_below(asked);
        for dropped in self.versions.prune(&old, asked) {
            self.sides[1].kill(dropped);
        }
        if let Some(renumbered) = self.sides[1].tidy()? {
            self.versions.renumber(&renumbered);
        }
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        self.sides.iter().map(Side::table).collect()
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        super::changes(&mut self.sides)
    }

    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        let cutoff = if table == 0 { self.left_cutoff(watermark) } else { Watermark::NONE };
        let first = super::restore(&mut self.sides, &self.intakes, table, &rows, cutoff)?;
        if table == 1 {
            let slots: Vec<u32> = (first..self.sides[1].slots() as u32).collect();
            let times: Vec<i64> = slots.iter().map(|&slot| self.sides[1].time(slot).0).collect();
            let keys = self.sides[1].gather(&self.right_keys, &slots)?;
            self.index(&keys, first, &times)?;
        }
        Ok(())
    }

    fn due(&self) -> Watermark {
        self.right_time.past(self.sides[0].oldest_unmatched())
    }

    fn usage(&self) -> StateUsage {
        let mut usage = usage(&self.sides);
        usage.bytes += self.versions.bytes() as u64;
        usage
    }
}

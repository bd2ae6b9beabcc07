//! Joins whose rows match only within time bounds: state holds the rows that can still match, and every output row is
//! emitted once.
//!
//! Pairs and semi rows are emitted at the first match, outer and anti rows when no future row can match them: a left row of
//! time l once all future rows on the right are later than l + upper, a right row of time r once those on the left are later
//! than r - lower. At the same instant the row expires.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;

use super::chains::{Cursor, Want};
use super::intake::{Intake, IntakeOptions, Rows, Taken, only, pick};
use super::layout::Facts;
use super::pairs::{Matcher, PAIRS, Part, Role, roles};
use super::segments::refused;
use super::side::{Arriving, Side, SideOptions, usage};
use crate::error::{Context, Error, Result};
use crate::operator::spec::{JoinSpec, TimeBounds};
use crate::operator::{Operator, StateUsage, Stepped, Tick};
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Lag, Watermark};

/// The interval join of one shard.
pub(super) struct IntervalJoin {
    bounds: TimeBounds,
    roles: [Role; 2],
    matcher: Matcher,
    intakes: [Intake; 2],
    sides: [Side; 2],
    /// The remaining work of an incomplete step.
    probing: VecDeque<Probing>,
    watermark: Watermark,
}

/// A port's rows, while they are joined with the rows stored on the other side.
struct Probing {
    port: usize,
    taken: Taken,
    cursor: Cursor,
    /// `true` for each row that has a match so far.
    met: Vec<bool>,
}

impl IntervalJoin {
    pub(super) fn new(spec: JoinSpec, bounds: TimeBounds) -> Result<Self> {
        if spec.left_retract || spec.right_retract || spec.output_retract {
            return Err(Error::internal("an interval join was planned over rows that are taken back"));
        }
        let roles = roles(spec.join_type)?;
        let intake = |schema, keys, time| {
            let null_equals_null = spec.null_equals_null;
            Intake::new(&IntakeOptions {
                schema,
                keys,
                null_equals_null,
                retract: false,
                time: Some(time),
                timed: true,
            })
        };
        let intakes =
            [intake(&spec.left, &spec.left_keys, bounds.left)?, intake(&spec.right, &spec.right_keys, bounds.right)?];
        let span = bounds.upper.saturating_sub(bounds.lower);
        let side = |number: usize, keys: &[usize], time: usize, name| {
            let counted = roles[number].counts();
            Side::new(SideOptions {
                row: Arc::clone(intakes[number].row()),
                keys: keys.to_vec(),
                time: Some(time),
                facts: Facts { matches: counted, ..Facts::default() },
                span: Some(span),
                append_only: !counted,
                by_row: false,
                name,
            })
        };
        let sides = [
            side(0, &spec.left_keys, bounds.left.column, "left"),
            side(1, &spec.right_keys, bounds.right.column, "right"),
        ];
        let matcher = Matcher::new(spec, [intakes[0].row(), intakes[1].row()])?;
        let (probing, watermark) = (VecDeque::new(), Watermark::NONE);
        Ok(Self { bounds, roles, matcher, intakes, sides, probing, watermark })
    }

    /// Rows of a side with a time below this cannot match any future row.
    fn cutoff(&self, side: usize, watermark: Watermark) -> Watermark {
        watermark.behind(self.trailing(side))
    }

    /// The longest that the other side's rows may trail, in event time, the rows of `side` that they match.
    fn trailing(&self, side: usize) -> Lag {
        let TimeBounds { left, right, lower, upper } = self.bounds;
        if side == 0 { right.lag.saturating_add(upper) } else { left.lag.saturating_sub(lower) }
    }

    /// Stores a side's rows after they have been joined with the other side's.
    fn keep(&mut self, port: usize, taken: Taken, met: Vec<bool>, out: &mut Vec<RecordBatch>) -> Result<()> {
        let Rows { rows, times, .. } = taken.rows;
        let role = self.roles[port];
        if !matches!(role, Role::Semi | Role::Anti) {
            let matches = if role.counts() { met.iter().map(|&met| i64::from(met)).collect() } else { Vec::new() };
            let arriving = Arriving { rows, hashes: &taken.hashes, times: &times, weights: Vec::new(), matches };
            return self.sides[port].insert(arriving).map(|_| ());
        }
        let open = BooleanArray::from_iter(met.iter().map(|met| Some(!met)));
        let met = BooleanArray::from(met);
        if role == Role::Semi && met.true_count() > 0 {
            out.push(self.matcher.alone(port, only(rows.columns(), &met)?, met.true_count(), None)?);
        }
        let rows = filter_record_batch(&rows, &open).internal(refused)?;
        let hashes = pick(&taken.hashes, open.values());
        let times = pick(&times, open.values());
        let matches = vec![0; times.len()];
        let arriving = Arriving { rows, hashes: &hashes, times: &times, weights: Vec::new(), matches };
        self.sides[port].insert(arriving).map(|_| ())
    }

    /// Emits pairs and records which rows have a match. `false` if the part is full before all rows are done.
    fn probe(&mut self, probing: &mut Probing, part: &mut Part) -> Result<bool> {
        let Probing { port, taken, cursor, met } = probing;
        let (port, rows, times) = (*port, &taken.rows.rows, &taken.rows.times);
        let counted = self.roles[port].counts();
        if counted && met.is_empty() {
            met.resize(rows.num_rows(), false);
        }
        let TimeBounds { lower, upper, .. } = self.bounds;
        let (from, to) = if port == 0 { (lower, upper) } else { (upper.saturating_neg(), lower.saturating_neg()) };
        let within = |time: EventTime| (time.saturating_add(from).0, time.saturating_add(to).0);
        let range = |row: usize| within(EventTime(times[row]));
        if counted && self.matcher.keys_decide() {
            *met = self.matcher.any(port, rows, &taken.hashes, range, &self.sides[1 - port])?;
            return Ok(true);
        }
        loop {
            let (mut probing, mut slots) = (Vec::new(), Vec::new());
            let stored = &self.sides[1 - port];
            let more = stored.search(Want::All, &taken.hashes, range, cursor, PAIRS, (&mut probing, &mut slots));
            if !slots.is_empty() {
                let pairs = self.matcher.check(port, rows, stored, (probing, slots))?;
                if counted {
                    pairs.rows.iter().for_each(|&row| met[row as usize] = true);
                }
                self.mark(1 - port, &pairs.slots, &mut part.pairs[port])?;
                if self.matcher.pairs_come_out() && !pairs.rows.is_empty() {
                    part.push(port, self.matcher.output(pairs, None)?);
                }
            }
            if !more || part.is_full() {
                return Ok(!more);
            }
        }
    }

    /// Records that stored rows have found a match.
    fn mark(&mut self, stored: usize, slots: &[u32], out: &mut Vec<RecordBatch>) -> Result<()> {
        let role = self.roles[stored];
        if !role.counts() {
            return Ok(());
        }
        let side = &mut self.sides[stored];
        let mut first = Vec::new();
        for &slot in slots {
            if side.matches(slot) == 0 {
                side.add_matches(slot, 1);
                first.push(slot);
            }
        }
        if role == Role::Semi && !first.is_empty() {
            out.push(self.matcher.alone(stored, side.rows(&first)?, first.len(), None)?);
        }
        if matches!(role, Role::Semi | Role::Anti) {
            first.iter().for_each(|&slot| side.kill(slot));
        }
        Ok(())
    }

    /// Expires rows below the cutoff, and emits those that found no match.
    fn expire(&mut self, side: usize, watermark: Watermark, out: &mut Vec<RecordBatch>) -> Result<()> {
        let cutoff = self.cutoff(side, watermark);
        let over = self.sides[side].take_below(cutoff);
        if self.roles[side].keeps_lonely() {
            let remembered = &self.sides[side];
            let unmatched: Vec<u32> = over.iter().copied().filter(|&slot| remembered.matches(slot) == 0).collect();
            for slots in unmatched.chunks(PAIRS) {
                out.push(self.matcher.alone(side, remembered.rows(slots)?, slots.len(), None)?);
            }
        }
        self.sides[side].expire(&over, cutoff);
        self.sides[side].tidy().map(|_| ())
    }
}

impl Operator for IntervalJoin {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        self.watermark = tick.watermark;
        let mut stepped = Stepped::default();
        for (port, batches) in inputs.into_iter().enumerate().take(2) {
            let Some(mut taken) = self.intakes[port].take(&batches, tick.before, tick.now)? else { continue };
            stepped.late.extend(taken.late.take().map(|late| (port, late)));
            if let Some(lonely) = taken.lonely.take().filter(|_| self.roles[port].keeps_lonely()) {
                let rows = lonely.rows;
                stepped.rows.push(self.matcher.alone(port, rows.columns().to_vec(), rows.num_rows(), None)?);
            }
            self.probing.push_back(Probing { port, taken, cursor: Cursor::default(), met: Vec::new() });
        }
        let part = self.resume()?;
        stepped.rows.extend(part.rows);
        stepped.more = part.more;
        Ok(stepped)
    }

    fn resume(&mut self) -> Result<Stepped> {
        let mut part = Part::new(true);
        while let Some(mut probing) = self.probing.pop_front() {
            if !self.probe(&mut probing, &mut part)? {
                self.probing.push_front(probing);
                return Ok(Stepped { rows: part.rows(), more: true, ..Stepped::default() });
            }
            let Probing { port, taken, met, .. } = probing;
            self.keep(port, taken, met, &mut part.pairs[port])?;
        }
        let mut rows = part.rows();
        for side in 0..2 {
            self.expire(side, self.watermark, &mut rows)?;
        }
        Ok(Stepped { rows, ..Stepped::default() })
    }

    fn state(&self) -> Vec<StateTable> {
        self.sides.iter().map(Side::table).collect()
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        super::changes(&mut self.sides)
    }

    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        let cutoff = self.cutoff(table, watermark);
        super::restore(&mut self.sides, &self.intakes, table, &rows, cutoff).map(|_| ())
    }

    fn due(&self) -> Watermark {
        let due = |side: usize| {
            let lonely = self.sides[side].oldest_unmatched().filter(|_| self.roles[side].keeps_lonely());
            // The first watermark whose cutoff is above that time.
            lonely.map_or(Watermark::END, |time| time.due(self.trailing(side)))
        };
        due(0).min(due(1))
    }

    fn usage(&self) -> StateUsage {
        usage(&self.sides)
    }
}

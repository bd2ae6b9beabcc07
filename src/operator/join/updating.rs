//! Joins without time bounds: both sides stay in state (unless a TTL is set), and output is retracted when it no longer
//! holds.
//!
//! A row counts as often as its weight says, a pair as often as the product of its weights. For a row that is emitted by
//! itself (outer, semi, anti) its matches decide, the sum of the weights of its partners: its part of the output before and
//! after the step is compared, and the difference is emitted.
//!
//! With a TTL the output reflects the rows in state when a row arrived: output of an expired row is not retracted, and
//! retracting an expired row later leaves nothing in state.

use arrow::array::BooleanArray;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::record_batch::RecordBatch;
use std::collections::VecDeque;
use std::sync::Arc;

use super::chains::{Cursor, NONE, Want};
use super::consolidate::consolidate_output;
use super::intake::{Intake, IntakeOptions, Taken, pick};
use super::layout::Facts;
use super::pairs::{Matcher, PAIRS, Part, Role, roles};
use super::segments::refused;
use super::side::{Arriving, Side, SideOptions, usage};
use crate::error::{Context, Result};
use crate::operator::spec::{JoinSpec, TimeColumn};
use crate::operator::{Operator, StateUsage, Stepped, Tick};
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Lag, Watermark};

/// The updating join of one shard.
pub(super) struct UpdatingJoin {
    roles: [Role; 2],
    retract: [bool; 2],
    output_retract: bool,
    ttl: Option<Lag>,
    times: [Option<TimeColumn>; 2],
    matcher: Matcher,
    intakes: [Intake; 2],
    sides: [Side; 2],
    /// The remaining work of an incomplete step.
    probing: VecDeque<Probing>,
    /// Output rows of this step for rows that can never match.
    unmatched: Vec<RecordBatch>,
    tick: Tick,
}

/// A port's rows, while they are joined with the rows stored on the other side.
struct Probing {
    port: usize,
    taken: Taken,
    cursor: Cursor,
    /// The sum of the weights of each row's matches so far.
    matches: Vec<i64>,
}

impl UpdatingJoin {
    pub(super) fn new(spec: JoinSpec) -> Result<Self> {
        let roles = roles(spec.join_type)?;
        let retract = [spec.left_retract, spec.right_retract];
        let ends = [(&spec.left, &spec.left_keys, spec.left_time), (&spec.right, &spec.right_keys, spec.right_time)];
        let times = ends.map(|(_, _, time)| time.filter(|_| spec.ttl.is_some()));
        let intake = |side: usize| {
            let (schema, keys, _) = ends[side];
            let (null_equals_null, retract, time) = (spec.null_equals_null, retract[side], times[side]);
            Intake::new(&IntakeOptions { schema, keys, null_equals_null, retract, time, timed: false })
        };
        let intakes = [intake(0)?, intake(1)?];
        let side = |number: usize, name| {
            let clock = spec.ttl.is_some() && times[number].is_none();
            let facts = Facts { weight: retract[number], matches: roles[number].counts(), clock };
            Side::new(SideOptions {
                row: Arc::clone(intakes[number].row()),
                keys: ends[number].1.clone(),
                time: times[number].map(|time| time.column),
                facts,
                span: spec.ttl,
                append_only: !facts.weight && !facts.matches,
                by_row: retract[number],
                name,
            })
        };
        let sides = [side(0, "left"), side(1, "right")];
        let (ttl, output_retract) = (spec.ttl, spec.output_retract);
        let matcher = Matcher::new(spec, [intakes[0].row(), intakes[1].row()])?;
        let tick = Tick { before: Watermark::NONE, watermark: Watermark::NONE, now: EventTime(0) };
        let (probing, unmatched) = (VecDeque::new(), Vec::new());
        Ok(Self { roles, retract, output_retract, ttl, times, matcher, intakes, sides, probing, unmatched, tick })
    }

    /// Joins a side's rows with the other side's, then stores them. `false` if the part is full before that.
    fn meet(&mut self, probing: &mut Probing, part: &mut Part) -> Result<bool> {
        if !self.probe(probing, part)? {
            return Ok(false);
        }
        let Probing { port, taken, matches, .. } = probing;
        self.keep(*port, taken, std::mem::take(matches))?;
        Ok(true)
    }

    fn keep(&mut self, port: usize, taken: &Taken, matches: Vec<i64>) -> Result<()> {
        let rows = &taken.rows;
        if !self.retract[port] {
            let arriving = Arriving {
                rows: rows.rows.clone(),
                hashes: &taken.hashes,
                times: &rows.times,
                weights: Vec::new(),
                matches,
            };
            return self.remember(port, arriving);
        }
        let side = &mut self.sides[port];
        let found = side.find(&rows.rows)?;
        for (&slot, &weight) in found.iter().zip(&rows.weights).filter(|(slot, _)| **slot != NONE) {
            side.touch(slot);
            side.add_weight(slot, weight);
        }
        let new = BooleanArray::from_iter(found.iter().map(|&slot| Some(slot == NONE)));
        let arriving = Arriving {
            rows: filter_record_batch(&rows.rows, &new).internal(refused)?,
            hashes: &pick(&taken.hashes, new.values()),
            times: &pick(&rows.times, new.values()),
            weights: pick(&rows.weights, new.values()),
            matches: pick(&matches, new.values()),
        };
        self.remember(port, arriving)
    }

    /// `true` if matches of a side's rows are never retracted.
    fn matches_only_come(&self, side: usize) -> bool {
        !self.retract[1 - side]
    }

    /// `true` if a row that has a match can be deleted.
    fn done_when_matched(&self, side: usize) -> bool {
        matches!(self.roles[side], Role::Semi | Role::Anti) && self.retract == [false, false]
    }

    fn remember(&mut self, port: usize, arriving: Arriving<'_>) -> Result<()> {
        let (count, done) = (arriving.rows.num_rows(), self.done_when_matched(port));
        let side = &mut self.sides[port];
        let first = side.insert(arriving)?;
        if self.retract[port] || self.roles[port].counts() {
            for slot in (first..).take(count) {
                side.touch_new(slot);
                if done && side.matches(slot) > 0 {
                    side.kill(slot);
                }
            }
        }
        Ok(())
    }

    /// Emits pairs and sums the weights of each row's matches. `false` if the part is full before all rows are done.
    fn probe(&mut self, probing: &mut Probing, part: &mut Part) -> Result<bool> {
        let Probing { port, taken, cursor, matches } = probing;
        let (port, rows) = (*port, &taken.rows);
        let (counted, once) = (self.roles[1 - port].counts(), self.matches_only_come(1 - port));
        let done = self.done_when_matched(1 - port);
        if self.roles[port].counts() && matches.is_empty() {
            matches.resize(rows.times.len(), 0);
        }
        let weight = |row: u32| rows.weights.get(row as usize).copied().unwrap_or(1);
        let all = |_| (i64::MIN, i64::MAX);
        if self.roles[port].counts() && self.matches_only_come(port) && self.matcher.keys_decide() {
            let met = self.matcher.any(port, &rows.rows, &taken.hashes, all, &self.sides[1 - port])?;
            *matches = met.into_iter().map(i64::from).collect();
            return Ok(true);
        }
        loop {
            let (mut probing, mut slots) = (Vec::new(), Vec::new());
            let stored = &mut self.sides[1 - port];
            let more = stored.search(Want::All, &taken.hashes, all, cursor, PAIRS, (&mut probing, &mut slots));
            if !slots.is_empty() {
                let mut pairs = self.matcher.check(port, &rows.rows, stored, (probing, slots))?;
                for (&row, &slot) in pairs.rows.iter().zip(&pairs.slots) {
                    if self.roles[port].counts() {
                        matches[row as usize] += stored.weight(slot);
                    }
                    // If matches are never retracted, only the first one matters.
                    if counted && !(once && stored.matches(slot) > 0) {
                        stored.touch(slot);
                        stored.add_matches(slot, weight(row));
                        if done {
                            stored.kill(slot);
                        }
                    }
                }
                if self.matcher.pairs_come_out() {
                    let mut weights = None;
                    if self.output_retract {
                        let products = pairs.rows.iter().zip(&pairs.slots).map(|(&r, &s)| weight(r) * stored.weight(s));
                        let products: Vec<i64> = products.collect();
                        pairs.keep(&BooleanArray::from_iter(products.iter().map(|&weight| Some(weight != 0))))?;
                        weights = Some(products.into_iter().filter(|&weight| weight != 0).collect());
                    }
                    if !pairs.rows.is_empty() {
                        part.push(port, self.matcher.output(pairs, weights)?);
                    }
                }
            }
            if !more || part.is_full() {
                return Ok(!more);
            }
        }
    }

    /// Emits the changes of rows that are emitted by themselves, and deletes rows of weight 0.
    fn settle(&mut self, number: usize, out: &mut Vec<RecordBatch>) -> Result<()> {
        let role = self.roles[number];
        let side = &mut self.sides[number];
        let (mut slots, mut weights) = (Vec::new(), Vec::new());
        let touched = side.take_touched();
        for row in &touched {
            let now = role.alone(side.weight(row.slot), side.matches(row.slot));
            let before = role.alone(row.weight, row.matches);
            if now != before {
                slots.push(row.slot);
                weights.push(now - before);
            }
        }
        for (slots, weights) in slots.chunks(PAIRS).zip(weights.chunks(PAIRS)) {
            out.push(self.matcher.alone(number, side.rows(slots)?, slots.len(), Some(weights.to_vec()))?);
        }
        for row in touched {
            let weight = side.weight(row.slot);
            // Below zero: the row that it retracts had expired by its TTL.
            if weight == 0 || (weight < 0 && self.ttl.is_some()) {
                side.kill(row.slot);
            }
        }
        Ok(())
    }

    /// Rows with a time below this expire.
    fn cutoff(&self, side: usize, watermark: Watermark, now: EventTime) -> Watermark {
        let clock = TimeColumn::clock(self.times[side], watermark, now);
        self.ttl.map_or(Watermark::NONE, |ttl| clock.behind(ttl))
    }

    /// Cancels pairs that one half of the step emitted and the other retracted.
    fn consolidated(&self, pairs: [Vec<RecordBatch>; 2]) -> Result<Vec<RecordBatch>> {
        let [mut first, second] = pairs;
        let separate = first.is_empty() || second.is_empty() || !(self.retract[0] || self.retract[1]);
        first.extend(second);
        if separate || !self.output_retract {
            return Ok(first);
        }
        let Some(schema) = first.first().map(RecordBatch::schema) else { return Ok(first) };
        let all = concat_batches(&schema, &first).internal(refused)?;
        Ok(vec![consolidate_output(&all)?])
    }
}

impl Operator for UpdatingJoin {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        self.tick = tick;
        for (port, batches) in inputs.into_iter().enumerate().take(2) {
            let Some(mut taken) = self.intakes[port].take(&batches, tick.before, tick.now)? else { continue };
            if let Some(lonely) = taken.lonely.take().filter(|_| self.roles[port].keeps_lonely()) {
                let (columns, count) = (lonely.rows.columns().to_vec(), lonely.rows.num_rows());
                let weights = Some(lonely.weights).filter(|weights| !weights.is_empty());
                self.unmatched.push(self.matcher.alone(port, columns, count, weights)?);
            }
            self.probing.push_back(Probing { port, taken, cursor: Cursor::default(), matches: Vec::new() });
        }
        self.resume()
    }

    fn resume(&mut self) -> Result<Stepped> {
        // If an input retracts, all pairs of a step are consolidated together.
        let mut part = Part::new(self.retract == [false, false]);
        while let Some(mut probing) = self.probing.pop_front() {
            if !self.meet(&mut probing, &mut part)? {
                self.probing.push_front(probing);
                return Ok(Stepped { rows: part.rows(), more: true, ..Stepped::default() });
            }
        }
        let mut rows = self.consolidated(part.pairs)?;
        rows.append(&mut self.unmatched);
        for side in 0..2 {
            self.settle(side, &mut rows)?;
            let cutoff = self.cutoff(side, self.tick.watermark, self.tick.now);
            let over = self.sides[side].take_below(cutoff);
            self.sides[side].expire(&over, cutoff);
            self.sides[side].tidy()?;
        }
        rows.retain(|batch| batch.num_rows() > 0);
        Ok(Stepped { rows, ..Stepped::default() })
    }

    fn state(&self) -> Vec<StateTable> {
        self.sides.iter().map(Side::table).collect()
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        super::changes(&mut self.sides)
    }

    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        let by_event_time = self.times.get(table).is_some_and(Option::is_some);
        let cutoff = if by_event_time { self.cutoff(table, watermark, EventTime(0)) } else { Watermark::NONE };
        super::restore(&mut self.sides, &self.intakes, table, &rows, cutoff).map(|_| ())
    }

    fn due(&self) -> Watermark {
        // Expiry by TTL emits nothing.
        Watermark::END
    }

    fn usage(&self) -> StateUsage {
        usage(&self.sides)
    }
}

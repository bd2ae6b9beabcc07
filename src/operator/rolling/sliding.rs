//! Aggregates over bags of values that follow their frames: a row costs as much as the rows that enter and leave its frame,
//! not as all rows in it.
//!
//! Every key with long frames has a [`Window`]: the values of its rows in order, and the bag of those in the last evaluated
//! frame, from which the key's next frame is reached. A row placed between others cuts off the window at its position; short
//! frames are computed from scratch, so that a million keys with two rows each keep nothing. Windows are derived from the
//! rows in the store, so there is nothing to restore.

use std::collections::{HashMap, VecDeque};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, new_null_array};
use arrow::datatypes::DataType;

use super::bag::{Bag, Value};
use super::column::{decimals, doubles, integers};
use super::keys::Keys;
use super::summary::{SHORT, code};
use super::view::{Function, View};
use crate::equality::one_double;
use crate::error::{Error, Result};

/// Maximum number of rows that are gathered at a time.
const GATHERED: usize = 8192;

/// Source of an aggregate's values: its argument where the filter holds.
pub(super) struct Input {
    /// The store's columns, by reference.
    pub(super) argument: usize,
    pub(super) filter: Option<usize>,
    pub(super) of: DataType,
}

impl Input {
    /// The values of slots, and flags of those that count.
    fn gather(&self, view: &View, slots: &[usize]) -> Result<(ArrayRef, Vec<bool>)> {
        let references = view.store.references();
        let column = |column: usize, of: &DataType| {
            let picks = slots.iter().map(|slot| Some(references[*slot]));
            view.store.chunks.gather(column, picks, &new_null_array(of, 1))
        };
        let values = column(self.argument, &self.of)?;
        let nulls = values.logical_nulls();
        let mut counts: Vec<bool> = match &nulls {
            None => vec![true; slots.len()],
            Some(nulls) => nulls.iter().collect(),
        };
        if let Some(filter) = self.filter {
            let mask = column(filter, &DataType::Boolean)?;
            for (counts, holds) in counts.iter_mut().zip(mask_of(&mask)?) {
                *counts &= holds == Some(true);
            }
        }
        Ok((values, counts))
    }
}

/// The values of a FILTER as booleans.
pub(super) fn mask_of(array: &ArrayRef) -> Result<&BooleanArray> {
    array.as_boolean_opt().ok_or_else(|| Error::internal("a FILTER is not boolean"))
}

/// Converts values to those of a bag.
pub(super) trait Code: Send {
    type Value: Value;

    /// The codes of values.
    fn codes(&mut self, values: &ArrayRef, counts: &[bool]) -> Result<Vec<Option<Self::Value>>>;

    /// One use of a value has ended.
    fn release(&mut self, _value: Self::Value) {}

    fn size(&self) -> usize {
        0
    }
}

/// Integers unchanged; unsigned ones by their bits.
pub(super) struct Integers;

/// Doubles by a code with the same order; values that are equal as keys have one code.
pub(super) struct Doubles;

/// Decimals by their unscaled values.
pub(super) struct Decimals;

fn only<V>(values: impl Iterator<Item = V>, counts: &[bool]) -> Vec<Option<V>> {
    values.zip(counts).map(|(value, counts)| counts.then_some(value)).collect()
}

impl Code for Integers {
    type Value = i64;
    fn codes(&mut self, values: &ArrayRef, counts: &[bool]) -> Result<Vec<Option<i64>>> {
        Ok(only(integers(values)?.into_iter(), counts))
    }
}

impl Code for Doubles {
    type Value = i64;
    fn codes(&mut self, values: &ArrayRef, counts: &[bool]) -> Result<Vec<Option<i64>>> {
        Ok(only(doubles(values)?.into_iter().map(|value| code(one_double(value))), counts))
    }
}

impl Code for Decimals {
    type Value = i128;
    fn codes(&mut self, values: &ArrayRef, counts: &[bool]) -> Result<Vec<Option<i128>>> {
        Ok(only(decimals(values)?.into_iter(), counts))
    }
}

/// Values of any type, by numbers that exist while rows have the value.
pub(super) struct Numbered {
    numbers: Keys,
    /// By number, the number of rows with the value.
    rows: Vec<u32>,
}

impl Numbered {
    /// Errors: a type that cannot be encoded.
    pub(super) fn new(of: &DataType) -> Result<Self> {
        Ok(Self { numbers: Keys::new(std::slice::from_ref(of))?, rows: Vec::new() })
    }
}

impl Code for Numbered {
    type Value = i64;

    fn codes(&mut self, values: &ArrayRef, counts: &[bool]) -> Result<Vec<Option<i64>>> {
        let numbers = self.numbers.numbers(std::slice::from_ref(values), values.len())?;
        self.rows.resize(self.numbers.bound(), 0);
        for number in &numbers {
            self.rows[*number as usize] += 1;
        }
        // Values that do not count were numbered too.
        for (number, _) in numbers.iter().zip(counts).filter(|(_, counts)| !**counts) {
            self.release(i64::from(*number));
        }
        Ok(only(numbers.into_iter().map(i64::from), counts))
    }

    fn release(&mut self, value: i64) {
        let rows = &mut self.rows[value as usize];
        *rows -= 1;
        if *rows == 0 {
            self.numbers.remove(value as u32);
        }
    }

    fn size(&self) -> usize {
        self.numbers.size() + self.rows.capacity() * 4
    }
}

/// One key's rows, and the bag of those in its last frame.
struct Window<B: Bag> {
    /// The ordinal of `rows[0]`.
    first: u64,
    /// The values of the rows; `None` where a row does not count.
    rows: VecDeque<Option<B::Value>>,
    /// Ordinals of the rows in the bag, all of them in `rows`.
    start: u64,
    end: u64,
    bag: B,
    /// Memory at the last measurement.
    counted: usize,
}

impl<B: Bag> Window<B> {
    fn new(at: u64) -> Self {
        Self { first: at, rows: VecDeque::new(), start: at, end: at, bag: B::default(), counted: 0 }
    }

    fn last(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    fn enter(&mut self, ordinal: u64) {
        if let Some(value) = self.rows[(ordinal - self.first) as usize] {
            self.bag.insert(value);
        }
    }

    fn leave(&mut self, ordinal: u64) {
        if let Some(value) = self.rows[(ordinal - self.first) as usize] {
            self.bag.remove(value);
        }
    }

    /// Changes the bag to that of rows `start..end`.
    fn follow(&mut self, start: u64, end: u64) {
        let kept = self.end.min(end).saturating_sub(self.start.max(start));
        // Rebuilding costs the rows of the new frame, following costs the rows that differ.
        if (self.end - self.start) - kept > end - start {
            self.bag = B::default();
            (self.start, self.end) = (start, start);
        } else if kept == 0 {
            while self.start < self.end {
                self.leave(self.start);
                self.start += 1;
            }
            (self.start, self.end) = (start, start);
        }
        while self.end < end {
            self.enter(self.end);
            self.end += 1;
        }
        while self.start > start {
            self.start -= 1;
            self.enter(self.start);
        }
        while self.end > end {
            self.end -= 1;
            self.leave(self.end);
        }
        while self.start < start {
            self.leave(self.start);
            self.start += 1;
        }
    }

    /// Drops rows from `ordinal` on, and passes their values to `release`.
    fn cut(&mut self, ordinal: u64, mut release: impl FnMut(B::Value)) {
        while self.last() > ordinal.max(self.first) {
            let last = self.last() - 1;
            if self.end > last && self.start <= last {
                self.leave(last);
                self.end = last;
            }
            self.start = self.start.min(last);
            self.end = self.end.min(last);
            if let Some(Some(value)) = self.rows.pop_back() {
                release(value);
            }
        }
    }

    /// Drops rows before the frame, and passes their values to `release`.
    fn trim(&mut self, mut release: impl FnMut(B::Value)) {
        while self.first < self.start {
            if let Some(Some(value)) = self.rows.pop_front() {
                release(value);
            }
            self.first += 1;
        }
        if self.rows.capacity() > 1024 && self.rows.len() * 4 < self.rows.capacity() {
            self.rows.shrink_to(self.rows.len() * 2);
        }
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.rows.capacity() * size_of::<Option<B::Value>>() + self.bag.size()
    }
}

/// Computes a result from a bag.
pub(super) type Answer<B, A> = Box<dyn Fn(&B) -> A + Send>;

/// Builds a column from results.
pub(super) type Finish<A> = Box<dyn Fn(Vec<A>) -> Result<ArrayRef> + Send>;

/// A function of the bag of values in the frame.
pub(super) struct Sliding<B: Bag, C, A> {
    input: Input,
    code: C,
    answer: Answer<B, A>,
    finish: Finish<A>,
    windows: HashMap<u32, Window<B>>,
    /// Memory of all windows at the last measurement.
    held: usize,
}

/// Rows of one key, in the order of their frames.
struct Visit<'a> {
    key: u32,
    rows: &'a [u32],
}

/// Slots of a key whose values its window needs.
struct Wanted {
    key: u32,
    /// They precede those in the window, last slot first.
    front: bool,
    slots: std::ops::Range<usize>,
}

impl<B, C, A> Sliding<B, C, A>
where
    B: Bag,
    C: Code<Value = B::Value>,
    A: Clone + Default + Send,
{
    pub(super) fn new(input: Input, code: C, answer: Answer<B, A>, finish: Finish<A>) -> Self {
        Self { input, code, answer, finish, windows: HashMap::new(), held: 0 }
    }

    /// Determines the rows that a key's window lacks for the frames of a visit.
    fn prepare(&mut self, view: &View, visit: &Visit, wanted: &mut Vec<Wanted>) {
        let block = view.store.block(visit.key);
        let ordinal = |slot: usize| block.gone() + (slot - block.first()) as u64;
        let slot = |ordinal: u64| block.first() + (ordinal - block.gone()) as usize;
        let frames = || visit.rows.iter().map(|row| view.frame(*row as usize)).filter(|(start, end)| start < end);
        let Some(start) = frames().map(|(start, _)| ordinal(start)).min() else { return };
        let end = frames().map(|(_, end)| ordinal(end)).max().unwrap_or(start);
        let window = self.windows.entry(visit.key).or_insert_with(|| Window::new(start));
        if start > window.last() || (start < window.first && end < window.first) {
            window.cut(window.first, |value| self.code.release(value));
            let counted = window.counted;
            *window = Window { counted, ..Window::new(start) };
        }
        if start < window.first {
            wanted.push(Wanted { key: visit.key, front: true, slots: slot(start)..slot(window.first) });
        }
        if end > window.last() {
            wanted.push(Wanted { key: visit.key, front: false, slots: slot(window.last())..slot(end) });
        }
    }

    /// Reads the values that windows lack, for many keys together.
    fn load(&mut self, view: &View, wanted: Vec<Wanted>) -> Result<()> {
        let mut slots: Vec<usize> = Vec::new();
        let mut owners: Vec<(u32, bool)> = Vec::new();
        for wanted in wanted {
            let mut add = |slot: usize| -> Result<()> {
                slots.push(slot);
                owners.push((wanted.key, wanted.front));
                if slots.len() == GATHERED {
                    self.take(view, &slots, &owners)?;
                    slots.clear();
                    owners.clear();
                }
                Ok(())
            };
            match wanted.front {
                true => wanted.slots.rev().try_for_each(&mut add)?,
                false => wanted.slots.clone().try_for_each(&mut add)?,
            }
        }
        self.take(view, &slots, &owners)
    }

    fn take(&mut self, view: &View, slots: &[usize], owners: &[(u32, bool)]) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let (values, counts) = self.input.gather(view, slots)?;
        let codes = self.code.codes(&values, &counts)?;
        let mut codes = codes.into_iter();
        for run in owners.chunk_by(|one, other| one == other) {
            let (key, front) = run[0];
            let window = self.windows.entry(key).or_insert_with(|| Window::new(0));
            for code in codes.by_ref().take(run.len()) {
                match front {
                    true => {
                        window.rows.push_front(code);
                        window.first -= 1;
                    }
                    false => window.rows.push_back(code),
                }
            }
        }
        Ok(())
    }

    fn visit(&mut self, view: &View, visit: &Visit, answers: &mut [A]) {
        let block = view.store.block(visit.key);
        let ordinal = |slot: usize| block.gone() + (slot - block.first()) as u64;
        let Some(window) = self.windows.get_mut(&visit.key) else {
            // All frames are empty.
            let empty = (self.answer)(&B::default());
            visit.rows.iter().for_each(|row| answers[*row as usize] = empty.clone());
            return;
        };
        let mut length = 0;
        let mut last: Option<(usize, usize)> = None;
        let mut answer = A::default();
        for row in visit.rows {
            let (start, end) = view.frame(*row as usize);
            // Peers share their frame.
            if last != Some((start, end)) {
                if start < end {
                    window.follow(ordinal(start), ordinal(end));
                    answer = (self.answer)(&window.bag);
                } else {
                    answer = (self.answer)(&B::default());
                }
                last = Some((start, end));
                length = end.saturating_sub(start);
            }
            answers[*row as usize] = answer.clone();
        }
        if length <= SHORT {
            self.drop_window(visit.key);
            return;
        }
        window.trim(|value| self.code.release(value));
        let size = window.size();
        let counted = std::mem::replace(&mut window.counted, size);
        self.held = self.held + window.counted - counted;
    }

    fn drop_window(&mut self, key: u32) {
        if let Some(window) = self.windows.remove(&key) {
            self.held -= window.counted;
            window.rows.into_iter().flatten().for_each(|value| self.code.release(value));
        }
    }
}

impl<B, C, A> Function for Sliding<B, C, A>
where
    B: Bag,
    C: Code<Value = B::Value>,
    A: Clone + Default + Send,
{
    fn column(&mut self, view: View) -> Result<ArrayRef> {
        let mut answers = vec![A::default(); view.keys.len()];
        let mut order: Vec<u32> = (0..view.keys.len() as u32).collect();
        order.sort_by_key(|row| view.keys[*row as usize]);
        let visits: Vec<Visit> = order
            .chunk_by(|one, other| view.keys[*one as usize] == view.keys[*other as usize])
            .map(|rows| Visit { key: view.keys[rows[0] as usize], rows })
            .collect();
        // Windows of short frames live for one round only, so rounds are small.
        for visits in visits.chunks(1024) {
            let mut wanted = Vec::new();
            visits.iter().for_each(|visit| self.prepare(&view, visit, &mut wanted));
            self.load(&view, wanted)?;
            visits.iter().for_each(|visit| self.visit(&view, visit, &mut answers));
        }
        (self.finish)(answers)
    }

    fn squeezed(&mut self, key: u32, ordinal: u64) {
        let Some(window) = self.windows.get_mut(&key) else { return };
        if ordinal < window.first {
            window.first += 1;
            window.start += 1;
            window.end += 1;
        } else {
            window.cut(ordinal, |value| self.code.release(value));
        }
    }

    fn forget(&mut self, key: u32) {
        self.drop_window(key);
    }

    fn size(&self) -> usize {
        self.held + self.code.size()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::operator::rolling::bag::Distinct;

    thread_local! {
        static MOVES: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts the operations on it.
    #[derive(Default)]
    struct Counted(Distinct<i64>);

    impl Bag for Counted {
        type Value = i64;

        fn insert(&mut self, value: i64) {
            MOVES.set(MOVES.get() + 1);
            self.0.insert(value);
        }

        fn remove(&mut self, value: i64) {
            MOVES.set(MOVES.get() + 1);
            self.0.remove(value);
        }

        fn size(&self) -> usize {
            0
        }
    }

    fn moves(window: &mut Window<Counted>, start: u64, end: u64) -> usize {
        MOVES.set(0);
        window.follow(start, end);
        let expected: std::collections::BTreeSet<u64> = (start..end).map(|row| row % 7).collect();
        assert_eq!(window.bag.0.len(), expected.len(), "{start}..{end}");
        MOVES.get()
    }

    #[test]
    fn a_frame_costs_what_enters_and_leaves_it() {
        let mut window = Window::<Counted>::new(0);
        window.rows = (0..10_000).map(|row| Some(row % 7)).collect();
        assert_eq!(moves(&mut window, 0, 5_000), 5_000);
        assert_eq!(moves(&mut window, 0, 5_001), 1);
        assert_eq!(moves(&mut window, 3, 5_002), 4);
        assert_eq!(moves(&mut window, 1, 4_999), 5, "back again");
        assert_eq!(moves(&mut window, 9_000, 9_010), 10, "nothing in common: from the beginning");
        assert_eq!(moves(&mut window, 9_005, 9_800), 795);
        assert_eq!(moves(&mut window, 0, 9_800), 9_005);
        assert_eq!(moves(&mut window, 100, 110), 10, "little of much: from the beginning");
    }

    #[test]
    fn a_window_is_cut_where_a_row_was_placed() {
        let mut window = Window::<Counted>::new(10);
        window.rows = (0..100).map(Some).collect();
        window.follow(20, 90);
        let mut gone = Vec::new();
        window.cut(70, |value| gone.push(value));
        assert_eq!((window.last(), window.start, window.end, gone.len()), (70, 20, 70, 40));
        assert_eq!(window.bag.0.len(), 50);
        window.cut(15, |_| ());
        assert_eq!((window.last(), window.start, window.end), (15, 15, 15));
        assert_eq!(window.bag.0.len(), 0);
    }
}

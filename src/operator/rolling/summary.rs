//! Summaries of runs of values, and a fast way to the summary of any run of a key's rows.
//!
//! Nothing is ever subtracted: a sum from which values are subtracted drifts, and one NaN, infinity or 1e300 spoils it for
//! good. Short frames are summed from scratch, since a run of values is a slice. For keys with long frames [`Tree`] keeps
//! the summaries of aligned blocks of 32 rows, of 32 such blocks, and so on, shared by all frames over the argument: a frame
//! of n rows costs O(log n), a new row O(1) amortised, and there is nothing to restore.
//!
//! Sums of doubles carry their rounding error along (two-sum), so that the division into blocks does not affect the result.

use std::collections::{HashMap, VecDeque};

/// 32 entries of one level make one of the next.
const SHIFT: u32 = 5;
const WIDTH: u64 = 1 << SHIFT;

/// Frames up to this length are computed from scratch.
pub(super) const SHORT: usize = 96;

/// An associative summary with a neutral element.
pub(super) trait Summary {
    type Value: Copy;
    type Part: Copy;
    const EMPTY: Self::Part;

    /// The summary of values; with `valid`, of those whose lowest bit is set there.
    fn of(values: &[Self::Value], valid: Option<&[u32]>) -> Self::Part;

    fn join(left: Self::Part, right: Self::Part) -> Self::Part;
}

/// Sum of integers in 128 bits; the check that it fits its type comes at the end.
pub(super) struct SumInt;

impl Summary for SumInt {
    type Value = i64;
    type Part = i128;
    const EMPTY: i128 = 0;

    fn of(values: &[i64], _valid: Option<&[u32]>) -> i128 {
        // Nulls are stored as zeros. Sums of halves cannot overflow in runs of less than 2^31 values, and use vector
        // instructions.
        const LOW: i64 = 0xFFFF_FFFF;
        let (mut high, mut low) = (0, 0);
        for value in values {
            high += value >> 32;
            low += value & LOW;
        }
        (i128::from(high) << 32) + i128::from(low)
    }

    fn join(left: i128, right: i128) -> i128 {
        left + right
    }
}

/// Sum of decimals; it saturates at 128 bits, which is no valid DECIMAL.
pub(super) struct SumDecimal;

impl Summary for SumDecimal {
    type Value = i128;
    type Part = i128;
    const EMPTY: i128 = 0;

    fn of(values: &[i128], _valid: Option<&[u32]>) -> i128 {
        values.iter().fold(0, |sum, value| sum.saturating_add(*value))
    }

    fn join(left: i128, right: i128) -> i128 {
        left.saturating_add(right)
    }
}

/// Sum of doubles: the rounded sum, and the accumulated rounding error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum {
    plain: f64,
    lost: f64,
}

impl Sum {
    pub(super) fn value(self) -> f64 {
        // For sums that are not finite the error is meaningless.
        if self.plain.is_finite() { self.plain + self.lost } else { self.plain }
    }
}

pub(super) struct SumFloat;

#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    (sum, (a - (sum - of_b)) + (b - of_b))
}

impl Summary for SumFloat {
    type Value = f64;
    type Part = Sum;
    const EMPTY: Sum = Sum { plain: 0.0, lost: 0.0 };

    fn of(values: &[f64], _valid: Option<&[u32]>) -> Sum {
        const LANES: usize = 4;
        let (mut plain, mut lost) = ([0.0; LANES], [0.0; LANES]);
        let (whole, rest) = values.as_chunks::<LANES>();
        for four in whole {
            for lane in 0..LANES {
                let (sum, error) = two_sum(plain[lane], four[lane]);
                plain[lane] = sum;
                lost[lane] += error;
            }
        }
        let mut sum = Self::EMPTY;
        for lane in 0..LANES {
            sum = Self::join(sum, Sum { plain: plain[lane], lost: lost[lane] });
        }
        for value in rest {
            sum = Self::join(sum, Sum { plain: *value, lost: 0.0 });
        }
        sum
    }

    #[inline(always)]
    fn join(left: Sum, right: Sum) -> Sum {
        let (plain, error) = two_sum(left.plain, right.plain);
        Sum { plain, lost: left.lost + right.lost + error }
    }
}

/// The least (or greatest) value by an order.
pub(super) struct Extreme<O>(std::marker::PhantomData<O>);

/// An order of values: they are compared as integers, the least wins.
pub(super) trait Order {
    type Value: Copy;
    type Rank: Copy + Ord;
    const WORST: Self::Rank;
    fn rank(value: Self::Value) -> Self::Rank;
    fn value(rank: Self::Rank) -> Self::Value;
}

macro_rules! order {
    ($name:ident, $value:ty, $rank:ty, $worst:expr, |$v:ident| $to:expr, |$r:ident| $from:expr) => {
        pub(super) struct $name;
        impl Order for $name {
            type Value = $value;
            type Rank = $rank;
            const WORST: $rank = $worst;
            #[inline(always)]
            fn rank($v: $value) -> $rank {
                $to
            }
            #[inline(always)]
            fn value($r: $rank) -> $value {
                $from
            }
        }
    };
}

order!(LeastInt, i64, i64, i64::MAX, |v| v, |r| r);
order!(GreatestInt, i64, i64, i64::MAX, |v| !v, |r| !r);
order!(LeastUnsigned, i64, u64, u64::MAX, |v| v as u64, |r| r as i64);
order!(GreatestUnsigned, i64, u64, u64::MAX, |v| !(v as u64), |r| !r as i64);
order!(LeastDecimal, i128, i128, i128::MAX, |v| v, |r| r);
order!(GreatestDecimal, i128, i128, i128::MAX, |v| !v, |r| !r);
order!(LeastFloat, f64, i64, i64::MAX, |v| total(v.to_bits() as i64), |r| f64::from_bits(total(r) as u64));
order!(GreatestFloat, f64, i64, i64::MAX, |v| !total(v.to_bits() as i64), |r| f64::from_bits(total(!r) as u64));

/// A double as an integer in the same (IEEE total) order.
#[inline(always)]
pub(super) fn code(value: f64) -> i64 {
    total(value.to_bits() as i64)
}

/// The double of a [`code`].
#[inline(always)]
pub(super) fn double(code: i64) -> f64 {
    f64::from_bits(total(code) as u64)
}

/// Converts the bits of a double to an integer in the same (IEEE total) order, and back.
#[inline(always)]
fn total(bits: i64) -> i64 {
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

impl<O: Order> Summary for Extreme<O> {
    type Value = O::Value;
    type Part = O::Rank;
    const EMPTY: O::Rank = O::WORST;

    fn of(values: &[O::Value], valid: Option<&[u32]>) -> O::Rank {
        let ranks = values.iter().map(|value| O::rank(*value));
        match valid {
            None => ranks.fold(O::WORST, Ord::min),
            Some(valid) => ranks
                .zip(valid)
                .fold(O::WORST, |best, (rank, valid)| if valid & 1 == 1 { best.min(rank) } else { best }),
        }
    }

    #[inline(always)]
    fn join(left: O::Rank, right: O::Rank) -> O::Rank {
        left.min(right)
    }
}

/// Count, mean and sum of squared distances from the mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    count: f64,
    mean: f64,
    pub(super) squares: f64,
}

pub(super) struct Moments;

impl Summary for Moments {
    type Value = f64;
    type Part = Spread;
    const EMPTY: Spread = Spread { count: 0.0, mean: 0.0, squares: 0.0 };

    fn of(values: &[f64], valid: Option<&[u32]>) -> Spread {
        match valid {
            None => spread(values),
            Some(valid) => {
                let kept: Vec<f64> =
                    values.iter().zip(valid).filter(|(_, valid)| **valid & 1 == 1).map(|(value, _)| *value).collect();
                spread(&kept)
            }
        }
    }

    fn join(left: Spread, right: Spread) -> Spread {
        if left.count == 0.0 || right.count == 0.0 {
            return if left.count == 0.0 { right } else { left };
        }
        let count = left.count + right.count;
        let apart = right.mean - left.mean;
        Spread {
            count,
            mean: left.mean + apart * (right.count / count),
            squares: left.squares + right.squares + apart * apart * (left.count * (right.count / count)),
        }
    }
}

/// Two passes: first the mean, then the distances from it; both relative to the first value, so that equal values have no
/// distance.
fn spread(values: &[f64]) -> Spread {
    let Some(first) = values.first() else { return Moments::EMPTY };
    let count = values.len() as f64;
    let mean = values.iter().map(|value| value - first).sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - first - mean) * (value - first - mean)).sum();
    Spread { count, mean: first + mean, squares }
}

/// Summaries of aligned blocks of one key's rows, by ordinal.
#[derive(Debug)]
struct Tree<P> {
    levels: Vec<Level<P>>,
}

#[derive(Debug)]
struct Level<P> {
    /// The number of the first stored block.
    first: u64,
    parts: VecDeque<P>,
}

impl<P: Copy> Tree<P> {
    /// Adds blocks of new rows, and drops blocks of retired rows; `base` is the ordinal of `values[0]`.
    fn follow<S: Summary<Part = P>>(&mut self, base: u64, values: &[S::Value], valid: Option<&[u32]>) {
        let (mut first, mut end) = (base, base + values.len() as u64);
        for depth in 0.. {
            if depth == self.levels.len() {
                if end - first < 2 * WIDTH {
                    return;
                }
                self.levels.push(Level { first: 0, parts: VecDeque::new() });
            }
            let (below, here) = self.levels.split_at_mut(depth);
            let (below, level) = (below.last(), &mut here[0]);
            while level.first * WIDTH < first && level.parts.pop_front().is_some() {
                level.first += 1;
            }
            if level.parts.is_empty() {
                level.first = first.div_ceil(WIDTH);
            }
            let mut next = level.first + level.parts.len() as u64;
            while (next + 1) * WIDTH <= end {
                let from = (next * WIDTH - first) as usize;
                let until = from + WIDTH as usize;
                level.parts.push_back(match below {
                    None => S::of(&values[from..until], valid.map(|valid| &valid[from..until])),
                    Some(below) => below.parts.range(from..until).fold(S::EMPTY, |all, part| S::join(all, *part)),
                });
                next += 1;
            }
            (first, end) = (level.first, next);
        }
    }

    /// The summary of blocks `start..end` of a level; all of them must be stored.
    fn blocks<S: Summary<Part = P>>(&self, depth: usize, start: u64, end: u64) -> P {
        let level = &self.levels[depth];
        let (from, until) = (start.div_ceil(WIDTH), end / WIDTH);
        let fold = |start: u64, end: u64| {
            let range = (start - level.first) as usize..(end - level.first) as usize;
            level.parts.range(range).fold(S::EMPTY, |all, part| S::join(all, *part))
        };
        if depth + 1 == self.levels.len() || from >= until {
            return fold(start, end);
        }
        let middle = self.blocks::<S>(depth + 1, from, until);
        S::join(S::join(fold(start, from * WIDTH), middle), fold(until * WIDTH, end))
    }

    /// Drops blocks with rows from `ordinal` on.
    fn truncate(&mut self, ordinal: u64) {
        let mut whole = ordinal;
        for level in &mut self.levels {
            whole /= WIDTH;
            level.parts.truncate(whole.saturating_sub(level.first) as usize);
        }
    }
}

/// The trees of all keys with long frames, for one summary of one argument.
#[derive(Debug)]
pub(super) struct Trees<S: Summary> {
    trees: HashMap<u32, Tree<S::Part>>,
}

impl<S: Summary> Default for Trees<S> {
    fn default() -> Self {
        Self { trees: HashMap::new() }
    }
}

/// A key's live rows of one argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a, V> {
    pub(super) key: u32,
    /// The ordinal of the first row.
    pub(super) base: u64,
    pub(super) values: &'a [V],
    pub(super) valid: Option<&'a [u32]>,
}

impl<S: Summary> Trees<S> {
    /// The summary of positions `start..end` of a key's rows.
    #[inline]
    pub(super) fn summary(&mut self, run: &Run<S::Value>, start: usize, end: usize) -> S::Part {
        if end <= start + SHORT {
            return of::<S>(run, start, end);
        }
        self.long(run, start, end)
    }

    fn long(&mut self, run: &Run<S::Value>, start: usize, end: usize) -> S::Part {
        let tree = self.trees.entry(run.key).or_insert_with(|| Tree { levels: Vec::new() });
        tree.follow::<S>(run.base, run.values, run.valid);
        let (from, until) = ((run.base + start as u64).div_ceil(WIDTH), (run.base + end as u64) / WIDTH);
        let head = of::<S>(run, start, (from * WIDTH - run.base) as usize);
        let tail = of::<S>(run, (until * WIDTH - run.base) as usize, end);
        S::join(S::join(head, tree.blocks::<S>(0, from, until)), tail)
    }

    /// A row of the key was inserted before others, which moved up.
    pub(super) fn squeezed(&mut self, key: u32, ordinal: u64) {
        if let Some(tree) = self.trees.get_mut(&key) {
            tree.truncate(ordinal);
        }
    }

    pub(super) fn forget(&mut self, key: u32) {
        self.trees.remove(&key);
    }

    pub(super) fn size(&self) -> usize {
        let parts = self.trees.values().flat_map(|tree| &tree.levels).map(|level| level.parts.capacity());
        parts.sum::<usize>() * size_of::<S::Part>()
    }
}

#[inline]
fn of<S: Summary>(run: &Run<S::Value>, start: usize, end: usize) -> S::Part {
    S::of(&run.values[start..end], run.valid.map(|valid| &valid[start..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn trees_agree_with_summaries_afresh_while_rows_come_and_go() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut values, mut base) = (Vec::<i64>::new(), 0u64);
            let (mut sums, mut least) = (Trees::<SumInt>::default(), Trees::<Extreme<LeastInt>>::default());
            for _ in 0..300 {
                values.extend((0..random.random_range(0..200)).map(|_| random.random_range(-1000..1000)));
                let gone = random.random_range(0..=values.len().min(150));
                values.drain(..gone);
                base += gone as u64;
                if random.random_bool(0.2) && !values.is_empty() {
                    let at = random.random_range(0..values.len());
                    values.insert(at, 7);
                    sums.squeezed(1, base + at as u64);
                    least.squeezed(1, base + at as u64);
                }
                let run = Run { key: 1, base, values: &values, valid: None };
                let start = random.random_range(0..=values.len());
                let end = random.random_range(start..=values.len());
                assert_eq!(sums.summary(&run, start, end), SumInt::of(&values[start..end], None), "seed {seed}");
                let expected = Extreme::<LeastInt>::of(&values[start..end], None);
                assert_eq!(least.summary(&run, start, end), expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_sum_of_doubles_does_not_depend_on_how_it_is_cut() {
        let mut random = StdRng::seed_from_u64(5);
        for _ in 0..500 {
            let values: Vec<f64> = (0..200).map(|_| random.random_range(-1e9..1e9) / 3.0).collect();
            let cut = random.random_range(0..200);
            let parts = SumFloat::join(SumFloat::of(&values[..cut], None), SumFloat::of(&values[cut..], None));
            assert_eq!(parts.value().to_bits(), SumFloat::of(&values, None).value().to_bits());
        }
        assert_eq!(SumFloat::of(&[1e300, 1.0, -1e300], None).value(), 1.0);
        assert!(SumFloat::of(&[f64::INFINITY, 1.0], None).value().is_infinite());
        assert!(SumFloat::of(&[f64::MAX, f64::MAX], None).value().is_infinite());
    }
}

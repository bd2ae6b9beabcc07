//! Bags of values: the content of a frame, maintained while rows enter and leave it.
//!
//! Values are integers: numbers by an order-preserving code ([`super::sliding::Code`]), all others by a number that equal
//! values share. Subtraction never drifts: [`Distinct`] counts values, and [`Folded`] adds and subtracts wrapping integers,
//! which is exact; doubles are left to [`super::ranked`].

use std::collections::HashMap;
use std::hash::Hash;

/// A value as stored in bags.
pub(super) trait Value: Copy + Ord + Hash + Send + 'static {}

impl Value for i64 {}
impl Value for i128 {}

/// The values of a frame, with their counts.
pub(super) trait Bag: Default + Send + 'static {
    type Value: Value;

    fn insert(&mut self, value: Self::Value);

    /// Removes a value that was inserted.
    fn remove(&mut self, value: Self::Value);

    /// Approximate memory, in bytes.
    fn size(&self) -> usize;
}

/// The count of each value.
pub(super) struct Distinct<V> {
    counts: HashMap<V, u32>,
}

impl<V> Default for Distinct<V> {
    fn default() -> Self {
        Self { counts: HashMap::new() }
    }
}

impl<V: Value> Distinct<V> {
    /// Number of different values.
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// `true` if the value is the first of its kind.
    fn enter(&mut self, value: V) -> bool {
        let count = self.counts.entry(value).or_default();
        *count += 1;
        *count == 1
    }

    /// `true` if the value was the last of its kind.
    fn leave(&mut self, value: V) -> bool {
        let Some(count) = self.counts.get_mut(&value) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.counts.remove(&value);
            if self.counts.capacity() > 1024 && self.counts.len() * 8 < self.counts.capacity() {
                self.counts.shrink_to_fit();
            }
        }
        last
    }
}

impl<V: Value> Bag for Distinct<V> {
    type Value = V;

    fn insert(&mut self, value: V) {
        self.enter(value);
    }

    fn remove(&mut self, value: V) {
        self.leave(value);
    }

    fn size(&self) -> usize {
        self.counts.capacity() * (size_of::<(V, u32)>() + 1)
    }
}

/// An operation on integers that can be reversed.
pub(super) trait Group<V>: Send + 'static {
    /// The combination of values.
    type All: Copy + Send;
    const NONE: Self::All;
    fn with(all: Self::All, value: V) -> Self::All;
    fn without(all: Self::All, value: V) -> Self::All;
}

/// Addition; it wraps for decimals, like DataFusion's.
pub(super) struct Add;

/// Bitwise exclusive or.
pub(super) struct Xor;

macro_rules! group {
    ($name:ident, $of:ty, $all:ty, $with:expr, $without:expr) => {
        impl Group<$of> for $name {
            type All = $all;
            const NONE: $all = 0;
            fn with(all: $all, value: $of) -> $all {
                $with(all, <$all>::from(value))
            }
            fn without(all: $all, value: $of) -> $all {
                $without(all, <$all>::from(value))
            }
        }
    };
}

group!(Add, i64, i128, i128::wrapping_add, i128::wrapping_sub);
group!(Add, i128, i128, i128::wrapping_add, i128::wrapping_sub);
group!(Xor, i64, i64, |all, value| all ^ value, |all, value| all ^ value);

/// The different values, and their sum (or other combination).
pub(super) struct Folded<V, G: Group<V>> {
    distinct: Distinct<V>,
    all: G::All,
}

impl<V: Value, G: Group<V>> Default for Folded<V, G> {
    fn default() -> Self {
        Self { distinct: Distinct::default(), all: G::NONE }
    }
}

impl<V: Value, G: Group<V>> Folded<V, G> {
    /// Number of different values.
    pub(super) fn len(&self) -> usize {
        self.distinct.len()
    }

    /// The combination of all different values; `None` without values.
    pub(super) fn all(&self) -> Option<G::All> {
        (self.distinct.len() > 0).then_some(self.all)
    }
}

impl<V: Value, G: Group<V>> Bag for Folded<V, G> {
    type Value = V;

    fn insert(&mut self, value: V) {
        if self.distinct.enter(value) {
            self.all = G::with(self.all, value);
        }
    }

    fn remove(&mut self, value: V) {
        if self.distinct.leave(value) {
            self.all = G::without(self.all, value);
        }
    }

    fn size(&self) -> usize {
        self.distinct.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folded_value_counts_once_and_goes_with_its_last_row() {
        let mut bag = Folded::<i64, Add>::default();
        [7, 7, i64::MAX].iter().for_each(|value| bag.insert(*value));
        assert_eq!(bag.all(), Some(7 + i128::from(i64::MAX)));
        bag.remove(i64::MAX);
        bag.remove(7);
        assert_eq!((bag.all(), bag.len()), (Some(7), 1));
        bag.remove(7);
        assert_eq!(bag.all(), None);
    }
}

//! Bags of values in order: for medians, percentiles, and sums of doubles.
//!
//! A sum of doubles is recomputed along one path of the tree for every value that enters or leaves, so nothing drifts and a
//! NaN leaves no trace once it is gone.

use std::cmp::Ordering;

use super::bag::{Bag, Value};
use super::summary::{Sum, SumFloat, Summary};

/// A summary of the different values below a node of a [`Ranked`] bag.
pub(super) trait Digest<V>: Send + 'static {
    type Part: Copy + Send;
    const EMPTY: Self::Part;
    fn of(value: V) -> Self::Part;
    fn join(left: Self::Part, right: Self::Part) -> Self::Part;
}

/// No summary, only the order.
pub(super) struct Order;

impl<V> Digest<V> for Order {
    type Part = ();
    const EMPTY: () = ();
    fn of(_value: V) {}
    fn join(_left: (), _right: ()) {}
}

/// The sum of doubles, whose codes are the values.
pub(super) struct DoubleSum;

impl Digest<i64> for DoubleSum {
    type Part = Sum;
    const EMPTY: Sum = SumFloat::EMPTY;
    fn of(value: i64) -> Sum {
        SumFloat::of(&[super::summary::double(value)], None)
    }
    fn join(left: Sum, right: Sum) -> Sum {
        SumFloat::join(left, right)
    }
}

const NONE: u32 = u32::MAX;

struct Node<V, P> {
    value: V,
    /// Number of times that the value is in the bag.
    count: u32,
    priority: u32,
    left: u32,
    right: u32,
    /// Numbers of different values and of all values in this subtree.
    distinct: u32,
    total: u64,
    part: P,
}

/// Values in order: a treap (a search tree kept shallow by random priorities), each node with the number of values below it,
/// so that the n-th of m different values is found in O(log m).
pub(super) struct Ranked<V, D: Digest<V>> {
    nodes: Vec<Node<V, D::Part>>,
    free: Vec<u32>,
    root: u32,
    /// State of the generator of priorities; they need not be unpredictable.
    random: u32,
}

impl<V, D: Digest<V>> Default for Ranked<V, D> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, random: 0x9E37_79B9 }
    }
}

impl<V: Value, D: Digest<V>> Ranked<V, D> {
    /// Number of values.
    pub(super) fn len(&self) -> u64 {
        self.total(self.root)
    }

    /// Number of different values.
    pub(super) fn distinct(&self) -> u64 {
        u64::from(self.different(self.root))
    }

    /// The digest of the different values.
    pub(super) fn digest(&self) -> D::Part {
        self.part(self.root)
    }

    /// The value with `rank` values before it.
    pub(super) fn nth(&self, rank: u64) -> Option<V> {
        self.find(rank, |at| self.total(at), |node| u64::from(node.count))
    }

    /// The value with `rank` different values before it.
    pub(super) fn nth_distinct(&self, rank: u64) -> Option<V> {
        self.find(rank, |at| u64::from(self.different(at)), |_| 1)
    }

    fn find(&self, rank: u64, below: impl Fn(u32) -> u64, own: impl Fn(&Node<V, D::Part>) -> u64) -> Option<V> {
        let (mut at, mut rank) = (self.root, rank);
        loop {
            let node = self.nodes.get(at as usize)?;
            let before = below(node.left);
            if rank < before {
                at = node.left;
                continue;
            }
            if rank < before + own(node) {
                return Some(node.value);
            }
            rank -= before + own(node);
            at = node.right;
        }
    }

    fn total(&self, at: u32) -> u64 {
        if at == NONE { 0 } else { self.nodes[at as usize].total }
    }

    fn different(&self, at: u32) -> u32 {
        if at == NONE { 0 } else { self.nodes[at as usize].distinct }
    }

    fn part(&self, at: u32) -> D::Part {
        if at == NONE { D::EMPTY } else { self.nodes[at as usize].part }
    }

    fn priority(&mut self) -> u32 {
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }

    fn leaf(&mut self, value: V) -> u32 {
        let priority = self.priority();
        let node =
            Node { value, count: 1, priority, left: NONE, right: NONE, distinct: 1, total: 1, part: D::of(value) };
        match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        }
    }

    fn refresh(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let (left, right) = (node.left, node.right);
        let distinct = self.different(left) + 1 + self.different(right);
        let total = self.total(left) + u64::from(node.count) + self.total(right);
        let part = D::join(D::join(self.part(left), D::of(node.value)), self.part(right));
        let node = &mut self.nodes[at as usize];
        (node.distinct, node.total, node.part) = (distinct, total, part);
    }

    fn add(&mut self, at: u32, value: V) -> u32 {
        if at == NONE {
            return self.leaf(value);
        }
        let node = &self.nodes[at as usize];
        let (priority, left, right) = (node.priority, node.left, node.right);
        match value.cmp(&node.value) {
            Ordering::Equal => self.nodes[at as usize].count += 1,
            Ordering::Less => {
                let child = self.add(left, value);
                if self.nodes[child as usize].priority > priority {
                    self.nodes[at as usize].left = self.nodes[child as usize].right;
                    self.refresh(at);
                    self.nodes[child as usize].right = at;
                    self.refresh(child);
                    return child;
                }
                self.nodes[at as usize].left = child;
            }
            Ordering::Greater => {
                let child = self.add(right, value);
                if self.nodes[child as usize].priority > priority {
                    self.nodes[at as usize].right = self.nodes[child as usize].left;
                    self.refresh(at);
                    self.nodes[child as usize].left = at;
                    self.refresh(child);
                    return child;
                }
                self.nodes[at as usize].right = child;
            }
        }
        self.refresh(at);
        at
    }

    fn take(&mut self, at: u32, value: V) -> u32 {
        if at == NONE {
            return NONE;
        }
        let node = &self.nodes[at as usize];
        let (count, left, right) = (node.count, node.left, node.right);
        match value.cmp(&node.value) {
            Ordering::Equal if count == 1 => {
                self.free.push(at);
                return self.merged(left, right);
            }
            Ordering::Equal => self.nodes[at as usize].count -= 1,
            Ordering::Less => self.nodes[at as usize].left = self.take(left, value),
            Ordering::Greater => self.nodes[at as usize].right = self.take(right, value),
        }
        self.refresh(at);
        at
    }

    /// Merges two trees; all values of the first are before those of the second.
    fn merged(&mut self, first: u32, second: u32) -> u32 {
        if first == NONE || second == NONE {
            return if first == NONE { second } else { first };
        }
        let top = if self.nodes[first as usize].priority > self.nodes[second as usize].priority {
            let rest = self.nodes[first as usize].right;
            self.nodes[first as usize].right = self.merged(rest, second);
            first
        } else {
            let rest = self.nodes[second as usize].left;
            self.nodes[second as usize].left = self.merged(first, rest);
            second
        };
        self.refresh(top);
        top
    }
}

impl<V: Value, D: Digest<V>> Bag for Ranked<V, D> {
    type Value = V;

    fn insert(&mut self, value: V) {
        self.root = self.add(self.root, value);
    }

    fn remove(&mut self, value: V) {
        self.root = self.take(self.root, value);
        if self.root == NONE {
            *self = Self { random: self.random, ..Self::default() };
        }
    }

    fn size(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<V, D::Part>>() + self.free.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn ranks_agree_with_a_sorted_list_while_values_enter_and_leave() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut bag, mut list) = (Ranked::<i64, Order>::default(), Vec::<i64>::new());
            let spread = [3, 40, 100_000][seed as usize % 3];
            for _ in 0..600 {
                if list.is_empty() || random.random_bool(0.6) {
                    let value = random.random_range(0..spread);
                    bag.insert(value);
                    list.insert(list.partition_point(|other| *other < value), value);
                } else {
                    let value = list.remove(random.random_range(0..list.len()));
                    bag.remove(value);
                }
                assert_eq!(bag.len(), list.len() as u64, "seed {seed}");
                let rank = random.random_range(0..list.len() + 1);
                assert_eq!(bag.nth(rank as u64), list.get(rank).copied(), "seed {seed}");
                let mut distinct = list.clone();
                distinct.dedup();
                assert_eq!(bag.distinct(), distinct.len() as u64, "seed {seed}");
                assert_eq!(bag.nth_distinct(rank as u64), distinct.get(rank).copied(), "seed {seed}");
            }
        }
    }

    #[test]
    fn doubles_that_left_leave_no_trace_in_the_sum() {
        let mut bag = Ranked::<i64, DoubleSum>::default();
        let codes = [f64::NAN, f64::INFINITY, 1e300, 0.1].map(super::super::summary::code);
        codes.iter().for_each(|value| bag.insert(*value));
        assert!(bag.digest().value().is_nan());
        codes[..3].iter().for_each(|value| bag.remove(*value));
        assert_eq!(bag.digest().value(), 0.1);
    }
}

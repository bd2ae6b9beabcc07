//! A checked decision forest: the meaning of a LightGBM text model.
//!
//! A [`Forest`] is immutable and only [`super::text`] creates one, so every index in it is within bounds, every node of a
//! tree is reached exactly once from its root, and every threshold and leaf value is usable. The evaluation here is the
//! plain definition of the scores; the fast evaluators are tested against it.
//!
//! Splits have LightGBM's meaning (`Tree::Predict` and the row copy before it, version 4.7):
//! - a value with `|x| <= 1.0000000180025095e-35` counts as 0 everywhere;
//! - missing type *none*: NaN counts as 0; *zero*: NaN and 0 are missing; *NaN*: NaN is missing;
//! - a missing value takes the default direction, any other goes left when `x <= threshold`;
//! - a categorical split truncates the value to an integer and goes left if the set contains it; NaN, negative and
//!   huge values go right.

use super::objective::Objective;

/// Values up to this magnitude count as zero (LightGBM's `kZeroThreshold`, `1e-35f` widened to a double).
pub(crate) const ZERO_THRESHOLD: f64 = 1e-35_f32 as f64;

/// The trees of a model, and the transformation of their sums into scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    pub(crate) features: Vec<String>,
    pub(crate) outputs: usize,
    pub(crate) average: bool,
    pub(crate) objective: Objective,
    pub(crate) trees: Vec<Tree>,
}

/// One tree: nodes in file order with the root first, and the leaves' values.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) leaves: Vec<f64>,
}

/// An inner node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub(crate) feature: usize,
    pub(crate) test: Test,
    pub(crate) left: Child,
    pub(crate) right: Child,
}

/// The target of a branch, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    Node(usize),
    Leaf(usize),
}

/// The condition for a row to go left.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// `x <= threshold`; a missing value goes left when `default_left`.
    Numerical { threshold: f64, missing: Missing, default_left: bool },
    /// Bit `c` of the words is set when category `c` goes left.
    Categorical { words: Vec<u32> },
}

/// The values that a numerical split treats as missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Missing {
    None,
    Zero,
    Nan,
}

impl Forest {
    /// The features' names, in the order of a row's values.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Number of scores per row: 1, or the number of classes.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The trees in their order of evaluation; tree `t` adds to output `t % outputs`.
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// The transformation of a row's sums into its scores.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Scores one row of as many values as there are features into `scores`, one per output.
    pub fn score_row(&self, row: &[f64], scores: &mut [f64]) {
        scores.fill(0.0);
        for (index, tree) in self.trees.iter().enumerate() {
            scores[index % self.outputs] += tree.leaves[tree.leaf_of(row)];
        }
        self.finish(scores);
    }

    /// Turns the sums of any number of rows into their scores.
    pub(crate) fn finish(&self, scores: &mut [f64]) {
        if self.average {
            let iterations = (self.trees.len() / self.outputs) as f64;
            for score in scores.iter_mut() {
                *score /= iterations;
            }
        }
        if self.objective.is_elementwise() {
            self.objective.transform(scores);
        } else {
            for row in scores.chunks_exact_mut(self.outputs) {
                self.objective.transform(row);
            }
        }
    }
}

impl Tree {
    /// The leaf that `row` falls into.
    pub(crate) fn leaf_of(&self, row: &[f64]) -> usize {
        let mut at = if self.nodes.is_empty() { Child::Leaf(0) } else { Child::Node(0) };
        loop {
            match at {
                Child::Leaf(leaf) => return leaf,
                Child::Node(index) => {
                    let node = &self.nodes[index];
                    at = if node.test.goes_left(row[node.feature]) { node.left } else { node.right };
                }
            }
        }
    }
}

impl Test {
    /// `true` if a row with this value goes left.
    pub(crate) fn goes_left(&self, value: f64) -> bool {
        let value = if value.abs() <= ZERO_THRESHOLD { 0.0 } else { value };
        match self {
            Self::Numerical { threshold, missing, default_left } => match missing {
                Missing::Nan if value.is_nan() => *default_left,
                Missing::Zero if value.is_nan() || value == 0.0 => *default_left,
                _ => (if value.is_nan() { 0.0 } else { value }) <= *threshold,
            },
            Self::Categorical { words } => holds_category(words, value),
        }
    }
}

/// `true` if the set contains the category of `value`.
pub(crate) fn holds_category(words: &[u32], value: f64) -> bool {
    category_of(value)
        .is_some_and(|category| words.get(category / 32).is_some_and(|word| word >> (category % 32) & 1 == 1))
}

/// The category of a value: its integer part; `None` if negative, NaN or beyond 32 bits.
pub(crate) fn category_of(value: f64) -> Option<usize> {
    (value > -1.0 && value < 2_147_483_648.0).then_some(value as usize)
}

//! A forest laid out for fast evaluation: every split becomes a comparison of two bytes.
//!
//! For a feature with the distinct thresholds `t0 < t1 < …` let the *rank* of a value be the number of thresholds below it.
//! Then `x <= t[k]` holds exactly if `rank(x) <= k`, so a row's values can be replaced by ranks once and every split
//! compares small integers; nothing is rounded. A [`RankColumn`] holds a byte per row: the rank minus the column's base,
//! clamped to `0..=255`, so that a feature with more than 255 thresholds takes several columns. Where a split treats missing
//! values specially, the column holds a rank that goes the right way for them: 0 goes left at every split and 255 goes
//! right. A categorical split has its own column with 0 for "in the set" and 1 for "not".

use std::collections::{BTreeMap, HashMap};

use crate::model::forest::{Child, Forest, Missing, Node, Test, Tree};

/// Thresholds per column: ranks 0..=255 allow thresholds 0..=254.
const THRESHOLDS_PER_COLUMN: usize = 255;
/// Maximum number of leaves of a tree whose leaf numbers fit a byte.
const MAX_BYTE_LEAVES: usize = 256;
/// The mask slot that is never read.
pub(super) const NOWHERE: u8 = 255;

/// The whole forest, in the evaluators' layout.
#[derive(Debug)]
pub(super) struct Layout {
    pub features: Vec<RankedFeature>,
    pub sets: Vec<SetColumn>,
    /// Number of columns of all kinds; a block of ranks has this many times 64 bytes.
    pub columns: usize,
    pub trees: Vec<LaidTree>,
    pub walk: Vec<WalkNode>,
    /// The leaf value of every walk node that is a leaf.
    pub walk_values: Vec<f64>,
    pub outputs: usize,
}

/// A feature with numerical splits.
#[derive(Debug)]
pub(super) struct RankedFeature {
    pub feature: usize,
    /// Ascending, padded with infinities to a power of two that is above `count` and at least 16.
    pub thresholds: Vec<f64>,
    /// Number of thresholds without the padding.
    pub count: usize,
    /// The last of every 16 thresholds, infinite from the last group on; used for up to 255 thresholds.
    pub pivots: [f64; 16],
    pub columns: Vec<RankColumn>,
}

/// One byte per row of a numerical feature.
#[derive(Debug, Clone, Copy)]
pub(super) struct RankColumn {
    pub index: usize,
    pub base: u32,
    /// The rank of NaN.
    pub nan: u8,
    /// The rank of zero, if zero is missing.
    pub zero: Option<u8>,
}

/// One byte per row of a categorical split: 0 if the set contains the row's category, otherwise 1.
#[derive(Debug)]
pub(super) struct SetColumn {
    pub feature: usize,
    pub index: usize,
    pub words: Vec<u32>,
}

/// One tree in the form that the kernels use.
#[derive(Clone, Copy)]
pub(super) struct TreeView<'a> {
    pub steps: &'a [Step],
    /// Padded to 16, 32, 64, 128 or 256 values.
    pub leaves: &'a [f64],
}

/// One tree in both forms.
#[derive(Debug)]
pub(super) struct LaidTree {
    /// Inner nodes in preorder; `None` when the leaves' numbers do not fit a byte.
    pub steps: Option<Vec<Step>>,
    /// Leaf values from left to right, padded to a power of two from 16 up.
    pub leaves: Vec<f64>,
    /// Index of the root in [`Layout::walk`].
    pub root: u32,
}

/// One inner node for masks of rows: rows of mask `own` go left when their rank is at most `rank`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Step {
    pub column: u16,
    pub rank: u8,
    /// Number of leaves under the left child: added to the leaf number of rows that go right.
    pub skip: u8,
    pub own: u8,
    pub left: u8,
    pub right: u8,
}

/// One node for walking row by row: the next node is `first`, or `first + 1` if the rank is above `rank`. A leaf leads to
/// itself. Packed, so that a node is one load.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalkNode(u64);

impl WalkNode {
    fn new(first: u32, column: u16, rank: u8) -> Self {
        Self(u64::from(first) | u64::from(column) << 32 | u64::from(rank) << 48)
    }

    #[inline]
    pub fn first(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    pub fn column(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline]
    pub fn rank(self) -> u8 {
        (self.0 >> 48) as u8
    }
}

/// A split as a comparison: the column and the greatest rank that goes left.
type Comparison = (u16, u8);

impl Layout {
    /// Lays out `forest`; `None` if it needs more columns than can be numbered.
    pub fn new(forest: &Forest) -> Option<Self> {
        let mut builder = Builder::new(forest);
        let mut trees = Vec::with_capacity(forest.trees.len());
        let (mut walk, mut walk_values) = (Vec::new(), Vec::new());
        for tree in &forest.trees {
            let comparisons: Vec<Comparison> =
                tree.nodes.iter().map(|node| builder.comparison(node)).collect::<Option<_>>()?;
            let root = u32::try_from(walk.len()).ok()?;
            lay_walk(tree, &comparisons, &mut walk, &mut walk_values);
            trees.push(lay_tree(tree, &comparisons, root));
        }
        let Builder { features, sets, columns, .. } = builder;
        let features = features.into_values().filter(|feature| !feature.columns.is_empty()).collect();
        Some(Self { features, sets, columns, trees, walk, walk_values, outputs: forest.outputs })
    }
}

/// Finds or creates the column of each split.
struct Builder {
    features: BTreeMap<usize, RankedFeature>,
    sets: Vec<SetColumn>,
    columns: usize,
    ranked: HashMap<(usize, usize, Missing, bool), u16>,
    known_sets: HashMap<(usize, Vec<u32>), u16>,
}

impl Builder {
    fn new(forest: &Forest) -> Self {
        let mut thresholds: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for node in forest.trees.iter().flat_map(|tree| &tree.nodes) {
            if let Test::Numerical { threshold, .. } = node.test {
                // Adding zero makes -0 and 0 one threshold.
                thresholds.entry(node.feature).or_default().push(threshold + 0.0);
            }
        }
        let features = thresholds
            .into_iter()
            .map(|(feature, mut thresholds)| {
                thresholds.sort_unstable_by(f64::total_cmp);
                thresholds.dedup();
                let count = thresholds.len();
                thresholds.resize((count + 1).next_power_of_two().max(16), f64::INFINITY);
                let last = thresholds.len() / 16 - 1;
                let pivot = |group: usize| if group < last { thresholds[group * 16 + 15] } else { f64::INFINITY };
                let pivots = std::array::from_fn(pivot);
                (feature, RankedFeature { feature, thresholds, count, pivots, columns: Vec::new() })
            })
            .collect();
        Self { features, sets: Vec::new(), columns: 0, ranked: HashMap::new(), known_sets: HashMap::new() }
    }

    fn comparison(&mut self, node: &Node) -> Option<Comparison> {
        match &node.test {
            Test::Numerical { threshold, missing, default_left } => {
                self.ranked(node.feature, *threshold + 0.0, *missing, *default_left)
            }
            Test::Categorical { words } => Some((self.set(node.feature, words)?, 0)),
        }
    }

    fn ranked(&mut self, feature: usize, threshold: f64, missing: Missing, default_left: bool) -> Option<Comparison> {
        let ranked = self.features.get_mut(&feature)?;
        let position = ranked.rank(threshold);
        let (chunk, rank) = (position / THRESHOLDS_PER_COLUMN, (position % THRESHOLDS_PER_COLUMN) as u8);
        let default_left = default_left && missing != Missing::None;
        let key = (feature, chunk, missing, default_left);
        if let Some(&column) = self.ranked.get(&key) {
            return Some((column, rank));
        }
        let base = chunk * THRESHOLDS_PER_COLUMN;
        let substitute = if default_left { 0 } else { 255 };
        let (nan, zero) = match missing {
            Missing::None => (ranked.rank(0.0).saturating_sub(base).min(255) as u8, None),
            Missing::Nan => (substitute, None),
            Missing::Zero => (substitute, Some(substitute)),
        };
        let column = u16::try_from(self.columns).ok()?;
        ranked.columns.push(RankColumn { index: self.columns, base: u32::try_from(base).ok()?, nan, zero });
        self.columns += 1;
        self.ranked.insert(key, column);
        Some((column, rank))
    }

    fn set(&mut self, feature: usize, words: &[u32]) -> Option<u16> {
        let key = (feature, words.to_vec());
        if let Some(&column) = self.known_sets.get(&key) {
            return Some(column);
        }
        let column = u16::try_from(self.columns).ok()?;
        self.sets.push(SetColumn { feature, index: self.columns, words: words.to_vec() });
        self.columns += 1;
        self.known_sets.insert(key, column);
        Some(column)
    }
}

impl RankedFeature {
    /// Number of thresholds below `value`; 0 for NaN.
    pub fn rank(&self, value: f64) -> usize {
        self.thresholds[..self.count].partition_point(|threshold| *threshold < value)
    }
}

/// A subtree that remains to be laid out.
struct Pending {
    child: Child,
    slot: u8,
}

fn lay_tree(tree: &Tree, comparisons: &[Comparison], root: u32) -> LaidTree {
    if tree.leaves.len() > MAX_BYTE_LEAVES {
        return LaidTree { steps: None, leaves: Vec::new(), root };
    }
    let sizes = leaf_counts(tree);
    let mut steps = Vec::with_capacity(tree.nodes.len());
    let mut leaves = Vec::with_capacity(tree.leaves.len());
    let mut pending = vec![Pending { child: root_of(tree), slot: 0 }];
    while let Some(Pending { child, slot }) = pending.pop() {
        let index = match child {
            Child::Leaf(leaf) => {
                leaves.push(tree.leaves[leaf]);
                continue;
            }
            Child::Node(index) => index,
        };
        let node = &tree.nodes[index];
        // The left subtree runs first and may overwrite the slots above its own; the right one waits in `slot`.
        let inner = |child: Child| matches!(child, Child::Node(_));
        let right = if inner(node.right) { slot } else { NOWHERE };
        let left = match (inner(node.left), inner(node.right)) {
            (false, _) => NOWHERE,
            (true, true) => slot + 1,
            (true, false) => slot,
        };
        let (column, rank) = comparisons[index];
        steps.push(Step { column, rank, skip: leaves_under(node.left, &sizes) as u8, own: slot, left, right });
        pending.push(Pending { child: node.right, slot });
        pending.push(Pending { child: node.left, slot: if left == NOWHERE { slot } else { left } });
    }
    leaves.resize(leaves.len().next_power_of_two().max(16), 0.0);
    LaidTree { steps: Some(steps), leaves, root }
}

/// Appends the tree's nodes breadth first, siblings side by side.
fn lay_walk(tree: &Tree, comparisons: &[Comparison], walk: &mut Vec<WalkNode>, values: &mut Vec<f64>) {
    let start = walk.len();
    let mut order = vec![root_of(tree)];
    let mut at = 0;
    while at < order.len() {
        let place = start + at;
        match order[at] {
            Child::Leaf(leaf) => {
                walk.push(WalkNode::new(place as u32, 0, 255));
                values.push(tree.leaves[leaf]);
            }
            Child::Node(index) => {
                let (column, rank) = comparisons[index];
                walk.push(WalkNode::new((start + order.len()) as u32, column, rank));
                values.push(0.0);
                order.push(tree.nodes[index].left);
                order.push(tree.nodes[index].right);
            }
        }
        at += 1;
    }
}

fn root_of(tree: &Tree) -> Child {
    if tree.nodes.is_empty() { Child::Leaf(0) } else { Child::Node(0) }
}

/// The number of leaves under every node.
fn leaf_counts(tree: &Tree) -> Vec<usize> {
    let mut order = Vec::with_capacity(tree.nodes.len());
    let mut pending = vec![root_of(tree)];
    while let Some(child) = pending.pop() {
        if let Child::Node(index) = child {
            order.push(index);
            pending.extend([tree.nodes[index].left, tree.nodes[index].right]);
        }
    }
    let mut sizes = vec![0; tree.nodes.len()];
    for &index in order.iter().rev() {
        let node = &tree.nodes[index];
        sizes[index] = leaves_under(node.left, &sizes) + leaves_under(node.right, &sizes);
    }
    sizes
}

fn leaves_under(child: Child, sizes: &[usize]) -> usize {
    match child {
        Child::Leaf(_) => 1,
        Child::Node(index) => sizes[index],
    }
}

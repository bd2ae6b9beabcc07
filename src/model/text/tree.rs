//! Parses one tree's fields into a checked [`Tree`].

use super::fields::{Field, Fields, Flaw};
use crate::model::forest::{Child, Missing, Node, Test, Tree};

/// Maximum number of leaves that LightGBM grows (its limit of `num_leaves`).
const MAX_LEAVES: usize = 131_072;

/// Reads a tree over `features` features.
pub(super) fn parse(mut fields: Fields<'_>, features: usize) -> Result<Tree, Flaw> {
    let leaves_field = fields.take("num_leaves")?;
    let leaves: usize = leaves_field.number()?;
    if !(1..=MAX_LEAVES).contains(&leaves) {
        return Err(leaves_field.flaw(format!("the tree has {leaves} leaves")));
    }
    if let Some(field) = fields.take_if("is_linear")
        && field.number::<u8>()? != 0
    {
        return Err(field.flaw("linear trees (`linear_tree=true`) are not supported"));
    }
    let values = fields.take("leaf_value")?;
    let leaf_values = values.exactly_doubles(leaves)?;
    if leaf_values.iter().any(|value| !value.is_finite()) {
        return Err(values.flaw("a leaf value is infinite"));
    }
    let sets = CategorySets::parse(&mut fields)?;
    let inner = leaves - 1;
    let nodes = NodeFields::take(&mut fields)?.parse(inner, features, &sets)?;
    skim_statistics(&mut fields, leaves)?;
    fields.finish()?;
    let tree = Tree { nodes, leaves: leaf_values };
    check_shape(&tree).map_err(|what| leaves_field.flaw(what))?;
    Ok(tree)
}

/// The fields that describe the nodes, one value per node.
struct NodeFields<'a> {
    feature: Field<'a>,
    threshold: Field<'a>,
    decision: Field<'a>,
    left: Field<'a>,
    right: Field<'a>,
}

impl<'a> NodeFields<'a> {
    fn take(fields: &mut Fields<'a>) -> Result<Self, Flaw> {
        Ok(Self {
            feature: fields.take("split_feature")?,
            threshold: fields.take("threshold")?,
            decision: fields.take("decision_type")?,
            left: fields.take("left_child")?,
            right: fields.take("right_child")?,
        })
    }

    fn parse(&self, count: usize, features: usize, sets: &CategorySets) -> Result<Vec<Node>, Flaw> {
        let split: Vec<usize> = self.feature.exactly(count)?;
        let thresholds = self.threshold.exactly_doubles(count)?;
        let decisions: Vec<u8> = self.decision.exactly(count)?;
        let left: Vec<i32> = self.left.exactly(count)?;
        let right: Vec<i32> = self.right.exactly(count)?;
        (0..count)
            .map(|index| {
                let feature = split[index];
                if feature >= features {
                    return Err(self.feature.flaw(format!("a split on feature {feature} of {features}")));
                }
                Ok(Node {
                    feature,
                    test: self.test(decisions[index], thresholds[index], sets)?,
                    left: child(&self.left, left[index], count)?,
                    right: child(&self.right, right[index], count)?,
                })
            })
            .collect()
    }

    /// Bit 0 categorical, bit 1 default left, bits 2 and 3 the missing type.
    fn test(&self, decision: u8, threshold: f64, sets: &CategorySets) -> Result<Test, Flaw> {
        let missing = match decision >> 2 {
            0 => Missing::None,
            1 => Missing::Zero,
            2 => Missing::Nan,
            _ => return Err(self.decision.flaw(format!("decision type {decision} is not known"))),
        };
        if decision & 1 == 0 {
            return Ok(Test::Numerical { threshold, missing, default_left: decision & 2 != 0 });
        }
        let known = threshold >= 0.0 && threshold.fract() == 0.0;
        match sets.0.get(threshold as usize).filter(|_| known) {
            Some(words) => Ok(Test::Categorical { words: words.clone() }),
            None => Err(self.threshold.flaw(format!("category set {threshold} of {}", sets.0.len()))),
        }
    }
}

/// A negative index is `~leaf`, any other a node's index.
fn child(field: &Field<'_>, index: i32, nodes: usize) -> Result<Child, Flaw> {
    let (child, bound, place) = match usize::try_from(index) {
        Ok(node) => (Child::Node(node), nodes, node),
        Err(_) => (Child::Leaf(!index as usize), nodes + 1, !index as usize),
    };
    if place < bound { Ok(child) } else { Err(field.flaw(format!("child {index} of a tree with {nodes} nodes"))) }
}

/// The tree's category sets, by index.
struct CategorySets(Vec<Vec<u32>>);

impl CategorySets {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, Flaw> {
        let count_field = fields.take("num_cat")?;
        let count: usize = count_field.number()?;
        if count == 0 {
            return Ok(Self(Vec::new()));
        }
        if count > MAX_LEAVES {
            return Err(count_field.flaw(format!("the tree has {count} category sets")));
        }
        let bounds_field = fields.take("cat_boundaries")?;
        let bounds: Vec<usize> = bounds_field.exactly(count + 1)?;
        if bounds[0] != 0 || bounds.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(bounds_field.flaw("cat_boundaries do not ascend from 0"));
        }
        let words: Vec<u32> = fields.take("cat_threshold")?.exactly(bounds[count])?;
        Ok(Self(bounds.windows(2).map(|pair| words[pair[0]..pair[1]].to_vec()).collect()))
    }
}

/// Checks the statistics that training leaves behind and prediction does not read. In a tree of one leaf they are empty.
fn skim_statistics(fields: &mut Fields<'_>, leaves: usize) -> Result<(), Flaw> {
    for key in ["split_gain", "internal_value", "internal_weight", "internal_count"] {
        if let Some(field) = fields.take_if(key) {
            field.skim(leaves - 1)?;
        }
    }
    for key in ["leaf_weight", "leaf_count"] {
        if let Some(field) = fields.take_if(key) {
            field.skim(if leaves == 1 && field.value.is_empty() { 0 } else { leaves })?;
        }
    }
    if let Some(field) = fields.take_if("shrinkage") {
        field.skim(1)?;
    }
    Ok(())
}

/// Checks that every node and every leaf is reached exactly once from the root.
fn check_shape(tree: &Tree) -> Result<(), String> {
    let mut seen_nodes = vec![false; tree.nodes.len()];
    let mut seen_leaves = vec![false; tree.leaves.len()];
    let mut pending = vec![if tree.nodes.is_empty() { Child::Leaf(0) } else { Child::Node(0) }];
    while let Some(child) = pending.pop() {
        let (seen, index, kind) = match child {
            Child::Node(index) => (&mut seen_nodes, index, "node"),
            Child::Leaf(index) => (&mut seen_leaves, index, "leaf"),
        };
        if std::mem::replace(&mut seen[index], true) {
            return Err(format!("{kind} {index} is reached twice"));
        }
        if let Child::Node(index) = child {
            pending.push(tree.nodes[index].right);
            pending.push(tree.nodes[index].left);
        }
    }
    if seen_nodes.iter().chain(&seen_leaves).any(|seen| !seen) {
        return Err("a part of the tree is never reached".to_owned());
    }
    Ok(())
}

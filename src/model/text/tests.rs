//! Texts that the reader refuses, and its messages.

use super::parse;
use crate::model::forest::{Child, Missing, Test};

const MODEL: &str = "tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=1
objective=binary sigmoid:1
feature_names=x y
feature_infos=[0:1] [0:1]
tree_sizes=SIZE

TREEend of trees

feature_importances:
";

const TREE: &str = "Tree=0
num_leaves=3
num_cat=1
split_feature=0 1
split_gain=2 1
threshold=0.5 0
decision_type=10 1
left_child=1 -1
right_child=-2 -3
leaf_value=0.25 -0.5 1e-3
leaf_weight=1 1 1
leaf_count=1 1 1
internal_value=0 0
internal_weight=2 1
internal_count=3 2
cat_boundaries=0 1
cat_threshold=5
is_linear=0
shrinkage=0.1


";

fn model(tree: &str) -> String {
    MODEL.replace("SIZE", &tree.len().to_string()).replace("TREE", tree)
}

fn flaw(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_sound_model_is_read() {
    let forest = parse(&model(TREE)).unwrap();
    assert_eq!(forest.features(), ["x", "y"]);
    let tree = &forest.trees()[0];
    assert_eq!(tree.leaves, [0.25, -0.5, 1e-3]);
    assert_eq!(tree.nodes[0].test, Test::Numerical { threshold: 0.5, missing: Missing::Nan, default_left: true });
    assert_eq!((tree.nodes[0].left, tree.nodes[0].right), (Child::Node(1), Child::Leaf(1)));
    assert_eq!(tree.nodes[1].test, Test::Categorical { words: vec![5] });
    assert_eq!([0.0, 1.0, 2.0, 32.0, f64::NAN].map(|y| tree.leaf_of(&[0.5, y])), [0, 2, 0, 2, 2]);
    assert_eq!([0.6, f64::NAN].map(|x| tree.leaf_of(&[x, 0.0])), [1, 0]);
}

#[test]
fn every_damage_to_a_tree_is_named_with_its_line() {
    for (from, to, expected) in [
        ("num_leaves=3\n", "", "line 13: field `num_leaves` is missing"),
        ("num_leaves=3", "num_leaves=4", "line 21: field `leaf_value` has 3 values instead of 4"),
        ("num_leaves=3", "num_leaves=0", "line 13: the tree has 0 leaves"),
        ("num_leaves=3", "num_leaves=3x", "line 13: `3x` in field `num_leaves` is not a usable integer"),
        ("split_feature=0 1", "split_feature=0 2", "line 15: a split on feature 2 of 2"),
        ("split_feature=0 1", "split_feature=0  1", "line 15: `` in field `split_feature` is not a usable integer"),
        ("left_child=1 -1", "left_child=0 -1", "line 13: node 0 is reached twice"),
        ("left_child=1 -1", "left_child=2 -1", "line 19: child 2 of a tree with 2 nodes"),
        ("right_child=-2 -3", "right_child=-2 -4", "line 20: child -4 of a tree with 2 nodes"),
        ("right_child=-2 -3", "right_child=-2 -2", "line 13: leaf 1 is reached twice"),
        ("threshold=0.5 0", "threshold=nan 0", "line 17: `nan` in field `threshold` is not a number"),
        ("threshold=0.5 0", "threshold=0.5 1", "line 17: category set 1 of 1"),
        ("decision_type=10 1", "decision_type=12 1", "line 18: decision type 12 is not known"),
        ("leaf_value=0.25", "leaf_value=inf", "line 21: a leaf value is infinite"),
        ("leaf_value=0.25", "leaf_value=0x25", "line 21: `0x25` in field `leaf_value` is not a number"),
        ("leaf_weight=1 1 1", "leaf_weight=1 1", "line 22: field `leaf_weight` has 2 values instead of 3"),
        ("cat_boundaries=0 1", "cat_boundaries=1 1", "line 27: cat_boundaries do not ascend from 0"),
        ("cat_threshold=5", "cat_threshold=5 6", "line 28: field `cat_threshold` has 2 values instead of 1"),
        ("split_gain=2 1", "split_gain=2 x", "line 16: `x` in field `split_gain` is not a number"),
        ("split_gain=2 1", "threshold=2 1", "line 17: field `threshold` is given twice"),
        ("split_gain=2 1", "split_gian=2 1", "line 16: field `split_gian` is not known"),
        ("split_gain=2 1", "split_gain", "line 16: `split_gain` is not a field"),
        ("is_linear=0", "is_linear=1", "line 29: linear trees (`linear_tree=true`) are not supported"),
        ("Tree=0", "Tree=1", "line 12: `Tree=0` of"),
    ] {
        let found = flaw(&model(&TREE.replace(from, to)));
        assert!(found.starts_with(expected), "{to:?}: {found}");
    }
}

#[test]
fn every_damage_to_the_header_is_named() {
    let sound = model(TREE);
    for (from, to, expected) in [
        ("tree\n", "trae\n", "line 1: a LightGBM text model begins with the line `tree`"),
        ("version=v4", "version=v9", "line 2: model format `v9` is not known"),
        ("num_class=1", "num_class=0", "line 3: num_class is 0"),
        (
            "num_tree_per_iteration=1",
            "num_tree_per_iteration=2",
            "line 4: num_tree_per_iteration differs from num_class",
        ),
        ("max_feature_idx=1", "max_feature_idx=2", "line 8: 2 feature names for 3 features"),
        ("max_feature_idx=1", "max_feature_idx=99999999", "line 6: the model has 100000000 features, more than 100000"),
        ("binary sigmoid:1", "binary", "line 7: objective `binary` lacks its `sigmoid:`"),
        ("binary sigmoid:1", "binary sigmoid:-1", "line 7: the objective's `sigmoid:-1` is not understood"),
        ("binary sigmoid:1", "binory sigmoid:1", "line 7: objective `binory` is unknown"),
        ("feature_names=x y", "feature_names=x x", "line 8: feature `x` is named twice"),
        ("feature_infos=[0:1] [0:1]", "feature_infos=[0:1]", "line 9: feature_infos do not match 2 features"),
        ("label_index=0\n", "", "line 2: field `label_index` is missing"),
        ("label_index=0\n", "lable_index=0\nlabel_index=0\n", "line 5: field `lable_index` is not known"),
        ("end of trees", "end of tree", "line 33: `end of trees` is expected here"),
    ] {
        let found = flaw(&sound.replacen(from, to, 1));
        assert_eq!(found, expected, "{to:?}");
    }
    assert_eq!(flaw(&sound.replace('\n', "\r\n")), "line 1: a carriage return (Windows line ends)");
    let cut = &sound[..sound.len() - 80];
    assert!(flaw(cut).contains("cut short") || flaw(cut).contains("expected here"), "{}", flaw(cut));
}

#[test]
fn what_follows_the_trees_must_be_what_lightgbm_can_read_back() {
    let with = |tail: &str| format!("{}{tail}", model(TREE));
    let sound = "x=1\n\nparameters:\n[boosting: gbdt]\n[sigmoid: 1]\n[learning_rate: 1e-05]\n[eval_at: 1,2,3]\n[data: ]\n[new_one: a:b]\n\n\
                 end of parameters\n\npandas_categorical:[[\"a\", null]]\n";
    parse(&with(sound)).unwrap();
    for (damaged, expected) in [
        ("[sigmoid 1]", "a parameter is written `[name: value]`"),
        ("[sigmoid:1]", "a parameter is written `[name: value]`"),
        ("[sigmoid: 1", "a parameter is written `[name: value]`"),
        ("leaf_count=1 2", "a parameter is written `[name: value]`"),
        ("[sig\u{1a}moid: 1]", "a parameter's name has letters, digits and `_`"),
        ("[sigmoid: x]", "a parameter is not a number"),
        ("[eval_at: 1;2]", "a parameter is not a list of numbers"),
        ("[boosting: g\"t]", "a parameter's value holds a character that LightGBM cannot read back"),
    ] {
        let text = with(&sound.replace("[sigmoid: 1]", damaged));
        let line = 1 + text.split('\n').position(|line| line == damaged).unwrap();
        assert_eq!(flaw(&text), format!("line {line}: {expected}"));
    }
    assert!(flaw(&with(&sound.replace("end of parameters", "end of paramters"))).contains("[name: value]"));
    assert!(flaw(&with(sound.split("end of").next().unwrap())).ends_with("the parameters do not end"));
    assert!(flaw(&with(&sound.replace("null]]", "nul]]"))).ends_with("the categories of pandas are no JSON"));
    let twice = with(sound).replace("feature_infos=[0:1]", "feature_infos=[=0:1]");
    assert!(flaw(&twice).ends_with("feature_infos do not match 2 features"));
}

//! Random model texts in LightGBM's format, and random rows at and around their thresholds.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::model::forest::ZERO_THRESHOLD;

/// Parameters of a random model.
#[derive(Debug, Clone)]
pub struct Shape {
    pub features: usize,
    pub iterations: usize,
    pub max_leaves: usize,
    pub outputs: usize,
    pub objective: Option<&'static str>,
    pub average: bool,
    /// Share of the splits that are categorical, in percent.
    pub categorical: u32,
    /// Number of thresholds per feature to choose from.
    pub thresholds: usize,
    /// `true` if every feature has one missing type, as in trained models.
    pub steady: bool,
}

/// A random model, and the data to generate rows for it.
pub struct RandomModel {
    pub text: String,
    pub shape: Shape,
    pools: Vec<Vec<f64>>,
}

const AWKWARD: [f64; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    ZERO_THRESHOLD,
    -ZERO_THRESHOLD,
    1e-35,
    1.1e-35,
    -1.1e-35,
    5e-324,
    -5e-324,
    2.2e-308,
    1e-310,
    f64::MAX,
    f64::MIN,
    1e300,
    -1e300,
    f64::INFINITY,
    f64::NEG_INFINITY,
    31.0,
    32.0,
    2_147_483_647.0,
    -2_147_483_649.0,
];

impl Shape {
    /// A random shape within the required sizes.
    pub fn random(rng: &mut StdRng) -> Self {
        let outputs = if rng.random_ratio(1, 4) { rng.random_range(2..5) } else { 1 };
        let single = [
            None,
            Some("regression"),
            Some("regression sqrt"),
            Some("binary sigmoid:1"),
            Some("binary sigmoid:0.7"),
            Some("poisson"),
            Some("cross_entropy"),
            Some("cross_entropy_lambda"),
            Some("lambdarank"),
            Some("tweedie"),
            Some("custom"),
            Some("mse"),
        ];
        let objective = match outputs {
            1 => *single.choose(rng).unwrap(),
            2 => None,
            3 => Some("multiclass num_class:3"),
            _ => Some("multiclassova num_class:4 sigmoid:1.5"),
        };
        let iterations = *[1, 2, 7, 30, 100].choose(rng).unwrap();
        Self {
            features: rng.random_range(1..20),
            iterations: if rng.random_ratio(1, 40) { 500 } else { iterations },
            max_leaves: *[2, 3, 8, 31, 32, 33, 64, 65, 127, 255].choose(rng).unwrap(),
            outputs,
            objective,
            average: rng.random_ratio(1, 8),
            categorical: *[0, 0, 0, 20, 100].choose(rng).unwrap(),
            thresholds: *[1, 5, 60, 254, 256, 600].choose(rng).unwrap(),
            steady: rng.random_bool(0.5),
        }
    }
}

impl RandomModel {
    /// The model of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let shape = Shape::random(&mut rng);
        Self::of_shape(shape, &mut rng)
    }

    /// A random model of this shape.
    pub fn of_shape(shape: Shape, rng: &mut StdRng) -> Self {
        let pools: Vec<Vec<f64>> =
            (0..shape.features).map(|_| (0..shape.thresholds).map(|_| threshold(rng)).collect()).collect();
        let missing: Vec<u8> = (0..shape.features).map(|_| rng.random_range(0..3)).collect();
        let trees: Vec<String> = (0..shape.iterations * shape.outputs)
            .map(|index| format!("Tree={index}\n{}\n\n", tree(&shape, &pools, &missing, rng)))
            .collect();
        let mut text = String::from("tree\nversion=v4\n");
        let outputs = shape.outputs;
        writeln!(text, "num_class={outputs}\nnum_tree_per_iteration={outputs}\nlabel_index=0").unwrap();
        writeln!(text, "max_feature_idx={}", shape.features - 1).unwrap();
        if let Some(objective) = shape.objective {
            writeln!(text, "objective={objective}").unwrap();
        }
        if shape.average {
            text.push_str("average_output\n");
        }
        let names: Vec<String> = (0..shape.features).map(|feature| format!("f{feature}")).collect();
        writeln!(text, "feature_names={}\nfeature_infos={}", names.join(" "), vec!["none"; names.len()].join(" "))
            .unwrap();
        writeln!(text, "tree_sizes={}\n", join(trees.iter().map(String::len))).unwrap();
        text.push_str(&trees.concat());
        text.push_str("end of trees\n\nfeature_importances:\n");
        Self { text, shape, pools }
    }

    /// Random columns of `rows` values, many of them at or next to a threshold.
    pub fn columns(&self, rows: usize, rng: &mut StdRng) -> Vec<Vec<f64>> {
        self.pools.iter().map(|pool| (0..rows).map(|_| value(pool, rng)).collect()).collect()
    }
}

fn threshold(rng: &mut StdRng) -> f64 {
    match rng.random_range(0..10) {
        0 | 1 => *AWKWARD.choose(rng).unwrap(),
        2 => rng.random_range(-4.0_f64..4.0).round(),
        3 => f64::from_bits(rng.random::<u64>() & !(1 << 52)),
        _ => rng.random_range(-10.0..10.0),
    }
}

fn value(pool: &[f64], rng: &mut StdRng) -> f64 {
    let near = *pool.choose(rng).unwrap();
    match rng.random_range(0..12) {
        0 | 1 => near,
        2 => near.next_up(),
        3 => near.next_down(),
        4 => f64::NAN,
        5 => *AWKWARD.choose(rng).unwrap(),
        6 => f64::from(rng.random_range(-3..70)),
        7 => rng.random_range(-2.0..40.0),
        8 => 0.0,
        _ => rng.random_range(-11.0..11.0),
    }
}

/// The fields of one tree, grown like LightGBM's: a random leaf is split repeatedly.
fn tree(shape: &Shape, pools: &[Vec<f64>], missing: &[u8], rng: &mut StdRng) -> String {
    let leaves: usize = if rng.random_ratio(1, 30) { 1 } else { rng.random_range(2..=shape.max_leaves) };
    let leaves = if rng.random_bool(0.5) && leaves > 1 { shape.max_leaves } else { leaves };
    let inner = leaves - 1;
    let (mut left, mut right) = (Vec::<i64>::new(), Vec::<i64>::new());
    let mut parent: Vec<Option<(usize, bool)>> = vec![None];
    let deep = rng.random_ratio(1, 5);
    for node in 0..inner {
        let leaf = if deep { node.min(rng.random_range(0..=node)) } else { rng.random_range(0..=node) };
        match parent[leaf] {
            Some((above, true)) => left[above] = node as i64,
            Some((above, false)) => right[above] = node as i64,
            None => {}
        }
        left.push(!(leaf as i64));
        right.push(!(node as i64 + 1));
        parent[leaf] = Some((node, true));
        parent.push(Some((node, false)));
    }
    let (mut features, mut thresholds, mut decisions) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bounds, mut words) = (vec![0], Vec::<u32>::new());
    for _ in 0..inner {
        let feature = rng.random_range(0..shape.features);
        features.push(feature);
        if rng.random_range(0..100) < shape.categorical {
            thresholds.push((bounds.len() - 1).to_string());
            decisions.push(1 + 4 * rng.random_range(0..3));
            words.extend((0..rng.random_range(1..4)).map(|_| rng.random::<u32>()));
            bounds.push(words.len());
        } else {
            thresholds.push(number(*pools[feature].choose(rng).unwrap()));
            let kind = if shape.steady { missing[feature] } else { rng.random_range(0..3) };
            decisions.push(2 * u8::from(rng.random_bool(0.5)) + 4 * kind);
        }
    }
    let values = (0..leaves).map(|_| match rng.random_range(0..20) {
        0 => "0".to_owned(),
        1 => "-0".to_owned(),
        2 => number(5e-324),
        3 => number(rng.random_range(-1e-12..1e-12)),
        _ => number(rng.random_range(-0.3..0.3)),
    });
    let mut text = format!("num_leaves={leaves}\nnum_cat={}\n", bounds.len() - 1);
    write!(text, "split_feature={}\nsplit_gain={}\n", join(features), join(vec![1; inner])).unwrap();
    write!(text, "threshold={}\ndecision_type={}\n", thresholds.join(" "), join(decisions)).unwrap();
    write!(text, "left_child={}\nright_child={}\n", join(left), join(right)).unwrap();
    write!(text, "leaf_value={}\nleaf_weight=", join(values)).unwrap();
    if bounds.len() > 1 {
        write!(text, "{}\nleaf_count=", join(vec![1; leaves])).unwrap();
        write!(text, "{}\ncat_boundaries={}\ncat_threshold={}", join(vec![1; leaves]), join(bounds), join(words))
            .unwrap();
    } else if leaves > 1 {
        write!(text, "{}", join(vec![1; leaves])).unwrap();
    }
    text.push_str("\nis_linear=0\nshrinkage=0.1\n");
    text
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    format!("{value:e}")
}

fn join<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}

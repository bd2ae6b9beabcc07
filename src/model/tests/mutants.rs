//! Thousands of damaged copies of real models: every accepted one scores as in LightGBM, and loads in its Python package.
//!
//! The reference is LightGBM, which trusts its input: the mutants are tried in a process of their own, so that if LightGBM
//! crashes, the mutant can be named.

use std::process::Command;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::assert_all_agree;
use crate::model::Model;

const MODELS: [(&str, &str); 4] = [
    ("fraud", include_str!("../../../tests/data/fraud.txt")),
    ("histories", include_str!("../../../tests/data/fraud_histories.txt")),
    ("binary", include_str!("fixtures/python_binary.txt")),
    ("forest", include_str!("fixtures/python_forest.txt")),
];

/// The model, the first seed and the number of mutants of a child.
const TASK: &str = "WEIR_MUTANTS";

fn mutate(text: &str, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..9) {
        0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..(at + rng.random_range(1..40)).min(text.len()))),
        4 => bytes[at] = *b"0123456789 -=.\ne[]:,\"".choose(rng).unwrap(),
        5 => {
            let from = rng.random_range(0..bytes.len());
            let piece = bytes[from..(from + rng.random_range(1..40)).min(text.len())].to_vec();
            drop(bytes.splice(at..at, piece));
        }
        kind => {
            let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
            let (a, b) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
            match kind {
                6 => lines.swap(a, b),
                7 => lines[a] = lines[b],
                _ => drop(lines.remove(a)),
            }
            bytes = lines.join(&b'\n');
        }
    }
    bytes
}

/// Rows on both sides of typical thresholds, with missing values among them.
fn columns(features: usize, rng: &mut StdRng) -> Vec<Vec<f64>> {
    let value = |rng: &mut StdRng| match rng.random_range(0..6) {
        0 => f64::NAN,
        1 => 0.0,
        2 => f64::from(rng.random_range(-3..40)),
        3 => rng.random_range(-1e6..1e6),
        _ => rng.random_range(-50.0..500.0),
    };
    (0..features).map(|_| (0..20).map(|_| value(rng)).collect()).collect()
}

fn judge(name: &str, seed: u64) -> bool {
    let mut rng = StdRng::seed_from_u64(seed);
    let original = MODELS.iter().find(|(known, _)| *known == name).unwrap().1;
    let Ok(text) = String::from_utf8(mutate(original, &mut rng)) else { return false };
    // Loading includes LightGBM's own reader, and the check of its parameters as Python reads them.
    let Ok(model) = Model::from_text("mutant", &text) else { return false };
    let columns = columns(model.features().len(), &mut rng);
    assert_all_agree(&text, &columns, &format!("{name}, seed {seed}"));
    true
}

#[test]
#[ignore = "a part of the test below, in a process of its own"]
fn mutants_of_one_task() {
    let Ok(task) = std::env::var(TASK) else { return };
    let parts: Vec<&str> = task.split(' ').collect();
    let (first, count): (u64, u64) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
    let mut accepted = 0;
    for seed in first..first + count {
        println!("seed {seed}");
        accepted += u64::from(judge(parts[0], seed));
    }
    println!("accepted {accepted}");
}

#[test]
fn what_is_accepted_of_3_000_mutants_scores_as_lightgbm_scores_it() {
    let mut accepted = 0;
    for (name, first, count) in
        [("fraud", 0, 1_500), ("binary", 10_000, 600), ("forest", 20_000, 600), ("histories", 30_000, 300)]
    {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "model::tests::mutants::mutants_of_one_task", "--ignored", "--nocapture"])
            .env(TASK, format!("{name} {first} {count}"))
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout).into_owned();
        let last = out.lines().rfind(|line| line.starts_with("seed ")).unwrap_or("before the first").to_owned();
        let errors = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{name}, {last}: {}\n{errors}", child.status);
        let said = out.lines().find_map(|line| line.strip_prefix("accepted ")).unwrap();
        accepted += said.parse::<u64>().unwrap();
    }
    assert!(accepted > 300, "{accepted} are enough to tell");
}

#[test]
fn parameters_that_pythons_package_cannot_read_back_are_refused() {
    let whole = MODELS[0].1;
    Model::from_text("whole", whole).unwrap();
    for (from, to) in [
        ("[is_unbalance: 0]", "[is_unbalanc 0]"),
        ("[is_unbalance: 0]", "[is_unbalance: 0"),
        ("[is_unbalance: 0]", "amount=70"),
        ("[is_unbalance: 0]\n", "[label_gain: 1,2]\n[label_gain: 0x1]\n"),
        ("[boosting: gbdt]", "[boosting: g\"bdt]"),
        ("end of parameters", "end of parameter"),
        ("pandas_categorical:null", "pandas_categorical:nul"),
    ] {
        assert!(whole.contains(from), "{from}");
        Model::from_text("damaged", &whole.replace(from, to)).expect_err(to);
    }
    Model::from_text("cut", &whole[..whole.find("[is_unbalance").unwrap()]).expect_err("cut");
    // Models written by R and the C interface have no categories, and may have no parameters.
    Model::from_text("bare", &whole[..whole.find("\nparameters:").unwrap()]).unwrap();
}

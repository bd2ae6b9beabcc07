//! Damaged model files: refused with position and reason, or understood exactly as LightGBM understands them.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::assert_all_agree;
use super::random::{RandomModel, Shape};
use crate::error::ErrorKind;
use crate::model::Model;
use crate::model::text::parse;

fn small_model(seed: u64) -> RandomModel {
    let mut rng = StdRng::seed_from_u64(seed);
    let shape = Shape {
        features: 4,
        iterations: 3,
        max_leaves: 6,
        outputs: 1,
        objective: Some("binary sigmoid:1"),
        average: false,
        categorical: 20,
        thresholds: 20,
        steady: true,
    };
    RandomModel::of_shape(shape, &mut rng)
}

fn damage(text: &str, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..6) {
        0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes.truncate(at),
        3 => {
            let end = (at + rng.random_range(1..40)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => bytes[at] = *b"0123456789 -=.\ne".choose(rng).unwrap(),
        _ => {
            let mut lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            let (a, b) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
            if rng.random_bool(0.5) {
                lines.swap(a, b);
            } else {
                lines[a] = lines[b].clone();
            }
            bytes = lines.join(&b'\n');
        }
    }
    bytes
}

#[test]
fn ten_thousand_damaged_files_are_refused_or_mean_what_lightgbm_reads() {
    let mut rng = StdRng::seed_from_u64(7);
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..10_000 {
        let random = small_model(round % 50);
        let Ok(text) = String::from_utf8(damage(&random.text, &mut rng)) else {
            refused += 1;
            continue;
        };
        match parse(&text) {
            Err(flaw) => {
                assert!(!flaw.what.is_empty());
                refused += 1;
            }
            Ok(forest) => {
                let columns: Vec<Vec<f64>> =
                    random.columns(20, &mut rng).into_iter().cycle().take(forest.features().len()).collect();
                assert_all_agree(&text, &columns, &format!("round {round}\n{text}"));
                accepted += 1;
            }
        }
    }
    assert!(refused > 5_000 && accepted > 500, "refused {refused}, accepted {accepted}");
}

#[test]
fn a_file_that_is_missing_or_no_model_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fraud.txt");
    let error = Model::load(&path).unwrap_err();
    assert_eq!(error.message(), format!("model file `{}` cannot be read", path.display()));
    for (bytes, detail) in [
        (&b"\xff\xfe"[..], "It is not text (UTF-8)."),
        (b"", "At line 1: a LightGBM text model begins with the line `tree`."),
        (b"tree\nversion=v4\n\n", "At line 2: field `num_class` is missing."),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Model::load(&path).unwrap_err();
        assert_eq!((error.kind(), error.detail()), (ErrorKind::Config, Some(detail)));
    }
    std::fs::write(&path, small_model(1).text).unwrap();
    let model = Model::load(&path).unwrap();
    assert_eq!((model.trees(), model.hash().len()), (3, 64));
}

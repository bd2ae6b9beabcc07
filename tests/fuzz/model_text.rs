//! Any bytes as a model file: refused, or scored alike by every evaluator, LightGBM's included.
//!
//! The body of the fuzz target, which the integration tests run too, over real models and damaged ones.

use weir::model::Model;
use weir::model::evaluator::{Batch, Column};

const VALUES: [f64; 8] = [0.0, 1.0, -1.0, 0.5, f64::NAN, f64::INFINITY, 7.0, 1e-36];

/// Panics when the parser or an evaluator does not keep its promise about `data`.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(model) = Model::from_text("fuzz", text) else { return };
    if model.features().len() > 1_000 {
        return;
    }
    let columns: Vec<Vec<f64>> = (0..model.features().len()).map(rotated).collect();
    let columns = columns.iter().map(|column| Column::plain(column)).collect();
    let batch = Batch::new(columns, VALUES.len()).expect("columns of one length");
    let evaluators = Model::evaluators(text).expect("it loaded before");
    let mut expected = vec![0.0; VALUES.len() * model.outputs()];
    evaluators[0].score(&batch, &mut expected).expect("LightGBM scores what was accepted");
    for evaluator in &evaluators[1..] {
        let mut scores = vec![0.0; expected.len()];
        evaluator.score(&batch, &mut scores).expect("ours score what was accepted");
        for (ours, theirs) in scores.iter().zip(&expected) {
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{evaluator:?}");
        }
    }
}

fn rotated(shift: usize) -> Vec<f64> {
    VALUES.iter().cycle().skip(shift % VALUES.len()).take(VALUES.len()).copied().collect()
}

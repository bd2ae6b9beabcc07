//! Tests over whole models; [`random`] generates the models and the rows.

mod agreement;
mod damage;
mod function;
mod mutants;
mod python;
mod random;
mod training;

use super::evaluator::{Batch, Column, Evaluator};
use super::forest::Forest;
use super::{Model, text};

/// Scores rows given as columns.
pub(super) fn score(model: &Model, columns: &[Vec<f64>]) -> Vec<f64> {
    let rows = columns[0].len();
    let mut scores = vec![0.0; rows * model.outputs()];
    let columns = columns.iter().map(|column| Column::plain(column)).collect();
    model.score(&Batch::new(columns, rows).unwrap(), &mut scores).unwrap();
    scores
}

/// Asserts equality to the last bit; NaNs are equal whatever their payload.
pub(super) fn assert_same_bits(ours: &[f64], theirs: &[f64], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
            "{what}: score {index} is {a:e}, LightGBM's {b:e}"
        );
    }
}

/// Scores rows by the definition in [`super::forest`].
pub(super) fn by_definition(forest: &Forest, columns: &[Vec<f64>]) -> Vec<f64> {
    let rows = columns[0].len();
    let mut scores = vec![0.0; rows * forest.outputs()];
    for (row, scores) in scores.chunks_mut(forest.outputs()).enumerate() {
        let values: Vec<f64> = columns.iter().map(|column| column[row]).collect();
        forest.score_row(&values, scores);
    }
    scores
}

/// Asserts that every evaluator and the definition give LightGBM's bits for these rows.
pub(super) fn assert_all_agree(model: &str, columns: &[Vec<f64>], what: &str) {
    let forest = text::parse(model).unwrap();
    let evaluators = Model::evaluators(model).unwrap();
    let rows = columns[0].len();
    let batch = Batch::new(columns.iter().map(|column| Column::plain(column)).collect(), rows).unwrap();
    let score = |evaluator: &dyn Evaluator| {
        let mut scores = vec![7.0; rows * forest.outputs()];
        evaluator.score(&batch, &mut scores).unwrap();
        scores
    };
    let expected = score(evaluators[0].as_ref());
    assert_same_bits(&by_definition(&forest, columns), &expected, &format!("definition, {what}"));
    for evaluator in &evaluators[1..] {
        assert_same_bits(&score(evaluator.as_ref()), &expected, &format!("{evaluator:?}, {what}"));
    }
}

//! Training, and models that LightGBM trained itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, Float64Array, RecordBatch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{assert_all_agree, score};
use crate::model::{Model, train};

/// Columns `a`, `b`, `c` with missing values and zeros, and a label that depends on them.
pub(super) fn separable(rows: usize) -> (Vec<Vec<f64>>, Vec<f32>) {
    let mut rng = StdRng::seed_from_u64(3);
    let mut columns = vec![Vec::new(), Vec::new(), Vec::new()];
    let mut labels = Vec::new();
    for _ in 0..rows {
        let a: f64 = rng.random_range(-5.0..5.0);
        let b = f64::from(rng.random_range(0..12));
        let c = f64::from(u8::from(rng.random_bool(0.3)));
        labels.push(f32::from(u8::from(a * (b - 5.0) + 3.0 * c + rng.random_range(-2.0..2.0) > 1.0)));
        columns[0].push(if rng.random_ratio(1, 10) { f64::NAN } else { a });
        columns[1].push(if rng.random_ratio(1, 20) { f64::NAN } else { b });
        columns[2].push(c);
    }
    (columns, labels)
}

/// The text of a model trained on [`separable`] rows.
pub(super) fn trained(parameters: &[(&str, &str)]) -> String {
    let (columns, labels) = separable(3_000);
    let arrays = ["a", "b", "c"].iter().zip(columns).map(|(name, column)| {
        let column = column.into_iter().map(|value| (!value.is_nan()).then_some(value));
        (*name, Arc::new(column.collect::<Float64Array>()) as Arc<dyn Array>)
    });
    let batch = RecordBatch::try_from_iter(arrays).unwrap();
    let mut all =
        BTreeMap::from([("objective".to_owned(), "binary".to_owned()), ("num_iterations".to_owned(), "20".to_owned())]);
    all.extend(parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    train(&batch, &labels, &all).unwrap()
}

#[test]
fn a_trained_model_bears_its_features_names_and_separates() {
    let model = Model::from_text("trained", &trained(&[])).unwrap();
    assert_eq!(model.features(), ["a", "b", "c"]);
    assert_eq!((model.trees(), model.outputs()), (20, 1));
    let (columns, labels) = separable(3_000);
    let scores = score(&model, &columns);
    let right = scores.iter().zip(&labels).filter(|(score, label)| (**score > 0.5) == (**label > 0.5)).count();
    assert!(right > 2_500, "{right} of 3000 right");
}

#[test]
fn training_twice_gives_the_same_text() {
    assert_eq!(
        trained(&[("bagging_fraction", "0.5"), ("bagging_freq", "1")]),
        trained(&[("bagging_fraction", "0.5"), ("bagging_freq", "1")])
    );
}

#[test]
fn models_of_every_kind_that_lightgbm_trains_are_read_and_scored_alike() {
    let kinds: &[&[(&str, &str)]] = &[
        &[],
        &[("use_missing", "false")],
        &[("zero_as_missing", "true")],
        &[("categorical_feature", "1"), ("min_data_per_group", "10"), ("max_cat_to_onehot", "1")],
        &[("categorical_feature", "1,2"), ("cat_smooth", "1")],
        &[("boosting", "rf"), ("bagging_fraction", "0.5"), ("bagging_freq", "1")],
        &[("boosting", "dart")],
        &[("data_sample_strategy", "goss")],
        &[("num_leaves", "255"), ("min_data_in_leaf", "1")],
        &[("objective", "regression")],
        &[("objective", "regression"), ("reg_sqrt", "true")],
        &[("objective", "l1")],
        &[("objective", "huber")],
        &[("objective", "quantile"), ("alpha", "0.3")],
        &[("objective", "poisson")],
        &[("objective", "tweedie")],
        &[("objective", "cross_entropy")],
        &[("objective", "cross_entropy_lambda")],
        &[("objective", "multiclass"), ("num_class", "3")],
        &[("objective", "multiclassova"), ("num_class", "2"), ("sigmoid", "0.8")],
        &[("objective", "binary"), ("sigmoid", "0.35")],
        &[("min_data_in_leaf", "5000")],
    ];
    let (mut columns, _) = separable(500);
    columns[0][..4].copy_from_slice(&[f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-40]);
    columns[1][..4].copy_from_slice(&[1e9, -0.5, 99.0, f64::NAN]);
    for parameters in kinds {
        let text = trained(parameters);
        assert_all_agree(&text, &columns, &format!("{parameters:?}"));
    }
}

#[test]
fn a_linear_tree_model_is_refused_by_name() {
    let text = trained(&[]).replacen("is_linear=0", "is_linear=1", 1);
    let error = Model::from_text("linear", &text).unwrap_err();
    assert!(error.detail().unwrap().contains("linear trees"), "{error:?}");
}

#[test]
fn unknown_and_unusable_parameters_are_errors() {
    let batch =
        RecordBatch::try_from_iter([("a", Arc::new(Float64Array::from(vec![1.0, 2.0])) as Arc<dyn Array>)]).unwrap();
    let with = |key: &str, value: &str| {
        train(&batch, &[0.0, 1.0], &BTreeMap::from([(key.to_owned(), value.to_owned())])).unwrap_err()
    };
    let error = with("num_leafs", "3");
    assert_eq!(error.message(), "LightGBM has no parameter `num_leafs`");
    assert_eq!(error.hint(), Some("Did you mean `num_leaves`?"));
    assert!(with("objective", "binary data=/tmp/x").message().contains("unusable value"));
    assert!(with("n_estimators", "many").message().contains("num_iterations"));
    assert!(with("objective", "nonsense").message().contains("nonsense"));
}

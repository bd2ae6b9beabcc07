//! The SQL function.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;

use super::random::RandomModel;
use super::{assert_same_bits, score};
use crate::model::tests::training::{separable, trained};
use crate::model::{Model, ModelSlot, ScoringUdf};

/// A session with table `t (a DOUBLE, b INT, c BOOLEAN, d DECIMAL, s STRING)` and function `fraud_score` of `a`, `b`, `c`.
fn session() -> (SessionContext, Arc<ModelSlot>) {
    let context = SessionContext::new();
    let batch = RecordBatch::try_from_iter([
        ("a", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(-3.0)])) as Arc<dyn Array>),
        ("b", Arc::new(Int32Array::from(vec![Some(1), Some(7), None]))),
        ("c", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("d", Arc::new(Decimal128Array::from(vec![50, 75, 100]).with_precision_and_scale(5, 2).unwrap())),
        ("s", Arc::new(StringArray::from(vec!["x", "y", "z"]))),
    ])
    .unwrap();
    context.register_batch("t", batch).unwrap();
    let slot = ModelSlot::new(Model::from_text("m", &trained(&[])).unwrap());
    context.register_udf(ScalarUDF::from(ScoringUdf::new("fraud_score", Arc::clone(&slot)).unwrap()));
    (context, slot)
}

async fn column(context: &SessionContext, sql: &str) -> Vec<f64> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Float64Type>().values().to_vec()).collect()
}

async fn failure(context: &SessionContext, sql: &str) -> String {
    match context.sql(sql).await {
        Ok(frame) => frame.create_physical_plan().await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn integers_booleans_and_nulls_are_scored_like_lightgbm_scores_them() {
    let (context, slot) = session();
    let scores = column(&context, "SELECT fraud_score(a, b, c) FROM t").await;
    let nan = f64::NAN;
    let columns = [vec![0.5, nan, -3.0], vec![1.0, 7.0, nan], vec![1.0, nan, 0.0]];
    assert_same_bits(&scores, &score(&slot.current(), &columns), "sql");
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
}

#[tokio::test]
async fn decimals_and_literals_are_numbers() {
    let (context, slot) = session();
    let scores = column(&context, "SELECT fraud_score(d, 3, NULL) FROM t").await;
    let columns = [vec![0.5, 0.75, 1.0], vec![3.0; 3], vec![f64::NAN; 3]];
    assert_same_bits(&scores, &score(&slot.current(), &columns), "sql");
}

#[tokio::test]
async fn arguments_may_be_named() {
    let (context, _) = session();
    let by_place = column(&context, "SELECT fraud_score(a, b, c) FROM t").await;
    let by_name = column(&context, "SELECT fraud_score(c => c, a => a, b => b) FROM t").await;
    assert_same_bits(&by_name, &by_place, "named");
}

#[tokio::test]
async fn a_wrong_count_or_type_is_a_planning_error_that_names_the_model_and_its_features() {
    let (context, _) = session();
    let count = failure(&context, "SELECT fraud_score(a, b) FROM t").await;
    assert!(count.contains("model `fraud_score` takes 3 arguments, 2 are given"), "{count}");
    assert!(count.contains("`a`, `b`, `c`"), "{count}");
    let none = failure(&context, "SELECT fraud_score() FROM t").await;
    assert!(none.contains("takes 3 arguments, 0 are given"), "{none}");
    let kind = failure(&context, "SELECT fraud_score(a, s, c) FROM t").await;
    assert!(kind.contains("argument 2 (`b`) of model `fraud_score` is Utf8"), "{kind}");
    let name = failure(&context, "SELECT fraud_score(a => a, b => b, x => c) FROM t").await;
    assert!(name.contains('x'), "{name}");
}

#[tokio::test]
async fn a_model_of_several_outputs_returns_lists() {
    let (context, _) = session();
    let random =
        (0..).map(RandomModel::of_seed).find(|model| model.shape.outputs == 3 && model.shape.features == 2).unwrap();
    let slot = ModelSlot::new(Model::from_text("m", &random.text).unwrap());
    context.register_udf(ScalarUDF::from(ScoringUdf::new("classes", Arc::clone(&slot)).unwrap()));
    let batches = context.sql("SELECT classes(a, b) FROM t").await.unwrap().collect().await.unwrap();
    let lists = batches[0].column(0).as_list::<i32>();
    assert_eq!(lists.value_length(1), 3);
    let columns = [vec![0.5, f64::NAN, -3.0], vec![1.0, 7.0, f64::NAN]];
    assert_same_bits(lists.values().as_primitive::<Float64Type>().values(), &score(&slot.current(), &columns), "lists");
}

#[tokio::test]
async fn a_replaced_model_answers_in_plans_made_before() {
    let (context, slot) = session();
    let frame = context.sql("SELECT fraud_score(a, b, c) FROM t").await.unwrap();
    let before = column(&context, "SELECT fraud_score(a, b, c) FROM t").await;
    slot.replace(Model::from_text("m2", &trained(&[("num_iterations", "3")])).unwrap()).unwrap();
    let after = frame.collect().await.unwrap();
    assert_ne!(after[0].column(0).as_primitive::<Float64Type>().values().to_vec(), before);
    let other = RandomModel::of_seed(1);
    let error = slot.replace(Model::from_text("other", &other.text).unwrap()).unwrap_err();
    assert!(error.message().contains("does not match"), "{error}");
}

#[test]
fn many_threads_score_through_one_model() {
    let model = Model::from_text("m", &trained(&[])).unwrap();
    let (columns, _) = separable(5_000);
    let expected = score(&model, &columns);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_same_bits(&score(&model, &columns), &expected, "threads");
                }
            });
        }
    });
}

#[test]
fn names_are_put_in_the_models_order() {
    let model = Model::from_text("m", &trained(&[])).unwrap();
    assert_eq!(model.argument_order(&["c", "A", "b"]).unwrap(), vec![1, 2, 0]);
    for (names, message) in [
        (&["a", "b", "x"][..], "the model has no feature `x`"),
        (&["a", "b", "b"], "feature `b` is given twice"),
        (&["a", "b"], "feature `c` is not given"),
    ] {
        assert_eq!(model.argument_order(names).unwrap_err().message(), message);
    }
}

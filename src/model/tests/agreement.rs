//! Our scores equal LightGBM's to the last bit.

use std::sync::Arc;

use arrow::array::Float64Array;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::random::{RandomModel, Shape};
use super::{assert_all_agree, assert_same_bits, score};
use crate::model::Model;
use crate::model::evaluator::{Batch, Column};

#[test]
fn every_evaluator_gives_lightgbms_bits_on_random_models_and_rows() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let random = RandomModel::of_shape(Shape::random(&mut rng), &mut rng);
        let rows = *[1, 2, 7, 64, 65, 75, 130, 600].choose(&mut rng).unwrap();
        let columns = random.columns(rows, &mut rng);
        assert_all_agree(&random.text, &columns, &format!("seed {seed}, {rows} rows, {:?}", random.shape));
    }
}

#[test]
fn trees_with_more_leaves_than_a_byte_can_number_agree() {
    for (seed, max_leaves) in [(1, 256), (2, 257), (3, 400), (4, 3_000)] {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut shape = Shape::random(&mut rng);
        (shape.max_leaves, shape.iterations, shape.thresholds) = (max_leaves, 4, 600);
        let random = RandomModel::of_shape(shape, &mut rng);
        let columns = random.columns(200, &mut rng);
        assert_all_agree(&random.text, &columns, &format!("{max_leaves} leaves"));
    }
}

#[test]
fn nulls_are_missing_values_and_slices_are_respected() {
    for seed in 0..30 {
        let mut rng = StdRng::seed_from_u64(seed);
        let random = RandomModel::of_shape(Shape::random(&mut rng), &mut rng);
        let model = Model::from_text("random", &random.text).unwrap();
        let mut columns = random.columns(300, &mut rng);
        let arrays: Vec<Float64Array> = columns
            .iter_mut()
            .map(|column| {
                let null: Vec<bool> = column.iter().map(|_| rng.random_ratio(1, 4)).collect();
                let array = column.iter().zip(&null).map(|(value, null)| (!null).then_some(*value)).collect();
                for (value, null) in column.iter_mut().zip(null) {
                    *value = if null { f64::NAN } else { *value };
                }
                array
            })
            .collect();
        let sliced: Vec<Float64Array> = arrays.iter().map(|array| array.slice(37, 200)).collect();
        let mut scores = vec![0.0; 200 * model.outputs()];
        model.score(&Batch::new(sliced.iter().map(Column::from).collect(), 200).unwrap(), &mut scores).unwrap();
        let columns: Vec<Vec<f64>> = columns.iter().map(|column| column[37..237].to_vec()).collect();
        assert_same_bits(&scores, &score(&model, &columns), "nulls");
        assert_all_agree(&random.text, &columns, "nulls");
    }
}

#[test]
fn a_loaded_model_names_its_evaluator() {
    let model = Arc::new(Model::from_text("random", &RandomModel::of_seed(5).text).unwrap());
    let (_, evaluator) = model.describe().into_iter().find(|(name, _)| *name == "evaluator").unwrap();
    assert!(evaluator == "lightgbm" || evaluator.starts_with("blocks ("), "{evaluator}");
}

//! Training: from columns and labels to a LightGBM text model.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::evaluator::Column;
use super::native::{TrainingSet, known_parameters};
use super::objective::is_known_objective;
use crate::error::{Context, Error, ErrorKind, Result};

/// LightGBM's own default.
const DEFAULT_ITERATIONS: usize = 100;

/// Trains a model on the columns of `features` (numbers and booleans; nulls are missing values) with a label per row, and
/// returns its text. The columns' names become the features' names.
///
/// `parameters` are LightGBM's (`objective`, `num_iterations`, `num_leaves`, `learning_rate`, …, or their aliases); an
/// unknown one is an error. The same input gives the same model: training is single-threaded and seeded.
pub fn train(features: &RecordBatch, labels: &[f32], parameters: &BTreeMap<String, String>) -> Result<String> {
    if labels.len() != features.num_rows() {
        return Err(Error::internal("the training set's features and labels differ in length"));
    }
    if features.num_rows() == 0 || features.num_columns() == 0 {
        return Err(Error::sql("the training set is empty"));
    }
    let (parameters, iterations) = parameter_text(parameters)?;
    let names: Vec<String> = features.schema().fields().iter().map(|field| field.name().clone()).collect();
    if let Some(name) = names.iter().find(|name| !is_usable_name(name)) {
        return Err(Error::sql(format!("`{name}` cannot be a feature's name"))
            .with_detail("LightGBM allows no spaces and none of \" , : [ ] { } in it."));
    }
    let values = row_major(features)?;
    TrainingSet { values: &values, labels, names: &names }.train(&parameters, iterations)
}

/// The values row by row, nulls as NaN.
fn row_major(features: &RecordBatch) -> Result<Vec<f64>> {
    let width = features.num_columns();
    let mut values = vec![0.0; features.num_rows() * width];
    for (index, column) in features.columns().iter().enumerate() {
        let column = cast(column, &DataType::Float64).context(ErrorKind::Sql, || {
            format!("feature `{}` is {}, not a number", features.schema().field(index).name(), column.data_type())
        })?;
        let column = Column::from(column.as_primitive::<Float64Type>());
        for row in 0..features.num_rows() {
            values[row * width + index] = column.value(row);
        }
    }
    Ok(values)
}

/// LightGBM's `key=value …` with our fixed parameters added, and the number of iterations taken out.
fn parameter_text(parameters: &BTreeMap<String, String>) -> Result<(String, usize)> {
    let known = known_parameters()?;
    let mut given: BTreeMap<&str, &str> =
        BTreeMap::from([("deterministic", "true"), ("force_row_wise", "true"), ("seed", "42")]);
    for (key, value) in parameters {
        let key = key.to_ascii_lowercase();
        let Some((name, _)) = known.iter().find(|(name, aliases)| **name == key || aliases.contains(&key)) else {
            let near = known.keys().max_by(|a, b| strsim::jaro(a, &key).total_cmp(&strsim::jaro(b, &key)));
            return Err(Error::sql(format!("LightGBM has no parameter `{key}`"))
                .with_hint(format!("Did you mean `{}`?", near.map_or("", String::as_str))));
        };
        if value.is_empty() || value.chars().any(char::is_whitespace) {
            return Err(Error::sql(format!("parameter `{key}` has the unusable value `{value}`")));
        }
        if matches!(name.as_str(), "linear_tree" | "num_threads" | "verbosity" | "device_type") {
            return Err(Error::sql(format!("parameter `{key}` cannot be set")));
        }
        given.insert(name, value);
    }
    if let Some(objective) = given.get("objective").filter(|objective| !is_known_objective(objective)) {
        return Err(Error::sql(format!("LightGBM has no objective `{objective}`")));
    }
    let iterations = match given.remove("num_iterations") {
        None => DEFAULT_ITERATIONS,
        Some(text) => text
            .parse()
            .ok()
            .filter(|iterations| (1..=100_000).contains(iterations))
            .ok_or_else(|| Error::sql(format!("num_iterations is `{text}`, not a number from 1 to 100000")))?,
    };
    let mut text: String = given.iter().map(|(key, value)| format!("{key}={value} ")).collect();
    text.push_str("num_threads=1 verbosity=-1");
    Ok((text, iterations))
}

fn is_usable_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || "\",:[]{}".contains(c))
}

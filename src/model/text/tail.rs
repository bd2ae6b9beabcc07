//! Checks the lines after the trees: the training parameters and pandas' categories. They do not affect scores, but LightGBM
//! reads them back, by name and type, and fails or crashes on damaged ones: such a file is refused, so that LightGBM can
//! score every model that weir accepts.

use super::fields::{Flaw, is_decimal};

/// Parameters that LightGBM reads as one number with a fraction (`Config::ParameterTypes`).
const DOUBLES: [&str; 33] = [
    "alpha",
    "bagging_fraction",
    "cat_l2",
    "cat_smooth",
    "cegb_penalty_split",
    "cegb_tradeoff",
    "drop_rate",
    "early_stopping_min_delta",
    "fair_c",
    "feature_fraction",
    "feature_fraction_bynode",
    "histogram_pool_size",
    "lambda_l1",
    "lambda_l2",
    "lambdarank_position_bias_regularization",
    "learning_rate",
    "linear_lambda",
    "max_delta_step",
    "min_gain_to_split",
    "min_sum_hessian_in_leaf",
    "monotone_penalty",
    "neg_bagging_fraction",
    "other_rate",
    "path_smooth",
    "poisson_max_delta_step",
    "pos_bagging_fraction",
    "pred_early_stop_margin",
    "refit_decay_rate",
    "scale_pos_weight",
    "sigmoid",
    "skip_drop",
    "top_rate",
    "tweedie_variance_power",
];
/// Parameters that are lists of numbers and are copied to JSON unchanged.
const LISTS: [&str; 11] = [
    "auc_mu_weights",
    "categorical_feature",
    "cegb_penalty_feature_coupled",
    "cegb_penalty_feature_lazy",
    "eval_at",
    "feature_contri",
    "ignore_column",
    "interaction_constraints",
    "label_gain",
    "max_bin_by_feature",
    "monotone_constraints",
];
const CATEGORIES: &str = "pandas_categorical:";

/// Checks the lines of `text`, the first of which has the number `first_line`.
pub(super) fn check(text: &str, first_line: usize) -> Result<(), Flaw> {
    let mut open = None;
    let mut closed = false;
    for (index, line) in text.split('\n').enumerate() {
        let flaw = |what: &str| Flaw::new(first_line + index, what);
        match (line, open) {
            ("parameters:", None) if !closed => open = Some(first_line + index),
            ("parameters:", _) => return Err(flaw("the parameters are given twice")),
            ("end of parameters", Some(_)) => (open, closed) = (None, true),
            ("", _) => {}
            (_, Some(_)) => parameter(line).map_err(flaw)?,
            (_, None) => {
                if let Some(json) = line.strip_prefix(CATEGORIES) {
                    let parsed: Result<serde_json::Value, _> = serde_json::from_str(json);
                    parsed.map_err(|_| flaw("the categories of pandas are no JSON"))?;
                }
            }
        }
    }
    match open {
        Some(line) => Err(Flaw::new(line, "the parameters do not end")),
        None => Ok(()),
    }
}

/// Checks `[key: value]`, with a value of the type that LightGBM expects for the key.
fn parameter(line: &str) -> Result<(), &'static str> {
    let inner = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
    let (key, value) =
        inner.and_then(|inner| inner.split_once(": ")).ok_or("a parameter is written `[name: value]`")?;
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("a parameter's name has letters, digits and `_`");
    }
    if value.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        return Err("a parameter's value holds a character that LightGBM cannot read back");
    }
    if DOUBLES.contains(&key) && !value.is_empty() && !is_decimal(value) {
        return Err("a parameter is not a number");
    }
    let is_list = || value.split([',', '[', ']']).all(|part| part.is_empty() || is_decimal(part));
    if LISTS.contains(&key) && !is_list() {
        return Err("a parameter is not a list of numbers");
    }
    Ok(())
}

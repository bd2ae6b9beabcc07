//! LightGBM models: checked before use, scored in batches, trained from columns.
//!
//! A [`Model`] is one loaded version. [`ModelSlot`] holds the version in use, so that it can be replaced at an epoch
//! boundary; [`ScoringUdf`] is the SQL function over a slot. Loading checks everything that could go wrong later: a model
//! that loads scores every row, and its scores equal LightGBM's to the last bit with every evaluator.

pub mod evaluator;
pub(crate) mod forest;
mod native;
mod objective;
mod scoring;
mod slot;
mod text;
mod train;

#[cfg(test)]
mod tests;

pub(crate) use self::objective::Objective;
pub(crate) use self::scoring::ScoringUdf;
pub(crate) use self::slot::ModelSlot;
pub use self::train::train;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use self::evaluator::{Batch, Evaluator, Reference, choice};
use self::forest::Forest;
use self::native::NativePool;
use crate::error::{Error, Result};

/// A loaded model version.
pub struct Model {
    origin: String,
    hash: String,
    forest: Arc<Forest>,
    evaluator: Box<dyn Evaluator>,
    /// The measurements by which the evaluator was chosen.
    measured: Vec<choice::Measured>,
}

impl Model {
    /// Loads a LightGBM text model from a file. The error says what is wrong with the file, and in which line.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| {
            Error::config(format!("model file `{shown}` cannot be read")).with_detail(format!("{error}."))
        })?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::config(format!("model file `{shown}` is not a LightGBM text model"))
                .with_detail("It is not text (UTF-8).")
        })?;
        Self::from_text(&shown.to_string(), &text)
    }

    /// Loads a LightGBM text model; errors name it `origin`.
    pub fn from_text(origin: &str, text: &str) -> Result<Self> {
        let (forest, lightgbm) = read(origin, text)?;
        let (evaluator, measured) = choice::fastest(&forest, lightgbm)?;
        let hash = hex::encode(Sha256::digest(text.as_bytes()));
        Ok(Self { origin: origin.to_owned(), hash, forest, evaluator, measured })
    }

    /// Every evaluator of a text model on this machine, LightGBM's own first; for benchmarks and tests.
    pub fn evaluators(text: &str) -> Result<Vec<Box<dyn Evaluator>>> {
        let (forest, lightgbm) = read("model", text)?;
        Ok(choice::all(&forest, lightgbm))
    }

    /// The origin of the model, such as its file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The SHA-256 of the model's text, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The features' names, in the order of the arguments.
    pub fn features(&self) -> &[String] {
        self.forest.features()
    }

    /// Number of scores per row: 1, or the number of classes.
    pub fn outputs(&self) -> usize {
        self.forest.outputs()
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.forest.trees().len()
    }

    /// The kind of the scores: `binary sigmoid:1` gives probabilities.
    pub fn objective(&self) -> &Objective {
        self.forest.objective()
    }

    /// The checked trees.
    pub fn forest(&self) -> &Forest {
        &self.forest
    }

    /// Scores every row of `batch` into `scores`, which must have length `batch.rows() * outputs`.
    pub fn score(&self, batch: &Batch<'_>, scores: &mut [f64]) -> Result<()> {
        if batch.columns().len() != self.features().len() || scores.len() != batch.rows() * self.outputs() {
            return Err(Error::internal(format!("a batch does not match model `{}`", self.origin)));
        }
        self.evaluator.score(batch, scores)
    }

    /// For each feature the index of the argument with its name (an exact match, otherwise ignoring case). Errors: the names
    /// are not exactly the model's features.
    pub fn argument_order(&self, names: &[&str]) -> Result<Vec<usize>> {
        let wanted = || format!("The model's features are {}.", listed(self.features()));
        let mut order = vec![usize::MAX; self.features().len()];
        for (argument, name) in names.iter().enumerate() {
            let found = self.features().iter().position(|feature| feature == name);
            let found = found.or_else(|| self.features().iter().position(|feature| feature.eq_ignore_ascii_case(name)));
            let Some(feature) = found else {
                return Err(Error::sql(format!("the model has no feature `{name}`")).with_detail(wanted()));
            };
            if std::mem::replace(&mut order[feature], argument) != usize::MAX {
                return Err(Error::sql(format!("feature `{name}` is given twice")));
            }
        }
        match order.iter().position(|&argument| argument == usize::MAX) {
            Some(feature) => {
                Err(Error::sql(format!("feature `{}` is not given", self.features()[feature])).with_detail(wanted()))
            }
            None => Ok(order),
        }
    }

    /// Number of leaves of all trees.
    pub fn leaves(&self) -> usize {
        self.forest.trees().iter().map(|tree| tree.leaves.len()).sum()
    }

    /// The name of the evaluator that was fastest on this machine.
    pub fn evaluator(&self) -> &'static str {
        self.evaluator.name()
    }

    /// The measurements at load by which the evaluator was chosen: `lightgbm 2310 ns a row, avx2 310 ns a row`.
    pub fn measured(&self) -> String {
        if self.measured.is_empty() {
            return "nothing: LightGBM's own is the only evaluator for such trees".to_owned();
        }
        let figures = self.measured.iter().map(|(name, taken)| format!("{name} {taken:.0} ns a row"));
        figures.collect::<Vec<_>>().join(", ")
    }

    /// The output of `DESCRIBE MODEL`, as names and values.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        vec![
            ("origin", self.origin.clone()),
            ("sha256", self.hash.clone()),
            ("objective", self.objective().to_string()),
            ("feature_count", self.features().len().to_string()),
            ("features", listed(self.features())),
            ("outputs", self.outputs().to_string()),
            ("trees", self.trees().to_string()),
            ("leaves", self.leaves().to_string()),
            ("evaluator", self.evaluator.name().to_owned()),
            ("measured", self.measured()),
        ]
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("origin", &self.origin).field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// Checks a text model and loads it into LightGBM.
fn read(origin: &str, text: &str) -> Result<(Arc<Forest>, Box<dyn Evaluator>)> {
    let forest = text::parse(text).map_err(|flaw| {
        Error::config(format!("model file `{origin}` is not a usable LightGBM model"))
            .with_detail(format!("At line {}: {}.", flaw.line, flaw.what))
            .with_hint("Save the model again with LightGBM's `save_model`.")
    })?;
    let native = NativePool::new(text, forest.features.len(), forest.outputs)?;
    let lightgbm = Box::new(Reference::new(native, forest.outputs));
    Ok((Arc::new(forest), lightgbm))
}

/// Names in backticks, separated by commas.
fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

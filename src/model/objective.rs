//! Transformations of a row's tree sums into scores: LightGBM's `ConvertOutput` of each objective, with the same operations
//! in the same order and the C library's own `exp` and `log1p`, so that the results are equal to the last bit.

use std::fmt;

/// A model's objective as named in its file, and its transformation.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    name: String,
    transform: Transform,
}

/// The arithmetic on a row's sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Transform {
    /// The sums themselves.
    Identity,
    /// `sign(x) * x * x`, undoing `reg_sqrt`.
    SignedSquare,
    /// `exp(x)`.
    Exponential,
    /// `1 / (1 + exp(-sigmoid * x))` for every output.
    Logistic { sigmoid: f64 },
    /// `log1p(exp(x))`.
    LogOnePlusExp,
    /// `exp(x - max) / sum`.
    Softmax,
}

impl Objective {
    /// Parses the value of `objective=` for a model of `outputs` outputs. Errors: what is wrong with it.
    pub(crate) fn parse(text: &str, outputs: usize) -> Result<Self, String> {
        let mut words = canonical(text).split(' ').filter(|word| !word.is_empty());
        let kind = words.next().ok_or("the objective is empty")?.to_owned();
        let mut found = Options::default();
        for word in words {
            found.read(word)?;
        }
        let sigmoid = || match found.sigmoid {
            Some(sigmoid) if sigmoid > 0.0 && sigmoid.is_finite() => Ok(Transform::Logistic { sigmoid }),
            Some(sigmoid) => Err(format!("the objective's sigmoid {sigmoid} is not above zero")),
            None => Err(format!("objective `{kind}` lacks its `sigmoid:`")),
        };
        let classes = || match found.num_class {
            Some(classes) if classes == outputs => Ok(()),
            Some(classes) => Err(format!("the objective has {classes} classes, the model {outputs}")),
            None => Err(format!("objective `{kind}` lacks its `num_class:`")),
        };
        let transform = match kind.as_str() {
            "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" if found.sqrt => {
                Transform::SignedSquare
            }
            "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" => Transform::Identity,
            "poisson" | "gamma" | "tweedie" => Transform::Exponential,
            "lambdarank" | "rank_xendcg" | "custom" => Transform::Identity,
            "binary" => sigmoid()?,
            "cross_entropy" => Transform::Logistic { sigmoid: 1.0 },
            "cross_entropy_lambda" => Transform::LogOnePlusExp,
            "multiclass" => {
                classes()?;
                Transform::Softmax
            }
            "multiclassova" => {
                classes()?;
                sigmoid()?
            }
            _ => return Err(format!("objective `{kind}` is unknown")),
        };
        let single = !matches!(kind.as_str(), "multiclass" | "multiclassova" | "custom");
        if single && outputs != 1 {
            return Err(format!("objective `{kind}` has one output, the model {outputs}"));
        }
        Ok(Self { name: text.trim().to_owned(), transform })
    }

    /// A model without an objective: its sums are its scores.
    pub(crate) fn none() -> Self {
        Self { name: "none".to_owned(), transform: Transform::Identity }
    }

    /// Turns one row's sums into its scores, in place.
    #[inline]
    pub(crate) fn transform(&self, scores: &mut [f64]) {
        match self.transform {
            Transform::Identity => {}
            Transform::SignedSquare => each(scores, |x| sign(x) * x * x),
            Transform::Exponential => each(scores, f64::exp),
            Transform::Logistic { sigmoid } => each(scores, |x| 1.0 / (1.0 + (-sigmoid * x).exp())),
            Transform::LogOnePlusExp => each(scores, |x| x.exp().ln_1p()),
            Transform::Softmax => softmax(scores),
        }
    }

    /// `true` if every output is transformed by itself, so that a whole batch may be passed to [`Self::transform`].
    pub(crate) fn is_elementwise(&self) -> bool {
        self.transform != Transform::Softmax
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The words after an objective's name.
#[derive(Default)]
struct Options {
    sqrt: bool,
    sigmoid: Option<f64>,
    num_class: Option<usize>,
}

impl Options {
    fn read(&mut self, word: &str) -> Result<(), String> {
        let unknown = || format!("the objective's `{word}` is not understood");
        let repeated = match word.split_once(':') {
            None if word == "sqrt" => std::mem::replace(&mut self.sqrt, true),
            Some(("sigmoid", text)) => self.sigmoid.replace(imprecise_decimal(text).ok_or_else(unknown)?).is_some(),
            Some(("num_class", text)) => self.num_class.replace(text.parse().map_err(|_| unknown())?).is_some(),
            _ => return Err(unknown()),
        };
        if repeated { Err(format!("the objective's `{word}` is given twice")) } else { Ok(()) }
    }
}

/// `true` if LightGBM can train for this objective; a user-defined one (`custom`) needs a program.
pub(super) fn is_known_objective(name: &str) -> bool {
    let known = [
        "regression",
        "regression_l1",
        "huber",
        "fair",
        "quantile",
        "mape",
        "poisson",
        "gamma",
        "tweedie",
        "binary",
        "cross_entropy",
        "cross_entropy_lambda",
        "multiclass",
        "multiclassova",
        "lambdarank",
        "rank_xendcg",
    ];
    known.contains(&canonical(name)) || matches!(name, "softmax" | "multiclass_ova" | "ova" | "ovr")
}

/// LightGBM's `ParseObjectiveAlias`: a value is replaced only if it is exactly the alias.
fn canonical(text: &str) -> &str {
    match text {
        "regression_l2" | "mean_squared_error" | "mse" | "l2" | "l2_root" | "root_mean_squared_error" | "rmse" => {
            "regression"
        }
        "mean_absolute_error" | "l1" | "mae" => "regression_l1",
        "xentropy" => "cross_entropy",
        "xentlambda" => "cross_entropy_lambda",
        "mean_absolute_percentage_error" => "mape",
        "xendcg" | "xe_ndcg" | "xe_ndcg_mart" | "xendcg_mart" => "rank_xendcg",
        "none" | "null" | "na" => "custom",
        other => other,
    }
}

/// A decimal number read as LightGBM's `Common::Atof` reads it, rounding included: digits are summed in doubles and
/// the fraction is divided by its power of ten.
fn imprecise_decimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 15 {
        return None;
    }
    let sum = |text: &str| text.bytes().fold(0.0, |value, byte| value * 10.0 + f64::from(byte - b'0'));
    let mut value = sum(whole);
    if mantissa.contains('.') {
        value += sum(fraction) / power(10.0, fraction.len());
    }
    if let Some(exponent) = exponent {
        let (divide, text) = match exponent.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, exponent.strip_prefix('+').unwrap_or(exponent)),
        };
        if text.is_empty() || !digits(text) {
            return None;
        }
        let scale = scale(text.parse::<u32>().ok()?.min(308));
        value = if divide { value / scale } else { value * scale };
    }
    Some(value)
}

/// LightGBM's `Common::Pow` for a non-negative power.
fn power(base: f64, exponent: usize) -> f64 {
    match exponent {
        0 => 1.0,
        n if n.is_multiple_of(2) => power(base * base, n / 2),
        n if n.is_multiple_of(3) => power(base * base * base, n / 3),
        n => base * power(base, n - 1),
    }
}

/// The scaling factor of `Common::Atof` for an exponent.
fn scale(mut exponent: u32) -> f64 {
    let mut scale = 1.0;
    for (step, factor) in [(50, 1e50), (8, 1e8), (1, 10.0)] {
        while exponent >= step {
            scale *= factor;
            exponent -= step;
        }
    }
    scale
}

fn each(scores: &mut [f64], transform: impl Fn(f64) -> f64) {
    for score in scores {
        *score = transform(*score);
    }
}

fn sign(x: f64) -> f64 {
    f64::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}

fn softmax(scores: &mut [f64]) {
    let mut greatest = scores[0];
    for &score in &scores[1..] {
        // `std::max(score, greatest)`: the first argument unless it is less.
        greatest = if score < greatest { greatest } else { score };
    }
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - greatest).exp();
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

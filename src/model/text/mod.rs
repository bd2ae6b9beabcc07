//! Parses LightGBM's text model format into a checked [`Forest`].
//!
//! LightGBM's own reader trusts its input: it reads past the end of a truncated tree, follows any child index, lets the last
//! of two equal fields win and ignores unknown fields. It only gets texts that this reader has accepted, and this reader
//! accepts a file only if every field that affects a score occurs once, has the right count and has usable values. A damaged
//! digit inside a number cannot be detected (the format has no checksum): then both readers understand the same other model,
//! and [`super::Model::hash`] tells the files apart.
//!
//! Grammar: `tree`, header lines, a blank line, one block per tree of exactly the size in `tree_sizes`, `end of trees`; the
//! rest (importances, parameters) does not affect scores and is only checked so that LightGBM can read it back.

mod fields;
mod tail;
mod tree;

#[cfg(test)]
mod tests;

use self::fields::Fields;
pub(crate) use self::fields::Flaw;
use super::forest::Forest;
use super::objective::Objective;

/// Maximum size of a text, in bytes.
const MAX_TEXT: usize = 1 << 30;
/// Maximum number of features.
const MAX_FEATURES: usize = 100_000;
/// Maximum number of outputs.
const MAX_OUTPUTS: usize = 10_000;

/// Reads a whole text model.
pub(crate) fn parse(text: &str) -> Result<Forest, Flaw> {
    if text.len() > MAX_TEXT {
        return Err(Flaw::new(1, format!("the file has {} bytes, more than {MAX_TEXT}", text.len())));
    }
    if let Some(at) = text.bytes().position(|byte| byte == b'\r' || byte == 0) {
        let line = 1 + text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
        let what = if text.as_bytes()[at] == 0 { "a zero byte" } else { "a carriage return (Windows line ends)" };
        return Err(Flaw::new(line, what));
    }
    let Some(rest) = text.strip_prefix("tree\n") else {
        return Err(Flaw::new(1, "a LightGBM text model begins with the line `tree`"));
    };
    let Some(end) = rest.find("\n\n") else {
        return Err(Flaw::new(1, "the header does not end"));
    };
    let header = Header::parse(Fields::parse(&rest[..end], 2)?)?;
    let mut line = 2 + rest[..end + 2].bytes().filter(|&byte| byte == b'\n').count();
    let mut rest = &rest[end + 2..];
    let mut trees = Vec::with_capacity(header.tree_sizes.len());
    for (index, &size) in header.tree_sizes.iter().enumerate() {
        let Some(block) = rest.get(..size) else {
            return Err(Flaw::new(line, format!("tree {index} is cut short")));
        };
        let first = format!("Tree={index}\n");
        let Some(body) = block.strip_prefix(&first).filter(|body| body.ends_with('\n')) else {
            return Err(Flaw::new(line, format!("`Tree={index}` of {size} bytes is expected here")));
        };
        trees.push(tree::parse(Fields::parse(body.trim_end_matches('\n'), line + 1)?, header.features.len())?);
        line += block.bytes().filter(|&byte| byte == b'\n').count();
        rest = &rest[size..];
    }
    let Some(rest) = rest.strip_prefix("end of trees\n") else {
        return Err(Flaw::new(line, "`end of trees` is expected here"));
    };
    tail::check(rest, line + 1)?;
    let Header { features, outputs, average, objective, .. } = header;
    Ok(Forest { features, outputs, average, objective, trees })
}

/// The header, that is the lines above the trees.
struct Header {
    features: Vec<String>,
    outputs: usize,
    average: bool,
    objective: Objective,
    tree_sizes: Vec<usize>,
}

impl Header {
    fn parse(mut fields: Fields<'_>) -> Result<Self, Flaw> {
        let version = fields.take("version")?;
        if !matches!(version.value, "v2" | "v3" | "v4") {
            return Err(version.flaw(format!("model format `{}` is not known", version.value)));
        }
        let classes = fields.take("num_class")?;
        let outputs: usize = classes.number()?;
        if !(1..=MAX_OUTPUTS).contains(&outputs) {
            return Err(classes.flaw(format!("num_class is {outputs}")));
        }
        let per_iteration = fields.take("num_tree_per_iteration")?;
        if per_iteration.number::<usize>()? != outputs {
            return Err(per_iteration.flaw("num_tree_per_iteration differs from num_class"));
        }
        fields.take("label_index")?.number::<i32>()?;
        let last = fields.take("max_feature_idx")?;
        let count = last.number::<usize>()?.saturating_add(1);
        if count > MAX_FEATURES {
            return Err(last.flaw(format!("the model has {count} features, more than {MAX_FEATURES}")));
        }
        let objective = match fields.take_if("objective") {
            Some(field) => Objective::parse(field.value, outputs).map_err(|what| field.flaw(what))?,
            None => Objective::none(),
        };
        let average = match fields.take_if("average_output") {
            Some(field) if field.bare => true,
            Some(field) => return Err(field.flaw("average_output takes no value")),
            None => false,
        };
        let features = parse_features(&mut fields, count)?;
        let sizes = fields.take("tree_sizes")?;
        let tree_sizes = sizes.numbers::<usize>()?;
        if tree_sizes.is_empty() || tree_sizes.len() % outputs != 0 {
            return Err(sizes.flaw(format!("{} trees for {outputs} outputs", tree_sizes.len())));
        }
        fields.finish()?;
        Ok(Self { features, outputs, average, objective, tree_sizes })
    }
}

/// Reads the features' names and checks the lists with one entry per feature.
fn parse_features(fields: &mut Fields<'_>, count: usize) -> Result<Vec<String>, Flaw> {
    let names = fields.take("feature_names")?;
    let features: Vec<String> = names.words().map(str::to_owned).collect();
    if features.len() != count || features.iter().any(String::is_empty) {
        return Err(names.flaw(format!("{} feature names for {count} features", features.len())));
    }
    let mut sorted: Vec<&String> = features.iter().collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(names.flaw(format!("feature `{}` is named twice", pair[0])));
    }
    if let Some(field) = fields.take_if("monotone_constraints")
        && field.numbers::<i8>()?.len() != count
    {
        return Err(field.flaw(format!("monotone_constraints do not match {count} features")));
    }
    let infos = fields.take("feature_infos")?;
    // LightGBM treats a line with two `=` as damaged.
    if infos.words().count() != count || infos.words().any(|word| word.is_empty() || word.contains('=')) {
        return Err(infos.flaw(format!("feature_infos do not match {count} features")));
    }
    Ok(features)
}

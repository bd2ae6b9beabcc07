//! Names that become folders of the warehouse: a pipeline's, and that of a table without LOCATION.

use super::{Catalog, PipelineDef};
use crate::sql::Diagnostic;

/// Bytes that file systems allow for a name.
const LONGEST: usize = 255;

/// The reason why no table without LOCATION may be named `_x` or `.x`.
const HIDDEN: &str = "Folders whose names begin with `_` or `.` are hidden: queries would not find the table.";

/// Refuses names that cannot be folders.
pub fn check_folders(catalog: &Catalog, errors: &mut Vec<Diagnostic>) {
    for table in catalog.tables.values().filter(|table| table.location.is_none()) {
        if let Some(reason) = unfit_table(&table.name) {
            let error = Diagnostic::new(table.span, format!("table `{}` cannot have a folder of its name", table.name));
            errors.push(error.with_detail(reason).with_hint("Give it another name, or write its place in `LOCATION`."));
        }
    }
    for pipeline in &catalog.pipelines {
        if let Some(other) = pipeline.name.strip_suffix(":manifest").and_then(|other| catalog.pipeline(other))
            && let Some(shared) = pipeline.inserts.iter().find(|insert| writes(other, &insert.target))
        {
            let (name, other, table) = (&pipeline.name, &other.name, &shared.target);
            let error =
                Diagnostic::new(pipeline.span, format!("pipelines `{other}` and `{name}` cannot both write `{table}`"));
            errors.push(
                error
                    .with_detail("A table records the manifests of the one and the epochs of the other under one id.")
                    .with_hint("Give one of them another name, or a table of its own."),
            );
        }
        if let Some(reason) = unfit_pipeline(&pipeline.name) {
            let message = format!("pipeline `{}` cannot have a folder of its name", pipeline.name);
            let error = Diagnostic::new(pipeline.span, message).with_detail(reason);
            errors.push(error.with_hint(
                "Name it in `CREATE PIPELINE`; INSERTs outside of one are a pipeline that has the file's name.",
            ));
        }
    }
}

fn writes(pipeline: &PipelineDef, target: &str) -> bool {
    pipeline.inserts.iter().any(|insert| insert.target == target)
}

/// The reason why a table cannot have this name.
fn unfit_table(name: &str) -> Option<&'static str> {
    unfit(name).or(name.starts_with(['_', '.']).then_some(HIDDEN))
}

/// The reason why a pipeline cannot: no part of its name after a slash may be one of the folders that each pipeline has.
fn unfit_pipeline(name: &str) -> Option<&'static str> {
    let is_own = |part: &str| ["manifests", "state", "dead_letters", "pins"].contains(&part);
    match name.split('/').skip(1).any(is_own) {
        true => Some("Every pipeline has folders `manifests`, `state`, `dead_letters` and `pins` of its own."),
        false => unfit(name),
    }
}

/// The reason why a name cannot be a folder below the warehouse; each slash in it begins a subfolder.
fn unfit(name: &str) -> Option<&'static str> {
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("A folder cannot be called `.` or `..`, or have no name.");
    }
    if name.contains('\\') {
        return Some("A folder's name has no backslash.");
    }
    if name.chars().any(char::is_control) {
        return Some("A folder's name has no control characters.");
    }
    if name.split('/').any(|part| part.len() > LONGEST) {
        return Some("A folder's name has at most 255 bytes.");
    }
    let bytes = name.as_bytes();
    let is_escape = |part: &[u8]| matches!(part, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if bytes.windows(3).any(is_escape) {
        return Some("Delta would read `%` and two hexadecimal digits as one character.");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{unfit, unfit_pipeline, unfit_table};

    #[test]
    fn names_that_cannot_be_folders_are_found() {
        for name in ["", ".", "..", "../../x", "a/../b", "a//b", "/a", "a/", "a\\b", "a\nb", "a\u{7f}", "p%20x", "%2e"]
        {
            assert!(unfit(name).is_some(), "{name:?}");
        }
        assert!(unfit(&"ü".repeat(128)).is_some() && unfit(&"ü".repeat(127)).is_none());
        for name in ["p", "ü p", "a/b", "p:q", "...", "a.b", "100%", "50% off", "a?b#c", "a'b\"c", "*"] {
            assert_eq!(unfit(name), None, "{name:?}");
        }
        assert!(unfit_table("_hid").is_some() && unfit_table(".dot").is_some() && unfit_table("a_b").is_none());
        assert!(unfit_pipeline("a/state").is_some() && unfit_pipeline("a/pins/b").is_some());
        assert!(unfit_pipeline("state").is_none() && unfit_pipeline("a/states").is_none());
    }
}

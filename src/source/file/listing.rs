//! Lists the files of a source's path: one file, all below a folder, or those that match a pattern with `*`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Context, Error, Result};
use crate::source::chunk::PartitionId;

/// A path as it was written.
#[derive(Debug, Clone)]
pub(super) enum Location {
    /// A path without `*`: a file or a folder, which is checked at every listing.
    Plain(PathBuf),
    /// The folder before the first `*`, and the remaining path components.
    Pattern(PathBuf, Vec<String>),
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// In bytes.
    pub(super) size: u64,
    /// The time of the last write, if it is known.
    pub(super) modified: Option<SystemTime>,
}

impl Found {
    fn new(path: PathBuf, metadata: &fs::Metadata) -> Self {
        Self { path, size: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// Files by their path below the source's root.
pub(super) type Listing = BTreeMap<PartitionId, Found>;

impl Location {
    /// Reads a path or a `file://` address.
    pub(super) fn parse(path: &str) -> Self {
        let path = path.strip_prefix("file://").unwrap_or(path);
        let Some(star) = path.find('*') else {
            return Self::Plain(PathBuf::from(path));
        };
        let (base, names) = match path[..star].rfind('/') {
            Some(0) => ("/", &path[1..]),
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (".", path),
        };
        let names = names.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self::Pattern(PathBuf::from(base), names)
    }

    /// The existing files. Names that begin with `.` or `_` are skipped, unless a pattern begins so.
    pub(super) fn list(&self) -> Result<Listing> {
        let mut found = Listing::new();
        match self {
            Self::Plain(path) => {
                let metadata = fs::metadata(path).environment(|| format!("cannot read `{}`", path.display()));
                let metadata = metadata.map_err(|error| error.with_hint("Check the option `path` of the source."))?;
                if metadata.is_dir() {
                    walk(path, "", &mut found)?;
                } else {
                    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                    found.insert(PartitionId::from(&*name), Found::new(path.clone(), &metadata));
                }
            }
            Self::Pattern(base, names) => walk_pattern(base, "", names, &mut found)?,
        }
        Ok(found)
    }
}

fn walk(folder: &Path, prefix: &str, found: &mut Listing) -> Result<()> {
    for (name, path, metadata) in entries(folder)? {
        if name.starts_with(['.', '_']) {
            continue;
        }
        let id = format!("{prefix}{name}");
        if metadata.is_dir() {
            walk(&path, &format!("{id}/"), found)?;
        } else {
            found.insert(PartitionId::from(id), Found::new(path, &metadata));
        }
    }
    Ok(())
}

fn walk_pattern(folder: &Path, prefix: &str, names: &[String], found: &mut Listing) -> Result<()> {
    let [pattern, rest @ ..] = names else { return Ok(()) };
    for (name, path, metadata) in entries(folder)? {
        let hidden = name.starts_with(['.', '_']) && !pattern.starts_with(['.', '_']);
        if hidden || !matches(pattern.as_bytes(), name.as_bytes()) {
            continue;
        }
        let id = format!("{prefix}{name}");
        if metadata.is_dir() {
            walk_pattern(&path, &format!("{id}/"), rest, found)?;
        } else if rest.is_empty() {
            found.insert(PartitionId::from(id), Found::new(path, &metadata));
        }
    }
    Ok(())
}

/// The entries of a folder; those that vanish meanwhile are left out.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf, fs::Metadata)>> {
    let failed = || format!("cannot list folder `{}`", folder.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).environment(failed)? {
        let entry = entry.environment(failed)?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| Error::environment(format!("file name `{}` is not UTF-8", name.to_string_lossy())))?;
        let path = entry.path();
        if let Ok(metadata) = fs::metadata(&path) {
            all.push((name, path, metadata));
        }
    }
    Ok(all)
}

/// True if `name` matches `pattern`, in which each `*` stands for any text.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
        } else if pattern.get(at) == Some(&name[seen]) {
            at += 1;
            seen += 1;
        } else if let Some((after, taken)) = star {
            star = Some((after, taken + 1));
            at = after + 1;
            seen = taken + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part_of_one_name() {
        for (pattern, name, expected) in [
            ("*.json", "a.json", true),
            ("*.json", "a.json.tmp", false),
            ("part-*-x*", "part-12-xyz", true),
            ("*a*b", "xaabab", true),
            ("*a*b", "xaaba", false),
            ("*", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_begins_at_the_folder_before_its_first_star() {
        let cases =
            [("/data/*/x.csv", "/data", vec!["*", "x.csv"]), ("*.csv", ".", vec!["*.csv"]), ("/*", "/", vec!["*"])];
        for (path, base, names) in cases {
            let Location::Pattern(found, rest) = Location::parse(path) else { panic!("{path} is a pattern") };
            assert_eq!((found.as_path(), rest), (Path::new(base), names.iter().map(ToString::to_string).collect()));
        }
    }
}

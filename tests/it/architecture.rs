//! Holds the source tree to its layering (`src/lib.rs`: imports point at modules listed above), to folders without circles,
//! and to its file size limit.

mod circles;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// No file is longer, tests included.
const MAX_LINES: usize = 800;

/// `crate::module` as written in a file, with the line it stands on.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    module: String,
    line: usize,
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The modules of `lib.rs`, in its order.
fn layers(lib: &str) -> Vec<String> {
    let declared = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.split(';').next().map(|name| name.trim().to_owned())
    };
    lib.lines().filter_map(declared).collect()
}

/// Every top-level module that the code names through `crate::`, also in groups and in full paths; comments do not count.
fn imports(text: &str) -> Vec<Import> {
    let mut found = Vec::new();
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect();
    let code = code.join("\n");
    for (position, matched) in code.match_indices("crate::") {
        let part_of_name = code[..position].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if part_of_name {
            continue;
        }
        let line = code[..position].matches('\n').count() + 1;
        let rest = &code[position + matched.len()..];
        let modules = match rest.strip_prefix('{') {
            Some(group) => group_members(group),
            None => vec![identifier(rest)],
        };
        found.extend(modules.into_iter().filter(|m| !m.is_empty()).map(|module| Import { module, line }));
    }
    found
}

/// The first names in `{a::b, c::{d, e}, f}`, given without the opening brace.
fn group_members(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut members = vec![identifier(group)];
    for (position, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(identifier(&group[position + 1..])),
            _ => {}
        }
    }
    members
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The module of `lib.rs` that a file below `src` belongs to; `None` for `lib.rs` and `main.rs`.
fn owner(file: &Path) -> Option<String> {
    let relative = file.strip_prefix(src()).unwrap();
    let first = relative.components().next()?.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
    (first != "lib" && first != "main").then_some(first)
}

#[test]
fn modules_import_only_modules_above_them() {
    let layers = layers(&fs::read_to_string(src().join("lib.rs")).unwrap());
    assert!(layers.len() > 10, "lib.rs lists only {layers:?}");
    let rank = |name: &str| layers.iter().position(|layer| layer == name);
    let mut wrong = Vec::new();
    for file in rust_files(&src()) {
        let Some(owner) = owner(&file) else { continue };
        let Some(own_rank) = rank(&owner) else {
            wrong.push(format!("{}: module `{owner}` is not in lib.rs", file.display()));
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if rank(&import.module).is_some_and(|imported| imported > own_rank) {
                let place = format!("{}:{}", file.display(), import.line);
                wrong.push(format!("{place}: `{owner}` imports `{}`, which lib.rs lists below it", import.module));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn modules_are_files_or_folders_and_all_are_listed() {
    let listed: BTreeSet<_> = layers(&fs::read_to_string(src().join("lib.rs")).unwrap()).into_iter().collect();
    let present: BTreeSet<_> = rust_files(&src()).iter().filter_map(|file| owner(file)).collect();
    assert_eq!(listed, present);
}

#[test]
fn no_file_is_too_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = rust_files(&src());
    files.extend(rust_files(&root.join("tests")));
    if root.join("benches").is_dir() {
        files.extend(rust_files(&root.join("benches")));
    }
    let long: Vec<_> = files
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(file, lines)| format!("{}: {lines} lines, at most {MAX_LINES}", file.display()))
        .collect();
    assert!(long.is_empty(), "\n{}\n", long.join("\n"));
}

#[test]
fn the_program_only_hands_over_to_the_command_line() {
    let main = fs::read_to_string(src().join("main.rs")).unwrap();
    let named: BTreeSet<_> = main
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.match_indices("weir::").map(|(at, found)| identifier(&line[at + found.len()..])))
        .collect();
    let allowed = BTreeSet::from(["cli".to_owned(), "error".to_owned()]);
    assert!(named.is_subset(&allowed), "main.rs names {named:?}");
}

#[test]
fn only_the_store_of_manifests_makes_commit_permits() {
    let files = rust_files(&src());
    let makes = |file: &&PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        code.contains("CommitPermit::of_durable(") && !file.components().any(|part| part.as_os_str() == "tests")
    };
    let found: Vec<_> = files.iter().filter(makes).filter(|file| !file.ends_with("tests.rs")).collect();
    assert_eq!(found, [&src().join("state/manifest.rs")]);
}

#[test]
fn the_engine_does_not_name_the_lab() {
    let connectors = ["source/generator.rs", "source/nexmark.rs"].map(|file| src().join(file));
    let is_free =
        |file: &PathBuf| connectors.contains(file) || matches!(owner(file).as_deref(), None | Some("lab" | "cli"));
    let mut wrong = Vec::new();
    for file in rust_files(&src()).into_iter().filter(|file| !is_free(file)) {
        let text = fs::read_to_string(&file).unwrap();
        let is_test =
            file.ends_with("tests.rs") || file.ends_with("oracle.rs") || file.iter().any(|part| part == "tests");
        let named = imports(&text).into_iter().filter(|import| import.module == "lab" && !is_test);
        wrong.extend(named.map(|import| format!("{}:{}", file.display(), import.line)));
    }
    assert!(wrong.is_empty(), "only connectors, commands and tests name `lab`:\n{}\n", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_owns() {
    let silent: Vec<_> = rust_files(&src())
        .into_iter()
        .filter(|file| !file.ends_with("tests.rs"))
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//! "))
        .map(|file| file.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no module docs at the top of\n{}\n", silent.join("\n"));
}

#[test]
fn imports_are_found_in_groups_and_paths_but_not_in_comments() {
    let modules = |text: &str| imports(text).into_iter().map(|import| import.module).collect::<Vec<_>>();
    assert_eq!(modules("use crate::error::Error;"), ["error"]);
    assert_eq!(modules("use crate::{error::{Error, Result},\n  plan, sql::Span};"), ["error", "plan", "sql"]);
    assert_eq!(modules("fn f() -> crate::epoch::Epoch {}"), ["epoch"]);
    assert_eq!(modules("//! See [`crate::cli`].\nlet x = 1; // crate::serve"), Vec::<String>::new());
    assert_eq!(modules("pub(crate) fn f() {} some_crate::x()"), Vec::<String>::new());
    assert_eq!(imports("\n\nuse crate::plan;"), [Import { module: "plan".to_owned(), line: 3 }]);
}

#[test]
fn layers_keep_the_order_of_lib_rs() {
    assert_eq!(layers("//! mod x;\npub mod error;\nmod env;\n\npub mod sql;"), ["error", "env", "sql"]);
}

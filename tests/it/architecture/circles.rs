//! Holds every folder of the source tree to imports without circles.
//!
//! A folder's `mod.rs` stands above the folder: it may name what is in it, and what is in it may name the items of `mod.rs`.
//! Among themselves the files and subfolders of one folder form no circle. A subfolder counts as one with all that is in it,
//! a re-exported item as one of the file that defines it. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{rust_files, src};

/// Circles that remain to be cut, by folder. A line goes with its circle.
const ALLOWED: &[(&str, &[&str])] = &[];

/// A module's path below the crate, such as `["delta", "upsert", "run"]`; an item's path likewise.
type Path = Vec<String>;

/// The code of each module, without comments and tests.
type Modules = BTreeMap<Path, String>;

/// The entries of a folder that each of them names, with a module that does it.
type Names = BTreeMap<String, BTreeMap<String, String>>;

fn path(text: &str) -> Path {
    text.split("::").map(str::to_owned).collect()
}

/// The code without comments, and without the items that are compiled for tests only.
fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or(line).trim_end()).collect();
    let mut code = String::new();
    let mut rest = lines.iter();
    while let Some(line) = rest.next() {
        if line.trim() != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        // An item ends in the first line as far to the right as it begins, with `;` or a brace.
        let ends = |line: &&&str| {
            let is_outer = line.len() - line.trim_start().len() == indent && !line.is_empty();
            is_outer && line.ends_with([';', '}', ','])
        };
        rest.find(ends);
    }
    code
}

/// The modules of the crate; those that only tests have are left out.
fn modules() -> Modules {
    let mut modules = Modules::new();
    for file in rust_files(&src()) {
        let relative = file.strip_prefix(src()).unwrap().with_extension("");
        let mut path: Path = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if path.last().is_some_and(|name| name == "mod") {
            path.pop();
        }
        if path != ["lib"] && path != ["main"] {
            modules.insert(path, without_tests(&fs::read_to_string(&file).unwrap()));
        }
    }
    let declared: BTreeSet<Path> = modules.iter().flat_map(|(path, code)| children(path, code)).collect();
    modules.retain(|path, _| (2..=path.len()).all(|depth| declared.contains(&path[..depth])));
    modules
}

/// The modules that `code` declares in other files.
fn children(path: &[String], code: &str) -> Vec<Path> {
    let declared = |line: &str| {
        let (before, name) = line.trim().strip_suffix(';')?.rsplit_once("mod ")?;
        (before.is_empty() || before.starts_with("pub")).then(|| [path, &[name.to_owned()]].concat())
    };
    code.lines().filter_map(declared).collect()
}

/// The paths of a `use` tree, such as `a::{b, c::d as e}`.
fn leaves(tree: &str) -> Vec<Path> {
    let Some((prefix, group)) = tree.trim().split_once('{') else {
        let named = tree.split(" as ").next().unwrap_or(tree).trim();
        return if named.is_empty() { Vec::new() } else { vec![path(named)] };
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let (mut depth, mut start, mut members) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members.push(&group[start..]);
    let prefix: Path = prefix.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    members.into_iter().flat_map(leaves).map(|leaf| [prefix.clone(), leaf].concat()).collect()
}

/// The paths that `use` declarations import, and all others in the code that begin with `crate`, `self` or `super`.
fn paths(code: &str) -> (Vec<Path>, Vec<Path>) {
    let (mut imported, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let is_use = |before: &str| before.is_empty() || before.starts_with("pub ") || before.starts_with("pub(");
        let Some((_, tree)) = line.trim_start().split_once("use ").filter(|(before, _)| is_use(before)) else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.ends_with(';') {
            let Some(next) = lines.next() else { break };
            tree.push_str(next);
        }
        imported.extend(leaves(tree.trim_end_matches(';')));
    }
    (imported, in_text(&rest))
}

/// The paths in code other than `use` declarations.
fn in_text(text: &str) -> Vec<Path> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_word(c)).map(|word| word.trim_matches(':'));
    let roots = ["crate::", "self::", "super::"];
    words.filter(|word| roots.iter().any(|root| word.starts_with(root))).map(path).collect()
}

/// Splits a path that `module` names into a module of ours and the rest; `None` for other crates.
fn resolve(modules: &Modules, module: &[String], named: &[String]) -> Option<(Path, Path)> {
    let mut at = match named.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        child if modules.contains_key(&[module, &[child.to_owned()]].concat()) => module.to_vec(),
        _ => return None,
    };
    let mut rest = named.iter().skip_while(|part| matches!(part.as_str(), "crate" | "self")).peekable();
    while rest.next_if(|part| *part == "super").is_some() {
        at.pop();
    }
    while let Some(part) = rest.next_if(|part| modules.contains_key(&[at.as_slice(), &[(*part).clone()]].concat())) {
        at.push(part.clone());
    }
    Some((at, rest.cloned().collect()))
}

/// The entries that each entry names, by folder.
fn folders(modules: &Modules) -> BTreeMap<Path, Names> {
    let mut imported: BTreeMap<&Path, BTreeMap<String, Path>> = BTreeMap::new();
    for (module, code) in modules {
        for named in paths(code).0 {
            if let Some((at, rest)) = resolve(modules, module, &named)
                && let Some(name) = rest.last().or(named.last())
            {
                imported.entry(module).or_default().insert(name.clone(), at);
            }
        }
    }
    let mut folders: BTreeMap<Path, Names> = BTreeMap::new();
    for (module, code) in modules {
        let (imports, written) = paths(code);
        for named in imports.iter().chain(&written) {
            let Some((mut at, rest)) = resolve(modules, module, named) else { continue };
            // An item that a module has from another counts as the other's.
            for _ in 0..5 {
                match rest.first().and_then(|item| imported.get(&at)?.get(item)) {
                    Some(origin) if at != *module => at.clone_from(origin),
                    _ => break,
                }
            }
            let common = module.iter().zip(&at).take_while(|(a, b)| a == b).count();
            if common > 0 && common < module.len() && common < at.len() {
                let names = folders.entry(module[..common].to_vec()).or_default().entry(module[common].clone());
                names.or_default().entry(at[common].clone()).or_insert_with(|| module.join("::"));
            }
        }
    }
    folders
}

/// The entries that `from` names, directly or through others.
fn reached<'a>(names: &'a Names, from: &'a str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(entry) = open.pop() {
        let next = names.get(entry).into_iter().flat_map(BTreeMap::keys).map(String::as_str);
        open.extend(next.filter(|next| seen.insert(*next)));
    }
    seen
}

/// The largest groups of entries that reach each other.
fn circles(names: &Names) -> BTreeSet<Vec<String>> {
    let of = |entry: &String| -> Vec<String> {
        let back = |other: &&str| reached(names, other).contains(entry.as_str());
        reached(names, entry).into_iter().filter(back).map(str::to_owned).collect()
    };
    names.keys().map(of).filter(|circle| circle.len() > 1).collect()
}

/// A circle with the files that make it.
fn described(folder: &str, circle: &[String], names: &Names) -> String {
    let mut text = format!("{folder}: {}", circle.join(", "));
    for entry in circle {
        for (other, place) in names.get(entry).into_iter().flatten().filter(|(other, _)| circle.contains(other)) {
            text.push_str(&format!("\n    {place} names {folder}::{other}"));
        }
    }
    text
}

#[test]
fn the_files_of_a_folder_form_no_circle() {
    let mut allowed: BTreeSet<(String, Vec<String>)> = ALLOWED
        .iter()
        .map(|(folder, circle)| ((*folder).to_owned(), circle.iter().map(|entry| (*entry).to_owned()).collect()))
        .collect();
    let mut wrong = Vec::new();
    for (folder, names) in folders(&modules()) {
        let folder = folder.join("::");
        for circle in circles(&names) {
            if !allowed.remove(&(folder.clone(), circle.clone())) {
                wrong.push(described(&folder, &circle, &names));
            }
        }
    }
    wrong.extend(allowed.into_iter().map(|(folder, circle)| {
        format!("{folder}: {} is no circle any more; take it off the list", circle.join(", "))
    }));
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let modules = files.iter().map(|(name, code)| (path(name), without_tests(code))).collect();
    let folders = folders(&modules);
    folders
        .iter()
        .flat_map(|(folder, names)| {
            circles(names).into_iter().map(|c| format!("{}: {}", folder.join("::"), c.join(" ")))
        })
        .collect()
}

#[test]
fn circles_are_found_in_every_spelling_and_through_subfolders() {
    let plain = [("m", ""), ("m::a", "use super::b::{C, D};"), ("m::b", "fn f() { crate::m::a::g() }")];
    assert_eq!(found(&plain), ["m: a b"]);
    let deep = [("m", ""), ("m::a", "use super::b::X;"), ("m::b", ""), ("m::b::c", "use super::super::{a};")];
    assert_eq!(found(&deep), ["m: a b"]);
    let renamed =
        [("m", "pub use b::C as E;\npub use self::a::A;"), ("m::a", "use super::b;"), ("m::b", "use crate::m::A;")];
    assert_eq!(found(&renamed), ["m: a b"]);
}

#[test]
fn parents_comments_and_tests_make_no_circle() {
    let parent = [("m", "mod a;\nuse a::A;\nstruct B;"), ("m::a", "use super::B;")];
    assert_eq!(found(&parent), [""; 0]);
    let comment = [("m", ""), ("m::a", "use super::b::B;"), ("m::b", "//! See [`super::a::A`].\nstruct B;")];
    assert_eq!(found(&comment), [""; 0]);
    let test = "struct B;\n#[cfg(test)]\nmod tests {\n    use crate::m::a::A;\n\n    fn f() {}\n}\nuse std::fmt;";
    assert_eq!(found(&[("m", ""), ("m::a", "use super::b::B;"), ("m::b", test)]), [""; 0]);
    assert_eq!(children(&path("m"), "pub(crate) mod a;\nmod b;\nlet mod_ = 1;"), [path("m::a"), path("m::b")]);
}

#[test]
fn use_trees_are_read_to_their_leaves() {
    let tree = "super::{a::{B, c::D as E}, self, f}";
    let expected = ["super::a::B", "super::a::c::D", "super::self", "super::f"];
    assert_eq!(leaves(tree), expected.map(path));
}

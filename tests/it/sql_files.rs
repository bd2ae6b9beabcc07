//! The example pipelines pass `weir check` as they are, run by the real program, without any connection.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sql_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    files
}

/// `weir check` with nothing in the environment that the files read, but for the model, which is not part of the repository's
/// examples: `weir demo` trains one.
fn check(files: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("check").args(files).current_dir(root());
    for name in ["KAFKA", "TOPIC", "ALERTS", "INPUT", "RATE"] {
        command.env_remove(name);
    }
    command.env("MODEL", root().join("tests/data/fraud_histories.txt")).output().unwrap()
}

fn printed(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_example_passes_check() {
    let mut files = sql_files("sql");
    assert!(files.len() >= 3, "{files:?}");
    files.extend(sql_files("sql/nexmark"));
    for file in files {
        let output = check(&[&file]);
        assert!(output.status.success(), "{}:\n{}", file.display(), printed(&output));
    }
}

#[test]
fn every_function_file_passes_check_before_a_pipeline() {
    let files = sql_files("udfs");
    assert!(!files.is_empty());
    let pipeline = root().join("sql/generator.sql");
    for file in files {
        let output = check(&[&file, &pipeline]);
        assert!(output.status.success(), "{}:\n{}", file.display(), printed(&output));
    }
}

#[test]
fn check_refuses_an_example_that_was_broken() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.sql");
    let text = std::fs::read_to_string(root().join("sql/fraud.sql")).unwrap();
    std::fs::write(&broken, text.replacen("topic = ", "topc = ", 1)).unwrap();
    let output = check(&[&broken]);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains("topc"), "{}", printed(&output));
}

/// A source, `views` that each make `x` of the one before, and an INSERT of the last.
fn doubling(levels: usize, double: &str, insert: &str) -> String {
    let mut text = "CREATE SOURCE s (k BIGINT, v BIGINT) WITH (connector = 'file', path = 'in', format = 'json');\n\
        CREATE TABLE o (n BIGINT);\n\
        CREATE VIEW v0 AS SELECT v AS x FROM s;\n"
        .to_owned();
    for n in 1..=levels {
        text += &format!("CREATE VIEW v{n} AS SELECT {double} AS x FROM v{};\n", n - 1);
    }
    text + &format!("INSERT INTO o {};\n", insert.replace("LAST", &format!("v{levels}")))
}

#[test]
fn check_refuses_types_and_conditions_that_double_with_every_view() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("doubling.sql");
    let nested = (0..30)
        .fold("SELECT v AS x FROM s".to_owned(), |text, n| format!("SELECT struct(x, x) AS x FROM ({text}) t{n}"));
    for (text, refused) in [
        (doubling(30, "struct(x, x)", "SELECT 1 FROM LAST"), Some("too large")),
        (doubling(30, "named_struct('a', x, 'b', x)", "SELECT 1 FROM LAST"), Some("too large")),
        (doubling(30, "{'a': x, 'b': x}", "SELECT 1 FROM LAST"), Some("too large")),
        (doubling(0, "", &format!("SELECT 1 FROM ({nested}) t")), Some("too large")),
        (doubling(30, "x + x", "SELECT 1 FROM LAST WHERE x > 5"), Some("too long")),
        (doubling(6, "struct(x, x)", "SELECT 1 FROM LAST"), None),
        (doubling(6, "x + x", "SELECT x FROM LAST WHERE x > 5"), None),
    ] {
        std::fs::write(&file, &text).unwrap();
        let started = std::time::Instant::now();
        let output = check(&[&file]);
        let found = printed(&output);
        let end = &text[text.len().saturating_sub(300)..];
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "{end}: {:?}", started.elapsed());
        assert_eq!(output.status.code(), Some(i32::from(refused.is_some())), "{end}: {found:.2000}");
        assert!(found.contains(refused.unwrap_or("ok")), "{end}: {found:.2000}");
    }
}

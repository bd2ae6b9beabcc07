//! The errors of `tests/errors`, as `weir check` prints them. A folder there holds files that are checked together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::project::{Project, memory_pool, runtime};
use super::statements::Statements;
use crate::config::Config;
use crate::env::Env;
use crate::plan::Targets;
use crate::source::delta::Reach;
use crate::sql::SourceFile;

fn lookup(name: &str) -> Option<String> {
    match name {
        "BROKER" => Some("broker:9092".to_owned()),
        "PASSWORD" => Some("hunter2".to_owned()),
        "EVENTHUB" => Some(
            "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=hunter2=;EntityPath=tx"
                .to_owned(),
        ),
        _ => None,
    }
}

fn is_sql(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sql")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

async fn printed(inputs: &[PathBuf]) -> String {
    let file = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Arc::new(SourceFile::new(name, std::fs::read_to_string(path).unwrap()))
    };
    let files: Vec<_> = inputs.iter().map(file).collect();
    let config = Config { warehouse: "/nowhere/warehouse".to_owned(), ..Config::default() };
    let env = Env::system().unwrap();
    let mut project = Project::read_files(&files, &lookup).unwrap();
    project.complete(Reach::Local, &config, &env).await;
    let statements = Statements::of(&project, &config, &env, Reach::Local, memory_pool(&config).queries()).unwrap();
    let mut problems = project.problems(&Targets::new(), &[], runtime(&config).unwrap()).await;
    problems.extend(statements.problems(&project).await.unwrap());
    project.diagnostics(problems).render(false)
}

/// Compares the output for every file and folder of `tests/errors` with the golden file beside it. `WEIR_BLESS=1` overwrites
/// the golden files.
#[tokio::test]
async fn errors_are_printed_as_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let inputs: Vec<PathBuf> = entries(&folder).into_iter().filter(|path| path.is_dir() || is_sql(path)).collect();
    assert!(inputs.len() >= 10, "golden files are missing");
    let mut wrong = Vec::new();
    for input in inputs {
        let files = match input.is_dir() {
            true => entries(&input).into_iter().filter(|path| is_sql(path)).collect(),
            false => vec![input.clone()],
        };
        let name = input.file_stem().unwrap().display();
        let printed = printed(&files).await;
        let golden = input.with_extension("txt");
        if std::env::var_os("WEIR_BLESS").is_some() {
            std::fs::write(&golden, &printed).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != printed {
            wrong.push(format!("--- {name} prints:\n{printed}"));
        }
        assert!(!printed.is_empty(), "{name} has no error");
        assert!(!printed.contains("hunter2"), "{name} prints a secret");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

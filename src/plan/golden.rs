//! The errors of `tests/errors`, as printed: what the catalog finds, and where it finds nothing, what planning finds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::datasource::ViewTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as Planned;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use super::{FunctionSet, session_state, watermark_expr};
use crate::catalog::Catalog;
use crate::sql::{Diagnostic, Diagnostics, SourceFile, diagnose_all};

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

/// Every file of `tests/errors` prints what stands beside it. `WEIR_BLESS=1` writes what is printed now.
#[tokio::test]
async fn errors_are_printed_as_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "golden files are missing");
    let mut wrong = Vec::new();
    for input in inputs {
        let name = format!("{}.sql", input.file_stem().unwrap().display());
        let files = [Arc::new(SourceFile::new(name.clone(), std::fs::read_to_string(&input).unwrap()))];
        let printed = match Catalog::load(&files, &lookup) {
            Err(found) => found.render(false),
            Ok(catalog) => planning_errors(&catalog).await.render(false),
        };
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

/// What is found when the views and INSERTs of a catalog without errors of its own are planned.
async fn planning_errors(catalog: &Catalog) -> Diagnostics {
    let session = match session_state(catalog, &FunctionSet::default(), Arc::new(RuntimeEnv::default())) {
        Ok(session) => session,
        Err(found) => return Diagnostics::new(&catalog.files, found),
    };
    let watermarks = catalog.sources.values().map(|source| watermark_expr(source, &session, &catalog.files));
    let mut found: Vec<Diagnostic> = watermarks.filter_map(Result::err).collect();
    let context = SessionContext::new_with_state(session);
    for source in catalog.sources.values() {
        context.register_batch(&source.name, RecordBatch::new_empty(source.schema())).unwrap();
    }
    for name in &catalog.view_order {
        let view = &catalog.views[name];
        match plan(&context, &view.query).await {
            Ok(plan) => {
                context.register_table(name, Arc::new(ViewTable::new(plan, None))).unwrap();
            }
            Err(error) => found.extend(diagnose_all(&error, &catalog.files, view.span)),
        }
    }
    for insert in catalog.pipelines.iter().flat_map(|pipeline| &pipeline.inserts) {
        if let Err(error) = plan(&context, &insert.query).await {
            found.extend(diagnose_all(&error, &catalog.files, insert.span));
        }
    }
    Diagnostics::new(&catalog.files, found)
}

async fn plan(
    context: &SessionContext,
    query: &Query,
) -> datafusion::error::Result<datafusion::logical_expr::LogicalPlan> {
    let statement = Planned::Statement(Box::new(SqlStatement::Query(Box::new(query.clone()))));
    context.state().statement_to_plan(statement).await
}

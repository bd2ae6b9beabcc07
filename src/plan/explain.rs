//! A dataflow in words: what is read, what is computed once, where each INSERT's rows go.

use std::fmt::Write;

use datafusion::physical_plan::displayable;

use super::dataflow::Dataflow;
use crate::catalog::{SourceConnector, TableFeed};

/// The dataflow as text, one section per source, shared view and INSERT, in the order in which a micro-batch runs.
pub fn explain(dataflow: &Dataflow) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "pipeline {}  (fingerprint {})", dataflow.pipeline, dataflow.fingerprint());
    for source in &dataflow.sources {
        let connector = match &source.def.connector {
            SourceConnector::Kafka(options) => {
                format!("kafka topic {} at {}", options.topic, options.connection.bootstrap_servers)
            }
            SourceConnector::File(options) => format!("files {}", options.path),
            SourceConnector::Generator(options) => format!("generator seed {}", options.seed),
            SourceConnector::Delta(options) => match options.feed {
                TableFeed::Append => format!("delta table {}", options.path),
                TableFeed::Changes => format!("changes of delta table {}", options.path),
            },
        };
        let _ = writeln!(text, "\nsource {}  [append]  {connector}", source.def.name);
        for column in &source.def.columns {
            let null = if column.nullable { "" } else { " NOT NULL" };
            let _ = writeln!(text, "  {} {}{null}", column.name, column.data_type);
        }
        if let Some(watermark) = &source.def.watermark {
            let _ = writeln!(text, "  watermark {} AS {}", watermark.column, watermark.expression);
        }
    }
    for fragment in &dataflow.fragments {
        let _ = writeln!(text, "\nshared view {}  [append]  computed once per micro-batch, state none", fragment.view);
        section(&mut text, &fragment.plan);
    }
    for branch in &dataflow.branches {
        let _ = writeln!(text, "\ninsert into {}  [append]  state none", branch.target);
        section(&mut text, &branch.plan);
    }
    text
}

fn section(text: &mut String, plan: &std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>) {
    for line in displayable(plan.as_ref()).indent(false).to_string().lines() {
        let _ = writeln!(text, "  {line}");
    }
}

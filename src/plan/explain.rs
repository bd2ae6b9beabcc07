//! A dataflow in words: what is read, what is computed once, where each INSERT's rows go.

use std::fmt::Write;

use datafusion::physical_plan::displayable;

use super::dataflow::Dataflow;
use super::operators::OperatorNode;
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
            SourceConnector::Nexmark(options) => format!("nexmark {:?} seed {}", options.table, options.seed),
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
    for stage in 0..dataflow.stages {
        let computed = dataflow.fragments.iter().filter(|fragment| fragment.copies.is_none());
        for fragment in computed.filter(|fragment| fragment.stage == stage) {
            let mode = mode(fragment.retract);
            let _ = writeln!(text, "\nstream {}  [{mode}]  computed once per micro-batch, state none", fragment.name);
            section(&mut text, &fragment.plan);
        }
        for (_, node) in dataflow.operators_of(stage) {
            operator(&mut text, dataflow, node);
        }
    }
    for branch in &dataflow.branches {
        let _ = writeln!(text, "\ninsert into {}  [{}]  state none", branch.target, mode(branch.retract));
        section(&mut text, &branch.plan);
    }
    text
}

fn mode(retract: bool) -> &'static str {
    if retract { "retract" } else { "append" }
}

fn operator(text: &mut String, dataflow: &Dataflow, node: &OperatorNode) {
    let _ = writeln!(text, "\noperator {}  [{}]", node.id, mode(node.retract));
    let sources: Vec<_> = node.sources.iter().map(|source| dataflow.sources[*source].def.name.as_str()).collect();
    for (what, words) in node.spec.explain() {
        let _ = writeln!(text, "  {what:<8} {words}");
    }
    let _ = writeln!(text, "  {:<8} the slowest of {}", "follows", sources.join(", "));
}

fn section(text: &mut String, plan: &std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>) {
    for line in displayable(plan.as_ref()).indent(false).to_string().lines() {
        let _ = writeln!(text, "  {line}");
    }
}

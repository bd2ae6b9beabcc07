//! `weir status`: what the warehouse's pipelines did last.

use std::path::Path;

use crate::cli::output::say;
use crate::cli::report::{grouped, size};
use crate::config::Config;
use crate::epoch::Progress;
use crate::error::{Context, Error, Result};

/// What was typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this pipeline
    pipeline: Option<String>,
    /// The last epoch of each pipeline as JSON
    #[arg(long)]
    json: bool,
    /// How many epochs to show of each pipeline
    #[arg(short = 'n', long, default_value_t = 1)]
    epochs: usize,
}

/// Prints the newest epochs of each pipeline. Errors: a warehouse that is not a local folder, a pipeline that never ran.
pub async fn run(args: Args, config: &Config) -> Result<()> {
    let folder = crate::delta::local_folder(&config.warehouse).ok_or_else(|| {
        Error::config("`weir status` reads a local warehouse")
            .with_hint("Ask the running process: its HTTP port answers at /progress.")
    })?;
    let mut shown = 0;
    for name in pipelines(&folder.join("_weir"))? {
        if args.pipeline.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let path = folder.join("_weir").join(&name).join("progress.jsonl");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(args.epochs.max(1)).collect();
        for line in lines.into_iter().rev() {
            shown += 1;
            if args.json {
                say!("{line}");
                continue;
            }
            let progress: Progress =
                serde_json::from_str(line).internal(|| format!("progress in `{}` is not readable", path.display()))?;
            print(&progress);
        }
    }
    if shown == 0 {
        let which = args.pipeline.map_or_else(String::new, |name| format!(" `{name}`"));
        return Err(Error::config(format!("no pipeline{which} has run in warehouse `{}`", config.warehouse))
            .with_hint("Start one with `weir run file.sql`, or name another warehouse in the configuration."));
    }
    Ok(())
}

fn pipelines(folder: &Path) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.environment(|| format!("folder `{}` cannot be read", folder.display()))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn print(progress: &Progress) {
    say!("{}  epoch {}  {}", progress.name, progress.epoch, progress.timestamp);
    say!(
        "  {} rows in, {} rows/s, worst latency {:.1} ms, {} dead letters, {} files, {}",
        grouped(progress.num_input_rows),
        grouped(progress.processed_rows_per_second as u64),
        progress.latency_ms,
        grouped(progress.dead_letters),
        progress.files,
        size(progress.bytes)
    );
    for source in &progress.sources {
        let offsets: Vec<_> = source.end_offset.iter().map(|(partition, end)| format!("{partition}={end}")).collect();
        let lag = source.lag.map_or_else(|| "unknown".to_owned(), grouped);
        say!("  from {}  lag {lag}  {}", source.description, offsets.join(" "));
    }
    for operator in &progress.state_operators {
        let late = match operator.num_rows_late {
            0 => String::new(),
            late => format!("  {} late", grouped(late)),
        };
        let watermark = operator.watermark.as_deref().unwrap_or("none");
        say!(
            "  keeps {}  {} rows  {}  watermark {watermark}{late}",
            operator.operator,
            grouped(operator.num_rows_total),
            size(operator.memory_used_bytes)
        );
    }
    for sink in &progress.sinks {
        let version = sink.version.map_or_else(String::new, |version| format!("  version {version}"));
        say!("  to   {}  {} rows  ({}){version}", sink.description, grouped(sink.num_output_rows), sink.kind);
    }
}

//! `weir status`: the last epochs of the warehouse's pipelines.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::cli::output::say;
use crate::cli::report::{grouped, size};
use crate::config::Config;
use crate::delta::TableStore;
use crate::env::Env;
use crate::epoch::{self, Progress};
use crate::error::{Error, Result};
use crate::state::ManifestStore;

/// Arguments of `weir status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this pipeline
    pipeline: Option<String>,
    /// The last epoch of each pipeline as JSON
    #[arg(long)]
    json: bool,
    /// Number of epochs to show of each pipeline
    #[arg(short = 'n', long, default_value_t = 1)]
    epochs: usize,
}

/// Prints the newest epochs of each pipeline. Errors: a warehouse that is not a local folder; a pipeline that never ran; a
/// damaged progress file, after the rest was printed.
pub async fn run(args: Args, config: &Config) -> Result<()> {
    let folder = crate::delta::local_folder(&config.warehouse).ok_or_else(|| {
        Error::config("`weir status` reads a local warehouse")
            .with_hint("Ask the running process: its HTTP port answers at /progress.")
    })?;
    let (mut shown, mut damaged) = (0, Vec::new());
    let warehouse = TableStore::open(&config.warehouse, &BTreeMap::new(), &Env::system()?)?.object_store();
    for name in epoch::pipelines(&warehouse, &config.warehouse).await? {
        if args.pipeline.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let Kept { epochs, damage } =
            read(&folder.join("_weir").join(&name).join("progress.jsonl"), args.epochs.max(1));
        damaged.extend(damage);
        if epochs.is_empty()
            && let Some(newest) = newest_manifest(&folder.join("_weir").join(&name))
        {
            shown += 1;
            newest.print(&name, args.json);
        }
        for (line, progress) in epochs {
            shown += 1;
            if args.json {
                say!("{line}");
            } else {
                print(&progress);
            }
        }
    }
    if !damaged.is_empty() {
        let files = if damaged.len() == 1 { "a progress file is" } else { "progress files are" };
        return Err(Error::damaged(format!("{files} damaged")).with_detail(damaged.join("\n        ")).with_hint(
            "Only what `weir status` and `weir.progress` show is lost: tables, state and manifests do not depend on it. \
             Remove the file, and the next epoch begins another.",
        ));
    }
    if shown == 0 {
        let which = args.pipeline.map_or_else(String::new, |name| format!(" `{name}`"));
        return Err(Error::config(format!("no pipeline{which} has run in warehouse `{}`", config.warehouse))
            .with_hint("Start one with `weir run file.sql`, or name another warehouse in the configuration."));
    }
    Ok(())
}

/// The newest manifest of a pipeline whose progress file shows no epoch.
struct NewestManifest {
    epoch: u64,
    /// Time at which the manifest was written, RFC 3339.
    timestamp: String,
    /// The defect of the progress file.
    progress: String,
}

/// The newest manifest in a pipeline's folder, if any.
fn newest_manifest(folder: &Path) -> Option<NewestManifest> {
    let entries = std::fs::read_dir(folder.join("manifests")).ok()?;
    let named = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let (epoch, _) = ManifestStore::named(entry.file_name().to_str()?)?;
        Some((epoch.0, entry.metadata().ok()?.modified().ok()?))
    };
    let (epoch, modified) = entries.filter_map(named).max()?;
    let timestamp =
        chrono::DateTime::<chrono::Utc>::from(modified).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let file = folder.join("progress.jsonl");
    let state = match std::fs::metadata(&file) {
        Ok(found) if found.len() == 0 => "is empty",
        Ok(_) => "names no epoch",
        Err(_) => "does not exist",
    };
    Some(NewestManifest { epoch, timestamp, progress: format!("`{}` {state}", file.display()) })
}

impl NewestManifest {
    fn print(&self, pipeline: &str, json: bool) {
        let Self { epoch, timestamp, progress } = self;
        if json {
            say!("{}", serde_json::json!({"name": pipeline, "epoch": epoch, "timestamp": timestamp}));
        } else {
            say!("{pipeline}  epoch {epoch}  {timestamp}  (its newest manifest; {progress})");
        }
    }
}

/// The readable contents of a progress file.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    /// Lines with their parsed contents, oldest first.
    epochs: Vec<(String, Progress)>,
    /// The defect of the file, if any.
    damage: Option<String>,
}

/// Reads the newest `count` epochs of a progress file; empty if there is no file. A last line without a line end is still
/// being written; damage before the requested epochs is ignored.
fn read(path: &Path, count: usize) -> Kept {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Kept::default();
        }
        Err(error) => return Kept { damage: Some(format!("`{}`: {error}", path.display())), ..Kept::default() },
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(&[][..], |end| &bytes[..end]);
    let lines: Vec<&[u8]> = whole.split(|byte| *byte == b'\n').collect();
    let mut kept = Kept::default();
    let mut wrong = Vec::new();
    for (number, line) in lines.iter().enumerate().rev().filter(|(_, line)| !line.is_empty()) {
        match Progress::of_line(line) {
            Some(progress) => kept.epochs.push((String::from_utf8_lossy(line).into_owned(), progress)),
            None => wrong.push(number + 1),
        }
        if kept.epochs.len() == count {
            break;
        }
    }
    kept.epochs.reverse();
    if whole.is_empty() && !bytes.is_empty() {
        wrong.push(1);
    }
    if let Some(last) = wrong.first() {
        let more = if wrong.len() > 1 { format!(" and {} before it", wrong.len() - 1) } else { String::new() };
        kept.damage = Some(format!("`{}`: line {last}{more} cannot be read", path.display()));
    }
    kept
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
        let refused = match sink.num_refused_rows {
            0 => String::new(),
            refused => format!("  {} refused", grouped(refused)),
        };
        let rows = grouped(sink.num_output_rows);
        say!("  to   {}  {rows} rows  ({}){version}{refused}", sink.description, sink.kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: &[u8], count: usize) -> Kept {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("progress.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let mut kept = read(&path, count);
        kept.damage = kept.damage.map(|damage| damage.replace(&format!("`{}`", path.display()), "it"));
        kept
    }

    fn numbers(kept: &Kept) -> Vec<u64> {
        kept.epochs.iter().map(|(_, progress)| progress.epoch).collect()
    }

    #[test]
    fn the_newest_epochs_are_read_and_a_line_that_is_being_written_is_left_out() {
        let found = kept(
            b"{\"name\":\"p\",\"epoch\":1}\n{\"name\":\"p\",\"epoch\":2}\n{\"name\":\"p\",\"epoch\":3}\n{\"epo",
            2,
        );
        assert_eq!((numbers(&found), found.damage), (vec![2, 3], None));
        assert_eq!(kept(b"", 2), Kept::default());
        assert_eq!(read(Path::new("nowhere/progress.jsonl"), 1), Kept::default());
    }

    #[test]
    fn damaged_lines_among_the_newest_are_named_and_the_others_shown() {
        let bytes = b"{\"name\":\"p\",\"epoch\":1}\n\xff\xfe\n{\"name\":\"p\",\"epoch\":2}\nx\n";
        let found = kept(bytes, 5);
        assert_eq!(numbers(&found), [1, 2]);
        assert_eq!(found.damage.as_deref(), Some("it: line 4 and 1 before it cannot be read"));
        let found = kept(bytes, 1);
        assert_eq!((numbers(&found), found.damage.as_deref()), (vec![2], Some("it: line 4 cannot be read")));
        let odd = kept(b"[1,2]\n[]\n5\nnull\n\"x\"\n{}\n{\"pipeline\":\"p\"}\n{\"name\":\"p\",\"epoch\":-1}\n", 9);
        assert_eq!((numbers(&odd), odd.damage.as_deref()), (vec![], Some("it: line 8 and 7 before it cannot be read")));
        assert_eq!(kept(b"x\n{\"name\":\"p\",\"epoch\":2}\n", 1).damage, None);
        let all = kept(&[0x80; 100], 1);
        assert_eq!((all.epochs, all.damage.as_deref()), (Vec::new(), Some("it: line 1 cannot be read")));
    }
}

//! The command line: one file per subcommand. Arguments are parsed here; each subcommand gets typed ones.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{Config, LogFormat};
use crate::error::{Error, ErrorKind};
use crate::output::{Patience, Printer, Stream};
use crate::sql::Failure;
use crate::sql::limits::{PLANNING_STACK_BYTES, STACK_BYTES};

mod backup;
mod check;
mod connect;
mod demo;
mod explain;
mod migration;
pub mod format;
mod generate;
mod go_back;
mod logging;
mod output;
mod project;
pub mod query;
mod report;
mod restore;
mod run;
pub mod serve;
mod server;
mod signals;
mod statements;
mod status;
mod verify;

#[cfg(test)]
mod golden;

/// weir: SQL pipelines from Kafka to Delta Lake, exactly once, with model scoring.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, propagate_version = true, after_help = EXIT_CODES)]
struct Typed {
    /// Configuration file [default: config/weir.yaml, if it exists]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Form of the output: text for people, json for machines
    #[arg(long, global = true, value_enum)]
    log: Option<LogChoice>,

    #[command(subcommand)]
    command: Command,
}

/// Shown by `weir --help`.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 your input is wrong, 2 the environment failed (start again), \
    3 another run has taken over, 4 stored data is damaged or weir has a defect (do not start again before looking)";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogChoice {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the pipelines of SQL files until stopped; Ctrl-C commits and ends
    Run(run::Args),
    /// Parse, bind and plan SQL files; every error at once, no connection made
    Check(check::Args),
    /// Show the plan of a pipeline
    Explain(explain::Args),
    /// Serve Flight SQL and HTTP over the warehouse, without pipelines
    Serve(serve::Args),
    /// Run one query on the warehouse or on a server
    Query(query::Args),
    /// Make simulated events
    Generate(generate::Args),
    /// Everything in one process: broker, simulator, model, pipeline, Flight SQL
    Demo(demo::Args),
    /// Compare what a pipeline wrote with the same SQL in batch
    Verify(verify::Args),
    /// Show the last epochs of pipelines
    Status(status::Args),
    /// Copy the whole warehouse, while its pipelines run, to a folder or URL; a second backup adds only new files
    Backup(backup::Args),
    /// Reset a pipeline to an epoch (--pipeline, --epoch), or create a warehouse from a backup (--from)
    Restore(restore::Args),
    /// Print the configuration with every key explained
    Config,
}

impl Command {
    /// `true` if the command handles signals and ends by itself.
    fn listens(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Serve(_) | Self::Demo(_) | Self::Generate(_))
    }
}

fn exit_code(failure: &Failure) -> ExitCode {
    match failure {
        Failure::Sql(_) => ExitCode::from(ErrorKind::Sql.exit_code()),
        Failure::Other(error) => ExitCode::from(error.kind().exit_code()),
    }
}

/// The time limit for writing the last lines of a command that may have no reader.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The time that the end waits for blocked threads.
const THREADS_END: Duration = Duration::from_secs(2);

/// Parses the arguments, runs the command, prints an error once.
///
/// The exit code is 0 done, 1 the user's input is wrong, 2 the environment failed, 3 fenced by another run, 4 damaged data
/// or a defect.
pub fn main() -> ExitCode {
    let may_listen = |word: std::ffi::OsString| ["run", "serve", "demo", "generate"].iter().any(|name| word == *name);
    if std::env::args_os().any(may_listen) {
        signals::end_early();
    }
    let typed = Typed::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        // Wrong arguments are the user's error: 1, as for SQL. Help and version are not errors.
        std::process::exit(i32::from(error.use_stderr()))
    });
    if !typed.command.listens() {
        signals::end_as_usual();
    }
    let (log, output) = (Printer::new(Stream::Error), Printer::new(Stream::Output));
    let patience = patience(&typed.command);
    let code = match run_typed(typed, &log, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log.print_last(describe(&failure));
            exit_code(&failure)
        }
    };
    output.drain(patience);
    log.drain(patience);
    code
}

/// The time limit for printing the remaining output at the end. Long-running commands may have no reader; others wait for
/// theirs.
fn patience(command: &Command) -> Patience {
    match command {
        Command::Run(_) | Command::Serve(_) | Command::Demo(_) => Patience::AtMost(LAST_WORDS),
        _ => Patience::Endless,
    }
}

fn run_typed(typed: Typed, log: &Printer, output: &Printer) -> Result<(), Failure> {
    let config = Config::load(typed.config.as_deref())?;
    let asked_for_json = match typed.log {
        Some(choice) => matches!(choice, LogChoice::Json),
        None => matches!(config.log.format, LogFormat::Json),
    };
    let json = match typed.log {
        Some(LogChoice::Json) => true,
        Some(LogChoice::Text) => false,
        None => match config.log.format {
            LogFormat::Json => true,
            LogFormat::Text => false,
            LogFormat::Auto => !std::io::stderr().is_terminal(),
        },
    };
    logging::start(json, &config.log.level, log);
    let printing = Printing { json, asked_for_json, output: output.clone(), log: log.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build();
    let runtime = runtime.map_err(|error| Error::environment("threads cannot be started").with_source(error))?;
    let done = on_deep_stack(|| runtime.block_on(run_command(typed.command, &config, &printing)));
    // A blocked client thread must not keep a finished program alive.
    runtime.shutdown_timeout(THREADS_END);
    done
}

/// Output settings of a long-running command, whose output may have no reader.
pub struct Printing {
    /// JSON for machines.
    json: bool,
    /// JSON was requested, not only chosen because there is no terminal.
    asked_for_json: bool,
    /// Standard output.
    output: Printer,
    /// Standard error.
    log: Printer,
}

/// Runs the command on a thread whose stack is large enough for the deepest SQL that [`crate::sql::limits`] allows.
fn on_deep_stack(run: impl FnOnce() -> Result<(), Failure> + Send) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("weir".to_owned()).stack_size(PLANNING_STACK_BYTES);
        let started = builder.spawn_scoped(scope, run);
        let thread = started.map_err(|error| Error::environment("threads cannot be started").with_source(error))?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("command ended abnormally").into()))
    })
}

async fn run_command(command: Command, config: &Config, printing: &Printing) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args, config, printing).await,
        Command::Check(args) => check::run(args, config).await,
        Command::Explain(args) => explain::run(args, config).await,
        Command::Verify(args) => verify::run(args, config).await,
        Command::Serve(args) => serve::run(args, config, printing).await,
        Command::Query(args) => query::run(args, config).await,
        Command::Generate(args) => Ok(generate::run(args, printing).await?),
        Command::Demo(args) => demo::run(args, config, printing).await,
        Command::Status(args) => Ok(status::run(args, config).await?),
        Command::Backup(args) => backup::run(args, config).await,
        Command::Restore(args) => restore::run(args, config).await,
        Command::Config => {
            output::say!("{}", Config::documented().trim_end());
            Ok(())
        }
    }
}

/// The text of a failure for standard error.
fn describe(failure: &Failure) -> String {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let error = match failure {
        Failure::Sql(diagnostics) => return diagnostics.render(color),
        Failure::Other(error) => error,
    };
    let (red, bold, off) = if color { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error{off}{bold}: {}{off}\n", error.message());
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let _ = writeln!(text, "  caused by: {inner}");
        cause = inner.source();
    }
    if let Some(detail) = error.detail() {
        let _ = writeln!(text, "  note: {detail}");
    }
    match error.hint() {
        Some(hint) => {
            let _ = writeln!(text, "  help: {hint}");
        }
        None if error.kind() == ErrorKind::Internal => {
            text.push_str(
                "  help: This is a defect in weir: please report it with the log, which says where it happened.\n",
            );
        }
        None => {}
    }
    text
}

//! `weir generate`: simulated events for trying things out.

use clap::ValueEnum;

use super::output::Output;
use super::{Printing, signals};
use crate::epoch::Stop;
use crate::error::{Context, Result};
use crate::lab::generator::{Labels, Rendering, Simulator};
use crate::lab::produce::{Pace, Target, send};

/// Arguments of `weir generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kind of events
    #[arg(value_enum)]
    what: What,
    /// Target: kafka://host:port/topic, a file, or - for standard output
    #[arg(long, default_value = "-")]
    to: String,
    /// Records a second [default: as fast as the target takes them]
    #[arg(long)]
    rate: Option<f64>,
    /// End after this many records
    #[arg(long)]
    rows: Option<u64>,
    /// End after this many simulated days
    #[arg(long, default_value_t = 183)]
    days: u32,
    /// Number of card holders
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    customers: u32,
    /// Number of terminals
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    terminals: u32,
    /// The same seed gives the same records
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Add `is_fraud`
    #[arg(long)]
    labels: bool,
    /// Truncate every n-th record, to see dead letters; 0 = never
    #[arg(long, default_value_t = 0)]
    broken_every: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Card transactions with three kinds of fraud
    Transactions,
}

/// Generates until done or interrupted. Errors: a target that accepts no records.
pub async fn run(args: Args, printing: &Printing) -> Result<()> {
    let stop = Stop::default();
    signals::listen(stop.clone(), printing.log.clone())?;
    let mut target = Target::parse(&args.to, || Box::new(Output::default()))?;
    let What::Transactions = args.what;
    let task = tokio::task::spawn_blocking(move || {
        let mut simulator = Simulator::new(args.seed, args.customers, args.terminals);
        let pace = Pace { rate: args.rate, rows: args.rows, days: Some(args.days), broken_every: args.broken_every };
        let labels = if args.labels { Labels::Keep } else { Labels::LeaveOut };
        send(&mut simulator, &mut target, pace, Rendering { labels, ..Rendering::default() }, &|| stop.is_set())
    });
    let sent = task.await.internal(|| "the generator ended abnormally".to_owned())??;
    printing.log.print(format!("{} records\n", super::report::grouped(sent)));
    Ok(())
}

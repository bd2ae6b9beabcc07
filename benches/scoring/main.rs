//! Scoring: LightGBM's own batch prediction, tl2cgen's generated code where it is installed, and ours, in one run on one
//! core.
//!
//! Prints CPU time per row (the thread's own, so that other work on the machine does not count) and how much faster than
//! LightGBM ours is. Every cell's scores are compared bit by bit first. `cargo bench --bench scoring [-- all]`: `all` also
//! shows every evaluator. The process is pinned to the first core it may use.

mod generated;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, Float64Array, RecordBatch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir::error::{Error, Result};
use weir::model::evaluator::{Batch, Column, Evaluator};
use weir::model::{Model, train};

use generated::{Generated, entries};

/// CPU seconds that a cell may take per evaluator.
const BUDGET: f64 = 0.15;
const ROWS: usize = 8_192;

fn main() -> Result<()> {
    let all = std::env::args().any(|argument| argument == "all");
    if !pin_to_one_core() {
        println!("not pinned: this system does not let a process choose its core");
    }
    println!(
        "{:>5} {:>6} {:>8} {:>5}  {:>12} {:>12} {:>12} {:>6}  evaluator",
        "trees", "leaves", "features", "batch", "LightGBM ns", "tl2cgen ns", "ours ns", "ratio"
    );
    let mut tl2cgen = true;
    for features in [15, 100] {
        let columns = columns(features);
        for (trees, leaves) in [(20, 31), (100, 31), (500, 31), (100, 255)] {
            let text = model(&columns, trees, leaves)?;
            let model = Model::from_text("bench", &text)?;
            let evaluators = Model::evaluators(&text)?;
            let generated = Generated::compile(&text)?;
            tl2cgen &= generated.is_some();
            for rows in [1, 100, ROWS] {
                let batches = batches(&columns, rows)?;
                for batch in &batches {
                    check_equal(&model, evaluators[0].as_ref(), batch)?;
                }
                let mut scores = vec![0.0; rows];
                let theirs = nanoseconds_per_row(&batches, |_, batch| evaluators[0].score(batch, &mut scores))?;
                let by_tl2cgen = match &generated {
                    Some(generated) => {
                        let mut entries = entries(&columns, rows * batches.len());
                        let score = |at: usize, _: &Batch<'_>| {
                            let size = rows * features;
                            generated.score(&mut entries[at * size..][..size], features, &mut scores);
                            Ok(())
                        };
                        format!("{:.1}", nanoseconds_per_row(&batches, score)?)
                    }
                    None => "-".to_owned(),
                };
                let ours = nanoseconds_per_row(&batches, |_, batch| model.score(batch, &mut scores))?;
                let name = model
                    .describe()
                    .into_iter()
                    .find(|(key, _)| *key == "evaluator")
                    .map_or(String::new(), |(_, name)| name);
                println!(
                    "{trees:>5} {leaves:>6} {features:>8} {rows:>5}  {theirs:>12.1} {by_tl2cgen:>12} {ours:>12.1} {:>5.1}x  {name}",
                    theirs / ours
                );
                if all {
                    for evaluator in &evaluators[1..] {
                        let taken = nanoseconds_per_row(&batches, |_, batch| evaluator.score(batch, &mut scores))?;
                        println!("{:>40} {taken:>12.1}  {evaluator:?}", "");
                    }
                }
            }
        }
    }
    if !tl2cgen {
        println!("tl2cgen is not installed: `make bench-tools`");
    }
    Ok(())
}

/// Pins this thread, and the threads it starts, to the first core it may use. Returns false if the system refuses.
fn pin_to_one_core() -> bool {
    const WORDS: usize = 16;
    unsafe extern "C" {
        fn sched_getaffinity(process: i32, bytes: usize, mask: *mut u64) -> i32;
        fn sched_setaffinity(process: i32, bytes: usize, mask: *const u64) -> i32;
    }
    let mut mask = [0_u64; WORDS];
    let bytes = std::mem::size_of_val(&mask);
    // SAFETY: the mask has the given length; process 0 is the calling thread.
    if unsafe { sched_getaffinity(0, bytes, mask.as_mut_ptr()) } < 0 {
        return false;
    }
    let Some(first) = mask.iter().position(|word| *word != 0) else { return false };
    let mut one = [0_u64; WORDS];
    one[first] = 1 << mask[first].trailing_zeros();
    // SAFETY: as above.
    unsafe { sched_setaffinity(0, bytes, one.as_ptr()) == 0 }
}

/// Columns shaped like the fraud features: skewed amounts, counts, shares, with some missing values.
fn columns(features: usize) -> Vec<Vec<f64>> {
    let mut rng = StdRng::seed_from_u64(11);
    (0..features)
        .map(|feature| {
            (0..ROWS)
                .map(|_| match feature % 4 {
                    0 => rng.random_range(0.0_f64..6.0).exp(),
                    1 => f64::from(rng.random_range(0..120)),
                    2 if rng.random_ratio(1, 20) => f64::NAN,
                    2 => rng.random_range(0.0_f64..1.0).powi(3),
                    _ => rng.random_range(-50.0..50.0),
                })
                .collect()
        })
        .collect()
}

fn model(columns: &[Vec<f64>], trees: usize, leaves: usize) -> Result<String> {
    let mut rng = StdRng::seed_from_u64(5);
    let names: Vec<String> = (0..columns.len()).map(|index| format!("f{index}")).collect();
    let label = |row: usize, rng: &mut StdRng| {
        let sum: f64 = columns
            .iter()
            .take(12)
            .map(|column| if column[row].is_nan() { 1.0 } else { (column[row] * 0.37).sin() })
            .sum();
        f32::from(u8::from(sum + rng.random_range(-1.0..1.0) > 1.0))
    };
    let labels: Vec<f32> = (0..ROWS).map(|row| label(row, &mut rng)).collect();
    let arrays = names
        .iter()
        .zip(columns)
        .map(|(name, column)| (name, Arc::new(Float64Array::from(column.clone())) as Arc<dyn Array>));
    let batch = RecordBatch::try_from_iter(arrays).map_err(|error| Error::internal(error.to_string()))?;
    let parameters = [
        ("objective", "binary".to_owned()),
        ("num_iterations", trees.to_string()),
        ("num_leaves", leaves.to_string()),
        ("min_data_in_leaf", "5".to_owned()),
        ("learning_rate", "0.05".to_owned()),
    ];
    train(
        &batch,
        &labels,
        &parameters.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>(),
    )
}

fn check_equal(model: &Model, reference: &dyn Evaluator, batch: &Batch<'_>) -> Result<()> {
    let (mut ours, mut theirs) = (vec![0.0; batch.rows()], vec![0.0; batch.rows()]);
    model.score(batch, &mut ours)?;
    reference.score(batch, &mut theirs)?;
    if ours.iter().zip(&theirs).all(|(a, b)| a.to_bits() == b.to_bits()) {
        return Ok(());
    }
    Err(Error::internal("our scores differ from LightGBM's"))
}

/// Batches of `rows` rows that are scored in turn. Rows of a stream are always new; a processor that scored the same few
/// again and again would learn their branches.
fn batches(columns: &[Vec<f64>], rows: usize) -> Result<Vec<Batch<'_>>> {
    let turns = match rows {
        1 => 256,
        100 => 20,
        _ => 1,
    };
    let batch = |turn: usize| {
        let part = |column| Column::plain(&Vec::as_slice(column)[turn * rows..][..rows]);
        Batch::new(columns.iter().map(part).collect(), rows)
    };
    (0..turns).map(batch).collect()
}

/// CPU time of this thread per row: mean of the fastest third of as many rounds as the budget allows. `run` takes a batch
/// and its number.
fn nanoseconds_per_row(batches: &[Batch<'_>], mut run: impl FnMut(usize, &Batch<'_>) -> Result<()>) -> Result<f64> {
    let rows: usize = batches.iter().map(Batch::rows).sum();
    let mut round = || batches.iter().enumerate().try_for_each(|(number, batch)| run(number, batch));
    round()?;
    let mut times = Vec::new();
    let begin = thread_seconds();
    while times.len() < 3 || thread_seconds() - begin < BUDGET {
        let start = thread_seconds();
        round()?;
        times.push(thread_seconds() - start);
    }
    times.sort_by(f64::total_cmp);
    let best = &times[..times.len().div_ceil(3)];
    Ok(best.iter().sum::<f64>() / best.len() as f64 / rows as f64 * 1e9)
}

/// CPU seconds of the calling thread.
fn thread_seconds() -> f64 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const THREAD_CPU_TIME: i32 = 3;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the C library writes one `timespec`, which has this form on 64-bit Linux.
    let status = unsafe { clock_gettime(THREAD_CPU_TIME, &raw mut time) };
    if status == 0 { time.seconds as f64 + time.nanoseconds as f64 / 1e9 } else { f64::NAN }
}

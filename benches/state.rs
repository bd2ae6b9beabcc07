//! State: the cost of a full snapshot, of one with few changes, of a restart and of compaction. See `README.md` here.
//!
//! The state is that of an operator with a BIGINT key and two BIGINT values per key, in local files that are synced as in
//! production. CPU time is that of the whole process, user and system.

#![allow(clippy::allow_attributes, reason = "as in the other benches")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement that cannot be made stops")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use hashbrown::HashTable;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use weir::delta::TableStore;
use weir::env::Env;
use weir::error::{Error, Result};
use weir::state::{
    Epoch, KeyEquality, OperatorSnapshot, StateChange, StateStore, StateTable, key_groups, shard_of, split, usage,
};
use weir::time::Watermark;

const SHARDS: usize = 2;
const BATCH: usize = 8192;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let argument = std::env::args().skip_while(|argument| argument != "--keys").nth(1);
    let keys = argument.and_then(|value| value.parse().ok()).unwrap_or(5_000_000);
    let folder = tempfile::tempdir().unwrap();
    let env = Env::system()?;
    let location = folder.path().display().to_string();
    let store = StateStore::new(TableStore::open(&location, &Default::default(), &env)?.object_store(), env);
    let tables = [table()];
    let mut all: Vec<i64> = (0..keys).map(|n: i64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64)).collect();
    let mut rng = StdRng::seed_from_u64(1);
    all.shuffle(&mut rng);
    println!("{keys} keys of BIGINT with two BIGINT values, {SHARDS} shards\n");

    let changes = changes(&tables[0], &all, &mut rng);
    measured_groups(&changes);
    let clock = Clock::start();
    let full = store.write("bench", Epoch(1), &tables, None, changes).await?;
    let whole = clock.stop("full snapshot", &full);

    // The clock ticks in hundredths of a second, so ten small snapshots are written, each on top of the full one.
    let mut few: Vec<_> = (0..10).map(|_| self::changes(&tables[0], &some(&all, &mut rng), &mut rng)).collect();
    let clock = Clock::start();
    let mut one = full.clone();
    for changes in few.drain(..) {
        one = store.write("bench", Epoch(2), &tables, Some(&full), changes).await?;
    }
    let part = clock.stop("1 % changed, ten times", &one);
    let part = (part.0 / 10, part.1 / 10);
    println!(
        "  = {:.1} % of the CPU, {:.1} % of the time of a full one",
        percent(part.0, whole.0),
        percent(part.1, whole.1)
    );

    restore(&store, &full, "restore, one file").await?;
    restore(&store, &one, "restore, two files").await?;

    let mut snapshot = one;
    let mut compacting = (Duration::ZERO, Duration::ZERO);
    for epoch in 3..60 {
        let changes = self::changes(&tables[0], &some(&all, &mut rng), &mut rng);
        snapshot = store.write("bench", Epoch(epoch), &tables, Some(&snapshot), changes).await?;
        let clock = Clock::start();
        if let Some(compaction) = store.compact(&snapshot, &tables, Epoch(epoch + 1)).await? {
            snapshot = compaction.apply(&snapshot);
            let (cpu, wall) = clock.elapsed();
            compacting = (compacting.0 + cpu, compacting.1 + wall);
        }
    }
    println!(
        "compaction of 57 epochs of 1 % each: {:.2} CPU-s, {:.2} s",
        compacting.0.as_secs_f64(),
        compacting.1.as_secs_f64()
    );
    restore(&store, &snapshot, "restore after them").await?;
    Ok(())
}

fn table() -> StateTable {
    let column = |name| Field::new(name, DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![column("key"), column("a"), column("b")]));
    StateTable {
        name: "rows",
        schema,
        routing: 1,
        key: vec![0],
        time: None,
        equality: KeyEquality::Bits,
        append_only: false,
    }
}

/// One key in a hundred, each once.
fn some(all: &[i64], rng: &mut StdRng) -> Vec<i64> {
    let mut keys: Vec<i64> = (0..all.len() / 100).map(|_| all[rng.random_range(0..all.len())]).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The changes that two shards of an operator would return.
fn changes(table: &StateTable, keys: &[i64], rng: &mut StdRng) -> Vec<Vec<StateChange>> {
    let mut shards = vec![Vec::new(); SHARDS];
    for keys in keys.chunks(BATCH) {
        let values = |rng: &mut StdRng| {
            Arc::new(Int64Array::from_iter_values(keys.iter().map(|_| rng.random_range(0..1 << 40))))
        };
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys.to_vec())), values(rng), values(rng)];
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap();
        let groups = table.groups(&rows).unwrap();
        let parts: Vec<u16> = groups.iter().map(|group| shard_of(*group, SHARDS) as u16).collect();
        for (shard, rows) in split(&rows, &parts, SHARDS).unwrap().into_iter().enumerate() {
            shards[shard].extend(rows);
        }
    }
    let change = |upserts| vec![StateChange { table: 0, upserts, deletes: Vec::new(), cutoff: Watermark::NONE }];
    shards.into_iter().map(change).collect()
}

fn measured_groups(changes: &[Vec<StateChange>]) {
    let (clock, mut rows, mut sum) = (Clock::start(), 0, 0_u64);
    for batch in changes.iter().flatten().flat_map(|change| &change.upserts) {
        rows += batch.num_rows();
        sum += u64::from(key_groups(&batch.columns()[..1], batch.num_rows()).unwrap()[0]);
    }
    let nanos = clock.elapsed().0.as_secs_f64() * 1e9 / rows as f64;
    println!("key groups: {nanos:.1} CPU-ns per BIGINT key (checksum {sum})");
}

/// The least that an operator does: a hash table of its keys, and its rows.
#[derive(Default)]
struct Keyed {
    index: HashTable<u32>,
    keys: Vec<i64>,
    values: Vec<[i64; 2]>,
}

impl Keyed {
    fn restore(&mut self, rows: &RecordBatch) {
        let column = |i: usize| rows.column(i).as_primitive::<Int64Type>().values();
        let (keys, a, b) = (column(0), column(1), column(2));
        let hash = |key: i64| (key as u64 ^ (key as u64 >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for row in 0..keys.len() {
            let place = self.keys.len() as u32;
            self.keys.push(keys[row]);
            self.values.push([a[row], b[row]]);
            let known = &self.keys;
            self.index.insert_unique(hash(keys[row]), place, |&place| hash(known[place as usize]));
        }
    }
}

async fn restore(store: &StateStore, snapshot: &OperatorSnapshot, name: &str) -> Result<()> {
    let clock = Clock::start();
    let shard = |shard: usize| {
        let (store, snapshot) = (store.clone(), snapshot.clone());
        tokio::spawn(async move {
            let mut operator = Keyed::default();
            store
                .read(&snapshot, &table(), shard, SHARDS, |rows| {
                    operator.restore(&rows);
                    Ok(())
                })
                .await?;
            Ok::<_, Error>(operator.keys.len())
        })
    };
    let shards: Vec<_> = (0..SHARDS).map(shard).collect();
    let mut rows = 0;
    for shard in shards {
        rows += shard.await.unwrap()?;
    }
    clock.stop(name, snapshot);
    println!("  {rows} rows");
    Ok(())
}

struct Clock {
    cpu: Duration,
    wall: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { cpu: cpu(), wall: Instant::now() }
    }

    fn elapsed(&self) -> (Duration, Duration) {
        (cpu() - self.cpu, self.wall.elapsed())
    }

    fn stop(self, name: &str, snapshot: &OperatorSnapshot) -> (Duration, Duration) {
        let (cpu, wall) = self.elapsed();
        let (used, second) = (&usage(snapshot)[0], Duration::as_secs_f64);
        println!(
            "{name}: {:.3} CPU-s, {:.3} s; {} files, {} MB",
            second(&cpu),
            second(&wall),
            used.files,
            used.bytes / 1_000_000
        );
        (cpu, wall)
    }
}

fn percent(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() * 100.0 / whole.as_secs_f64()
}

/// User and system time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

//! All versions at once against each version by itself, over files that come, lose rows, get them back, go and come again.

use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roaring::RoaringBitmap;

use super::super::actions::Add;
use super::super::testing::{WrittenTable, declared};
use super::super::upsert::vectors;
use super::super::{BeforeFirst, all_versions};
use super::*;
use crate::env::Env;

const ROWS: u32 = 6;

struct History {
    table: WrittenTable,
    random: StdRng,
    gone: Vec<Add>,
    next: i64,
}

impl History {
    /// A file of rows that no other has.
    async fn append(&mut self) {
        let ids = Int64Array::from_iter_values(self.next..self.next + i64::from(ROWS));
        self.next += i64::from(ROWS);
        let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef)]).unwrap();
        self.table.append(&[batch]).await;
    }

    /// Some file, with one more of its rows marked than are, or with none marked any more. A commit must not take a file away and bring
    /// it in the same state.
    async fn revise(&mut self) {
        let before = self.table.files[self.random.random_range(0..self.table.files.len())].clone();
        let mut dead: RoaringBitmap = vectors::read(&self.table.store(), &before).await.unwrap();
        let left: Vec<u32> = (0..ROWS).filter(|row| !dead.contains(*row)).collect();
        let mut after = before.clone();
        if left.is_empty() || (!dead.is_empty() && self.random.random_bool(0.2)) {
            after.deletion_vector = None;
        } else {
            dead.insert(left[self.random.random_range(0..left.len())]);
            let (descriptors, _) = vectors::write(&self.table.store(), &[dead]).await.unwrap();
            after = vectors::revised(&before, ROWS, descriptors[0].clone());
        }
        self.table.commit(vec![after], vec![before], true).await;
    }

    async fn step(&mut self) {
        match self.random.random_range(0..6) {
            0 | 1 => self.append().await,
            2 if !self.table.files.is_empty() => {
                let gone = self.table.files[self.random.random_range(0..self.table.files.len())].clone();
                self.gone.push(gone.clone());
                self.table.commit(Vec::new(), vec![gone], true).await;
            }
            3 if !self.gone.is_empty() => {
                let back = self.gone.remove(self.random.random_range(0..self.gone.len()));
                self.table.commit(vec![back], Vec::new(), true).await;
            }
            _ if !self.table.files.is_empty() => self.revise().await,
            _ => self.append().await,
        }
    }
}

async fn ids(provider: Arc<dyn TableProvider>, condition: &str) -> Vec<i64> {
    let context = SessionContext::new();
    context.register_table("t", provider).unwrap();
    let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY id");
    let found = context.sql(&sql).await.unwrap().collect().await.unwrap();
    found.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test]
async fn at_every_time_the_rows_are_those_of_the_version_of_that_time() {
    for seed in 0..6 {
        let env = Env::manual(1_000_000, seed);
        let table = WrittenTable::create(&declared("t", &[("id", DataType::Int64, true)], &[]), &env).await;
        let mut history = History { table, random: StdRng::seed_from_u64(seed), gone: Vec::new(), next: 0 };
        let mut times = vec![env.unix_ms() * 1_000];
        for _ in 0..25 {
            env.advance(Duration::from_millis(history.random.random_range(1..4)));
            history.step().await;
            times.push(env.unix_ms() * 1_000);
        }
        let newest = history.table.table.provider(None).await.unwrap();
        let versions = |before_first| all_versions(&newest, before_first).unwrap().unwrap();
        for (version, time) in times.iter().enumerate() {
            let one = history.table.table.provider(Some(version as u64)).await.unwrap();
            let expected = ids(one, "true").await;
            for time in [*time, *time + 999] {
                let at = format!("{ROW_FROM} <= {time} AND {time} < {ROW_UNTIL}");
                let found = ids(versions(BeforeFirst::Nothing), &at).await;
                assert_eq!(found, expected, "seed {seed}, version {version}");
            }
        }
        let early = format!("{ROW_FROM} <= 0 AND 0 < {ROW_UNTIL}");
        assert!(ids(versions(BeforeFirst::Nothing), &early).await.is_empty());
        let first = history.table.table.provider(Some(1)).await.unwrap();
        assert_eq!(ids(versions(BeforeFirst::First), &early).await, ids(first, "true").await, "seed {seed}");
    }
}

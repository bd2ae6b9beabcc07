//! The commit protocol: once, or fenced, or known to have happened.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use object_store::{ObjectStore, ObjectStoreExt};
use weir::delta::{CommitOutcome, LogPath};
use weir::env::Durability;
use weir::error::ErrorKind;
use weir::lab::faults::{Fault, FaultRates, FaultyStore, Operation};

use super::*;

const AT: &str = "memory://w/payments";

async fn table(env: &Env) -> Table {
    Table::open_or_create(store(AT, env), &payments()).await.unwrap()
}

/// The log entries there are, in order.
async fn entries(env: &Env) -> Vec<String> {
    let log = store(AT, env).object_store();
    let mut entries = Vec::new();
    for version in 0.. {
        let path = object_store::path::Path::from(format!("_delta_log/{version:020}.json"));
        let Ok(entry) = log.get(&path).await else { break };
        entries.push(String::from_utf8(entry.bytes().await.unwrap().to_vec()).unwrap());
    }
    entries
}

#[tokio::test]
async fn a_commit_says_who_what_and_how_far() {
    let env = Env::manual(1_700_000_000_000, 1);
    let table = table(&env).await;
    let mut commit = request("p", 1, 0xab, stage(&table, &rows(0..5)).await.unwrap());
    commit.info.insert("models".into(), serde_json::json!({ "fraud_score": "v3" }));
    assert_eq!(table.commit(commit).await.unwrap(), CommitOutcome::Committed { version: 1 });

    let entry = entries(&env).await.pop().unwrap();
    let lines: Vec<serde_json::Value> = entry.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let info = &lines[0]["commitInfo"];
    assert_eq!(info["operation"], "STREAMING UPDATE");
    assert_eq!(info["operationParameters"]["epochId"], "1");
    assert_eq!(info["operationMetrics"]["numOutputRows"], "5");
    assert_eq!(info["engineInfo"], concat!("weir/", env!("CARGO_PKG_VERSION")));
    let user: serde_json::Value = serde_json::from_str(info["userMetadata"].as_str().unwrap()).unwrap();
    let expected = serde_json::json!({
        "pipeline": "p", "epoch": 1, "manifest": "00000000000000ab", "offsets": { "weir:p:src:0": 100 },
        "models": { "fraud_score": "v3" },
    });
    assert_eq!(user, expected);
    let txn =
        |line: usize| (lines[line]["txn"]["appId"].as_str().unwrap(), lines[line]["txn"]["version"].as_i64().unwrap());
    assert_eq!([txn(1), txn(2), txn(3)], [("weir:p", 1), ("weir:p:manifest", 0xab), ("weir:p:src:0", 100)]);
    assert_eq!(lines[1]["txn"]["lastUpdated"], 1_700_000_000_000_i64);
    assert_eq!(lines[4]["add"]["dataChange"], true);

    let theirs = their_table(&env).await;
    let ours = table.history(9).await.unwrap();
    assert_eq!(
        ours.iter().map(|(version, info)| (*version, info["operation"].as_str().unwrap())).collect::<Vec<_>>(),
        [(1, "STREAMING UPDATE"), (0, "CREATE TABLE")]
    );
    let history: Vec<_> = futures::TryStreamExt::try_collect(theirs.history(None)).await.unwrap();
    assert_eq!(history[0].operation.as_deref(), Some("STREAMING UPDATE"));
}

#[tokio::test]
async fn the_same_epoch_under_the_same_manifest_is_committed_once() {
    let env = Env::manual(0, 1);
    let first = table(&env).await;
    let again = Table::open(store(AT, &env)).await.unwrap();
    let commit = request("p", 1, 10, stage(&first, &rows(0..3)).await.unwrap());
    assert_eq!(first.commit(commit.clone()).await.unwrap(), CommitOutcome::Committed { version: 1 });
    assert_eq!(first.commit(commit.clone()).await.unwrap(), CommitOutcome::AlreadyCommitted { version: 1 });
    assert_eq!(again.commit(commit).await.unwrap(), CommitOutcome::AlreadyCommitted { version: 1 });
    assert_eq!((ids(&first).await, entries(&env).await.len()), (vec![0, 1, 2], 2));
}

#[tokio::test]
async fn who_knew_the_table_before_finds_the_commit_of_another_process() {
    let env = Env::manual(0, 1);
    let (ours, theirs) = (table(&env).await, table(&env).await);
    ours.transactions("weir:").await.unwrap();
    let commit = request("p", 1, 10, stage(&ours, &rows(0..3)).await.unwrap());
    theirs.commit(commit.clone()).await.unwrap();
    assert_eq!(ours.commit(commit).await.unwrap(), CommitOutcome::AlreadyCommitted { version: 1 });
    assert_eq!(ids(&ours).await, [0, 1, 2]);
}

#[tokio::test]
async fn another_manifest_fences_before_and_after_it_was_seen() {
    let env = Env::manual(0, 1);
    let (ours, theirs) = (table(&env).await, table(&env).await);
    ours.transactions("weir:").await.unwrap();
    theirs.commit(request("p", 1, 11, StagedFiles::default())).await.unwrap();
    for _ in 0..2 {
        let error = ours.commit(request("p", 1, 10, StagedFiles::default())).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Fenced, "pipeline `p` is run by another process"));
        ours.transactions("weir:").await.unwrap();
    }
    // An entry under our manifest is ours, but a later epoch of another is not to be joined.
    theirs.commit(request("p", 2, 12, StagedFiles::default())).await.unwrap();
    assert_eq!(ours.commit(request("p", 2, 13, StagedFiles::default())).await.unwrap_err().kind(), ErrorKind::Fenced);
    ours.transactions("weir:").await.unwrap();
    assert_eq!(ours.commit(request("p", 1, 11, StagedFiles::default())).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(entries(&env).await.len(), 3);
}

#[tokio::test]
async fn a_lost_answer_is_cleared_up_by_looking() {
    let env = Env::manual(0, 1);
    let table = table(&env).await;
    env.set_failpoints("delta.after_put@1=fail").unwrap();
    let commit = request("p", 1, 10, stage(&table, &rows(0..3)).await.unwrap());
    assert_eq!(table.commit(commit).await.unwrap(), CommitOutcome::Committed { version: 1 });
    env.set_failpoints("delta.before_put@1=fail").unwrap();
    let commit = request("p", 2, 20, StagedFiles::default());
    assert_eq!(table.commit(commit.clone()).await.unwrap_err().kind(), ErrorKind::Environment);
    assert_eq!(table.commit(commit).await.unwrap(), CommitOutcome::Committed { version: 2 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pipelines_racing_on_one_table_both_land_everything_once() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system().unwrap().with_durability(Durability::Process);
    let location = dir.path().to_str().unwrap().to_owned();
    let first = Table::open_or_create(store(&location, &env), &payments()).await.unwrap();
    let second = Table::open(store(&location, &env)).await.unwrap();
    let run = async |table: Table, pipeline: &str, base: i64| {
        for epoch in 1..=50 {
            let start = base + epoch * 10;
            let staged = stage(&table, &rows(start..start + 10)).await.unwrap();
            table.commit(request(pipeline, epoch, epoch, staged)).await.unwrap();
        }
    };
    tokio::join!(run(first.clone(), "p", 0), run(second, "q", 100_000));
    let expected: Vec<_> = (10..510).chain(100_010..100_510).collect();
    assert_eq!(ids(&first).await, expected);
    let found = first.transactions("weir:").await.unwrap();
    assert_eq!((found["weir:p"], found["weir:q"]), (50, 50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runs_of_one_pipeline_one_wins_each_epoch_and_the_other_stops() {
    let env = Env::manual(0, 3);
    let tables = [table(&env).await, table(&env).await];
    let mut runs = Vec::new();
    for (run, table) in tables.into_iter().enumerate() {
        runs.push(tokio::spawn(async move {
            for epoch in 1..=20 {
                let start = epoch * 10;
                let staged = stage(&table, &rows(start..start + 10)).await.unwrap();
                if let Err(error) = table.commit(request("p", epoch, 1000 * run as i64 + epoch, staged)).await {
                    assert_eq!(error.kind(), ErrorKind::Fenced);
                    return epoch - 1;
                }
            }
            20
        }));
    }
    let mut done = Vec::new();
    for run in runs {
        done.push(run.await.unwrap());
    }
    let table = Table::open(store(AT, &env)).await.unwrap();
    assert_eq!(*done.iter().max().unwrap(), 20, "one run must get through");
    assert!(*done.iter().min().unwrap() < 20, "the other must stop");
    assert_eq!(ids(&table).await, (10..210).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_loses_and_repeats_nothing() {
    for seed in 0..4 {
        let env = Env::manual(0, seed);
        let rates = FaultRates { error: 0.1, ambiguous: 0.1, slow: 0.1, slow_ms: 2 };
        let bad = env.clone().with_store_wrapper(rates.wrapper(&env));
        let table = table(&bad).await;
        for epoch in 1..=40 {
            let commit = request("p", epoch, epoch, stage(&table, &rows(epoch..epoch + 1)).await.unwrap());
            while let Err(error) = table.commit(commit.clone()).await {
                assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
            }
        }
        let clean = Table::open(store(AT, &env)).await.unwrap();
        assert_eq!(ids(&clean).await, (1..=40).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(entries(&env).await.len(), 41, "seed {seed}");
    }
}

#[tokio::test]
async fn a_put_that_takes_effect_and_reports_failure_is_one_commit() {
    let env = Env::manual(0, 1);
    let table = table(&env).await;
    let commit = request("p", 1, 10, stage(&table, &rows(0..3)).await.unwrap());
    let failed: Arc<Mutex<u32>> = Arc::default();
    let count = Arc::clone(&failed);
    let wrapper = move |inner: Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
        let count = Arc::clone(&count);
        Arc::new(FaultyStore::new(inner, move |operation| match operation {
            Operation::Put(path) if path.as_ref().ends_with("0001.json") => {
                *count.lock().unwrap() += 1;
                Fault::Ambiguous
            }
            _ => Fault::None,
        }))
    };
    let unlucky = Table::open(store(AT, &env.clone().with_store_wrapper(Arc::new(wrapper)))).await.unwrap();
    assert_eq!(unlucky.commit(commit).await.unwrap(), CommitOutcome::Committed { version: 1 });
    let failures = *failed.lock().unwrap();
    assert_eq!((failures, entries(&env).await.len()), (1, 2));
}

#[tokio::test]
async fn foreign_appends_and_harmless_changes_are_passed_by() {
    let env = Env::manual(0, 1);
    let ours = table(&env).await;
    ours.transactions("weir:").await.unwrap();
    set_property(&env, "weir.note", "hello").await;
    let other = Table::open(store(AT, &env)).await.unwrap();
    other.commit(request("q", 1, 5, stage(&other, &rows(100..101)).await.unwrap())).await.unwrap();
    let commit = request("p", 1, 10, stage(&ours, &rows(0..1)).await.unwrap());
    assert_eq!(ours.commit(commit).await.unwrap(), CommitOutcome::Committed { version: 3 });
    assert_eq!(ours.properties()["weir.note"], "hello");
    assert_eq!(ids(&ours).await, [0, 100]);
}

#[tokio::test]
async fn a_constraint_added_by_another_stops_files_that_were_not_checked_against_it() {
    let env = Env::manual(0, 1);
    let ours = table(&env).await;
    ours.transactions("weir:").await.unwrap();
    let commit = request("p", 1, 10, stage(&ours, &rows(0..1)).await.unwrap());
    set_property(&env, "delta.constraints.positive", "amount > 0").await;
    let error = ours.commit(commit).await.unwrap_err();
    assert_eq!(error.message(), "table `payments` was altered by another writer");
    assert_eq!(entries(&env).await.len(), 2);
}

/// The table as delta-rs opens it.
async fn their_table(env: &Env) -> deltalake::DeltaTable {
    let at = store(AT, env);
    let log = deltalake::logstore::default_logstore(at.object_store(), at.root_store(), at.url(), &Default::default());
    let mut table = deltalake::DeltaTable::new(log);
    table.load().await.unwrap();
    table
}

/// As another engine would.
async fn set_property(env: &Env, key: &str, value: &str) {
    let properties = [(key.to_owned(), value.to_owned())].into();
    let change = their_table(env).await.set_tbl_properties().with_properties(properties);
    change.with_raise_if_not_exists(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_ten_thousand_costs_as_much_as_commit_one_hundred() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system().unwrap().with_durability(Durability::Process);
    let at = store(dir.path().to_str().unwrap(), &env);
    let table = Table::open_or_create(at, &payments()).await.unwrap();
    // The same file under other names: what is measured is the commit.
    let staged = stage(&table, &rows(0..10)).await.unwrap();
    let mut times = Vec::new();
    for epoch in 1..=10_000 {
        let mut files = staged.clone();
        files.adds[0].path = LogPath::spelled(format!("part-{epoch:05}.parquet"));
        let commit = request("p", epoch, epoch, files);
        let start = Instant::now();
        table.commit(commit).await.unwrap();
        times.push(start.elapsed());
    }
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2]
    };
    let (first, last) = (median(&times[..100]), median(&times[9_900..]));
    println!("median commit: {first:?} (first hundred), {last:?} (last hundred)");
    assert!(last < Duration::from_millis(5), "{last:?}");
    assert!(last < first.mul_f64(1.5) + Duration::from_micros(50), "{first:?} grew to {last:?}");
}

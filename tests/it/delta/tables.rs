//! Making, opening, writing, checking and maintaining tables.

use std::time::Duration;

use weir::config::parse_compression;
use weir::delta::{Cleanup, MaintenancePolicy};
use weir::error::ErrorKind;
use weir::lab::faults::FaultRates;

use super::*;

#[tokio::test]
async fn a_table_is_made_once_and_found_again() {
    let env = Env::manual(1_700_000_000_000, 1);
    let mut def = payments();
    def.properties.insert("delta.enableChangeDataFeed".into(), "true".into());
    def.properties.insert("weir.auto_compact".into(), "true".into());
    let made = Table::open_or_create(store("memory://w/payments", &env), &def).await.unwrap();
    let found = Table::open_or_create(store("memory://w/payments", &env), &def).await.unwrap();
    let read = Table::open(store("memory://w/payments", &env)).await.unwrap();
    for table in [&made, &found, &read] {
        assert_eq!((table.version().await, table.schema(), table.name()), (0, def.schema(), "payments"));
    }
    assert_eq!(read.properties(), def.properties);
}

#[tokio::test]
async fn many_processes_may_make_the_same_table_at_once_on_a_bad_store() {
    let env = Env::manual(0, 7);
    // Rare enough that six attempts do not all fail in some hundred operations.
    let rates = FaultRates { error: 0.1, ambiguous: 0.1, ..FaultRates::default() };
    let bad = env.clone().with_store_wrapper(rates.wrapper(&env));
    let def = payments();
    let attempts = (0..8).map(|_| Table::open_or_create(store("memory://w/payments", &bad), &def));
    for table in futures::future::join_all(attempts).await {
        assert_eq!(table.unwrap().version().await, 0);
    }
}

#[tokio::test]
async fn a_declaration_must_fit_the_table() {
    let env = Env::manual(0, 1);
    let at = || store("memory://w/payments", &env);
    Table::open_or_create(at(), &payments()).await.unwrap();
    let detail = async |change: fn(&mut TableDef)| {
        let mut def = payments();
        change(&mut def);
        let error = Table::open_or_create(at(), &def).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (ErrorKind::Sql, "table `payments` exists and differs from its declaration")
        );
        error.detail().unwrap().to_owned()
    };
    assert_eq!(
        detail(|d| d.columns[1].data_type = DataType::Int64).await,
        "Column `amount` has type Float64, not Int64."
    );
    assert_eq!(detail(|d| d.columns[2].name = "date".into()).await, "The table has no column `date`.");
    assert_eq!(detail(|d| d.columns[2].nullable = false).await, "Column `day` may be null in the table.");
    assert_eq!(detail(|d| drop(d.columns.remove(0))).await, "The table's column `id` is NOT NULL and is not declared.");
    assert_eq!(detail(|d| d.partitioned_by.push("day".into())).await, "The table is partitioned by ().");

    let mut undeclared = payments();
    undeclared.columns.clear();
    assert_eq!(Table::open_or_create(at(), &undeclared).await.unwrap().schema(), payments().schema());
    let error = Table::open_or_create(store("memory://w/none", &env), &undeclared).await.unwrap_err();
    assert_eq!(error.message(), "table `payments` does not exist at `memory://w/none`");
    let error = Table::open(store("memory://w/none", &env)).await.unwrap_err();
    assert_eq!(error.message(), "no Delta table at `memory://w/none`");
}

#[tokio::test]
async fn a_property_that_would_forget_progress_is_refused() {
    let mut def = payments();
    def.properties.insert("delta.setTransactionRetentionDuration".into(), "interval 1 day".into());
    let error = Table::open_or_create(store("memory://w/payments", &Env::manual(0, 1)), &def).await.unwrap_err();
    assert_eq!(error.message(), "table `payments` cannot be written by weir");
}

#[tokio::test]
async fn constraints_part_good_rows_from_bad_ones() {
    let env = Env::manual(0, 1);
    let mut def = payments();
    def.checks = vec![check("positive", "amount > 0"), check("known_day", "day IN ('d0', 'd1', 'd2')")];
    let table = Table::open_or_create(store("memory://w/payments", &env), &def).await.unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]))),
        ("amount", Arc::new(Float64Array::from(vec![Some(1.5), Some(2.0), Some(-1.0), None]))),
        ("day", Arc::new(StringArray::from(vec!["d1", "d1", "d9", "d0"]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let found = table.validator().check(&batch).unwrap().unwrap();
    assert_eq!(found.good, batch.slice(0, 1));
    let letters: Vec<_> = found
        .letters
        .iter()
        .map(|(row, why, column)| (std::str::from_utf8(row).unwrap(), why.as_str(), column.as_deref()))
        .collect();
    assert_eq!(
        letters,
        [
            (r#"{"id":null,"amount":2.0,"day":"d1"}"#, "`id` is null but NOT NULL", Some("id")),
            (
                r#"{"id":3,"amount":-1.0,"day":"d9"}"#,
                "violates constraint `known_day`; violates constraint `positive`",
                None
            ),
            (r#"{"id":4,"amount":null,"day":"d0"}"#, "violates constraint `positive`", None),
        ]
    );
    assert_eq!(table.validator().check(&rows(1..100)).unwrap(), None);

    // Another reader sees the constraints in the table, and whoever opens it later enforces them.
    let mut bare = payments();
    bare.columns.clear();
    let again = Table::open_or_create(store("memory://w/payments", &env), &bare).await.unwrap();
    assert_eq!(again.validator().check(&batch).unwrap().unwrap().letters.len(), 3);
}

#[tokio::test]
async fn a_constraint_that_makes_no_sense_is_found_when_the_table_is_opened() {
    let mut def = payments();
    def.checks = vec![check("odd", "amount + 1")];
    let error = Table::open_or_create(store("memory://w/payments", &Env::manual(0, 1)), &def).await.unwrap_err();
    assert_eq!(error.message(), "constraint `odd` of table `payments` cannot be understood");
}

#[tokio::test]
async fn partitions_and_rolled_files_hold_every_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    let mut def = payments();
    def.partitioned_by = vec!["day".into()];
    let table = Table::open_or_create(store(dir.path().to_str().unwrap(), &env), &def).await.unwrap();
    let compression = parse_compression("zstd(3)").unwrap();
    let options = WriterOptions { target_file_size: 400_000, compression, ..WriterOptions::default() };
    let mut writer = table.writer(&options).unwrap();
    for start in 0..6 {
        writer.write(&rows(start * 100_000..(start + 1) * 100_000)).await.unwrap();
    }
    let staged = writer.close().await.unwrap();
    assert_eq!(staged.rows, 600_000);
    assert!(staged.adds.len() > 3, "{} files", staged.adds.len());
    assert!(
        staged
            .adds
            .iter()
            .all(|add| add.path.as_str().starts_with("day=d") && add.path.as_str().ends_with(".zstd.parquet"))
    );

    // As a manifest would keep them.
    let kept = serde_json::to_string(&staged.adds).unwrap();
    let adds = serde_json::from_str(&kept).unwrap();
    table.commit(request("p", 1, 10, StagedFiles { adds, ..StagedFiles::default() })).await.unwrap();
    let counts = query(&table, "SELECT day, count(*), count(DISTINCT id) FROM t GROUP BY day ORDER BY day").await;
    assert_eq!(counts[0].column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["d0", "d1", "d2"]);
    for column in [1, 2] {
        assert_eq!(counts[0].column(column).as_primitive::<Int64Type>().values(), &[200_000; 3]);
    }
}

#[tokio::test]
async fn columns_are_matched_by_name_and_missing_ones_are_null() {
    let env = Env::manual(0, 1);
    let table = Table::open_or_create(store("memory://w/payments", &env), &payments()).await.unwrap();
    let shuffled = rows(0..2).project(&[2, 0]).unwrap();
    let staged = stage(&table, &shuffled).await.unwrap();
    table.commit(request("p", 1, 10, staged)).await.unwrap();
    let found = query(&table, "SELECT id, amount, day FROM t ORDER BY id").await;
    assert_eq!(found[0].column(1).null_count(), 2);
    assert_eq!(found[0].column(2).as_string::<i32>().value(1), "d1");
    assert_eq!(table.provider(None).await.unwrap().schema(), payments().schema());
}

#[tokio::test]
async fn an_older_version_stays_readable_beside_the_newest() {
    let env = Env::manual(0, 1);
    let table = Table::open_or_create(store("memory://w/payments", &env), &payments()).await.unwrap();
    for epoch in 1..=3 {
        let staged = stage(&table, &rows(epoch..epoch + 1)).await.unwrap();
        table.commit(request("p", epoch, 10, staged)).await.unwrap();
    }
    let context = SessionContext::new();
    context.register_table("old", table.provider(Some(2)).await.unwrap()).unwrap();
    context.register_table("new", table.provider(None).await.unwrap()).unwrap();
    let counts = "SELECT (SELECT count(*) FROM old) AS old, (SELECT count(*) FROM new) AS new";
    let counts = context.sql(counts).await.unwrap().collect().await.unwrap();
    assert_eq!(counts[0].column(0).as_primitive::<Int64Type>().value(0), 2);
    assert_eq!(counts[0].column(1).as_primitive::<Int64Type>().value(0), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_survives_checkpoints_and_the_removal_of_old_entries() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system().unwrap();
    let mut def = payments();
    def.properties.insert("delta.logRetentionDuration".into(), "interval 0 seconds".into());
    let table = Table::open_or_create(store(dir.path().to_str().unwrap(), &env), &def).await.unwrap();
    let policy = MaintenancePolicy { checkpoint_every: 5, ..MaintenancePolicy::default() };
    let mut checkpoints = 0;
    for epoch in 1..=23 {
        let staged = stage(&table, &rows(epoch * 10..epoch * 10 + 10)).await.unwrap();
        table.commit(request("p", epoch, 1000 + epoch, staged)).await.unwrap();
        if epoch == 7 {
            table.commit(request("q", 1, 5, StagedFiles::default())).await.unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
        checkpoints += usize::from(table.maintain(&policy).await.unwrap().checkpointed);
    }
    assert!((4..=6).contains(&checkpoints), "{checkpoints} checkpoints");
    assert!(!dir.path().join("_delta_log/00000000000000000001.json").exists(), "old entries remain");

    let fresh = Table::open(store(dir.path().to_str().unwrap(), &env)).await.unwrap();
    let found = fresh.transactions("weir:").await.unwrap();
    let expected = [("weir:p", 23), ("weir:p:manifest", 1023), ("weir:p:src:0", 2300)];
    let others = [("weir:q", 1), ("weir:q:manifest", 5), ("weir:q:src:0", 100)];
    let all = expected.iter().chain(&others).map(|(id, version)| ((*id).to_owned(), *version)).collect();
    assert_eq!(found, all);
    assert_eq!(fresh.transactions("weir:p").await.unwrap().len(), 3);
    assert_eq!(ids(&fresh).await, (10..240).collect::<Vec<_>>());

    // delta-rs itself opens it from the checkpoint.
    let url = url::Url::from_directory_path(dir.path()).unwrap();
    let theirs = deltalake::open_table(url).await.unwrap();
    assert_eq!(theirs.version(), Some(24));
    assert_eq!(theirs.get_file_uris().unwrap().count(), 23);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_cut_off_does_no_harm() {
    let env = Env::manual(0, 1);
    let table = Table::open_or_create(store("memory://w/payments", &env), &payments()).await.unwrap();
    for epoch in 1..=4 {
        let staged = stage(&table, &rows(epoch..epoch + 1)).await.unwrap();
        table.commit(request("p", epoch, 10 + epoch, staged)).await.unwrap();
    }
    env.set_failpoints("delta.checkpoint@1=fail").unwrap();
    let policy = MaintenancePolicy { checkpoint_every: 2, cleanup: Cleanup::Never, ..MaintenancePolicy::default() };
    table.maintain(&policy).await.unwrap_err();
    let fresh = Table::open(store("memory://w/payments", &env)).await.unwrap();
    assert_eq!(fresh.transactions("weir:p").await.unwrap()["weir:p"], 4);
    assert_eq!(ids(&fresh).await, [1, 2, 3, 4]);
    let staged = stage(&fresh, &rows(5..6)).await.unwrap();
    fresh.commit(request("p", 5, 15, staged)).await.unwrap();
    fresh.commit(request("p", 6, 16, StagedFiles::default())).await.unwrap();
    assert!(fresh.maintain(&policy).await.unwrap().checkpointed);
    assert_eq!(ids(&fresh).await, [1, 2, 3, 4, 5]);
}

use std::sync::atomic::{AtomicU32, Ordering};

use object_store::PutMode;

use super::*;
use crate::lab::faults::{Fault, FaultRates, FaultyStore, Operation};

fn open(location: &str, env: &Env) -> Result<TableStore> {
    TableStore::open(location, &BTreeMap::new(), env)
}

fn env() -> Env {
    Env::manual(0, 1)
}

#[test]
fn a_location_is_a_path_or_a_url() {
    let env = env();
    assert_eq!(open("/tmp/a b", &env).unwrap().url().as_str(), "file:///tmp/a%20b/");
    assert_eq!(open("file:///tmp/t", &env).unwrap().url().as_str(), "file:///tmp/t/");
    assert_eq!(open("memory://shared/t/", &env).unwrap().url().as_str(), "memory://shared/t/");
    assert_eq!(open("memory:///t", &env).unwrap().url().as_str(), "memory:///t/");
    assert!(open("/tmp/a b", &env).unwrap().is_local() && !open("memory:///t", &env).unwrap().is_local());
    let error = open("ftp://host/t", &env).unwrap_err();
    assert_eq!(error.message(), "unknown scheme `ftp` in location `ftp://host/t`");
}

#[tokio::test]
async fn a_folder_whose_path_a_url_would_change_is_known_under_another_address() {
    let dir = tempfile::tempdir().unwrap();
    let env = env();
    for name in ["ü w%20h", "a%41", "a\\b", "plain", "a b", "a#b?c", "100%"] {
        let location = dir.path().join(name).display().to_string();
        let is_plain = !name.contains("%2") && !name.contains("%4") && !name.contains('\\');
        for store in [open(&location, &env).unwrap(), open(&location, &env).unwrap().child("t%41").unwrap()] {
            assert!(store.is_local() && store.overlaps(&open(&location, &env).unwrap()), "{name}");
            let is_child = store.location() != location;
            assert_eq!(store.url() == store.place(), is_plain && !is_child, "{name}");
            store.object_store().put(&Path::from("x"), "1".into()).await.unwrap();
            let mut unescaped = store.url().clone();
            unescaped.set_path(&format!("/{}", Path::from_url_path(store.url().join("x").unwrap().path()).unwrap()));
            let found = store.root_store().get(&Path::from_url_path(unescaped.path()).unwrap()).await.unwrap();
            assert_eq!(found.bytes().await.unwrap(), "1", "{name}");
        }
        assert!(dir.path().join(name).join("t%41/x").exists() && dir.path().join(name).join("x").exists());
    }
    let remote = open("memory://w/a%2541/t", &env).unwrap();
    assert_ne!(remote.url(), open("memory://w/a%2542/t", &env).unwrap().url());
}

#[test]
fn a_folder_is_found_below_another_however_both_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
    let (real, link) = (real.display().to_string(), dir.path().join("link").display().to_string());
    let below = |base: &str, location: &str| folder_below(base, location);
    for base in [real.clone(), format!("{real}/"), link.clone(), format!("file://{real}")] {
        assert_eq!(below(&base, &format!("{real}/a/ü b")).as_deref(), Some("a/ü b"), "{base}");
        assert_eq!(below(&base, &format!("{link}/x/../a")).as_deref(), Some("a"), "{base}");
        assert_eq!(below(&base, &real).as_deref(), Some(""), "{base}");
        assert_eq!(below(&base, &format!("{real}er/a")), None, "{base}");
    }
    let here = std::env::current_dir().unwrap().display().to_string();
    assert_eq!(below("./w", &format!("{here}/w/t")).as_deref(), Some("t"));
    assert_eq!(below(&format!("{here}/w"), "w/t").as_deref(), Some("t"));
    assert_eq!(below("s3://bucket/w", "s3://bucket/w/t").as_deref(), Some("t"));
    assert_eq!(below("s3://bucket/w", "s3://other/w/t"), None);
    assert_eq!(below("memory://w/", "memory://w/a/b").as_deref(), Some("a/b"));
}

#[test]
fn containers_of_one_account_are_told_apart() {
    let options = BTreeMap::from([("azure_storage_account_key".to_owned(), Secret::new("a2V5"))]);
    let store = TableStore::open("abfss://one@acct.dfs.core.windows.net/t", &options, &env()).unwrap();
    assert_eq!(store.url().as_str(), "abfss://one.acct.dfs.core.windows.net/t/");
}

#[test]
fn unknown_options_are_refused_and_values_not_shown() {
    let options = BTreeMap::from([("aws_regoin".to_owned(), Secret::new("hidden"))]);
    let error = TableStore::open("s3://bucket/t", &options, &env()).unwrap_err();
    assert_eq!(error.message(), "unknown storage option `aws_regoin`");
    assert!(!format!("{error:?}").contains("hidden"));
}

#[tokio::test]
async fn memory_is_shared_within_an_environment_only() {
    let env = env();
    let path = Path::from("x");
    open("memory://a/t", &env).unwrap().object_store().put(&path, "1".into()).await.unwrap();
    assert!(open("memory://a/t", &env.clone()).unwrap().object_store().head(&path).await.is_ok());
    assert!(open("memory://b/t", &env).unwrap().object_store().head(&path).await.is_err());
    assert!(open("memory://a/t", &self::env()).unwrap().object_store().head(&path).await.is_err());
}

#[tokio::test]
async fn a_warehouse_lists_its_tables_but_not_weirs_own_folder() {
    let env = env();
    let warehouse = open("memory://w/wh", &env).unwrap();
    for name in ["b", "a", "_weir", "no_table"] {
        let file = if name == "no_table" { "x.parquet" } else { "_delta_log/00000000000000000000.json" };
        warehouse.child(name).unwrap().object_store().put(&Path::from(file), "".into()).await.unwrap();
    }
    let names: Vec<_> = warehouse.tables().await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
    warehouse.probe().await.unwrap();
}

/// Fails the first `failures` operations and counts them all.
fn flaky(failures: u32) -> (Env, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let wrapper = move |inner| -> Arc<dyn ObjectStore> {
        let seen = Arc::clone(&seen);
        let fault = move || if seen.fetch_add(1, Ordering::SeqCst) < failures { Fault::Error } else { Fault::None };
        Arc::new(FaultyStore::new(inner, move |_| fault()))
    };
    (env().with_store_wrapper(Arc::new(wrapper)), calls)
}

#[tokio::test]
async fn reads_and_plain_writes_are_repeated_but_conditional_writes_are_not() {
    let (env, calls) = flaky(2);
    let store = open("memory://a/t", &env).unwrap().object_store();
    store.put(&Path::from("x"), "1".into()).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);

    let (env, calls) = flaky(1);
    let store = open("memory://a/t", &env).unwrap().object_store();
    store.put_opts(&Path::from("x"), "1".into(), PutMode::Create.into()).await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_made_once_survives_answers_that_fail_and_keeps_its_first_content() {
    let id = Path::from("id");
    for failures in 0..8 {
        let (env, _) = flaky(failures);
        let store = open("memory://a/t", &env).unwrap().object_store();
        assert_eq!(retry::put_once(store.as_ref(), &id, "first".into(), &env).await.unwrap(), "first");
        assert_eq!(retry::put_once(store.as_ref(), &id, "second".into(), &env).await.unwrap(), "first");
    }
    // A write that took effect and reported failure is its own.
    let ambiguous = |inner| -> Arc<dyn ObjectStore> {
        let fault = |operation: Operation<'_>| match operation {
            Operation::Put(_) => Fault::Ambiguous,
            _ => Fault::None,
        };
        Arc::new(FaultyStore::new(inner, fault))
    };
    let env = env().with_store_wrapper(Arc::new(ambiguous));
    let store = open("memory://a/t", &env).unwrap().object_store();
    assert_eq!(retry::put_once(store.as_ref(), &id, "first".into(), &env).await.unwrap(), "first");
    // A store that never answers is an error in the end.
    let (env, _) = flaky(u32::MAX);
    let store = open("memory://a/t", &env).unwrap().object_store();
    retry::put_once(store.as_ref(), &id, "first".into(), &env).await.unwrap_err();
}

#[tokio::test]
async fn a_listing_that_fails_at_its_start_begins_anew() {
    let (env, calls) = flaky(1);
    let store = open("memory://a/t", &env).unwrap();
    env.memory_store("a").put(&Path::from("t/x"), "1".into()).await.unwrap();
    let names: Vec<_> =
        store.object_store().list(None).map(|entry| entry.unwrap().location.to_string()).collect().await;
    assert_eq!((names, calls.load(Ordering::SeqCst)), (vec!["x".to_owned()], 2));
}

#[tokio::test]
async fn what_is_not_there_is_not_asked_for_again() {
    let (env, calls) = flaky(0);
    open("memory://a/t", &env).unwrap().object_store().get(&Path::from("none")).await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn fault_rates_are_read_from_text() {
    let rates = FaultRates::parse("error=0.1, ambiguous=0.05,slow=1,slow_ms=50").unwrap();
    assert_eq!(rates, FaultRates { error: 0.1, ambiguous: 0.05, slow: 1.0, slow_ms: 50 });
    assert_eq!(FaultRates::parse("errors=1").unwrap_err().message(), "bad store fault `errors=1`");
}

#[test]
fn folders_overlap_by_whatever_path_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| format!("{}/{path}", folder.path().display());
    std::fs::create_dir_all(at("warehouse/deep")).unwrap();
    std::fs::create_dir_all(at("warehouse2")).unwrap();
    std::os::unix::fs::symlink(at("warehouse"), at("link")).unwrap();
    let env = Env::manual(0, 1);
    let overlap = |a: &str, b: &str| {
        let (a, b) = (open(a, &env).unwrap(), open(b, &env).unwrap());
        a.overlaps(&b) && b.overlaps(&a)
    };
    let warehouse = at("warehouse");
    for inside in
        ["warehouse", "warehouse/", "warehouse/deep/new/x", "warehouse2/../warehouse/y", "link", "link/new", ""]
    {
        assert!(overlap(&warehouse, &at(inside)), "{inside}");
    }
    assert!(overlap(&warehouse, &format!("file://{}", at("link/z"))));
    for outside in ["warehouse2", "warehouse2/warehouse", "elsewhere"] {
        assert!(!overlap(&warehouse, &at(outside)), "{outside}");
    }
    assert!(overlap("memory://w/a/", "memory://w/a/b") && !overlap("memory://w/a", "memory://v/a"));
}

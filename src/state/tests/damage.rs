//! Damaged, missing and foreign files are detected and named.

use object_store::ObjectStoreExt;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::{Error, ErrorKind};
use crate::state::Epoch;
use crate::time::Watermark;

/// A store with a snapshot of a small file, a large one, and one with deletes only.
async fn written(table: &StateTable) -> (Arc<dyn ObjectStore>, StateStore, OperatorSnapshot) {
    let (objects, store) = in_memory();
    let tables = std::slice::from_ref(table);
    let large = only(upserts(table, &numbered(0..100_000)));
    let mut snapshot = store.write("op-1", Epoch(1), tables, None, large).await.unwrap();
    let small = only(upserts(table, &numbered(99_950..100_050)));
    snapshot = store.write("op-1", Epoch(2), tables, Some(&snapshot), small).await.unwrap();
    let gone = vec![vec![change(Vec::new(), vec![deletes(table, &numbered(0..20))], Watermark::NONE)]];
    snapshot = store.write("op-1", Epoch(3), tables, Some(&snapshot), gone).await.unwrap();
    assert!(snapshot.tables[0].files[0].bytes > 1 << 20, "the first file should be read in parts");
    (objects, store, snapshot)
}

async fn bytes_of(objects: &Arc<dyn ObjectStore>, path: &str) -> Vec<u8> {
    objects.get(&Path::from(path)).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn replace(objects: &Arc<dyn ObjectStore>, path: &str, bytes: Vec<u8>) {
    objects.put(&Path::from(path), bytes.into()).await.unwrap();
}

fn assert_names(error: &Error, path: &str) {
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}: {:?}", error.detail());
    assert_eq!(error.message(), format!("state file `{path}` of operator `op-1` is damaged"));
    assert!(error.detail().is_some() && error.hint().is_some_and(|hint| hint.contains("--allow-rebuild")));
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found_and_the_file_named() {
    let table = table(KeyKind::Narrow, false);
    let (objects, store, snapshot) = written(&table).await;
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..120 {
        let file = &snapshot.tables[0].files[round % 3];
        let whole = bytes_of(&objects, &file.path).await;
        let mut broken = whole.clone();
        let byte = rng.random_range(0..broken.len());
        broken[byte] ^= 1 << rng.random_range(0..8);
        replace(&objects, &file.path, broken).await;
        let verified = store.verify(&snapshot, std::slice::from_ref(&table)).await;
        assert_names(&verified.expect_err(&format!("byte {byte} of {}", file.path)), &file.path);
        // The deletes of the oldest file are not read; everything else is needed.
        let read = read_all(&store, &snapshot, &table, 3).await;
        assert_names(&read.expect_err(&format!("byte {byte} of {}", file.path)), &file.path);
        replace(&objects, &file.path, whole).await;
    }
    assert_eq!(sorted_rows(&store, &snapshot, &table, 1).await, numbered(20..100_050));
}

#[tokio::test]
async fn a_truncated_lengthened_or_missing_file_is_found_and_named() {
    let table = table(KeyKind::Wide, false);
    let (objects, store, snapshot) = written(&table).await;
    let mut rng = StdRng::seed_from_u64(4);
    for round in 0..60 {
        let file = &snapshot.tables[0].files[round % 3];
        let whole = bytes_of(&objects, &file.path).await;
        match round % 4 {
            0 => objects.delete(&Path::from(file.path.as_str())).await.unwrap(),
            1 => replace(&objects, &file.path, [whole.as_slice(), b"x"].concat()).await,
            _ => replace(&objects, &file.path, whole[..rng.random_range(0..whole.len())].to_vec()).await,
        }
        let read = read_all(&store, &snapshot, &table, 2).await;
        assert_names(&read.expect_err(&format!("round {round}")), &file.path);
        replace(&objects, &file.path, whole).await;
    }
}

#[tokio::test]
async fn a_truncated_local_file_is_damage_and_not_an_environment_error() {
    let folder = tempfile::tempdir().unwrap();
    let objects: Arc<dyn ObjectStore> =
        Arc::new(object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let store = StateStore::new(Arc::clone(&objects), Env::manual(0, 7));
    let table = table(KeyKind::Narrow, false);
    let large = only(upserts(&table, &numbered(0..100_000)));
    let snapshot = store.write("op-1", Epoch(1), std::slice::from_ref(&table), None, large).await.unwrap();
    let path = &snapshot.tables[0].files[0].path;
    let whole = bytes_of(&objects, path).await;
    for length in [0, 5, whole.len() / 2, whole.len() - 1] {
        replace(&objects, path, whole[..length].to_vec()).await;
        assert_names(&read_all(&store, &snapshot, &table, 1).await.expect_err("truncated"), path);
    }
    std::fs::remove_file(folder.path().join(path)).unwrap();
    assert_names(&read_all(&store, &snapshot, &table, 1).await.expect_err("missing"), path);
}

#[tokio::test]
async fn a_shard_reads_only_its_own_part_of_a_large_file() {
    let table = table(KeyKind::Narrow, false);
    let (objects, store, snapshot) = written(&table).await;
    let path = &snapshot.tables[0].files[0].path;
    let mut broken = bytes_of(&objects, path).await;
    let late = broken.len() * 9 / 10;
    broken[late] ^= 1;
    replace(&objects, path, broken).await;
    let mut rows = 0;
    let count = |batch: RecordBatch| {
        rows += batch.num_rows();
        Ok(())
    };
    store.read(&snapshot, &table, 0, 2, count).await.unwrap();
    assert!(rows > 40_000, "{rows}");
    assert_names(&store.read(&snapshot, &table, 1, 2, |_| Ok(())).await.expect_err("broken"), path);
}

#[tokio::test]
async fn state_of_another_operator_table_schema_or_format_is_refused() {
    let table = table(KeyKind::Narrow, false);
    let (objects, store, snapshot) = written(&table).await;
    let path = snapshot.tables[0].files[2].path.clone();

    let mut foreign = snapshot.clone();
    foreign.operator = "op-2".to_owned();
    let error = read_all(&store, &foreign, &table, 1).await.expect_err("another operator");
    assert!(error.detail().unwrap().contains("belongs to table `rows` of `op-1`"), "{error:?}");

    let mut renamed = snapshot.clone();
    renamed.tables[0].name = "other".to_owned();
    let other = StateTable { name: "other", ..table.clone() };
    assert_names(&read_all(&store, &renamed, &other, 1).await.expect_err("another table"), &path);

    let mut fields: Vec<_> = table.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[0] = Field::new("number", DataType::UInt64, false);
    let retyped = StateTable { schema: Arc::new(Schema::new(fields)), ..table.clone() };
    let error = read_all(&store, &snapshot, &retyped, 1).await.expect_err("another type");
    assert_names(&error, &path);

    let mut newer = snapshot.clone();
    newer.format = 2;
    let error = read_all(&store, &newer, &table, 1).await.expect_err("another format");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.detail().unwrap().contains("has format 2"), "{error:?}");
    assert!(store.write("op-1", Epoch(4), std::slice::from_ref(&table), Some(&newer), Vec::new()).await.is_err());

    // A file of a later format, with correct checksums.
    let file = snapshot.tables[0].files[2].clone();
    let bytes = bytes_of(&objects, &path).await;
    let split = (file.bytes - file.footer) as usize;
    let footer = String::from_utf8(bytes[split..].to_vec()).unwrap().replacen("\"format\":1", "\"format\":7", 1);
    let mut later = snapshot.clone();
    later.tables[0].files[2].checksum = format!("{:016x}", twox_hash::XxHash64::oneshot(0, footer.as_bytes()));
    replace(&objects, &path, [&bytes[..split], footer.as_bytes()].concat()).await;
    let error = read_all(&store, &later, &table, 1).await.expect_err("a later format");
    assert!(error.detail().unwrap().contains("it has format 7, and 1 is read"), "{error:?}");
}

#[tokio::test]
async fn rows_that_do_not_fit_their_table_are_our_defect() {
    let (_, store) = in_memory();
    let table = table(KeyKind::Narrow, false);
    let wide = self::table(KeyKind::Wide, false);
    let null = upserts(&wide, &[(None, None, None, None, 1)]);
    let error = store.write("op", Epoch(1), std::slice::from_ref(&table), None, only(null)).await.expect_err("a null");
    assert_eq!(error.kind(), ErrorKind::Internal);
    let stray = vec![vec![StateChange { table: 1, ..change(Vec::new(), Vec::new(), Watermark::NONE) }]];
    let error = store.write("op", Epoch(1), std::slice::from_ref(&table), None, stray).await.expect_err("no table");
    assert_eq!(error.kind(), ErrorKind::Internal);
}

//! Files that upserts replace go when the table no longer keeps them.

use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use super::super::super::{Cleanup, MaintenancePolicy};
use super::*;

async fn objects(world: &World) -> Vec<String> {
    let listed: Vec<_> = world.table.store().object_store().list(None).try_collect().await.unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|object| object.location.to_string()).collect();
    names.retain(|name| !name.starts_with("_delta_log"));
    names.sort();
    names
}

/// The names of the data files of the newest version.
async fn live(world: &World) -> Vec<String> {
    let (_, adds) = listing::active(&world.table).await.unwrap();
    let mut names: Vec<_> = adds.into_iter().map(|add| add.path.object().unwrap().to_string()).collect();
    names.sort();
    names
}

/// An epoch of many rows, so that deletion vectors have files.
async fn large_epoch(world: &mut World, round: i64) {
    let rows: Vec<_> = (0..4_000).map(|n| (n * 3 + round, row("x", round as f64))).collect();
    world.epoch(vec![given(&rows)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_upserts_replaced_go_after_the_retention_and_nothing_else_does() {
    for retention in ["interval 0 seconds", "interval 1000 weeks"] {
        let properties = [("delta.deletedFileRetentionDuration", retention)];
        let mut world = World::new(definition(&properties, false), 5, 1 << 20).await;
        world.env = Env::system().unwrap();
        (world.table, world.upsert) = World::open(&world.env, &world.def, world.target).await;
        let policy =
            MaintenancePolicy { checkpoint_every: 4, cleanup: Cleanup::Never, removed_files: Cleanup::Expired };
        let (mut deleted, mut written) = (0, 0);
        world.table.store().object_store().put(&"staged-for-later.parquet".into(), "x".into()).await.unwrap();
        for round in 0..30 {
            large_epoch(&mut world, round % 4).await;
            std::thread::sleep(std::time::Duration::from_millis(3));
            deleted += world.table.maintain(&policy).await.unwrap().files_deleted;
            written += 1;
        }
        assert_eq!(world.rows().await.len(), 12_001, "{retention}");
        let (found, live) = (objects(&world).await, live(&world).await);
        assert!(live.iter().all(|file| found.contains(file)), "{retention}");
        assert!(found.contains(&"staged-for-later.parquet".to_owned()), "what no entry names stays");
        match retention {
            "interval 0 seconds" => {
                assert!(deleted > 20 && found.len() < 25, "{deleted} deleted, {} left", found.len());
            }
            _ => assert!(deleted == 0 && found.len() > written, "{deleted} deleted, {} left", found.len()),
        }
    }
}

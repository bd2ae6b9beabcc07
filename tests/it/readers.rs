//! Tables that weir wrote, read by readers that we did not write.

use std::path::Path;
use std::process::Command;

use crate::program::{Weir, text};

#[test]
fn deltalake_and_polars_read_what_weir_wrote() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/python");
    let setup = Command::new("bash").arg(tools.join("setup.sh")).output();
    let Some(setup) = setup.ok().filter(|setup| setup.status.success()) else {
        eprintln!("######## SKIPPED: no Python environment (tests/tools/python/setup.sh)");
        return;
    };
    let weir = Weir::new();
    weir.write("config/weir.yaml", "maintenance:\n  checkpoint_every_commits: 1\n");
    weir.write(
        "p.sql",
        "CREATE SOURCE events (id BIGINT NOT NULL, ts TIMESTAMP) WITH (connector = 'file', path = 'in/*.jsonl', format = 'json');
         CREATE TABLE t (id BIGINT NOT NULL, ts TIMESTAMP, day DATE) USING DELTA PARTITIONED BY (day);
         INSERT INTO t SELECT id, ts, CAST(ts AS DATE) AS day FROM events;",
    );
    let mut sum = 0;
    for part in 0..3_i64 {
        let ids = part * 1000..(part + 1) * 1000;
        sum += ids.clone().sum::<i64>();
        let lines: String =
            ids.map(|id| format!("{{\"id\":{id},\"ts\":\"2026-01-0{}T00:00:00Z\"}}\n", 1 + id % 5)).collect();
        weir.write(&format!("in/{part}.jsonl"), &lines);
        weir.succeed(&["run", "p.sql", "--trigger", "available now"]);
    }
    assert_eq!(weir.query("SELECT count(*), count(DISTINCT id), sum(id) FROM t"), [format!("3000,3000,{sum}")]);
    let python = text(&setup.stdout).trim().to_owned();
    let output =
        Command::new(python).arg(tools.join("readers.py")).arg(weir.path("warehouse/t")).arg("id").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found = text(&output.stdout);
    assert!(found.contains(&format!("deltalake 3000 3000 {sum}")), "{found}");
    assert!(found.contains(&format!("polars 3000 3000 {sum}")), "{found}");
    assert!(found.contains("history STREAMING UPDATE 3"), "{found}");
}

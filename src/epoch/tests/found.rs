//! Faults that generated pipelines have found, each with its least SQL, over a few inputs.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::queries::{Queries, Shape, declarations};
use super::{Outcome, streamed_and_batch};

/// Streams the INSERTs over several inputs; fails unless the rows are those of the batch.
fn agrees(views: &str, inserts: &[&str], options: &str) {
    for seed in 0..8 {
        let shape = Shape { sources: 2, rows: 120, ordered: false, late: false, nan: seed % 2 == 1, on_arrival: false };
        let mut sql = declarations(shape) + views;
        for number in 0..inserts.len() {
            sql += &format!("CREATE SINK out{number} WITH (connector = 'blackhole');\n");
        }
        sql += &format!("CREATE PIPELINE p WITH ({options}) AS BEGIN\n");
        for (number, insert) in inserts.iter().enumerate() {
            sql += &format!("INSERT INTO out{number} {insert};\n");
        }
        sql += "END;\n";
        let queries = Queries { shape, sql, provoked: false };
        let mut random = StdRng::seed_from_u64(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(streamed_and_batch(seed, queries, &mut random));
        assert!(matches!(outcome, Outcome::Agreed(_)), "seed {seed}");
    }
}

#[test]
fn a_column_of_nulls_is_no_event_time() {
    let rows = "SELECT DISTINCT k, g, CAST(NULL AS TIMESTAMP) AS ts FROM s0";
    agrees("", &[rows], "state_ttl = 'none'");
    let views = "CREATE VIEW best AS SELECT * FROM s0 ORDER BY v DESC NULLS LAST, id LIMIT 3;\n";
    agrees(views, &["SELECT DISTINCT k, g, CAST(NULL AS TIMESTAMP) AS ts FROM best"], "state_ttl = '4000 days'");
}

#[test]
fn times_cut_by_date_bin_are_event_time_in_joins_and_rolling_windows() {
    let views = "CREATE VIEW cut AS SELECT id, k, n, date_bin(INTERVAL '5 seconds', ts) AS ts FROM s0;\n";
    let join = "SELECT x.id, y.id AS other FROM s1 x JOIN cut y ON x.k = y.k AND date_trunc('second', x.ts) = y.ts";
    let rolling = "SELECT id, sum(n) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW) AS n FROM cut";
    agrees(views, &[join, rolling], "state_ttl = 'none'");
}

#[test]
fn conditions_on_a_table_that_is_looked_up_move_below_its_alias() {
    let views = "CREATE VIEW labelled AS SELECT x.id, d.label AS g, x.ts FROM s0 x LEFT JOIN dim FOR SYSTEM_TIME AS OF x.ts AS d ON x.k = d.k;\n";
    let join = "SELECT x.id, y.id AS other FROM labelled x RIGHT JOIN s1 y ON x.g = y.g AND x.ts BETWEEN y.ts AND y.ts + INTERVAL '9 seconds' WHERE y.g NOT LIKE '%2'";
    agrees(views, &[join, "SELECT * FROM labelled WHERE g <> 'g1'"], "state_ttl = 'none'");
}

#[test]
fn zeros_of_both_signs_are_one_group_whose_key_is_zero() {
    let views = "CREATE VIEW once AS SELECT DISTINCT k, v FROM s0;\n";
    let counted = "SELECT k, count(DISTINCT v) AS n FROM once GROUP BY k";
    let grouped = "SELECT v, count(*) AS n FROM s0 GROUP BY v";
    agrees(views, &[counted, grouped, "SELECT k, nullif(v, 0) AS v FROM once"], "state_ttl = 'none'");
}

#[test]
fn a_condition_on_both_sides_of_an_outer_join_stays_above_it() {
    let views = "CREATE VIEW one AS SELECT * FROM DEDUPLICATE(TABLE s0, KEY(id), WITHIN INTERVAL '1 hour');\n";
    let join = "SELECT id, ts FROM (SELECT coalesce(x.id, -1) % 1000000007 * 1000003 + y.id AS id, y.ts FROM one x RIGHT JOIN one y \
                ON x.k = y.k AND y.ts > x.ts - INTERVAL '30 seconds' AND y.ts <= x.ts - INTERVAL '20 seconds') WHERE id % 3 <> 1";
    agrees(views, &[join], "state_ttl = 'none'");
}

#[test]
fn a_condition_on_what_an_asof_join_found_is_asked_of_the_newest_row_only() {
    let views = "CREATE VIEW newest AS SELECT x.id, x.k, y.g, y.v, x.n, x.ts FROM s0 x ASOF JOIN s1 y \
                 MATCH_CONDITION (x.ts >= y.ts) ON x.k = y.k;\n";
    for condition in ["v > -1", "g = 'g1'", "g IS NULL OR v < 2", "n > 1 AND v > 0", "k = 1"] {
        agrees(views, &[&format!("SELECT * FROM newest WHERE {condition}")], "state_ttl = 'none'");
    }
}

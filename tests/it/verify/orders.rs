//! `weir verify` where the answer depends on an order that the query leaves open.

use super::MEASURED;
use crate::program::{Weir, text};

/// Rows of which three share each second, in two files that interleave in time.
fn tied(times: impl Fn(i64) -> i64) -> [(&'static str, String); 2] {
    let line = |id: i64| {
        let row = (id * 7) % 9;
        format!("{{\"id\":{id},\"g\":1,\"q\":{},\"ts\":\"2024-01-01T00:00:{:02}Z\"}}\n", row % 2, times(row))
    };
    [("in/a.jsonl", (0..9).map(line).collect()), ("in/b.jsonl", (9..18).map(line).collect())]
}

const BY_ORDER: [(&str, &str, &str); 7] = [
    ("lagged", "id BIGINT, x BIGINT", "SELECT id, lag(id) OVER (PARTITION BY g ORDER BY ts) AS x FROM e"),
    (
        "summed",
        "id BIGINT, x BIGINT",
        "SELECT id, sum(id) OVER (PARTITION BY g ORDER BY ts ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS x FROM e",
    ),
    ("numbered", "id BIGINT, x BIGINT", "SELECT id, row_number() OVER (PARTITION BY g ORDER BY ts) AS x FROM e"),
    ("kept", "id BIGINT, q BIGINT", "SELECT id, q FROM e QUALIFY row_number() OVER (PARTITION BY q ORDER BY ts) = 1"),
    (
        "top",
        "g INT, id BIGINT, rn BIGINT, PRIMARY KEY (g, rn) NOT ENFORCED",
        "SELECT g, id, CAST(rn AS BIGINT) AS rn FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY q DESC) AS rn FROM e) WHERE rn <= 2",
    ),
    (
        "newest",
        "id BIGINT, x BIGINT",
        "SELECT e.id, f.id AS x FROM e ASOF JOIN f MATCH_CONDITION (e.ts >= f.ts) ON e.g = f.g",
    ),
    ("plain", "id BIGINT", "SELECT id FROM e"),
];

/// A run over rows of two files, and what VERIFY says of its tables.
fn by_order(files: &[(&str, String)], changed: impl Fn(&str) -> String) -> (Weir, String) {
    let weir = Weir::new();
    for (name, lines) in files {
        weir.write(name, lines);
    }
    let tables = BY_ORDER.iter().map(|(name, columns, _)| format!("CREATE TABLE {name} ({columns}) USING DELTA;"));
    let bodies = BY_ORDER.iter().map(|(name, _, query)| format!("INSERT INTO {name} {query};"));
    let source = MEASURED.replace("INTERVAL '5 seconds'", "INTERVAL '1 minute'");
    let other = source.replace("SOURCE e", "SOURCE f");
    let sql = format!(
        "{source} {other} {} CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush', state_ttl = 'none', max_rows_per_micro_batch = '3') AS BEGIN {} END;",
        tables.collect::<String>(),
        bodies.collect::<String>()
    );
    weir.write("p.sql", &sql);
    weir.succeed(&["run", "p.sql"]);
    weir.write("p.sql", &changed(&sql));
    let told = text(&weir.run(&["verify", "p.sql"]).stdout);
    (weir, told)
}

#[test]
fn an_order_that_the_query_leaves_open_is_no_difference() {
    let (_, told) = by_order(&tied(|row| row / 3), str::to_owned);
    assert!(!told.contains("DIFFER"), "{told}");
    // One of the orders that are tried may be the stream's own, of short tables above all.
    assert!(told.contains("UNSURE lagged"), "{told}");
    assert_eq!(told.matches("UNSURE ").count() + told.matches("ok    ").count(), BY_ORDER.len(), "{told}");
    assert!(told.contains("36 rows of its sources share their event time with another"), "{told}");
    assert!(told.contains("ok    plain"), "{told}");

    // Columns and numbers of rows that no order changes are still compared.
    let wrong = |sql: &str| sql.replace("SELECT id, lag(id)", "SELECT id + 100 AS id, lag(id)");
    let (_, told) = by_order(&tied(|row| row / 3), wrong);
    assert!(told.contains("DIFFER lagged") && told.matches("DIFFER").count() == 1, "{told}");
}

#[test]
fn operators_that_go_by_order_are_compared_where_nothing_is_tied() {
    let untied = || {
        let line =
            |id: i64| format!("{{\"id\":{id},\"g\":1,\"q\":{id},\"ts\":\"2024-01-01T00:00:{:02}Z\"}}\n", (id * 7) % 18);
        [("in/a.jsonl", (0..9).map(line).collect()), ("in/b.jsonl", (9..18).map(line).collect::<String>())]
    };
    let (_, told) = by_order(&untied(), str::to_owned);
    assert_eq!(told.matches("ok    ").count(), BY_ORDER.len(), "{told}");
    let wrong = |sql: &str| sql.replace("lag(id) OVER", "lag(id, 2) OVER").replace("ORDER BY q DESC", "ORDER BY q");
    let (_, told) = by_order(&untied(), wrong);
    assert!(told.contains("DIFFER lagged") && told.contains("DIFFER top"), "{told}");
    assert!(!told.contains("UNSURE"), "{told}");
}

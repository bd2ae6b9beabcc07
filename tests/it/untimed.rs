//! Rows without event time before a window: counted and kept with their position, once each, in every shape of query.

use crate::program::Weir;

/// One pipeline over events of which the second has no time and the fourth is for another condition.
struct Shape {
    name: &'static str,
    views: &'static str,
    /// Target columns and query.
    inserts: &'static [(&'static str, &'static str)],
    rows: &'static [&'static [&'static str]],
    /// Offsets of the records with a letter, by number.
    letters: &'static [usize],
    /// The addresses that their states had when such rows vanished before the window.
    addresses: &'static [&'static str],
}

const TUMBLED: (&str, &str) = (
    "w STRING, n BIGINT",
    "SELECT CAST(window_start AS STRING) AS w, count(*) AS n FROM TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute')
     GROUP BY window_start, window_end",
);

const SHAPES: [Shape; 10] = [
    Shape {
        name: "tumble",
        views: "",
        inserts: &[TUMBLED],
        rows: &[&["2026-01-01T10:00:00Z,2", "2026-01-01T10:01:00Z,1"]],
        letters: &[1],
        addresses: &["window_aggregate-1171096fa0eef577"],
    },
    Shape {
        name: "hop",
        views: "",
        inserts: &[(
            "w STRING, n BIGINT",
            "SELECT CAST(window_start AS STRING) AS w, count(*) AS n
             FROM HOP(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute', INTERVAL '2 minutes') GROUP BY window_start, window_end",
        )],
        rows: &[&["2026-01-01T09:59:00Z,2", "2026-01-01T10:00:00Z,3", "2026-01-01T10:01:00Z,1"]],
        letters: &[1],
        addresses: &["window_aggregate-b4919bc3374993e7"],
    },
    Shape {
        name: "session",
        views: "",
        inserts: &[(
            "k STRING, n BIGINT",
            "SELECT k, count(*) AS n FROM SESSION(TABLE e PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1 minute')
             GROUP BY k, window_start, window_end",
        )],
        rows: &[&["a,2", "b,1"]],
        letters: &[1],
        addresses: &["session-3488a684a7a124d0", "window_aggregate-80956eccf98dd046"],
    },
    Shape {
        name: "top rows of windows",
        views: "",
        inserts: &[(
            "id BIGINT",
            "SELECT id FROM (SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY v DESC) AS r
             FROM TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute')) WHERE r <= 1",
        )],
        rows: &[&["1", "4"]],
        letters: &[1],
        addresses: &["top_n-7e6aaf7ea2275cdb"],
    },
    Shape {
        name: "conditions on both sides of the window",
        views: "CREATE VIEW large AS SELECT * FROM e WHERE v > 1 AND k LIKE '%' AND v < 1000;",
        inserts: &[(
            "w STRING, k STRING, n BIGINT",
            "SELECT CAST(window_start AS STRING) AS w, k, count(*) AS n FROM TUMBLE(TABLE large, DESCRIPTOR(ts), INTERVAL '1 minute')
             WHERE id < 100 AND k LIKE '%' AND window_start > TIMESTAMP '2020-01-01' GROUP BY window_start, k",
        )],
        rows: &[&["2026-01-01T10:00:00Z,a,2", "2026-01-01T10:01:00Z,b,1"]],
        // Asked for windows after 2020, the query itself leaves the row out.
        letters: &[],
        addresses: &["window_aggregate-7bab5f28688fd0bb"],
    },
    Shape {
        name: "conditions below the window",
        views: "CREATE VIEW large AS SELECT * FROM e WHERE v > 1 AND k LIKE '%' AND v < 1000;",
        inserts: &[(
            "k STRING, n BIGINT",
            "SELECT k, count(*) AS n FROM TUMBLE(TABLE large, DESCRIPTOR(ts), INTERVAL '1 minute')
             WHERE id < 100 AND k LIKE '%' GROUP BY window_start, k",
        )],
        rows: &[&["a,2", "b,1"]],
        letters: &[1],
        addresses: &["window_aggregate-31ee77272a03cd1b"],
    },
    Shape {
        name: "rows that the query leaves out itself",
        views: "CREATE VIEW timed AS SELECT * FROM e WHERE ts IS NOT NULL;",
        inserts: &[(
            "n BIGINT",
            "SELECT count(*) AS n FROM TUMBLE(TABLE timed, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start",
        )],
        rows: &[&["1", "2"]],
        letters: &[],
        addresses: &["window_aggregate-c49f1e40a8fad028"],
    },
    Shape {
        name: "both parts of a union",
        views: "CREATE VIEW twice AS SELECT * FROM e WHERE v < 3 UNION ALL SELECT * FROM e WHERE v >= 3;",
        inserts: &[(
            "n BIGINT",
            "SELECT count(*) AS n FROM TUMBLE(TABLE twice, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start",
        )],
        rows: &[&["1", "2"]],
        letters: &[1],
        addresses: &["window_aggregate-df39b1d55ed9ab71"],
    },
    Shape {
        name: "behind operators that pass rows on",
        views: "CREATE VIEW once AS SELECT x.id, x.ts, x.k, x.v, d.name
                FROM (SELECT * FROM DEDUPLICATE(TABLE e, KEY(id))) x LEFT JOIN dim d ON d.k = x.k;",
        inserts: &[(
            "n BIGINT",
            "SELECT count(*) AS n FROM TUMBLE(TABLE once, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start",
        )],
        rows: &[&["1", "2"]],
        letters: &[1],
        addresses: &["deduplicate-8417d62062b64b47", "lookup_join-8f5a9b3ee829b6f4", "window_aggregate-c33767c4807e5478"],
    },
    Shape {
        name: "a shared view of windows",
        views: "CREATE VIEW windows AS SELECT id, k, v + 1 AS v, window_start, window_end
                FROM TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute');",
        inserts: &[
            ("w STRING, n BIGINT", "SELECT CAST(window_start AS STRING) AS w, count(*) AS n FROM windows GROUP BY window_start"),
            ("id BIGINT, v BIGINT", "SELECT id, v FROM windows"),
            ("k STRING, n BIGINT", "SELECT k, sum(v + 1) AS n FROM windows WHERE v > 0 GROUP BY k"),
        ],
        rows: &[
            &["2026-01-01T10:00:00Z,2", "2026-01-01T10:01:00Z,1"],
            &["1,3", "3,3", "4,4"],
            &["a,8", "b,5"],
        ],
        letters: &[1],
        addresses: &["window_aggregate-978d3d8fd55973f4", "aggregate-ceb5bde2f001cb01"],
    },
];

const DIM: &str = "CREATE SOURCE d (k STRING, name STRING) WITH (connector = 'file', path = 'dim.jsonl');
    CREATE TABLE dim (k STRING, name STRING) USING DELTA; INSERT INTO dim SELECT k, name FROM d;";

const EVENTS: [&str; 4] = [
    "{\"id\":1,\"k\":\"a\",\"v\":2,\"ts\":\"2026-01-01T10:00:10Z\"}\n",
    "{\"id\":2,\"k\":\"a\",\"v\":2,\"ts\":null                   }\n",
    "{\"id\":3,\"k\":\"a\",\"v\":2,\"ts\":\"2026-01-01T10:00:20Z\"}\n",
    "{\"id\":4,\"k\":\"b\",\"v\":3,\"ts\":\"2026-01-01T10:01:20Z\"}\n",
];

impl Shape {
    fn weir(&self, options: &str) -> Weir {
        let weir = Weir::new();
        weir.write("in/1.jsonl", &EVENTS.concat());
        weir.write("dim.jsonl", "{\"k\":\"a\",\"name\":\"A\"}\n");
        let tables = self.inserts.iter().enumerate().map(|(number, (columns, _))| {
            let key = columns.starts_with("k STRING, n BIGINT") && self.inserts.len() > 1;
            format!(
                "CREATE TABLE t{number} ({columns}{}) USING DELTA;\n",
                if key { ", PRIMARY KEY (k) NOT ENFORCED" } else { "" }
            )
        });
        let tables: String = tables.collect();
        let inserts = self.inserts.iter().enumerate();
        let inserts: String = inserts.map(|(number, (_, query))| format!("INSERT INTO t{number} {query};\n")).collect();
        weir.write(
            "p.sql",
            &format!(
                "CREATE SOURCE e (id BIGINT, k STRING, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds')
                   WITH (connector = 'file', path = 'in/*.jsonl');
                 CREATE TABLE dim (k STRING, name STRING) USING DELTA;
                 {}
                 {tables}
                 CREATE PIPELINE p WITH (trigger = 'available now', at_end = 'flush', state_ttl = '7 days'{options}) AS BEGIN
                 {inserts} END;",
                self.views
            ),
        );
        weir
    }

    fn assert_rows(&self, weir: &Weir, options: &str) {
        for (number, rows) in self.rows.iter().enumerate() {
            let found = weir.query(
                &format!("SELECT * FROM t{number} ORDER BY 1, 2")
                    .replace("1, 2", if self.inserts[number].0.contains(',') { "1, 2" } else { "1" }),
            );
            assert_eq!(found, *rows, "{} t{number} {options}", self.name);
        }
    }
}

#[test]
fn rows_without_event_time_are_counted_and_kept_by_the_operator_behind_a_window() {
    for shape in &SHAPES {
        for options in [", late = 'dead_letter'", ", late = 'dead_letter', max_rows_per_micro_batch = '1'"] {
            let weir = shape.weir(options);
            if shape.views.contains("dim") {
                weir.write("dim.sql", DIM);
                weir.succeed(&["run", "dim.sql", "--trigger", "available now"]);
            }
            let run = weir.succeed(&["run", "p.sql"]);
            shape.assert_rows(&weir, options);
            let letters = weir.query("SELECT \"offset\", reason FROM weir.dead_letters ORDER BY 1, 2");
            let length = EVENTS[0].len();
            let wanted = shape.letters.iter().map(|record| format!("{},its event time is NULL", record * length));
            assert_eq!(letters, wanted.collect::<Vec<_>>(), "{} {options}: {run}", shape.name);
        }
    }
}

#[test]
fn states_of_windows_keep_their_addresses_though_rows_without_event_time_reach_them() {
    let of = |shape: &Shape| {
        let explained = shape.weir("").succeed(&["explain", "p.sql"]);
        let operators = explained.lines().filter_map(|line| line.strip_prefix("operator "));
        (shape.name, operators.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect::<Vec<_>>())
    };
    let addresses: Vec<_> = SHAPES.iter().map(of).collect();
    let expected = SHAPES.iter().map(|shape| (shape.name, shape.addresses.iter().map(|id| (*id).to_owned()).collect()));
    assert_eq!(addresses, expected.collect::<Vec<_>>());
}

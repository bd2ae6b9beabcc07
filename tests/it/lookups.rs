//! Streams joined to a Delta table that goes through versions, by the real program: what each row is answered from, while the program runs
//! and when it was killed in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::program::{Running, Weir, text};

/// Writes customers: a file of changes is a version of the table.
const CUSTOMERS: &str = "
CREATE SOURCE changes (id BIGINT NOT NULL, tier STRING) WITH (connector = 'file', path = 'changes/*.jsonl', format = 'json');
CREATE TABLE customers (id BIGINT NOT NULL, tier STRING, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
INSERT INTO customers SELECT id, tier FROM changes;
";

/// Joins orders to the customers as they are now, and as they were at the time of the order.
const ORDERS: &str = "
CREATE SOURCE orders (id BIGINT NOT NULL, customer BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 day')
  WITH (connector = 'file', path = 'orders/*.jsonl', format = 'json', poll_interval = '20 ms');
CREATE TABLE customers USING DELTA;
CREATE TABLE now_is (id BIGINT, tier STRING) USING DELTA;
CREATE TABLE then_was (id BIGINT, tier STRING) USING DELTA;
CREATE TABLE known (id BIGINT, tier STRING) USING DELTA;
CREATE PIPELINE p WITH (trigger = '20 ms') AS BEGIN
  INSERT INTO now_is SELECT o.id, c.tier FROM orders o LEFT JOIN customers c ON o.customer = c.id;
  INSERT INTO then_was SELECT o.id, c.tier FROM orders o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.id;
  INSERT INTO known SELECT o.id, c.tier FROM orders o JOIN customers c ON o.customer = c.id AND c.tier <> 'gone';
END;
";

const TO_THE_END: [&str; 4] = ["run", "orders.sql", "--trigger", "available now"];

struct Shop {
    weir: Weir,
    versions: u64,
    orders: u64,
}

impl Shop {
    fn new() -> Self {
        let weir = Weir::new();
        weir.write("customers.sql", CUSTOMERS);
        weir.write("orders.sql", ORDERS);
        Self { weir, versions: 0, orders: 0 }
    }

    /// Makes a version of the table in which these customers have these tiers; returns when it was committed, milliseconds.
    fn change(&mut self, tiers: &[(u64, &str)]) -> i64 {
        let lines: String = tiers.iter().map(|(id, tier)| format!("{{\"id\":{id},\"tier\":\"{tier}\"}}\n")).collect();
        self.weir.write(&format!("changes/{:03}.jsonl", self.versions), &lines);
        self.versions += 1;
        self.weir.succeed(&["run", "customers.sql", "--trigger", "available now"]);
        let log = self.weir.path("warehouse/customers/_delta_log");
        let names = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
        let newest = names.filter(|name| name.extension().is_some_and(|ending| ending == "json")).max().unwrap();
        let entry = std::fs::read_to_string(newest).unwrap();
        let info = entry.lines().find(|line| line.contains("commitInfo")).unwrap();
        let digits = info.split("\"timestamp\":").nth(1).unwrap().chars().take_while(char::is_ascii_digit);
        digits.collect::<String>().parse().unwrap()
    }

    /// Orders of customers at a time, in milliseconds; they are numbered from 0 on.
    fn order(&mut self, customers: &[u64], at_ms: i64) {
        let line = |(n, customer): (usize, &u64)| {
            let id = self.orders + n as u64;
            format!("{{\"id\":{id},\"customer\":{customer},\"ts\":{at_ms}}}\n")
        };
        let lines: String = customers.iter().enumerate().map(line).collect();
        self.weir.write(&format!("orders/{:06}.jsonl", self.orders), &lines);
        self.orders += customers.len() as u64;
    }

    fn rows(&self, table: &str) -> Vec<String> {
        self.weir.query(&format!("SELECT id, tier FROM {table} ORDER BY id"))
    }

    /// Waits until an order is in the table that commits last.
    fn wait_for(&self, running: &mut Running, orders: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.weir.path("warehouse/then_was/_delta_log").exists() {
            std::thread::sleep(Duration::from_millis(10));
            assert!(running.runs() && Instant::now() < deadline, "no table comes: {}", running.printed());
        }
        while self.weir.number("SELECT count(*) FROM then_was") < orders as i64 {
            std::thread::sleep(Duration::from_millis(10));
            assert!(running.runs() && Instant::now() < deadline, "no order comes: {}", running.printed());
        }
    }
}

#[test]
fn rows_are_answered_from_the_newest_version_or_from_that_of_their_time() {
    let mut shop = Shop::new();
    let first = shop.change(&[(1, "bronze"), (2, "bronze"), (3, "gone")]);
    let second = shop.change(&[(1, "gold"), (3, "silver")]);
    assert!(second > first, "two versions of one moment tell nothing apart");
    // Before the table had rows; from the first version's moment on; at the second one's; customer 4 is unknown.
    shop.order(&[1, 2, 3, 4], first - 3_600_000);
    shop.order(&[1, 2, 3, 4], first);
    shop.order(&[1, 2, 3, 4], second - 1);
    shop.order(&[1, 2, 3, 4], second);
    shop.weir.succeed(&TO_THE_END);
    let of_each = |tiers: [[&str; 4]; 4]| -> Vec<String> {
        tiers.iter().flatten().enumerate().map(|(id, tier)| format!("{id},{tier}")).collect()
    };
    let now = ["gold", "bronze", "silver", ""];
    let before = ["bronze", "bronze", "gone", ""];
    assert_eq!(shop.rows("now_is"), of_each([now; 4]));
    assert_eq!(shop.rows("then_was"), of_each([["", "", "", ""], before, before, now]));
    let known = of_each([now; 4]).into_iter().filter(|row| !row.ends_with(',')).collect::<Vec<_>>();
    assert_eq!(shop.rows("known"), known);
    // A batch means the same: the version of each row's time.
    let output = shop.weir.run(&["verify", "orders.sql"]);
    let verdict = text(&output.stdout);
    assert_eq!(verdict.matches("  ok  ").count(), 3, "{verdict}{}", text(&output.stderr));
}

/// Keeps the orders, so that queries can join them.
const KEPT: &str = "
CREATE SOURCE orders (id BIGINT NOT NULL, customer BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 day')
  WITH (connector = 'file', path = 'orders/*.jsonl', format = 'json');
CREATE TABLE customers USING DELTA;
CREATE TABLE kept (id BIGINT, customer BIGINT, ts TIMESTAMP) USING DELTA;
CREATE TABLE then_was (id BIGINT, tier STRING) USING DELTA;
CREATE TABLE or_first (id BIGINT, tier STRING) USING DELTA;
CREATE PIPELINE p AS BEGIN
  INSERT INTO kept SELECT id, customer, ts FROM orders;
  INSERT INTO then_was SELECT o.id, c.tier FROM orders o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.id;
  INSERT INTO or_first SELECT o.id, c.tier FROM orders o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ts OR FIRST AS c ON o.customer = c.id;
END;
";

#[test]
fn streams_queries_and_verify_join_the_version_of_each_row_s_time() {
    let mut random = StdRng::seed_from_u64(11);
    let mut shop = Shop::new();
    shop.weir.write("kept.sql", KEPT);
    // The table as it was from each commit on; its rows are upserted, so that files lose rows to deletion vectors.
    let mut past: Vec<(i64, BTreeMap<u64, String>)> = Vec::new();
    let mut orders: Vec<(u64, i64)> = Vec::new();
    for version in 0..9 {
        let mut tiers: BTreeMap<u64, String> = past.last().map(|(_, tiers)| tiers.clone()).unwrap_or_default();
        let changed: Vec<(u64, String)> =
            (0..3).map(|n| (random.random_range(0..6_u64), format!("v{version} {n}"))).collect();
        tiers.extend(changed.iter().cloned());
        let changed: Vec<(u64, &str)> = changed.iter().map(|(id, tier)| (*id, tier.as_str())).collect();
        let at = shop.change(&changed);
        past.push((at, tiers));
        if version % 3 == 2 {
            for _ in 0..30 {
                let around = past[random.random_range(0..past.len())].0 + random.random_range(-2..=2);
                let at = if random.random_bool(0.1) { past[0].0 - 60_000 } else { around };
                let customer = random.random_range(0..7);
                shop.order(&[customer], at);
                orders.push((customer, at));
            }
            shop.weir.succeed(&["run", "kept.sql", "--trigger", "available now"]);
        }
    }
    let tier = |(customer, at): &(u64, i64), or_first: bool| {
        let version = past.iter().rposition(|(time, _)| time <= at).or(or_first.then_some(0))?;
        past[version].1.get(customer).cloned()
    };
    let numbered = || orders.iter().enumerate();
    let was = numbered().filter_map(|(id, order)| Some(format!("{id},{}", tier(order, false)?))).collect::<Vec<_>>();
    let first = numbered().map(|(id, order)| format!("{id},{}", tier(order, true).unwrap_or_default()));
    let first = first.collect::<Vec<_>>();
    assert!(was.len() > 30 && first.iter().filter(|row| row.ends_with(',')).count() > 0);
    assert_eq!(shop.rows("then_was"), was);
    assert_eq!(shop.rows("or_first"), first);
    let query = |join: &str, time: &str| {
        shop.weir.query(&format!(
            "SELECT o.id, c.tier FROM kept o {join} customers FOR SYSTEM_TIME AS OF {time} AS c ON o.customer = c.id ORDER BY 1"
        ))
    };
    assert_eq!(query("JOIN", "o.ts"), was);
    assert_eq!(query("LEFT JOIN", "o.ts OR FIRST"), first);
    let (_, newest) = &past[past.len() - 1];
    let now = numbered().filter_map(|(id, (customer, _))| Some(format!("{id},{}", newest.get(customer)?)));
    assert_eq!(query("JOIN", "now()"), now.collect::<Vec<_>>());
    let verdict = text(&shop.weir.run(&["verify", "kept.sql"]).stdout);
    assert_eq!(verdict.matches("  ok  ").count(), 3, "{verdict}");
}

#[test]
fn the_time_of_a_lookup_is_explained_and_checked() {
    let shop = Shop::new();
    shop.weir
        .write("kept.sql", &KEPT.replace("customers USING DELTA", "customers (id BIGINT, tier STRING) USING DELTA"));
    let explained = shop.weir.succeed(&["explain", "kept.sql"]);
    assert!(explained.contains("the newest at ts; before the first version no row"), "{explained}");
    assert!(explained.contains("the newest at ts; before the first version the first version"), "{explained}");
    for (time, table, message) in [
        ("o.id", "customers", "the time of `FOR SYSTEM_TIME AS OF` is BIGINT, not TIMESTAMP"),
        ("o.ts", "orders", "to what is no Delta table"),
    ] {
        let sql = KEPT.replace("customers USING DELTA", "customers (id BIGINT, tier STRING) USING DELTA");
        let sql = sql.replace(
            "customers FOR SYSTEM_TIME AS OF o.ts AS c",
            &format!("{table} FOR SYSTEM_TIME AS OF {time} AS c"),
        );
        let sql = if table == "orders" {
            sql.replace("INSERT INTO then_was SELECT o.id, c.tier", "INSERT INTO then_was SELECT o.id, 'x'")
        } else {
            sql
        };
        shop.weir.write("wrong.sql", &sql);
        let output = shop.weir.run(&["check", "wrong.sql"]);
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
}

#[test]
fn a_running_pipeline_picks_up_new_versions_and_a_killed_one_goes_on_with_them() {
    let mut shop = Shop::new();
    let long_ago = shop.change(&[(1, "bronze"), (2, "bronze")]) - 3_600_000;
    let mut running = shop.weir.start(&["run", "orders.sql"], &[], "log");
    for (round, tier) in ["silver", "gold", "platinum"].into_iter().enumerate() {
        shop.order(&[1, 2], long_ago);
        shop.wait_for(&mut running, 2 * (round + 1));
        shop.change(&[(1, tier)]);
    }
    running.kill();
    shop.order(&[1], long_ago);
    shop.change(&[(2, "gone")]);
    let mut running = shop.weir.start(&["run", "orders.sql"], &[], "log");
    shop.wait_for(&mut running, 7);
    shop.order(&[1, 2], long_ago);
    shop.wait_for(&mut running, 9);
    assert_eq!(running.terminate(), Some(0), "{}", running.printed());
    let tiers = ["bronze", "bronze", "silver", "bronze", "gold", "bronze", "platinum", "platinum", "gone"];
    let expected: Vec<String> = tiers.iter().enumerate().map(|(id, tier)| format!("{id},{tier}")).collect();
    assert_eq!(shop.rows("now_is"), expected);
    assert_eq!(shop.rows("known"), expected[..8]);
}

#[test]
fn an_epoch_that_one_table_has_is_finished_with_the_version_it_began_with() {
    let mut shop = Shop::new();
    let long_ago = shop.change(&[(1, "bronze")]) - 3_600_000;
    for step in ["epoch.after_manifest", "epoch.between_sinks", "epoch.between_sinks@2", "delta.after_put@2"] {
        shop.order(&[1, 1], long_ago);
        let points = format!("{step}=abort");
        let mut running = shop.weir.start(&TO_THE_END, &[("WEIR_FAILPOINTS", &points)], "log");
        assert_eq!(running.wait(Duration::from_secs(60)), None, "{step} was passed: {}", running.printed());
        shop.change(&[(1, step)]);
    }
    shop.weir.succeed(&TO_THE_END);
    // Rows that the tables share are alike: no row was answered twice.
    assert_eq!(shop.rows("now_is"), shop.rows("known"));
    assert_eq!(shop.rows("now_is").len(), 8);
    // Of the first epoch no table had anything, so it was read again; the others were finished as they were.
    let tiers = shop.weir.query("SELECT tier, count(*) FROM now_is GROUP BY tier ORDER BY min(id)");
    assert_eq!(tiers, ["epoch.after_manifest,4", "epoch.between_sinks,2", "epoch.between_sinks@2,2"]);
}

#[test]
fn tables_whose_statistics_are_no_json_object_are_read_as_sources_and_lookups() {
    for stats in ["[1]", "5", "\\\"text\\\"", "null", "{", "{\\\"numRecords\\\":\\\"many\\\"}"] {
        let weir = Weir::new();
        weir.write("dim.jsonl", "{\"k\":1,\"v\":10}\n{\"k\":2,\"v\":20}\n");
        weir.write(
            "dim.sql",
            "CREATE SOURCE c (k BIGINT, v BIGINT) WITH (connector = 'file', path = 'dim.jsonl');
             CREATE TABLE dim (k BIGINT, v BIGINT) USING DELTA; INSERT INTO dim SELECT k, v FROM c;",
        );
        weir.succeed(&["run", "dim.sql", "--trigger", "available now"]);
        let entry = weir.path("warehouse/dim/_delta_log/00000000000000000001.json");
        let log = std::fs::read_to_string(&entry).unwrap();
        let (before, rest) = log.split_once("\"stats\":\"").unwrap();
        let after = &rest[rest.find("}\"").unwrap() + 1..];
        std::fs::write(&entry, format!("{before}\"stats\":\"{stats}{after}")).unwrap();
        weir.write(
            "p.sql",
            "CREATE SOURCE d (k BIGINT, v BIGINT) WITH (connector = 'delta', path = 'warehouse/dim');
             CREATE TABLE dim (k BIGINT, v BIGINT) USING DELTA;
             CREATE TABLE out (k BIGINT, v BIGINT, w BIGINT) USING DELTA;
             CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
               INSERT INTO out SELECT d.k, d.v, dim.v FROM d JOIN dim ON dim.k = d.k;
             END;",
        );
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.query("SELECT k, v, w FROM out ORDER BY k"), ["1,10,10", "2,20,20"], "{stats}");
        assert_eq!(weir.query("SELECT sum(v) FROM dim WHERE k > 0"), ["30"], "{stats}");
        assert!(weir.query("DESCRIBE DETAIL dim").join(" ").contains("dim"), "{stats}");
    }
}

#[test]
fn a_pipeline_joins_the_table_that_it_writes_from_its_first_run_on() {
    let weir = Weir::new();
    weir.write(
        "p.sql",
        "CREATE SOURCE s (k BIGINT, v BIGINT) WITH (connector = 'file', path = 'in/*.jsonl');
         CREATE TABLE t (k BIGINT, v BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
         CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN
           INSERT INTO t SELECT s.k, s.v + coalesce(t.v, 0) FROM s LEFT JOIN t ON t.k = s.k;
         END;",
    );
    for (run, expected) in [(1, "1,10"), (2, "1,20"), (3, "1,30")] {
        weir.write(&format!("in/{run}.jsonl"), "{\"k\":1,\"v\":10}\n");
        weir.succeed(&["check", "p.sql"]);
        weir.succeed(&["run", "p.sql"]);
        assert_eq!(weir.query("SELECT k, v FROM t"), [expected]);
    }
}

//! Streams joined to a Delta table that goes through versions, by the real program: what each row is answered from, while the program runs
//! and when it was killed in between.

use std::time::{Duration, Instant};

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
    // In a query, and so in a batch, the table is what it is now: rows of earlier versions differ, and are shown.
    let output = shop.weir.run(&["verify", "orders.sql"]);
    let verdict = text(&output.stdout);
    assert_eq!(verdict.matches("  ok  ").count(), 2, "{verdict}{}", text(&output.stderr));
    assert!(verdict.contains("DIFFER then_was"), "{verdict}");
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
    // What the tables share, they say alike: no row was answered twice.
    assert_eq!(shop.rows("now_is"), shop.rows("known"));
    assert_eq!(shop.rows("now_is").len(), 8);
    // Of the first epoch no table had anything, so it was read again; the others were finished as they were.
    let tiers = shop.weir.query("SELECT tier, count(*) FROM now_is GROUP BY tier ORDER BY min(id)");
    assert_eq!(tiers, ["epoch.after_manifest,4", "epoch.between_sinks,2", "epoch.between_sinks@2,2"]);
}

//! The recipes of `docs/recipes.md`, run as they stand there.

use std::path::Path;

use crate::kafka_support::RealKafka;
use crate::program::{Weir, text};

const TO_THE_END: [&str; 4] = ["run", "p.sql", "--trigger", "available now"];

/// The SQL blocks under a heading.
fn recipe(heading: &str) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("there is such a recipe");
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn times_in_seconds() {
    let weir = Weir::new();
    weir.write("p.sql", &recipe("Times in seconds")[0]);
    weir.write("seconds/1.jsonl", "{\"id\":1,\"ts\":1767225600}\n{\"id\":2,\"ts\":1767225601.5}\n");
    weir.succeed(&TO_THE_END);
    let rows = weir.query("SELECT id, ts FROM paid ORDER BY id").join(" ");
    assert_eq!(rows, "1,2026-01-01T00:00:00Z 2,2026-01-01T00:00:01.500Z");
}

#[test]
fn numbers_in_odd_formats() {
    let weir = Weir::new();
    weir.write("p.sql", &recipe("Numbers in odd formats")[0]);
    let prices = ["1.234,50", " 7 EUR", "0,99", "a lot"];
    let line = |(id, price): (usize, &&str)| format!("{{\"id\":{id},\"price\":\"{price}\"}}\n");
    weir.write("prices/1.jsonl", &prices.iter().enumerate().map(line).collect::<String>());
    weir.succeed(&TO_THE_END);
    assert_eq!(weir.query("SELECT id, price FROM priced ORDER BY id"), ["0,1234.50", "1,7.00", "2,0.99"]);
    let letters = weir.query("SELECT CAST(payload AS STRING), reason FROM weir.dead_letters").join("\n");
    assert!(letters.contains("a lot") && letters.contains("price"), "{letters}");
}

/// A payment every six hours, by turns of three customers.
fn payments(numbers: std::ops::Range<u64>) -> String {
    let line = |n: u64| {
        let (day, hour) = (n / 4 + 1, n % 4 * 6);
        let amount = n * 37 % 101;
        format!(
            "{{\"id\":{n},\"customer\":\"c{}\",\"amount\":{amount}.5,\"ts\":\"2026-01-{day:02}T{hour:02}:00:00Z\"}}\n",
            n % 3
        )
    };
    numbers.map(line).collect()
}

#[test]
fn adding_a_feature_to_a_running_pipeline() {
    let blocks = recipe("Adding a feature to a running pipeline");
    let [before, after, training] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    let weir = Weir::new();
    weir.write("p.sql", before);
    weir.write("payments/1.jsonl", &payments(0..60));
    weir.succeed(&TO_THE_END);
    weir.write("p.sql", after);
    let plan = weir.succeed(&["check", "--against-state", "p.sql"]);
    assert!(plan.contains("keep") && plan.contains("filled"), "{plan}");
    weir.write("payments/2.jsonl", &payments(60..100));
    weir.succeed(&TO_THE_END);
    let features = weir.query("SELECT id, amount, n_1d, mean_30d FROM features_2 ORDER BY id");
    assert_eq!(features.len(), 40, "it begins where the pipeline was");
    assert_eq!(weir.number("SELECT count(*) FROM features"), 100);
    let trained = weir.query(training.trim().trim_end_matches(';'));
    assert_eq!(trained.len(), 100);
    for (streamed, batch) in features.iter().zip(&trained[60..]) {
        let split = |row: &str| row.split(',').map(|value| value.parse::<f64>().unwrap()).collect::<Vec<_>>();
        let (streamed, batch) = (split(streamed), split(batch));
        assert!(streamed.iter().zip(&batch).all(|(a, b)| (a - b).abs() < 1e-9), "{streamed:?} {batch:?}");
    }
}

#[test]
fn backfilling_without_historical_alerts() {
    let weir = Weir::new();
    weir.write("p.sql", &recipe("Backfilling without historical alerts")[0]);
    weir.succeed(&["check", "p.sql"]);
    // Rows without their event time cannot be told apart.
    weir.write(
        "wrong.sql",
        &recipe("Backfilling without historical alerts")[0]
            .replace("INSERT INTO alerts SELECT id, amount, ts", "INSERT INTO alerts SELECT id, amount"),
    );
    let refused = text(&weir.run(&["check", "wrong.sql"]).stderr);
    assert!(
        refused.contains("sink `alerts` begins at a time, and none of its rows' columns is their event time"),
        "{refused}"
    );
    let Some(kafka) = RealKafka::shared() else { return };
    kafka.create_topic("recipe-alerts", 1);
    let times = ["2026-05-31T23:59:59Z", "2026-06-01T00:00:00Z", "2025-01-01T00:00:00Z", "2026-06-02T00:00:00Z"];
    let line = |(id, ts): (usize, &&str)| format!("{{\"id\":{id},\"amount\":200,\"ts\":\"{ts}\"}}\n");
    weir.write("payments/1.jsonl", &times.iter().enumerate().map(line).collect::<String>());
    let servers = kafka.connection().bootstrap_servers;
    let mut run = weir.command(&TO_THE_END);
    let output = run.env("KAFKA", servers).env("ALERTS", "recipe-alerts").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(weir.number("SELECT count(*) FROM scored"), 4);
    let sent: Vec<String> = kafka.read_committed("recipe-alerts").iter().map(|(_, value)| text(value)).collect();
    let ids: Vec<&str> = sent.iter().map(|message| message.split([':', ',']).nth(1).unwrap()).collect();
    assert_eq!(ids, ["1", "3"], "{sent:?}");
}

#[test]
fn explaining_a_score() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fraud = std::fs::read_to_string(root.join("sql/fraud.sql")).unwrap();
    let table = fraud.split("CREATE TABLE scored").nth(1).unwrap().split("CREATE ").next().unwrap();
    let columns = table.split_once('(').unwrap().1.split_once("\n)").unwrap().0;
    let weir = Weir::new();
    // The table as the pipeline writes it, filled from a file.
    weir.write(
        "p.sql",
        &format!(
            "CREATE SOURCE s ({columns}) WITH (connector = 'file', path = 'in.jsonl', format = 'json');
             CREATE TABLE scored{table}; INSERT INTO scored SELECT * FROM s;"
        ),
    );
    let features = "\"amount\":12.5,\"weekend\":0,\"night\":1,\"customer_n_1d\":3,\"customer_mean_1d\":10.5,\"customer_n_7d\":9,\
         \"customer_mean_7d\":11.5,\"terminal_n_1d\":4,\"terminal_mean_1d\":50.5,\"terminal_n_7d\":21,\"terminal_mean_7d\":44.5";
    weir.write(
        "in.jsonl",
        &format!(
            "{{\"transaction_id\":\"17\",\"ts\":\"2026-01-01T00:00:00Z\",\"day\":\"2026-01-01\",{features},\"kafka_partition\":2,\"kafka_offset\":99,\"score\":0.25}}\n"
        ),
    );
    weir.succeed(&TO_THE_END);
    weir.write("fraud.sql", &fraud);
    let query = recipe("Explaining a score").remove(0);
    let mut command =
        weir.command(&["query", "--file", "fraud.sql", "--format", "csv", query.trim().trim_end_matches(';')]);
    let output = command.env("MODEL", root.join("tests/data/fraud_histories.txt")).output().unwrap();
    let rows = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let row: Vec<&str> = rows.lines().nth(1).expect(&rows).split(',').collect();
    assert_eq!(row[..6], ["17", "0.25", "3", "4", "2", "99"]);
    let scores: Vec<f64> = row[6..].iter().map(|score| score.parse().unwrap()).collect();
    assert!(scores.len() == 2 && scores.iter().all(|score| (0.0..=1.0).contains(score)), "{rows}");
}

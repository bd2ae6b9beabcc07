use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int32Type, TimestampMicrosecondType};

use super::*;

#[test]
fn in_a_sparse_world_everyone_pays_somewhere() {
    for seed in 0..5 {
        let mut simulator = Simulator::new(seed, 3, 1);
        let rows: usize = (0..60).map(|_| simulator.next_day().unwrap().num_rows()).sum();
        assert!(rows > 0, "seed {seed}");
    }
}

#[test]
fn the_published_size_gives_the_published_numbers() {
    let mut simulator = Simulator::new(42, 5_000, 10_000);
    let (mut rows, mut by_scenario, mut last) = (0, [0u64; 4], i64::MIN);
    for _ in 0..183 {
        let day = simulator.next_day().unwrap();
        rows += day.num_rows();
        for scenario in day.column(7).as_primitive::<Int32Type>().values() {
            by_scenario[*scenario as usize] += 1;
        }
        for ts in day.column(3).as_primitive::<TimestampMicrosecondType>().values() {
            assert!(*ts >= last, "rows come in the order of their time");
            last = *ts;
        }
    }
    let frauds: u64 = by_scenario[1..].iter().sum();
    assert!((1_740_000..1_810_000).contains(&rows), "{rows} rows");
    assert!((14_000..15_700).contains(&frauds), "{frauds} frauds");
    assert!((850..1_150).contains(&by_scenario[1]), "{by_scenario:?}");
    assert!((8_600..9_900).contains(&by_scenario[2]), "{by_scenario:?}");
    assert!((4_100..5_200).contains(&by_scenario[3]), "{by_scenario:?}");
    assert_eq!(simulator.next_row(), rows as u64);
}

#[test]
fn the_same_seed_gives_the_same_rows_and_another_seed_others() {
    let day = |seed| {
        let mut simulator = Simulator::new(seed, 50, 100);
        simulator.next_day().unwrap();
        simulator.next_day().unwrap()
    };
    assert_eq!(day(1), day(1));
    assert_ne!(day(1), day(2));
}

#[test]
fn json_lines_hold_the_transactions() {
    let rows = Simulator::new(3, 100, 400).next_day().unwrap();
    let labelled = Rendering { labels: Labels::Keep, event_time: StampedTime::Simulated };
    let (lines, bounds) = to_json_lines(&rows, labelled).unwrap();
    assert_eq!(bounds.len(), rows.num_rows() + 1);
    for row in [0, rows.num_rows() - 1] {
        let line = &lines[bounds[row] as usize..bounds[row + 1] as usize];
        assert_eq!(line.last(), Some(&b'\n'));
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(value["transaction_id"], rows.column(0).as_string::<i32>().value(row));
        assert_eq!(value["amount"].as_f64().unwrap(), rows.column(2).as_primitive::<Float64Type>().value(row));
        assert_eq!(value["is_fraud"], rows.column(6).as_boolean().value(row));
        let ts = chrono::DateTime::parse_from_rfc3339(value["ts"].as_str().unwrap()).unwrap();
        assert_eq!(ts.timestamp_micros(), rows.column(3).as_primitive::<TimestampMicrosecondType>().value(row));
    }
    let now = Rendering { labels: Labels::LeaveOut, event_time: StampedTime::At(1_700_000_000_123) };
    let (lines, bounds) = to_json_lines(&rows, now).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&lines[..bounds[1] as usize]).unwrap();
    assert_eq!((value["ts"].as_str(), value.get("is_fraud")), (Some("2023-11-14T22:13:20.123Z"), None));
}

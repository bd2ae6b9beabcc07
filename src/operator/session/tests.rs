//! Sessions against DataFusion in batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::session;
use crate::operator::keyed::harness::{
    Flow, ID, K, N, TS, V, assert_same, batch_sql, consolidated, feed, random_rows, schema,
};
use crate::operator::keyed::micros;
use crate::operator::spec::{SessionSpec, TimeColumn};
use crate::time::{Lag, Watermark};

fn output() -> SchemaRef {
    let mut fields: Vec<Field> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    for name in ["window_start", "window_end"] {
        fields.push(Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, None), false));
    }
    Arc::new(Schema::new(fields))
}

fn spec(keys: &[usize], gap: i64, lag: i64) -> SessionSpec {
    SessionSpec {
        input: schema(),
        keys: keys.to_vec(),
        time: TimeColumn { column: TS, lag: Lag(lag) },
        gap: Lag(gap),
        output: output(),
    }
}

fn batch_answer(rows: &RecordBatch, keys: &str, gap: i64) -> std::collections::BTreeMap<String, i64> {
    let by = if keys.is_empty() { String::new() } else { format!("PARTITION BY {keys}") };
    let with_session = if keys.is_empty() { "PARTITION BY s".to_owned() } else { format!("PARTITION BY {keys}, s") };
    let sql = format!(
        "WITH a AS (SELECT *, arrow_cast(ts, 'Int64') AS us FROM t),
              b AS (SELECT *, us - lag(us) OVER ({by} ORDER BY us, id) AS since FROM a),
              c AS (SELECT *, sum(CASE WHEN since < {gap} THEN 0 ELSE 1 END) OVER ({by} ORDER BY us, id ROWS UNBOUNDED PRECEDING) AS s FROM b)
         SELECT k, ts, v, n, id,
                arrow_cast(min(us) OVER ({with_session}), 'Timestamp(Microsecond, None)'),
                arrow_cast(max(us) OVER ({with_session}) + {gap}, 'Timestamp(Microsecond, None)') FROM c"
    );
    batch_sql(rows, &sql)
}

#[test]
fn sessions_are_those_of_the_batch() {
    for seed in 0..150 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(rng, 300, 60);
        let (gap, lag) = (rng.random_range(1..80), rng.random_range(-20..20));
        let (keys, names): (&[usize], _) = [(&[K][..], "k"), (&[N, K][..], "n, k"), (&[][..], "")][seed as usize % 3];
        let make = || session(spec(keys, gap, lag)).unwrap();
        let mut flow = Flow::new(&make, keys);
        feed(&mut flow, &rows, TS, 60, lag, rng);
        assert_same(&consolidated(&flow.rows, false), &batch_answer(&rows, names, gap), seed);
        assert!(flow.late.is_empty());
        flow.save();
        assert_eq!(flow.remembered(), (0, 0), "seed {seed}: rows remain after the end of time");
    }
}

#[test]
fn sessions_come_out_in_order_of_their_end_and_their_rows_in_order_of_time() {
    let rng = &mut StdRng::seed_from_u64(5);
    let rows = random_rows(rng, 600, 60);
    let make = || session(spec(&[K], 30, 0)).unwrap();
    let mut flow = Flow::new(&make, &[K]);
    let highest = micros(&rows, TS).unwrap().values()[..100].iter().copied().max().unwrap();
    let mut out = flow.step(&[rows.slice(0, 100)], Watermark(highest - 60));
    out.extend(flow.step(&[rows.slice(100, 500)], Watermark(100_000)));
    let mut order = Vec::new();
    for batch in &out {
        let (ends, starts, times) = (micros(batch, 6).unwrap(), micros(batch, 5).unwrap(), micros(batch, TS).unwrap());
        order.extend((0..batch.num_rows()).map(|row| (ends.value(row), starts.value(row), times.value(row))));
    }
    assert_eq!(order.len(), 600);
    assert!(order.is_sorted_by_key(|(end, _, _)| *end));
    let same_session = |a: &(i64, i64, i64), b: &(i64, i64, i64)| (a.0, a.1) == (b.0, b.1);
    assert!(order.chunk_by(same_session).any(|rows| rows.len() > 2));
}

fn rows_at(times: &[Option<i64>]) -> RecordBatch {
    let n = times.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a"; n])),
        Arc::new(TimestampMicrosecondArray::from(times.to_vec())),
        arrow::array::new_null_array(schema().field(V).data_type(), n),
        arrow::array::new_null_array(schema().field(N).data_type(), n),
        Arc::new(Int64Array::from_iter_values(times.iter().map(|time| time.unwrap_or(-1)))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(ID).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[test]
fn a_session_waits_until_no_row_in_time_can_extend_it() {
    let make = || session(spec(&[K], 10, 0)).unwrap();
    let mut flow = Flow::new(&make, &[K]);
    assert_eq!(ids(&flow.step(&[rows_at(&[Some(100), Some(105)])], Watermark(114))), Vec::<i64>::new());
    // 114 extends the session; from 115 on a new session begins.
    assert_eq!(ids(&flow.step(&[rows_at(&[Some(114)])], Watermark(123))), Vec::<i64>::new());
    assert_eq!(ids(&flow.step(&[rows_at(&[Some(124)])], Watermark(124))), [100, 105, 114]);
    assert_eq!(ids(&flow.step(&[], Watermark(134))), [124]);
}

#[test]
fn a_late_row_joins_a_session_that_still_waits_and_is_late_otherwise() {
    let make = || session(spec(&[K], 10, 0)).unwrap();
    let mut flow = Flow::new(&make, &[K]);
    flow.step(&[rows_at(&[Some(100)])], Watermark(105));
    // 95 joins the session of 100, then 86 joins it; 70 would form a session that ended at 80; 99 could still form one of
    // its own.
    flow.step(&[rows_at(&[Some(95), Some(86), Some(70), None])], Watermark(105));
    assert_eq!(ids(&flow.late), [70, -1]);
    flow.step(&[rows_at(&[Some(99)])], Watermark(105));
    assert_eq!(ids(&flow.step(&[], Watermark(110))), [86, 95, 99, 100]);
    let start = micros(&flow.rows[0], 5).unwrap().value(0);
    assert_eq!(start, 86);
    flow.step(&[rows_at(&[Some(100), Some(101)])], Watermark(110));
    assert_eq!(ids(&flow.late), [70, -1, 100]);
}

#[test]
fn sequence_numbers_stay_unique_within_a_key_across_shards() {
    let rng = &mut StdRng::seed_from_u64(9);
    let make = || session(spec(&[K], 1_000_000, 0)).unwrap();
    let mut flow = Flow::new(&make, &[K]);
    let rows = random_rows(rng, 500, 10);
    for at in 0..50 {
        flow.step(&[rows.slice(at * 10, 10)], Watermark::NONE);
        flow.save();
        flow.rebuild(1 + at % 4, rng);
        // A clash of sequence numbers would replace a row in the store.
        assert_eq!(flow.remembered(), (at as u64 * 10 + 10, at as u64 * 10 + 10));
    }
}

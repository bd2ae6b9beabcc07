use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema};
use arrow::util::display::array_value_to_string;
use datafusion::common::DFSchema;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionContext;

use super::*;
use crate::sql::types::timestamp;

/// A row of a table whose columns have one value each; `Column` in any case is found.
fn row() -> RecordBatch {
    let list = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
    let text = |value: Option<&str>| ScalarValue::Utf8(value.map(str::to_owned));
    let values: Vec<(&str, ScalarValue, DataType)> = vec![
        ("Txt", text(Some("abcaa")), DataType::Utf8),
        ("nil", text(None), DataType::Utf8),
        ("n", ScalarValue::Int64(Some(7)), DataType::Int64),
        ("d", ScalarValue::Float64(Some(100.0)), DataType::Float64),
        ("minus", ScalarValue::Float64(Some(-0.0)), DataType::Float64),
        ("dec", ScalarValue::Decimal128(Some(150), 10, 2), DataType::Decimal128(10, 2)),
        ("big", ScalarValue::Decimal128(Some(1_234_567_890_123_456_789), 20, 2), DataType::Decimal128(20, 2)),
        ("ok", ScalarValue::Boolean(Some(true)), DataType::Boolean),
        // 2024-02-04, a Sunday, 04:05:06.5
        ("ts", ScalarValue::TimestampMicrosecond(Some(1_707_019_506_500_000), Some("UTC".into())), timestamp()),
        ("dt", ScalarValue::Date32(Some(19_757)), DataType::Date32),
        (
            "arr",
            ScalarValue::List(ScalarValue::new_list_nullable(
                &[ScalarValue::Int64(Some(5)), ScalarValue::Int64(Some(-1))],
                &DataType::Int64,
            )),
            list,
        ),
    ];
    let fields: Vec<Field> = values.iter().map(|(name, value, _)| Field::new(*name, value.data_type(), true)).collect();
    let columns: Vec<ArrayRef> = values.iter().map(|(_, value, _)| value.to_array().unwrap()).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).unwrap()
}

/// The value as text; the reason where it is refused.
fn value(sql: &str) -> Result<String, String> {
    let row = row();
    let schema = DFSchema::try_from(row.schema().as_ref().clone()).unwrap();
    let expr = expression(sql, &schema)?;
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr, &schema).and_then(|expr| simplifier.simplify(expr)).map_err(said)?;
    let compiled = SessionContext::new().create_physical_expr(expr, &schema).map_err(said)?;
    let values = compiled.evaluate(&row).map_err(said)?.into_array(1).unwrap();
    if values.is_null(0) { Ok("NULL".to_owned()) } else { Ok(array_value_to_string(&values, 0).unwrap()) }
}

/// Values by hand after Spark's documentation of operators and functions (without ANSI mode, session in UTC).
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn expressions_are_what_spark_computes() {
    for (sql, expected) in [
        ("concat(txt, nil)", "NULL"),
        ("concat(TXT, '-', CAST(n AS STRING))", "abcaa-7"),
        ("txt || n", "abcaa7"),
        ("CAST(ts AS STRING)", "2024-02-04 04:05:06.5"),
        ("CAST(dt AS STRING)", "2024-02-04"),
        ("date_format(ts, 'yyyy-MM')", "2024-02"),
        ("DATE_FORMAT(dt, 'yyyy-MM-dd-HH')", "2024-02-04-00"),
        ("regexp_replace(txt, 'a', 'b')", "bbcbb"),
        ("txt RLIKE '^a\\\\w+$'", "true"),
        ("log(d) > 4.6 AND log(d) < 4.61", "true"),
        ("log(10, d)", "2.0"),
        ("ln(0)", "NULL"),
        ("sqrt(-1)", "NaN"),
        ("isnan(NULL)", "false"),
        ("n / 2", "3.5"),
        ("n / 0", "NULL"),
        ("n % 0", "NULL"),
        ("d / minus", "NULL"),
        ("pmod(-7, 3)", "2"),
        ("dec * 0.1 = 0.15", "true"),
        ("dec / 3 = 0.5", "true"),
        ("dec / 7", "0.214286"),
        ("big > 12345678901234567.88", "true"),
        ("big = 12345678901234567.89", "true"),
        ("d = 100 AND d = 100.0 AND d > 99.9", "true"),
        ("minus IN (0, 1)", "true"),
        ("CASE minus WHEN 0.0 THEN 'zero' ELSE 'other' END", "zero"),
        ("CAST('NaN' AS DOUBLE) > d", "true"),
        ("substring(txt, 0, 2)", "ab"),
        ("substring(txt, -2)", "aa"),
        ("SUBSTRING(txt FROM 2 FOR 2)", "bc"),
        ("left(txt, -1)", ""),
        ("right(txt, 2)", "aa"),
        ("replace(txt, '', 'x')", "abcaa"),
        ("instr(txt, 'c')", "3"),
        ("arr[0]", "5"),
        ("arr[1]", "-1"),
        ("arr[2]", "NULL"),
        ("arr[-1]", "NULL"),
        ("year(ts) * 100 + month(ts)", "202402"),
        ("EXTRACT(DOW FROM ts)", "1"),
        ("dayofweek(dt)", "1"),
        ("weekday(dt)", "6"),
        ("EXTRACT(SECOND FROM ts)", "6.500000"),
        ("second(ts)", "6"),
        ("date_trunc('HOUR', ts) = TIMESTAMP '2024-02-04 04:00:00'", "true"),
        ("trunc(dt, 'MONTH')", "2024-02-01"),
        ("date_trunc('month', TIMESTAMP '9999-12-31 23:00:00') = TIMESTAMP '9999-12-01 00:00:00'", "true"),
        ("date_trunc('week', DATE '0001-01-03') = TIMESTAMP '0001-01-01 00:00:00'", "true"),
        ("trunc(DATE '9999-12-31', 'YEAR')", "9999-01-01"),
        ("date_format(TIMESTAMP '9999-12-31 00:00:00', 'yyyy-MM-dd')", "9999-12-31"),
        ("date_format(DATE '0001-01-01', 'yyyy/MM')", "0001/01"),
        ("CAST(TIMESTAMP '0001-01-01 00:00:00' AS STRING)", "0001-01-01 00:00:00"),
        ("date_add(dt, 1)", "2024-02-05"),
        ("datediff(dt, DATE '2024-01-31')", "4"),
        ("dt + INTERVAL '1' DAY", "2024-02-05"),
        ("ts - TIMESTAMP '2024-02-04 00:00:00' < INTERVAL '5 hours'", "true"),
        ("INTERVAL '25 hours' > INTERVAL '1 day'", "true"),
        ("ts < '9999-12-31'", "true"),
        ("dt > '2024-01-01' AND dt < ts", "true"),
        ("n = '07'", "true"),
        ("ok IS DISTINCT FROM false AND n > 7", "false"),
        ("ok IS NOT DISTINCT FROM true AND n > 100", "false"),
        ("ok <=> NULL", "false"),
        ("n IN (1, NULL)", "NULL"),
        ("n NOT BETWEEN 1 AND 6", "true"),
        ("coalesce(nil, n)", "7"),
        ("nullif(n, 7)", "NULL"),
        ("if(n > 5, 'x', 'y')", "x"),
        ("txt LIKE 'a%' AND NOT txt LIKE 'a\\%'", "true"),
        ("round(2.5)", "3"),
        ("`Txt` = \"abcaa\"", "true"),
        ("greatest(n, 7.5)", "7.5"),
        ("floor(minus - 0.5)", "-1"),
        ("CAST(1.9 AS INT)", "1"),
        ("CAST(txt AS BIGINT)", "NULL"),
        ("coalesce(CAST(txt AS INT), 1) = 1", "true"),
        ("CAST(txt AS DATE) IS NULL AND CAST(txt AS TIMESTAMP) IS NULL", "true"),
        ("CAST(txt AS DOUBLE) IS NULL AND CAST(txt AS DECIMAL(9, 2)) IS NULL", "true"),
        ("CAST('12.9' AS INT) + CAST('+5' AS INT) + CAST(' 7 ' AS TINYINT)", "24"),
        ("CAST('300' AS TINYINT)", "NULL"),
        ("CAST(if(n > 5, '2024-02-31', txt) AS DATE)", "NULL"),
        ("CAST('2024-02-29' AS DATE)", "2024-02-29"),
        ("CAST(n * 10000 AS SMALLINT)", "4464"),
        ("CAST(40000 AS SMALLINT)", "-25536"),
        ("CAST(-129 AS TINYINT)", "127"),
        ("CAST(1e300 AS INT)", "2147483647"),
        ("CAST(CAST('NaN' AS DOUBLE) AS INT)", "0"),
        ("CAST(12345.6 AS DECIMAL(4, 1))", "NULL"),
        ("CAST(dec AS INT) = 1 AND CAST(-dec AS INT) = -1", "true"),
        ("CAST(dec + 0.05 AS DECIMAL(10, 1)) = 1.6 AND round(dec + 0.05, 1) = 1.6", "true"),
        ("dec / 7 = 0.214286", "true"),
    ] {
        assert_eq!(value(sql).as_deref(), Ok(expected), "{sql}");
    }
}

#[test]
fn what_engines_compute_each_in_its_own_way_is_refused_by_name() {
    for (sql, named) in [
        ("random() >= 0", "`random`"),
        ("rand() >= 0", "`rand`"),
        ("uuid() <> ''", "`uuid`"),
        ("now() > ts", "`now`"),
        ("current_timestamp() > ts", "`current_timestamp`"),
        ("version() <> ''", "`version`"),
        ("arrow_typeof(n) = 'Int64'", "`arrow_typeof`"),
        ("to_hex(n) = '7'", "`to_hex`"),
        ("to_char(ts, 'YYYY') = '2024'", "`to_char`"),
        ("cardinality(arr) > 0", "`cardinality`"),
        ("initcap(txt) = 'Abcaa'", "`initcap`"),
        ("7 = ANY(arr)", "ANY"),
        ("n ^ 2 = 5", "n ^ 2"),
        ("txt ~ 'a'", "txt ~ 'a'"),
        ("CAST(d AS STRING) = '100.0'", "DOUBLE"),
        ("concat(txt, d) = ''", "DOUBLE"),
        ("CAST(ts AS BIGINT) > 0", "a CAST of TIMESTAMP to BIGINT"),
        ("EXTRACT(EPOCH FROM ts) > 0", "`epoch`"),
        ("txt RLIKE '\\\\bx'", "\\b"),
        ("nobody_knows(n) > 0", "`nobody_knows`"),
        ("m > 0", "`m` is not a column"),
        ("count(n) > 0", "`count`"),
        ("n IN (SELECT 1)", "SELECT"),
        ("date_format(ts, 'YYYY') = '2024'", "`YYYY`"),
    ] {
        let refused = value(sql).expect_err(sql);
        assert!(refused.contains(named), "{sql}: {refused}");
    }
}

#[test]
fn long_conditions_are_read_and_deep_ones_refused() {
    let long = vec!["n > 0"; 400].join(" AND ");
    let schema = DFSchema::try_from(row().schema().as_ref().clone()).unwrap();
    assert!(expression(&long, &schema).is_ok());
    let deep = vec!["n"; 300].join(" + ");
    assert!(expression(&deep, &schema).is_err());
}

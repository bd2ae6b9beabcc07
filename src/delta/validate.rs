//! NOT NULL and the table's rules, checked on the rows before they are written.
//!
//! A rule holds for a row when its expression is true; false and null violate it, as the Delta protocol has it.
//! Expressions are compiled once; a check costs one pass of each over the batch, and nothing where there are none.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{cast, filter_record_batch, max, min};
use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;

use super::lengths::{TextLength, TextLengths};
use super::metadata::{Rule, TableMetadata};
use super::partitions::{as_stored, may_be_null};
use super::spark;
use super::writer::conform;
use crate::arithmetic::checked_arithmetic;
use crate::catalog::{CheckDef, TableDef};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::evaluate::{Blame, Evaluated, evaluate_each};
use crate::json::{LineWriter, builder};
use crate::memory::bounded::Bounding;
use crate::memory::slice::CallBudget;
use crate::sql::types::sql_name;

/// The compiled rules of one table.
#[derive(Debug, Clone)]
pub struct Validator {
    schema: SchemaRef,
    /// `schema` with every column nullable: rows are looked at before NOT NULL is known to hold.
    lenient: SchemaRef,
    /// Columns that must not be null.
    required: Vec<usize>,
    partition_columns: Vec<String>,
    /// Columns of times: their values have to be ones that readers can show, in partition columns as text.
    times: Vec<usize>,
    lengths: TextLengths,
    rules: Vec<(String, Arc<dyn PhysicalExpr>)>,
}

/// The rows of a batch that may be written, and the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Violations {
    /// The rows that break no rule, with the columns they came with.
    pub good: RecordBatch,
    /// The others, in order: the row as JSON, what it violates in a line, and the column where NOT NULL is to blame.
    pub letters: Vec<(Vec<u8>, String, Option<String>)>,
    /// The numbers of those rows.
    pub rows: Vec<usize>,
}

impl Default for Validator {
    /// Checks nothing.
    fn default() -> Self {
        let schema = SchemaRef::new(Schema::empty());
        let (required, partition_columns, times, lengths, rules) = Default::default();
        Self { lenient: schema.clone(), schema, required, partition_columns, times, lengths, rules }
    }
}

impl Validator {
    /// Compiles the rules of `metadata` and those declared besides.
    pub(super) fn compile(table: &str, metadata: &TableMetadata, declared: &[Rule]) -> Result<Self> {
        let schema = metadata.schema.clone();
        let lenient = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let lenient = Arc::new(Schema::new(lenient.collect::<Vec<_>>()));
        let required = schema.fields().iter().enumerate().filter(|(_, field)| !field.is_nullable());
        let required = required.map(|(index, _)| index).collect();
        let extra = declared.iter().filter(|rule| !metadata.rules.iter().any(|known| known.name == rule.name));
        let rules = metadata
            .rules
            .iter()
            .chain(extra)
            .map(|rule| Ok((rule.name.clone(), compile_rule(table, rule, &lenient)?)))
            .collect::<Result<_>>()?;
        let partition_columns = metadata.partition_columns.clone();
        let is_time = |field: &Field| matches!(field.data_type(), DataType::Timestamp(..) | DataType::Date32);
        let columns = schema.fields().iter().enumerate();
        let times = columns.filter(|(_, field)| is_time(field)).map(|(index, _)| index).collect();
        let lengths = metadata.lengths.clone();
        Ok(Self { schema, lenient, required, partition_columns, times, lengths, rules })
    }

    /// `true` if there is nothing to check.
    pub fn is_trivial(&self) -> bool {
        self.required.is_empty() && self.rules.is_empty() && self.times.is_empty() && self.lengths.is_empty()
    }

    /// Finds the rows of `batch` that must not be written; `None` when all may. Columns are matched by name.
    pub fn check(&self, batch: &RecordBatch) -> Result<Option<Violations>> {
        if self.is_trivial() || batch.num_rows() == 0 {
            return Ok(None);
        }
        let far =
            self.times.iter().any(|index| batch.column_by_name(self.schema.field(*index).name()).is_some_and(any_far));
        if self.required.is_empty() && self.rules.is_empty() && self.lengths.is_empty() && !far {
            return Ok(None);
        }
        let rows = conform(batch, &self.lenient)?;
        let broken =
            self.broken(&conform(&as_stored(&rows, &self.partition_columns, &self.lengths)?, &self.lenient)?)?;
        let Some((first, others)) = broken.split_first() else { return Ok(None) };
        let bad = others.iter().fold(first.rows.clone(), |all, broken| &all | &broken.rows);
        let fail = || "cannot separate rows that violate constraints".to_owned();
        let good = filter_record_batch(batch, &BooleanArray::new(!&bad, None)).internal(fail)?;
        let refused = filter_record_batch(&rows, &BooleanArray::new(bad.clone(), None)).internal(fail)?;
        let letters = bad.set_indices().zip(json_rows(&showable(&refused)?)?).map(|(row, payload)| {
            let reasons: Vec<&Broken<'_>> = broken.iter().filter(|broken| broken.rows.value(row)).collect();
            let text = reasons.iter().map(|broken| broken.reason(row)).collect::<Vec<_>>().join("; ");
            (payload, text, reasons.iter().find_map(|broken| broken.column.map(str::to_owned)))
        });
        Ok(Some(Violations { good, letters: letters.collect(), rows: bad.set_indices().collect() }))
    }

    /// The rules that some row breaks, each with these rows.
    fn broken(&self, rows: &RecordBatch) -> Result<Vec<Broken<'_>>> {
        let mut broken = Vec::new();
        for index in &self.required {
            if let Some(nulls) = rows.column(*index).logical_nulls().filter(|nulls| nulls.null_count() > 0) {
                let column = self.schema.field(*index).name().as_str();
                let empty_too = may_be_null(&self.schema, &self.partition_columns, *index);
                broken.push(Broken { empty_too, ..Broken::column(column, !nulls.inner()) });
            }
        }
        for index in &self.times {
            let (column, values) = (self.schema.field(*index).name(), rows.column(*index));
            if !any_far(values) {
                continue;
            }
            let years = if self.partition_columns.contains(column) { WRITTEN_YEARS } else { SHOWN_YEARS };
            let far = far_times(values, years);
            if far.count_set_bits() > 0 {
                broken.push(Broken { far: Some(years), ..Broken::column(column, far) });
            }
        }
        for (column, length, rows) in self.lengths.too_long(rows)? {
            broken.push(Broken { longest: Some(length), ..Broken::column(column, rows) });
        }
        for (rule, expression) in &self.rules {
            let Evaluated { values, failed } = evaluate_each(expression, rows)
                .context(ErrorKind::Sql, || format!("constraint `{rule}` cannot be evaluated"))?;
            let holds = true_rows(values.as_boolean());
            if holds.count_set_bits() < rows.num_rows() {
                let failed = failed.into_iter().map(|(row, error)| {
                    let Blame { expression, reason, .. } = Blame::of(expression, &rows.slice(row, 1), &error);
                    (row, format!("`{expression}` cannot be computed: {reason}"))
                });
                let failed = failed.collect();
                broken.push(Broken { rule, column: None, failed, ..Broken::column(rule, !&holds) });
            }
        }
        Ok(broken)
    }
}

/// The rules of a declaration that cannot be parsed or computed, by their positions in it.
pub fn rule_problems(def: &TableDef) -> Vec<(usize, Error)> {
    let fields =
        def.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let schema = Arc::new(Schema::new(fields));
    let row = RecordBatch::new_empty(Arc::clone(&schema));
    let problem = |check: &CheckDef| {
        let rule = Rule::condition(&check.name, &check.text);
        let compiled = compile_rule(&def.name, &rule, &schema);
        let tried = compiled.and_then(|expression| {
            let failed = || format!("constraint `{}` of table `{}` cannot be computed", rule.name, def.name);
            expression.evaluate(&row).map(drop).context(ErrorKind::Sql, failed)
        });
        tried.err()
    };
    def.checks.iter().enumerate().filter_map(|(index, check)| Some((index, problem(check)?))).collect()
}

/// A rule and the rows that break it.
struct Broken<'a> {
    rule: &'a str,
    column: Option<&'a str>,
    /// `true` if an empty value counts as null: in partition columns of text or bytes.
    empty_too: bool,
    /// A time that is not of these years.
    far: Option<Years>,
    /// A text that is longer than this.
    longest: Option<TextLength>,
    rows: BooleanBuffer,
    /// Rows for which the rule could not be computed, and why.
    failed: BTreeMap<usize, String>,
}

impl<'a> Broken<'a> {
    /// Something wrong with a column.
    fn column(column: &'a str, rows: BooleanBuffer) -> Self {
        let failed = BTreeMap::new();
        Self { rule: column, column: Some(column), empty_too: false, far: None, longest: None, rows, failed }
    }

    fn reason(&self, row: usize) -> String {
        match self.column {
            Some(column) if let Some(length) = self.longest => {
                let kind = if matches!(length, TextLength::Char(_)) { "CHAR" } else { "VARCHAR" };
                format!("`{column}` is longer than {kind}({})", length.most())
            }
            Some(column) if self.far == Some(WRITTEN_YEARS) => {
                format!("`{column}`, a partition column, is not in the years 1 to 9999")
            }
            Some(column) if self.far.is_some() => {
                format!("`{column}` is not in the years -262143 to 262142, which can be shown")
            }
            Some(column) if self.empty_too => format!("`{column}` is null or empty but NOT NULL"),
            Some(column) => format!("`{column}` is null but NOT NULL"),
            None => match self.failed.get(&row) {
                Some(why) => format!("constraint `{}`: {why}", self.rule),
                None => format!("violates constraint `{}`", self.rule),
            },
        }
    }
}

/// A range of days since 1970.
type Years = (i64, i64);

/// The years 1 to 9999, which all readers understand as text.
const WRITTEN_YEARS: Years = (-719_162, 2_932_896);
/// The years that chrono can show, and with it most of what is written in Rust.
const SHOWN_YEARS: Years = (-96_465_292, 95_026_236);
const DAY_US: i64 = 86_400_000_000;

/// True if a time is outside of the years 1 to 9999, as one seldom is: one quick pass.
fn any_far(values: &ArrayRef) -> bool {
    let (first, last) = WRITTEN_YEARS;
    if let Some(days) = values.as_primitive_opt::<Date32Type>() {
        let outside = |day: Option<i32>| day.is_some_and(|day| !(first..=last).contains(&i64::from(day)));
        return outside(min(days)) || outside(max(days));
    }
    let Some(times) = values.as_primitive_opt::<TimestampMicrosecondType>() else { return false };
    let outside = |time: Option<i64>| time.is_some_and(|time| !(first..=last).contains(&time.div_euclid(DAY_US)));
    outside(min(times)) || outside(max(times))
}

/// The times outside of those years.
fn far_times(values: &ArrayRef, (first, last): Years) -> BooleanBuffer {
    let is_far = |row: usize| match values.data_type() {
        _ if values.is_null(row) => false,
        DataType::Date32 => !(first..=last).contains(&i64::from(values.as_primitive::<Date32Type>().value(row))),
        _ => {
            let times = values.as_primitive_opt::<TimestampMicrosecondType>();
            times.is_some_and(|times| !(first..=last).contains(&times.value(row).div_euclid(DAY_US)))
        }
    };
    BooleanBuffer::collect_bool(values.len(), is_far)
}

/// The rows with times that cannot be shown as numbers: days or microseconds since 1970.
fn showable(rows: &RecordBatch) -> Result<RecordBatch> {
    let fail = || "cannot show a row that violates a constraint".to_owned();
    let (mut fields, mut columns) = (rows.schema().fields().to_vec(), rows.columns().to_vec());
    for (field, values) in fields.iter_mut().zip(&mut columns) {
        if any_far(values) && far_times(values, SHOWN_YEARS).count_set_bits() > 0 {
            let number = if *field.data_type() == DataType::Date32 { DataType::Int32 } else { DataType::Int64 };
            *values = cast(values, &number).internal(fail)?;
            *field = Arc::new(field.as_ref().clone().with_data_type(number));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).internal(fail)
}

/// Each row as a JSON object that a source reads back as the same row; nulls are written out.
fn json_rows(rows: &RecordBatch) -> Result<Vec<Vec<u8>>> {
    let fail = || "cannot show a row that violates a constraint".to_owned();
    let mut writer: LineWriter<Vec<u8>> = builder().with_explicit_nulls(true).build(Vec::new());
    writer.write(rows).and_then(|()| writer.finish()).internal(fail)?;
    let lines = writer.into_inner();
    Ok(lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

fn true_rows(values: &BooleanArray) -> BooleanBuffer {
    match values.nulls() {
        Some(nulls) => values.values() & nulls.inner(),
        None => values.values().clone(),
    }
}

/// Compiles a rule, which is Spark's SQL.
fn compile_rule(table: &str, rule: &Rule, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let fail = || format!("constraint `{}` of table `{table}` cannot be understood", rule.name);
    let schema = Arc::new(DFSchema::try_from(schema.as_ref().clone()).internal(fail)?);
    let meant = match &rule.generates {
        Some(column) => spark::is_generated_as(column, &rule.sql, &schema),
        None => spark::expression(&rule.sql, &schema),
    };
    let meant = meant.map_err(|reason| {
        Error::sql(fail())
            .with_detail(format!("`{}`: {reason}.", rule.sql))
            .with_hint("Tables keep such expressions for all engines: docs/sql.md lists the operators and functions that can be in them.")
    })?;
    let compile = |expr: Expr| -> datafusion::error::Result<_> {
        // Calls that make much are bounded before anything is computed.
        let bounding = Bounding::of_query(Arc::new(CallBudget));
        let options = ConfigOptions::default();
        let expr = expr.transform_up(|expr| bounding.rewrite(expr, &schema, &options))?.data;
        // Some functions, `coalesce` for one, are only ever run as what they are simplified to.
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(&schema)).build());
        let expr = checked_arithmetic(simplifier.coerce(expr, &schema)?, &schema)?.data;
        let expr = simplifier.simplify(expr)?;
        SessionContext::new().create_physical_expr(expr, &schema)
    };
    let expression = compile(meant).context(ErrorKind::Sql, fail)?;
    let data_type = expression.data_type(schema.as_arrow()).internal(fail)?;
    if data_type != DataType::Boolean {
        let given = sql_name(&data_type);
        return Err(Error::sql(fail()).with_detail(format!("`{}` is of type {given}, not BOOLEAN.", rule.sql)));
    }
    Ok(expression)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use serde_json::json;

    use super::*;

    /// A table `n BIGINT, Twice BIGINT` with these rules.
    fn validator(rules: &[(&str, &str)]) -> Result<Validator> {
        let field = |name: &str| json!({ "name": name, "type": "long", "nullable": true, "metadata": {} });
        let schema = json!({ "type": "struct", "fields": [field("n"), field("Twice")] }).to_string();
        let metadata = json!({ "schemaString": schema });
        let metadata = TableMetadata::read("t", &json!({ "minWriterVersion": 2 }), &metadata).unwrap();
        let rules = rules.iter().map(|(name, sql)| Rule::condition(name, sql));
        Validator::compile("t", &metadata, &rules.collect::<Vec<_>>())
    }

    fn batch(n: &[Option<i64>], twice: &[Option<i64>]) -> RecordBatch {
        let column = |values: &[Option<i64>]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        RecordBatch::try_from_iter([("n", column(n)), ("Twice", column(twice))]).unwrap()
    }

    fn refused(validator: &Validator, batch: &RecordBatch) -> usize {
        validator.check(batch).unwrap().map_or(0, |violations| violations.letters.len())
    }

    /// Values written by hand after Spark's documentation.
    #[test]
    fn rules_mean_what_they_mean_to_spark() {
        let rows = batch(&[Some(1), Some(4), Some(0), None], &[Some(2), Some(2), Some(0), Some(1)]);
        for (rule, refused_rows) in [
            ("n / Twice > 0", 2),
            ("n / Twice = 0.5", 3),
            ("Twice / n >= 0", 2),
            ("n % Twice = 1", 3),
            ("n % Twice IS NULL OR n >= 0", 0),
            ("substring('AB12', n, 2) = 'AB'", 2),
            ("substring('AB12', -2) = '12'", 0),
            ("substr('AB12', -Twice, 1) = '1'", 2),
            ("substring('abc', -5, 3) = 'a'", 0),
            ("substring('abc', 2, -1) = ''", 0),
            ("n IS DISTINCT FROM Twice AND n > 0", 2),
            ("NOT n = 4 IS TRUE", 1),
            ("n + 9223372036854775807 < n", 4),
        ] {
            assert_eq!(refused(&validator(&[("r", rule)]).unwrap(), &rows), refused_rows, "{rule}");
        }
    }

    #[test]
    fn false_and_null_violate_a_rule_and_true_does_not() {
        let validator = validator(&[("small", "n < 10")]).unwrap();
        let batch = batch(&[Some(1), Some(10), None], &[None; 3]);
        let found = validator.check(&batch).unwrap().unwrap();
        assert_eq!((found.good, found.letters.len()), (batch.slice(0, 1), 2));
    }

    #[test]
    fn a_generated_column_must_be_what_its_expression_gives_null_included() {
        let mut generated = Rule::condition("g", "n * 2");
        generated.generates = Some("Twice".to_owned());
        let metadata = validator(&[]).unwrap();
        let expression = compile_rule("t", &generated, &metadata.lenient).unwrap();
        let validator = Validator { rules: vec![("g".to_owned(), expression)], ..metadata };
        assert_eq!(refused(&validator, &batch(&[Some(2), None], &[Some(4), None])), 0);
        assert_eq!(refused(&validator, &batch(&[Some(2), None], &[Some(5), Some(0)])), 2);
    }

    #[test]
    fn rules_whose_functions_make_much_are_checked_in_parts() {
        let validator = validator(&[("short", "length(repeat('x', n)) < 3000000")]).unwrap();
        let numbers: Vec<_> = (0..64).map(|n| Some(if n % 8 == 0 { 4_000_000 } else { 1_000_000 })).collect();
        assert_eq!(refused(&validator, &batch(&numbers, &[None; 64])), 8);
        assert_eq!(refused(&validator, &batch(&[Some(100_000_000)], &[None])), 1);
    }

    #[test]
    fn functions_that_are_run_as_something_else_are_understood() {
        let rows = batch(&[Some(5), None, Some(-1)], &[None; 3]);
        for (rule, refusals) in [
            ("coalesce(n, 0) >= 0", 1),
            ("nvl(n, 0) >= 0", 1),
            ("ifnull(n, 0) >= 0", 1),
            ("nvl2(n, n, 1) >= 0", 1),
            ("nullif(n, 5) IS NULL", 1),
            ("coalesce(n, Twice, 7) BETWEEN 5 AND 7", 1),
        ] {
            assert_eq!(refused(&validator(&[("r", rule)]).unwrap(), &rows), refusals, "{rule}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_computed_for_a_row_refuses_that_row_alone() {
        let rows = batch(&[Some(1), Some(-1), Some(2)], &[None; 3]);
        let rule = "CAST(CASE WHEN n < 0 THEN '2024x' ELSE '2024-01-05' END AS DATE) > '2024-01-01'";
        let found = validator(&[("r", rule)]).unwrap().check(&rows).unwrap().unwrap();
        assert_eq!(found.good.num_rows(), 2);
        let [(_, reason, _)] = &found.letters[..] else { panic!("{:?}", found.letters) };
        assert!(reason.starts_with("constraint `r`: ") && reason.ends_with("(`n` = -1)"), "{reason}");
    }

    #[test]
    fn names_are_found_as_written_or_folded() {
        assert!(validator(&[("written", "Twice > 0 AND n > 0")]).is_ok());
        assert!(validator(&[("folded", "N > 0")]).is_ok());
        let error = validator(&[("unknown", "m > 0")]).unwrap_err();
        assert_eq!(error.message(), "constraint `unknown` of table `t` cannot be understood");
    }

    #[test]
    fn an_empty_value_of_a_partition_column_counts_as_null() {
        let field = |name: &str| json!({ "name": name, "type": "string", "nullable": name == "q", "metadata": {} });
        let schema = json!({ "type": "struct", "fields": [field("p"), field("q")] }).to_string();
        let metadata = json!({ "schemaString": schema, "partitionColumns": ["p", "q"] });
        let metadata = TableMetadata::read("t", &json!({ "minWriterVersion": 2 }), &metadata).unwrap();
        let rule = Rule::condition("filled", "q IS NOT NULL");
        let validator = Validator::compile("t", &metadata, &[rule]).unwrap();
        let texts = |values: &[&str]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        let rows = [("p", texts(&["", "a", "b"])), ("q", texts(&["x", "", "y"]))];
        let found = validator.check(&RecordBatch::try_from_iter(rows).unwrap()).unwrap().unwrap();
        assert_eq!(found.good.num_rows(), 1);
        let [(payload, reason, column), (_, other, _)] = &found.letters[..] else { panic!("{:?}", found.letters) };
        assert_eq!((reason.as_str(), column.as_deref()), ("`p` is null or empty but NOT NULL", Some("p")));
        assert_eq!(String::from_utf8_lossy(payload), "{\"p\":\"\",\"q\":\"x\"}");
        assert_eq!(other, "violates constraint `filled`");
    }

    #[test]
    fn a_partition_value_is_a_time_that_text_can_hold() {
        let days = |values: &[i32]| Arc::new(arrow::array::Date32Array::from(values.to_vec())) as ArrayRef;
        let times = |values: &[i64]| {
            let times = arrow::array::TimestampMicrosecondArray::from(values.to_vec());
            Arc::new(times.with_timezone("UTC")) as ArrayRef
        };
        let last = 253_402_300_800_000_000;
        for (kind, values, good) in [
            ("date", days(&[-719_162, 2_932_896, -719_163, 2_932_897, i32::MAX, i32::MIN]), 2),
            (
                "timestamp",
                times(&[-62_135_596_800_000_000, last - 1, -62_135_596_800_000_001, last, i64::MAX, i64::MIN]),
                2,
            ),
        ] {
            let field = json!({ "name": "p", "type": kind, "nullable": true, "metadata": {} });
            let schema = json!({ "type": "struct", "fields": [field] }).to_string();
            let metadata = json!({ "schemaString": schema, "partitionColumns": ["p"] });
            let metadata = TableMetadata::read("t", &json!({ "minWriterVersion": 2 }), &metadata).unwrap();
            let rows = RecordBatch::try_from_iter([("p", values)]).unwrap();
            let found = Validator::compile("t", &metadata, &[]).unwrap().check(&rows).unwrap().unwrap();
            assert_eq!(found.good, rows.slice(0, good), "{kind}");
            assert_eq!(found.letters[0].1, "`p`, a partition column, is not in the years 1 to 9999");
        }
    }

    #[test]
    fn a_refused_row_is_shown_as_a_source_reads_it() {
        let columns: [(&str, ArrayRef); 2] = [
            ("d", Arc::new(arrow::array::Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY]))),
            ("b", Arc::new(arrow::array::BinaryArray::from(vec![&b"x"[..], b"y"]))),
        ];
        let rows = json_rows(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        let rows: Vec<_> = rows.iter().map(|row| String::from_utf8_lossy(row)).collect();
        assert_eq!(rows, [r#"{"d":"NaN","b":"eA=="}"#, r#"{"d":"-Infinity","b":"eQ=="}"#]);
    }

    #[test]
    fn rows_that_lack_a_column_are_checked_as_if_it_were_null() {
        let names: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let batch = RecordBatch::try_from_iter([("other", names)]).unwrap();
        assert_eq!(refused(&validator(&[("small", "n < 10")]).unwrap(), &batch), 1);
        assert_eq!(validator(&[]).unwrap().check(&batch).unwrap(), None);
    }
}

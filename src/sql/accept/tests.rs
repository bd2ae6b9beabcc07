use std::fmt::Write as _;

use super::*;
use crate::sql::embedded;
use crate::sql::lexer::tokenize;

fn refusal(sql: &str) -> Option<Diagnostic> {
    embedded::query(&tokenize(sql, 0, &mut Vec::new())).err()
}

#[test]
fn what_never_runs_is_refused_by_name_and_nothing_else() {
    let mut wrong = Vec::new();
    for Clause { name, does, example } in CLAUSES {
        let found = refusal(example);
        let is_right = match (&found, does) {
            (None, Does::Run | Does::RunInQueries) => true,
            (Some(error), Does::NotRun) => {
                error.message.ends_with("` is not supported") && error.hint.is_some() && !error.span.is_empty()
            }
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{name}, {does:?}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn refusals_name_the_clause_at_its_place() {
    for (sql, message, at) in [
        ("SELECT a FROM t TABLESAMPLE (10 PERCENT)", "`TABLESAMPLE` is not supported", 17),
        ("SELECT a FROM t PARTITION (p0)", "`PARTITION` is not supported", 17),
        ("SELECT a FROM t START WITH a = 1 CONNECT BY PRIOR a = b", "`CONNECT BY` is not supported", 34),
        ("SELECT a FROM t MINUS SELECT a FROM u", "`MINUS` is not supported", 17),
        ("SELECT s -> 'x' FROM t", "`->` is not supported", 10),
        ("SELECT a FROM t WHERE s SIMILAR TO 'x%'", "`SIMILAR TO` is not supported", 25),
        ("SELECT upper(s) FILTER (WHERE a > 1) FROM t", "`upper(…) FILTER` is not supported", 17),
        ("SELECT a FROM t PIVOT (sum(a) FOR b IN (1, 2))", "`PIVOT` is not supported", 17),
        ("SELECT now() AT TIME ZONE 'Nowhere/No' FROM t", "`AT TIME ZONE 'Nowhere/No'` is not supported", 27),
        (
            "SELECT sum(a) OVER (ORDER BY a ROWS 9223372036854775808 PRECEDING) FROM t",
            "`9223372036854775808` is not supported",
            37,
        ),
        (
            "SELECT sum(a) OVER (ORDER BY a GROUPS BETWEEN CURRENT ROW AND 18446744073709551615 FOLLOWING) FROM t",
            "`18446744073709551615` is not supported",
            63,
        ),
        (
            "SELECT approx_percentile_cont(0.5, 9000000000000000000) WITHIN GROUP (ORDER BY a) FROM t",
            "`9000000000000000000` is not supported",
            36,
        ),
        ("SELECT a FROM t GROUP BY a WITH ROLLUP", "`WITH` is not supported", 28),
    ] {
        let error = refusal(sql).unwrap_or_else(|| panic!("{sql} is taken"));
        assert_eq!((error.message.as_str(), error.span.start.column), (message, at), "{sql}");
    }
}

#[test]
fn bounds_and_zones_that_exist_pass() {
    for sql in [
        "SELECT sum(a) OVER (ORDER BY a ROWS 9223372036854775807 PRECEDING) FROM t",
        "SELECT approx_percentile_cont(0.5, 200) WITHIN GROUP (ORDER BY a) FROM t",
        "SELECT now() AT TIME ZONE 'Europe/Berlin', now() AT TIME ZONE '+02:00', now() AT TIME ZONE 'UTC'",
    ] {
        assert_eq!(refusal(sql), None, "{sql}");
    }
}

/// The table of `docs/sql.md`.
fn clause_table() -> String {
    let mut text = "| clause | in queries | in pipelines |\n|---|---|---|\n".to_owned();
    for Clause { name, does, example: _ } in CLAUSES {
        let (queries, pipelines) = match does {
            Does::Run => ("runs", "runs"),
            Does::RunInQueries => ("runs", "refused"),
            Does::NotRun => ("refused", "refused"),
        };
        let name = name.replace('|', "\\|");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{name}` | {queries} | {pipelines} |");
    }
    text
}

#[test]
fn the_reference_shows_every_clause() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sql.md")).unwrap();
    let table = clause_table();
    assert!(text.contains(&table), "docs/sql.md should contain\n{table}");
}

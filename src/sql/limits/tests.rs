use super::*;
use crate::sql::embedded;
use crate::sql::lexer::tokenize;

fn check(text: &str) -> Parsed<()> {
    check_tokens(&tokenize(text, 0, &mut Vec::new()))
}

fn nested(open: &str, inner: &str, close: &str, times: usize) -> String {
    format!("SELECT {}{inner}{}", open.repeat(times), close.repeat(times))
}

/// Every construct that can be repeated, `times` times.
pub(crate) fn shapes(times: usize) -> Vec<(&'static str, String)> {
    let chain = |operator: &str| format!("SELECT 1{}", format!("{operator}1").repeat(times));
    let from = |join: &str| format!("SELECT 1 FROM t{}", join.repeat(times));
    vec![
        ("parentheses", nested("(", "1", ")", times)),
        ("casts", nested("CAST(", "1", " AS INT)", times)),
        ("functions", nested("abs(", "1", ")", times)),
        ("cases", nested("CASE WHEN ", "true", " THEN true END", times)),
        ("else cases", nested("CASE WHEN true THEN 1 ELSE ", "1", " END", times)),
        ("arrays", nested("[", "1", "]", times)),
        ("array words", nested("ARRAY[", "1", "]", times)),
        ("structs", nested("{'a': ", "1", "}", times)),
        ("maps", nested("MAP {'a': ", "1", "}", times)),
        ("subqueries", nested("(SELECT ", "1", ")", times)),
        ("derived tables", nested("* FROM (SELECT ", "1", ") t", times)),
        ("bracketed tables", format!("SELECT * FROM {}t{}", "(".repeat(times), ")".repeat(times))),
        ("definitions", format!("{}SELECT 1{}", "WITH w AS (".repeat(times), ") SELECT * FROM w".repeat(times))),
        ("coalesce", nested("coalesce(", "1", ", 1)", times)),
        ("between", nested("CASE WHEN ", "1", " BETWEEN 1 AND 2 THEN 1 ELSE 2 END", times)),
        ("bracketed queries", format!("SELECT * FROM {}t{}", "((SELECT * FROM ".repeat(times), ") y)".repeat(times))),
        ("twice named", format!("SELECT * FROM {}t{}", "(SELECT * FROM (".repeat(times), ") y) x".repeat(times))),
        ("rows", nested("ROW(", "1", ")", times)),
        ("bracketed rows", nested("ROW((", "1", "))", times)),
        ("powers", nested("pow(", "1.0", ", 1.0)", times)),
        ("exists", nested("EXISTS(SELECT ", "1", ")", times)),
        ("in", nested("1 IN (SELECT ", "1", ")", times)),
        ("array types", format!("SELECT CAST(NULL AS INT{})", "[]".repeat(times))),
        ("array words of types", format!("SELECT CAST(NULL AS {}INT{})", "ARRAY<".repeat(times), ">".repeat(times))),
        ("struct types", format!("SELECT CAST(NULL AS {}INT{})", "STRUCT<a ".repeat(times), ">".repeat(times))),
        ("not", format!("SELECT {}true", "NOT ".repeat(times))),
        ("minus", format!("SELECT {}1", "- ".repeat(times))),
        ("tilde", format!("SELECT {}1", "~ ".repeat(times))),
        ("interval", format!("SELECT {}'1 day'", "INTERVAL ".repeat(times))),
        ("plus", chain("+")),
        ("product", chain("*")),
        ("concatenation", chain("||")),
        ("comparison", chain("=")),
        ("shift", chain("<<")),
        ("and", chain(" AND ")),
        ("or", chain(" OR ")),
        ("distinct from", chain(" IS DISTINCT FROM ")),
        ("not distinct from", chain(" IS NOT DISTINCT FROM ")),
        ("is null", format!("SELECT 1{}", " IS NULL".repeat(times))),
        ("like", chain(" LIKE ")),
        ("between", chain(" BETWEEN 1 AND ")),
        ("cast sign", format!("SELECT 1{}", "::INT".repeat(times))),
        ("subscript", format!("SELECT a{}", "[1]".repeat(times))),
        ("field", format!("SELECT a{}", ".b".repeat(times))),
        ("arrow", chain("->")),
        ("collate", format!("SELECT 'a'{}", " COLLATE x".repeat(times))),
        ("time zone", format!("SELECT now(){}", " AT TIME ZONE 'UTC'".repeat(times))),
        ("lambda", format!("SELECT f({}1)", "x -> ".repeat(times))),
        ("union", format!("SELECT 1{}", " UNION SELECT 1".repeat(times))),
        ("union all", format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(times))),
        ("except", format!("SELECT 1{}", " EXCEPT SELECT 1".repeat(times))),
        ("intersect", format!("SELECT 1{}", " INTERSECT SELECT 1".repeat(times))),
        ("commas in FROM", from(", t")),
        ("joins", from(" JOIN t ON true")),
        ("using", from(" JOIN t USING (a)")),
        ("natural joins", from(" NATURAL JOIN t")),
        ("joins to the right", from(" JOIN t") + &" ON true".repeat(times)),
        ("explain", format!("{}SELECT 1", "EXPLAIN ".repeat(times))),
        ("explain analyze", format!("{}SELECT 1", "EXPLAIN ANALYZE VERBOSE ".repeat(times))),
        ("window frames", nested("sum(", "1", ") OVER ()", times)),
        ("nested joins", format!("SELECT * FROM {}t{}", "(t JOIN ".repeat(times), " ON true)".repeat(times))),
        ("with", nested("(WITH a AS (SELECT 1) SELECT ", "1", ")", times)),
        ("pipes", format!("SELECT 1{}", " |> WHERE true".repeat(times))),
    ]
}

/// Shapes whose brackets the parser reads in two ways at each level.
const READ_IN_TWO_WAYS: [&str; 2] = ["bracketed queries", "twice named"];

#[test]
fn brackets_that_can_be_read_in_many_ways_are_refused() {
    for (name, text) in shapes(24).into_iter().filter(|(name, _)| READ_IN_TWO_WAYS.contains(name)) {
        let error = check(&text).expect_err(name);
        assert!(error.message.contains("too many ways"), "{name}: {error:?}");
    }
}

#[test]
fn a_hundred_thousand_of_anything_is_refused_with_its_place() {
    for (name, text) in shapes(100_000) {
        let error = check(&text).expect_err(name);
        assert!(!error.span.is_empty() && error.span.start.column > 1, "{name}: {error:?}");
        assert!(error.hint.is_some(), "{name}");
    }
}

#[test]
fn what_people_write_passes() {
    for (name, text) in shapes(20).into_iter().filter(|(name, _)| !READ_IN_TWO_WAYS.contains(name)) {
        assert_eq!(check(&text), Ok(()), "{name}");
    }
    for (name, text) in shapes(8) {
        assert_eq!(check(&text), Ok(()), "{name}");
    }
    // As BI tools write joins.
    let joins = format!("SELECT * FROM {}t{}", "(".repeat(60), " JOIN t ON true)".repeat(60));
    assert_eq!(check(&joins), Ok(()));
    let or = format!("SELECT 1 FROM t WHERE {}", vec!["t.a = 1"; 450].join(" OR "));
    let list = format!("SELECT 1 FROM t WHERE a IN ({})", vec!["1"; 40_000].join(", "));
    let cases = format!("SELECT CASE {} END FROM t", "WHEN t.a = 1 THEN t.b || 'x' ".repeat(2_000));
    let values = format!("VALUES {}", vec!["(1, 'a')"; 10_000].join(", "));
    let columns = format!("SELECT {} FROM t", vec!["t.a + 1 AS b"; 1_900].join(", "));
    for text in [or, list, cases, values, columns] {
        assert_eq!(check(&text), Ok(()), "{}", &text[..60]);
    }
}

#[test]
fn wide_lists_are_refused() {
    for text in [
        format!("SELECT {}", vec!["1"; 20_000].join(", ")),
        format!("SELECT 1 FROM t GROUP BY {}", vec!["a"; 20_000].join(", ")),
    ] {
        assert!(check(&text).unwrap_err().message.contains("columns"));
    }
}

#[test]
fn backtracking_ends() {
    // An error inside the brackets; each bracket is tried in several ways.
    for open in
        ["CAST(", "CASE WHEN ", "(", "EXISTS(", "ARRAY[", "TRIM(", "SUBSTRING(", "STRUCT(", "INTERVAL (", "CEIL("]
    {
        for text in [
            format!("SELECT {}", open.repeat(90)),
            format!("SELECT {}1 1{}", open.repeat(90), ")".repeat(90)),
            format!("SELECT * FROM {}", open.repeat(90)),
        ] {
            let tokens = tokenize(&text, 0, &mut Vec::new());
            let started = std::time::Instant::now();
            assert!(embedded::query(&tokens).is_err(), "{text}");
            assert!(started.elapsed().as_secs() < 5, "{open}: {:?}", started.elapsed());
        }
    }
}

#[test]
fn statements_are_counted_one_by_one() {
    let text = format!("SELECT 1{};", "+ 1".repeat(400)).repeat(5);
    assert_eq!(check(&text), Ok(()));
}

#[test]
fn open_brackets_count_too() {
    let text = format!("SELECT {}", format!("({}", "NOT ".repeat(500)).repeat(50));
    assert!(check(&text).is_err());
}

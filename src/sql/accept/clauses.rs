//! The behavior of each clause, as `docs/sql.md` shows it.

/// A clause that the parser takes.
#[derive(Debug)]
pub struct Clause {
    pub name: &'static str,
    pub does: Does,
    /// A query with the clause over `t` and `u`, whose columns are `a INT, b INT, s STRING, ts TIMESTAMP, l INT[]`.
    pub example: &'static str,
}

/// The contexts in which a clause runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// In queries and pipelines.
    Run,
    /// In queries; over a stream it is refused.
    RunInQueries,
    /// Nowhere.
    NotRun,
}

const fn clause(name: &'static str, does: Does, example: &'static str) -> Clause {
    Clause { name, does, example }
}

use Does::{NotRun, Run, RunInQueries};

/// Every clause that is decided in this module's parent.
pub const CLAUSES: &[Clause] = &[
    clause("WITH q AS (…)", Run, "WITH q AS (SELECT a FROM t) SELECT a FROM q"),
    clause(
        "WITH RECURSIVE",
        RunInQueries,
        "WITH RECURSIVE q AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM q WHERE n < 3) SELECT n FROM q",
    ),
    clause("UNION [ALL]", Run, "SELECT a FROM t UNION ALL SELECT b FROM u"),
    clause("UNION [ALL] BY NAME", Run, "SELECT a, b FROM t UNION ALL BY NAME SELECT b, a FROM u"),
    clause("EXCEPT, INTERSECT", Run, "SELECT a FROM t EXCEPT SELECT a FROM u"),
    clause("EXCEPT ALL", Run, "SELECT a FROM t EXCEPT ALL SELECT a FROM u"),
    clause("INTERSECT ALL", Run, "SELECT a FROM t INTERSECT ALL SELECT a FROM u"),
    clause("MINUS", NotRun, "SELECT a FROM t MINUS SELECT a FROM u"),
    clause("VALUES", RunInQueries, "VALUES (1), (2)"),
    clause("TABLE t", NotRun, "TABLE t"),
    clause("ORDER BY … LIMIT n", Run, "SELECT a, b FROM t ORDER BY a LIMIT 3"),
    clause("ORDER BY without LIMIT", RunInQueries, "SELECT a FROM t ORDER BY a"),
    clause("LIMIT without ORDER BY", RunInQueries, "SELECT a FROM t LIMIT 3"),
    clause("OFFSET", RunInQueries, "SELECT a FROM t ORDER BY a LIMIT 3 OFFSET 1"),
    clause("FETCH FIRST n ROWS", NotRun, "SELECT a FROM t ORDER BY a FETCH FIRST 3 ROWS ONLY"),
    clause("FOR UPDATE, FOR SHARE", NotRun, "SELECT a FROM t FOR UPDATE"),
    clause("SELECT DISTINCT", Run, "SELECT DISTINCT a FROM t"),
    clause("SELECT DISTINCT ON", RunInQueries, "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b"),
    clause("SELECT TOP n", NotRun, "SELECT TOP 3 a FROM t"),
    clause("FROM t SELECT …", Run, "FROM t SELECT a"),
    clause("FROM t without SELECT", NotRun, "FROM t"),
    clause("* EXCLUDE, EXCEPT, REPLACE", Run, "SELECT * EXCLUDE (l) REPLACE (a + 1 AS a) FROM t"),
    clause("* RENAME", NotRun, "SELECT * RENAME (a AS c) FROM t"),
    clause("WHERE", Run, "SELECT a FROM t WHERE a > 1"),
    clause("GROUP BY", Run, "SELECT a, count(*) AS n FROM t GROUP BY a"),
    clause("GROUP BY ALL", Run, "SELECT a, count(*) AS n FROM t GROUP BY ALL"),
    clause("GROUP BY ROLLUP, CUBE, GROUPING SETS", RunInQueries, "SELECT a, count(*) AS n FROM t GROUP BY ROLLUP (a)"),
    clause("GROUP BY … WITH ROLLUP, CUBE, TOTALS", NotRun, "SELECT a, count(*) AS n FROM t GROUP BY a WITH ROLLUP"),
    clause("HAVING", Run, "SELECT a, count(*) AS n FROM t GROUP BY a HAVING count(*) > 1"),
    clause(
        "WINDOW w AS (…)",
        Run,
        "SELECT sum(a) OVER w AS n FROM t WINDOW w AS (PARTITION BY b ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)",
    ),
    clause(
        "WINDOW v AS w, OVER (w …)",
        NotRun,
        "SELECT sum(a) OVER (w ORDER BY ts) AS n FROM t WINDOW w AS (PARTITION BY b)",
    ),
    clause("QUALIFY", Run, "SELECT a, b FROM t QUALIFY row_number() OVER (PARTITION BY a ORDER BY ts) = 1"),
    clause(
        "QUALIFY … OVER w, ORDER BY … OVER w",
        NotRun,
        "SELECT a FROM t WINDOW w AS (PARTITION BY a ORDER BY ts) QUALIFY sum(b) OVER w > 1",
    ),
    clause("CONNECT BY, START WITH, PRIOR", NotRun, "SELECT a FROM t START WITH a = 1 CONNECT BY PRIOR a = b"),
    clause("LATERAL VIEW", NotRun, "SELECT x FROM t LATERAL VIEW explode(l) v AS x"),
    clause("CLUSTER BY, DISTRIBUTE BY, SORT BY", NotRun, "SELECT a FROM t SORT BY a"),
    clause("t AS x (c, d, …)", Run, "SELECT x.c FROM (SELECT a, b FROM t) AS x (c, d)"),
    clause("(SELECT …), (t JOIN u …)", Run, "SELECT a FROM (SELECT a FROM t)"),
    clause(
        "LATERAL (SELECT …)",
        Run,
        "SELECT t.a, x.n FROM t, LATERAL (SELECT max(u.b) AS n FROM u WHERE u.a = t.a) AS x",
    ),
    clause("unnest(…) in SELECT", Run, "SELECT unnest(l) AS x FROM t"),
    clause("FROM UNNEST(…)", RunInQueries, "SELECT x FROM UNNEST([1, 2]) AS v (x)"),
    clause("WITH ORDINALITY, WITH OFFSET", NotRun, "SELECT x FROM UNNEST([1, 2]) WITH ORDINALITY AS v (x, n)"),
    clause("t VERSION AS OF, TIMESTAMP AS OF", RunInQueries, "SELECT a FROM t VERSION AS OF 0"),
    clause("t TABLESAMPLE", NotRun, "SELECT a FROM t TABLESAMPLE (10 PERCENT)"),
    clause("t PARTITION (p)", NotRun, "SELECT a FROM t PARTITION (p0)"),
    clause("t WITH (hint)", NotRun, "SELECT a FROM t WITH (NOLOCK)"),
    clause("PIVOT", NotRun, "SELECT * FROM t PIVOT (sum(a) FOR b IN (1, 2))"),
    clause("UNPIVOT", NotRun, "SELECT * FROM t UNPIVOT (v FOR n IN (a, b))"),
    clause(
        "MATCH_RECOGNIZE",
        NotRun,
        "SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY a ORDER BY ts MEASURES b AS c PATTERN (x) DEFINE x AS b > 1)",
    ),
    clause(
        "JOIN … ON, LEFT, RIGHT, FULL",
        Run,
        "SELECT t.a FROM t LEFT JOIN u ON t.a = u.a AND u.ts BETWEEN t.ts AND t.ts + INTERVAL '1 hour'",
    ),
    clause(
        "LEFT SEMI JOIN, LEFT ANTI JOIN",
        Run,
        "SELECT t.a FROM t LEFT SEMI JOIN u ON t.a = u.a AND u.ts BETWEEN t.ts AND t.ts + INTERVAL '1 hour'",
    ),
    clause("NATURAL JOIN, USING (…)", Run, "SELECT a FROM t JOIN (SELECT a FROM u) AS v USING (a)"),
    clause("CROSS JOIN", Run, "SELECT t.a FROM t CROSS JOIN u"),
    clause(
        "ASOF JOIN … MATCH_CONDITION",
        Run,
        "SELECT t.a FROM t ASOF JOIN u MATCH_CONDITION (t.ts >= u.ts) ON t.a = u.a",
    ),
    clause("CROSS APPLY, OUTER APPLY", NotRun, "SELECT t.a FROM t CROSS APPLY (SELECT u.a FROM u) AS x"),
    clause("SEMI JOIN, ANTI JOIN", NotRun, "SELECT t.a FROM t SEMI JOIN u ON t.a = u.a"),
    clause("GLOBAL JOIN", NotRun, "SELECT t.a FROM t GLOBAL JOIN u ON t.a = u.a"),
    clause(
        "|> WHERE, SELECT, EXTEND, AS, AGGREGATE, UNION, JOIN",
        Run,
        "SELECT * FROM t |> WHERE a > 1 |> SELECT a, b |> AGGREGATE sum(b) AS n GROUP BY a",
    ),
    clause("|> SET, DROP, RENAME, CALL, PIVOT, UNPIVOT, TABLESAMPLE", NotRun, "SELECT * FROM t |> DROP l"),
    clause(
        "f(DISTINCT …), FILTER (WHERE …)",
        Run,
        "SELECT b, count(DISTINCT a) FILTER (WHERE a > 1) AS n FROM t GROUP BY b",
    ),
    clause("f(… ORDER BY …)", Run, "SELECT b, array_agg(a ORDER BY a) AS n FROM t GROUP BY b"),
    clause(
        "WITHIN GROUP (ORDER BY …)",
        Run,
        "SELECT b, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY a) AS n FROM t GROUP BY b",
    ),
    clause(
        "first_value, last_value, nth_value IGNORE NULLS",
        Run,
        "SELECT last_value(a) IGNORE NULLS OVER (PARTITION BY b ORDER BY ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS n FROM t",
    ),
    clause("lag IGNORE NULLS", Run, "SELECT lag(a) IGNORE NULLS OVER (PARTITION BY b ORDER BY ts) AS n FROM t"),
    clause(
        "lead IGNORE NULLS",
        RunInQueries,
        "SELECT lead(a) IGNORE NULLS OVER (PARTITION BY b ORDER BY ts) AS n FROM t",
    ),
    clause(
        "other functions IGNORE NULLS … OVER",
        NotRun,
        "SELECT array_agg(a) IGNORE NULLS OVER (PARTITION BY b ORDER BY ts) AS n FROM t",
    ),
    clause(
        "DISTINCT, FILTER, OVER of what is no aggregate",
        NotRun,
        "SELECT upper(s) FILTER (WHERE a > 1) AS n FROM t",
    ),
    clause("SEPARATOR, LIMIT, HAVING, ON OVERFLOW in f(…)", NotRun, "SELECT string_agg(s SEPARATOR ',') AS n FROM t"),
    clause("f(…)(…)", NotRun, "SELECT quantile(0.5)(a) AS n FROM t"),
    clause("ARRAY(SELECT …)", NotRun, "SELECT ARRAY(SELECT a FROM t) AS n"),
    clause(
        "EXISTS, IN (SELECT …)",
        Run,
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a AND u.ts BETWEEN t.ts AND t.ts + INTERVAL '1 hour')",
    ),
    clause(
        "CASE, CAST, TRY_CAST, ::",
        Run,
        "SELECT CASE WHEN a > 1 THEN a::STRING ELSE TRY_CAST(s AS STRING) END AS n FROM t",
    ),
    clause("CAST … FORMAT", NotRun, "SELECT CAST(s AS DATE FORMAT 'YYYY') AS n FROM t"),
    clause("CONVERT", NotRun, "SELECT TRY_CONVERT(INT, s) AS n FROM t"),
    clause("LIKE, ILIKE, ~, ~*, !~, !~*", Run, "SELECT a FROM t WHERE s LIKE 'x%' AND s ~ 'x'"),
    clause("LIKE ANY, RLIKE, REGEXP, SIMILAR TO", NotRun, "SELECT a FROM t WHERE s SIMILAR TO 'x%'"),
    clause("COLLATE", NotRun, "SELECT a FROM t WHERE s COLLATE german = 'x'"),
    clause("IS [NOT] DISTINCT FROM, <=>", Run, "SELECT a FROM t WHERE a IS DISTINCT FROM b AND b > 1"),
    clause("= ANY (…), > ALL (…)", RunInQueries, "SELECT a FROM t WHERE a > ALL (SELECT b FROM u)"),
    clause("a[i], a[i:j], s['field'], m['key']", Run, "SELECT l[1] AS n, l[1:2] AS m FROM t"),
    clause("->, ->>, #>, a:b", NotRun, "SELECT s -> 'x' AS n FROM t"),
    clause("XOR, DIV, //", NotRun, "SELECT a // b AS n FROM t"),
    clause("AT TIME ZONE 'zone'", Run, "SELECT ts AT TIME ZONE 'Europe/Berlin' AS n FROM t"),
    clause(
        "EXTRACT, POSITION, SUBSTRING, TRIM, OVERLAY",
        Run,
        "SELECT EXTRACT(YEAR FROM ts) AS n, TRIM(BOTH 'x' FROM s) AS m FROM t",
    ),
    clause("CEIL(x TO …), FLOOR(x, n)", NotRun, "SELECT FLOOR(ts TO DAY) AS n FROM t"),
    clause("N'…', U&'…', B'…'", NotRun, "SELECT N'x' AS n FROM t"),
];

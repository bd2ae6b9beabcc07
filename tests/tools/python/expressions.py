"""Generated expressions over random rows with NULLs: the values of weir are those of duckdb, from columns, from constants and streamed.

A rule of two texts says why the dialects differ. Left out: division by zero (an error, there NULL), NaN with a sign, `levenshtein` (it counts bytes there), a CAST of times
and doubles to text (other forms), of '1.5' and '1e3' to whole numbers (no value; there 2 and 1000), `-` of a difference of times (refused).

usage: expressions.py WEIR FOLDER SEED [COUNT]
"""

import json
import pathlib
import random
import re
import subprocess
import sys

import duckdb

from oracle import Grammar, Server, plain, same

# Column -> type of weir, kind of expression, values as JSON.
COLUMNS = {
    "i": ("BIGINT", "int", [0, 1, 2, 3, -7, 12, 100, -1000]),
    "j": ("BIGINT", "int", [1, -1, 5, 7, 64, 31, -128]),
    "n": ("INT", "int", [0, 4, -4, 9, 2000]),
    "x": ("DOUBLE", "dbl", [0.0, -0.0, 1.5, -2.5, 0.1, 1e10, -3.0]),
    "z": ("DOUBLE", "flt", [0.0, 1.5, "NaN", "Infinity", "-Infinity"]),
    "y": ("DOUBLE", "dbl", [2.0, 0.5, -0.25, 7.0, 1e-3]),
    "d": ("DECIMAL(12,2)", "dec", ["0.00", "1.25", "-3.75", "100.10", "99999.99"]),
    "e": ("DECIMAL(10,3)", "dec", ["0.125", "2.500", "-0.001", "7.000"]),
    "s": ("STRING", "str", ["", "a", "abc", "Abc d", "x_y%z", "aba", " pad ", "é😀b"]),
    "t": ("STRING", "str", ["a", "b", "bc", "ABC", "a,b,c", "zz top"]),
    "b": ("BOOLEAN", "bool", [True, False]),
    "c": ("BOOLEAN", "bool", [True, False]),
    "p": ("DATE", "date", ["2024-02-29", "2026-01-01", "1999-12-31", "1969-07-20"]),
    "q": ("DATE", "date", ["2024-03-01", "2026-11-30", "2000-01-01"]),
    "u": ("TIMESTAMP_NTZ", "ts", ["2024-02-29T23:59:59.999999", "2026-01-01T00:00:00", "1969-12-31T12:34:56.5", "2026-06-15T08:30:00"]),
    "v": ("TIMESTAMP_NTZ", "ts", ["2024-01-31T10:00:00", "2026-01-02T03:04:05.678901", "1970-01-01T00:00:00"]),
}
# Why texts differ; everything else that differs is a fault.
NAME = "it has another name there"
CUTS = "a CAST to a whole number cuts; duckdb's rounds"
WHOLE = "parts of a time are whole numbers"
POINT = "a number with a point is a DOUBLE, where no DECIMAL is beside it"
ESCAPE = "the backslash escapes without being named"

big = lambda n: (f"({n})" if n < 0 else str(n), f"CAST({n} AS BIGINT)")
LEAVES = {
    "int": ["i", "j", "n", "i", "j", *map(big, [0, 1, 2, 3, -5, 10]), "CAST(NULL AS BIGINT)"],
    "dbl": ["x", "y", "x", "y", *((f"CAST('{v}' AS DOUBLE)",) * 2 for v in [0, 1.5, -2.25]), "CAST(NULL AS DOUBLE)"],
    "dec": ["d", "e", "d", "e", "CAST('1.10' AS DECIMAL(6,2))", "CAST(NULL AS DECIMAL(12,2))"],
    "str": ["s", "t", "s", "t", "'a'", "'bc'", "''", "CAST(NULL AS VARCHAR)"],
    "bool": ["b", "c", "TRUE", "FALSE", "CAST(NULL AS BOOLEAN)"],
    "date": ["p", "q", "p", "q", "DATE '2025-05-31'", "CAST(NULL AS DATE)"],
    "ts": ["u", "v", "u", "v", ("CAST('2025-03-30 01:30:00' AS TIMESTAMP_NTZ)", "TIMESTAMP '2025-03-30 01:30:00'"), ("CAST(NULL AS TIMESTAMP_NTZ)", "CAST(NULL AS TIMESTAMP)")],
    "ivl": [f"INTERVAL '{v}'" for v in ["1 hour", "90 minutes", "36 hours", "1 day", "30 days", "1 month", "2 months 3 days", "1 second", "-2 days"]],
    "few": [*map(big, [0, 1, 2, 3])],
    "pat": ["'%a%'", "'a%'", "'_b%'", "'%'", "''", "'abc'", "'%\\%%'", "'A__%'"],
    "unit": [f"'{v}'" for v in ["second", "minute", "hour", "day", "week", "month", "quarter", "year"]],
    "op": ["=", "<>", "<", "<=", ">", ">=", "="],
}
ANY = ["int", "dbl", "dec", "str", "bool", "date", "ts"]
# The same text for every type, and the comparisons.
COMMON = [
    "CASE WHEN {bool} THEN {T} ELSE {T} END",
    "CASE WHEN {bool} THEN {T} WHEN {bool} THEN {T} END",
    "CASE {int} WHEN {int} THEN {T} WHEN {int} THEN {T} ELSE {T} END",
    "coalesce({T}, {T})",
    "coalesce({T}, {T}, {T})",
    "nullif({T}, {T})",
    "greatest({T}, {T})",
    "least({T}, {T}, {T})",
    ("nvl({T}, {T})", "ifnull({T}, {T})", NAME),
]  # fmt: skip
COMPARE = [
    "({T} {op} {T})",
    "({T} {op} {T})",
    "({T} IS NULL)",
    "({T} IS NOT NULL)",
    "({T} IS DISTINCT FROM {T})",
    "({T} IS NOT DISTINCT FROM {T})",
    "({T} BETWEEN {T} AND {T})",
    "({T} NOT BETWEEN {T} AND {T})",
    "({T} IN ({T}, {T}, {T}))",
    "({T} NOT IN ({T}, {T}))",
    "(CASE {T} WHEN {T} THEN {bool} ELSE {bool} END)",
]
RULES = {
    "int": [
        "({int} + {int})", "({int} - {int})", "({few} * {int})", "(-{int})",
        ("({int} / nullif({int}, 0))", "CAST(trunc(CAST({int} AS DOUBLE) / nullif({int}, 0)) AS BIGINT)", "whole numbers divide to whole numbers"),
        "({int} % nullif({int}, 0))",
        "abs({int})", ("CAST(signum({int}) AS BIGINT)", "CAST(sign({int}) AS BIGINT)", NAME),
        "length({str})", ("octet_length({str})", "strlen({str})", NAME), "ascii({str})", "strpos({str}, {str})", "bit_length({str})",
        "CAST({int} AS INT)", "CAST({bool} AS INT)", "CAST(CAST({int} AS VARCHAR) AS BIGINT)", "TRY_CAST(replace(replace({str}, '.', ','), 'e', ',') AS INT)",
        ("CAST({dec} AS BIGINT)", "CAST(trunc({dec}) AS BIGINT)", CUTS),
        ("CAST(CASE WHEN isnan({dbl.a}) THEN 0 ELSE {dbl.a} END AS BIGINT)", "CAST(trunc(CASE WHEN isnan({dbl.a}) THEN 0 ELSE {dbl.a} END) AS BIGINT)", CUTS),
        "({p} - {p})", *((f"extract({unit} FROM {{{kind}}})", f"CAST(extract({unit} FROM {{{kind}}}) AS BIGINT)", WHOLE) for unit in ["year", "month", "day", "quarter", "week", "dow", "doy", "isodow", "isoyear"] for kind in ["date", "ts"]),
        *((f"extract({unit} FROM {{ts}})", f"CAST(trunc(extract({unit} FROM {{ts}})) AS BIGINT)", WHOLE) for unit in ["hour", "minute", "second"]), ("date_part('hour', {ts})", "CAST(date_part('hour', {ts}) AS BIGINT)", WHOLE),
        "({int} & {int})", "({int} | {int})", ("({int} ^ {int})", "xor({int}, {int})", "`^` is a power there"), "(abs({int} % 1000) << {few})", "({int} >> {few})",
        "gcd({int}, {int})",
        *COMMON,
    ],
    "dbl": [
        "({dbl} + {dbl})", "({dbl} - {dbl})", "({dbl} * {dbl})", "(-{dbl})", "({dbl} / nullif({dbl}, 0))", "({dbl} + {int})", "({int} * {dbl})", "({dec} + {dbl})",
        "abs({dbl})", "floor({dbl})", "ceil({dbl})", "round({dbl})", "round({dbl}, 1)", "trunc({dbl})", "sqrt(abs({dbl}))", "exp(least({dbl}, CAST(5 AS DOUBLE)))",
        "ln(abs({dbl}) + 1)", "sin({int})", "cos({int})", "atan2({int}, {int})", "power({int} % 5, 2)", "radians({int})", "cbrt({int})",
        "CAST({int} AS DOUBLE)", "CAST({dec} AS DOUBLE)", ("({int} / 2.0)", "({int} / CAST(2 AS DOUBLE))", POINT), ("({int} * 1.5)", "({int} * CAST(1.5 AS DOUBLE))", POINT),
        "extract(epoch FROM {ts})", *COMMON,
    ],
    "dec": [
        "({dec} + {dec})", "({dec} - {dec})", "(CAST({dec} AS DECIMAL(12,2)) * CAST({dec} AS DECIMAL(8,1)))", "(-{dec})", "({dec} * 1.1)", "({dec} + 0.05)", "({dec} - 1)",
        "abs({dec})", "round({dec}, 1)", "CAST({dec} AS DECIMAL(14,1))", "CAST({int} AS DECIMAL(20,2))", "CAST(CAST({dec} AS VARCHAR) AS DECIMAL(20,4))", "({dec} % CAST('0.70' AS DECIMAL(4,2)))",
        "floor({dec})", "ceil({dec})", *COMMON,
    ],
    "str": [
        "({str} || {str})", "({str} || {int})", "concat({str}, {str}, {int})", "concat_ws('-', {str}, {str})", "upper({str})", "lower({str})", "trim({str})", "ltrim({str})", "rtrim({str})", ("btrim({str}, 'a')", "trim({str}, 'a')", NAME),
        "replace({str}, 'b', {str})", "substr({str}, {pos}, {few})", "substring({str} FROM 2)", "left({str}, {few})", "right({str}, {few})", "left({str}, -1)", "right({str}, -1)", "reverse({str})", "repeat({str}, {few})", "lpad({str}, 5, 'xy')", "rpad({str}, 5, '*')",
        "split_part({str}, ',', {pos})", "CAST({int} AS VARCHAR)", "CAST({bool} AS VARCHAR)", "CAST({dec} AS VARCHAR)", "CAST({date} AS VARCHAR)", "translate({str}, 'ab', 'x')", ("chr(abs({int} % 26) + 65)", "chr(CAST(abs({int} % 26) + 65 AS INT))", "it wants an INT there"), "regexp_replace({str}, '[a-b]+', '-')",
        ("date_format({ts}, 'yyyy-MM-dd HH:mm:ss')", "strftime({ts}, '%Y-%m-%d %H:%M:%S')", NAME), ("to_char({ts}, 'YYYY-MM-DD')", "strftime({ts}, '%Y-%m-%d')", NAME), "md5({str})", "substring({str}, 1, 2)", "overlay({str} PLACING 'Q' FROM 1 FOR 1)", ("to_hex(abs({int}))", "lower(to_hex(abs({int})))", "PostgreSQL's letters are small"), *COMMON,
    ],
    "bool": [
        "({bool} AND {bool})", "({bool} OR {bool})", "(NOT {bool})", "({bool} AND {bool} OR {bool})", "({bool} OR NOT {bool} AND {bool})", "({bool} IS TRUE)", "({bool} IS NOT TRUE)", "({bool} IS FALSE)", "({bool} IS NOT FALSE)", ("({bool} IS UNKNOWN)", "({bool} IS NULL)", NAME),
        ("({str} LIKE {pat})", "({str} LIKE {pat} ESCAPE '\\')", ESCAPE), ("({str} NOT LIKE {pat})", "({str} NOT LIKE {pat} ESCAPE '\\')", ESCAPE), ("({str} ILIKE {pat})", "({str} ILIKE {pat} ESCAPE '\\')", ESCAPE), "starts_with({str}, {str})", ("ends_with({str}, {str})", "suffix({str}, {str})", NAME), ("({str} ~ '^a.c')", "regexp_matches({str}, '^a.c')", "`~` asks of the whole text there"), "contains({str}, {str})",
        "({int} {op} {dbl})", "({int} {op} {dec})", "({dec} {op} {dbl})", "({int} {op} 2.5)", "({dec} {op} 1.25)", "({date} {op} {ts})", "({ts} - {ts} {op} {ivl})", "({ivl} {op} {ivl})", "({date} {op} '2026-01-01')", "({int} = 5 IS NOT DISTINCT FROM {bool})", "isnan({dbl})", "({int} IN (1, 2.0, 3))",
        *COMMON,
    ],
    "date": ["CAST({ts} AS DATE)", "({date} + {few1})", "({date} - {few1})", "CAST(date_trunc('month', {date}) AS DATE)", "CAST(CAST({date} AS VARCHAR) AS DATE)", "CAST({date} + INTERVAL '1 month' AS DATE)", "make_date(2000 + abs({int} % 20), 1 + abs({int} % 12), 1 + abs({int} % 28))", "CAST({date} - INTERVAL '3 days' AS DATE)", *COMMON],
    "ts": ["({ts} + {ivl})", "({ts} - {ivl})", "date_trunc({unit}, {ts})", ("CAST({date} AS TIMESTAMP_NTZ)", "CAST({date} AS TIMESTAMP)", NAME), ("CAST({date} + INTERVAL '1 hour' AS TIMESTAMP_NTZ)", "({date} + INTERVAL '1 hour')", "it is a TIMESTAMP with a zone"), ("date_bin(INTERVAL '15 minutes', {ts}, CAST('2000-01-01 00:00:00' AS TIMESTAMP_NTZ))", "time_bucket(INTERVAL '15 minutes', {ts}, TIMESTAMP '2000-01-01 00:00:00')", NAME), "({ts} + ({ts} - {ts}))", *COMMON],
    "ivl": ["({ts} - {ts})", "(-{lit})", "({ivl} + {ivl})"],
}  # fmt: skip
DEPTHS = [1, 1, 2, 3]
LEAVES |= {"lit": LEAVES["ivl"], "flt": ["z", "z", "CAST('NaN' AS DOUBLE)", "CAST('1.5' AS DOUBLE)"], "p": ["p", "q"], "pos": ["1", "2", "3"], "few1": ["1", "31"]}
KINDS = list(RULES)


def rules() -> dict:
    put = lambda rule, kind: tuple(part.replace("{T}", f"{{{kind}}}") for part in rule) if isinstance(rule, tuple) else rule.replace("{T}", f"{{{kind}}}")
    made = {kind: [put(rule, kind) for rule in all_rules] for kind, all_rules in RULES.items()}
    made["bool"] += [put(rule, kind) for kind in [*ANY, "flt"] for rule in COMPARE]
    return made


def literal(name: str, value) -> tuple[str, str]:
    """A value of a column as a constant, in both dialects."""
    kind = COLUMNS[name][0]
    text = "NULL" if value is None else f"'{value}'" if not isinstance(value, bool) else str(value).upper()
    theirs = kind.replace("TIMESTAMP_NTZ", "TIMESTAMP").replace("STRING", "VARCHAR")
    return f"CAST({text} AS {kind})", f"CAST({text} AS {theirs})"


def tables(weir: str, folder: pathlib.Path, dice: random.Random) -> tuple[list[dict], duckdb.DuckDBPyConnection]:
    """Writes the rows through a pipeline into table `t`, and into duckdb."""
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in COLUMNS.items())
    rows = [{"id": number, **{name: dice.choice(values) if dice.random() < 0.85 else None for name, (_, _, values) in COLUMNS.items()}} for number in range(40)]
    (folder / "in").mkdir()
    for number, row in enumerate(rows):
        with open(folder / f"in/{number % 2}.jsonl", "a") as lines:
            lines.write(json.dumps(row) + "\n")
    (folder / "t.sql").write_text(
        f"""CREATE SOURCE e (id BIGINT, {columns}) WITH (connector = 'file', path = 'in', format = 'json');
CREATE TABLE t (id BIGINT, {columns}) USING DELTA;
CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO t SELECT * FROM e; END;"""
    )
    done = subprocess.run([weir, "run", "t.sql"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    oracle = duckdb.connect()
    oracle.execute("SET timezone = 'UTC'")
    oracle.execute(f"CREATE TABLE t (id BIGINT, {columns.replace('TIMESTAMP_NTZ', 'TIMESTAMP')})")
    for row in rows:
        oracle.execute(f"INSERT INTO t VALUES ({row['id']}, {', '.join(literal(name, row[name])[1] for name in COLUMNS)})")
    return rows, oracle


def attempt(action) -> tuple[list | None, str]:
    try:
        return action(), ""
    except Exception as error:  # noqa: BLE001 - the drivers raise several kinds
        return None, str(error).splitlines()[0][:300]


def streamed(weir: str, folder: pathlib.Path, asked: list, theirs_of, server: Server, compare) -> None:
    """The expressions as columns of materialized views over the stream."""
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in COLUMNS.items())
    source = f"CREATE SOURCE e (id BIGINT, {columns}) WITH (connector = 'file', path = 'in', format = 'json');\n"
    size = 20
    # One that duckdb refuses for some row would take the whole row out of its view.
    asked = [one for one in asked if attempt(lambda: theirs_of(f"SELECT id, {one[2]} FROM t ORDER BY id"))[0] is not None]
    parts = [asked[at : at + size] for at in range(0, len(asked), size)]

    def run(name: str, views: list) -> str:
        made = "".join(f"CREATE MATERIALIZED VIEW {name}_{at} AS SELECT id, {', '.join(f'{mine} AS v{n}' for n, (_, mine, _) in enumerate(part))} FROM e;\n" for at, part in views)
        (folder / f"{name}.sql").write_text(f"{source}CREATE PIPELINE {name} WITH (max_rows_per_micro_batch = '9') AS BEGIN\n{made}END;")
        done = subprocess.run([weir, "run", f"{name}.sql", "--trigger", "available now"], cwd=folder, capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    if run("s", list(enumerate(parts))):
        # What cannot be run alone is missed below; its message is above.
        for at, part in enumerate(parts):
            if told := run("s", [(at, part)]):
                print(f"streamed: {told[-2000:]}")
    for at, part in enumerate(parts):
        found, _ = attempt(lambda: server.ask(f"SELECT * FROM s_{at} ORDER BY id"))
        for n, (_, mine, theirs) in enumerate(part):
            expected, told = attempt(lambda: theirs_of(f"SELECT id, {theirs} FROM t ORDER BY id"))
            compare(f"v{n} of s_{at}: {mine}", theirs, expected, told, found and [(row[0], row[n + 1]) for row in found])


def main(weir: str, folder: str, seed: str, count: str = "500") -> None:
    dice, folder = random.Random(int(seed)), pathlib.Path(folder)
    rows, oracle = tables(weir, folder, dice)
    server, grammar = Server(weir, folder), Grammar(dice, rules(), LEAVES)
    asked = [(kind, *grammar.make(kind, dice.choice(DEPTHS))) for kind in (dice.choice(KINDS) for _ in range(int(count)))]
    theirs_of = lambda sql: [[plain(value) for value in row] for row in oracle.execute(sql).fetchall()]
    wrong, refused = [], 0

    def compare(mine: str, theirs: str, expected: list | None, told: str, streamed: list | None = None) -> None:
        """Of what weir answers to `mine`, or of rows that it has `streamed`."""
        found, error = (streamed, "") if streamed is not None else attempt(lambda: server.ask(mine))
        nonlocal refused
        if found is None and expected is None:
            refused += 1
        elif found is None or expected is None:
            wrong.append(f"{mine}\n    weir {error or 'answers ' + str(found)[:100]}\n    duckdb {told or 'answers ' + str(expected)[:100]}: {theirs}")
        else:
            bad = [(a, b) for a, b in zip(found, expected) if len(a) != len(b) or not all(map(same, a, b))]
            if len(found) != len(expected) or bad:
                a, b = bad[0] if bad else (len(found), len(expected))
                wrong.append(f"{mine}\n    weir {a}\n    duckdb {b}: {theirs}")

    def constant(text: str, row: dict, dialect: int) -> str:
        names = "|".join(COLUMNS)
        pieces = re.split(r"('(?:[^']|'')*')", text)
        return "".join(piece if at % 2 else re.sub(rf"(?<![\w.])({names})(?![\w(])", lambda name: literal(name[1], row[name[1]])[dialect], piece) for at, piece in enumerate(pieces))

    for kind, mine, theirs in asked:
        expected, told = attempt(lambda: theirs_of(f"SELECT id, {theirs} FROM t ORDER BY id"))
        compare(f"SELECT id, {mine} AS v FROM t ORDER BY id", theirs, expected, told)
        if expected is None:
            continue
        row = dice.choice(rows)
        want = [[expected[row["id"]][1]]]
        compare(f"SELECT {constant(mine, row, 0)} AS v", theirs, want, "")
        if kind == "bool":
            compare(f"SELECT id FROM t WHERE {mine} ORDER BY id", theirs, [[at] for at, value in expected if value], "")
    streamed(weir, folder, [(kind, mine, theirs) for kind, mine, theirs in asked if kind != "ivl"], theirs_of, server, compare)
    server.stop()
    print(f"seed {seed}: {len(asked)} expressions, {refused} refused by both, {len(wrong)} wrong")
    print("\n".join(sorted(wrong, key=len)[:40]))
    sys.exit(1 if wrong else 0)


main(*sys.argv[1:])

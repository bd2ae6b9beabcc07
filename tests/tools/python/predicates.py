"""Random predicates with NULLs over plain and partition columns, subqueries and joins: what `weir query` finds is what duckdb finds in the same rows.

usage: predicates.py WEIR FOLDER SEED
"""

import decimal
import io
import json
import pathlib
import random
import subprocess
import sys

import duckdb
import pyarrow

D = decimal.Decimal
# Column -> type, values as SQL and as JSON. Partition columns begin with `p`.
COLUMNS = {
    "a": ("BIGINT", ["1", "2", "3", "-5", "0"], [1, 2, 3, -5, 0]),
    "x": ("DOUBLE", ["CAST('-0.0' AS DOUBLE)", "CAST('0.0' AS DOUBLE)", "CAST('1.5' AS DOUBLE)", "CAST('-2.5' AS DOUBLE)"], [-0.0, 0.0, 1.5, -2.5]),
    "s": ("STRING", ["'a'", "'b'", "'é'"], ["a", "b", "é"]),
    "d": ("DECIMAL(20,4)", ["CAST('1234567890123456.7891' AS DECIMAL(20,4))", "CAST('0.5' AS DECIMAL(20,4))"], ["1234567890123456.7891", "0.5"]),
    "b": ("BOOLEAN", ["TRUE", "FALSE"], [True, False]),
    "pi": ("BIGINT", ["1", "2", "7"], [1, 2, 7]),
    "px": ("DOUBLE", ["CAST('-0.0' AS DOUBLE)", "CAST('2.5' AS DOUBLE)"], [-0.0, 2.5]),
    "pd": ("DECIMAL(10,2)", ["CAST('1.50' AS DECIMAL(10,2))", "CAST('-3.25' AS DECIMAL(10,2))"], ["1.50", "-3.25"]),
    "ps": ("STRING", ["'u'", "'v w'"], ["u", "v w"]),
}
OPS = ["=", "<>", "<", "<=", ">", ">="]


def atom(dice: random.Random) -> str:
    name = dice.choice(list(COLUMNS))
    some = lambda: "NULL" if dice.random() < 0.2 else dice.choice(COLUMNS[name][1])
    compare = f"{name} {dice.choice(OPS)} {some()}"
    forms = [
        compare,
        compare,
        f"{some()} {dice.choice(OPS)} {name}",
        f"{name} IS {dice.choice(['', 'NOT '])}NULL",
        f"{name} {dice.choice(['', 'NOT '])}IN ({some()}, {some()})",
        f"({name} IS {dice.choice(['', 'NOT '])}DISTINCT FROM {some()})",
        f"CASE WHEN {compare} THEN 'hi' ELSE 'lo' END = 'hi'",
        f"coalesce({compare}, {dice.choice(['TRUE', 'FALSE'])})",
        f"{name} {dice.choice(OPS)} {name}",
        dice.choice(["NULL", "TRUE", "FALSE"]),
    ]
    if name != "b":
        forms.append(f"{name} {dice.choice(['', 'NOT '])}BETWEEN {some()} AND {some()}")
    if name in ("a", "pi", "pd", "d"):
        forms.append(f"{name} + 1 {dice.choice(OPS)} {some()}")
    of = dice.choice([f"id % 9 = {dice.randrange(9)}", f"{name} IS NOT NULL AND id % 3 = 1", "id > 99", "id % 20 = 3"])
    found = f"{name} {dice.choice(['', 'NOT '])}IN (SELECT {name} FROM t AS u WHERE u.{of})"
    forms.append(dice.choice([found, f"({found}) IS NULL", f"({found}) IS NOT TRUE", f"coalesce({found}, TRUE)", f"CASE WHEN {found} THEN FALSE ELSE TRUE END"]))
    return dice.choice(forms)


def predicate(dice: random.Random, depth: int = 0) -> str:
    if depth > 2 or dice.random() < 0.35:
        return atom(dice)
    if dice.random() < 0.2:
        return f"NOT ({predicate(dice, depth + 1)})"
    return f"({predicate(dice, depth + 1)} {dice.choice(['AND', 'OR', 'AND'])} {predicate(dice, depth + 1)})"


def join(dice: random.Random) -> str:
    """A query of pairs of ids; each comparison has its own rule for nulls."""
    names = [name for name in COLUMNS if name != "x"]
    compare = lambda left, right: f"{left}.{{0}} {dice.choice(['=', 'IS NOT DISTINCT FROM'])} {right}.{{0}}".format(dice.choice(names))
    both = lambda *sides: " AND ".join(compare(*sides) for _ in range(dice.choice([1, 1, 2])))
    kind = dice.choice(["", "LEFT ", "RIGHT ", "FULL "])
    if dice.random() < 0.3:
        return f"SELECT l.id AS i, z.id AS j FROM t l JOIN t r ON {both('l', 'r')} JOIN t z ON {compare('z', 'r')} WHERE {both('l', 'z')} AND r.id % 3 = 1"
    if dice.random() < 0.3:
        return f"SELECT l.id AS i, l.id AS j FROM t l WHERE {dice.choice(['', 'NOT '])}EXISTS (SELECT 1 FROM t r WHERE {both('l', 'r')} AND r.id <> l.id)"
    return f"SELECT l.id AS i, r.id AS j FROM t l {kind}JOIN t r ON {both('l', 'r')} WHERE {both('l', 'r')}"


def main(weir: str, folder: str, seed: str, count: str = "300") -> None:
    dice, folder = random.Random(int(seed)), pathlib.Path(folder)
    sql = ", ".join(f"{name} {kind}" for name, (kind, _, _) in COLUMNS.items())
    (folder / "in").mkdir()
    (folder / "p.sql").write_text(
        f"""CREATE SOURCE e (id BIGINT, {sql}) WITH (connector = 'file', path = 'in', format = 'json');
CREATE TABLE t (id BIGINT, {sql}) USING DELTA PARTITIONED BY (pi, px, pd, ps);
CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO t SELECT * FROM e; END;"""
    )
    oracle = duckdb.connect()
    oracle.execute(f"CREATE TABLE t (id BIGINT, {sql})")
    for number in range(60):
        picked = {name: dice.randrange(len(values)) if dice.random() < 0.8 else None for name, (_, _, values) in COLUMNS.items()}
        row = {"id": number, **{name: None if at is None else COLUMNS[name][2][at] for name, at in picked.items()}}
        with open(folder / f"in/{number % 3}.jsonl", "a") as lines:
            lines.write(json.dumps(row) + "\n")
        texts = ["NULL" if at is None else COLUMNS[name][1][at] for name, at in picked.items()]
        oracle.execute(f"INSERT INTO t VALUES ({number}, {', '.join(texts)})")
    done = subprocess.run([weir, "run", "p.sql"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    wrong = []
    asked = [predicate(dice) for _ in range(int(count))]
    for start in range(0, len(asked), 25):
        part = asked[start : start + 25]
        text = " UNION ALL ".join(f"SELECT {n} AS n, id FROM t WHERE {found}" for n, found in enumerate(part))
        done = subprocess.run([weir, "query", text, "--format", "arrow"], cwd=folder, capture_output=True)
        assert done.returncode == 0, f"{text}\n{done.stderr.decode()}"
        rows = pyarrow.ipc.open_stream(io.BytesIO(done.stdout)).read_all().to_pylist() if done.stdout else []
        for n, found in enumerate(part):
            seen = sorted(row["id"] for row in rows if row["n"] == n)
            want = sorted(row[0] for row in oracle.execute(f"SELECT id FROM t WHERE {found}").fetchall())
            if seen != want:
                wrong.append(f"WHERE {found}: {seen}, not {want}")
    joins = [join(dice) for _ in range(int(count) // 5)]
    for start in range(0, len(joins), 10):
        part = joins[start : start + 10]
        text = " UNION ALL ".join(f"SELECT {n} AS n, count(*) AS c, sum(i * 1000 + j) AS s FROM ({found}) AS q" for n, found in enumerate(part))
        done = subprocess.run([weir, "query", text, "--format", "arrow"], cwd=folder, capture_output=True)
        assert done.returncode == 0, f"{text}\n{done.stderr.decode()}"
        rows = {row["n"]: (row["c"], row["s"]) for row in pyarrow.ipc.open_stream(io.BytesIO(done.stdout)).read_all().to_pylist()}
        for n, found in enumerate(part):
            want = oracle.execute(f"SELECT count(*), sum(i * 1000 + j) FROM ({found}) AS q").fetchone()
            if rows[n] != want:
                wrong.append(f"{found}: {rows[n]}, not {want}")
    print(f"{len(asked)} predicates and {len(joins)} joins, {len(wrong)} wrong")
    print("\n".join(wrong[:20]))
    sys.exit(1 if wrong else 0)


main(*sys.argv[1:])

"""Generated queries over streams: what pipelines write in small micro-batches, and what weir answers over tables, is what duckdb answers.

usage: pipelines.py WEIR FOLDER SEED [COUNT]
"""

import collections
import decimal
import json
import pathlib
import random
import subprocess
import sys

import duckdb

from oracle import Server, plain

START = 1_767_225_600_000_000  # 2026-01-01
COLUMNS = {
    "a": {"id": "BIGINT NOT NULL", "k": "BIGINT", "g": "STRING", "n": "BIGINT", "x": "DOUBLE", "d": "DECIMAL(10,2)", "ts": "TIMESTAMP NOT NULL"},
    "b": {"id": "BIGINT NOT NULL", "k": "BIGINT", "g": "STRING", "n": "BIGINT", "x": "DOUBLE", "d": "DECIMAL(10,2)", "ts": "TIMESTAMP NOT NULL"},
    "dim": {"k": "BIGINT", "name": "STRING", "w": "BIGINT"},
}
VALUES = {"k": [1, 2, 3, 4, None], "g": ["u", "v", "w w", "", None], "n": [0, 1, 2, 5, -3, 40, None], "x": [0.5, 1.25, -2.0, 8.0, None], "d": ["1.25", "0.10", "-7.00", None]}
FILE = "CREATE SOURCE {name} ({columns}{watermark}) WITH (connector = 'file', path = 'in/{name}', format = 'json');\n"


class Query:
    """Texts of both dialects in which `@a`, `@b` and `@dim` are the inputs; the key of what changes; whether weir asks tables, too."""

    def __init__(self, mine: str, theirs: str | None = None, key: str = "", batch: bool = True):
        self.mine, self.theirs, self.key, self.batch = mine, theirs or mine, key, batch

    def of(self, text: str, prefix: str) -> str:
        for name in COLUMNS:
            text = text.replace(f"@{name} ", f"{prefix}{name} ").replace(f"@{name},", f"{prefix}{name},").replace(f"@{name})", f"{prefix}{name})")
        return text


class Maker:
    """Makes queries. A relation is a text with the columns id, k, g, n, x, d, ts."""

    def __init__(self, dice: random.Random):
        self.dice = dice

    def condition(self, t: str = "", depth: int = 0) -> str:
        d, c = self.dice, f"{t}." if t else ""
        if depth < 2 and d.random() < 0.4:
            return f"({self.condition(t, depth + 1)} {d.choice(['AND', 'OR'])} {self.condition(t, depth + 1)})"
        return d.choice([
            f"{c}n > {d.choice([-1, 0, 2])}", f"{c}x <= 1.25", f"{c}g IS NOT NULL", f"{c}g IN ('u', 'v', NULL)", f"{c}k BETWEEN 2 AND 3", f"NOT ({c}n = 5)", f"{c}d <> 0.1",
            f"coalesce({c}n, 0) % 2 = 0", f"{c}g LIKE '%w%'", f"CASE WHEN {c}k = 1 THEN {c}n > 0 ELSE {c}x > 0 END", f"({c}n IS DISTINCT FROM 1)", f"{c}ts >= TIMESTAMP '2026-01-01 03:00:00'", f"nullif({c}k, 2) IS NULL",
        ])  # fmt: skip

    def value(self) -> str:
        return self.dice.choice(["n", "n + 1", "coalesce(n, 7)", "-n", "n * k", "abs(n)", "CASE WHEN x > 0 THEN n ELSE k END", "length(g)", "nullif(n, 0)"])

    def relation(self, depth: int = 1, joins: bool = True) -> str:
        """Without joins every row has a time of its own."""
        d = self.dice
        kind = d.choice(["base", "base", "filter", "map", "union", *(["join"] if joins else [])]) if depth > 0 else "base"
        one = lambda: self.relation(depth - 1, joins)
        if kind == "filter":
            return f"(SELECT id, k, g, n, x, d, ts FROM {one()} AS f WHERE {self.condition()})"
        if kind == "map":
            return f"(SELECT id, k, upper(g) AS g, {self.value()} AS n, x * 2 AS x, d, ts FROM {one()} AS f)"
        if kind == "union":
            return f"(SELECT id, k, g, n, x, d, ts FROM @a UNION ALL SELECT id + 1000, k, g, {self.value()}, x, d, ts FROM @b WHERE {self.condition()})"
        if kind == "join":
            return f"(SELECT p.id * 1000 + q.id AS id, p.k, q.g, p.n, q.x, p.d, p.ts FROM @a p JOIN @b q ON p.k = q.k AND q.ts BETWEEN p.ts AND p.ts + INTERVAL '40 minutes')"
        return d.choice(["@a ", "@b "])

    def aggregates(self, exact: bool = True) -> str:
        d, v = self.dice, self.value()
        made = [
            "count(*)", f"count({v})", f"sum({v})", f"min({v})", f"max({v})", f"count(DISTINCT {v})", "sum(d)", "min(g)", "max(d)", "round(avg(x), 6)", "sum(x)", f"sum(n) FILTER (WHERE {self.condition()})",
            "bool_and(n > 0)", "bool_or(x > 1)", "max(ts)", "round(avg(n), 6)", "sum(DISTINCT n)", "count(*) FILTER (WHERE x > 0)", "sum(CASE WHEN n > 1 THEN 1 ELSE 0 END)", "round(stddev(x), 4)", "min(x) + max(n)",
        ]  # fmt: skip
        return ", ".join(f"{text} AS v{at}" for at, text in enumerate(d.sample(made, d.choice([1, 2, 3]))))

    def project(self) -> Query:
        return Query(f"SELECT id, {self.value()} AS v, CASE WHEN {self.condition()} THEN g ELSE 'no' END AS w, d * 2 AS e, CAST(ts AS DATE) AS day FROM {self.relation(2)} AS r WHERE {self.condition()}")

    def group(self) -> Query:
        keys = self.dice.choice([["k"], ["g"], ["k", "g"], ["n % 3"], ["date_trunc('day', ts)"]])
        named = ", ".join(f"{'coalesce(' + key + ', ' + chr(39) + 'none' + chr(39) + ')' if key == 'g' else key if 'ts' in key else 'coalesce(' + key + ', -99)'} AS c{at}" for at, key in enumerate(keys))
        having = self.dice.choice(["", "", " HAVING count(*) > 2", " HAVING sum(n) > 3 OR min(x) < 0"])
        groups = ", ".join(str(at + 1) for at in range(len(keys)))
        made = f"SELECT {named}, {self.aggregates()} FROM {self.relation(2)} AS r WHERE {self.condition()} GROUP BY {groups}{having}"
        return Query(made, key=", ".join(f"c{at}" for at in range(len(keys))))

    def nested(self) -> Query:
        inner = f"SELECT coalesce(k, -9) AS k, g, count(*) AS m, sum(n) AS s FROM {self.relation(1)} AS r GROUP BY 1, 2"
        return Query(f"SELECT k, count(*) AS groups, sum(m) AS m, max(s) AS s FROM ({inner}) AS i GROUP BY k", key="k")

    def everything(self) -> Query:
        return Query(f"SELECT 1 AS one, {self.aggregates()} FROM {self.relation(2)} AS r GROUP BY 1", key="one")

    def window(self) -> Query:
        relation, minutes = self.relation(1), self.dice.choice([10, 45, 60])
        keys = self.dice.choice(["k, ", "g, ", "k, g, ", ""])
        made = f"SELECT {keys}window_start, window_end, {self.aggregates()} FROM {{}} AS r WHERE {self.condition()} GROUP BY {keys}window_start, window_end"
        table = f"TABLE {relation}" if relation.startswith("@") else relation
        if self.dice.random() < 0.5:
            theirs = f"(SELECT *, time_bucket(INTERVAL '{minutes} minutes', ts, TIMESTAMP '1970-01-01') AS window_start, time_bucket(INTERVAL '{minutes} minutes', ts, TIMESTAMP '1970-01-01') + INTERVAL '{minutes} minutes' AS window_end FROM {relation} AS i)"
            return Query(made.format(f"TUMBLE({table}, DESCRIPTOR(ts), INTERVAL '{minutes} minutes')"), made.format(theirs))
        times = self.dice.choice([2, 3])
        slide = f"INTERVAL '{minutes} minutes'"
        theirs = f"(SELECT i.*, time_bucket({slide}, ts, TIMESTAMP '1970-01-01') - {slide} * z.z AS window_start, time_bucket({slide}, ts, TIMESTAMP '1970-01-01') - {slide} * z.z + {slide} * {times} AS window_end FROM {relation} AS i, range({times}) AS z(z))"
        return Query(made.format(f"HOP({table}, DESCRIPTOR(ts), {slide}, INTERVAL '{minutes * times} minutes')"), made.format(theirs))

    def session(self) -> Query:
        relation, gap = self.relation(1), self.dice.choice([5, 15])
        made = f"SELECT k, window_start, window_end, {self.aggregates()} FROM {{}} AS r GROUP BY k, window_start, window_end"
        table = f"TABLE {relation}" if relation.startswith("@") else relation
        new = f"(SELECT *, CASE WHEN ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) < INTERVAL '{gap} minutes' THEN 0 ELSE 1 END AS new FROM {relation} AS i)"
        number = f"(SELECT *, sum(new) OVER (PARTITION BY k ORDER BY ts) AS session FROM {new} AS i)"
        theirs = f"(SELECT *, min(ts) OVER (PARTITION BY k, session) AS window_start, max(ts) OVER (PARTITION BY k, session) + INTERVAL '{gap} minutes' AS window_end FROM {number} AS i)"
        return Query(made.format(f"SESSION({table} PARTITION BY k, DESCRIPTOR(ts), INTERVAL '{gap} minutes')"), made.format(theirs))

    def rolling(self) -> Query:
        d, v = self.dice, self.value()
        frame = d.choice(["RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW", "RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND INTERVAL '10 minutes' PRECEDING", "ROWS BETWEEN 3 PRECEDING AND CURRENT ROW", "RANGE BETWEEN INTERVAL '20 minutes' PRECEDING AND INTERVAL '20 minutes' FOLLOWING"])
        calls = ["count(*)", f"sum({v})", f"min({v})", f"max({v})", "count(DISTINCT g)", "sum(d)", "count(n)", "bool_or(n > 1)", "first_value(n)", "last_value(id)", "avg(x)", "max(g)"]
        made = [f"{call} OVER w AS v{at}" for at, call in enumerate(d.sample(calls, 3))] + d.choice([[], ["lag(n) OVER o AS l"], ["row_number() OVER o AS l"], ["lead(id, 2) OVER o AS l"]])
        key = d.choice(["k", "g"])
        return Query(f"SELECT id, {', '.join(made)} FROM {self.relation(1, joins=False)} AS r WINDOW w AS (PARTITION BY {key} ORDER BY ts {frame}), o AS (PARTITION BY {key} ORDER BY ts)")

    def interval_join(self) -> Query:
        d = self.dice
        on = f"p.k = q.k AND q.ts BETWEEN p.ts - INTERVAL '15 minutes' AND p.ts + INTERVAL '{d.choice([5, 30])} minutes'" + d.choice(["", " AND p.n < q.n", " AND p.g IS NOT DISTINCT FROM q.g"])
        if d.random() < 0.2:
            on = on.replace("p.k = q.k", "p.g IS NOT DISTINCT FROM q.g", 1)
            return Query(f"SELECT p.id AS i, q.id AS j, p.n, q.x FROM @a p {d.choice(['', 'LEFT '])}JOIN @b q ON {on} WHERE {d.choice(['p.k = q.k', 'p.n = q.n'])}")
        if d.random() < 0.35:
            return Query(f"SELECT p.id, p.n FROM @a p WHERE {d.choice(['', 'NOT '])}EXISTS (SELECT 1 FROM @b q WHERE {on})")
        return Query(f"SELECT p.id AS i, q.id AS j, p.n, q.x, coalesce(p.g, q.g) AS g FROM @a p {d.choice(['', 'LEFT ', 'RIGHT ', 'FULL '])}JOIN @b q ON {on}")

    def updating_join(self) -> Query:
        d = self.dice
        side = d.choice(["", "LEFT ", "FULL "])
        on = "p.k = q.k" + d.choice(["", " AND p.n < q.n", " AND p.g = q.g"])
        if d.random() < 0.3:
            return Query(f"SELECT p.id, p.n FROM @a p WHERE {d.choice(['', 'NOT '])}EXISTS (SELECT 1 FROM @b q WHERE {on} AND {self.condition('q')})", key="id")
        if d.random() < 0.3:
            return Query(f"SELECT id, n FROM @a r WHERE k IN (SELECT k FROM @b WHERE {self.condition()})", key="id")
        if d.random() < 0.3:
            where = d.choice(["p.n = q.n", "p.g = q.g", "p.n IS NOT DISTINCT FROM q.n"])
            return Query(f"SELECT p.id AS i, q.id AS j, p.n AS n, q.x AS x FROM @a p {side.replace('FULL ', 'LEFT ')}JOIN @b q ON {d.choice(['p.k = q.k', 'p.k IS NOT DISTINCT FROM q.k'])} WHERE {where}", key="i, j")
        if d.random() < 0.3:
            return Query(f"SELECT p.id, p.n, q.c, q.s FROM @a p JOIN (SELECT k, count(*) AS c, sum(n) AS s FROM @b GROUP BY k) q ON p.k = q.k", key="id")
        return Query(f"SELECT coalesce(p.id, -1) AS i, coalesce(q.id, -1) AS j, p.n AS n, q.x AS x FROM @a p {side}JOIN @b q ON {on}", key="i, j")

    def lookup(self) -> Query:
        on = self.dice.choice(["p.k = q.k", "p.k = q.k AND q.w > 10", "p.k IS NOT DISTINCT FROM q.k"])
        return Query(f"SELECT p.id, q.name, q.w + p.n AS v FROM {self.relation(1)} AS p {self.dice.choice(['', 'LEFT '])}JOIN @dim q ON {on} WHERE {self.condition('p')}")

    def distinct(self) -> Query:
        return Query(f"SELECT DISTINCT {self.dice.choice(['k, g', 'g', 'n % 3 AS m, k', 'date_trunc(' + chr(39) + 'hour' + chr(39) + ', ts) AS h, k'])} FROM {self.relation(2)} AS r WHERE {self.condition()}")

    def top(self) -> Query:
        d = self.dice
        order = d.choice(["n DESC NULLS LAST, id", "x NULLS FIRST, id DESC", "ts DESC, id"])
        key = d.choice(["k", "g"])
        n = d.choice([1, 2, 3])
        return Query(f"SELECT id, {key}, n, rn FROM (SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY {order}) AS rn FROM {self.relation(1)} AS r) AS t WHERE rn <= {n}", key="id")

    def limit(self) -> Query:
        order = self.dice.choice(["n DESC NULLS LAST, id", "ts, id"])
        return Query(f"SELECT id, n, g FROM {self.relation(1)} AS r WHERE {self.condition()} ORDER BY {order} LIMIT {self.dice.choice([1, 4])}", key="id")

    def first(self) -> Query:
        return Query(f"SELECT id, k, n FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY ts) AS rn FROM {self.relation(1, joins=False)} AS r) AS t WHERE rn = 1")

    def union(self) -> Query:
        parts = [f"SELECT id, {self.value()} AS v, g FROM {self.relation(1)} AS r WHERE {self.condition()}" for _ in range(self.dice.choice([2, 3]))]
        return Query(" UNION ALL ".join(parts))

    @staticmethod
    def tumbled(relation: str, minutes: int) -> tuple[str, str]:
        """Relations with `window_start` and `window_end`, in both dialects."""
        start = f"time_bucket(INTERVAL '{minutes} minutes', ts, TIMESTAMP '1970-01-01')"
        mine = f"TUMBLE({f'TABLE {relation}' if relation.startswith('@') else relation}, DESCRIPTOR(ts), INTERVAL '{minutes} minutes')"
        return mine, f"(SELECT *, {start} AS window_start, {start} + INTERVAL '{minutes} minutes' AS window_end FROM {relation} AS i)"

    def windows_of_windows(self) -> Query:
        texts = []
        for mine, inner in enumerate(self.tumbled("@a ", 10)):
            rows = f"(SELECT k, window_end AS ts, count(*) AS n FROM {inner} AS r GROUP BY k, window_start, window_end)"
            outer = self.tumbled(rows, 60)[mine]
            texts.append(f"SELECT k, window_start, sum(n) AS n, count(*) AS c FROM {outer} AS o GROUP BY k, window_start, window_end")
        return Query(*texts)

    def joined_windows(self) -> Query:
        side, texts = self.dice.choice(["", "LEFT ", "FULL "]), []
        for dialect in range(2):
            one = lambda name: f"(SELECT k, window_start, window_end, count(*) AS n, sum(x) AS s FROM {self.tumbled(name, 30)[dialect]} AS r GROUP BY k, window_start, window_end)"
            texts.append(f"SELECT p.k, p.window_start, p.n, q.k AS l, q.s FROM {one('@a ')} p {side}JOIN {one('@b ')} q ON p.k = q.k AND p.window_start = q.window_start")
        return Query(*texts)

    def asof(self) -> Query:
        op = self.dice.choice([">=", ">"])
        return Query(
            f"SELECT p.id, p.n, q.id AS j, q.x FROM @a p ASOF JOIN @b q MATCH_CONDITION (p.ts {op} q.ts) ON p.k = q.k",
            f"SELECT p.id, p.n, q.id AS j, q.x FROM @a p ASOF LEFT JOIN @b q ON p.k = q.k AND p.ts {op} q.ts",
        )

    def sets(self) -> Query:
        one = lambda: f"SELECT coalesce(k, -1) AS k, coalesce(g, '') AS g FROM {self.relation(1)} AS r WHERE {self.condition()}"
        return Query(f"{one()} {self.dice.choice(['EXCEPT', 'INTERSECT', 'UNION'])} {one()}", key="k, g")

    def ranked(self) -> Query:
        function, key = self.dice.choice(["rank", "dense_rank"]), self.dice.choice(["k", "g"])
        return Query(f"SELECT id, n, rn FROM (SELECT *, {function}() OVER (PARTITION BY {key} ORDER BY n DESC NULLS LAST) AS rn FROM {self.relation(1)} AS r) AS t WHERE rn <= 2", key="id")

    def unnested(self) -> Query:
        mine = f"SELECT id, unnest(make_array(n, k, {self.value()})) AS u, g FROM {self.relation(1)} AS r WHERE {self.condition()}"
        return Query(mine, mine.replace("make_array", "list_value"))

    def make(self) -> Query:
        kinds = ["windows_of_windows", "joined_windows", "asof", "sets", "ranked", "unnested", "project", "group", "group", "nested", "everything", "window", "window", "session", "rolling", "rolling", "interval_join", "interval_join", "updating_join", "lookup", "distinct", "top", "limit", "first", "union"]
        return getattr(self, self.dice.choice(kinds))()


def inputs(folder: pathlib.Path, dice: random.Random, oracle: duckdb.DuckDBPyConnection) -> None:
    """Files of the two streams, their rows less than two hours out of order, and a small table; the same in duckdb."""
    for name, columns in COLUMNS.items():
        (folder / "in" / name).mkdir(parents=True)
        if name == "dim":
            rows = [{"k": k, "name": f"n{k}" if k != 3 else None, "w": k * 7} for k in (1, 2, 3)]
        else:
            rows = [{"id": at, **{key: dice.choice(values) for key, values in VALUES.items()}} for at in range(60)]
            times = sorted(dice.sample(range(0, 24 * 3600, 7), 60))
            for row, second in zip(rows, times):
                row["ts"] = START + second * 1_000_000 + row["id"] + (500 if name == "b" else 0)
            rows.sort(key=lambda row: row["ts"] + dice.randrange(3_600_000_000))
        kinds = ", ".join(f"{column} {kind.replace('TIMESTAMP', 'BIGINT')}" for column, kind in columns.items())
        oracle.execute(f"CREATE TABLE {name} ({kinds})")
        for at, row in enumerate(rows):
            with open(folder / "in" / name / f"{at % 3}.jsonl", "a") as lines:
                lines.write(json.dumps(row) + "\n")
            oracle.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", list(row.values()))
        if "ts" in columns:
            oracle.execute(f"ALTER TABLE {name} ALTER ts TYPE TIMESTAMP USING make_timestamp(ts)")


def sources() -> str:
    text = ""
    for name, columns in COLUMNS.items():
        declared = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        watermark = ", WATERMARK FOR ts AS ts - INTERVAL '2 hours'" if "ts" in columns else ""
        option = "timestamp_unit = 'micros', " if "ts" in columns else ""
        source = FILE.format(name=f"{name}_in" if name == "dim" else name, columns=declared, watermark=watermark)
        text += source.replace("in/dim_in", "in/dim").replace("WITH (", f"WITH ({option}")
    return text + "CREATE TABLE dim (k BIGINT, name STRING, w BIGINT) USING DELTA;\n"


def filled() -> str:
    """The inputs as tables: `dim` for lookups, `t_…` for queries."""
    text = sources()
    for name, columns in COLUMNS.items():
        declared = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        text += f"CREATE TABLE t_{name} ({declared}) USING DELTA;\n"
        text += f"INSERT INTO t_{name} SELECT * FROM {'dim_in' if name == 'dim' else name};\n"
    return text + "INSERT INTO dim SELECT * FROM dim_in;\n"


def pipeline(dice: random.Random, number: int, queries: list[tuple[int, Query]]) -> str:
    """One pipeline that keeps a materialized view for each query."""
    views = ""
    for at, query in queries:
        key = f" PRIMARY KEY ({query.key})" if query.key else ""
        views += f"CREATE MATERIALIZED VIEW q{at}{key} AS {query.of(query.mine, '')};\n"
    options = f"at_end = 'flush', state_ttl = 'none', max_rows_per_micro_batch = '{dice.choice([5, 17, 60])}', parallelism = '{dice.choice([1, 2])}'"
    return f"CREATE PIPELINE p{number} WITH ({options}) AS BEGIN\n{views}END;\n"


def run(weir: str, folder: pathlib.Path, name: str, text: str) -> str:
    """Runs a file; what went wrong, or nothing."""
    (folder / f"{name}.sql").write_text(text)
    done = subprocess.run([weir, "run", f"{name}.sql", "--trigger", "available now"], cwd=folder, capture_output=True, text=True, timeout=300)
    return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr[-1500:]}"


def counted(rows: list) -> collections.Counter:
    def shown(value):
        if isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool):
            return round(float(value), 5) + 0.0
        return str(value)

    return collections.Counter(str([shown(plain(value)) for value in row]) for row in rows)


def main(weir: str, folder: str, seed: str, count: str = "200") -> None:
    dice, folder = random.Random(int(seed)), pathlib.Path(folder)
    oracle = duckdb.connect()
    inputs(folder, dice, oracle)
    told = run(weir, folder, "inputs", filled())
    assert not told, told
    maker = Maker(dice)
    queries = list(enumerate(maker.make() for _ in range(int(count))))
    wrong = {}
    for start in range(0, len(queries), 20):
        part = queries[start : start + 20]
        text = sources() + "".join(pipeline(dice, start + at, part[at : at + 4]) for at in range(0, len(part), 4))
        if run(weir, folder, f"f{start}", text):
            for at, query in part:
                if told := run(weir, folder, f"alone{at}", sources() + pipeline(dice, 10_000 + at, [(at, query)])):
                    wrong[at] = told
    server = Server(weir, folder)
    for at, query in queries:
        expected = counted(oracle.execute(query.of(query.theirs, "")).fetchall())
        for how, asked in [("streamed", f"SELECT * FROM q{at}"), ("asked", query.of(query.mine, "t_"))]:
            if at in wrong and how == "streamed" or how == "asked" and not query.batch:
                continue
            try:
                found = counted(server.ask(asked))
            except Exception as error:  # noqa: BLE001 - the drivers raise several kinds
                wrong.setdefault(at, f"{how}: {str(error)[:300]}")
                continue
            if found != expected:
                wrong.setdefault(at, f"{how}: {sorted((found - expected).elements())[:4]} too many, {sorted((expected - found).elements())[:4]} missing of {expected.total()}")
    server.stop()
    print(f"seed {seed}: {len(queries)} queries, {len(wrong)} wrong")
    for at, told in sorted(wrong.items(), key=lambda pair: len(queries[pair[0]][1].mine)):
        print(f"-- q{at} {told}\n{queries[at][1].mine}")
    sys.exit(1 if wrong else 0)


main(*sys.argv[1:])

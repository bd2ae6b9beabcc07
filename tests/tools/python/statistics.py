"""Random values of every type in small files, and every comparison of every value: no reader may miss a row.

Tables: `ours`, which weir wrote, and `theirs`, which delta-rs wrote with its own statistics. Each reader's answer with its
filters pushed down is compared with the same filter over all rows in memory, and weir's with duckdb's over a table in memory.

usage: statistics.py WEIR FOLDER SEED
"""

import datetime
import decimal
import io
import json
import math
import pathlib
import random
import subprocess
import sys

import deltalake
import duckdb
import polars
import pyarrow
import pyarrow.compute as pc

D = decimal.Decimal
decimal.getcontext().prec = 60
UTC = datetime.timezone.utc
COLUMNS = {
    "d18": ("DECIMAL(18,2)", pyarrow.decimal128(18, 2)),
    "d38": ("DECIMAL(38,18)", pyarrow.decimal128(38, 18)),
    "n20": ("DECIMAL(20,0)", pyarrow.decimal128(20, 0)),
    "n38": ("DECIMAL(38,0)", pyarrow.decimal128(38, 0)),
    "d9": ("DECIMAL(9,4)", pyarrow.decimal128(9, 4)),
    "f": ("DOUBLE", pyarrow.float64()),
    "g": ("FLOAT", pyarrow.float32()),
    "i": ("BIGINT", pyarrow.int64()),
    "k": ("INT", pyarrow.int32()),
    "t": ("TIMESTAMP", pyarrow.timestamp("us", "UTC")),
    "day": ("DATE", pyarrow.date32()),
    "s": ("STRING", pyarrow.string()),
    "b": ("BOOLEAN", pyarrow.bool_()),
}
FILES, ROWS = 8, 4


def decimals(precision: int, scale: int, dice: random.Random) -> D:
    digits = dice.choice([1, 3, precision // 2, precision])
    unscaled = dice.choice([0, 1, 10**digits - 1, 10 ** (digits - 1), dice.randrange(10**digits)])
    return D(dice.choice([1, -1]) * unscaled).scaleb(-scale)


def value(name: str, dice: random.Random):
    if dice.random() < 0.1:
        return None
    kind = COLUMNS[name][1]
    if pyarrow.types.is_decimal(kind):
        return decimals(kind.precision, kind.scale, dice)
    if name == "f":
        return dice.choice([math.nan, math.inf, -math.inf, 0.0, 1.5, 5.0, 0.1, 1e300, -2.5, dice.uniform(-1e9, 1e9)])
    if name == "g":
        return dice.choice([math.nan, math.inf, 0.5, 1.5, -2.0, 16777216.0, 0.125])
    if name == "i":
        return dice.choice([2**63 - 1, -(2**63), 2**53 + 1, 0, dice.randrange(-(10**18), 10**18)])
    if name == "k":
        return dice.choice([2**31 - 1, -(2**31), 0, dice.randrange(-1000, 1000)])
    if name == "t":
        low = datetime.datetime(1, 1, 1, tzinfo=UTC)
        far = [low, datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)]
        return dice.choice([*far, low + datetime.timedelta(microseconds=dice.randrange(3 * 10**17))])
    if name == "day":
        return dice.choice([datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.date(1970, 1, 1), datetime.date.fromordinal(dice.randrange(1, 3_000_000))])
    if name == "s":
        return dice.choice(["", "a", "é", "\U0010ffff" * 40, "x" * 100, "z\n", str(dice.random())])
    return dice.random() < 0.5


def as_json(found):
    if isinstance(found, float) and not math.isfinite(found):
        return "NaN" if math.isnan(found) else "Infinity" if found > 0 else "-Infinity"
    if isinstance(found, datetime.datetime):
        return found.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
    if isinstance(found, datetime.date):
        return found.isoformat()
    return f"{found:f}" if isinstance(found, D) else found


def literal(name: str, found) -> str:
    sql = COLUMNS[name][0]
    if name == "t":
        return f"TIMESTAMPTZ '{as_json(found)}'"
    if isinstance(found, bool):
        return str(found).upper()
    text = as_json(found)
    quoted = "'" + str(text).replace("'", "''") + "'"
    return quoted if name == "s" else f"CAST({quoted} AS {sql})"


def predicates(rows: list, dice: random.Random) -> list:
    out = []
    for name in COLUMNS:
        values = {repr(row[name]): row[name] for row in rows if row[name] is not None}
        for found in dice.sample(list(values.values()), min(6, len(values))):
            out += [(name, op, found) for op in ("=", "<>", "<", "<=", ">", ">=")]
    return out


def query(weir: str, folder: pathlib.Path, sql: str) -> pyarrow.Table:
    done = subprocess.run([weir, "query", sql, "--format", "arrow"], cwd=folder, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{sql[:400]}\n{done.stderr.decode()}")
    return pyarrow.ipc.open_stream(io.BytesIO(done.stdout)).read_all()


def write(weir: str, folder: pathlib.Path, files: list) -> pyarrow.Table:
    sql = ", ".join(f"{name} {kind[0]}" for name, kind in COLUMNS.items())
    nested = "ns STRUCT<f DOUBLE, d DECIMAL(38,10)>"
    (folder / "p.sql").write_text(
        f"""CREATE SOURCE e (id BIGINT, {sql}, {nested}) WITH (connector = 'file', path = 'in', format = 'json');
CREATE TABLE ours (id BIGINT, {sql}, {nested}) USING DELTA TBLPROPERTIES ('delta.dataSkippingNumIndexedCols' = '-1');
CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO ours SELECT * FROM e; END;"""
    )
    (folder / "in").mkdir()
    tables = []
    for number, rows in enumerate(files):
        nest = lambda row: {"f": as_json(row["f"]), "d": as_json(row["d18"])}
        lines = [{"id": row["id"], **{name: as_json(row[name]) for name in COLUMNS}, "ns": nest(row)} for row in rows]
        (folder / f"in/{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        done = subprocess.run([weir, "run", "p.sql"], cwd=folder, capture_output=True)
        if done.returncode:
            raise SystemExit(done.stderr.decode())
        columns = {name: pyarrow.array([row[name] for row in rows], kind[1]) for name, kind in COLUMNS.items()}
        table = pyarrow.table({"id": pyarrow.array([row["id"] for row in rows], pyarrow.int64()), **columns})
        deltalake.write_deltalake(str(folder / "warehouse/theirs"), table, mode="append")
        tables.append(table)
    return pyarrow.concat_tables(tables)


def main(weir: str, folder: str, seed: str) -> None:
    dice, folder = random.Random(int(seed)), pathlib.Path(folder)
    ids = iter(range(FILES * ROWS))
    files = [[{"id": next(ids), **{name: value(name, dice) for name in COLUMNS}} for _ in range(ROWS)] for _ in range(FILES)]
    memory = write(weir, folder, files)
    asked = predicates([row for rows in files for row in rows], dice)
    wrong = weir_against_duckdb(weir, folder, memory, asked) + others_against_themselves(folder, asked)
    print(f"{len(asked)} predicates, {len(wrong)} wrong")
    print("\n".join(wrong[:20]))
    sys.exit(1 if wrong else 0)


def weir_against_duckdb(weir: str, folder: pathlib.Path, memory: pyarrow.Table, asked: list) -> list:
    oracle = duckdb.connect()
    oracle.execute("SET TimeZone = 'UTC'")
    oracle.execute("CREATE TABLE held AS SELECT * FROM memory")
    wrong = []
    texts = [f"{name} {op} {literal(name, found)}" for name, op, found in asked]
    for table in ("ours", "theirs"):
        for start in range(0, len(texts), 60):
            part = texts[start : start + 60]
            spelt = [text.replace("TIMESTAMPTZ", "TIMESTAMP") for text in part]
            sql = " UNION ALL ".join(f"SELECT {n} AS n, id FROM {table} WHERE {text}" for n, text in enumerate(spelt))
            seen = {n: set() for n in range(len(part))}
            for row in query(weir, folder, sql).to_pylist():
                seen[row["n"]].add(row["id"])
            for n, text in enumerate(part):
                want = {row[0] for row in oracle.execute(f"SELECT id FROM held WHERE {text}").fetchall()}
                if seen[n] != want:
                    wrong.append(f"weir {table} WHERE {text}: {sorted(seen[n])}, not {sorted(want)}")
    return wrong


def others_against_themselves(folder: pathlib.Path, asked: list) -> list:
    """What weir wrote, read by others with and without what its statistics say."""
    compare = {"=": pc.equal, "<>": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
    path = str(folder / "warehouse/ours")
    table = deltalake.DeltaTable(path)
    dataset = table.to_pyarrow_dataset()
    everything, frame = table.to_pyarrow_table(), polars.read_delta(path)
    duck = duckdb.connect()
    duck.execute("SET TimeZone = 'UTC'")
    duck.execute("CREATE TABLE held AS SELECT * FROM everything")
    wrong = []
    for name, op, found in asked:
        scalar = pyarrow.scalar(found, COLUMNS[name][1])
        want = everything.filter(compare[op](everything[name], scalar))["id"].to_pylist()
        condition = compare[op](pc.field(name), pc.scalar(scalar))
        seen, wants = {}, {}
        # Arrow takes `<>` to be false of a NaN that the statistics of a Parquet row group, as the format wants it, leave out, and
        # numbers to be less than NaN where it looks at statistics and not where it looks at rows.
        nan = isinstance(found, float) and math.isnan(found)
        if not (op == "<>" and name in ("f", "g") or nan):
            seen["deltalake"], wants["deltalake"] = dataset.to_table(filter=condition)["id"].to_pylist(), want
        text = f"{name} {op} {literal(name, found)}"
        seen["duckdb"] = [row[0] for row in duck.execute(f"SELECT id FROM dataset WHERE {text}").fetchall()]
        wants["duckdb"] = [row[0] for row in duck.execute(f"SELECT id FROM held WHERE {text}").fetchall()]
        parts = [polars.col(name), polars.lit(found, frame.schema[name])]
        test = {"=": parts[0] == parts[1], "<>": parts[0] != parts[1], "<": parts[0] < parts[1], "<=": parts[0] <= parts[1], ">": parts[0] > parts[1], ">=": parts[0] >= parts[1]}[op]
        seen["polars"] = polars.scan_delta(path).filter(test).collect()["id"].to_list()
        wants["polars"] = frame.filter(test)["id"].to_list()
        wrong += [f"{reader} WHERE {text}: {sorted(seen[reader])}, not {sorted(wants[reader])}" for reader in seen if sorted(seen[reader]) != sorted(wants[reader])]
    return wrong


main(*sys.argv[1:])

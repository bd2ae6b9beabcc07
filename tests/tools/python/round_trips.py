"""Random values of every type, written by weir in every format and read back by it: the same values, NaN and infinities included.

usage: round_trips.py WEIR FOLDER SEED
"""

import base64
import datetime
import io
import json
import math
import pathlib
import random
import subprocess
import sys

import pyarrow

TYPES = {
    "i8": "TINYINT", "i16": "SMALLINT", "i32": "INT", "i64": "BIGINT", "f": "FLOAT", "g": "DOUBLE", "o": "BOOLEAN",
    "d": "DECIMAL(38,10)", "n": "DECIMAL(20,0)", "s": "STRING", "b": "BINARY", "t": "TIMESTAMP", "u": "TIMESTAMP_NTZ", "y": "DATE",
    "l": "ARRAY<DOUBLE>", "m": "MAP<STRING, BINARY>", "r": "STRUCT<x DOUBLE, y BINARY, z ARRAY<STRING>>",
}  # fmt: skip


def value(name: str, dice: random.Random):
    if dice.random() < 0.12:
        return None
    number = lambda bits: dice.choice([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, dice.randrange(-100, 100)])
    double = lambda: dice.choice(["NaN", "Infinity", "-Infinity", 0.0, -0.0, 0.1, 1e300, 5e-324, dice.uniform(-1e6, 1e6)])
    string = lambda: dice.choice(["", " ", " x ", "a\nb", 'q"q', "c,d", "\r\n", "\t", "é😀", "\u2028", "null", "NULL", "\\", "'", "\0", "7"])
    binary = lambda: base64.b64encode(dice.randbytes(dice.randrange(6))).decode()
    day = lambda: datetime.date.fromordinal(dice.choice([1, 719163, 3652059, dice.randrange(1, 3652060)])).isoformat()
    time = lambda: f"{day()}T{dice.choice(['00:00:00', '23:59:59.999999', '01:02:03.5'])}"
    if name in ("i8", "i16", "i32", "i64"):
        return number(int(name[1:]))
    return {
        "f": lambda: dice.choice(["NaN", "Infinity", "-Infinity", 0.5, -0.0, 0.1, 3e38]),
        "g": double,
        "o": lambda: dice.random() < 0.5,
        "d": lambda: dice.choice(["9999999999999999999999999999.9999999999", "-0.0000000001", "0", "12.5"]),
        "n": lambda: dice.choice(["18446744073709551615", "-99999999999999999999", "1"]),
        "s": string,
        "b": binary,
        "t": lambda: time() + "Z",
        "u": time,
        "y": day,
        "l": lambda: [None if dice.random() < 0.2 else double() for _ in range(dice.randrange(4))],
        "m": lambda: {string(): None if dice.random() < 0.2 else binary() for _ in range(dice.randrange(3))},
        "r": lambda: {"x": double(), "y": binary(), "z": [string(), None]},
    }[name]()


def run(weir: str, folder: pathlib.Path, name: str, sql: str) -> None:
    (folder / name).write_text(sql)
    done = subprocess.run([weir, "run", name], cwd=folder, capture_output=True)
    assert done.returncode == 0, f"{sql}\n{done.stderr.decode()}"


def rows(weir: str, folder: pathlib.Path, table: str) -> dict:
    done = subprocess.run([weir, "query", f"SELECT * FROM {table}", "--format", "arrow"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = pyarrow.ipc.open_stream(io.BytesIO(done.stdout)).read_all().to_pylist() if done.stdout else []
    return {row["id"]: row for row in found}


def given(name: str, found):
    """What JSON said, as the value that it stands for."""
    if found is None:
        return None
    if name in ("f", "g"):
        number = float(found)
        return pyarrow.scalar(number, pyarrow.float32()).as_py() if name == "f" and math.isfinite(number) else number
    return base64.b64decode(found) if name == "b" else found


def main(weir: str, folder: str, seed: str) -> None:
    dice, folder = random.Random(int(seed)), pathlib.Path(folder)
    lines = [{"id": number, **{name: value(name, dice) for name in TYPES}} for number in range(150)]
    (folder / "in").mkdir()
    (folder / "in/a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = "id BIGINT, " + ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    formats = ["json", "csv", "parquet"]
    sinks = "\n".join(f"CREATE SINK to_{kind} WITH (connector = 'file', path = '{kind}', format = '{kind}');" for kind in formats)
    inserts = " ".join(f"INSERT INTO to_{kind} SELECT * FROM e;" for kind in formats)
    run(weir, folder, "p.sql", f"""CREATE SOURCE e ({columns}) WITH (connector = 'file', path = 'in', format = 'json');
{sinks}
CREATE TABLE direct ({columns}) USING DELTA;
CREATE PIPELINE p WITH (trigger = 'available now') AS BEGIN INSERT INTO direct SELECT * FROM e; {inserts} END;""")  # fmt: skip
    want, wrong = rows(weir, folder, "direct"), []
    for line in lines:
        for name in ("i8", "i16", "i32", "i64", "f", "g", "o", "s", "b"):
            if repr(want[line["id"]][name]) != repr(given(name, line[name])):
                wrong.append(f"json in, id {line['id']}, {name}: {line[name]!r} became {want[line['id']][name]!r}")
    for kind in formats:
        run(weir, folder, f"{kind}.sql", f"""CREATE SOURCE back ({columns}) WITH (connector = 'file', path = '{kind}', format = '{kind}');
CREATE TABLE from_{kind} ({columns}) USING DELTA;
CREATE PIPELINE {kind} WITH (trigger = 'available now') AS BEGIN INSERT INTO from_{kind} SELECT * FROM back; END;""")  # fmt: skip
        seen = rows(weir, folder, f"from_{kind}")
        for number, row in want.items():
            for name in row:
                found = seen.get(number, {}).get(name, "no such row")
                if repr(found) != repr(row[name]):
                    wrong.append(f"{kind}, id {number}, {name}: wrote {row[name]!r}, read {found!r}")
    print(f"{len(wrong)} wrong")
    print("\n".join(wrong[:30]))
    sys.exit(1 if wrong else 0)


main(*sys.argv[1:])

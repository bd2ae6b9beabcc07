"""Partition values that are long for a folder name, read by readers that weir has no part in.

usage: long_partitions.py WEIR FOLDER
"""

import json
import pathlib
import subprocess
import sys

import deltalake
import polars


def main(weir: str, folder: str) -> None:
    at = pathlib.Path(folder)
    values = ["plain", "ü" * 30, "x" * 253, "x" * 254, "x" * 300, "ü" * 200, None]
    (at / "in").mkdir()
    (at / "in/a.jsonl").write_text("".join(json.dumps({"id": id, "p": p}) + "\n" for id, p in enumerate(values)))
    (at / "p.sql").write_text("""CREATE SOURCE s (id BIGINT, p STRING) WITH (connector = 'file', path = 'in', format = 'json');
CREATE TABLE t (id BIGINT, p STRING) USING DELTA PARTITIONED BY (p);
CREATE TABLE k (id BIGINT, p STRING, PRIMARY KEY (id) NOT ENFORCED) USING DELTA PARTITIONED BY (p) TBLPROPERTIES ('delta.enableDeletionVectors' = 'false');
CREATE PIPELINE f WITH (trigger = 'available now') AS BEGIN INSERT INTO t SELECT * FROM s; INSERT INTO k SELECT * FROM s; END;""")
    for _ in range(2):
        subprocess.run([weir, "run", "p.sql"], cwd=at, check=True, capture_output=True)
        (at / "in/b.jsonl").write_text(json.dumps({"id": 0, "p": "plain"}) + "\n")
    wrong = []
    for name, want in (("t", [*enumerate(values), (0, "plain")]), ("k", list(enumerate(values)))):
        table = str(at / "warehouse" / name)
        order = lambda rows: sorted(rows, key=lambda row: (row[0], row[1] or ""))
        # A byte of a letter beyond ASCII is written as three.
        length = lambda p: len("p=") + sum(1 if letter.isascii() else 6 for letter in p)
        shown = [(id, p if p and length(p) <= 255 else None) for id, p in want]
        done = subprocess.run([weir, "query", f"SELECT id, p FROM {name}", "--format", "json"], cwd=at, check=True, capture_output=True, text=True)
        found = {
            "weir": [(row["id"], row.get("p")) for row in map(json.loads, done.stdout.splitlines())],
            "deltalake": [(row["id"], row["p"]) for row in deltalake.DeltaTable(table).to_pyarrow_table().to_pylist()],
            "polars": polars.read_delta(table).select("id", "p").rows(),
        }
        for reader, rows in found.items():
            if order(rows) != order(shown if reader == "polars" else want):
                wrong.append(f"{reader} of {name}: {order(rows)}")
    print("\n".join(wrong) or "all right")
    sys.exit(1 if wrong else 0)


main(*sys.argv[1:])

"""Writes the warehouse of this folder with an older version of weir, to be continued by the current one (tests/it/upgrade.rs).

usage: make.py PATH_OF_THE_OLD_WEIR

Runs p.sql over four input files, one after the other, then over a fifth with a crash after the first sink of pipeline `p`
has committed its epoch: the next start must finish it from the old version's manifest. `later` holds the input that the test
adds. Everything is named relative to this folder; the warehouse and the input that was read are kept as `old.tar.gz`.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

FOLDER = pathlib.Path(__file__).resolve().parent
PER_FILE = 120
KEYS = 11


def record(n: int) -> str:
    """Record `n`; up to 8 seconds out of order. Every 29th repeats an earlier id, every 37th has no v, every 40th breaks a CHECK,
    every 50th is no JSON."""
    if n % 50 == 49:
        return "{broken"
    mixed = n * 2654435761 % (1 << 32)
    ms = n * 1000 + mixed % 8000
    value = None if n % 37 == 5 else 99.5 if n % 40 == 3 else (mixed >> 16) % 90 + 0.25
    p = [None, "a", "b c", "ü", "d/e"][(mixed >> 12) % 5]
    ts = f"2026-01-01T{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}Z"
    row = {"id": n - 7 if n % 29 == 11 else n, "k": (mixed >> 8) % KEYS, "v": value, "p": p, "ts": ts}
    return json.dumps(row, ensure_ascii=False)


def add(folder: str, number: int) -> None:
    lines = "".join(record(n) + "\n" for n in range(number * PER_FILE, (number + 1) * PER_FILE))
    (FOLDER / folder / f"{number:03}.jsonl").write_text(lines)


def run(weir: str, file: str, expected: int, **variables: str) -> None:
    command = [weir, "run", file, "--trigger", "available now"]
    done = subprocess.run(command, cwd=FOLDER, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == expected, (done.returncode, done.stdout, done.stderr)


def main(weir: str) -> None:
    for name in ("in", "later", "warehouse"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    (FOLDER / "in").mkdir()
    (FOLDER / "later").mkdir()
    names = FOLDER / "names.sql"
    names.write_text(
        "CREATE SOURCE s (k BIGINT NOT NULL, name STRING) WITH (connector = 'file', path = 'names.jsonl', format = 'json');\n"
        "CREATE TABLE names (k BIGINT NOT NULL, name STRING) USING DELTA;\nINSERT INTO names SELECT k, name FROM s;\n"
    )
    (FOLDER / "names.jsonl").write_text("".join(f'{{"k":{k},"name":"name {k}"}}\n' for k in range(KEYS - 2)))
    run(weir, "names.sql", 0)
    for number in range(4):
        add("in", number)
        run(weir, "p.sql", 0)
    add("in", 4)
    run(weir, "p.sql", -6, WEIR_FAILPOINTS="epoch.between_sinks@9=abort")
    for number in (5, 6):
        add("later", number)
    names.unlink()
    (FOLDER / "names.jsonl").unlink()
    with tarfile.open(FOLDER / "old.tar.gz", "w:gz") as archive:
        archive.add(FOLDER / "in", "in")
        archive.add(FOLDER / "later", "later")
        archive.add(FOLDER / "warehouse", "warehouse")
    for name in ("in", "later", "warehouse"):
        shutil.rmtree(FOLDER / name)


main(*sys.argv[1:])

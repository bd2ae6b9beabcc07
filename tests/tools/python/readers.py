"""Reads one Delta table with readers that weir has no part in and prints what each finds: rows, distinct ids, sum of ids.

usage: readers.py TABLE_FOLDER ID_COLUMN
"""

import sys

import deltalake
import polars


def main(folder: str, column: str) -> None:
    table = deltalake.DeltaTable(folder)
    ids = table.to_pyarrow_table(columns=[column]).column(column).to_pylist()
    print(f"deltalake {len(ids)} {len(set(ids))} {sum(ids)}")
    ids = polars.read_delta(folder, columns=[column])[column].to_list()
    print(f"polars {len(ids)} {len(set(ids))} {sum(ids)}")
    newest = table.history(1)[0]
    print(f"history {newest['operation']} {table.version()}")


main(*sys.argv[1:])

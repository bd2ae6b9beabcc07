"""Reads one upserted Delta table (id, v) with readers that weir has no part in and prints what each finds: rows, distinct ids,
sum of v; then the change feed, if the table has one, as counts by kind.

usage: upserts.py TABLE_FOLDER
"""

import sys

import deltalake
import polars
import pyarrow


def main(folder: str) -> None:
    table = deltalake.DeltaTable(folder)
    sql = "SELECT count(*) AS n, count(DISTINCT id) AS ids, CAST(sum(v) AS BIGINT) AS v FROM t"
    found = pyarrow.table(deltalake.QueryBuilder().register("t", table).execute(sql).read_all()).to_pylist()[0]
    print(f"deltalake {found['n']} {found['ids']} {found['v']}")
    rows = polars.read_delta(folder)
    print(f"polars {len(rows)} {rows['id'].n_unique()} {int(rows['v'].sum())}")
    print(f"history {table.history(1)[0]['operation']}")
    if table.metadata().configuration.get("delta.enableChangeDataFeed") == "true":
        feed = pyarrow.table(table.load_cdf(starting_version=0).read_all())
        kinds = feed.column("_change_type").to_pylist()
        counted = [f"{kind} {kinds.count(kind)}" for kind in ("delete", "insert", "update_postimage", "update_preimage")]
        print("feed", *counted)


main(*sys.argv[1:])

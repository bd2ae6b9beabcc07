"""Changes an upserted Delta table (id, v, p) as other writers do, while weir may be writing to it.

usage: odd_partitions.py TABLE_FOLDER optimize|delete|update|merge
"""

import sys
import time

import deltalake
import pyarrow


def act(folder: str, what: str) -> None:
    table = deltalake.DeltaTable(folder)
    if what == "optimize":
        table.optimize.compact()
    elif what == "delete":
        table.delete("id % 7 = 3")
    elif what == "update":
        table.update(predicate="id % 5 = 1", updates={"v": "v + 0.5"})
    elif what == "merge":
        rows = pyarrow.table({"id": pyarrow.array([1, 2, 3], pyarrow.int64()), "v": [0.0, 0.0, 0.0], "p": ["ü d", "a/b", None]})
        merge = table.merge(rows, "t.id = s.id", source_alias="s", target_alias="t")
        merge.when_matched_update_all().when_not_matched_insert_all().execute()
    else:
        raise ValueError(what)


def main(folder: str, what: str) -> None:
    for _ in range(30):
        try:
            return act(folder, what)
        except deltalake.exceptions.CommitFailedError:
            time.sleep(0.05)
    raise SystemExit(f"{what}: weir commits too often")


main(*sys.argv[1:])

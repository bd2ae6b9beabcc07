"""Tables as other writers leave them, read, followed and written by weir, against values written by hand.

usage: foreign.py WEIR FOLDER
"""

import datetime
import io
import json
import pathlib
import subprocess
import sys

import pyarrow
import pyarrow.parquet

UTC = datetime.timezone.utc
WRONG = []


def field(name: str, kind, metadata=None) -> dict:
    return {"name": name, "type": kind, "nullable": True, "metadata": metadata or {}}


class Folder:
    def __init__(self, weir: str, folder: str):
        self.weir, self.path = weir, pathlib.Path(folder)

    def table(self, name: str, fields: list, files: list, partitioned=(), protocol=None, configuration=None, **parquet) -> pathlib.Path:
        """A table of one version; `files` are (rows, partition values)."""
        root = self.path / "warehouse" / name
        (root / "_delta_log").mkdir(parents=True)
        schema = json.dumps({"type": "struct", "fields": fields})
        actions = [
            {"protocol": protocol or {"minReaderVersion": 1, "minWriterVersion": 2}},
            {"metaData": {"id": "11111111-1111-4111-8111-111111111111", "format": {"provider": "parquet", "options": {}}, "schemaString": schema, "partitionColumns": list(partitioned), "configuration": configuration or {}, "createdTime": 1700000000000}},
        ]  # fmt: skip
        for number, (rows, values) in enumerate(files):
            file = root / f"part-{number}.parquet"
            pyarrow.parquet.write_table(rows, file, **parquet)
            actions.append({"add": {"path": file.name, "partitionValues": values, "size": file.stat().st_size, "modificationTime": 1700000000000 + number, "dataChange": True}})  # fmt: skip
        (root / "_delta_log/00000000000000000000.json").write_text("".join(json.dumps(action) + "\n" for action in actions))
        return root

    def run(self, sql: str, *rest: str):
        name = f"p{len(list(self.path.glob('*.sql')))}.sql"
        (self.path / name).write_text(sql)
        return subprocess.run([self.weir, "run", name, *rest], cwd=self.path, capture_output=True, text=True)

    def rows(self, sql: str) -> list:
        done = subprocess.run([self.weir, "query", sql, "--format", "arrow"], cwd=self.path, capture_output=True)
        if done.returncode:
            return [done.stderr.decode()]
        found = pyarrow.ipc.open_stream(io.BytesIO(done.stdout)).read_all() if done.stdout else pyarrow.table({})
        return [tuple(row.values()) for row in found.to_pylist()]

    def follow(self, table: str, columns: str, what: str) -> list:
        """The rows of a Delta source over `table`."""
        done = self.run(f"""CREATE SOURCE s_{table} ({columns}) WITH (connector = 'delta', path = 'warehouse/{table}');
CREATE TABLE copy_{table} ({columns}) USING DELTA;
CREATE PIPELINE follow_{table} WITH (trigger = 'available now') AS BEGIN INSERT INTO copy_{table} SELECT * FROM s_{table}; END;""")  # fmt: skip
        return self.rows(f"SELECT {what} FROM copy_{table} ORDER BY 1") if done.returncode == 0 else [done.stderr]


def same(seen, want, what: str) -> None:
    if seen != want:
        WRONG.append(f"{what}: {seen}, not {want}")


def partition_values(at: Folder) -> None:
    ids = lambda *numbers: pyarrow.table({"id": pyarrow.array(numbers, pyarrow.int64())})
    fields = [field("id", "long"), field("p", "string"), field("b", "binary")]
    at.table("parts", fields, [(ids(1), {}), (ids(2), {"p": None, "b": None}), (ids(3), {"p": "", "b": ""}), (ids(4), {"p": "x", "b": "\\u0068\\u00ff"})], ["p", "b"])  # fmt: skip
    want = [(1, None, None), (2, None, None), (3, None, None), (4, "x", b"h\xff")]
    same(at.rows("SELECT id, p, b FROM parts ORDER BY id"), want, "query of partition values")
    same(at.rows("SELECT id FROM parts WHERE p IS NULL ORDER BY id"), [(1,), (2,), (3,)], "query of null partition values")
    same(at.rows("SELECT id FROM parts WHERE b = X'68FF'"), [(4,)], "query of a BINARY partition value")
    same(at.follow("parts", "id BIGINT, p STRING, b BINARY", "*"), want, "source of partition values")


def grown_struct(at: Folder) -> None:
    old = pyarrow.table({"id": [1], "s": pyarrow.array([{"a": 1}], pyarrow.struct([("a", pyarrow.int64())]))})
    new = pyarrow.table({"id": [2], "s": pyarrow.array([{"b": "x", "a": 2}], pyarrow.struct([("b", pyarrow.string()), ("a", pyarrow.int64())]))})
    struct = {"type": "struct", "fields": [field("a", "long"), field("b", "string")]}
    at.table("grown", [field("id", "long"), field("s", struct)], [(old, {}), (new, {})])
    want = [(1, {"a": 1, "b": None}), (2, {"a": 2, "b": "x"})]
    same(at.rows("SELECT id, s FROM grown ORDER BY id"), want, "query of a struct that grew")
    same(at.follow("grown", "id BIGINT, s STRUCT<a BIGINT, b STRING>", "*"), want, "source of a struct that grew")


def map_of_numbers(at: Folder) -> None:
    rows = pyarrow.table({"id": [1], "m": pyarrow.array([[(7, "x")]], pyarrow.map_(pyarrow.int32(), pyarrow.string()))})
    kind = {"type": "map", "keyType": "integer", "valueType": "string", "valueContainsNull": True}
    at.table("mapped", [field("id", "long"), field("m", kind)], [(rows, {})])
    same(at.rows("SELECT id, m FROM mapped"), [(1, [(7, "x")])], "query of a MAP<INT, STRING>")
    same(at.follow("mapped", "id BIGINT, m MAP<INT, STRING>", "*"), [(1, [(7, "x")])], "source of a MAP<INT, STRING>")


def far_times(at: Folder) -> None:
    """A rewrite of a file changes no time in it, whatever Parquet stores it as."""
    times = [datetime.datetime(2024, 1, 2, 3, 4, 5, 678901), datetime.datetime(9999, 12, 31), datetime.datetime(1, 1, 1)]
    columns = pyarrow.schema([pyarrow.field("id", pyarrow.int64(), False), pyarrow.field("t", pyarrow.timestamp("us"))])
    rows = pyarrow.table({"id": [1, 2, 3], "t": times}, columns)
    at.table("times", [{**field("id", "long"), "nullable": False}, field("t", "timestamp")], [(rows, {})], use_deprecated_int96_timestamps=True)
    want = [(number + 1, time.replace(tzinfo=UTC)) for number, time in enumerate(times)]
    same(at.rows("SELECT id, t FROM times ORDER BY id"), want, "query of INT96")
    same(at.rows("SELECT id FROM times WHERE t >= TIMESTAMP '9999-12-31' OR t > now()"), [(2,)], "query with far times")
    (at.path / "in").mkdir()
    (at.path / "in/a.jsonl").write_text('{"id": 1, "t": "2025-01-01T00:00:00Z"}\n')
    done = at.run("""CREATE SOURCE e (id BIGINT NOT NULL, t TIMESTAMP) WITH (connector = 'file', path = 'in', format = 'json');
CREATE TABLE times (id BIGINT NOT NULL, t TIMESTAMP, PRIMARY KEY (id) NOT ENFORCED) USING DELTA;
CREATE PIPELINE upsert WITH (trigger = 'available now') AS BEGIN INSERT INTO times SELECT id, t FROM e; END;""")
    want[0] = (1, datetime.datetime(2025, 1, 1, tzinfo=UTC))
    same((done.returncode, at.rows("SELECT id, t FROM times ORDER BY id")), (0, want), f"upsert beside INT96 {done.stderr}")


def changes_by_vectors(at: Folder) -> None:
    """Of a file whose deletion vector grows, the rows that it marks are gone and no others."""
    (at.path / "keys").mkdir()
    sql = """CREATE SOURCE e (k BIGINT, v BIGINT) WITH (connector = 'file', path = 'keys', format = 'json');
CREATE TABLE keyed (k BIGINT, v BIGINT, PRIMARY KEY (k) NOT ENFORCED) USING DELTA;
CREATE PIPELINE keyed WITH (trigger = 'available now') AS BEGIN INSERT INTO keyed SELECT * FROM e; END;"""
    for number, lines in enumerate(['\n'.join(f'{{"k":{k},"v":0}}' for k in range(7)), '{"k":3,"v":1}', '{"k":5,"v":2}\n{"k":3,"v":3}']):
        (at.path / f"keys/{number}.jsonl").write_text(lines + "\n")
        (at.path / "keyed.sql").write_text(sql)
        subprocess.run([at.weir, "run", "keyed.sql"], cwd=at.path, capture_output=True, check=True)
    done = at.run("""CREATE SOURCE c WITH (connector = 'delta', path = 'warehouse/keyed', mode = 'changes', starting_version = '1');
CREATE TABLE feed (k BIGINT, v BIGINT, change STRING, at BIGINT) USING DELTA;
CREATE PIPELINE feed WITH (trigger = 'available now') AS BEGIN INSERT INTO feed SELECT k, v, _change_type AS change, _commit_version AS at FROM c; END;""")
    want = [(1, k, 0, "insert") for k in range(7)] + [(2, 3, 0, "delete"), (2, 3, 1, "insert"), (3, 3, 1, "delete"), (3, 3, 3, "insert"), (3, 5, 0, "delete"), (3, 5, 2, "insert")]
    same((done.stderr if done.returncode else "", at.rows("SELECT at, k, v, change FROM feed ORDER BY at, k, change, v")), ("", want), "changes by deletion vectors")


def widened(at: Folder) -> None:
    features = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["typeWidening"], "writerFeatures": ["typeWidening"]}
    changes = {"delta.typeChanges": [{"toType": "long", "fromType": "integer", "tableVersion": 1}]}
    rows = pyarrow.table({"id": pyarrow.array([1, 2], pyarrow.int32())})
    root = at.table("wide", [field("id", "long", changes)], [(rows, {})], protocol=features, configuration={"delta.enableTypeWidening": "true"})
    # delta-rs does not read such tables, so that only what was written can be looked at.
    (at.path / "elsewhere").mkdir()
    root = root.rename(at.path / "elsewhere/wide")
    (at.path / "wide_in").mkdir()
    (at.path / "wide_in/a.jsonl").write_text('{"id": 4000000000}\n')
    done = at.run("""CREATE SOURCE e (id BIGINT) WITH (connector = 'file', path = 'wide_in', format = 'json');
CREATE TABLE wide (id BIGINT) USING DELTA LOCATION 'elsewhere/wide';
CREATE PIPELINE widen WITH (trigger = 'available now') AS BEGIN INSERT INTO wide SELECT id FROM e; END;""")
    written = [file for file in root.glob("*.parquet") if file.name != "part-0.parquet"]
    found = [pyarrow.parquet.read_table(file)["id"].to_pylist() for file in written]
    same((done.stderr if done.returncode else "", found), ("", [[4000000000]]), "append to a table with typeWidening")


def names_and_versions(at: Folder) -> None:
    names = ["täglich", "a%b", "x y", "日本"]
    (at.path / "names_in").mkdir()
    (at.path / "names_in/a.jsonl").write_text('{"id": 1}\n')
    tables = "\n".join(f'CREATE TABLE "{name}" (id BIGINT) USING DELTA;' for name in names)
    inserts = " ".join(f'INSERT INTO "{name}" SELECT id FROM e;' for name in names)
    done = at.run(f"CREATE SOURCE e (id BIGINT) WITH (connector = 'file', path = 'names_in', format = 'json');\n{tables}\nCREATE PIPELINE names WITH (trigger = 'available now') AS BEGIN {inserts} END;")
    same(done.returncode, 0, f"run with odd names: {done.stderr}")
    for name in names:
        same(at.rows(f'SELECT id FROM "{name}"'), [(1,)], f"query of table `{name}`")
    listed = {row[0] for row in at.rows("SELECT table_name FROM information_schema.tables")}
    same([name for name in names if name not in listed], [], "tables that are listed")
    seen = at.rows("SELECT id FROM \"x y\" TIMESTAMP AS OF '2001-01-01T00:00:00Z'")
    same(len(seen) == 1 and "no version as old" in str(seen), True, f"TIMESTAMP AS OF before the first commit {seen}")


def main(weir: str, folder: str) -> None:
    at = Folder(weir, folder)
    for case in (partition_values, grown_struct, map_of_numbers, far_times, changes_by_vectors, widened, names_and_versions):
        case(at)
    print("\n".join(WRONG) or "all right")
    sys.exit(1 if WRONG else 0)


main(*sys.argv[1:])

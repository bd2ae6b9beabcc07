"""Tables as other writers leave them, read, followed and written by weir, against values written by hand.

usage: foreign.py WEIR FOLDER
"""

import datetime
import decimal
import io
import json
import pathlib
import subprocess
import sys

import pyarrow
import pyarrow.parquet

D = decimal.Decimal
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


def grown_map(at: Folder) -> None:
    """Structs in maps, at any depth, lack fields that came later."""
    logged = lambda kind, name="s": {"type": "map", "keyType": kind if name == "k" else "string", "valueType": "string" if name == "k" else kind, "valueContainsNull": True}
    struct = lambda *fields: {"type": "struct", "fields": list(fields)}
    array = lambda kind: {"type": "array", "elementType": kind, "containsNull": True}
    s1, s2 = pyarrow.struct([("a", pyarrow.int64())]), pyarrow.struct([("a", pyarrow.int64()), ("b", pyarrow.string())])
    grown = struct(field("a", "long"), field("b", "string"))
    text = pyarrow.string()
    cases = {
        "values": (logged(grown), lambda s: pyarrow.map_(text, s), lambda v: [("x", v)]),
        "keys": (logged(grown, "k"), lambda s: pyarrow.map_(s, text), lambda v: [(v, "x")]),
        "lists": (logged(array(grown)), lambda s: pyarrow.map_(text, pyarrow.list_(s)), lambda v: [("x", [v, None])]),
        "within": (struct(field("m", logged(grown))), lambda s: pyarrow.struct([("m", pyarrow.map_(text, s))]), lambda v: {"m": [("x", v)]}),
        "deep": (array(logged(array(grown))), lambda s: pyarrow.list_(pyarrow.map_(text, pyarrow.list_(s))), lambda v: [[("x", [v])], None]),
    }
    for name, (kind, typed, value) in cases.items():
        file = lambda id, v, s: pyarrow.table({"id": [id, id + 1], "m": pyarrow.array([value(v), None], typed(s))})
        at.table(f"grown_{name}", [field("id", "long"), field("m", kind)], [(file(1, {"a": 1}, s1), {}), (file(3, {"a": 2, "b": "x"}, s2), {})])
        want = [(1, value({"a": 1, "b": None})), (2, None), (3, value({"a": 2, "b": "x"})), (4, None)]
        same(at.rows(f"SELECT id, m FROM grown_{name} ORDER BY id"), want, f"query of a MAP whose {name} grew")
        same(at.rows(f"SELECT id FROM grown_{name} WHERE m IS NOT NULL AND id < 4 ORDER BY id"), [(1,), (3,)], f"condition on a MAP whose {name} grew")
        shown = subprocess.run([at.weir, "query", f"SELECT m FROM grown_{name} WHERE id = 3", "--format", "json"], cwd=at.path, capture_output=True, text=True)
        same(shown.returncode, 0, f"JSON of a MAP whose {name} grew {shown.stderr}")


def odd_statistics(at: Folder) -> None:
    """Statistics that are no JSON are none."""
    for number, stats in enumerate(["", " ", "{", "null"]):
        root = at.table(f"odd_{number}", [field("v", "double"), field("id", "long")], [(pyarrow.table({"v": [1.5, 2.5], "id": [1, 2]}), {})])
        entry = root / "_delta_log/00000000000000000000.json"
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        actions[-1]["add"]["stats"] = stats
        entry.write_text("".join(json.dumps(action) + "\n" for action in actions))
        same(at.rows(f"SELECT count(*), min(v) FROM odd_{number}"), [(2, 1.5)], f"count with statistics {stats!r}")
        same(at.rows(f"SELECT id FROM odd_{number} WHERE v > 2 OR id = 7"), [(2,)], f"condition with statistics {stats!r}")


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


def protocol(*features: str) -> dict:
    return {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [*features], "writerFeatures": [*features]}


def widened(at: Folder) -> None:
    """Older files have narrower types; what is appended has the table's."""
    change = lambda old, new: {"delta.typeChanges": [{"toType": new, "fromType": old, "tableVersion": 1}]}
    fields = [field("id", "long", change("integer", "long")), field("x", "double", change("float", "double")), field("d", "decimal(12,4)", change("decimal(5,2)", "decimal(12,4)")), field("t", "timestamp_ntz", change("date", "timestamp_ntz"))]
    old = pyarrow.table({"id": pyarrow.array([1, 2], pyarrow.int32()), "x": pyarrow.array([0.5, None], pyarrow.float32()), "d": pyarrow.array([D("1.25"), None], pyarrow.decimal128(5, 2)), "t": pyarrow.array([datetime.date(2026, 1, 2), None], pyarrow.date32())})
    at.table("wide", fields, [(old, {})], protocol=protocol("typeWidening", "timestampNtz"), configuration={"delta.enableTypeWidening": "true"})
    (at.path / "wide_in").mkdir()
    (at.path / "wide_in/a.jsonl").write_text('{"id": 4000000000, "x": 0.1, "d": "12345678.1234", "t": "2026-01-02T03:04:05"}\n')
    columns = "id BIGINT, x DOUBLE, d DECIMAL(12,4), t TIMESTAMP_NTZ"
    done = at.run(f"""CREATE SOURCE e ({columns}) WITH (connector = 'file', path = 'wide_in', format = 'json');
CREATE TABLE wide ({columns}) USING DELTA;
CREATE PIPELINE widen WITH (trigger = 'available now') AS BEGIN INSERT INTO wide SELECT * FROM e; END;""")
    same(done.returncode, 0, f"append to a table with typeWidening {done.stderr}")
    day = datetime.datetime(2026, 1, 2)
    want = [(1, 0.5, D("1.2500"), day), (2, None, None, None), (4000000000, 0.1, D("12345678.1234"), datetime.datetime(2026, 1, 2, 3, 4, 5))]
    same(at.rows("SELECT * FROM wide ORDER BY id"), want, "query of a table with typeWidening")
    same(at.rows("SELECT id FROM wide WHERE id >= 2 AND (d > 1.26 OR t IS NULL) ORDER BY id"), [(2,), (4000000000,)], "conditions on a table with typeWidening")
    same(at.rows("SELECT id FROM wide WHERE t = TIMESTAMP_NTZ '2026-01-02 00:00:00' OR d = 1.25"), [(1,)], "conditions on values of older types")


def unreadable(at: Folder) -> None:
    """A table that cannot be read says why, and hides no others."""
    ids = pyarrow.table({"id": [1, 2]})
    at.table("vacuumed", [field("id", "long")], [(ids, {})], protocol=protocol("vacuumProtocolCheck"))
    same(at.rows("SELECT id FROM vacuumed ORDER BY id"), [(1,), (2,)], "query of a table with vacuumProtocolCheck")
    at.table("future", [field("id", "long")], [(ids, {})], protocol=protocol("readingTeaLeaves"))
    told = str(at.rows("SELECT id FROM future"))
    same("readingTeaLeaves" in told and "future" in told, True, f"query of a table with an unknown feature {told}")
    listed = {row[0] for row in at.rows("SELECT table_name FROM information_schema.tables")}
    same({"vacuumed", "future"} <= listed, True, f"information_schema.tables {listed}")
    shown = str(at.rows("SHOW TABLES"))
    same("future" in shown and "vacuumed" in shown, True, f"SHOW TABLES {shown}")
    columns = at.rows("SELECT column_name FROM information_schema.columns WHERE table_name IN ('vacuumed', 'future')")
    same(columns, [("id",)], "information_schema.columns")


def shown(at: Folder) -> None:
    """CHAR has its blanks, `void` columns are not there, VARIANT is JSON."""
    rows = pyarrow.table({"id": [1, 2], "c": ["ab ", "abcde"]})
    at.table("chars", [field("id", "long"), field("c", "string", {"__CHAR_VARCHAR_TYPE_STRING": "char(5)"}), field("n", "void")], [(rows, {})])
    same(at.rows("SELECT * FROM chars ORDER BY id"), [(1, "ab   "), (2, "abcde")], "query of CHAR and void")
    same(at.rows("SELECT id FROM chars WHERE c = 'ab   '"), [(1,)], "condition on CHAR")
    same(at.follow("chars", "id BIGINT, c STRING", "*"), [(1, "ab   "), (2, "abcde")], "source of CHAR")
    parts = pyarrow.struct([pyarrow.field("metadata", pyarrow.binary()), pyarrow.field("value", pyarrow.binary())])
    variants = [{"metadata": b"\x01\x02\x00\x01\x03abc", "value": b"\x02\x02\x00\x01\x00\x01\x03\x00\x0c\x07"}, {"metadata": b"\x01\x00\x00", "value": b"\x09hi"}, None]
    rows = pyarrow.table({"id": [1, 2, 3], "v": pyarrow.array(variants, parts)})
    at.table("variants", [field("id", "long"), field("v", "variant")], [(rows, {})], protocol=protocol("variantType"))
    same(at.rows("SELECT id, v FROM variants ORDER BY id"), [(1, '{"a":null,"bc":7}'), (2, '"hi"'), (3, None)], "query of VARIANT")
    same(at.follow("variants", "id BIGINT, v STRING", "*"), [(1, '{"a":null,"bc":7}'), (2, '"hi"'), (3, None)], "source of VARIANT")
    hi, struct = variants[1], {"type": "struct", "fields": [field("n", "long"), field("v", "variant")]}
    lists, maps = {"type": "array", "elementType": struct, "containsNull": True}, {"type": "map", "keyType": "string", "valueType": "variant", "valueContainsNull": True}
    shape = pyarrow.struct([("n", pyarrow.int64()), ("v", parts)])
    rows = pyarrow.table({"id": [1, 2], "s": pyarrow.array([{"n": 7, "v": hi}, None], shape), "l": pyarrow.array([[{"n": 8, "v": hi}, {"n": 9, "v": None}], None], pyarrow.list_(shape)), "m": pyarrow.array([[("k", hi)], []], pyarrow.map_(pyarrow.string(), parts))})
    at.table("nested", [field("id", "long"), field("s", struct), field("l", lists), field("m", maps)], [(rows, {})], protocol=protocol("variantType"))
    want = [(1, {"n": 7, "v": '"hi"'}, [{"n": 8, "v": '"hi"'}, {"n": 9, "v": None}], [("k", '"hi"')]), (2, None, None, [])]
    same(at.rows("SELECT * FROM nested ORDER BY id"), want, "query of VARIANT within others")
    columns = "id BIGINT, s STRUCT<n BIGINT, v STRING>, l ARRAY<STRUCT<n BIGINT, v STRING>>, m MAP<STRING, STRING>"
    same(at.follow("nested", columns, "*"), want, "source of VARIANT within others")
    same(at.rows("SELECT id FROM nested WHERE s.v = '\"hi\"'"), [(1,)], "condition on VARIANT within others")


def joined(at: Folder) -> None:
    """Joins to such tables, in streams and in batches, with and without a time."""
    parts = pyarrow.struct([pyarrow.field("metadata", pyarrow.binary()), pyarrow.field("value", pyarrow.binary())])
    hi = {"metadata": b"\x01\x00\x00", "value": b"\x09hi"}
    rows = pyarrow.table({"k": [1, 2], "c": ["ab ", "abcde"], "v": pyarrow.array([hi, None], parts)})
    at.table("dim", [field("k", "long"), field("c", "string", {"__CHAR_VARCHAR_TYPE_STRING": "char(5)"}), field("n", "void"), field("v", "variant")], [(rows, {})], protocol=protocol("variantType"))
    (at.path / "join_in").mkdir()
    (at.path / "join_in/a.jsonl").write_text("".join(f'{{"id": {id}, "ts": "2030-01-01T00:00:0{id}Z"}}\n' for id in (1, 2, 3)))
    declared = "CREATE TABLE dim (k BIGINT, c STRING, v STRING) USING DELTA;"
    sql = f"""CREATE SOURCE e (id BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH (connector = 'file', path = 'join_in', format = 'json', max_future = 'none');
{declared}
CREATE TABLE plain (id BIGINT, c STRING, v STRING) USING DELTA; CREATE TABLE then (id BIGINT, c STRING, v STRING) USING DELTA;
CREATE PIPELINE joins WITH (trigger = 'available now') AS BEGIN
INSERT INTO plain SELECT e.id, d.c, d.v FROM e LEFT JOIN dim d ON d.k = e.id;
INSERT INTO then SELECT e.id, d.c, d.v FROM e LEFT JOIN dim FOR SYSTEM_TIME AS OF e.ts AS d ON d.k = e.id;
END;"""
    (at.path / "joins.sql").write_text(sql)
    done = subprocess.run([at.weir, "run", "joins.sql"], cwd=at.path, capture_output=True, text=True)
    same(done.returncode, 0, f"join to CHAR {done.stderr}")
    want = [(1, "ab   ", '"hi"'), (2, "abcde", None), (3, None, None)]
    for table in ("plain", "then"):
        same(at.rows(f"SELECT * FROM {table} ORDER BY id"), want, f"join to CHAR ({table})")
    batch = "SELECT e.id, d.c, d.v FROM (VALUES (1), (2), (3)) e (id) LEFT JOIN dim d ON d.k = e.id ORDER BY 1"
    same(at.rows(batch), want, "join to CHAR in a query")
    verified = subprocess.run([at.weir, "verify", "joins.sql"], cwd=at.path, capture_output=True, text=True)
    same(verified.returncode, 0, f"verify of joins to CHAR {verified.stdout}{verified.stderr}")


def compacted(at: Folder) -> None:
    """Compacted log entries change nothing; where the entries themselves are gone, the table is not silently an older one."""
    ids = lambda number: pyarrow.table({"id": [number]})
    root = at.table("packed", [field("id", "long")], [(ids(0), {})])
    log, adds = root / "_delta_log", []
    for version in range(1, 5):
        name = f"part-v{version}.parquet"
        pyarrow.parquet.write_table(ids(version), root / name)
        adds.append(json.dumps({"add": {"path": name, "partitionValues": {}, "size": (root / name).stat().st_size, "modificationTime": 1, "dataChange": True}}) + "\n")
        (log / f"{version:020}.json").write_text(adds[-1])
    (log / f"{1:020}.{3:020}.compacted.json").write_text("".join(adds[:3]))
    same(at.rows("SELECT id FROM packed ORDER BY id"), [(0,), (1,), (2,), (3,), (4,)], "query of a table with compacted entries")
    for version in (2, 3, 4):
        (log / f"{version:020}.json").unlink()
    told = str(at.rows("SELECT id FROM packed"))
    same("00000000000000000002.json" in told and "compacted" in told, True, f"query of a table whose entries are gone {told}")


def times_in_commits(at: Folder) -> None:
    """Where commits keep their times, TIMESTAMP AS OF goes by them, not by those of files, which a copy changes."""
    ids = lambda number: pyarrow.table({"id": [number]})
    features = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["inCommitTimestamp"]}
    root = at.table("timed", [field("id", "long")], [(ids(0), {})], protocol=features, configuration={"delta.enableInCommitTimestamps": "true"})
    for version in range(3):
        entry = root / "_delta_log" / f"{version:020}.json"
        actions = entry.read_text() if version == 0 else ""
        if version:
            name = f"part-v{version}.parquet"
            pyarrow.parquet.write_table(ids(version), root / name)
            actions = json.dumps({"add": {"path": name, "partitionValues": {}, "size": (root / name).stat().st_size, "modificationTime": 1, "dataChange": True}}) + "\n"
        time = int(datetime.datetime(2024, 1, 1 + version, tzinfo=UTC).timestamp() * 1000)
        entry.write_text(json.dumps({"commitInfo": {"inCommitTimestamp": time, "timestamp": time}}) + "\n" + actions)
    for day, want in [("2024-01-01", [(1,)]), ("2024-01-02", [(2,)]), ("2024-06-01", [(3,)])]:
        same(at.rows(f"SELECT count(*) FROM timed TIMESTAMP AS OF '{day}T12:00:00Z'"), want, f"TIMESTAMP AS OF {day} by the times in commits")
    told = str(at.rows("SELECT count(*) FROM timed TIMESTAMP AS OF '2023-12-31T12:00:00Z'"))
    same("no version as old" in told, True, f"TIMESTAMP AS OF before the first commit {told}")


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
    for case in (partition_values, grown_struct, grown_map, odd_statistics, map_of_numbers, far_times, changes_by_vectors, widened, unreadable, shown, joined, compacted, times_in_commits, names_and_versions):
        case(at)
    print("\n".join(WRONG) or "all right")
    sys.exit(1 if WRONG else 0)


main(*sys.argv[1:])

"""Holds weir's Flight SQL server against clients that weir did not write: ADBC's Flight SQL driver and pyarrow.

Usage: flight_sql.py URI WAREHOUSE_FOLDER TOKEN. Writes its own tables with `deltalake`. Prints one line a check; the
first that fails ends it with a traceback and exit code 1.
"""

import datetime
import sys
import threading
import time

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
from deltalake import write_deltalake

URI, WAREHOUSE, TOKEN = sys.argv[1:4]
HEADER = adbc_driver_flightsql.DatabaseOptions.AUTHORIZATION_HEADER.value
ROWS = 1000


def connect(**options):
    options = options or {HEADER: f"Bearer {TOKEN}"}
    return flight_sql.connect(URI, db_kwargs=options, autocommit=True)


def expect_error(action, *wanted):
    try:
        action()
    except Exception as error:  # noqa: BLE001 - the drivers raise several kinds
        text = str(error)
        for part in wanted:
            assert part in text, f"{part!r} is not in {text!r}"
        return error
    raise AssertionError(f"no error, wanted {wanted}")


def payments():
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    return pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "user_id": pa.array([f"u{n % 50}" for n in range(ROWS)]),
            "amount": pa.array([n / 4 if n % 10 else None for n in range(ROWS)], pa.float64()),
            "ts": pa.array([start + datetime.timedelta(seconds=n) for n in range(ROWS)], pa.timestamp("us", "UTC")),
            "day": pa.array([start.date()] * ROWS, pa.date32()),
            "price": pa.array([None if n % 7 == 0 else n for n in range(ROWS)], pa.int32()).cast(pa.decimal128(12, 2)),
            "tags": pa.array([["a", "b"][: n % 3] for n in range(ROWS)], pa.list_(pa.string())),
            "raw": pa.array([bytes([n % 256]) for n in range(ROWS)], pa.binary()),
            "ok": pa.array([n % 2 == 0 for n in range(ROWS)]),
        }
    )


def check_query():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM payments ORDER BY id")
        got = cursor.fetch_arrow_table()
        wanted = payments()
        assert got.num_rows == ROWS, got.num_rows
        for name in wanted.column_names:
            got_type = got.schema.field(name).type
            if name != "tags":
                assert got_type == wanted.schema.field(name).type, (name, got_type)
            assert got.column(name).to_pylist() == wanted.column(name).to_pylist(), name
        cursor.execute("SELECT user_id, count(*) AS n, sum(amount) AS total FROM payments GROUP BY user_id ORDER BY 1")
        rows = cursor.fetchall()
        assert len(rows) == 50 and sum(row[1] for row in rows) == ROWS
        assert abs(sum(row[2] or 0 for row in rows) - pc.sum(wanted["amount"]).as_py()) < 1e-6
        cursor.execute("SELECT id FROM payments WHERE id < 0")
        assert cursor.fetchall() == []
        assert [column[0] for column in cursor.description] == ["id"]


def check_partitioned_and_fresh():
    for day in range(3):
        part = pa.table({"n": pa.array([day] * 10, pa.int64()), "day": pa.array([f"2026-01-0{day + 1}"] * 10)})
        write_deltalake(f"{WAREHOUSE}/parts", part, mode="append", partition_by=["day"])
        with connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*), max(day) FROM parts")
            assert cursor.fetchone() == ((day + 1) * 10, f"2026-01-0{day + 1}")
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sum(n) FROM parts WHERE day = '2026-01-03'")
        assert cursor.fetchone() == (20,)
        cursor.execute("SELECT count(*) FROM parts VERSION AS OF 0")
        assert cursor.fetchone() == (10,)


def check_deleted_rows_stay_deleted():
    from deltalake import DeltaTable

    write_deltalake(f"{WAREHOUSE}/shrunk", pa.table({"n": pa.array(range(100), pa.int64())}))
    DeltaTable(f"{WAREHOUSE}/shrunk").delete("n >= 40")
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), max(n) FROM shrunk")
        assert cursor.fetchone() == (40, 39)


def check_parameters():
    with connect() as connection, connection.cursor() as cursor:
        for sql in ["SELECT id, user_id FROM payments WHERE id = ?", "SELECT id, user_id FROM payments WHERE id = $1"]:
            for wanted in (7, 999):
                cursor.execute(sql, (wanted,))
                assert cursor.fetchall() == [(wanted, f"u{wanted % 50}")], sql
        cursor.execute("SELECT count(*) FROM payments WHERE user_id = ? AND ts < ? AND ok = ?",
                       ("u2", datetime.datetime(2026, 1, 1, 0, 5, tzinfo=datetime.timezone.utc), True))
        assert cursor.fetchone() == (6,)
        cursor.adbc_prepare("SELECT id FROM payments WHERE id = ? AND user_id = ?")
        parameters = cursor.adbc_prepare("SELECT id FROM payments WHERE id = ? AND user_id = ?")
        assert [field.type for field in parameters] == [pa.int64(), pa.string()], parameters
        expect_error(lambda: cursor.execute("SELECT id FROM payments WHERE id = ?", ("not a number",)), "parameter `$1`")


def check_metadata():
    with connect() as connection:
        info = connection.adbc_get_info()
        assert info["vendor_name"] == "weir", info
        assert connection.adbc_get_table_types() == ["SYSTEM TABLE", "TABLE"]
        catalogs = connection.adbc_get_objects(depth="all").read_all().to_pylist()
        assert [catalog["catalog_name"] for catalog in catalogs] == ["weir"]
        schemas = {schema["db_schema_name"]: schema["db_schema_tables"] for schema in catalogs[0]["catalog_db_schemas"]}
        assert {"public", "weir"} <= set(schemas), schemas.keys()
        tables = {table["table_name"]: table for table in schemas["public"]}
        assert "payments" in tables and not any(name.startswith("_") for name in tables), tables.keys()
        columns = [column["column_name"] for column in tables["payments"]["table_columns"]]
        assert columns == payments().column_names, columns
        system = {table["table_name"] for table in schemas["weir"]}
        assert {"dead_letters", "pipelines", "progress", "sources", "state", "tables"} <= set(system), system
        one = connection.adbc_get_objects(depth="tables", table_name_filter="pay%").read_all().to_pylist()
        named = [t["table_name"] for c in one for s in c["catalog_db_schemas"] for t in s["db_schema_tables"]]
        assert named == ["payments"], named
        schema = connection.adbc_get_table_schema("payments", db_schema_filter="public")
        assert schema.names == payments().column_names


def check_big_result():
    wanted = 5_000_000
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT value, value * 2 AS twice FROM generate_series(1, {wanted})")
        reader = cursor.fetch_record_batch()
        rows = total = 0
        for batch in reader:
            rows += batch.num_rows
            total += pc.sum(batch.column(0)).as_py()
        assert rows == wanted and total == wanted * (wanted + 1) // 2, (rows, total)


def check_errors():
    with connect() as connection, connection.cursor() as cursor:
        expect_error(lambda: cursor.execute("SELECT * FROM paymnets"), "table `paymnets` does not exist",
                     "Did you mean `payments`?")
        expect_error(lambda: cursor.execute("SELECT amuont FROM payments"), "column `amuont` does not exist",
                     "Did you mean `amount`?")
        expect_error(lambda: cursor.execute("SELEC 1"), "expected a statement, found `SELEC`")
        expect_error(lambda: cursor.execute("SELECT * FROM '/etc/passwd'"), "cannot be queried")
        # Found out only while running.
        expect_error(lambda: (cursor.execute("SELECT 1 / (id - 5) FROM payments"), cursor.fetchall()), "divide by zero")
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,), "the connection goes on after errors"


def check_writes_refused():
    with connect() as connection, connection.cursor() as cursor:
        for sql in ["INSERT INTO payments (id) VALUES (1)", "DELETE FROM payments", "DROP TABLE payments",
                    "CREATE TABLE t AS SELECT 1", "UPDATE payments SET id = 1", "COPY payments TO '/tmp/x.csv'"]:
            # Verbs that another program does are refused with its name.
            by_others = sql.split()[0] in ("DELETE", "UPDATE", "COPY")
            expect_error(lambda: cursor.execute(sql), "is not supported yet" if by_others else "only queries are served")
            expect_error(lambda: cursor.executescript(sql), "only queries are served")
        expect_error(lambda: cursor.adbc_ingest("fresh", pa.table({"a": [1]}), mode="create"), "")
        cursor.execute("SELECT count(*) FROM payments")
        assert cursor.fetchone() == (ROWS,)


def check_cancel():
    endless = "SELECT value FROM generate_series(1, 2000000000)"
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(endless)
        reader = cursor.fetch_record_batch()
        reader.read_next_batch()
        stopper = threading.Timer(0.2, cursor.adbc_cancel)
        stopper.start()
        began = time.monotonic()
        error = expect_error(lambda: [None for _ in reader])
        stopper.join()
        assert time.monotonic() - began < 20, "cancelling took too long"
        assert "ancel" in str(error) or isinstance(error, adbc_driver_manager.OperationalError), error


def check_login():
    expect_error(lambda: connect(**{HEADER: "Bearer wrong"}).cursor().execute("SELECT 1"), "wrong")
    with connect(username="anyone", password=TOKEN) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    expect_error(lambda: connect(username="anyone", password="no").cursor().execute("SELECT 1"), "wrong")


def check_pyarrow():
    # CommandStatementQuery in a google.protobuf.Any, by hand: pyarrow has no Flight SQL of its own.
    def command(sql):
        def field(number, data):
            length, size = len(data), b""
            while True:
                size += bytes([length & 127 | (128 if length > 127 else 0)])
                length >>= 7
                if not length:
                    return bytes([number << 3 | 2]) + size + data

        name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
        return flight.FlightDescriptor.for_command(field(1, name) + field(2, field(1, sql.encode())))

    with flight.FlightClient(URI) as client:
        expect_error(lambda: client.get_flight_info(command("SELECT 1")), "login is missing")
        options = flight.FlightCallOptions(headers=[client.authenticate_basic_token("anyone", TOKEN)])
        info = client.get_flight_info(command("SELECT id, amount FROM payments WHERE id < 10 ORDER BY id"), options)
        assert info.schema.names == ["id", "amount"]
        assert client.get_schema(command("SELECT id FROM payments"), options).schema.names == ["id"]
        table = client.do_get(info.endpoints[0].ticket, options).read_all()
        assert table["id"].to_pylist() == list(range(10))
        expect_error(lambda: client.do_get(flight.Ticket(b"nonsense"), options))

        info = client.get_flight_info(command("SELECT value FROM generate_series(1, 1000000000)"), options)
        reader = client.do_get(info.endpoints[0].ticket, options)
        reader.read_chunk()
        body = info.serialize()
        length, size = len(body), b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        request = b"\x0a" + size + bytes([length]) + body
        answers = list(client.do_action(flight.Action("CancelFlightInfo", request), options))
        assert answers[0].body.to_pybytes() == b"\x08\x01", answers[0].body.to_pybytes()
        expect_error(lambda: [None for _ in reader], "cancelled")


def main():
    write_deltalake(f"{WAREHOUSE}/payments", payments())
    for check in [check_query, check_partitioned_and_fresh, check_deleted_rows_stay_deleted, check_parameters,
                  check_metadata, check_big_result, check_errors, check_writes_refused, check_cancel, check_login,
                  check_pyarrow]:
        began = time.monotonic()
        check()
        print(f"{check.__name__} ok ({time.monotonic() - began:.1f} s)", flush=True)
    print("all checks passed", flush=True)


main()

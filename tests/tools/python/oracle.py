"""What the oracles share: weir's server, text in two dialects, and the comparison of values."""

import datetime
import decimal
import math
import pathlib
import random
import re
import subprocess
import time

import adbc_driver_flightsql.dbapi as flight_sql

DAY = 86_400_000_000


class Server:
    """`weir serve` over the warehouse of a folder; `ask` returns the columns' rows as tuples."""

    def __init__(self, weir: str, folder: pathlib.Path):
        command = [weir, "serve", "--flight-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        log = folder / "serve.log"
        with open(log, "w") as said:
            self.process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        while not (found := re.findall(r"grpc://\S+(?=\n)", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.02)
        self.connection = flight_sql.connect(found[0], autocommit=True)

    def ask(self, sql: str) -> list[tuple]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            table = cursor.fetch_arrow_table()
        columns = [[plain(value) for value in column] for column in table.columns]
        return list(zip(*columns)) if columns else []

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(30)


def plain(value):
    """An Arrow scalar, or what duckdb gave, in the form that is compared: whole numbers, floats, texts, microseconds."""
    kind = str(getattr(value, "type", ""))
    if kind.startswith("month_day_nano"):
        value = value.as_py()
        return None if value is None else f"interval {(value[0] * 30 + value[1]) * DAY + value[2] // 1000}"
    value = value.as_py() if hasattr(value, "as_py") else value
    if isinstance(value, datetime.datetime):
        return f"time {value.replace(tzinfo=None).isoformat()}"
    if isinstance(value, datetime.date):
        return f"time {value.isoformat()}T00:00:00"
    if isinstance(value, datetime.timedelta):
        return f"interval {value // datetime.timedelta(microseconds=1)}"
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def same(one, other) -> bool:
    if one is None or other is None:
        return one is other
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) or isinstance(other, float):
        if not all(isinstance(side, (int, float, decimal.Decimal)) for side in (one, other)):
            return False
        one, other = float(one), float(other)
        return one == other or math.isnan(one) and math.isnan(other) or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


class Grammar:
    """Rules by type: a text with `{type}` where a part belongs (`{type.a}` twice is the same part), or weir's text,
    duckdb's and the reason why the dialects differ."""

    def __init__(self, dice: random.Random, rules: dict, leaves: dict):
        self.dice, self.rules, self.leaves = dice, rules, leaves

    def make(self, kind: str, depth: int) -> tuple[str, str]:
        if depth <= 0 or kind not in self.rules or self.dice.random() < 0.12:
            leaf = self.dice.choice(self.leaves[kind])
            return leaf if isinstance(leaf, tuple) else (leaf, leaf)
        return self.fill(self.dice.choice(self.rules[kind]), depth - 1)

    def fill(self, rule, depth: int) -> tuple[str, str]:
        parts = {}
        mine, theirs = rule[:2] if isinstance(rule, tuple) else (rule, rule)
        for name in re.findall(r"\{([a-z0-9.]+)\}", mine):
            # A name without a letter is another part at each place, so that both texts number them alike.
            parts.setdefault(name, []).append(self.make(name.split(".")[0], depth))
        return self.put(mine, parts, 0), self.put(theirs, parts, 1)

    @staticmethod
    def put(text: str, parts: dict, dialect: int) -> str:
        seen = {}

        def part(found):
            name = found[1]
            seen[name] = seen.get(name, -1) + 1
            return parts[name][0 if "." in name else seen[name]][dialect]

        return re.sub(r"\{([a-z0-9.]+)\}", part, text)

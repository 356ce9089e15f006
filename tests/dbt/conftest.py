"""A toy world of 30 users with everything that goes wrong in real tables, its marts in plain Python, and PostgreSQL."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import quantiles

import polars as pl
import pytest

from reland_features.columns import HOLDOUT, IMPRESSIONS, INTERACTIONS, ITEMS, MARTS, USER_HISTORIES, USERS

AS_OF = datetime(2024, 3, 1)
SETTINGS = {"as_of": "2024-03-01 00:00:00", "window_days": 40, "user_k_core": 3, "item_k_core": 4, "max_history": 3}
HOLDOUT_SETTINGS = {"holdout": 2, "min_history": 2}


@dataclass(frozen=True)
class Toy:
    """Source tables: interactions as (user, item, time, event, weight, pos), items, users, impressions."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    impressions: pl.DataFrame


def make_toy(seed: int = 7) -> Toy:
    """Draw the world: ids whose order depends on the collation, ties in time, repetitions, unknown items."""
    draw = random.Random(seed)
    users = [f"{letter}{n}" for n in range(1, 7) for letter in ("a", "B", "é", "_", "Z")]  # 30
    items = [f"{letter}-{n}" for n in (1, 2, 10) for letter in ("x", "Y", "ü", "0")]
    rows = []
    for number, user in enumerate(users):
        for pos in range(2 + number % 9):
            time = datetime(2024, 1, 10) + timedelta(days=draw.randrange(60), hours=draw.choice([0, 0, 7]))
            item = draw.choice([*items, *items, "unknown"])
            event = draw.choice(["view", "buy"])
            rows.append((user, item, time, event, float(draw.randrange(1, 6)), pos))
            if draw.random() < 0.2:  # an exact repetition, of another weight
                rows.append((user, item, time, event, float(draw.randrange(1, 6)), pos + 100))
    draw.shuffle(rows)
    interactions = pl.DataFrame(
        rows,
        orient="row",
        schema={
            "uid": pl.String(),
            "iid": pl.String(),
            "at": pl.Datetime("us"),
            "kind": pl.String(),
            "stars": pl.Float64(),
            "pos": pl.Int64(),
        },
    )
    catalogue = pl.DataFrame(
        {
            "iid": [*items, "never-seen"],
            "name": [f"Title of '{item}'" for item in [*items, "never-seen"]],
            "maker": [None if n % 3 == 0 else f"Maker {n}" for n in range(len(items) + 1)],
            "genres": [[] if n % 4 == 0 else ["Drama", "Sci-Fi"][: 1 + n % 2] for n in range(len(items) + 1)],
        }
    )
    profiles = pl.DataFrame(
        {
            "uid": [*users[3:], "silent"],
            "age": [None if n % 5 == 0 else 20 + n for n in range(len(users) - 2)],
            "town": [None if n % 10 == 0 else "Köln" for n in range(len(users) - 2)],
        }
    )
    shown = interactions.select("uid", "iid", at="at", clicked=pl.col("pos") % 2 == 0)
    return Toy(interactions, catalogue, profiles, shown)


def k_core(rows: list[tuple], user_k: int, item_k: int) -> list[tuple]:
    """Remove until nothing changes."""
    while True:
        users, items = Counter(r[0] for r in rows), Counter(r[1] for r in rows)
        kept = [r for r in rows if users[r[0]] >= user_k and items[r[1]] >= item_k]
        if len(kept) == len(rows):
            return rows
        rows = kept


def expected_marts(toy: Toy) -> dict[str, pl.DataFrame]:
    """Compute the marts once more, row by row in plain Python."""
    known = set(toy.items["iid"])
    rows = [r for r in toy.interactions.rows() if r[1] in known]
    start = AS_OF - timedelta(days=SETTINGS["window_days"])
    rows = [r for r in rows if start < r[2] <= AS_OF]
    first: dict[tuple, tuple] = {}
    for row in sorted(rows, key=lambda r: (r[5], r[4])):
        first.setdefault((row[0], row[1], row[2], row[3]), row)
    rows = k_core(list(first.values()), SETTINGS["user_k_core"], SETTINGS["item_k_core"])

    interactions, holdout, histories, activity = [], [], [], {}
    for user in sorted({r[0] for r in rows}, key=str.encode):
        own = sorted((r for r in rows if r[0] == user), key=lambda r: r[5])
        if len(own) >= HOLDOUT_SETTINGS["holdout"] + HOLDOUT_SETTINGS["min_history"]:
            own, hidden = own[:-2], own[-2:]
            holdout += [(user, r[1], r[2], rank) for rank, r in enumerate(reversed(hidden), 1)]
        interactions += [(*r[:5], order) for order, r in enumerate(own, 1)]
        times = [r[2] for r in own]
        histories.append((user, [r[1] for r in own][-SETTINGS["max_history"] :], len(own), max(times)))
        activity[user] = (len(own), min(times), max(times))
    q25, q50, q75 = quantiles([a[0] for a in activity.values()], n=4, method="inclusive")
    profiles = {
        uid: "; ".join(f"{name}: {value}" for name, value in (("age", age), ("town", town)) if value is not None)
        or None
        for uid, age, town in toy.users.rows()
    }
    users = []
    for user in sorted(activity.keys() | profiles.keys(), key=str.encode):
        count, begin, end = activity.get(user, (0, None, None))
        level = "L1" if count <= q25 else "L2" if count <= q50 else "L3" if count <= q75 else "L4"
        users.append((user, profiles.get(user), count, level if count else None, begin, end))
    seen = Counter(r[1] for r in interactions)
    items = [
        (iid, name, maker, genres, None, seen[iid])
        for iid, name, maker, genres in sorted(toy.items.rows(), key=lambda r: r[0].encode())
    ]
    clicked: dict[tuple, bool] = {}
    for user, item, shown_at, click in toy.impressions.rows():
        if shown_at <= AS_OF:
            clicked[user, item, shown_at] = clicked.get((user, item, shown_at), False) or click
    impressions = sorted(
        ((*key, click) for key, click in clicked.items()), key=lambda r: (r[0].encode(), r[1].encode(), r[2])
    )
    made = {INTERACTIONS: interactions, ITEMS: items, USERS: users, USER_HISTORIES: histories, HOLDOUT: holdout}
    made[IMPRESSIONS] = impressions
    return {t.name: pl.DataFrame(content, schema=t.polars_schema(), orient="row") for t, content in made.items()}


COLUMNS = {
    "interactions": {
        "user_id": "uid",
        "item_id": "iid",
        "interacted_at": "at",
        "order": "pos",
        "event_type": "kind",
        "weight": "stars",
    },
    "items": {"item_id": "iid", "title": "name", "brand": "maker", "categories": "genres", "description": None},
    "users": {"user_id": "uid", "profile": ["age", "town"]},
    "impressions": {"user_id": "uid", "item_id": "iid", "shown_at": "at", "is_clicked": "clicked"},
}


def read_marts(folder: Path) -> dict[str, pl.DataFrame]:
    """Read the marts, as they lie there: order included."""
    files = [folder / f"{table.name}.parquet" for table in (*MARTS, IMPRESSIONS)]
    return {file.stem: pl.read_parquet(file) for file in files if file.exists()}


@dataclass(frozen=True)
class World:
    """What the tests of this folder share."""

    toy: Toy
    columns: dict
    settings: dict
    package: Path

    expected_marts = staticmethod(expected_marts)
    read_marts = staticmethod(read_marts)


@pytest.fixture(scope="session")
def world() -> World:
    return World(make_toy(), COLUMNS, SETTINGS | HOLDOUT_SETTINGS, Path(__file__).parents[2] / "dbt")


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), Path()).parent or None


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, str]]:
    """Start a throwaway cluster on a free loopback port: a collation and a time zone that are not ours."""
    binaries = _binaries()
    if binaries is None or not (binaries / "initdb").exists():
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="reland-postgres-"))
    account: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            entry = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL is not installed with its account `postgres`")
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        account = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"

    def run(tool: str, *arguments: str) -> None:
        subprocess.run(
            [*account, str(binaries / tool), "-D", str(data), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )

    run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu",
        "--icu-locale=en-US", "--no-sync")  # fmt: skip
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c timezone=Asia/Tokyo"
    )
    try:
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "postgres",
            "PGPASSWORD": "",
            "PGDATABASE": "postgres",
            "RELAND_SCHEMA": "reland",
        }
    finally:
        if (data / "postmaster.pid").exists():
            run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)

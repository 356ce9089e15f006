"""Remember every LLM call and its answer, so that a run resumes, a bill is known and nothing is paid twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Literal

from reland_features.errors import ArtifactError
from reland_features.usage import EngineUsage, Usage

_APPLICATION = 0x526C4C64  # "RlLd", in the file's header: this database is a ledger
_VERSION = 1
IMPORTED = "imported:"  # what the engine_id of a text begins with that no LLM of ours was asked for
_CHUNK = 500  # keys per query, below SQLite's limit of variables
_SCHEMA = """
create table if not exists attempts (
    id integer primary key,
    key text not null,
    engine_id text not null,
    prompt_id text not null,
    parameters text not null,
    seed_user_id text not null,
    status text not null check (status in ('ok', 'failed')),
    text text not null,
    finish_reason text not null,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    error text not null,
    started_at text not null,
    seconds real not null
) strict;
create index if not exists attempts_by_key on attempts (key, status);
"""
# Beside the attempts and not in them: a price that was wrong is put right for all calls of its engine.
_PRICES = """
create table if not exists prices (
    engine_id text primary key,
    prompt_price real not null,
    completion_price real not null
) strict;
"""


@dataclass(frozen=True)
class Attempt:
    """One LLM call: an answer (``ok``), usable or not, or a failure (``failed``); or an imported answer.

    `parameters` is JSON, `started_at` UTC in ISO format, `seconds` this call's share of its batch.
    """

    key: str
    engine_id: str
    prompt_id: str
    parameters: str
    seed_user_id: str
    status: Literal["ok", "failed"]
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str
    started_at: str
    seconds: float


_COLUMNS = ", ".join(field.name for field in fields(Attempt))
_TOTALS = (
    f"count(*) filter (where engine_id not like '{IMPORTED}%'),"
    " count(*) filter (where status = 'failed'), coalesce(sum(prompt_tokens), 0),"
    " coalesce(sum(completion_tokens), 0), coalesce(sum(seconds), 0.0)"
)


class Ledger:
    """A SQLite file with one row per LLM call.

    A batch is recorded in one transaction that is on the disk when `record` returns (WAL,
    ``synchronous=FULL``): after a kill it is there completely or not at all.

    Parameters
    ----------
    path : Path
        Created with its folder if it is not there.

    Raises
    ------
    ArtifactError
        The file is not a ledger, is of another version, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors("the ledger cannot be opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            with self._errors("the ledger cannot be opened"):
                self._check()
                self._connection.execute("pragma journal_mode = wal")
                self._connection.execute("pragma synchronous = full")
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def answers(self, keys: Iterable[str]) -> dict[str, Attempt]:
        """Return the latest answer of every key that has one."""
        return self._latest(keys, "ok")

    def failures(self, keys: Iterable[str]) -> dict[str, Attempt]:
        """Return the latest failure of every key that has one, answered later or not."""
        return self._latest(keys, "failed")

    def record(self, attempts: Sequence[Attempt]) -> None:
        """Append a batch in one transaction.

        Raises
        ------
        ArtifactError
            The disk is full or the file is locked for more than 30 seconds; nothing of the batch is recorded.
        """
        places = ", ".join("?" * len(fields(Attempt)))
        with self._errors("the ledger cannot be written; the last batch of answers is not recorded"):
            self._connection.execute("begin immediate")
            try:
                self._connection.executemany(
                    f"insert into attempts ({_COLUMNS}) values ({places})", [astuple(attempt) for attempt in attempts]
                )
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise

    def usage(self, keys: Iterable[str] | None = None) -> Usage:
        """Return the totals of all attempts, or of those with certain keys."""
        totals = f"select {_TOTALS} from attempts"
        with self._errors("the ledger cannot be read"):
            if keys is None:
                return Usage(*self._connection.execute(totals).fetchone())
            rows = [
                self._connection.execute(f"{totals} where key in ({_places(chunk)})", chunk).fetchone()
                for chunk in _chunks(keys)
            ]
        return Usage(*(sum(column) for column in zip(*rows, strict=True))) if rows else Usage()

    def usage_by_engine(self) -> list[EngineUsage]:
        """Return the totals of every engine that was asked, by its id; imported texts are none."""
        prices = self.prices()
        query = f"select engine_id, {_TOTALS} from attempts where engine_id not like ? group by 1 order by 1"
        with self._errors("the ledger cannot be read"):
            rows = self._connection.execute(query, (f"{IMPORTED}%",)).fetchall()
        return [
            EngineUsage(engine, usage, usage.cost(*prices.get(engine, (0.0, 0.0))))
            for engine, usage in ((engine, Usage(*totals)) for engine, *totals in rows)
        ]

    def set_prices(self, engine_id: str, prompt_price: float, completion_price: float) -> None:
        """Note what an engine costs, per million tokens; it holds for its earlier calls too."""
        with self._errors("the ledger cannot be written"):
            self._connection.execute(
                "insert or replace into prices values (?, ?, ?)", (engine_id, prompt_price, completion_price)
            )

    def prices(self) -> dict[str, tuple[float, float]]:
        """Return (prompt price, completion price) per million tokens by engine, as last noted."""
        with self._errors("the ledger cannot be read"):
            rows = self._connection.execute("select engine_id, prompt_price, completion_price from prices")
            return {engine: (prompt, completion) for engine, prompt, completion in rows}

    def attempts(self, **where: str) -> list[tuple[int, Attempt]]:
        """Return (row number, attempt) in the order of their recording.

        Parameters
        ----------
        **where : str
            Columns and what they hold, for example ``engine_id="dummy:x", prompt_id="movies-1"``.
        """
        known = [field.name for field in fields(Attempt)]
        assert set(where) <= set(known), where
        condition = " and ".join(f"{column} = ?" for column in where) or "true"
        query = f"select id, {_COLUMNS} from attempts where {condition} order by id"
        with self._errors("the ledger cannot be read"):
            rows = self._connection.execute(query, tuple(where.values())).fetchall()
        return [(number, Attempt(*values)) for number, *values in rows]

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete rows for good and give their room on the disk back."""
        with self._errors("the ledger cannot be written; nothing was deleted"):
            self._connection.execute("begin immediate")
            try:
                self._connection.executemany("delete from attempts where id = ?", [(number,) for number in numbers])
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise
        with self._errors("the rows are deleted, but their room was not given back"):
            self._connection.execute("vacuum")

    def tokens_per_seed(self, engine_id: str, prompt_id: str) -> tuple[float, float] | None:
        """Return the prompt and completion tokens, retries included, per seed asked so far; None without any."""
        query = (
            "select sum(prompt_tokens), sum(completion_tokens), count(distinct seed_user_id) from attempts"
            " where engine_id = ? and prompt_id = ?"
        )
        with self._errors("the ledger cannot be read"):
            prompt, completion, seeds = self._connection.execute(query, (engine_id, prompt_id)).fetchone()
        return (prompt / seeds, completion / seeds) if seeds else None

    def _latest(self, keys: Iterable[str], status: str) -> dict[str, Attempt]:
        found: dict[str, Attempt] = {}
        with self._errors("the ledger cannot be read"):
            for chunk in _chunks(keys):
                query = f"select {_COLUMNS} from attempts where status = ? and key in ({_places(chunk)}) order by id"
                for row in self._connection.execute(query, (status, *chunk)):
                    found[row[0]] = Attempt(*row)
        return found

    def _check(self) -> None:
        application = self._connection.execute("pragma application_id").fetchone()[0]
        if application == 0 and not self._connection.execute("select count(*) from sqlite_master").fetchone()[0]:
            # One transaction: of two processes that start together, the second finds the first one's tables.
            self._connection.executescript(
                f"begin immediate; {_SCHEMA} {_PRICES} pragma application_id = {_APPLICATION};"
                f"pragma user_version = {_VERSION}; commit;"
            )
        elif application != _APPLICATION:
            raise ArtifactError(
                "the ledger is another SQLite database", where=str(self.path), hint="move that file away and run again"
            )
        version = self._connection.execute("pragma user_version").fetchone()[0]
        if version != _VERSION:
            raise ArtifactError(
                "the ledger is of another version of reland-features",
                where=str(self.path),
                got=f"version {version}",
                expected=f"version {_VERSION}",
                hint="install the version that wrote it, or move the file away (its answers would be paid again)",
            )
        self._connection.executescript(_PRICES)  # ledgers of the first release have no such table

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            is_other = isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error)
            is_full = "full" in str(error)
            raise ArtifactError(
                "the ledger is not a SQLite database" if is_other else what,
                where=str(self.path),
                got=error,
                hint="move that file away and run again"
                if is_other
                else "make room on the disk and run again; recorded answers are kept"
                if is_full
                else "check that the folder is writable and no other run uses it, then run again",
            ) from error


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), _CHUNK):
        yield distinct[start : start + _CHUNK]


def _places(chunk: Sequence[str]) -> str:
    return ", ".join("?" * len(chunk))

"""Keep what people decide about single rationales: who, when, what and why, appended and never changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from reland_features.errors import ArtifactError

DECISIONS = "decisions.sqlite"
"""File in a project's `.reland` folder."""

Action = Literal["block", "unblock", "edit", "regenerate", "unusable", "restore"]

_SCHEMA = """
create table if not exists decisions (
    id integer primary key,
    seed_user_id text not null,
    action text not null check (action in ('block', 'unblock', 'edit', 'regenerate', 'unusable', 'restore')),
    author text not null check (author <> ''),
    decided_at text not null,
    reason text not null,
    replaces text not null,
    summary text not null,
    categories text not null,
    items text not null,
    text text not null,
    ledger_key text not null
) strict;
create trigger if not exists decisions_are_kept before delete on decisions
begin select raise(abort, 'decisions are never deleted'); end;
create trigger if not exists decisions_are_final before update on decisions
begin select raise(abort, 'decisions are never changed'); end;
"""


@dataclass(frozen=True)
class Decision:
    """What somebody decided about one seed's rationale.

    Parameters
    ----------
    seed_user_id, author, reason : str
        Whose rationale, who decided, and why.
    action : str
        ``block`` and ``unblock``; ``edit`` (words of the author) and ``regenerate`` (an LLM's second answer)
        bring a new text, ``restore`` takes it back. ``unusable`` notes a second answer that cannot be used: it was
        paid for, and changes nothing.
    decided_at : str
        UTC, ISO format without a zone.
    replaces : str
        `ledger_key` of the rationale that a new text stands for. Once the LLM has written another one, for a
        longer history or with another prompt, the new text is out of date and is not used.
    summary, categories, items
        The new text, with names as the catalogue has them.
    text, ledger_key : str
        The LLM's raw answer and its key, of ``regenerate``.
    """

    seed_user_id: str
    action: Action
    author: str
    decided_at: str
    reason: str = ""
    replaces: str = ""
    summary: str = ""
    categories: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    text: str = ""
    ledger_key: str = ""


_NAMES = [field.name for field in fields(Decision)]


def record_decision(path: Path, decision: Decision) -> None:
    """Append a decision; when this returns it is on the disk.

    Raises
    ------
    ArtifactError
        The file cannot be written, or is not ours.
    """
    row = [_stored(getattr(decision, name)) for name in _NAMES]
    with _errors(path, "the decision is not recorded"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("pragma synchronous = full")
            connection.executescript(_SCHEMA)
            with connection:
                places = ", ".join("?" * len(row))
                connection.execute(f"insert into decisions ({', '.join(_NAMES)}) values ({places})", row)


def read_decisions(path: Path) -> tuple[Decision, ...]:
    """Return all decisions in the order they were taken; none where there is no file, which is not made.

    Raises
    ------
    ArtifactError
        The file cannot be read, or is not ours.
    """
    if not path.is_file():
        return ()
    with _errors(path, "the decisions cannot be read"):
        with closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", timeout=30, uri=True)) as connection:
            # A kill before the first decision may leave the file without its table.
            if not connection.execute("select count(*) from sqlite_master where name = 'decisions'").fetchone()[0]:
                return ()
            rows = connection.execute(f"select {', '.join(_NAMES)} from decisions order by id").fetchall()
    return tuple(_decision(dict(zip(_NAMES, row, strict=True))) for row in rows)


def _stored(value: str | tuple[str, ...]) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value


def _decision(row: dict[str, Any]) -> Decision:
    lists = {name: tuple(json.loads(row[name])) for name in ("categories", "items")}
    return Decision(**{**row, **lists})


@contextmanager
def _errors(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ArtifactError(
            what, where=str(path), got=error, hint="make the folder writable, or move a file that is not ours away"
        ) from error

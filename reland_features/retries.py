"""Remember how often a finished run was asked to try its failed seeds again: each time makes another artifact."""

from __future__ import annotations

import json
from pathlib import Path

from reland_features.artifacts import write_atomically


def retries_of(file: Path, rationales: str) -> int:
    """Return how often some rationales were retried."""
    return _read(file).get(rationales, 0)


def note_retry(file: Path, rationales: str, number: int) -> None:
    """Note which retry it is, before its first call: what follows a kill belongs to it."""
    write_atomically(file, json.dumps({**_read(file), rationales: number}, indent=2) + "\n")


def _read(file: Path) -> dict[str, int]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}

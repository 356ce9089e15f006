"""Check that a source has the columns that the project maps, of types that staging can cast."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from reland_features.config import Config
from reland_features.errors import RelandError, TableError
from reland_features.source_tables import Kind, SourceTable

_TEXT: tuple[Kind, ...] = ("text", "integer", "date", "timestamp", "zoned", "flag", "number")
# Which kinds each of our columns may have. A float is no id: 7 and 7.0 are different strings.
_ALLOWED: Mapping[str, tuple[tuple[Kind, ...], str]] = {
    "user_id": (("text", "integer"), "text or integers"),
    "item_id": (("text", "integer"), "text or integers"),
    "interacted_at": (
        ("text", "integer", "number", "date", "timestamp", "zoned"),
        "timestamps, epoch numbers or ISO 8601",
    ),
    "shown_at": (("text", "integer", "number", "date", "timestamp", "zoned"), "timestamps, epoch numbers or ISO 8601"),
    "order": (("text", "integer", "number"), "numbers"),
    "weight": (("text", "integer", "number"), "numbers"),
    "event_type": (("text", "integer", "flag"), "text"),
    "is_clicked": (("text", "integer", "flag"), "true and false, or 1 and 0"),
    "categories": (("text", "list"), "a list of text, or text with a separator"),
    "title": (_TEXT, "text"),
    "brand": (_TEXT, "text"),
    "description": (_TEXT, "text"),
    "profile": (_TEXT, "single values"),
}


def mapped_columns(config: Config, name: str) -> dict[str, str]:
    """Return the source column of each role that a table maps; a profile column's role is ``profile:NAME``."""
    columns = getattr(config.data.columns, name).model_dump()
    flat = {role: column for role, column in columns.items() if isinstance(column, str)}
    return flat | {f"profile:{column}": column for column in columns.get("profile", ())}


def check_columns(table: SourceTable, mapping: Mapping[str, str]) -> list[RelandError]:
    """Return one problem per mapped column that is missing or of a type that does not fit its role."""
    problems: list[RelandError] = []
    for role, column in mapping.items():
        key = f"data.columns.{table.name}.{role.partition(':')[0]}"
        if column not in table.types:
            near = difflib.get_close_matches(column.lower(), [name.lower() for name in table.types], n=1, cutoff=0.5)
            hint = next((f"did you mean {name!r}? Set {key}" for name in table.types if name.lower() in near), "")
            problems.append(
                TableError(
                    f"the {table.name} table has no column {column!r}",
                    where=table.where,
                    got=f"columns {', '.join(table.types)}",
                    expected=f"{column!r}, as {key} says",
                    hint=hint or f"set {key} in reland.toml",
                )
            )
            continue
        allowed, expected = _ALLOWED[role.partition(":")[0]]
        if table.kind(column) not in allowed:
            problems.append(
                TableError(
                    f"column {column!r} of the {table.name} table has the wrong type",
                    where=table.where,
                    got=table.types[column],
                    expected=expected,
                    hint=f"cast it, or set {key} to another column",
                )
            )
    return problems

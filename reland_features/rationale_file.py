"""Files of rationales: read what another system wrote, one text per user or every problem at once; write a pool's."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from reland_features.artifacts import whole_file
from reland_features.columns import IMPORTED_TEXTS
from reland_features.errors import CheckError, RelandError, TableError
from reland_features.prompts import PromptTemplate

COLUMNS = ("user_id", "text", "steps", "model")
_PARQUET, _JSONL = (".parquet", ".pq"), (".jsonl", ".ndjson")
_STEPS = "a struct of summary, categories and items, or a list of one or two texts: Step 1, Step 2"


class RationaleFile(NamedTuple):
    """What a file of rationales holds.

    Attributes
    ----------
    texts : polars.DataFrame
        `columns.IMPORTED_TEXTS`, ascending by user_id.
    left_out : int
        Rows of unknown users that were left out, as `skip_unknown` asks.
    """

    texts: pl.DataFrame
    left_out: int


def read_rationale_file(
    path: Path,
    template: PromptTemplate,
    *,
    model: str | None = None,
    users: Collection[str] | None = None,
    skip_unknown: bool = False,
) -> RationaleFile:
    """Read parquet or JSONL with the columns `user_id`, `text` or `steps`, and `model`; others are passed over.

    Parameters
    ----------
    path : Path
        `user_id` is text or an integer. `text` holds both steps or only Step 1. `steps` counts where a row has
        both: a struct of summary, categories and items, or a list with one text per step.
    template : PromptTemplate
        Its labels tell the steps of a text apart.
    model : str, optional
        Who wrote the texts, for rows that do not say it.
    users : collection of str, optional
        The users of the project; without them unknown users are not found.
    skip_unknown : bool
        Leave out the rows of unknown users, whatever is in them, instead of reporting them.

    Raises
    ------
    CheckError
        One problem per kind: the file, its columns, its types, empty or repeated or unknown values.
    """
    columns, rows, problems = _read(path)
    problems += _column_problems(path, columns, model)
    if problems and not rows:
        raise CheckError(problems)
    faults = _Faults(path)
    found: dict[str, tuple[Any, ...]] = {}
    left_out = 0
    for number, row in rows:
        user = _user(row, number, faults) if "user_id" in columns else None
        is_unknown = user is not None and users is not None and user not in users
        if skip_unknown and is_unknown:  # first: what else is wrong with a row that is left out does not matter
            left_out += 1
            continue
        text = _text(row, number, faults, template) if {"text", "steps"} & set(columns) else None
        writer = _writer(row, number, faults, model) if model or "model" in columns else None
        if user is None:
            continue
        if user in found:
            faults.add("repeat a user", number, user, "one row per user", "keep one row of each user")
        if users is not None and is_unknown:
            expected = f"a user_id of the project, such as {', '.join(sorted(users)[:3])}"
            hint = "mend the ids, or add --skip-unknown to leave these users out"
            faults.add("name a user that the project does not know", number, user, expected, hint)
        found[user] = (user, text, writer, template.has_step2(text) if text else False)
    problems += faults.problems()
    if not problems and not found:
        problems.append(TableError("the file has no text of any user", where=str(path), got=f"{len(rows):,} rows"))
    if problems:
        raise CheckError(problems)
    texts = pl.DataFrame(list(found.values()), schema=IMPORTED_TEXTS.polars_schema(), orient="row")
    return RationaleFile(texts.sort("user_id"), left_out)


def write_rationale_file(pool: pl.DataFrame, model: str, path: Path) -> None:
    """Write a pool's rationales as a file that `read_rationale_file` reads: `user_id`, `steps` and `model`.

    Parameters
    ----------
    pool : polars.DataFrame
        `columns.POOL`, with what people edited and without what they blocked.
    model : str
        Who wrote them.
    path : Path
        Parquet or JSONL, by its ending; written as a whole or not at all.

    Raises
    ------
    TableError
        The file is of an unknown kind.
    """
    suffix = path.suffix.lower()
    if suffix not in (*_PARQUET, *_JSONL):
        raise _unknown_kind(path)
    steps = pl.struct("summary", "categories", "items")
    frame = pool.select(user_id="seed_user_id", steps=steps, model=pl.lit(model)).sort("user_id")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        frame.write_parquet(temporary) if suffix in _PARQUET else frame.write_ndjson(temporary)


class _Faults:
    """The rows of a file by what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, tuple[list[int], object, str, str]] = {}

    def add(self, what: str, row: int, got: object, expected: str = "", hint: str = "") -> None:
        self._found.setdefault(what, ([], got, expected, hint))[0].append(row)

    def problems(self) -> Iterator[RelandError]:
        for what, (rows, got, expected, hint) in self._found.items():
            first = f"row {rows[0]:,}: {str(got)[:60]!r}"
            yield TableError(
                f"rows of the file {what}",
                where=str(self._path),
                got=f"{len(rows):,} rows, the first {first}",
                expected=expected,
                hint=hint,
            )


def _read(path: Path) -> tuple[list[str], list[tuple[int, Mapping[str, Any]]], list[RelandError]]:
    """Return columns, numbered rows and what cannot be read."""
    if not path.is_file():
        raise TableError("there is no such file", where=str(path), expected="parquet or JSONL")
    if path.suffix.lower() in _PARQUET:
        try:
            frame = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise TableError("the file cannot be read", where=str(path), got=error, expected="parquet") from error
        known = frame.select(name for name in COLUMNS if name in frame.columns)
        return frame.columns, list(enumerate(known.iter_rows(named=True), 1)), []
    if path.suffix.lower() not in _JSONL:
        raise _unknown_kind(path)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    faults = _Faults(path)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = json.loads(line) if line.strip() else None
        except ValueError:  # no JSON, or no UTF-8
            value = line
        if isinstance(value, dict):
            rows.append((number, value))
        elif line.strip():
            faults.add("are no JSON objects", number, line.decode(errors="replace"), 'lines like {"user_id": …}')
    return sorted({key for _, row in rows for key in row}), rows, list(faults.problems())


def _unknown_kind(path: Path) -> TableError:
    expected = ", ".join((*_PARQUET, *_JSONL))
    return TableError("the file is of an unknown kind", where=str(path), got=path.suffix, expected=expected)


def _column_problems(path: Path, columns: list[str], model: str | None) -> Iterator[RelandError]:
    for what, is_there in (("user_id", "user_id" in columns), ("text or steps", {"text", "steps"} & set(columns))):
        if columns and not is_there:
            near = difflib.get_close_matches(what, columns, n=1)
            yield TableError(
                f"the file lacks a column {what}",
                where=str(path),
                got=", ".join(columns),
                hint=f"rename {near[0]!r}?" if near else f"rename a column to {what}",
            )
    if columns and "model" not in columns and not model:
        yield TableError("the file does not say who wrote its texts", where=str(path), hint="add --model NAME")


def _user(row: Mapping[str, Any], number: int, faults: _Faults) -> str | None:
    value = row.get("user_id")
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    # A float is no id: 7 and 7.0 are different strings.
    faults.add("have a user_id that is none", number, value, "text or an integer", "mend or drop these rows")
    return None


def _text(row: Mapping[str, Any], number: int, faults: _Faults, template: PromptTemplate) -> str | None:
    text, steps = row.get("text"), row.get("steps")
    if steps is not None:
        text = _from_steps(steps, template)
        if text is None:
            faults.add("have steps of a wrong type", number, steps, _STEPS)
    elif text is not None and not isinstance(text, str):
        faults.add("have a text of a wrong type", number, text, "text")
        text = None
    elif text is None or not text.strip():
        faults.add("have an empty text", number, text, "both steps, or Step 1", "drop these rows")
    return text


def _from_steps(steps: Any, template: PromptTemplate) -> str | None:
    """Write steps as an answer that the template's reader reads back, None if they are none."""
    if isinstance(steps, dict) and set(steps) <= {"summary", "categories", "items"}:
        summary = steps.get("summary")
        lists = [steps.get(name) or [] for name in ("categories", "items")]
        names = [name for values in lists for name in (values if isinstance(values, list) else [None])]
        if isinstance(summary, str) and summary.strip() and all(isinstance(name, str) for name in names):
            value = {"summary": summary, "categories": lists[0], "items": lists[1]}
            return json.dumps(value, ensure_ascii=False)
    if isinstance(steps, list) and all(isinstance(step, str) and step.strip() for step in steps):
        labels = (template.labels["summary"], template.labels["answer"])
        if 1 <= len(steps) <= 2:
            return "\n".join(f"{label} {step}" for label, step in zip(labels, steps, strict=False))
    return None


def _writer(row: Mapping[str, Any], number: int, faults: _Faults, model: str | None) -> str | None:
    value = row.get("model")
    if value is None or value == "":
        value = model
    if isinstance(value, str):
        return value
    faults.add("do not say who wrote them", number, value, "the name of a model", "add --model NAME for these rows")
    return None

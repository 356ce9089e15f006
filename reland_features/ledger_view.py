"""Look into a project's ledger: what was asked, what came of it, what it cost, and what may be thrown away.

A row of the ledger stays as it came. Whether an answer is ``ok`` or ``invalid`` is found by reading it again with the
prompt template and the tables of today, so that a reader that understands more makes old answers valid for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import polars as pl

from reland_features.answers import problem_of, read_answer
from reland_features.artifacts import whole_file
from reland_features.errors import ArtifactError, ConfigError
from reland_features.ledger import IMPORTED, Attempt, Ledger
from reland_features.project import Project
from reland_features.prompts import Catalogue, PromptTemplate
from reland_features.seed_requests import banned_titles
from reland_features.seed_tables import items_seen
from reland_features.usage import Usage

_TYPES = {"prompt_tokens": pl.Int64, "completion_tokens": pl.Int64, "seconds": pl.Float64}
SCHEMA = pl.Schema(
    {
        "attempt": pl.Int64,
        **{field.name: _TYPES.get(field.name, pl.String) for field in fields(Attempt)},
        "reason": pl.String,
        "cost": pl.Float64,
    }
)


@dataclass(frozen=True)
class Pruning:
    """What `prune` would delete or did: rows by why, and rows kept because the current pool rests on them."""

    failed: int
    unused: int
    other: int
    protected: int
    deleted: bool

    @property
    def rows(self) -> int:
        """All rows that go."""
        return self.failed + self.unused + self.other


def attempts(project: Project, seed: str | None = None) -> pl.DataFrame:
    """Return every attempt, oldest first, or those of one seed user.

    Seeds with the same prompt share a request, which the ledger keeps under the first of them: of another one the
    answers that its rationales were made from are found, read as this seed may use them.

    Returns
    -------
    polars.DataFrame
        The ledger's columns with `status` ok, invalid or failed, `reason` why it is not ok, and `cost` at the prices
        last configured for the engine, null where there are none.
    """
    with _open(project) as ledger:
        rows = ledger.attempts() if seed is None else _of_seed(project, ledger, seed)
        prices = ledger.prices()
    readers = {attempt.seed_user_id for _, attempt in rows} if seed is None else {seed}
    reader = _Reader.of(project, readers) if rows else None
    found = []
    for number, attempt in rows:
        problem = reader.problem(attempt, seed) if reader and attempt.status == "ok" else attempt.error
        status = attempt.status if attempt.status == "failed" or not problem else "invalid"
        usage = Usage(1, 0, attempt.prompt_tokens, attempt.completion_tokens)
        cost = usage.cost(*prices[attempt.engine_id]) if attempt.engine_id in prices else None
        found.append({"attempt": number, **asdict(attempt), "status": status, "reason": problem or None, "cost": cost})
    return pl.DataFrame(found, schema=SCHEMA, orient="row")


def _of_seed(project: Project, ledger: Ledger, seed: str) -> list[tuple[int, Attempt]]:
    keys: set[str] = set()
    for made in project.artifacts.all("rationales"):
        rows = pl.scan_parquet(made.table("rationales")).filter(pl.col("seed_user_id") == seed)
        keys |= set(rows.select("ledger_key").collect()["ledger_key"]) - {""}
    found = dict(ledger.attempts(seed_user_id=seed))
    for key in keys:
        found |= dict(ledger.attempts(key=key))
    return sorted(found.items())


def totals(frame: pl.DataFrame) -> pl.DataFrame:
    """Sum attempts by engine, prompt and status."""
    amounts = ("prompt_tokens", "completion_tokens", "seconds")
    cost = pl.when(pl.col("cost").is_null().all()).then(None).otherwise(pl.col("cost").sum())
    return (
        frame.group_by("engine_id", "prompt_id", "status")
        .agg(pl.len().alias("attempts"), pl.col(*amounts).sum(), cost.alias("cost"))
        .sort("engine_id", "prompt_id", "status")
    )


def export(project: Project, file: Path) -> int:
    """Write all attempts to a parquet or JSONL file, by its suffix, and return how many; a kill leaves no half file.

    Raises
    ------
    ConfigError
        The suffix is another one, or the folder is not there.
    """
    suffixes = (".parquet", ".jsonl")
    if file.suffix not in suffixes or not file.absolute().parent.is_dir():
        raise ConfigError(
            "the ledger cannot be exported there",
            where=str(file),
            got=f"the suffix {file.suffix!r}" if file.suffix not in suffixes else "no such folder",
            expected="a .parquet or .jsonl file in a folder that is there",
            hint="reland ledger export attempts.parquet",
        )
    frame = attempts(project)
    with whole_file(file) as temporary:
        frame.write_parquet(temporary) if file.suffix == ".parquet" else frame.write_ndjson(temporary)
    return frame.height


def prune(
    project: Project,
    *,
    engine_id: str,
    kinds: Collection[str] = ("failed", "unused"),
    before: datetime | None = None,
    delete: bool = False,
    force: bool = False,
) -> Pruning:
    """Count, and with `delete` delete for good, attempts that are no longer needed.

    Parameters
    ----------
    engine_id : str
        The engine in use; answers of others, or to another prompt than the configured one, are ``unused``.
    kinds : collection of str
        ``failed`` and ``unused``; empty means every attempt, which only makes sense with `before`.
    before : datetime, optional
        Only attempts that began before this instant (UTC).
    force : bool
        Also answers that the current pool was made from. They would be asked for, and paid, again.
    """
    prompt_id = PromptTemplate.of(project.config.rationales, base=project.root).prompt_id
    with project.lock(), _open(project) as ledger:
        rows = ledger.attempts()
        kept = frozenset() if force else _of_current_pool(project, [attempt for _, attempt in rows])
        counts = dict.fromkeys(("failed", "unused", "other", "protected"), 0)
        gone: list[int] = []
        for number, attempt in rows:
            if before and datetime.fromisoformat(attempt.started_at).replace(tzinfo=None) >= before:
                continue
            kind = _kind(attempt, engine_id, prompt_id)
            if kinds and kind not in kinds:
                continue
            is_kept = attempt.status == "ok" and (attempt.engine_id, attempt.seed_user_id) in kept
            counts["protected" if is_kept else kind] += 1
            gone += [] if is_kept else [number]
        if delete and gone:
            ledger.delete(gone)
    return Pruning(**counts, deleted=delete)


def _kind(attempt: Attempt, engine_id: str, prompt_id: str) -> str:
    if attempt.status == "failed":
        return "failed"
    is_used = attempt.engine_id == engine_id and attempt.prompt_id in (prompt_id, "")  # imports have no prompt
    return "other" if is_used else "unused"


def _of_current_pool(project: Project, rows: Iterable[Attempt]) -> frozenset[tuple[str, str]]:
    """Return (engine, seed user) of the answers that the published pool was made from.

    All answers of such a seed are kept: without the unusable ones before it, the last one would not be found.
    """
    if not (project.state / "current.json").is_file():
        return frozenset()
    pool = Path(project.current()["pool"]).name
    made = project.artifacts.find("reasoning_pool", pool)
    names = [name for name in made.manifest["inputs"] if name.startswith("rationales-")] if made else []
    rationales = project.artifacts.find("rationales", names[0]) if names else None
    if rationales is None:
        raise ArtifactError(
            "the current pool's rationales are not there, so it is not known which answers it rests on",
            where=str(project.artifacts.root),
            got=pool,
            hint="reland run, or reland ledger prune --force",
        )
    keys = set(pl.read_parquet(rationales.table("rationales"), columns=["ledger_key"])["ledger_key"])
    return frozenset((attempt.engine_id, attempt.seed_user_id) for attempt in rows if attempt.key in keys)


@dataclass(frozen=True)
class _Reader:
    """Read answers with the present template against the newest marts."""

    project: Project
    template: PromptTemplate
    catalogue: Catalogue
    banned: dict[str, frozenset[str]]

    @classmethod
    def of(cls, project: Project, seeds: Collection[str]) -> _Reader:
        marts = project.artifacts.all("marts")
        if not marts:
            raise ArtifactError(
                "answers are read against the tables, and there are none yet",
                where=str(project.artifacts.root),
                hint="reland prepare",
            )
        template = PromptTemplate.of(project.config.rationales, base=project.root)
        catalogue = template.catalogue(pl.read_parquet(marts[-1].table("items")))
        seen = items_seen(pl.scan_parquet(marts[-1].table("interactions")), seeds)
        banned = {user: banned_titles(items, catalogue) for user, items in seen.iter_rows()}
        return cls(project, template, catalogue, banned)

    def problem(self, attempt: Attempt, seed: str | None = None) -> str:
        """Return why an answer is of no use to a seed, the one that it was asked for where none is named."""
        settings = self.project.config.rationales
        needs_step2 = not attempt.engine_id.startswith(IMPORTED) or settings.embed != "summary"
        parsed = read_answer(
            attempt.text,
            self.template,
            self.catalogue,
            self.banned.get(attempt.seed_user_id if seed is None else seed, frozenset()),
            settings,
            needs_step2=needs_step2,
        )
        return problem_of(attempt, parsed)


def _open(project: Project) -> Ledger:
    if not project.ledger.is_file():
        raise ArtifactError(
            "this project has no ledger yet: no LLM was asked", where=str(project.ledger), hint="reland generate"
        )
    return Ledger(project.ledger)

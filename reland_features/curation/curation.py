"""Apply what people decided: a blocked rationale leaves the pool, an edited one takes its new words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.artifacts import content_id, write_atomically
from reland_features.columns import RATIONALES, USER_MATCH_DETAIL, USER_RATIONALE, USER_SEED_MATCH
from reland_features.curation.decisions import DECISIONS, Decision, read_decisions

FILE = "curation.json"
"""File in a pool's folder; a pool without decisions has none."""

_STAMPS = ("pool_version", "event_timestamp", "created_timestamp")
_EMPTY = {"seed_user_ids": [], "seed_weights": [], "is_cold_start": False}  # what is never null, without a match
_SAID = {"edit": "edited", "regenerate": "asked again", "block": "blocked"}


@dataclass(frozen=True)
class Curation:
    """The decisions that are in force.

    Parameters
    ----------
    blocked, replaced : mapping of str to Decision
        By seed: whose rationale is not served, and whose has another text. A seed may be in both.
    curation_id : str
        Hash of *all* decisions, those taken back too: a pool that was blocked and unblocked is published anew,
        because in Feast the newest rows win, and those of the first pool are older than those of the blocked one.
        Empty without any decision.
    """

    blocked: Mapping[str, Decision] = field(default_factory=dict)
    replaced: Mapping[str, Decision] = field(default_factory=dict)
    curation_id: str = ""

    @classmethod
    def of(cls, decisions: Iterable[Decision]) -> Curation:
        """Let later decisions win over earlier ones, seed by seed."""
        blocked: dict[str, Decision] = {}
        replaced: dict[str, Decision] = {}
        log = [decision for decision in decisions if decision.action != "unusable"]
        for decision in log:
            if decision.action == "block":
                blocked[decision.seed_user_id] = decision
            elif decision.action == "unblock":
                blocked.pop(decision.seed_user_id, None)
            elif decision.action == "restore":
                replaced.pop(decision.seed_user_id, None)
            else:
                replaced[decision.seed_user_id] = decision
        return cls(blocked, replaced, content_id([asdict(decision) for decision in log]) if log else "")

    @classmethod
    def of_project(cls, state: Path) -> Curation:
        """Read the decisions of a project's `.reland` folder."""
        return cls.of(read_decisions(state / DECISIONS))

    @classmethod
    def read(cls, folder: Path) -> Curation:
        """Read what `write` wrote beside a pool; nothing is in force where there is no file."""
        if not (folder / FILE).is_file():
            return cls()
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        found = {
            name: {row["seed_user_id"]: _decision(row) for row in stored[name]} for name in ("blocked", "replaced")
        }
        return cls(found["blocked"], found["replaced"], stored["curation_id"])

    def write(self, folder: Path) -> None:
        """Write what is in force beside a pool; nothing where nothing was ever decided."""
        if not self.curation_id:
            return
        stored = {
            "curation_id": self.curation_id,
            "blocked": [asdict(decision) for _, decision in sorted(self.blocked.items())],
            "replaced": [asdict(decision) for _, decision in sorted(self.replaced.items())],
        }
        write_atomically(folder / FILE, json.dumps(stored, indent=2) + "\n")

    def restricted_to(self, rationales: pl.DataFrame) -> Curation:
        """Leave out new texts whose rationale the LLM has written anew since, or that have no seed here."""
        keys = dict(rationales.select("seed_user_id", "ledger_key").iter_rows())
        current = {seed: d for seed, d in self.replaced.items() if keys.get(seed) == d.replaces}
        return Curation(self.blocked, current, self.curation_id)

    def apply(self, rationales: pl.DataFrame) -> pl.DataFrame:
        """Return the rationales that may enter a pool, `columns.RATIONALES`, all with status ok, in their order.

        Parameters
        ----------
        rationales : polars.DataFrame
            As the LLM wrote them, with any status: a replaced one is ok, even where the LLM's was not.
        """
        replaced = self.restricted_to(rationales).replaced
        rows = [
            {**row, **_new_words(replaced[row["seed_user_id"]])} if row["seed_user_id"] in replaced else row
            for row in rationales.filter(~pl.col("seed_user_id").is_in(list(self.blocked))).iter_rows(named=True)
        ]
        return pl.DataFrame(rows, schema=RATIONALES.polars_schema()).filter(pl.col("status") == "ok")

    def embed(
        self, rationales: pl.DataFrame, encode: Callable[[pl.DataFrame], npt.NDArray[np.float32]]
    ) -> tuple[pl.DataFrame, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the curated rationales, their embeddings, and those of the rationales before any decision.

        The last ones are encoded in one go, as without decisions, and are what `rationale_components` are
        fitted on: a decision about one seed must not move a number of another.
        """
        generated = rationales.filter(pl.col("status") == "ok")
        basis = encode(generated)
        if not self.curation_id:
            return generated, basis, basis
        curated = self.apply(rationales)
        is_new = pl.col("seed_user_id").is_in(list(self.restricted_to(rationales).replaced))
        row_of = {seed: row for row, seed in enumerate(generated["seed_user_id"])}
        kept = [row_of[seed] for seed in curated.filter(~is_new)["seed_user_id"]]
        new = curated.filter(is_new)
        if not new.height:
            return curated, basis[kept], basis
        return pl.concat([curated.filter(~is_new), new]), np.concatenate([basis[kept], encode(new)]), basis

    def publishable(self, seed_rationale: pl.DataFrame) -> pl.DataFrame:
        """Mark edited summaries in the seeds' feature table and give blocked seeds a row of nulls.

        Parameters
        ----------
        seed_rationale : polars.DataFrame
            `columns.SEED_RATIONALE` of a curated pool: blocked seeds have no row in it. But an earlier run may
            have put one online, and Feast never takes a row away. A newer row without content covers it.
        """
        marks = {seed: f" [{mark(decision)}]" for seed, decision in self.replaced.items()}
        marked = seed_rationale.with_columns(
            pl.col("summary") + pl.col("seed_user_id").replace_strict(marks, default="", return_dtype=pl.String)
        )
        if not self.blocked or not marked.height:
            return marked
        covers = _covers(marked, "seed_user_id", sorted(self.blocked))
        return pl.concat([marked, covers]).sort("seed_user_id")


def cover_users(frames: Mapping[str, pl.DataFrame], users: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Give users that are not in a run rows without a rationale, as users without a match have.

    Parameters
    ----------
    frames : mapping of str to polars.DataFrame
        Feature tables of the run; those that say what a user inherits are extended.
    users : sequence of str
        Users who left the tables while their newest row names a seed that is blocked now: it would be served for
        ever. All others who left keep their last row, which is still true of the behaviour up to its timestamp.
    """
    here = set(frames[USER_RATIONALE.name]["user_id"])
    gone = [user for user in users if user not in here]
    tables = [table.name for table in (USER_RATIONALE, USER_SEED_MATCH, USER_MATCH_DETAIL) if table.name in frames]
    covered = {name: pl.concat([frames[name], _covers(frames[name], "user_id", gone)]) for name in tables}
    return {**frames, **covered}


def _covers(frame: pl.DataFrame, key: str, ids: Sequence[str]) -> pl.DataFrame:
    """Return rows without content, stamped as the rows of a frame."""
    empty = {name: _EMPTY.get(name) for name in frame.columns} | frame.select(_STAMPS).row(0, named=True)
    rest = pl.DataFrame([empty], schema=frame.schema).drop(key)
    return (
        pl.DataFrame({key: ids}, schema={key: pl.String})
        .join(rest, how="cross", maintain_order="left")
        .select(frame.columns)
    )


def mark(decision: Decision) -> str:
    """Say who decided, and when: ``edited by ann, 2026-11-21 10:12 UTC``."""
    return f"{_SAID[decision.action]} by {decision.author}, {decision.decided_at[:16].replace('T', ' ')} UTC"


def _new_words(decision: Decision) -> dict[str, object]:
    return {
        "status": "ok",
        "reason": None,
        "summary": decision.summary,
        "categories": list(decision.categories),
        "items": list(decision.items),
        "text": decision.text or None,
    }


def _decision(row: dict[str, object]) -> Decision:
    return Decision(**{**row, "categories": tuple(row["categories"]), "items": tuple(row["items"])})  # type: ignore[arg-type]

"""Texts of another system in the place of an LLM: kept in the project by content, read through the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from reland_features.artifacts import Artifact, ArtifactStore, content_id
from reland_features.config import Rationales
from reland_features.engines.base import Completion, Request
from reland_features.errors import ConfigError
from reland_features.ledger import IMPORTED, Attempt, Ledger
from reland_features.project import Project
from reland_features.prompts import PromptTemplate
from reland_features.rationale_file import read_rationale_file
from reland_features.seed_requests import Ask, Plan, histories_of_seeds
from reland_features.seed_tables import SeedTables
from reland_features.skeleton import Options

KIND = "imported_texts"
_TABLE = "texts"


class ImportedTexts:
    """An engine (`engines.base.Engine`) whose answers are there before it is asked; it is never called.

    Parameters
    ----------
    artifact : Artifact
        What `import_texts` made.
    needs_step2 : bool
        Whether only texts that recommend something are of use.
    left_out : int
        Rows of the file that were left out when it was brought in: of users that the project does not know.
    """

    def __init__(self, artifact: Artifact, *, needs_step2: bool, left_out: int = 0) -> None:
        self.id = artifact.id
        self.left_out = left_out
        self.facts = artifact.manifest
        self.engine_id = f"{IMPORTED}{'+'.join(self.facts['models'])}:{artifact.id}"
        self.source = str(self.facts["file"])
        self.batch_size = 1024
        self.parameters: dict[str, Any] = {"needs_step2": needs_step2}
        self.needs_step2 = needs_step2
        self._path = artifact.table(_TABLE)

    @cached_property
    def usable(self) -> dict[str, tuple[str, str]]:
        """Text and who wrote it, by user; without texts that lack a Step 2 where one is needed."""
        wanted = pl.col("has_step2") | pl.lit(not self.needs_step2)
        rows = pl.scan_parquet(self._path).filter(wanted).select("user_id", "text", "model").collect()
        return {user: (text, model) for user, text, model in rows.iter_rows()}

    def settings(self, embed: str) -> dict[str, str]:
        """Return the lines of ``[rationales]`` that use this import in a project that embeds `embed`.

        Another part in the embedding is another meaning of the published vectors, which rankers were trained with:
        it stays the project's, but for texts of which some have none but a Step 1.
        """
        has_both = self.facts["with_step2"] == self.facts["texts"]
        return {"engine": "imported", "model": self.id, "embed": embed if has_both else "summary"}

    def complete(self, requests: Sequence[Request], options: Options) -> list[Completion]:
        """Fail: what is not in the ledger has no text."""
        return [Completion("", error="the import has no text for this") for _ in requests]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return zeros: nothing is asked."""
        return [0 for _ in requests]

    def close(self) -> None:
        """Do nothing; there is nothing to release."""


def import_texts(
    project: Project, file: Path, *, model: str | None = None, skip_unknown: bool = False
) -> ImportedTexts:
    """Bring a file of rationales into the project, under an id of its content; see `read_rationale_file`.

    Users are checked against all marts; where there are none yet, they are checked when seeds are drawn.

    Raises
    ------
    CheckError
        All problems of the file; nothing is written.
    """
    template = PromptTemplate.load(project.config.rationales.prompt, base=project.root)
    frame, left_out = read_rationale_file(
        file, template, model=model, users=_users(project.artifacts), skip_unknown=skip_unknown
    )
    import_id = _id(frame)
    with project.lock():
        if not project.artifacts.find(KIND, import_id):
            created_at = datetime.now(UTC).replace(tzinfo=None)
            with project.artifacts.create(KIND, import_id, created_at=created_at, config={}, inputs=[]) as draft:
                frame.write_parquet(draft.table(_TABLE))
                draft.facts |= {
                    "file": file.name,
                    "texts": frame.height,
                    "with_step2": int(frame["has_step2"].sum()),
                    "models": sorted(set(frame["model"])),
                }
    made = project.artifacts.find(KIND, import_id)
    assert made is not None
    return ImportedTexts(made, needs_step2=False, left_out=left_out)


def _users(store: ArtifactStore) -> set[str] | None:
    """Return the users of all marts, None without any.

    The marts made last, and the published ones too, may be those of an earlier day: most users are not in them, and
    a text of theirs would be missed on every later day.
    """
    marts = [pl.scan_parquet(made.table("users")).select("user_id") for made in store.all("marts")]
    return set(pl.concat(marts).unique().collect()["user_id"]) if marts else None


def id_of_texts(project: Project, file: Path, *, model: str | None = None) -> str:
    """Return the id under which `import_texts` brings in a file; nothing is written, and users are not checked.

    Raises
    ------
    CheckError
        All problems of the file.
    """
    template = PromptTemplate.load(project.config.rationales.prompt, base=project.root)
    return _id(read_rationale_file(file, template, model=model).texts)


def _id(frame: pl.DataFrame) -> str:
    # The prefix keeps `--set rationales.model=ID` from being read as a number.
    return f"texts-{content_id(frame.rows())}"


def open_texts(store: ArtifactStore, settings: Rationales) -> ImportedTexts:
    """Return the import that `rationales.model` names.

    Raises
    ------
    ConfigError
        There is no such import, or none of its texts has what `rationales.embed` embeds.
    """
    artifact = store.find(KIND, settings.model)
    if artifact is None:
        found = store.all(KIND)
        raise ConfigError(
            "there is no such import",
            where="rationales.model",
            got=repr(settings.model),
            expected=", ".join(f"{one.id} ({one.manifest['file']})" for one in found) or "the id of an import",
            hint=f"--set rationales.model={found[-1].id}" if found else "reland rationales import FILE",
        )
    if settings.options:
        raise ConfigError("imported texts take no options", where="rationales.options", hint="remove them")
    texts = ImportedTexts(artifact, needs_step2=settings.embed != "summary")
    if texts.needs_step2 and not texts.facts["with_step2"]:
        raise ConfigError(
            "the imported texts have no recommendations to embed",
            where="rationales.embed",
            got=f"{settings.embed!r}, and {texts.facts['texts']:,} texts of {texts.source} that are Step 1 only",
            expected="'summary', to embed Step 1",
            hint="--set rationales.embed=summary, or import texts with a Step 2",
        )
    return texts


def plan_imported(
    tables: SeedTables,
    template: PromptTemplate,
    texts: ImportedTexts,
    ledger: Ledger,
    settings: Rationales,
) -> Plan:
    """Put the seeds' texts into the ledger, where `generate` finds them like any answer that was paid before.

    Arguments and errors as for `rationales.generate`. A text is known by its user, its words and who wrote them, and
    not by its import: what was decided about it holds when the file is brought in again with more texts.
    """
    catalogue = template.catalogue(tables.items)
    found = histories_of_seeds(tables, catalogue, settings.max_history)
    now = datetime.now(UTC).isoformat()
    asks: list[Ask] = []
    attempts: dict[str, Attempt] = {}
    for user in tables.seeds["user_id"]:
        if user not in texts.usable:
            continue
        text, model = texts.usable[user]
        request = Request(({"role": "user", "content": user},), max_tokens=0)
        key = content_id([IMPORTED, user, text, model], length=32)
        asks.append(Ask(key, user, request, prompt_tokens=0))
        parameters = json.dumps({"model": model})
        attempts[key] = Attempt(
            key, texts.engine_id, "", parameters, user, "ok", text, "stop", 0, 0, "", started_at=now, seconds=0.0
        )
    known = ledger.answers(attempts)
    ledger.record([attempt for key, attempt in attempts.items() if key not in known])
    return Plan(
        catalogue,
        options={},
        histories=found,
        roots=tuple(asks),
        root_of={ask.seed_user_id: ask.key for ask in asks},
        unaskable={user: ("failed", "the import has no text of this user") for user in found.keys() - texts.usable},
        needs_step2=texts.needs_step2,
    )

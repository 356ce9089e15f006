"""What every stage is: a function that makes one artifact, unless it is there already."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reland_features.artifacts import Artifact, Draft, content_id, file_id
from reland_features.engines.base import Engine
from reland_features.imported_texts import ImportedTexts, open_texts
from reland_features.project import Project, models_cache

Progress = Callable[[int, int], None]
"""Called with (done, total) while a stage works."""


@dataclass(frozen=True)
class Outcome:
    """What a stage gave: its artifact, whether it was there already, and how many rows went through."""

    stage: str
    artifact: Artifact
    cached: bool

    @property
    def as_of(self) -> datetime:
        """The last instant of behaviour the artifact rests on (UTC)."""
        return datetime.fromisoformat(self.artifact.manifest["as_of"])

    @property
    def rows_in(self) -> int:
        """Rows read."""
        return int(self.artifact.manifest["rows_in"])

    @property
    def rows_out(self) -> int:
        """Rows written."""
        return int(self.artifact.manifest["rows_out"])

    @property
    def seconds(self) -> float:
        """Seconds the work took when it was done."""
        return float(self.artifact.manifest["seconds"])


def run_stage(
    project: Project,
    stage: str,
    kind: str,
    *,
    as_of: datetime | None,
    config: Mapping[str, Any],
    inputs: Sequence[str],
    work: Callable[[Draft], tuple[int, int]],
    still_holds: Callable[[Artifact], bool] = lambda _: True,
) -> Outcome:
    """Return the finished artifact, or make it with `work`, which returns (rows in, rows out).

    `still_holds` is asked of a finished one that notes what was done elsewhere, such as in the online store: where
    that is gone, it is made again.
    """
    store = project.artifacts
    artifact_id = store.id_of(kind, as_of, config, inputs)
    if (found := store.find(kind, artifact_id)) and still_holds(found):
        return Outcome(stage, found, cached=True)
    started = time.perf_counter()
    with store.create(kind, artifact_id, created_at=now(), config=config, inputs=inputs, as_of=as_of) as draft:
        rows_in, rows_out = work(draft)
        draft.facts |= {"rows_in": rows_in, "rows_out": rows_out, "seconds": round(time.perf_counter() - started, 2)}
    made = store.find(kind, artifact_id)
    assert made is not None
    return Outcome(stage, made, cached=False)


def text_encoder(project: Project) -> Any:
    """Return the text encoder of rationales and items; weights are loaded at the first text."""
    from reland_features.text_encoder import HFTextEncoder

    settings = project.config.text_encoder
    return HFTextEncoder(settings.model, settings.revision, batch_size=settings.batch_size, cache=models_cache())


def imported_texts(project: Project) -> ImportedTexts | None:
    """Return the imported texts that stand in for the LLM's answers, if the configuration names any."""
    settings = project.config.rationales
    return open_texts(project.artifacts, settings) if settings.engine == "imported" else None


def llm_engine(project: Project) -> Engine:
    """Return the LLM of the configuration, or the imported texts; close it after use."""
    from reland_features import engines
    from reland_features.tuning.adapters import with_adapter

    settings = with_adapter(project.config.rationales, project.artifacts)
    return imported_texts(project) or engines.build(settings, models_cache())


def read_vectors(encoded: Outcome) -> Any:
    """Read the behaviour vectors of an `encode` outcome."""
    from reland_features.encoders.base import BehaviorVectors

    path = encoded.artifact.table("behavior_vectors")
    return BehaviorVectors.read(path, encoded.artifact.manifest["encoder_id"], encoded.as_of)


def package_version() -> str:
    """Return the installed version of this package."""
    return importlib.metadata.version("reland-features")


def folder_id(folder: Path) -> str:
    """Hash the source files of a folder; what tools generate in it does not count."""
    generated = {"target", "logs", "data", "__pycache__"}
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not generated & set(p.relative_to(folder).parts) and p.name[0] != "."
    )
    return content_id({str(p.relative_to(folder)): file_id(p) for p in files})


def now() -> datetime:
    """Return the present, UTC without a zone; only stages ask for it, never a transform."""
    return datetime.now(UTC).replace(tzinfo=None)

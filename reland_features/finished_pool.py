"""Find a finished pool and what it was made from, and read its rationales as they were written, without any stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from reland_features.artifacts import Artifact, ArtifactStore
from reland_features.curation import Curation
from reland_features.errors import PoolError
from reland_features.lineage import found_input, input_of
from reland_features.pool import MANIFEST, ReasoningPool
from reland_features.project import Project
from reland_features.prompts import Catalogue, PromptTemplate
from reland_features.prompts.text import clean
from reland_features.seed_tables import items_seen


@dataclass(frozen=True)
class WrittenRationale:
    """One rationale of a pool beside the behaviour it was written from.

    Parameters
    ----------
    seed_user_id, summary, categories, items
        As they stand in the pool.
    text : str
        The raw answer; empty where a person wrote the rationale.
    grounded, repeated, ungrounded : tuple of str
        What it names: titles of the catalogue that the history does not hold, titles of the history, and what the
        catalogue does not know, unknown categories included (of a raw answer the first five).
    touched : frozenset of str
        Categories of the whole history.
    """

    seed_user_id: str
    summary: str
    categories: tuple[str, ...]
    items: tuple[str, ...]
    text: str
    grounded: tuple[str, ...]
    repeated: tuple[str, ...]
    ungrounded: tuple[str, ...]
    touched: frozenset[str]


@dataclass(frozen=True)
class FinishedPool:
    """A pool on disk with the artifacts that its manifest names.

    Parameters
    ----------
    artifact, marts, rationales : Artifact
        The pool, the tables below it, and the rationales before any decision of a person.
    matches : Artifact, optional
        Who inherits from whom, by those tables; None where nobody was matched to this pool by them.
    vectors : Artifact, optional
        The behaviour vectors that it was made from, of everybody; None where they are gone.
    """

    artifact: Artifact
    marts: Artifact
    rationales: Artifact
    matches: Artifact | None
    vectors: Artifact | None = None

    @cached_property
    def pool(self) -> ReasoningPool:
        """The pool's rows, ascending by seed."""
        return ReasoningPool.read(self.artifact.path)

    @cached_property
    def curation(self) -> Curation:
        """The decisions that this pool was made with."""
        return Curation.read(self.artifact.path)

    @cached_property
    def generated(self) -> pl.DataFrame:
        """What the LLM wrote, usable or not (`columns.RATIONALES`)."""
        return pl.read_parquet(self.rationales.table("rationales"))

    @cached_property
    def items(self) -> pl.DataFrame:
        """The items mart."""
        return pl.read_parquet(self.marts.table("items"))

    @cached_property
    def categories_of(self) -> dict[str, frozenset[str]]:
        """Categories by item, as the LLM reads them."""
        rows = self.items.select("item_id", "categories").iter_rows()
        return {item: frozenset(clean(name) for name in names if name) for item, names in rows}

    @classmethod
    def find(cls, project: Project, reference: str | None = None) -> FinishedPool:
        """Find a pool.

        Parameters
        ----------
        project : Project
            Whose pool; its configuration is not compared with the pool's.
        reference : str, optional
            A pool version, the folder of a pool, or ``PROJECT@version`` for another project's. By default the
            published pool, and before anything is published the newest one.

        Raises
        ------
        PoolError
            There is no such pool, or the tables that it was made from are gone.
        """
        if reference and "@" in reference:
            root, _, version = reference.rpartition("@")
            return cls.find(Project.open(Path(root)), version)
        if reference and (folder := Path(reference)).joinpath(MANIFEST).is_file():
            folder = folder.resolve()
            return cls._of(ArtifactStore(folder.parent.parent), folder.name)
        store = project.artifacts
        pools = store.all("reasoning_pool")
        if reference is None and (project.state / "current.json").is_file():
            reference = project.current().get("pool_version")
        found = [pool for pool in pools if reference in (None, pool.manifest["pool_version"])]
        if not found:
            raise PoolError(
                "there is no such reasoning pool" if reference else "there is no reasoning pool yet",
                where=str(store.root),
                got=reference or "",
                expected=", ".join(pool.manifest["pool_version"] for pool in pools),
                hint="name one of these versions, a pool's folder, or PROJECT@version" if pools else "reland run",
            )
        return cls._of(store, found[-1].id)

    @classmethod
    def _of(cls, store: ArtifactStore, pool_id: str) -> FinishedPool:
        pool = input_of(store, "reasoning_pool", [pool_id], store.root)
        rationales = input_of(store, "rationales", pool.manifest["inputs"], pool.path)
        marts = input_of(store, "marts", rationales.manifest["inputs"], rationales.path)
        # Of these tables: later ones may have been matched to the same pool, by `reland refresh`.
        matches = [found for found in store.all("matches") if {pool.id, marts.id} <= set(found.manifest["inputs"])]
        vectors = found_input(store, "behavior_vectors", pool)
        return cls(pool, marts, rationales, matches[-1] if matches else None, vectors)

    def written(self, template: PromptTemplate) -> tuple[WrittenRationale, ...]:
        """Read every rationale of the pool against the catalogue and its seed's whole history, in the pool's order.

        Parameters
        ----------
        template : PromptTemplate
            The one that the answers were asked for with; it reads the raw answers. With one that does not
            (`is_read_by`) nothing is known of what they name: `grounded`, `repeated` and `ungrounded` are empty.
        """
        found = self._read_with(template)
        if self._was_asked_with(template) or _as_in_the_pool(found):
            return found
        return tuple(replace(each, grounded=(), repeated=(), ungrounded=()) for each in found)

    def is_read_by(self, template: PromptTemplate) -> bool:
        """Say whether a template reads the answers as they were read for this pool.

        That is the one they were asked for with, and any other that finds in them what the pool has: one with other
        labels for the steps may find the names of one step in the other, or none.
        """
        return self._was_asked_with(template) or _as_in_the_pool(self._read_with(template))

    def _was_asked_with(self, template: PromptTemplate) -> bool:
        # Of imported texts it is "imported, read as ID".
        return self.pool.ids["prompt_id"].rpartition(" ")[2] == template.prompt_id

    def _read_with(self, template: PromptTemplate) -> tuple[WrittenRationale, ...]:
        catalogue = template.catalogue(self.items)
        full = dict(zip(catalogue.shown, catalogue.titles, strict=True))
        title_of = {item: full[line.title] for item, line in catalogue.items.items()}
        histories = self.histories(self.pool.frame["seed_user_id"])
        raw = dict(self.generated.select("seed_user_id", "text").iter_rows())
        raw |= {seed: decision.text for seed, decision in self.curation.replaced.items()}
        found = []
        for row in self.pool.frame.select("seed_user_id", "summary", "categories", "items").iter_rows(named=True):
            history = histories.get(row["seed_user_id"], ())
            seen = frozenset(title_of[item] for item in history if item in title_of)
            touched = frozenset(name for item in history for name in self.categories_of.get(item, ()))
            text = raw.get(row["seed_user_id"]) or ""
            found.append(_read(row, text, seen, touched, catalogue, template))
        return tuple(found)

    def histories(self, users: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Map users to the items of their whole history, distinct, in order."""
        seen = items_seen(pl.scan_parquet(self.marts.table("interactions")), users)
        return {user: tuple(items) for user, items in seen.iter_rows()}


def _as_in_the_pool(written: Iterable[WrittenRationale]) -> bool:
    return all(set(each.items) <= {*each.grounded, *each.repeated} for each in written if each.text)


def _read(
    row: Mapping[str, Any],
    text: str,
    seen: frozenset[str],
    touched: frozenset[str],
    catalogue: Catalogue,
    template: PromptTemplate,
) -> WrittenRationale:
    if text:
        named, answer = template.parse(text, catalogue).items, template.parse(text, catalogue, seen)
        grounded, ungrounded = answer.items, answer.ungrounded
    else:
        named = tuple(title for title in row["items"] if catalogue.find_titles(title))
        grounded = tuple(title for title in named if not seen.intersection(catalogue.find_titles(title)))
        unknown = (name for name in row["categories"] if catalogue.find_category(name) is None)
        ungrounded = (*(title for title in row["items"] if title not in named), *unknown)
    return WrittenRationale(
        row["seed_user_id"],
        row["summary"],
        tuple(row["categories"]),
        tuple(row["items"]),
        text,
        grounded,
        tuple(title for title in named if title not in grounded),
        ungrounded,
        touched,
    )

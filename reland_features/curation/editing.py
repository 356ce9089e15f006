"""Block, edit and restore single rationales: check what somebody wants, and record it as a decision."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from reland_features.curation.curation import Curation, mark
from reland_features.curation.decisions import DECISIONS, Action, Decision, record_decision
from reland_features.curation.words import Words
from reland_features.errors import CheckError, PoolError
from reland_features.finished_pool import FinishedPool
from reland_features.lineage import to_publish
from reland_features.project import Project
from reland_features.prompts import Catalogue, PromptTemplate, rationale_text
from reland_features.seed_requests import banned_titles


@dataclass(frozen=True)
class Desk:
    """What a decision is taken on: the seeds' rationales of a project, and what was decided before.

    Decisions are recorded at once. They are applied when the pool is next built (`reland publish`, `reland refresh`).
    """

    project: Project
    finished: FinishedPool
    curation: Curation

    @classmethod
    def of(cls, project: Project) -> Desk:
        """Open the project's published pool, or its newest; raise `PoolError` where it has none."""
        return cls(project, FinishedPool.find(project), Curation.of_project(project.state))

    def generated(self, seed: str) -> dict[str, Any]:
        """Return what the LLM wrote about a seed, a row of `columns.RATIONALES`.

        Raises
        ------
        PoolError
            The LLM was not asked about this user.
        """
        rows = self.finished.generated.filter(pl.col("seed_user_id") == seed)
        if not rows.height:
            seeds = self.finished.generated["seed_user_id"].to_list()
            raise PoolError(
                "this user is no seed user, so there is no rationale to decide about",
                where=str(self.finished.rationales.path),
                got=seed,
                expected=f"one of {len(seeds):,} seeds, such as {', '.join(difflib.get_close_matches(seed, seeds))}",
                hint="reland explain USER names the seed whose rationale a user inherits",
            )
        return rows.row(0, named=True)

    def words(self, seed: str) -> Words:
        """Return what a seed's rationale says now, with an earlier edit; empty where the LLM wrote nothing usable."""
        row = self.generated(seed)
        decision = self.curation.restricted_to(self.finished.generated).replaced.get(seed)
        if decision:
            return Words(decision.summary, decision.categories, decision.items)
        return Words(row["summary"] or "", tuple(row["categories"] or ()), tuple(row["items"] or ()))

    def block(self, seed: str, author: str, reason: str) -> Decision:
        """Take a rationale out of service; raise `PoolError` where it is blocked already."""
        self.generated(seed)
        if earlier := self.curation.blocked.get(seed):
            raise PoolError(
                "this rationale is not served already", where=seed, got=mark(earlier), hint=to_publish(self.project)
            )
        return self.record(seed, "block", author, reason)

    def unblock(self, seed: str, author: str, reason: str = "") -> Decision:
        """Put a rationale back into service; raise `PoolError` where it is not blocked."""
        if seed not in self.curation.blocked:
            blocked = ", ".join(sorted(self.curation.blocked)) or "none is"
            raise PoolError("this rationale is not blocked", where=seed, expected=f"a blocked seed: {blocked}")
        return self.record(seed, "unblock", author, reason)

    def restore(self, seed: str, author: str, reason: str = "") -> Decision:
        """Take an edit or a second answer back; raise `PoolError` where there is none."""
        if seed not in self.curation.replaced:
            replaced = ", ".join(sorted(self.curation.replaced)) or "none was"
            raise PoolError("this rationale was not edited", where=seed, expected=f"an edited seed: {replaced}")
        return self.record(seed, "restore", author, reason)

    def edit(self, seed: str, words: Words, author: str, reason: str = "", *, force: bool = False) -> Decision:
        """Give a seed's rationale new words, checked as an LLM's answer is.

        Parameters
        ----------
        words : Words
            Categories and titles are recorded as the catalogue has them; other spellings of one are found.
        force : bool
            Take the words as they are. Words without anything to embed (`rationales.embed`) are never taken: no pool
            could be built with them.

        Raises
        ------
        CheckError
            One problem for each name that the catalogue does not have or the history holds, and for what is missing.
        """
        row = self.generated(seed)
        embed = self.project.config.rationales.embed
        if not force:
            # As of an answer: a rationale has both steps, unless Step 1 alone is embedded and it had that alone.
            words = self._checked(seed, words, has_step2=embed != "summary" or bool(self.words(seed).items))
        if not words.summary.strip():
            raise CheckError([PoolError("a rationale without a summary", where=seed, hint="--summary TEXT")])
        if not rationale_text(embed, words.summary, words.categories, words.items).strip():
            raise CheckError(
                [
                    PoolError(
                        "nothing of this rationale would be embedded",
                        where=seed,
                        got=f"rationales.embed = {embed!r}, neither categories nor items",
                        hint="--categories NAME --items TITLE",
                    )
                ]
            )
        return self.record(seed, "edit", author, reason, words, replaces=row["ledger_key"])

    def record(
        self,
        seed: str,
        action: Action,
        author: str,
        reason: str,
        words: Words | None = None,
        *,
        replaces: str = "",
        text: str = "",
        ledger_key: str = "",
    ) -> Decision:
        """Append a decision to the project's file, with the present time; on the disk when this returns."""
        said = words or Words("")
        now = datetime.now(UTC).replace(tzinfo=None).isoformat()
        decision = Decision(
            seed, action, author, now, reason, replaces, said.summary, said.categories, said.items, text, ledger_key
        )
        record_decision(self.project.state / DECISIONS, decision)
        return decision

    def _checked(self, seed: str, words: Words, *, has_step2: bool) -> Words:
        settings = self.project.config.rationales
        template = PromptTemplate.of(settings, base=self.project.root)
        catalogue = template.catalogue(self.finished.items)
        banned = banned_titles(self.finished.histories([seed])[seed], catalogue)
        problems = [
            *_too_many("categories", words.categories, settings.categories),
            *_too_many("items", words.items, settings.items),
        ]
        categories = [_category(name, catalogue, problems) for name in words.categories]
        items = [_title(name, catalogue, banned, problems) for name in words.items]
        if not any(character.isalpha() for character in words.summary):
            problems.append(PoolError("there is no Step 1 sentence", where="summary", got=repr(words.summary)))
        if (has_step2 or words.categories) and not words.items:
            problems.append(PoolError("no title is recommended", where="items", hint="--items TITLE"))
        if (has_step2 or words.items) and not words.categories and catalogue.categories:
            problems.append(PoolError("no category is recommended", where="categories", hint="--categories NAME"))
        if problems:
            raise CheckError(problems)
        return Words(" ".join(words.summary.split()), tuple(dict.fromkeys(categories)), tuple(dict.fromkeys(items)))


def _too_many(name: str, values: Sequence[str], limit: int) -> list[PoolError]:
    if len(values) <= limit:
        return []
    return [PoolError(f"too many {name}", where=name, got=len(values), expected=f"{limit} (rationales.{name})")]


def _category(name: str, catalogue: Catalogue, problems: list[PoolError]) -> str:
    found = catalogue.find_category(name)
    if found is None:
        problems.append(_unknown("categories", name, catalogue.categories))
    return found or name


def _title(name: str, catalogue: Catalogue, banned: frozenset[str], problems: list[PoolError]) -> str:
    found = catalogue.find_titles(name)
    if not found:
        problems.append(_unknown("items", name, catalogue.titles))
    elif banned.intersection(found):
        problems.append(PoolError("the user has this item already", where="items", got=name, hint="--force takes it"))
    return found[0] if found else name


def _unknown(where: str, name: str, known: Sequence[str]) -> PoolError:
    near = difflib.get_close_matches(name, known, n=3)
    return PoolError(
        "the catalogue does not know this name",
        where=where,
        got=name,
        expected=f"a name such as {'; '.join(near)}" if near else "a name of the items table",
        hint="--force takes it as it is",
    )

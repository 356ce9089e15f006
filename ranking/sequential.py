"""Train SASRec with rationales and serve it: the user's vector is made when asked, from the online rationale.

Served users are represented by all that they are known to have done, what was held out of training too
(`Split.history("next")`): who took an item yesterday must not be offered it as new today. The FusionLayer of Eq. (4)
looks rationales up by row: here the rows are seeds, and a user's rationale is mixed from those of its seeds, one or,
with `match.top_k`, several, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch

from ranking.backbones import build
from ranking.backbones.base import Backbone
from ranking.backbones.sequences import SequentialBackbone
from ranking.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from ranking.compact_views import FeaturesError, vectors
from ranking.device import chosen_device
from ranking.features import load_features
from ranking.fitting import FitSettings, fit
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.served import KNOWN_USER, OnlineFeatures, Scored, SeedRationales
from ranking.services import ITEM_SERVICE, USER_SERVICE
from ranking.sides import FeatureSides
from ranking.splits import Split, known_events
from ranking.trained_facts import how_to_train, required, trained_on
from reland_features.errors import ArtifactError, FeatureStoreError

NAME = "sasrec"
_TEXT = "item_attributes__item_text_embedding"
_BATCH = 1_000


def train(
    project: RankingProject,
    options: Mapping[str, Any] | None = None,
    settings: FitSettings | None = None,
    *,
    device: str = "cpu",
    across_pools: bool = False,
) -> Path:
    """Train the SASRec that is served, with item texts and rationales, and make it the current one.

    Parameters
    ----------
    across_pools : bool
        Let it be served with the pools of other days. It reads nothing that means something within one pool only, but
        what it learnt of a rationale may be which users are matched to it.
    """
    place = chosen_device(device)
    trained_on(project, across_pools=across_pools)  # what cannot be is said before anything is trained
    split = Split.of(project)
    features = load_features(project, split)
    sides = FeatureSides(features.item_text, features.rationales)
    backbone = build(NAME, split, options, sides=sides, seed=project.seed).to(place)
    fitted = fit(backbone, settings, seed=project.seed)
    return save(backbone, project, options=options, best=fitted.best, across_pools=across_pools)


def save(
    backbone: Backbone,
    project: RankingProject,
    *,
    options: Mapping[str, Any] | None = None,
    best: Mapping[str, float] | None = None,
    across_pools: bool = False,
) -> Path:
    """Write a trained backbone as the project's current one; return its folder.

    Its weights hold how texts were scaled in training, which is applied to what is read online.
    """
    facts = {
        **trained_on(project, across_pools=across_pools),
        "service": USER_SERVICE,
        "as_of": project.as_of.isoformat(),
        "protocol": "leave-last-out, all items",
        "options": dict(options or {}),
        "validation": dict(best or {}),
        "items": backbone.split.item_ids.to_list(),
    }
    return write_checkpoint(backbone.state_dict(), facts, project.models / NAME)


@dataclass(frozen=True)
class ServedSASRec:
    """SASRec; candidates must be items of the training data.

    Parameters
    ----------
    backbone : SequentialBackbone
        With weights; its user side, a `FusionLayer`, knows seeds as users.
    embeddings, items : torch.Tensor
        float32 [I, d] as histories read them, and [I, d'] as scores do.
    item_rows : mapping of str to int
        Row of each item.
    histories : mapping of str to numpy.ndarray
        int64, each user's item rows, oldest first. A user without any starts from zeros, so that a stranger
        scores every candidate 0.
    """

    backbone: SequentialBackbone
    embeddings: torch.Tensor
    items: torch.Tensor
    item_rows: Mapping[str, int]
    histories: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    online: OnlineFeatures
    seeds: SeedRationales

    @classmethod
    def of(cls, project: RankingProject) -> ServedSASRec:
        """Load the project's current SASRec; item texts and the seeds' rationales come from the online store.

        Raises
        ------
        ArtifactError
            None is trained, or it was trained on other features than are published.
        FeatureStoreError
            The online store holds no rationale or no item text, as before a materialization.
        FeaturesError
            An embedding is not finite or of another width than the others.
        """
        checkpoint = read_checkpoint(project.models / NAME, required(project))
        online = OnlineFeatures.of(project)
        seeds = SeedRationales(online, project)
        item_ids = pl.Series("item_id", checkpoint.facts["items"], dtype=pl.String)
        text, has = vectors(seeds.frame["seed_rationale__rationale_embedding"], "seed_rationale:rationale_embedding")
        item_text = _item_text(online, item_ids)
        if not has.any() or not item_text.any():
            raise FeatureStoreError(
                "the online store holds nothing that the sasrec reads",
                where=str(project.repository),
                got=f"{int(has.sum()):,} of {len(has):,} rationales, {int(item_text.any(axis=1).sum()):,} of "
                f"{len(item_ids):,} item texts",
                hint=f"reland run, or feast materialize over {project.as_of.isoformat()}",
            )
        split = _catalogue(seeds.frame["seed_user_id"], item_ids)
        sides = FeatureSides(item_text, Rationales.of_users(text, has))
        backbone = cast(SequentialBackbone, build(NAME, split, checkpoint.facts["options"], sides=sides))
        _fill(backbone, checkpoint)
        with torch.inference_mode():
            embeddings = backbone.item_side(backbone.items.weight)
            items = backbone.output_side.items(embeddings)
        rows = {item: row for row, item in enumerate(item_ids)}
        facts = {**checkpoint.facts, "model": checkpoint.name}
        return cls(backbone, embeddings, items, rows, _histories(project, rows), facts, online, seeds)

    def reads(self, pool_version: str | None) -> bool:
        """Say whether rationales of a pool enter the scores: of the one that was published at the start."""
        return pool_version == self.seeds.pool_version

    def score(self, user_id: str, candidates: Sequence[str]) -> Scored:
        """Score candidates for one user: the dot product of the two vectors."""
        user = self.online.read(USER_SERVICE, "user_id", [user_id])
        known = user[KNOWN_USER][0] is not None
        unknown = [item for item in candidates if item not in self.item_rows]
        if unknown:
            return Scored(np.empty(0), known, unknown, "were not in the ranker's training data")
        with torch.inference_mode():
            vector = self._user_vector(self.histories.get(user_id), *self.seeds.mixture(user))
            scores = self.items[[self.item_rows[item] for item in candidates]] @ vector
        return Scored(scores.numpy(), known, [])

    def _user_vector(self, history: np.ndarray | None, seeds: np.ndarray, counts: np.ndarray) -> torch.Tensor:
        """Return the user's final vector [d'], as `SequentialBackbone.representations` makes it.

        Parameters
        ----------
        history : numpy.ndarray, optional
            int64 [n], item rows.
        seeds, counts : numpy.ndarray
            int64 and float32 [k], from `SeedRationales.mixture`; a user without a rationale has none.
        """
        if history is None:
            outputs = torch.zeros(1, self.embeddings.shape[1])
        else:
            last = torch.from_numpy(history[-self.backbone.length :])
            outputs = self.backbone.encode(self.embeddings, last[None])[:, -1]
        fusion = self.backbone.user_side
        if len(seeds):
            # Encoded and then mixed, as `UserTexts` does it for the users of training.
            texts, _ = fusion.texts(fusion.linear, torch.from_numpy(seeds))
            outputs = fusion.combine(outputs, torch.from_numpy(counts)[None] @ texts)
        return self.backbone.output_side.users(outputs, torch.tensor([-1]))[0]


def _fill(backbone: Backbone, checkpoint: Checkpoint) -> None:
    """Load the weights, and how texts were scaled in training; raise `ArtifactError` where that was not kept."""
    try:
        checkpoint.fill(backbone)
    except FeaturesError as error:
        raise ArtifactError(
            "the sasrec was trained by an older version, which did not keep how texts were scaled",
            where=checkpoint.name,
            got=error.got,
            hint=how_to_train(NAME),
        ) from error


def _catalogue(seeds: pl.Series, item_ids: pl.Series) -> Split:
    """Return a split whose users are the seeds, of whom the first did a single thing: shapes, not data."""
    first = (np.arange(len(seeds)) == 0).astype(np.int64)
    return Split(seeds, item_ids, np.concatenate([[0], np.cumsum(first)]), np.zeros(1, np.int64), first, 0 * first)


def _item_text(online: OnlineFeatures, item_ids: pl.Series) -> np.ndarray:
    """Return float32 [I, D], zeros for an item that is no longer published."""
    batches = (item_ids[first : first + _BATCH].to_list() for first in range(0, len(item_ids), _BATCH))
    read = pl.concat([online.read(ITEM_SERVICE, "item_id", ids) for ids in batches], how="vertical_relaxed")
    return vectors(read[_TEXT].cast(pl.List(pl.Float32)), "item_attributes:item_text_embedding")[0]


def _histories(project: RankingProject, rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return every user's item rows, oldest first: what was trained on, then what was held out."""
    index = pl.DataFrame(
        {"item_id": list(rows), "row": list(rows.values())}, schema={"item_id": pl.String, "row": pl.Int64}
    )
    known = pl.concat(known_events(project)).join(index, on="item_id", maintain_order="left")
    histories = known.group_by("user_id", maintain_order=True).agg("row")
    return {user: row.to_numpy(writable=True) for user, row in zip(histories["user_id"], histories["row"], strict=True)}

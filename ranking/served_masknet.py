"""Serve MaskNet: one read of the user, one of the candidates, and the rows of the user's seeds in the pool's matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from ranking.checkpoints import read_checkpoint
from ranking.ctr_fields import FieldEncoder
from ranking.masknet import MaskNet, MaskNetSettings
from ranking.project import RankingProject
from ranking.served import KNOWN_USER, MartUsers, OnlineFeatures, Scored, SeedRationales, without_features
from ranking.services import ITEM_SERVICE, USER_SERVICE
from ranking.trained_facts import required


@dataclass(frozen=True)
class ServedMaskNet:
    """MaskNet; candidates need published features, and one that training did not have takes the unknown row."""

    model: MaskNet
    encoder: FieldEncoder
    facts: Mapping[str, Any]
    online: OnlineFeatures
    seeds: SeedRationales
    users: MartUsers

    @classmethod
    def of(cls, project: RankingProject) -> ServedMaskNet:
        """Load the project's current MaskNet and the seeds' rationales.

        Raises
        ------
        ArtifactError
            None is trained, or it was trained on other features than are published.
        """
        checkpoint = read_checkpoint(project.models / "masknet", required(project))
        encoder = FieldEncoder.from_dict(checkpoint.facts["encoder"])
        model = MaskNet(encoder.sizes, MaskNetSettings(**checkpoint.facts["settings"]))
        checkpoint.fill(model)
        online = OnlineFeatures.of(project)
        facts = {**checkpoint.facts, "model": checkpoint.name}
        return cls(model, encoder, facts, online, SeedRationales(online, project), MartUsers.of(project))

    def reads(self, pool_version: str | None) -> bool:
        """Say whether rationales of a pool enter the scores: of the one that was published at the start."""
        return pool_version == self.seeds.pool_version

    def score(self, user_id: str, candidates: Sequence[str]) -> Scored:
        """Score candidates for one user: the logit of a click."""
        user = self.online.read(USER_SERVICE, "user_id", [user_id])
        items = self.online.read(ITEM_SERVICE, "item_id", candidates)
        known, unknown = user[KNOWN_USER][0] is not None, without_features(items, candidates)
        if unknown:
            return Scored(np.empty(0), known, unknown)
        user_table = self.encoder.encode_users(
            pl.concat([user, self.users.columns(user_id)], how="horizontal"), self.seeds.of(user)
        )
        item_table = self.encoder.encode_items(items.with_columns(item_id=pl.Series(list(candidates))))
        rows = torch.arange(len(candidates))
        with torch.inference_mode():
            logits = self.model(user_table, item_table, torch.zeros_like(rows), rows)
        return Scored(logits.numpy(), known, [])

"""Who was shown what and whether they took it, with the features of that time from Feast.

Labels are the project's impressions where it has any. Elsewhere the held-out events stand in for clicks,
and uniform draws from the items that the user has no event with for what was passed over.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import torch

from ranking.compact_views import check_pool
from ranking.ctr_dealing import givers
from ranking.ctr_features import seed_frame, with_mart_features
from ranking.ctr_fields import FieldEncoder
from ranking.dataset import TEST, TRAIN, check_sizes, ranking_queries
from ranking.impressions import has_impressions, impression_labels
from ranking.masknet import UNKNOWN, ItemTable, UserTable
from ranking.project import RankingProject
from ranking.services import ITEM_SERVICE, USER_SERVICE, check_services
from ranking.training_frame import training_frame
from reland_features.errors import TableError

if TYPE_CHECKING:
    from feast import FeatureStore

Labels = Literal["impressions", "holdout"]
_KEYS = {"user_id": ["user_id", "event_timestamp"], "item_id": ["item_id", "event_timestamp"]}


@dataclass(frozen=True)
class CtrRows:
    """Labelled pairs.

    Parameters
    ----------
    user, item : torch.Tensor
        int64 [n], rows of the user and item tables.
    label : torch.Tensor
        float32 [n], 1 for a click.
    group : numpy.ndarray
        int64 [n], which user, for whatever is resampled or averaged by user.
    """

    user: torch.Tensor
    item: torch.Tensor
    label: torch.Tensor
    group: np.ndarray

    def part(self, chosen: np.ndarray) -> CtrRows:
        """Keep the rows where `chosen` is true."""
        mask = torch.from_numpy(chosen)
        return CtrRows(self.user[mask], self.item[mask], self.label[mask], self.group[chosen])


@dataclass(frozen=True)
class CtrData:
    """Training and test pairs over shared tables of encoded users and items.

    Parameters
    ----------
    owner : numpy.ndarray
        int64 [U], the user (as `CtrRows.group`) that a row of `users` is of; several rows of one user are
        of several days.
    time : numpy.ndarray
        int64 [U], the event_timestamp of a row of `users`, numbered from the earliest.
    """

    encoder: FieldEncoder
    users: UserTable
    items: ItemTable
    owner: np.ndarray
    time: np.ndarray
    train: CtrRows
    test: CtrRows
    protocol: str

    @classmethod
    def of(
        cls,
        project: RankingProject,
        store: FeatureStore,
        *,
        labels: Labels | None = None,
        candidates: int = 100,
        max_users: int | None = None,
        seed: int = 0,
        across_pools: bool = False,
    ) -> CtrData:
        """Read labels and join features.

        Parameters
        ----------
        labels : {"impressions", "holdout"}, optional
            Impressions where the project has any, unless given.
        candidates : int
            Items per held-out event, the event's own included, at least 2; impressions are taken as they are.
        max_users : int, optional
            Uniform sample of users.
        across_pools : bool
            Leave the users' clusters out, which mean something within one pool only.

        Raises
        ------
        ConfigError
            `candidates` or `max_users` is too small.
        FeatureStoreError
            The repository does not define the services that MaskNet reads.
        FeaturesError
            What Feast joins is of another pool than the project's.
        TableError
            There are no such labels, or they are all of one kind.
        TrainingFrameError
            Features are missing or unusable.
        """
        check_services(store, project)
        kind = labels or ("impressions" if has_impressions(project) else "holdout")
        if kind == "impressions":
            check_sizes(None, max_users)
            train, test, protocol = impression_labels(project, max_users=max_users, seed=seed)
        else:
            sampled = {"candidates": candidates, "max_users": max_users, "seed": seed}
            queries = [ranking_queries(project, part, **sampled) for part in (TRAIN, TEST)]  # type: ignore[arg-type]
            train, test = (q.frame.select("user_id", "item_id", "label", "event_timestamp") for q in queries)
            protocol = queries[1].protocol
        for name, part in (("training", train), ("test", test)):
            if part["label"].n_unique() < 2:
                raise TableError(f"the {name} part needs clicks and items passed over", got=f"{part.height} rows")
        rows = pl.concat([train, test])
        users, items = (rows.select(_KEYS[key]).unique(maintain_order=True) for key in ("user_id", "item_id"))
        user_frame = with_mart_features(training_frame(store, users, USER_SERVICE), project, past=kind == "impressions")
        item_frame = training_frame(store, items, ITEM_SERVICE)
        if kind == "impressions" and not user_frame["user_activity__interaction_count"].count():
            raise TableError(
                "no features had been published when the impressions were shown",
                where=str(project.mart("impressions")),
                got=f"shown until {rows['event_timestamp'].max()!s}, features as of {project.as_of}",
                hint="publish features as of an earlier time, or train on held-out events: --labels holdout",
            )
        seeds = seed_frame(store, user_frame)
        # What was shown before the features' time has what had been published by then, of whatever pool.
        now = pl.col("event_timestamp") >= project.as_of
        check_pool(user_frame.filter(now)["user_seed_match__pool_version"], project)
        check_pool(seeds.filter(now)["seed_rationale__pool_version"], project)
        trained = {key: rows[: train.height].select(_KEYS[key]).unique() for key in _KEYS}
        encoder = FieldEncoder.fit(
            user_frame.join(trained["user_id"], on=_KEYS["user_id"], how="semi"),
            item_frame.join(trained["item_id"], on=_KEYS["item_id"], how="semi"),
            across_pools=across_pools,
        )
        group = rows["user_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
        owner = users.join(
            pl.DataFrame({"user_id": rows["user_id"], "group": group}).unique("user_id"),
            on="user_id",
            maintain_order="left",
        )["group"].to_numpy()
        user_row, item_row = _row_of(rows, users, _KEYS["user_id"]), _row_of(rows, items, _KEYS["item_id"])
        label = torch.tensor(rows["label"].to_numpy(), dtype=torch.float32)
        everything = CtrRows(user_row, item_row, label, group)
        first = np.arange(rows.height) < train.height
        return cls(
            encoder=encoder,
            users=encoder.encode_users(user_frame, seeds),
            items=encoder.encode_items(item_frame),
            owner=owner,
            time=users["event_timestamp"].rank("dense").cast(pl.Int64).to_numpy() - 1,
            train=everything.part(first),
            test=everything.part(~first),
            protocol=protocol,
        )

    def shuffled(self, seed: int) -> CtrData:
        """Deal the rationales out to other users, those of nobody included: similarity and cluster move along.

        It is a permutation of users, the same in training and test. A row takes what its giver has at the same
        time, else the giver's latest before it, else nothing: no row knows a publication that its user's own
        rationale does not. Users are dealt among those of the same times as far as there are any, so that each
        rationale, and none, is there as often as before.
        """
        giver = givers(self.owner, self.time, seed)[self.owner]
        span = int(self.time.max()) + 1
        key = self.owner * span + self.time
        order = np.argsort(key)
        latest = np.searchsorted(key[order], giver * span + self.time, side="right") - 1
        row = order[np.maximum(latest, 0)]
        nobody = torch.from_numpy((latest < 0) | (self.owner[row] != giver)).to(self.users.seed.device)
        rows = torch.from_numpy(row).to(nobody.device)
        return self._dealt(
            seed=self.users.seed[rows].masked_fill(nobody, -1),
            similarity=self.users.similarity[rows].masked_fill(nobody, 0.0),
            cluster=self.users.cluster[rows].masked_fill(nobody, UNKNOWN),
        )

    def constant(self) -> CtrData:
        """Give everybody who has a rationale the same one: the mean vector and the mean similarity."""
        there = self.users.seed >= 0
        if not there.any():
            return self
        similarity = self.users.similarity[there].mean()
        return self._dealt(
            rationales=self.users.rationales.mean(0, keepdim=True),
            seed=torch.where(there, 0, -1),
            similarity=torch.where(there, similarity, 0.0),
            cluster=torch.full_like(self.users.cluster, UNKNOWN),
        )

    def _dealt(self, **fields: torch.Tensor) -> CtrData:
        return dataclasses.replace(self, users=dataclasses.replace(self.users, **fields))


def _row_of(rows: pl.DataFrame, keys: pl.DataFrame, on: list[str]) -> torch.Tensor:
    index = keys.with_row_index("row")
    joined = rows.select(on).join(index, on=on, how="left", maintain_order="left")["row"]
    return torch.from_numpy(joined.cast(pl.Int64).to_numpy(writable=True))

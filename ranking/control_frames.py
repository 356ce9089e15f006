"""Training and test rows of a tabular ranker, and the same rows with other vectors in the rationales' place.

Only the features that the baseline does not have are replaced, the same for a user in training and test.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ranking.compact_views import read_view, vectors
from ranking.dataset import RankingQueries
from ranking.mean_text import mean_vectors
from ranking.project import RankingProject
from ranking.tabular import (
    BASELINE_SERVICE,
    COMPONENTS,
    RATIONALE_SERVICE,
    Column,
    TabularFeatures,
    rationale_features,
)
from ranking.training_frame import feature_names, training_frame
from reland_features.columns import ITEM_ATTRIBUTES
from reland_features.pool import principal_components

if TYPE_CHECKING:
    from feast import FeatureStore

_ROW_KEYS = ("user_id", "item_id", "event_timestamp")
_COSINE, _HAS = "rationale_item_cross__rationale_item_cosine", "rationale_item_cross__has_rationale"
_OF_A_SEED = ("user_rationale__similarity", "user_rationale__cluster_id")
_BLOCK = 65_536


@dataclass(frozen=True)
class Frames:
    """Training and test rows with their features."""

    train: pl.DataFrame
    test: pl.DataFrame


def join_features(store: FeatureStore, train: RankingQueries, test: RankingQueries) -> Frames:
    """Join every row's features through Feast."""
    return Frames(*(training_frame(store, queries.frame, RATIONALE_SERVICE) for queries in (train, test)))


def shuffled(frames: Frames, seed: int) -> pl.DataFrame:
    """Return whose rationale each user is given: a permutation of the users, columns user_id and giver."""
    users = _users(frames)["user_id"]
    return pl.DataFrame(
        {"user_id": users, "giver": users.gather(np.random.default_rng([seed, 7]).permutation(len(users)))}
    )


def constant(frames: Frames) -> pl.DataFrame:
    """Give everybody who has a rationale that of one user, whose components are nearest to the users' mean."""
    users = _users(frames)
    there = users.drop_nulls(COMPONENTS)
    if not there.height:
        return users.select("user_id", giver="user_id")
    components = np.array(there[COMPONENTS].to_list(), dtype=np.float64)
    distance = np.linalg.norm(components - components.mean(axis=0), axis=1)
    giver = there["user_id"][int(distance.argmin())]
    has = pl.col(COMPONENTS).is_not_null()
    return users.select("user_id", giver=pl.when(has).then(pl.lit(giver)).otherwise("user_id"))


def deal(store: FeatureStore, frames: Frames, givers: pl.DataFrame) -> Frames:
    """Join the features that the baseline does not have again, as if each user were its giver.

    Parameters
    ----------
    givers : polars.DataFrame
        user_id and giver, each user of the frames once.
    """
    baseline = set(feature_names(store.get_feature_service(BASELINE_SERVICE)))
    added = [name for name in feature_names(store.get_feature_service(RATIONALE_SERVICE)) if name not in baseline]

    def dealt(frame: pl.DataFrame) -> pl.DataFrame:
        giver = pl.col("user_id").replace_strict(givers["user_id"], givers["giver"])
        rows = frame.select(_ROW_KEYS).with_columns(giver)
        # One giver for everybody leaves a row for each item: joined once, not once a query.
        extra = training_frame(store, rows.unique(maintain_order=True), RATIONALE_SERVICE, show_coverage=False)
        found = rows.join(extra, on=_ROW_KEYS, how="left", maintain_order="left")
        return frame.with_columns(found.select(added))

    return Frames(dealt(frames.train), dealt(frames.test))


def mean_text(project: RankingProject, store: FeatureStore, frames: Frames) -> Frames:
    """Put the mean of the item texts of each user's history where its rationale was; no LLM has a part in it.

    The history is that of the mart `interactions`, without what is held out. Similarity and cluster are those of
    nobody. A user none of whose items has a text has no vector.
    """
    users = _users(frames)["user_id"]
    items = pl.read_parquet(project.mart("items"), columns=["item_id"])["item_id"]
    name = "item_text_embedding"
    read = read_view(store, ITEM_ATTRIBUTES.name, "item_id", items, [name], project.as_of)
    item_text, _ = vectors(read[name], f"{ITEM_ATTRIBUTES.name}:{name}")
    user_rows = pl.DataFrame({"user_id": users}).with_row_index("user")
    item_rows = pl.DataFrame({"item_id": items}).with_row_index("item")

    def rows_of(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return user and item rows of those whose user and item are known, int64."""
        found = frame.select("user_id", "item_id").join(user_rows, on="user_id", maintain_order="left")
        found = found.join(item_rows, on="item_id", maintain_order="left")
        return found["user"].cast(pl.Int64).to_numpy(), found["item"].cast(pl.Int64).to_numpy()

    history = pl.read_parquet(project.mart("interactions"), columns=["user_id", "item_id"])
    means = mean_vectors(*rows_of(history), len(users), item_text)
    has = np.asarray(means.any(axis=1))
    components = np.zeros((len(users), rationale_features(frames.train).components), dtype=np.float32)
    components[has] = principal_components(means[has], components.shape[1])
    length = np.linalg.norm(item_text, axis=1, keepdims=True)
    directions = item_text / np.where(length > 0, length, 1)

    def replaced(frame: pl.DataFrame) -> pl.DataFrame:
        user, item = rows_of(frame)
        starts = range(0, len(user), _BLOCK)
        blocks = ((user[at : at + _BLOCK], item[at : at + _BLOCK]) for at in starts)
        cosine = np.concatenate([np.einsum("nd,nd->n", means[u], directions[i]) for u, i in blocks])
        of_user = pl.Series([row if there else None for row, there in zip(components.tolist(), has, strict=True)])
        new = {_COSINE: pl.Series(cosine), _HAS: pl.Series(has[user]), COMPONENTS: of_user.gather(user)}
        return frame.with_columns(
            *(values.cast(frame[column].dtype).alias(column) for column, values in new.items()),
            *(pl.lit(None, frame[column].dtype).alias(column) for column in _OF_A_SEED),
        )

    return Frames(replaced(frames.train), replaced(frames.test))


def both(features: TabularFeatures, own: Frames, mean: Frames) -> tuple[TabularFeatures, Frames]:
    """Put the columns of the mean text beside those of the rationales."""
    names = ["mean_text_cosine", *(f"mean_text_component_{n}" for n in range(features.components))]

    def joined(frame: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
        components = (other[COMPONENTS].list.get(n, null_on_oob=True) for n in range(features.components))
        columns = [other[_COSINE], *components]
        return frame.with_columns(column.alias(name) for name, column in zip(names, columns, strict=True))

    more = tuple(Column(name, name) for name in names)
    frames = Frames(joined(own.train, mean.train), joined(own.test, mean.test))
    return dataclasses.replace(features, more=more), frames


def _users(frames: Frames) -> pl.DataFrame:
    """Return every user once, with its rationale's components where there is one."""
    rows = pl.concat([frame.select("user_id", COMPONENTS) for frame in (frames.train, frames.test)])
    return rows.group_by("user_id").agg(pl.col(COMPONENTS).drop_nulls().first()).sort("user_id")

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
from reland_features.columns import ITEM_ATTRIBUTES, USER_SEED_MATCH
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


def match_alone(frames: Frames) -> Frames:
    """Take the rationale's text away: its cosine with the item, and its components; similarity and cluster stay."""
    gone = [pl.lit(None, frames.test[column].dtype).alias(column) for column in (_COSINE, COMPONENTS)]
    return Frames(frames.train.with_columns(gone), frames.test.with_columns(gone))


@dataclass(frozen=True)
class MeanTexts:
    """The mean of the item texts of users' histories, which no LLM wrote.

    Histories are those of the mart `interactions`, without what is held out.

    Parameters
    ----------
    users, items : polars.Series
        Whose means, and which items.
    means : numpy.ndarray
        float32 [U, D] at unit length; zeros for a user none of whose items has a text.
    directions : numpy.ndarray
        float32 [I, D], the items' texts at unit length.
    """

    users: pl.Series
    items: pl.Series
    means: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, project: RankingProject, store: FeatureStore, users: pl.Series) -> MeanTexts:
        """Read the items' texts through Feast and the histories from the marts."""
        items = pl.read_parquet(project.mart("items"), columns=["item_id"])["item_id"]
        name = "item_text_embedding"
        read = read_view(store, ITEM_ATTRIBUTES.name, "item_id", items, [name], project.as_of)
        texts, _ = vectors(read[name], f"{ITEM_ATTRIBUTES.name}:{name}")
        history = pl.read_parquet(project.mart("interactions"), columns=["user_id", "item_id"])
        history = history.filter(pl.col("user_id").is_in(users.implode()))
        taken = _rows(history["item_id"], items)
        known = taken >= 0  # an item that the catalogue does not have has no text either
        means = mean_vectors(_rows(history["user_id"], users)[known], taken[known], len(users), texts)
        length = np.linalg.norm(texts, axis=1, keepdims=True)
        return cls(users, items, means, texts / np.where(length > 0, length, 1))

    def in_place_of_rationales(self, frames: Frames, givers: pl.DataFrame) -> Frames:
        """Give each user its giver's mean text where its rationale was; similarity and cluster stay.

        Parameters
        ----------
        givers : polars.DataFrame
            user_id and giver, each user of the frames once; a null giver gives nothing.
        """
        giver = np.full(givers.height, -1, dtype=np.int64)
        known = givers["giver"].is_not_null().to_numpy()
        giver[known] = _rows(givers["giver"].drop_nulls(), self.users)
        has = known & self.means[giver].any(axis=1)
        given = np.where(has[:, None], self.means[giver], 0).astype(np.float32)
        components = np.zeros((len(given), rationale_features(frames.train).components), dtype=np.float32)
        if has.any():
            components[has] = principal_components(given[has], components.shape[1])
        of_user = pl.Series([row if there else None for row, there in zip(components.tolist(), has, strict=True)])

        def replaced(frame: pl.DataFrame) -> pl.DataFrame:
            user, item = _rows(frame["user_id"], givers["user_id"]), _rows(frame["item_id"], self.items)
            blocks = ((user[at : at + _BLOCK], item[at : at + _BLOCK]) for at in range(0, len(user), _BLOCK))
            cosine = np.concatenate([np.einsum("nd,nd->n", given[u], self.directions[i]) for u, i in blocks])
            cosine[item < 0] = 0
            new = {_COSINE: pl.Series(cosine), _HAS: pl.Series(has[user]), COMPONENTS: of_user.gather(user)}
            return frame.with_columns(values.cast(frame[name].dtype).alias(name) for name, values in new.items())

        return Frames(replaced(frames.train), replaced(frames.test))


def texts_without_llm(project: RankingProject, store: FeatureStore, frames: Frames) -> tuple[Frames, Frames]:
    """Return the rows with the mean text of each user's own history in the rationale's place, and with its seed's.

    With its own, similarity and cluster are taken away, for nobody was matched. With its seed's they stay, so that
    all that is missing beside the rationale is what the LLM wrote.
    """
    own = _users(frames).select("user_id", giver="user_id")
    view, name = USER_SEED_MATCH.name, "seed_user_id"
    matched = read_view(store, view, "user_id", own["user_id"], [name], project.as_of)[name]
    seeds = own.select("user_id", giver=matched)
    texts = MeanTexts.of(project, store, pl.concat([own["user_id"], matched.drop_nulls()]).unique().sort())
    mean = texts.in_place_of_rationales(frames, own)
    unmatched = [pl.lit(None, frames.test[column].dtype).alias(column) for column in _OF_A_SEED]
    return (
        Frames(mean.train.with_columns(unmatched), mean.test.with_columns(unmatched)),
        texts.in_place_of_rationales(frames, seeds),
    )


def beside(features: TabularFeatures, frames: Frames, mean: Frames) -> tuple[TabularFeatures, Frames]:
    """Put the columns of the mean text beside those of the rationales."""
    names = ["mean_text_cosine", *(f"mean_text_component_{n}" for n in range(features.components))]

    def joined(frame: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
        components = (other[COMPONENTS].list.get(n, null_on_oob=True) for n in range(features.components))
        columns = [other[_COSINE], *components]
        return frame.with_columns(column.alias(name) for name, column in zip(names, columns, strict=True))

    more = tuple(Column(name, name) for name in names)
    return dataclasses.replace(features, more=more), Frames(
        joined(frames.train, mean.train), joined(frames.test, mean.test)
    )


def _rows(ids: pl.Series, of: pl.Series) -> np.ndarray:
    """Return where each id stands in a series that holds an id once, int64; -1 where it does not."""
    index = pl.DataFrame({"id": of, "row": np.arange(len(of))})
    found = pl.DataFrame({"id": ids}).join(index, on="id", how="left", maintain_order="left")["row"]
    return np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64)


def _users(frames: Frames) -> pl.DataFrame:
    """Return every user once, with its rationale's components where there is one."""
    rows = pl.concat([frame.select("user_id", COMPONENTS) for frame in (frames.train, frames.test)])
    return rows.group_by("user_id").agg(pl.col(COMPONENTS).drop_nulls().first()).sort("user_id")

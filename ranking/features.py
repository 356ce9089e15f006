"""The features of a split's users and items, from Feast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from ranking.compact_views import FeaturesError, check_pool, read_view, vectors
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.seed_lists import shares
from ranking.services import match_detail
from ranking.splits import Split
from reland_features.artifacts import ArtifactStore
from reland_features.columns import ITEM_ATTRIBUTES, SEED_RATIONALE, USER_MATCH_DETAIL, USER_SEED_MATCH
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ArtifactError
from reland_features.feature_store import open_store
from reland_features.fused_rationales import rows_and_weights, seeds_of_users
from reland_features.index.exact import ExactIndex
from reland_features.lineage import matched_vectors
from reland_features.matching import match_users
from reland_features.pool import ReasoningPool, install


@dataclass(frozen=True, eq=False)
class RankerFeatures:
    """What a ranker may read beside IDs, aligned with the rows of a `Split`.

    Parameters
    ----------
    item_text : numpy.ndarray
        float32 [I, D], the text encoder over each item's attributes; a row of zeros where there is none.
    rationales : Rationales
        The users' rationales.
    features_run, pool_version : str
        Where they come from.
    """

    item_text: np.ndarray
    rationales: Rationales
    features_run: str
    pool_version: str


def load_features(project: RankingProject, split: Split) -> RankerFeatures:
    """Read the compact views and the items' text embeddings through Feast, as of the published run.

    A user whom Feast does not know, who has no match, or whose seed has no embedding, has no rationale. Where the
    run says so (`user_match_detail`), a user has several, with the weights that the wide layout was fused with.

    Raises
    ------
    FeaturesError
        Embeddings are not finite or differ in width, nobody has a rationale, or what Feast joins is of
        another pool than the project's.
    TrainingFrameError
        Feast lost, added or changed rows.
    """
    store = open_store(project.repository)
    if match_detail(project).is_file():
        view, names = USER_MATCH_DETAIL.name, ["seed_user_ids", "seed_weights", "pool_version"]
        matches = read_view(store, view, "user_id", split.user_ids, names, project.as_of)
        seeds, weights = _laid_out(matches["seed_user_ids"], matches["seed_weights"])
    else:
        view, names = USER_SEED_MATCH.name, ["seed_user_id", "pool_version"]
        matches = read_view(store, view, "user_id", split.user_ids, names, project.as_of)
        seeds, weights = matches.select("seed_user_id").to_numpy(), np.ones((matches.height, 1))
    check_pool(matches["pool_version"], project)
    items = read_view(store, ITEM_ATTRIBUTES.name, "item_id", split.item_ids, ["item_text_embedding"], project.as_of)
    item_text, _ = vectors(items["item_text_embedding"], f"{ITEM_ATTRIBUTES.name}:item_text_embedding")
    rationales = rationales_of_seeds(project, seeds, weights)
    return RankerFeatures(item_text, rationales, project.features_run, project.pool_version)


def top_k(project: RankingProject, split: Split, k: int, *, temperature: float = 0.1) -> Rationales:
    """Give each user the rationales of the k most similar seeds instead of one.

    The weights are softmax(cosine / temperature); k = 1 is Eq. (3). They are those that a run with
    `match.top_k` and `match.temperature` publishes, without publishing it; the embeddings come from Feast.

    Parameters
    ----------
    k : int
        Seeds per user, from 1 to the size of the pool.
    temperature : float
        Above 0; the smaller, the more the best seed counts.

    Raises
    ------
    FeaturesError
        k or the temperature is out of range, or as in `load_features`.
    ArtifactError
        The folder of the pool or of the behaviour vectors is gone.
    """
    pool, behavior = pool_and_vectors(project)
    if not 1 <= k <= pool.frame.height or temperature <= 0:
        raise FeaturesError(
            "there are no such nearest seeds",
            where=f"pool {pool.pool_version}",
            got=f"k = {k}, temperature = {temperature}",
            expected=f"k from 1 to {pool.frame.height}, a temperature above 0",
        )
    return nearest_rationales(project, split, pool, behavior, k=k, temperature=temperature)


def nearest_rationales(
    project: RankingProject,
    split: Split,
    pool: ReasoningPool,
    behavior: BehaviorVectors,
    *,
    k: int,
    temperature: float,
    order: pl.Series | None = None,
) -> Rationales:
    """Match a split's users to the seeds of a pool, or of a part of it, as a run does; the embeddings come from Feast.

    Parameters
    ----------
    behavior : BehaviorVectors
        m_u; a user without one, or with one of zeros, has no rationale.
    k, temperature
        As `match.top_k` and `match.temperature`; all of the pool's seeds where it has fewer than k.
    order : polars.Series, optional
        As in `rationales_of_seeds`.

    Raises
    ------
    EncoderMismatchError
        The vectors and the pool are of different encoders.
    FeaturesError
        As in `rationales_of_seeds`.
    """
    index = ExactIndex()
    install(pool, index, "reland")
    matches = match_users(behavior, pool, index, prefix="reland", users=split.user_ids, k=k)
    users = pl.DataFrame({"user_id": split.user_ids})
    found = users.join(seeds_of_users(matches, temperature), on="user_id", how="left", maintain_order="left")
    return rationales_of_seeds(project, *_laid_out(found["seed_user_ids"], found["seed_weights"]), order)


def _laid_out(seed_user_ids: pl.Series, seed_weights: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Turn a user's lists into rows: ids, object [U, k], None for none, and weights, float32 [U, k]."""
    ids = seed_user_ids.list.explode().drop_nulls().unique().sort()
    rows, weights = rows_and_weights(seed_user_ids, seed_weights, ids)
    return np.array([*ids, None], dtype=object)[rows], weights


def rationales_of_seeds(
    project: RankingProject, seeds: np.ndarray, weights: np.ndarray, order: pl.Series | None = None
) -> Rationales:
    """Look the embeddings of seeds' rationales up in Feast.

    Parameters
    ----------
    seeds : numpy.ndarray
        Ids of seed users [U, k], None for none.
    weights : numpy.ndarray
        float [U, k] of any sum above 0.
    order : polars.Series, optional
        Ids of seeds in the order that the table's rows are to have, ascending unless given. Seeds that nobody has
        are left out of the table. A training sums over the table, so its last bits follow the order.

    Raises
    ------
    FeaturesError
        There is no seed, none has an embedding, or Feast joins another pool than the project's.
    """
    wanted = pl.Series("seed_user_id", seeds.ravel().tolist(), dtype=pl.String)
    distinct = wanted.drop_nulls().unique().sort()
    distinct = distinct if order is None else order.filter(order.is_in(distinct.implode()))
    if not len(distinct):
        raise FeaturesError(
            "no user has a rationale",
            where=f"{USER_SEED_MATCH.name}:seed_user_id",
            got=f"{len(seeds):,} users, all without a match",
            hint="look at the encoder's vectors of these users, then reland run",
        )
    where, names = SEED_RATIONALE.name, ["rationale_embedding", "pool_version"]
    frame = read_view(open_store(project.repository), where, "seed_user_id", distinct, names, project.as_of)
    check_pool(frame["pool_version"], project)
    table, present = vectors(frame["rationale_embedding"], f"{where}:rationale_embedding")
    if not present.any():
        raise FeaturesError(
            "no rationale has an embedding",
            where=f"{where}:rationale_embedding",
            got=f"{len(distinct):,} seeds, all null",
            hint="reland run",
        )
    index = pl.DataFrame({"seed_user_id": distinct.filter(pl.Series(present))}).with_row_index("row")
    found = wanted.to_frame().join(index, on="seed_user_id", how="left", maintain_order="left")["row"]
    rows = found.cast(pl.Int64).fill_null(-1).to_numpy().reshape(seeds.shape)
    return Rationales(table[present], rows, shares(rows, weights))


def pool_and_vectors(project: RankingProject) -> tuple[ReasoningPool, BehaviorVectors]:
    """Read the project's pool and the behaviour vectors that the published run was matched to it with.

    Raises
    ------
    ArtifactError
        One of their folders is gone.
    """
    store = ArtifactStore(project.root / ".reland" / "artifacts")
    for artifact in store.all("reasoning_pool"):
        is_published = artifact.manifest["pool_version"] == project.pool_version
        if is_published and (encoded := matched_vectors(store, project.features_run, artifact)):
            table, encoder = encoded.table("behavior_vectors"), encoded.manifest["encoder_id"]
            as_of = datetime.fromisoformat(encoded.manifest["as_of"])
            return ReasoningPool.read(artifact.path), BehaviorVectors.read(table, encoder, as_of)
    raise ArtifactError(
        "the pool or its behaviour vectors are not there",
        where=str(store.root),
        expected=f"pool {project.pool_version}",
        hint="reland run",
    )

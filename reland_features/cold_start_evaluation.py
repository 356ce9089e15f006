"""Measure cold start on users whose history is hidden, against what needs no model and against the real match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features import encoders
from reland_features.artifacts import ArtifactStore
from reland_features.cold_start import ProfileModel, with_cold_users
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ArtifactError, ConfigError
from reland_features.interactions import Interactions
from reland_features.lineage import matched_vectors
from reland_features.pool import ReasoningPool
from reland_features.project import Project
from reland_features.quality.bootstrap import Estimate, difference, estimate, mean_of

MEASURES = ("cosine", "category precision", "category share")
BASELINES = ("popular seed", "central seed", "random seed")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ColdStartEvaluation:
    """Means over the hidden users with 95 % intervals: by (source of the seed, measure), and by difference."""

    estimates: Mapping[tuple[str, str], Estimate]
    hidden: int
    seeds: int
    distinct: Mapping[str, int]
    model: ProfileModel
    is_encoded_again: bool

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "hidden_users": self.hidden,
            "seeds": self.seeds,
            "distinct_seeds": dict(self.distinct),
            "encoded_without_hidden": self.is_encoded_again,
            "model": self.model.setting,
            "learned_from": self.model.users,
            "cross_validated_cosine": self.model.cosine,
            "cosine_of_mean": self.model.cosine_of_mean,
            "measures": [
                {"source": source, "measure": measure, **asdict(found)}
                for (source, measure), found in self.estimates.items()
            ],
        }

    def text(self) -> str:
        """Return the figures as markdown."""
        lines = [f"| seed chosen by | {' | '.join(MEASURES)} | seeds used |", "| --- | ---: | ---: | ---: | ---: |"]
        for source in dict.fromkeys(source for source, _ in self.estimates):
            cells = (self.estimates[source, measure] for measure in MEASURES)
            shown = " | ".join(f"{e.value:.4f} ({e.low:.4f} to {e.high:.4f})" for e in cells)
            lines.append(f"| {source} | {shown} | {self.distinct.get(source, '')} |")
        gains = [self.estimates[f"profile − {baseline}", "cosine"] for baseline in BASELINES[:2]]
        verdict = "is nearer than" if all(gain.low > 0 for gain in gains) else "is not shown to be nearer than"
        encoder = "fitted without them" if self.is_encoded_again else "fitted with them: they are hidden from the rest"
        return (
            f"{self.hidden:,} users whose history is hidden, encoder {encoder}; {self.seeds:,} seeds, none of them "
            f"hidden; 95 % bootstrap intervals over users. Model: {self.model.setting}, learned from "
            f"{self.model.users:,} users; cross-validated cosine {self.model.cosine:.4f}, of the mean vector in its "
            f"place {self.model.cosine_of_mean:.4f}.\n\n" + "\n".join(lines) + "\n\n"
            f"The seed that a profile chooses {verdict} the best constant one."
        )


def evaluate_cold_start(project: Project, *, users: int = 500, encode_again: bool = True) -> ColdStartEvaluation:
    """Hide the history of some users, match them by profile, and compare their seeds with what they really did.

    Measures of a hidden user u and the seed s that is chosen for it:

    - cosine: of m_u and m_s, both of the published encoder, which has seen u's history;
    - category precision: the share of the categories of s's rationale among u's as many most frequent ones;
    - category share: the share of u's interactions in a category of s's rationale, mean over its categories.

    Sources of seeds: u's behaviour (Eq. 3, the ceiling), its profile, the seed that most visible users are matched
    to, the seed nearest to their mean vector, and a random seed (its expectation, not a draw).

    Parameters
    ----------
    users : int
        How many are hidden, drawn from those with a profile and a vector who are no seeds.
    encode_again : bool
        Fit the encoder anew on the interactions of the others, so that nothing knows the hidden histories but
        the measures. Without it only the model and the match do not know them, and the seeds' vectors do.

    Raises
    ------
    FeatureStoreError, ArtifactError
        Nothing is published, or its tables are gone.
    ConfigError
        There are no profiles, or too few users.
    """
    marts, pool, published = _published(project)
    table = pl.read_parquet(marts / "users.parquet", columns=["user_id", "profile", "interaction_count"])
    hidden = _draw(table, published, pool, users, project.config.seed)
    interactions = pl.read_parquet(marts / "interactions.parquet")
    visible = published.without(hidden)
    if encode_again:
        left = Interactions.from_frame(interactions.filter(~pl.col("user_id").is_in(hidden.to_list())))
        encoder = encoders.build(project.config.encoder, project.config.seed)
        visible = encoders.validate(encoder.encode(left, published.as_of))
    settings = project.config.cold_start
    count = pl.col("interaction_count").clip(settings.min_interactions)
    is_hidden = pl.col("user_id").is_in(hidden.to_list())
    started = with_cold_users(
        visible,
        table.with_columns(interaction_count=pl.when(is_hidden).then(0).otherwise(count)),
        project.config.data.columns.users.profile,
        settings,
        seeds=pool.frame["seed_user_id"],
        seed=project.config.seed,
    )
    assert started.model is not None  # users were hidden
    chosen = _choices(visible, started.vectors, published, hidden, pool.frame["seed_user_id"])
    values = _measures(published, hidden, pool.frame, interactions, pl.read_parquet(marts / "items.parquet"))
    return _compare(values, chosen, started.model, is_encoded_again=encode_again, seed=project.config.seed)


def _published(project: Project) -> tuple[Any, ReasoningPool, BehaviorVectors]:
    current = project.current()
    pool = project.root / current["pool"]
    store: ArtifactStore = project.artifacts
    manifest = store.find("reasoning_pool", pool.name)
    encoded = matched_vectors(store, current.get("features_run", ""), manifest) if manifest else None
    if encoded is None:
        raise ArtifactError("the published pool's behaviour vectors are gone", where=str(pool), hint="reland run")
    read, as_of = ReasoningPool.read(pool), datetime.fromisoformat(encoded.manifest["as_of"])
    vectors = BehaviorVectors.read(encoded.table("behavior_vectors"), read.encoder_id, as_of)
    return project.root / current["marts"], read, vectors


def _draw(table: pl.DataFrame, vectors: BehaviorVectors, pool: ReasoningPool, users: int, seed: int) -> pl.Series:
    may = table.filter(
        pl.col("profile").is_not_null(),
        pl.col("user_id").is_in(vectors.user_ids.to_list()),
        ~pl.col("user_id").is_in(pool.frame["seed_user_id"].to_list()),
    )["user_id"]
    if len(may) < 2 * users:
        raise ConfigError(
            "there are too few users with a profile to hide some and to learn from the others",
            where="data.columns.users.profile",
            got=f"{len(may):,} users with profile and behaviour who are no seeds",
            expected=f"at least {2 * users:,} to hide {users:,}",
            hint="reland seeds cold-start --users N with a smaller N" if len(may) else "name the profile columns",
        )
    return may.gather(np.sort(np.random.default_rng(seed).permutation(len(may))[:users]))


def _choices(
    visible: BehaviorVectors, filled: BehaviorVectors, published: BehaviorVectors, hidden: pl.Series, seeds: pl.Series
) -> dict[str, npt.NDArray[np.int64]]:
    """Return the seed that each source chooses, as rows of `seeds`, int64 [hidden]."""
    others, known = _rows_of(visible, visible.user_ids), _rows_of(visible, seeds)
    counts = np.bincount((others @ known.T).argmax(axis=1), minlength=len(seeds))
    central = int((known @ others.mean(axis=0)).argmax())
    return {
        "behaviour": (_rows_of(published, hidden) @ _rows_of(published, seeds).T).argmax(axis=1),
        "profile": (_rows_of(filled, hidden) @ known.T).argmax(axis=1),
        "popular seed": np.full(len(hidden), int(counts.argmax())),
        "central seed": np.full(len(hidden), central),
    }


def _measures(
    published: BehaviorVectors, hidden: pl.Series, pool: pl.DataFrame, interactions: pl.DataFrame, items: pl.DataFrame
) -> dict[str, Floats]:
    """Return every measure of every hidden user with every seed, float64 [hidden, seeds]."""
    taken = (
        interactions.filter(pl.col("user_id").is_in(hidden.to_list()))
        .join(items.select("item_id", "categories"), on="item_id")
        .with_columns(share=1.0 / pl.len().over("user_id"))
        .explode("categories")
        .group_by("user_id", "categories")
        .agg(pl.col("share").sum())
        .drop_nulls()
    )
    wanted = pool.select("seed_user_id", "categories").explode("categories").drop_nulls()
    names = pl.concat([taken["categories"], wanted["categories"]]).unique().sort()
    shares = _table(taken["user_id"], taken["categories"], taken["share"].to_numpy(), hidden, names)
    says = _table(wanted["seed_user_id"], wanted["categories"], np.ones(wanted.height), pool["seed_user_id"], names)
    with np.errstate(invalid="ignore", divide="ignore"):
        says_evenly = says / says.sum(axis=1, keepdims=True)  # NaN for a rationale without categories
    # 0 for the user's most frequent category; one that it never took ranks behind all, ties by name
    ranks = np.argsort(np.argsort(-shares, axis=1, kind="stable"), axis=1)
    ranks[shares == 0] = len(names)
    precision = np.empty((len(hidden), pool.height))
    for column, row in enumerate(says):
        precision[:, column] = ((ranks < row.sum()) * row).sum(axis=1) / row.sum() if row.any() else np.nan
    cosine = _rows_of(published, hidden) @ _rows_of(published, pool["seed_user_id"]).T
    return dict(zip(MEASURES, (cosine, precision, shares @ says_evenly.T), strict=True))


def _compare(
    values: Mapping[str, Floats],
    chosen: Mapping[str, npt.NDArray[np.int64]],
    model: ProfileModel,
    *,
    is_encoded_again: bool,
    seed: int,
) -> ColdStartEvaluation:
    hidden, seeds = values[MEASURES[0]].shape
    every = np.arange(hidden)
    statistics = {
        **{(name, m): mean_of(values[m][every, rows]) for name, rows in chosen.items() for m in MEASURES},
        **{("random seed", m): mean_of(np.nanmean(values[m], axis=1)) for m in MEASURES},
    }
    for other in (*BASELINES, "behaviour"):
        for m in MEASURES:
            statistics[f"profile − {other}", m] = difference(statistics["profile", m], statistics[other, m])
    named = {f"{source}\n{m}": statistic for (source, m), statistic in statistics.items()}
    found = estimate(named, hidden, seed)
    return ColdStartEvaluation(
        {(key.split("\n")[0], key.split("\n")[1]): value for key, value in found.items()},
        hidden,
        seeds,
        {name: len(np.unique(rows)) for name, rows in chosen.items()},
        model,
        is_encoded_again,
    )


def _rows_of(vectors: BehaviorVectors, users: pl.Series) -> Floats:
    """Return the vectors of users at length 1, float64 [n, d]."""
    rows = {user: row for row, user in enumerate(vectors.user_ids)}
    values = vectors.vectors[[rows[user] for user in users]].astype(np.float64)
    unit: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def _table(rows: pl.Series, columns: pl.Series, values: np.ndarray, row_names: pl.Series, names: pl.Series) -> Floats:
    """Lay values out by row and column names, float64; 0 where there is none."""
    places = [{name: place for place, name in enumerate(each)} for each in (row_names, names)]
    laid = np.zeros((len(row_names), len(names)))
    laid[[places[0][row] for row in rows], [places[1][name] for name in columns]] = values
    return laid

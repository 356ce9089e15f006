"""Measure the rationales of a pool row by row, beside a constant and a shuffled answer; no ranker is needed.

*Constant* gives everyone the same: the categories and titles with the most interactions, and of embeddings the mean.
*Shuffled* gives everyone the rationale of another, drawn once from a seeded permutation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.encoders.base import BehaviorVectors
from reland_features.finished_pool import FinishedPool, WrittenRationale
from reland_features.index.exact import ExactIndex
from reland_features.matching import match_users
from reland_features.pool import install
from reland_features.prompts.text import fold
from reland_features.quality.bootstrap import Floats

MAX_USERS = 20_000
"""Matched users that the inherited rationales are measured on, at most."""

_BLOCK = 1024
_PREFIX = "quality"


@dataclass(frozen=True, eq=False)
class Sample:
    """One measure, row by row; NaN where it says nothing of a row.

    Parameters
    ----------
    name : str
        Key of `quality.LABELS`.
    ids : tuple of str
        Seeds, or users where `unit` is ``users``.
    pool : array of float
        What the pool's rationale reaches, [n].
    constant, shuffled : array of float, optional
        The baselines; None where they say nothing.
    """

    name: str
    unit: str
    ids: tuple[str, ...]
    pool: Floats
    constant: Floats | None = None
    shuffled: Floats | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """All samples of one pool, and what distinctness is counted on: embeddings of length 1 [S, e] and words."""

    pool_version: str
    samples: tuple[Sample, ...]
    seeds: tuple[str, ...]
    units: Floats
    words: tuple[tuple[str, ...], ...]
    without_future: str = ""


def measure(finished: FinishedPool, written: Sequence[WrittenRationale], seed: int = 0) -> Measured:
    """Measure a pool.

    Parameters
    ----------
    finished : FinishedPool
        The pool, its marts and matches.
    written : sequence of WrittenRationale
        `finished.written(template)`.
    seed : int
        Of the shuffles and of the sample of users.
    """
    generator = np.random.default_rng(seed)
    seeds = tuple(rationale.seed_user_id for rationale in written)
    other = derangement(len(seeds), generator)
    popular = _popular(finished)
    samples = [_format(finished), _grounding(finished, written, other, seeds)]
    futures = _Futures(finished, generator)
    if futures.reason == "":
        said = {rationale.seed_user_id: rationale.categories for rationale in written}
        of_seeds = [said[seed_user] for seed_user in seeds]
        samples.append(futures.precision("category_precision", "rationales", seeds, of_seeds, other, popular))
        users, inherited = futures.heirs(said)
        if users:
            shuffle = derangement(len(users), generator)
            samples.append(
                futures.precision("inherited_category_precision", "users", users, inherited, shuffle, popular)
            )
    units = _units(finished.pool.embeddings)
    samples += _agreement(written, _units(finished.pool.vectors), units, other, popular, seeds)
    words = tuple(tuple(fold(" ".join([r.summary, *r.categories, *r.items])).split()) for r in written)
    return Measured(finished.pool.pool_version, tuple(samples), seeds, units, words, futures.reason)


def derangement(size: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return a random permutation in which nobody keeps the own place, where there are two places or more."""
    order = generator.permutation(size)
    result = np.empty(size, dtype=np.int64)
    result[order] = np.roll(order, 1)
    return result


def precision(said: Collection[str], future: Collection[str]) -> float:
    """Return the share of the categories said that the future holds; NaN where either is empty."""
    return len(set(said) & set(future)) / len(set(said)) if said and future else np.nan


def jaccard(one: Collection[str], other: Collection[str]) -> float:
    """Return |A and B| / |A or B|; NaN where both are empty."""
    both = set(one) | set(other)
    return len(set(one) & set(other)) / len(both) if both else np.nan


def nearest_other(units: Floats) -> npt.NDArray[np.int64]:
    """Return for each row the most similar other one, Eq. (3) without the seed itself; ties: the first."""
    nearest = np.empty(len(units), dtype=np.int64)
    for start in range(0, len(units), _BLOCK):
        cosines = units[start : start + _BLOCK] @ units.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        nearest[start : start + _BLOCK] = (cosines >= cosines.max(axis=1, keepdims=True) - 1e-12).argmax(axis=1)
    return nearest


def _format(finished: FinishedPool) -> Sample:
    answered = finished.generated.filter(pl.col("status") != "failed")
    usable = (answered["status"] == "ok").to_numpy().astype(np.float64)
    return Sample("format_validity", "answers", tuple(answered["seed_user_id"]), usable)


def _grounding(
    finished: FinishedPool,
    written: Sequence[WrittenRationale],
    other: npt.NDArray[np.int64],
    seeds: tuple[str, ...],
) -> Sample:
    """Count which of the names said are titles of the catalogue that the seed has no event with."""
    title_of = dict(finished.items.select("item_id", "title").iter_rows())
    seen = {user: {title_of[i] for i in items if i in title_of} for user, items in finished.histories(seeds).items()}
    titles = [[*rationale.grounded, *rationale.repeated] for rationale in written]
    popular = [title for title, _ in _by_interactions(finished.items, "title")]

    def share(row: int, named: Sequence[str], unknown: int) -> float:
        new = sum(title not in seen.get(seeds[row], ()) for title in named)
        return new / (len(named) + unknown) if named or unknown else np.nan

    rows = range(len(written))
    own = [
        len(r.grounded) / total if (total := len(r.grounded) + len(r.repeated) + len(r.ungrounded)) else np.nan
        for r in written
    ]
    return Sample(
        "grounding",
        "rationales",
        seeds,
        np.array(own, dtype=np.float64),
        np.array([share(row, popular[: len(titles[row])], 0) for row in rows], dtype=np.float64),
        np.array([share(row, titles[o], len(written[o].ungrounded)) for row, o in zip(rows, other, strict=True)]),
    )


class _Futures:
    """Categories of the interactions that were held out, of seeds and of a sample of the users matched to them."""

    def __init__(self, finished: FinishedPool, generator: np.random.Generator) -> None:
        path = finished.marts.table("holdout")
        self.reason = "" if path.is_file() else "these marts have no held-out interactions"
        self._matches = _matched(finished, generator)
        self._of: dict[str, set[str]] = {}
        if self.reason:
            return
        wanted = pl.concat([finished.pool.frame["seed_user_id"], self._matches["user_id"]]).unique()
        held = pl.scan_parquet(path).filter(pl.col("user_id").is_in(wanted.implode()))
        for user, item in held.select("user_id", "item_id").collect().iter_rows():
            self._of.setdefault(user, set()).update(finished.categories_of.get(item, ()))
        if not any(self._of.values()):
            self.reason = "nothing was held out (evaluation.holdout is 0), or it has no categories"

    def heirs(self, said: dict[str, tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the matched users that are no seeds themselves, and the categories each of them inherits."""
        rows = [(user, said[seed]) for user, seed in self._matches.iter_rows() if user not in said and seed in said]
        return tuple(user for user, _ in rows), [categories for _, categories in rows]

    def precision(
        self,
        name: str,
        unit: str,
        ids: tuple[str, ...],
        said: Sequence[tuple[str, ...]],
        other: npt.NDArray[np.int64],
        popular: Sequence[str],
    ) -> Sample:
        """Compare what was said about each with the categories of its own future."""
        futures = [self._of.get(each, set()) for each in ids]

        def column(spoken: Sequence[Collection[str]]) -> Floats:
            # A row counts where there is something to compare: a future, and a rationale of its own.
            pairs = zip(spoken, futures, said, strict=True)
            return np.array([precision(names, future) if own else np.nan for names, future, own in pairs])

        constant = [popular[: len(own)] for own in said]
        return Sample(name, unit, ids, column(said), column(constant), column([said[o] for o in other]))


def _matched(finished: FinishedPool, generator: np.random.Generator) -> pl.DataFrame:
    """Return a sample of the users who inherit, by the pool's own tables, and their seeds.

    Where nobody was matched by these, as after a decision about a rationale and `reland refresh`, the sample is matched
    here; users whose profile would choose for them (`cold_start`) are not in it then.
    """
    if finished.matches is None:
        return _newly_matched(finished, generator)
    matches = pl.scan_parquet(finished.matches.table("matches")).filter(pl.col("rank") == 1)
    frame = matches.drop_nulls("seed_user_id").select("user_id", "seed_user_id").collect().sort("user_id")
    return frame[_sampled(frame.height, generator)]


def _newly_matched(finished: FinishedPool, generator: np.random.Generator) -> pl.DataFrame:
    if finished.vectors is None or not finished.pool.frame.height:
        return pl.DataFrame(schema={"user_id": pl.String, "seed_user_id": pl.String})
    made = finished.vectors.manifest
    path = finished.vectors.table("behavior_vectors")
    vectors = BehaviorVectors.read(path, made["encoder_id"], datetime.fromisoformat(made["as_of"]))
    users, index = vectors.user_ids.sort(), ExactIndex()
    install(finished.pool, index, _PREFIX)
    sample = users[_sampled(len(users), generator)]
    matches = match_users(vectors, finished.pool, index, prefix=_PREFIX, users=sample)
    return matches.drop_nulls("seed_user_id").select("user_id", "seed_user_id")


def _sampled(count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.sort(generator.permutation(count)[:MAX_USERS])


def _agreement(
    written: Sequence[WrittenRationale],
    vectors: Floats,
    units: Floats,
    other: npt.NDArray[np.int64],
    popular: Sequence[str],
    seeds: tuple[str, ...],
) -> list[Sample]:
    """Compare each seed's rationale with the one it would inherit if it had none: leave one out."""
    if len(seeds) < 2:
        return []
    retrieved = nearest_other(vectors)
    said = [rationale.categories for rationale in written]
    mean_of_others = _units(units.sum(axis=0) - units)

    def overlap(inherited: Sequence[Collection[str]]) -> Floats:
        return np.array([jaccard(own, got) for own, got in zip(said, inherited, strict=True)], dtype=np.float64)

    return [
        Sample(
            "agreement_cosine",
            "rationales",
            seeds,
            _rowwise(units, units[retrieved]),
            _rowwise(units, mean_of_others),
            _rowwise(units, units[other]),
        ),
        Sample(
            "agreement_categories",
            "rationales",
            seeds,
            overlap([said[row] for row in retrieved]),
            overlap([popular[: len(own)] if own else () for own in said]),
            overlap([said[row] for row in other]),
        ),
    ]


def _popular(finished: FinishedPool) -> list[str]:
    """Return the categories by interactions with their items, most frequent first."""
    counts: dict[str, int] = {}
    for item, count in finished.items.select("item_id", "interaction_count").iter_rows():
        for name in finished.categories_of.get(item, ()):
            counts[name] = counts.get(name, 0) + count
    return [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def _by_interactions(items: pl.DataFrame, column: str) -> list[tuple[str, int]]:
    counted = items.group_by(column).agg(pl.col("interaction_count").sum())
    return list(counted.sort("interaction_count", column, descending=[True, False]).iter_rows())


def _units(rows: npt.NDArray[np.floating]) -> Floats:
    values = np.asarray(rows, dtype=np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _rowwise(one: Floats, other: Floats) -> Floats:
    return np.einsum("nd,nd->n", one, other)

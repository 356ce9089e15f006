"""Match users without behaviour by their profile: a model learns profile → behaviour vector from users who have both.

The predicted vector takes the place of m_u in Eq. (3), so cold users are matched as all others are, to the seeds that
users of such a profile are near to. A prediction lies near the mean of all users: profiles say little of a person.
So its cosine to a seed is not comparable with that of a real vector, and such matches are flagged (`is_cold_start`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.config import ColdStart
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ConfigError
from reland_features.profiles import profile_columns

_FOLDS = 5
_NUMBERS_FROM = 32  # distinct numbers of a column from which it is a quantity; fewer are codes, such as age groups
_RARE = 10  # values of fewer users share one column; so do values that were never seen
_VALUES = 200  # at most, per column


@dataclass(frozen=True)
class ProfileModel:
    """A fitted model of behaviour vectors given profiles, and what was found by cross-validation.

    `cosine` is the mean cosine of predicted and real vectors of users left out, `cosine_of_mean` that of the mean
    vector in the prediction's place: the difference is what profiles are worth.
    """

    estimator: Any
    numeric: tuple[bool, ...]
    setting: str
    cosine: float
    cosine_of_mean: float
    users: int

    def predict(self, profiles: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Return predicted vectors, float32 [n, d]; values that were never seen, and null, are allowed."""
        return np.asarray(self.estimator.predict(_matrix(profiles, self.numeric)), dtype=np.float32)


def fit_profile_model(
    profiles: pl.DataFrame, vectors: npt.NDArray[np.float32], *, max_users: int, seed: int
) -> ProfileModel:
    """Learn behaviour vectors of length 1 from profiles; ridge regression or a forest, by cross-validation.

    Parameters
    ----------
    profiles : polars.DataFrame
        String columns [U], as of `profile_columns`. A column of many different numbers is a quantity, every other
        one a category.
    vectors : numpy.ndarray
        float32 [U, d], no zero row.
    max_users : int
        More users than this are not learned from; which ones is drawn by `seed`.

    Raises
    ------
    ConfigError
        There are fewer than 10 users to learn from.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import Pipeline

    if len(vectors) < 2 * _FOLDS:
        raise ConfigError(
            "there are too few users with behaviour and profile to learn from",
            where="cold_start",
            got=f"{len(vectors)} users",
            expected=f"at least {2 * _FOLDS}",
            hint="--set cold_start.enabled=false",
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:max_users])
    numeric = tuple(_is_quantity(profiles[name]) for name in profiles.columns)
    inputs, targets = _matrix(profiles[rows], numeric), _unit(vectors[rows])
    forest = RandomForestRegressor(50, random_state=seed, max_features=1 / 3)
    search = GridSearchCV(
        Pipeline([("columns", _encoder(numeric)), ("model", Ridge())]),
        [
            {"model": [Ridge()], "model__alpha": [1.0, 10.0, 100.0, 1000.0]},
            {"model": [forest], "model__min_samples_leaf": [10, 50]},
        ],
        scoring=_mean_cosine,
        cv=KFold(_FOLDS, shuffle=True, random_state=seed),
    ).fit(inputs, targets)
    chosen = {name: value for name, value in search.best_params_.items() if name != "model"}
    setting = ", ".join(f"{name.removeprefix('model__')}={value:g}" for name, value in chosen.items())
    return ProfileModel(
        search.best_estimator_,
        numeric,
        f"{type(search.best_params_['model']).__name__}({setting})",
        float(search.best_score_),
        float((targets @ _unit(targets.mean(axis=0, keepdims=True))[0]).mean()),
        len(rows),
    )


@dataclass(frozen=True)
class ColdStarted:
    """Behaviour vectors with predicted ones in them, whose they are, and the model (None without a cold user)."""

    vectors: BehaviorVectors
    user_ids: pl.Series
    model: ProfileModel | None

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        model = self.model
        learned = {} if model is None else {
            "model": model.setting, "learned_from": model.users,
            "cosine": round(model.cosine, 4), "cosine_of_mean": round(model.cosine_of_mean, 4),
        }  # fmt: skip
        return {"users": len(self.user_ids), **learned}


def with_cold_users(
    vectors: BehaviorVectors,
    users: pl.DataFrame,
    names: Sequence[str],
    settings: ColdStart,
    *,
    seeds: pl.Series,
    seed: int,
) -> ColdStarted:
    """Predict the vectors of cold users: fewer than `min_interactions` or no vector, a profile, and no seed themselves.

    Parameters
    ----------
    vectors : BehaviorVectors
        Of the users with behaviour; a cold user's own is replaced.
    users : polars.DataFrame
        user_id, profile and interaction_count of the users mart.
    names : sequence of str
        `data.columns.users.profile`.
    seeds : polars.Series
        Users who have a rationale of their own and keep it.

    Raises
    ------
    ConfigError
        There are cold users and too few others to learn from.
    """
    known = pl.DataFrame({"user_id": vectors.user_ids}).with_row_index("row")
    table = users.join(known, on="user_id", how="left", maintain_order="left")
    is_few = pl.col("interaction_count") < settings.min_interactions
    is_seed = pl.col("user_id").is_in(seeds.to_list())
    table = table.filter(pl.col("profile").is_not_null())
    # Who has behaviour and no vector did things only that the encoder does not know: after a refresh, new items.
    cold = table.filter((is_few | pl.col("row").is_null()) & ~is_seed)
    if cold.is_empty():
        return ColdStarted(vectors, cold["user_id"], None)
    warm = table.filter(~is_few & pl.col("row").is_not_null())
    model = fit_profile_model(
        profile_columns(warm["profile"], names),
        vectors.vectors[warm["row"].to_numpy()],
        max_users=settings.max_users,
        seed=seed,
    )
    predicted = model.predict(profile_columns(cold["profile"], names))
    others = vectors.without(cold["user_id"])
    filled = replace(
        others,
        user_ids=pl.concat([others.user_ids, cold["user_id"]]),
        vectors=np.concatenate([others.vectors, predicted]),
    )
    return ColdStarted(filled, cold["user_id"], model)


def _encoder(numeric: Sequence[bool]) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=_RARE, max_categories=_VALUES)
    numbers = make_pipeline(
        FunctionTransformer(_floats), SimpleImputer(strategy="median", add_indicator=True), StandardScaler()
    )
    return ColumnTransformer(
        [
            ("categories", categories, [place for place, is_number in enumerate(numeric) if not is_number]),
            ("numbers", numbers, [place for place, is_number in enumerate(numeric) if is_number]),
        ],
        sparse_threshold=0,
    )


def _matrix(profiles: pl.DataFrame, numeric: Sequence[bool]) -> npt.NDArray[np.object_]:
    """Return floats (NaN for none) and texts ("" for none), object [n, columns]."""
    columns = [
        profiles[name].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy().astype(object)
        if is_number
        else profiles[name].fill_null("").to_numpy().astype(object)
        for name, is_number in zip(profiles.columns, numeric, strict=True)
    ]
    return np.stack(columns, axis=1)


def _floats(values: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    return values.astype(np.float64)


def _is_quantity(values: pl.Series) -> bool:
    present = values.drop_nulls()
    numbers = present.cast(pl.Float64, strict=False)
    return not numbers.null_count() and numbers.n_unique() >= _NUMBERS_FROM


def _mean_cosine(estimator: Any, inputs: np.ndarray, targets: np.ndarray) -> float:
    return float(np.einsum("nd,nd->n", _unit(estimator.predict(inputs)), targets).mean())


def _unit(vectors: np.ndarray) -> npt.NDArray[np.float64]:
    values = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)

"""Frames as users have them: of polars or pandas, with types that differ, columns of nulls, and columns that lack."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ranking.tabular import COMPONENTS, RATIONALE_SERVICE, TabularFeatures, baseline_features, rationale_features
from ranking.train import fit
from reland_features.errors import ConfigError, TrainingFrameError

COSINE, CLUSTER = "rationale_item_cross__rationale_item_cosine", "user_rationale__cluster_id"


def frame(**changed) -> pl.DataFrame:
    """Eighty rows of eight queries; `changed` columns take the place of others."""
    rng = np.random.default_rng(0)
    n = 80
    return pl.DataFrame(
        {
            "query": np.repeat(np.arange(8), 10),
            "label": np.tile([1] + [0] * 9, 8),
            "item_attributes__interaction_count": rng.integers(9, size=n),
            "user_activity__interaction_count": rng.integers(9, size=n),
            "user_activity__activity_level": rng.choice(["L1", "L4"], size=n),
            "user_item_affinity__category_affinity": rng.random(n),
            COSINE: rng.random(n).astype(np.float32),
            "user_rationale__similarity": rng.random(n).astype(np.float32),
            CLUSTER: rng.integers(3, size=n).astype(np.int32),
            "rationale_item_cross__has_rationale": [1] * (n - 1) + [0],
            COMPONENTS: pl.Series([[float(k), 0.5] for k in range(n - 1)] + [None], dtype=pl.List(pl.Float32)),
        }
    ).with_columns(**changed)


@pytest.mark.parametrize("typed", [True, False])
def test_nobody_has_a_rationale(typed):
    nothing = pl.lit(None, pl.List(pl.Float32) if typed else pl.Null)
    given = frame(**{COMPONENTS: nothing, COSINE: pl.lit(None)})
    features = rationale_features(given)
    assert features.components == 0
    assert features.matrix(given).shape == (80, 8)
    two = TabularFeatures(RATIONALE_SERVICE, 2).matrix(given)
    assert (two[:, -2:] == 0).all()


@pytest.mark.parametrize(
    "kind",
    [pl.Array(pl.Float32, 2), pl.Array(pl.Float64, 2), pl.List(pl.Float64)],
    ids=["Array32", "Array64", "List64"],
)
def test_components_may_be_of_any_type_of_lists(kind):
    given = frame(**{COMPONENTS: pl.col(COMPONENTS).cast(kind)})
    assert rationale_features(given) == rationale_features(frame())
    np.testing.assert_array_equal(rationale_features(given).matrix(given), rationale_features(frame()).matrix(frame()))


@pytest.mark.parametrize("as_arrays", [True, False])
def test_a_frame_of_pandas_is_the_same(as_arrays):
    own = frame()
    pandas = own.to_pandas()
    if not as_arrays:
        pandas[COMPONENTS] = own[COMPONENTS].to_list()
    pandas.index = np.arange(80) * 7  # as after a filter
    features = rationale_features(pandas)
    assert features == rationale_features(own)
    np.testing.assert_array_equal(features.matrix(pandas), features.matrix(own))
    np.testing.assert_array_equal(baseline_features().matrix(pandas), baseline_features().matrix(own))
    trained = fit(features, pandas)
    np.testing.assert_array_equal(trained.score(pandas), fit(features, own).score(own))
    assert_frame_equal(own, frame())


@pytest.mark.parametrize(
    ("changed", "what", "where"),
    [
        (
            {COMPONENTS: pl.Series([[1.0, None]] * 80, dtype=pl.List(pl.Float32))},
            "features are not finite",
            RATIONALE_SERVICE,
        ),
        ({COMPONENTS: pl.lit("a text")}, "of another type", COMPONENTS),
        ({COMPONENTS: pl.Series([["x", "y"]] * 80)}, "of another type", COMPONENTS),
        ({CLUSTER: pl.lit("x")}, "of another type", CLUSTER),
        ({COSINE: pl.lit([0.5], pl.List(pl.Float64))}, "of another type", COSINE),
    ],
)
def test_what_is_no_number_is_named(changed, what, where):
    with pytest.raises(TrainingFrameError, match=what) as raised:
        TabularFeatures(RATIONALE_SERVICE, 2).matrix(frame(**changed))
    assert raised.value.where == where


def test_columns_that_lack_are_named():
    with pytest.raises(TrainingFrameError, match="features are missing") as raised:
        rationale_features(frame().drop(COMPONENTS))
    assert raised.value.expected == f"['{COMPONENTS}']"
    features = rationale_features(frame())
    with pytest.raises(TrainingFrameError, match="features are missing") as raised:
        fit(features, frame().drop("query", "label"))
    assert raised.value.expected == "['query', 'label']"


@pytest.mark.parametrize(
    ("given", "got"), [({"a": [1]}, "builtins.dict"), (frame().lazy(), "polars.LazyFrame"), (None, "builtins.NoneType")]
)
def test_what_is_no_frame_is_refused(given, got):
    for read in (rationale_features, baseline_features().matrix):
        with pytest.raises(TrainingFrameError, match="this is no frame") as raised:
            read(given)
        assert raised.value.got == got
    with pytest.raises(TrainingFrameError, match="cannot be read"):
        baseline_features().matrix(frame().to_pandas().assign(mixed=[1, "x"] * 40))


def test_across_pools_there_is_nothing_that_one_pool_alone_gives_a_meaning():
    given = frame()
    of_one, across = rationale_features(given), rationale_features(given, across_pools=True)
    left_out = {"cluster", *(name for name in of_one.names if name.startswith("rationale_component_"))}
    assert len(left_out) > 1
    assert across.names == [name for name in of_one.names if name not in left_out]
    kept = [of_one.names.index(name) for name in across.names]
    np.testing.assert_array_equal(across.matrix(given), of_one.matrix(given)[:, kept])
    with pytest.raises(ConfigError, match="components mean something within one pool only"):
        TabularFeatures(RATIONALE_SERVICE, 8, across_pools=True)

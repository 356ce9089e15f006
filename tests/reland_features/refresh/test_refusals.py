"""What `reland refresh` refuses, and what a run says that leaves the published pool."""

from __future__ import annotations

import shutil
import sys

import polars as pl
import pytest
from two_days import EARLY, LATE, opened

from reland_features.encoders.base import FITTED
from reland_features.errors import ConfigError, EncoderMismatchError, FeatureStoreError, PoolError, TableError
from reland_features.pipeline import refresh, run
from reland_features.project import Project


def forget_the_fit(project: Project) -> None:
    for path in project.state.glob(f"artifacts/behavior_vectors/*/{FITTED}*"):
        path.unlink()


def drop_the_seeds(project: Project) -> None:
    shutil.rmtree(project.state / "artifacts" / "seed_users")


def unpublish(project: Project) -> None:
    (project.state / "current.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "settings", "error", "what", "hint"),
    [
        (None, ["seed=1", LATE], EncoderMismatchError, "made with another encoder", "make a new pool: reland run"),
        (None, ["data.as_of=2024-05-01"], PoolError, "tables end before those", "a pool of that day"),
        (None, ["evaluation.holdout=0", LATE], ConfigError, "may know what is to be predicted", "reland run"),
        (None, ["encoder.name=sasrec", LATE], EncoderMismatchError, "made with another encoder", "reland run"),
        (forget_the_fit, [LATE], PoolError, "learnt was not kept", "make a new pool: reland run"),
        (drop_the_seeds, [LATE], PoolError, "seed_users that this pool was made from are gone", "reland run"),
        (unpublish, [LATE], FeatureStoreError, "published no features yet", "reland run"),
    ],
)
def test_a_pool_that_cannot_be_matched_to_is_refused_before_anything_changes(
    project, spoil, settings, error, what, hint
):
    if spoil:
        spoil(project)
    current = project.state / "current.json"
    before = current.read_text() if current.is_file() else None
    with pytest.raises(error, match=what) as raised:
        refresh(opened(project, *settings))
    assert hint in raised.value.hint
    assert (current.read_text() if current.is_file() else None) == before
    assert len(list((project.features / "user_rationale").glob("*.parquet"))) == 1


@pytest.mark.parametrize(
    ("spoil", "settings", "warned"),
    [
        (None, [LATE], True),
        # What `reland refresh` would refuse, it is not the way out of.
        (None, ["seed=1", LATE], False),
        (None, ["data.as_of=2024-05-01"], False),
        (forget_the_fit, [LATE], False),
    ],
)
def test_a_run_says_that_it_leaves_the_published_pool_before_it_fits(project, caplog, spoil, settings, warned):
    if spoil:
        spoil(project)
    run(opened(project, *settings), "encode")
    assert ("this makes another pool" in caplog.text) is warned
    if warned:
        assert "up to 2024-06-01T00:00:00" in caplog.text
        assert "now 2024-07-15T00:00:00" in caplog.text
        assert "To keep the pool: reland refresh" in caplog.text


def test_after_a_refresh_a_run_still_makes_another_pool(project, caplog):
    refresh(opened(project, LATE))
    assert "another pool" not in caplog.text
    run(opened(project, LATE), "encode")
    assert "this makes another pool" in caplog.text


OWN = """
from reland_features.encoders.lightgcn import LightGCN

class Own:
    def __init__(self, dimension, seed):
        self.inner, self.encoder_id = LightGCN(dimension, seed, max_epochs=1), "own"

    def encode(self, interactions, as_of):
        vectors = self.inner.encode(interactions, as_of)
        return type(vectors)(vectors.user_ids, vectors.vectors, "own", as_of)
"""


TAKES_OTHER = """
    def save(self, path):
        raise AssertionError("not meant")

    def transform(self, X):
        raise AssertionError("not meant")
"""


@pytest.mark.parametrize("more", ["", TAKES_OTHER], ids=["no methods", "methods of another meaning"])
def test_an_encoder_of_ones_own_is_told_what_it_lacks(project, monkeypatch, more):
    monkeypatch.delitem(sys.modules, "own_encoder", raising=False)
    monkeypatch.syspath_prepend(project.root)
    (project.root / "own_encoder.py").write_text(OWN + more)
    own = ["encoder.name=own_encoder:Own", "encoder.options={}"]
    run(opened(project, *own, EARLY), "publish")
    with pytest.raises(ConfigError, match="without being fitted again") as raised:
        refresh(opened(project, *own, LATE))
    assert raised.value.got == "Own without save(folder) or transform(interactions, as_of, fitted)"


def test_tables_of_which_the_pool_knows_nobody_are_refused(project):
    for path in (project.root / "tables").glob("*.parquet"):
        frame = pl.read_parquet(path)
        ids = [pl.format("x{}", name).alias(name) for name in ("user_id", "item_id") if name in frame.columns]
        frame.with_columns(ids).write_parquet(path)
    with pytest.raises(TableError, match="no user has behaviour that the pool's encoder knows"):
        refresh(opened(project, LATE))

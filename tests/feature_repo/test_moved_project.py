"""A project folder that was copied, moved or published backwards: what `reland publish` then does to what is served."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from toy_project import AS_OF, CREATED_AT, REPOSITORY, Toy, make_toy, write_project

from reland_features import stages
from reland_features.artifacts import Artifact
from reland_features.errors import FeatureStoreError
from reland_features.feast import check_freshness, open_store
from reland_features.features import build_features
from reland_features.project import Project
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = '[data]\ninteractions = "interactions.parquet"\nitems = "items.parquet"\n'
NEWER = AS_OF + timedelta(days=1)
UNTOUCHED = ("feast.apply=false", "feast.materialize=false")


def serve(root: Path, *settings: str, run_id: str = "run-1", as_of=AS_OF) -> stages.Outcome:
    facts = {"as_of": as_of.isoformat(), "rows_in": 30, "rows_out": 30}
    published = stages.Outcome("publish", Artifact("features", run_id, root, facts), cached=True)
    return stages.serve(Project.open(root, settings), published, lambda done, total: None)


def edit(root: Path) -> None:
    """Change the repository, so that it is applied again in any case."""
    with (root / "feature_repo" / "feature_definitions.py").open("a") as file:
        file.write("\n# another line\n")


def reads(root: Path) -> Path:
    """Return the published tables that the registry names."""
    return Path(open_store(root / "feature_repo").get_feature_view("user_rationale").batch_source.path).parents[1]


def joined(root: Path) -> list[str | None]:
    asked = pd.DataFrame({"user_id": ["u1"], "event_timestamp": [pd.Timestamp(AS_OF)]})
    store = open_store(root / "feature_repo")
    return store.get_historical_features(asked, ["user_rationale:pool_version"]).to_df()["pool_version"].tolist()


@contextmanager
def gone(root: Path) -> Iterator[None]:
    """Take a folder away for a while, so that a copy of it stands for the moved project."""
    away = root.rename(root.with_name("away"))
    try:
        yield
    finally:
        away.rename(root)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy()


@pytest.fixture(scope="module")
def original(tmp_path_factory, toy) -> Path:
    root = write_project(tmp_path_factory.mktemp("original") / "shop", toy)
    (root / "reland.toml").write_text(SETTINGS)
    serve(root)
    assert serve(root).cached
    return root


@pytest.mark.parametrize("is_edited", [False, True], ids=["unchanged", "edited"])
def test_a_copy_reads_its_own_features_and_leaves_the_original_online(original, tmp_path, is_edited, caplog):
    copy = shutil.copytree(original, tmp_path / "copy")
    if is_edited:
        edit(copy)
    assert not serve(copy).cached
    assert check_freshness(original / "feature_repo", original / "features")["user_rationale"] == 30
    assert (reads(original), reads(copy)) == (original / "features", copy / "features")
    assert check_freshness(copy / "feature_repo", copy / "features")["user_rationale"] == 30
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and str(copy) in r.getMessage()]
    assert serve(copy).cached
    assert serve(original).cached


@pytest.mark.parametrize("is_edited", [False, True], ids=["unchanged", "edited"])
def test_a_moved_project_is_applied_where_it_is_now(original, tmp_path, is_edited):
    moved = shutil.copytree(original, tmp_path / "moved")
    with gone(original):
        if is_edited:
            edit(moved)
        assert not serve(moved).cached
        assert reads(moved) == moved / "features"
        assert joined(moved) == ["pool-1"]
        assert serve(moved).cached


def test_who_applies_himself_is_told_what_to_type_in_a_copy(original, tmp_path):
    copy = shutil.copytree(original, tmp_path / "copy")
    with pytest.raises(FeatureStoreError, match="applied in another folder") as caught:
        serve(copy, "feast.apply=false")
    registry = copy / "feature_repo" / "data" / "registry.db"
    assert caught.value.hint == f"rm {registry}, then: feast -c {copy / 'feature_repo'} apply"
    assert registry.is_file()


def test_a_copy_that_shares_redis_with_its_original_reads_its_own_features(tmp_path, toy, redis):
    """The rows online are one and the same, which is the choice of whoever configured it; the registry is not."""
    original = write_project(tmp_path / "shop", toy)
    (original / "reland.toml").write_text(SETTINGS)
    shutil.copy(REPOSITORY / "feature_store_redis.yaml", original / "feature_repo" / "feature_store.yaml")
    serve(original)
    copy = shutil.copytree(original, tmp_path / "copy")
    assert not serve(copy).cached
    assert reads(copy) == copy / "features"
    assert serve(copy).cached
    assert serve(original).cached


def publish_newer(root: Path, toy: Toy) -> None:
    tables = (toy.pool, "pool-2", toy.matches, toy.users, toy.histories, toy.items, toy.embeddings)
    publish(build_features(*tables, as_of=NEWER, created_at=CREATED_AT), root / "features", "run-2")


def test_serving_older_features_than_the_newest_published_is_said_every_time(original, tmp_path, toy, caplog):
    root = shutil.copytree(original, tmp_path / "D")
    publish_newer(root, toy)
    for _ in range(2):
        caplog.clear()
        serve(root, *UNTOUCHED)
        (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "\n" not in said
        for part in ("run-1", "2024-03-01 12:00:00", "run-2", "2024-03-02 12:00:00", "reland publish, without --as-of"):
            assert part in said


def test_serving_the_newest_features_warns_of_nothing(original, tmp_path, toy, caplog):
    root = shutil.copytree(original, tmp_path / "D")
    publish_newer(root, toy)
    serve(root, *UNTOUCHED, run_id="run-2", as_of=NEWER)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

"""A publication of another pool beside the current run: no ranker is trained on it and says that it was not."""

from __future__ import annotations

import warnings
from datetime import timedelta

import polars as pl
import pytest
from toy_project import CREATED_AT, make_toy, write_project

from ranking.compact_views import FeaturesError
from ranking.ctr_data import CtrData
from ranking.evaluate import evaluate
from ranking.evaluate import main as evaluate_command
from ranking.features import load_features
from ranking.project import RankingProject
from ranking.splits import Split
from ranking.tabular import BASELINE_SERVICE, RATIONALE_SERVICE
from ranking.train import main as train_command
from ranking.train import train
from ranking.training_frame import training_frame
from reland_features.feast import apply_repository, open_store
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
TOY = make_toy(users=60, items=60, seeds=12)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> RankingProject:
    """Run-1 of pool-1 is current; run-2 of pool-2 was published later for the same time."""
    root = write_project(tmp_path_factory.mktemp("pools") / "project", TOY)
    apply_repository(root / "feature_repo")
    publish(TOY.features("pool-2", CREATED_AT + timedelta(days=1)), root / "features", "run-2")
    return RankingProject.open(root)


@pytest.mark.parametrize(
    "read",
    [
        train,
        lambda project: evaluate(project, candidates=10, max_users=None, seed=0),
        lambda project: CtrData.of(project, open_store(project.repository), candidates=10),
        lambda project: load_features(project, Split.of(project)),
    ],
    ids=["xgboost", "evaluate", "masknet", "sasrec"],
)
def test_it_is_an_error(project, read):
    with pytest.raises(FeaturesError, match="another reasoning pool") as raised:
        read(project)
    assert "pool-2" in raised.value.got
    assert raised.value.expected == "pool pool-1, run run-1"


def test_the_commands_say_so(project, capsys):
    for command in (train_command, evaluate_command):
        assert command(["--project", str(project.root)]) == 1
        assert "another reasoning pool" in capsys.readouterr().err
    assert not project.models.exists()


def test_a_ranker_that_reads_no_pool_is_trained(project):
    assert train(project, BASELINE_SERVICE).facts["pool_version"] == "pool-1"


def test_seeds_of_another_pool_than_the_matches_are_an_error_of_masknet_too(tmp_path):
    root = write_project(tmp_path / "project", TOY)
    apply_repository(root / "feature_repo")
    folder = root / "features" / "seed_rationale"
    later = pl.lit(CREATED_AT + timedelta(days=1), pl.Datetime("us"))
    other = {"pool_version": pl.lit("pool-2"), "created_timestamp": later}
    pl.read_parquet(folder / "run-1.parquet").with_columns(**other).write_parquet(folder / "run-2.parquet")
    with pytest.raises(FeaturesError, match="another reasoning pool"):
        CtrData.of(RankingProject.open(root), open_store(root / "feature_repo"), candidates=10)


def test_what_was_shown_before_the_features_time_had_another_pool_by_right(tmp_path):
    """Impressions of five days; a run of pool-0 was published for the third, the current one for the fifth."""
    root = write_project(tmp_path / "project", TOY)
    apply_repository(root / "feature_repo")
    project = RankingProject.open(root)
    earlier = TOY.features("pool-0", CREATED_AT - timedelta(days=2))
    before = pl.lit(project.as_of - timedelta(days=2), pl.Datetime("us"))
    publish({name: t.with_columns(event_timestamp=before) for name, t in earlier.items()}, root / "features", "run-0")
    rows = [
        {"user_id": f"u{n}", "item_id": f"i{(7 * n + day + side) % 60}", "is_clicked": side == 0}
        | {"shown_at": project.as_of + timedelta(days=day, minutes=n)}
        for day in range(-1, 3)
        for n in range(20)
        for side in range(2)
    ]
    shown = pl.DataFrame(rows).with_columns(pl.col("shown_at").cast(pl.Datetime("us")))
    shown.write_parquet(project.mart("impressions"))
    found = CtrData.of(project, open_store(root / "feature_repo"))
    assert (found.users.seed >= 0).all(), "of either pool"
    assert len(found.users.rationales) > TOY.pool.height
    clusters = [value.split("/") for value in found.encoder.clusters.values]
    numbers = [{number for pool, number in clusters if pool == each} for each in ("pool-0", "pool-1")]
    assert numbers[0] & numbers[1], "a number of either pool is a cluster of its own"
    assert len(numbers[0]) + len(numbers[1]) == len(clusters)


def test_a_frame_over_several_pools_says_what_does_not_keep_its_meaning(tmp_path):
    root = write_project(tmp_path / "project", TOY)
    apply_repository(root / "feature_repo")
    project, store = RankingProject.open(root), open_store(root / "feature_repo")
    before = project.as_of - timedelta(days=2)
    earlier = TOY.features("pool-0", CREATED_AT - timedelta(days=2))
    dated = pl.lit(before, pl.Datetime("us"))
    publish({name: t.with_columns(event_timestamp=dated) for name, t in earlier.items()}, root / "features", "run-0")
    one = pl.DataFrame({"user_id": ["u1", "u2"], "item_id": ["i1", "i2"], "event_timestamp": [project.as_of] * 2})
    both = one.with_columns(event_timestamp=pl.Series([before, project.as_of]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        training_frame(store, one, RATIONALE_SERVICE)
        training_frame(store, both, BASELINE_SERVICE)
    with pytest.warns(UserWarning, match=r"2 pools \(pool-0, pool-1\), and cluster_id and rationale_components"):
        frame = training_frame(store, both, RATIONALE_SERVICE)
    assert not [name for name in frame.columns if "pool" in name]

"""The join through Feast gives back the rows it was given, whatever the chunks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ranking.dataset import TRAIN, ranking_queries
from ranking.tabular import RATIONALE_SERVICE, baseline_features, online_frame, rationale_features
from ranking.training_frame import training_frame
from reland_features.errors import TrainingFrameError
from reland_features.feast import open_store

pytestmark = pytest.mark.filterwarnings("ignore")


def entities(project, repeats: int = 1) -> pl.DataFrame:
    frame = ranking_queries(project, TRAIN, candidates=4, max_users=30).frame
    shuffled = pl.concat([frame] * repeats).sample(fraction=1.0, shuffle=True, seed=1)
    return shuffled.with_columns(note=pl.int_range(pl.len()).cast(pl.String))


@pytest.mark.parametrize("chunk_rows", [50, 100_000])
def test_rows_order_and_extra_columns_stay_with_duplicates(project, chunk_rows):
    given = entities(project, repeats=3)
    frame = training_frame(open_store(project.repository), given, RATIONALE_SERVICE, chunk_rows=chunk_rows)
    assert_frame_equal(frame.select(given.columns), given)
    assert not [name for name in frame.columns if name.endswith("_embedding")], "vectors are not carried along"
    published = pl.read_parquet(project.root / "features" / "user_rationale" / "run-1.parquet")
    expected = given.select("user_id").join(published, on="user_id", how="left", maintain_order="left")
    assert frame["user_rationale__similarity"].to_list() == expected["similarity"].to_list()
    embeddings = pl.read_parquet(project.root / "features" / "item_attributes" / "run-1.parquet")
    item = given.select("item_id").join(embeddings, on="item_id", how="left", maintain_order="left")
    a = np.array(expected["rationale_embedding"].fill_null([0.0] * 16).to_list())
    b = np.array(item["item_text_embedding"].to_list())
    np.testing.assert_allclose(frame["rationale_item_cross__rationale_item_cosine"], (a * b).sum(1), atol=1e-6)


def test_coverage_is_printed(project, capsys):
    given = entities(project).with_columns(
        user_id=pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("stranger")).otherwise("user_id")
    )
    frame = training_frame(open_store(project.repository), given, RATIONALE_SERVICE)
    text = capsys.readouterr().err
    assert f"{given.height:,} rows" in text
    there = 1 - frame["user_rationale__similarity"].null_count() / frame.height
    assert f"{there:7.1%}" in next(line for line in text.splitlines() if "__similarity" in line)
    assert there < 0.76


class Dropping:
    """A store whose joins lose rows that share key and time, as Feast's dask store does."""

    def __init__(self, store) -> None:
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get_historical_features(self, entity_df, **options):
        kept = entity_df.drop_duplicates([name for name in entity_df if name != "reland_row"])
        return self._store.get_historical_features(kept, **options)


def test_lost_rows_are_an_error(project):
    store = Dropping(open_store(project.repository))
    training_frame(store, entities(project), RATIONALE_SERVICE)
    with pytest.raises(TrainingFrameError, match="did not return the rows") as error:
        training_frame(store, entities(project, repeats=2), RATIONALE_SERVICE)
    assert "120 rows, 120 of them distinct" in error.value.got
    assert "240 rows" in error.value.expected


def test_frames_that_cannot_be_joined(project):
    store, given = open_store(project.repository), entities(project)
    with pytest.raises(TrainingFrameError, match="lacks join keys"):
        training_frame(store, given.drop("item_id"), RATIONALE_SERVICE)
    with pytest.raises(TrainingFrameError, match="cannot be used"):
        training_frame(store, given.drop("event_timestamp"), RATIONALE_SERVICE)
    with pytest.raises(TrainingFrameError, match="no rows"):
        training_frame(store, given.clear(), RATIONALE_SERVICE)


def test_matrix_golden_numbers_and_mask():
    frame = online_frame(
        {
            "item_attributes__interaction_count": [0, None, 9],
            "user_activity__interaction_count": [np.e - 1, None, 0],
            "user_activity__activity_level": ["L3", None, "L1"],
            "user_item_affinity__category_affinity": [0.5, 0.0, 0.25],
            "rationale_item_cross__rationale_item_cosine": [0.9, 0.0, -0.5],
            "user_rationale__similarity": [0.7, None, 0.6],
            "user_rationale__cluster_id": [3, None, 0],
            "rationale_item_cross__has_rationale": [1, 0, 1],
            "user_rationale__rationale_components": [[0.1, 0.2], None, [0.3, 0.4]],
        }
    )
    features = rationale_features(frame)
    assert features.names[-2:] == ["rationale_component_0", "rationale_component_1"]
    np.testing.assert_allclose(
        features.matrix(frame),
        np.array(
            [
                [0, 1, 3, 0.5, 0.9, 0.7, 3, 1, 0.1, 0.2],
                [0, 0, 0, 0, 0, 0, -1, 0, 0, 0],
                [np.log(10), 0, 1, 0.25, -0.5, 0.6, 0, 1, 0.3, 0.4],
            ]
        ),
        atol=1e-6,
    )
    assert baseline_features().matrix(frame).shape == (3, 4)
    with pytest.raises(TrainingFrameError, match="features are missing"):
        features.matrix(frame.drop("user_rationale__similarity"))
    with pytest.raises(TrainingFrameError, match="not finite"):
        features.matrix(frame.with_columns(user_rationale__similarity=pl.lit(float("inf"))))

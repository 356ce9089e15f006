"""A run's file: what is written is read, or nothing is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from made_up import made_up

from ranking.experiments.dataset import Hyperparameters
from ranking.experiments.runs import Plan, Run, RunSpec
from ranking.fitting import FitSettings
from reland_features import artifacts
from reland_features.errors import ArtifactError


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = made_up([0.25, 0.0, 1.0], level=[1, 4, 0])
    run.write(tmp_path / "raw" / "a.parquet")
    found = Run.read(tmp_path / "raw" / "a.parquet")
    assert found.facts == run.facts
    for name in ("masked", "unmasked"):
        np.testing.assert_array_equal(found.ndcg[name], run.ndcg[name], strict=True)
        np.testing.assert_array_equal(found.hit_rate[name], run.hit_rate[name], strict=True)
    np.testing.assert_array_equal(found.users, run.users, strict=True)
    np.testing.assert_array_equal(found.level, run.level, strict=True)
    assert pl.read_parquet(tmp_path / "raw" / "a.parquet").columns[:2] == ["user", "level"]


def test_a_run_killed_while_writing_leaves_no_result(tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    def die(path):
        raise KilledError

    monkeypatch.setattr(artifacts, "sync", die)
    with pytest.raises(KilledError):
        made_up([0.5]).write(tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_22_thousand_users_is_small(tmp_path):
    rng = np.random.default_rng(0)
    gains = np.where(rng.random(22_000) < 0.09, 1 / np.log2(rng.integers(2, 12, size=22_000)), 0)
    made_up(gains.tolist(), level=rng.integers(1, 5, size=22_000).tolist()).write(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 60_000


def test_another_file_is_no_run(tmp_path):
    (tmp_path / "text.parquet").write_text("text")
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "table.parquet")
    for name in ("text", "table"):
        with pytest.raises(ArtifactError, match="not the result of a run"):
            Run.read(tmp_path / f"{name}.parquet")


def test_a_damaged_file_is_one_error_that_says_which_to_delete(tmp_path):
    path = tmp_path / "a.parquet"
    made_up(np.linspace(0, 1, 500).tolist()).write(path)
    whole, group = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0)
    damaged = [whole[:-20], whole[: len(whole) // 2]]
    for column in (group.column(n) for n in range(group.num_columns)):
        last = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
        damaged.append(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="damaged") as raised:
            Run.read(path)
        assert raised.value.where == str(path)
        assert f"delete it and run again: rm {path}" in raised.value.hint


def test_a_file_from_before_pages_had_checksums_is_read(tmp_path):
    run = made_up([0.25, 0.0, 1.0])
    run.write(tmp_path / "a.parquet")
    pq.write_table(pq.read_table(tmp_path / "a.parquet"), tmp_path / "older.parquet", compression="zstd")
    np.testing.assert_array_equal(Run.read(tmp_path / "older.parquet").ndcg["masked"], run.ndcg["masked"])


def test_a_file_that_is_gone_is_not_said_to_be_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        Run.read(tmp_path / "gone.parquet")


def test_a_level_keeps_its_users_alone():
    kept = made_up([0.25, 0.5, 1.0], level=[1, 4, 4]).of_level("L4")
    assert kept.users.tolist() == [1, 2]
    assert kept.values("ndcg", "masked").tolist() == [0.5, 1.0]
    assert kept.values("hr", "unmasked").tolist() == [1.0, 1.0]


def test_the_id_follows_everything_that_decides_the_outcome():
    def plan(inputs=None, rate=1e-3, project="p", **spec):
        given = RunSpec("beauty", "sequential", "sasrec", "reland", **spec)
        settings = Hyperparameters({}, FitSettings(learning_rate=rate))
        return Plan(given, settings, inputs or {"marts": "m"}, Path(project)).id

    ids = [plan(), plan(seed=1), plan(keep_last=5), plan(seed_users=0.5), plan(quick=True), plan(source="strong")]
    ids += [plan(rate=1e-2), plan({"marts": "n"}), plan(overrides=(("fit.patience", 3),))]
    assert len(set(ids)) == len(ids)
    assert plan() == plan(project="another folder") == ids[0]


def test_a_variant_without_rationales_is_one_run_for_all_sources():
    plain = RunSpec("beauty", "sequential", "sasrec", "f_item", source="strong", seed_users=0.5, seed=3)
    assert plain.canonical() == RunSpec("beauty", "sequential", "sasrec", "f_item", seed=3)
    with_texts = RunSpec("beauty", "sequential", "sasrec", "reland", source="strong", seed_users=0.5)
    assert with_texts.canonical() == with_texts


def test_the_file_is_compressed(tmp_path):
    made_up([0.5, 0.0]).write(tmp_path / "a.parquet")
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD"}

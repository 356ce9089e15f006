"""What is published: the right rows, all of them or none that a reader could see, and never edited."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "feature_repo"))

from toy_project import AS_OF, CREATED_AT, Toy, make_toy  # noqa: E402

from reland_features.columns import FEATURE_TABLES, ITEMS, MATCHES, POOL, USER_HISTORIES, USERS  # noqa: E402
from reland_features.errors import FeatureStoreError, TableError  # noqa: E402
from reland_features.features import build_features, item_text, publish  # noqa: E402
from reland_features.publishing import published_run  # noqa: E402

INSTANT = datetime(2024, 1, 31, 10)


def golden() -> dict[str, pl.DataFrame]:
    """Two users, one seed, two items, small enough to check by hand."""

    def frame(table, rows):
        return pl.DataFrame(rows, schema=table.polars_schema(), orient="row")

    return build_features(
        pool=frame(POOL, [("s", 4, [1.0, 0.0], [0.6, 0.8], [0.1], "Why.", ["Drama"], ["A"])]),
        pool_version="p1",
        matches=frame(MATCHES, [("a", 1, "s", 0.75), ("a", 2, None, None), ("b", 1, None, None)]),
        users=frame(USERS, [("a", None, 4, "L2", INSTANT, INSTANT), ("b", None, 0, None, None, None)]),
        histories=frame(USER_HISTORIES, [("a", ["x", "x", "y", "gone"], 4, INSTANT)]),
        items=frame(ITEMS, [("x", "X", None, ["Drama", "Crime"], None, 2), ("y", "Y", "B", ["Crime"], None, 1)]),
        item_text_embeddings=np.array([[1, 0], [0, 1]], dtype=np.float32),
        as_of=AS_OF,
        created_at=CREATED_AT,
    )


def test_golden_rows():
    frames = golden()
    f32 = lambda v: float(np.float32(v))  # noqa: E731
    times = (AS_OF, CREATED_AT)
    assert frames["user_rationale"].rows() == [
        ("a", [f32(0.6), f32(0.8)], [f32(0.1)], "s", 0.75, 4, "Why.", "p1", *times),
        ("b", None, None, None, None, None, None, "p1", *times),
    ]
    assert frames["user_seed_match"].rows() == [
        ("a", "s", 0.75, 4, "p1", *times),
        ("b", None, None, None, "p1", *times),
    ]
    assert frames["seed_rationale"].rows() == [
        ("s", [f32(0.6), f32(0.8)], [f32(0.1)], "Why.", ["Drama"], ["A"], "p1", *times)
    ]
    # x twice: half a weight to Drama and to Crime each time; y once to Crime; an unknown item to none.
    assert frames["user_activity"].rows() == [
        ("a", 4, "L2", INSTANT, ["Crime", "Drama"], [0.5, 0.25], *times),
        ("b", 0, None, None, [], [], *times),
    ]
    assert frames["item_attributes"].rows() == [
        ("x", "X", None, ["Drama", "Crime"], 2, [1.0, 0.0], *times),
        ("y", "Y", "B", ["Crime"], 1, [0.0, 1.0], *times),
    ]


def test_item_text_has_the_form_of_step_2():
    items = pl.DataFrame({"title": ["Heat", "Untitled"], "categories": [["Crime", "Drama"], []]})
    assert item_text(items) == ["Categories: Crime, Drama. Items: Heat.", "Items: Untitled."]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t: {"embeddings": t.embeddings[:-1]}, TableError, "one embedding per item"),
        (lambda t: {"embeddings": t.embeddings[:, :3]}, TableError, "different text encoders"),
        (lambda t: {"pool": t.pool.head(1)}, FeatureStoreError, "not in the pool"),
        (lambda t: {"users": t.users.head(5)}, FeatureStoreError, "not in the users mart"),
        (lambda t: {"matches": pl.concat([t.matches, t.matches.head(1)])}, TableError, "key occurs twice"),
    ],
)
def test_inputs_that_do_not_belong_together(change, error, says):
    toy = make_toy()
    parts = {name: getattr(toy, name) for name in Toy.__dataclass_fields__}
    with pytest.raises(error, match=says):
        Toy(**(parts | change(toy))).features()


def test_published_files_are_the_frames_in_the_types_of_columns(tmp_path):
    frames = make_toy().features()
    paths = publish(frames, tmp_path, "run-1")
    assert [path.parent.name for path in paths] == [table.name for table in FEATURE_TABLES]
    for table, path in zip(FEATURE_TABLES, paths, strict=True):
        assert_frame_equal(pl.read_parquet(path), frames[table.name])
        file = pq.ParquetFile(path)
        arrow = {field.name: str(field.type) for field in file.schema_arrow}
        assert {arrow[c.name] for c in table.columns if c.type == "timestamp"} == {"timestamp[us]"}
        group = file.metadata.row_group(0)
        chunks = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
        for column in table.columns:
            if column.type == "list<float32>":
                chunk = chunks[f"{column.name}.list.element"]
                assert (chunk.compression, chunk.has_dictionary_page) == ("UNCOMPRESSED", False)
    assert not list(tmp_path.glob(".staging*"))


def test_runs_are_appended_and_never_edited(tmp_path):
    first = publish(make_toy().features(), tmp_path, "run-1")
    before = {path: path.read_bytes() for path in first}
    publish(make_toy(seed=1).features("pool-2", datetime(2024, 3, 5)), tmp_path, "run-2")
    publish(make_toy().features(created_at=datetime(2024, 3, 6)), tmp_path, "run-1")
    assert {path: path.read_bytes() for path in first} == before
    assert published_run(tmp_path).run_id == "run-2"
    assert published_run(tmp_path, "run-1").created_at == CREATED_AT
    with pytest.raises(FeatureStoreError, match="already published with other rows"):
        publish(make_toy(seed=1).features("pool-2"), tmp_path, "run-1")
    assert {path: path.read_bytes() for path in first} == before


PUBLISH = """
import os, signal, sys
sys.path[:0] = {paths!r}
from datetime import datetime
from pathlib import Path
from toy_project import make_toy
from reland_features import publishing
{before}
publishing.publish(make_toy().features(created_at=datetime(2024, 3, {day})), Path({root!r}), {run_id!r})
"""
KILL_AT = """
call, left = publishing.{name}, [{count}]
def die(*arguments, **options):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*arguments, **options)
publishing.{name} = die
"""


def run_publish(root: Path, before: str = "", day: int = 2, run_id: str = "run-1") -> subprocess.CompletedProcess[str]:
    paths = [str(TESTS.parent), str(TESTS / "feature_repo")]
    script = PUBLISH.format(paths=paths, before=before, root=str(root), day=day, run_id=run_id)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize(("name", "count"), [("write_table", 2), ("sync", 5), ("Path.rename", 0), ("Path.rename", 3)])
def test_killed_in_the_middle_and_run_again(tmp_path, name, count):
    before = KILL_AT.format(name=name, count=count)
    assert run_publish(tmp_path, before).returncode == -signal.SIGKILL
    visible = list(tmp_path.glob("*/*.parquet"))
    readable = [pl.read_parquet(path) for path in visible if not path.parent.name.startswith(".")]
    assert all(frame.height for frame in readable), "what a reader sees is whole"
    with pytest.raises(FeatureStoreError, match="no complete run"):
        published_run(tmp_path)
    assert run_publish(tmp_path, day=3).returncode == 0
    run = published_run(tmp_path)
    expected = make_toy().features()
    created = set()
    for table, path in run.paths.items():
        frame = pl.read_parquet(path)
        created |= set(frame["created_timestamp"])
        assert_frame_equal(frame.drop("created_timestamp"), expected[table].drop("created_timestamp"))
    assert len(created) == 1, "all files of a run come from one call"
    assert not list(tmp_path.glob(".staging*"))


@pytest.mark.parametrize("count", [1, 3])
def test_killed_in_the_middle_and_another_run_published(tmp_path, count):
    assert run_publish(tmp_path, KILL_AT.format(name="Path.rename", count=count)).returncode == -signal.SIGKILL
    assert 0 < len(list(tmp_path.glob("*/run-1.parquet"))) < len(FEATURE_TABLES) + 1
    publish(make_toy(seed=1).features("pool-2", datetime(2024, 3, 5)), tmp_path, "run-2")
    run, expected = published_run(tmp_path, "run-1"), make_toy().features()
    for table, path in run.paths.items():
        assert_frame_equal(pl.read_parquet(path).drop("created_timestamp"), expected[table].drop("created_timestamp"))
    assert published_run(tmp_path).run_id == "run-2"
    assert not list(tmp_path.glob(".staging*"))


def test_a_staged_run_that_nobody_saw_stays_hidden_until_it_is_run_again(tmp_path):
    assert run_publish(tmp_path, KILL_AT.format(name="Path.rename", count=0)).returncode == -signal.SIGKILL
    publish(make_toy(seed=1).features("pool-2", datetime(2024, 3, 5)), tmp_path, "run-2")
    assert not list(tmp_path.glob("[!.]*/run-1.parquet"))
    assert run_publish(tmp_path, day=3).returncode == 0
    assert published_run(tmp_path, "run-1").created_at == datetime(2024, 3, 2)


def test_a_full_disk_is_a_clean_error_and_leaves_nothing(tmp_path):
    publish(make_toy().features(), tmp_path, "run-1")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    done = run_publish(tmp_path, limit, run_id="run-2")
    assert done.returncode == 1
    assert "FeatureStoreError: the features could not be written" in done.stderr
    assert [path.name for path in tmp_path.glob("*/*.parquet")] == ["run-1.parquet"] * len(FEATURE_TABLES)
    assert not list(tmp_path.glob(".staging*"))

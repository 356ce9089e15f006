import json
import os
import time
from datetime import datetime

import pytest

from reland_features import artifacts
from reland_features.artifacts import ArtifactStore, content_id, file_id, whole_file, whole_folder, write_atomically
from reland_features.errors import ArtifactError

NOW = datetime(2024, 5, 6)


def make(store, artifact_id, text="x"):
    with store.create("kind", artifact_id, created_at=NOW, config={"a": 1}, inputs=["i"], as_of=NOW) as draft:
        (draft.path / "data.txt").write_text(text)
        draft.facts["rows"] = 3
    return store.find("kind", artifact_id)


def test_an_id_depends_on_kind_time_configuration_and_inputs_and_on_nothing_else(tmp_path):
    store = ArtifactStore(tmp_path)
    base = store.id_of("k", NOW, {"a": 1, "b": 2}, ["x"])
    assert store.id_of("k", NOW, {"b": 2, "a": 1}, ["x"]) == base
    others = [
        ("l", NOW, {"a": 1, "b": 2}, ["x"]),
        ("k", None, {"a": 1, "b": 2}, ["x"]),
        ("k", NOW, {"a": 1}, ["x"]),
        ("k", NOW, {"a": 1, "b": 2}, ["y"]),
    ]
    assert len({base, *(store.id_of(*other) for other in others)}) == 5


def test_a_finished_artifact_has_a_manifest_with_its_facts(tmp_path):
    artifact = make(ArtifactStore(tmp_path), "k-1")
    assert artifact.manifest["rows"] == 3
    assert artifact.manifest["inputs"] == ["i"]
    assert artifact.manifest["as_of"] == "2024-05-06T00:00:00"


def test_an_error_while_filling_leaves_nothing_to_read(tmp_path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(OSError, match="No space"):
        with store.create("kind", "k-1", created_at=NOW, config={}, inputs=[]) as draft:
            (draft.path / "data.txt").write_text("half")
            raise OSError(28, "No space left on device")
    assert store.find("kind", "k-1") is None
    assert store.all("kind") == []
    assert (make(store, "k-1").path / "data.txt").read_text() == "x"


def test_a_folder_without_manifest_does_not_count_and_is_replaced(tmp_path):
    store = ArtifactStore(tmp_path)
    (tmp_path / "kind" / "k-1").mkdir(parents=True)
    (tmp_path / "kind" / "k-1" / "left_over").write_text("")
    assert store.find("kind", "k-1") is None
    assert sorted(p.name for p in make(store, "k-1").path.iterdir()) == ["data.txt", "manifest.json"]


def test_a_broken_manifest_is_an_error_that_says_what_to_remove(tmp_path):
    store = ArtifactStore(tmp_path)
    path = make(store, "k-1").path
    (path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError) as caught:
        store.find("kind", "k-1")
    assert str(path) in caught.value.hint


def test_content_ids_are_stable_and_file_ids_follow_the_bytes(tmp_path):
    assert content_id({"b": 1, "a": [1, 2]}) == content_id({"a": [1, 2], "b": 1}) != content_id({"a": [2, 1], "b": 1})
    (tmp_path / "f").write_bytes(b"1" * 10)
    first = file_id(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"1" * 11)
    assert file_id(tmp_path / "f") != first


def test_an_atomic_write_replaces_the_whole_file(tmp_path):
    write_atomically(tmp_path / "f.json", json.dumps([1]))
    write_atomically(tmp_path / "f.json", "[]")
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]
    assert (tmp_path / "f.json").read_text() == "[]"


def test_two_may_write_the_same_file_at_once_and_the_later_one_to_finish_wins(tmp_path, monkeypatch):
    sync = artifacts.sync

    def while_another_writes(path):
        monkeypatch.setattr(artifacts, "sync", sync)
        write_atomically(tmp_path / "f.json", "[1, 2]")
        assert (tmp_path / "f.json").read_text() == "[1, 2]"
        sync(path)

    monkeypatch.setattr(artifacts, "sync", while_another_writes)
    write_atomically(tmp_path / "f.json", "[]")
    assert (tmp_path / "f.json").read_text() == "[]"
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_an_error_while_writing_leaves_the_former_file_alone(tmp_path):
    (tmp_path / "f.parquet").write_text("former")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "f.parquet") as path:
        path.write_text("half")
        assert list(tmp_path.glob("*.parquet")) == [tmp_path / "f.parquet"]
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f.parquet", "former")]


def test_the_first_of_two_that_make_the_same_folder_wins(tmp_path):
    with whole_folder(tmp_path / "made") as slow:
        (slow / "a").write_text("slow")
        with whole_folder(tmp_path / "made") as fast:
            (fast / "a").write_text("fast")
    assert (tmp_path / "made" / "a").read_text() == "fast"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_process_left_goes_once_nobody_can_be_writing_it(tmp_path):
    killed = (whole_file(tmp_path / "f.json"), whole_folder(tmp_path / "folder"))
    file, folder = (each.__enter__() for each in killed)  # and never left
    file.write_text("half")
    (folder / "a").write_text("half")
    write_atomically(tmp_path / "f.json", "[]")
    with whole_folder(tmp_path / "folder"):
        pass
    assert file.exists()
    assert folder.exists()

    long_ago = time.time() - 2 * 24 * 3600
    os.utime(file, (long_ago, long_ago))
    os.utime(folder, (long_ago, long_ago))
    write_atomically(tmp_path / "other.json", "[]")
    assert file.exists()
    write_atomically(tmp_path / "f.json", "[]")
    with whole_folder(tmp_path / "folder"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.json", "folder", "other.json"]

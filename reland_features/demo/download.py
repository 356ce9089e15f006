"""Fetch MovieLens 100K from GroupLens, for whoever wants the demo on real behaviour.

Nothing of the data set is shipped: its licence forbids redistribution.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import urllib.request
import zipfile
from pathlib import Path

import polars as pl

from reland_features.errors import RelandError, TableError

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"
_FLAGS = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_MEMBERS = ("u.data", "u.item", "u.user")
_LIMIT = 64 << 20  # the archive has 5 MB; whatever is larger is something else


def download_movielens_100k(
    folder: Path,
    archive: Path | None = None,
    *,
    url: str = URL,
    md5: str | None = MD5,
    timeout: float = 10.0,
) -> dict[str, Path]:
    """Write MovieLens 100K as the same three tables that the simulator writes.

    Parameters
    ----------
    folder : Path
        Where `interactions.parquet` (user_id, item_id, timestamp in seconds since 1970, rating),
        `items.parquet` (item_id, title, director: null, genres, year) and `users.parquet` (user_id, age,
        gender, occupation) go; ids are strings, `interactions` is in the archive's time order.
    archive : Path, optional
        An ``ml-100k.zip`` that is already here; the network is not used and the sum not compared.
    url, md5, timeout
        Where from, the sum the download must have (None compares nothing), seconds to wait for an answer.

    Raises
    ------
    RelandError
        No network, no answer in time, or another file than expected came.
    TableError
        The archive is not a zip file or lacks a table.
    """
    content = _read(archive) if archive is not None else _fetch(url, md5, timeout)
    where = str(archive) if archive is not None else url
    tables = _tables(content, where)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in tables}
    for name, path in paths.items():
        tables[name].write_parquet(path)
    return paths


def _read(archive: Path) -> bytes:
    if not archive.is_file():
        raise RelandError(
            "the archive is not there",
            where=f"--archive {archive}",
            expected="a file ml-100k.zip as GroupLens publishes it",
            hint="reland demo (without --dataset) needs no download",
        )
    return archive.read_bytes()


def _fetch(url: str, md5: str | None, timeout: float) -> bytes:
    instead = "reland demo (without --dataset) needs no download; or pass a copy: --archive ml-100k.zip"
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            content: bytes = response.read(_LIMIT)
    except (OSError, ValueError, http.client.HTTPException) as error:  # no address, refused, too slow, cut off
        raise RelandError(
            "MovieLens 100K could not be downloaded",
            where=url,
            got=str(error).removeprefix("<urlopen error ").removesuffix(">") or type(error).__name__,
            expected=f"an answer within {timeout:g} s",
            hint=instead,
        ) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise RelandError(
            "the download is not the MovieLens 100K archive",
            where=url,
            got=f"{len(content)} bytes, md5 {found}",
            expected=f"md5 {md5}",
            hint=f"try again; {instead}",
        )
    return content


def _tables(content: bytes, where: str) -> dict[str, pl.DataFrame]:
    expected = "ml-100k.zip with ml-100k/u.data, u.item and u.user"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = {name.rsplit("/", 1)[-1]: name for name in file.namelist()}
            missing = [name for name in _MEMBERS if name not in members]
            if missing:
                raise TableError("tables are missing in the archive", where=where, got=missing, expected=expected)
            data, item, user = (file.read(members[name]) for name in _MEMBERS)
    except zipfile.BadZipFile as error:
        raise TableError("the archive cannot be read", where=where, got=error, expected=expected) from error
    try:
        return {"interactions": _interactions(data), "items": _items(item), "users": _users(user)}
    except (pl.exceptions.PolarsError, ValueError) as error:
        message = str(error).partition("\n")[0]
        raise TableError(
            "a table of the archive has another layout", where=where, got=message, expected=expected
        ) from error


def _csv(content: bytes, separator: str, columns: tuple[str, ...]) -> pl.DataFrame:
    text = content.decode("latin-1").encode()
    frame = pl.read_csv(text, separator=separator, has_header=False, infer_schema=False, quote_char=None)
    if frame.width != len(columns):
        raise ValueError(f"{frame.width} columns instead of {len(columns)} ({', '.join(columns[:4])}, ...)")
    return frame.rename(dict(zip(frame.columns, columns, strict=True)))


def _interactions(content: bytes) -> pl.DataFrame:
    frame = _csv(content, "\t", ("user_id", "item_id", "rating", "timestamp"))
    typed = frame.select("user_id", "item_id", pl.col("timestamp").cast(pl.Int64), pl.col("rating").cast(pl.Int8))
    return typed.sort(pl.col("user_id").cast(pl.Int64), "timestamp", maintain_order=True)


def _items(content: bytes) -> pl.DataFrame:
    frame = _csv(content, "|", ("item_id", "title", "released", "video", "link", *_FLAGS))
    named = [pl.when(pl.col(g) == "1").then(pl.lit(g)) for g in _FLAGS[1:]]  # "unknown" is no genre
    return frame.select(
        "item_id",
        "title",
        director=pl.lit(None, dtype=pl.String),
        genres=pl.concat_list(named).list.drop_nulls(),
        year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int16),
    )


def _users(content: bytes) -> pl.DataFrame:
    frame = _csv(content, "|", ("user_id", "age", "gender", "occupation", "zip_code"))
    return frame.select("user_id", pl.col("age").cast(pl.Int64), "gender", "occupation")

"""Hand a project's split to RecBole as its atomic files, with row numbers for ids."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.recbole_worker import pairs_digest
from ranking.splits import Split
from reland_features.artifacts import whole_folder
from reland_features.errors import ConfigError


def write_atomic_files(split: Split, task: str, folder: Path) -> Path:
    """Write one split for RecBole, once; return the folder to give it as `data_path`.

    Sequential: one file, for RecBole's own leave-one-out; the time is the position within the user.
    Collaborative: one file a part, for its `benchmark_filename`.

    Raises
    ------
    ConfigError
        A sequential task whose split is not leave-one-out for every user.
    """
    if task == "sequential":
        check_leave_one_out(split)
    root = folder / fingerprint(split)
    if not (root / task).is_dir():
        with whole_folder(root / task) as made:
            for name, rows in _files(split, task).items():
                rows.write_csv(made / name, separator="\t")
    return root


def expected_data(split: Split, task: str) -> dict[str, str]:
    """Return the digests of what RecBole's worker must say that it trains on and validates on."""
    users, items = split.training_pairs()
    if task == "sequential":  # a user's first interaction has no history: RecBole makes no row of it
        later = np.append(False, users[1:] == users[:-1])
        users, items = users[later], items[later]
    return {"training": pairs_digest(users, items), "validation": pairs_digest(*split.targets("validation"))}


def check_leave_one_out(split: Split) -> None:
    """Raise where a user does not have one validation and one test interaction after at least one of training."""
    test = np.diff(split.offsets) - split.training - split.validation
    others = (split.training < 1) | (split.validation != 1) | (test != 1)
    if others.any():
        first = split.user_ids[int(others.argmax())]
        raise ConfigError(
            "sequential models are compared on leave-one-out",
            got=f"{int(others.sum())} of {split.n_users} users have another split, such as {first}",
            expected="each user's last interaction to test on, the one before to validate on, others before",
            hint="evaluation.holdout = 2 and data.user_k_core = 5 in reland.toml, then reland run",
        )


def fingerprint(split: Split) -> str:
    """Return a hash of the whole split, by which measurements of other data are told apart."""
    digest = hashlib.blake2b(digest_size=8)
    for values in (split.offsets, split.items, split.training, split.validation):
        digest.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
    return digest.hexdigest()


def _files(split: Split, task: str) -> dict[str, pl.DataFrame]:
    lengths = np.diff(split.offsets)
    users = np.repeat(np.arange(split.n_users), lengths)
    if task == "sequential":
        within = np.arange(len(users)) - np.repeat(split.offsets[:-1], lengths)
        return {"sequential.inter": _rows(users, split.items).with_columns(pl.Series("timestamp:float", within))}
    parts = {"train": split.training_pairs(), "valid": split.targets("validation"), "test": split.targets("test")}
    return {f"collaborative.{name}.inter": _rows(*pairs) for name, pairs in parts.items()}


def _rows(users: np.ndarray, items: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"user_id:token": users, "item_id:token": items})

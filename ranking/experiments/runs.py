"""One training and measurement of one backbone: what it is asked for, and what it gave, as a parquet file.

A file holds one row per measured user and, in its schema's metadata, everything else as JSON. Its name is a
hash of what decides the outcome, so that experiments share runs and a finished one is never repeated.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.backbones import SEQUENTIAL
from ranking.experiments.dataset import Hyperparameters
from ranking.experiments.variants import variant
from reland_features.artifacts import content_id, whole_file
from reland_features.errors import ArtifactError, ConfigError

_KEY = b"reland_run"
CONVENTIONS = ("masked", "unmasked")
LEVELS = ("L1", "L2", "L3", "L4")


@dataclass(frozen=True)
class RunSpec:
    """What is trained.

    Parameters
    ----------
    dataset, task, backbone, variant : str
        See `dataset` and `variants`.
    source : str
        Where the rationales come from; empty for the project's own small model.
    seed : int
        Of weights, batches, and the shuffled control.
    keep_last : int, optional
        Train on every user's last so many interactions only.
    seed_users : float
        Fraction of the pool's seed users that are kept, in the order drawn.
    quick : bool
        Whether the `quick` hyperparameters are used.
    overrides : tuple of (str, value)
        Hyperparameters by ``options.<name>`` or ``fit.<name>``.
    known : int, optional
        Keep newcomers (`ranking.newcomers`) out of training, and measure them after their first so many interactions;
        0 is the training itself, measured on the others.

    Raises
    ------
    ConfigError
        The variant reads what came before a cut, and users are not cut; or it cannot meet newcomers.
    """

    dataset: str
    task: str
    backbone: str
    variant: str
    source: str = ""
    seed: int = 0
    keep_last: int | None = None
    seed_users: float = 1.0
    quick: bool = False
    overrides: tuple[tuple[str, Any], ...] = ()
    known: int | None = None

    def __post_init__(self) -> None:
        if variant(self.variant).texts == "earlier" and not self.keep_last:
            raise ConfigError(
                "users who are not cut have nothing that came before",
                where="--variants",
                got=self.variant,
                hint="python -m ranking.experiments where --keep-last 5,10, or take mean_text",
            )
        if self.known is not None:
            self._check_newcomers()

    def _check_newcomers(self) -> None:
        """Raise `ConfigError` unless the backbone can score, and the variant describe, users it never learned from."""
        chosen = variant(self.variant)
        wrong = {
            f"backbone {self.backbone}": self.backbone not in SEQUENTIAL,
            f"variant {self.variant}": chosen.reads_rationales and not chosen.by_event,
            f"{self.known} known interactions": (self.known or 0) < 0,
            "users who are cut": self.keep_last is not None,
            "fewer seed users": self.seed_users != 1,
        }
        if bad := [what for what, is_wrong in wrong.items() if is_wrong]:
            raise ConfigError(
                "this cannot be measured on users that a ranker never learned from",
                where="newcomers",
                got=", ".join(bad),
                expected=f"a backbone that reads histories ({', '.join(SEQUENTIAL)}), and a variant without "
                "rationales, or with those of the time: reland_dated, mean_text_dated",
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `known`, which older runs have not, only where it is given."""
        values = dataclasses.asdict(self)
        if self.known is None:
            del values["known"]
        return values

    def canonical(self) -> RunSpec:
        """Forget what does not matter: a variant that reads no pool is the same whatever its source."""
        if variant(self.variant).reads_pool:
            return self
        return dataclasses.replace(self, source="", seed_users=1.0)

    def label(self) -> str:
        """Return the spec in a few words."""
        more = [
            self.source,
            "" if self.known is None else f"first {self.known} of newcomers" if self.known else "without newcomers",
            f"last {self.keep_last}" if self.keep_last else "",
            f"{self.seed_users:.0%} of the seed users" if self.seed_users != 1 else "",
            "quick" if self.quick else "",
            *(f"{key}={value}" for key, value in self.overrides),
        ]
        words = [self.dataset, self.backbone, self.variant, *(word for word in more if word), f"seed {self.seed}"]
        return " ".join(words)


@dataclass(frozen=True)
class Plan:
    """A spec with all that decides its outcome.

    Parameters
    ----------
    inputs : mapping of str to str
        Ids of the marts and, for variants that read them, of the feature run; where only item texts are read, of
        the text encoder.
    project : Path
        Where they are read from. It decides nothing: what a run does not read from the pool is the same in
        every project of the same marts.
    """

    spec: RunSpec
    hyperparameters: Hyperparameters
    inputs: Mapping[str, str]
    project: Path

    @property
    def id(self) -> str:
        """Hash of all of it."""
        return content_id(
            {
                "spec": self.spec.as_dict(),
                "hyperparameters": self.hyperparameters.as_dict(),
                "inputs": dict(self.inputs),
            }
        )


@dataclass(frozen=True)
class Run:
    """A finished run.

    Parameters
    ----------
    users : numpy.ndarray
        uint32 [n], rows of the measured users, ascending.
    level : numpy.ndarray
        uint8 [n], activity level 1..4; 0 is unknown.
    hit_rate, ndcg : dict of str to numpy.ndarray
        ``"masked"`` and ``"unmasked"`` to uint8 and float32 [n].
    facts : mapping
        ``spec``, ``hyperparameters``, ``part`` (held-out items; older files: test), ``inputs``, ``pool`` (of variants
        that read one; not in older files), ``curve``, ``best``, ``best_epoch``, ``epochs``, ``training_seconds``,
        ``evaluation_seconds`` (CPU), ``machine``, ``versions``.
    """

    users: npt.NDArray[np.uint32]
    level: npt.NDArray[np.uint8]
    hit_rate: Mapping[str, npt.NDArray[np.uint8]]
    ndcg: Mapping[str, npt.NDArray[np.float32]]
    facts: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Random seed of the run."""
        return int(self.facts["spec"]["seed"])

    def values(self, metric: str, convention: str) -> npt.NDArray[np.float64]:
        """Return ``hr`` or ``ndcg`` of each user, float64 [n]."""
        return (self.hit_rate if metric == "hr" else self.ndcg)[convention].astype(np.float64)

    def of_level(self, level: str) -> Run:
        """Keep the users of one activity level."""
        return self.of_users(self.level == 1 + LEVELS.index(level))

    def of_users(self, kept: npt.NDArray[np.bool_]) -> Run:
        """Keep the users for whom `kept` [n] is true."""
        return Run(
            self.users[kept],
            self.level[kept],
            {name: values[kept] for name, values in self.hit_rate.items()},
            {name: values[kept] for name, values in self.ndcg.items()},
            self.facts,
        )

    def write(self, path: Path) -> None:
        """Write the file so that a reader, or a run that is killed here, sees all of it or nothing."""
        table = pa.table(
            {
                "user": self.users,
                "level": self.level,
                **{f"hr_{name}": self.hit_rate[name] for name in CONVENTIONS},
                **{f"ndcg_{name}": self.ndcg[name] for name in CONVENTIONS},
            }
        ).replace_schema_metadata({_KEY: json.dumps(self.facts)})
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                compression_level=19,
                use_dictionary=[name for name in table.column_names if name != "user"],
                column_encoding={"user": "DELTA_BINARY_PACKED"},
                write_statistics=False,
                write_page_checksum=True,
            )

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read what `write` wrote; files from before pages had checksums are read, too.

        Raises
        ------
        ArtifactError
            The file is no run, or it is damaged.
        """
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            facts = json.loads((table.schema.metadata or {})[_KEY])
            column = {name: table[name].to_numpy() for name in table.column_names}
            hit_rate, ndcg = ({name: column[f"{m}_{name}"] for name in CONVENTIONS} for m in ("hr", "ndcg"))
        except (FileNotFoundError, PermissionError):  # they name the path, and there is nothing to delete
            raise
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # damaged pages are an OSError
            raise ArtifactError(
                "this file is not the result of a run, or it is damaged",
                where=str(path),
                got=error,
                hint=f"delete it and run again: rm {path}",
            ) from error
        return cls(column["user"], column["level"], hit_rate, ndcg, facts)

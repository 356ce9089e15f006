"""Make the demo's project: built-in tables, then the same `init` that a team uses."""

from __future__ import annotations

from pathlib import Path

from reland_features.config import CONFIG_FILE
from reland_features.errors import ConfigError
from reland_features.init import make_project

DATASETS = ("films", "ml-100k")


def make_demo(directory: Path, *, users: int, dataset: str = "films", archive: Path | None = None) -> None:
    """Make the demo project, unless it is there already.

    Parameters
    ----------
    users : int
        Simulated users; ignored by downloaded data sets.
    dataset : {"films", "ml-100k"}
        Simulated users of real films, or MovieLens 100k from GroupLens.
    archive : Path, optional
        An `ml-100k.zip` that was downloaded before.

    Raises
    ------
    ConfigError
        The data set is not known.
    RelandError
        There is no network, or what was downloaded is not MovieLens.
    """
    if dataset not in DATASETS:
        raise ConfigError("this demo data set is not known", got=dataset, expected=" or ".join(DATASETS))
    if (directory / CONFIG_FILE).is_file():
        return
    from reland_features.sources import discover_columns

    tables = directory / "tables"
    if dataset == "ml-100k":
        from reland_features.demo.download import download_movielens_100k

        download_movielens_100k(tables, archive)
    else:
        from reland_features.demo.simulator import simulate, write_world

        write_world(tables, simulate(users=users, seed=0))
    make_project(
        directory,
        {name: tables / f"{name}.parquet" for name in ("interactions", "items", "users")},
        {},
        discover=discover_columns,
        name="reland_demo",
    )

"""Where a Feast registry was applied, by the paths that Feast stores in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast.protos.feast.core.Registry_pb2 import Registry

from reland_features.errors import FeatureStoreError
from reland_features.feast_registry import applied_elsewhere, drop_if_applied_elsewhere

SQLITE = "online_store:\n  type: sqlite\n  path: data/online_store.db\n"
REDIS = "online_store:\n  type: redis\n  connection_string: 127.0.0.1:1\n"


def write(
    root: Path,
    *,
    online: str = SQLITE,
    table: Path | None = None,
    source: Path | str | None = None,
    view: str = "user_rationale",
    registry: str = "data/registry.db",
) -> Path:
    """Make a project whose registry names a SQLite file and a source of a view; return its Feast repository."""
    repository = root / "feature_repo"
    (repository / "data").mkdir(parents=True)
    (repository / "feature_store.yaml").write_text(
        f"project: reland\nprovider: local\nregistry: {registry}\n{online}entity_key_serialization_version: 3\n"
    )
    stored = Registry()
    if table:
        thing = stored.infra.infra_objects.add(infra_object_class_type="feast.infra.online_stores.sqlite.SqliteTable")
        thing.sqlite_table.path, thing.sqlite_table.name = str(table), "reland_user_rationale"
    if source:
        spec = stored.feature_views.add().spec
        spec.name, spec.project = view, "reland"
        spec.batch_source.file_options.uri = f"{source}/user_rationale/*.parquet"
    (repository / registry).write_bytes(stored.SerializeToString())
    return repository


def project(root: Path) -> Path:
    """Make a folder that is another project."""
    (root / "features").mkdir(parents=True)
    (root / "reland.toml").touch()
    return root


def test_what_was_applied_here_is_kept(tmp_path):
    here = tmp_path / "D"
    data = here / "feature_repo" / "data"
    repository = write(here, table=data / "online_store.db", source=here / "features")
    assert drop_if_applied_elsewhere(repository, here) is None
    assert (data / "registry.db").is_file()


def test_a_link_to_the_project_is_the_project(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "D")
    table = link / "feature_repo" / "data" / "online_store.db"
    repository = write(tmp_path / "D", table=table, source=link / "features")
    assert applied_elsewhere(repository, tmp_path / "D") is None
    assert applied_elsewhere(link / "feature_repo", link) is None


def test_tables_of_another_folder_give_it_away(tmp_path):
    other = tmp_path / "old" / "feature_repo" / "data" / "online_store.db"
    repository = write(tmp_path / "D", table=other, source=tmp_path / "D" / "features")
    assert drop_if_applied_elsewhere(repository, tmp_path / "D") == other
    assert not (repository / "data" / "registry.db").exists()


@pytest.mark.parametrize("online", [SQLITE, REDIS], ids=["sqlite", "redis"])
@pytest.mark.parametrize("is_there", [True, False], ids=["copied", "moved"])
def test_sources_of_another_project_give_it_away(tmp_path, online, is_there):
    old = project(tmp_path / "old") if is_there else tmp_path / "old"
    repository = write(tmp_path / "D", online=online, source=old / "features")
    assert applied_elsewhere(repository, tmp_path / "D") == old / "features" / "user_rationale" / "*.parquet"


@pytest.mark.parametrize("place", ["mirror", "s3://bucket/features", "../features"])
def test_sources_that_are_elsewhere_on_purpose_are_no_sign(tmp_path, place):
    (tmp_path / "mirror").mkdir()
    source = tmp_path / place if place == "mirror" else place
    assert applied_elsewhere(write(tmp_path / "D", source=source), tmp_path / "D") is None


def test_reland_features_names_another_place(tmp_path, monkeypatch):
    other = project(tmp_path / "other") / "features"
    repository = write(tmp_path / "D", source=other)
    monkeypatch.setenv("RELAND_FEATURES", str(other))
    assert applied_elsewhere(repository, tmp_path / "D") is None


def test_views_of_another_project_under_their_own_names_are_no_sign(tmp_path):
    other = project(tmp_path / "other") / "features"
    assert applied_elsewhere(write(tmp_path / "D", source=other, view="books_user_rationale"), tmp_path / "D") is None


def test_a_registry_outside_the_project_is_shared_on_purpose(tmp_path):
    shared = tmp_path / "shared.db"
    repository = write(tmp_path / "D", table=tmp_path / "old.db", registry=str(shared))
    assert drop_if_applied_elsewhere(repository, tmp_path / "D") is None
    assert shared.is_file()


@pytest.mark.parametrize("broken", ["registry", "folder"])
def test_what_cannot_be_read_is_left_to_feast_apply(tmp_path, broken):
    repository = write(tmp_path / "D", table=tmp_path / "old.db")
    if broken == "registry":
        (repository / "data" / "registry.db").write_bytes(b"\xff\xff nothing of Feast's")
    else:
        repository = tmp_path / "nowhere"
    assert drop_if_applied_elsewhere(repository, tmp_path / "D") is None


@pytest.mark.parametrize(
    ("configuration", "named"),
    [
        ("project: [", "line 1, column"),
        ("provider: local\n", "Field required"),
        ("project: x\nprovider: local\nonline_store: {type: nosuch}\n", "nosuch"),
    ],
)
def test_a_configuration_that_feast_cannot_read_is_an_error_and_nothing_is_deleted(tmp_path, configuration, named):
    repository = write(tmp_path / "D", table=tmp_path / "old.db")
    (repository / "feature_store.yaml").write_text(configuration)
    for ask in (drop_if_applied_elsewhere, applied_elsewhere):
        with pytest.raises(FeatureStoreError, match="Feast cannot read its configuration") as raised:
            ask(repository, tmp_path / "D")
        assert raised.value.where == str(repository / "feature_store.yaml")
        assert named in str(raised.value.got)
    assert (repository / "data" / "registry.db").is_file()

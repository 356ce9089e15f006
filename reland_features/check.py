"""Find everything that would stop a run, at once, before any work is done or money spent."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from reland_features.errors import CheckError, ConfigError, RelandError
from reland_features.project import Project, models_cache


def check(project: Project) -> list[RelandError]:
    """Return all problems of a project: its tables and its parts."""
    from reland_features.sources import check_sources

    return check_sources(project.config, project.root, datetime.now(UTC).replace(tzinfo=None)) + check_parts(project)


def check_parts(project: Project, *, llm: bool = True) -> list[RelandError]:
    """Return the problems of what a run is made of: folders, prompt, models, engine, pool file.

    Reads no table; cheap enough for the start of every run. Without `llm` prompt and engine are not looked at.
    """
    problems: list[RelandError] = []
    for name, path in (("dbt", project.dbt), ("feature_repo", project.feature_repo)):
        if not path.is_dir():
            problems.append(
                ConfigError(
                    f"the project has no {name} folder",
                    where=str(path),
                    hint="reland init NEW_DIR ... makes one; copy it from there",
                )
            )
    asked = (_prompt, _engine) if llm else ()
    for part in (*asked, _text_encoder, _behavior_encoder, _pool, _cold_start):
        try:
            part(project)
        except CheckError as error:
            problems.extend(error.problems)
        except RelandError as error:
            problems.append(error)
    return problems


def _prompt(project: Project) -> None:
    from reland_features.prompts import PromptTemplate

    PromptTemplate.of(project.config.rationales, base=project.root)


def _engine(project: Project) -> None:
    from reland_features.stages import llm_engine

    llm_engine(project).close()


def _text_encoder(project: Project) -> None:
    from reland_features.weights import resolve

    settings = project.config.text_encoder
    resolve(settings.model, settings.revision, models_cache())


def _behavior_encoder(project: Project) -> None:
    from reland_features import encoders

    encoders.build(project.config.encoder, project.config.seed)


def _cold_start(project: Project) -> None:
    data = project.config.data
    if project.config.cold_start.enabled and not (data.users and data.columns.users.profile):
        raise ConfigError(
            "users are to be matched by profile, and there are no profiles",
            where="cold_start.enabled",
            got="no users table" if not data.users else "no profile columns",
            expected="data.users, and its columns in data.columns.users.profile",
            hint="name them in reland.toml, or --set cold_start.enabled=false",
        )


def _pool(project: Project) -> None:
    uri = project.pool_uri
    if "://" in uri or project.config.match.matcher == "exact" or not Path(uri).exists():
        return
    from reland_features.index import check_free

    check_free(uri)

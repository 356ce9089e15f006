"""Make a project folder from a team's tables: write `reland.toml`, copy templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reland_features import config as configuration
from reland_features import templates
from reland_features.column_names import Recognised, recognise
from reland_features.errors import ConfigError
from reland_features.prompts.template import PromptTemplate


def make_project(
    folder: Path,
    sources: Mapping[str, Path | str],
    named: Mapping[str, str | None],
    *,
    discover: Callable[[Path], list[tuple[str, str]]],
    separator: Callable[[Path, str], str | None] | None = None,
    profile: Sequence[str] = (),
    prompt: str | None = None,
    name: str = "reland",
    extra: str = "",
) -> Recognised:
    """Write a new project folder: `reland.toml`, the dbt package, the Feast repository.

    Parameters
    ----------
    folder : Path
        May exist, but not hold a `reland.toml`, `dbt` or `feature_repo`.
    sources : mapping
        Paths of `interactions`, `items` and optionally `users`.
    discover : callable
        Returns (name, type) of a file's columns; see `sources.discover_columns`.
    separator : callable, optional
        Returns what separates the categories in a column of a file, None where nothing does; see
        `sources.common_separator`.
    prompt : str, optional
        A packaged domain, or the path of a ``.toml`` file: from the working folder, as the paths of the tables are.
    extra : str
        TOML that is appended as it is.

    Raises
    ------
    ConfigError
        The folder holds a project, or the prompt is no template; nothing is written.
    TableError, CheckError
        What `recognise` and `discover` find.
    """
    taken = [part for part in (configuration.CONFIG_FILE, "dbt", "feature_repo") if (folder / part).exists()]
    if taken:
        raise ConfigError(
            "this folder already holds a project",
            where=str(folder),
            got=", ".join(taken),
            hint="choose another DIR, or edit its reland.toml",
        )
    tables = {table: [column for column, _ in discover(Path(path))] for table, path in sources.items()}
    recognised = recognise(tables, named, profile)
    categories = recognised.columns["items"].get("categories")
    if separator and categories and (between := separator(Path(sources["items"]), categories)):
        recognised = replace(recognised, separator=between)
    template = _template(folder.resolve(), prompt or recognised.prompt)
    text = _toml(folder.resolve(), sources, recognised, template, name) + extra
    import tomllib

    configuration.parse(tomllib.loads(text), where="the new reland.toml")
    folder.mkdir(parents=True, exist_ok=True)
    templates.copy("dbt", folder / "dbt")
    templates.copy("feature_repo", folder / "feature_repo")
    (folder / ".gitignore").write_text(".reland/\nfeatures/\npool/\nreports/\nfeature_repo/data/\n")
    # Written last: a folder without reland.toml is no project, whatever a killed init left in it.
    (folder / configuration.CONFIG_FILE).write_text(text, encoding="utf-8")
    return recognised


def _located(folder: Path, path: Path | str) -> str:
    """Return a path of the working folder as `reland.toml` in `folder`, which is absolute, names it."""
    absolute = Path(path).resolve()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _template(folder: Path, prompt: str) -> str:
    """Return how `reland.toml` names a prompt, having read it; raise `ConfigError` where it is no template."""
    is_path = Path(prompt).suffix.lower() == ".toml"
    looked_in = Path(prompt).resolve().parent if is_path else (folder / prompt).parent
    located = _located(folder, prompt) if is_path else prompt
    try:
        PromptTemplate.load(located, base=folder)
    except ConfigError as error:
        if error.where != "rationales.prompt":  # the file is there, and the message names it
            raise
        raise ConfigError(
            error.what,
            where=f"--prompt, looked for in {looked_in}",
            got=repr(prompt),
            expected=error.expected,
            hint=error.hint,
        ) from error
    return located


def _quoted(value: str | list[str]) -> str:
    # A JSON string is one in TOML too, but for the two surrogates of an ASCII escape; and TOML wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(folder: Path, sources: Mapping[str, Path | str], recognised: Recognised, prompt: str, name: str) -> str:
    quoted = _quoted
    lines = [
        "# A reland project. Every setting with its present value: reland config",
        f"name = {quoted(name)}",
        "seed = 0",
        "",
        "[data]",
        *(f"{table} = {quoted(_located(folder, path))}" for table, path in sources.items()),
        *([f"categories_separator = {quoted(recognised.separator)}"] if recognised.separator != "|" else []),
        "",
    ]
    for table, roles in recognised.columns.items():
        lines += [f"[data.columns.{table}]", *(f"{role} = {quoted(column)}" for role, column in roles.items())]
        if table == "users" and recognised.profile:
            lines.append(f"profile = {quoted(list(recognised.profile))}")
        lines.append("")
    lines += [
        "[evaluation]",
        "# The last 2 interactions of users with 5 or more are hidden from everything and measure the ranker.",
        "# In production 0, if your ranker learns from earlier published runs; ranking.train needs 2.",
        "holdout = 2",
        "",
        "[seeds]",
        "fraction = 0.1",
        "",
        "[rationales]",
        f"prompt = {quoted(prompt)}",
        'engine = "hf"',
        'model = "smollm2-135m-instruct"',
        "",
    ]
    return "\n".join(lines)

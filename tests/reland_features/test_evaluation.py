"""The user's own evaluation command: what goes wrong with it is one error that says what to do."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from reland_features.errors import ConfigError, RelandError
from reland_features.evaluation import evaluate, read_metrics
from reland_features.project import Project
from reland_features.stages import Outcome


@pytest.fixture
def measure(tmp_path):
    """Evaluate published features by a command."""
    (tmp_path / "reland.toml").write_text('[data]\ninteractions = "i.parquet"\nitems = "t.parquet"\n')
    store, when = Project.open(tmp_path).artifacts, datetime(2024, 1, 1)
    with store.create("features", "features-1", created_at=when, config={}, inputs=[], as_of=when) as draft:
        draft.facts |= {"rows_in": 3, "rows_out": 3, "seconds": 0.0}
    found = store.find("features", "features-1")
    assert found is not None
    features = Outcome("publish", found, cached=True)

    def of(*command: str) -> Outcome:
        project = Project.open(tmp_path, [f"evaluation.command={json.dumps(command)}"])
        return evaluate(project, features, features, lambda done, total: None)

    return of


def writing(content: bytes) -> tuple[str, ...]:
    return ("{python}", "-c", f"import sys; open(sys.argv[1], 'wb').write({content!r})", "{output}")


def test_placeholders_are_filled_in_and_double_braces_are_braces(measure):
    script = "import json, sys; json.dump({{'rankers': [1, 2], 'said': sys.argv[2]}}, open(sys.argv[1], 'w'))"
    made = measure("{python}", "-c", script, "{output}", "{{print}}")
    assert made.rows_out == 2
    assert read_metrics(made)["said"] == "{print}"


def test_a_program_that_is_not_there_is_named(measure, tmp_path):
    with pytest.raises(ConfigError, match="cannot be started; the features are published") as caught:
        measure("my-eval", "{project}")
    assert caught.value.where == "evaluation.command"
    assert caught.value.got == "my-eval: No such file or directory"
    (tmp_path / "script.py").write_text("print()")  # a file that may not be executed
    with pytest.raises(ConfigError, match="Permission denied"):
        measure(str(tmp_path / "script.py"))


@pytest.mark.parametrize("part", ["{print}", "{", "}", "{0}", "{}", "{output.x}", "{project!z}"])
def test_a_brace_that_names_nothing_is_named(measure, part):
    with pytest.raises(ConfigError, match="a brace that is no placeholder") as caught:
        measure("awk", part, "{output}")
    assert (caught.value.got, caught.value.expected) == (repr(part), "{python}, {project}, {output}")
    assert "awk {{print}}" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "JSONDecodeError: Expecting value"),
        (b"ndcg 0.3", "JSONDecodeError: Expecting value"),
        (b'"\xe9"', "UnicodeDecodeError: "),
        (b"[1, 2]", "JSON, but a list at the top"),
        (b'{"rankers": 3}', "rankers is a int"),
    ],
)
def test_what_is_no_metrics_is_said_and_not_kept(measure, content, problem):
    command = [part.replace("{", "{{").replace("}", "}}") if "import" in part else part for part in writing(content)]
    for _ in range(2):  # nothing is kept: the next run measures again
        with pytest.raises(RelandError, match="wrote no metrics") as caught:
            measure(*command)
        assert caught.value.got.startswith(problem)
        assert "metrics.json" in caught.value.expected


def test_a_command_that_fails_in_any_encoding_shows_what_it_said(measure):
    script = r"import sys; sys.stderr.buffer.write(b'caf\xe9 is closed'); sys.exit(3)"
    with pytest.raises(RelandError, match="could not be evaluated") as caught:
        measure("{python}", "-c", script)
    assert "is closed" in caught.value.got

"""The README shows the examples as they are, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from reland_features.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "name", ["own_encoder.py", "own_llm.py", "own_ranker.py", "wrap_your_ranker.py", "own_llm_server.toml"]
)
def test_an_example_stands_in_the_readme_as_it_is(name):
    assert (ROOT / "examples" / name).read_text().rstrip() in README


def test_every_reland_command_of_the_readme_exists():
    commands = get_command(app).commands
    used = set(re.findall(r"^reland ([a-z]+)", README, flags=re.MULTILINE)) | set(
        re.findall(r"`reland ([a-z]+)", README)
    )
    assert used
    assert used <= set(commands)


def test_every_option_of_a_reland_command_line_exists():
    commands = get_command(app).commands
    for line in re.findall(r"^\$? ?reland [a-z]+ .*$", README, flags=re.MULTILINE):
        words = line.removeprefix("$ ").split("#")[0].split()
        command = commands[words[1]]
        command = getattr(command, "commands", {}).get("".join(words[2:3]), command)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_figure_is_left_to_be_filled_in():
    assert "@@" not in README

"""What is finished is taken as it is, and yet held to the limits of the present configuration."""

from __future__ import annotations

import pytest

from reland_features.demo.simulator import simulate, write_world
from reland_features.errors import TooManyFailuresError
from reland_features.init import make_project
from reland_features.pipeline import run
from reland_features.project import Project
from reland_features.sources import discover_columns

STRICT = "rationales.max_failed_fraction=0"


@pytest.fixture
def generate(tmp_path):
    """Run up to the rationales of five seeds; the first two calls fail, and with them two seeds."""
    make_project(tmp_path, write_world(tmp_path / "tables", simulate(users=60, seed=1)), {}, discover=discover_columns)
    toml = (tmp_path / "reland.toml").read_text().replace("fraction = 0.1", "count = 5")
    (tmp_path / "reland.toml").write_text(toml + "\n[encoder.options]\nmax_epochs = 1\n")
    dummy = ["rationales.engine=dummy", 'rationales.options.outcomes=["error", "error"]', "rationales.max_attempts=1"]

    def go(*overrides, **options):
        return run(Project.open(tmp_path, [*dummy, *overrides]), "generate", **options).outcomes["generate"]

    return go


def test_finished_rationales_with_more_failures_than_now_allowed_are_refused(generate):
    lax = generate("rationales.max_failed_fraction=0.4")
    assert lax.rows_out == 3
    assert generate("rationales.max_failed_fraction=0.4").cached  # two of five is not more than that
    with pytest.raises(TooManyFailuresError) as caught:
        generate(STRICT)
    assert caught.value.what == "2 of 5 seed users have no usable rationale"
    assert caught.value.expected == "at most 0.0% (rationales.max_failed_fraction)"
    assert "reland generate --retry-failed" in caught.value.hint
    assert generate("rationales.max_failed_fraction=0.4").artifact.id == lax.artifact.id
    # What the error says to type next is the way out.
    ok = "rationales.options.outcomes=[]"
    retried = generate(STRICT, ok, retry_failed=True)
    assert (retried.cached, retried.rows_out) == (False, 5)
    assert generate(STRICT, ok).cached

from __future__ import annotations

import pytest

from reland_features.config import Rationales
from reland_features.engines import build
from reland_features.engines.base import Request
from reland_features.engines.dummy import DummyEngine
from reland_features.errors import ConfigError
from reland_features.skeleton import Choice, Fixed, Free

OPTIONS = {"items": ("A", "B", "C")}


def ask(content: str, banned: frozenset[str] = frozenset()) -> Request:
    skeleton = (Fixed("Step 1:"), Free(8), Fixed("1."), Choice("items", banned), Fixed("2."), Choice("items", banned))
    return Request(({"role": "user", "content": content},), skeleton)


def test_fills_the_skeleton_without_banned_or_repeated_options():
    texts = [c.text for c in DummyEngine().complete([ask(str(n), frozenset("B")) for n in range(20)], OPTIONS)]
    choices = {tuple(text.splitlines()[1:]) for text in texts}
    assert choices == {("1. A", "2. C"), ("1. C", "2. A")}
    assert all(text.startswith("Step 1: You like") for text in texts)


def test_the_same_request_gets_the_same_answer_alone_and_in_a_batch():
    requests = [ask(str(n)) for n in range(8)]
    alone = [DummyEngine().complete([request], OPTIONS)[0] for request in requests]
    assert DummyEngine().complete(requests, OPTIONS) == alone
    assert DummyEngine("other").complete(requests, OPTIONS) != alone


def test_plays_its_outcomes_first():
    engine = DummyEngine(outcomes=("error", "truncated", "invalid"))
    failed, truncated, invalid, fine = engine.complete([ask(str(n)) for n in range(4)], OPTIONS)
    assert (failed.text, failed.error) == ("", "scripted failure")
    assert truncated.finish_reason == "length"
    assert "Step 1" not in invalid.text
    assert fine.finish_reason == "stop"
    assert engine.calls == 4


def test_no_option_left_is_a_failed_call():
    assert "banned" in DummyEngine().complete([ask("x", frozenset("ABC"))], OPTIONS)[0].error


class TestBuild:
    def test_makes_the_named_engine_with_its_options(self, tmp_path):
        settings = Rationales(engine="dummy", model="x", batch_size=5, options={"delay": 0.0})
        engine = build(settings, tmp_path)
        assert (engine.engine_id, engine.batch_size) == ("dummy:x", 5)

    def test_makes_an_engine_of_the_user_with_what_it_takes(self, tmp_path, monkeypatch):
        (tmp_path / "my_engines.py").write_text(
            "class Own:\n"
            "    def __init__(self, model, *, batch_size, flavour='plain'):\n"
            "        self.made_with = (model, batch_size, flavour)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        settings = Rationales(engine="my_engines:Own", model="x", batch_size=5, options={"flavour": "mint"})
        assert build(settings, tmp_path).made_with == ("x", 5, "mint")

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"engine": "opnai"}, "did you mean 'openai'"),
            ({"engine": "no_such_package.x:Y"}, "not installed"),
            ({"engine": "reland_features.engines.dummy:Nobody"}, "no such class"),
            ({"engine": "dummy", "options": {"dealy": 1}}, "did you mean 'delay'"),
            ({"engine": "dummy", "options": {"batch_size": 1}}, "no option 'batch_size'"),
            ({"engine": "dummy", "options": {"outcomes": ["bad"]}}, "unknown outcome"),
        ],
    )
    def test_says_what_is_wrong(self, tmp_path, values, expected):
        with pytest.raises(ConfigError, match=expected):
            build(Rationales(**values), tmp_path)

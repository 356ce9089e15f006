"""Forced text of a skeleton costs no step of its own: it is read with the token that was chosen before it."""

from __future__ import annotations

import pytest

from reland_features.engines import hf
from reland_features.engines.base import Request
from reland_features.engines.hf import HFEngine
from reland_features.skeleton import Choice, Fixed, Free

OPTIONS = {"items": ("Film 1", "Film 2", "Heat")}
FIRST, SECOND, THIRD = "Step 1: You prefer", "Step 2:\nCategories and Movies:\n1.", "and as the last one of them all:"
SKELETON = (Fixed(FIRST), Free(4), Fixed(SECOND), Choice("items"), Fixed(THIRD), Free(3))


@pytest.fixture
def passes(monkeypatch) -> list[dict[int, int]]:
    """Tokens fed to each sequence, by forward pass."""
    seen: list[dict[int, int]] = []
    original = hf.forward

    def counted(model, store, chunks):
        seen.append({row: len(tokens) for row, tokens in chunks.items()})
        return original(model, store, chunks)

    monkeypatch.setattr(hf, "forward", counted)
    return seen


@pytest.fixture
def engine(tiny_model) -> HFEngine:
    return HFEngine(str(tiny_model), cache=tiny_model, dtype="float32", device="cpu", threads=1)


def request(content: str) -> Request:
    system = "You are a film expert who recommends films to a viewer. Answer in exactly this layout."
    return Request(({"role": "system", "content": system}, {"role": "user", "content": content}), SKELETON)


def test_forced_text_is_fed_in_one_pass_per_chunk(engine, passes, monkeypatch):
    accepted = []
    original = hf.Answer.accept
    monkeypatch.setattr(hf.Answer, "accept", lambda self, token: (accepted.append(token), original(self, token))[1])
    asked = request("x")
    (answer,) = engine.complete([asked], OPTIONS)
    (prompt,) = engine.count_tokens([asked])
    fed = [chunk[0] for chunk in passes]
    # One pass per token that the model chose; the prompt is read with the first forced text.
    assert len(fed) == len(accepted) < answer.completion_tokens
    count = {text: len(engine.vocabulary.encode(text)) for text in (FIRST, SECOND, THIRD)}
    assert fed[0] == prompt + count[FIRST]
    # Each later chunk is fed whole, with the token chosen before it.
    chunks = sorted((n for n in fed[1:] if n > min(count[SECOND], count[THIRD])), reverse=True)
    assert len(chunks) == 2
    assert all(n > size for n, size in zip(chunks, sorted((count[SECOND], count[THIRD]), reverse=True), strict=True))
    assert min(count.values()) > 3


def test_a_batch_takes_as_many_steps_as_its_longest_answer(engine, passes):
    requests = [request(content) for content in ("a", "b b", "c c c")]
    alone = []
    for one in requests:
        passes.clear()
        engine.complete([one], OPTIONS)
        alone.append(len(passes))
    passes.clear()
    engine.complete(requests, OPTIONS)
    shared, prompts = passes[:1], passes[1:4]
    assert list(shared[0]) == [0]  # the beginning that all prompts share, once
    assert [list(chunk) for chunk in prompts] == [[0], [1], [2]]
    assert len(passes[4:]) == max(alone) - 1

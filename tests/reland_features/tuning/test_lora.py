"""The loss of one example by hand, and a killed run that ends where the whole one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from reland_features.config import Tuning
from reland_features.engines.hf import HFEngine
from reland_features.errors import EngineError
from reland_features.tuning.lora import batches, learn, lesson_loss, steps_of
from reland_features.tuning.tokens import Decision, Lesson

SETTINGS = Tuning(rank=2, alpha=4, learning_rate=0.02, batch_size=3, epochs=3, checkpoint_steps=2)


def made_up_lessons(count: int = 8) -> list[Lesson]:
    """Sequences of different lengths whose last tokens are decided."""
    lessons = []
    for n in range(count):
        tokens = tuple((7 * n + 3 * k) % 200 + 1 for k in range(10 + n))
        rivals = sorted({tokens[-1], 5, 9})
        decisions = Decision(len(tokens) - 2, "text"), Decision(len(tokens) - 1, rivals)
        lessons.append(Lesson((*tokens[:-2], 40 + n, tokens[-1]), decisions))
    return lessons


def test_the_loss_is_minus_log_of_the_real_token_among_what_is_offered(engine):
    """Reference: the whole model on one unpadded sequence, its softmax over the candidates."""
    lessons = made_up_lessons(2)
    training = learn(engine, lessons, SETTINGS, seed=0, steps=0)
    masks = {name: torch.full((257,), -torch.inf) for name in engine.vocabulary.sets}
    for name, allowed in engine.vocabulary.sets.items():
        masks[name][sorted(allowed)] = 0
    got = lesson_loss(training.model, lessons, masks)
    expected = 0.0
    for lesson in lessons:
        logits = training.model(torch.tensor([lesson.tokens])).logits[0].double()
        for decision in lesson.decisions:
            named = isinstance(decision.candidates, str)
            ids = sorted(engine.vocabulary.sets[decision.candidates]) if named else decision.candidates
            chosen = ids.index(lesson.tokens[decision.position])
            expected -= logits[decision.position - 1, ids].softmax(0)[chosen].log().item()
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_learning_lowers_the_loss_and_changes_adapter_weights_only(engine):
    base = {name: weight.clone() for name, weight in engine.load().named_parameters()}
    training = learn(engine, made_up_lessons(), SETTINGS.model_copy(update={"epochs": 20}), seed=0)
    assert sum(training.losses[-5:]) < 0.7 * sum(training.losses[:5])
    kept = {name.replace(".base_layer", ""): w for name, w in training.model.get_base_model().named_parameters()}
    assert all(torch.equal(kept[name], weight) for name, weight in base.items())


def test_only_the_last_layers_are_adapted_where_asked(engine):
    names = list(learn(engine, made_up_lessons(), SETTINGS, seed=0, steps=0).weights)
    assert any(".layers.0." in name for name in names)
    last = learn(engine, made_up_lessons(), SETTINGS.model_copy(update={"layers": 1}), seed=0, steps=0).weights
    assert sorted(last) == sorted(name for name in names if ".layers.1." in name)


def test_micro_batches_change_rounding_only(engine):
    one, other = (
        learn(engine, made_up_lessons(), SETTINGS.model_copy(update={"micro_batch_size": size}), seed=0).losses
        for size in (1, 3)
    )
    assert one == pytest.approx(other, rel=1e-4)


def test_every_lesson_is_in_every_epoch_once_and_batches_hold_neighbours_in_length():
    lessons = made_up_lessons()
    found = list(batches(lessons, SETTINGS, seed=1))
    assert len(found) == steps_of(len(lessons), SETTINGS) == 9
    for epoch in range(3):
        part = found[3 * epoch : 3 * epoch + 3]
        assert sorted(len(one.tokens) for batch in part for one in batch) == list(range(10, 18))
        spans = sorted((min(sizes), max(sizes)) for sizes in ([len(one.tokens) for one in batch] for batch in part))
        assert all(high < low for (_, high), (low, _) in pairwise(spans))
    assert found == list(batches(lessons, SETTINGS, seed=1))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from test_lora import SETTINGS, made_up_lessons
from reland_features.engines.hf import HFEngine
from reland_features.tuning.lora import learn
engine = HFEngine(sys.argv[2], cache=Path(sys.argv[3]), dtype="float32", device="cpu")
def on_step(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
learn(engine, made_up_lessons(), SETTINGS, seed=0, checkpoint=Path(sys.argv[3]) / "c.pt", on_step=on_step)
"""


def test_a_killed_run_ends_in_the_same_weights(engine, model, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = learn(engine, made_up_lessons(), SETTINGS, seed=0)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(model), str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        seen: list[int] = []
        resumed = learn(
            engine,
            made_up_lessons(),
            SETTINGS,
            seed=0,
            checkpoint=tmp_path / "c.pt",
            on_step=lambda n, _: seen.append(n),
        )
    finally:
        torch.set_num_threads(threads)
    assert seen == [5, 6, 7, 8, 9]  # step 5 was taken, but not kept
    assert resumed.losses == whole.losses
    assert resumed.weights.keys() == whole.weights.keys()
    assert all(torch.equal(resumed.weights[name], weight) for name, weight in whole.weights.items())


def test_a_merged_adapter_answers_as_the_model_it_was_learned_on(engine, model, tmp_path):
    training = learn(engine, made_up_lessons(), SETTINGS, seed=0)
    training.model.save_pretrained(tmp_path / "adapter")
    tuned = HFEngine(str(model), cache=tmp_path, dtype="float32", device="cpu", adapter=str(tmp_path / "adapter"))
    assert tuned.engine_id != engine.engine_id
    assert tuned.engine_id.startswith(engine.engine_id.removesuffix(":float32") + "+lora-")
    tokens = torch.arange(1, 30)[None]
    with torch.inference_mode():
        expected, got, base = (m(tokens).logits for m in (training.model, tuned.load(), engine.load()))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(base, expected, atol=1e-3)


def test_peft_that_is_not_installed_is_named(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EngineError, match="need peft") as raised:
        learn(engine, made_up_lessons(), SETTINGS, seed=0)
    assert "reland-features[tune]" in raised.value.hint

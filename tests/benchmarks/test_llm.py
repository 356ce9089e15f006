"""The comparison with llama.cpp, without llama.cpp: its prompts, its arithmetic, its environment."""

import argparse

import pytest

from benchmarks import llm
from benchmarks.llm_ours import make_plan
from reland_features.engines.dummy import DummyEngine


@pytest.fixture
def arguments(tmp_path):
    return argparse.Namespace(users=10, repeats=3, threads=1, note="", environment=tmp_path)


def ours(cpu_s, **more):
    facts = {"engine_id": "hf:x:float32", "prompt_tokens": 4000, "answer_tokens": 700}
    return {"cpu_s": cpu_s, "wall_s": 2 * cpu_s, **facts, **more}


def test_ratios_are_taken_within_rounds(arguments):
    rounds = [(ours(10.0), {"cpu_s": 30.0, "wall_s": 1.0}), (ours(20.0), {"cpu_s": 40.0, "wall_s": 1.0}),
              (ours(12.0), {"cpu_s": 33.0, "wall_s": 1.0})]  # fmt: skip
    text = llm.report(arguments, rounds)
    assert "| `hf:x:float32`, batches of 16, skeleton | 1.20 | 0.833 |" in text
    assert "unconstrained | 3.30 | 0.303 |" in text
    assert "2.75 times as many users as llama.cpp in the same time (2.00 to 3.00 over 3 rounds" in text
    assert "The same 400 prompt tokens and 70 answer tokens a user" in text
    assert "GB a second" not in text


def test_more_threads_are_timed_by_the_wall(arguments):
    arguments.threads = 2
    text = llm.report(arguments, [(ours(10.0), {"cpu_s": 1.0, "wall_s": 50.0})])
    assert "| 2.00 | 0.500 |" in text
    assert "| 5.00 | 0.200 |" in text


def test_a_gpu_is_measured_against_its_bandwidth(arguments):
    gpu = {"gpu": "H200", "bytes_per_s": 4e12, "weight_bytes": 2e8}
    text = llm.report(arguments, [(ours(0.005, **gpu), {"cpu_s": 1.0, "wall_s": 1.0})])
    # 700 tokens in 0.01 s; 16 answers × 4e12 / 2e8 = 320,000 a second
    assert "70,000 answer tokens a second" in text
    assert "allow 320,000: 21.9% of the limit" in text


def test_prompts_are_those_of_generate_for_simulated_viewers():
    engine = DummyEngine()
    plan = make_plan(engine, users=5)
    assert len(plan.roots) == 5
    assert not plan.unaskable
    assert all("I've watched the following movies" in ask.request.messages[-1]["content"] for ask in plan.roots)
    assert [ask.key for ask in plan.roots] == [ask.key for ask in make_plan(engine, users=5).roots]


def test_the_sides_take_turns_write_the_same_lengths_and_resume(arguments, monkeypatch):
    order = []

    def work(command, request, folder, threads):
        side = "ours" if "benchmarks.llm_ours" in command else "theirs"
        order.append(side)
        if side == "ours":
            return [ours(float(len(order)), prompts=[[1, 2], [1, 3, 4]], lengths=[5, 6])]
        assert request["prompts"] == [[1, 2], [1, 3, 4]]
        assert request["gguf"].endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
        return [{"cpu_s": 2.0, "wall_s": 2.0, "lengths": request["lengths"]}]

    monkeypatch.setattr(llm, "ask", work)
    monkeypatch.setattr(llm, "make_environment", lambda *_: None)
    arguments.repeats, arguments.output = 2, arguments.environment / "page.md"
    rounds = llm.compare(arguments)
    assert order == ["ours", "theirs"] * 2
    assert (rounds[0][0]["prompt_tokens"], rounds[0][0]["answer_tokens"]) == (5, 11)
    arguments.repeats = 3
    assert llm.compare(arguments)[:2] == rounds  # kept
    assert order == ["ours", "theirs"] * 3
    arguments.users = 11
    llm.compare(arguments)
    assert len(order) == 12  # other conditions

"""Time the engine `hf` beside llama.cpp (llama-cpp-python) on the same GGUF file, prompts and answer lengths.

    python -m benchmarks.llm --threads 2 --output docs/results/llm.md

The prompts are those that `reland generate` would send for simulated viewers of the built-in films. Our engine
answers in batches, held to the skeleton; llama.cpp then writes exactly as many tokens after the same prompt tokens,
one user after the other, greedy and unconstrained. llama.cpp gets an environment of its own (--environment, made
at the first call: it is compiled for this machine, which takes many minutes). The sides take turns. What was measured
is kept beside --output as JSON lines, one a round; the same command resumes, and measures anew with other code.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.workers import ask, make_environment
from reland_features.artifacts import content_id, file_id
from reland_features.errors import RelandError
from reland_features.weights import resolve

REQUIREMENTS = ("llama-cpp-python==0.3.36",)
BUILD = {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}  # without the models that see pictures: half of the compilation
MODEL = "smollm2-135m-instruct"
WORKERS = Path(__file__).parent
Round = tuple[dict[str, Any], dict[str, Any]]


def main() -> None:
    arguments = _arguments()
    try:
        text = report(arguments, compare(arguments))
    except RelandError as error:
        raise SystemExit(str(error)) from error
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
    print(text)


def compare(arguments: argparse.Namespace) -> list[Round]:
    """Measure the rounds that are not kept yet; return (ours, theirs) of all."""
    raw = (arguments.output or arguments.environment / "measured").with_suffix(".jsonl")
    conditions = {
        "users": arguments.users,
        "threads": arguments.threads,
        "machine": machine(),
        "llama_cpp": REQUIREMENTS,
        "code": code_digest(),
    }
    key = content_id(conditions)
    kept = [json.loads(line) for line in raw.read_text().splitlines()] if raw.is_file() else []
    rounds = [(one["ours"], one["theirs"]) for one in kept if one["key"] == key][: arguments.repeats]
    while len(rounds) < arguments.repeats:
        rounds.append(_round(arguments, len(rounds)))
        raw.parent.mkdir(parents=True, exist_ok=True)
        with raw.open("a") as lines:
            held = {"key": key, "conditions": conditions, "ours": rounds[-1][0], "theirs": rounds[-1][1]}
            lines.write(json.dumps(held) + "\n")
    return rounds


def code_digest() -> str:
    """Return a hash of the engine's code and of both workers: figures of other code are measured anew."""
    engine = WORKERS.parent / "reland_features" / "engines"
    files = [engine / f"{name}.py" for name in ("hf", "packed", "constraint", "vocabulary")]
    return content_id([file_id(file) for file in (*files, *sorted(WORKERS.glob("llm_*.py")))])


def _round(arguments: argparse.Namespace, number: int) -> Round:
    """Measure both sides. Ours goes first: its answers say how much llama.cpp has to write."""
    make_environment(arguments.environment, REQUIREMENTS, BUILD)
    weights = resolve(MODEL, None, arguments.environment)
    assert weights.gguf_file is not None
    print(f"round {number + 1} of {arguments.repeats}", file=sys.stderr, flush=True)
    threads = arguments.threads
    request = {"model": MODEL, "users": arguments.users, "batch_size": 16, "threads": threads}
    *_, ours = ask([sys.executable, "-m", "benchmarks.llm_ours"], request, WORKERS.parent, threads)
    prompts, lengths = ours.pop("prompts"), ours.pop("lengths")
    ours |= {"prompt_tokens": sum(map(len, prompts)), "answer_tokens": sum(lengths)}
    request = {
        "gguf": str(weights.path / weights.gguf_file),
        "prompts": prompts,
        "lengths": lengths,
        "threads": threads,
    }
    python = [str(arguments.environment / "bin" / "python"), "-P"]
    *_, theirs = ask([*python, str(WORKERS / "llm_theirs.py")], request, arguments.environment, threads)
    if theirs.pop("lengths") != lengths:
        raise RelandError("llama.cpp did not write as many tokens", where="benchmarks/llm_theirs.py")
    return ours, theirs


def report(arguments: argparse.Namespace, rounds: Sequence[Round]) -> str:
    """Return the page: users a second of both sides, and ratios taken within rounds."""
    first, users = rounds[0][0], arguments.users
    clock = "cpu_s" if arguments.threads == 1 else "wall_s"
    unit = "CPU seconds of one thread" if arguments.threads == 1 else f"wall seconds, {arguments.threads} threads"
    ratios = sorted(theirs[clock] / ours[clock] for ours, theirs in rounds)
    lines = [
        "# The engine hf beside llama.cpp",
        "",
        f"`python -m benchmarks.llm --users {users} --repeats {arguments.repeats} --threads {arguments.threads}`",
        "",
        f"Machine: {machine()}" + (f". {arguments.note}" if arguments.note else ""),
        "",
        f"| {users} users, {unit} | seconds a user | users a second |",
        "| --- | ---: | ---: |",
    ]
    for label, side in ((f"`{first['engine_id']}`, batches of 16, skeleton", 0), (_theirs(), 1)):
        seconds = statistics.median(measured[side][clock] for measured in rounds) / users
        lines.append(f"| {label} | {seconds:.2f} | {1 / seconds:.3f} |")
    lines += [
        "",
        f"hf answers {statistics.median(ratios):.2f} times as many users as llama.cpp in the same time"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f} over {len(rounds)} rounds; the sides take turns).",
        "",
        f"The same {first['prompt_tokens'] / users:.0f} prompt tokens and {first['answer_tokens'] / users:.0f} answer"
        " tokens a user on average, from the same GGUF file. Our engine unpacks it to the number type in its name and"
        " holds its answers to the skeleton; forced text is read in one pass, not written token by token, which is part"
        " of the difference. llama.cpp computes on the 4-bit weights, keeps the beginning that consecutive prompts"
        " share, and writes as many tokens greedily without a constraint, one user after the other. Loading is not"
        " timed on either side.",
        "",
        *_bandwidth(rounds, 16),
    ]
    return "\n".join(lines)


def _bandwidth(rounds: Sequence[Round], batch: int) -> list[str]:
    """Return how near a GPU's tokens a second come to what reading the weights once a step allows."""
    first = rounds[0][0]
    if "gpu" not in first:
        return []
    speed = first["answer_tokens"] / statistics.median(ours["wall_s"] for ours, _ in rounds)
    limit = batch * first["bytes_per_s"] / first["weight_bytes"]
    return [
        f"{first['gpu']}: {speed:,.0f} answer tokens a second, prompts included. It copies"
        f" {first['bytes_per_s'] / 1e9:,.0f} GB a second; reading {first['weight_bytes'] / 1e6:,.0f} MB of weights once"
        f" a step of {batch} answers would allow {limit:,.0f}: {speed / limit:.1%} of the limit.",
        "",
    ]


def _theirs() -> str:
    return f"llama.cpp ({REQUIREMENTS[0]}), one by one, unconstrained"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=32, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="1 counts CPU time, more wall time")
    default = Path.home() / ".cache" / "reland-features" / "llama-cpp"
    parser.add_argument("--environment", type=Path, default=default, metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE")
    parser.add_argument("--note", default="", help="printed beside the machine, such as what else was running")
    arguments = parser.parse_args()
    arguments.environment = arguments.environment.resolve()
    return arguments


if __name__ == "__main__":
    main()

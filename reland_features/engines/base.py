"""What every LLM engine does: turn requests into completions, in order, one for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from reland_features.skeleton import Options, Skeleton

Message = dict[Literal["role", "content"], str]


@dataclass(frozen=True)
class Request:
    """One LLM call.

    Parameters
    ----------
    messages : tuple of dict
        Chat messages, `role` (system, user, assistant) and `content`.
    skeleton : Skeleton
        Shape of the answer; engines that decode locally enforce it.
    max_tokens : int
        Upper limit of answer tokens.
    """

    messages: tuple[Message, ...]
    skeleton: Skeleton = ()
    max_tokens: int = 256


@dataclass(frozen=True)
class Completion:
    """One answer, or the reason why there is none.

    `error` is empty exactly when `text` is an answer. `finish_reason` is ``stop`` for a finished
    answer and ``length`` for a truncated one. A truncated answer may be empty, where a model's thoughts
    took all its tokens: the same call would end the same, so it is no failed one.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    error: str = ""


@runtime_checkable
class Engine(Protocol):
    """An LLM.

    Attributes
    ----------
    engine_id : str
        Identifies model, revision and precision; part of every ledger key.
    source : str
        Where the model comes from (path, package or address); stands in the manifest.
    batch_size : int
        How many requests `complete` likes to get at once.
    parameters : dict
        Decoding parameters that change answers (temperature, seed, ...); part of every ledger key.
    """

    engine_id: str
    source: str
    batch_size: int
    parameters: dict[str, Any]

    def complete(self, requests: Sequence[Request], options: Options) -> list[Completion]:
        """Answer every request, in order; a failed call is a `Completion` with `error` set."""
        ...

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return the number of prompt tokens of every request, without answering it."""
        ...

    def close(self) -> None:
        """Release connections and memory."""
        ...


def most_tokens(engine: Engine, requests: Sequence[Request]) -> list[int]:
    """Return the prompt tokens that a budget counts: an engine without the model's tokenizer has a safer count."""
    count: Callable[[Sequence[Request]], list[int]] = getattr(engine, "most_tokens", engine.count_tokens)
    return count(requests)


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that works on several batches at a time, for example on several machines."""

    def stream(self, batches: Sequence[Sequence[Request]], options: Options) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index of the batch, its completions) as each batch is finished, in any order, each once.

        A caller that stops early closes the iterator: batches not yet begun are then not asked.
        """
        ...


def answer_batches(
    engine: Engine, batches: Sequence[Sequence[Request]], options: Options
) -> Iterator[tuple[int, list[Completion]]]:
    """Yield (index of the batch, its completions): one after the other, or as a streaming engine finishes them."""
    if isinstance(engine, StreamingEngine):
        yield from engine.stream(batches, options)
        return
    for number, batch in enumerate(batches):
        yield number, engine.complete(batch, options)

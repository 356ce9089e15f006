"""An engine without a model: answers follow from the prompt by a hash. For tests and rehearsals."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from typing import Any

from reland_features.engines.base import Completion, Request
from reland_features.errors import ConfigError
from reland_features.skeleton import Choice, Fixed, Options

OUTCOMES = ("ok", "error", "invalid", "truncated")


class DummyEngine:
    """Fill skeletons with choices by hash; the same request gets the same answer in any batch.

    Parameters
    ----------
    model : str
        Part of `engine_id`; another name gives other answers.
    batch_size : int
        Requests per call.
    delay : float
        Seconds that a call of `complete` takes.
    outcomes : sequence of str
        What happens to the first requests, in order: ok, error (the call fails), invalid (an answer
        that cannot be used) or truncated (half an answer). All later ones are ok.
    """

    def __init__(
        self, model: str = "dummy", *, batch_size: int = 16, delay: float = 0.0, outcomes: Sequence[str] = ()
    ) -> None:
        if unknown := set(outcomes) - set(OUTCOMES):
            raise ConfigError(
                "unknown outcome of the dummy engine",
                where="rationales.options.outcomes",
                got=min(unknown),
                expected=f"one of {', '.join(OUTCOMES)}",
            )
        self.engine_id = f"dummy:{model}"
        self.source = "reland_features.engines.dummy"
        self.batch_size = batch_size
        self.parameters: dict[str, Any] = {"temperature": 0}
        self.calls = 0
        self._delay = delay
        self._outcomes = list(outcomes)

    def complete(self, requests: Sequence[Request], options: Options) -> list[Completion]:
        """Answer every request; see `Engine.complete`."""
        if self._delay:
            time.sleep(self._delay)
        return [self._answer(request, options) for request in requests]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Count words: a token is what stands between spaces."""
        return [sum(len(message["content"].split()) for message in request.messages) for request in requests]

    def close(self) -> None:
        """Do nothing; there is nothing to release."""

    def _answer(self, request: Request, options: Options) -> Completion:
        self.calls += 1
        outcome = self._outcomes.pop(0) if self._outcomes else "ok"
        prompt_tokens = self.count_tokens([request])[0]
        if outcome == "error":
            return Completion("", prompt_tokens, error="scripted failure")
        text = "I cannot help with that.\n" if outcome == "invalid" else self._fill(request, options)
        if text is None:
            return Completion("", prompt_tokens, error="every option of a choice is banned or taken")
        if len(text.split()) > request.max_tokens:
            kept = "".join(re.findall(r"\S+\s*", text)[: request.max_tokens])
            return Completion(kept, prompt_tokens, request.max_tokens, "length")
        words = len(text.split())
        if outcome == "truncated":
            return Completion(text[: len(text) // 2], prompt_tokens, words // 2, "length")
        return Completion(text, prompt_tokens, words)

    def _fill(self, request: Request, options: Options) -> str | None:
        seed = "\n".join([self.engine_id, *(message["content"] for message in request.messages)])
        if not request.skeleton:
            return f"Answer {_hash(seed, 0) % 10_000}.\n"
        parts: list[str] = []
        taken: set[tuple[str, str]] = set()
        for position, part in enumerate(request.skeleton):
            if isinstance(part, Fixed):
                parts.append(part.text)
            elif isinstance(part, Choice):
                allowed = [o for o in options[part.options] if o not in part.banned and (part.options, o) not in taken]
                if not allowed:
                    return None
                choice = allowed[_hash(seed, position) % len(allowed)]
                taken.add((part.options, choice))
                parts.append(f" {choice}\n")
            else:
                parts.append(f" You like what you chose before, case {_hash(seed, position) % 1_000}.\n")
        return "".join(parts)


def _hash(text: str, position: int) -> int:
    digest = hashlib.blake2b(f"{position}\n{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")

"""vLLM in this process, for large batches on a GPU, as an engine.

Written against vLLM's documented offline interface (0.11 and later) and tested with a stand-in for the package:
it has not been run on a GPU by its authors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from reland_features.engines.base import Completion, Request
from reland_features.engines.chat import load_tokenizer, prompt_tokens
from reland_features.engines.structured import answer_text, json_schema
from reland_features.errors import ConfigError, EngineError
from reland_features.skeleton import Options
from reland_features.weights import dense, resolve


class VLLMEngine:
    """Answer requests with `vllm.LLM`; skeletons are enforced as JSON schemas. The model is loaded at the first answer.

    Parameters
    ----------
    model, revision : str, str or None
        See `weights.resolve`.
    batch_size : int
        Requests that a call should carry; vLLM schedules them itself, so hundreds are fine.
    cache : Path
        Where downloads are kept.
    dtype : str
        ``auto`` is what the model's own configuration says.
    temperature : float
        0 decodes greedily.
    seed : int, optional
        Of sampling.
    llm : mapping, optional
        Further arguments of `vllm.LLM`, for example ``{tensor_parallel_size = 2, max_model_len = 4096}``. They are
        part of every ledger key: most of them change rounding.

    Raises
    ------
    ConfigError
        vLLM is not installed.
    ModelNotFoundError
        The weights are in none of the places looked at.
    """

    is_local = True
    constrained = True
    sends_schema = True  # ledger keys hold the schema, and not what of the catalogue it leaves out

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        batch_size: int = 16,
        cache: Path,
        dtype: str = "auto",
        temperature: float = 0.0,
        seed: int | None = None,
        llm: Mapping[str, Any] | None = None,
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "engine 'vllm' needs vLLM, which is not installed",
                where="rationales.engine",
                hint="pip install 'reland-features[vllm]' (needs a GPU), or serve it and use engine = 'openai'",
            )
        self._weights = resolve(model, revision, cache)
        self._cache, self._dtype, self._arguments = cache, dtype, dict(llm or {})
        self._sampling = {"temperature": temperature, "seed": seed}
        self.engine_id = f"vllm:{self._weights.id}:{dtype}"
        self.source = self._weights.source
        self.batch_size = batch_size
        self.parameters: dict[str, Any] = {**self._sampling, "skeleton": "json", **self._arguments}

    def complete(self, requests: Sequence[Request], options: Options) -> list[Completion]:
        """Answer one batch; see `Engine`. A prompt that does not fit the context is a failed completion."""
        prompts = prompt_tokens(self._tokenizer, requests)
        completions: dict[int, Completion] = {}
        sampling: dict[int, Any] = {}
        for row, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            context = self._llm.llm_engine.model_config.max_model_len
            if len(prompt) + request.max_tokens > context:
                what = f"{len(prompt)} prompt + {request.max_tokens} answer tokens > context of {context}"
                completions[row] = Completion("", len(prompt), error=what)
                continue
            try:
                sampling[row] = self._sampling_of(request, options)
            except EngineError as error:
                completions[row] = Completion("", len(prompt), error=" ".join(str(error).split()))
        if sampling:
            asked = [{"prompt_token_ids": prompts[row]} for row in sampling]
            outputs = self._llm.generate(asked, list(sampling.values()), use_tqdm=False)
            for row, output in zip(sampling, outputs, strict=True):
                completions[row] = _completion(requests[row], output)
        return [completions[row] for row in range(len(requests))]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return the number of prompt tokens of every request; needs the tokenizer only."""
        return [len(prompt) for prompt in prompt_tokens(self._tokenizer, requests)]

    def close(self) -> None:
        """Free the model; the next call would load it again."""
        self.__dict__.pop("_llm", None)

    def _sampling_of(self, request: Request, options: Options) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        shape = {}
        if request.skeleton:
            shape["structured_outputs"] = StructuredOutputsParams(json=json_schema(request.skeleton, options))
        return SamplingParams(max_tokens=request.max_tokens, **self._sampling, **shape)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(dense(self._weights, "tokenizer", self._cache))

    @cached_property
    def _llm(self) -> Any:
        from vllm import LLM

        paths = {part: str(dense(self._weights, part, self._cache)) for part in ("model", "tokenizer")}
        return LLM(**paths, dtype=self._dtype, **self._arguments)


def _completion(request: Request, output: Any) -> Completion:
    """Read a `vllm.RequestOutput`."""
    (answer,) = output.outputs
    counts = len(output.prompt_token_ids), len(answer.token_ids)
    reason = answer.finish_reason or "stop"
    if not answer.text.strip() and reason != "length":
        return Completion("", *counts, finish_reason=reason, error=f"the answer is empty (finish_reason {reason})")
    text = answer_text(request.skeleton, answer.text) if request.skeleton else None
    return Completion(answer.text if text is None else text, *counts, finish_reason=reason)

"""Any OpenAI-compatible server (vLLM, TGI, llama.cpp, a provider) as an engine, through httpx."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from reland_features.engines.base import Completion, Request
from reland_features.engines.structured import answer_text, json_schema
from reland_features.errors import ConfigError, EngineError
from reland_features.skeleton import Options

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY = "OPENAI_API_KEY"
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_PAUSE = 60.0


class OpenAIEngine:
    """Ask a chat-completions endpoint; answers are validated after the fact, and held to a schema where it can.

    Overload (429), server errors, timeouts and broken connections are tried again after a pause that
    doubles, with full jitter, or that the server names (Retry-After). Everything else, a bad request or a
    wrong key for example, is not. The API key is read from the environment, sent, and written nowhere.

    Parameters
    ----------
    model : str
        Name of the model at the server.
    batch_size : int
        Requests per call of `complete`.
    base_url : str
        Address up to and without ``/chat/completions``.
    api_key_env : str
        Environment variable that holds the key; one that is named here must be set.
    concurrency : int, optional
        Requests in flight, at most; `batch_size` where None.
    timeout : float
        Seconds for one request.
    max_retries : int
        Further tries after the first.
    max_retry_after : float
        Longest pause, in seconds, that a server may ask for; beyond it the call fails.
    temperature : float or None
        None leaves it to the server.
    seed : int, optional
        Sent to the server where given.
    structured_output : bool
        Send each skeleton as a JSON schema (``response_format``), for servers that hold answers to one: OpenAI
        since gpt-4o, vLLM, llama.cpp, TGI and others. A reply that does not follow it is kept as it is.
    extra : mapping, optional
        Further fields of the request's body, for example ``{"top_p" = 0.9}``.
    sleep, clock : callable
        Wait some seconds, and tell the seconds since 1970; tests pass their own.
    """

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 16,
        base_url: str = DEFAULT_URL,
        api_key_env: str = DEFAULT_KEY,
        concurrency: int | None = None,
        timeout: float = 120.0,
        max_retries: int = 5,
        max_retry_after: float = 300.0,
        temperature: float | None = 0.0,
        seed: int | None = None,
        structured_output: bool = False,
        extra: Mapping[str, Any] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = os.environ.get(api_key_env, "")
        if not self._key and (base_url == DEFAULT_URL or api_key_env != DEFAULT_KEY):
            raise ConfigError(
                "there is no API key",
                where="rationales.options.api_key_env",
                got=f"the environment variable {api_key_env} is not set",
                hint=f"export {api_key_env}=...",
            )
        self._url, self.source = _address(base_url)
        self.engine_id = f"openai:{model}"
        self.batch_size = batch_size
        self.parameters: dict[str, Any] = {"temperature": temperature, "seed": seed, **(extra or {})}
        self._body = {"model": model, **{key: v for key, v in self.parameters.items() if v is not None}}
        # Then the catalogue shapes answers, as far as the schema lists it: the schema is part of their ledger keys.
        self.constrained = self.sends_schema = structured_output
        if structured_output:
            self.parameters["structured_output"] = True
        self._max_retries, self._max_retry_after = max_retries, max_retry_after
        self._sleep, self._clock = sleep, clock
        self._random = random.Random()  # of the pauses alone: two processes must not try again at the same time
        self._concurrency = concurrency or batch_size
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self._concurrency)
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits)

    def complete(self, requests: Sequence[Request], options: Options) -> list[Completion]:
        """Answer every request, `concurrency` at a time; see `Engine.complete`."""
        with ThreadPoolExecutor(max_workers=self._concurrency) as workers:
            return list(workers.map(lambda request: self._answer(request, options), requests))

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Estimate prompt tokens without the server's tokenizer: a token is four characters, plus four a message.

        Histories are cut to `rationales.condense.max_prompt_tokens` by it, so that it decides what is asked: it stays
        as it is, and what a bill is held to is counted by `most_tokens`.
        """
        return [_of_messages(request, lambda text: max(1, len(text) // 4)) for request in requests]

    def most_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Estimate prompt tokens for a budget: as `count_tokens`, and characters beyond ASCII are a token each."""
        return [_of_messages(request, _estimate) for request in requests]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _answer(self, request: Request, options: Options) -> Completion:
        body = {**self._body, "messages": list(request.messages), "max_tokens": request.max_tokens}
        if self.constrained and request.skeleton:
            try:
                schema = json_schema(request.skeleton, options)
            except EngineError as error:
                return Completion("", error=" ".join(str(error).split()))
            shape = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        for tries_left in range(self._max_retries, -1, -1):
            pause: float | None = None
            try:
                response = self._client.post(f"{self._url}/chat/completions", json=body)
            except (httpx.TimeoutException, httpx.TransportError) as error:
                # The message of a connection error may hold the address, and that may hold a password.
                problem = self._clean(f"{type(error).__name__}: {error}".rstrip(": "))
            else:
                if response.is_success:
                    return self._read(response, request)
                problem = self._clean(f"HTTP {response.status_code}: {_detail(response)}")
                if response.status_code not in _RETRIED or "insufficient_quota" in problem:
                    is_refused = response.status_code in (400, 422) and "response_format" in body
                    hint = " (sent with a JSON schema; set rationales.options.structured_output = false if it is that)"
                    return Completion("", error=problem + hint * is_refused)
                pause = _retry_after(response.headers.get("Retry-After"), self._clock())
                if pause is not None and pause > self._max_retry_after:
                    asked = f"the server asks to wait {pause:.0f} s, more than max_retry_after"
                    return Completion("", error=f"{problem} ({asked})")
            if tries_left:
                backoff = min(_MAX_PAUSE, 2.0 ** (self._max_retries - tries_left))
                # Full jitter; never before the moment that the server named.
                self._sleep((pause or 0.0) + self._random.uniform(0, backoff))
        return Completion("", error=f"{problem} (after {self._max_retries + 1} tries)")

    def _read(self, response: httpx.Response, request: Request) -> Completion:
        """Read a chat completion; a body of any other shape is a failed call."""
        try:
            value = response.json()
            choice = value["choices"][0]
            text = _text(choice["message"].get("content")) or _text(choice["message"].get("refusal"))
            finish_reason = str(choice.get("finish_reason") or "stop")
            usage = value.get("usage") or {}
            prompt_tokens = int(usage.get("prompt_tokens") or self.most_tokens([request])[0])
            completion_tokens = int(usage.get("completion_tokens") or _estimate(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            start = self._clean(response.text[:120])
            problem = f"the server's answer is no chat completion ({type(error).__name__}): {start!r}"
            # It may have been paid all the same: count what was asked.
            return Completion("", self.most_tokens([request])[0], 0, error=problem)
        if not text.strip() and finish_reason != "length":
            problem = f"the answer is empty (finish_reason {finish_reason})"
            return Completion("", prompt_tokens, completion_tokens, finish_reason, problem)
        laid_out = answer_text(request.skeleton, text) if self.constrained and request.skeleton else None
        return Completion(self._clean(laid_out or text), prompt_tokens, completion_tokens, finish_reason)

    def _clean(self, text: str) -> str:
        """Take the key out of what a server echoes."""
        return text.replace(self._key, "***") if self._key else text


def _estimate(text: str) -> int:
    """Guess a text's tokens: Chinese, Thai or Greek takes about one a character, English one for four."""
    n_ascii = sum(map(str.isascii, text))
    return max(1, n_ascii // 4 + len(text) - n_ascii)


def _of_messages(request: Request, estimate: Callable[[str], int]) -> int:
    return sum(estimate(message["content"]) + 4 for message in request.messages) + 3


def _address(base_url: str) -> tuple[str, str]:
    """Return the address to ask, and the same without user name and password, which may be shown."""
    url = base_url.strip().rstrip("/").removesuffix("/chat/completions")
    if not re.match(r"https?://[^/]+", url):
        raise ConfigError(
            "the LLM server's address is wrong",
            where="rationales.options.base_url",
            got=repr(base_url),
            expected="http:// or https://, a host and maybe a path",
            hint='base_url = "http://localhost:8000/v1"',
        )
    return url, re.sub(r"(?<=://)[^/@]*@", "", url)


def _detail(response: httpx.Response) -> str:
    """Return what an error response says, on one line."""
    try:
        value = response.json()
        error = value.get("error", value) if isinstance(value, dict) else value
        text = f"{error.get('message', '')} {error.get('code') or ''}" if isinstance(error, dict) else str(error)
    except ValueError:
        text = response.text
    return " ".join(text.split())[:300]


def _retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds of a Retry-After header: a number, or the time from `now` until a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None  # not understood: pause as without it
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, until.timestamp() - now)


def _text(content: Any) -> str:
    """Return a message's text; some servers send it in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return "" if content is None else str(content)

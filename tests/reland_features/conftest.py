"""A local OpenAI-compatible server whose behaviour a test scripts."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # text_files


@dataclass(frozen=True)
class Reply:
    """What the server does with one request; `cut` closes the connection without an answer."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


def chat_completion(text: str | None, finish_reason: str = "stop", usage: dict[str, int] | None = None) -> Reply:
    """A 200 with one choice."""
    value: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}]
    }
    return Reply(json.dumps(value | ({"usage": usage} if usage else {})))


@dataclass
class LLMServer:
    """Replies in `script` go out first, in order of arrival; then `answer(request body)` decides."""

    url: str = ""
    script: list[Reply] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], Reply] = lambda body: chat_completion("hello")
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            reply = self.script.pop(0) if self.script else None
        reply = reply or self.answer(body)
        time.sleep(reply.delay)
        with self._lock:
            self._at_once -= 1
        return reply


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def completion() -> Callable[..., Reply]:
    return chat_completion


@pytest.fixture
def llm_server() -> Iterator[LLMServer]:
    state = LLMServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            sent = self.rfile.read(length)
            if len(sent) < length:  # the client was killed while it wrote
                return
            reply = state.take(json.loads(sent) | {"path": self.path}, dict(self.headers))
            if reply.cut:
                self.close_connection = True
                return
            content = reply.body.encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client timed out and left

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # a client that was killed is no news
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()

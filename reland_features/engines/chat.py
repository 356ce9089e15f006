"""Chat messages as the tokens of a local model: what is counted for the budget is what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reland_features.engines.base import Request
from reland_features.weights import quiet

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def load_tokenizer(folder: Path) -> Any:
    """Load a model's tokenizer; ChatML is its chat template where it brings none."""
    from transformers import AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _CHATML
    return tokenizer


def prompt_tokens(tokenizer: Any, requests: Sequence[Request]) -> list[list[int]]:
    """Return the prompt tokens of every request, ready for the assistant's answer."""
    texts = [
        tokenizer.apply_chat_template(list(request.messages), tokenize=False, add_generation_prompt=True)
        for request in requests
    ]
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return encoded

"""TextEncoder(.): texts to vectors of unit length, so that a dot product is a cosine (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from reland_features.errors import RelandError
from reland_features.weights import quiet, resolve


@runtime_checkable
class TextEncoder(Protocol):
    """Whatever turns texts into vectors.

    Attributes
    ----------
    encoder_id : str
        Identifies model, revision and pooling; part of the pool's manifest.
    dimension : int
        Width d of the vectors.
    """

    encoder_id: str

    @property
    def dimension(self) -> int:
        """Width d of the vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [len(texts), d], every row of length 1; raise on an empty text."""
        ...


class HFTextEncoder:
    """Encode texts with a transformers encoder: mean over the real tokens, then L2.

    Computes in float32, so that a text's vector is the same (to about 1e-6) whatever it is encoded with. Texts
    longer than the model takes are cut at its limit. Weights are loaded at the first text.

    Parameters
    ----------
    model, revision : str, str or None
        See `weights.resolve`.
    batch_size : int
        Texts a forward pass carries.
    cache : Path
        Where downloads are kept.

    Raises
    ------
    ModelNotFoundError
        The weights are in none of the places looked at.
    """

    def __init__(self, model: str, revision: str | None = None, *, batch_size: int = 64, cache: Path) -> None:
        self._weights = resolve(model, revision, cache)
        self._batch_size = batch_size
        self.encoder_id = f"text:{self._weights.id}:mean:l2"
        self.source = self._weights.source

    @cached_property
    def dimension(self) -> int:
        """Width d of the vectors; reads the model's configuration only."""
        from transformers import AutoConfig

        return int(AutoConfig.from_pretrained(self._weights.path).get_text_config().hidden_size)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; a text that occurs several times is computed once.

        Returns
        -------
        numpy.ndarray
            float32 [len(texts), d] in the order of `texts`, every row of length 1.

        Raises
        ------
        RelandError
            A text is empty: it has no meaning to encode.
        """
        for row, text in enumerate(texts):
            if not text.strip():
                raise RelandError("a text to encode is empty", where=f"text {row} of {len(texts)}", got=repr(text))
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        distinct = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        return self._encode(list(distinct))[[distinct[text] for text in texts]]

    def _encode(self, texts: list[str]) -> np.ndarray:
        import torch

        tokens = self._tokenizer(texts, truncation=True, max_length=self._limit)["input_ids"]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        # Texts of one length share a batch: less padding, the longest first so that memory fails early.
        order = sorted(range(len(texts)), key=lambda n: (-len(tokens[n]), texts[n]))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            batch = self._tokenizer.pad({"input_ids": [tokens[n] for n in rows]}, return_tensors="pt")
            with torch.inference_mode():
                hidden = self._model(**batch.to(self._model.device)).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                vectors[rows] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return vectors

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with quiet():
            return AutoTokenizer.from_pretrained(self._weights.path)

    @cached_property
    def _limit(self) -> int:
        """Tokens the model takes: what its tokenizer says, at most its positions (less the padding's offset)."""
        config = self._model.config
        positions = int(getattr(config, "max_position_embeddings", 512))
        if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
            positions -= 2
        return min(int(self._tokenizer.model_max_length), positions)

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModel

        with quiet():
            model = AutoModel.from_pretrained(self._weights.path, dtype=torch.float32)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)

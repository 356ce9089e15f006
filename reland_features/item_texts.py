"""Embeddings of the catalogue's texts: what was published before is not encoded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from reland_features.artifacts import ArtifactStore
from reland_features.columns import ITEM_ATTRIBUTES
from reland_features.features import item_text
from reland_features.pool import matrix
from reland_features.text_encoder import TextEncoder


def embed_items(items: pl.DataFrame, encoder: TextEncoder, store: ArtifactStore, features: Path) -> np.ndarray:
    """Return the embedding of each item's text, float32 [I, e], in the order of `items`.

    Texts that the newest published run with the same text encoder has are taken from there: the encoder gives a text
    the same vector, to about 1e-6, whatever it is encoded with, and from day to day few of a catalogue's texts are new.

    Parameters
    ----------
    items : polars.DataFrame
        At least `categories` and `title`.
    store, features : ArtifactStore, Path
        A project's finished artifacts and its published tables.
    """
    texts, before = item_text(items), _published(encoder.encoder_id, store, features)
    if before is None or before.is_empty():
        return encoder.encode(texts)
    place = {text: row for row, text in enumerate(item_text(before))}
    vectors = matrix(before["item_text_embedding"])
    if new := list(dict.fromkeys(text for text in texts if text not in place)):
        place |= {text: len(vectors) + row for row, text in enumerate(new)}
        vectors = np.concatenate([vectors, encoder.encode(new)])
    return vectors[[place[text] for text in texts]]


def _published(text_encoder_id: str, store: ArtifactStore, features: Path) -> pl.DataFrame | None:
    for made in reversed(store.all("features")):
        path = features / ITEM_ATTRIBUTES.name / f"{made.id}.parquet"
        if made.manifest["config"]["text_encoder_id"] == text_encoder_id and path.is_file():
            return pl.read_parquet(path, columns=["categories", "title", "item_text_embedding"])
    return None

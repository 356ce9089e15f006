"""A catalogue's texts are encoded once, and again by another text encoder."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features.artifacts import ArtifactStore
from reland_features.item_texts import embed_items

NOW = datetime(2024, 6, 1)


class Counting:
    """A text encoder that says what it was asked for."""

    def __init__(self, encoder_id: str = "fake") -> None:
        self.encoder_id, self.dimension, self.asked = encoder_id, 4, []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked.extend(texts)
        digests = [hashlib.blake2b(f"{self.encoder_id} {text}".encode(), digest_size=4).digest() for text in texts]
        rows = np.array([list(digest) for digest in digests], dtype=np.float32).reshape(len(texts), 4) + 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def catalogue() -> pl.DataFrame:
    titles, categories = ["Heat", "Ran", "Heat"], [["Crime"], [], ["Crime"]]
    return pl.DataFrame({"item_id": ["a", "b", "c"], "title": titles, "categories": categories})


def published(root: Path, run: str, items: pl.DataFrame, vectors: np.ndarray, encoder_id: str) -> ArtifactStore:
    """Publish a catalogue as a run of a text encoder."""
    store = ArtifactStore(root / "artifacts")
    with store.create("features", run, created_at=NOW, config={"text_encoder_id": encoder_id}, inputs=[]):
        pass
    path = root / "features" / "item_attributes" / f"{run}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = pl.Series("item_text_embedding", vectors.tolist(), dtype=pl.List(pl.Float32))
    items.with_columns(lists).write_parquet(path)
    return store


def test_only_texts_that_no_run_has_published_are_encoded(catalogue, tmp_path):
    first = Counting()
    vectors = embed_items(catalogue, first, ArtifactStore(tmp_path / "artifacts"), tmp_path / "features")
    np.testing.assert_array_equal(vectors, Counting().encode(first.asked))
    store = published(tmp_path, "run-1", catalogue, vectors, "fake")
    # b is gone, c has another title, d is new, e says what a says
    later = pl.DataFrame(
        {
            "item_id": ["e", "d", "c", "a"],
            "title": ["Heat", "Alien", "Ronin", "Heat"],
            "categories": [["Crime"], ["Horror"], ["Crime"], ["Crime"]],
        }
    )
    again = Counting()
    found = embed_items(later, again, store, tmp_path / "features")
    assert again.asked == ["Categories: Horror. Items: Alien.", "Categories: Crime. Items: Ronin."]
    texts = [f"Categories: {kind}. Items: {title}." for kind, title in [("Crime", "Heat"), ("Horror", "Alien")]]
    expected = Counting().encode([texts[0], texts[1], "Categories: Crime. Items: Ronin.", texts[0]])
    np.testing.assert_array_equal(found, expected)
    unchanged = Counting()
    np.testing.assert_array_equal(embed_items(catalogue, unchanged, store, tmp_path / "features"), vectors)
    assert unchanged.asked == []


@pytest.mark.parametrize("spoil", ["another encoder", "deleted"])
def test_what_another_encoder_made_or_nobody_kept_is_encoded_anew(catalogue, tmp_path, spoil):
    made = Counting("other" if spoil == "another encoder" else "fake").encode(["x", "y", "z"])
    store = published(tmp_path, "run-1", catalogue, made, "other" if spoil == "another encoder" else "fake")
    if spoil == "deleted":
        (tmp_path / "features" / "item_attributes" / "run-1.parquet").unlink()
    encoder = Counting()
    found = embed_items(catalogue, encoder, store, tmp_path / "features")
    assert len(encoder.asked) == 3
    np.testing.assert_array_equal(found, Counting().encode(encoder.asked))


def test_the_newest_run_is_read(catalogue, tmp_path):
    store = published(tmp_path, "run-1", catalogue.head(1), Counting().encode(["old"]), "fake")
    newest = Counting().encode(["1", "2", "3"])
    published(tmp_path, "run-2", catalogue, newest, "fake")
    encoder = Counting()
    found = embed_items(catalogue.head(2), encoder, store, tmp_path / "features")
    assert encoder.asked == []
    # a and c say the same, and so does either vector: here they were made to differ
    np.testing.assert_array_equal(found, newest[[2, 1]])

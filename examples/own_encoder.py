"""Bring your own behaviour encoder.  In reland.toml:  [encoder] name = "own_encoder:CountSVD"."""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from reland_features.encoders.base import BehaviorVectors


class CountSVD:
    def __init__(self, dimension, seed):
        self.encoder_id = f"count-svd-{dimension}-{seed}"
        self.model = TruncatedSVD(dimension, random_state=seed)

    def encode(self, interactions, as_of):
        ones = np.ones(len(interactions), dtype=np.float32)
        counts = csr_matrix((ones, (interactions.user_rows, interactions.item_rows)))
        return BehaviorVectors(interactions.user_ids, self.model.fit_transform(counts), self.encoder_id, as_of)

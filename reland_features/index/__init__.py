"""Search seed vectors by cosine: in Milvus or exactly in memory."""

from reland_features.index.base import VectorIndex
from reland_features.index.exact import ExactIndex
from reland_features.index.milvus import MilvusIndex, check_free

__all__ = ["ExactIndex", "MilvusIndex", "VectorIndex", "check_free"]

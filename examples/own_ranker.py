"""Bring your own ranker: any estimator, on a frame from Feast.  python own_ranker.py, in the project folder."""

from pathlib import Path

from feast import FeatureStore
from sklearn.ensemble import HistGradientBoostingClassifier

from ranking.dataset import TRAIN, ranking_queries
from ranking.project import RankingProject
from ranking.tabular import rationale_features
from ranking.training_frame import training_frame

project = RankingProject.open(Path())
queries = ranking_queries(project, TRAIN, candidates=20)  # or a frame of yours: user_id, item_id, event_timestamp
frame = training_frame(FeatureStore("feature_repo"), queries.frame, "ranker_with_rationales")
columns = rationale_features(frame)
model = HistGradientBoostingClassifier().fit(columns.matrix(frame), frame["label"])
accuracy = model.score(columns.matrix(frame), frame["label"])
print(f"{frame.height:,} rows, {len(columns.names)} columns, accuracy {accuracy:.3f}")

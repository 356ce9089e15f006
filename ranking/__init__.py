"""Rankers that consume the features through Feast, offline to train and online to score."""

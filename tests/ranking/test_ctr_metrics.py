"""Metrics of clicks agree with a well-kept library, and are defined or refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ranking.ctr_metrics import METRICS, Measured, difference
from reland_features.errors import TableError


@pytest.mark.parametrize("distinct", [5, 1000], ids=["ties", "no ties"])
def test_metrics_agree_with_sklearn(distinct):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 40, size=2000) * 3
    probability = rng.integers(1, distinct + 1, size=2000) / (distinct + 2)
    label = (rng.random(2000) < 0.5 * probability).astype(int)
    measured = Measured(label, probability.astype(np.float32), group)
    assert measured.value("auc") == pytest.approx(roc_auc_score(label, probability))
    assert measured.value("log_loss") == pytest.approx(log_loss(label, probability))
    by_user = [roc_auc_score(label[group == g], probability[group == g]) for g in np.unique(group)]
    assert measured.value("user_auc") == pytest.approx(np.mean(by_user))
    weight = rng.integers(0, 3, size=40).astype(float)
    rows = weight[np.unique(group, return_inverse=True)[1]]
    assert measured.value("auc", weight) == pytest.approx(roc_auc_score(label, probability, sample_weight=rows))
    assert measured.value("log_loss", weight) == pytest.approx(log_loss(label, probability, sample_weight=rows))


def test_intervals_hold_the_difference_and_are_none_between_equals():
    rng = np.random.default_rng(0)
    group, label = np.repeat(np.arange(100), 10), (rng.random(1000) < 0.3).astype(int)
    good, bad = (Measured(label, 1 / (1 + np.exp(-s * label - rng.normal(size=1000))), group) for s in (2.0, 0.2))
    found = difference([good], [bad], "auc")
    assert 0 < found.low < found.value < found.high
    assert found.value == pytest.approx(good.value("auc") - bad.value("auc"))
    none = difference([good, bad], [bad, good], "auc")
    assert (none.value, none.low, none.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="not finite"):
        Measured(label, np.full(1000, np.nan), group)


def few_clicks(clicks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and users of 40 users with six rows each; the first row of some is a click."""
    label, group = np.zeros(240, dtype=int), np.repeat(np.arange(40), 6)
    label[: 6 * clicks : 6] = 1
    return label, group


@pytest.mark.parametrize("metric", METRICS)
def test_resamples_without_a_click_are_left_out_of_an_interval(metric):
    rng = np.random.default_rng(0)
    label, group = few_clicks(2)
    good, bad = (Measured(label, rng.uniform(size=240) * 0.8 + share * label, group) for share in (0.1, 0.0))
    weight = np.repeat([0.0, 1.0], [2, 38])
    assert np.isnan(good.value(metric, weight)) == (metric != "log_loss")
    found = difference([good], [bad], metric)
    assert np.isfinite([found.value, found.low, found.high]).all()
    assert found.low <= found.value <= found.high


def test_a_metric_that_the_rows_do_not_define_is_one_clear_error():
    label, group = few_clicks(0)
    nobody = Measured(label, np.full(240, 0.5), group)
    for metric in ("auc", "user_auc"):
        for ask in (nobody.value, lambda name: difference([nobody], [nobody], name)):
            with pytest.raises(TableError, match=f"{metric} is undefined") as error:
                ask(metric)
            assert "0 clicks in 240 rows of 40 users" in str(error.value)
    label = np.repeat([1, 0], 120)  # whoever clicked passed nothing over
    split = Measured(label, np.linspace(0.9, 0.1, 240), group)
    assert split.value("auc") == 1
    with pytest.raises(TableError, match="user_auc is undefined"):
        split.value("user_auc")
    rare = Measured(few_clicks(1)[0], np.linspace(0.9, 0.1, 240), group)
    with pytest.raises(TableError, match="auc is undefined"):
        difference([rare], [rare], "auc", samples=1, seed=1)

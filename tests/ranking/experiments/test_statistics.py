"""Comparisons against scipy itself, and the cases that scipy leaves open."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ranking.experiments.statistics import compare
from ranking.metrics import paired_bootstrap


def test_tests_over_users_and_over_seeds_are_scipys():
    rng = np.random.default_rng(0)
    control = rng.uniform(size=(3, 40))
    treatment = control + rng.normal(0.05, 0.2, size=(3, 40))

    found = compare(treatment, control)

    users, others = treatment.mean(axis=0), control.mean(axis=0)
    assert found.p_ttest == pytest.approx(stats.ttest_rel(users, others).pvalue)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(users, others, method="asymptotic").pvalue)
    assert found.p_seeds == pytest.approx(stats.ttest_rel(treatment.mean(axis=1), control.mean(axis=1)).pvalue)
    interval = paired_bootstrap(users, others)
    assert (found.value, found.low, found.high) == (interval.value, interval.low, interval.high)
    assert found.value == pytest.approx((treatment - control).mean())
    assert found.relative == pytest.approx(treatment.mean() / control.mean() - 1)
    assert found.seeds == 3


def test_equal_variants_have_p_1_and_one_seed_has_no_p_over_seeds():
    found = compare([[0.5, 0.0]], [[0.5, 0.0]])
    assert (found.value, found.p_ttest, found.p_wilcoxon) == (0.0, 1.0, 1.0)
    assert np.isnan(found.p_seeds)


def test_a_control_that_never_hits_has_no_relative_difference():
    assert np.isnan(compare([[0.5, 0.0]], [[0.0, 0.0]]).relative)


@pytest.mark.parametrize("control", [[[0.0, 0.0, 0.0]], [0.0, 0.0]])
def test_variants_of_different_users_are_refused(control):
    with pytest.raises(ValueError, match="shapes"):
        compare([[0.0, 0.0]], control)


@pytest.mark.filterwarnings("error")
def test_one_difference_again_and_again_is_tested_without_a_warning():
    first = np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]])
    assert compare(first, first - 0.1).p_seeds < 1e-9

"""The quantiles and tails are the same bits as `scipy.stats.t`'s, which takes a second to import."""

import numpy as np
import pytest
from scipy import stats

from sa_bench.statistics import student


@pytest.mark.parametrize("df", [1, 2, 7, 30.5, 1000, np.inf])
def test_quantiles_and_tails_are_scipys_own(df):
    for probability in (0.5, 0.95, 0.975, 1 - 0.05 / 12):
        assert student.compute_quantile(probability, df) == stats.t.ppf(probability, df)
    for value in (0.0, 0.3, 2.0, 40.0):
        assert student.compute_upper_tail(value, df) == stats.t.sf(value, df)


def test_without_a_degree_of_freedom_there_is_no_quantile():
    assert np.isnan(student.compute_quantile(0.975, 0))
    assert np.isnan(student.compute_upper_tail(1.0, 0))

"""NumPy's logistic function and its logarithm are SciPy's, to the last digits, at any argument."""

import numpy as np
import pytest
from early_persistence_detection.models.logistic import expit, log_expit
from hypothesis import given
from hypothesis import strategies as st
from scipy import special


@given(st.lists(st.floats(-1000, 1000) | st.floats(allow_nan=False), min_size=1, max_size=20))
@pytest.mark.filterwarnings("error")
def test_it_equals_scipy_to_the_last_digits(values):
    x = np.array(values)
    for ours, theirs in ((expit, special.expit), (log_expit, special.log_expit)):
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-15, atol=1e-307)  # below are subnormal numbers
        assert ours(x).dtype == np.float64 and ours(x[0]).shape == ()


def test_nan_stays_and_the_ends_are_exact():
    assert np.isnan(expit(np.array(np.nan))) and np.isnan(log_expit(np.array(np.nan)))
    assert expit(np.array([-np.inf, 0.0, np.inf])).tolist() == [0.0, 0.5, 1.0]
    assert log_expit(np.array([-np.inf, np.inf])).tolist() == [-np.inf, 0.0]

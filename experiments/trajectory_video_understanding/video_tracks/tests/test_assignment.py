"""The assignment is SciPy's, ties included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from video_tracks.assignment import assign

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
few_values = hnp.arrays(np.float32, shapes, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))  # many ties
many_values = hnp.arrays(np.float64, shapes, elements=st.floats(-1e6, 1e6))


@given(few_values | many_values)
def test_the_pairs_of_scipy(values):
    for got, expected in zip(assign(values), linear_sum_assignment(values, maximize=True), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shape", [(60, 60), (40, 90), (90, 40), (20, 32), (32, 32), (33, 33), (32, 12)])
def test_the_pairs_of_scipy_in_a_crowd(shape):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(shape) < 0.1, np.round(rng.random(shape), 1), 0.0)
    for got, expected in zip(assign(values), linear_sum_assignment(values, maximize=True), strict=True):
        np.testing.assert_array_equal(got, expected)

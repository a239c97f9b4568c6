"""The expected calibration error, against cases worked by hand."""

import math

import numpy as np
import pytest

from fewshot_jax.reporting.calibration import calibrate


def test_the_error_is_the_mean_gap_weighted_by_the_predictions_of_a_bin():
    confidence = [0.95, 0.95, 0.65, 0.65, 0.65]
    correct = [True, False, True, True, False]
    # (0.6, 0.7]: 3/5 of the predictions, |2/3 - 0.65|; (0.9, 1]: 2/5 of them, |1/2 - 0.95|
    expected = 3 / 5 * (2 / 3 - 0.65) + 2 / 5 * (0.95 - 0.5)
    found = calibrate(np.array(confidence), np.array(correct), bins=10)
    assert found.error == pytest.approx(expected)
    assert found.items.tolist() == [0, 0, 0, 0, 0, 0, 3, 0, 0, 2]


def test_opposite_gaps_in_one_bin_cancel_and_in_two_bins_add_up():
    confidence, correct = np.array([0.3, 0.8]), np.array([True, False])
    assert calibrate(confidence, correct, bins=1).error == pytest.approx(abs(0.55 - 0.5))
    assert calibrate(confidence, correct, bins=2).error == pytest.approx((0.7 + 0.8) / 2)


def test_a_bin_holds_its_upper_edge():
    assert calibrate(np.array([0.5, 1.0, 0.0]), np.array([1, 1, 0]), bins=2).items.tolist() == [2, 1]


def test_confidence_that_equals_accuracy_has_no_error():
    confidence = np.repeat([0.25, 0.75], 4)
    correct = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    assert calibrate(confidence, correct).error == pytest.approx(0)


def test_there_are_fifteen_bins_and_empty_ones_are_null_in_json():
    found = calibrate(np.array([1.0]), np.array([True])).to_json()
    assert len(found["items"]) == 15 and found["accuracy"] == [None] * 14 + [1.0]


def test_no_prediction_has_no_error():
    assert math.isnan(calibrate(np.zeros(0), np.zeros(0, bool)).error)

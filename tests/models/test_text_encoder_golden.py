"""The text encoder starts and computes as it always did, so that its runs, old and new, go on."""

import json

import numpy as np
import pytest

from tests.models.text_encoder_cases import CASES, FILE, described

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_initial_parameters_features_and_gradient_are_those_recorded(case):
    now, then = described(case), GOLDEN[case]
    layout = {path: leaf[0] for path, leaf in then["leaves"].items()}
    assert {path: leaf[0] for path, leaf in now["leaves"].items()} == layout, "a checkpoint's names and shapes"
    for path, (_, *sums) in then["leaves"].items():
        np.testing.assert_allclose(now["leaves"][path][1:], sums, rtol=1e-5, atol=1e-5, err_msg=path)
    tolerance = 2e-2 if "bfloat16" in case else 2e-5
    assert now["loss"] == pytest.approx(then["loss"], rel=tolerance, abs=tolerance)
    assert now["gradient"] == pytest.approx(then["gradient"], rel=tolerance)

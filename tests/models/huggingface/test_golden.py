"""The numbers that torch gave for tiny models of every family, where there is no torch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.huggingface.tiny import tiny
from tests.models.huggingface.write_golden import CASES, FILE, excerpt, inputs

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))["golden"]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_outputs_are_those_that_torch_gave(name, kind):
    pretrained = tiny(name, kind)
    given = jax.tree.map(jnp.asarray, inputs(pretrained))
    out = jax.jit(pretrained.module.apply)({"params": pretrained.params}, **given)
    expected = GOLDEN[f"{name}/{kind}"]
    assert expected
    for field, values in expected.items():
        np.testing.assert_allclose(excerpt(getattr(out, field)), values, atol=1e-5 * max(1, np.abs(values).max()))

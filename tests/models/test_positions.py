"""Positions: sines and cosines by the formula, and rotations of a part of a head."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.models.positions import Rotary, SinusoidalPositions, rotate


@pytest.mark.parametrize(("inclusive", "last"), [(False, 10_000 ** (3 / 4)), (True, 10_000)])
def test_constant_positions_are_sines_and_cosines_of_growing_wavelengths(inclusive, last):
    positions = SinusoidalPositions(inclusive=inclusive)
    table = positions.table(5, 8)
    steps = 3 if inclusive else 4
    for position in range(5):
        for i in range(4):
            angle = position / 10_000 ** (i / steps)
            np.testing.assert_allclose(table[position, [i, 4 + i]], [math.sin(angle), math.cos(angle)], atol=1e-6)
    np.testing.assert_allclose(table[4, 3], math.sin(4 / last), atol=1e-6)
    np.testing.assert_allclose(positions.rows(jnp.arange(5)[None], 8)[0], table, atol=1e-6)


def test_an_odd_number_of_features_has_no_constant_positions():
    with pytest.raises(ValueError, match=r"width=7.*even number"):
        SinusoidalPositions().table(2, 7)


def test_features_beyond_the_share_are_not_rotated_and_the_others_as_in_a_smaller_head():
    rng = np.random.default_rng(0)
    x_BLHK = jnp.asarray(rng.normal(size=(1, 3, 2, 8)), jnp.float32)
    position_BL = jnp.array([[0, 1, 5]])
    part = rotate(x_BLHK, *Rotary(theta=100.0, share=0.5).angles(position_BL, 8))
    np.testing.assert_array_equal(part[..., 4:], x_BLHK[..., 4:])
    whole = rotate(x_BLHK[..., :4], *Rotary(theta=100.0).angles(position_BL, 4))
    np.testing.assert_array_equal(part[..., :4], whole)
    assert not np.allclose(part[:, 1:, :, :4], x_BLHK[:, 1:, :, :4])

"""Frequencies and rotation against a slow formula, one pair at a time."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.models import RopeConfig
from jaxdlm.models.rope import inverse_frequencies, rotate, rotation


def slow(rope: RopeConfig, head_dim: int) -> list[float]:
    dim = rope.rotary_dim or head_dim
    if rope.kind == "proportional":
        turning = int(rope.proportion * head_dim / 2)
        return [rope.theta ** (-2 * i / head_dim) if i < turning else 0.0 for i in range(head_dim // 2)]
    out = []
    for i in range(dim // 2):
        f = rope.theta ** (-2 * i / dim)
        if rope.kind == "linear":
            f /= rope.factor
        if rope.kind == "llama3":
            wave = 2 * math.pi / f
            low, high = rope.low_freq_factor, rope.high_freq_factor
            if wave > rope.original_max_position / low:
                f /= rope.factor
            elif wave >= rope.original_max_position / high:
                s = (rope.original_max_position / wave - low) / (high - low)
                f = (1 - s) * f / rope.factor + s * f
        if rope.kind == "yarn":
            ends = [dim * math.log(rope.original_max_position / (2 * math.pi * n)) / (2 * math.log(rope.theta))
                    for n in (rope.beta_fast, rope.beta_slow)]  # fmt: skip
            low, high = (math.floor(ends[0]), math.ceil(ends[1])) if rope.truncate else ends
            low, high = max(low, 0), min(high, dim - 1)
            r = min(max((i - low) / (high - low or 1e-3), 0), 1)
            f = r * f / rope.factor + (1 - r) * f
        out.append(f)
    return out


ROPES = [
    RopeConfig(theta=1e4),
    RopeConfig(theta=6e5, rotary_dim=8),
    RopeConfig(theta=1e6, kind="linear", factor=8.0),
    RopeConfig(theta=5e5, kind="llama3", factor=8.0, original_max_position=64),
    RopeConfig(theta=1e6, kind="proportional", proportion=0.25),
    RopeConfig(theta=1e4, kind="yarn", factor=4.0, original_max_position=64, attention_factor=1.2),
    RopeConfig(theta=1e4, kind="yarn", factor=4.0, original_max_position=64, truncate=False),
    RopeConfig(theta=1e6, kind="yarn", factor=0.25, original_max_position=16, rotary_dim=12),
    RopeConfig(theta=1e4, kind="yarn", factor=2.0, original_max_position=6, beta_fast=1.0),  # both ends are one
]


@pytest.mark.parametrize("rope", ROPES)
def test_frequencies(rope: RopeConfig) -> None:
    np.testing.assert_allclose(inverse_frequencies(rope, 16), slow(rope, 16), rtol=2e-6)


@pytest.mark.parametrize(
    ("theta", "factor", "expected"),
    [
        (
            1e6,
            16.0,
            {0: 1, 16: 0.0316228, 20: 0.0133352, 24: 0.00438295, 30: 6.90702e-4, 40: 1.11142e-5, 63: 7.75586e-8},
        ),
        (1e6, 0.25, {24: 0.00959288, 30: 0.00425744, 63: 4.96375e-6}),
        (1e9, 16.0, {16: 0.00430543, 20: 6.97779e-4, 24: 5.93011e-5, 63: 8.63983e-11}),
    ],
)
def test_frequencies_of_a_released_yarn(theta: float, factor: float, expected: dict[int, float]) -> None:
    rope = RopeConfig(theta=theta, kind="yarn", factor=factor, original_max_position=16384)
    ours = inverse_frequencies(rope, 128)
    np.testing.assert_allclose(ours[list(expected)], list(expected.values()), rtol=5e-6)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("in_f32", [False, True])
def test_rotation_of_pairs(rope: RopeConfig, in_f32: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 2, 16)).astype(np.float32)
    position = np.asarray([[0, 5, 9], [2, 2, 40]], np.int32)
    ours = rotate(jnp.asarray(x), rotation(rope, 16, jnp.asarray(position)), in_f32)
    expected = x.astype(np.float64)
    half = len(slow(rope, 16))
    for b in range(2):
        for t in range(3):
            for j, f in enumerate(slow(rope, 16)):
                c, s = (rope.attention_factor * turn(position[b, t] * f) for turn in (math.cos, math.sin))
                first, second = x[b, t, :, j], x[b, t, :, j + half]
                expected[b, t, :, j] = first * c - second * s
                expected[b, t, :, j + half] = second * c + first * s
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_only_the_difference_of_positions_matters() -> None:
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 16)), jnp.float32) for _ in range(2))

    def score(i: int, j: int) -> float:
        turned = [rotate(x, rotation(ROPES[0], 16, jnp.full((1, 1), p, jnp.int32)), True) for x, p in ((q, i), (k, j))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(7, 3) == pytest.approx(score(27, 23), abs=1e-5)


@pytest.mark.slow
def test_bfloat16_stays_bfloat16() -> None:
    x = jnp.ones((1, 2, 1, 8), jnp.bfloat16)
    turn = rotation(ROPES[0], 8, jnp.asarray([[0, 3]], jnp.int32))
    assert rotate(x, turn, True).dtype == rotate(x, turn, False).dtype == jnp.bfloat16

"""Rotary position embedding, half-split pairing: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdlm.models.config import RopeConfig
from jaxdlm.typing import Array, Float, Int32


class Rotation(NamedTuple):
    """cos and sin per position and pair, [B, T, 1, rotary_dim / 2], float32; what queries are multiplied by, [B, T, 1, 1]."""

    cos: Array
    sin: Array
    query: Array | None = None


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """float32 angular frequency of each pair; the formulas are those of `RopeConfig`."""
    rotary = rope.rotary_dim or head_dim
    if rope.kind == "proportional":
        turning = int(rope.proportion * head_dim // 2)
        frequency = _powers(rope.theta, turning, head_dim)
        return np.concatenate([frequency, np.zeros(head_dim // 2 - turning, np.float32)])
    frequency = _powers(rope.theta, rotary // 2, rotary)
    if rope.kind == "linear":
        return frequency / np.float32(rope.factor)
    if rope.kind == "llama3":
        return _llama3(frequency, rope)
    return _yarn(frequency, rope, rotary) if rope.kind == "yarn" else frequency


def _powers(theta: float, count: int, dim: int) -> np.ndarray:
    # float32 throughout, as the reference implementations compute it: at position 10^4 one unit in the last place of
    # a frequency is already visible
    exponent = np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(dim)
    return np.float32(1.0) / np.power(np.float32(theta), exponent)


def _llama3(frequency: np.ndarray, rope: RopeConfig) -> np.ndarray:
    wavelength = np.float32(2 * math.pi) / frequency
    low = rope.original_max_position / rope.low_freq_factor
    high = rope.original_max_position / rope.high_freq_factor
    smooth = (rope.original_max_position / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    slow = frequency / np.float32(rope.factor)
    between = (1 - smooth) * slow + smooth * frequency
    return np.where(wavelength > low, slow, np.where(wavelength < high, frequency, between)).astype(np.float32)


def _yarn(frequency: np.ndarray, rope: RopeConfig, dim: int) -> np.ndarray:
    def turning(times: float) -> float:
        """The pair, as a fraction, that turns so many times within the original positions."""
        return dim * math.log(rope.original_max_position / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = turning(rope.beta_fast), turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    slow = np.float32(1.0) / (np.float32(rope.factor) * (np.float32(1.0) / frequency))
    width = np.float32(high - low if high != low else 1e-3)
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / width, 0, 1).astype(np.float32)
    return slow * ramp + frequency * (1 - ramp)


def rotation(rope: RopeConfig, head_dim: int, position: Int32[Array, "B T"]) -> Rotation:
    """cos and sin of position · frequency, times the attention factor."""
    frequency = jnp.asarray(inverse_frequencies(rope, head_dim))
    angle = position.astype(jnp.float32)[:, :, None, None] * frequency[None, None, None, :]
    cos, sin, factor = jnp.cos(angle), jnp.sin(angle), np.float32(rope.attention_factor)
    cos, sin = (cos, sin) if factor == 1 else (cos * factor, sin * factor)
    return Rotation(cos, sin, _sharper(rope, position) if rope.query_beta else None)


def _sharper(rope: RopeConfig, position: Int32[Array, "B T"]) -> Float[Array, "B T 1 1"]:
    times = (position // rope.original_max_position).astype(jnp.float32)
    return (1 + rope.query_beta * jnp.log(1 + times))[:, :, None, None]


def rotate(x: Float[Array, "B T N H"], turn: Rotation, in_f32: bool) -> Float[Array, "B T N H"]:
    """Rotates the first 2 · (number of pairs) channels of each head, leaves the others.

    `in_f32`: x is promoted for the rotation and cast back, otherwise cos and sin are cast to x.
    """
    kind = jnp.float32 if in_f32 else x.dtype
    cos, sin = turn.cos.astype(kind), turn.sin.astype(kind)
    pairs = cos.shape[-1]
    first, second, rest = jnp.split(x, (pairs, 2 * pairs), axis=-1)
    first, second = first.astype(kind), second.astype(kind)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned

"""Smooth trajectories as a fixed number of tokens: quantised B-spline control points (BEAST, arXiv 2506.06072), and problems.

A workload that no text gives: the length of an answer is known, nothing ends it, and all of it may be written at once.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Float32, Int32

DEGREE, RIDGE = 3, 1e-4


class Codec(NamedTuple):
    """N bases of D joints, `levels` levels between `low` and `high`, which all control points lie between (10, 256: as in the
    paper)."""

    bases: int = 10
    levels: int = 256
    low: float = -1.5
    high: float = 1.5


BEAST = Codec()


def codec(bases: Any = 10, levels: Any = 256, low: Any = -1.5, high: Any = 1.5) -> Codec:
    """A `Codec`. Raises InputError for fewer bases than the degree asks for (4), fewer than 2 levels, and low >= high."""
    low, high = argument.real()(low, "low"), argument.real()(high, "high")
    if low >= high:
        raise InputError(f"low={low} is not below high={high}: control points lie between them")
    return Codec(argument.whole(DEGREE + 1, 256)(bases, "bases"), argument.whole(2, 65536)(levels, "levels"), low, high)


def basis(steps: int, bases: int) -> Float32[np.ndarray, "T N"]:
    """Phi: the clamped uniform cubic B-splines at `steps` times from 0 to 1, by the recursion of Cox and de Boor."""
    inner = np.linspace(0, 1, bases - DEGREE + 1)
    knots = np.concatenate([np.zeros(DEGREE), inner, np.ones(DEGREE)])
    t = np.linspace(0, 1, argument.whole(2, 2**16)(steps, "steps"))[:, None]
    last = np.flatnonzero(np.diff(knots) > 0)[-1]
    phi = ((knots[None, :-1] <= t) & (t < knots[None, 1:])).astype(float)
    phi[t[:, 0] >= 1] = np.arange(len(knots) - 1) == last  # the right end belongs to the last interval
    for k in range(1, DEGREE + 1):
        left, right = knots[k:-1] - knots[: -k - 1], knots[k + 1 :] - knots[1:-k]
        up = np.where(left > 0, (t - knots[None, : -k - 1]) / np.where(left > 0, left, 1), 0)
        down = np.where(right > 0, (knots[None, k + 1 :] - t) / np.where(right > 0, right, 1), 0)
        phi = up * phi[:, :-1] + down * phi[:, 1:]
    return phi.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("form",))
def encode(actions: Float32[Array, "B T D"], form: Codec = BEAST) -> Int32[Array, "B N*D"]:
    """Tokens of chunks: round((levels - 1)(c - low) / (high - low)), clipped, of c = (Phi'Phi + lambda I)^-1 Phi'a; the D joints
    of one basis stand side by side. c_0 is the chunk's first action itself, so that chunks join without a jump."""
    phi = jnp.asarray(basis(actions.shape[1], form.bases))
    first, rest = actions[:, 0], phi[:, 1:]
    target = actions - phi[None, :, :1] * first[:, None, :]
    gram = rest.T @ rest + RIDGE * jnp.eye(form.bases - 1, dtype=jnp.float32)
    points = jnp.einsum("nt,btd->bnd", jnp.linalg.solve(gram, rest.T), target)
    points = jnp.concatenate([first[:, None], points], axis=1)
    scaled = jnp.round((points - form.low) / (form.high - form.low) * (form.levels - 1))
    return jnp.clip(scaled, 0, form.levels - 1).astype(jnp.int32).reshape(actions.shape[0], -1)


@functools.partial(jax.jit, static_argnames=("steps", "joints", "form"))
def decode(tokens: Int32[Array, "B N*D"], steps: int, joints: int, form: Codec = BEAST) -> Float32[Array, "B T D"]:
    """a = Phi c, of the middle of each level."""
    points = tokens.reshape(tokens.shape[0], form.bases, joints).astype(jnp.float32)
    points = form.low + points / (form.levels - 1) * (form.high - form.low)
    return jnp.einsum("tn,bnd->btd", jnp.asarray(basis(steps, form.bases)), points)


class Motion(NamedTuple):
    """Problems: a command of token ids, and the chunk of actions that it asks for."""

    command: Int32[np.ndarray, "B P"]
    actions: Float32[np.ndarray, "B T D"]


STYLES, STEPS, JOINTS = 4, 50, 2
PAD, MASK, STYLE = 256, 257, 258  # ids behind the levels
SIZE = STYLE + STYLES


def problems(rng: np.random.Generator, count: int, form: Codec = BEAST) -> Motion:
    """Own smooth trajectories: from a start to a goal with minimal jerk, and around that as the style says: straight, a bow of
    the first joint, of the second, or an eight. The command: the style, then the levels of start and goal, per joint."""
    style = rng.integers(STYLES, size=count)
    ends = rng.integers(form.levels // 6, form.levels - form.levels // 6, size=(count, 2, JOINTS))
    start, goal = np.moveaxis(form.low + ends / (form.levels - 1) * (form.high - form.low), 1, 0)
    t = np.linspace(0, 1, STEPS)[None, :, None]
    way = start[:, None] + (goal - start)[:, None] * (10 * t**3 - 15 * t**4 + 6 * t**5)
    bow = np.stack(
        [
            np.zeros_like(t[0]),
            np.sin(np.pi * t[0]) ** 2,
            np.sin(np.pi * t[0]) ** 2,
            np.sin(2 * np.pi * t[0]) * np.sin(np.pi * t[0]),
        ]
    )
    swing = np.array([[0, 0], [1, 0], [0, 1], [1, -1]])
    actions = way + 0.3 * bow[style] * swing[style][:, None, :]
    command = np.concatenate([STYLE + style[:, None], ends.reshape(count, -1)], axis=1)
    return Motion(command.astype(np.int32), actions.astype(np.float32))


def error(
    tokens: Int32[np.ndarray, "B N*D"], actions: Float32[np.ndarray, "B T D"], form: Codec = BEAST
) -> Float32[np.ndarray, "B"]:
    """Root mean square distance of what the tokens decode to, in units of the actions."""
    made = decode(jnp.asarray(tokens), actions.shape[1], actions.shape[2], form)
    return np.sqrt(np.mean((np.asarray(made) - actions) ** 2, axis=(1, 2)))

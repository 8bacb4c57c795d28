"""Points that fill a cube evenly, and what of them is a row's: samples of one prompt that are drawn apart, not by chance."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, distribution
from jaxdlm.core.keys import Group
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Float32, Int32, Key

SHIFT = 2**31 - 2  # no column and no step has this number
MOST = {"sobol": 21201, "lattice": 9125, "digital_net": 21201}  # columns that directions, or a vector, are known for
NETS = {"lattice": "Lattice", "digital_net": "DigitalNetB2"}  # in qmcpy
BELOW_ONE = 1 - 2**-24  # the largest float32 below 1, which rounding would reach


def low_discrepancy(n: int, columns: int, kind: str = "sobol", seed: int = 0) -> Float32[np.ndarray, "N C"]:
    """U in [0, 1)^(n x columns), each row uniform, the rows together spread evenly: randomised quasi-Monte Carlo.

    Row i is for sample i of a prompt (`decode(n=...)`), column j for the j-th column of its answer; `rules.sample` and the
    `noise` of autoregressive policies take it. Means over the samples vary less than of independent ones.

    Args:
        n: samples of a prompt, a power of two (which the evenness is proven for).
        columns: of the answers, max_new.
        kind: "sobol" (SciPy, scrambled), or of the extra `qmc` "lattice" (randomly shifted) and "digital_net" (base 2, a
            random linear scramble and a digital shift; arXiv 2502.14256).
        seed: of the randomisation.

    Raises:
        InputError: for an n that is no power of two, more columns than the kind has (21201; a lattice 9125), another kind,
            and without `qmcpy` for the kinds that need it.

    Examples:
        >>> import jaxdlm as jd
        >>> u = jd.low_discrepancy(16, 32)
        >>> u.shape, sorted((16 * u[:, 0]).astype(int).tolist()) == list(range(16))
        ((16, 32), True)
    """
    argument.check_choice(kind, "kind", MOST)
    n, columns = argument.whole(1, 2**16)(n, "n"), argument.whole(1, MOST[kind])(columns, "columns")
    seed = argument.whole(0, argument.INT32)(seed, "seed")
    if n & (n - 1):
        raise InputError(f"n={n}: points are even in powers of two, use {1 << n.bit_length()}")
    return np.minimum(_points(n, columns, kind, seed), BELOW_ONE).astype(np.float32)


def _points(n: int, columns: int, kind: str, seed: int) -> np.ndarray:
    if kind == "sobol":
        from scipy.stats import qmc  # takes a second to import

        return qmc.Sobol(columns, scramble=True, rng=np.random.default_rng(seed)).random(n)
    try:
        library = importlib.import_module("qmcpy")
    except ImportError:
        raise InputError(f"kind={kind!r} needs the extra qmc: {distribution.install('qmc')}, or use 'sobol'") from None
    return getattr(library, NETS[kind])(dimension=columns, seed=seed).gen_samples(n)


def read_uniforms(uniforms: Any, name: str = "uniforms") -> Any:
    """The numbers as an array on the device, or None. Raises InputError for what is no float array [N, C] in [0, 1); of one
    that is on the device already, whose values are not read, for another shape or type."""
    if uniforms is None:
        return None
    wanted = (
        "numbers in [0, 1), one row per sample and one column per token, as jd.low_discrepancy(16, 128) makes, or none"
    )
    array = isinstance(uniforms, np.ndarray | jax.Array)
    if not array or uniforms.ndim != 2 or uniforms.dtype.kind != "f" or not uniforms.size:
        argument.refuse(uniforms, name, wanted)
    if isinstance(uniforms, jax.Array):
        return uniforms
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        argument.refuse(uniforms, name, wanted)
    return jnp.asarray(np.minimum(uniforms, BELOW_ONE), jnp.float32)


def uniform_at(
    uniforms: Float32[Array, "N C"],
    group: Group,
    column: Int32[Array, ""],
    position: Int32[Array, ""],
    step: Any = None,
) -> Float32[Array, ""]:
    """frac(U[sample, column] + v), v ~ U[0, 1) of the prompt's key and the position: the same for all samples of a prompt.

    So a prompt's numbers depend on no other's, a row's are i.i.d. whatever U is, and rows of one prompt stay as even as U.
    step: v is drawn anew in each, so that a row's draws in several steps are independent as well. Of samples and columns
    that U does not have: independent.
    """
    key = jax.random.fold_in(group.key, SHIFT)
    key = jax.random.fold_in(key if step is None else jax.random.fold_in(key, step), position)
    samples, columns = uniforms.shape
    inside = (group.sample < samples) & (column >= 0) & (column < columns)
    point = uniforms[jnp.minimum(group.sample, samples - 1), jnp.clip(column, 0, columns - 1)]
    u = point + jax.random.uniform(key, (), jnp.float32)
    alone = jax.random.uniform(jax.random.fold_in(key, 1 + group.sample), (), jnp.float32)
    return jnp.where(inside, u - jnp.floor(u), alone)


def group_of(group: Group | None, key: Key[Array, "..."]) -> Group:
    """The group of rows that are the only one of their prompt: their own key, sample 0."""
    return Group(key, jnp.zeros(key.shape, jnp.int32)) if group is None else group


def invert(p: Float32[Array, "... V"], u: Float32[Array, "..."]) -> Int32[Array, "..."]:
    """The first token whose cumulated probability exceeds u, of p up to a factor; no token of probability 0."""
    reached = jnp.where(p > 0, jnp.cumsum(p, axis=-1), 0.0)  # rounding may reach u where nothing is added
    return jnp.argmax(reached > (u * jnp.max(reached, axis=-1))[..., None], axis=-1).astype(jnp.int32)

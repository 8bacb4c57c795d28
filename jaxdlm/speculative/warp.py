"""From logits to the distribution that tokens are drawn from: a guide, then temperature, then filters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.filters import checked_filters, highest, likely, nucleus, typical
from jaxdlm.core.guide import Guide, read_guide
from jaxdlm.core.keys import Group
from jaxdlm.core.low_discrepancy import group_of, invert, read_uniforms, uniform_at
from jaxdlm.core.readout import first_best
from jaxdlm.core.temperature import below, divisor_of, is_cold, scale_logits
from jaxdlm.speculative.state import Rows
from jaxdlm.typing import Array, Float32, Int32, Key

DRAFT, ACCEPT = 0, 1  # stages that draw from a round's key
NOISES = ("own", "shared", "inverse_cdf")


@struct.dataclass
class Warp:
    """See `warp`. The guide has a state for each row, so the loop and the drafters apply it, and `log_prob` the rest.

    A number is a scalar, or [B]: one for each row of logits [B, ..., V]. shared: a token at temperature > 0 is argmax(log p +
    g), where the noise g belongs to its row and position, whoever draws: target, draft, or plain sampling. inverse: it is
    the first whose cumulated probability exceeds a number u of row and position instead, so `shared` as well; uniforms: of
    all samples of a prompt (`core.low_discrepancy`), None: u of the row's key.
    """

    temperature: Any = 0.0
    top_k: Any = None
    top_p: Any = None
    min_p: Any = None
    typical_p: Any = None
    greedy: bool = struct.field(pytree_node=False, default=True)
    guide: Guide | None = None
    shared: bool = struct.field(pytree_node=False, default=False)
    inverse: bool = struct.field(pytree_node=False, default=False)
    uniforms: Any = None

    @property
    def matches(self) -> bool:
        """Whether a draft token stays iff the target draws the same, so that no verdict asks what it was drawn from."""
        return self.greedy or self.shared

    def log_prob(self, logits: Float32[Array, "... V"]) -> Float32[Array, "... V"]:
        """log p; at T = 0 all mass on the best token (the lowest id on a tie)."""
        flat = logits.reshape(-1, logits.shape[-1])
        best = jnp.argmax(flat, axis=1, keepdims=True)
        certain = jnp.where(jnp.arange(flat.shape[1])[None, :] == best, jnp.float32(0), -jnp.inf)
        if self.greedy:
            return certain.reshape(logits.shape)
        each = lambda number: _column(number, logits.shape)  # noqa: E731
        shaped = scale_logits(flat, divisor_of(each(self.temperature)))
        if self.top_k is not None:
            shaped = highest(shaped, each(self.top_k))
        if self.top_p is not None:
            shaped = nucleus(shaped, each(self.top_p))
        if self.min_p is not None:
            shaped = likely(shaped, each(self.min_p))
        if self.typical_p is not None:  # which alone may drop the best
            shaped = typical(shaped, each(self.typical_p))
            shaped = below(shaped, jnp.max(shaped, axis=1))
        log_probs = shaped - jnp.log(jnp.sum(jnp.exp(shaped), axis=1, keepdims=True))  # the best that is left is 0
        return jnp.where(is_cold(each(self.temperature)), certain, log_probs).reshape(logits.shape)

    def of_rows(self, numbers: Mapping[str, Array]) -> "Warp":
        """With these numbers, of each row its own, in the place of its own."""
        return dataclasses.replace(self, **numbers, greedy=False) if numbers else self


def _column(number: Any, shape: tuple[int, ...]) -> Any:
    """A scalar as it is; numbers of rows as a column beside their logits, rows of this shape laid one below the other."""
    if jnp.ndim(number) == 0:
        return number
    number = jnp.reshape(number, (-1, *(1,) * (len(shape) - 2)))
    return jnp.broadcast_to(number, shape[:-1]).reshape(-1, 1)


def warp(
    temperature: Any = 0.0, top_k: Any = None, top_p: Any = None, guide: Any = None, noise: Any = "own", *,
    min_p: Any = None, typical_p: Any = None,
) -> Warp:  # fmt: skip
    """softmax(l / T) restricted to the top_k best tokens, then to the smallest set with probability top_p, then to
    tokens of at least min_p times the best one's probability, then to the locally typical set of probability typical_p.

    temperature: T from 0 to 1e30; 0 (default), and whatever is below 1e-8: the best token with certainty, whatever the
    filters. top_k: 0 or None: all. top_p, min_p: in [0, 1]. typical_p: in [1e-6, 1]. The order is that of `transformers`;
    each filter reads what the one before has left. guide: one of `jaxdlm.guides`, a list of them, or none. noise: "own":
    of each round; "shared": of each position, "inverse_cdf": the same by one number instead of V, see `Warp`; an array from
    `jd.low_discrepancy(n, max_new)`: by these numbers, row i for sample i of a prompt. Raises InputError for values outside
    these ranges.
    """
    temperature = argument.temperature(temperature)
    filters = checked_filters(top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p)
    uniforms = read_uniforms(noise, "noise") if hasattr(noise, "shape") else None
    noise = "inverse_cdf" if uniforms is not None else argument.check_choice(noise, "noise", NOISES)
    return Warp(
        temperature, **filters, greedy=argument.greedy(temperature), guide=read_guide(guide), shared=noise != "own",
        inverse=noise == "inverse_cdf", uniforms=uniforms,
    )  # fmt: skip


def draw(logp: Float32[Array, "V"], key: Key[Array, ""]) -> Int32[Array, ""]:
    """argmax(log p + Gumbel): a token drawn from p, up to any factor of p."""
    return first_best(logp + gumbel(key, logp.shape[0]))


def gumbel(key: Key[Array, ""], size: int) -> Float32[Array, "V"]:
    """Gumbel noise of so many ids."""
    return jax.random.gumbel(key, (size,), jnp.float32, mode="high")


def stage_key(key: Key[Array, ""], position: Int32[Array, ""], stage: int) -> Key[Array, ""]:
    """A row's key at a position: the length of the row grows in every round, so no round's key is used twice."""
    return jax.random.fold_in(jax.random.fold_in(key, position), stage)


def position_key(key: Key[Array, ""], position: Int32[Array, ""]) -> Key[Array, ""]:
    """The key by which plain sampling draws the token at a position of a row; a draft's, where noise is shared."""
    return jax.random.split(stage_key(key, position, ACCEPT))[1]


def drawn(warp: Warp, logp: Float32[Array, "B T V"], rows: Rows, position: Int32[Array, "B T"]) -> Int32[Array, "B T"]:
    """The tokens that plain sampling draws at these positions of the rows from these laws, where noise is shared."""
    each = lambda one: jax.vmap(jax.vmap(one, (None, 0, 0)))  # noqa: E731
    if not warp.inverse:
        return each(lambda key, logp, at: draw(logp, position_key(key, at)))(rows.key, logp, position)
    if warp.uniforms is None:
        own = lambda key, logp, at: invert(jnp.exp(logp), jax.random.uniform(position_key(key, at)))  # noqa: E731
        return each(own)(rows.key, logp, position)

    def even(whose: tuple[Group, Array], logp: Array, at: Array) -> Array:
        group, start = whose
        return invert(jnp.exp(logp), uniform_at(warp.uniforms, group, at - start, at))

    return each(even)((group_of(rows.group, rows.key), rows.start), logp, position)


def draft(
    warp: Warp, logp: Float32[Array, "B V"], rows: Rows, position: Int32[Array, "B"], key: Key[Array, "B"],
    place: Int32[Array, ""],
) -> Int32[Array, "B"]:  # fmt: skip
    """A token of a draft at a position of each row: drawn by a key of the round and the place in the draft, or, where noise is
    shared, as plain sampling does there."""
    if warp.shared:
        return drawn(warp, logp[:, None], rows, position[:, None])[:, 0]
    return jax.vmap(lambda logp, key: draw(logp, jax.random.fold_in(key, place)))(logp, key)


def position_noise(key: Key[Array, "B"], first: Int32[Array, "B"], count: int, size: int) -> Float32[Array, "B T V"]:
    """The noise of `count` positions of each row from `first` on."""
    one = lambda key, position: gumbel(position_key(key, position), size)  # noqa: E731
    position = first[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]
    return jax.vmap(jax.vmap(one, (None, 0)))(key, position)

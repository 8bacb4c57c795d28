"""A bonus for the tokens that are still due, by how often each is expected (counting of CPPD, arXiv 2307.12270)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, struct
from jaxdlm.core.carry import LogitsAccess, Row, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.guide import fit
from jaxdlm.core.rule import Stage
from jaxdlm.typing import Array, Bool, Float32, Int32, Key


@struct.dataclass
class CountBonus(Stage):
    """See `count_bonus`. State, without `counts`: the counts expected of the block."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("logits",), access=LogitsAccess.WHOLE)

    weight: Any
    counts: Any = None

    def init(self, window: int, vocab: int) -> Float32[Array, "V"]:
        return jnp.zeros(vocab, jnp.float32)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        size = update.logits.shape[1]
        written = row.active & ~row.pending
        if self.counts is None:
            own = counted(row.tokens, written, size)
            seen = jnp.sum(jnp.where(row.open[:, None], jax.nn.softmax(update.logits, axis=1), 0.0), axis=0)
            expected = state = jnp.where(row.tick == 0, own + seen, state)
        else:
            expected, own = fit(self.counts, size, 0.0), self._answered(row, size)
        bonus = self.weight * jnp.clip(expected - own, -1.0, 1.0)
        return update._replace(logits=jnp.where(row.open[:, None], update.logits + bonus[None], update.logits)), state

    def _answered(self, row: Row, size: int) -> Float32[Array, "V"]:
        """Of the whole answer, whatever the window."""
        place = jnp.arange(row.text.tokens.shape[0], dtype=jnp.int32)
        return counted(row.text.tokens, row.text.known & (place >= row.text.prompt), size)


def counted(tokens: Int32[Array, "L"], where: Bool[Array, "L"], size: int) -> Float32[Array, "V"]:
    """How often each id stands there."""
    return jnp.zeros(size, jnp.float32).at[jnp.where(where, tokens, size)].add(1.0, mode="drop")


def count_bonus(weight: Any = 1.0, counts: Any = None) -> CountBonus:
    """l_iv + weight · clip(n_v - c_v, -1, 1): for tokens that are still due, against those that are there often enough.

    c_v: how often v is written. n_v: how often it is expected, so that what is there as often as expected gets nothing.
    Args:
        weight: nats, 1; 0 changes nothing.
        counts: n of the whole answer, an array with a number for each id of the vocabulary (of a counting head, say; the same
            for all rows). None: what the model itself expects in the block at its first forward, n_v = c_v + sum_i p_i(v).
    CPPD counts in training, as a module beside its decoder; here counts bend the logits of a decoder that has no such module.
    Chain it before `sample`. Raises InputError for a weight below 0 and counts of another shape.

    Examples:
        >>> import jaxdlm as jd
        >>> policy = jd.chain(jd.rules.count_bonus(2.0), jd.rules.sample(), jd.rules.select_above(0.5))
    """
    if counts is not None:
        if not isinstance(counts, np.ndarray | jax.Array) or counts.ndim != 1 or counts.dtype.kind not in "iuf":
            argument.refuse(counts, "counts", "an array with one number per id of the vocabulary, or none")
        counts = jnp.asarray(counts, jnp.float32)
    return CountBonus(argument.nats(weight, "weight"), counts)

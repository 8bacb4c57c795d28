"""The text is of a language that only a checker on the host knows: `grammar` of a `jaxdlm.grammar.Checked`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.guide import Context, Guide, fit
from jaxdlm.errors import InputError
from jaxdlm.grammar.checked import Checked, by_number
from jaxdlm.typing import Array, Bool, Float32, Int32, UInt32


class Written(NamedTuple):
    """What a row has written, by which the host finds its place."""

    number: Int32[Array, ""]  # of the language
    text: Int32[Array, "L"]
    count: Int32[Array, ""]
    room: Int32[Array, ""]  # tokens that the row may still write


@struct.dataclass
class CheckedGuide(Guide):
    """See `grammar`. number: of the language of all rows."""

    number: Any
    vocab: int = struct.field(pytree_node=False)

    def check(self, lm: Any, max_new: int) -> None:
        made = by_number(int(self.number))
        if self.vocab != lm.config.vocab_size:
            raise InputError(
                f"the grammar was made for {self.vocab} ids, {lm.name} has {lm.config.vocab_size}: make it for this model"
            )
        if made.min_tokens > max_new:
            raise InputError(f"the grammar needs {made.min_tokens} tokens, max_new is {max_new}: raise max_new")

    def init(self, context: Context) -> Written:
        blank = jnp.zeros(context.tokens.shape[0], jnp.int32)
        return Written(jnp.asarray(self.number, jnp.int32), blank, jnp.int32(0), context.room)

    def mask(self, state: Written) -> UInt32[Array, "W"]:
        """Bit j of word i: whether token 32 i + j may follow."""
        words = jax.ShapeDtypeStruct((-(-self.vocab // 32),), jnp.uint32)
        return jax.pure_callback(_masks, words, *state, vmap_method="broadcast_all")

    def dead(self, state: Written) -> Bool[Array, ""]:
        """Whether nothing may follow, and the row has room for it."""
        return (state.room > 0) & ~jnp.any(self.mask(state) > 0)

    def transform(self, logits: Float32[Array, "V"], state: Written) -> Float32[Array, "V"]:
        """A token is allowed iff the text may go on with it, and an end is known within what the row has left."""
        bits = self.mask(state)
        open_ = (bits[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None, :]) & 1 > 0
        return jnp.where(fit(open_.reshape(-1)[: self.vocab], logits.shape[0], False), logits, -jnp.inf)

    def advance(self, state: Written, token: Int32[Array, ""]) -> Written:
        text = state.text.at[state.count].set(token, mode="drop")
        return state._replace(text=text, count=state.count + 1, room=state.room - 1)


def checked(language: Checked) -> CheckedGuide:
    """The guide of a checked language."""
    return CheckedGuide(np.int32(language.number), language.live.size)


def _masks(number: Any, text: Any, count: Any, room: Any) -> np.ndarray:
    """Bit j of word i: whether token 32 i + j may follow, of each row, whatever axes are in front."""
    sides = [np.asarray(each) for each in (number, text, count, room)]
    front = sides[0].shape
    rows = zip(*(each.reshape(-1, *each.shape[len(front) :]) for each in sides), strict=True)
    masks = [_mask(by_number(int(own)), tuple(row[:size].tolist()), int(left)) for own, row, size, left in rows]
    return np.stack(masks).reshape(*front, -1)


def _mask(language: Checked, text: tuple[int, ...], room: int) -> np.ndarray:
    allowed = language.allowed(text, room)
    bits = np.pad(allowed, (0, -allowed.size % 32))
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)

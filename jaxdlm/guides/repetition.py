"""repetition: tokens that the text already holds become less likely (arXiv 1909.05858)."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row
from jaxdlm.core.guide import Context, Guide, fit, held
from jaxdlm.registry import guide
from jaxdlm.typing import Array, Bool, Float32, Int32


@struct.dataclass
class Repetition(Guide):
    """See `repetition`. State: the ids that prompt and answer hold."""

    penalty: Any

    @property
    def any_order(self) -> bool:
        return True

    def init(self, context: Context) -> Bool[Array, "V"]:
        column = jnp.arange(context.tokens.shape[0], dtype=jnp.int32)
        prompt = jnp.where(column < context.length, context.tokens, context.vocab)
        return jnp.zeros(context.vocab, bool).at[prompt].set(True, mode="drop")

    def transform(self, logits: Float32[Array, "V"], state: Bool[Array, "V"]) -> Float32[Array, "V"]:
        lower = jnp.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return jnp.where(fit(state, logits.shape[0], False), lower, logits)

    def advance(self, state: Bool[Array, "V"], token: Int32[Array, ""]) -> Bool[Array, "V"]:
        return state.at[token].set(True, mode="drop")

    def bend(self, logits: Float32[Array, "W V"], row: Row) -> Float32[Array, "W V"]:
        """As for any guide of its kind, without a walk over the columns."""
        tokens = jnp.where(held(row), row.text.tokens, logits.shape[1])
        state = jnp.zeros(logits.shape[1], bool).at[tokens].set(True, mode="drop")
        return jax.vmap(self.transform, in_axes=(0, None))(logits, state)


@guide(lambda lm: Repetition(3.0))
def repetition(penalty: Any = 1.2) -> Repetition:
    """A guide that divides logits l > 0 of tokens in prompt or answer by the penalty, and multiplies others (1909.05858).

    Args:
        penalty: 0.01 to 100; 1.2 (paper); 1 changes nothing, less favours repetition.

    Raises:
        InputError: a penalty out of range.

    Departure from the paper: it divides every logit, which raises negative ones; here, as in `transformers`, these are
    multiplied.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> for guide in (None, jd.guides.repetition(3.0)):
        ...     print(jd.decode(lm, ["Alan Alan Alan"], jd.autoregressive(guide=guide), max_new=4).text[0])
        Alan , , ,
        road ,
    """
    return Repetition(argument.number(penalty, "penalty", low=0.01, high=100))

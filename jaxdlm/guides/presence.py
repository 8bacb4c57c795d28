"""presence: tokens that the answer already holds become less likely, by one amount."""

from typing import Any

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.guide import Context, Guide, fit
from jaxdlm.registry import guide
from jaxdlm.typing import Array, Bool, Float32, Int32


@struct.dataclass
class Presence(Guide):
    """See `presence`. State: the ids that the answer holds."""

    penalty: Any

    @property
    def any_order(self) -> bool:
        return True

    def init(self, context: Context) -> Bool[Array, "V"]:
        return jnp.zeros(context.vocab, bool)

    def transform(self, logits: Float32[Array, "V"], state: Bool[Array, "V"]) -> Float32[Array, "V"]:
        return jnp.where(fit(state, logits.shape[0], False), logits - self.penalty, logits)

    def advance(self, state: Bool[Array, "V"], token: Int32[Array, ""]) -> Bool[Array, "V"]:
        return state.at[token].set(True, mode="drop")


@guide(lambda lm: Presence(2.0))
def presence(penalty: Any = 1.0) -> Presence:
    """A guide that lowers the logit l_v of every token v of the answer: l_v - penalty · [v was written].

    Args:
        penalty: -2 to 2, as in OpenAI's interface (`presence_penalty`); 1.0; 0 changes nothing, less favours repetition.

    The prompt does not count, as in vLLM; `repetition` counts it.

    Raises:
        InputError: a penalty out of range.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> policy = jd.autoregressive(guide=jd.guides.presence(2.0))
        >>> out = jd.decode(lm, ["copy : [ Alan , Alan ]"], policy, max_new=4)
        >>> out.tokens.shape
        (1, 4)
    """
    return Presence(argument.number(penalty, "penalty", low=-2, high=2))

"""frequency: tokens become less likely by each time that the answer already holds them."""

from typing import Any

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.guide import Context, Guide, fit
from jaxdlm.registry import guide
from jaxdlm.typing import Array, Float32, Int32


@struct.dataclass
class Frequency(Guide):
    """See `frequency`. State: how often the answer holds each id."""

    penalty: Any

    @property
    def any_order(self) -> bool:
        return True

    def init(self, context: Context) -> Int32[Array, "V"]:
        return jnp.zeros(context.vocab, jnp.int32)

    def transform(self, logits: Float32[Array, "V"], state: Int32[Array, "V"]) -> Float32[Array, "V"]:
        count = fit(state, logits.shape[0], 0)
        return jnp.where(count > 0, logits - self.penalty * count.astype(jnp.float32), logits)

    def advance(self, state: Int32[Array, "V"], token: Int32[Array, ""]) -> Int32[Array, "V"]:
        return state.at[token].add(1, mode="drop")


@guide(lambda lm: Frequency(2.0))
def frequency(penalty: Any = 1.0) -> Frequency:
    """A guide that lowers the logit l_v of a token v by its number c_v in the answer: l_v - penalty · c_v.

    Args:
        penalty: -2 to 2, as in OpenAI's interface (`frequency_penalty`); 1.0; 0 changes nothing, less favours repetition.

    The prompt does not count, as in vLLM; `repetition` counts it.

    Raises:
        InputError: a penalty out of range.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> policy = jd.autoregressive(guide=jd.guides.frequency(2.0))
        >>> out = jd.decode(lm, ["copy : [ Alan , Alan ]"], policy, max_new=4)
        >>> out.tokens.shape
        (1, 4)
    """
    return Frequency(argument.number(penalty, "penalty", low=-2, high=2))

"""Classifier-free guidance as a logit transform."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.rule import Stage
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Key


@struct.dataclass
class Guidance(Stage):
    """See `guidance`."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("logits",), uncond=True)

    scale: Any

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        if update.uncond is None:
            raise InputError("guidance needs logits without the prompt: decode with jaxdlm.decode, which makes them")
        mixed = update.uncond + (self.scale + 1.0) * (update.logits - update.uncond)
        return update._replace(logits=jnp.where(jnp.isneginf(update.logits), -jnp.inf, mixed)), state


def guidance(scale: Any) -> Guidance:
    """l = u + (scale + 1)(c - u); u: logits with the prompt replaced by masks, from the same doubled forward.

    Args: scale: LLaDA's cfg_scale (arXiv 2502.09992), 0 = the conditional logits. Costs two rows per row, one
    forward is counted. Raises InputError for scale outside [0, 1e6], where the mixed logits are finite.
    """
    return Guidance(argument.number(scale, "cfg_scale", low=0, high=10**6))

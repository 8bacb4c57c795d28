"""Commit every column whose distribution has low entropy (dParallel, arXiv 2509.26488)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import NEG_ENTROPY, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Float32, Int32, Key


def shifted_neg_entropy(
    logits: Float32[Array, "W V"], token: Int32[Array, "W"], row: Row, key: Array
) -> Float32[Array, "W"]:
    """sum p log(p + 1e-8), nats: what the released code for Dream ranks by."""
    p = jax.nn.softmax(logits, axis=1)
    return jnp.sum(p * jnp.log(p + 1e-8), axis=1)


@struct.dataclass
class SelectBelowEntropy(Stage):
    """See `select_below_entropy`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=NEG_ENTROPY)

    threshold: Any
    strict: bool = struct.field(pytree_node=False, default=False)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_below_entropy")
        entropy = jnp.negative(update.score)
        sure = entropy < self.threshold if self.strict else entropy <= self.threshold
        return update._replace(commit=row.open & (sure | best_columns(update.score, row.open, 1))), state


def select_below_entropy(threshold: Any = 0.5, *, strict: bool = False) -> SelectBelowEntropy:
    """Commits {i open : H_i <= threshold} and the open column of lowest entropy H_i = -sum p log p.

    Reads H off the score: chain it after `sample(measure=neg_entropy)`, whose H knows neither temperature nor noise.
    Args:
        threshold: nats; 0.5 in arXiv 2509.26488 (0.45 for MBPP with LLaDA, and for GSM8K and MATH with Dream). 0:
            nearly always one column per forward; from ln V on: the whole block at once.
        strict: H < threshold, as the released code for Dream has it; the one for LLaDA keeps H = threshold.
    The mask token is at -inf before H is taken, which lowers H slightly against the released code. Raises InputError
    for a threshold below 0, where no entropy lies.
    """
    return SelectBelowEntropy(argument.nats(threshold, "threshold"), argument.flag(strict, "strict"))

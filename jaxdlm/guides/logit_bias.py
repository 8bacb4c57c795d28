"""logit_bias: chosen tokens become more or less likely."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, struct
from jaxdlm.core.guide import Guide, fit
from jaxdlm.errors import InputError
from jaxdlm.registry import guide
from jaxdlm.typing import Array, Float32

LARGEST = 100  # as in OpenAI's interface: as good as a ban, or as a must


@struct.dataclass
class LogitBias(Guide):
    """See `logit_bias`."""

    table: Float32[Array, "V"]

    @property
    def any_order(self) -> bool:
        return True

    def check(self, lm: Any, max_new: int) -> None:
        if self.table.shape[0] != lm.config.vocab_size:
            raise InputError(
                f"logit_bias was made for {self.table.shape[0]} ids, {lm.name} has {lm.config.vocab_size}: make it with "
                "this model"
            )

    def transform(self, logits: Float32[Array, "V"], state: Any) -> Float32[Array, "V"]:
        return logits + fit(jnp.asarray(self.table), logits.shape[0], 0.0)


@guide(lambda lm: LogitBias(jnp.zeros(lm.config.vocab_size).at[3].set(LARGEST)))
def logit_bias(biases: Any, lm: Any) -> LogitBias:
    """A guide that adds b_v to the logit l_v of each token v that is named; what the model cannot write stays impossible.

    Args:
        biases: token id -> b_v, from -100 (as good as never) to 100 (as good as always); ids as numbers or, as JSON has
            them, as strings of digits.
        lm: the model that decodes.

    Raises:
        InputError: no mapping, an id outside the vocabulary, or a bias out of range.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> comma = lm.tokenizer.encode(",")[0]
        >>> policy = jd.autoregressive(guide=jd.guides.logit_bias({comma: -100}, lm))
        >>> "," in jd.decode(lm, ["copy : [ Alan , Kate ]"], policy, max_new=8).text[0]
        False
    """
    return LogitBias(jnp.asarray(bias_table(biases, argument.model(lm).config.vocab_size)))


def bias_table(biases: Any, vocab: int, name: str = "logit_bias") -> np.ndarray:
    """float32[vocab] of a mapping of ids. Raises InputError."""
    if not isinstance(biases, Mapping):
        argument.refuse(biases, name, 'an object of token ids and numbers, as {"50256": -100}')
    table, known, named = np.zeros(vocab, np.float32), argument.whole(0, vocab - 1), set()
    for key, value in biases.items():
        written = isinstance(key, str) and key.isdecimal() and len(key) < 20
        token = known(int(key) if written else key, f"{name}: token id")
        if token in named:
            raise InputError(f"{name} names token id {token} twice: keep one")
        named.add(token)
        table[token] = argument.number(value, f"{name}[{token}]", low=-LARGEST, high=LARGEST)
    return table

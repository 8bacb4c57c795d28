"""The compiled generation: prompts read, then the loop."""

import jax.numpy as jnp

from jaxdlm.core.carry import Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.speculative import loop
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Int32


@compiled(static_argnames=("prompt", "max_new", "save", "shared"))
def generate(
    rows: Rows, decoding: Decoding, prompt: int, max_new: int, save: str, shared: int = 0
) -> tuple[Rows, Trace]:
    """Rows and trace at the end, without a guide's state. One program: a prefill of target and draft, and one `while`."""
    carry = loop.run(loop.init(rows, decoding, prompt, max_new, save, shared), jnp.iinfo(jnp.int32).max, decoding)
    return carry.rows._replace(guide=()), carry.trace


@compiled(static_argnames=("prompt", "max_new", "save", "shared"))
def begin(rows: Rows, decoding: Decoding, prompt: int, max_new: int, save: str, shared: int = 0) -> Carry:
    """The carry with the prompts read."""
    return loop.init(rows, decoding, prompt, max_new, save, shared)


@compiled()
def ahead(carry: Carry, rounds: Int32[Array, ""], decoding: Decoding) -> Carry:
    """So many rounds later."""
    return loop.run(carry, carry.loops + rounds, decoding)

"""The compiled generation: prompts read, then the loop."""

import jax.numpy as jnp

from jaxdlm.core.carry import Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import Model
from jaxdlm.speculative import loop
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Int32, PyTree


@compiled(static_argnames=("model", "prompt", "max_new", "save"))
def generate(
    rows: Rows, model: Model, params: PyTree, policy: Speculation, prompt: int, max_new: int, save: str
) -> tuple[Rows, Trace]:
    """Rows and trace at the end, without a guide's state. One program: a prefill of target and draft, and one `while`."""
    fixed = {"model": model, "params": params, "policy": policy}
    carry = loop.init(rows, **fixed, prompt=prompt, max_new=max_new, save=save)
    carry = loop.run(carry, jnp.iinfo(jnp.int32).max, **fixed)
    return carry.rows._replace(guide=()), carry.trace


@compiled(static_argnames=("model", "prompt", "max_new", "save"))
def begin(rows: Rows, model: Model, params: PyTree, policy: Speculation, prompt: int, max_new: int, save: str) -> Carry:
    """The carry with the prompts read."""
    fixed = {"model": model, "params": params, "policy": policy}
    return loop.init(rows, **fixed, prompt=prompt, max_new=max_new, save=save)


@compiled(static_argnames=("model",))
def ahead(carry: Carry, rounds: Int32[Array, ""], model: Model, params: PyTree, policy: Speculation) -> Carry:
    """So many rounds later."""
    return loop.run(carry, carry.loops + rounds, model=model, params=params, policy=policy)

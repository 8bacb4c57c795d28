"""No draft at all: the loop is then plain autoregressive decoding."""

from typing import ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.registry import drafter
from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree
from jaxdlm.typing import Array, Key, PyTree


@drafter(lambda target, draft, sampling: Nothing())
@struct.dataclass
class Nothing:
    """A tree without nodes."""

    model: ClassVar[None] = None

    @property
    def tree(self) -> Tree:
        return Tree(())

    @property
    def forwards(self) -> int:
        return 0

    def init(self, rows: Rows, prompt: int) -> PyTree:
        return ()

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        empty = jnp.zeros((rows.done.shape[0], 0), jnp.int32)
        return Proposal(empty, empty.astype(bool), None, self.tree), state

    def observe(self, state: PyTree, rows: Rows, proposal: Proposal, verdict: Verdict) -> PyTree:
        return state

"""What drafters have in common that draft a chain without a model and remember nothing."""

from typing import ClassVar

from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.typing import PyTree


class Free:
    """A chain of `depth` tokens that costs no forward of a draft; its subclass proposes them."""

    model: ClassVar[None] = None
    depth: int

    @property
    def tree(self) -> Tree:
        return chains(1, self.depth)

    @property
    def forwards(self) -> int:
        return 0

    def init(self, rows: Rows, prompt: int) -> PyTree:
        return ()

    def observe(self, state: PyTree, rows: Rows, proposal: Proposal, verdict: Verdict) -> PyTree:
        return state

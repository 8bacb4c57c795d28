"""Parts of a block, written one after the other (Fast-dLLM v2, arXiv 2509.26328)."""

from typing import Any

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core import compose
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.rule import PolicyWrapper, Rule, Stepper
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Key


@struct.dataclass
class SubBlocks(PolicyWrapper):
    """See `sub_blocks`. State: the host's."""

    inner: Any
    size: Any
    lead: bool = struct.field(pytree_node=False, default=True)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        return self.inner.apply(update, state, row._replace(open=row.open & self.current(row)), key)

    def current(self, row: Row) -> Bool[Array, "W"]:
        """Columns of the first sub-block with an open column; of the block's first column alone, where that leads."""
        column = jnp.arange(row.open.shape[0], dtype=jnp.int32)
        part = column // jnp.asarray(self.size, jnp.int32)
        now = part == part[jnp.argmax(row.open)]
        leads = row.open[0] & (row.tick == 0) if self.lead else jnp.asarray(False)
        return jnp.where(leads, column == 0, now)


def sub_blocks(host: Rule, size: Any = 8, *, lead: bool = True) -> SubBlocks:
    """The host sees as open only {i open : i // size = s}, s the first with an open column; i counts from the block.

    Args:
        host: a whole selection that sees one block, for example `chain(sample(), select_above(0.9))`.
        size: columns of a sub-block, 8 of 32 in arXiv 2509.26328; the last may be shorter.
        lead: a block's first column, if it is open, is written alone in the block's first forward. The released loop
            reads a finished block once more for its keys, and takes the next block's first token from its last row;
            here that is the next block's first forward.
    Raises InputError for size < 1, or a host that is no rule, steps on its own, looks at the whole canvas or writes
    nothing.
    """
    if not isinstance(host, Rule):
        raise InputError(
            f"host {argument.shown(host)} is no rule: pass a selection such as chain(sample(), select_above(0.9))"
        )
    if isinstance(host, Stepper):
        raise InputError(f"host={type(host).__name__} steps on its own: put sub_blocks inside it, as its host")
    if host.traits.view != "block":
        raise InputError(f"host={compose.name(host)} looks at the whole canvas, which has no sub-blocks: leave one out")
    compose.complete(host, "sub_blocks' host")
    size = argument.number(size, "sub_block", low=1, whole=True)
    return SubBlocks(host, size, argument.flag(lead, "lead"))

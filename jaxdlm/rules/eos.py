"""Stop a row once its text has ended."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.carry import Draft, Row, Status
from jaxdlm.core.rule import Stage, need
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Int32, Key


@struct.dataclass
class StopAtEos(Stage):
    """See `stop_at_eos`."""

    reads: ClassVar[tuple[str, ...]] = ("token", "commit", "cut", "halt", "status")
    writes: ClassVar[tuple[str, ...] | None] = ("cut", "halt", "status")

    def apply(self, draft: Draft, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Draft, Any]:
        need(draft, "token", "commit", rule="stop_at_eos")
        commit = jnp.asarray(draft.commit, bool)
        if not row.ids.eos:
            raise InputError("the model names no end-of-text token, so nothing can stop there: leave stop_at_eos out")
        after = text_after(draft, row)
        written = row.exists & ~(row.pending & ~commit)
        ended = written & jnp.isin(after, jnp.asarray(row.ids.eos, jnp.int32)) & ~row.given
        gap = jnp.cumsum(row.exists & ~written) > 0
        first = ended & ~gap
        found = jnp.any(first)
        end = jnp.argmax(first).astype(jnp.int32) + 1
        cut = jnp.where(found, end, row.tokens.shape[0] + 1).astype(jnp.int32)
        cut = cut if draft.cut is None else jnp.minimum(cut, draft.cut)
        status = jnp.where(found, int(Status.EOS), jnp.asarray(draft.status, jnp.int32))
        return draft._replace(cut=cut, halt=found | jnp.asarray(draft.halt, bool), status=status), state


def text_after(draft: Draft, row: Row) -> Int32[Array, "W"]:
    """The window's tokens once the draft is written."""
    text = row.tokens if draft.fill is None else jnp.where(row.given, row.tokens, draft.fill)
    return text if draft.commit is None else jnp.where(draft.commit, draft.token, text)


def stop_at_eos() -> StopAtEos:
    """Ends a row when an end-of-text token is written and no column before it in its block is open.

    Blocks are written left to right, so nothing before it is open at all. The rest of the canvas reads end-of-text.
    """
    return StopAtEos()

"""Stop a row once its text has ended."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.carry import Row, Status, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Int32, Key


@struct.dataclass
class StopAtEos(Stage):
    """See `stop_at_eos`."""

    declares: ClassVar[Traits] = Traits(
        reads=("token", "commit", "cut", "halt", "status"), writes=("cut", "halt", "status")
    )

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "commit", rule="stop_at_eos")
        commit = jnp.asarray(update.commit, bool)
        if not row.ids.eos:
            raise InputError("the model names no end-of-text token, so nothing can stop there: leave stop_at_eos out")
        after = text_after(update, row)
        written = row.exists & ~(row.pending & ~commit)
        ended = written & jnp.isin(after, jnp.asarray(row.ids.eos, jnp.int32)) & ~row.prefilled
        gap = jnp.cumsum(row.exists & ~written) > 0
        first = ended & ~gap
        any_end = jnp.any(first)
        end = jnp.argmax(first).astype(jnp.int32) + 1
        cut = jnp.where(any_end, end, row.tokens.shape[0] + 1).astype(jnp.int32)
        cut = cut if update.cut is None else jnp.minimum(cut, update.cut)
        status = jnp.where(any_end, int(Status.EOS), jnp.asarray(update.status, jnp.int32))
        return update._replace(cut=cut, halt=any_end | jnp.asarray(update.halt, bool), status=status), state


def text_after(update: Update, row: Row) -> Int32[Array, "W"]:
    """The window's tokens with the update written."""
    text = row.tokens if update.fill is None else jnp.where(row.prefilled, row.tokens, update.fill)
    return text if update.commit is None else jnp.where(update.commit, update.token, text)


def stop_at_eos() -> StopAtEos:
    """Ends a row when an end-of-text token is written and no column before it in its block is open.

    Blocks are written left to right, so nothing before it is open at all. The rest of the canvas reads end-of-text.
    """
    return StopAtEos()

"""Drafts of a masked diffusion model: masks behind the text, all filled in one pass (generalised aggressive decoding)."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.model import Model, SupportsApplyAt, gather, with_config
from jaxdlm.core.readout import mask_invalid
from jaxdlm.registry import drafter
from jaxdlm.speculative.columns import draft_columns
from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import Array, Float32, Key, PyTree


@drafter(lambda target, draft, sampling: _example(draft, sampling))
@struct.dataclass
class MaskedDraft:
    """`depth` masks behind the committed text, read whole and filled at once (arXiv 2205.10350, 2203.16487).

    The model sees all of the text from both sides, so nothing of a round serves the next one, and there is no cache. mask: the
    id that it fills.
    """

    params: PyTree
    warp: Warp
    model: Model = struct.field(pytree_node=False)
    mask: int = struct.field(pytree_node=False)
    depth: int = struct.field(pytree_node=False, default=25)

    @property
    def tree(self) -> Tree:
        return chains(1, self.depth)

    @property
    def forwards(self) -> int:
        return 1

    def init(self, rows: Rows, prompt: int) -> PyTree:
        return ()

    def observe(self, state: PyTree, rows: Rows, proposal: Proposal, verdict: Verdict) -> PyTree:
        return state

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        token, logq = draft_columns(self.warp, self.filled(rows), rows, key)
        return Proposal(token, jnp.ones(token.shape, bool), logq, self.tree), state

    def filled(self, rows: Rows) -> Float32[Array, "B W V"]:
        """Logits of the masked columns, from position n on."""
        columns = rows.tokens.shape[1]
        column = jnp.arange(columns + self.depth, dtype=jnp.int32)[None, :]
        length = rows.length[:, None]
        text = jnp.pad(rows.tokens, [(0, 0), (0, self.depth)])
        tokens = jnp.where(column < length, text, self.mask)
        position = jnp.broadcast_to(column, tokens.shape)
        ahead = 1 if self.model.config.prediction == "next" else 0  # such a model says a column in the row before it
        at = length - ahead + jnp.arange(self.depth, dtype=jnp.int32)[None, :]
        valid = position < length + self.depth
        if isinstance(self.model, SupportsApplyAt):
            hidden = self.model.apply_at(self.params, tokens, position, valid, at)
        else:
            hidden = gather(self.model.apply(self.params, tokens, position, valid).hidden, at)
        return mask_invalid(self.model.head(self.params, hidden), self.model)


def _example(draft: Any, sampling: Warp) -> MaskedDraft:
    """The draft's weights as those of a model that sees both sides; they know nothing of masks."""
    mode: dict[str, Any] = {"attention": "full", "prediction": "same", "noise": "mask"}
    tokens = dataclasses.replace(draft.config.tokens, mask=draft.config.vocab_size - 1)
    config = dataclasses.replace(draft.config, **mode, tokens=tokens)
    return MaskedDraft(draft.params, sampling, with_config(draft.model, config), config.vocab_size - 1, depth=3)

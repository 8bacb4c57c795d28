"""One checkpoint that drafts a block by diffusion and verifies it from left to right (Nemotron-Labs-Diffusion, linear)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.model import Model
from jaxdlm.core.readout import mask_invalid
from jaxdlm.errors import InputError
from jaxdlm.registry import drafter
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.causal import Causal, TwoModes
from jaxdlm.speculative.columns import draft_columns
from jaxdlm.speculative.drafters._borrowing import Borrowing
from jaxdlm.speculative.state import Lent, Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import Array, Float32, Key, PyTree


@drafter(lambda target, draft, sampling: SelfDraft(sampling, width=4))
@struct.dataclass
class SelfDraft(Borrowing):
    """The last token and `width` - 1 masks as one canvas over the target's own keys: each mask's law drafts its column.

    Nothing of the canvas outlives the round, so there is no second cache. The rows of one pass are drawn independently, each
    from its own law, which is what rejection sampling asks for.
    """

    model: ClassVar[None] = None

    warp: Warp
    width: int = struct.field(pytree_node=False, default=32)
    lent: Lent | None = None

    @property
    def tree(self) -> Tree:
        return chains(1, self.width - 1)

    @property
    def forwards(self) -> int:
        return 1

    def check(self, lm: Any) -> None:
        check_modes(lm, self.width)

    def target(self, model: Model, params: PyTree) -> tuple[Model, PyTree]:
        return (Causal(model) if isinstance(model, TwoModes) and model.config.masked_canvas else model), params

    def init(self, rows: Rows, prompt: int) -> PyTree:
        return ()

    def observe(self, state: PyTree, rows: Rows, proposal: Proposal, verdict: Verdict) -> PyTree:
        return state

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        token, logq = draft_columns(self.warp, self.canvas(rows), rows, key)
        return Proposal(token, jnp.ones(token.shape, bool), logq, self.tree), state

    def canvas(self, rows: Rows) -> Float32[Array, "B W V"]:
        """Logits of the masked columns: of positions n, n + 1, ..., each in its own row."""
        (model, params, kv), root = self.host, rows.length[:, None] - 1
        assert isinstance(model, TwoModes)
        position = root + jnp.arange(self.width, dtype=jnp.int32)[None, :]
        masks = jnp.full((root.shape[0], self.width - 1), model.config.tokens.mask, jnp.int32)
        tokens = jnp.concatenate([store.take(rows.tokens, root), masks], axis=1)
        past = store.seen(kv, rows.length - 1)
        out = model.canvas(params, tokens, position, jnp.ones(tokens.shape, bool), past)
        return mask_invalid(model.head(params, out.hidden[:, 1:]), model)


def check_modes(lm: Any, width: int) -> None:
    """Raises InputError where a model has one mode alone, or was trained on shorter blocks."""
    config = lm.config
    if not config.masked_canvas or not isinstance(lm.model, TwoModes):
        raise InputError(
            f"{lm.name} does not draft for itself: self_speculation needs a checkpoint that writes masks behind a causal "
            f"prefix (nemotron_ld); for {lm.name} use policy='lookup'"
        )
    if width > config.block_size:
        raise InputError(f"width={width}: {lm.name} was trained on blocks of {config.block_size}, use at most that")

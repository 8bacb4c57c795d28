"""Write masks and correct what is written, both from the same forward (LLaDA2.1, arXiv 2602.08676)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need, plus, times
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Int32, Key


@struct.dataclass
class Edit(Stage):
    """See `edit`. State: forwards since the block's last mask was written."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit", "fill", "hold"), expects=LOG_PROB)

    tau_mask: Any
    tau_edit: Any
    max_post_steps: Any
    num_to_transfer: Any

    def init(self, window: int, vocab: int) -> Int32[Array, ""]:
        return jnp.int32(0)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="edit")
        p, token = jnp.exp(update.score), jnp.asarray(update.token)
        sure = row.open & (p > self.tau_mask)
        least = jnp.asarray(self.num_to_transfer, jnp.int32)
        commit = jnp.where(jnp.sum(sure) >= least, sure, best_columns(update.score, row.open, least))
        written = row.active & ~row.pending & ~row.prefilled
        change = written & (p > self.tau_edit) & (token != row.tokens)
        whole = ~row.open.any()
        post = jnp.where(row.tick == 0, 0, state) + whole.astype(jnp.int32)
        # one more forward, unless this one found nothing to do, or the budget after the last mask is spent
        complete = ~(row.open & ~commit).any()
        unchanged = whole & ~change.any()
        spent = complete & (post + 1 > jnp.asarray(self.max_post_steps, jnp.int32))
        hold = row.active.any() & ~unchanged & ~spent
        return update._replace(commit=commit, fill=jnp.where(change, token, row.tokens), hold=hold), post

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        per_forward = jnp.asarray(self.num_to_transfer, jnp.int32)
        writing = -(-geometry.block // per_forward)
        return times(geometry.blocks, plus(self.max_post_steps, writing + 1))


def edit(tau_mask: Any = 0.7, tau_edit: Any = 0.5, max_post_steps: Any = 16, num_to_transfer: Any = 1) -> Edit:
    """Writes {i open : p_i > tau_mask}, at least the n surest, and rewrites {i written : p_i > tau_edit, v_i != x_i}.

    v_i is the proposal, p_i its probability; x_i is the column's token. A block stays open until a forward that began
    without masks changes nothing, at most max_post_steps forwards after its last mask: K / n + max_post_steps + 1 in
    all, even where the model wavers. Prefilled columns, and finished blocks, are never rewritten.
    Args:
        tau_mask, tau_edit: 0.7 and 0.5, the released Quality preset of LLaDA2.1; 0.5 and 0 are Speed; tau_edit = 1:
            no edits. max_post_steps: 16. num_to_transfer: n = 1. Both as released.
    tau_edit = 0 adopts every new arg max (the released sampler); some schedulers read it as "no edits". Not here:
    multi-block editing (arXiv 2607.22663), whose code is not published. Raises InputError for tau_mask or tau_edit outside
    [0, 1], max_post_steps < 0, or num_to_transfer < 1.
    """
    return Edit(
        argument.probability(tau_mask, "tau_mask"), argument.probability(tau_edit, "tau_edit"),
        argument.number(max_post_steps, "max_post_steps", low=0, whole=True),
        argument.number(num_to_transfer, "num_to_transfer", low=1, whole=True),
    )  # fmt: skip

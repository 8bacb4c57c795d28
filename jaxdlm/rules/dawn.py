"""Write together what does not attend to each other (DAWN, arXiv 2602.06953)."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import LogitsAccess, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.errors import InputError
from jaxdlm.rules.rank import best_columns, ranks
from jaxdlm.typing import Array, Bool, Float32, Key


def independent(score: Float32[Array, "W"], eligible: Bool[Array, "W"], tied: Bool[Array, "W W"]) -> Bool[Array, "W"]:
    """Eligible columns, surest first, each of which is tied to none taken before it; ties go to the lowest column."""
    order = jnp.argsort(ranks(score, eligible))
    either = tied | tied.T

    def take(chosen: Array, column: Array) -> tuple[Array, None]:
        free = eligible[column] & ~jnp.any(either[column] & chosen & (jnp.arange(chosen.shape[0]) != column))
        return chosen.at[column].set(free), None

    return jax.lax.scan(take, jnp.zeros_like(eligible), order)[0]


@struct.dataclass
class SelectIndependent(Stage):
    """See `select_independent`."""

    tau: Any
    tau_induce: Any
    tau_low: Any
    tau_edge: Any
    tau_sink: Any
    layers: int = struct.field(pytree_node=False, default=4)
    strict: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        return Traits(
            reads=("token", "score"), writes=("commit",), expects=LOG_PROB, access=LogitsAccess.NOTHING,
            attention=self.layers,
        )  # fmt: skip

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_independent")
        if update.attention is None:
            raise InputError("select_independent needs attention: decode with jaxdlm.decode, which reads it")
        p, open_, seen = jnp.exp(update.score), row.open, update.attention
        place = jnp.arange(seen.mean.shape[0], dtype=jnp.int32)
        edge = (seen.weight >= self.tau_edge) & (seen.mean <= self.tau_sink)[None]
        edge = edge & (place[None] != row.position[:, None])  # edge[i, j]: column i depends on position j
        last = jnp.max(jnp.where(row.active, row.position, -1))
        anchor = row.text.known & (place <= last) & (jnp.exp(seen.top) >= self.tau)
        sure = open_ & (p >= self.tau)
        induced = open_ & jnp.any(edge & anchor[None], axis=1) & (p >= self.tau_induce)
        among = edge[:, jnp.clip(row.position, 0, place.shape[0] - 1)]
        parent = (sure | induced) if self.strict else (sure & induced)
        child = jnp.any(among & parent[None], axis=1)
        left = open_ & (p >= self.tau_low) & ~sure & ~induced & ~child
        commit = sure | induced | independent(update.score, left, among)
        commit = commit | (~jnp.any(commit) & best_columns(update.score, open_, 1))
        return update._replace(commit=commit), state


def select_independent(
    tau: Any = 0.9, tau_induce: Any = 0.7, tau_low: Any = 0.7, tau_edge: Any = 0.07, tau_sink: Any = 0.01,
    layers: int = 4, strict: bool = False,
) -> SelectIndependent:  # fmt: skip
    """Commits T1 | T2 | T3, or the surest open column; i depends on j if A_ij >= tau_edge, j != i and mean_k A_kj <= tau_sink.

    A: attention of the last `layers` layers, averaged over heads and layers. T1: open, p_i >= tau. T2: open,
    p_i >= tau_induce, and i depends on a written column (of the prompt too) up to the block's end whose own logits give
    some token at least tau. T3: of the other open columns with p_i >= tau_low, which depend on no column of both T1 and T2,
    the surest first, each unless it and one taken before depend on each other, either way.
    Args:
        tau: 0.9 (released code). tau_induce: 0.7 (0.9 there for Dream). tau_low: 0.7 to 0.8 by task. tau_edge: 0.07.
        tau_sink: 0.01, a share of all attention: below 100 columns an even spread is more, and nothing depends on
            anything. layers: 4. strict: T3 may depend on no column of T1 or T2, which the released code lets it.
    What T1 and T2 write together may depend on each other. Every forward reads all columns, and the head of all of them:
    cache "none". Departure from released code: where candidates run out it goes on with column 0, and may write over the
    prompt; nothing is written there here. p is float32. At a temperature p_i is that of the token drawn, and anchors are
    judged by their likeliest one. Raises InputError for a probability outside [0, 1], tau_edge or tau_sink below 0, layers
    < 1.
    """
    return SelectIndependent(
        argument.probability(tau, "tau"), argument.probability(tau_induce, "tau_induce"),
        argument.probability(tau_low, "tau_low"), argument.number(tau_edge, "tau_edge", low=0),
        argument.number(tau_sink, "tau_sink", low=0), argument.whole(1)(layers, "layers"),
        argument.flag(strict, "strict"),
    )  # fmt: skip

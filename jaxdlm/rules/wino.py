"""Write many columns, and take back those that the rest of the row does not bear out (WINO, arXiv 2507.18578)."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import LogitsAccess, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.readout import dense_logits, gathered
from jaxdlm.core.rule import Stage, need
from jaxdlm.errors import InputError
from jaxdlm.rules.rank import best_columns
from jaxdlm.rules.sample import SUMMARISED, log_prob
from jaxdlm.typing import Array, Int32, Key

FEWEST, MOST, SHARE = 5, 20, 0.7  # columns of a forward at most: a share of the masks, between these numbers
AT_FIRST = 30  # stands for the columns of the forward before in a block's first one


class Verified(NamedTuple):
    """Of the block."""

    written: Int32[Array, ""]  # columns that the forward before wrote


@struct.dataclass
class SelectAndVerify(Stage):
    """See `select_and_verify`. State: `Verified`."""

    declares: ClassVar[Traits] = Traits(
        reads=("token", "score"), writes=("commit", "reopen"), expects=LOG_PROB, blind=True, access=LogitsAccess.NOTHING
    )

    tau: Any
    tau_back: Any

    def init(self, window: int, vocab: int) -> Verified:
        return Verified(jnp.int32(AT_FIRST))

    def apply(self, update: Update, state: Verified, row: Row, key: Key[Array, ""]) -> tuple[Update, Verified]:
        need(update, "token", "score", rule="select_and_verify")
        if update.blind is None:
            raise InputError("select_and_verify needs shadow columns: decode with jaxdlm.decode, which reads them")
        before = jnp.where(row.tick == 0, AT_FIRST, state.written)
        masks = jnp.sum(row.open).astype(jnp.float32)
        most = jnp.clip(jnp.floor(masks * SHARE).astype(jnp.int32), FEWEST, MOST)
        sure = row.open & (jnp.exp(update.score) > self.tau)
        commit = best_columns(update.score, sure, most) | (~jnp.any(sure) & best_columns(update.score, row.open, 1))
        count = jnp.sum(commit).astype(jnp.int32)
        summary, own = gathered(dense_logits(update.blind), row.tokens[:, None])
        seen = SUMMARISED[log_prob](summary._replace(own=own[:, 0]))
        doubted = row.active & ~row.pending & ~row.prefilled & (jnp.exp(seen) < self.tau_back)
        again = best_columns(-seen, doubted, jnp.where(count > 1, before - 1, 0))
        return update._replace(commit=commit, reopen=again), Verified(count)


def select_and_verify(tau: Any = 0.6, tau_back: Any = 0.9) -> SelectAndVerify:
    """Commits {i open : p_i > tau}, at most 0.7 of the masks (5 to 20), or the surest; masks {i written : v_i < tau_back}.

    v_i = q_i(x_i), q_i from a shadow of the block: masks at its positions, each of which sees the row but not its own column.
    Fewer are masked again than the forward before has written, and none where only one is written now, so that a block of K
    columns takes at most K forwards.
    Args:
        tau: 0.6 (0.5 to 0.7 by task in arXiv 2507.18578). tau_back: 0.9 (paper); 0: nothing is masked again.
    What is written now is first judged by the next forward. A forward reads K columns more, and keeps no keys: cache
    "none". Models that predict the next token are refused (the shadow of a column would have to stand elsewhere). No
    departure from released code but that given columns of a block stay. Raises InputError for tau or tau_back outside [0, 1].
    """
    return SelectAndVerify(argument.probability(tau, "tau"), argument.probability(tau_back, "tau_back"))

"""Tokens that keep winning gather credit, which raises their logits (CreditDecoding, arXiv 2510.06133)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.readout import BiasedLogits, LogitsSource, add_bonus, incoming, summarise
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Float32, Int32, Key, PyTree

MOST = 10**6  # of alpha and gamma
SLACK = 1e-5  # probabilities this close to the row's best count as tied with it in dInfer


@struct.dataclass
class AddCredit(Stage):
    """See `add_credit`. State: the credit of every token in every column of the block."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("logits",))

    alpha: Any
    beta: Any
    gamma: Any
    adaptive: bool = struct.field(pytree_node=False, default=False)
    sparse: bool = struct.field(pytree_node=False, default=False)

    def init(self, window: int, vocab: int) -> PyTree:
        if self.sparse:
            return empty(window)
        return jnp.zeros((window, vocab), jnp.float32)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        alpha, beta, gamma = self.alpha, self.beta, self.gamma
        if self.adaptive:
            asked = jnp.maximum(jnp.sum(row.active & ~row.prefilled), 1).astype(jnp.float32)
            alpha = beta = 1.0 - jnp.sum(row.open).astype(jnp.float32) / asked
            gamma = 1.0
        read = incoming(update)
        summary = summarise(read)
        gain = jnp.where(
            row.open, (1 / (1 + summary.rest)) ** gamma, 0.0
        )  # p of the best is 1 / (1 + the others' ratios)
        if self.sparse:
            return self._slots(update, read, state, row, (summary.token, gain, alpha, beta))
        old = jnp.where(row.tick == 0, 0.0, state)  # a block begins without credit, so nothing leaks into it
        earned = (beta * old).at[jnp.arange(gain.shape[0]), summary.token].add(gain)
        return update._replace(logits=update.logits + alpha * jnp.log1p(earned)), earned

    def _slots(
        self, update: Update, read: LogitsSource, state: "SparseCredit", row: Row, won: tuple[Array, Array, Any, Any]
    ) -> tuple[Update, "SparseCredit"]:
        """As `apply`, from slots: the bonus is added to the tiles that later rules read, so that no second array is
        made."""
        top, gain, alpha, beta = won
        new = jax.tree.map(lambda a, b: jnp.where(row.tick == 0, a, b), empty(top.shape[0]), state)
        new = earn(new, beta, top, gain, row.open)
        token = jnp.where(new.token < 0, update.logits.shape[1], new.token)  # past the vocabulary: nowhere
        bonus = alpha * jnp.log1p(new.value)
        logits = add_bonus(update.logits, token, bonus)
        return update._replace(logits=logits, readout=BiasedLogits(read, token, bonus, logits)), new


class SparseCredit(NamedTuple):
    """Credit of the tokens that were ever the best of a column in its block: at most one new one per forward."""

    token: Int32[Array, "W W"]  # -1: free
    value: Float32[Array, "W W"]


def empty(window: int) -> SparseCredit:
    return SparseCredit(jnp.full((window, window), -1, jnp.int32), jnp.zeros((window, window), jnp.float32))


def earn(
    slots: SparseCredit, beta: Any, top: Int32[Array, "W"], gain: Float32[Array, "W"], can: Bool[Array, "W"]
) -> SparseCredit:
    """C <- beta C, then C_i,top += gain where `can`; a token without a slot takes a free one, else the poorest."""
    value, mine, free = beta * slots.value, slots.token == top[:, None], slots.token < 0
    other = jnp.where(free.any(1), jnp.argmax(free, 1), jnp.argmin(value, 1))
    slot = jnp.where(mine.any(1), jnp.argmax(mine, 1), other)
    hit = (jnp.arange(value.shape[1])[None, :] == slot[:, None]) & can[:, None]
    value = jnp.where(hit, jnp.where(mine, value, 0.0) + gain[:, None], value)
    return SparseCredit(jnp.where(hit, top[:, None], slots.token), value)


def add_credit(
    alpha: Any = 0.65, beta: Any = 0.7, gamma: Any = 0.2, *, adaptive: bool = False, sparse: bool = False
) -> AddCredit:
    """l^_iv = l_iv + alpha log(1 + C_iv), after C <- beta C and C_iv* += p_iv*^gamma for open i, v* = argmax l_i.

    A transform of logits: chain it before `sample` and any selection by confidence. C is zero when a block begins;
    columns that are written only decay.
    Args:
        alpha: strength, 0.65. beta: decay, 0.7. gamma: exponent of the raw probability, 0.2. Defaults of arXiv
            2510.06133; its implementation in dInfer has 0.7, 0.8, 0.2.
        adaptive: gamma = 1 and alpha = beta = 1 - (share of the block's generated columns still open); the arguments
            are then unused. The paper leaves open which share; this is the block's.
        sparse: C as W slots per column, 8 W^2 bytes instead of 4 W V, and the same numbers where every forward writes
            a column: a column then has at most W best tokens in its block. Beyond that the poorest slot is lost.
    Not implemented: the paper's variant that credits every token. Raises InputError for alpha or gamma outside
    [0, 1e6], where the raised logits are finite, or beta outside [0, 1].
    """
    alpha, gamma = (argument.number(x, name, low=0, high=MOST) for name, x in (("alpha", alpha), ("gamma", gamma)))
    adaptive, sparse = argument.flag(adaptive, "adaptive"), argument.flag(sparse, "sparse")
    return AddCredit(alpha, argument.probability(beta, "beta"), gamma, adaptive, sparse)


@struct.dataclass
class SelectAboveOrTied(Stage):
    """See `select_above_or_tied`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB)

    tau: Any

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_above_or_tied")
        p = jnp.exp(update.score)
        peak = jnp.max(jnp.where(row.open, p, 0.0))
        bar = jnp.minimum(peak - SLACK, jnp.asarray(self.tau, jnp.float32))
        sure = (p >= bar) | best_columns(update.score, row.open, 1)
        return update._replace(commit=row.open & sure), state


def select_above_or_tied(tau: Any = 0.9) -> SelectAboveOrTied:
    """Commits {i open : p_i >= min(max p - 1e-5, tau)}: a threshold that takes near-ties with the best along.

    Args: tau: probability, 0.9 as in dInfer, the implementation next to arXiv 2510.06133. Raises InputError for tau
    outside [0, 1].
    """
    return SelectAboveOrTied(argument.probability(tau, "tau"))

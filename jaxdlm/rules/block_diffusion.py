"""Selections of block-diffusion models (LLaDA2, arXiv 2512.15745; SDAR, arXiv 2510.06303), and where they stop."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import LogitsAccess, Row, Status, Update
from jaxdlm.core.compose import LOG_PROB, NEG_ENTROPY, Traits
from jaxdlm.core.readout import incoming, summarise
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.eos import text_after
from jaxdlm.rules.rank import best_columns, ranks
from jaxdlm.rules.sample import SUMMARISED, neg_entropy
from jaxdlm.typing import Array, Int32, Key

ORDERS, RANKED = ("score", "position"), ("entropy", "score")


@struct.dataclass
class SelectScheduled(Stage):
    """See `select_scheduled`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",))

    steps: Any = None
    tau: Any = None
    minimal_topk: Any = 1
    order: str = struct.field(pytree_node=False, default="score")

    @property
    def traits(self) -> Traits:
        return self.declares._replace(expects=None if self.tau is None else LOG_PROB)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_scheduled")
        score = update.score if self.order == "score" else -row.column.astype(jnp.float32)
        chosen = best_columns(score, row.open, self.count(row))
        if self.tau is None:
            return update._replace(commit=chosen), state
        sure = row.open & (jnp.exp(update.score) > self.tau)
        return update._replace(commit=jnp.where(jnp.sum(sure) >= self.count(row), sure, chosen)), state

    def count(self, row: Row) -> Int32[Array, ""]:
        """k_i, at least 1 so that every forward commits."""
        columns = jnp.sum(row.active).astype(jnp.int32)
        most = columns * row.blocks // jnp.asarray(self.minimal_topk, jnp.int32)
        steps = jnp.minimum(columns if self.steps is None else jnp.asarray(self.steps, jnp.int32), most)
        steps = jnp.maximum(steps, 1)
        k = columns // steps + (row.tick < columns % steps).astype(jnp.int32)
        return jnp.maximum(k, 1)


def select_scheduled(
    steps: Any = None, tau: Any = 0.95, minimal_topk: Any = 1, *, order: str = "score"
) -> SelectScheduled:
    """Commits {i open : p_i > tau} if these are at least k_i, else the k_i best; k_i = K // S + [i < K mod S].

    K columns of the row's block (the prompt's tail in it included), i forwards since it began,
    S = min(steps, canvas // minimal_topk).
    Args:
        steps: forwards per block at most; default K, the released value (LLaDA2, arXiv 2512.15745: 32 = K).
        tau: 0.95 (LLaDA2), 0.85 (SDAR, arXiv 2510.06303); None: always the k_i best.
        minimal_topk: 1 (LLaDA2). order: "score" or "position" (leftmost first).
    Departure from official code: the best are taken among open columns only, where the released top-k may reach
    columns of the prompt. Raises InputError for steps or minimal_topk < 1, tau outside [0, 1], another order.
    """
    least = argument.number(minimal_topk, "minimal_topk", low=1, high=argument.COLUMNS, whole=True)
    tau = argument.probability(tau, "tau", none=True)
    return SelectScheduled(argument.steps(steps), tau, least, argument.check_choice(order, "order", ORDERS))


@struct.dataclass
class SelectWithinEntropy(Stage):
    """See `select_within_entropy`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",))

    gamma: Any
    ranked: str = struct.field(pytree_node=False, default="entropy")

    @property
    def traits(self) -> Traits:
        if self.ranked == "entropy":
            return self.declares._replace(expects=NEG_ENTROPY)
        return self.declares._replace(reads=("logits", "token", "score"), access=LogitsAccess.SUMMARY)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_within_entropy")
        score = jnp.asarray(update.score)
        place = jnp.where(row.open, ranks(score, row.open), row.open.shape[0])
        doubt = -score if self.ranked == "entropy" else -SUMMARISED[neg_entropy](summarise(incoming(update)))
        entropy = jnp.where(row.open, doubt, 0.0)
        before = place[None, :] < place[:, None]
        total = jnp.sum(jnp.where(before, entropy[None, :], 0.0), axis=1)
        largest = jnp.max(jnp.where(before, entropy[None, :], 0.0), axis=1)
        joint = total - jnp.maximum(largest - entropy, 0.0)  # with its own, without the largest of both
        return update._replace(commit=row.open & ((joint <= self.gamma) | (place == 0))), state


def select_within_entropy(gamma: Any = 0.1, *, ranked: str = "entropy") -> SelectWithinEntropy:
    """Commits the first k open columns, k the largest with sum_{j <= k} H_(j) - max_{j <= k} H_(j) <= gamma, at least one.

    The left side bounds what is lost by writing k columns as if they were independent; it never falls as k grows. Tokens
    are those of the distributions whose entropies H count.
    Args:
        gamma: nats; 0.1, the value released with DiffusionGemma and in ports of arXiv 2505.24857, which varies it by
            task. ranked: what puts columns into order. "entropy": the score, which then is -H: chain it after
            `sample(measure=neg_entropy)`. "score": whatever the score is; H is read off the logits.
    Departure from SDAR's released code, which sums over the block the proposals' own p log p: H here is the entropy
    over the vocabulary. Raises InputError for gamma < 0 or another word.
    """
    return SelectWithinEntropy(argument.nats(gamma, "gamma"), argument.check_choice(ranked, "ranked", RANKED))


@struct.dataclass
class StopAfterBlock(Stage):
    """See `stop_after_block`."""

    declares: ClassVar[Traits] = Traits(
        reads=("token", "commit", "cut", "halt", "status"), writes=("cut", "halt", "status")
    )

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "commit", rule="stop_after_block")
        if not row.ids.eos:
            return update, state
        commit = jnp.asarray(update.commit, bool)
        finished = ~jnp.any(row.active & row.pending & ~commit) & ~jnp.asarray(update.hold, bool)
        ends = row.active & ~row.prefilled & jnp.isin(text_after(update, row), jnp.asarray(row.ids.eos, jnp.int32))
        over = finished & jnp.any(ends)
        cut = jnp.where(over, jnp.argmax(ends) + 1, row.tokens.shape[0] + 1).astype(jnp.int32)
        cut = cut if update.cut is None else jnp.minimum(cut, update.cut)
        status = jnp.where(over, int(Status.EOS), jnp.asarray(update.status, jnp.int32))
        return update._replace(cut=cut, halt=over | jnp.asarray(update.halt, bool), status=status), state


def stop_after_block() -> StopAfterBlock:
    """Ends a row once the block that holds an end-of-text token is written; the text is cut behind that token.

    As LLaDA2's generate does (arXiv 2512.15745). Models that name no end-of-text token never stop early.
    """
    return StopAfterBlock()

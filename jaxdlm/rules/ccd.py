"""Put off columns whose prediction is not coherent over the last forwards (CCD, arXiv 2512.02044)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Float32, Int32, Key

DEEPEST, WIDEST = 64, 1024  # forwards that are remembered, and columns of each: distributions over the vocabulary


def budget(row: Row, steps: Any) -> Int32[Array, ""]:
    """Columns per forward of the fixed schedule: the block's generated columns over its share of `steps`, at least 1."""
    if steps is None:
        return jnp.int32(1)
    share = jnp.maximum(jnp.asarray(steps, jnp.int32) // row.blocks, 1)
    return jnp.maximum(jnp.sum(row.active).astype(jnp.int32) // share, 1)


class History(NamedTuple):
    """The best columns of the last d forwards that were still open afterwards, newest first."""

    column: Int32[Array, "d V"]  # window column, -1: empty
    p: Float32[Array, "d V T"]  # their distributions then; T: vocabulary


@struct.dataclass
class SelectCoherent(Stage):
    """See `select_coherent`. State: `History`."""

    declares: ClassVar[Traits] = Traits(reads=("logits", "token", "score"), writes=("token", "commit"))

    steps: Any = None
    eps: Any = None
    dynamic: bool = struct.field(pytree_node=False, default=False)
    depth: int = struct.field(pytree_node=False, default=3)
    top_v: int = struct.field(pytree_node=False, default=4)
    history_rule: str = struct.field(pytree_node=False, default="any")
    token_source: str = struct.field(pytree_node=False, default="pbar")

    def init(self, window: int, vocab: int) -> History:
        columns = min(self.top_v, window)
        column = jnp.full((self.depth, columns), -1, jnp.int32)
        return History(column, jnp.zeros((self.depth, columns, vocab), jnp.float32))

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="ccd")
        past = jnp.where(row.tick == 0, -1, state.column)  # a new block is a new window: old columns mean nothing
        at, valid = leaders(update.score, row.open, past.shape[1])
        now = jax.nn.softmax(update.logits[at].astype(jnp.float32), axis=1)
        hit = (at[:, None, None] == past[None]) & valid[:, None, None]  # [V, d, V]
        rows = hit.any(2)
        weight = hit.astype(jnp.float32)
        count = 1.0 + jnp.sum(rows, axis=1).astype(jnp.float32)
        mean = (now + jnp.einsum("jrv,rvt->jt", weight, state.p)) / count[:, None]
        entropy = -jnp.sum(jax.scipy.special.xlogy(mean, mean), axis=1)
        coherent = valid & rows.any(1)
        if self.history_rule == "all":
            coherent = coherent & rows.all(1)
        if self.eps is not None:
            coherent = coherent & (entropy <= self.eps)
        commit = self.choose(update, row, at, coherent, entropy)
        token = jnp.asarray(update.token)
        if self.token_source == "pbar":
            smoothed = jnp.where(coherent, jax.lax.argmax(mean, 1, jnp.int32), token[at])
            token = token.at[at].set(smoothed)
        ranked, still = leaders(update.score, row.open & ~commit, past.shape[1])
        new = jax.nn.softmax(update.logits[ranked].astype(jnp.float32), axis=1)
        column = jnp.concatenate([jnp.where(still, ranked, -1)[None], past])[: self.depth]
        return update._replace(token=token, commit=commit), History(
            column, jnp.concatenate([new[None], state.p])[: self.depth]
        )

    def choose(
        self, update: Update, row: Row, at: Int32[Array, "V"], coherent: Bool[Array, "V"], entropy: Float32[Array, "V"]
    ) -> Bool[Array, "W"]:
        """The coherent columns, or `budget` of them; plain confidence fills what is missing."""
        inside = jnp.zeros_like(row.open).at[at].set(coherent)
        size = budget(row, self.steps)
        if self.dynamic:
            return jnp.where(inside.any(), inside, best_columns(update.score, row.open, size))
        surest = best_columns(jnp.full(row.open.shape, -jnp.inf).at[at].set(-entropy), inside, size)
        return surest | best_columns(update.score, row.open & ~inside, size - jnp.sum(surest).astype(jnp.int32))


def leaders(score: Float32[Array, "W"], eligible: Bool[Array, "W"], k: int) -> tuple[Int32[Array, "k"], Array]:
    """The k best columns, best first, and which of them are eligible."""
    _, at = jax.lax.top_k(jnp.where(eligible, score, -jnp.inf), k)
    return at.astype(jnp.int32), eligible[at]


def select_coherent(
    steps: Any = None,
    *,
    dynamic: bool = False,
    depth: int = 3,
    top_v: int = 4,
    eps: Any = None,
    history_rule: str = "any",
    token_source: str = "pbar",
) -> SelectCoherent:
    """Ranks the top_v surest open columns that were among the top_v before by -H(p~), p~ the mean over those forwards.

    p~_j = (p_j + sum of the stored p_j) / (1 + their number). Columns that no stored forward knows wait, unless
    nothing else is left; then the surest column by the plain score is written.
    Args:
        steps: forwards in all, which set the budget b (default: b = 1 column per forward).
        dynamic: False: the b best (CCD). True: every coherent column, at most top_v (CCD-DS).
        depth: stored forwards d, 3 for Dream and 2 for LLaDA (arXiv 2512.02044). top_v: columns of each, 4.
        eps: write only where H(p~) <= eps nats; the paper gives no value.
        history_rule: known to "any" stored forward or to "all" d. token_source: argmax of "pbar" or the "current" token.
    State: d top_v V floats. The paper's text leaves the history rule, the token and the empty case open; the defaults
    are our reading. Its released code is another algorithm: `select_stable`. Raises InputError for steps or top_v < 1,
    depth outside 0..64, eps < 0, or an unknown word.
    """
    depth, top_v = argument.whole(0, DEEPEST)(depth, "depth"), argument.whole(1, WIDEST)(top_v, "top_v")
    argument.check_choice(history_rule, "history_rule", ("any", "all"))
    argument.check_choice(token_source, "token_source", ("pbar", "current"))
    eps, dynamic = argument.nats(eps, "eps", none=True), argument.flag(dynamic, "dynamic")
    return SelectCoherent(argument.steps(steps), eps, dynamic, depth, top_v, history_rule, token_source)


class Saved(NamedTuple):
    """The best columns of the previous forward, and its proposals."""

    column: Bool[Array, "W"]  # its best columns that stayed open
    token: Int32[Array, "W"]  # its proposals
    size: Int32[Array, ""]  # how many columns it looked at


@struct.dataclass
class SelectStable(Stage):
    """See `select_stable`. State: `Saved`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",))

    steps: Any = None
    expand_ratio: Any = 4.0
    dynamic: bool = struct.field(pytree_node=False, default=False)

    def init(self, window: int, vocab: int) -> Saved:
        return Saved(jnp.zeros(window, bool), jnp.full(window, -1, jnp.int32), jnp.int32(1))

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="ccd")
        at, size = row.tick, budget(row, self.steps)
        columns = jnp.sum(row.active).astype(jnp.int32)
        largest = size + jnp.floor(size.astype(jnp.float32) * self.expand_ratio).astype(jnp.int32)
        wide = jnp.minimum(jnp.where(at < 5, 1, state.size) + 1, largest)
        late = 10 * jnp.sum(row.open) <= columns
        wide = jnp.where(at < 4, 1, jnp.where(late, jnp.minimum(2, largest), wide)).astype(jnp.int32)
        last = columns if self.steps is None else jnp.maximum(jnp.asarray(self.steps, jnp.int32) // row.blocks, 1)
        top = best_columns(update.score, row.open, size)
        known = (at >= 5) & (at < last - 1) & jnp.any(top & state.column)
        same = best_columns(update.score, row.open, wide) & state.column & (update.token == state.token)
        chosen = same if self.dynamic else best_columns(update.score, same, size)
        commit = jnp.where(known & (jnp.sum(same) >= size), chosen, top)
        saved = best_columns(update.score, row.open & ~commit, wide) & (at >= 3)
        return update._replace(commit=commit), Saved(saved, update.token, wide)


def select_stable(steps: Any = None, *, dynamic: bool = False, expand_ratio: Any = 4.0) -> SelectStable:
    """Commits, of the V surest columns that the forward before saved, those whose proposal stayed the same.

    V: 1 for the first four forwards, then one more each time up to b + floor(b expand_ratio), at most 2 once a tenth
    of the columns is left. The first five forwards, the last of `steps`, and forwards whose surest columns are not
    among those saved, commit the b surest; so do those with fewer than b unchanged ones.
    Args:
        steps: forwards in all, which set b = columns / steps, rounded down (default: b = 1).
        dynamic: True: all the unchanged columns (the code's seek mode, CCD-DS). False: the b surest of them (CCD).
        expand_ratio: 4.0.
    This is the released code next to arXiv 2512.02044 and not the paper's algorithm, which is `select_coherent`. Departures:
    a column is never written twice; blocks start afresh; at temperature > 0 the sampled proposals are compared.
    Raises InputError for steps < 1 or expand_ratio outside [0, 1024].
    """
    ratio = argument.number(expand_ratio, "expand_ratio", low=0, high=1024)
    return SelectStable(argument.steps(steps), ratio, argument.flag(dynamic, "dynamic"))

"""Find out how far the model is sure, then write that far (SlowFast sampling, arXiv 2506.10848)."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need, plus, times
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Float32, Int32, Key

LONGEST = 64  # estimates, and forwards of a slow phase


class Phase(NamedTuple):
    """Columns are counted from the block's first."""

    begin: Int32[Array, ""]  # of the region; everything before is written
    end: Int32[Array, ""]
    slow: Bool[Array, ""]
    frozen: Bool[Array, ""]  # `end` is not estimated any more
    forwards: Int32[Array, ""]  # of the slow phase
    seen: Float32[Array, "N"]  # its last estimates, newest first; -1: none


@struct.dataclass
class SelectInRegion(Stage):
    """See `select_in_region`. State: `Phase`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit", "hold"), expects=LOG_PROB)

    tau: Any
    tau_min: Any
    sigma: Any
    explore: int = struct.field(pytree_node=False, default=6)
    history: int = struct.field(pytree_node=False, default=2)
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        return self.declares._replace(official=self.official)

    def init(self, window: int, vocab: int) -> Phase:
        zero, blank = jnp.int32(0), jnp.full(self.history, -1.0)
        return Phase(zero, zero, jnp.asarray(True), jnp.asarray(False), zero, blank)

    def apply(self, update: Update, state: Phase, row: Row, key: Key[Array, ""]) -> tuple[Update, Phase]:
        need(update, "token", "score", rule="select_in_region")
        place = jnp.arange(row.open.shape[0], dtype=jnp.int32) - jnp.argmax(row.active).astype(jnp.int32)
        state = self.turned(state, place, row)
        p, columns = jnp.exp(update.score), jnp.sum(row.active).astype(jnp.int32)
        state = self.estimated(state, place, row.open & (place >= state.begin), p, columns)
        inside = row.open & (place >= state.begin) & (state.slow | (place < state.end))
        sure = inside & (p >= self.tau)
        commit = sure | best_columns(update.score, inside, 1)
        idle = state.slow & (state.forwards < self.explore) & row.active.any()
        return update._replace(commit=commit, hold=idle if self.official else jnp.asarray(False)), state

    def turned(self, state: Phase, place: Int32[Array, "W"], row: Row) -> Phase:
        """The phase of this forward: fast after the slow one, slow again once the region is written."""
        blank = self.init(place.shape[0], 0)
        first = row.tick == 0
        over = state.forwards >= self.explore
        slow = state.slow & ~(over if self.official else over | state.frozen)
        full = ~jnp.any(row.open & (place >= state.begin) & (place < state.end))
        anew = first | (~slow & full)
        begin = jnp.where(first, 0, jnp.where(anew, state.end, state.begin))
        return Phase(
            begin, state.end, anew | slow, state.frozen & ~anew, jnp.where(anew, 0, state.forwards),
            jnp.where(anew, blank.seen, state.seen),
        )  # fmt: skip

    def estimated(self, state: Phase, place: Array, mine: Array, p: Array, columns: Int32[Array, ""]) -> Phase:
        """With one more estimate of the region's end, in the slow phase."""
        last = jnp.max(jnp.where(mine & (p >= self.tau_min), place - state.begin + 1, 1))
        length = jnp.where(state.begin < columns, last, 0)
        guess = jnp.clip(state.begin + length, 1, jnp.maximum(columns, 1)).astype(jnp.float32)
        looks = state.slow & ~state.frozen
        seen = jnp.where(looks, jnp.concatenate([guess[None], state.seen])[: self.history], state.seen)
        enough = jnp.all(seen >= 0)
        known = jnp.maximum(jnp.sum(seen >= 0), 1).astype(jnp.float32)
        mean = jnp.sum(jnp.where(seen >= 0, seen, 0.0)) / known
        steady = enough & (jnp.sqrt(jnp.mean((seen - mean) ** 2)) < self.sigma)
        end = jnp.where(steady, guess, jnp.floor(mean)).astype(jnp.int32)
        forwards = state.forwards + state.slow.astype(jnp.int32)
        end = jnp.where(looks, jnp.maximum(end, state.begin + 1), state.end)
        return state._replace(end=end, frozen=state.frozen | (looks & steady), forwards=forwards, seen=seen)

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        return plus(geometry.canvas, times(geometry.blocks, self.explore)) if self.official else geometry.canvas


def select_in_region(
    tau: Any = 0.9, tau_min: Any = 0.3, sigma: Any = 1.0, explore: int = 6, history: int = 2, *, official: bool = False
) -> SelectInRegion:
    """Commits {i in R open : p_i >= tau} and the surest of R. R: from s to the block's end (slow), then [s, e) (fast).

    Each slow forward guesses e = 1 + max {i >= s open : p_i >= tau_min}, s + 1 if there is none. Once the standard
    deviation of the last N guesses is below sigma, e is the last one, until then their mean. The fast phase lasts until
    [s, e) is written; then s = e.
    Args:
        tau, tau_min: 0.9 and 0.3. sigma: columns, 1.0. explore: forwards of a slow phase at most, 6, a shape. history: N
            = 2, a shape. All as released with arXiv 2506.10848.
        official: a slow phase has always `explore` forwards, even where nothing is open.
    tau_min = 0 is `select_above(tau)`. Departures from released code: without `official` a slow phase ends once e is
    known; in the fast phase columns from e on are still read as masks, where the release leaves them out of the input
    from the second forward on. Raises InputError for tau or tau_min outside [0, 1], sigma < 0, explore outside 1..64,
    history outside 1..64.
    """
    return SelectInRegion(
        argument.probability(tau, "tau"), argument.probability(tau_min, "tau_min"),
        argument.number(sigma, "sigma", low=0), argument.whole(1, LONGEST)(explore, "explore"),
        argument.whole(1, LONGEST)(history, "history"), argument.flag(official, "official"),
    )  # fmt: skip

"""A canvas that finds its own length (DAEDAL, arXiv 2508.00819)."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, LogitsAccess, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.readout import Summary, incoming, summarise
from jaxdlm.core.rule import Stage, need, plus, times
from jaxdlm.errors import InputError
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Float32, Int32, Key


class Sizing(NamedTuple):
    most: Int32[Array, ""]  # columns that the row may have
    growing: Bool[Array, ""]  # its length is still looked for; nothing is written


class Text(NamedTuple):
    token: Int32[Array, "W"]
    masked: Bool[Array, "W"]
    length: Int32[Array, ""]


@struct.dataclass
class FillAndExpand(Stage):
    """See `fill_and_expand`. State: `Sizing`."""

    declares: ClassVar[Traits] = Traits(
        reads=("token", "score"), writes=("token", "commit", "fill", "reopen", "cut", "stop", "hold"), expects=LOG_PROB,
        view="canvas", access=LogitsAccess.SUMMARY,
    )  # fmt: skip

    tau: Any
    low: Any
    initial: Any
    expand: Any
    look: Any
    enough: Any
    certain: Any

    def init(self, window: int, vocab: int) -> Sizing:
        return Sizing(jnp.int32(0), jnp.asarray(True))

    def apply(self, update: Update, state: Sizing, row: Row, key: Key[Array, ""]) -> tuple[Update, Sizing]:
        need(update, "token", "score", rule="fill_and_expand")
        if not row.ids.eos:
            raise InputError("the model names no end-of-text token, by which daedal finds the length: use threshold")
        first, length = row.step == 0, jnp.sum(row.exists).astype(jnp.int32)
        most = jnp.where(first, length, state.most)
        pinned = jnp.max(jnp.where(row.exists & row.prefilled, row.column + 1, 0))
        begin = jnp.minimum(jnp.maximum(jnp.asarray(self.initial, jnp.int32), pinned), most)
        trust = self.trust(summarise(incoming(update)), row)
        grown, growing = self.longer(trust, length, most)
        filled = self.filled(update, trust, row, pinned, length, most)
        looks = state.growing & ~first
        place = jnp.arange(row.open.shape[0], dtype=jnp.int32)
        fresh = looks & growing & (place >= length) & (place < grown)
        writes = ~first & ~state.growing
        text = jnp.where(writes, filled.token, row.tokens)
        masked = jnp.where(writes, filled.masked, (row.pending & row.exists) | fresh)
        return update._replace(
            token=text,
            fill=text,
            commit=writes & row.pending & row.exists & ~masked,
            reopen=masked,
            cut=jnp.where(first, begin, place.shape[0] + 1),
            stop=jnp.where(writes, filled.length, jnp.where(looks, grown, length)),
            hold=first | state.growing,
        ), Sizing(most, first | (state.growing & growing))

    def trust(self, summary: Summary, row: Row) -> Float32[Array, ""]:
        """The probabilities of end of text in the last columns where it is the likeliest, summed over `look`."""
        ends = row.exists & jnp.isin(summary.token, jnp.asarray(row.ids.eos, jnp.int32))
        place = jnp.flip(jnp.cumsum(jnp.flip(ends)))
        look = jnp.asarray(self.look, jnp.int32)
        return jnp.sum(jnp.where(ends & (place <= look), 1 / (1 + summary.rest), 0.0)) / look.astype(jnp.float32)

    def longer(self, trust: Float32[Array, ""], length: Array, most: Array) -> tuple[Int32[Array, ""], Bool[Array, ""]]:
        """(the length after a forward that looks for it, whether another such forward follows)."""
        more = (trust < self.enough) & (length < most)
        step = jnp.where(more, jnp.asarray(self.expand, jnp.int32), jnp.asarray(self.look, jnp.int32) // 2)
        return jnp.minimum(length + step, most), more

    def filled(
        self, update: Update, trust: Float32[Array, ""], row: Row, pinned: Array, length: Array, most: Array
    ) -> Text:
        """The sure columns of the block written, and its least sure mask replaced by several."""
        p = jnp.exp(jnp.asarray(update.score))
        sure = row.open & (p > self.tau)
        write = jnp.where(jnp.any(sure), sure, best_columns(update.score, row.open, 1))
        token = jnp.where(write, update.token, row.tokens)
        masked, rest = row.pending & row.exists & ~write, row.open & ~write
        at = jnp.argmin(jnp.where(rest, p, jnp.inf)).astype(jnp.int32)
        doubt = jnp.any(rest) & (p[at] < self.low) & (trust < self.certain) & (length < most) & (at >= pinned)
        more = jnp.where(doubt, jnp.asarray(self.expand, jnp.int32) - 1, 0)
        place = jnp.arange(token.shape[0], dtype=jnp.int32)
        source = jnp.clip(jnp.where(place <= at, place, jnp.maximum(place - more, at)), 0, place.shape[0] - 1)
        return Text(token[source], masked[source], jnp.minimum(length + more, most))

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        return plus(times(2, geometry.canvas), 3)


def fill_and_expand(
    tau: Any = 0.9, low: Any = 0.1, *, initial: Any = 64, expand: Any = 8, look: Any = 32, enough: Any = 0.5,
    certain: Any = 0.9,
) -> FillAndExpand:  # fmt: skip
    """Finds a length L, then commits {i open : p_i > tau}, or the surest, and replaces the least sure mask by F masks.

    With E = (1 / W) sum of p_i(end of text) over the last W columns whose likeliest token that is:
        length   while E < enough and L < max_new: L += F, a forward each; then L += W / 2, columns of end of text
        insert   where E < certain and L < max_new: the least sure open mask that is not written now, if p < low
    Args:
        tau, low: 0.9 and 0.1. initial: L at first, 64. expand: F, 8. look: W, 32. enough: 0.5. certain: 0.9. All as in
            arXiv 2508.00819. max_new is the longest answer, 2048 there.
    Given text (infilling) and all before it never moves. Departures from released code: a first forward over max_new
    columns, from which nothing but their number is taken; several end-of-text tokens count alike. Raises InputError for
    probabilities outside [0, 1], initial, expand or look < 1, and on a model without an end-of-text token.
    """
    many = lambda x, name: argument.number(x, name, low=1, high=argument.COLUMNS, whole=True)  # noqa: E731
    return FillAndExpand(
        argument.probability(tau, "tau"), argument.probability(low, "low"), many(initial, "initial"),
        many(expand, "expand"), many(look, "look"), argument.probability(enough, "enough"),
        argument.probability(certain, "certain"),
    )  # fmt: skip

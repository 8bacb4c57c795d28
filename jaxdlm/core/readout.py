"""Reading the head tile by tile: statistics of the logits, without ever holding a row of the vocabulary whole.

Per column, with l the logits, v* the first of the best and m = l[v*]:

    rest = Σ_{v ≠ v*} exp(l_v - m),   weighted = Σ_v exp(l_v - m) · (l_v - m),   second = max_{v ≠ v*} l_v.

Two tiles merge into the statistics of their union (`merge`), so that one pass over the head's weights is enough.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.carry import Update
from jaxdlm.core.model import Model, Tiling, take_tile
from jaxdlm.core.temperature import below
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

FOLDS = 16  # parts of the vocabulary that an arg-max of noisy logits compares side by side on a CPU
LONG = 128  # ids; for fewer it is XLA's own, a quarter of a toy decode's equations less


class Summary(NamedTuple):
    """Per column, from one pass: the proposed token, its logit, and statistics of all logits."""

    token: Int32[Array, "... W"]  # the best, or the one that was drawn; ties: the lowest id
    rank: Float32[Array, "... W"]  # the best's logit, or that with noise, as in `Drawn`
    own: Float32[Array, "... W"]  # the token's logit
    top: Float32[Array, "... W"]
    second: Float32[Array, "... W"]
    rest: Float32[Array, "... W"]
    weighted: Float32[Array, "... W"]


class Drawn(NamedTuple):
    """How a pass draws its tokens: by (l_v - m) / T + noise of v, m the best logit.

    A pass knows m only at its end. Ranks are counted from the best of what was read so far, and moved when it rises.
    """

    divisor: Float32[Array, ""]  # T, as in `core.temperature`
    noise: Callable[[Array], Array]  # ids -> [W, T]
    tempered: bool = False  # whether `rest` and `weighted` are those of l / T


@struct.dataclass
class Readout:
    """The logits of a window as hidden states and the head that reads them. `logits` is the array of the
    same: once a rule has put another array into the update, the readout is no longer that of the update."""

    hidden: Float[Array, "W D"]
    logits: Float32[Array, "W V"]
    params: PyTree
    model: Model = struct.field(pytree_node=False)
    raw_summary: Summary | None = None  # `summarise` of it, where that is known

    @property
    def tiling(self) -> Tiling:
        return self.model.tiling

    @property
    def window(self) -> int:
        return self.hidden.shape[0]

    def tile(self, first: Int32[Array, ""]) -> Float32[Array, "W T"]:
        return mask_invalid(self.model.head(self.params, self.hidden, first), self.model, self.tiling.ids(first))


@struct.dataclass
class DenseLogits:
    """Logits as one array, read in the tiles of a `Readout`."""

    logits: Float32[Array, "W V"]
    tiling: Tiling = struct.field(pytree_node=False)
    raw_summary: Summary | None = None  # as in `Readout`

    @property
    def window(self) -> int:
        return self.logits.shape[0]

    def tile(self, first: Int32[Array, ""]) -> Float32[Array, "W T"]:
        if self.tiling.count == 1:
            return self.logits
        return take_tile(self.logits, 1, first, self.tiling)


@struct.dataclass
class BiasedLogits:
    """A source with a bonus for a few tokens of each column, added as a tile is read, so that no second array is made.
    `logits` is the sum as one array, computed where a rule reads it whole, as in `Readout`."""

    source: "LogitsSource"
    token: Int32[Array, "W S"]  # ids past the vocabulary: none
    bonus: Float32[Array, "W S"]
    logits: Float32[Array, "W V"]
    raw_summary: None = None

    @property
    def tiling(self) -> Tiling:
        return self.source.tiling

    @property
    def window(self) -> int:
        return self.source.window

    def tile(self, first: Int32[Array, ""]) -> Float32[Array, "W T"]:
        stripe, place = jnp.divmod(self.token, self.tiling.span)
        place = place - first
        inside = (place >= 0) & (place < self.tiling.run) & (stripe < self.tiling.stripes)
        at = jnp.where(inside, stripe * self.tiling.run + place, self.tiling.stripes * self.tiling.run)
        return add_bonus(self.source.tile(first), at, self.bonus)


LogitsSource = Readout | DenseLogits | BiasedLogits


def add_bonus(
    logits: Float32[Array, "W T"], at: Int32[Array, "W S"], bonus: Float32[Array, "W S"]
) -> Float32[Array, "W T"]:
    """The logits with the bonus of column i added at at[i]; past the end: nowhere."""
    return logits.at[jnp.arange(at.shape[0])[:, None], at].add(bonus, mode="drop")


def dense_logits(logits: Float32[Array, "W V"], tiling: Tiling | None = None) -> DenseLogits:
    """Logits as a source; tiling: that of a model with this vocabulary by default."""
    return DenseLogits(logits, Tiling(logits.shape[1]) if tiling is None else tiling)


def incoming(update: Update) -> LogitsSource:
    """The update's logits as a source of tiles: its readout, unless a rule has replaced the logits since."""
    own = update.readout is not None and update.readout.logits is update.logits
    return update.readout if own else dense_logits(update.logits)


def summarise(source: LogitsSource, drawn: Drawn | None = None) -> Summary:
    """The summary of a source: the one it has, else by one pass over its tiles. The token is the best, or drawn."""
    if drawn is None and source.raw_summary is not None:
        return source.raw_summary
    return _walk(source, drawn, None)[0]


def gathered(source: LogitsSource, ids: Int32[Array, "W K"]) -> tuple[Summary, Float32[Array, "W K"]]:
    """The summary of a source, and the logits of some ids of each column, by the same pass."""
    summary, picked = _walk(source, None, ids)
    assert picked is not None
    return summary, picked


def _walk(source: LogitsSource, drawn: Drawn | None, wanted: Array | None) -> tuple[Summary, Array | None]:
    tiling = source.tiling
    # stripes stay apart until the end, so that devices talk once per forward and not once per tile
    apart = lambda x: x.reshape(*x.shape[:-1], tiling.stripes, tiling.run)  # noqa: E731

    def read(begin: Int32[Array, ""], picked: Array | None) -> tuple[Summary, Array | None]:
        first = tiling.first(begin)
        ids, logits = tiling.ids(first), source.tile(first)
        if picked is not None:
            stripe, place = jnp.divmod(wanted, tiling.span)
            here = (place >= begin) & (place < first + tiling.run)  # of tiles that overlap the first
            at = jnp.where(here, stripe * tiling.run + place - first, 0)
            picked = jnp.where(here, jnp.take_along_axis(logits, at, axis=1), picked)
        if tiling.overlaps:  # the last tile begins early: what was read before does not count again
            place = ids if tiling.stripes == 1 else ids % tiling.span
            logits = jnp.where((place >= begin)[None], logits, -jnp.inf)
        noise = None if drawn is None else apart(drawn.noise(ids))
        return _statistics(apart(logits), apart(jnp.broadcast_to(ids, logits.shape)), noise, drawn), picked

    def trip(so_far: tuple[Summary, Array | None], begin: Array) -> tuple[tuple[Summary, Array | None], None]:
        one, picked = read(begin, so_far[1])
        return (merge(so_far[0], one, drawn), picked), None

    none = None if wanted is None else jnp.full(wanted.shape, -jnp.inf, jnp.float32)
    if tiling.count == 1:
        summary, picked = read(jnp.int32(0), none)
    else:
        begins = jnp.arange(tiling.count, dtype=jnp.int32) * tiling.run
        (summary, picked), _ = jax.lax.scan(trip, (_empty((source.window, tiling.stripes)), none), begins)
    parts = [jax.tree.map(lambda x, s=s: x[:, s], summary) for s in range(tiling.stripes)]
    return functools.reduce(functools.partial(merge, drawn=drawn), parts), picked


def _empty(shape: tuple[int, ...]) -> Summary:
    """The summary of no ids at all."""
    low, none = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.float32)
    token = jnp.zeros(shape, jnp.int32)
    return Summary(token=token, rank=low, own=low, top=low, second=low, rest=none, weighted=none)


def _statistics(logits: Array, ids: Array, noise: Array | None, drawn: Drawn | None) -> Summary:
    """The summary of arrays [..., T].

    Picks by arg-max are masked maxima: unlike gathers they fuse with the rest.

    A comparison with the maximum instead of the arg-max is not safe: a compiler that works the logits out again for the
    comparison may round them otherwise, and then nothing equals the maximum. Nor would `own` be `top` to the last bit,
    and a sure column's log-probability is smaller than that bit: the best token's logit is taken once.
    """
    place = jnp.arange(logits.shape[-1], dtype=jnp.int32)[(None,) * (logits.ndim - 1)]
    at = jax.lax.argmax(logits, logits.ndim - 1, jnp.int32)
    best = place == at[..., None]
    top, others = jnp.max(logits, axis=-1), jnp.where(best, -jnp.inf, logits)
    chosen, rank, own, gap = best, top, top, below(others, top)
    if drawn is not None:
        ranked = below(logits, top) / drawn.divisor + noise
        pick = first_best(ranked)
        chosen, rank = place == pick[..., None], jnp.max(ranked, axis=-1)
        own = jnp.where(pick == at, top, jnp.max(jnp.where(chosen, logits, -jnp.inf), axis=-1))
        gap = gap / drawn.divisor if drawn.tempered else gap
    ratio = jnp.exp(gap)
    return Summary(
        token=jnp.max(jnp.where(chosen, ids, 0), axis=-1), rank=rank, own=own, top=top,
        second=jnp.max(others, axis=-1), rest=jnp.sum(ratio, axis=-1),
        weighted=jnp.sum(jnp.where(ratio > 0, ratio * gap, 0.0), axis=-1),
    )  # fmt: skip


def first_best(x: Float32[Array, "... T"]) -> Int32[Array, "..."]:
    """The arg-max over the last axis of logits with noise; ties: the lowest place. NaN is above everything, as in
    `jnp.argmax`.

    XLA walks an arg-max one number after the other on a CPU, and works the noise out on the way. There, the axis is
    folded into sixteen parts first, which are compared part by part, many numbers at once.
    """
    direct = lambda x: jax.lax.argmax(x, x.ndim - 1, jnp.int32)  # noqa: E731
    return direct(x) if x.shape[-1] < LONG else jax.lax.platform_dependent(x, cpu=_folded, default=direct)


def _folded(x: Float32[Array, "... T"]) -> Int32[Array, "..."]:
    parts = jnp.split(x, math.gcd(x.shape[-1], FOLDS), axis=-1)
    best, part = parts[0], jnp.zeros(parts[0].shape, jnp.int32)
    for index, new in enumerate(parts[1:], start=1):
        above = (new > best) | (jnp.isnan(new) & ~jnp.isnan(best))
        best, part = jnp.where(above, new, best), jnp.where(above, index, part)
    place = part * part.shape[-1] + jax.lax.broadcasted_iota(jnp.int32, part.shape, part.ndim - 1)
    return jax.lax.reduce((best, place), (jnp.float32(-jnp.inf), jnp.int32(x.shape[-1])), _earlier, (x.ndim - 1,))[1]


def _earlier(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    above = (b[0] > a[0]) | (jnp.isnan(b[0]) & ~jnp.isnan(a[0]))
    level = (b[0] == a[0]) | (jnp.isnan(b[0]) & jnp.isnan(a[0]))
    takes = above | (level & (b[1] < a[1]))
    return jnp.where(takes, b[0], a[0]), jnp.where(takes, b[1], a[1])


def merge(a: Summary, b: Summary, drawn: Drawn | None = None) -> Summary:
    """The summary of two disjoint sets of ids."""
    over = b.top > a.top
    pick = lambda x, y: jnp.where(over, y, x)  # noqa: E731
    high, low = jnp.maximum(a.top, b.top), jnp.minimum(a.top, b.top)  # NaN wins either
    gap = jnp.where(low == -jnp.inf, -jnp.inf, low - high)
    first, other = a.rank, b.rank
    if drawn is not None:  # both ranks from the best of the two
        shift = gap / drawn.divisor
        first, other = first + jnp.where(over, shift, 0.0), other + jnp.where(over, 0.0, shift)
        gap = shift if drawn.tempered else gap
    wins = (other > first) | ((other == first) & (b.token < a.token))
    scale = jnp.exp(gap)
    lesser = pick(b.rest, a.rest)
    moved = scale * (pick(b.weighted, a.weighted) + jnp.where(scale > 0, gap, 0.0) * (1 + lesser))
    return Summary(
        token=jnp.where(wins, b.token, a.token), rank=jnp.where(wins, other, first),
        own=jnp.where(wins, b.own, a.own), top=high, second=jnp.maximum(low, jnp.maximum(a.second, b.second)),
        rest=pick(a.rest, b.rest) + scale * (1 + lesser), weighted=pick(a.weighted, b.weighted) + moved,
    )  # fmt: skip


def relative(summary: Summary, divisor: Float32[Array, ""]) -> Summary:
    """The summary of (l - max l) / T from one whose `rest` and `weighted` are those of l / T already."""
    scaled = lambda x: (x - summary.top) / divisor  # noqa: E731
    return summary._replace(own=scaled(summary.own), second=scaled(summary.second), top=jnp.zeros_like(summary.top))


def proposable(top: Float32[Array, "... W"], can: Bool[Array, "... W"] | None = None) -> Bool[Array, "..."]:
    """Whether the best logits of columns are neither NaN nor +inf, nor -inf, nothing at all, where they `can` be written.

    can: None: everywhere. A maximum is NaN or infinite where any of its logits is.
    """
    finite = jnp.isfinite(top)
    return jnp.all(finite if can is None else finite | ((top == -jnp.inf) & ~can), axis=-1)


def mask_invalid(logits: Array, model: Model, ids: Int32[Array, "T"] | None = None) -> Array:
    """The logits with -inf at the mask token and at ids that the tokenizer does not have: neither is ever text."""
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32) if ids is None else ids
    return jnp.where(text_ids(model, ids)[(None,) * (logits.ndim - 1)], logits, -jnp.inf)


def text_ids(model: Model, ids: Int32[Array, "..."]) -> Bool[Array, "..."]:
    """Which ids are text: neither the mask token nor beyond the tokenizer."""
    known = model.config.tokens
    text = jnp.ones(ids.shape, bool)
    if known.tokenizer_size is not None and known.tokenizer_size < model.config.vocab_size:
        text = ids < known.tokenizer_size
    return text if known.mask is None else text & (ids != known.mask)

"""dLLM-Cache: prompt and response keep their features for a number of steps, the most changed columns are renewed."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.caches import stored
from jaxdlm.caches.interval import interval
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import KV, Layer, LayerHook, Past, gather
from jaxdlm.core.select import select_rows
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

STILL = 1e-6  # a column whose values turned less, 0.08 degrees, has not changed: rounding alone stays below 1e-12


class LayerFeatures(NamedTuple):
    """Of one layer. The response is the canvas, and with `next` prediction the column before it."""

    k: Array  # [B, L, K, H]
    v: Array
    mixed: Array  # [B, G, D], what attention added at each column of the response
    fed: Array  # and the feed-forward


@struct.dataclass
class AdaptiveCache(Refreshing):
    """Keys, values and both outputs of every layer, renewed for the prompt every K_p forwards, for the response every
    K_r, and in each forward at the share rho of the response whose values turned most (arXiv 2506.06295).

    Turned most: lowest cos(W_v h_j, stored v_j) per layer, and where that is 1 to within 1e-6 the lowest column; all
    values of the response are renewed on the way. Layer 0 is always computed whole, as in the released code. All
    response columns have logits: old increments on a new base.
    Stale: the prompt's keys and values; keys and outputs of the response's other columns. A step costs G tokens in the
    first layer, and in the others rho · G tokens and the value projection of G. State: keys and values of L columns
    and two hidden rows per layer for each of G, so 2 · layers · D · bytes more per column.

    Clocks count a row's forwards and are not reset by a new block. Defaults are those of LLaDA on GSM8K with
    the paper's rho; the paper's K_p is 25 to 100 and K_r 1 to 8, by task.
    Departures from official code: the guidance residual is computed in every forward; rows keep clocks of their own.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "canvas"
    versions: ClassVar[bool] = False
    prompt_every: Any = 50
    response_every: Any = 7
    ratio: float = struct.field(pytree_node=False, default=0.25)

    def clocks(self, rows: Rows) -> tuple[Bool[Array, "B"], Bool[Array, "B"]]:
        """Rows that are to renew their prompt, and their response."""
        every = (jnp.asarray(x, jnp.int32) for x in (self.prompt_every, self.response_every))
        prompt, response = (rows.step % x == 0 for x in every)
        return prompt, response

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        prompt, response = self.clocks(rows)
        return prompt | response

    def init(self, context: Context, rows: Rows) -> PyTree:
        stored.layered(context)
        blank, size = stored.blank(context, rows), context.geometry.canvas + context.shift

        def one(k: Array, v: Array) -> LayerFeatures:
            features = jnp.zeros((k.shape[0], *blank.hidden[:, :size].shape), blank.hidden.dtype)
            return LayerFeatures(k, v, features, features)

        return tuple(tuple(one(*pair) for pair in segment) for segment in stored.pairs(blank.kv))

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree) -> Window:
        prompt, _ = self.clocks(rows)
        return jax.lax.cond(
            jnp.any(prompt & ~rows.done),
            lambda s: self.read_all(context, rows, start, s),
            lambda s: self.read_response(context, rows, start, s, whole=True),
            state,
        )

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree) -> Window:
        return self.read_response(context, rows, start, state, whole=False)

    def read_all(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree) -> Window:
        """Queries of all L columns; each row's clocks say which results are stored."""
        position, exists = context.columns(rows)
        first = context.geometry.prompt - context.shift
        prompt, response = self.clocks(rows)
        behind = jnp.arange(position.shape[1]) >= first

        def run(layer: Layer, x: Array, side: PyTree, old: LayerFeatures) -> tuple[Array, PyTree, LayerFeatures]:
            q, k, v = layer.project(x, None)
            turned = turn(v[:, first:], old.v[:, first:], exists[:, first:])
            index, forced = self.most(turned), layer.number == 0
            moved = stored.scatter(jnp.zeros(turned.shape, bool), index, jnp.ones(index.shape, bool))
            moved = moved | (response | forced)[:, None]
            renew = jnp.where(behind[None, :], jnp.pad(moved, ((0, 0), (first, 0))), (prompt | forced)[:, None])
            keys = jnp.where(renew[:, :, None, None], k, old.k)
            values = jnp.where((renew | behind[None, :])[:, :, None, None], v, old.v)
            add = layer.mix(q, keys, values, layer.allow)
            mixed = jnp.where(moved[:, :, None], add[:, first:], old.mixed)
            x = x + add.at[:, first:].set(mixed)
            add = layer.feed(x)
            fed = jnp.where(moved[:, :, None], add[:, first:], old.fed)
            return x + add.at[:, first:].set(fed), side, LayerFeatures(keys, values, mixed, fed)

        model = stored.layered(context)
        out = model.apply_with_hook(context.params, rows.tokens, position, exists, None, LayerHook(run, (), state))
        return Window(context.select(out.hidden, 0, start), out.memory)

    def read_response(
        self, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree, *, whole: bool
    ) -> Window:
        """Queries of the response alone: of all its columns, or in all layers but the first of those that turned."""
        position, exists = context.columns(rows)
        first = context.geometry.prompt - context.shift
        length = position.shape[1]
        own = exists[:, first:]
        # a row that waits for its refresh keeps its state
        waits = jnp.zeros_like(rows.done) if whole else self.due(rows)

        def everything(layer: Layer, x: Array, old: LayerFeatures) -> tuple[Array, LayerFeatures]:
            q, k, v = layer.project(x, None)
            keys, values = old.k.at[:, first:].set(k), old.v.at[:, first:].set(v)
            mixed = layer.mix(q, keys, values, layer.allow[:, :, :length])
            fed = layer.feed(x + mixed)
            return x + mixed + fed, LayerFeatures(keys, values, mixed, fed)

        def turned(layer: Layer, x: Array, old: LayerFeatures) -> tuple[Array, LayerFeatures]:
            v = layer.project(x, None)[2]
            index = self.most(turn(v, old.v[:, first:], own))
            q, k = layer.project(gather(x, index), index)[:2]
            keys, values = stored.scatter(old.k, first + index, k), old.v.at[:, first:].set(v)
            allow = gather(layer.allow[:, :, :length], index)
            mixed = stored.scatter(old.mixed, index, layer.mix(q, keys, values, allow))
            x = x + mixed
            fed = stored.scatter(old.fed, index, layer.feed(gather(x, index)))
            return x + fed, LayerFeatures(keys, values, mixed, fed)

        def run(layer: Layer, x: Array, side: PyTree, old: LayerFeatures) -> tuple[Array, PyTree, LayerFeatures]:
            if whole:
                x, new = everything(layer, x, old)
                return x, side, new
            x, new = jax.lax.cond(layer.number == 0, lambda: everything(layer, x, old), lambda: turned(layer, x, old))
            return x, side, select_rows(~waits, new, old)

        past = Past(KV((), ()), position, exists)  # the layers hold their keys themselves
        model = stored.layered(context)
        tokens, at = rows.tokens[:, first:], position[:, first:]
        out = model.apply_with_hook(context.params, tokens, at, own, past, LayerHook(run, (), state))
        return Window(context.select(out.hidden, first, start), out.memory)

    def most(self, turned: Float32[Array, "B G"]) -> Int32[Array, "B M"]:
        """The columns that turned most, the lowest first on ties."""
        return jax.lax.top_k(turned, int(turned.shape[1] * self.ratio))[1].astype(jnp.int32)


def turn(new: Array, old: Array, exists: Bool[Array, "B G"]) -> Float32[Array, "B G"]:
    """1 - cos of the values of each column, all heads together; 0 where it is below `STILL`, -inf where is no column.

    1 - cos = |u - w|² / 2 for the unit vectors u and w: 0 of equal ones. One minus a cosine of sums would be rounding
    noise there, other noise in a batch of another size, and would decide which of the columns at rest are renewed.
    """
    units = []
    for x in (new, old):
        x = x.astype(jnp.float32).reshape(*x.shape[:2], -1)
        units.append(x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=2, keepdims=True), 1e-20)))
    angle = jnp.sum(jnp.square(units[0] - units[1]), axis=2) / 2
    return jnp.where(exists, jnp.where(angle < STILL, 0.0, angle), -jnp.inf)


@cache("adaptive", serves=("block", "canvas"), order=80)
def adaptive(prompt_every: Any = 50, response_every: Any = 7, ratio: float = 0.25) -> AdaptiveCache:
    """See `AdaptiveCache`. Raises InputError for an interval < 1, or a ratio outside 0..1."""
    ratio = argument.real(0, 1)(ratio, "ratio")
    return AdaptiveCache(interval(prompt_every, "prompt_every"), interval(response_every, "response_every"), ratio)

"""Lower layers run for changed columns only between key steps (the schedule of Faster Diffusion)."""

import functools
import json
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.caches import stored
from jaxdlm.caches.interval import count, interval
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import Layer, LayerHook, gather
from jaxdlm.errors import InputError
from jaxdlm.registry import cache
from jaxdlm.trained import shipped
from jaxdlm.typing import Array, Bool, Float, Int32, PyTree

KEY_STEPS = (0, 1, 2, 3, 5, 10, 15, 25, 35)  # the released code's, of 50
MOST = 1024  # key steps of a schedule


def ends(first: int, last: int, steps: int) -> tuple[int, ...]:
    """All steps of the beginning and the end, and every fifth between."""
    return tuple(step for step in range(steps) if step < first or step > last or step % 5 == 0)


# the released schedules by their released names; a whole number is every so many-th step, as there
SCHEDULES: dict[str, tuple[int, ...]] = {
    "50ls": KEY_STEPS, "50ls2": (0, 10, 11, 12, 15, 20, 25, 30, 35, 45), "50ls3": (0, 20, 25, 30, 35, *range(45, 50)),
    "50ls4": (0, 9, 13, 14, 15, 28, 29, 32, 36), "75ls": ends(10, 65, 75), "75ls2": (*KEY_STEPS, 45, 55, 65),
    "100ls": ends(10, 85, 100), "pro": tuple(k * (k + 3) // 2 for k in range(64)),  # 9 + 8 step is a square: 0, 2, 5, 9
}  # fmt: skip
FILE = "layer_reuse.json"


class Lower(NamedTuple):
    memory: PyTree  # (keys, values) of each layer
    hidden: Float[Array, "B L D"]  # what enters layer `depth`
    tokens: Int32[Array, "B L"]  # that it was made of


@struct.dataclass
class LayerReuseCache(Refreshing):
    """Between key steps the first `depth` layers read only the columns whose token changed since they were read; the
    layers above read all columns (Faster Diffusion, arXiv 2312.09608, there for the encoder of an image model; on text
    its quality is not known).

    Stale: what enters layer `depth` at every column that did not change, and the keys below. Fresh: all layers above.
    A step costs L tokens in the upper layers and W in the lower `depth`. State: keys and values of L columns, the
    hidden rows and the tokens of L.

    keys: key steps, in forwards since the row's block began; 0 always is one. every: each so many-th forward, too. depth 0 is
    no cache.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "canvas"
    versions: ClassVar[bool] = False
    keys: Any = KEY_STEPS
    depth: int = struct.field(pytree_node=False, default=1)
    every: Any = None

    def init(self, context: Context, rows: Rows) -> Lower:
        layers = stored.layered(context).config.num_layers
        if self.depth >= layers:
            raise InputError(f"depth={self.depth}: the model has {layers} layers, reuse fewer than these")
        blank = stored.blank(context, rows)
        return Lower(stored.pairs(blank.kv), blank.hidden, rows.tokens)

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        keys = jnp.stack([jnp.asarray(key, jnp.int32) for key in self.keys])
        own = jnp.any(rows.tick[:, None] == keys[None, :], axis=1)
        return own if self.every is None else own | (rows.tick % jnp.asarray(self.every, jnp.int32) == 0)

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Lower) -> Window:
        def run(layer: Layer, x: Array, side: Array, memory: PyTree) -> tuple[Array, Array, PyTree]:
            side = jnp.where(layer.number == self.depth, x, side)
            x, memory = whole(layer, x)
            return x, side, memory

        return self.read(context, rows, start, state, run)

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Lower) -> Window:
        changed = rows.tokens != state.tokens
        index = stored.columns_of(changed, context.width)  # a rule writes inside its window

        def some(layer: Layer, x: Array, memory: PyTree) -> tuple[Array, PyTree]:
            part = gather(x, index)
            q, k, v = layer.project(part, jnp.minimum(index, x.shape[1] - 1))
            keys, values = (stored.scatter(old, index, new) for old, new in zip(memory, (k, v), strict=True))
            part = part + layer.mix(q, keys, values, gather(layer.allow, index))
            return stored.scatter(x, index, part + layer.feed(part)), (keys, values)

        def run(layer: Layer, x: Array, side: Array, memory: PyTree) -> tuple[Array, Array, PyTree]:
            # below `depth` the columns that did not change carry what they are to enter that layer with
            x = jnp.where((layer.number == 0) & (self.depth > 0) & ~changed[:, :, None], state.hidden, x)
            side = jnp.where(layer.number == self.depth, x, side)
            x, memory = jax.lax.cond(layer.number < self.depth, lambda: some(layer, x, memory), lambda: whole(layer, x))
            return x, side, memory

        return self.read(context, rows, start, state, run)

    def read(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Lower, run: Any) -> Window:
        position, exists = context.columns(rows)
        model = stored.layered(context)
        hook = LayerHook(run, state.hidden, state.memory)
        out = model.apply_with_hook(context.params, rows.tokens, position, exists, None, hook)
        return Window(context.select(out.hidden, 0, start), Lower(out.memory, out.side, rows.tokens))


def whole(layer: Layer, x: Float[Array, "B L D"]) -> tuple[Float[Array, "B L D"], PyTree]:
    """The layer as it is, and its keys and values."""
    q, k, v = layer.project(x, None)
    x = x + layer.mix(q, k, v, layer.allow)
    return x + layer.feed(x), (k, v)


def read_schedule(name: str) -> tuple[int, ...]:
    """The key steps in a file of scripts/train.py --recipe layer_reuse, or those of an embedded model. Raises InputError."""
    wanted = f"key steps, a number, one of {', '.join(SCHEDULES)}, "
    file = shipped(name, "layer_reuse", "keys", "json", wanted)
    try:
        keys = json.loads(file.read_text())["keys"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"keys={name!r}: {file.name} holds no key steps: write one by --recipe layer_reuse") from None
    return argument.items(keys, "keys", argument.whole(0, 2**30), most=MOST)


@cache("layer_reuse", serves=("block", "canvas"), order=100)
def layer_reuse(depth: int = 1, keys: Any = KEY_STEPS) -> LayerReuseCache:
    """See `LayerReuseCache`.

    depth: layers that are reused, 1. keys: key steps of a block, with 0 among them; a number, every so many-th; a released
    schedule by its name (50ls, the default's; 50ls2, 50ls3, 50ls4, 75ls, 75ls2, 100ls, pro, which skips more and more: 0, 2,
    5, 9, 14, ...); the name of an embedded model, or a file: the steps that --recipe layer_reuse learned for it.
    Raises InputError for a negative depth, and for keys without 0.
    """
    every = None
    if isinstance(keys, str):
        keys = SCHEDULES[keys] if keys in SCHEDULES else read_schedule(keys)
    elif not isinstance(keys, list | tuple):
        every, keys = interval(keys, "keys"), (0,)
    keys = argument.items(keys, "keys", functools.partial(interval, low=0), most=MOST)
    if not any(isinstance(key, int) and key == 0 for key in keys):
        raise InputError("keys must hold 0: the first forward of a block reads everything")
    return LayerReuseCache(keys, count(depth, "depth"), every)

"""Columns that a forward sends through a model, counted from the shapes with which it is called; nothing is computed.

A watched model notes its calls in the traced program, so that they count as often as the program makes them: a loop over
layers or draft tokens for every trip, one of unknown length once, and of the arms of a condition the dearest.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core import loop
from jaxdlm.core.cache import Cache, Context, spread
from jaxdlm.core.carry import Rows
from jaxdlm.core.model import Features, Layer, Layered, LayerHook, ModelOutput, Past
from jaxdlm.core.rule import Decoding
from jaxdlm.typing import Array, PyTree


class Reads(NamedTuple):
    """Per layer, float64[layers]: passes over its weights, and columns (of all rows) that its parts work on.

    query, key, value, out: the projections. feed: the feed-forward. pairs: of a query with a key. stored: columns whose
    keys and values come from a cache. head: columns whose logits are computed; heads: passes over the head; soft: columns
    of probabilities that become embeddings.
    """

    passes: Any
    query: Any
    key: Any
    value: Any
    out: Any
    feed: Any
    pairs: Any
    stored: Any
    head: float = 0.0
    heads: float = 0.0
    soft: float = 0.0

    def plus(self, other: "Reads") -> "Reads":
        return Reads._make(a + b for a, b in zip(self, other, strict=True))

    def times(self, number: float) -> "Reads":
        return Reads._make(number * a for a in self)

    @property
    def widest(self) -> int:
        """Columns of the layer that reads most."""
        return int(self.query.max())

    @property
    def weight(self) -> float:
        """The number by which arms of a condition are compared."""
        return float(self.query.sum() + self.feed.sum() + self.head)


def nothing(layers: int) -> Reads:
    return Reads._make([*(np.zeros(layers) for _ in range(8)), 0.0, 0.0, 0.0])


def alike(layers: int, columns: float, keys: float, stored: float, rows: float = 1) -> Reads:
    """A pass in which `rows` rows send `columns` columns through every layer, to see `keys` columns."""
    one = np.ones(layers)
    all_columns = one * rows * columns
    each = all_columns, all_columns, all_columns, all_columns, all_columns
    return Reads(one, *each, all_columns * keys, one * rows * stored)


class Watch:
    """Makes watched models, and counts what a function sends through them."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Reads, int]] = []
        self.shapes: dict[Any, PyTree] = {}

    def model(self, name: str, model: Any) -> Any:
        """The model, its calls noted under a name; results are zeros."""
        return (_Layers if isinstance(model, Layered) else _Watched)(self, name, model)

    def count(self, function: Callable[..., Any], *args: Any) -> dict[str, Reads]:
        """Reads of each watched model in one run of the function; `args` may be shapes."""
        return self._total(jax.make_jaxpr(function)(*args).jaxpr)

    def noted(self, name: str, reads: Reads, x: Array, out: PyTree) -> PyTree:
        """Zeros of the shape `out`; the program says that they are made of `x`, by a call that is found again."""

        def call(x: Array) -> PyTree:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), out)

        call.__name__ = f"{_MARK}{len(self.notes)}"
        self.notes.append((name, reads, x.size))
        with jax.disable_jit(False):
            return jax.jit(call)(x)

    def _total(self, jaxpr: Any) -> dict[str, Reads]:
        total: dict[str, Reads] = {}
        for equation in jaxpr.eqns:
            for name, reads in self._of(equation).items():
                total[name] = total[name].plus(reads) if name in total else reads
        return total

    def _of(self, equation: Any) -> dict[str, Reads]:
        kind, params = equation.primitive.name, equation.params
        name = str(params.get("name", ""))
        if name.startswith(_MARK):
            who, reads, size = self.notes[int(name.removeprefix(_MARK))]
            return {who: reads.times(equation.invars[0].aval.size / size)}  # more under `vmap`
        inner = [self._total(each) for each in _jaxprs(params)]
        if kind == "cond":
            return max(inner, key=lambda arm: sum(reads.weight for reads in arm.values()))
        length = params["length"] if kind == "scan" else 1
        total: dict[str, Reads] = {}
        for part in inner:
            for who, reads in part.items():
                reads = reads.times(length)
                total[who] = total[who].plus(reads) if who in total else reads
        return total


_MARK = "reads_"


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                yield each


class _Watched:
    """A model that notes what it is called with."""

    def __init__(self, watch: Watch, name: str, model: Any) -> None:
        self.watch, self.name, self.model = watch, name, model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def tiling(self) -> Any:
        return self.model.tiling

    @property
    def layers(self) -> int:
        return self.model.config.num_layers

    def _shape(self, method: str, *args: Any, **named: Any) -> PyTree:
        """Shapes of a method's result; traced once for the same arguments."""
        shapes = tuple(
            (x.shape, str(x.dtype)) if hasattr(x, "shape") else x for x in jax.tree.leaves((args[1:], named))
        )
        key = (id(self.model), method, shapes)
        if key not in self.watch.shapes:
            with jax.disable_jit(False):
                self.watch.shapes[key] = jax.eval_shape(getattr(self.model, method), *args, **named)
        return self.watch.shapes[key]

    def _pass(self, method: str, params: PyTree, tokens: Array, *args: Any, past: Past | None, **named: Any) -> Any:
        stored = 0 if past is None else past.position.shape[1]
        rows, columns = tokens.shape
        reads = alike(self.layers, columns, stored + columns, stored, rows)
        return self.watch.noted(
            self.name, reads, tokens, self._shape(method, params, tokens, *args, past=past, **named)
        )

    def apply(
        self, params: PyTree, tokens: Array, position: Any, valid: Any, past: Past | None = None, **rest: Any
    ) -> ModelOutput:
        return self._pass("apply", params, tokens, position, valid, past=past, **rest)

    def prefix(self, params: PyTree, tokens: Array, position: Any, valid: Any, past: Any = None, **rest: Any) -> Any:
        return self._pass("prefix", params, tokens, position, valid, past=past, **rest)

    def canvas(self, params: PyTree, tokens: Array, position: Any, valid: Any, past: Any = None, **rest: Any) -> Any:
        return self._pass("canvas", params, tokens, position, valid, past=past, **rest)

    def part(
        self, params: PyTree, x: Array, position: Any, valid: Any, past: Any, first: int, last: int
    ) -> tuple[Array, Any]:
        """Some layers alone."""
        stored = 0 if past is None else past.position.shape[1]
        reads = alike(self.layers, x.shape[1], stored + x.shape[1], stored, x.shape[0])
        chosen = (np.arange(self.layers) >= first) & (np.arange(self.layers) < last)
        with jax.disable_jit(False):
            out = jax.eval_shape(lambda *some: self.model.part(*some, first, last), params, x, position, valid, past)
        return self.watch.noted(self.name, Reads._make([*(chosen * each for each in reads[:8]), *reads[8:]]), x, out)

    def head(self, params: PyTree, hidden: Array, first: Any = None) -> Array:
        out = self._shape("head", params, hidden, first)
        share = out.shape[-1] / self.config.vocab_size
        reads = nothing(self.layers)._replace(head=share * hidden.size / hidden.shape[-1], heads=share)
        return self.watch.noted(self.name, reads, hidden, out)

    exit = head

    def expected_embedding(self, params: PyTree, probabilities: Array) -> Array:
        rows = probabilities.size / probabilities.shape[-1]
        out = self._shape("expected_embedding", params, probabilities)
        return self.watch.noted(self.name, nothing(self.layers)._replace(soft=rows), probabilities, out)


class _Layers(_Watched):
    """One whose layers can be taken apart: each of their parts is noted."""

    def apply_with_hook(
        self, params: PyTree, tokens: Array, position: Any, valid: Any, past: Any, hook: LayerHook, *, mask: Any = None
    ) -> Features:
        """Layers are told apart by number alone, so that the first one that is traced stands for all; where two numbers are
        treated alike, so are those between."""
        counted: dict[int, _Parts] = {}

        def watched(run: Any, first: int, last: int) -> Any:
            def one(layer: Layer, x: Array, side: PyTree, memory: PyTree) -> Any:
                def count(number: int) -> _Parts:
                    if number not in counted:
                        counted[number] = _Parts()
                        with jax.disable_jit():  # a condition on a number that is known takes one arm
                            run(counted[number].watched(layer, number), x, side, memory)
                    return counted[number]

                def fill(low: int, high: int) -> None:
                    if vars(count(low)) == vars(count(high)):
                        counted.update(dict.fromkeys(range(low, high), counted[low]))
                    elif high - low > 1:
                        fill(low, (low + high) // 2)
                        fill((low + high) // 2, high)

                fill(first, last)
                return run(layer, x, side, memory)

            return one

        top = self.layers - 1
        own = LayerHook(
            watched(hook.run, 0, top if hook.last is None else top - 1), hook.side, hook.memory,
            None if hook.last is None else watched(hook.last, top, top),
        )  # fmt: skip
        with jax.disable_jit(False):
            run = lambda *a, mask: self.model.apply_with_hook(params, *a, own, mask=mask)  # noqa: E731
            out = jax.eval_shape(run, tokens, position, valid, past, mask=mask)
        every = [counted[number] for number in range(self.layers)]
        parts = [np.array([getattr(part, name) for part in every], float) for name in Reads._fields[1:8]]
        reads = Reads._make([np.ones(self.layers), *parts, 0.0, 0.0, 0.0])
        return self.watch.noted(self.name, reads, tokens, out)

    def apply_at(self, *args: Any) -> Array:
        """As the model does it, with this one's `apply` and `apply_with_hook`."""
        return type(self.model).apply_at(self, *args)


class _Parts:
    """Columns that the parts of one layer work on."""

    def __init__(self) -> None:
        self.query = self.key = self.value = self.out = self.feed = self.pairs = self.stored = 0

    def watched(self, layer: Layer, number: int) -> Layer:
        def project(x: Array, at: Array | None) -> Any:
            return _Projected(self, layer.project(x, at), _columns(x if at is None else at))

        def mix(q: Array, keys: Array, values: Array, allow: Array) -> Array:
            self.out += _columns(q)
            self.pairs += _columns(q) * allow.shape[-1]
            self.stored += max(0, allow.shape[0] * allow.shape[-1] - self.key)
            return layer.mix(q, keys, values, allow)

        def feed(x: Array) -> Array:
            self.feed += _columns(x)
            return layer.feed(x)

        return Layer(np.int32(number), layer.allow, project, mix, feed)  # type: ignore[arg-type]


class _Projected:
    """Queries, keys and values; only those that are read are counted."""

    def __init__(self, parts: _Parts, values: tuple[Array, Array, Array], columns: int) -> None:
        self.parts, self.values, self.columns = parts, values, columns

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(*place.indices(3)))
        name = ("query", "key", "value")[place]
        setattr(self.parts, name, getattr(self.parts, name) + self.columns)
        return self.values[place]

    def __iter__(self) -> Iterator[Array]:
        return iter(self[:])


def _columns(x: Array) -> int:
    return x.shape[0] * x.shape[1]


def of_cache(decoding: Decoding, rows: Rows, *, refresh: bool) -> Reads:
    """Reads of a forward of these rows in which the cache reads everything, or of its ordinary step; pads included.

    The policy says the width of the window and the versions of each row, of which a cache that stores reads everything for
    one alone. Of several ways to step the dearest is counted: `delayed` with its whole canvas open, `sub_block` with its
    block read.
    """
    watch, cache, geometry = Watch(), decoding.cache, decoding.geometry
    width, versions = loop.width(decoding.policy, geometry), decoding.policy.traits.versions
    blind, attention = decoding.policy.traits.blind, decoding.policy.traits.attention
    watched = watch.model("model", decoding.model)
    refresh = refresh or cache.recomputes_all
    many = versions if cache.recomputes_all or not refresh else 1

    def forward(params: PyTree, rows: Rows) -> PyTree:
        state = cache.init(Context(decoding.model, params, geometry, width), rows)
        if many > 1:
            tokens = jnp.repeat(rows.tokens[:, None], many, axis=1)
            rows = spread(rows, tokens)
        start = jnp.full_like(rows.block, geometry.prompt)
        run = cache.refresh if refresh else cache.step
        return run(Context(watched, params, geometry, width, many, blind, attention), rows, start, state)

    reads_of = watch.count(forward, decoding.params, rows)
    return reads_of.get("model", nothing(decoding.model.config.num_layers))


def both(decoding: Decoding, rows: Rows) -> tuple[Reads, Reads]:
    """(reads of a forward that reads everything, of an ordinary one)."""
    full = of_cache(decoding, rows, refresh=True)
    return full, full if decoding.cache.recomputes_all else of_cache(decoding, rows, refresh=False)


def forwards_cached(cache: Cache, commit_step: np.ndarray, forwards: np.ndarray, block: int) -> np.ndarray:
    """int[B]: forwards in which the cache did not read everything.

    Nothing is counted while decoding: when a cache reads everything follows from the row's own clock (`Cache.due`), and the
    clock from the forwards at which columns were written. A row enters a block when the block before is written, so its
    clock at forward s is s minus the last commit before.
    """
    if cache.recomputes_all:
        return np.zeros_like(forwards)
    columns = commit_step.shape[1]
    ends = np.stack([commit_step[:, a : a + block].max(1) for a in range(0, columns, block)], axis=1)
    ends = np.maximum.accumulate(ends, axis=1) + 1  # forwards at which the block is complete
    at = np.arange(max(1, int(forwards.max())))
    inside = (ends[:, None, :] <= at[None, :, None]).sum(2)  # block at forward s
    begin = np.concatenate([np.zeros((len(ends), 1), ends.dtype), ends], axis=1)
    tick = at[None] - np.take_along_axis(begin, inside, axis=1)
    due = np.asarray(cache.due(_clocks(tick, inside, at)))
    ran = at[None] < forwards[:, None]
    return (ran & ~due.reshape(tick.shape)).sum(1)


def _clocks(tick: np.ndarray, block: np.ndarray, at: np.ndarray) -> Rows:
    """Rows of which only the clocks exist: one per row and forward."""
    empty: dict[str, Any] = dict.fromkeys(Rows._fields)
    step = np.broadcast_to(at[None], tick.shape)
    filled = {"tick": tick, "block": block, "step": step, "forwards": step, "done": np.zeros(tick.shape, bool)}
    return Rows(
        **{
            **empty,
            **{
                k: jnp.asarray(v.reshape(-1).astype(v.dtype if v.dtype == bool else np.int32))
                for k, v in filled.items()
            },
        }
    )

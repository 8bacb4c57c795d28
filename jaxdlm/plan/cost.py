"""Arithmetic of one forward: what the chips must compute and read, and what it costs at the published peak figures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdlm import _decode
from jaxdlm.core import loop
from jaxdlm.core.cache import Context
from jaxdlm.core.model import ModelOutput
from jaxdlm.models.params import abstract_params, named_specs
from jaxdlm.plan.aot import Job
from jaxdlm.plan.chips import Chip
from jaxdlm.plan.collectives import Collective
from jaxdlm.sharding import BATCH, partition
from jaxdlm.typing import PyTree

HOP = 1e-6  # seconds that a message takes per chip on its way; an assumption


@dataclasses.dataclass(frozen=True)
class Work:
    """One forward on one chip: floating-point operations of its matrix products, bytes of weights and of cache read."""

    flops: float
    weight_bytes: float
    cache_bytes: float


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds of one forward. The two floors hold whatever the program; `predicted` adds what it is known to do besides:

    max(compute, weights + cache) + collectives. Nothing overlaps with the collectives, everything else runs at its
    published peak, and activations that travel through HBM are not counted: a real chip is slower than this.
    """

    compute: float
    weights: float
    cache: float
    collectives: float

    @property
    def floor(self) -> float:
        return max(self.compute, self.weights)

    @property
    def predicted(self) -> float:
        return max(self.compute, self.weights + self.cache) + self.collectives


def time(work: Work, collectives: Sequence[Collective], chip: Chip) -> Time:
    """Seconds of a forward at the chip's peak figures."""
    return Time(
        compute=work.flops / chip.flops,
        weights=work.weight_bytes / chip.bandwidth,
        cache=work.cache_bytes / chip.bandwidth,
        collectives=sum(_seconds(one, chip) for one in collectives),
    )


def _seconds(one: Collective, chip: Chip) -> float:
    """On a ring along one axis of the slice, both directions in use: (g - 1) / g of the bytes cross every link, twice
    for a reduction whose sum everybody gets; and a message passes g - 1 chips."""
    share = (one.group - 1) / max(one.group, 1)
    passes = {"all-reduce": 2.0, "reduce-scatter": float(one.group)}.get(one.kind, 1.0)  # its result is 1 / g of it
    return passes * share * one.bytes / (2 * chip.link) + one.count * HOP * (one.group - 1)


def mean(first: float, other: float, forwards: float) -> float:
    """Average over the forwards of a block: one that reads all columns, then those that read the block."""
    forwards = max(forwards, 1.0)
    return (first + (forwards - 1) * other) / forwards


# ------------------------------------------------------------------------------------------------ work of a forward


def work(job: Job, mesh: Mesh, *, refresh: bool, cache_bytes: int) -> Work:
    """Work per chip of a forward with the cache's refresh, or of its ordinary step.

    A weight matrix takes 2 · (elements on the chip) · (tokens of its rows) operations, an expert's that times
    top_k / experts; the head only the policy's columns; attention 4 · tokens · keys · head size per head and layer.
    Weights are read once; of E experts those that at least one of t tokens chose, E · (1 - (1 - k/E)^t) under an even
    router. A stored cache is read once. What a mesh axis does not divide is computed on each of its chips.
    """
    config, geometry = job.config, job.layout.geometry
    policy = _decode.resolve_policy(job.policy)
    groups = int(np.prod([mesh.shape[axis] for axis in BATCH if axis in mesh.shape]))
    rows = job.batch / groups * (2 if policy.uncond else 1)
    width = loop.width(policy, geometry)
    queries, keys = tokens_read(job, refresh=refresh)
    flops = weight_bytes = 0.0
    for path, spec in named_specs(config):
        name = path.split("/")[-1]
        held = _share(spec, mesh)
        if spec.kind not in ("matrix", "output") and not (name == "embed" and config.tie_embeddings):
            continue  # norms, biases, and rows looked up in a table
        head = name in ("lm_head", "embed")
        tokens = rows * (width if head else queries)
        is_expert = name.startswith("e_")
        used = config.top_k / config.num_experts if is_expert else 1.0
        touched = 1 - (1 - used) ** tokens if is_expert else 1.0
        itemsize = np.dtype(jax.numpy.dtype(spec.dtype or config.param_dtype)).itemsize
        flops += 2 * held * used * tokens
        weight_bytes += held * touched * itemsize
    tensor = mesh.shape.get("tensor", 1)
    heads = config.num_heads / (tensor if config.num_heads % tensor == 0 else 1)
    flops += 4 * config.num_layers * heads * config.head_dim * rows * queries * keys
    return Work(flops, weight_bytes, float(0 if keys == queries else cache_bytes))


def _share(spec: Any, mesh: Mesh) -> float:
    """Elements of a leaf on one chip."""
    size = float(np.prod(spec.shape, dtype=np.float64))
    for axis in partition(spec, mesh):
        size /= mesh.shape[axis] if axis is not None else 1
    return size


def tokens_read(job: Job, *, refresh: bool) -> tuple[int, int]:
    """(tokens, keys) per row of a forward, from the shapes with which the cache calls the model.

    Where a cache may call it in two ways the smaller is meant: the other serves rows with given blocks (infilling).
    """
    cache, geometry = _decode.resolve_cache(job.cache), job.layout.geometry
    policy = _decode.resolve_policy(job.policy)
    calls: list[tuple[int, int]] = []
    context = Context(Observed(job.decoder, calls), abstract_params(job.config), geometry, loop.width(policy, geometry))
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), job.layout.rows)
    run = cache.refresh if refresh or cache.always else cache.step

    def forward(params: PyTree, rows: Any) -> Any:
        context.params = params
        state = cache.init(context, rows)
        calls.clear()
        return run(context, rows, rows.block, state).hidden

    jax.eval_shape(forward, context.params, rows)
    return min(calls)


class Observed:
    """A model that notes how many tokens and keys it is called with."""

    def __init__(self, model: Any, calls: list[tuple[int, int]]) -> None:
        self.model, self.calls, self.config = model, calls, model.config

    def apply(
        self, params: PyTree, tokens: Any, position: Any, valid: Any, past: Any = None, **rest: Any
    ) -> ModelOutput:
        stored = 0 if past is None else past.position.shape[1]
        self.calls.append((tokens.shape[1], tokens.shape[1] + stored))
        return self.model.apply(params, tokens, position, valid, past, **rest)

    @property
    def tiling(self) -> Any:
        return self.model.tiling

    def head(self, params: PyTree, hidden: Any, first: Any = None) -> Any:
        return self.model.head(params, hidden, first)


# ------------------------------------------------------------------------------------------------ tokens and money


@dataclasses.dataclass(frozen=True)
class Bill:
    """What `tokens` cost with every row busy: rows/s and lengths are the user's to judge."""

    tokens_per_second: float
    chip_hours: float
    chip_hours_per_million: float
    price: float | None
    price_per_million: float | None


def bill(
    seconds: float, *, batch: int, chips: int, tokens_per_forward: float, tokens: float, price: float | None
) -> Bill:
    """tokens/s = batch · tokens_per_forward / seconds; chip-hours = chips · tokens / (tokens/s) / 3600."""
    rate = batch * tokens_per_forward / seconds
    per_million = chips * 1e6 / rate / 3600
    hours = per_million * tokens / 1e6
    money = None if price is None else (price * hours, price * per_million)
    return Bill(rate, hours, per_million, *(money or (None, None)))

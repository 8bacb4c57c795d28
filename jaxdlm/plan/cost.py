"""Arithmetic of one forward: what the chips must compute and read, and what it costs at the published peak figures."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from jaxdlm.core import loop, reads
from jaxdlm.core.rule import Decoding
from jaxdlm.models import Backbone
from jaxdlm.models.params import abstract_params, named_specs
from jaxdlm.models.segments import segments
from jaxdlm.plan.aot import Job
from jaxdlm.plan.chips import Chip
from jaxdlm.plan.collectives import Collective
from jaxdlm.sharding import BATCH, partition
from jaxdlm.speculative import loop as pairs
from jaxdlm.speculative.policy import Decoding as PairDecoding
from jaxdlm.speculative.state import Drafter

HOP = 1e-6  # seconds that a message takes per chip on its way; an assumption


@dataclasses.dataclass(frozen=True)
class Work:
    """One forward on one chip: floating-point operations of its matrix products, bytes of weights and of cache read."""

    flops: float
    weight_bytes: float
    cache_bytes: float

    def plus(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


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


# ------------------------------------------------------------------------------------------------ work of a forward


def kinds(job: Job, tokens_per_forward: float) -> dict[str, float]:
    """The kinds of forwards of a row and their shares, at so many tokens per forward, block after block.

    "every": all are alike. "first": the cache reads everything again (the first of a block, and what its clock says
    besides); "other": it reads what its step reads.
    """
    if job.autoregressive or job.kept.recomputes_all:
        return {"every": 1.0}
    geometry = job.layout.geometry
    each = math.ceil(geometry.block / tokens_per_forward)
    column = np.arange(geometry.canvas)
    written = column // geometry.block * each + (column % geometry.block / tokens_per_forward).astype(int)
    forwards = np.array([each * geometry.blocks])
    cached = int(reads.forwards_cached(job.kept, written[None], forwards, geometry.block)[0]) / int(forwards[0])
    return {"first": 1 - cached, "other": cached}


def mean(values: dict[str, float], shares: dict[str, float]) -> float:
    """The average over the forwards of a row."""
    return sum(share * values[kind] for kind, share in shares.items())


def work(job: Job, mesh: Mesh, *, refresh: bool) -> Work:
    """Work per chip of a forward in which the cache reads everything, or of its ordinary step; of an autoregressive model
    of a round, its draft's forwards included.

    A weight matrix takes 2 · (elements on the chip) · (columns that go through it) operations, an expert's that times
    top_k / experts; the head only the columns that are asked for; attention 4 · pairs of query and key · head size per
    head and layer. Weights are read once per pass; of E experts those that at least one of t tokens chose, E · (1 - (1 -
    k/E)^t) under an even router. Stored keys and values are read once. What a mesh axis does not divide is computed on
    each of its chips, and so is a draft.
    """
    groups = int(np.prod([mesh.shape[axis] for axis in BATCH if axis in mesh.shape]))
    rows = job.batch / groups
    if job.autoregressive:
        parts = pair_reads(job)
        alone = AbstractMesh((1,), ("data",))
        models = {"model": (job.config, mesh), "draft": (draft_config(job), alone)}
        return functools.reduce(Work.plus, (_work(*models[name], part, rows) for name, part in parts.items()))
    policy, geometry = job.method, job.layout.geometry
    both = 2 if policy.traits.uncond else 1
    versions, width = policy.traits.versions, loop.width(policy, geometry)
    decoding = Decoding(job.decoder, abstract_params(job.config), policy, job.kept, geometry)
    counted = reads.of_cache(decoding, one_row(job), refresh=refresh)
    soft = width if job.config.self_conditioning else 0
    many = versions if job.kept.recomputes_all or not refresh else 1
    asked = width * many * (2 if policy.traits.blind else 1)
    asked += geometry.length if policy.traits.attention else 0  # the anchors' own logits
    counted = counted._replace(head=counted.head + asked, heads=counted.heads + 1, soft=counted.soft + soft)
    return _work(job.config, mesh, counted, rows * both)


def one_row(job: Job) -> Any:
    """A row of the job, as shapes."""
    rows, config, policy = job.layout.rows, job.config, job.method
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), rows)
    if config.self_conditioning:
        shape = (1, loop.width(policy, job.layout.geometry), config.hidden_size)
        rows = rows._replace(condition=jax.ShapeDtypeStruct(shape, config.param_dtype))
    return rows


def draft_config(job: Job) -> Any:
    """The configuration of the draft model, or None."""
    model = job.method.drafter.model
    return None if model is None else model.config


def pair_reads(job: Job) -> dict[str, reads.Reads]:
    """Reads of the target ("model") and of the draft in a round of one row."""
    watch, policy = reads.Watch(), job.method
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), job.pair[0])
    policy = jax.tree.map(lambda x: x if hasattr(x, "dtype") else jax.ShapeDtypeStruct((), np.float32), policy)
    decoding = PairDecoding(job.lm.model, abstract_params(job.config), policy)

    def start(rows: Any, decoding: PairDecoding) -> Any:
        return pairs.init(rows, decoding, job.pair[1], job.max_new, "none")

    def step(carry: Any, decoding: PairDecoding) -> Any:
        policy = dataclasses.replace(decoding.policy, drafter=_watched(decoding.policy.drafter, watch))
        return pairs.step(carry, PairDecoding(watch.model("model", decoding.model), decoding.params, policy))

    return watch.count(step, jax.eval_shape(start, rows, decoding), decoding)


def _watched(drafter: Any, watch: reads.Watch) -> Any:
    """A drafter whose models are watched."""
    changes = {}
    for field in dataclasses.fields(drafter):
        value = getattr(drafter, field.name)
        if isinstance(value, Backbone):
            changes[field.name] = watch.model("draft", value)
        elif isinstance(value, Drafter):
            changes[field.name] = _watched(value, watch)
    return dataclasses.replace(drafter, **changes) if changes else drafter


THROUGH = {"wq": "query", "wk": "key", "wv": "value", "wo": "out"}  # of a layer; everything else is its feed-forward


def _work(config: Any, mesh: Any, counted: reads.Reads, rows: float) -> Work:
    """Work per chip of what `rows` rows of a chip, each like the counted one, send through a model."""
    flops = weight_bytes = cache_bytes = 0.0
    runs = segments(config)
    for path, spec in named_specs(config):
        name, held = path.split("/")[-1], _share(spec, mesh)
        if path in ("embed", "lm_head"):
            head = path == "lm_head" or config.tie_embeddings
            columns, passes = (counted.head, counted.heads) if head else (0.0, 0.0)
            columns += counted.soft if path == "embed" else 0.0
            passes = max(passes, float(columns > 0))
        elif spec.kind not in ("matrix", "output"):
            continue  # norms, biases, and rows looked up in a table
        elif path.startswith("segments/"):
            layers = list(runs[int(path.split("/")[1])].layers(int(path.split("/")[2])))
            columns = getattr(counted, THROUGH.get(name, "feed"))[layers].mean()
            passes = counted.passes[layers].mean()
        else:
            columns, passes = counted.soft, float(counted.soft > 0)
        expert = name.startswith("e_")
        used = config.top_k / config.num_experts if expert else 1.0
        touched = 1 - (1 - used) ** (rows * columns / max(passes, 1.0)) if expert else 1.0
        flops += 2 * held * used * rows * columns
        weight_bytes += held * touched * passes * np.dtype(jax.numpy.dtype(spec.dtype or config.param_dtype)).itemsize
    tensor = mesh.shape.get("tensor", 1)
    heads = config.num_heads / (tensor if config.num_heads % tensor == 0 else 1)
    for layer, kind in enumerate(config.kinds):
        kv, size = config.attention_shape(kind)
        flops += 4 * heads * size * rows * counted.pairs[layer]
        column = 2 * kv / (tensor if kv % tensor == 0 else 1) * size * jax.numpy.dtype(config.param_dtype).itemsize
        cache_bytes += column * rows * counted.stored[layer]
    return Work(float(flops), float(weight_bytes), float(cache_bytes))


def _share(spec: Any, mesh: Mesh) -> float:
    """Elements of a leaf on one chip."""
    size = float(np.prod(spec.shape, dtype=np.float64))
    for axis in partition(spec, mesh):
        size /= mesh.shape[axis] if axis is not None else 1
    return size


# ------------------------------------------------------------------------------------------------ tokens and money


@dataclasses.dataclass(frozen=True)
class Bill:
    """The cost of `tokens` with every row busy: rows/s and lengths are the user's to judge."""

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

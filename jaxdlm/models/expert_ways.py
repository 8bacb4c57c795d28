"""The feed-forward of chosen experts, and which implementation runs: a kernel on TPUs, a grouped product on GPUs, every
expert on every token, or XLA's ragged products."""

import functools
import importlib
import importlib.util
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec

from jaxdlm.models import blocks, expert_kernel
from jaxdlm.models.apart import Place, Within
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.explain import Way, first
from jaxdlm.models.layers import ACTIVATE, read
from jaxdlm.quant import QuantizedLeaf
from jaxdlm.typing import Array, Float, Float32, Int32

CHUNK = 256  # tokens that all experts read at once
BALANCE = 200  # operations in the time of a byte: 166 to 560 of TPUs, 190 to 240 as measured on H200 and H100
LEAD = 1.25  # how much cheaper by count a grouped product must be than products that sort and gather nothing

Weights = tuple[Any, Any, Any]  # gate and up [E, D, F], down [E, F, D]; or codes of them


class Routing(NamedTuple):
    """The experts of each token and their weights; one that is not among a device's own has the number of its own."""

    weight: Float32[Array, "M k"]
    chosen: Int32[Array, "M k"]


class Case(NamedTuple):
    """What a choice goes by; of several devices what one of them has. platform: that the program runs on."""

    tokens: int
    choices: int
    experts: int
    hidden: int
    wide: int
    itemsize: int
    size: float  # bytes of a weight's element
    platform: str
    stack: bool  # the whole stack is at hand, and the program for the one device that has it
    coded: bool
    group: int | None  # rows of codes that share a scale; None: no codes, or a scale for each channel

    @property
    def pairs(self) -> int:
        return self.tokens * self.choices


def experts(x: Float[Array, "M D"], routing: Routing, weights: Weights, config: ModelConfig) -> Float32[Array, "M D"]:
    """Σ_j w_j · (act(x·gate) ⊙ (x·up))·down over the chosen experts, by the first of `WAYS` that applies.

    No token is dropped, and a row's result knows no other row. weights: leaves of one layer. Where several devices share
    the experts or their width, each computes what it has of every token, and the sums meet: [M, D] numbers.
    """
    lying = weights[0]
    if isinstance(lying, Within) and lying.place.mesh is not None:
        return _over_devices(x, routing, weights, config, lying.place)
    return combine(_outputs(x, routing.chosen, weights, config), routing.weight, config)


def _outputs(x: Array, chosen: Array, weights: Weights, config: ModelConfig) -> Float[Array, "M k D"]:
    case = case_of(x, chosen, weights)
    part = f"experts, {case.tokens} tokens to {case.choices} of {case.experts}, {case.platform}"
    return first(part, WAYS, case).run(x, chosen, weights, config)


def combine(outputs: Float[Array, "M k D"], weights: Float32[Array, "M k"], config: ModelConfig) -> Array:
    """Σ over k in float32; the product is in the activation dtype unless the family keeps its weights in float32."""
    if config.router_in_f32 or config.moe_parallel_dense:
        return jnp.sum(outputs.astype(jnp.float32) * weights[:, :, None], axis=1)
    product = outputs * weights.astype(outputs.dtype)[:, :, None]
    return jnp.sum(product.astype(jnp.float32), axis=1)


def _over_devices(
    x: Array, routing: Routing, weights: Weights, config: ModelConfig, place: Place
) -> Float32[Array, "M D"]:
    """Each device its own experts, or its part of all, for the tokens of its rows; where the program around is split by hand
    already (the groups of `jaxdlm batch`), over the other axes. XLA would sum each expert's results over the devices
    before it weights them."""
    mesh, around = place.mesh, jax.sharding.get_abstract_mesh()
    assert mesh is not None
    free = frozenset(mesh.axis_names) - frozenset(around.manual_axes)
    rows = tuple(axis for axis in place.rows if axis in free)
    rows = rows if x.shape[0] % math.prod(mesh.shape[axis] for axis in rows) == 0 else ()
    wide, owners = place.wide, place.experts

    def one(x: Array, routing: Routing, stacks: tuple[Array, ...], layer: Array) -> Array:
        own, at = stacks[0].shape[1], jax.lax.axis_index(owners) if owners else 0
        chosen = routing.chosen - at * own
        mine = (chosen >= 0) & (chosen < own)
        leaves = [
            Within(jax.lax.dynamic_index_in_dim(w, layer, 0, False), w, layer, Place(place.platform)) for w in stacks
        ]
        outputs = _outputs(x, jnp.where(mine, chosen, own), (leaves[0], leaves[1], leaves[2]), config)
        found = combine(jnp.where(mine[:, :, None], outputs, 0), routing.weight, config)
        shared = tuple(axis for axis in (wide, owners) if axis)
        return jax.lax.psum(found, shared) if shared else found

    tokens, up = PartitionSpec(rows or None), PartitionSpec(None, owners, None, wide)
    down = PartitionSpec(None, owners, wide, None)
    over = jax.shard_map(
        one, mesh=mesh if around.empty else None, in_specs=(tokens, tokens, (up, up, down), PartitionSpec()),
        out_specs=tokens, axis_names=free, check_vma=False,
    )  # fmt: skip
    return over(x, routing, tuple(weight.stack for weight in weights), weights[0].layer)


def case_of(x: Array, chosen: Array, weights: Weights) -> Case:
    """The case of a call."""
    within = [one for one in weights if isinstance(one, Within)]
    own = weights[2].own if within else weights[2]
    grouped = isinstance(own, QuantizedLeaf) and own.scale.shape[-2] > 1
    (tokens, choices), (experts, wide, hidden) = chosen.shape, own.shape[-3:]
    return Case(
        tokens, choices, experts, hidden, wide, x.dtype.itemsize, blocks.bytes_of(own),
        within[0].place.platform if within else jax.default_backend(), bool(within), isinstance(own, QuantizedLeaf),
        blocks.group_of(own) if grouped else None,
    )  # fmt: skip


def cost(case: Case, touched: float, rows: float, moved: float) -> float:
    """Operations that fit into the time of the call: those of so many rows, or those beside the bytes of the weights of
    the experts that are touched and of the rows that move."""
    each = 3 * case.hidden * case.wide
    return max(2 * each * rows, BALANCE * (touched * each * case.size + moved * case.hidden * case.itemsize))


def cost_of_every(case: Case) -> float:
    """Weights once per chunk, each token copied for each expert."""
    rows = case.tokens * case.experts
    return cost(case, case.experts * -(-case.tokens // CHUNK), rows, 2 * rows)


def cost_of_groups(case: Case, rows: int) -> float:
    """Of a grouped product in tiles of so many rows."""
    touched = expert_kernel.touched(case.tokens, case.choices, case.experts)
    return cost(case, touched, max(touched * rows, case.pairs), 4 * case.pairs)


def cost_of_ragged(case: Case) -> float:
    """XLA multiplies all rows, copied and masked, with each expert, on every platform."""
    rows = case.pairs * case.experts
    return cost(case, case.experts, rows, 2 * rows)


def _too_dear(case: Case, rows: int) -> str | None:
    groups, every = cost_of_groups(case, rows), cost_of_every(case)
    return None if groups * LEAD <= every else f"every expert on {case.tokens} tokens counts {every / groups:.2f} of it"


def _kernel_refuses(case: Case) -> str | None:
    if case.platform != "tpu":
        return "for TPUs"
    if not case.stack:
        return "nobody says which part of the weights each chip has"
    if case.hidden % 128 or case.wide % 128:
        return f"wants widths in steps of 128, these are {case.hidden} and {case.wide}"
    part = expert_kernel.slice_of(case.hidden, case.wide, case.size)
    if part is None:
        return f"no part of an expert of {case.hidden} × {case.wide} fits on the chip"
    if case.group is not None and part != case.wide and part % (8 * case.group):
        return f"{part} rows of down are no eight groups of {case.group}"
    return None


def _kernel(x: Array, chosen: Array, weights: Weights, config: ModelConfig) -> Array:
    run = functools.partial(expert_kernel.grouped, act=ACTIVATE[config.activation])
    stacks, layer = tuple(one.stack for one in weights), weights[0].layer
    interpreted = functools.partial(run, interpret=True)
    return jax.lax.platform_dependent(x, chosen, stacks, layer, tpu=run, default=interpreted)


def _tokamax_refuses(case: Case) -> str | None:
    if case.platform != "gpu":
        return "for GPUs"
    if importlib.util.find_spec("tokamax") is None:
        return "the package tokamax is not installed"
    if not case.stack:
        return "nobody says which part of the weights each device has"
    if case.coded:
        return "the weights are codes"
    return _too_dear(case, 64)


def _tokamax(x: Array, chosen: Array, weights: Weights, config: ModelConfig) -> Array:
    """Grouped products over the experts of all layers, those of others without a row: no layer is copied out of the stack."""
    ragged_dot = importlib.import_module("tokamax").ragged_dot
    experts, layer = weights[0].own.shape[0], weights[0].layer
    stacks = [one.stack.reshape(-1, *one.stack.shape[2:]) for one in weights]

    def times(rows: Array, number: int, sizes: Array) -> Array:
        every = jnp.zeros(stacks[number].shape[0], jnp.int32)
        every = jax.lax.dynamic_update_slice(every, sizes, (layer * experts,))
        weight = stacks[number].astype(rows.dtype)
        return ragged_dot(rows, weight, every, preferred_element_type=jnp.float32).astype(rows.dtype)

    return _sorted(x, chosen, experts, times, config)


def _every_refuses(case: Case) -> str | None:
    every, plain = cost_of_every(case), cost_of_ragged(case)
    if case.platform == "cpu":
        return "on a CPU a row's bits are those of the ragged products"
    if case.platform == "tpu" and not case.stack:
        return "several chips would sum the results of all experts"
    return None if every <= plain else f"counts {every / plain:.2f} of the ragged products"


def _every(
    x: Float[Array, "M D"], chosen: Int32[Array, "M k"], weights: Weights, config: ModelConfig, chunk: int = CHUNK
) -> Float[Array, "M k D"]:
    """All experts on all tokens, a chunk of tokens at a time; the chosen outputs are picked."""
    tokens = x.shape[0]
    if tokens > chunk:
        padded = -(-tokens // chunk) * chunk - tokens
        x, chosen = (jnp.pad(a, ((0, padded), (0, 0))).reshape(-1, chunk, a.shape[1]) for a in (x, chosen))
        out = jax.lax.map(lambda piece: _every(piece[0], piece[1], weights, config, chunk), (x, chosen))
        return rearrange(out, "n M k D -> (n M) k D")[:tokens]
    # a copy of the tokens per expert: otherwise the products may become one, and the weights be transposed for it
    gate, up, down = (_own(one, x.dtype) for one in weights)
    rows = jax.lax.optimization_barrier(jnp.broadcast_to(x[None], (gate.shape[0], *x.shape)))
    times = lambda rows, weight: jnp.einsum("emi,eio->emo", rows, weight)  # noqa: E731
    wide = ACTIVATE[config.activation](times(rows, gate)) * times(rows, up)
    return times(wide, down)[chosen, jnp.arange(tokens)[:, None]]


def _ragged(x: Array, chosen: Array, weights: Weights, config: ModelConfig) -> Array:
    """The plain form."""

    def times(rows: Array, number: int, sizes: Array) -> Array:
        weight = _own(weights[number], x.dtype)
        return jax.lax.ragged_dot(rows, weight, sizes, preferred_element_type=jnp.float32).astype(x.dtype)

    return _sorted(x, chosen, case_of(x, chosen, weights).experts, times, config)


def _own(weight: Any, dtype: Any) -> Array:
    return read(weight.own if isinstance(weight, Within) else weight, dtype)


def _sorted(x: Array, chosen: Array, count: int, times: Any, config: ModelConfig) -> Array:
    """The rows are sorted by expert (stably) and brought back afterwards. times(rows, which weight, sizes): the product."""
    pairs = chosen.reshape(-1)
    order = jnp.argsort(pairs, stable=True)
    sizes = jnp.bincount(pairs, length=count).astype(jnp.int32)  # what others have comes last, and is not counted
    rows = x[order // chosen.shape[1]]
    single = rows.shape[0] == 1
    rows = jnp.pad(rows, ((0, 1), (0, 0))) if single else rows  # see `layers.product`
    wide = ACTIVATE[config.activation](times(rows, 0, sizes)) * times(rows, 1, sizes)
    out = times(wide, 2, sizes)[:1] if single else times(wide, 2, sizes)
    return out[jnp.argsort(order)].reshape(*chosen.shape, x.shape[-1])


WAYS = (
    Way("kernel", _kernel_refuses, _kernel), Way("tokamax", _tokamax_refuses, _tokamax),
    Way("every", _every_refuses, _every), Way("ragged", lambda case: None, _ragged),
)  # fmt: skip

"""The parts of a decoder layer as functions of arrays. Axes: B rows, T queries, S keys, D hidden, N query heads,
K key/value heads, G = N / K, H head size, F feed-forward width."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Tiling, take_tile
from jaxdlm.models import codes_kernel
from jaxdlm.models.apart import Chosen, Within, contracted
from jaxdlm.models.attention import Attend, attend
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.explain import Way, first
from jaxdlm.models.rope import Rotation, rotate
from jaxdlm.quant import QuantizedLeaf
from jaxdlm.typing import Array, Bool, Float, Float32, Int32

ACTIVATE = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def read(leaf: Any, dtype: Any) -> Any:
    """A weight in the activation dtype; one of several layers' stays so, for `product`."""
    if isinstance(leaf, Chosen | Within):
        return leaf
    if isinstance(leaf, QuantizedLeaf):
        return leaf.dequantize(dtype)
    return leaf.astype(dtype)


def product(form: str, x: Float[Array, "..."], weight: Array | Chosen | Within) -> Float[Array, "..."]:
    """`einsum(form, x, weight)`, summed in float32 and rounded once, by an order of sums that knows no other row.

    form: its first operand's last letters are what is summed over. 16 bits: XLA's CPU product with a result of 16 bits
    widens its operands, and then takes its way, and with it the order of the sums, from the number of rows; that with a
    float32 result has one way for two rows and more (and takes half the time), so one row is filled up to two.
    """
    if isinstance(weight, Chosen):
        return weight.product(product, form, x)
    if isinstance(weight, Within):
        size = " × ".join(map(str, weight.own.codes.shape))
        return first(f"product with {size} codes in groups", CODES, weight).run(form, x, weight)
    if x.dtype.itemsize > 2:
        return jnp.einsum(form, x, weight)
    return wide_product(form, x, weight).astype(x.dtype)


def _of_codes(form: str, x: Array, weight: Within) -> Array:
    """`product` by a kernel that reads codes where they lie."""
    summed = contracted(form)
    flat = x.reshape(-1, weight.stack.codes.shape[-2])
    interpreted = functools.partial(codes_kernel.product, interpret=True)
    out = jax.lax.platform_dependent(flat, weight.stack, weight.layer, tpu=codes_kernel.product, default=interpreted)
    return out.reshape(*x.shape[: x.ndim - summed], *weight.own.tail[summed:])


CODES = (
    Way("kernel", lambda weight: codes_kernel.refuses(weight.stack), _of_codes),
    Way("dequantised", lambda weight: None, lambda form, x, weight: product(form, x, read(weight.own, x.dtype))),
)


def wide_product(form: str, x: Float[Array, "..."], weight: Array) -> Float32[Array, "..."]:
    """`product` before it is rounded; of float32 operands as XLA has it."""
    summed = contracted(form)
    single = x.ndim > summed and x.size == np.prod(x.shape[x.ndim - summed :]) and x.dtype.itemsize <= 2
    filled = jnp.concatenate([x, x], axis=0) if single else x
    out = jnp.einsum(form, filled, weight, preferred_element_type=jnp.float32)
    return out[:1] if single else out


def columns(leaf: Any, axis: int, first: Int32[Array, ""], tiling: Tiling) -> Any:
    """The part of a weight [D, V] or [V, D] that the logits of a tile's ids are made of; `axis` is that of the
    vocabulary."""
    if isinstance(leaf, QuantizedLeaf):
        return leaf.outputs(first, tiling)
    return take_tile(leaf, axis, first, tiling)


def rms_norm(x: Float[Array, "... D"], weight: Array | None, config: ModelConfig) -> Float[Array, "... D"]:
    """x · (mean(x²) + eps)^(-1/2) · w, normalised in float32; where the scale is applied decides bfloat16 agreement."""
    wide = x.astype(jnp.float32)
    normal = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + config.norm_eps)
    if weight is None:
        return normal.astype(x.dtype)
    scale = weight.astype(jnp.float32 if config.norm_scale_in_f32 else x.dtype)
    scale = (scale + 1 if config.norm_plus_one else scale).reshape((1,) * (x.ndim - 1) + weight.shape)
    return (normal.astype(scale.dtype) * scale).astype(x.dtype)


def attention(
    leaves: Mapping[str, Any],
    x: Float[Array, "B T D"],
    turn: Rotation,
    allow: Bool[Array, "B T S"],
    past: tuple[Array, Array] | None,
    config: ModelConfig,
) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
    """Self-attention of one layer; also returns this call's keys and values [B, T, K, H]."""
    q, k, v = project(leaves, x, turn, config)
    keys, values = (k, v) if past is None else (after(past[0], k), after(past[1], v))
    return combine(leaves, q, keys, values, allow, config), (k, v)


def project(
    leaves: Mapping[str, Any], x: Float[Array, "B T D"], turn: Rotation, config: ModelConfig
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
    """Queries, keys and values, normalised and rotated."""
    dtype = x.dtype

    def heads(name: str) -> Array:
        wide = product("btd,dnh->btnh", x, read(leaves[f"w{name}"], dtype))
        return wide + leaves[f"b{name}"].astype(dtype)[None, None] if config.qkv_bias else wide

    q, k = heads("q"), heads("k")
    v = heads("v") if "wv" in leaves else k
    if config.qk_norm:
        q, k = rms_norm(q, leaves["q_norm"], config), rms_norm(k, leaves["k_norm"], config)
    if config.v_norm:
        v = rms_norm(v, None, config)
    q, k = (rotate(part, turn, config.rope_in_f32) for part in (q, k))
    q = q if turn.query is None else q * turn.query.astype(dtype)
    return q, k, v


def combine(
    leaves: Mapping[str, Any],
    q: Float[Array, "B T N H"],
    keys: Array | tuple[Array, ...],
    values: Array | tuple[Array, ...],
    allow: Bool[Array, "B T S"],
    config: ModelConfig,
    attend: Attend = attend,
) -> Float[Array, "B T D"]:
    """Attention of projected queries, and the output projection."""
    scale = q.shape[-1] ** -0.5 if config.attn_scale is None else config.attn_scale
    return product("btnh,nhd->btd", attend(q, keys, values, allow, scale), read(leaves["wo"], q.dtype))


def after(past: Array, fresh: Array) -> tuple[Array, Array]:
    """The stored columns, then these, as two parts: `attend` wants them so."""
    return past.astype(fresh.dtype), fresh


def mlp(leaves: Mapping[str, Any], x: Float[Array, "... D"], config: ModelConfig, prefix: str = "") -> Array:
    """(act(x·gate) ⊙ (x·up))·down, or act(x·up)·down without a gate."""
    act = ACTIVATE[config.activation]
    times = lambda x, name: product("...i,io->...o", x, read(leaves[f"{prefix}{name}"], x.dtype))  # noqa: E731
    up = times(x, "up")
    return times(act(times(x, "gate")) * up if config.gated_mlp else act(up), "down")

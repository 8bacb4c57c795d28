"""Every parameter, declared once: shape, logical axes, initial distribution. Shapes, shardings and inits follow."""

import functools
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.segments import LayerShape, segments
from jaxdlm.typing import Array, PyTree

INITS = ("train", "normal", "loud")


class ParamSpec(NamedTuple):
    """One leaf. `axes` names each dimension (the table of `jaxdlm.sharding`); `fan_in` scales the initial matrix.

    kind: embed, matrix, output (a matrix that writes to the residual stream), norm, bias, router_bias, scale (a
    multiplier near one) or layer_scalar.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    kind: str
    fan_in: int = 1
    dtype: str | None = None  # None: the model's


def param_specs(config: ModelConfig) -> PyTree:
    """The parameter tree with a ParamSpec at every leaf."""
    d, v = config.hidden_size, config.vocab_size
    tree: dict[str, Any] = {"embed": ParamSpec((v, d), ("vocab", "embed"), "embed", d)}
    tree["final_norm"] = ParamSpec((d,), (None,), "norm")
    if not config.tie_embeddings:
        tree["lm_head"] = ParamSpec((d, v), ("embed", "vocab"), "matrix", d)
    tree["segments"] = tuple(
        tuple(_layer(config, shape, segment.repeats) for shape in segment.shapes) for segment in segments(config)
    )
    if config.layer_scalar:
        for mode in ("prefix", "canvas"):
            tree[f"layer_scalar_{mode}"] = ParamSpec((config.num_layers,), (None,), "layer_scalar")
    if config.self_conditioning:
        tree["self_cond"] = {"pre_norm": ParamSpec((d,), (None,), "norm")} | _mlp(config, "", config.intermediate_size)
    return tree


def _layer(config: ModelConfig, shape: LayerShape, repeats: int) -> dict[str, ParamSpec]:
    leaves = _attention(config, shape) | _norms(config, shape)
    if shape.ffn != "moe":
        leaves |= _mlp(config, "", config.intermediate_size)
    if shape.ffn != "dense":
        leaves |= _experts(config)
    return {
        name: leaf._replace(shape=(repeats, *leaf.shape), axes=("layers", *leaf.axes)) for name, leaf in leaves.items()
    }


def _attention(config: ModelConfig, shape: LayerShape) -> dict[str, ParamSpec]:
    d, n = config.hidden_size, config.num_heads
    kind = shape.attention if config.local_shapes_differ else "local"  # equal shapes: head_dim and num_kv_heads
    k, h = config.attention_shape(kind)
    heads = {"q": (n, "heads"), "k": (k, "kv_heads"), "v": (k, "kv_heads")}
    if config.k_eq_v_global and kind == "global":
        del heads["v"]
    leaves = {f"w{x}": ParamSpec((d, m, h), ("embed", axis, None), "matrix", d) for x, (m, axis) in heads.items()}
    leaves["wo"] = ParamSpec((n, h, d), ("heads", None, "embed"), "output", n * h)
    if config.qkv_bias:
        leaves |= {f"b{x}": ParamSpec((m, h), (axis, None), "bias") for x, (m, axis) in heads.items()}
    if config.qk_norm:
        leaves |= {name: ParamSpec((h,), (None,), "norm") for name in ("q_norm", "k_norm")}
    return leaves


def _norms(config: ModelConfig, shape: LayerShape) -> dict[str, ParamSpec]:
    names = ["attn_norm", "mlp_norm"]
    if config.sandwich_norm:
        names += ["post_attn_norm", "post_mlp_norm"]
    if shape.ffn == "parallel":
        names += ["moe_in_norm", "dense_out_norm", "moe_out_norm"]
    return {name: ParamSpec((config.hidden_size,), (None,), "norm") for name in names}


def _mlp(config: ModelConfig, prefix: str, width: int) -> dict[str, ParamSpec]:
    d = config.hidden_size
    leaves = {
        f"{prefix}gate": ParamSpec((d, width), ("embed", "ffn"), "matrix", d),
        f"{prefix}up": ParamSpec((d, width), ("embed", "ffn"), "matrix", d),
        f"{prefix}down": ParamSpec((width, d), ("ffn", "embed"), "output", width),
    }
    if not config.gated_mlp:
        del leaves[f"{prefix}gate"]
    return leaves


def _experts(config: ModelConfig) -> dict[str, ParamSpec]:
    d, e, f = config.hidden_size, config.num_experts, config.expert_size
    leaves = {
        "router": ParamSpec((d, e), (None, None), "matrix", d, "float32" if config.router_in_f32 else None),
        "e_gate": ParamSpec((e, d, f), ("experts", "embed", "ffn"), "matrix", d),
        "e_up": ParamSpec((e, d, f), ("experts", "embed", "ffn"), "matrix", d),
        "e_down": ParamSpec((e, f, d), ("experts", "ffn", "embed"), "output", f),
    }
    if config.router_bias:
        leaves["router_bias"] = ParamSpec((e,), (None,), "router_bias", dtype="float32")
    if config.shared_size:
        leaves |= _mlp(config, "s_", config.shared_size)
    if config.moe_parallel_dense:
        leaves["router_scale"] = ParamSpec((d,), (None,), "scale")
        leaves["per_expert_scale"] = ParamSpec((e,), (None,), "scale")
    return leaves


def init_params(
    config: ModelConfig,
    key: Array,
    *,
    init: str = "train",
    std: float = 0.02,
    loud: bool = False,
    dtype: str | None = None,
) -> PyTree:
    """Random parameters; the same key gives the same leaf whatever the other leaves are.

    init: "train": embedding rows N(0, 1), matrices N(0, 1/fan_in), those that write to the residual stream further
    divided by sqrt(2 layers), norms neutral, biases 0. "normal": matrices and embedding N(0, std²), the rest as
    "train". "loud" (or `loud=True`): every leaf far from neutral, so that a comparison with another implementation
    sees each of them (matrices and biases N(0, 0.15²), norms 1 + N(0, 0.3²)).
    """
    init = "loud" if loud else init
    if init not in INITS:
        raise InputError(f"init {init!r} is unknown; one of {', '.join(INITS)}")
    return map_specs(lambda path, spec: init_leaf(config, path, spec, key, init=init, std=std, dtype=dtype), config)


def init_leaf(
    config: ModelConfig, path: str, spec: ParamSpec, key: Array, *, init: str, std: float = 0.02, dtype: str | None
) -> Array:
    """One leaf of `init_params`; `path` is its name joined with "/" and selects the stream of random numbers."""
    kind = jnp.dtype(spec.dtype or dtype or config.param_dtype)
    key = jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))
    if init == "loud":
        if spec.kind == "layer_scalar":
            return jax.random.uniform(key, spec.shape, kind, 1.0, 1.2)
        center, spread = loud_distribution(config, spec)
        return _normal(key, spec.shape, kind, spread, center)
    if spec.kind in ("norm", "scale", "layer_scalar"):
        return jax.device_put(np.full(spec.shape, _neutral(config, spec), kind))  # jnp.full compiles for each shape
    if spec.kind in ("bias", "router_bias"):
        return jax.device_put(np.zeros(spec.shape, kind))
    scale = std if init == "normal" else _fan_in_scale(spec, config.num_layers)
    return _normal(key, spec.shape, kind, scale, 0.0)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: Array, shape: tuple[int, ...], kind: np.dtype, spread: float, center: float) -> Array:
    """N(center, spread²), by one program for all leaves of a shape."""
    return jax.random.normal(key, shape, kind) * spread + center


def _fan_in_scale(spec: ParamSpec, layers: int) -> float:
    if spec.kind == "embed":
        return 1.0
    scale = 1 / math.sqrt(spec.fan_in)
    return scale / math.sqrt(2 * layers) if spec.kind == "output" else scale


def _neutral(config: ModelConfig, spec: ParamSpec) -> float:
    """The scale with which a norm changes nothing."""
    return 0.0 if spec.kind == "norm" and config.norm_plus_one else 1.0


def loud_distribution(config: ModelConfig, spec: ParamSpec) -> tuple[float, float]:
    """Mean and deviation of a leaf far from neutral."""
    known = {"norm": (_neutral(config, spec), 0.3), "scale": (1.0, 0.2), "router_bias": (0.0, 0.05)}
    return known.get(spec.kind, (0.0, 0.15))


def abstract_params(config: ModelConfig, dtype: str | None = None) -> PyTree:
    """The parameter tree as `jax.ShapeDtypeStruct`; `dtype` replaces `config.param_dtype`."""
    return map_specs(
        lambda _, spec: jax.ShapeDtypeStruct(spec.shape, jnp.dtype(spec.dtype or dtype or config.param_dtype)), config
    )


def count_params(config: ModelConfig) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(math.prod(spec.shape) for _, spec in named_specs(config))


def named_specs(config: ModelConfig) -> Iterator[tuple[str, ParamSpec]]:
    """(path joined with "/", spec) of every leaf, in tree order."""
    leaves = jax.tree_util.tree_leaves_with_path(param_specs(config), is_leaf=is_spec)
    return ((path_name(path), spec) for path, spec in leaves)


def map_specs(function: Callable[[str, ParamSpec], Any], config: ModelConfig) -> PyTree:
    """`function(path, spec)` at every leaf of `param_specs(config)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, spec: function(path_name(path), spec), param_specs(config), is_leaf=is_spec
    )


def is_spec(node: Any) -> bool:
    return isinstance(node, ParamSpec)


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as a name: "segments/0/0/wq"."""
    return "/".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)


def fingerprint(params: PyTree) -> str:
    """The fingerprint of these weights, to which parts trained for them are bound: a hash of every leaf's path, shape
    and up to 64 values.

    Values are rounded to bfloat16, so that a model loaded in float32 and in bfloat16 has one fingerprint.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = leaf if leaf.ndim else leaf.reshape(1)  # one number of a quantised embedding
        at = np.unravel_index(np.linspace(0, leaf.size - 1, min(64, leaf.size)).astype(np.int64), leaf.shape)
        # small leaves come to the host whole, which compiles nothing; of large ones only what is picked
        picked = np.asarray((np.asarray(leaf) if leaf.size <= 2**20 else leaf)[tuple(i.astype(np.int32) for i in at)])
        digest.update(f"{path_name(path)} {leaf.shape} ".encode())
        digest.update(picked.astype(ml_dtypes.bfloat16).tobytes())
    return digest.hexdigest()[:16]

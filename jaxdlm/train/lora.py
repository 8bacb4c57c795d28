"""Low-rank updates (LoRA) of the projections of a model, as a tree of their own beside the frozen weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.low_rank import merge
from jaxdlm.models.params import ParamSpec, init_leaf, named_specs
from jaxdlm.sharding import partition
from jaxdlm.typing import Array, PyTree

INPUTS = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "gate": 1, "up": 1, "down": 1}  # input dimensions after the layer axis


def specs(config: ModelConfig, rank: int) -> dict[str, tuple[ParamSpec, ParamSpec]]:
    """Path of every projection -> (A [R, in..., rank], B [R, rank, out...])."""
    pairs = {}
    for path, spec in named_specs(config):
        inputs = INPUTS.get(path.rsplit("/", 1)[-1])
        if inputs is None:
            continue
        shape, axes, cut = spec.shape, spec.axes, 1 + inputs
        a = ParamSpec((*shape[:cut], rank), (*axes[:cut], None), "matrix", spec.fan_in, "float32")
        b = ParamSpec((shape[0], rank, *shape[cut:]), (axes[0], None, *axes[cut:]), "bias", dtype="float32")
        pairs[path] = (a, b)
    return pairs


def init(config: ModelConfig, rank: int, key: Array, mesh: Mesh | None = None) -> dict[str, dict[str, Array]]:
    """A ~ N(0, 1/fan_in), B = 0, both float32: the model starts as it is. Each leaf is made on its shards."""
    tree = {}
    for path, pair in specs(config, rank).items():
        made = {}
        for name, spec in zip("ab", pair, strict=True):

            def make(key: Array, path: str = f"{path}/{name}", spec: ParamSpec = spec) -> Array:
                return init_leaf(config, path, spec, key, init="train", dtype=None)

            sharding = None if mesh is None else NamedSharding(mesh, partition(spec, mesh))
            made[name] = jax.jit(make, out_shardings=sharding)(key)
        tree[path.replace("/", ".")] = made
    return tree


def tuned(params: PyTree, scale: float = 1.0, rows: tuple[int, ...] = (), dtype: Any = None) -> PyTree:
    """The weights that {"base", "lora"} stand for, in `dtype` (None: the base's); no gradient reaches the base.

    rows: ids whose embeddings learn besides: they are params["rows"], float32[len(rows), D]. With a base in float32 and
    16 bits to compute in, the sum is rounded once: a small update moves as many weights to the next number as it should,
    where weights that have 16 bits themselves would all stay.
    """
    merged = merge(jax.lax.stop_gradient(params["base"]), params["lora"], scale)
    merged = with_rows(merged, rows, params["rows"]) if rows else merged
    return merged if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), merged)


def with_rows(params: PyTree, ids: Any, rows: Array) -> PyTree:
    """The weights with these rows of the embedding in place of theirs."""
    table = params["embed"]
    return {
        **params,
        "embed": table.at[jnp.asarray(ids, jnp.int32)].set(jnp.asarray(rows).astype(table.dtype), unique_indices=True),
    }

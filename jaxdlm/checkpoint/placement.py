"""Leaves that are made where they lie: shardings by path, and random weights without a host copy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from jaxdlm.checkpoint import room
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.params import init_leaf, named_specs
from jaxdlm.sharding import laid, partition


def shardings(config: ModelConfig, mesh: Mesh) -> dict[str, NamedSharding]:
    """Path -> sharding of every leaf of a model, by the table of `jaxdlm.sharding`."""
    return {path: NamedSharding(mesh, partition(spec, mesh)) for path, spec in named_specs(config)}


def leaves_of(config: ModelConfig, dtype: str | None = None) -> list[room.Leaf]:
    """What the weights of a model take, leaf by leaf."""
    kinds = {path: jnp.dtype(spec.dtype or dtype or config.param_dtype) for path, spec in named_specs(config)}
    return [(path, spec.shape, kinds[path].itemsize) for path, spec in named_specs(config)]


def random_params(
    config: ModelConfig, mesh: Mesh | None = None, *, seed: int = 0, init: str = "train", dtype: str | None = None
) -> Any:
    """Random weights of a released size, each leaf made on the shards that hold it: no host copy ever exists.

    For benchmarks and plans (`jaxdlm.load("shape:llada-8b")`); `init` as in `jaxdlm.models.init_params`. Raises InputError
    where a device has no room for its part.
    """
    from jaxdlm.checkpoint.leaf import unflatten

    places = shardings(config, mesh) if mesh is not None else {}
    room.check(f"a model of family {config.family}", leaves_of(config, dtype), places or None)
    key = jax.random.key(seed)
    leaves = {}
    for path, spec in named_specs(config):

        def make(key: Any, path: str = path, spec: Any = spec) -> Any:
            return init_leaf(config, path, spec, key, init=init, dtype=dtype)

        place = laid(path, places.get(path, SingleDeviceSharding(jax.devices()[0])))
        leaves[path] = jax.jit(make, out_shardings=place if path in places or isinstance(place, Format) else None)(key)
    return unflatten(leaves)


def stacked_zeros(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.Array:
    """A zero leaf, allocated on its shards."""
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()

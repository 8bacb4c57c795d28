"""From tensors under hub names to logits, without files: the shortest use of a family's table."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.models import Backbone, ModelConfig, abstract_params
from jaxdlm.models.registry import family_named


def params_of(config: ModelConfig, files: dict[str, np.ndarray]) -> Any:
    """The parameter tree, tensor by tensor through the family's table; every tensor must be used."""
    tree = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), abstract_params(config, "float32"))
    used = set()
    for entry in family_named(config.family).tensors(config, files):
        node = functools.reduce(lambda node, key: node[key], entry.path[:-1], tree)
        sources = [files[name] for name in entry.sources]
        assert all(source.shape == entry.source_shape for source in sources), entry
        leaf = entry.op.forward(sources)
        assert leaf.shape == entry.shape, entry
        node[entry.path[-1]][... if entry.layer is None else entry.layer] = leaf
        used |= set(entry.sources)
    assert used == set(files), used ^ set(files)
    return jax.tree.map(jnp.asarray, tree)


@functools.partial(jax.jit, static_argnums=0)
def logits(model: Backbone, params: Any, tokens: Any, position: Any, valid: Any, past: Any = None) -> jax.Array:
    """Our raw logits."""
    return model.head(params, model.apply(params, tokens, position, valid, past).hidden)

"""Random weights drawn by NumPy: a program for each shape, as `init_params` compiles, takes longer than a small model's tests."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.models import ModelConfig
from jaxdlm.models.params import ParamSpec, loud_distribution, map_specs


def loud_params(config: ModelConfig, seed: int = 0) -> Any:
    """As `init_params(..., loud=True)` in distribution: every leaf far from neutral."""

    def leaf(path: str, spec: ParamSpec) -> Any:
        draws = np.random.default_rng([seed, zlib.crc32(path.encode())])
        if spec.kind == "layer_scalar":
            values = draws.uniform(1.0, 1.2, spec.shape)
        else:
            values = draws.normal(*loud_distribution(config, spec), spec.shape)
        return jax.device_put(values.astype(np.float32).astype(jnp.dtype(spec.dtype or config.param_dtype)))

    return map_specs(leaf, config)

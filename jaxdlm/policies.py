"""The tables of methods and caches, read from their files; `RECIPES` and `TABLE` serve decode, tests and documents alike."""

from collections.abc import Callable
from typing import Any

from jaxdlm import registry
from jaxdlm.caches import CACHES
from jaxdlm.models.config import ModelConfig
from jaxdlm.policy_words import read, read_cache

__all__ = ["ALL", "CACHES", "RECIPES", "TABLE", "default", "read", "read_cache"]

TABLE: tuple[registry.Method, ...] = tuple(registry.methods().values())
RECIPES: dict[str, Callable[..., Any]] = {entry.name: entry.build for entry in TABLE}
ALL = tuple(name for name, entry in registry.caches().items() if "block" in entry.serves)


def default(config: ModelConfig) -> str:
    """The name of the policy that decodes a model by default.

    "threshold" where the model writes over masks, "entropy_bound" over uniform noise, "autoregressive" where it only
    continues a text.
    """
    if config.noise == "uniform":
        return "entropy_bound"
    return "threshold" if config.noise == "mask" and config.tokens.mask is not None else "autoregressive"

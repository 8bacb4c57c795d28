"""Decoding diffusion language models in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdlm import distribution

if TYPE_CHECKING:
    from jaxdlm._public import *  # noqa: F403

__version__ = distribution.VERSION


def __getattr__(name: str) -> Any:
    """A module by itself, or the public names, which bring JAX: `jaxdlm --help` does without them."""
    try:
        return importlib.import_module(f"jaxdlm.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"jaxdlm.{name}":
            raise
    public = importlib.import_module("jaxdlm._public")
    globals().update({each: getattr(public, each) for each in public.__all__})
    if name == "__all__":
        return public.__all__
    try:
        return globals()[name]
    except KeyError:
        raise AttributeError(f"module 'jaxdlm' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]

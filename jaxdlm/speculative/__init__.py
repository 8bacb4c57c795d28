"""Autoregressive decoding, alone or with drafts that a target verifies: `decode(target, prompts, policy=...)`.

Callable: `jd.speculative(draft)` is the method of that name, as `jd.speculative.speculative(draft)` is.
"""

import importlib
import sys
import types
from typing import Any

_METHODS = (
    "autoregressive", "easyspec", "eqspec", "exspec", "lookup", "pearl", "s2d", "specdec_pp", "speculative", "spectr",
)  # fmt: skip
__all__ = [*_METHODS, "generate_on_two"]


class _Speculative(types.ModuleType):
    """A package whose name is that of a method, too."""

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        return __getattr__("speculative")(*args, **arguments)


def __getattr__(name: str) -> Any:
    if name == "__wrapped__":  # where `inspect` finds signature and documentation of what is called
        name = "speculative"
    if name in _METHODS:
        return getattr(importlib.import_module(f"jaxdlm.methods.{name}"), name)
    if name == "generate_on_two":
        return importlib.import_module("jaxdlm.speculative.two_meshes").generate_on_two
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


sys.modules[__name__].__class__ = _Speculative

"""Autoregressive decoding, alone or with drafts that a target verifies: `decode(target, prompts, policy=...)`.

Callable: `jd.speculative(draft)` is the method of that name, as `jd.speculative.speculative(draft)` is.
"""

import importlib
import sys
import types
from typing import Any

from jaxdlm import registry

HELPERS = {  # name -> module
    "count_ngrams": "ngrams", "count_trigrams": "trigrams", "generate_on_two": "two_meshes", "read_ngrams": "ngrams",
    "read_trigrams": "trigrams",
}  # fmt: skip


class _Speculative(types.ModuleType):
    """A package whose name is that of a method, too."""

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        return __getattr__("speculative")(*args, **arguments)


def __getattr__(name: str) -> Any:
    if name == "__wrapped__":  # where `inspect` finds signature and documentation of what is called
        name = "speculative"
    # its own modules are asked for here as well, so that only the method's file may be imported
    if name in registry.files(registry.METHODS) and _left_to_right(registry.method_of(name)):
        return registry.method_of(name).build
    if name in HELPERS:
        return getattr(importlib.import_module(f"jaxdlm.speculative.{HELPERS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*(name for name, known in registry.methods().items() if _left_to_right(known)), *HELPERS]


def _left_to_right(method: registry.Method) -> bool:
    return method.needs == ""


sys.modules[__name__].__class__ = _Speculative

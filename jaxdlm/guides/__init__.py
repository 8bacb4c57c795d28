"""Guides of left-to-right decoding, by name: `jd.autoregressive(guide=jd.guides.repetition(1.2))`.

Each is a function in a file of its own name; the protocol is `jaxdlm.core.guide.Guide`.
"""

import importlib
from typing import Any

from jaxdlm import registry

GUIDES: dict[str, Any] = {
    name: getattr(importlib.import_module(f"{__name__}.{name}"), name) for name in registry.files(__name__)
}
globals().update(GUIDES)  # over the modules of the same names


def __getattr__(name: str) -> Any:
    raise AttributeError(f"there is no guide {name!r}: use one of {', '.join(GUIDES)}")


def __dir__() -> list[str]:
    return list(GUIDES)

"""Guides by name: `jd.autoregressive(guide=jd.guides.repetition(1.2))`, `jd.rules.guided(jd.threshold(), ...)`.

Each is a function in a file of its own name; the protocol is `jaxdlm.core.guide.Guide`.
"""

from typing import Any

from jaxdlm import registry

GUIDES: dict[str, Any] = {name: known.build for name, known in registry.guides().items()}
globals().update(GUIDES)  # over the modules of the same names


def __getattr__(name: str) -> Any:
    raise AttributeError(f"there is no guide {name!r}: use one of {', '.join(GUIDES)}")


def __dir__() -> list[str]:
    return list(GUIDES)

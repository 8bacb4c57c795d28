"""Ways to keep keys and values, by their names in `decode`: `jaxdlm.caches.prefix()`."""

from typing import Any

from jaxdlm import registry

CACHES: dict[str, Any] = {name: known.build for name, known in registry.caches().items()}
globals().update(CACHES)  # over the modules of the same names


def __getattr__(name: str) -> Any:
    raise AttributeError(f"there is no cache {name!r}: use one of {', '.join(CACHES)}")


def __dir__() -> list[str]:
    return list(CACHES)

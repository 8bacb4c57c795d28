"""Where draft tokens come from: a model, the text, a corpus, a model's exits, or nowhere. Each is a class in its own file."""

from typing import Any

from jaxdlm import registry

DRAFTERS: dict[str, Any] = {name: known.build for name, known in registry.drafters().items()}
globals().update(DRAFTERS)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"there is no drafter {name!r}: use one of {', '.join(DRAFTERS)}")


def __dir__() -> list[str]:
    return list(DRAFTERS)

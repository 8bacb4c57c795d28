"""Typed reading of a GGUF file's metadata: every error names the key, and what was never asked for can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdlm.checkpoint.errors import HeaderInvalid
from jaxdlm.checkpoint.gguf.header import Header
from jaxdlm.errors import ConfigUnsupported

REQUIRED: Any = object()


@dataclass(frozen=True)
class Metadata:
    """The values of a header by key. `seen` collects the keys that were asked for."""

    header: Header
    seen: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The value; `default` where the key is absent."""
        self.seen.add(key)
        if key in self.header.values:
            return self.header.values[key]
        if default is REQUIRED:
            raise HeaderInvalid(f"has no {key} in its metadata", file=self.header.path, hint="convert the model again")
        return default

    def integer(self, key: str, default: Any = REQUIRED) -> Any:
        """A whole number."""
        return self._typed(key, default, int, "a whole number")

    def real(self, key: str, default: Any = REQUIRED) -> Any:
        """A number."""
        return self._typed(key, default, (int, float), "a number")

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        """True or false."""
        return self._typed(key, default, bool, "true or false")

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """A string."""
        return self._typed(key, default, str, "a string")

    def strings(self, key: str, default: Any = REQUIRED) -> Any:
        """A list of strings."""
        return self._typed(key, default, list, "an array of strings")

    def numbers(self, key: str, default: Any = REQUIRED) -> Any:
        """An array of numbers."""
        return self._typed(key, default, np.ndarray, "an array of numbers")

    def per_layer(self, key: str, default: Any = REQUIRED) -> Any:
        """A whole number that may be stated once per layer; ConfigUnsupported where the layers differ."""
        value = self.get(key, default)
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.size:
            if (value != value[0]).any():
                raise ConfigUnsupported(
                    f"{self.header.path}: {key} differs from layer to layer, which is not supported"
                )
            return int(value[0])
        return self.integer(key, default)

    def wrong(self, key: str, problem: str, hint: str = "convert the model again") -> HeaderInvalid:
        """The error for a key, to raise."""
        return HeaderInvalid(f"{key} {problem}", file=self.header.path, hint=hint)

    def _typed(self, key: str, default: Any, kind: Any, wanted: str) -> Any:
        value = self.get(key, default)
        good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if key in self.header.values and not good:
            raise self.wrong(key, f"must be {wanted}, got {shown(value)}")
        return value


def shown(value: Any) -> str:
    """A value for messages: arrays by their length."""
    return f"an array of {len(value)}" if isinstance(value, list | np.ndarray) else repr(value)[:60]

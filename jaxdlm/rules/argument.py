"""Checks of a rule's arguments, in its factory: arrays and tracers pass, plain numbers are checked."""

import math
from typing import Any

from jaxdlm.errors import InputError


def number(value: Any, name: str, *, low: float | None = None, high: float | None = None, whole: bool = False) -> Any:
    """`value`, or InputError when a plain number is outside [low, high] or not whole."""
    if isinstance(value, str):
        raise InputError(f"{name}={value!r}: must be a number")
    if not isinstance(value, int | float):
        return value
    if whole and not (math.isfinite(value) and value == int(value)):
        raise InputError(f"{name}={value}: must be a whole number")
    if (low is not None and value < low) or (high is not None and value > high) or value != value:
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InputError(f"{name}={value}: must be {bounds}")
    return int(value) if whole else float(value)

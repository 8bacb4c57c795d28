"""Checks of a rule's arguments, in its factory: arrays and tracers pass, plain numbers are checked."""

import math
from typing import Any

from jaxdlm.core.heat import COLDEST, HOTTEST
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


def temperature(value: Any, name: str = "temperature") -> Any:
    """A temperature T from 0 to 1e30; a plain number below 1e-8 becomes 0. InputError outside, or for None."""
    if value is None:
        raise InputError(f"{name}=None: must be a number, 0 for the best token")
    value = number(value, name, low=0)
    if isinstance(value, float) and value > HOTTEST:
        raise InputError(f"{name}={value}: must be at most {HOTTEST:g}, and is uniform long before")
    return 0.0 if isinstance(value, float) and value < COLDEST else value


def greedy(temperature: Any) -> bool:
    """Whether a checked temperature is known to be 0; an array may be anything."""
    return isinstance(temperature, float) and temperature == 0

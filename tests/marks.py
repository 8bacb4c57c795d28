"""Marks of cases."""

from collections.abc import Iterable
from typing import Any

import pytest


def usual(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """The cases, a tuple where they have several arguments; those that are not chosen run with `-m exhaustive` alone."""
    cases = list(cases)
    assert all(case in cases for case in chosen), "such a case is gone"
    return [case if case in chosen else exhaustive(case) for case in cases]


def exhaustive(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.exhaustive)

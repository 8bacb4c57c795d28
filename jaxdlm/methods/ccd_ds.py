"""ccd_ds: all that stayed coherent over forwards (arXiv 2512.02044)."""

from typing import Any

from jaxdlm.core.rule import Rule
from jaxdlm.methods._ccd import by_coherence
from jaxdlm.registry import method


@method(
    paper="2512.02044",
    idea="all that stayed coherent over forwards",
    use="long texts in which a prediction that holds over forwards is right",
    avoid="short answers whose columns depend on each other: agreement over time says nothing about them jointly",
    order=150,
)
def ccd_ds(
    mode: str = "paper", steps: Any = None, depth: int = 3, top_v: int = 4, eps: Any = None, expand_ratio: Any = 4.0,
    confidence: str = "entropy",
) -> Rule:  # fmt: skip
    """CCD-DS: every coherent column per forward (2512.02044). Arguments as in `ccd`."""
    return by_coherence(mode, steps, depth, top_v, eps, expand_ratio, confidence, dynamic=True)

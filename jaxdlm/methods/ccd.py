"""ccd: the column that stayed coherent over forwards (arXiv 2512.02044)."""

from typing import Any

from jaxdlm.core.rule import Rule
from jaxdlm.methods._ccd import by_coherence
from jaxdlm.registry import method


@method(
    paper="2512.02044",
    idea="the column that stayed coherent over forwards",
    use="to reproduce the paper at a fixed number per forward",
    avoid="for speed: `ccd_ds`",
    scheduled=True,
    order=140,
)
def ccd(
    mode: str = "paper", steps: Any = None, depth: int = 3, top_v: int = 4, eps: Any = None, expand_ratio: Any = 4.0,
    confidence: str = "entropy",
) -> Rule:  # fmt: skip
    """CCD: a fixed number of columns per forward, coherent ones first (2512.02044).

    mode: "paper", or "release" for what its code does (block = max_new there). depth, top_v and eps (nats; `select_coherent`)
    belong to the first, expand_ratio to the second. confidence: "entropy" (Dream; the released code) or "probability"
    (LLaDA).
    """
    return by_coherence(mode, steps, depth, top_v, eps, expand_ratio, confidence, dynamic=False)

"""topk_margin: the largest gap of the two best, on the grid (arXiv 2508.15487)."""

from typing import Any

from jaxdlm.core.rule import Rule
from jaxdlm.methods._dream import dream
from jaxdlm.registry import method
from jaxdlm.rules.sample import margin


@method(
    paper="2508.15487",
    idea="the largest gap of the two best, on the grid",
    use="as maskgit_plus, where two readings compete",
    avoid="as maskgit_plus",
    scheduled=True,
    order=40,
)
def topk_margin(
    steps: Any = None, eps: Any = 1e-3, alg_temp: Any = None, temperature: Any = 0.0, top_p: Any = None,
    top_k: Any = None,
) -> Rule:  # fmt: skip
    """Dream's sampler ranking by the gap of the two best probabilities (2508.15487)."""
    return dream(steps, eps, alg_temp, temperature, top_p, top_k, margin)

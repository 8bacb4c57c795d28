"""maskgit_plus: the most probable, on Dream's time grid (arXiv 2508.15487)."""

from typing import Any

from jaxdlm.core.rule import Rule
from jaxdlm.methods._dream import dream
from jaxdlm.registry import method
from jaxdlm.rules.sample import log_prob


@method(
    paper="2508.15487",
    idea="the most probable, on Dream's time grid",
    use="to reproduce Dream's published runs",
    avoid="few columns: the grid leaves many for the last forward",
    scheduled=True,
    order=30,
)
def maskgit_plus(
    steps: Any = None, eps: Any = 1e-3, alg_temp: Any = None, temperature: Any = 0.0, top_p: Any = None,
    top_k: Any = None,
) -> Rule:  # fmt: skip
    """Dream's sampler ranking by probability, on its time grid (2508.15487). block = max_new: the whole canvas."""
    return dream(steps, eps, alg_temp, temperature, top_p, top_k, log_prob)

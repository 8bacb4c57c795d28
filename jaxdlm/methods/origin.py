"""origin: each column on its own, on the grid (arXiv 2508.15487)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.errors import InputError
from jaxdlm.registry import method
from jaxdlm.rules.sample import sample
from jaxdlm.rules.schedule import select_on_grid


@method(
    paper="2508.15487",
    idea="each column on its own, on the grid",
    use="to sample at the schedule that the model was trained with",
    avoid="for speed or greedy quality",
    scheduled=True,
    order=60,
)
def origin(
    steps: Any = None, eps: Any = 1e-3, alg_temp: Any = None, temperature: Any = 0.0, top_p: Any = None,
    top_k: Any = None,
) -> Rule:  # fmt: skip
    """Dream's default: every open column commits on its own with the grid's probability (2508.15487)."""
    if alg_temp is not None:
        raise InputError("origin has no ranking, so alg_temp means nothing: leave it out, or use maskgit_plus")
    proposal = sample(temperature, top_p=top_p, top_k=top_k, tempered=True)
    return chain(proposal, select_on_grid(steps, eps=eps, bernoulli=True))

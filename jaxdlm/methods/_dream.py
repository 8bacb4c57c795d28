"""What maskgit_plus, topk_margin and entropy share: Dream's sampler on its time grid (arXiv 2508.15487)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.rules.sample import sample
from jaxdlm.rules.schedule import select_on_grid


def dream(steps: Any, eps: Any, alg_temp: Any, temperature: Any, top_p: Any, top_k: Any, measure: Any) -> Rule:
    proposal = sample(temperature, top_p=top_p, top_k=top_k, measure=measure, tempered=True)
    return chain(proposal, select_on_grid(steps, eps=eps, alg_temp=alg_temp))

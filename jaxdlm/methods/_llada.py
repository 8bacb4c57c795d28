"""What low_confidence and random share: LLaDA's sampler (arXiv 2502.09992)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.rules.guidance import guidance
from jaxdlm.rules.sample import sample
from jaxdlm.rules.schedule import select_top_k


def llada(steps: Any, temperature: Any, cfg_scale: Any, measure: Any) -> Rule:
    head = [] if is_zero(cfg_scale) else [guidance(cfg_scale)]
    return chain(*head, sample(temperature, measure=measure), select_top_k(steps))


def is_zero(value: Any) -> bool:
    """A plain 0, which leaves a rule out; an array may be anything."""
    return type(value) in (int, float) and value == 0

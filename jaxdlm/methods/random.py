"""random: k at random (arXiv 2502.09992)."""

from typing import Any

from jaxdlm.core.rule import Rule
from jaxdlm.methods._llada import llada
from jaxdlm.registry import method
from jaxdlm.rules.sample import uniform


@method(
    paper="2502.09992",
    idea="k at random",
    use="to compare with orders; beats confidence order under a fixed number where columns depend on each other",
    avoid="for quality",
    scheduled=True,
    order=20,
)
def random(steps: Any = None, temperature: Any = 0.0, cfg_scale: Any = 0.0) -> Rule:
    """LLaDA's sampler in random order (2502.09992)."""
    return llada(steps, temperature, cfg_scale, uniform)

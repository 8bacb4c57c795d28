"""dawn: threshold, lower for what does not attend to each other (arXiv 2602.06953)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.dawn import select_independent
from jaxdlm.rules.sample import sample


@method(
    paper="2602.06953",
    idea="threshold, lower for columns that do not attend to each other",
    use="long texts whose columns hang together in few places",
    avoid="caches, and texts of under 100 columns at the paper's tau_sink",
    needs="attention",
    order=95,
)
def dawn(
    tau: Any = 0.9, tau_induce: Any = 0.7, tau_low: Any = 0.7, tau_edge: Any = 0.07, tau_sink: Any = 0.01,
    temperature: Any = 0.0, layers: int = 4, strict: bool = False,
) -> Rule:  # fmt: skip
    """DAWN: p >= tau; tau_induce behind sure text; tau_low where nothing depends on each other (2602.06953).

    tau: 0.9. tau_induce: 0.7 (Dream 0.9). tau_low: 0.7 to 0.8 by task. See `select_independent`.
    """
    return chain(sample(temperature), select_independent(tau, tau_induce, tau_low, tau_edge, tau_sink, layers, strict))

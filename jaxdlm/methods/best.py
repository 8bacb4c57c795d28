"""best: credit, local_leap and freedave together (arXiv 2510.06133, 2510.07081, 2510.00294)."""

import math
from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain
from jaxdlm.methods._llada import is_zero
from jaxdlm.registry import method
from jaxdlm.rules.credit import add_credit
from jaxdlm.rules.eos import stop_at_eos
from jaxdlm.rules.local_leap import select_near_anchors
from jaxdlm.rules.prophet import finish_when_clear
from jaxdlm.rules.sample import sample
from jaxdlm.steppers.freedave import draft_and_verify


@method(
    paper="2510.06133, 2510.07081, 2510.00294",
    idea="credit, local_leap and freedave together",
    use="the default composition when one or a few rows are decoded and latency counts",
    avoid="large batches: its drafts multiply the compute of a forward",
    needs="versions",
    order=180,
)
def best(
    alpha: Any = 0.65, beta: Any = 0.7, gamma: Any = 0.2, kappa: Any = 0.9, tau: Any = 0.75, radius: Any = 4,
    thresholds: tuple[Any, Any, Any] | None = None, answer_start: Any = None, answer_length: int = 5, eos: bool = True,
    draft_steps: int = 4, temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """Several methods at once: FreeDave around credit | sample | local_leap [| prophet] [| stop_at_eos].

    Each part is that of its own recipe and goes away with alpha = 0, radius = 0 and tau = kappa, thresholds = None,
    eos = False, draft_steps = 1. FreeDave changes no token; prophet needs the answer's columns and a whole-canvas view.
    """
    if is_zero(alpha):
        argument.unused("with alpha=0", beta=(beta, 0.7), gamma=(gamma, 0.2))
    if thresholds is None:
        argument.unused("with thresholds=None", answer_start=(answer_start, None), answer_length=(answer_length, 5))
    credited = [] if is_zero(alpha) else [add_credit(alpha, beta, gamma, sparse=True)]
    host: Rule = chain(*credited, sample(temperature), select_near_anchors(kappa, tau, radius))
    bars = (math.inf,) * 3 if thresholds is None else thresholds
    watched = finish_when_clear(host, None, answer_start, answer_length, bars, progress="decoded")
    host = host if thresholds is None else watched
    host = chain(host, stop_at_eos()) if argument.flag(eos, "eos") else host
    drafted = draft_and_verify(host, draft_steps)  # which checks the number
    return drafted if draft_steps != 1 else host

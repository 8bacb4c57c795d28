"""What ccd and ccd_ds share (arXiv 2512.02044)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain
from jaxdlm.rules.ccd import select_coherent, select_stable
from jaxdlm.rules.sample import log_prob, neg_entropy, sample


def by_coherence(
    mode: str, steps: Any, depth: int, top_v: int, eps: Any, expand_ratio: Any, confidence: str, *, dynamic: bool
) -> Rule:
    argument.check_choice(mode, "mode", ("paper", "release"))
    argument.check_choice(confidence, "confidence", ("entropy", "probability"))
    released = select_stable(steps, dynamic=dynamic, expand_ratio=expand_ratio)
    published = select_coherent(steps, dynamic=dynamic, depth=depth, top_v=top_v, eps=eps)
    if mode == "release":
        argument.unused("with mode='release'", depth=(depth, 3), top_v=(top_v, 4), eps=(eps, None))
    else:
        argument.unused("with mode='paper'", expand_ratio=(expand_ratio, 4.0))
    proposal = sample(measure=neg_entropy if confidence == "entropy" else log_prob)
    return chain(proposal, released if mode == "release" else published)

"""freedave: the host's next steps that its drafts foresaw (arXiv 2510.00294)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule
from jaxdlm.methods._hosted import accepted, hosted
from jaxdlm.policy_words import parse_policy
from jaxdlm.registry import method
from jaxdlm.steppers.freedave import draft_and_verify


@method(
    paper="2510.00294",
    idea="the host's next steps that its drafts foresaw",
    use="when not one token may change: any deterministic host, lossless",
    avoid="where compute, not latency, is the limit: each forward reads `draft_steps` versions of the row",
    lossless="yes, to its host",
    needs="versions",
    order=160,
)
def freedave(
    draft_steps: int = 4, host: Any = "low_confidence", steps: Any = None, temperature: Any = 0.0,
    official: bool = False,
) -> Rule:  # fmt: skip
    """FreeDave: the host's own tokens in fewer forwards, its next steps drafted and verified together (2510.00294).

    host: a recipe's name, with arguments as in a shell, which gets `steps` and `temperature`; or a rule, which has its
    own. "threshold" is FreeDave++. official: the release's acceptance, which is not lossless with such a host.
    """
    arguments = {"steps": (steps, None), "temperature": (temperature, 0.0)}
    if isinstance(host, str):
        takes = accepted(parse_policy(host)[0])
        host = hosted(host, "freedave", {name: pair for name, pair in arguments.items() if name in takes})
        arguments = {name: pair for name, pair in arguments.items() if name not in takes}
    argument.unused("to this host", **arguments)
    return draft_and_verify(host, draft_steps, official=official)

"""prophet: everything once the answer is clear (arXiv 2508.19982)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule
from jaxdlm.methods._hosted import hosted, scheduled
from jaxdlm.policy_words import parse_policy
from jaxdlm.registry import method
from jaxdlm.rules.prophet import finish_when_clear


@method(
    paper="2508.19982",
    idea="everything once the answer is clear",
    use=(
        "long reasoning before a short answer: exits when the answer's columns are clear. The paper's suffix prompt "
        "('The answer is') stands in `decode(canvas=...)`, masks around it, and `answer_start` points behind it"
    ),
    avoid="answers without a known place, or whose columns depend on each other: everything left is written at once",
    needs="canvas",
    order=130,
)
def prophet(
    host: Any = "low_confidence", steps: Any = None, answer_start: Any = None, answer_length: int = 5,
    thresholds: tuple[Any, Any, Any] = (7.5, 5.0, 2.5), official: bool = False,
) -> Rule:  # fmt: skip
    """Prophet: writes everything left once the answer's columns have a clear winner (2508.19982).

    host: a recipe's name, with arguments as in a shell, or a rule. Those that spread their commits over `steps` get them,
    and progress is counted in forwards; with any other host it is the share of columns written. answer_start: canvas
    column; default the last columns. The paper's suffix prompt ("The answer is") are words that stand in the canvas from
    the start: `decode(canvas=...)`.
    """
    counted = isinstance(host, str) and parse_policy(host)[0] in scheduled()
    if isinstance(host, str):
        host = hosted(host, "prophet", {"steps": (steps, None)} if counted else {})
    if not counted and not argument.flag(official, "official"):
        argument.unused(f"unless the host is one of {', '.join(scheduled())}", steps=(steps, None))
    progress = "forwards" if counted else "decoded"
    return finish_when_clear(host, steps, answer_start, answer_length, thresholds, progress=progress, official=official)

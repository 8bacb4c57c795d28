"""exspec: the same, some prompts of a pool at a time (arXiv 2510.22876)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.methods._eqspec import equal
from jaxdlm.registry import method
from jaxdlm.speculative.pair import count, with_draft
from jaxdlm.speculative.warp import warp


@method(
    paper="2510.22876",
    idea="the same, some prompts of a pool at a time",
    use="a pool of many prompts, so that rows of like progress run together",
    avoid="few prompts",
    lossless="yes",
    needs="",
    order=280,
)
def exspec(draft: Any = "tiny-draft", k: int = 5, slots: int = 8, official: bool = False, guide: Any = None) -> Any:
    """EXSPEC: as `eqspec` with a pool of prompts, `slots` of them at a time (arXiv 2510.22876).

    The paper puts rows of equal length together so that they need no padding; here any rows go together, and a row that
    is done makes room for the next prompt. Results depend neither on slots nor on the order. guide: one of
    `jaxdlm.guides`, or a list of them, for target and draft; none. Raises InputError for values out of range.
    """
    k, official, sampling = count(k, "k"), argument.flag(official, "official"), warp(guide=guide)
    slots = argument.whole(1, 1024)(slots, "slots")
    return with_draft(draft, lambda lm: equal(lm, k, official, slots, sampling))

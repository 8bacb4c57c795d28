"""eqspec: the same, greedy, for ragged batches (arXiv 2510.22876)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.methods._eqspec import equal
from jaxdlm.registry import method
from jaxdlm.speculative.pair import count, with_draft
from jaxdlm.speculative.warp import warp


@method(
    paper="2510.22876",
    idea="the same, greedy, for ragged batches",
    use="greedy batches whose rows accept different numbers",
    avoid="one row: `speculative`",
    lossless="yes",
    needs="",
    order=270,
)
def eqspec(draft: Any = "tiny-draft", k: int = 5, official: bool = False, guide: Any = None) -> Any:
    """EQSPEC: greedy speculative decoding of a ragged batch, every row equal to its own decode (arXiv 2510.22876).

    The paper moves rows, masks and caches into line after every round; here each row has its own length, so there is
    nothing to move. k: 5. official: as in the released code, a round that is accepted whole ends with its last draft
    token, and the token that the target would add is not used. guide: one of `jaxdlm.guides`, or a list of them, for
    target and draft; none. Raises InputError for k out of range.
    """
    k, official, sampling = count(k, "k"), argument.flag(official, "official"), warp(guide=guide)
    return with_draft(draft, lambda lm: equal(lm, k, official, 0, sampling))

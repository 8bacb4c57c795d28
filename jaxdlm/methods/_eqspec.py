"""What eqspec and exspec share (arXiv 2510.22876)."""

from typing import Any

from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.pair import draft_info
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import Warp


def equal(lm: Any, k: int, official: bool, slots: int, sampling: Warp) -> Speculation:
    drafter = DraftModel(lm.params, sampling, lm.model, 1, k, bonus=not official)
    return Speculation(drafter, sampling, verify.greedy, draft_info(lm), slots)

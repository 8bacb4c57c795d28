"""dflash: a block that a few layers fill in one pass from the target's hidden states (arXiv 2602.06036)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.dflash import drafting
from jaxdlm.speculative.heads import read_trained
from jaxdlm.speculative.pair import MOST, acceptance
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from jaxdlm.trained import shipped


@method(
    paper="2602.06036",
    idea="a block that layers on the target's hidden states fill in one pass, as far as the target agrees",
    use="a target with such layers trained for it: one draft forward a round, where `eagle3` has one per level of its tree",
    avoid="targets without them: `lookup`, `self_speculation`",
    trained=True,
    lossless="yes",
    needs="",
    order=338,
)
def dflash(
    weights: Any = "tiny-ar", width: Any = None, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    guide: Any = None, noise: str = "own", min_p: Any = None, typical_p: Any = None,
) -> Speculation:  # fmt: skip
    """DFlash: d_i ~ q(x_i | c_<n, x_{n-1}, masks) for a block at once, c of the target's layers (arXiv 2602.06036).

    weights: a file of scripts/train.py --recipe dflash, or the name of an embedded target. width: b, the last token and b - 1
    masks, 2 to what it was trained for (16 in the paper); none: that. temperature, top_k, top_p, min_p, typical_p: of target and
    draft. guide: one of `jaxdlm.guides`, or a list of them; none. noise: "own", rejection sampling; "shared": a token stays
    where the target draws the same by the noise of plain sampling, so that the text is that of `autoregressive` with the same
    seed. Raises InputError for values out of range, for what is no such file, and for a drafter of another target.
    Departures from the released code: every layer sees the whole context (files with sliding layers are refused); embeddings
    are read as the target reads them, scale included.
    """
    width = argument.whole(2, MOST + 1, none=True)(width, "width")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    trained = read_trained(shipped(weights, "dflash"), "dflash")
    return Speculation(drafting(trained, sampling, width), sampling, acceptance(sampling))

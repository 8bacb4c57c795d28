"""self_speculation: one checkpoint drafts a block by diffusion and verifies it from left to right (arXiv 2607.05722)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.quadratic import Quadratic
from jaxdlm.speculative.drafters.self_draft import SelfDraft
from jaxdlm.speculative.pair import MOST, acceptance
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2607.05722",
    idea="a block that the model itself drafts by diffusion, as far as it would have written it",
    use="checkpoints with both modes (nemotron_ld): their autoregressive text in fewer forwards; needs no draft",
    avoid="models with one mode",
    lossless="yes",
    needs="",
    order=339,
)
def self_speculation(
    width: Any = None, mode: str = "linear", temperature: Any = 0.0, top_k: Any = None, top_p: Any = None, guide: Any = None,
    noise: str = "own", min_p: Any = None, typical_p: Any = None,
) -> Speculation:  # fmt: skip
    """Self-speculation: d_i ~ p(x_i | x_<n, masks) for a block, verified by p(x_i | x_<i) (arXiv 2607.05722).

    mode: "linear", a round is a forward that drafts and one that verifies, of W tokens each; "quadratic": one of W (W + 1), with
    masks behind every draft token, those behind the last that stays being the next round's drafts. width: W, the last token and
    W - 1 drafts, 2 to what the model was trained on, and to 65 or, quadratic, to 16; none: 32 or 16 (released). temperature,
    top_k, top_p, min_p, typical_p: of both passes. guide: one of `jaxdlm.guides`, or a list of them; none. noise: "own",
    rejection sampling; "shared": a token stays where the target draws the same by the noise of plain sampling, so that the text
    is that of its autoregressive mode with the same seed, as it always is with "quadratic". Raises InputError for values out of
    range and for models without both passes. Departures from the released code: above temperature 0 it is lossless, by
    rejection or by shared noise, which accept more than equality of two draws (released: quadratic at temperature 0 alone); any
    number of rows; a block is drafted in one pass (its threshold 0), without the adapter that instruct checkpoints bring for it.
    """
    quadratic = argument.check_choice(mode, "mode", ("linear", "quadratic")) == "quadratic"
    most, usual = (16, 16) if quadratic else (MOST + 1, 32)
    width = usual if width is None else argument.whole(2, most)(width, "width")
    if quadratic:
        argument.unused("with mode='quadratic', where noise is shared", noise=(noise, "own"))
    noise = "shared" if quadratic else noise
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    drafter = Quadratic(sampling, width) if quadratic else SelfDraft(sampling, width)
    return Speculation(drafter, sampling, acceptance(sampling))

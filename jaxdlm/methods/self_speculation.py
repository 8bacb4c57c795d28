"""self_speculation: one checkpoint drafts a block by diffusion and verifies it from left to right (arXiv 2607.05722)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
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
    order=338,
)
def self_speculation(
    width: int = 32, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None, guide: Any = None, noise: str = "own",
    min_p: Any = None, typical_p: Any = None,
) -> Speculation:  # fmt: skip
    """Linear self-speculation: d_i ~ p(x_i | x_<n, masks) for a block, verified by p(x_i | x_<i) (arXiv 2607.05722).

    width: W, the last token and W - 1 masks, 2 to 65 and to what the model was trained on; 32 (released). Two forwards per round,
    one of them a draft; 1 to W tokens. temperature, top_k, top_p, min_p, typical_p: of both modes. guide: one of
    `jaxdlm.guides`, or a list of them; none. noise: "own", rejection sampling; "shared": a token stays where the target draws
    the same by the noise of plain sampling, so that the text is that of its autoregressive mode with the same seed. Raises
    InputError for values out of range and for models without both modes. Departures from the released code: above
    temperature 0 it is lossless by rejection, which accepts more than equality of two draws; any number of rows; a block is
    drafted in one pass (its threshold 0), without the adapter that instruct checkpoints bring for it.
    """
    width = argument.whole(2, MOST + 1)(width, "width")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    return Speculation(SelfDraft(sampling, width), sampling, acceptance(sampling))

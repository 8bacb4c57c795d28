"""easyspec: as speculative, drafted with layers in parallel (arXiv 2502.02493)."""

import dataclasses
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.models.segments import segments
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.pair import acceptance, count, draft_info, with_draft
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2502.02493",
    idea="as speculative, drafted with layers in parallel",
    use="a draft deep enough that running its layers in parallel pays",
    avoid="drafts of two or three layers",
    lossless="yes",
    needs="",
    order=310,
)
def easyspec(
    draft: Any = "tiny-draft", k: int = 5, group: int = 4, calibrate: bool = True, temperature: Any = 0.0,
    top_k: Any = None, top_p: Any = None, guide: Any = None, noise: str = "own",
    min_p: Any = None, typical_p: Any = None,
) -> Any:  # fmt: skip
    """EasySpec: drafts with layers whose attention runs in parallel, and calibrates their keys (arXiv 2502.02493).

    k: draft tokens (5). group: layers at once (the paper: 4; 1: vanilla drafting). calibrate: read the committed
    tokens again with the exact draft at the start of every round (the paper's setting). Needs a draft whose layers
    are all alike. guide: one of `jaxdlm.guides`, or a list of them, for target and draft; none. noise: "own", or
    "shared": a draft token stays where the target draws the same by the noise of plain sampling, so that the text is
    that of `autoregressive` with the same seed. Raises InputError for values out of range or a mixed stack.
    """
    k, group = count(k, "k"), count(group, "group")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    calibrate = argument.flag(calibrate, "calibrate")
    accept = acceptance(sampling)

    def build(lm: Any) -> Speculation:
        runs = segments(lm.config)
        if len(runs) > 1 or runs[0].period > 1 or lm.config.layer_scalar:
            raise InputError(f"easyspec groups equal layers, those of {lm.name} differ: use speculative instead")
        rough = dataclasses.replace(lm.model, group=group)
        drafter = DraftModel(lm.params, sampling, lm.model, 1, k, rough=rough, calibrate=calibrate)
        return Speculation(drafter, sampling, accept, draft_info(lm))

    return with_draft(draft, build)

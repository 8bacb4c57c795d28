"""pearl: chunks, drafted while the last one is verified (arXiv 2408.11850)."""

from typing import Any

from jaxdlm.registry import method
from jaxdlm.speculative.drafters.pearl import Pearl
from jaxdlm.speculative.pair import acceptance, count, draft_info, with_draft
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2408.11850",
    idea="chunks, drafted while the last one is verified",
    use="two devices or meshes, so that draft and target run at the same time",
    avoid="one device: nothing overlaps",
    lossless="yes",
    needs="",
    order=300,
)
def pearl(
    draft: Any = "tiny-draft", chunk: int = 4, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    guide: Any = None, noise: str = "own",
    min_p: Any = None, typical_p: Any = None,
) -> Any:  # fmt: skip
    """PEARL: the draft writes the next chunk while the target verifies the last one (arXiv 2408.11850).

    chunk: draft tokens per round, about the ratio of the two models' times (the paper: 3 to 5). `decode` runs both on
    one device; `jaxdlm.speculative.generate_on_two` on two sets of them at the same time. guide: one of
    `jaxdlm.guides`, or a list of them, for target and draft; none. noise: "own", or "shared": a draft token stays
    where the target draws the same by the noise of plain sampling, so that the text is that of `autoregressive` with
    the same seed. Raises InputError for values out of range.
    """
    chunk = count(chunk, "chunk")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    accept = acceptance(sampling)
    return with_draft(
        draft, lambda lm: Speculation(Pearl(lm.params, sampling, lm.model, chunk), sampling, accept, draft_info(lm))
    )

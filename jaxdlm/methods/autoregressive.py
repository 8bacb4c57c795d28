"""autoregressive: the next token (autoregressive models) (arXiv 1706.03762)."""

from typing import Any

from jaxdlm.registry import method
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.guided import cfg_of
from jaxdlm.speculative.pair import acceptance
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="1706.03762",
    idea="the next token (autoregressive models)",
    use="the reference of every draft-and-target method",
    avoid="when a draft is at hand",
    lossless="yes",
    needs="",
    order=250,
)
def autoregressive(
    temperature: Any = 0.0,
    top_k: Any = None,
    top_p: Any = None,
    guide: Any = None,
    cfg_scale: Any = 0.0,
    null: Any = None,
    min_p: Any = None, typical_p: Any = None, noise: Any = "own",
) -> Speculation:  # fmt: skip
    """One token per target forward, from the key/value cache: the baseline of every method here.

    temperature: 0 (default): the best token; else softmax(l / T), then top_k, then top_p. guide: one of
    `jaxdlm.guides`, or a list of them; none. cfg_scale: s of l_u + (s + 1)(l - l_u), 0 (none), where l_u are the logits with
    the prompt but for its last token read as `null` (the target's pad). noise: "own" and "shared": Gumbel noise of the
    position; "inverse_cdf": one number per position; an array from `jd.low_discrepancy(n, max_new)`: by these. Raises
    InputError for values out of range.
    """
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    return Speculation(Nothing(), sampling, acceptance(sampling), cfg=cfg_of(cfg_scale, null))

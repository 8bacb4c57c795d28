"""gad: a masked diffusion model drafts a block in one pass, an autoregressive one verifies it (arXiv 2205.10350)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.gad import MaskedDraft
from jaxdlm.speculative.pair import acceptance, count, draft_info, with_denoiser
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.verify import Relaxed
from jaxdlm.speculative.warp import warp


@method(
    paper="2205.10350",
    idea="a block that a masked diffusion model fills in one pass, as far as the target agrees",
    use="a diffusion model with the target's tokenizer is there; `beta` and `tau` to trade exactness for speed",
    avoid="long texts: the draft reads them whole in each round",
    lossless="with beta=1",
    needs="",
    order=345,
)
def gad(
    draft: Any = "tiny", k: int = 25, beta: int = 1, tau: float = 0.0, temperature: Any = 0.0, top_k: Any = None,
    top_p: Any = None, guide: Any = None, noise: str = "own", min_p: Any = None, typical_p: Any = None,
) -> Any:  # fmt: skip
    """Generalised aggressive decoding: k masks filled at once, d_i ~ q(x_i | x_<n, masks), then verified (arXiv 2205.10350).

    draft: a masked diffusion model with the target's tokenizer, or its name. k: masks, 1 to 64; 25 (paper). beta, tau: GAD++, a
    draft stays where it is among the target's `beta` best and within `tau` nats of the best, 0 or above; 1 and 0: where it is
    the best (released script: 5 and 3.0); greedy and lossy otherwise. temperature, top_k, top_p, min_p, typical_p: of target
    and draft. guide: one of `jaxdlm.guides`, or a list of them; none. noise: "own", rejection sampling; "shared": a token
    stays where the target draws the same by the noise of plain sampling. Raises InputError for values out of range, and for
    drafts that fill no masks. Departures from the released code: the draft is any masked diffusion model, not one
    with an encoder; above temperature 0 it is lossless; rows of a batch advance by themselves and the target keeps its keys.
    """
    k, beta = count(k, "k"), argument.whole(1, 1000)(beta, "beta")
    tau = argument.real(0, 10**6)(tau, "tau")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    if beta > 1 and not sampling.greedy:
        raise InputError(f"beta={beta}: relaxed verification is of temperature 0, leave temperature or beta out")
    if beta == 1:
        argument.unused("with beta=1", tau=(tau, 0.0))
    accept = Relaxed(beta, tau) if beta > 1 else acceptance(sampling)
    return with_denoiser(
        draft,
        lambda lm: Speculation(
            MaskedDraft(lm.params, sampling, lm.model, lm.config.tokens.mask, k), sampling, accept, draft_info(lm)
        ),
    )

"""sjd: the target's own guesses of a round ago (speculative Jacobi decoding, arXiv 2410.01699)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.jacobi import Jacobi
from jaxdlm.speculative.guided import cfg_of
from jaxdlm.speculative.pair import MOST, acceptance
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2410.01699",
    idea="guesses of the target's own, drawn a round before",
    use="image tokens, whose neighbours say much of them; sampling; needs no draft",
    avoid="text: `lookup`",
    lossless="yes",
    needs="",
    order=346,
)
def sjd(
    window: int = 16, first: str = "random", low: int = 0, high: Any = None, line: Any = None, coupled: bool = False,
    cfg_scale: Any = 0.0, null: Any = None, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    guide: Any = None, noise: str = "own",
    min_p: Any = None, typical_p: Any = None,
) -> Speculation:  # fmt: skip
    """Speculative Jacobi decoding: guesses are refined by the forwards that verify them (arXiv 2410.01699).

    window: W, the last committed token and W - 1 guesses, 1 to 65 (16, released code). first: guesses of columns that were not
    read yet: "random", uniform in [low, high) (the ids of image tokens; all), or "repeat", the token before, with a random one
    where a line of `line` tokens begins. coupled: the noise of a guess belongs to its column (Speculative Coupled Decoding):
    accepts more. cfg_scale: s of l_u + (s + 1)(l - l_u), 0 (none; the paper's 3.0 is 2.0 here); l_u: the prompt but for its
    last token read as `null` (the target's pad). temperature: 0 (the paper: 1). guide: one of `jaxdlm.guides`, or a list of them;
    none. noise: "own", or "shared": a guess is drawn by the noise of plain sampling and stays where that draws it again, so
    that the text is that of `autoregressive` with the same seed. Verified by rejection sampling, lossless. Raises InputError
    for values out of range.
    """
    window = argument.whole(1, MOST + 1)(window, "window")
    argument.check_choice(first, "first", ("random", "repeat"))
    low, high = argument.whole(0)(low, "low"), argument.whole(1, none=True)(high, "high")
    if high is not None and high <= low:
        argument.refuse(high, "high", f"above low={low}, or none")
    line = argument.whole(1, none=True)(line, "line")
    if first == "random":
        argument.unused("with first='random'", line=(line, None))
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    if sampling.shared:
        argument.unused("with noise='shared'", coupled=(argument.flag(coupled, "coupled"), False))
    drafter = Jacobi(sampling, window, first, low, high, line, argument.flag(coupled, "coupled"))
    return Speculation(drafter, sampling, acceptance(sampling), cfg=cfg_of(cfg_scale, null))

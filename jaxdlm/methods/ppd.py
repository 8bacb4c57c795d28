"""ppd: guesses of the target itself at trained prompt tokens (arXiv 2405.18628)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.ppd import PromptTokens, read_prompts
from jaxdlm.speculative.pair import MOST, acceptance
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.sparse_trees import plan
from jaxdlm.speculative.warp import warp
from jaxdlm.trained import shipped


@method(
    paper="2405.18628",
    idea="guesses of the target's own at prompt tokens that were trained for it",
    use="a target with prompt tokens trained for it (minutes, a few rows of weights); needs no draft",
    avoid="large batches that already fill the device: it reads up to `budget` tokens per forward",
    trained=True,
    lossless="yes",
    needs="",
    order=335,
)
def ppd(
    weights: Any = "tiny-ar", budget: int = 30, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    guide: Any = None,
) -> Speculation:  # fmt: skip
    """Parallel prompt decoding: the target guesses ahead at trained prompt tokens (arXiv 2405.18628).

    weights: a file of scripts/train.py --recipe ppd, or the name of an embedded target. budget: guesses and their prompt tokens
    per forward, 2 to 60 (the paper, by hardware: 60 to 285; 30); trees are planned for it by how often guesses came true in
    training. guide: one of `jaxdlm.guides`, or a list of them; none. A guess stays where the target draws the same one, so that
    at any temperature the text is that of `autoregressive` with the same seed. Raises InputError for values out of range and
    for prompt tokens of another target. Departures from the released code: above temperature 0 it is lossless; trees are
    planned by a chain in which a refused draft costs no round of its own.
    """
    budget = argument.whole(2, MOST - 4)(budget, "budget")
    rows, accuracy, vocab, made_for = read_prompts(shipped(weights, "ppd"))
    drafter = PromptTokens(rows, plan(accuracy, budget), vocab, made_for, len(accuracy[0]))
    sampling = warp(temperature, top_k, top_p, guide, noise="shared")
    return Speculation(drafter, sampling, acceptance(sampling))

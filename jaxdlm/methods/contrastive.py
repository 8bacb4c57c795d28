"""contrastive: of the likeliest tokens the one that is least like the text before it (arXiv 2202.06417)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.contrastive import ContrastiveSearch
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp

MOST = 64


@method(
    paper="2202.06417",
    idea="of the likeliest tokens the one least like the text before it",
    use="long open text without loops, and without chance",
    avoid="answers that repeat their prompt",
    needs="",
    order=256,
)
def contrastive(k: int = 4, alpha: Any = 0.6, guide: Any = None) -> Speculation:
    """Contrastive search: argmax over the k likeliest v of (1 - alpha) p(v) - alpha max_j cos(h_v, h_j) (2202.06417).

    h: hidden rows behind the final norm, of v behind the text and of every token of prompt and answer. k: 1 to 64, 1 is
    greedy (the paper: 5 to 10; 4). alpha: 0 to 1; 0 is greedy (0.6, the paper's). guide: one of `jaxdlm.guides`, or a list
    of them; none. One forward of k tokens per token. No departure from the released code. Raises InputError for values
    out of range.
    """
    search = ContrastiveSearch(argument.probability(alpha, "alpha"), argument.whole(1, MOST)(k, "k"))
    return Speculation(Nothing(), warp(guide=guide), search=search)

"""superposed: several short texts by the forwards of one, which reads the mean of their embeddings (arXiv 2405.18400)."""

from typing import Any

import jax.numpy as jnp

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.ngrams import LONGEST, NGramTable, read_ngrams
from jaxdlm.speculative.policy import DraftInfo, Speculation
from jaxdlm.speculative.superposed import Smoothing, Superposed
from jaxdlm.speculative.warp import warp

MOST = 64
MIXTURE = (0.01, 0.04, 0.15, 0.18, 0.12)


@method(
    paper="2405.18400",
    idea="the best of several texts that share one forward per token",
    use="some short alternatives, of about ten tokens, at the price of one",
    avoid="long answers: the texts drift from what the model reads",
    needs="",
    order=259,
)
def superposed(
    k: int = 3, table: Any = None, alpha: Any = 0.54, tau: Any = 0.06, candidates: int | None = None, mixture: Any = MIXTURE,
    penalty: Any = 200.0, smooth_first: bool = True, guide: Any = None,
) -> Speculation:  # fmt: skip
    """Superposed Decoding: k texts of a prompt by one forward per token, of sum_i w_i E[last token of i], w = softmax of their
    scores; the best k of their continuations by (1 - alpha) log p_tau + alpha log sum_g mixture_g share_g go on (2405.18400).

    k: 1 to 64 (3); `decode(n=...)` returns up to k of them, by score per token. table: n-grams that weigh in, of
    `jaxdlm.speculative.count_ngrams`, or a file of scripts/trigrams.py --longest; none: no smoothing, and what follows but
    tau and candidates means nothing. alpha: their weight, 0.01 to 0.99 (0.54). tau: of p_tau = softmax(logits / tau), at least
    1e-3 (0.06; 0.12 for k=10). candidates: of these so many of the likeliest tokens, renormalised, k to 512 (3 k, as
    released; the paper k). mixture: of n-grams of 2, 3, .. tokens, none below 0 and not more than 1 together. penalty: nats,
    of a text none of whose candidates the table knows (200). smooth_first: the first token, too (as released; the paper
    not). guide: one of `jaxdlm.guides`, or a list of them; none. k=1 with candidates=1 is greedy. Departures from the released
    code: rows end when no text can get better; finished texts are ranked per token, too. Raises InputError for values out
    of range and for a table of another tokenizer.
    """
    k = argument.whole(1, MOST)(k, "k")
    count = 3 * k if candidates is None else argument.whole(k, 512)(candidates, "candidates")
    numbers = {"alpha": (alpha, 0.54), "mixture": (mixture, MIXTURE), "penalty": (penalty, 200.0),
               "smooth_first": (smooth_first, True)}  # fmt: skip
    known = table if table is None or isinstance(table, NGramTable) else read_ngrams(table)
    smoothing = info = None
    if known is None:
        argument.unused("without table", **numbers)
    else:
        smoothing = Smoothing(
            known.grams, argument.number(alpha, "alpha", low=0.01, high=0.99), _mixture(mixture, known.grams.longest),
            argument.number(penalty, "penalty", low=0, high=1e6), argument.flag(smooth_first, "smooth_first"),
        )  # fmt: skip
        info = DraftInfo(known.name, known.vocab_size, argument.INT32, known.vocabulary, "count one with its tokenizer")
    tau = argument.number(tau, "tau", low=1e-3, high=1e3)
    search = Superposed(1.0, k, "never", tau=tau, smoothing=smoothing, likely=count)
    return Speculation(Nothing(), warp(guide=guide), samples=k, draft=info, search=search)


def _mixture(mixture: Any, longest: int) -> Any:
    shares = argument.items(mixture, "mixture", argument.real(0, 1), most=LONGEST - 1)
    if not shares or sum(shares) > 1:
        argument.refuse(mixture, "mixture", "shares of n-grams of 2, 3, .. tokens, not more than 1 together")
    if len(shares) >= longest:
        raise InputError(
            f"mixture={argument.shown(mixture)}: the table's n-grams have up to {longest} tokens: count longer ones"
        )
    return jnp.asarray(shares, jnp.float32)

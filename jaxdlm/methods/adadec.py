"""adadec: where the next token is uncertain, the likeliest ones are followed for some tokens (arXiv 2506.08980)."""

import pathlib
from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.adadec import Lookahead, read_threshold
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from jaxdlm.trained import shipped

MOST = 64


@method(
    paper="2506.08980",
    idea="the next token; where it is uncertain, the one whose continuation is surest",
    use="code, where a wrong turn shows a few tokens later",
    avoid="models whose threshold was not fitted",
    needs="",
    order=257,
)
def adadec(threshold: Any = 1.0, k: int = 3, length: int = 5, official: bool = False, guide: Any = None) -> Speculation:
    """AdaDec: a step whose entropy is at least the threshold takes, of the k likeliest tokens, the one with the greatest
    mean log p of itself and its next `length` greedy tokens; others take the best token (2506.08980).

    threshold: nats, fitted per model, 0.6 to 1.9 in the paper's repository (1.0); or a file of scripts/train.py --recipe
    adadec, or the name of an embedded model that has one, tiny-ar. k: 1 to 64 (3). length: 0 to 64, cut at
    the row's end and limit (5). official: log-probabilities behind a candidate's end count on while others of its row go
    on, as released. guide: one of `jaxdlm.guides`, or a list of them; none. A pause costs up to `length` forwards of k
    rows, counted in `forwards`. Departures from the released code: no texts that end a function, ends of text and `stop`
    instead; one beam. Raises InputError for values out of range.
    """
    made_for = ""
    if isinstance(threshold, str | pathlib.Path):
        threshold, made_for = read_threshold(shipped(threshold, "adadec", "threshold", "json", "a number of nats, "))
    search = Lookahead(
        argument.nats(threshold, "threshold"),
        argument.whole(1, MOST)(k, "k"),
        argument.whole(0, MOST)(length, "length"),
        argument.flag(official, "official"),
        made_for,
    )
    return Speculation(Nothing(), warp(guide=guide), search=search)

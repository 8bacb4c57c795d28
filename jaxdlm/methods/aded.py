"""aded: a tree out of three tokens in a row, of a corpus and of the text itself (arXiv 2407.12021)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.aded import Aded
from jaxdlm.speculative.pair import MOST, acceptance
from jaxdlm.speculative.policy import DraftInfo, Speculation
from jaxdlm.speculative.trigrams import Table, read_trigrams
from jaxdlm.speculative.warp import warp


@method(
    paper="2407.12021",
    idea="a tree of what followed the last two tokens, in the text and in a corpus",
    use="answers that repeat the prompt or a corpus of their kind; needs no draft",
    avoid="large batches that already fill the device: it reads up to 48 tokens per forward",
    lossless="yes",
    needs="",
    order=342,
)
def aded(
    table: Any = None, paths: int = 24, depth: int = 4, search: str = "mcts", simulations: int = 150,
    exploration: Any = 32.0, backoff: Any = 0.0, recount: bool = True, prompt: bool = True, temperature: Any = 0.0,
    top_k: Any = None, top_p: Any = None, guide: Any = None,
    min_p: Any = None, typical_p: Any = None,
) -> Speculation:  # fmt: skip
    """ADED: a tri-gram table that learns from the row's text, searched by a tree search (arXiv 2407.12021).

    Weight of c behind (a, b): min(3, P(c | a, b) in the table + 0.04 · times seen in this row). table: a file of
    scripts/trigrams.py, or what `jaxdlm.speculative.count_trigrams` returns; none: the row's text alone. paths: P prefixes
    that are kept, 1 to 32; with the heaviest successor of each, 2 P - 1 nodes (24). depth: of the tree, 2 to 8 (4).
    search: "mcts", or "best": by the product of the shares, a few operations instead of `simulations` times a walk.
    simulations: 1 to 1000 (150). exploration: c1 of PUCT (32; c2 is 8). backoff: β, by which 0.04 · times that (b, c) alone
    was seen is added, so that a key that is new has successors; 0 to 1, 0 (paper), 0.1 with depth=8 did best on chats
    (docs/real.md). recount: count the last 16 tokens in each round,
    as published; false: each three tokens once, 14 times as much. prompt: count the prompt, too. guide: one of
    `jaxdlm.guides`, or a list of them; none. A draft token stays where the target draws the same one, so that at any
    temperature the text is that of `autoregressive` with the same seed. Raises InputError for values out of range and
    for a table of another tokenizer. Departures from the released code: prompt=True; a row learns from its own text
    alone; the released code's law above temperature 0 is biased.
    """
    paths, depth = argument.whole(1, MOST // 2)(paths, "paths"), argument.whole(2, 8)(depth, "depth")
    argument.check_choice(search, "search", ("mcts", "best"))
    if search != "mcts":
        argument.unused(f"with search={search!r}", simulations=(simulations, 150), exploration=(exploration, 32.0))
    known = table if table is None or isinstance(table, Table) else read_trigrams(table)
    drafter = Aded(
        None if known is None else known.grams, argument.number(exploration, "exploration", low=0),
        argument.number(backoff, "backoff", low=0, high=1), paths, depth,
        argument.whole(1, 1000)(simulations, "simulations"), search, argument.flag(recount, "recount"),
        argument.flag(prompt, "prompt"), (2,) if isinstance(backoff, int | float) and backoff == 0 else (2, 1),
    )  # fmt: skip
    sampling = warp(temperature, top_k, top_p, guide, noise="shared", min_p=min_p, typical_p=typical_p)
    if known is None:
        return Speculation(drafter, sampling, acceptance(sampling))
    info = DraftInfo(
        known.name, known.vocab_size, argument.INT32, known.vocabulary, "make one with scripts/trigrams.py"
    )
    return Speculation(drafter, sampling, acceptance(sampling), info)

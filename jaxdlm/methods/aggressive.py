"""aggressive: the rest of the input, from where the answer has come to in it (arXiv 2205.10350)."""

from typing import Any

import jax.numpy as jnp

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.aggressive import Aggressive
from jaxdlm.speculative.pair import acceptance, count
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2205.10350",
    idea="the rest of the input, from where the answer has come to in it",
    use="answers that copy their input with few changes (correction, rewriting, code edits); needs no draft",
    avoid="answers in other words than the prompt's: `lookup`",
    lossless="yes",
    needs="",
    order=344,
)
def aggressive(
    source: Any = None, k: int = 32, ngram: int = 3, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    guide: Any = None,
    min_p: Any = None, typical_p: Any = None,
) -> Speculation:  # fmt: skip
    """Input-guided aggressive decoding: drafts the rest of the input behind the answer's last tokens (arXiv 2205.10350).

    source: ids of the input, without an end of text; none: the row's own prompt. k: draft tokens at most, 1 to 64 (the
    paper: all the rest; 32). ngram: last tokens of the answer that are looked for, one first, more while they stand in
    several places, at most so many (3). guide: one of `jaxdlm.guides`, or a list of them; none. A draft token stays where
    the target draws the same one, so that at any temperature the text is that of `autoregressive` with the same seed.
    Raises InputError for values out of range and for ids that the target has not.
    """
    k, ngram = count(k, "k"), argument.whole(1, 16)(ngram, "ngram")
    ids = None
    if source is not None:
        ids = argument.items(source, "source", argument.whole(0), most=argument.COLUMNS)
        if not ids:
            argument.refuse(source, "source", "a list of token ids, at least one, or none")
        ids = jnp.asarray(ids, jnp.int32)
    sampling = warp(temperature, top_k, top_p, guide, noise="shared", min_p=min_p, typical_p=typical_p)
    return Speculation(Aggressive(ids, k, ngram), sampling, acceptance(sampling))

"""eagle3: a tree of what one layer on hidden states of three of the target's layers expects (arXiv 2503.01840)."""

from typing import Any

from jaxdlm.methods._eagle import draft_tree
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.eagle import Eagle3
from jaxdlm.speculative.policy import Speculation


@method(
    paper="2503.01840",
    idea="the same of hidden states of three layers, over a part of the vocabulary",
    use="as eagle2; more is accepted for the same work",
    avoid="large batches that already fill the device: it reads up to `nodes` tokens per forward",
    trained=True,
    lossless="yes",
    needs="",
    order=337,
)
def eagle3(
    weights: Any = "tiny-ar", width: int = 10, depth: int = 8, nodes: int = 59, temperature: Any = 0.0, top_k: Any = None,
    top_p: Any = None, guide: Any = None,
) -> Speculation:  # fmt: skip
    """EAGLE-3: `eagle2` with g = W [h_i; h_j; h_k] for the feature and a head over the commonest ids (arXiv 2503.01840).

    weights: a file of scripts/train.py --recipe eagle3, or the name of an embedded target; it says which layers it reads (1,
    N/2 - 1 and N - 4 of N, counted from 0, in the paper) and which ids it drafts. width, depth, nodes, guide: as in `eagle2`.
    Raises InputError as `eagle2`, and for vocabulary maps that do not fit. Departures from the released code: as of `eagle2`.
    """
    return draft_tree(
        Eagle3, weights, width=width, depth=depth, nodes=nodes, temperature=temperature, top_k=top_k, top_p=top_p,
        guide=guide,
    )  # fmt: skip

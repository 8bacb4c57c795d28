"""eagle2: a tree of what one layer on the target's last hidden states expects (arXiv 2406.16858)."""

from typing import Any

from jaxdlm.methods._eagle import draft_tree
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.eagle import Eagle2
from jaxdlm.speculative.policy import Speculation


@method(
    paper="2406.16858",
    idea="the likeliest nodes of a tree that a layer on the target's last hidden states grows",
    use="a target with a head trained for it (minutes to days), few rows",
    avoid="large batches that already fill the device: it reads up to `nodes` tokens per forward",
    trained=True,
    lossless="yes",
    needs="",
    order=336,
)
def eagle2(
    weights: Any = "tiny-ar", width: int = 10, depth: int = 8, nodes: int = 59, temperature: Any = 0.0, top_k: Any = None,
    top_p: Any = None, guide: Any = None, compressor: Any = None,
) -> Speculation:  # fmt: skip
    """EAGLE-2: node score s(v) = Σ log q along its path; the `nodes` best of all are verified (arXiv 2406.16858).

    weights: a file of scripts/train.py --recipe eagle2, or the name of an embedded target. width: children that each node has,
    and nodes that each level goes on with, 1 to 16; 10 (paper). depth: levels, each a forward of the head, 1 to 16; 8 (paper:
    7 behind the first). nodes: 1 to 64; 59 (paper: 60 with the root). guide: one of `jaxdlm.guides`, or a list of them; none.
    compressor: how the head reads prompts that begin with embeddings (`decode(prefix_embeddings=...)`; SpecVLM, arXiv
    2509.11815): "prune" (one in 20 at random), "pool" (means of 20), "conv" (stride 3), "resample" (2 queries), "text" (none of
    them), "gate" (one of these by each row's question; paper), "none" (all); the gate where the file has one, else all.
    A node stays where the target draws the same token, so that at any temperature the text is that of `autoregressive` with the
    same seed. Raises InputError for values out of range, for what is no such file, and for a head of another target.
    Departures from the released code: above temperature 0 a node stays by the noise of plain sampling, not by its
    probability in a draw of its own; rows of a batch grow trees of their own.
    """
    return draft_tree(
        Eagle2, weights, width=width, depth=depth, nodes=nodes, temperature=temperature, top_k=top_k, top_p=top_p,
        guide=guide, compressor=compressor,
    )  # fmt: skip

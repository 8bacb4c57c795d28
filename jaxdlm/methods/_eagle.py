"""What the policies of heads that draft trees have in common."""

from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.speculative.drafters.eagle import drafting
from jaxdlm.speculative.heads import Trained, read_trained
from jaxdlm.speculative.pair import acceptance, count
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.visual import BRANCHES, LEAVES, NEEDS, Compressor
from jaxdlm.speculative.warp import warp
from jaxdlm.trained import shipped

WHOLE, GATED = "none", "gate"
size = argument.whole(1, 16)


def draft_tree(
    kind: Any, weights: Any, *, width: Any, depth: Any, nodes: Any, temperature: Any, top_k: Any, top_p: Any, guide: Any,
    compressor: Any = None,
) -> Speculation:  # fmt: skip
    """The policy of a head of this kind."""
    sizes = {"width": size(width, "width"), "depth": size(depth, "depth"), "nodes": count(nodes, "nodes")}
    trained = read_trained(shipped(weights, kind.recipe), kind.recipe)
    drafter = drafting(kind, trained, **sizes, compressor=compressor_of(compressor, trained))
    sampling = warp(temperature, top_k, top_p, guide, noise="shared")
    return Speculation(drafter, sampling, acceptance(sampling))


def compressor_of(name: Any, trained: Trained) -> Compressor | None:
    """The way of this name, None: of all, by the gate where one was trained. Raises InputError for one that was not."""
    has = all(leaf in trained.leaves for leaf in LEAVES)
    if name is None:
        name = GATED if has else WHOLE
    name = argument.check_choice(name, "compressor", (WHOLE, GATED, *BRANCHES))
    if name == WHOLE:
        return None
    if not has and (name == GATED or name in NEEDS):
        raise InputError(
            f"compressor={name} was not trained with this head: train one with scripts/train.py --recipe spec_vlm, or take "
            "prune, pool or text"
        )
    return Compressor(np.int32(len(BRANCHES) if name == GATED else BRANCHES.index(name)))

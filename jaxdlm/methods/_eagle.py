"""What the policies of heads that draft trees have in common."""

from typing import Any

from jaxdlm import argument
from jaxdlm.speculative.drafters.eagle import drafting
from jaxdlm.speculative.heads import read_trained, shipped
from jaxdlm.speculative.pair import acceptance, count
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp

size = argument.whole(1, 16)


def draft_tree(
    kind: Any, weights: Any, *, width: Any, depth: Any, nodes: Any, temperature: Any, top_k: Any, top_p: Any, guide: Any
) -> Speculation:
    """The policy of a head of this kind."""
    sizes = {"width": size(width, "width"), "depth": size(depth, "depth"), "nodes": count(nodes, "nodes")}
    drafter = drafting(kind, read_trained(shipped(weights, kind.recipe), kind.recipe), **sizes)
    sampling = warp(temperature, top_k, top_p, guide, noise="shared")
    return Speculation(drafter, sampling, acceptance(sampling))

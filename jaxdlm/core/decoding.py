"""What stays the same from the first forward of a decode to its last."""

from jaxdlm import struct
from jaxdlm.core.cache import Cache
from jaxdlm.core.carry import Geometry
from jaxdlm.core.model import Model
from jaxdlm.core.rule import Rule
from jaxdlm.typing import PyTree


@struct.dataclass
class Decoding:
    """A policy and a cache on a model, in the columns of a batch: all that the loop needs beside the rows.

    Weights, policy and cache are leaves, so that new numbers in them find the same program; model and geometry are part of
    the structure.
    """

    model: Model = struct.field(pytree_node=False)
    params: PyTree
    policy: Rule
    cache: Cache
    geometry: Geometry = struct.field(pytree_node=False)

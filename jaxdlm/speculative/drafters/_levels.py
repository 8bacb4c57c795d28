"""What trees that grow level by level keep of their nodes."""

from typing import NamedTuple

from jaxdlm.core.model import KV
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.visual import Gap
from jaxdlm.typing import Array, Bool, Float, Float32, Int32


class EagleState(NamedTuple):
    """kv: of pairs (feature p, token p + 1), by p, then scratch columns for the nodes of the round, level by level.

    feature: of the columns from `first` on that the target's last forward read, as many as it committed. gap: columns of an
    image that it does not read.
    """

    kv: KV
    feature: Float[Array, "B W D"]
    first: Int32[Array, "B"]
    gap: Gap | None = None

    def sees(self, length: Int32[Array, "B"]) -> Bool[Array, "B S"]:
        """Columns below `length` of each row that its keys have."""
        past = store.seen(self.kv, length)
        return past.valid if self.gap is None else past.valid & ~self.gap.hides(past.position)

    def place(self, position: Int32[Array, "B T"]) -> Int32[Array, "B T"]:
        """Where the layer reads what stands in these columns."""
        return position if self.gap is None else self.gap.nearer(position)


class Level(NamedTuple):
    """The K nodes that are read next. slot: their place among all slots; sees: scratch columns of what stands above."""

    token: Int32[Array, "B K"]
    score: Float32[Array, "B K"]
    feature: Float[Array, "B K D"]
    slot: Int32[Array, "B K"]
    sees: Bool[Array, "B K S"]


class Slots(NamedTuple):
    """Nodes that a tree may take: tokens, log-probabilities of all above together, parents (slots, -1: the root)."""

    token: Int32[Array, "B M"]
    score: Float32[Array, "B M"]
    parent: Int32[Array, "B M"]

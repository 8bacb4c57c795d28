"""A draft-and-target policy: a drafter, the acceptance rule, and the distribution that the target is sampled from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxdlm import struct
from jaxdlm.core.guide import Guide, joined
from jaxdlm.core.model import Model
from jaxdlm.speculative import verify
from jaxdlm.speculative.guided import Cfg
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import Array, PyTree


class DraftInfo(NamedTuple):
    """Facts of a draft model, or of a table in its place, that must agree with its target."""

    name: str
    vocab_size: int
    max_position: int
    vocabulary: int  # hash of the tokenizer's words with their ids; 0 without a tokenizer
    instead: str = "use a draft that was trained with the target's tokenizer"  # what else to do


class Search(Protocol):
    """A way to write several rows of each prompt together; a `jaxdlm.struct.dataclass`.

    width: rows of a prompt. streams: of these, how many have keys and values of their own: all, or 1. init: its state
    behind the prompts, which stands in the place of a drafter's. step: (the carry one round later, the model's logits).
    returning: with so many answers of each prompt. answers: (rows, trace) of these.
    """

    @property
    def width(self) -> int: ...

    @property
    def streams(self) -> int: ...

    def returning(self, n: int) -> "Search": ...

    def init(self, carry: Any, decoding: "Decoding", prompt: int, columns: int) -> Any: ...

    def step(self, carry: Any, decoding: "Decoding") -> tuple[Any, Array]: ...

    def answers(self, rows: Any, trace: Any) -> tuple[Any, Any]: ...


@runtime_checkable
class Bounded(Protocol):
    """A search that writes answers of bounded length: `check_length` raises InputError for longer ones."""

    def check_length(self, max_new: int) -> None: ...


@runtime_checkable
class Rereads(Protocol):
    """A search that reads the prompts' tokens again, which are pads where prompts begin with embeddings: `rereads` names it."""

    @property
    def rereads(self) -> str: ...


@struct.dataclass
class Speculation:
    """The policy of an autoregressive target, as `decode` takes it; made by the factories of `jaxdlm.speculative`.

    slots: rows decoded at a time; finished ones make room for the next prompts (0: all prompts at once). placed: the
    target's new keys stand in their own columns while they are read (`Past.place`), so that it makes no difference to any
    bit how many tokens a forward reads. samples: rows that each prompt becomes once it is read. top: of the likeliest
    tokens of each column, how many are kept. These three are set by `decode`. search: takes the place of proposal and
    verdict, where several rows of a prompt are chosen from together (`Search`). cfg: classifier-free guidance of the target.
    """

    drafter: Any
    warp: Warp
    acceptance: verify.Acceptance = struct.field(pytree_node=False, default=verify.greedy)
    draft: DraftInfo | None = struct.field(pytree_node=False, default=None)
    slots: int = struct.field(pytree_node=False, default=0)
    placed: bool = struct.field(pytree_node=False, default=False)
    samples: int = struct.field(pytree_node=False, default=1)
    top: int = struct.field(pytree_node=False, default=0)
    search: Search | None = None
    cfg: Cfg | None = None

    @property
    def acceptance_reads_logits(self) -> bool:
        """Only the best tokens matter, so nothing is normalised."""
        if isinstance(self.acceptance, verify.Relaxed):
            return True
        return self.acceptance is verify.greedy and (self.warp.greedy or not self.warp.shared)

    @property
    def streams(self) -> int:
        """Rows of a prompt that have keys and values of their own."""
        return self.samples if self.search is None else self.search.streams

    @property
    def guide(self) -> Guide | None:
        """Bends the logits of target and draft before everything else."""
        return self.warp.guide

    def answers(self, rows: Any, trace: Any) -> tuple[Any, Any]:
        """(rows, trace) that are returned: all, or those that a search has chosen."""
        return (rows, trace) if self.search is None else self.search.answers(rows, trace)

    def guided(self, guide: Guide | None) -> "Speculation":
        """The policy with one more guide, of target and draft alike."""
        return self._warped(lambda part: dataclasses.replace(part, guide=joined(part.guide, guide)))

    def of_rows(self, numbers: Mapping[str, Array]) -> "Speculation":
        """The policy with these numbers of each row (`Rows.sampling`) in target and draft alike; none: as it is."""
        return self._warped(lambda part: part.of_rows(numbers)) if numbers else self

    def _warped(self, change: Callable[[Warp], Warp]) -> "Speculation":
        one = lambda part: change(part) if isinstance(part, Warp) else part  # noqa: E731
        whole: Speculation = jax.tree.map(one, self, is_leaf=lambda part: isinstance(part, Warp))
        return whole


@struct.dataclass
class Decoding:
    """A policy on its target: all that the loop needs beside the rows. As `core.rule.Decoding`, which has columns to
    write in any order and chooses its cache."""

    model: Model = struct.field(pytree_node=False)
    params: PyTree
    policy: Speculation


class Unloaded(NamedTuple):
    """A policy whose draft model is a name: `build(lm)` makes it once the model is loaded."""

    name: str
    build: Callable[[Any], Speculation]

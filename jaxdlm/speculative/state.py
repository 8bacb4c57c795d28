"""The state of the draft-and-target loop, and the three records that its parts exchange."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxdlm import struct
from jaxdlm.core.carry import Trace
from jaxdlm.core.keys import Group
from jaxdlm.core.model import KV, Model
from jaxdlm.speculative.tree import Grown, Tree
from jaxdlm.speculative.visual import Visual
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree


class Rows(NamedTuple):
    """Per-row carry; every leaf has leading B. Column = position: rows start at column 0 and are padded on the right."""

    tokens: Int32[Array, "B L"]
    length: Int32[Array, "B"]  # n: committed tokens, prompt included
    start: Int32[Array, "B"]  # prompt tokens
    stop: Int32[Array, "B"]  # prompt tokens + max_new
    key: Key[Array, "B"]
    done: Bool[Array, "B"]
    status: Int32[Array, "B"]
    step: Int32[Array, "B"]  # target forwards this row took part in
    draft_step: Int32[Array, "B"]  # draft forwards
    drafted: Int32[Array, "B"]  # tokens submitted to the target
    accepted: Int32[Array, "B"]  # of those, committed
    ends: Int32[Array, "B N K"] | None = None  # sequences of ids that end a row (core.ending); None: it runs on
    guide: PyTree = ()  # what a row brings for the policy's guide; from `loop.init` on the guide's state
    sampling: PyTree = ()  # {name: [B]}: numbers of `Warp` that each row has of its own; (): the policy's
    group: Group | None = None  # which sample of its prompt each row is; None: the only one
    prefix: Float[Array, "B P D"] | None = None  # read in the columns whose token is -1; from `loop.init` on None


@struct.dataclass
class Proposal:
    """The tokens that a drafter submits to one target forward, for all rows. Number of nodes N and `tree` are static.

    token: the draft tokens. valid: nodes that are submitted (fewer: the row drafted less); a node counts only where its
    parent does. logq: log-probabilities that each token was drawn from, row i for node i; None: not drawn at random
    (the distribution of a node is certainty). tree: who continues whom. forwards: draft forwards of each row, where
    rows differ;
    None: the drafter's. parent: of each node, where the tree is a `Grown` one.
    """

    token: Int32[Array, "B N"]
    valid: Bool[Array, "B N"]
    logq: Float32[Array, "B N V"] | None
    tree: Tree | Grown = struct.field(pytree_node=False)
    forwards: Int32[Array, "B"] | None = None
    parent: Int32[Array, "B N"] | None = None


class Verdict(NamedTuple):
    """The decision of an acceptance rule, leaves per row: `count` nodes along `path` stay, then `bonus` follows.

    emit: whether there is a bonus (PEARL's chunks that are accepted whole have none).
    """

    path: Int32[Array, "B D"]  # node at depth 1, 2, ...; meaningless from `count` on
    count: Int32[Array, "B"]
    bonus: Int32[Array, "B"]
    emit: Bool[Array, "B"]


@runtime_checkable
class Drafter(Protocol):
    """Proposes tokens for all rows at once; a `jaxdlm.struct.dataclass` whose weights are leaves.

    tree: of its proposals. forwards: draft forwards per `propose`. model: the one that drafts, None: there is none.
    init: the state before the first round, with the prompts read. propose: `key` is fresh for each row and round.
    observe: the state in step with the committed tokens, from the verdict and from `rows` as they were when it proposed.
    Whether a node is valid may depend on tokens above it, never on its own token: withholding a token after looking at it
    changes the distribution.
    """

    @property
    def tree(self) -> Tree | Grown: ...

    @property
    def forwards(self) -> int: ...

    @property
    def model(self) -> Model | None: ...

    def init(self, rows: Rows, prompt: int) -> PyTree: ...

    def propose(self, state: Any, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]: ...

    def observe(self, state: Any, rows: Rows, proposal: Proposal, verdict: Verdict) -> PyTree: ...


class Seen(NamedTuple):
    """What the target's forwards show. Of a verifying forward T = 1 + R: the root, then the nodes that the target read."""

    logits: Float32[Array, "B T V"]  # as a guide bends them; of the prompt none (T = 0)
    taps: (
        Float[Array, "B T K D"] | None
    )  # residual stream behind each layer of `Watches.taps`; of the prompt all columns
    visual: Visual | None = None  # what prompts begin with that is no token


@runtime_checkable
class Watches(Protocol):
    """A drafter that learns from the target's own forwards. Its state goes on from `Drafter.init` and `observe`.

    taps: layers of the target whose outputs it asks for, counted from 0; () where the logits are enough. begin: the state
    with what the target saw of the prompts. watch: the state with what it saw of a proposal; `rows` as they were then, so
    that row i of the root's path speaks of column length - 1 + i. What lies behind `verdict.count` was refused.
    """

    @property
    def taps(self) -> tuple[int, ...]: ...

    def begin(self, state: Any, rows: Rows, seen: Seen) -> PyTree: ...

    def watch(self, state: Any, rows: Rows, proposal: Proposal, verdict: Verdict, seen: Seen) -> PyTree: ...


class Lent(NamedTuple):
    """The target at hand: itself, its weights, and its stored keys, of which columns below length - 1 mean something."""

    model: Model
    params: PyTree
    kv: KV


@runtime_checkable
class Borrows(Protocol):
    """A drafter that drafts with what is the target's: `borrow` is the same one with the target at hand, for one round."""

    def borrow(self, lent: Lent) -> Drafter: ...


@runtime_checkable
class Extends(Protocol):
    """A drafter that gives the target words of its own: `target` is the model as the loop runs it, with its weights."""

    def target(self, model: Model, params: PyTree) -> tuple[Model, PyTree]: ...


@runtime_checkable
class Tunes(Protocol):
    """A drafter for a target of other weights than were loaded: `tuned` is the target with these, and the drafter on it."""

    def tuned(self, lm: Any) -> tuple[Any, Drafter]: ...


@runtime_checkable
class Checks(Protocol):
    """A drafter that does not fit every target: `check` raises InputError where it does not, before the first forward."""

    def check(self, lm: Any) -> None: ...


class Carry(NamedTuple):
    rows: Rows
    kv: KV  # of the target: column j holds position j, meaningful below length - 1
    drafter: PyTree
    trace: Trace
    loops: Int32[Array, ""]

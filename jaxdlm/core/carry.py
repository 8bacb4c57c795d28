"""The records of the loop: the state of the rows, a rule's view of one, and the update that rules pass along a
chain."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdlm.core.keys import Group
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree

if TYPE_CHECKING:
    from jaxdlm.models.config import TokenIds


class Status(IntEnum):
    """How a row ended."""

    RUNNING = 0
    FINISHED = 1  # every column is written
    EOS = 2  # the text ended at an end-of-text token, or at a stop of the caller
    EXIT = 3  # a rule ended the row early, everything written
    STEP_LIMIT = 4  # the forwards ran out with columns still open
    NONFINITE = 5  # NaN or infinity, or nothing that may be written: what the row has written before stays
    INFEASIBLE = 6  # no text of the row's grammar fits what is written and the columns that are left

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


class LogitsAccess(IntEnum):
    """How much of the incoming logits a rule reads; the access that a chain needs is the largest of its members'."""

    NOTHING = 0
    SUMMARY = 1  # `summarise` of them before any rule has changed them: one pass for all rules of a step
    TILES = 2  # a pass of its own over tiles of the vocabulary
    WHOLE = 3


@dataclass(frozen=True)
class Geometry:
    """The static columns of a batch: `prompt` columns, then `blocks` blocks of `block` columns."""

    prompt: int
    block: int
    blocks: int

    @property
    def canvas(self) -> int:
        return self.block * self.blocks

    @property
    def length(self) -> int:
        return self.prompt + self.canvas


class Automaton(NamedTuple):
    """The language of a row, and where the row stands in it (core.automaton). State 0 is dead; a class is a set
    of tokens that lead the same ways."""

    classes: Int32[Array, "V"]
    sizes: Float32[Array, "C"]  # tokens of each class
    next: Int32[Array, "S C"]
    accepting: Bool[Array, "S"]
    distance: Int32[Array, "S"]  # least number of tokens that lead to acceptance
    source: Int32[Array, "P"]  # pairs of states with a way between them, and the group of classes that are that way
    target: Int32[Array, "P"]
    group: Int32[Array, "P"]
    member: Int32[Array, "M"]  # the groups, each once: class `symbol` is in group `member`
    symbol: Int32[Array, "M"]
    start: Int32[Array, ""]
    first: Int32[Array, ""]  # canvas columns that the text begins and ends at
    last: Int32[Array, ""]
    state: Int32[Array, ""]  # at the left edge of the window
    end: Bool[Array, "S"]  # states at its right edge from which the rest can be completed


class Witness(NamedTuple):
    """The language of a row that only a checker on the host knows, and a text of it that fits all that is written."""

    number: Int32[Array, ""]  # of the checker
    first: Int32[Array, ""]  # canvas columns that the text begins and ends at
    last: Int32[Array, ""]
    text: Int32[Array, "C"]  # of the canvas, ends behind the text; -1 in `first`: none is known


class Rows(NamedTuple):
    """Per-row carry; every leaf has leading B. Columns are counted from the left edge of the bucket."""

    tokens: Int32[Array, "B L"]
    pending: Bool[Array, "B L"]  # still to be written
    prefilled: Bool[Array, "B L"]  # known before decoding began: prompt, pads, prefilled canvas
    pads: Int32[Array, "B"]  # left padding; true position = column - pads
    stop: Int32[Array, "B"]  # canvas columns from here on do not exist for this row
    key: Key[Array, "B"]
    done: Bool[Array, "B"]
    status: Int32[Array, "B"]
    block: Int32[Array, "B"]
    forwards: Int32[Array, "B"]  # forwards this row took part in
    step: Int32[Array, "B"]  # steps of its policy: as many, unless a stepper makes several out of one forward
    tick: Int32[Array, "B"]  # steps since its block began
    policy: PyTree
    ends: Int32[Array, "B N K"] | None = None  # sequences of ids that end a row (core.ending); None: it runs on
    condition: PyTree = ()  # [B, W, D]: the last probabilities as embeddings, which a self-conditioned model reads next
    grammar: Automaton | Witness | None = None  # the language that the row's text belongs to (core.automaton)
    group: Group | None = None  # which sample of its prompt the row is; None: the only one


class Text(NamedTuple):
    """The whole text of a row as far as it is known, by true position: prompt, then canvas; W columns of it are a window."""

    tokens: Int32[Array, "L"]  # meaningless where not known
    known: Bool[Array, "L"]  # prefilled or written, whatever the window and its cache
    prompt: Int32[Array, ""]  # tokens of the prompt


class Row(NamedTuple):
    """One row as a rule sees it: a window of W columns, and the text that they stand in."""

    tokens: Int32[Array, "W"]
    open: Bool[Array, "W"]  # may be written now: pending, and inside the row's block
    pending: Bool[Array, "W"]
    active: Bool[Array, "W"]  # inside the row's block and its canvas, written or not
    prefilled: Bool[Array, "W"]
    column: Int32[Array, "W"]  # canvas column, 0 = first after the prompt bucket
    position: Int32[Array, "W"]  # true position: column minus pads
    exists: Bool[Array, "W"]  # inside this row's canvas
    step: Int32[Array, ""]
    tick: Int32[Array, ""]
    block: Int32[Array, ""]
    blocks: int
    ids: "TokenIds"
    text: Text  # window column i is its position `position[i]`
    shifted: bool = False  # the model predicts the next token: a column's logits stand in its left neighbour's row
    grammar: Automaton | Witness | None = None  # at the edges of the window
    group: Group | None = None  # which sample of its prompt the row is


class Update(NamedTuple):
    """The record that rules pass along the chain, for one row. None: not decided yet."""

    logits: Float32[Array, "W V"]
    uncond: Float32[Array, "W V"] | None = None  # logits without the prompt, where a rule asks for them
    token: Int32[Array, "W"] | None = None  # proposal
    score: Float32[Array, "W"] | None = None  # higher = surer; of "prob" samplers the log-probability
    commit: Bool[Array, "W"] | None = None  # write `token` here now
    fill: Int32[Array, "W"] | None = None  # tokens of the other generated columns (renoising, editing)
    reopen: Bool[Array, "W"] | None = None  # written columns to mask again
    hold: Bool[Array, ""] | bool = False  # keep the block open although nothing is pending in it
    cut: Int32[Array, ""] | None = None  # first window column that no longer exists; above W: no cut
    stop: Int32[Array, ""] | None = None  # window columns that exist from now on, more or as many; before `cut`
    halt: Bool[Array, ""] | bool = False  # this row is finished
    condition: Float32[Array, "W V"] | None = None  # probabilities that a self-conditioned model reads next
    status: Int32[Array, ""] | int = Status.FINISHED  # how, when it halts
    readout: Any = None  # the same logits tile by tile, and their summary (core.readout); None: only the logits
    finite: Bool[Array, ""] | None = None  # `proposable` of the logits that `token` was made of
    blind: Float32[Array, "W V"] | None = None  # logits that have not seen the column's own token, where a rule asks
    attention: Any = None  # what the columns attend to, where a rule asks (core.attended.Attention)
    law: Any = None  # of `logits` and no others, by the classes of the row's grammar (core.law.Law)
    witness: Int32[Array, "C"] | None = None  # the text of the row's `Witness` from now on


class Trace(NamedTuple):
    """The record of a decode; None where it was not asked for."""

    commit_step: Int32[Array, "B C"] | None  # forward at which a column got its token; -1: never, or prefilled
    score: Float32[Array, "B C"] | None
    tokens: Int32[Array, "B T C"] | None  # the canvas after each forward of the row
    top_token: Int32[Array, "B C K"] | None = None  # the likeliest tokens of a column when it got its own, best first
    top_score: Float32[Array, "B C K"] | None = None  # and log softmax of the model's logits there


class Carry(NamedTuple):
    rows: Rows
    cache: PyTree
    trace: Trace
    loops: Int32[Array, ""]


class Window(NamedTuple):
    """The result of a cache: final hidden rows, aligned so that row i holds the logits of column start + i."""

    hidden: Float[Array, "B W D"]
    state: PyTree
    attended: Any = None  # what its columns attend to, where the policy asks (core.attended.Attended)

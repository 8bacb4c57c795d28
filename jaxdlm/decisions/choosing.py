"""`decode(choices=...)` without a policy: the likeliest of the choices by the law `chain`, read and not written; or a draw.

argmax_k Σ_i l_{x_i}[i, d_k[i]], as `decide(read="text")` has it. A policy under the choices' grammar writes the likeliest token
of each step, which need not lead to it. Few contexts are read at once; of many the likeliest first, until no beginning that is
left can become likelier than the best whole text (each further token makes a text less likely), so that the answer is certain.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument, layout
from jaxdlm.core.carry import Status
from jaxdlm.decisions.laws import Canvas, Limits, masked
from jaxdlm.decisions.read import Plan, drive
from jaxdlm.decisions.render import Slot, ends_of, head_of, spelled
from jaxdlm.decisions.trie import Node, Noise, Reached, likeliest
from jaxdlm.errors import InputError
from jaxdlm.grammar.make import MOST_CHOICES
from jaxdlm.layout import DEFAULT_BLOCK
from jaxdlm.output import Output, Programs, read_text
from jaxdlm.stops import Stops

BATCH = 16  # sequences of a program
READ = "beside choices without a policy, which are read and not written (name a policy to have them written)"


@dataclasses.dataclass(frozen=True)
class Choose:
    """See `choose`."""

    temperature: float


def choose(temperature: float = 1.0) -> Choose:
    """One of `decode(choices=...)`, drawn by the model's exact law of them.

    P(k) = Q_k^(1/T) / Σ_j Q_j^(1/T), Q_k = Π_i p(d_k[i] | context), d_k the tokens of choice k and its end, as `decide` reads
    them (`read="text"`, law `chain`). Exact by the Gumbel-max rule: argmax_k log Q_k / T + G_k, where G_k is a hash of seed, row
    id, answer and the choice's own tokens, so that neither neighbours nor other choices, nor their order, change it. Contexts are
    read until no other choice can win, which takes fewer than all of them.

    Args:
        temperature: T; 0: the likeliest, as `decode(choices=...)` without a policy.

    Raises:
        InputError: a temperature below 0; by `decode`: no choices, or a model of uniform noise, which has no exact law.

    Source: Gumbel-max over a trie, best first (1903.06059); the law: docs/decisions.md.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> texts = ["[ Omar , Kate ]", "[ Kate , Omar ]"]
        >>> out = jd.decode(lm, ["reverse : [ Kate , Omar ]"], jd.choose(0.1), choices=texts, n=2, max_new=16)
        >>> out.text
        ['[ Omar , Kate ]', '[ Omar , Kate ]']
    """
    return Choose(float(argument.temperature(temperature)))


def asked(policy: Any, choices: Any, lm: Any) -> Choose | None:
    """How choices are read instead of written; None: they are written, or there are none. Raises InputError."""
    if not isinstance(policy, Choose):
        return Choose(0.0) if policy is None and choices is not None and can(lm) else None
    if choices is None:
        raise InputError("choose draws one of decode(choices=...): give choices, or another policy")
    if not can(lm):
        raise InputError(f"{lm.name} has no exact law of texts to draw from: name a policy that writes the choices")
    return policy


def can(lm: Any) -> bool:
    """Whether the model has an exact law of texts that is read: of masks, or left to right."""
    config = lm.config
    return config.noise != "uniform" and not config.masked_canvas and not config.expert_capacity


def listed(choices: Any) -> Any:
    """An iterator's texts, so many that more of them are refused; everything else as it is."""
    return list(itertools.islice(choices, MOST_CHOICES + 1)) if isinstance(choices, Iterator) else choices


class Draws(NamedTuple):
    """temperature: 0: none is drawn. keys: of each row, what each of its answers is a hash of."""

    temperature: float
    keys: Sequence[Sequence[tuple[int, ...]]]


def draws(choose: Choose, seed: int, numbers: Sequence[int], answers: int) -> Draws:
    """`answers` draws of each row."""
    return Draws(choose.temperature, [[(seed, number, answer) for answer in range(answers)] for number in numbers])


def laid_out(
    lm: Any, prompts: Sequence[Any], choices: Sequence[Any], *, max_new: int, block: int | None, raw: bool, form: Any,
    batch: int | None, save: str, stops: Stops, draws: Draws,
) -> tuple["Chosen", list[bool]]:  # fmt: skip
    """(the rows that have choices, for each prompt whether it has none). choices: one list of texts, or one per prompt.

    Raises InputError for what cannot be answered.
    """
    if block is not None and lm.config.attention == "block_causal" and block != lm.config.block_size:
        raise InputError(
            f"block={block}: choices without a policy are read in the blocks of {lm.name}, {lm.config.block_size} columns each: "
            f"leave it out, or name a policy"
        )
    many = any(each is None or not isinstance(each, str) for each in choices)
    texts: Sequence[Any] = choices if many else [choices] * len(prompts)
    read = [row for row, own in enumerate(texts) if own is not None]
    work = layout.lay_apart(
        lm, [prompts[row] for row in read], max_new=max_new, block=block, ids=None, raw=raw, canvas=None, infill=False,
        size=None, aligned=False, form=form,
    )  # fmt: skip
    ids = {int(row): text for part in work for row, text in zip(part.rows, part.texts)}
    prompts = [ids[place] for place in range(len(read))]
    own = draws._replace(keys=[draws.keys[row] for row in read])
    made = Chosen(lm, prompts, [texts[row] for row in read], read, max_new, block, batch or BATCH, save, stops, own)
    return made.checked(), [each is None for each in texts]


def beside(
    part: "Chosen", free: Sequence[bool], prompts: Sequence[Any], numbers: Any, others: Callable[..., Programs]
) -> Programs:
    """The rows whose choices are read, and those without any (`free`), which `others` prepares."""
    read, written = ([row for row, own in enumerate(free) if own is kind] for kind in (False, True))
    if not written:
        every = np.ravel([np.arange(part.answers) + row * part.answers for row in read])
        return Programs((part,), (every,), part.max_new, part.lm.config.tokens.pad)
    if part.answers > 1:
        raise InputError(f"n={part.answers}: rows without choices are written, in one answer each: decode them apart")
    rest = others([prompts[row] for row in written], ids=[numbers[row] for row in written])
    rows = (np.array(written)[own] for own in rest.rows)
    return Programs((part, *rest.parts), (np.array(read), *rows), part.max_new, rest.pad)


class Progress(NamedTuple):
    """As the carries of other programs: what `stream` hands back."""

    rows: Output | None
    trace: None = None


class Chosen(NamedTuple):
    """Rows whose answers are chosen, as a program of `decode`. prompts: their ids; choices: the texts of each."""

    lm: Any
    prompts: Sequence[np.ndarray]
    choices: Sequence[Sequence[str]]
    names: Sequence[int]  # of the rows, for messages
    max_new: int
    block: int | None
    batch: int
    save: str
    stops: Stops
    draws: Draws

    @property
    def size(self) -> int:
        """Rows of a program."""
        return self.batch

    @property
    def answers(self) -> int:
        """Of each row."""
        return len(self.draws.keys[0])

    def checked(self) -> "Chosen":
        """Itself. Raises InputError, with the name of the row, for a choice that cannot be answered."""
        for _ in self._plans():
            pass
        return self

    def run(self) -> Output:
        """Every row's likeliest choice."""
        plans = self._plans()
        texts = drive(self.lm, [plan for _, plan in plans], self.batch)
        answers = [_answer(canvas, one) for (canvas, _), reached in zip(plans, texts) for one in reached]
        return _output(self, answers)

    def start(self) -> Progress:
        return Progress(None)

    def ahead(self, carry: Progress, forwards: int) -> Progress:
        """All at once: there is nothing to follow."""
        return Progress(self.run())

    def output(self, rows: Output, trace: None) -> Output:
        return rows

    def _plans(self) -> list[tuple[Canvas, Plan[list[Reached]]]]:
        known: dict[str, tuple[int, ...]] = {}
        made = []
        for row, (name, prompt, texts) in enumerate(zip(self.names, self.prompts, self.choices)):
            where = f"prompt {name}"
            for text in texts:
                known[text] = known.get(text) or tuple(spelled(self.lm, text, where))
                if len(known[text]) > self.max_new:
                    raise InputError(
                        f"{where}: the choice {text!r:.60} has {len(known[text])} tokens and max_new is {self.max_new}: raise it"
                    )
            by_ids = {known[text]: text for text in texts}
            other = next((text for text in texts if by_ids[known[text]] != text), None)
            if other is not None:
                raise InputError(
                    f"{where}: {other!r:.60} and {by_ids[known[other]]!r:.60} are spelled by the same tokens: leave one out"
                )
            ids = np.asarray(prompt, np.int32)
            slot = Slot(
                ids,
                tuple(known[text] for text in texts),
                (),
                ends_of(self.lm),
                head=head_of(self.lm, ids, lambda ids=ids: ids),
            )
            canvas = Canvas(self.lm, slot, Limits(self._width(slot)), where)
            trie = canvas.trie()
            made.append((canvas, likeliest(canvas, trie, self._noise(row, canvas, trie.leaves))))
        return made

    def _noise(self, row: int, canvas: Canvas, leaves: Sequence[Node]) -> list[Noise]:
        """Of each answer."""
        heat, texts = self.draws.temperature, {leaf: tuple(canvas.spelled(leaf)) for leaf in leaves}
        own = lambda key: {leaf: gumbel((*key, *text)) for leaf, text in texts.items()}  # noqa: E731
        return [Noise(own(key), heat) if heat else Noise({}, 1.0) for key in self.draws.keys[row]]

    def _width(self, slot: Slot) -> int | None:
        """Open columns: whole blocks that hold the longest choice and its end, as in a decode of so many."""
        if not masked(self.lm.config) or self.lm.config.attention == "block_causal":
            return None
        block = self.block or self.lm.defaults.get("block_length") or DEFAULT_BLOCK
        return -(-(max(map(len, slot.choices)) + 1) // block) * block


def gumbel(key: Sequence[int]) -> float:
    """A number of the standard Gumbel law, a hash of whole numbers."""
    bits = hashlib.sha256(b",".join(str(number).encode() for number in key)).digest()
    return -math.log(-math.log((int.from_bytes(bits[:7], "big") + 0.5) / 2**56))


class Answer(NamedTuple):
    """tokens: of the choice and its end; logp: of each; reads: sequences."""

    tokens: Node
    logp: np.ndarray
    reads: int
    status: Status


def _answer(canvas: Canvas, reached: Reached) -> Answer:
    """The likeliest leaf, of equal ones the first in the list."""
    if reached.broken or reached.best is None:
        return Answer((), np.zeros(0), reached.reads, Status.NONFINITE if reached.broken else Status.INFEASIBLE)
    leaf = reached.best
    logp = np.diff([reached.logp[leaf[:size]] for size in range(len(leaf) + 1)])
    return Answer(canvas.spelled(leaf), logp, reached.reads, Status.EOS)


def _output(rows: Chosen, answers: Sequence[Answer]) -> Output:
    ids, shape = rows.lm.config.tokens, (len(answers), rows.max_new)
    tokens = np.full(shape, ids.eos[0] if ids.eos else ids.pad, np.int32)
    score, step = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    status = []
    for row, answer in enumerate(answers):
        count = min(len(answer.tokens), rows.max_new)
        tokens[row, :count], score[row, :count] = answer.tokens[:count], answer.logp[:count]
        step[row, :count] = answer.reads - 1
        cut = answer.status == Status.EOS and len(answer.tokens) > rows.max_new  # its end has no column
        status.append(Status.FINISHED if cut else answer.status)
    forwards, none = np.array([answer.reads for answer in answers], np.int32), np.zeros(len(answers), np.int32)
    made = Output(
        text=read_text(rows.lm, tokens, rows.stops), tokens=tokens, forwards=forwards,
        commit_step=None if rows.save == "none" else step, score=None if rows.save == "none" else score, status=status,
        tokenizer=rows.lm.tokenizer, ends=tuple(sorted(rows.stops.ids)),
    )  # fmt: skip
    if masked(rows.lm.config):
        return made
    return dataclasses.replace(
        made, logprobs=made.score, accepted=none.astype(np.float32), drafted=none, draft_forwards=none
    )

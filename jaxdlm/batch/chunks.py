"""Whole batches of rows that an autoregressive model goes on with."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdlm import languages
from jaxdlm._decode import Continuation, prepare
from jaxdlm.batch import sampling
from jaxdlm.batch.answers import LOGPROBS, MOST_TOP, TOP, written_of
from jaxdlm.batch.engine import READY, Counts, Feed, Policies, Result, Sink, doubled
from jaxdlm.batch.rows import Request
from jaxdlm.core import ending
from jaxdlm.core.keys import row_keys
from jaxdlm.errors import InputError, exhausted
from jaxdlm.layout import bucket_of
from jaxdlm.output import Output
from jaxdlm.own import Own
from jaxdlm.sharding import beside
from jaxdlm.speculative.pair import check as check_pair


class Program(NamedTuple):
    """What rows of a batch share: a function of the row and the job alone."""

    columns: int
    form: str  # of the policy, see `Policies`
    prompt: int
    ends: Any
    grammar: Any
    fields: tuple[str, ...]  # of sampling: each row brings its own
    n: int = 1  # answers of each row
    top: int | None = None  # of log-probabilities, alternatives that are kept; None: none are


class Chunks:
    """Whole batches through `decode`, for policies that are no rules (autoregressive, draft and target)."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int,
        asked: frozenset[str] = frozenset(),
    ):  # fmt: skip
        self.asked = asked  # fields of sampling that rows of the job ask for
        self.policies = beside(lm.params, (), policies)[1]  # once: a draft's weights are no small thing to send
        self.lm, self.cache, self.block, self.slots = lm, cache, block, slots * mesh.shape["data"]
        self.max_new, self.ahead = max_new, (1 + READY) * self.slots
        self.counts = Counts(slots=self.slots)

    def check(self) -> None:
        """Raises InputError where target and draft do not meet."""
        check_pair(self.lm, self.policies.plain, self.max_new, 1)

    def run(self, feed: Feed, sink: Sink, stopped: Callable[[], bool]) -> None:
        """Works off windows of requests until None comes; rows of one program share a batch."""
        while (window := feed.get()) is not None:
            groups: dict[Program, list[Request]] = {}
            for request in window:
                groups.setdefault(self.group(request), []).append(request)
            for program, requests in groups.items():
                size = self._size(program)
                for begin in range(0, len(requests), size):
                    if stopped():
                        return
                    self._chunk(requests[begin : begin + size], program, sink)

    def group(self, request: Request) -> Program:
        """What a row shares with others, by what is its own and what the job's rows ask for."""
        asked = self.asked | request.asks
        fields = sampling.places(asked, self.policies, left_to_right=True)
        top = MOST_TOP if TOP in asked else 0 if LOGPROBS in asked else None
        drawn = not sampling.NUMBERS.isdisjoint(fields)
        return Program(
            doubled(self.max_new, request.max_new), "heated" if drawn else self.policies.form(request.temperature),
            bucket_of(len(request.tokens)), ending.shape([request.stops.sequences]),
            languages.shape_of(request.grammar), fields,
            request.wants.n, top,
        )  # fmt: skip

    def ready(self, request: Request) -> None:
        """Has the program of a row compiled, by running it on rows that have no column to write: their prompts are read."""
        whole = self._prepared([request], self.group(request))
        rows = whole.rows._replace(stop=np.full_like(whole.rows.stop, len(request.tokens)))
        whole._replace(rows=rows).run()

    def _chunk(self, requests: Sequence[Request], program: Program, sink: Sink) -> None:
        try:
            out = self._prepared(requests, program).run()
        except InputError as error:  # of one of them: alone and in its own columns, each is told its own
            for request in requests:
                if (len(requests), program.columns) == (1, request.max_new):
                    sink(request, request.refused(str(error)))
                else:
                    self._chunk([request], program._replace(columns=request.max_new), sink)
            return
        except jax.errors.JaxRuntimeError as error:
            if not exhausted(error):
                raise
            for request in requests:
                sink(request, None)
            return
        self.counts.trips += int(out.forwards.max())
        self.counts.busy += int(out.forwards[: len(requests) * program.n].sum())
        for index, request in enumerate(requests):
            rows = range(index * program.n, (index + 1) * program.n)
            first, *others = (result_of(out, row, request.max_new) for row in rows)
            sink(request, first._replace(others=tuple(others)))

    def _size(self, program: Program) -> int:
        """Rows of the input that share a batch: as many answers as there are slots, or those of one row."""
        return max(1, self.slots // program.n)

    def _prepared(self, requests: Sequence[Request], program: Program) -> Any:
        """A decode of the rows in so many columns, of which each has its own numbers, seed and ends."""
        rows = [*requests, *[requests[0]] * (self._size(program) - len(requests))]  # one shape, one program
        whole = prepare(
            self.lm,
            [row.tokens for row in rows],
            getattr(self.policies, program.form),
            self.cache,
            program.columns,
            self.block,
            save="none" if program.top is None else "commit",
            n=program.n,
            top_logprobs=program.top or 0,
            stop=False,
            grammar=[row.grammar for row in rows],
            own=[self._own(row, program.fields) for row in rows] if program.fields else None,
        ).parts[0]  # rows of one bucket are one program
        assert isinstance(whole, Continuation)
        stops = [row.stops.sequences for row in rows]
        own = {
            "stop": np.array([len(row.tokens) + row.max_new for row in rows], np.int32),
            "key": row_keys(
                np.array([row.seed for row in rows], np.int32), np.array([row.key for row in rows], np.uint32)
            ),
            "ends": None if (sides := ending.shape(stops)) is None else ending.pack(stops, sides),
        }
        return whole._replace(rows=whole.rows._replace(**own))

    def _own(self, request: Request, fields: tuple[str, ...]) -> Own:
        vocab, policy = self.lm.config.vocab_size, self.policies.plain
        return sampling.own_of(request.sampling, request.temperature, fields, policy, vocab)


def result_of(out: Output, row: int, columns: int) -> Result:
    """A row of a decode."""
    tokens, status = out.tokens[row, :columns], str(out.status[row])
    return Result(tokens, int(out.forwards[row]), status, written_of(out, row, columns))

"""A model, its scheduler, and what reads and writes for them; no word of HTTP."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxdlm.batch import decisions
from jaxdlm.batch.engine import Policies
from jaxdlm.batch.lines import Lines
from jaxdlm.serve.calls import Call, submit, unserved
from jaxdlm.serve.methods import Methods
from jaxdlm.serve.metrics import Metrics
from jaxdlm.serve.reading import Limits, Reading
from jaxdlm.serve.refusals import Refused, ending
from jaxdlm.serve.rows import Questions, Unserved
from jaxdlm.serve.scheduler import Scheduler


class Service:
    """Answers requests with one model; `start` and `stop` bracket its life, within a running event loop."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int,
        name: str | None = None, seed: int | None = None, raw: bool = False, stop: Any = True,
        chat: Mapping[str, Any] | None = None, limits: Limits | None = None, choose: bool = False,
    ) -> None:  # fmt: skip
        self.lm, self.name, self.limits = lm, name or lm.name, limits or Limits()
        self.created = int(time.time())
        shape = {"max_new": max_new, "block": block, "mesh": mesh, "slots": slots}
        self.slots, self.methods = slots, Methods(lm, policies, cache, shape, raw, stop, chat or {}, choose)
        self.reading = Reading(lm, self.name, self.methods, seed, self.limits, decisions.Readers(lm, {}))
        self.lines, self.metrics = Lines(lm, "", "openai"), Metrics()
        self.metrics.slots.set(slots)
        self.on_failure: Callable[[], None] = lambda: None
        self.scheduler = Scheduler(self._post, self.limits.queue, lambda: self.on_failure())
        self.metrics.waiting.set_function(lambda: self.scheduler.waiting)
        self.metrics.busy.set_function(lambda: self.scheduler.busy)
        self._reader = ThreadPoolExecutor(1, "reader")  # templates and grammars are read one after the other
        self._reading = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begins to decode."""
        self._loop = asyncio.get_running_loop()
        self.scheduler.start()

    def stop(self) -> None:
        """Ends after the forwards that are under way."""
        self.scheduler.stop()
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _post(self, messages: Sequence[Any]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_deliver, messages)

    async def _read(self, read: Callable[[bytes, str], Any], data: bytes, url: str) -> Any:
        if self._reading >= self.limits.queue:
            raise Refused(429, "too many requests wait: try again in 1 s", "queue_full", headers={"Retry-After": "1"})
        self._reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, read, data, url)
        except RuntimeError:
            raise ending() from None
        finally:
            self._reading -= 1

    async def call(self, data: bytes, url: str) -> Call:
        """A request under way; whoever has it closes it. Raises Refused."""
        asked = await self._read(self.reading.generation, data, url)
        call = Call(asked, self.scheduler, self.lines, self.name, self.metrics)
        call.start()
        return call

    async def decide(self, data: bytes, url: str) -> dict[str, Any]:
        """The body of answers to typed questions. Raises Refused."""
        row = await self._read(self.reading.questions, data, url)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def hear(_: Any, told: Any) -> None:
            if not answer.done():
                answer.set_result(told)

        asked = Questions(row, hear)
        submit(self.scheduler, [asked])
        try:
            told = await answer
        finally:
            asked.gone = True
        if told is None:
            raise ending()
        if isinstance(told, Unserved):
            raise unserved(told)
        if told.answers.status == "nonfinite":
            raise Refused(500, "an answer is not finite: check the weights", "nonfinite")
        return decisions.body_of(row, told)

    @property
    def state(self) -> dict[str, Any]:
        """What /health says."""
        failed = self.scheduler.failure is not None
        return {
            "status": "failed" if failed else "ending" if self.scheduler.closing else "ok", "model": self.name,
            "slots": self.slots, "busy": self.scheduler.busy, "waiting": self.scheduler.waiting,
        }  # fmt: skip


def _deliver(messages: Sequence[tuple[Any, Any]]) -> None:
    for row, told in messages:
        row.listener(row, told)

"""A batch job: a reader, a device and a writer thread between the input and the output, and what survives them."""

import contextlib
import dataclasses
import itertools
import json
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxdlm.batch import claims, fingerprint, openai
from jaxdlm.batch.engine import Policies, Result, make_engine
from jaxdlm.batch.progress import Progress
from jaxdlm.batch.rows import Defaults, Raw, Refusal, Request, read
from jaxdlm.batch.shards import JOB, Clock, Line, Shards, wipe
from jaxdlm.batch.source import Index, scan, source
from jaxdlm.batch.store import Folder, Store, store
from jaxdlm.core.carry import Status
from jaxdlm.errors import InputError

DONE, STOPPED = 0, 128  # exit statuses: complete; STOPPED + signal: ended by it, with everything finished saved
FORMAT, VERSION = "jaxdlm-batch", 1
SHARD_ROWS = 1000
GRACE = 15.0  # seconds from SIGTERM until the process ends, whatever the device is doing


@dataclasses.dataclass(frozen=True)
class Options:
    """A job as the command line states it."""

    input: str
    output: str
    policy: str
    max_new: int
    cache: str = "none"
    block: int | None = None
    seed: int = 0
    raw: bool = False
    slots: int = 16
    order: str = "longest"
    schema: str = "native"
    shard_rows: int | None = None
    window: int = 8192
    flush: float = 30.0
    lease: float = 60.0
    worker: bool = False
    new_run: bool = False
    quiet: bool = False
    host: int = 0
    hosts: int = 1


class Job:
    """One process's share of a job."""

    def __init__(self, options: Options, lm: Any, policies: Policies, cache: Any, mesh: Any, index: Index) -> None:
        self.options, self.lm, self.index = options, lm, index
        self.engine = make_engine(
            lm, policies, cache, max_new=options.max_new, block=options.block, mesh=mesh, slots=options.slots
        )
        self.defaults = Defaults(options.max_new, options.seed, options.raw, policies.heated is not None)
        self.policy = fingerprint.describe(policies.plain)
        self.label = f"{options.policy.partition(',')[0]}:{fingerprint.digest(self.policy)}"
        self.cache = fingerprint.describe(cache)
        self.who = claims.process_name()
        self.store: Store = store(options.output)

    # --------------------------------------------------------------------------------------------- fingerprint

    def record(self, shard_rows: int) -> dict[str, Any]:
        """What job.json says; another run with this output must say the same."""
        from jaxdlm import __version__

        options = self.options
        return {
            "format": FORMAT, "version": VERSION, "jaxdlm": __version__,
            "input": {"rows": self.index.rows, "sha256": self.index.sha256}, "model": fingerprint.model(self.lm),
            "policy": {"recipe": options.policy.partition(",")[0], **self.policy}, "cache": self.cache,
            "max_new": options.max_new, "block": options.block, "seed": options.seed, "raw": options.raw,
            "schema": options.schema, "shard_rows": shard_rows,
        }  # fmt: skip

    def agree(self, names: set[str]) -> dict[str, Any]:
        """Makes job.json, or compares with it. Raises InputError that names the first difference."""
        stated = self.options.shard_rows
        old = self._recorded() if JOB in names else None
        new = self.record(stated or (old or {}).get("shard_rows") or SHARD_ROWS)
        if old is None and self.store.create(JOB, json.dumps(new, indent=1).encode() + b"\n"):
            return new
        old = self._recorded() if old is None else old
        changes = list(fingerprint.differences(old, json.loads(json.dumps(new))))
        if changes:
            more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
            raise InputError(
                f"output {self.options.output} belongs to another job: {changes[0]}{more}; use the same settings, "
                f"another folder, or --new-run to start over"
            )
        return new

    def _recorded(self) -> dict[str, Any]:
        try:
            value = json.loads(self.store.get(JOB) or b"")
        except ValueError:
            value = None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(f"{self.options.output}/{JOB} is damaged: use another folder, or --new-run to start over")
        return value

    # ------------------------------------------------------------------------------------------------- running

    def run(self) -> int:
        """The exit status. Raises what a thread raised."""
        options = self.options
        primary = options.worker or options.host == 0
        with contextlib.ExitStack() as stack:
            if primary:
                lock = claims.locked(self.store, self.who, shared=options.worker, lease=options.lease)
                stack.enter_context(lock)
            if primary and not options.worker:
                self._prepare()
            if options.hosts > 1:
                meet("jaxdlm.batch.prepared")
            record = self.agree(self.store.names())
            stamp = fingerprint.digest(record)
            shards = Shards(self.store, self.index.rows, record["shard_rows"], stamp, self.who)
            shards.look(self.store.names())
            if options.worker:
                owned: Assignment = stack.enter_context(Claimed(shards, self, stamp))
            else:
                owned = Static(shards, options.host, options.hosts)
            return Threads(self, shards, owned).run()

    def _prepare(self) -> None:
        if isinstance(self.store, Folder):
            self.store.tidy()
        if self.options.new_run:
            wipe(self.store)

    # ---------------------------------------------------------------------------------------------------- rows

    def line(self, request: Request, result: Result) -> Line:
        """An output row."""
        tokens = [int(token) for token in result.tokens]
        text = None if self.lm.tokenizer is None else self.lm.tokenizer.decode(tokens)
        if self.options.schema == "openai":
            return Line(_json(self._response(request, tokens, text)), False)
        fields = {
            "id": request.id, "text": text, "tokens": tokens, "status": result.status, "forwards": result.forwards,
            "policy": self.label,
        }  # fmt: skip
        return Line(_json(fields), result.status == str(Status.NONFINITE))

    def _response(self, request: Request, tokens: Sequence[int], text: str | None) -> dict[str, Any]:
        ends = self.lm.config.tokens.eos
        written = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        reason = "stop" if written < len(tokens) else "length"
        return openai.response(
            request.id, f"{request.key:08x}", self.lm.name, text, reason, len(request.tokens), written, request.chat
        )

    def refusal(self, refused: Refusal) -> Line:
        """The output row of an input row that cannot be decoded."""
        if self.options.schema == "openai":
            return Line(_json(openai.failure(refused.id, f"row_{refused.row}", refused.message)), True)
        fields = {
            "id": refused.id, "text": None, "tokens": None, "status": "error", "forwards": 0, "policy": self.label,
            "error": refused.message,
        }  # fmt: skip
        return Line(_json(fields), True)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode("utf-8", "replace") + b"\n"


def meet(name: str) -> None:
    """Waits for the other hosts."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


# ------------------------------------------------------------------------------------------------------ assignment


class Assignment:
    """Which shards this process does, in which order. `None` in between: there is nothing to do just now."""

    def shards(self, stopped: Callable[[], bool]) -> Iterator[int | None]:
        raise NotImplementedError


class Static(Assignment):
    """Shard k belongs to host k mod hosts."""

    def __init__(self, shards: Shards, host: int, hosts: int) -> None:
        self._todo = [shard for shard in range(host, shards.count, hosts) if shard not in shards.committed]

    def shards(self, stopped: Callable[[], bool]) -> Iterator[int | None]:
        yield from self._todo


class Claimed(Assignment):
    """Whatever is free, until everything is committed by somebody."""

    def __init__(self, shards: Shards, job: Job, stamp: str) -> None:
        self._shards, self._store = shards, job.store
        self._claims = claims.Claims(job.store, stamp, job.who, job.options.lease)
        self._beat = self._claims.heartbeat()
        self._mine: set[int] = set()

    def __enter__(self) -> "Claimed":
        self._beat.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._beat.__exit__(*error)

    def shards(self, stopped: Callable[[], bool]) -> Iterator[int | None]:
        while not stopped():
            names = self._store.names()
            self._shards.look(names)
            done = self._shards.committed | self._mine
            todo = [shard for shard in range(self._shards.count) if shard not in done]
            if not todo:
                return
            shard = self._claims.next(todo, names)
            if shard is not None:
                self._mine.add(shard)
            else:
                time.sleep(min(1.0, self._claims.lease / 8))
            yield shard


# --------------------------------------------------------------------------------------------------------- threads


class Threads:
    """Reader -> feed -> device -> finished -> writer."""

    def __init__(self, job: Job, shards: Shards, owned: Assignment) -> None:
        self.job, self.shards, self.owned = job, shards, owned
        self.feed: queue.Queue[list[Request] | None] = queue.Queue(2)
        self.finished: queue.Queue[Any] = queue.Queue()
        self.stop = threading.Event()  # nothing new is begun
        self.failure: BaseException | None = None
        self.signal = 0
        self.rows = sum(len(shards.missing(shard)) for shard in range(shards.count) if shard not in shards.committed)
        self.progress = Progress(shards.rows, shards.rows - self.rows, self.job.engine.counts, quiet=job.options.quiet)

    def run(self) -> int:
        """The exit status, once every thread has come home or the grace after SIGTERM is over."""
        work = {"reader": self._read, "device": self._decode, "writer": self._write}
        threads = {
            name: threading.Thread(target=self._guarded, args=(each,), name=name, daemon=True)
            for name, each in work.items()
        }
        with self._signals(), self.progress:
            for thread in threads.values():
                thread.start()
            deadline = None
            while threads["writer"].is_alive():
                threads["writer"].join(0.2)
                self.progress.show()
                if self.stop.is_set():
                    deadline = deadline or time.monotonic() + GRACE
                    if not threads["device"].is_alive() or time.monotonic() > deadline - 5:
                        self.finished.put(None)  # what is still on the device will be done by the next run
                    if time.monotonic() > deadline:
                        break
        if self.failure is not None:
            threads["device"].join(5)  # the interpreter does not end well under a running device call
            raise self.failure
        if self.signal:
            self.progress.say("stopped by a signal; what is finished is saved: the same command goes on from here")
            return STOPPED + self.signal
        return DONE

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C begin an orderly stop, a second Ctrl-C ends at once; only the main thread can ask for that.

        SIGTERM may come twice for one request (coreutils' timeout sends it to the process and to its group).
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def terminate(number: int, *_: Any) -> None:
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = self.signal or number
            self.stop.set()

        before = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            if self.failure is None:
                self.failure = error
            self.stop.set()

    # -------------------------------------------------------------------------------------------------- reader

    def _read(self) -> None:
        options = self.job.options
        reader = Reader(options.input)
        window: list[Request] = []
        size = 0
        for shard in self.owned.shards(self.stop.is_set):
            if shard is None:  # nothing to claim: what is claimed gets finished
                self._hand_over(window)
                window, size = [], 0
                continue
            wanted = self.shards.missing(shard)
            for raw in reader.rows(wanted):
                found = read(raw, self.job.lm, self.job.defaults, self.job.index.duplicates)
                if isinstance(found, Refusal):
                    self.finished.put((raw.row, self.job.refusal(found)))
                else:
                    window.append(found)
            if not wanted:
                self.finished.put(("whole", shard))
            size += len(wanted)
            if size >= options.window:
                self._hand_over(window)
                window, size = [], 0
            if self.stop.is_set():
                return
        self._hand_over(window)
        self._offer(None)

    def _hand_over(self, window: list[Request]) -> None:
        if self.job.options.order == "longest":
            window = sorted(window, key=lambda request: (-request.max_new, -len(request.tokens), request.row))
        if window:
            self._offer(window)

    def _offer(self, item: list[Request] | None) -> None:
        while not self.stop.is_set():
            try:
                return self.feed.put(item, timeout=0.2)
            except queue.Full:
                continue

    # -------------------------------------------------------------------------------------------------- device

    def _decode(self) -> None:
        self.job.engine.run(Feed(self.feed, self.stop), self._sink, self.stop.is_set)
        if not self.stop.is_set():
            self.finished.put(None)

    def _sink(self, request: Request, result: Result) -> None:
        self.finished.put((request, result))

    # -------------------------------------------------------------------------------------------------- writer

    def _write(self) -> None:
        """Commits shards as they are complete; keeps finished rows in parts until then."""
        clock = Clock(self.job.options.flush)
        while True:
            try:
                item = self.finished.get(timeout=0.2)
            except queue.Empty:
                item = ()
            if item is None:
                break
            if item:
                self._take(*item)
            if clock.due():
                self.shards.flush()
        if self.stop.is_set():
            self.shards.flush()
        else:
            self._end()

    def _take(self, what: Any, value: Any) -> None:
        if what == "whole":  # every row was in parts
            self.shards.complete([value])
        elif isinstance(what, Request):
            self.shards.add(what.row, self.job.line(what, value))
            self.progress.add(value, self.job.lm.config.tokens.eos)
        else:
            self.shards.add(what, value)
            self.progress.refuse()

    def _end(self) -> None:
        options = self.job.options
        while not self.shards.finish():
            if options.hosts == 1 and not options.worker:
                raise RuntimeError("the job ended with shards that are not committed: run the same command again")
            if self.stop.wait(min(2.0, options.lease / 8)):
                return


class Feed:
    """The queue of windows; an ended run looks like its end."""

    def __init__(self, windows: "queue.Queue[list[Request] | None]", stop: threading.Event) -> None:
        self._windows, self._stop = windows, stop

    def get_nowait(self) -> list[Request] | None:
        return self._windows.get_nowait()

    def get(self) -> list[Request] | None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                return self._windows.get(timeout=0.2)
        return None


class Reader:
    """Rows by number; goes on where it stands, and begins anew to go back."""

    def __init__(self, path: str) -> None:
        self._source = source(path)
        self._rows: Iterator[Raw] = iter(())
        self._next: int | None = None

    def rows(self, wanted: Sequence[int]) -> Iterator[Raw]:
        """The wanted rows, in ascending order."""
        for row in wanted:
            if self._next is None or row < self._next:
                self._rows, self._next = self._source.rows(row), row
            found = next(itertools.dropwhile(lambda raw, row=row: raw.row < row, self._rows), None)
            if found is None:
                raise InputError("the input became shorter while it was read: run the same command again")
            self._next = row + 1
            yield found


def job(options: Options, lm: Any, policies: Policies, cache: Any, mesh: Any, index: Index | None = None) -> Job:
    """A job, ready to run. Raises InputError for anything about it that cannot be done."""
    return Job(options, lm, policies, cache, mesh, scan(options.input) if index is None else index)

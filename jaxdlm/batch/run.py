"""A batch job: what it is made of, and what its output belongs to."""

import contextlib
import json
import time
from typing import Any

from jaxdlm.batch import claims, fingerprint
from jaxdlm.batch.assignment import Assignment, Claimed, Static
from jaxdlm.batch.chunks import Chunks
from jaxdlm.batch.engine import Policies, SlotEngine
from jaxdlm.batch.gating import Repeat
from jaxdlm.batch.lines import Lines
from jaxdlm.batch.options import Options
from jaxdlm.batch.rows import Defaults, Raw, Refusal, Request, identity, parse, read
from jaxdlm.batch.sampling import heat_of, refusals
from jaxdlm.batch.shards import JOB, Shards, wipe
from jaxdlm.batch.source import Index, scan
from jaxdlm.batch.store import Folder, Store, store
from jaxdlm.batch.threads import Threads
from jaxdlm.errors import InputError
from jaxdlm.resolve import check, check_continuation
from jaxdlm.speculative.policy import Speculation
from jaxdlm.stops import ends_wanted, read_stops
from jaxdlm.structured import fitting, grammar_of, unnested

FORMAT, VERSION = "jaxdlm-batch", 1
SHARD_ROWS = 1000


def defaults_of(lm: Any, policies: Policies, *, stop: Any, **stated: Any) -> Defaults:
    """What rows have that state none of their own, and what none of them can have. stop: as in `decode`; stated: the other
    fields of `Defaults`. Raises InputError."""
    return Defaults(
        temperature=policies.heated is not None, stop=read_stops(lm, ends_wanted(policies.plain, stop)),
        heat=heat_of(policies.plain), refused=refusals(policies, lm.name), **stated,
    )  # fmt: skip


class Job:
    """One process's share of a job. engine: decodes its rows, such as one that `make_engine` made."""

    def __init__(self, options: Options, lm: Any, policies: Policies, cache: Any, index: Index, engine: Any) -> None:
        self.options, self.lm, self.index, self.engine = options, lm, index, engine
        self.defaults = defaults_of(
            lm, policies, max_new=options.max_new, seed=options.seed, raw=options.raw, stop=options.stop,
            language=options.language, depth=options.depth, chat=options.chat,
        )  # fmt: skip
        if options.language is not None:  # a job whose every row would be refused is refused
            fitting(lm, grammar_of(lm, *options.language), options.language[0], options.max_new, self.defaults.stop)
        self.policy = fingerprint.describe(policies.plain)
        label = f"{options.policy.partition(',')[0]}:{fingerprint.digest(self.policy)}"
        self.lines = Lines(lm, label, options.schema)
        self.cache = fingerprint.describe(cache)
        self.who = claims.process_name()
        self.store: Store = store(options.output)

    # --------------------------------------------------------------------------------------------- fingerprint

    def record(self, shard_rows: int) -> dict[str, Any]:
        """The contents of job.json; those of another run with this output must be equal."""
        from jaxdlm import __version__

        options = self.options
        return {
            "format": FORMAT, "version": VERSION, "jaxdlm": __version__,
            "input": {"rows": self.index.rows, "sha256": self.index.sha256}, "model": fingerprint.model(self.lm),
            "policy": {"recipe": options.policy.partition(",")[0], **self.policy}, "cache": self.cache,
            "max_new": options.max_new, "block": options.block, "seed": options.seed, "raw": options.raw,
            "stop": [list(map(list, self.defaults.stop.sequences)), list(self.defaults.stop.strings)],
            "schema": options.schema, "shard_rows": shard_rows,
            **({} if options.rows_per_program is None else {"rows_per_program": options.rows_per_program}),
            **({} if options.language is None else {"language": list(unnested(options.language))}),
            **({} if options.depth == "usual" else {"depth": options.depth}),
            **({"chat": options.chat} if options.chat else {}),
            **({} if options.gate is None else {"gate": list(options.gate)}),
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
        data = self.store.get(JOB) or b""
        try:
            value = json.loads(data)
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
                owned: Assignment = stack.enter_context(Claimed(shards, self.store, stamp, self.who, options.lease))
            else:
                owned = Static(shards, options.host, options.hosts)
            threads = Threads(options, self.engine, self.understand, self.lines, shards, owned)
            status = threads.run()
            if threads.signal and options.hosts > 1:
                leave(options.host, options.hosts, threads.deadline)
            return status

    def understand(self, raw: Raw) -> Request | Refusal | Repeat:
        """A row of the input as this job reads it."""
        if raw.row in self.index.refused:
            return Refusal(raw.row, raw.line, identity(parse(raw), raw), self.index.refused[raw.row])
        if raw.row in self.index.same:
            return Repeat(raw.row, raw.line, identity(parse(raw), raw), self.index.same[raw.row])
        return read(raw, self.lm, self.defaults, self.index.duplicates)

    def _prepare(self) -> None:
        if isinstance(self.store, Folder):
            self.store.tidy()
        if self.options.new_run:
            wipe(self.store)


def meet(name: str) -> None:
    """Waits for the other hosts."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def leave(host: int, hosts: int, deadline: float) -> None:
    """After a stop the host at which the others met goes last: without it they are aborted, saved or not.

    It waits for a dead host until the deadline (of `time.monotonic`), since nothing tells that one from a slow one.
    """
    from jax._src import distributed  # JAX has no public name for what its hosts tell each other without devices

    client: Any = distributed.global_state.client
    if host:
        client.key_value_set(f"jaxdlm.batch.left/{host}", "saved")
        return
    for other in range(1, hosts):
        left = max(0.0, deadline - time.monotonic())
        with contextlib.suppress(RuntimeError):  # it did not answer in time
            client.blocking_key_value_get(f"jaxdlm.batch.left/{other}", int(1000 * left) + 1)


def job(options: Options, lm: Any, policies: Policies, cache: Any, mesh: Any, index: Index | None = None) -> Job:
    """A job, ready to run. Raises InputError for anything about it that cannot be done."""
    index = scan(options.input, options.gate) if index is None else index
    engine = make_engine(
        lm, policies, cache, max_new=options.max_new, block=options.block, mesh=mesh, slots=options.slots,
        asked=index.asked,
    )  # fmt: skip
    return Job(options, lm, policies, cache, index, engine)


def make_engine(
    lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int,
    asked: frozenset[str] = frozenset(),
) -> SlotEngine | Chunks:  # fmt: skip
    """Slots for rules, whole batches for everything else. asked: fields of sampling that rows ask for.

    Raises InputError for what no row could be decoded with.
    """
    make: Any = Chunks if isinstance(policies.plain, Speculation) else SlotEngine
    if make is SlotEngine:
        check(lm, policies.plain, cache)
    else:
        check_continuation(cache, block)
    engine = make(lm, policies, cache, max_new=max_new, block=block, mesh=mesh, slots=slots, asked=asked)
    engine.check()
    return engine

"""`jaxdlm batch`: arguments into a job."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from jaxdlm import argument, command
from jaxdlm.command import COUNT, PLACE, ROWS, SECONDS, Command, flag, option, section
from jaxdlm.errors import InputError

SLOTS = (
    option("--slots", type=ROWS, metavar="N", show_default="16", help="rows on each replica of the model at a time"),
    option(
        "--rows-per-program",
        type=ROWS,
        metavar="R",
        show_default="any number",
        help="so many slots, and a job that goes on keeps them: its results follow from them where products round by shape",
    ),
)
MESH = option(
    "--mesh", metavar="AXIS=N,...", show_default="one that fits", help="devices of this host, as data=2,tensor=2"
)


@click.command(cls=Command)
@click.argument("input", metavar="INPUT")
@section(
    "Files",
    option("--output", required=True, metavar="DIR", help="folder or URL of the results"),
    option("--schema", type=click.Choice(("native", "openai")), default="native", help="of the output rows"),
    option("--shard-rows", type=COUNT, metavar="N", show_default="1000", help="rows per output object"),
    option("--flush", type=SECONDS, default=30.0, metavar="SECONDS", help="how often finished rows are saved"),
    option("--grace", type=SECONDS, default=15.0, metavar="SECONDS", help="how long a stop by SIGTERM may take"),
    option(
        "--gate",
        type=click.FLOAT,
        metavar="TAU",
        help="of rows with an embedding, decode those with which their stream moves",
    ),
    option(
        "--patience",
        type=COUNT,
        metavar="N",
        show_default="1",
        help="with --gate: rows that must agree before it moves",
    ),
    flag("--new-run", help="remove what another job has left in DIR and start over"),
    flag("--quiet", help="no progress on stderr"),
)
@command.decoding(COUNT)
@section(
    "Speed",
    *SLOTS,
    option("--order", type=click.Choice(("longest", "input")), default="longest", help="which rows go first"),
    option("--window", type=COUNT, default=8192, metavar="N", help="rows that are read ahead and sorted"),
    MESH,
)
@section(
    "Several workers or hosts",
    flag("--worker", help="one of any number of independent workers that share INPUT and DIR"),
    option("--lease", type=SECONDS, default=60.0, metavar="SECONDS", help="when a silent worker counts as dead"),
    flag("--distributed", help="several hosts by jax.distributed; on TPU pods nothing else is needed"),
    option("--coordinator", metavar="HOST:PORT", help="with --distributed outside TPU pods"),
    option("--hosts", type=COUNT, metavar="N", help="with --coordinator: number of processes"),
    option("--host", type=PLACE, metavar="I", help="with --coordinator: which of them this is, from 0"),
)
def batch(
    input: str, output: str, distributed: bool, coordinator: str | None, hosts: int | None, host: int | None,
    gate: float | None, patience: int | None, **stated: Any,
) -> int:  # fmt: skip
    """Answer a file of prompts: JSON lines (also .gz) or .parquet, a path or a URL such as gs://bucket/in.jsonl.

    Run the same command again after any interruption: it goes on. Exit status 143: stopped by SIGTERM.
    """
    from jaxdlm.batch.gating import Gate
    from jaxdlm.batch.threads import STOPPED

    if stated["worker"] and distributed:
        raise InputError("--worker and --distributed exclude each other: workers need no coordinator")
    if stated["worker"] and stated["new_run"]:
        raise InputError("--new-run would remove what other workers write: run it once without --worker")
    options = together(stated)
    if gate is None and patience is not None:
        raise InputError(f"--patience {patience} means nothing without --gate: leave it out, or add that")
    if gate is not None and options["schema"] == "openai":
        raise InputError(
            "--gate writes rows without an answer of their own, which OpenAI's schema has none for: leave one out"
        )
    gated = None if gate is None else Gate(argument.real(low=0)(gate, "--gate"), patience or 1)
    if not distributed:
        unused = {"--coordinator": coordinator, "--hosts": hosts, "--host": host}
        for name, value in unused.items():
            if value is not None:
                raise InputError(f"{name} {value} means nothing without --distributed: leave it out, or add that")
    index, count = join(coordinator, hosts, host) if distributed else (0, 1)
    status = made(input, output, gate=gated, host=index, hosts=count, **options).run()
    if status > STOPPED:  # the device may be in the middle of a queue that nobody waits for
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(status)
    return status


@click.command(cls=Command)
@click.argument("input", metavar="INPUT")
@command.decoding(COUNT)
@section("Speed", *SLOTS, MESH, flag("--quiet", help="no progress on stderr"))
def warmup(input: str, **stated: Any) -> None:
    """Compile what `jaxdlm batch` runs for these rows with the same options, and keep it on disk.

    Nothing is decoded, and nothing written but the folder of compiled programs (--compile-cache): a job then begins with its
    first forward, as does one that goes on after a kill.
    """
    import tempfile

    from jaxdlm.batch.warm import warm

    options = together(stated)
    with tempfile.TemporaryDirectory() as nowhere:
        warm(made(input, nowhere, **options), say=(lambda line: None) if options["quiet"] else command.note)


def together(stated: dict[str, Any]) -> dict[str, Any]:
    """Options of the shell as a job has them: what several of them say about one thing is one value."""
    from jaxdlm.batch.options import Options

    rest = dict(stated)
    take = rest.pop
    named = {name: take(name) for name in ("choices", "regex", "json_schema", "any_json", "lark")}
    words = command.language(**named, depth=rest["depth"])
    slots, tiled = take("slots"), rest["rows_per_program"]
    if None not in (slots, tiled) and slots != tiled:
        raise InputError(
            f"--slots {slots} with --rows-per-program {tiled}: a program's rows are its slots, leave --slots out"
        )
    return rest | {
        "stop": command.stopping(rest["stop"], take("no_stop")), "language": one_language(words),
        "chat": command.chat(**{name: take(name) for name in ("system", "tools", "chat_template_kwargs")}),
        "slots": slots or tiled or Options.slots,
    }  # fmt: skip


def made(
    input: str, output: str, *, model: str, policy: str | None, cache: str, mesh: str | None, max_new: int | None,
    block: int | None, gate: Any = None, **stated: Any,
) -> Any:  # fmt: skip
    """The job that the options ask for, ready to run."""
    import jaxdlm as jd
    from jaxdlm import policies as methods
    from jaxdlm import resolve
    from jaxdlm._load import describe
    from jaxdlm.batch import run
    from jaxdlm.batch.options import Options
    from jaxdlm.batch.source import scan
    from jaxdlm.batch.store import store

    policy = methods.default(describe(model).config) if policy is None else policy
    policies, resolved = read_policies(policy), resolve.resolve_cache(cache)
    store(output)  # what needs no model is checked before loading one
    rows, shape = scan(input, gate), {"max_new": max_new, "block": block}
    devices = make_mesh(mesh) if mesh else fitting_mesh(model, policies.plain, resolved, rows, shape, **stated)
    lm = jd.load(model, mesh=devices)
    options = Options(
        input=input, output=output, policy=policy, cache=cache, gate=gate, **stated,
        **shape_of(shape, lm.defaults, policies.plain),
    )  # fmt: skip
    return run.job(options, lm, policies, resolved, devices, rows)


def one_language(stated: dict[str, Any]) -> tuple[str, Any] | None:
    """(form, value) of the rows that state none of their own."""
    if len(stated) > 1:
        raise InputError(f"{' and '.join(stated)} exclude each other: a row's answer belongs to one language")
    return next(iter(stated.items()), None)


def join(coordinator: str | None, hosts: int | None, host: int | None) -> tuple[int, int]:
    """(this host, number of hosts), after meeting the others."""
    import jax

    explicit = (coordinator, hosts, host)
    if any(value is not None for value in explicit) and None in explicit:
        raise InputError("--coordinator, --hosts and --host go together: give all three, or none on a TPU pod")
    try:
        jax.distributed.initialize(*explicit)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--distributed: {' '.join(str(error).split())[:160]}; give --coordinator, --hosts, --host"
        ) from None
    return jax.process_index(), jax.process_count()


def make_mesh(words: str | None) -> Any:
    """A mesh (data, tensor, expert) of this host's devices: replicas of the model never wait for another host."""
    import jax

    from jaxdlm import sharding

    axes = {"data": 0, "tensor": 1, "expert": 1}
    for pair in words.split(",") if words else ():
        name, _, size = pair.partition("=")
        if name.strip() not in axes or not size.strip().isdecimal() or not 1 <= int(size) <= argument.INT32:
            raise InputError(f"--mesh {words!r}: write data=2,tensor=2 with any of {', '.join(axes)}")
        axes[name.strip()] = int(size)
    devices = jax.local_devices()
    whole = axes["tensor"] * axes["expert"]
    if whole > len(devices):
        raise InputError(
            f"--mesh {words!r}: tensor x expert = {whole} is more than the {len(devices)} devices of a host"
        )
    axes["data"] = axes["data"] or len(devices) // whole
    return sharding.make_mesh(axes, devices=devices)


def shape_of(stated: dict[str, int | None], defaults: Mapping[str, Any], policy: Any) -> dict[str, Any]:
    """Columns to generate and the block, as stated or as the model's own configuration says."""
    from jaxdlm.resolve import has_blocks

    return {
        "max_new": stated["max_new"] or defaults.get("max_new_tokens") or command.MAX_NEW,
        "block": stated["block"] or (defaults.get("block_length") if has_blocks(policy) else None),
    }


def fitting_mesh(
    model: str, policy: Any, cache: Any, index: Any, stated: dict[str, int | None], *, slots: int, seed: int, raw: bool,
    quiet: bool, chat: Mapping[str, Any], **rest: Any,
) -> Any:  # fmt: skip
    """The mesh of this host's devices that `jaxdlm plan` would choose, for the longest row of the input; said on stderr.

    Where there is one device, or nobody knows its memory (a CPU), nothing is compiled to find it out.
    """
    import jax

    def say(line: str) -> None:
        if not quiet:
            command.note(line)

    devices = jax.local_devices()
    mesh = make_mesh(None)
    if len(devices) == 1:
        return mesh
    if devices[0].memory_stats():
        from jaxdlm.plan.search import fitting

        mesh = fitting(planned(model, policy, cache, index, stated, seed, raw, chat), devices, slots, say)
    copies, each = mesh.shape["data"], mesh.size // mesh.shape["data"]
    say(f"mesh data={copies},tensor={mesh.shape['tensor']}: a copy of the weights per {each} of {len(devices)} devices")
    return mesh


def planned(
    model: str, policy: Any, cache: Any, index: Any, stated: dict[str, int | None], seed: int, raw: bool,
    chat: Mapping[str, Any],
) -> Any:  # fmt: skip
    """The job as `jaxdlm.plan` takes it: the model by its configuration alone, every row as long as the longest."""
    from jaxdlm._load import describe
    from jaxdlm.batch.rows import Defaults, Request, read
    from jaxdlm.plan.aot import Job

    lm = describe(model)
    shape = shape_of(stated, lm.defaults, policy)
    row = read(index.longest, lm, Defaults(shape["max_new"], seed, raw, chat=chat), {})
    long = row if isinstance(row, Request) else None  # a row that is refused is decoded by nobody
    return Job(
        lm.config, 1, len(long.tokens) if long else 1, max(shape["max_new"], long.max_new if long else 1), shape["block"],
        policy, cache, None, model,
    )  # fmt: skip


def read_policies(words: str) -> Any:
    """The policy as stated, at temperature 0, and with a temperature per row."""
    import numpy as np

    from jaxdlm.batch.engine import Policies
    from jaxdlm.core.rule import Stepper
    from jaxdlm.policies import read
    from jaxdlm.resolve import resolve_method
    from jaxdlm.rules.per_row import has_number

    plain = resolve_method(read(words))
    try:
        cold = resolve_method(read(words, {"temperature": 0.0}))
        heated = resolve_method(read(words, {"temperature": np.float32(1)}))
    except InputError:
        return Policies(plain, None, None)
    if isinstance(heated, Stepper) or not has_number(heated, "temperature"):
        return Policies(plain, None, None)
    return Policies(plain, cold, heated)

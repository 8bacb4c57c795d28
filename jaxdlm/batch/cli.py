"""`jaxdlm batch`: arguments into a job."""

import argparse
import os
import sys
from typing import Any

import numpy as np

from jaxdlm.errors import InputError

ORDERS, SCHEMAS = ("longest", "input"), ("native", "openai")


def add_parser(commands: Any) -> None:
    """Adds the `batch` command."""
    command = commands.add_parser(
        "batch",
        help="answer a file of prompts, resumably",
        description="Answers a file of prompts. Run the same command again after any interruption: it goes on.",
    )
    add = command.add_argument
    add(
        "input", metavar="INPUT", help="JSON lines (also .gz) or .parquet; a path or a URL such as gs://bucket/in.jsonl"
    )
    add("--output", required=True, metavar="DIR", help="folder or URL of the results")
    add("--model", default="tiny", help="embedded name, folder, Hub id or shape:NAME (default: tiny)")
    add("--policy", default="threshold", metavar="NAME[,key=value...]", help="see jaxdlm policies (default: threshold)")
    add("--cache", default="none", metavar="NAME", help="key/value cache (default: none)")
    add(
        "--max-new",
        type=int,
        metavar="N",
        help="columns per row that does not say (default: the model's own, else 128)",
    )
    add("--block", type=int, metavar="N", help="block length (default: the model's own, else that of decode)")
    add("--seed", type=int, default=0, metavar="S", help="seed of rows that do not say (default: 0)")
    add("--raw", action="store_true", help="do not pass prompts through the chat template")
    add("--slots", type=int, default=16, metavar="N", help="rows on each replica of the model at a time (default: 16)")
    add("--order", choices=ORDERS, default="longest", help="which rows go first (default: longest)")
    add("--schema", choices=SCHEMAS, default="native", help="of the output rows (default: native)")
    add("--shard-rows", type=int, metavar="N", help="rows per output object (default: 1000)")
    add("--window", type=int, default=8192, metavar="N", help="rows that are read ahead and sorted (default: 8192)")
    add("--flush", type=float, default=30.0, metavar="SECONDS", help="how often finished rows are saved (default: 30)")
    add("--new-run", action="store_true", help="remove what another job has left in DIR and start over")
    add("--mesh", metavar="AXIS=N,...", help="devices of this host, as in data=2,tensor=2 (default: all on data)")
    add("--worker", action="store_true", help="one of any number of independent workers that share INPUT and DIR")
    add(
        "--lease", type=float, default=60.0, metavar="SECONDS", help="when a silent worker counts as dead (default: 60)"
    )
    add(
        "--distributed",
        action="store_true",
        help="several hosts by jax.distributed; on TPU pods nothing else is needed",
    )
    add("--coordinator", metavar="HOST:PORT", help="with --distributed outside TPU pods")
    add("--hosts", type=int, metavar="N", help="with --coordinator: number of processes")
    add("--host", type=int, metavar="I", help="with --coordinator: which of them this is, from 0")
    add("--quiet", action="store_true", help="no progress on stderr")
    command.set_defaults(run=batch)


def batch(args: argparse.Namespace) -> int:
    """The `batch` command: 0 complete, 143 stopped by SIGTERM (130: Ctrl-C), 1 failed, 2 bad input."""
    import jaxdlm as jd
    from jaxdlm import _decode
    from jaxdlm.batch import run
    from jaxdlm.batch.source import scan
    from jaxdlm.batch.store import store

    check(args)
    host, hosts = join(args)
    policies = read_policies(args.policy)
    cache = _decode.resolve_cache(args.cache)
    store(args.output)  # what needs no model is checked before loading one
    index = scan(args.input)
    mesh = make_mesh(args.mesh)
    lm = jd.load(args.model, mesh=mesh)
    max_new = args.max_new or lm.defaults.get("max_new_tokens") or 128
    options = run.Options(
        input=args.input, output=args.output, policy=args.policy, max_new=max_new, cache=args.cache,
        block=args.block or lm.defaults.get("block_length"), seed=args.seed, raw=args.raw, slots=args.slots,
        order=args.order, schema=args.schema, shard_rows=args.shard_rows, window=args.window, flush=args.flush,
        lease=args.lease, worker=args.worker, new_run=args.new_run, quiet=args.quiet, host=host, hosts=hosts,
    )  # fmt: skip
    status = run.job(options, lm, policies, cache, mesh, index).run()
    if status > run.STOPPED:  # the device may be in the middle of a queue that nobody waits for
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(status)
    return status


def check(args: argparse.Namespace) -> None:
    """Refuses numbers that mean nothing."""
    for name in ("slots", "max_new", "block", "shard_rows", "window", "hosts"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    for name in ("flush", "lease"):
        if not getattr(args, name) > 0:
            raise InputError(f"--{name} {getattr(args, name)}: must be more than 0 seconds")
    if args.worker and args.distributed:
        raise InputError("--worker and --distributed exclude each other: workers need no coordinator")
    if args.worker and args.new_run:
        raise InputError("--new-run would remove what other workers write: run it once without --worker")


def join(args: argparse.Namespace) -> tuple[int, int]:
    """(this host, number of hosts), after meeting the others where that was asked for."""
    import jax

    if not args.distributed:
        return 0, 1
    explicit = (args.coordinator, args.hosts, args.host)
    if any(value is not None for value in explicit) and None in explicit:
        raise InputError("--coordinator, --hosts and --host go together: give all three, or none on a TPU pod")
    try:
        jax.distributed.initialize(args.coordinator, args.hosts, args.host)
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
        if name.strip() not in axes or not size.strip().isdigit() or int(size) < 1:
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


def read_policies(words: str) -> Any:
    """The policy as stated, at temperature 0, and with a temperature per row."""
    from jaxdlm._decode import resolve_method
    from jaxdlm.batch.engine import Policies
    from jaxdlm.cli import read_policy
    from jaxdlm.core.rule import Stepper
    from jaxdlm.rules.per_row import has_number

    plain = resolve_method(read_policy(words, {}))
    try:
        cold = resolve_method(read_policy(words, {"temperature": 0.0}))
        heated = resolve_method(read_policy(words, {"temperature": np.float32(1)}))
    except InputError:
        return Policies(plain, None, None)
    if isinstance(heated, Stepper) or not has_number(heated, "temperature"):
        return Policies(plain, None, None)
    return Policies(plain, cold, heated)

"""Small jobs: a random two-layer model, prompts of token ids, and what a finished output holds."""

import functools
import json
import pathlib

import numpy as np

from jaxdlm._decode import resolve_cache
from jaxdlm.batch import run
from jaxdlm.batch.cli import make_mesh, read_policies
from tests.conformance.toy_models import END, VOCAB, model

POLICY = "threshold,tau=0.05"  # a random model is sure of nothing
OPTIONS = {"max_new": 8, "block": 4, "slots": 4, "shard_rows": 5, "quiet": True, "policy": POLICY}


def rows(count: int, longest: int = 12, **fields) -> list[dict]:
    """Rows with prompts of 3 ids and more; `fields`: name -> values that go round."""
    random = np.random.default_rng(0)
    made = []
    for index in range(count):
        tokens = random.integers(1, min(END, VOCAB) - 1, int(random.integers(3, longest + 1))).tolist()
        own = {name: values[index % len(values)] for name, values in fields.items()}
        made.append({"id": f"row {index}", "tokens": tokens} | {k: v for k, v in own.items() if v is not None})
    return made


def write(path: pathlib.Path, values: list) -> str:
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return str(path)


@functools.cache
def policies(words: str):
    return read_policies(words)


def job(source: str, output, *, devices: int = 1, lm=None, cache: str = "none", **changes) -> run.Job:
    options = run.Options(input=source, output=str(output), cache=cache, **(OPTIONS | changes))
    lm = model("same") if lm is None else lm
    return run.job(options, lm, policies(options.policy), resolve_cache(cache), make_mesh(f"data={devices}"))


def results(output: pathlib.Path) -> bytes:
    """All output rows, in order; committed shards only."""
    shards = sorted(output.glob("rows-*.jsonl"))
    assert all(list(output.glob(f"{shard.stem}.*.done")) for shard in shards)
    return b"".join(shard.read_bytes() for shard in shards)


def read(output: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in results(output).splitlines()]

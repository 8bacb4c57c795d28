"""Small jobs: a random two-layer model, prompts of token ids, and what a finished output holds."""

import functools
import json
import pathlib

import numpy as np

from jaxdlm.batch import run
from jaxdlm.batch.cli import make_mesh, read_policies
from jaxdlm.batch.engine import Counts, Result
from jaxdlm.batch.source import scan
from jaxdlm.resolve import has_blocks, resolve_cache
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


def job(source: str, output, *, devices: int = 1, lm=None, cache: str = "none", mesh=None, **changes) -> run.Job:
    lm = model("same") if lm is None else lm
    method = policies(changes.get("policy", POLICY))
    own = {} if has_blocks(method.plain) and lm.config.tokens.mask is not None else {"block": None}
    options = run.Options(input=source, output=str(output), cache=cache, **(OPTIONS | own | changes))
    return run.job(options, lm, method, resolve_cache(cache), mesh or make_mesh(f"data={devices}"))


class Stub:
    """Stands in for the device: the tokens are a function of the prompt. `first` is called with the first window."""

    def __init__(self, ahead: int = 8, first=lambda window: None) -> None:
        self.counts, self.ahead, self.first, self.rows = Counts(), ahead, first, 0

    def run(self, feed, sink, stopped) -> None:
        while not stopped() and (window := feed.get()) is not None:
            if not self.rows:
                self.first(window)
            for request in window:
                self.rows += 1
                tokens = np.resize(request.tokens, request.max_new).astype(np.int32)
                sink(request, Result(tokens, len(tokens), "finished"))


def stubbed(source: str, output, engine: Stub, **changes) -> run.Job:
    """A job that decodes nothing."""
    options = run.Options(input=source, output=str(output), **(OPTIONS | changes))
    return run.Job(options, model("same"), policies(options.policy), resolve_cache("none"), scan(source), engine)


def results(output: pathlib.Path) -> bytes:
    """All output rows, in order; committed shards only."""
    shards = sorted(output.glob("rows-*.jsonl"))
    assert all(list(output.glob(f"{shard.stem}.*.done")) for shard in shards)
    return b"".join(shard.read_bytes() for shard in shards)


def read(output: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in results(output).splitlines()]

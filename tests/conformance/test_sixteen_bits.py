"""In bfloat16 a row's bits are the same alone, in any batch, in any order, beside anybody, and in a slot of a job.

Random models are sure of nothing, so that one last bit of a logit turns choices. Heads have 16 columns here: the sum of
eight squares is the one place where a CPU's loops over rows are told apart (real heads have 64 and more).
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm._load import LM
from jaxdlm.layout import bucket_of, geometry_of
from jaxdlm.models import Backbone
from jaxdlm.speculative import autoregressive, eqspec, lookup, speculative
from tests.batch.jobs import job, read, write
from tests.conformance.toy_models import BASE, KINDS
from tests.marks import exhaustive, usual
from tests.models.weights import loud_params

SIZES = {
    "hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "intermediate_size": 96, "max_position": 256,
    "param_dtype": "bfloat16",
}  # fmt: skip
MORE = {
    "uniform": {"attention": "prefix_canvas", "noise": "uniform", "self_conditioning": True, "block_size": 6},
    "left to right": {"family": "llama", "attention": "causal", "prediction": "next", "noise": "none"},
}
COUNT, ALONE = 36, 6


@functools.cache
def model(kind: str, seed: int = 1) -> LM:
    own = (KINDS | MORE)[kind]
    sizes = SIZES | ({"expert_size": 48, "shared_size": 48} if kind == "llada2" else {})
    config = dataclasses.replace(BASE, **own | sizes | ({"num_kv_heads": 2} if "num_kv_heads" in own else {}))
    if kind == "left to right":
        config = dataclasses.replace(config, tokens=dataclasses.replace(config.tokens, mask=None))
    return LM(Backbone(config), loud_params(config, seed), None, f"sixteen-{kind}")


def prompts(longest: int = 25, seed: int = 7) -> list[list[int]]:
    """Of many lengths: up to 25, in buckets of 16 and 24 columns; up to 40, of 32 and 48 as well."""
    random = np.random.default_rng(seed)
    return [random.integers(1, 45, int(random.integers(3, longest))).tolist() for _ in range(COUNT)]


class Rows:
    """Decodes some of the rows, and holds what comes out to what came out before, bit by bit."""

    def __init__(self, lm: LM, longest: int = 25, **run) -> None:
        self.lm, self.run, self.seen, self.compared = lm, run, {}, 0
        self.asked = prompts(longest)

    def decode(self, rows, **changes) -> None:
        rows = [int(row) for row in rows]
        out = jd.decode(self.lm, [self.asked[row] for row in rows], ids=rows, **self.run | changes)
        for place, row in enumerate(rows):
            found = out.tokens[place].tolist(), int(out.forwards[place]), out.score[place].tobytes()
            assert self.seen.setdefault(row, found) == found, f"row {row} of {len(rows)}"
            self.compared += 1

    def everywhere(self, fives: bool) -> None:
        """All at once, in another order, with other neighbours (by fives, or four of each bucket: those are the programs
        of four), alone, and in programs of four."""
        random = np.random.default_rng(3)
        self.decode(range(COUNT))
        self.decode(random.permutation(COUNT))
        for rows in np.array_split(random.permutation(COUNT), 7) if fives else self.fours(random.permutation(COUNT)):
            self.decode(rows)
        for row in range(ALONE):
            self.decode([row])
        self.decode(range(COUNT), rows_per_program=4)
        assert self.compared >= 3 * COUNT

    def fours(self, rows) -> list[list[int]]:
        """Four rows of every bucket together, while a bucket has as many."""
        buckets = {}
        for row in rows:
            block = self.run.get("block")
            length = len(self.asked[row])
            place = bucket_of(length) if block is None else geometry_of(self.lm.config, np.array([length]), 12, block)
            buckets.setdefault(place, []).append(row)
        turns = range(0, max(map(len, buckets.values())) - 3, 4)
        return [[row for some in buckets.values() for row in some[at : at + 4] if len(some) >= at + 4] for at in turns]


def differ(rows: Rows) -> int:
    return len({tuple(tokens) for tokens, *_ in rows.seen.values()})


CASES = {
    "same": ("threshold,tau=0.1,temperature=1.0", "prefix"), "next": ("maskgit_plus,steps=5", "none"),
    "sdar": ("threshold,tau=0.1", "block_exact"), "v2": ("fast_dllm_v2,tau=0.1", "none"),
    "llada2": ("llada2,steps=2,tau=0.1", "block_exact"), "uniform": ("entropy_bound", "none"),
    "left to right": ("autoregressive,temperature=1.0", "none"),
}  # fmt: skip


def check(kind: str, fives: bool) -> None:
    policy, cache = CASES[kind]
    blocks = {} if kind == "left to right" else {"block": 6 if kind == "uniform" else 4}
    several = fives or kind in ("same", "left to right")  # buckets
    longest = (40 if kind == "uniform" else 25) if several else 16
    rows = Rows(model(kind), longest, policy=policy, cache=cache, max_new=12, seed=5, **blocks)
    rows.everywhere(fives)
    assert differ(rows) > COUNT // 2, "rows that say the same show little"


FIVES = pytest.mark.parametrize(
    "fives", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["fours", "fives"]
)


@pytest.mark.slow
@FIVES
@pytest.mark.parametrize("kind", usual((kind for kind in CASES if kind != "uniform"), "same", "left to right"))
def test_a_rows_bits_are_its_own(kind, fives):
    check(kind, fives)


@pytest.mark.exhaustive
@pytest.mark.slow
@FIVES
def test_a_rows_bits_are_its_own_on_a_canvas_of_noise(fives):
    """Prompts of one bucket; exhaustive: of four.

    Not kept for every row that is alone in its program: of prompts up to 25 one in thirteen differs (docs/batch.md).
    """
    optimised("uniform", *["fives"] * fives)


@pytest.mark.exhaustive
def test_a_row_that_is_alone_in_a_tile_keeps_its_bits_on_a_canvas_of_noise():
    assert json.loads(optimised("alone"))["in a tile of 4"] == {"rows": 144, "tokens": 0, "scores": 0}


def optimised(*args: str) -> str:
    """What this module prints with programs as users compile them: those of the tests are not optimised, and sum
    probabilities otherwise."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.conformance.test_sixteen_bits", *args]
    done = subprocess.run(command, env=env, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def alone(size: int | None) -> dict[str, int]:
    """Of canvases of noise decoded alone, in programs of `size` rows, those that differ from the same beside 35 others."""
    counts = dict.fromkeys(("rows", "tokens", "scores"), 0)
    run = {"policy": "entropy_bound", "cache": "none", "max_new": 12, "seed": 5, "block": 6}
    for lm, asked in itertools.product((model("uniform", 1), model("uniform", 2)), (prompts(), prompts(seed=8))):
        whole = jd.decode(lm, asked, ids=range(COUNT), **run)
        for row in range(COUNT):
            one = jd.decode(lm, [asked[row]], ids=[row], rows_per_program=size, **run)
            counts["rows"] += 1
            counts["tokens"] += int((one.tokens[0] != whole.tokens[row]).any())
            counts["scores"] += one.score[0].tobytes() != whole.score[row].tobytes()
    return counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "policy"), [("same", "threshold,tau=0.1"), exhaustive(("left to right", "autoregressive"))]
)
def test_a_slot_of_a_job_gives_the_bits_of_decode(kind, policy, tmp_path):
    lm, asked = model(kind), prompts()
    source = write(tmp_path / "in.jsonl", [{"id": row, "tokens": tokens} for row, tokens in enumerate(asked)])
    found = {}
    for slots in (3, 16):
        options = {"lm": lm, "policy": policy, "max_new": 12, "slots": slots, "stop": False}
        assert job(source, tmp_path / str(slots), **options).run() == 0
        found[slots] = [(row["tokens"], row["forwards"]) for row in read(tmp_path / str(slots))]
    assert found[3] == found[16]
    blocks = {} if kind == "left to right" else {"block": 4}
    out = jd.decode(lm, asked, policy, max_new=12, ids=range(COUNT), stop=False, **blocks)
    assert found[16] == [(row.tolist(), int(count)) for row, count in zip(out.tokens, out.forwards)]


def near(lm: LM, noise: float) -> LM:
    """A draft that often agrees."""
    random = np.random.default_rng(9)
    moved = [
        leaf + jnp.asarray(noise * random.normal(size=leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(lm.params)
    ]
    return LM(lm.model, jax.tree.unflatten(jax.tree.structure(lm.params), moved), None, lm.name)


@pytest.mark.slow
@pytest.mark.parametrize("longest", [8, pytest.param(25, marks=pytest.mark.exhaustive)])
def test_lossless_drafts_give_the_bits_of_greedy_decoding(longest):
    """One token, five and nine of a row in a forward, in programs of two buckets; exhaustive: of four buckets, three, four and
    sixteen tokens too, and under a guide, 216 rows, none of which differs."""
    lm = model("left to right")
    asked = [tokens * 3 if len(tokens) < 12 else tokens for tokens in prompts(longest)]  # something to look up
    run = {"max_new": 24, "ids": range(COUNT)}
    plain, rounds = jd.decode(lm, asked, autoregressive(), **run), []
    methods = [lookup(k=8), speculative(near(lm, 0.05), k=4)]
    if longest > 8:
        methods += [eqspec(near(lm, 0.05), k=2), lookup(k=15), lookup(k=3)]
    for method in methods:
        out = jd.decode(lm, asked, method, **run)
        np.testing.assert_array_equal(out.tokens, plain.tokens)
        np.testing.assert_array_equal(out.score, plain.score)
        rounds.append(int(out.forwards.sum()))
    for rows in (range(COUNT // 2), [3]):
        some = {"max_new": 24, "ids": list(rows)}
        out = jd.decode(lm, [asked[row] for row in rows], lookup(k=8), **some)
        np.testing.assert_array_equal(out.tokens, plain.tokens[list(rows)])
    assert min(rounds) < int(plain.forwards.sum()), "no draft was ever accepted"
    if longest == 8:
        return
    guide = jd.guides.repetition(1.3)
    guided, out = (
        jd.decode(lm, asked, method, **run) for method in (autoregressive(guide=guide), lookup(8, guide=guide))
    )
    np.testing.assert_array_equal(out.tokens, guided.tokens)
    np.testing.assert_array_equal(out.score, guided.score)
    assert (guided.tokens != plain.tokens).any()


if __name__ == "__main__":
    if sys.argv[1] == "alone":
        print(json.dumps({"alone": alone(None), "in a tile of 4": alone(4)}))
    else:
        check(sys.argv[1], sys.argv[2:] == ["fives"])

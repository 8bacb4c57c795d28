"""What one row asks for is that row's own: it is honoured or refused by its line, and no other row notices."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdlm import decode, policies
from jaxdlm._load import LM
from jaxdlm.batch import run, slots
from jaxdlm.batch.cli import make_mesh
from jaxdlm.batch.engine import Policies, SlotEngine
from jaxdlm.batch.rows import Request, randomness_key
from jaxdlm.errors import InputError, Unfinished
from jaxdlm.layout import lay_out
from jaxdlm.models import Backbone
from jaxdlm.resolve import has_blocks, resolve_cache
from jaxdlm.stops import read_stops
from tests.batch.jobs import OPTIONS, job, read, rows, write
from tests.conformance.toy_models import model
from tests.models.configs import CONFIGS

K = 8  # columns of a filter's block


def learned():
    random = np.random.default_rng(1)
    arrays = [random.normal(size=shape) for shape in ((K, K), (K,), (K, K), (K,))]
    return policies.RECIPES["learn2pd"](tau=0.5, weights=arrays, eotp=False)


def job_of(policy, source: str, output, lm=None, **changes) -> run.Job:
    """A job with a policy that has no words."""
    own = {} if has_blocks(policy) else {"block": None}
    options = run.Options(input=source, output=str(output), **(OPTIONS | own | changes | {"policy": "own"}))
    lm, forms = model("same") if lm is None else lm, Policies(policy, None, None)
    return run.job(options, lm, forms, resolve_cache("none"), make_mesh("data=1"))


@pytest.mark.slow
def test_a_rows_length_gets_the_block_that_it_has_alone(tmp_path):
    """A filter knows one block length. Rows of 4 and of 6 columns are one block that was cut, whatever the job's own
    length; a row whose block is longer than the filter's is refused by itself."""
    asked = [*rows(4, max_new=[None, 6]), {"id": "long", "tokens": [3, 9], "max_new": 9}]
    source = write(tmp_path / "in.jsonl", asked)
    assert job_of(learned(), source, tmp_path / "out", max_new=4, block=None).run() == 0
    found = read(tmp_path / "out")
    assert [len(row["tokens"] or ()) for row in found] == [4, 6, 4, 6, 0]
    keys = [randomness_key(asked[row]["id"]) for row in (1, 3)]
    out = decode(model("same"), [asked[1]["tokens"], asked[3]["tokens"]], learned(), max_new=6, ids=keys)
    assert [found[1]["tokens"], found[3]["tokens"]] == out.tokens.tolist()
    assert found[-1]["status"] == "error"
    assert found[-1]["error"].startswith("line 5 (max_new=9): block=16: this filter was trained for blocks of 8")


def test_what_no_row_can_have_is_refused_before_anything_is_written(tmp_path):
    source = write(tmp_path / "in.jsonl", rows(3, max_new=[4]))
    with pytest.raises(InputError, match="block=32: this filter was trained for blocks of 8"):
        job_of(learned(), source, tmp_path / "out", max_new=40, block=None)
    with pytest.raises(InputError, match="block=12 is no multiple of the cache's size=8"):
        job(source, tmp_path / "out", policy="fast_dllm_v2", lm=model("v2"), cache="sub_block", block=12)
    assert not (tmp_path / "out").exists()


class Full(jax.errors.JaxRuntimeError):
    pass


@pytest.mark.slow
def test_rows_that_do_not_fit_the_device_are_left_for_another_run(tmp_path, monkeypatch):
    """All others are answered; nothing of it is in the output, since another machine may have the room."""
    asked = rows(9, max_new=[None, None, 60])
    source = write(tmp_path / "in.jsonl", asked)
    advance = slots.advance

    def small(*args, mesh):
        if args[-1].geometry.canvas > 40:
            raise Full("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")
        return advance(*args, mesh=mesh)

    small.eval_shape = advance.eval_shape
    monkeypatch.setattr(slots, "advance", small)
    part = job(source, tmp_path / "out", shard_rows=3)
    with pytest.raises(Unfinished, match=r"3 rows need more memory.*4 slots.*line \d.*max_new=60.*fewer --slots"):
        part.run()
    assert not read(tmp_path / "out")
    monkeypatch.undo()
    rest = job(source, tmp_path / "out", shard_rows=3)
    assert rest.run() == 0
    assert rest.engine.counts.busy < 3 * 60 + 3, "rows that were saved were decoded again"
    assert [row["status"] for row in read(tmp_path / "out")] == ["finished"] * 9


def test_other_errors_of_a_device_end_the_run(tmp_path, monkeypatch):
    def broken(*args, **where):
        raise Full("INTERNAL: the device is gone")

    source = write(tmp_path / "in.jsonl", rows(3))
    part = job(source, tmp_path / "out")
    monkeypatch.setattr(slots, "start", broken)
    with pytest.raises(Full, match="device is gone"):
        part.run()


@pytest.mark.parametrize("kind", ["same", "sdar", "uniform"])
def test_rows_lie_in_the_columns_that_decode_gives_them(kind):
    """Also where canvases are read whole, though the row keeps a part, and where there is no mask token."""
    config = CONFIGS["prefix_canvas"]
    noise = dataclasses.replace(config, tokens=dataclasses.replace(config.tokens, mask=None))
    lm = LM(Backbone(noise), {}, None, "toy") if kind == "uniform" else model(kind)
    sizes = {"max_new": 7, "block": None if kind == "uniform" else 3}
    engine = SlotEngine(lm, Policies(None, None, None), None, **sizes, mesh=make_mesh("data=1"), slots=1)
    for length in (1, 3, 4, 17):
        tokens = np.arange(1, length + 1, dtype=np.int32)
        request = Request(0, 1, "id", 5, tokens, 7, 3, None, read_stops(lm, False))
        queue, count = engine._queue({0: request}, engine.group(request))
        want = lay_out(lm, [tokens], **sizes, seed=3, ids=[5])
        assert engine.group(request).geometry == want.geometry and int(count[0]) == 1
        canvas = np.arange(want.geometry.length) - want.geometry.prompt
        open_columns = (canvas >= int(queue.first[0, 0])) & (canvas < int(queue.stop[0, 0]))
        for got, wanted in ((queue.tokens, "tokens"), (queue.pads, "pads"), (queue.stop, "stop")):
            np.testing.assert_array_equal(got[0], getattr(want.rows, wanted), f"{length}: {wanted}")
        np.testing.assert_array_equal(open_columns, want.rows.pending[0])
        assert (queue.seed[0, 0], queue.id[0, 0]) == (3, 5)


def test_groups():
    """By powers of two from the job's own length on, and the block that the longest row of the group has alone."""
    engine = SlotEngine(
        model("same"), Policies(None, None, None), None, max_new=6, block=None, mesh=make_mesh("data=1"), slots=1
    )

    def geometry(length: int, max_new: int) -> tuple[int, int, int]:
        found = engine._geometry(length, max_new)
        return found.prompt, found.block, found.blocks

    assert geometry(3, 2) == geometry(16, 6) == (16, 6, 1)
    assert geometry(17, 7) == geometry(24, 12) == (24, 12, 1)
    assert geometry(3, 13) == (16, 24, 1)
    assert geometry(3, 25) == geometry(3, 48) == (16, 32, 2)

"""Certainty forcing: views, loss against NumPy, low-rank updates, and the same step on a mesh."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import decode, load
from jaxdlm._load import ASSETS, LM
from jaxdlm.eval.task import TASKS, make
from jaxdlm.models.low_rank import merge
from jaxdlm.models.params import init_params
from jaxdlm.sharding import make_mesh, param_shardings
from jaxdlm.train import lora
from jaxdlm.train.losses import answer_logits, certainty_forcing
from jaxdlm.train.recipes import dparallel
from jaxdlm.train.step import init_state, make_step, place
from tests.train.small import small_recipe

MODEL = small_recipe().model
MASK = MODEL.config.tokens.mask
PROMPT, CANVAS, BLOCK = 6, 8, 4


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    words = rng.integers(16, 40, (32, PROMPT + CANVAS), dtype=np.int32)
    pads = rng.integers(0, 3, 32).astype(np.int32)
    return dparallel.Pool(words[:, :PROMPT], pads, words[:, PROMPT:], BLOCK)


@pytest.fixture(scope="module")
def params():
    return init_params(MODEL.config, jax.random.key(0))


@pytest.fixture
def batch(pool):
    return dparallel.batch_of(pool, 8, np.random.default_rng(3), MASK)


@jax.jit
def value(params, batch, temperature, beta):
    return certainty_forcing(MODEL, params, batch, temperature=temperature, beta=beta)


logits_of = jax.jit(partial(answer_logits, MODEL))


def test_two_views_share_out_one_block():
    answer = np.arange(10, 10 + 50 * 10, dtype=np.int32).reshape(50, 10)
    tokens, masked = dparallel.views(answer, 4, np.random.default_rng(1), MASK)
    first, second = masked[:50], masked[50:]
    assert not (first & second).any()
    both, column, starts = first | second, np.arange(10), set()
    for row in range(50):
        start = int(np.argmax(both[row]))
        starts.add(start)
        end = min(10, start + 4)
        np.testing.assert_array_equal(both[row], (column >= start) & (column < end))  # 8..10: the short last block
        for view in (row, 50 + row):
            np.testing.assert_array_equal(tokens[view, :start], answer[row, :start])
            hidden = (column >= end) | masked[view]
            np.testing.assert_array_equal(tokens[view] == MASK, hidden)
            np.testing.assert_array_equal(tokens[view][~hidden], answer[row][~hidden])
    assert starts == {0, 4, 8}
    assert 0.4 < first.sum() / both.sum() < 0.6


def slow(logits, batch, temperature, beta):
    total, rows = 0.0, len(batch["target"]) // 2
    for view in (slice(0, rows), slice(rows, None)):
        cons, cert = [], []
        for z, target, m in zip(logits[view], batch["target"][view], batch["masked"][view], strict=True):
            for j in np.flatnonzero(m):
                cons.append(np.log(np.exp(z[j]).sum()) - z[j, target[j]])
                if z[j].argmax() == target[j]:
                    p = np.exp(z[j] / temperature) / np.exp(z[j] / temperature).sum()
                    cert.append(-(p * np.log(p)).sum())
        total += np.mean(cons) + beta * (np.mean(cert) if cert else 0.0)
    return total


def test_loss_is_that_of_the_slow_oracle(params, batch):
    logits = np.asarray(logits_of(params, batch), np.float64)
    batch["target"][::2] = logits[::2].argmax(-1)  # some are right, or certainty is never asked for
    for temperature, beta in ((0.5, 2.0), (1.0, 0.7), (0.5, 0.0)):
        got = float(value(params, batch, temperature, beta))
        assert got == pytest.approx(slow(logits, batch, temperature, beta), rel=1e-4)


def test_certainty_counts_only_where_the_model_is_right(params, batch):
    batch["target"] = np.asarray(logits_of(params, batch)).argmax(-1)
    assert float(value(params, batch, 0.5, 1e4)) > 1e3, "all are right: entropy is what is left"
    batch["target"] = (batch["target"] + 1) % 300  # nothing is right
    with_it, without = (value(params, batch, 0.5, beta) for beta in (1e4, 0.0))
    assert float(with_it) == float(without)


def test_columns_behind_the_block_carry_no_loss(params, batch):
    before = float(value(params, batch, 0.5, 2.0))
    batch["target"] = np.where(batch["masked"], batch["target"], 17)
    assert float(value(params, batch, 0.5, 2.0)) == before


def test_batches_are_a_function_of_seed_and_step(pool):
    short = dparallel.Pool(pool.prompt, pool.pads, pool.answer[:, :4], 4)
    batch_at = dparallel.batches([pool, short], MASK, tokens=112)
    again = dparallel.batches([pool, short], MASK, tokens=112)
    for step in range(4):
        a, b = batch_at(7, step), again(7, step)
        assert all(np.array_equal(a[name], b[name]) for name in a)
    shapes = [batch_at(0, step)["target"].shape for step in range(40)]
    assert set(shapes) == {(8, 8), (10, 4)} and 15 <= shapes.count((8, 8)) <= 25


@pytest.mark.slow
def test_low_rank_update_against_numpy():
    deltas = lora.init(MODEL.config, 3, jax.random.key(1))
    params = init_params(MODEL.config, jax.random.key(0))
    merged = merge(params, deltas, 2.0)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (params, merged)), strict=True))
    filled = jax.tree.map(lambda leaf: leaf + 0.1, deltas)
    got = merge(params, filled, 2.0)["segments"][0][0]
    for name, form in (("wq", "lir,lrnh->linh"), ("wo", "lnhr,lro->lnho"), ("down", "lir,lro->lio")):
        pair = filled[f"segments.0.0.{name}"]
        want = np.asarray(params["segments"][0][0][name]) + 2 * np.einsum(form, pair["a"], pair["b"])
        np.testing.assert_allclose(np.asarray(got[name]), want, rtol=1e-4, atol=1e-5)
    assert set(deltas) == {f"segments.0.0.{name}" for name in ("wq", "wk", "wv", "wo", "up", "down")}


def two_steps(pool, mesh):
    params = init_params(MODEL.config, jax.random.key(0))
    if mesh is not None:
        params = jax.device_put(params, param_shardings(MODEL.config, mesh))
    lm = LM(MODEL, params, None, "small")
    recipe = dparallel.distillation(
        lm, dparallel.batches([pool], MASK, tokens=224), steps=30, rank=2, peak_lr=0.02, mesh=mesh
    )
    state, step, losses = init_state(recipe), make_step(recipe), []
    for number in range(2):
        state, batch = place(state, recipe.batch_at(0, number), mesh)
        state, loss = step(state, batch, np.float32(0.02))
        losses.append(float(loss))
    return state, losses


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_sharded_step_is_that_of_one_device_and_moves_the_update_alone(pool):
    mesh = make_mesh({"data": 2, "tensor": 2})
    sharded, losses = two_steps(pool, mesh)
    _, expected = two_steps(pool, None)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    up = sharded.params["base"]["segments"][0][0]["up"]
    assert up.sharding.spec[2] == "tensor", "the weights stay spread after a step"
    assert sharded.params["lora"]["segments.0.0.up"]["b"].sharding.spec[2] == "tensor"
    for start, end in zip(
        *map(jax.tree.leaves, (init_params(MODEL.config, jax.random.key(0)), sharded.params["base"]))
    ):
        np.testing.assert_array_equal(np.asarray(start), np.asarray(end))
    moved = [float(jnp.abs(pair["b"]).max()) for pair in sharded.params["lora"].values()]
    assert min(moved) > 0


@pytest.mark.slow
def test_a_few_steps_reduce_the_loss_of_all_weights(pool):
    lm = LM(MODEL, init_params(MODEL.config, jax.random.key(0)), None, "small")
    easy = pool._replace(answer=np.full_like(pool.answer, 20))
    recipe = dparallel.distillation(lm, dparallel.batches([easy], MASK, tokens=224), steps=30)
    state, step = init_state(recipe), make_step(recipe)
    losses = []
    for number in range(12):
        state, batch = place(state, recipe.batch_at(0, number))
        state, loss = step(state, batch, np.float32(1e-2))
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert not lm.params["embed"].is_deleted(), "the teacher stays"


@pytest.mark.slow
def test_the_shipped_student_is_of_this_recipe_and_needs_fewer_forwards_than_its_teacher():
    """Weak bounds: 80 % of the forwards, at most two of 24 answers worse, on problems neither has seen."""
    record = json.loads((ASSETS / "tiny-dparallel" / "recipe.json").read_text())
    taught = json.loads((ASSETS / "tiny" / "recipe.json").read_text())["tokens"]
    assert record["recipe"] == "dparallel" and record["teacher"] == "tiny" and record["tokens"] < 0.2 * taught
    examples = [e for name in ("reverse", "remove_random", "insert_random") for e in make(name, 8, seed=5)]
    right, forwards = {}, {}
    for name in ("tiny", "tiny-dparallel"):
        out = decode(load(name), [e.prompt for e in examples], "dparallel", max_new=16, save="none")
        checked = zip(examples, out.tokens, strict=True)
        right[name] = sum(TASKS[e.task].check(e, row.tolist()).correct for e, row in checked)
        forwards[name] = out.forwards.sum()
    assert right["tiny-dparallel"] >= right["tiny"] - 2
    assert forwards["tiny-dparallel"] < 0.8 * forwards["tiny"]

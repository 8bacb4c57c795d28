"""Every implementation of the experts against a loop over tokens, and which of them a program gets."""

import dataclasses
import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.models import Backbone, expert_kernel, expert_ways, explain
from jaxdlm.models.apart import Place, Within
from jaxdlm.models.expert_ways import WAYS, Case, Routing, case_of, experts
from jaxdlm.quant import quantize
from jaxdlm.sharding import make_mesh, param_shardings, place_on, striped
from tests.models.configs import MOE, change
from tests.models.weights import loud_params

WIDE = {"hidden_size": 128, "expert_size": 256}
HERE = importlib.util.find_spec("tokamax") is not None
RUNS = {way.name: way.run for way in WAYS if way.name != "tokamax" or HERE}
TOLERANCE = {"float32": 2e-5, "bfloat16": 4e-2}  # of outputs near one; bfloat16 rounds by 2^-8 three times


def config(**changes):
    return change(**MOE | WIDE | changes)


def weights(config, dtype="float32", seed=0):
    """Stacks of two layers."""
    draw = np.random.default_rng(seed).standard_normal
    experts, hidden, wide = config.num_experts, config.hidden_size, config.expert_size
    shapes = [(2, experts, hidden, wide)] * 2 + [(2, experts, wide, hidden)]
    return tuple(jnp.asarray(draw(shape) / np.sqrt(shape[2]), dtype) for shape in shapes)


def of_layer(stacks, layer, platform="tpu"):
    """The second layer's weights, as a loop over layers hands them out on one chip."""
    own = (jax.tree.map(lambda leaf: leaf[layer], stack) for stack in stacks)
    return tuple(Within(mine, stack, jnp.int32(layer), Place(platform)) for mine, stack in zip(own, stacks))


def chosen_of(tokens, config, seed=1):
    draw = np.random.default_rng(seed)
    return np.stack([draw.permutation(config.num_experts)[: config.top_k] for _ in range(tokens)]).astype(np.int32)


def slow(x, chosen, weights):
    """float64, token by token."""
    act = lambda y: y / (1 + np.exp(-y))  # noqa: E731
    gate, up, down = (np.asarray(one, np.float64) for one in weights)
    x = np.asarray(x, np.float64)
    return np.stack([[(act(t @ gate[e]) * (t @ up[e])) @ down[e] for e in row] for t, row in zip(x, chosen)])


def run(way, x, chosen, stacks, config, layer=1):
    call = jax.jit(lambda x, chosen, stacks: RUNS[way](x, chosen, of_layer(stacks, layer), config))
    return np.asarray(call(x, chosen, stacks), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("way", RUNS)
@pytest.mark.parametrize("tokens", [37, *(pytest.param(count, marks=pytest.mark.exhaustive) for count in (1, 160))])
def test_every_way_is_a_loop_over_tokens(way, dtype, tokens):
    one = config()
    stacks, chosen = weights(one, dtype), chosen_of(tokens, one)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((tokens, 128)), dtype)
    expected = slow(x, chosen, [stack[1] for stack in stacks])
    np.testing.assert_allclose(run(way, x, chosen, stacks, one), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("way", RUNS)
def test_a_rows_bits_know_no_other_row(way, dtype):
    """Other tokens, other choices of theirs, another place, and twice as many of them."""
    one = config()
    stacks, chosen = weights(one, dtype), chosen_of(40, one)
    draw = np.random.default_rng(3).standard_normal
    x, others = (jnp.asarray(draw((40, 128)), dtype) for _ in range(2))
    here = run(way, x, chosen, stacks, one)
    keep = np.arange(40) % 3 == 0
    crowd = np.broadcast_to(np.sort(chosen[0]), (40, one.top_k))  # all others share the first token's experts
    mixed = run(
        way, jnp.where(keep[:, None], x, others), np.where(keep[:, None], chosen, crowd).astype(np.int32), stacks, one
    )
    np.testing.assert_array_equal(mixed[keep], here[keep])
    order = np.random.default_rng(4).permutation(40)
    np.testing.assert_array_equal(run(way, x[order], chosen[order], stacks, one), here[order])
    if way == "kernel":  # as dear as two calls; of the others a CPU's products take their way from the number of rows
        doubled = run(way, jnp.concatenate([x, others]), np.concatenate([chosen, crowd]).astype(np.int32), stacks, one)
        np.testing.assert_array_equal(doubled[:40], here)


@pytest.mark.parametrize("tokens", [1, 9, 64])
def test_tiles_hold_each_choice_once(tokens):
    chosen, rows = chosen_of(tokens, config()), 8
    tiles = jax.tree.map(np.asarray, jax.jit(expert_kernel.tiled, static_argnums=(1, 2))(chosen, 8, rows))
    sizes = np.bincount(chosen.reshape(-1), minlength=8)
    assert tiles.count == sum(-(-size // rows) for size in sizes) <= expert_kernel.most_tiles(chosen.size, 8, rows)
    assert len(np.unique(tiles.place)) == chosen.size and tiles.place.max() < tiles.count * rows
    for token, row in enumerate(chosen):
        for choice, expert in enumerate(row):
            place = tiles.place[token, choice]
            assert tiles.source[place] == token and tiles.expert[place // rows] == expert


def test_a_width_in_parts_is_the_whole(monkeypatch):
    one = config()
    stacks, chosen = weights(one), chosen_of(20, one)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((20, 128)), jnp.float32)
    whole = run("kernel", x, chosen, stacks, one)
    monkeypatch.setattr(expert_kernel, "ROOM", 2 * 3 * 128 * 128 * 4)
    assert expert_kernel.slice_of(128, 256, 4) == 128
    np.testing.assert_allclose(run("kernel", x, chosen, stacks, one), whole, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "group", "kind"),
    [
        (4, 16, "power"),
        *(pytest.param(8, *how, marks=pytest.mark.exhaustive) for how in ((None, "power"), (16, "uniform"))),
    ],
)
def test_the_kernel_reads_codes(bits, group, kind):
    one = config()
    coded = tuple(quantize(stack, bits, group=group, kind=kind)[0] for stack in weights(one))
    plain = tuple(leaf.dequantize(jnp.float32) for leaf in coded)
    chosen = chosen_of(20, one)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((20, 128)), jnp.float32)
    np.testing.assert_allclose(
        run("kernel", x, chosen, coded, one), run("kernel", x, chosen, plain, one), rtol=0, atol=1e-4
    )


MINI = Case(256, 8, 256, 2048, 512, 2, 2.0, "tpu", True, False, None)  # LLaDA2-mini: 8 rows of a block of 32


@pytest.mark.parametrize(
    ("changes", "name", "why"),
    [
        ({}, "kernel", ""),
        ({"stack": False}, "ragged", "kernel: nobody says which part of the weights"),
        ({"stack": False}, "ragged", "every: several chips would sum"),
        ({"hidden": 2000}, "every", "kernel: wants widths in steps of 128, these are 2000 and 512"),
        ({"hidden": 2**17, "wide": 2**14}, "every", "kernel: no part of an expert"),
        ({"coded": True, "size": 0.6, "group": 64, "hidden": 2**15, "wide": 768}, "every", "eight groups of 64"),
        ({"platform": "gpu"}, "every", "tokamax: the package tokamax is not installed"),
        ({"platform": "gpu", "tokens": 2**16}, "every", "kernel: for TPUs"),
        ({"platform": "cpu"}, "ragged", "every: on a CPU"),
        (
            {"tokens": 2**14, "choices": 1, "experts": 2, "hidden": 2**15, "wide": 64},
            "ragged",
            "every: counts",
        ),
    ],
)
def test_who_is_asked_first_says_why_not(monkeypatch, changes, name, why):
    monkeypatch.setattr(expert_ways.importlib.util, "find_spec", lambda name: None)
    with explain.listening() as lines:
        assert explain.first("experts", WAYS, MINI._replace(**changes)).name == name
    (line,) = lines
    assert line.startswith(f"experts: {name}") and why in line


def test_a_grouped_product_of_a_gpu_goes_by_the_count(monkeypatch):
    """Few tokens touch few experts, many bring more rows than every expert is worth; a handful of experts is read whole."""
    monkeypatch.setattr(expert_ways.importlib.util, "find_spec", lambda name: object())
    chosen = lambda **changes: explain.first("", WAYS, MINI._replace(platform="gpu", **changes)).name  # noqa: E731
    assert [chosen(tokens=tokens) for tokens in (1, 32, 128, 1024, 2**14)] == ["tokamax"] * 2 + ["every"] + [
        "tokamax"
    ] * 2
    assert chosen(experts=4, choices=2, tokens=32) == "every"


def test_a_model_on_one_chip_gives_what_others_give(capsys, monkeypatch):
    one = config(num_layers=2, hidden_size=128)
    params = loud_params(one, 3)
    tokens = np.random.default_rng(0).integers(0, 60, (2, 9)).astype(np.int32)
    position = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    call = lambda model: model.apply(params, tokens, position, np.ones((2, 9), bool)).hidden  # noqa: E731
    plain = jax.jit(lambda: call(Backbone(one)))()
    monkeypatch.setenv("JAXDLM_EXPLAIN", "1")
    chip = jax.jit(lambda: call(dataclasses.replace(Backbone(one), alone=True, place=Place("tpu"))))()
    np.testing.assert_allclose(chip, plain, rtol=1e-4, atol=1e-4)
    assert "experts, 18 tokens to 3 of 8, tpu: kernel (tokamax: not asked" in capsys.readouterr().err


def test_plain_leaves_are_those_of_the_platform():
    one = config()
    own = tuple(stack[0] for stack in weights(one))
    x, chosen = jnp.zeros((4, 128)), jnp.asarray(chosen_of(4, one))
    assert case_of(x, chosen, own) == Case(4, 3, 8, 128, 256, 4, 4.0, jax.default_backend(), False, False, None)
    assert experts(x, Routing(jnp.ones((4, 3)), chosen), own, one).shape == (4, 128)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "axes"),
    [
        ("tpu", {"tensor": 2, "expert": 2}),
        ("gpu", {"data": 2, "tensor": 2}),
        *(
            pytest.param(platform, {"data": 2, "expert": 2}, marks=pytest.mark.exhaustive)
            for platform in ("tpu", "gpu")
        ),
        pytest.param("gpu", {"tensor": 2, "expert": 2}, marks=pytest.mark.exhaustive),
        pytest.param("tpu", {"data": 2, "tensor": 2}, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_devices_that_share_the_experts_give_what_one_gives(platform, axes):
    """A kernel and products of XLA, on four devices; no choice is dropped, and what they say to each other is the mean over
    experts, not the results of each."""
    one = config(num_layers=2, expert_size=256, num_heads=4)
    params, mesh = loud_params(one, 3), make_mesh(axes)
    tokens = np.random.default_rng(0).integers(0, 60, (2, 9)).astype(np.int32)
    position = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    run = lambda model, params: model.apply(params, tokens, position, np.ones((2, 9), bool)).hidden  # noqa: E731
    jitted = jax.jit(run, static_argnums=0)
    split = jax.device_put(params, param_shardings(one, mesh))
    model = striped(Backbone(one), split)
    assert model.place == place_on(one, mesh, "cpu")
    there = dataclasses.replace(model, place=dataclasses.replace(model.place, platform=platform))
    with explain.listening() as lines:
        found = jitted(there, split)
    owned = 8 // axes.get("expert", 1)
    way = "kernel" if platform == "tpu" else "every"
    assert any(f"to 3 of {owned}, {platform}: {way}" in line for line in lines), lines
    np.testing.assert_allclose(found, jitted(Backbone(one), params), rtol=1e-3, atol=1e-3)
    if platform == "gpu":
        text = jitted.lower(there, split).compile().as_text()
        sums = [math.prod(map(int, sizes.split(","))) for sizes in re.findall(r"= f32\[([\d,]+)\]\S* all-reduce", text)]
        assert sums and max(sums) <= 18 * 128, "hidden states of all tokens"

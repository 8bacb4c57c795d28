"""The weight quantiser: its invariants, the exponent search, and a model that runs from quantised leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import _decode, decode, layout, resolve
from jaxdlm._load import LM
from jaxdlm.core.rule import Decoding
from jaxdlm.errors import InputError
from jaxdlm.levels import SEARCH_SAMPLE, encode, sample_columns, search_exponent, table_of
from jaxdlm.models import Backbone, ModelConfig, RopeConfig, TokenIds, init_params
from jaxdlm.quant import QuantizedLeaf, pack, quantize, quantize_params, restore, unpack, unpack_host
from tests.marks import usual
from tests.models.weights import loud_params

DENSE = ModelConfig(
    family="llada", vocab_size=64, num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=64, max_position=64, norm_eps=1e-5, rope=RopeConfig(theta=1e4), attention="full",
    prediction="same", noise="mask", tokens=TokenIds(mask=63), param_dtype="float32",
)  # fmt: skip
MOE = dataclasses.replace(DENSE, num_experts=4, top_k=2, expert_size=16, shared_size=16, first_dense_layers=1)


def _weight(shape=(64, 24), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _slow(weight, a, top):
    out = np.empty_like(weight)
    for j in range(weight.shape[1]):
        s = np.abs(weight[:, j]).max() or 1.0
        for i in range(weight.shape[0]):
            u = weight[i, j] / s
            q = np.clip(np.round(top * np.sign(u) * abs(u) ** a), -top, top)
            out[i, j] = s * np.sign(q) * (abs(q) / top) ** (1 / a)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("exponent", [1.0, 0.6])
def test_equals_the_formula(bits, exponent):
    weight = _weight()
    leaf, _ = quantize(weight, bits, exponent=exponent)
    np.testing.assert_allclose(leaf.dequantize(jnp.float32), _slow(weight, exponent, 2 ** (bits - 1) - 1), atol=2e-6)


def test_exponent_one_is_plain_symmetric_rounding():
    weight = _weight()
    leaf, _ = quantize(weight, 8, kind="uniform")
    scale = np.abs(weight).max(0)
    assert np.array_equal(leaf.codes, np.rint(np.float32(127) * (weight / scale[None])).astype(np.int8))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [None, 16])
def test_invariants(bits, group):
    weight = _weight()
    weight[3, 5], weight[:, 7] = 0.0, 0.0
    leaf, report = quantize(weight, bits, group=group)
    top = 2 ** (bits - 1) - 1
    got = np.asarray(leaf.dequantize(jnp.float32))
    assert got.shape == weight.shape and got[3, 5] == 0 and not got[:, 7].any()
    grouped, original = got.reshape(-1, group or 64, 24), weight.reshape(-1, group or 64, 24)
    np.testing.assert_array_equal(np.abs(grouped).max(1), np.abs(original).max(1))
    assert all(len(np.unique(column)) <= 2 * top + 1 for block in grouped for column in block.T)
    np.testing.assert_array_equal(np.asarray(quantize(-weight, bits, group=group)[0].dequantize(jnp.float32)), -got)
    again, _ = quantize(got, bits, group=group, exponent=report.exponent)
    assert np.array_equal(again.codes, leaf.codes)
    _, plain = quantize(weight, bits, group=group, kind="uniform")
    assert report.relative_error <= plain.relative_error * (1 + 1e-6) and report.bytes_after < report.bytes_before


@pytest.mark.parametrize("kind,bits,exponent,ratio", [
    ("normal", 8, 0.746, 0.822), ("normal", 4, 0.755, 0.813), ("laplace", 8, 0.582, 0.578), ("laplace", 4, 0.594, 0.589),
])  # fmt: skip
def test_the_search_finds_the_known_exponents(kind, bits, exponent, ratio):
    rng = np.random.default_rng(0)
    weight = getattr(rng, kind)(size=(256, 1024)).astype(np.float32)
    top = 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(0, keepdims=True)
    a = search_exponent((weight / scale)[None], scale, top)
    assert a == pytest.approx(exponent, abs=0.06)

    def error(a):
        level = table_of(a, top)[encode(weight / scale, a, top).astype(int) + top]
        return float(np.square(level * scale - weight).sum())

    assert error(a) / error(1.0) == pytest.approx(ratio, abs=0.06)


@jax.jit
def dequantised(params):
    is_leaf = lambda leaf: isinstance(leaf, QuantizedLeaf)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.dequantize(jnp.float32) if is_leaf(leaf) else leaf, params, is_leaf=is_leaf)


@pytest.mark.slow
@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("bits,limit", [pytest.param(8, 0.03, marks=pytest.mark.exhaustive), (4, 0.4)])
def test_the_model_runs_from_quantised_leaves(config, bits, limit):
    params = init_params(config, jax.random.key(0))
    small, reports = quantize_params(params, bits, group=16, include=("embed", "lm_head"))
    model = Backbone(config)
    tokens = np.random.default_rng(0).integers(0, 64, (2, 9)).astype(np.int32)
    position = np.tile(np.arange(9, dtype=np.int32), (2, 1))

    @jax.jit
    def logits(params):
        return model.head(params, model.apply(params, tokens, position, jnp.ones((2, 9), bool)).hidden)

    ours = logits(small)
    whole = logits(dequantised(small))
    np.testing.assert_allclose(ours, whole, atol=1e-4)
    exact = logits(params)
    assert float(jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact)) < limit
    paths = {report.path for report in reports}
    assert {"embed", "lm_head", "segments/0/0/wq", "segments/0/0/wo"} <= paths
    assert not any("norm" in path or "router" in path for path in paths)


@pytest.mark.slow
def test_embedding_rows_equal_the_whole_table():
    table = _weight((40, 16))
    for bits in (4, 8):
        leaf, _ = quantize(table, bits, axes=(-1,))
        ids = np.array([[3, 0], [39, 7]], np.int32)
        np.testing.assert_array_equal(leaf.rows(ids, jnp.float32), np.asarray(leaf.dequantize(jnp.float32))[ids])


@pytest.mark.parametrize("columns", [1, 7, 8])
def test_two_codes_to_a_byte(columns):
    codes = np.random.default_rng(0).integers(-7, 8, (3, 5, columns)).astype(np.int8)
    packed = pack(codes)
    assert packed.dtype == np.uint8 and packed.shape == (3, 5, -(-columns // 2))
    np.testing.assert_array_equal(unpack_host(packed, columns), codes)
    np.testing.assert_array_equal(np.asarray(unpack(packed, columns)).astype(np.int8), codes)


@pytest.mark.parametrize("shape", [(1, 32, 40), (3, 2**12, 2**10), (1, 2**13, 31), (1, 2**20, 5)])
def test_the_sample_is_spread_evenly(shape):
    matrices, rows, columns = shape
    runs = sample_columns(*shape)
    picked = [(at, column) for at, run in runs for column in range(columns)[run]]
    assert len(picked) == len(set(picked)) and {at for at, _ in picked} == set(range(matrices))
    size = len(picked) * rows
    assert size == matrices * rows * columns or rows <= size <= SEARCH_SAMPLE or len(picked) == 1
    assert size >= min(SEARCH_SAMPLE // 2, matrices * rows * columns)


@pytest.mark.slow
def test_each_layer_has_an_exponent_of_its_own():
    """The same as if the layers were quantised one by one; the experts of a layer share theirs."""
    rng = np.random.default_rng(0)
    weight = np.stack([rng.laplace(size=(2, 64, 24)), rng.uniform(-1, 1, (2, 64, 24)), rng.normal(size=(2, 64, 24))])
    whole, report = quantize(weight.astype(np.float32), 4, group=16)
    roots = np.asarray(whole.root)
    assert whole.root.shape == (3,) and roots[0] > roots[2] > roots[1]
    assert report.exponent == pytest.approx(np.mean(1 / roots), rel=1e-6)
    for layer in range(3):
        alone, _ = quantize(weight[layer : layer + 1].astype(np.float32), 4, group=16)
        np.testing.assert_array_equal(alone.codes[0], whole.codes[layer])
        np.testing.assert_array_equal(alone.dequantize(jnp.float32)[0], whole.dequantize(jnp.float32)[layer])
    host = restore(np.asarray(whole.codes).astype(np.int8), np.asarray(whole.scale), roots, 4)
    np.testing.assert_allclose(host, whole.dequantize(jnp.float32), rtol=1e-6, atol=1e-7)


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="include 'wq' is unknown; of embed, lm_head"):
        quantize_params({}, 8, include=("wq",))
    with pytest.raises(InputError, match="group=0 must be a positive"):
        quantize_params({}, 8, group=0)
    with pytest.raises(InputError, match="bits=3"):
        quantize(_weight(), 3)
    with pytest.raises(InputError, match="kind"):
        quantize(_weight(), 8, kind="cubic")
    with pytest.raises(InputError, match="groups of 7"):
        quantize(_weight(), 8, group=7)


@pytest.mark.slow
@pytest.mark.parametrize("cache", usual(["none", "dual"], "dual"))
def test_a_decode_runs_from_quantised_leaves_layer_by_layer(cache):
    """The text is that of the dequantised weights, whose copies never lie beside each other in memory."""
    config = dataclasses.replace(DENSE, num_layers=12, hidden_size=64, intermediate_size=256)
    small, _ = quantize_params(loud_params(config), 8)
    whole = dequantised(small)
    prompts, run = [[3, 9, 4, 1], [7, 2, 11]], {"policy": "threshold", "cache": cache, "max_new": 8, "block": 4}
    ours, plain = (decode(LM(Backbone(config), params, None, "toy"), prompts, **run) for params in (small, whole))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    np.testing.assert_array_equal(ours.commit_step, plain.commit_step)

    lm = LM(Backbone(config), small, None, "toy")
    batch = layout.lay_out(lm, prompts, max_new=8, block=4, seed=0, ids=None)
    rule, kept = resolve.resolve_policy("threshold"), resolve.resolve_cache(cache)
    decoding = Decoding(lm.model, small, rule, kept, batch.geometry)
    program = _decode._run.lower(batch.rows, decoding, "commit").compile()
    dense = sum(leaf.nbytes for leaf in jax.tree.leaves(whole["segments"]))
    assert program.memory_analysis().temp_size_in_bytes < 0.4 * dense

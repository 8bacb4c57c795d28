"""What must hold for any weights: who sees whom, padding, caches, scans."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core.model import KV, Model, ModelOutput, Past
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.backbone import SHALLOW
from tests.models.configs import CONFIGS, change
from tests.models.weights import loud_params

B, T = 2, 11
EVERY = pytest.mark.parametrize("name", CONFIGS)


@functools.cache
def params_of(config: ModelConfig) -> Any:
    return loud_params(config, 5)


@functools.partial(jax.jit, static_argnums=0)
def run(model: Backbone, params: Any, tokens: Any, position: Any, valid: Any, past: Any, mask: Any) -> Any:
    out = model.apply(params, tokens, position, valid, past, mask=mask)
    return out, model.head(params, out.hidden)


def inputs(config: ModelConfig, tokens: Any, start: int = 0, past: Any = None, valid: Any = None, **changes: Any):
    tokens = jnp.asarray(tokens, jnp.int32)
    position = changes.get(
        "position", jnp.tile(jnp.arange(start, start + tokens.shape[1], dtype=jnp.int32)[None], (B, 1))
    )
    valid = jnp.ones(tokens.shape, bool) if valid is None else valid
    params = changes.get("params", params_of(config))
    return params, tokens, position, valid, past, changes.get("mask")


def forward(config: ModelConfig, *given: Any, **changes: Any):
    return run(Backbone(config), *inputs(config, *given, **changes))


def text(seed: int = 0, length: int = T) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 60, (B, length)).astype(np.int32)


@pytest.mark.slow
@EVERY
def test_shapes_and_dtypes(name: str) -> None:
    config = CONFIGS[name]
    assert isinstance(Backbone(config), Model) and hash(Backbone(config)) == hash(Backbone(config))
    out, logits = forward(config, text())
    assert isinstance(out, ModelOutput) and out.hidden.shape == (B, T, config.hidden_size)
    assert logits.shape == (B, T, config.vocab_size) and logits.dtype == jnp.float32
    structure = jax.tree.structure([[0] * len(segment) for segment in params_of(config)["segments"]])
    assert jax.tree.structure([list(segment) for segment in out.kv.k]) == structure
    for segment, leaves in zip(out.kv.k, params_of(config)["segments"]):
        for keys, layer in zip(segment, leaves):
            assert keys.shape == (layer["wk"].shape[0], B, T, *layer["wk"].shape[2:])


@pytest.mark.slow
@EVERY
def test_bfloat16_parameters_give_float32_logits_close_to_float32(name: str) -> None:
    config = CONFIGS[name]
    exact = forward(config, text())[1]
    narrow = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf).astype(jnp.bfloat16)), params_of(config))
    out, logits = forward(config, text(), params=narrow)
    assert out.hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert np.mean(np.abs(logits - exact)) < 0.2 * np.mean(np.abs(exact))


@pytest.mark.parametrize(("name", "reach"), [("full", T), ("causal", 1), ("block", 3), ("moe", T), ("local_global", 1)])
def test_the_last_token_reaches_exactly_the_positions_that_may_see_it(name: str, reach: int) -> None:
    tokens = text()
    other = tokens.copy()
    other[:, -1] = (tokens[:, -1] + 7) % 60
    moved = np.abs(forward(CONFIGS[name], tokens)[1] - forward(CONFIGS[name], other)[1]).max(axis=(0, 2)) > 1e-6
    # blocks of 4: the last one holds columns 8 to 10
    np.testing.assert_array_equal(moved, np.arange(T) >= T - reach)


@pytest.mark.slow
@EVERY
def test_some_columns_alone_are_those_of_all(name: str) -> None:
    """Columns in any order, other ones per row, a left pad among the keys; every stack here is shallow."""
    model, tokens = Backbone(CONFIGS[name]), jnp.asarray(text(), jnp.int32)
    assert model.config.num_layers in SHALLOW
    position = jnp.maximum(jnp.arange(T, dtype=jnp.int32)[None] - jnp.asarray([[0], [2]], jnp.int32), 0)
    valid = jnp.arange(T)[None] >= jnp.asarray([[0], [2]])
    at = jnp.asarray([[7, 8, 3], [10, 2, 9]], jnp.int32)
    params = params_of(model.config)
    whole = run(model, params, tokens, position, valid, None, None)[0].hidden
    some = jax.jit(model.apply_at)(params, tokens, position, valid, at)
    np.testing.assert_allclose(some, np.take_along_axis(whole, at[:, :, None], 1), rtol=1e-5, atol=2e-5)


@pytest.mark.slow
@EVERY
def test_left_padding_leaves_the_valid_logits_equal(name: str) -> None:
    config, tokens, pad = CONFIGS[name], text(), 3
    plain = forward(config, tokens)[1]
    padded = np.concatenate([np.full((B, pad), 2, np.int32), tokens], axis=1)
    position = jnp.tile(jnp.maximum(jnp.arange(T + pad, dtype=jnp.int32) - pad, 0)[None], (B, 1))
    valid = jnp.tile((jnp.arange(T + pad) >= pad)[None], (B, 1))
    shifted = forward(config, padded, position=position, valid=valid)[1]
    assert np.isfinite(shifted).all()
    np.testing.assert_allclose(shifted[:, pad:], plain, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "block", "grouped_moe", "local_global"])
def test_blocks_over_the_cache_of_finished_blocks_equal_one_full_pass(name: str) -> None:
    config, tokens = CONFIGS[name], text()
    whole = forward(config, tokens)[1]
    past, rows = None, []
    for start in range(0, T, 4):
        out, logits = forward(config, tokens[:, start : start + 4], start, past)
        rows.append(logits)
        end = min(start + 4, T)
        position = jnp.tile(jnp.arange(end, dtype=jnp.int32)[None], (B, 1))
        kv = out.kv if past is None else join(past.kv, out.kv)
        past = Past(kv, position, jnp.ones((B, end), bool))
    np.testing.assert_allclose(jnp.concatenate(rows, axis=1), whole, atol=1e-4)


def join(old: KV, new: KV) -> KV:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), old, new)


def test_invalid_columns_of_the_past_are_not_seen() -> None:
    config, tokens = CONFIGS["full"], text()
    cached = forward(config, tokens[:, :6])[0].kv
    position = jnp.tile(jnp.arange(6, dtype=jnp.int32)[None], (B, 1))
    nothing = Past(jax.tree.map(lambda leaf: leaf * 0 + 9, cached), position, jnp.zeros((B, 6), bool))
    alone = forward(config, tokens[:, 6:], 6)[1]
    np.testing.assert_allclose(forward(config, tokens[:, 6:], 6, nothing)[1], alone, atol=1e-5)


@pytest.mark.slow
@EVERY
def test_the_scan_equals_a_python_loop_over_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def loop(body: Any, carry: Any, xs: Any, length: int | None = None, **_: Any) -> Any:
        made = []
        for index in range(len(jax.tree.leaves(xs)[0]) if length is None else length):
            carry, new = body(carry, jax.tree.map(lambda x: x[index], xs))
            made.append(new)
        return carry, jax.tree.map(lambda *new: jnp.stack(new), *made)

    config, tokens = CONFIGS[name], text()
    scanned = forward(config, tokens)[1]
    monkeypatch.setattr(jax.lax, "scan", loop)
    given = inputs(config, tokens)
    traced = jax.jit(functools.partial(run.__wrapped__, Backbone(config))).trace(*given)
    assert "scan" not in str(traced.jaxpr)
    looped = traced.lower().compile()(*given)[1]
    np.testing.assert_allclose(scanned, looped, atol=2e-5)


def test_a_mask_is_added_to_the_family_s_own() -> None:
    config, tokens = CONFIGS["full"], text()
    causal = jnp.tile(jnp.tril(jnp.ones((T, T), bool))[None], (B, 1, 1))
    expected = forward(change(attention="causal"), tokens, params=params_of(config))[1]
    np.testing.assert_allclose(forward(config, tokens, mask=causal)[1], expected, atol=1e-6)


def test_two_siblings_of_a_tree_share_a_position_and_do_not_see_each_other() -> None:
    config, tokens = CONFIGS["causal"], text()
    siblings = tokens[:, :6].copy()
    position = jnp.asarray([[0, 1, 2, 3, 4, 4]] * B, jnp.int32)
    mask = np.ones((B, 6, 6), bool)
    mask[:, 5, 4] = mask[:, 4, 5] = False
    logits = forward(config, siblings, position=position, mask=jnp.asarray(mask))[1]
    second = np.delete(siblings, 4, axis=1)
    np.testing.assert_allclose(logits[:, 4], forward(config, siblings[:, :5])[1][:, 4], atol=1e-5)
    np.testing.assert_allclose(logits[:, 5], forward(config, second)[1][:, 4], atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    for name in ("full", "grouped_moe"):
        config, tokens = CONFIGS[name], text()
        both = forward(config, tokens)[1]
        swapped = forward(config, tokens[::-1])[1][::-1]
        np.testing.assert_allclose(both, swapped, atol=1e-5)


def test_logit_scale_and_softcap() -> None:
    config = change(logit_scale=0.5, final_softcap=3.0)
    raw = np.asarray(forward(change(), text())[1])
    np.testing.assert_allclose(forward(config, text(), params=params_of(change()))[1], 3 * np.tanh(raw / 6), atol=1e-5)


def test_one_compilation_per_shape() -> None:
    model, traces = Backbone(CONFIGS["full"]), []

    @functools.partial(jax.jit, static_argnums=0)
    def count(model: Backbone, params: Any, tokens: Any) -> Any:
        traces.append(1)
        position = jnp.tile(jnp.arange(T, dtype=jnp.int32)[None], (B, 1))
        return model.apply(params, tokens, position, jnp.ones((B, T), bool)).hidden

    for seed in range(3):
        count(Backbone(CONFIGS["full"]), params_of(model.config), text(seed))
    assert len(traces) == 1


@pytest.mark.slow
def test_gradients_reach_every_parameter() -> None:
    config = CONFIGS["embedded"]

    def loss(params: Any) -> Any:
        position = jnp.tile(jnp.arange(T, dtype=jnp.int32)[None], (B, 1))
        out = Backbone(config).apply(params, jnp.asarray(text()), position, jnp.ones((B, T), bool))
        return jnp.mean(jax.nn.log_softmax(Backbone(config).head(params, out.hidden))[..., 5])

    gradients = jax.jit(jax.grad(loss))(params_of(config))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
